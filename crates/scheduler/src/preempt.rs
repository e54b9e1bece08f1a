//! Preemption: which less important pods must go so that a pod fits, and on which node that hurts least.

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::jiff::Timestamp;

use crate::cycle::{Cycle, Misfit};
use crate::pod::PodInfo;
use crate::selector::label_selector_matches;
use crate::snapshot::Snapshot;

/// At least so many nodes are looked at, a tenth of all in large clusters (upstream's candidate limits).
const MIN_CANDIDATES: usize = 100;

/// The node to make room on, and who has to go.
#[derive(Debug)]
pub struct Plan {
    /// Node.
    pub node: String,
    /// Pods to evict.
    pub victims: Vec<Arc<PodInfo>>,
}

struct Candidate {
    plan: Plan,
    broken_budgets: usize,
}

/// Finds the node where evicting pods of lower priority lets the pod in, or says why there is none, in upstream's words.
pub fn plan(
    pod: &PodInfo,
    snapshot: &Snapshot,
    misfit: &Misfit,
    budgets: &[Arc<PodDisruptionBudget>],
) -> Result<Plan, String> {
    if pod.spec().and_then(|s| s.preemption_policy.as_deref()) == Some("Never") {
        return Err("not eligible due to preemptionPolicy=Never.".to_owned());
    }
    if is_room_being_made(pod, snapshot, misfit) {
        return Err("not eligible due to a terminating pod on the nominated node.".to_owned());
    }
    let limit = MIN_CANDIDATES.max(misfit.nodes / 10);
    // Pods are taken away from it and put back, node by node.
    let mut scratch = snapshot.clone();
    let candidates: Vec<Candidate> = misfit
        .preemptible
        .iter()
        .filter_map(|node| candidate(pod, &mut scratch, node, budgets))
        .take(limit)
        .collect();
    let best = candidates.into_iter().min_by_key(cost);
    best.map(|c| c.plan).ok_or_else(|| no_candidate(misfit))
}

/// Are those that were evicted for this pod still on their way out? Then nobody else has to go for it.
fn is_room_being_made(pod: &PodInfo, snapshot: &Snapshot, misfit: &Misfit) -> bool {
    let nominated = pod.pod.status.as_ref().and_then(|s| s.nominated_node_name.as_ref());
    let Some(node) = nominated.filter(|name| misfit.preemptible.contains(name)) else { return false };
    let pods = snapshot.node(node).into_iter().flat_map(|node| node.pods.values());
    pods.into_iter().any(|other| other.priority < pod.priority && is_evicted(other))
}

/// Is it going because of us?
fn is_evicted(pod: &PodInfo) -> bool {
    let conditions = pod.pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    pod.is_terminating()
        && conditions.into_iter().any(|c| {
            c.type_ == "DisruptionTarget"
                && c.status == "True"
                && c.reason.as_deref() == Some("PreemptionByScheduler")
        })
}

fn no_candidate(misfit: &Misfit) -> String {
    let victimless = misfit.preemptible.len();
    let helpless = misfit.nodes - victimless;
    let mut parts = Vec::new();
    if victimless > 0 {
        parts.push(format!("{victimless} No preemption victims found for incoming pod"));
    }
    if helpless > 0 {
        parts.push(format!("{helpless} Preemption is not helpful for scheduling"));
    }
    parts.sort();
    format!("0/{} nodes are available: {}.", misfit.nodes, parts.join(", "))
}

/// Fewest broken budgets, then the least important victims, then the fewest; the name decides the rest.
fn cost(candidate: &Candidate) -> (usize, i32, i64, usize, String) {
    let victims = &candidate.plan.victims;
    let highest = victims.iter().map(|v| v.priority).max().unwrap_or(i32::MIN);
    let sum = victims.iter().map(|v| i64::from(v.priority) + i64::from(i32::MAX) + 1).sum();
    (candidate.broken_budgets, highest, sum, victims.len(), candidate.plan.node.clone())
}

