//! Questions that everybody asks of a pod's spec.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, ObjectReference, Pod};

use crate::labels;
use crate::quantity::{self, Resources};

/// Grace period of a pod that names none, in seconds.
const DEFAULT_GRACE: i64 = 30;

/// The part a container plays in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Runs to its end before the next one.
    Init,
    /// An init container with restartPolicy Always: runs beside the others as long as the pod does.
    Sidecar,
    /// An ordinary container.
    Main,
    /// Added later, for debugging; never restarted.
    Ephemeral,
}

/// A pod's uid (empty for one that has none, which the API never hands out).
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// A pod's namespace.
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// A pod's name.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// `name_namespace(uid)`, as upstream's messages name a pod.
pub fn describe(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// All containers in the order in which they may start.
pub fn containers(pod: &Pod) -> Vec<(Kind, Cow<'_, Container>)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let init = spec.init_containers.iter().flatten().map(|c| (init_kind(c), Cow::Borrowed(c)));
    let main = spec.containers.iter().map(|c| (Kind::Main, Cow::Borrowed(c)));
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let ephemeral = ephemeral.map(|c| (Kind::Ephemeral, Cow::Owned(ordinary(c))));
    init.chain(main).chain(ephemeral).collect()
}

/// The container called `name`.
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<(Kind, Cow<'a, Container>)> {
    containers(pod).into_iter().find(|(_, c)| c.name == name)
}

fn init_kind(container: &Container) -> Kind {
    if container.restart_policy.as_deref() == Some("Always") { Kind::Sidecar } else { Kind::Init }
}

fn ordinary(c: &EphemeralContainer) -> Container {
    Container {
        name: c.name.clone(),
        image: c.image.clone(),
        command: c.command.clone(),
        args: c.args.clone(),
        working_dir: c.working_dir.clone(),
        env: c.env.clone(),
        env_from: c.env_from.clone(),
        image_pull_policy: c.image_pull_policy.clone(),
        security_context: c.security_context.clone(),
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        tty: c.tty,
        termination_message_path: c.termination_message_path.clone(),
        termination_message_policy: c.termination_message_policy.clone(),
        volume_mounts: c.volume_mounts.clone(),
        ..Container::default()
    }
}

/// Name of the container whose processes an ephemeral container joins.
pub fn target_container<'a>(pod: &'a Pod, ephemeral: &str) -> Option<&'a str> {
    let all = pod.spec.as_ref()?.ephemeral_containers.as_ref()?;
    all.iter().find(|c| c.name == ephemeral)?.target_container_name.as_deref()
}

/// The pod's restartPolicy.
pub fn restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
}

/// Whether a container that was made with this hash has another definition by now.
pub fn is_redefined(container: &Container, hash: &str) -> bool {
    !hash.is_empty() && hash != container_hash(container)
}

/// Whether a container that ended with `exit_code` runs again: its own rules, its own policy, the pod's.
pub fn should_restart(pod: &Pod, kind: Kind, container: &Container, exit_code: i32) -> bool {
    match kind {
        Kind::Sidecar => return true,
        Kind::Ephemeral => return false,
        Kind::Init | Kind::Main => {}
    }
    if container.restart_policy_rules.iter().flatten().any(|rule| {
        rule.exit_codes.as_ref().is_some_and(|on| {
            let listed = on.values.iter().flatten().any(|value| *value == exit_code);
            listed == (on.operator == "In")
        })
    }) {
        return true;
    }
    let policy = container.restart_policy.as_deref().unwrap_or_else(|| restart_policy(pod));
    match policy {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => kind == Kind::Main || exit_code != 0,
    }
}

/// Seconds between SIGTERM and SIGKILL: of the deletion, else of the spec; at least one.
pub fn grace_period(pod: &Pod) -> i64 {
    let deletion = pod.metadata.deletion_timestamp.as_ref().and(pod.metadata.deletion_grace_period_seconds);
    let spec = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    deletion.or(spec).unwrap_or(DEFAULT_GRACE).max(1)
}

/// Whether the pod uses the node's network.
pub fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

/// Whether the pod comes from a file on the node.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, labels::CONFIG_SOURCE).is_some_and(|source| source != "api")
}

