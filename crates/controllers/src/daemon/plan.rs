//! Which nodes want the daemon, which pods to make and to delete, and the counts of the status. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use corten_scheduler::selector::{node_selector_matches, untolerated};
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, PodTemplateSpec, Toleration,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;

use super::{GENERATION_LABEL, HASH_LABEL};
use crate::deployment::plan::share;
use crate::pods;

/// Taints that keep no daemon away: key, effect, only for pods on the host's network.
const TOLERATED: &[(&str, &str, bool)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute", false),
    ("node.kubernetes.io/unreachable", "NoExecute", false),
    ("node.kubernetes.io/disk-pressure", "NoSchedule", false),
    ("node.kubernetes.io/memory-pressure", "NoSchedule", false),
    ("node.kubernetes.io/pid-pressure", "NoSchedule", false),
    ("node.kubernetes.io/unschedulable", "NoSchedule", false),
    ("node.kubernetes.io/network-unavailable", "NoSchedule", true),
];
/// The field of a node by which a daemon's pod is bound to it.
const NODE_NAME_FIELD: &str = "metadata.name";

/// What to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// Nodes that get a pod.
    pub create_on: Vec<String>,
    /// Pods to delete.
    pub delete: Vec<Arc<Pod>>,
    /// Failed pods among those, for the event.
    pub failed: Vec<Arc<Pod>>,
}

impl Plan {
    /// The nodes of the failed pods.
    pub fn failed_on(&self) -> BTreeSet<String> {
        self.failed.iter().filter_map(|pod| node_of(pod)).collect()
    }

    /// Leaves failed pods on these nodes as they are, and makes none in their place.
    pub fn leave_alone<V>(&mut self, nodes: &BTreeMap<String, V>) {
        let is_held = |pod: &Arc<Pod>| node_of(pod).is_some_and(|node| nodes.contains_key(&node));
        let held: Vec<_> = self.failed.extract_if(.., |pod| is_held(pod)).collect();
        self.delete.retain(|pod| !held.iter().any(|failed| Arc::ptr_eq(failed, pod)));
        self.create_on.retain(|node| !nodes.contains_key(node));
    }
}

/// Is there to be a pod on the node, and may one stay that is there?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// A pod is wanted.
    pub run: bool,
    /// A pod that is there may stay.
    pub stay: bool,
}

/// What the daemon set wants of a node.
pub fn wish(set: &DaemonSet, node: &Node) -> Wish {
    let spec = set.spec.template.spec.clone().unwrap_or_default();
    if !fits(&spec, node) {
        return Wish { run: false, stay: false };
    }
    let tolerations = tolerations(&spec);
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let stay = untolerated(taints, &tolerations, &["NoExecute"]).is_none();
    Wish { run: stay && untolerated(taints, &tolerations, &["NoSchedule"]).is_none(), stay }
}

fn fits(spec: &PodSpec, node: &Node) -> bool {
    let name = node.metadata.name.as_deref();
    let labels = node.metadata.labels.as_ref();
    let named = spec.node_name.as_deref().is_none_or(|n| n.is_empty() || Some(n) == name);
    let has = |(key, value): (&String, &String)| labels.and_then(|l| l.get(key)) == Some(value);
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    named
        && spec.node_selector.iter().flatten().all(has)
        && required.is_none_or(|r| node_selector_matches(r, node))
}

fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let on_host = spec.host_network == Some(true);
    for (key, effect, host_only) in TOLERATED.iter().filter(|t| on_host || !t.2) {
        debug_assert!(on_host || !host_only, "{key}");
        let text = |s: &str| Some(s.to_owned());
        let toleration = Toleration {
            key: text(key),
            operator: text("Exists"),
            effect: text(effect),
            ..Toleration::default()
        };
        if !all.contains(&toleration) {
            all.push(toleration);
        }
    }
    all
}

/// The pods of each node. Those without a node count for the one that their affinity names.
pub fn by_node(pods: &[Arc<Pod>]) -> BTreeMap<String, Vec<Arc<Pod>>> {
    let mut out: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in pods {
        out.entry(node_of(pod).unwrap_or_default()).or_default().push(pod.clone());
    }
    for pods in out.values_mut() {
        pods.sort_by_key(|p| (p.metadata.creation_timestamp.clone(), p.metadata.name.clone()));
    }
    out
}