fn candidate(
    pod: &PodInfo,
    scratch: &mut Snapshot,
    node: &str,
    budgets: &[Arc<PodDisruptionBudget>],
) -> Option<Candidate> {
    let all = scratch.node(node)?.pods.values();
    let mut lower: Vec<Arc<PodInfo>> = all.filter(|other| other.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return None;
    }
    // Those that have been there longer are worth more.
    lower.sort_by_key(|p| (Reverse(p.priority), started(p), p.key.clone()));
    lower.iter().for_each(|victim| scratch.remove_pod(&victim.key));
    let found = fits(pod, scratch, node).then(|| spare(pod, scratch, node, by_budgets(&lower, budgets)));
    lower.into_iter().for_each(|victim| scratch.place(victim, node));
    let (victims, broken_budgets) = found?;
    Some(Candidate { plan: Plan { node: node.to_owned(), victims }, broken_budgets })
}

/// Gives as many as fit their place back, the first ones first. Who has to go, and for how many of them that breaks a budget.
fn spare(
    pod: &PodInfo,
    scratch: &mut Snapshot,
    node: &str,
    lower: Vec<(Arc<PodInfo>, bool)>,
) -> (Vec<Arc<PodInfo>>, usize) {
    let (mut victims, mut broken) = (Vec::new(), 0);
    for (spared, breaks) in lower {
        scratch.place(spared.clone(), node);
        if !fits(pod, scratch, node) {
            scratch.remove_pod(&spared.key);
            broken += usize::from(breaks);
            victims.push(spared);
        }
    }
    (victims, broken)
}

fn started(pod: &PodInfo) -> Timestamp {
    let at = pod.pod.status.as_ref().and_then(|s| s.start_time.as_ref());
    at.map_or(Timestamp::MAX, |at| at.0)
}

fn fits(pod: &PodInfo, snapshot: &Snapshot, node: &str) -> bool {
    snapshot.node(node).is_some_and(|info| Cycle::new(pod, snapshot).filter(info).is_ok())
}

/// The pods with whether a budget breaks when they go (each takes one of what the budget allows), those first that break one.
fn by_budgets(pods: &[Arc<PodInfo>], budgets: &[Arc<PodDisruptionBudget>]) -> Vec<(Arc<PodInfo>, bool)> {
    let allowed = |b: &Arc<PodDisruptionBudget>| {
        b.status.as_ref().and_then(|s| s.disruptions_allowed).unwrap_or_default()
    };
    let mut left: Vec<i32> = budgets.iter().map(allowed).collect();
    let mut judged = Vec::with_capacity(pods.len());
    for pod in pods {
        let mut breaks = false;
        let own = budgets.iter().zip(&mut left).filter(|(budget, _)| protects(budget, pod));
        for (_, left) in own {
            breaks |= *left <= 0;
            *left = left.saturating_sub(1);
        }
        judged.push((pod.clone(), breaks));
    }
    judged.sort_by_key(|(_, breaks)| !breaks);
    judged
}

