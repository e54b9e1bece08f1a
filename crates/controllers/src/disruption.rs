//! Disruption budgets: how many of the pods that a budget protects may be evicted now. The eviction itself is the API server's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use corten_client::Api;
use corten_client::{Change, Key, Recorder, selector};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;

use crate::answer::gone_is_fine;
use crate::claim::controller_of;
use crate::cluster::Cluster;
use crate::pods;
use crate::shell::Shell;

/// An evicted pod that is still there after this time will not go.
const DELETION_TIMEOUT: i64 = 120;
const ALLOWED: &str = "DisruptionAllowed";

struct Controller {
    cluster: Arc<Cluster>,
    recorder: Recorder,
}

/// Keeps the status of budgets until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    let recorder = cluster.recorder("controllermanager");
    Shell::open(cluster, Controller { cluster: cluster.clone(), recorder })
        .each(&cluster.budgets)
        .wakes(&cluster.pods, Controller::woken_by_pod)
        .wakes(&cluster.replica_sets, |me, c| me.all_of(c.object().metadata.namespace.as_deref()))
        .wakes(&cluster.stateful_sets, |me, c| me.all_of(c.object().metadata.namespace.as_deref()))
        .wakes(&cluster.replication_controllers, |me, c| me.all_of(c.object().metadata.namespace.as_deref()))
        .wakes(&cluster.deployments, |me, c| me.all_of(c.object().metadata.namespace.as_deref()))
        .run(cluster.config.workers, Controller::reconcile)
        .await;
}

/// What is known of a budget's pods.
struct Observed<'a> {
    budget: &'a PodDisruptionBudget,
    pods: &'a [Arc<Pod>],
    /// The replicas that the pods' controllers want, together.
    scale: i32,
    now: Timestamp,
}

fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let by = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
    by.is_some_and(|by| selector::matches(by, pod.metadata.labels.as_ref()))
}

/// A number, or a percentage of `of`, rounded up.
fn scaled(amount: &IntOrString, of: i32) -> i32 {
    match amount {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%').and_then(|t| t.parse().ok()).unwrap_or_default();
            i32::try_from((percent * i64::from(of) + 99) / 100).unwrap_or(i32::MAX)
        }
    }
}

/// How many pods there should be, and how many of them healthy.
fn expected(seen: &Observed<'_>) -> (i32, i32) {
    let count = i32::try_from(seen.pods.len()).unwrap_or(i32::MAX);
    let Some(spec) = &seen.budget.spec else { return (0, 0) };
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => (seen.scale, (seen.scale - scaled(most, seen.scale)).max(0)),
        (None, Some(IntOrString::Int(least))) => (count, *least),
        (None, Some(least)) => (seen.scale, scaled(least, seen.scale)),
        (None, None) => (count, 0),
    }
}

/// The status of a budget, when to look again, and the pods that were evicted but did not go.
fn plan(seen: &Observed<'_>) -> (PodDisruptionBudgetStatus, Option<Duration>, Vec<Arc<Pod>>) {
    let before = seen.budget.status.clone().unwrap_or_default();
    let (mut going, mut again, mut stayed) = (BTreeMap::new(), None::<Duration>, Vec::new());
    for (name, since) in before.disrupted_pods.unwrap_or_default() {
        let pod = seen.pods.iter().find(|p| p.metadata.name.as_ref() == Some(&name));
        let Some(pod) = pod.filter(|p| p.metadata.deletion_timestamp.is_none()) else { continue };
        let left = since.0.as_second() + DELETION_TIMEOUT - seen.now.as_second();
        match u64::try_from(left) {
            Ok(left) if left > 0 => {
                let left = Duration::from_secs(left);
                again = Some(again.map_or(left, |a| a.min(left)));
                going.insert(name, since);
            }
            _ => stayed.push(pod.clone()),
        }
    }
    let is_healthy = |pod: &&Arc<Pod>| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        pods::is_ready(pod) && pod.metadata.deletion_timestamp.is_none() && !going.contains_key(name)
    };
    let healthy = i32::try_from(seen.pods.iter().filter(is_healthy).count()).unwrap_or(i32::MAX);
    let (count, desired) = expected(seen);
    let allowed = if count <= 0 { 0 } else { (healthy - desired).max(0) };
    let status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        expected_pods: Some(count),
        disruptions_allowed: Some(allowed),
        disrupted_pods: Some(going).filter(|g| !g.is_empty()),
        observed_generation: seen.budget.metadata.generation,
        conditions: Some(conditions(seen, before.conditions.unwrap_or_default(), allowed > 0)),
    };
    (status, again, stayed)
}

