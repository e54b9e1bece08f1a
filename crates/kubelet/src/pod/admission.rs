//! Whether a pod may run here: the kubelet's own last look at resources, ports, selectors and taints, by the
//! rules and in the words of upstream's predicates. Pure bookkeeping.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint, Toleration};

use super::resize::Pending;
use super::spec;
use super::status::Verdict;

/// Kernel parameters that only matter inside a pod (upstream's safe set).
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// What one admitted pod takes.
#[derive(Debug, Clone)]
struct Share {
    burstable: bool,
    requests: BTreeMap<String, i64>,
    host_ports: Vec<(String, String, i32)>,
}

/// What the node can give: CPU in thousandths, the rest in units, `pods` in pods.
pub type Allocatable = BTreeMap<String, i64>;

/// The shares of all pods that run here.
#[derive(Debug, Default)]
pub struct Admission {
    shares: HashMap<String, Share>,
    /// Uids of pods that wait for room to grow.
    deferred: BTreeSet<String>,
}

impl Admission {
    /// Counts a pod that was admitted before (by an earlier kubelet).
    pub fn account(&mut self, pod: &Pod) {
        let share = Share {
            burstable: spec::qos_class(pod) == "Burstable",
            requests: spec::requests(pod),
            host_ports: spec::host_ports(pod),
        };
        self.shares.insert(spec::uid(pod).to_owned(), share);
    }

    /// Counts a new pod, or says why it cannot run.
    pub fn admit(
        &mut self,
        pod: &Pod,
        node: Option<&Node>,
        allocatable: &Allocatable,
    ) -> Result<(), Verdict> {
        let uid = spec::uid(pod);
        if self.shares.contains_key(uid) {
            return Ok(());
        }
        let refused = forbidden(pod)
            .or_else(|| self.too_little(pod, allocatable))
            .or_else(|| self.port_taken(pod))
            .or_else(|| misfit(pod, node));
        match refused {
            Some((reason, message)) => {
                let message = format!("Pod was rejected: {message}");
                Err(Verdict { reason, message, disruption: false })
            }
            None => {
                self.account(pod);
                Ok(())
            }
        }
    }

    /// A pod has ended: what it took is free. Returns those who have waited for that.
    pub fn release(&mut self, uid: &str) -> BTreeSet<String> {
        self.deferred.remove(uid);
        match self.shares.remove(uid) {
            Some(_) => std::mem::take(&mut self.deferred),
            None => BTreeSet::new(),
        }
    }

    /// Counts other resources for a pod that runs here, or says why it cannot have them. Returns those who have waited
    /// for what it gives back.
    pub fn resize(&mut self, pod: &Pod, allocatable: &Allocatable) -> Result<BTreeSet<String>, Pending> {
        let uid = spec::uid(pod);
        for (resource, requested) in spec::requests(pod) {
            let Some(capacity) = allocatable.get(&resource).copied() else { continue };
            let others = self.shares.iter().filter(|(other, _)| *other != uid);
            let used = others.filter_map(|(_, share)| share.requests.get(&resource)).sum::<i64>();
            if requested > capacity {
                let message = format!(
                    "Node didn't have enough capacity: {resource}, requested: {requested}, capacity: {capacity}"
                );
                return Err(Pending { reason: "Infeasible", message });
            }
            if requested > capacity.saturating_sub(used) {
                self.deferred.insert(uid.to_owned());
                let message = format!(
                    "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
                );
                return Err(Pending { reason: "Deferred", message });
            }
        }
        self.deferred.remove(uid);
        if self.shares.contains_key(uid) {
            self.account(pod);
        }
        Ok(std::mem::take(&mut self.deferred))
    }

    /// CPU that the burstable pods ask for together, in thousandths.
    pub fn burstable_cpu_milli(&self) -> i64 {
        let burstable = self.shares.values().filter(|share| share.burstable);
        burstable.filter_map(|share| share.requests.get("cpu")).sum()
    }

    fn too_little(&self, pod: &Pod, allocatable: &Allocatable) -> Option<(String, String)> {
        let complain = |resource: &str, requested: i64, used: i64, capacity: i64| {
            let message = format!(
                "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
            );
            Some((format!("OutOf{resource}"), message))
        };
        let pods = i64::try_from(self.shares.len()).unwrap_or(i64::MAX);
        let most = allocatable.get("pods").copied().unwrap_or(i64::MAX);
        if pods >= most {
            return complain("pods", 1, pods, most);
        }
        for (resource, requested) in spec::requests(pod).into_iter().filter(|(_, amount)| *amount > 0) {
            let Some(capacity) = allocatable.get(&resource).copied() else { continue };
            let used = self.shares.values().filter_map(|share| share.requests.get(&resource)).sum::<i64>();
            if requested > capacity.saturating_sub(used) {
                return complain(&resource, requested, used, capacity);
            }
        }
        None
    }

