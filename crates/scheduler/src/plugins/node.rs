//! Rules about the node itself: cordons, names, taints, node affinity, ports, images.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::MAX_SCORE;
use crate::cycle::{Cycle, Verdict};
use crate::selector::{node_selector_matches, node_term_matches, tolerates, untolerated};
use crate::snapshot::NodeInfo;

/// The taint that stands for a cordoned node.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// An image smaller than this does not count, in bytes.
const SMALL_IMAGE: i64 = 23 * 1024 * 1024;
/// Images above this size count no more, per container, in bytes.
const LARGE_IMAGE: i64 = 1000 * 1024 * 1024;

fn never(reason: &'static str) -> Verdict {
    Verdict::Never(vec![Cow::Borrowed(reason)])
}

fn taints_of(node: &NodeInfo) -> &[Taint] {
    let spec = node.node.as_ref().and_then(|n| n.spec.as_ref());
    spec.and_then(|s| s.taints.as_deref()).unwrap_or_default()
}

/// Cordoned nodes take only pods that tolerate it.
pub fn unschedulable(cx: &Cycle<'_>, node: &NodeInfo) -> Verdict {
    let cordoned =
        node.node.as_ref().and_then(|n| n.spec.as_ref()).and_then(|s| s.unschedulable) == Some(true);
    let taint = Taint { key: UNSCHEDULABLE.into(), effect: "NoSchedule".into(), ..Taint::default() };
    if !cordoned || cx.pod.tolerations().iter().any(|t| tolerates(t, &taint)) {
        return Verdict::Fits;
    }
    never("node(s) were unschedulable")
}

/// A pod may name its node.
pub fn name(cx: &Cycle<'_>, node: &NodeInfo) -> Verdict {
    match cx.pod.spec().and_then(|s| s.node_name.as_deref()).filter(|n| !n.is_empty()) {
        Some(wanted) if wanted != node.name => never("node(s) didn't match the requested node name"),
        _ => Verdict::Fits,
    }
}

/// Taints must be tolerated.
pub fn taints(cx: &Cycle<'_>, node: &NodeInfo) -> Verdict {
    match untolerated(taints_of(node), cx.pod.tolerations(), &["NoSchedule", "NoExecute"]) {
        Some(_) => never("node(s) had untolerated taint(s)"),
        None => Verdict::Fits,
    }
}

/// Counts the soft taints that are not tolerated.
pub fn score_taints(cx: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let soft = taints_of(node).iter().filter(|t| t.effect == "PreferNoSchedule");
    let tolerated = |taint: &Taint| cx.pod.tolerations().iter().any(|t: &Toleration| tolerates(t, taint));
    soft.filter(|taint| !tolerated(taint)).count() as i64
}

/// Node selector and required node affinity.
pub fn affinity(cx: &Cycle<'_>, node: &NodeInfo) -> Verdict {
    if matches_node(cx, node) {
        Verdict::Fits
    } else {
        never("node(s) didn't match Pod's node affinity/selector")
    }
}

pub(super) fn matches_node(cx: &Cycle<'_>, node: &NodeInfo) -> bool {
    let selector = cx.pod.spec().and_then(|s| s.node_selector.as_ref());
    let labels_match = selector.into_iter().flatten().all(|(k, v)| node.label(k) == Some(v));
    let object = node.node.as_ref();
    labels_match
        && cx.pod.required_nodes().is_none_or(|rule| object.is_some_and(|n| node_selector_matches(rule, n)))
}

/// Adds up the weights of the preferred terms that hold.
pub fn score_affinity(cx: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let affinity = cx.pod.spec().and_then(|s| s.affinity.as_ref()).and_then(|a| a.node_affinity.as_ref());
    let preferred = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
    let Some(object) = &node.node else { return 0 };
    let holding = preferred.unwrap_or_default().iter().filter(|t| node_term_matches(&t.preference, object));
    holding.map(|term| i64::from(term.weight)).sum()
}

/// Host ports must be free.
pub fn ports(cx: &Cycle<'_>, node: &NodeInfo) -> Verdict {
    if cx.pod.ports.iter().any(|port| node.is_taken(port)) {
        return Verdict::Not(vec!["node(s) didn't have free ports for the requested pod ports".into()]);
    }
    Verdict::Fits
}

/// Prefers nodes that have the pod's images, large ones above all, weighted by how many nodes have them.
pub fn score_images(cx: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let Some(spec) = cx.pod.spec() else { return 0 };
    let images = spec.containers.iter().filter_map(|c| c.image.as_deref());
    let present = images.map(|image| spread_size(cx, node, image)).fold(0, i64::saturating_add);
    let most = LARGE_IMAGE * spec.containers.len().max(1) as i64;
    MAX_SCORE * (present.clamp(SMALL_IMAGE, most) - SMALL_IMAGE) / (most - SMALL_IMAGE)
}

fn spread_size(cx: &Cycle<'_>, node: &NodeInfo, image: &str) -> i64 {
    let Some(size) = node.images.get(image) else { return 0 };
    let (mut having, mut all) = (0, 0);
    for other in cx.snapshot.nodes() {
        all += 1;
        having += i64::from(other.images.contains_key(image));
    }
    size.saturating_mul(having) / all.max(1)
}
