//! Network policies, pods and namespaces → the rules of one node. Pure.
//!
//! Upstream's rules: a pod is isolated in a direction as soon as one policy of its namespace chooses it there; then only what some
//! such policy allows passes. An entry without peers is for everybody, without ports for all ports; an empty selector chooses all. A
//! port's name is looked up in the pod that the connection goes to. Pods on the host's network are neither chosen nor peers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use corten_client::selector::matches;
use corten_network::{Allow, Direction, Firewall, Ports, Protocol, Remote};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sha2::{Digest, Sha256};

use crate::fresh::{Addresses, uids};

/// What a plan is made from.
#[derive(Debug, Default)]
pub struct View<'a> {
    /// All network policies.
    pub policies: &'a [Arc<NetworkPolicy>],
    /// All pods.
    pub pods: &'a [Arc<Pod>],
    /// All namespaces.
    pub namespaces: &'a [Arc<Namespace>],
    /// The node whose pods are guarded.
    pub node: &'a str,
    /// Addresses of a cluster DNS without pods.
    pub dns: &'a [IpAddr],
    /// Addresses that pods of this node were given and that the API may not know yet, by the pods' uids.
    pub given: Option<&'a BTreeMap<String, Vec<IpAddr>>>,
}

/// What policies see of a pod.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Member {
    namespace: String,
    labels: Option<BTreeMap<String, String>>,
    addresses: Vec<IpAddr>,
    ports: Vec<(String, Protocol, u16)>,
    node: Option<String>,
}

/// `None` for pods that policies do not see: without an address, over, or on the host's network. `given` has addresses that the API
/// may not know yet.
pub(crate) fn member(pod: &Pod, given: Option<&Addresses>) -> Option<Member> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if over || spec.host_network == Some(true) {
        return None;
    }
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut addresses: Vec<IpAddr> =
        listed.chain(status.pod_ip.as_deref()).filter_map(|ip| ip.parse().ok()).collect();
    let given = given.into_iter().flat_map(|given| uids(pod).filter_map(|uid| given.get(uid)));
    addresses.extend(given.flatten().copied());
    addresses.sort();
    addresses.dedup();
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let ports = ports.filter_map(|port| {
        let number = u16::try_from(port.container_port).ok()?;
        Some((port.name.clone()?, protocol(port.protocol.as_deref())?, number))
    });
    (!addresses.is_empty()).then(|| Member {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        labels: pod.metadata.labels.clone(),
        addresses,
        ports: ports.collect(),
        node: spec.node_name.clone(),
    })
}

fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

/// The node's DNS as the pods that people name in their policies.
fn dns_member(addresses: &[IpAddr]) -> Member {
    Member {
        namespace: "kube-system".into(),
        labels: Some(BTreeMap::from([("k8s-app".into(), "kube-dns".into())])),
        addresses: addresses.to_vec(),
        ports: vec![("dns".into(), Protocol::Udp, 53), ("dns-tcp".into(), Protocol::Tcp, 53)],
        node: None,
    }
}

/// The rules of `view.node`.
pub fn plan(view: &View<'_>) -> Firewall {
    let mut members: Vec<Member> = view.pods.iter().filter_map(|pod| member(pod, view.given)).collect();
    if !view.dns.is_empty() {
        members.push(dns_member(view.dns));
    }
    let mut plan = Plan { view, members: &members, firewall: Firewall::default() };
    for policy in view.policies {
        plan.policy(policy);
    }
    plan.firewall
}

/// Does a policy choose a pod of its own namespace with these labels?
pub(crate) fn chooses(policy: &NetworkPolicySpec, labels: Option<&BTreeMap<String, String>>) -> bool {
    policy.pod_selector.as_ref().is_none_or(|selector| matches(selector, labels))
}

struct Plan<'a> {
    view: &'a View<'a>,
    members: &'a [Member],
    firewall: Firewall,
}

/// One entry of a policy, whichever its direction.
struct Entry<'a> {
    peers: &'a [NetworkPolicyPeer],
    ports: &'a [NetworkPolicyPort],
}

/// A policy and the pods of the node that it chooses.
struct Chosen<'a> {
    namespace: &'a str,
    name: String,
    pods: Vec<&'a Member>,
}

impl<'a> Plan<'a> {
    fn policy(&mut self, policy: &'a NetworkPolicy) {
        let (Some(spec), Some(namespace)) = (policy.spec.as_ref(), policy.metadata.namespace.as_deref())
        else {
            return;
        };
        let here = self
            .members
            .iter()
            .filter(|m| m.namespace == namespace && m.node.as_deref() == Some(self.view.node));
        let pods: Vec<&Member> = here.filter(|m| chooses(spec, m.labels.as_ref())).collect();
        if pods.is_empty() {
            return;
        }
        let name = format!("{namespace}/{}", policy.metadata.name.as_deref().unwrap_or_default());
        let chosen = Chosen { namespace, name, pods };
        let named = |kind: &str| spec.policy_types.iter().flatten().any(|t| t == kind);
        let untyped = spec.policy_types.as_ref().is_none_or(Vec::is_empty);
        if untyped || named("Ingress") {
            let rules = spec.ingress.iter().flatten();
            let entries = rules.map(|r| Entry { peers: list(&r.from), ports: list(&r.ports) }).collect();
            self.direction(Direction::Ingress, &chosen, entries);
        }
        if (untyped && spec.egress.is_some()) || named("Egress") {
            let rules = spec.egress.iter().flatten();
            let entries = rules.map(|r| Entry { peers: list(&r.to), ports: list(&r.ports) }).collect();
            self.direction(Direction::Egress, &chosen, entries);
        }
    }