    fn port_taken(&self, pod: &Pod) -> Option<(String, String)> {
        let wanted = spec::host_ports(pod);
        let any = |ip: &str| ip == "0.0.0.0" || ip == "::";
        let clash = |a: &(String, String, i32), b: &(String, String, i32)| {
            a.0 == b.0 && a.2 == b.2 && (a.1 == b.1 || any(&a.1) || any(&b.1))
        };
        let mut taken = self.shares.values().flat_map(|share| &share.host_ports);
        taken
            .any(|port| wanted.iter().any(|want| clash(want, port)))
            .then(|| predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports"))
    }
}

fn predicate(name: &str, why: &str) -> (String, String) {
    (name.to_owned(), format!("Predicate {name} failed: {why}"))
}

/// What this node never lets a pod do.
fn forbidden(pod: &Pod) -> Option<(String, String)> {
    let os = pod.spec.as_ref().and_then(|spec| spec.os.as_ref());
    if os.is_some_and(|os| os.name != "linux") {
        let why = "Failed to admit pod as the OS field doesn't match node OS";
        return Some(("PodOSNotSupported".to_owned(), why.to_owned()));
    }
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let sysctls = context.and_then(|context| context.sysctls.as_ref()).into_iter().flatten();
    let unsafe_one = sysctls
        .map(|sysctl| sysctl.name.replace('/', "."))
        .find(|name| !SAFE_SYSCTLS.contains(&name.as_str()));
    if let Some(name) = unsafe_one {
        return Some(("SysctlForbidden".to_owned(), format!("forbidden sysctl: \"{name}\" not allowlisted")));
    }
    let confined = |kind: &str| kind != "Unconfined";
    let of_pod = context.and_then(|context| context.app_armor_profile.as_ref());
    let containers = spec::containers(pod);
    let of_containers =
        containers.iter().filter_map(|(_, c)| c.security_context.as_ref()?.app_armor_profile.as_ref());
    let asks = of_pod.into_iter().chain(of_containers).any(|profile| confined(&profile.type_));
    asks.then(|| {
        let why = "Cannot enforce AppArmor: AppArmor is not supported by this kubelet";
        ("AppArmor".to_owned(), why.to_owned())
    })
}

fn misfit(pod: &Pod, node: Option<&Node>) -> Option<(String, String)> {
    let node = node?;
    let name = node.metadata.name.as_deref().unwrap_or_default();
    if pod.spec.as_ref()?.node_name.as_deref().is_some_and(|wanted| wanted != name) {
        return Some(predicate("NodeName", "node(s) didn't match the requested node name"));
    }
    if !selects(pod, node) {
        return Some(predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"));
    }
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref()).into_iter().flatten();
    let mut fatal = taints.filter(|taint| taint.effect == "NoExecute");
    let untolerated = fatal.any(|taint| !spec::is_static(pod) && !tolerates(pod, taint));
    untolerated.then(|| predicate("TaintToleration", "node(s) had taints that the pod didn't tolerate"))
}

fn tolerates(pod: &Pod, taint: &Taint) -> bool {
    let fits = |t: &Toleration| {
        let key = t.key.as_deref().unwrap_or_default();
        let effect = t.effect.as_deref().unwrap_or_default();
        let exists = t.operator.as_deref() == Some("Exists");
        (effect.is_empty() || effect == taint.effect)
            && (key == taint.key || key.is_empty() && exists)
            && (exists
                || t.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default())
    };
    pod.spec.as_ref().and_then(|spec| spec.tolerations.as_ref()).into_iter().flatten().any(fits)
}

fn selects(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let simple = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let name = node.metadata.name.as_deref().unwrap_or_default();
    simple
        && required.is_none_or(|selector| selector.node_selector_terms.iter().any(|t| term(t, labels, name)))
}

fn term(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|r| requirement(r, labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| r.key == "metadata.name" && requirement(r, Some(name)))
}

fn requirement(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|known| known == value));
    let numbers = || {
        let own: i64 = value?.parse().ok()?;
        let bound: i64 = values.first()?.parse().ok()?;
        Some(own.cmp(&bound))
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers() == Some(std::cmp::Ordering::Greater),
        "Lt" => numbers() == Some(std::cmp::Ordering::Less),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(uid: &str, spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid}, "spec": spec})).unwrap()
    }

    fn asking(uid: &str, cpu: &str) -> Pod {
        pod(uid, json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]}))
    }

    fn with_port(uid: &str, port: i32, ip: &str) -> Pod {
        let port = json!({"containerPort": 80, "hostPort": port, "hostIP": ip});
        pod(uid, json!({"containers": [{"name": "a", "ports": [port]}]}))
    }

    fn node() -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"disk": "ssd", "n": "5"}},
            "spec": {"taints": [{"key": "k", "value": "v", "effect": "NoExecute"}]}}))
        .unwrap()
    }

    fn allocatable() -> Allocatable {
        [("cpu".to_owned(), 1000), ("pods".to_owned(), 2)].into()
    }

    #[test]
    fn resources_run_out() {
        let mut admission = Admission::default();
        assert_eq!(admission.admit(&asking("a", "600m"), None, &allocatable()), Ok(()));
        let refused = admission.admit(&asking("b", "500m"), None, &allocatable()).unwrap_err();
        assert_eq!(refused.reason, "OutOfcpu");
        assert_eq!(
            refused.message,
            "Pod was rejected: Node didn't have enough resource: cpu, requested: 500, used: 600, capacity: 1000"
        );
        assert_eq!(admission.admit(&asking("c", "400m"), None, &allocatable()), Ok(()));
        assert_eq!(admission.admit(&asking("d", "0"), None, &allocatable()).unwrap_err().reason, "OutOfpods");
        admission.release("a");
        assert_eq!(admission.admit(&asking("d", "600m"), None, &allocatable()), Ok(()));
    }

    #[test]
    fn kernel_parameters() {
        for (name, expected) in [("kernel.shm_rmid_forced", None), ("kernel.msgmax", Some("SysctlForbidden"))]
        {
            let sysctls = json!([{"name": name, "value": "1"}]);
            let pod = pod("a", json!({"containers": [], "securityContext": {"sysctls": sysctls}}));
            let result = Admission::default().admit(&pod, None, &BTreeMap::new());
            assert_eq!(result.err().map(|verdict| verdict.reason).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn operating_systems() {
        for (os, expected) in [("linux", None), ("windows", Some("PodOSNotSupported"))] {
            let pod = pod("a", json!({"containers": [], "os": {"name": os}}));
            let result = Admission::default().admit(&pod, None, &BTreeMap::new());
            assert_eq!(result.err().map(|verdict| verdict.reason).as_deref(), expected, "{os}");
        }
    }

    #[test]
    fn ports_clash() {
        let mut admission = Admission::default();
        let all = BTreeMap::new();
        assert_eq!(admission.admit(&with_port("a", 80, "127.0.0.1"), None, &all), Ok(()));
        assert_eq!(admission.admit(&with_port("b", 80, "127.0.0.2"), None, &all), Ok(()));
        assert_eq!(admission.admit(&with_port("c", 80, ""), None, &all).unwrap_err().reason, "NodePorts");
        assert_eq!(admission.admit(&with_port("d", 81, ""), None, &all), Ok(()));
    }

    #[test]
    fn selectors_and_taints() {
        let tolerated = json!([{"key": "k", "operator": "Exists"}]);
        let affinity = |operator: &str, key: &str, values: Value| {
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms":
                [{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]}}})
        };
        for (spec, expected) in [
            (json!({"containers": [], "tolerations": tolerated}), None),
            (json!({"containers": []}), Some("TaintToleration")),
            (
                json!({"containers": [], "tolerations": tolerated, "nodeSelector": {"disk": "hdd"}}),
                Some("NodeAffinity"),
            ),
            (json!({"containers": [], "tolerations": tolerated, "nodeSelector": {"disk": "ssd"}}), None),
            (
                json!({"containers": [], "tolerations": tolerated, "affinity": affinity("In", "disk", json!(["hdd"]))}),
                Some("NodeAffinity"),
            ),
            (
                json!({"containers": [], "tolerations": tolerated, "affinity": affinity("Gt", "n", json!(["4"]))}),
                None,
            ),
            (
                json!({"containers": [], "tolerations": [{"operator": "Exists"}], "nodeName": "other"}),
                Some("NodeName"),
            ),
        ] {
            let result = Admission::default().admit(&pod("a", spec.clone()), Some(&node()), &BTreeMap::new());
            assert_eq!(result.err().map(|verdict| verdict.reason).as_deref(), expected, "{spec}");
        }
    }

    #[test]
    fn growing() {
        let pod = |uid: &str, cpu: &str| -> Pod {
            serde_json::from_value(
                serde_json::json!({"metadata": {"name": uid, "namespace": "n", "uid": uid},
                "spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]}}),
            )
            .unwrap()
        };
        let room: Allocatable = [("cpu".to_owned(), 1000)].into();
        let mut admission = Admission::default();
        admission.admit(&pod("a", "500m"), None, &room).unwrap();
        admission.admit(&pod("b", "400m"), None, &room).unwrap();
        let reason = |found: Result<BTreeSet<String>, Pending>| found.map_err(|pending| pending.reason);
        assert_eq!(reason(admission.resize(&pod("a", "600m"), &room)), Ok(BTreeSet::new()));
        assert_eq!(reason(admission.resize(&pod("a", "2"), &room)), Err("Infeasible"));
        assert_eq!(reason(admission.resize(&pod("b", "500m"), &room)), Err("Deferred"));
        assert_eq!(admission.release("a"), ["b".to_owned()].into(), "there is room now");
        assert_eq!(reason(admission.resize(&pod("b", "500m"), &room)), Ok(BTreeSet::new()));
    }
}
