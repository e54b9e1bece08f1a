//! The Node object and its status. Pure: everything observed is handed in.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_cri::v1::Image;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec,
    NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::machine::Machine;
use crate::config::{Config, KUBELET_VERSION};

/// Most images that the status names (upstream's `nodeStatusMaxImages`).
const MAX_IMAGES: usize = 50;
/// Most names of one image.
const MAX_NAMES: usize = 5;

/// What changes about a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Why the node is not ready; empty when it is.
    pub not_ready: Vec<String>,
    /// Little memory is free.
    pub memory_pressure: bool,
    /// Little disk is free.
    pub disk_pressure: bool,
    /// Few process ids are free.
    pub pid_pressure: bool,
}

/// What does not change while the kubelet runs.
pub struct Identity<'a> {
    /// Settings.
    pub config: &'a Config,
    /// Machine.
    pub machine: &'a Machine,
    /// The node's addresses.
    pub ips: &'a [String],
    /// `corten://1.0`.
    pub runtime_version: String,
    /// Port that the kubelet's API really listens on.
    pub port: u16,
}

/// The conditions of `health`, with the times of `old` where the status is the same.
pub fn conditions(health: &Health, old: &[NodeCondition], now: Timestamp) -> Vec<NodeCondition> {
    let second = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let make = |type_: &str, on: bool, reason: &str, message: String| {
        let status = if on { "True" } else { "False" };
        let before = old.iter().find(|c| c.type_ == type_ && c.status == status);
        let since = before.and_then(|c| c.last_transition_time.clone());
        NodeCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_heartbeat_time: Some(second.clone()),
            last_transition_time: Some(since.unwrap_or_else(|| second.clone())),
        }
    };
    let pick = |on: bool, yes: (&'static str, &str), no: (&'static str, &str)| {
        let (reason, message) = if on { yes } else { no };
        (reason, message.to_owned())
    };
    let memory = pick(
        health.memory_pressure,
        ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    );
    let disk = pick(
        health.disk_pressure,
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    );
    let pid = pick(
        health.pid_pressure,
        ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
        ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    );
    let ready = match health.not_ready.as_slice() {
        [] => ("KubeletReady", "kubelet is posting ready status".to_owned()),
        reasons => ("KubeletNotReady", reasons.join(", ")),
    };
    vec![
        make("MemoryPressure", health.memory_pressure, memory.0, memory.1),
        make("DiskPressure", health.disk_pressure, disk.0, disk.1),
        make("PIDPressure", health.pid_pressure, pid.0, pid.1),
        make("Ready", health.not_ready.is_empty(), ready.0, ready.1),
    ]
}

/// The status of the node.
pub fn status(
    identity: &Identity<'_>,
    health: &Health,
    images: &[Image],
    old: &[NodeCondition],
    now: Timestamp,
) -> NodeStatus {
    let (config, machine) = (identity.config, identity.machine);
    let mut addresses: Vec<NodeAddress> = identity
        .ips
        .iter()
        .map(|ip| NodeAddress { type_: "InternalIP".to_owned(), address: ip.clone() })
        .collect();
    addresses.push(NodeAddress { type_: "Hostname".to_owned(), address: config.node_name.clone() });
    NodeStatus {
        capacity: Some(resources(config, machine, 0, 0)),
        allocatable: Some(resources(config, machine, config.reserved_cpu_milli, config.reserved_memory)),
        addresses: Some(addresses),
        conditions: Some(conditions(health, old, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(identity.port) }),
        }),
        images: Some(shown_images(images)),
        node_info: Some(NodeSystemInfo {
            architecture: machine.architecture.to_owned(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: identity.runtime_version.clone(),
            kernel_version: machine.kernel_version.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: KUBELET_VERSION.to_owned(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: machine.os_image.clone(),
            system_uuid: machine.system_uuid.clone(),
            ..NodeSystemInfo::default()
        }),
        ..NodeStatus::default()
    }
}

fn resources(config: &Config, machine: &Machine, cpu: i64, memory: i64) -> BTreeMap<String, Quantity> {
    let milli = machine.cpu_milli - cpu;
    let cpu = if milli % 1000 == 0 { (milli / 1000).to_string() } else { format!("{milli}m") };
    [
        ("cpu", cpu),
        ("memory", format!("{}Ki", (machine.memory_bytes - memory) / 1024)),
        ("ephemeral-storage", format!("{}Ki", machine.storage_bytes / 1024)),
        ("hugepages-1Gi", "0".to_owned()),
        ("hugepages-2Mi", "0".to_owned()),
        ("pods", config.max_pods.to_string()),
    ]
    .map(|(name, amount)| (name.to_owned(), Quantity(amount)))
    .into()
}

/// The largest images, each with its digests and tags.
fn shown_images(images: &[Image]) -> Vec<ContainerImage> {
    let mut images: Vec<&Image> = images.iter().collect();
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let one = |image: &&Image| ContainerImage {
        names: Some(image.repo_digests.iter().chain(&image.repo_tags).take(MAX_NAMES).cloned().collect()),
        size_bytes: i64::try_from(image.size).ok(),
    };
    images.iter().take(MAX_IMAGES).map(one).collect()
}

/// The Node object of a kubelet that comes for the first time.
pub fn new_node(identity: &Identity<'_>, status: NodeStatus) -> Node {
    let taints = identity.config.node_taints.clone();
    Node {
        metadata: ObjectMeta {
            name: Some(identity.config.node_name.clone()),
            labels: Some(labels(identity)),
            annotations: Some(
                [("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned())]
                    .into(),
            ),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec { taints: (!taints.is_empty()).then_some(taints), ..NodeSpec::default() }),
        status: Some(status),
    }
}

/// Labels that the kubelet itself is responsible for, and those of the settings.
pub fn labels(identity: &Identity<'_>) -> BTreeMap<String, String> {
    let mut labels = identity.config.node_labels.clone();
    for (name, value) in [
        ("beta.kubernetes.io/arch", identity.machine.architecture),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", identity.machine.architecture),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/hostname", identity.config.node_name.as_str()),
    ] {
        labels.entry(name.to_owned()).or_insert_with(|| value.to_owned());
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_keep_their_times() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let sick = Health { not_ready: vec!["a".into(), "b".into()], ..Health::default() };
        let first = conditions(&sick, &[], at(1));
        let ready = |list: &[NodeCondition]| list.iter().find(|c| c.type_ == "Ready").cloned().unwrap();
        assert_eq!(ready(&first).message.as_deref(), Some("a, b"));
        let second = conditions(&Health::default(), &first, at(5));
        assert_eq!(
            (ready(&second).status.as_str(), ready(&second).reason.as_deref()),
            ("True", Some("KubeletReady"))
        );
        assert_eq!(ready(&second).last_transition_time.unwrap().0, at(5));
        assert_eq!(second[0].last_transition_time.as_ref().unwrap().0, at(1));
        assert_eq!(second[0].last_heartbeat_time.as_ref().unwrap().0, at(5));
    }
}
