//! Which pods of a stateful set to make or to delete next. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;

use super::REVISION;
use crate::pods::{self, BURST};

/// Why a pod is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It failed, or ended, and comes again.
    Ended,
    /// There are fewer replicas now.
    Condemned,
    /// It is of an old revision.
    Outdated,
}

/// What to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// Ordinals of pods to make, and whether of the present template (else of the one before).
    pub create: Vec<(i32, bool)>,
    /// Pods to delete.
    pub delete: Vec<(Arc<Pod>, Why)>,
    /// When a ready pod becomes available.
    pub again: Option<Duration>,
}

/// The names of the two revisions that count.
#[derive(Clone, Copy, Debug)]
pub struct Revisions<'a> {
    /// The one that all pods were of last.
    pub current: &'a str,
    /// The one of the present template.
    pub update: &'a str,
}

/// The ordinal of a pod of this set.
pub fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let rest = pod.metadata.name.as_deref()?.strip_prefix(set.metadata.name.as_deref()?)?;
    rest.strip_prefix('-')?.parse().ok().filter(|number| *number >= 0)
}

fn first(set: &StatefulSet) -> i32 {
    set.spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or_default()
}

/// The ordinals that the set should have.
pub fn slots(set: &StatefulSet) -> std::ops::Range<i32> {
    let start = first(set);
    start..start.saturating_add(set.spec.replicas.unwrap_or(1).max(0))
}

fn revision(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|l| l.get(REVISION)).map(String::as_str).unwrap_or_default()
}

fn ends(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn is_healthy(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod) && !ends(pod)
}

struct Planner<'a> {
    set: &'a StatefulSet,
    now: Timestamp,
    /// One step at a time?
    ordered: bool,
    plan: Plan,
}

/// Says whether the rest has to wait.
type Wait = bool;

/// Plans the next steps; `owned` are the set's pods.
pub fn plan(set: &StatefulSet, owned: &[Arc<Pod>], revisions: Revisions<'_>, now: Timestamp) -> Plan {
    let ordered = set.spec.pod_management_policy.as_deref() != Some("Parallel");
    let mut planner = Planner { set, now, ordered, plan: Plan::default() };
    let by_ordinal: BTreeMap<i32, &Arc<Pod>> =
        owned.iter().filter_map(|pod| Some((ordinal(set, pod)?, pod))).collect();
    let waits = planner.fill(&by_ordinal, revisions) || planner.condemn(&by_ordinal);
    if !waits {
        planner.roll(&by_ordinal, revisions);
    }
    planner.plan
}

impl Planner<'_> {
    fn is_available(&mut self, pod: &Pod) -> bool {
        let seconds = self.set.spec.min_ready_seconds.unwrap_or_default();
        let left = pods::until_available(pod, seconds, self.now);
        if let Some(left) = left.filter(|left| !left.is_zero()) {
            self.plan.again = Some(self.plan.again.map_or(left, |again| again.min(left)));
        }
        is_healthy(pod) && left == Some(Duration::ZERO)
    }

    /// Every slot gets its pod; in order, each when the one before is available.
    fn fill(&mut self, by_ordinal: &BTreeMap<i32, &Arc<Pod>>, revisions: Revisions<'_>) -> Wait {
        for slot in slots(self.set) {
            let waits = match by_ordinal.get(&slot) {
                None if self.plan.create.len() < BURST => {
                    self.plan.create.push((slot, self.is_new(slot, revisions)));
                    true
                }
                None => return true,
                Some(pod) if matches!(pods::phase(pod), "Failed" | "Succeeded") && !ends(pod) => {
                    self.plan.delete.push(((*pod).clone(), Why::Ended));
                    true
                }
                Some(pod) => !self.is_available(pod),
            };
            if waits && self.ordered {
                return true;
            }
        }
        false
    }

    /// Is the pod of this slot of the present template? Below the partition it is of the one before; where no partition is given,
    /// as many as are left of that one are of it still. A partition of 0 makes all new: a template that never became ready must
    /// not come back.
    fn is_new(&self, slot: i32, revisions: Revisions<'_>) -> bool {
        let strategy = self.set.spec.update_strategy.as_ref();
        let rolls = strategy.and_then(|s| s.type_.as_deref()) != Some("OnDelete");
        let partition = strategy.and_then(|s| s.rolling_update.as_ref()?.partition);
        let of_current = self.set.status.as_ref().and_then(|s| s.current_replicas).unwrap_or_default();
        revisions.current == revisions.update
            || !rolls
            || slot >= first(self.set).saturating_add(partition.unwrap_or(of_current))
    }

    /// Pods beyond the slots go, the last one first.
    fn condemn(&mut self, by_ordinal: &BTreeMap<i32, &Arc<Pod>>) -> Wait {
        let slots = slots(self.set);
        let beyond: Vec<_> = by_ordinal.iter().filter(|(n, _)| !slots.contains(n)).map(|(_, p)| *p).collect();
        let first_sick = by_ordinal.values().find(|pod| !is_healthy(pod)).map(|pod| pod.metadata.uid.clone());
        for pod in beyond.into_iter().rev() {
            let waits_for_other = !is_healthy(pod) && first_sick.as_ref() != Some(&pod.metadata.uid);
            let waits = self.ordered && waits_for_other;
            if !ends(pod) && !waits {
                self.plan.delete.push((pod.clone(), Why::Condemned));
            }
            if self.ordered {
                return true;
            }
        }
        false
    }

    /// Old pods go from the last one on, each when all after it are available again.
    fn roll(&mut self, by_ordinal: &BTreeMap<i32, &Arc<Pod>>, revisions: Revisions<'_>) {
        let strategy = self.set.spec.update_strategy.as_ref();
        if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") || !self.plan.create.is_empty() {
            return;
        }
        let partition = strategy.and_then(|s| s.rolling_update.as_ref()?.partition).unwrap_or_default();
        let slots = slots(self.set);
        let most = most_unavailable(self.set);
        let in_slots: Vec<_> = slots.clone().filter_map(|slot| by_ordinal.get(&slot)).collect();
        let mut unavailable = in_slots.iter().filter(|pod| !self.is_available(pod)).count();
        for slot in (first(self.set).saturating_add(partition)..slots.end).rev() {
            let Some(pod) = by_ordinal.get(&slot) else { continue };
            if unavailable >= most && self.is_available(pod) && revision(pod) != revisions.update {
                return;
            }
            if revision(pod) != revisions.update && !ends(pod) {
                unavailable += usize::from(self.is_available(pod));
                self.plan.delete.push(((*pod).clone(), Why::Outdated));
            }
        }
    }
}

