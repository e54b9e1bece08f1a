//! Topology spread constraints: pods of one group evenly over zones, hosts or any other label of nodes.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::node::matches_node;
use crate::cycle::{Cycle, Verdict};
use crate::pod::PodInfo;
use crate::selector::{label_selector_matches, untolerated};
use crate::snapshot::NodeInfo;

/// One constraint with the pods that count for it, by value of its label.
#[derive(Debug)]
struct Counted {
    key: String,
    max_skew: i64,
    counts_itself: bool,
    fewest: i64,
    pods: HashMap<String, i64>,
}

/// What the pod's constraints say about the snapshot.
#[derive(Debug, Default)]
pub struct SpreadState {
    hard: Vec<Counted>,
    soft: Vec<Counted>,
}

fn state<'c>(cx: &'c Cycle<'_>) -> &'c SpreadState {
    cx.spread.get_or_init(|| {
        let constraints =
            cx.pod.spec().and_then(|s| s.topology_spread_constraints.as_deref()).unwrap_or_default();
        let (hard, soft): (Vec<_>, Vec<_>) =
            constraints.iter().partition(|c| c.when_unsatisfiable == "DoNotSchedule");
        SpreadState {
            hard: hard.into_iter().map(|c| count(cx, c)).collect(),
            soft: soft.into_iter().map(|c| count(cx, c)).collect(),
        }
    })
}

fn count(cx: &Cycle<'_>, constraint: &TopologySpreadConstraint) -> Counted {
    let selector = with_match_keys(constraint, cx.pod);
    let namespace = &cx.pod.key.namespace;
    let counts = |pod: &PodInfo| {
        &pod.key.namespace == namespace
            && !pod.is_terminating()
            && label_selector_matches(selector.as_ref(), pod.pod.metadata.labels.as_ref())
    };
    let mut pods: HashMap<String, i64> = HashMap::new();
    for node in cx.snapshot.nodes().filter(|node| takes_part(cx, constraint, node)) {
        let Some(value) = node.label(&constraint.topology_key) else { continue };
        *pods.entry(value.to_owned()).or_default() += node.pods.values().filter(|p| counts(p)).count() as i64;
    }
    let too_few_domains = constraint.min_domains.is_some_and(|min| (pods.len() as i64) < i64::from(min));
    let fewest = if too_few_domains { 0 } else { pods.values().copied().min().unwrap_or_default() };
    Counted {
        key: constraint.topology_key.clone(),
        max_skew: i64::from(constraint.max_skew),
        counts_itself: label_selector_matches(selector.as_ref(), cx.pod.pod.metadata.labels.as_ref()),
        fewest,
        pods,
    }
}

/// Node affinity is honoured and taints are ignored unless the constraint says otherwise.
fn takes_part(cx: &Cycle<'_>, constraint: &TopologySpreadConstraint, node: &NodeInfo) -> bool {
    let affinity = constraint.node_affinity_policy.as_deref() == Some("Ignore") || matches_node(cx, node);
    let taints = node.node.as_ref().and_then(|n| n.spec.as_ref()).and_then(|s| s.taints.as_deref());
    let tolerated = constraint.node_taints_policy.as_deref() != Some("Honor")
        || untolerated(taints.unwrap_or_default(), cx.pod.tolerations(), &["NoSchedule", "NoExecute"])
            .is_none();
    affinity && tolerated
}

fn with_match_keys(constraint: &TopologySpreadConstraint, pod: &PodInfo) -> Option<LabelSelector> {
    let mut selector = constraint.label_selector.clone()?;
    let labels = pod.pod.metadata.labels.as_ref();
    for key in constraint.match_label_keys.iter().flatten() {
        let Some(value) = labels.and_then(|l| l.get(key)) else { continue };
        selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
            key: key.clone(),
            operator: "In".to_owned(),
            values: Some(vec![value.clone()]),
        });
    }
    Some(selector)
}

/// The pod may not make any domain fuller than the emptiest by more than the skew.
pub fn filter(cx: &Cycle<'_>, node: &NodeInfo) -> Verdict {
    for constraint in &state(cx).hard {
        let Some(value) = node.label(&constraint.key) else {
            let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
            return Verdict::Never(vec![reason.into()]);
        };
        let there = constraint.pods.get(value).copied().unwrap_or_default();
        if there + i64::from(constraint.counts_itself) - constraint.fewest > constraint.max_skew {
            return Verdict::Not(vec!["node(s) didn't match pod topology spread constraints".into()]);
        }
    }
    Verdict::Fits
}

/// The pods of the group that are near already, for the soft constraints. A node that lacks a label is in no domain, which is worse
/// than in the fullest (upstream gives it the score 0).
pub fn score(cx: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let soft = &state(cx).soft;
    let near = |c: &Counted| Some(c.pods.get(node.label(&c.key)?).copied().unwrap_or_default());
    let fullest = |c: &Counted| c.pods.values().copied().max().unwrap_or_default();
    soft.iter().map(near).sum::<Option<i64>>().unwrap_or_else(|| soft.iter().map(fullest).sum::<i64>() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Snapshot;
    use crate::snapshot::tests::{node, pod};
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn a_node_without_the_label_is_the_last_choice_of_a_soft_constraint() {
        let mut snapshot = Snapshot::default();
        for (name, zone) in [("in-zone", Some("z")), ("nowhere", None)] {
            let mut object = (*node(name, "2")).clone();
            let labels = object.metadata.labels.get_or_insert_default();
            labels.extend(zone.map(|zone| ("zone".to_owned(), zone.to_owned())));
            snapshot.set_node(Arc::new(object));
        }
        let constraint = json!({ "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway",
                               "labelSelector": { "matchLabels": { "app": "x" } } });
        let new = PodInfo::new(pod("new", json!({ "topologySpreadConstraints": [constraint] })));
        for there in [None, Some("a")] {
            there.iter().for_each(|name| snapshot.set_pod(&pod(name, json!({ "nodeName": "in-zone" }))));
            let cycle = Cycle::new(&new, &snapshot);
            let scores = ["in-zone", "nowhere"].map(|name| score(&cycle, snapshot.node(name).unwrap()));
            assert!(scores[0] < scores[1], "{scores:?} with {there:?}");
        }
    }
}
