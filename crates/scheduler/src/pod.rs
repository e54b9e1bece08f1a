//! A pod as the scheduler looks at it: everything that is asked often, worked out once.

use std::sync::Arc;

use corten_client::Key;
use k8s_openapi::api::core::v1::{
    NodeSelector, Pod, PodAffinityTerm, PodSpec, Toleration, WeightedPodAffinityTerm,
};

use crate::resources::{Resources, requests, scoring_requests};

/// A port that a pod takes on its node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Address, `0.0.0.0` for all.
    pub ip: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Port.
    pub port: i32,
}

impl HostPort {
    /// Can these not be on one node?
    pub fn conflicts(&self, other: &HostPort) -> bool {
        let everywhere = |ip: &str| ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || everywhere(&self.ip) || everywhere(&other.ip))
    }
}

/// A pod with its derived facts.
#[derive(Debug)]
pub struct PodInfo {
    /// The object.
    pub pod: Arc<Pod>,
    /// Namespace and name.
    pub key: Key,
    /// What it asks for.
    pub requests: Resources,
    /// What counts when nodes are compared.
    pub scoring: Resources,
    /// Ports on the node.
    pub ports: Vec<HostPort>,
    /// Who goes first, and who may evict whom.
    pub priority: i32,
}

impl PodInfo {
    /// Works out the facts of a pod.
    pub fn new(pod: Arc<Pod>) -> Self {
        PodInfo {
            key: Key::of(&*pod),
            requests: requests(&pod),
            scoring: scoring_requests(&pod),
            ports: host_ports(&pod),
            priority: pod.spec.as_ref().and_then(|s| s.priority).unwrap_or_default(),
            pod,
        }
    }

    /// The spec, if there is one (the API always has one).
    pub fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    /// The pod's tolerations.
    pub fn tolerations(&self) -> &[Toleration] {
        self.spec().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
    }

    /// The hard rule of node affinity.
    pub fn required_nodes(&self) -> Option<&NodeSelector> {
        let affinity = self.spec()?.affinity.as_ref()?.node_affinity.as_ref()?;
        affinity.required_during_scheduling_ignored_during_execution.as_ref()
    }

    /// The hard rules of pod affinity.
    pub fn required_affinity(&self) -> &[PodAffinityTerm] {
        let affinity = self.spec().and_then(|s| s.affinity.as_ref()).and_then(|a| a.pod_affinity.as_ref());
        affinity
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref())
            .unwrap_or_default()
    }

    /// The hard rules of pod anti-affinity.
    pub fn required_anti_affinity(&self) -> &[PodAffinityTerm] {
        let affinity =
            self.spec().and_then(|s| s.affinity.as_ref()).and_then(|a| a.pod_anti_affinity.as_ref());
        affinity
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref())
            .unwrap_or_default()
    }

    /// The soft rules of pod affinity and, with negative weight, of pod anti-affinity.
    pub fn preferred_affinity(&self) -> impl Iterator<Item = (&WeightedPodAffinityTerm, i64)> {
        let affinity = self.spec().and_then(|s| s.affinity.as_ref());
        let near = affinity.and_then(|a| a.pod_affinity.as_ref());
        let far = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
        let near = near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
        let far = far.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
        let near = near.unwrap_or_default().iter().map(|t| (t, i64::from(t.weight)));
        near.chain(far.unwrap_or_default().iter().map(|t| (t, -i64::from(t.weight))))
    }

    /// Are these two states of one pod, and not of two pods of one name?
    pub fn is_same(&self, other: &PodInfo) -> bool {
        self.pod.metadata.uid == other.pod.metadata.uid
    }

    /// Is the pod being deleted?
    pub fn is_terminating(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|p| *p > 0)?;
            let ip = port.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0");
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            Some(HostPort { ip: ip.to_owned(), protocol: protocol.to_owned(), port: number })
        })
        .collect()
}

/// Has the pod ended for good?
pub fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The node a pod is bound to.
pub fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_ports_conflict_on_the_same_or_on_all_addresses() {
        let port = |ip: &str, protocol: &str| HostPort { ip: ip.into(), protocol: protocol.into(), port: 80 };
        assert!(port("0.0.0.0", "TCP").conflicts(&port("10.0.0.1", "TCP")));
        assert!(!port("10.0.0.2", "TCP").conflicts(&port("10.0.0.1", "TCP")));
        assert!(!port("0.0.0.0", "UDP").conflicts(&port("0.0.0.0", "TCP")));
    }
}