fn conditions(seen: &Observed<'_>, mut all: Vec<Condition>, allowed: bool) -> Vec<Condition> {
    let (status, reason) = if allowed { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let before = all.iter().position(|c| c.type_ == ALLOWED).map(|index| all.remove(index));
    let since = before.filter(|c| c.status == status).map(|c| c.last_transition_time);
    all.push(Condition {
        type_: ALLOWED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: String::new(),
        last_transition_time: since.unwrap_or(Time(seen.now)),
        observed_generation: seen.budget.metadata.generation,
    });
    all
}

impl Controller {
    fn all_of(&self, namespace: Option<&str>) -> Vec<Key> {
        let budgets = self.cluster.budgets.list_namespace(namespace.unwrap_or_default());
        budgets.iter().map(|budget| Key::of(&**budget)).collect()
    }

    fn woken_by_pod(&self, change: &Change<Pod>) -> Vec<Key> {
        let (now, before) = match change {
            Change::Updated { old, new } => (new, Some(old)),
            Change::Added(pod) | Change::Deleted(pod) => (pod, None),
        };
        let namespace = now.metadata.namespace.as_deref().unwrap_or_default();
        let budgets = self.cluster.budgets.list_namespace(namespace);
        let concerned =
            |b: &&Arc<PodDisruptionBudget>| selects(b, now) || before.is_some_and(|old| selects(b, old));
        budgets.iter().filter(concerned).map(|budget| Key::of(&**budget)).collect()
    }

    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Option<Duration>, kube::Error> {
        let Some(budget) = self.cluster.budgets.get(&key) else { return Ok(None) };
        let mut pods = self.cluster.pods.list_namespace(&key.namespace);
        pods.retain(|pod| selects(&budget, pod));
        if pods.is_empty() {
            self.recorder.normal(&*budget, "NoPods", "No matching pods found");
        }
        let scale = self.scale(&pods);
        let seen = Observed { budget: &budget, pods: &pods, scale, now: Timestamp::now() };
        let (status, again, stayed) = plan(&seen);
        for pod in stayed {
            let message = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
            self.recorder.warning(&*pod, "NotDeleted", message);
        }
        if budget.status.as_ref() == Some(&status) {
            return Ok(again);
        }
        // With its version: an eviction may have been counted meanwhile.
        let updated = PodDisruptionBudget { status: Some(status), ..(*budget).clone() };
        let api: Api<PodDisruptionBudget> = Api::namespaced(self.cluster.client.clone(), &key.namespace);
        gone_is_fine(api.replace_status(&key.name, &PostParams::default(), &updated).await)?;
        Ok(again)
    }

    /// Each controller of the pods counts once; pods without one do not count.
    fn scale(&self, pods: &[Arc<Pod>]) -> i32 {
        let owners: BTreeMap<String, i32> = pods
            .iter()
            .filter_map(|pod| {
                let owner = controller_of(&pod.metadata)?;
                let key = Key::new(pod.metadata.namespace.clone()?, &*owner.name);
                self.replicas(&owner.kind, &key)
            })
            .collect();
        owners.values().fold(0, |sum, one| sum.saturating_add(*one))
    }

    /// The UID of what decides on the number of pods, and that number.
    fn replicas(&self, kind: &str, key: &Key) -> Option<(String, i32)> {
        match kind {
            "ReplicaSet" => {
                let set = self.cluster.replica_sets.get(key)?;
                match controller_of(&set.metadata).filter(|o| o.kind == "Deployment") {
                    Some(owner) => self.replicas("Deployment", &Key::new(&*key.namespace, &*owner.name)),
                    None => Some((set.metadata.uid.clone()?, set.spec.replicas.unwrap_or(1))),
                }
            }
            "Deployment" => {
                let deployment = self.cluster.deployments.get(key)?;
                Some((deployment.metadata.uid.clone()?, deployment.spec.replicas.unwrap_or(1)))
            }
            "StatefulSet" => {
                let set = self.cluster.stateful_sets.get(key)?;
                Some((set.metadata.uid.clone()?, set.spec.replicas.unwrap_or(1)))
            }
            "ReplicationController" => {
                let controller = self.cluster.replication_controllers.get(key)?;
                let replicas = controller.spec.as_ref().and_then(|s| s.replicas);
                Some((controller.metadata.uid.clone()?, replicas.unwrap_or(1)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::pod;
    use serde_json::{Value, from_value, json};

    fn budget(spec: Value, disrupted: Value) -> PodDisruptionBudget {
        from_value(json!({ "metadata": { "generation": 1 }, "spec": spec,
            "status": { "disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0,
                "disruptedPods": disrupted } }))
        .unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_700 + seconds).unwrap()
    }

    #[test]
    fn what_may_be_evicted() {
        let pods = [pod("a", true, "n"), pod("b", true, "n"), pod("c", false, "n")];
        let table = [
            (json!({ "minAvailable": 1 }), (1, 3, 1)),
            (json!({ "minAvailable": 2 }), (0, 3, 2)),
            (json!({ "minAvailable": "50%" }), (0, 4, 2)),
            (json!({ "minAvailable": "25%" }), (1, 4, 1)),
            (json!({ "maxUnavailable": 1 }), (0, 4, 3)),
            (json!({ "maxUnavailable": "75%" }), (1, 4, 1)),
        ];
        for (spec, expected) in table {
            let budget = budget(spec.clone(), json!({}));
            let (status, ..) = plan(&Observed { budget: &budget, pods: &pods, scale: 4, now: at(0) });
            let told = (status.disruptions_allowed, status.expected_pods, status.desired_healthy);
            assert_eq!(told, (Some(expected.0), Some(expected.1), Some(expected.2)), "{spec}");
        }
    }

    #[test]
    fn evicted_pods_count_as_gone_for_a_while() {
        let pods = [pod("a", true, "n"), pod("b", true, "n")];
        let since = json!({ "a": at(0).to_string(), "gone": at(0).to_string() });
        let budget = budget(json!({ "minAvailable": 1 }), since);
        let look = |seconds| {
            let (status, again, stayed) =
                plan(&Observed { budget: &budget, pods: &pods, scale: 2, now: at(seconds) });
            (status.disruptions_allowed, status.disrupted_pods.map(|d| d.len()), again, stayed.len())
        };
        assert_eq!(look(20), (Some(0), Some(1), Some(Duration::from_secs(100)), 0));
        assert_eq!(look(120), (Some(1), None, None, 1));
    }
}