/// Whether the pod is the API's copy of a static one.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, labels::CONFIG_MIRROR).is_some()
}

/// One annotation.
pub fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Whether the pod's phase in the API is Succeeded or Failed.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// The phase that the API has.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Guaranteed, Burstable or BestEffort, by upstream's rule.
pub fn qos_class(pod: &Pod) -> &'static str {
    if let Some(resources) = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref()) {
        return qos_of(std::iter::once((resources.requests.as_ref(), resources.limits.as_ref())));
    }
    let all: Vec<_> = containers(pod).into_iter().filter(|(kind, _)| *kind != Kind::Ephemeral).collect();
    qos_of(all.iter().map(|(_, c)| {
        let resources = c.resources.as_ref();
        (resources.and_then(|r| r.requests.as_ref()), resources.and_then(|r| r.limits.as_ref()))
    }))
}

fn qos_of<'a>(lists: impl Iterator<Item = (Option<&'a Resources>, Option<&'a Resources>)>) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    for (requests, limits) in lists {
        for name in ["cpu", "memory"] {
            let request = quantity::get_milli(requests, name).filter(|value| *value > 0);
            let limit = quantity::get_milli(limits, name).filter(|value| *value > 0);
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// What the pod asks of the node: pod-level requests win, else the sum of containers and sidecars or the
/// largest init container with the sidecars before it, plus overhead. CPU in thousandths, the rest in units.
pub fn requests(pod: &Pod) -> BTreeMap<String, i64> {
    let mut total = sum_of_containers(pod, |c| c.resources.as_ref().and_then(|r| r.requests.as_ref()));
    let Some(spec) = &pod.spec else { return total };
    if let Some(level) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        total.extend(amounts(Some(level)));
    }
    for (name, amount) in amounts(spec.overhead.as_ref()) {
        *total.entry(name).or_default() += amount;
    }
    total
}

/// The pod's limits by the same rule; a resource that some container does not limit has none.
pub fn limits(pod: &Pod) -> BTreeMap<String, i64> {
    let of = |c: &Container| c.resources.as_ref().and_then(|r| r.limits.as_ref()).cloned();
    let mut total = sum_of_containers(pod, |c| c.resources.as_ref().and_then(|r| r.limits.as_ref()));
    let all = containers(pod);
    let counted = || all.iter().filter(|(kind, _)| *kind != Kind::Ephemeral);
    total.retain(|name, _| counted().all(|(_, c)| of(c).is_some_and(|limits| limits.contains_key(name))));
    let Some(spec) = &pod.spec else { return total };
    if let Some(level) = spec.resources.as_ref().and_then(|r| r.limits.as_ref()) {
        total.extend(amounts(Some(level)));
    }
    for (name, amount) in amounts(spec.overhead.as_ref()) {
        if let Some(limit) = total.get_mut(&name) {
            *limit += amount;
        }
    }
    total
}

fn sum_of_containers<'a>(
    pod: &'a Pod,
    list: impl for<'c> Fn(&'c Container) -> Option<&'c Resources>,
) -> BTreeMap<String, i64> {
    let all: Vec<(Kind, Cow<'a, Container>)> = containers(pod);
    let mut running: BTreeMap<String, i64> = BTreeMap::new();
    let mut sidecars: BTreeMap<String, i64> = BTreeMap::new();
    let mut peak: BTreeMap<String, i64> = BTreeMap::new();
    for (kind, container) in &all {
        for (name, amount) in amounts(list(container)) {
            match kind {
                Kind::Main => *running.entry(name).or_default() += amount,
                Kind::Sidecar => {
                    *running.entry(name.clone()).or_default() += amount;
                    let before = sidecars.entry(name.clone()).or_default();
                    *before += amount;
                    let top = peak.entry(name).or_default();
                    *top = (*top).max(*before);
                }
                Kind::Init => {
                    let here = amount + sidecars.get(&name).copied().unwrap_or(0);
                    let top = peak.entry(name).or_default();
                    *top = (*top).max(here);
                }
                Kind::Ephemeral => {}
            }
        }
    }
    for (name, amount) in peak {
        let total = running.entry(name).or_default();
        *total = (*total).max(amount);
    }
    running
}

/// Amounts of a list: CPU in thousandths, the rest in units.
pub fn amounts(list: Option<&Resources>) -> Vec<(String, i64)> {
    let amount = |name: &String, quantity| match name.as_str() {
        "cpu" => quantity::milli_value(quantity),
        _ => quantity::value(quantity),
    };
    list.into_iter().flatten().map(|(name, quantity)| (name.clone(), amount(name, quantity))).collect()
}

/// Ports of the node that the pod wants: protocol, address, port.
pub fn host_ports(pod: &Pod) -> Vec<(String, String, i32)> {
    let all = containers(pod);
    let ports = all.iter().filter(|(kind, _)| matches!(kind, Kind::Main | Kind::Sidecar));
    ports
        .flat_map(|(_, c)| c.ports.iter().flatten())
        .filter_map(|port| {
            let host_port = port.host_port.filter(|port| *port > 0)?;
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let ip = port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned());
            Some((protocol, ip, host_port))
        })
        .collect()
}