fn node_of(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if let Some(name) = spec.node_name.clone().filter(|n| !n.is_empty()) {
        return Some(name);
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let fields = terms.iter().flat_map(|t| t.match_fields.iter().flatten());
    fields.filter(|f| f.key == NODE_NAME_FIELD).find_map(|f| f.values.as_ref()?.first().cloned())
}

/// Is the pod of the present template?
pub fn is_updated(pod: &Pod, hash: &str) -> bool {
    pod.metadata.labels.as_ref().and_then(|l| l.get(HASH_LABEL)).map(String::as_str) == Some(hash)
}

/// Pods that are missing, surplus, failed or misplaced.
pub fn manage(set: &DaemonSet, nodes: &[Arc<Node>], pods: &[Arc<Pod>], hash: &str, now: Timestamp) -> Plan {
    let on = by_node(pods);
    let surge = Rolling::of(set, nodes).surge > 0;
    let mut plan = Plan::default();
    for node in nodes {
        let name = node.metadata.name.clone().unwrap_or_default();
        let here = on.get(&name).map(Vec::as_slice).unwrap_or_default();
        manage_node(set, &name, wish(set, node), here, surge, hash, now, &mut plan);
    }
    let exists = |name: &String| nodes.iter().any(|n| n.metadata.name.as_ref() == Some(name));
    for (_, pods) in on.iter().filter(|(name, _)| !name.is_empty() && !exists(name)) {
        let unbound = |p: &&Arc<Pod>| p.spec.as_ref().is_none_or(|s| s.node_name.is_none());
        plan.delete.extend(pods.iter().filter(unbound).cloned());
    }
    plan.delete.retain(|p| p.metadata.deletion_timestamp.is_none());
    plan
}

#[expect(clippy::too_many_arguments, reason = "the facts of one node, used once")]
fn manage_node(
    set: &DaemonSet,
    name: &str,
    wish: Wish,
    here: &[Arc<Pod>],
    surge: bool,
    hash: &str,
    now: Timestamp,
    plan: &mut Plan,
) {
    if !wish.stay {
        plan.delete.extend(here.iter().cloned());
        return;
    }
    let (ended, alive): (Vec<_>, Vec<_>) =
        here.iter().cloned().partition(|p| matches!(pods::phase(p), "Failed" | "Succeeded"));
    plan.failed.extend(ended.iter().filter(|p| p.metadata.deletion_timestamp.is_none()).cloned());
    plan.delete.extend(ended);
    let staying: Vec<_> = alive.iter().filter(|p| p.metadata.deletion_timestamp.is_none()).cloned().collect();
    // A pod that ends holds its node: the next one starts when it is gone.
    if alive.is_empty() && wish.run {
        plan.create_on.push(name.to_owned());
    }
    plan.delete.extend(surplus(set, &staying, surge, hash, now));
}

/// All but the oldest go; during a surge an old pod may stay beside the new one until that is available.
fn surplus(set: &DaemonSet, staying: &[Arc<Pod>], surge: bool, hash: &str, now: Timestamp) -> Vec<Arc<Pod>> {
    if !surge {
        return staying.iter().skip(1).cloned().collect();
    }
    let (new, old): (Vec<_>, Vec<_>) = staying.iter().cloned().partition(|p| is_updated(p, hash));
    let min_ready = set.spec.min_ready_seconds.unwrap_or_default();
    let replaced = new.first().is_some_and(|p| pods::is_available(p, min_ready, now));
    let keep_old = usize::from(!replaced);
    old.into_iter().skip(keep_old).chain(new.into_iter().skip(1)).collect()
}

/// Bounds of a rolling update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rolling {
    /// Nodes that may be without an available pod.
    pub unavailable: i32,
    /// Nodes that may have two pods.
    pub surge: i32,
}

impl Rolling {
    /// Those of a daemon set on these nodes.
    pub fn of(set: &DaemonSet, nodes: &[Arc<Node>]) -> Self {
        let wanted = nodes.iter().filter(|n| wish(set, n).run).count() as i32;
        let rolling = set.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let of = |value: Option<&IntOrString>, default: i32| {
            share(value.unwrap_or(&IntOrString::Int(default)), wanted, true)
        };
        let surge = of(rolling.and_then(|r| r.max_surge.as_ref()), 0);
        let unavailable = of(rolling.and_then(|r| r.max_unavailable.as_ref()), 1);
        Rolling { surge, unavailable: if surge == 0 { unavailable.max(1) } else { unavailable } }
    }
}