    fn direction(&mut self, direction: Direction, chosen: &Chosen<'_>, entries: Vec<Entry<'_>>) {
        for address in chosen.pods.iter().flat_map(|pod| &pod.addresses) {
            self.firewall.pods.entry((direction, *address)).or_default().insert(chosen.name.clone());
        }
        let mut allowed = BTreeSet::new();
        for entry in &entries {
            for remote in self.remotes(chosen.namespace, entry.peers) {
                for ports in self.ports(direction, chosen, &remote, entry.ports) {
                    allowed.insert(Allow { remote: remote.0.clone(), ports });
                }
            }
        }
        self.firewall.policies.insert((direction, chosen.name.clone()), allowed);
    }

    /// The other sides, each with the pods that it consists of as far as they are known.
    fn remotes(&mut self, namespace: &str, peers: &[NetworkPolicyPeer]) -> Vec<(Remote, Vec<&'a Member>)> {
        if peers.is_empty() {
            return vec![(Remote::Any, self.members.iter().collect())];
        }
        let mut remotes = Vec::new();
        for peer in peers {
            match &peer.ip_block {
                Some(block) => remotes.extend(self.block(block)),
                None => remotes.push(self.selected(namespace, peer)),
            }
        }
        remotes
    }

    fn block(&self, block: &IPBlock) -> Option<(Remote, Vec<&'a Member>)> {
        let cidr: IpNet = block.cidr.parse().ok()?;
        // An exception that cannot be read must not widen what is allowed.
        let except: Result<Vec<IpNet>, _> = block.except.iter().flatten().map(|text| text.parse()).collect();
        Some((Remote::Block { cidr, except: except.ok()? }, self.members.iter().collect()))
    }

    fn selected(&mut self, namespace: &str, peer: &NetworkPolicyPeer) -> (Remote, Vec<&'a Member>) {
        let all = LabelSelector::default();
        let pods = peer.pod_selector.as_ref().unwrap_or(&all);
        let namespaces: BTreeSet<&str> = match &peer.namespace_selector {
            Some(selector) => {
                let all = self.view.namespaces.iter();
                let chosen = all.filter(|ns| matches(selector, ns.metadata.labels.as_ref()));
                chosen.filter_map(|ns| ns.metadata.name.as_deref()).collect()
            }
            None => BTreeSet::from([namespace]),
        };
        let members: Vec<&Member> = self
            .members
            .iter()
            .filter(|m| namespaces.contains(m.namespace.as_str()) && matches(pods, m.labels.as_ref()))
            .collect();
        // The same selectors in two policies are one set; without a namespace selector they are of one namespace.
        let within = peer.namespace_selector.is_none().then_some(namespace);
        let name = hashed('s', &(within, &peer.namespace_selector, pods));
        let addresses = members.iter().flat_map(|m| m.addresses.iter().copied()).collect();
        self.firewall.addresses.insert(name.clone(), addresses);
        (Remote::Set(name), members)
    }

    fn ports(
        &mut self,
        direction: Direction,
        chosen: &Chosen<'_>,
        remote: &(Remote, Vec<&Member>),
        ports: &[NetworkPolicyPort],
    ) -> Vec<Ports> {
        if ports.is_empty() {
            return vec![Ports::Any];
        }
        let mut all = Vec::new();
        for port in ports {
            let Some(protocol) = protocol(port.protocol.as_deref()) else { continue };
            let number = |n: i32| u16::try_from(n).ok();
            match &port.port {
                None => all.push(Ports::Protocol(protocol)),
                Some(IntOrString::Int(first)) => {
                    let last = port.end_port.unwrap_or(*first);
                    all.extend(number(*first).zip(number(last)).map(|(a, b)| Ports::Range(protocol, a, b)));
                }
                Some(IntOrString::String(name)) => {
                    let destinations = if direction == Direction::Ingress { &chosen.pods } else { &remote.1 };
                    let whose = (direction == Direction::Ingress).then_some(&chosen.name);
                    let set = hashed('n', &(whose, format!("{:?}", remote.0), protocol.name(), name));
                    self.firewall.endpoints.insert(set.clone(), endpoints(destinations, protocol, name));
                    all.push(Ports::Set(set));
                }
            }
        }
        all
    }
}

/// Where a port of that name leads in each pod that has one.
fn endpoints(pods: &[&Member], protocol: Protocol, name: &str) -> BTreeSet<(IpAddr, Protocol, u16)> {
    let mut found = BTreeSet::new();
    for pod in pods {
        let ports = pod.ports.iter().filter(|(port, kind, _)| port == name && *kind == protocol);
        for (_, _, number) in ports {
            found.extend(pod.addresses.iter().map(|address| (*address, protocol, *number)));
        }
    }
    found
}

fn list<T>(values: &Option<Vec<T>>) -> &[T] {
    values.as_deref().unwrap_or_default()
}

/// A set's name, made from what chooses its members.
fn hashed(kind: char, what: &impl k8s_openapi::serde::Serialize) -> String {
    let text = serde_json::to_vec(what).unwrap_or_default();
    format!("{kind}_{}", hex::encode(&Sha256::digest(text)[..8]))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
