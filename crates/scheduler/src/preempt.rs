//! Preemption: which less important pods must go so that a pod fits, and on which node that hurts least.

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;

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
    let limit = MIN_CANDIDATES.max(misfit.nodes / 10);
    let candidates: Vec<Candidate> = misfit
        .preemptible
        .iter()
        .filter_map(|node| candidate(pod, snapshot, node, budgets))
        .take(limit)
        .collect();
    let best = candidates.into_iter().min_by_key(cost);
    best.map(|c| c.plan).ok_or_else(|| no_candidate(misfit))
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
    snapshot: &Snapshot,
    node: &str,
    budgets: &[Arc<PodDisruptionBudget>],
) -> Option<Candidate> {
    let mut lower: Vec<Arc<PodInfo>> =
        snapshot.node(node)?.pods.values().filter(|other| other.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return None;
    }
    let mut without = snapshot.clone();
    for victim in &lower {
        without.remove_pod(&victim.key);
    }
    if !fits(pod, &without, node) {
        return None;
    }
    // The most important pods, and those that a budget protects, get their place back first.
    lower.sort_by_key(|p| (Reverse(is_protected(p, budgets)), Reverse(p.priority), p.key.clone()));
    let mut victims = Vec::new();
    for spared in lower {
        without.place(spared.clone(), node);
        if !fits(pod, &without, node) {
            without.remove_pod(&spared.key);
            victims.push(spared);
        }
    }
    let broken_budgets = victims.iter().filter(|v| is_protected(v, budgets)).count();
    Some(Candidate { plan: Plan { node: node.to_owned(), victims }, broken_budgets })
}

fn fits(pod: &PodInfo, snapshot: &Snapshot, node: &str) -> bool {
    snapshot.node(node).is_some_and(|info| Cycle::new(pod, snapshot).filter(info).is_ok())
}

fn is_protected(pod: &PodInfo, budgets: &[Arc<PodDisruptionBudget>]) -> bool {
    budgets.iter().any(|budget| {
        let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
        let allowed = budget.status.as_ref().and_then(|s| s.disruptions_allowed).unwrap_or_default();
        budget.metadata.namespace.as_deref() == Some(&pod.key.namespace)
            && allowed <= 0
            && label_selector_matches(selector, pod.pod.metadata.labels.as_ref())
    })
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
    fn a_policy_of_never_is_kept() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(node("a", "1"));
        snapshot.set_pod(&pod("low", with(cpu("1"), 1, Some("a"))));
        let mut spec = with(cpu("1"), 10, None);
        spec["preemptionPolicy"] = json!("Never");
        assert_eq!(run(&snapshot, spec), Err("not eligible due to preemptionPolicy=Never.".into()));
    }
}