/// A pod whose eviction is counted already takes nothing more.
fn protects(budget: &PodDisruptionBudget, pod: &PodInfo) -> bool {
    let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
    let counted = budget.status.as_ref().and_then(|s| s.disrupted_pods.as_ref());
    budget.metadata.namespace.as_deref() == Some(&pod.key.namespace)
        && counted.is_none_or(|pods| !pods.contains_key(&pod.key.name))
        && label_selector_matches(selector, pod.pod.metadata.labels.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::{cpu, node, pod};
    use serde_json::{Value, json};

    fn with(mut spec: Value, priority: i32, node: Option<&str>) -> Value {
        spec["priority"] = json!(priority);
        if let Some(node) = node {
            spec["nodeName"] = json!(node);
        }
        spec
    }

    fn run(snapshot: &Snapshot, spec: Value) -> Result<(String, Vec<String>), String> {
        let info = PodInfo::new(pod("new", spec));
        let misfit = Cycle::new(&info, snapshot).decide(|_| 0).unwrap_err();
        plan(&info, snapshot, &misfit, &[])
            .map(|p| (p.node, p.victims.iter().map(|v| v.key.name.clone()).collect()))
    }

    #[test]
    fn the_least_important_pods_go_and_no_more_than_needed() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(node("a", "2"));
        snapshot.set_pod(&pod("low", with(cpu("1"), 1, Some("a"))));
        snapshot.set_pod(&pod("mid", with(cpu("1"), 5, Some("a"))));
        assert_eq!(run(&snapshot, with(cpu("1"), 10, None)), Ok(("a".into(), vec!["low".into()])));
        assert_eq!(
            run(&snapshot, with(cpu("1"), 1, None)),
            Err("0/1 nodes are available: 1 No preemption victims found for incoming pod.".into())
        );
        assert_eq!(
            run(&snapshot, with(cpu("9"), 10, None)),
            Err("0/1 nodes are available: 1 Preemption is not helpful for scheduling.".into())
        );
    }

    #[test]
    fn a_budget_allows_so_many_and_the_next_breaks_it() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(node("a", "2"));
        snapshot.set_node(node("b", "2"));
        for (name, on) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b")] {
            let mut object = (*pod(name, with(cpu("1"), 1, Some(on)))).clone();
            let labels = object.metadata.labels.get_or_insert_default();
            labels.insert("guarded".into(), (on == "a").to_string());
            snapshot.set_pod(&Arc::new(object));
        }
        let budget: PodDisruptionBudget = serde_json::from_value(json!({
            "metadata": { "name": "one", "namespace": "default" },
            "spec": { "selector": { "matchLabels": { "guarded": "true" } } },
            "status": { "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2 } }))
        .unwrap();
        let info = PodInfo::new(pod("new", with(cpu("2"), 10, None)));
        let misfit = Cycle::new(&info, &snapshot).decide(|_| 0).unwrap_err();
        let plan = plan(&info, &snapshot, &misfit, &[Arc::new(budget)]).unwrap();
        assert_eq!(plan.node, "b");
    }

    #[test]
    fn nobody_else_goes_while_those_evicted_for_the_pod_are_going() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(node("a", "1"));
        snapshot.set_node(node("b", "1"));
        let mut going = serde_json::to_value(&*pod("going", with(cpu("1"), 5, Some("b")))).unwrap();
        going["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
        going["status"] = json!({ "conditions": [{ "type": "DisruptionTarget", "status": "True",
                                                  "reason": "PreemptionByScheduler" }] });
        snapshot.set_pod(&Arc::new(serde_json::from_value(going).unwrap()));
        snapshot.set_pod(&pod("cheaper", with(cpu("1"), 1, Some("a"))));
        for (nominated, outcome) in [(Some("b"), None), (None, Some("a")), (Some("gone"), Some("a"))] {
            let mut new = serde_json::to_value(&*pod("new", with(cpu("1"), 10, None))).unwrap();
            new["status"] = json!({ "nominatedNodeName": nominated });
            let info = PodInfo::new(Arc::new(serde_json::from_value(new).unwrap()));
            let misfit = Cycle::new(&info, &snapshot).decide(|_| 0).unwrap_err();
            let found = plan(&info, &snapshot, &misfit, &[]).ok().map(|plan| plan.node);
            assert_eq!(found.as_deref(), outcome, "{nominated:?}");
        }
    }

    #[test]
    fn a_policy_of_never_is_kept() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(node("a", "1"));
        snapshot.set_pod(&pod("low", with(cpu("1"), 1, Some("a"))));
        let mut spec = with(cpu("1"), 10, None);
        spec["preemptionPolicy"] = json!("Never");
        assert_eq!(run(&snapshot, spec), Err("not eligible due to preemptionPolicy=Never.".into()));
    }
}