fn most_unavailable(set: &StatefulSet) -> usize {
    let given =
        set.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref()?.max_unavailable.clone());
    let replicas = usize::try_from(set.spec.replicas.unwrap_or(1)).unwrap_or_default();
    let most = match given {
        Some(IntOrString::Int(number)) => usize::try_from(number).unwrap_or_default(),
        Some(IntOrString::String(text)) => {
            let percent = text.strip_suffix('%').and_then(|t| t.parse::<usize>().ok()).unwrap_or_default();
            replicas.saturating_mul(percent).div_ceil(100)
        }
        None => 1,
    };
    most.max(1)
}

/// The status that the pods make.
pub fn status(
    set: &StatefulSet,
    owned: &[Arc<Pod>],
    revisions: Revisions<'_>,
    now: Timestamp,
) -> StatefulSetStatus {
    let seconds = set.spec.min_ready_seconds.unwrap_or_default();
    let count = |holds: &dyn Fn(&Pod) -> bool| {
        i32::try_from(owned.iter().filter(|pod| holds(pod)).count()).unwrap_or(i32::MAX)
    };
    let ready = count(&|pod| pods::phase(pod) == "Running" && pods::is_ready(pod));
    let updated = count(&|pod| !ends(pod) && revision(pod) == revisions.update);
    let before = set.status.clone().unwrap_or_default();
    let mut status = StatefulSetStatus {
        replicas: count(&|_| true),
        ready_replicas: Some(ready),
        available_replicas: Some(count(&|pod| {
            pods::phase(pod) == "Running" && pods::is_available(pod, seconds, now)
        })),
        current_replicas: Some(count(&|pod| !ends(pod) && revision(pod) == revisions.current)),
        updated_replicas: Some(updated),
        current_revision: Some(revisions.current.to_owned()),
        update_revision: Some(revisions.update.to_owned()),
        observed_generation: set.metadata.generation,
        collision_count: Some(before.collision_count.unwrap_or_default()),
        conditions: before.conditions,
    };
    let rolls = set.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("OnDelete");
    if rolls && updated == status.replicas && ready == status.replicas {
        status.current_revision = status.update_revision.clone();
        status.current_replicas = status.updated_replicas;
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    fn set(spec: Value) -> StatefulSet {
        let mut whole = json!({ "replicas": 3, "selector": {}, "serviceName": "web", "template": {} });
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        from_value(json!({ "metadata": { "name": "web" }, "spec": whole })).unwrap()
    }

    /// `state`: r(eady), u(nready), f(ailed), t(erminating).
    fn pod(number: i32, revision: &str, state: char) -> Arc<Pod> {
        let ready = if matches!(state, 'r' | 't') { "True" } else { "False" };
        let phase = if state == 'f' { "Failed" } else { "Running" };
        let ends = (state == 't').then_some("2026-01-01T00:00:00Z");
        Arc::new(
            from_value(json!({
                "metadata": { "name": format!("web-{number}"), "uid": number.to_string(),
                    "labels": { REVISION: revision }, "deletionTimestamp": ends },
                "status": { "phase": phase, "conditions": [{ "type": "Ready", "status": ready,
                    "lastTransitionTime": "2026-01-01T00:00:00Z" }] },
            }))
            .unwrap(),
        )
    }

    fn now() -> Timestamp {
        "2026-01-01T00:01:00Z".parse().unwrap()
    }

    const BOTH: Revisions<'_> = Revisions { current: "old", update: "new" };

    /// What is created and deleted, for pods given as states of revision `new` (upper case: `old`).
    fn told(spec: Value, states: &str) -> (Vec<i32>, Vec<i32>) {
        let set = set(spec);
        let pods: Vec<_> = states
            .chars()
            .enumerate()
            .filter(|(_, state)| *state != '-')
            .map(|(number, state)| {
                let revision = if state.is_ascii_uppercase() { "old" } else { "new" };
                pod(i32::try_from(number).unwrap(), revision, state.to_ascii_lowercase())
            })
            .collect();
        let plan = plan(&set, &pods, BOTH, now());
        let deleted = plan.delete.iter().map(|(pod, _)| ordinal(&set, pod).unwrap()).collect();
        (plan.create.iter().map(|(number, _)| *number).collect(), deleted)
    }

    #[test]
    fn a_pod_that_comes_again_is_of_the_old_template_only_below_the_partition() {
        let rolling = |partition: Value| json!({ "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": partition } });
        let table = [
            (rolling(json!({ "partition": 0 })), true),
            (rolling(json!({ "partition": 1 })), false),
            (rolling(Value::Null), false),
            (json!({ "updateStrategy": { "type": "OnDelete" } }), true),
        ];
        for (spec, new) in table {
            let mut set = set(spec.clone());
            set.status =
                Some(StatefulSetStatus { current_replicas: Some(2), ..StatefulSetStatus::default() });
            let pods = [pod(1, "old", 'r'), pod(2, "new", 'r')];
            assert_eq!(plan(&set, &pods, BOTH, now()).create, [(0, new)], "{spec}");
        }
    }

    #[test]
    fn one_step_after_the_other() {
        let parallel = || json!({ "podManagementPolicy": "Parallel" });
        let table: Vec<(Value, &str, Vec<i32>, Vec<i32>)> = vec![
            (json!({}), "", vec![0], vec![]),
            (json!({}), "u", vec![], vec![]),
            (json!({}), "r", vec![1], vec![]),
            (json!({}), "rf", vec![], vec![1]),
            (json!({}), "r-r", vec![1], vec![]),
            (json!({}), "rrrrr", vec![], vec![4]),
            (json!({}), "rrrrt", vec![], vec![]),
            (json!({}), "rurrr", vec![], vec![]),
            (json!({ "minReadySeconds": 600 }), "r", vec![], vec![]),
            (parallel(), "", vec![0, 1, 2], vec![]),
            (parallel(), "u", vec![1, 2], vec![]),
            (parallel(), "rrrrr", vec![], vec![4, 3]),
            (json!({ "ordinals": { "start": 1 } }), "", vec![1], vec![]),
        ];
        for (spec, states, create, delete) in table {
            assert_eq!(told(spec.clone(), states), (create, delete), "{spec} {states}");
        }
    }

    #[test]
    fn old_pods_are_replaced_from_the_last_on() {
        let partition = json!({ "updateStrategy": { "rollingUpdate": { "partition": 2 } } });
        let two = json!({ "updateStrategy": { "rollingUpdate": { "maxUnavailable": 2 } } });
        let table: Vec<(Value, &str, Vec<i32>)> = vec![
            (json!({}), "RRR", vec![2]),
            (json!({}), "RRr", vec![1]),
            (json!({}), "RRu", vec![]),
            (json!({}), "rrr", vec![]),
            (json!({ "updateStrategy": { "type": "OnDelete" } }), "RRR", vec![]),
            (partition.clone(), "RRR", vec![2]),
            (partition, "RRr", vec![]),
            (two, "RRR", vec![2, 1]),
        ];
        for (spec, states, delete) in table {
            assert_eq!(told(spec.clone(), states).1, delete, "{spec} {states}");
        }
    }

    #[test]
    fn pods_below_the_partition_come_again_as_they_were() {
        let set = set(json!({ "updateStrategy": { "rollingUpdate": { "partition": 2 } },
            "podManagementPolicy": "Parallel" }));
        assert_eq!(plan(&set, &[], BOTH, now()).create, [(0, false), (1, false), (2, true)]);
    }

    #[test]
    fn the_status_counts_and_ends_a_rollout() {
        let set = set(json!({}));
        let half = status(&set, &[pod(0, "old", 'r'), pod(1, "new", 'u'), pod(2, "new", 't')], BOTH, now());
        assert_eq!(
            (half.replicas, half.ready_replicas, half.current_replicas, half.updated_replicas),
            (3, Some(2), Some(1), Some(1))
        );
        assert_eq!(half.current_revision.as_deref(), Some("old"));
        let whole = status(&set, &[pod(0, "new", 'r'), pod(1, "new", 'r')], BOTH, now());
        assert_eq!((whole.current_revision.as_deref(), whole.current_replicas), (Some("new"), Some(2)));
    }
}