/// The next step of a rolling update: old pods to delete, or nodes that get a second pod.
pub fn roll(set: &DaemonSet, nodes: &[Arc<Node>], pods: &[Arc<Pod>], hash: &str, now: Timestamp) -> Plan {
    if set.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
        return Plan::default();
    }
    let bounds = Rolling::of(set, nodes);
    let min_ready = set.spec.min_ready_seconds.unwrap_or_default();
    let available =
        |p: &Arc<Pod>| p.metadata.deletion_timestamp.is_none() && pods::is_available(p, min_ready, now);
    let on = by_node(pods);
    let (mut down, mut surging) = (0, 0);
    let (mut sick, mut working) = (Vec::new(), Vec::new());
    for node in nodes.iter().filter(|n| wish(set, n).run) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let here = on.get(&name).map(Vec::as_slice).unwrap_or_default();
        down += i32::from(!here.iter().any(available));
        let old = here.iter().find(|p| !is_updated(p, hash) && p.metadata.deletion_timestamp.is_none());
        let has_new = here.iter().any(|p| is_updated(p, hash));
        surging += i32::from(has_new && old.is_some());
        match old {
            Some(pod) if !has_new && !available(pod) => sick.push((name, pod.clone())),
            Some(pod) if !has_new => working.push((name, pod.clone())),
            _ => {}
        }
    }
    if bounds.surge > 0 {
        let room = usize::try_from(bounds.surge - surging).unwrap_or_default();
        let create_on = sick.into_iter().chain(working).take(room).map(|(name, _)| name).collect();
        return Plan { create_on, ..Plan::default() };
    }
    // Pods that do not work cost no availability.
    let room = usize::try_from(bounds.unavailable - down).unwrap_or_default();
    let delete = sick.into_iter().chain(working.into_iter().take(room)).map(|(_, pod)| pod).collect();
    Plan { delete, ..Plan::default() }
}

/// The template as pods get it: bound to a node, with the daemon's tolerations and labels.
pub fn template(set: &DaemonSet, node: &str, hash: &str) -> PodTemplateSpec {
    let mut template = set.spec.template.clone();
    let spec = template.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(spec));
    bind(spec, node);
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.to_owned());
    let generation = set.metadata.generation.unwrap_or_default();
    labels.insert(GENERATION_LABEL.to_owned(), generation.to_string());
    template
}

