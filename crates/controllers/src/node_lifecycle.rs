//! Nodes that fall silent: their Ready becomes Unknown, they are tainted, their pods become not ready and are evicted when
//! their toleration runs out.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use corten_client::Api;
use corten_client::watcher;
use corten_client::{Change, Informer, Key, Recorder, selector};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::Instant;

use crate::answer::{changed_is_fine, gone_is_fine};
use crate::cluster::Cluster;
use crate::index::Index;
use crate::node_zones::{self, Count, Turn};
use crate::pods;
use crate::shell::Shell;

/// A new node gets longer for its first words.
const STARTUP_GRACE: Duration = Duration::from_secs(60);
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions of a node whose problem is a taint: type, status that is bad, taint.
const PROBLEMS: &[(&str, &str, &str)] = &[
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];

/// When a node last spoke, by our own clock: what it said then, to see whether it said something new.
struct Heard {
    said: (Option<String>, Option<Timestamp>),
    at: Instant,
}

struct Controller {
    cluster: Arc<Cluster>,
    leases: Informer<Lease>,
    recorder: Recorder,
    pods: Index<Pod>,
    heard: Mutex<HashMap<String, Heard>>,
    turns: Mutex<HashMap<String, Turn>>,
}

/// Watches nodes until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), "kube-node-lease");
    let controller = Controller {
        cluster: cluster.clone(),
        leases: Informer::start(leases, watcher::Config::default(), cluster.stop.clone()),
        recorder: cluster.recorder("node-controller"),
        pods: Index::of(&cluster.pods, |pod| Some(Key::new("", pod.spec.as_ref()?.node_name.as_deref()?))),
        heard: Mutex::default(),
        turns: Mutex::default(),
    };
    let leases = controller.leases.clone();
    Shell::open(cluster, controller)
        .wakes(&cluster.nodes, Controller::woken_by_node)
        .wakes(&leases, |_, change| Some(Key::new("", change.object().metadata.name.clone()?)))
        .wakes(&cluster.pods, Controller::woken_by_pod)
        .run(1, Controller::reconcile)
        .await;
}

fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default()
}

fn is_ready(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|c| c.status == "True")
}

fn has_no_execute(node: &Node) -> bool {
    taints(node).iter().any(|t| t.effect == "NoExecute")
}