/// A reference to the pod for events.
pub fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path: None,
    }
}

/// A reference to one container of the pod for events.
pub fn container_reference(pod: &Pod, kind: Kind, container: &str) -> ObjectReference {
    let list = match kind {
        Kind::Init | Kind::Sidecar => "initContainers",
        Kind::Main => "containers",
        Kind::Ephemeral => "ephemeralContainers",
    };
    ObjectReference { field_path: Some(format!("spec.{list}{{{container}}}")), ..reference(pod) }
}

/// A hash of what makes a running container another one: its name and image.
pub fn container_hash(container: &Container) -> String {
    let image = container.image.as_deref().unwrap_or_default();
    let mut hash: u32 = 0x811c_9dc5;
    for byte in container.name.bytes().chain([0]).chain(image.bytes()) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    format!("{hash:x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    pub fn pod(spec: serde_json::Value) -> Pod {
        let value = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec});
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn qos_classes() {
        let with = |resources: serde_json::Value| {
            pod(json!({"containers": [{"name": "a", "image": "i", "resources": resources}]}))
        };
        for (resources, class) in [
            (json!({}), "BestEffort"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed"),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}}),
                "Guaranteed",
            ),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}), "Burstable"),
            (json!({"limits": {"memory": "1Gi"}}), "Burstable"),
        ] {
            assert_eq!(qos_class(&with(resources.clone())), class, "{resources}");
        }
    }

    #[test]
    fn requests_take_the_larger_of_init_and_running() {
        let pod = pod(json!({
            "overhead": {"cpu": "10m"},
            "initContainers": [
                {"name": "side", "image": "i", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "big", "image": "i", "resources": {"requests": {"cpu": "500m", "memory": "1Ki"}}}],
            "containers": [
                {"name": "a", "image": "i", "resources": {"requests": {"cpu": "200m"}}},
                {"name": "b", "image": "i", "resources": {"requests": {"cpu": "100m"}}}]}));
        let total = requests(&pod);
        assert_eq!(total["cpu"], 610, "the init container beside the sidecar is the peak");
        assert_eq!(total["memory"], 1024);
    }

    #[test]
    fn restarts() {
        for (policy, kind, code, expected) in [
            ("Always", Kind::Main, 0, true),
            ("Always", Kind::Init, 0, false),
            ("Always", Kind::Init, 1, true),
            ("OnFailure", Kind::Main, 0, false),
            ("OnFailure", Kind::Main, 2, true),
            ("Never", Kind::Main, 2, false),
            ("Never", Kind::Init, 2, false),
            ("Never", Kind::Sidecar, 0, true),
            ("Always", Kind::Ephemeral, 1, false),
        ] {
            let pod = pod(json!({"restartPolicy": policy, "containers": []}));
            let container = Container::default();
            assert_eq!(should_restart(&pod, kind, &container, code), expected, "{policy} {kind:?} {code}");
        }
        let ruled: Container = serde_json::from_value(json!({"name": "a", "restartPolicy": "Never",
            "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}))
        .unwrap();
        let pod = pod(json!({"restartPolicy": "Never", "containers": []}));
        assert!(should_restart(&pod, Kind::Main, &ruled, 42));
        assert!(!should_restart(&pod, Kind::Main, &ruled, 41));
    }
}
