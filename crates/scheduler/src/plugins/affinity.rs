//! Pod affinity and anti-affinity: near to or far from other pods, where near means the same value of a node label.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::core::v1::PodAffinityTerm;

use crate::cycle::{Cycle, Verdict};
use crate::pod::PodInfo;
use crate::selector::label_selector_matches;
use crate::snapshot::{NodeInfo, Snapshot};

/// A node label with its value.
type Place = (String, String);

/// What the rules of the pod and of the pods that are there say about the snapshot.
#[derive(Debug, Default)]
pub struct AffinityState {
    /// Places that pods there keep this pod away from.
    forbidden_by_others: HashSet<Place>,
    /// For each required affinity term the places with a matching pod.
    near: Vec<HashSet<String>>,
    /// For each required anti-affinity term the places with a matching pod.
    far: Vec<HashSet<String>>,
    /// The pod itself matches all its required affinity terms: it may be the first of its group.
    is_first_of_its_kind: bool,
    /// Sum of the weights of the soft rules by place.
    weights: HashMap<Place, i64>,
}

fn applies(snapshot: &Snapshot, owner: &PodInfo, term: &PodAffinityTerm, other: &PodInfo) -> bool {
    in_namespace(snapshot, owner, term, &other.key.namespace)
        && label_selector_matches(term.label_selector.as_ref(), other.pod.metadata.labels.as_ref())
}

/// A term without namespaces and selector means the namespace of the pod that has it.
fn in_namespace(snapshot: &Snapshot, owner: &PodInfo, term: &PodAffinityTerm, namespace: &str) -> bool {
    let named = term.namespaces.as_deref().unwrap_or_default();
    if named.is_empty() && term.namespace_selector.is_none() {
        return owner.key.namespace == namespace;
    }
    let labels = snapshot.namespaces.get(namespace);
    named.iter().any(|n| n == namespace) || label_selector_matches(term.namespace_selector.as_ref(), labels)
}

fn state<'c>(cx: &'c Cycle<'_>) -> &'c AffinityState {
    cx.affinity.get_or_init(|| {
        let pod = cx.pod;
        let own = |term| applies(cx.snapshot, pod, term, pod);
        let mut state = AffinityState {
            near: vec![HashSet::new(); pod.required_affinity().len()],
            far: vec![HashSet::new(); pod.required_anti_affinity().len()],
            is_first_of_its_kind: pod.required_affinity().iter().all(own),
            ..AffinityState::default()
        };
        for (other, node) in cx.snapshot.placed_pods() {
            state.note_hard_rules(cx, other, node);
            state.note_soft_rules(cx, other, node);
        }
        state
    })
}

impl AffinityState {
    fn note_hard_rules(&mut self, cx: &Cycle<'_>, other: &PodInfo, node: &NodeInfo) {
        let pod = cx.pod;
        let fits = |term: &PodAffinityTerm| applies(cx.snapshot, pod, term, other);
        // Near is only who is meant by all terms (upstream's rule); to keep away from, who is meant by one.
        let near = pod.required_affinity();
        if near.iter().all(fits) {
            note_places(near, &mut self.near, node, |_| true);
        }
        note_places(pod.required_anti_affinity(), &mut self.far, node, fits);
        for term in other.required_anti_affinity() {
            if let Some(place) = place(node, &term.topology_key)
                && applies(cx.snapshot, other, term, pod)
            {
                self.forbidden_by_others.insert(place);
            }
        }
    }

    fn note_soft_rules(&mut self, cx: &Cycle<'_>, other: &PodInfo, node: &NodeInfo) {
        let mine = cx.pod.preferred_affinity().map(|(t, w)| (cx.pod, &t.pod_affinity_term, other, w));
        let theirs = other.preferred_affinity().map(|(t, w)| (other, &t.pod_affinity_term, cx.pod, w));
        // A pod that requires to be near this one likes it near, too (upstream's hard affinity weight of 1).
        let required = other.required_affinity().iter().map(|t| (other, t, cx.pod, 1));
        for (owner, term, target, weight) in mine.chain(theirs).chain(required) {
            if let Some(place) = place(node, &term.topology_key)
                && applies(cx.snapshot, owner, term, target)
            {
                *self.weights.entry(place).or_default() += weight;
            }
        }
    }
}

fn note_places(
    terms: &[PodAffinityTerm],
    places: &mut [HashSet<String>],
    node: &NodeInfo,
    fits: impl Fn(&PodAffinityTerm) -> bool,
) {
    for (term, places) in terms.iter().zip(places).filter(|(term, _)| fits(term)) {
        places.extend(node.label(&term.topology_key).map(str::to_owned));
    }
}

fn place(node: &NodeInfo, key: &str) -> Option<Place> {
    Some((key.to_owned(), node.label(key)?.to_owned()))
}

/// The hard rules: those of the pod and those of the pods that are there.
pub fn filter(cx: &Cycle<'_>, node: &NodeInfo) -> Verdict {
    let state = state(cx);
    let in_place = |terms: &[PodAffinityTerm], places: &[HashSet<String>], i: usize| {
        node.label(&terms[i].topology_key).is_some_and(|value| places[i].contains(value))
    };
    let near = cx.pod.required_affinity();
    let has_labels = near.iter().all(|term| node.label(&term.topology_key).is_some());
    let is_near = (0..near.len()).all(|i| in_place(near, &state.near, i));
    let starts_group = state.is_first_of_its_kind && state.near.iter().all(HashSet::is_empty);
    if !has_labels || !(is_near || starts_group) {
        return Verdict::Never(vec!["node(s) didn't match pod affinity rules".into()]);
    }
    let far = cx.pod.required_anti_affinity();
    if (0..far.len()).any(|i| in_place(far, &state.far, i)) {
        return Verdict::Not(vec!["node(s) didn't match pod anti-affinity rules".into()]);
    }
    if state.forbidden_by_others.iter().any(|(key, value)| node.label(key) == Some(value)) {
        return Verdict::Not(vec!["node(s) didn't satisfy existing pods anti-affinity rules".into()]);
    }
    Verdict::Fits
}

/// The soft rules' weights that hold on this node.
pub fn score(cx: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let holding = state(cx).weights.iter().filter(|((key, value), _)| node.label(key) == Some(value));
    holding.map(|(_, weight)| weight).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::{node, pod};
    use serde_json::json;

    #[test]
    fn near_is_a_pod_that_all_terms_mean() {
        let term = |key: &str| {
            json!({ "labelSelector": { "matchExpressions": [{ "key": key, "operator": "Exists" }] },
                                      "topologyKey": "kubernetes.io/hostname" })
        };
        let affinity = json!({ "podAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [term("app"), term("tier")] } });
        let new = PodInfo::new(pod("new", json!({ "affinity": affinity })));
        for (tiers, fits) in [(&["one"][..], false), (&["one", "both"][..], true)] {
            let mut snapshot = Snapshot::default();
            snapshot.set_node(node("n", "2"));
            for name in tiers {
                let mut other = (*pod(name, json!({ "nodeName": "n" }))).clone();
                let labels = other.metadata.labels.get_or_insert_default();
                if *name == "one" {
                    labels.clear();
                }
                labels.insert("tier".into(), "t".into());
                snapshot.set_pod(&std::sync::Arc::new(other));
            }
            let verdict = filter(&Cycle::new(&new, &snapshot), snapshot.node("n").unwrap());
            assert_eq!(verdict == Verdict::Fits, fits, "{tiers:?}");
        }
    }
}