/// Did we begin to empty the node?
fn is_being_emptied(node: &Node) -> bool {
    taints(node).iter().any(|t| t.effect == "NoExecute" && [NOT_READY, UNREACHABLE].contains(&&*t.key))
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a k8s_openapi::api::core::v1::NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

impl Controller {
    fn woken_by_node(&self, change: &Change<Node>) -> Vec<Key> {
        let node = change.object();
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let turned = match change {
            Change::Added(_) => {
                let message = format!("Node {name} event: Registered Node {name} in Controller");
                self.recorder.normal(&**node, "RegisteredNode", message);
                true
            }
            Change::Deleted(_) => {
                let message = format!("Node {name} event: Removing Node {name} from Controller");
                self.recorder.normal(&**node, "RemovingNode", message);
                true
            }
            Change::Updated { old, new } => is_ready(old) != is_ready(new),
        };
        // Whether pods are evicted depends on all nodes.
        let all = self.cluster.nodes.list();
        let others = all.iter().filter(|_| turned).map(|n| Key::of(&**n));
        others.chain([Key::of(&**node)]).collect()
    }

    fn woken_by_pod(&self, change: &Change<Pod>) -> Option<Key> {
        let node = Key::new("", change.object().spec.as_ref()?.node_name.as_deref()?);
        self.cluster.nodes.get(&node).is_some_and(|n| has_no_execute(&n)).then_some(node)
    }

    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Option<Duration>, kube::Error> {
        let Some(node) = self.cluster.nodes.get(&key) else {
            self.heard.lock().unwrap_or_else(PoisonError::into_inner).remove(&key.name);
            return Ok(None);
        };
        let silent_in = self.silent_in(&key, &node);
        if silent_in.is_zero() && condition(&node, "Ready").is_none_or(|c| c.status != "Unknown") {
            self.mark_unknown(&node).await?;
            return Ok(None);
        }
        let nodes = self.cluster.nodes.list();
        let zones = node_zones::count(nodes.iter().map(|node| (&**node, is_ready(node))));
        let may_empty = !node_zones::all_are_silent(&zones);
        let turn = if may_empty { self.turn(&node, &zones) } else { Err(None) };
        self.taint(&node, turn.is_ok()).await?;
        if condition(&node, "Ready").is_some_and(|c| c.status != "True") {
            self.mark_pods_not_ready(&key.name).await?;
        }
        let eviction = if may_empty { self.evict(&node).await? } else { None };
        let look_again = Some(silent_in).filter(|d| !d.is_zero());
        Ok([look_again, eviction, turn.err().flatten()].into_iter().flatten().min())
    }

    /// May the node be emptied now, if it has to be? Otherwise how long to wait.
    fn turn(&self, node: &Node, zones: &BTreeMap<String, Count>) -> Result<(), Option<Duration>> {
        let silent = condition(node, "Ready").is_some_and(|c| c.status != "True");
        if !silent || is_being_emptied(node) {
            return Ok(());
        }
        let zone = node_zones::zone_of(node);
        let rate = zones.get(&zone).map_or(0.0, |count| count.rate(&self.cluster.config.node_eviction));
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|zone, _| zones.contains_key(zone));
        let now = Instant::now();
        turns.entry(zone).or_insert_with(|| Turn::new(now)).take(rate, now)
    }

    /// How long the node may stay silent from now on.
    fn silent_in(&self, key: &Key, node: &Node) -> Duration {
        let lease = self.leases.get(&Key::new("kube-node-lease", &*key.name));
        let renewed = lease.and_then(|l| l.spec.as_ref().and_then(|s| s.renew_time.as_ref()).map(|t| t.0));
        let heartbeat = condition(node, "Ready").and_then(|c| c.last_heartbeat_time.as_ref()).map(|t| t.0);
        let said = (renewed.map(|t| t.to_string()), heartbeat);
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let last = heard.entry(key.name.clone()).or_insert_with(|| Heard { said: said.clone(), at: now });
        // A node that we told to be Unknown has not spoken by that.
        if last.said != said {
            *last = Heard { said, at: now };
        }
        let usual = self.cluster.config.node_monitor_grace;
        let grace = if heartbeat.is_none() { STARTUP_GRACE.max(usual) } else { usual };
        grace.saturating_sub(last.at.elapsed())
    }

    async fn mark_unknown(&self, node: &Node) -> Result<(), kube::Error> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let never = condition(node, "Ready").is_none();
        let (reason, message) = if never {
            ("NodeStatusNeverUpdated", "Kubelet never posted node status.")
        } else {
            ("NodeStatusUnknown", "Kubelet stopped posting node status.")
        };
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let kinds = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
        let conditions: Vec<_> = kinds
            .iter()
            .map(|kind| json!({ "type": kind, "status": "Unknown", "reason": reason, "message": message, "lastTransitionTime": now }))
            .collect();
        let patch = Patch::Strategic(json!({ "status": { "conditions": conditions } }));
        let api: Api<Node> = Api::all(self.cluster.client.clone());
        gone_is_fine(api.patch_status(name, &PatchParams::default(), &patch).await)?;
        self.recorder.normal(node, "NodeNotReady", format!("Node {name} status is now: NodeNotReady"));
        Ok(())
    }

    /// The taints that follow from conditions and from the cordon; those of others stay.
    async fn taint(&self, node: &Node, may_empty: bool) -> Result<(), kube::Error> {
        let wanted = wanted_taints(node, may_empty, Timestamp::now());
        if wanted == taints(node) {
            return Ok(());
        }
        let mut tainted = node.clone();
        tainted.spec.get_or_insert_default().taints = Some(wanted).filter(|t| !t.is_empty());
        let api: Api<Node> = Api::all(self.cluster.client.clone());
        gone_is_fine(
            api.replace(node.metadata.name.as_deref().unwrap_or_default(), &PostParams::default(), &tainted)
                .await,
        )
    }

    async fn mark_pods_not_ready(&self, node: &str) -> Result<(), kube::Error> {
        for pod in self.pods_on(node).iter().filter(|p| pods::is_ready(p)) {
            let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let condition = json!({ "type": "Ready", "status": "False", "lastTransitionTime": now });
            let patch = Patch::Strategic(json!({ "status": { "conditions": [condition] } }));
            let api = self.pod_api(pod);
            gone_is_fine(
                api.patch_status(
                    pod.metadata.name.as_deref().unwrap_or_default(),
                    &PatchParams::default(),
                    &patch,
                )
                .await,
            )?;
            self.recorder.warning(&**pod, "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }

    fn pods_on(&self, node: &str) -> Vec<Arc<Pod>> {
        self.pods.get(&Key::new("", node))
    }

    fn pod_api(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.cluster.client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default())
    }

    /// Says why the pod goes: those who count failures (jobs) look at it.
    async fn mark_disrupted(&self, pod: &Pod) -> Result<(), kube::Error> {
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = json!({ "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": now });
        let patch = Patch::Strategic(json!({ "status": { "conditions": [condition] } }));
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        changed_is_fine(self.pod_api(pod).patch_status(name, &PatchParams::default(), &patch).await)
    }

    /// Deletes pods whose toleration of the node's taints ran out; says when the next one does.
    async fn evict(&self, node: &Node) -> Result<Option<Duration>, kube::Error> {
        if !has_no_execute(node) {
            return Ok(None);
        }
        let (now, mut next) = (Timestamp::now(), None);
        let name = node.metadata.name.clone().unwrap_or_default();
        for pod in self.pods_on(&name).iter().filter(|p| p.metadata.deletion_timestamp.is_none()) {
            let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
            let Some(left) = tolerated_for(taints(node), tolerations, now) else { continue };
            if !left.is_zero() {
                next = [next, Some(left)].into_iter().flatten().min();
                continue;
            }
            let (namespace, pod_name) = (
                pod.metadata.namespace.as_deref().unwrap_or_default(),
                pod.metadata.name.as_deref().unwrap_or_default(),
            );
            self.recorder.normal(
                &**pod,
                "TaintManagerEviction",
                format!("Marking for deletion Pod {namespace}/{pod_name}"),
            );
            self.mark_disrupted(pod).await?;
            pods::delete(&self.cluster.client, pod).await?;
        }
        Ok(next)
    }
}

fn wanted_taints(node: &Node, may_empty: bool, now: Timestamp) -> Vec<Taint> {
    let cordoned = node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true);
    let bad = PROBLEMS
        .iter()
        .filter(|(kind, status, _)| condition(node, kind).is_some_and(|c| c.status == *status));
    let mut wanted: Vec<(&str, &str)> = bad.map(|(_, _, key)| (*key, "NoSchedule")).collect();
    if cordoned {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let gone = wanted.iter().map(|(key, _)| *key).find(|key| [NOT_READY, UNREACHABLE].contains(key));
    wanted.extend(gone.filter(|_| may_empty).map(|key| (key, "NoExecute")));
    let ours = |t: &Taint| t.key == UNSCHEDULABLE || PROBLEMS.iter().any(|(_, _, key)| t.key == *key);
    let is_wanted = |t: &Taint| wanted.contains(&(t.key.as_str(), t.effect.as_str()));
    let mut out: Vec<Taint> = taints(node).iter().filter(|t| !ours(t) || is_wanted(t)).cloned().collect();
    for (key, effect) in wanted {
        if !out.iter().any(|t| t.key == key && t.effect == effect) {
            let time_added = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
            out.push(Taint { key: key.to_owned(), effect: effect.to_owned(), value: None, time_added });
        }
    }
    out
}

/// How long a pod with these tolerations may stay on a node with these taints; `None`: for ever.
fn tolerated_for(taints: &[Taint], tolerations: &[Toleration], now: Timestamp) -> Option<Duration> {
    let mut least: Option<Duration> = None;
    for taint in taints.iter().filter(|t| t.effect == "NoExecute") {
        let accepting: Vec<&Toleration> =
            tolerations.iter().filter(|t| selector::tolerates(t, taint)).collect();
        if accepting.is_empty() {
            return Some(Duration::ZERO);
        }
        let given = accepting.iter().filter_map(|t| t.toleration_seconds).min();
        // The largest number is for ever, as upstream has it.
        let Some(seconds) = given.filter(|seconds| *seconds != i64::MAX) else { continue };
        let added = taint.time_added.as_ref().map_or(now, |t| t.0);
        let left = added.as_second().saturating_add(seconds).saturating_sub(now.as_second());
        let left = Duration::from_secs(u64::try_from(left).unwrap_or_default());
        least = Some(least.map_or(left, |l| l.min(left)));
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value};

    fn node(ready: &str, cordoned: bool, taints: Value) -> Node {
        let conditions = json!([{ "type": "Ready", "status": ready }]);
        from_value(
            json!({ "metadata": { "name": "n" }, "spec": { "unschedulable": cordoned, "taints": taints },
            "status": { "conditions": conditions } }),
        )
        .unwrap()
    }

    #[test]
    fn taints_follow_conditions_and_leave_those_of_others() {
        let keys = |node: &Node| {
            wanted_taints(node, true, Timestamp::UNIX_EPOCH)
                .iter()
                .map(|t| format!("{}:{}", t.key, t.effect))
                .collect::<Vec<_>>()
        };
        let mine =
            json!([{ "key": "mine", "effect": "NoSchedule" }, { "key": NOT_READY, "effect": "NoExecute" }]);
        assert_eq!(keys(&node("True", false, mine.clone())), ["mine:NoSchedule"]);
        assert_eq!(keys(&node("True", true, json!([]))), ["node.kubernetes.io/unschedulable:NoSchedule"]);
        let silent = wanted_taints(&node("Unknown", false, json!([])), false, Timestamp::UNIX_EPOCH);
        assert_eq!((silent.len(), silent[0].effect.as_str()), (1, "NoSchedule"), "nobody is evicted");
        let unknown = keys(&node("Unknown", false, mine));
        assert_eq!(
            unknown,
            [
                "mine:NoSchedule",
                "node.kubernetes.io/unreachable:NoSchedule",
                "node.kubernetes.io/unreachable:NoExecute"
            ]
        );
    }

    #[test]
    fn tolerations_run_out() {
        let taint: Vec<Taint> = from_value(
            json!([{ "key": UNREACHABLE, "effect": "NoExecute", "timeAdded": "1970-01-01T00:01:00Z" }]),
        )
        .unwrap();
        let tolerate = |seconds: Value| -> Vec<Toleration> {
            from_value(json!([{ "key": UNREACHABLE, "operator": "Exists", "tolerationSeconds": seconds }]))
                .unwrap()
        };
        let at = |s| Timestamp::from_second(s).unwrap();
        assert_eq!(tolerated_for(&taint, &[], at(60)), Some(Duration::ZERO));
        assert_eq!(tolerated_for(&taint, &tolerate(json!(300)), at(100)), Some(Duration::from_secs(260)));
        assert_eq!(tolerated_for(&taint, &tolerate(json!(300)), at(400)), Some(Duration::ZERO));
        assert_eq!(tolerated_for(&taint, &tolerate(Value::Null), at(400)), None);
        assert_eq!(tolerated_for(&taint, &tolerate(json!(i64::MAX)), at(400)), None);
        assert!(
            tolerated_for(&taint, &tolerate(json!(i64::MAX - 1)), at(400))
                .is_some_and(|left| !left.is_zero())
        );
        assert_eq!(tolerated_for(&taint, &tolerate(json!(-1)), at(400)), Some(Duration::ZERO));
        assert_eq!(tolerated_for(&[], &[], at(400)), None);
    }
}