fn bind(spec: &mut PodSpec, node: &str) {
    let field = NodeSelectorRequirement {
        key: NODE_NAME_FIELD.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .get_or_insert_with(|| NodeSelector { node_selector_terms: vec![NodeSelectorTerm::default()] });
    for term in &mut required.node_selector_terms {
        term.match_fields = Some(vec![field.clone()]);
    }
}

/// Counts for the status.
pub fn status(
    set: &DaemonSet,
    nodes: &[Arc<Node>],
    pods: &[Arc<Pod>],
    hash: &str,
    now: Timestamp,
) -> DaemonSetStatus {
    let on = by_node(pods);
    let min_ready = set.spec.min_ready_seconds.unwrap_or_default();
    let [mut desired, mut current, mut misplaced, mut ready, mut updated, mut available] = [0; 6];
    for node in nodes {
        let here =
            on.get(node.metadata.name.as_deref().unwrap_or_default()).map(Vec::as_slice).unwrap_or_default();
        let alive: Vec<_> = here.iter().filter(|p| p.metadata.deletion_timestamp.is_none()).collect();
        if !wish(set, node).run {
            misplaced += i32::from(!alive.is_empty());
            continue;
        }
        desired += 1;
        current += i32::from(!alive.is_empty());
        let Some(first) = alive.iter().find(|p| is_updated(p, hash)).or(alive.first()) else { continue };
        ready += i32::from(alive.iter().any(|p| pods::is_ready(p)));
        available += i32::from(alive.iter().any(|p| pods::is_available(p, min_ready, now)));
        updated += i32::from(is_updated(first, hash));
    }
    let some = |n: i32| Some(n).filter(|n| *n != 0);
    DaemonSetStatus {
        desired_number_scheduled: desired,
        current_number_scheduled: current,
        number_misscheduled: misplaced,
        number_ready: ready,
        updated_number_scheduled: some(updated),
        number_available: some(available),
        number_unavailable: some(desired - available),
        observed_generation: set.metadata.generation,
        ..set.status.clone().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    fn set(spec: Value) -> DaemonSet {
        let mut object = json!({ "metadata": { "name": "d", "generation": 1 }, "spec": { "selector": {},
            "template": { "spec": { "containers": [] } } } });
        for (key, value) in spec.as_object().unwrap() {
            object["spec"]["template"]["spec"][key] = value.clone();
        }
        from_value(object).unwrap()
    }

    fn node(name: &str, taint: Option<(&str, &str)>) -> Arc<Node> {
        let taints = taint.map(|(key, effect)| json!([{ "key": key, "effect": effect }]));
        Arc::new(from_value(json!({ "metadata": { "name": name, "labels": { "name": name } }, "spec": { "taints": taints } })).unwrap())
    }

    fn pod(name: &str, node: &str, hash: &str, ready: bool) -> Arc<Pod> {
        let mut pod = (*crate::pods::tests::pod(name, ready, node)).clone();
        pod.metadata.labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.into());
        Arc::new(pod)
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<String> {
        pods.iter().filter_map(|p| p.metadata.name.clone()).collect()
    }

    #[test]
    fn nodes_that_want_the_daemon() {
        let table = [
            (json!({}), None, (true, true)),
            (json!({ "nodeSelector": { "name": "other" } }), None, (false, false)),
            (json!({}), Some(("node.kubernetes.io/unschedulable", "NoSchedule")), (true, true)),
            (json!({}), Some(("mine", "NoSchedule")), (false, true)),
            (json!({}), Some(("mine", "NoExecute")), (false, false)),
            (json!({ "tolerations": [{ "operator": "Exists" }] }), Some(("mine", "NoExecute")), (true, true)),
            (json!({}), Some(("node.kubernetes.io/network-unavailable", "NoSchedule")), (false, true)),
            (
                json!({ "hostNetwork": true }),
                Some(("node.kubernetes.io/network-unavailable", "NoSchedule")),
                (true, true),
            ),
        ];
        for (spec, taint, (run, stay)) in table {
            assert_eq!(wish(&set(spec.clone()), &node("n", taint)), Wish { run, stay }, "{spec} {taint:?}");
        }
    }

    #[test]
    fn missing_surplus_failed_and_misplaced_pods() {
        let now = Timestamp::now();
        let mut failed = (*pod("failed", "b", "h", false)).clone();
        failed.status.as_mut().unwrap().phase = Some("Failed".into());
        let pods = [
            pod("a1", "a", "h", true),
            pod("a2", "a", "h", true),
            Arc::new(failed),
            pod("bad", "c", "h", true),
        ];
        let nodes =
            [node("a", None), node("b", None), node("c", Some(("mine", "NoExecute"))), node("d", None)];
        let plan = manage(&set(json!({})), &nodes, &pods, "h", now);
        assert_eq!(plan.create_on, ["b", "d"]);
        assert_eq!(names(&plan.delete), ["a2", "failed", "bad"]);
        let (mut plan, held) = (plan, BTreeMap::from([("b".to_owned(), ())]));
        assert_eq!(plan.failed_on(), BTreeSet::from(["b".to_owned()]));
        plan.leave_alone(&held);
        assert_eq!((plan.create_on, plan.failed.len()), (vec!["d".to_owned()], 0));
        assert_eq!(names(&plan.delete), ["a2", "bad"]);
    }

    #[test]
    fn an_update_takes_one_node_at_a_time_and_sick_pods_at_once() {
        let now = Timestamp::now();
        let nodes = [node("a", None), node("b", None), node("c", None)];
        let old =
            |ready_b| [pod("a", "a", "old", true), pod("b", "b", "old", ready_b), pod("c", "c", "old", true)];
        assert_eq!(names(&roll(&set(json!({})), &nodes, &old(true), "new", now).delete), ["a"]);
        assert_eq!(names(&roll(&set(json!({})), &nodes, &old(false), "new", now).delete), ["b"]);
        let done = [pod("a", "a", "new", true), pod("b", "b", "new", false), pod("c", "c", "old", true)];
        assert!(roll(&set(json!({})), &nodes, &done, "new", now).delete.is_empty());
        let status = status(&set(json!({})), &nodes, &done, "new", now);
        assert_eq!(
            (status.desired_number_scheduled, status.number_ready, status.updated_number_scheduled),
            (3, 2, Some(2))
        );
    }

    #[test]
    fn a_pod_is_bound_to_its_node_by_affinity() {
        let bound = template(&set(json!({})), "n", "h");
        let pod = Pod { spec: bound.spec, ..Pod::default() };
        assert_eq!(node_of(&pod).as_deref(), Some("n"));
    }
}
