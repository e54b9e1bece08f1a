//! The decision for one pod: which nodes fit, and which of them is best.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::BTreeMap;

use crate::plugins::affinity::AffinityState;
use crate::plugins::spread::SpreadState;
use crate::plugins::{PLUGINS, Plugin};
use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};

/// Why a node does not fit, in upstream's words.
pub type Reason = Cow<'static, str>;

/// What a filter says of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The pod can run there.
    Fits,
    /// It cannot, but could if other pods went.
    Not(Vec<Reason>),
    /// It cannot, whoever goes.
    Never(Vec<Reason>),
}

/// One pod against one snapshot, with what several nodes ask of the same pod worked out at first use.
pub struct Cycle<'a> {
    /// The pod that needs a node.
    pub pod: &'a PodInfo,
    /// What is known.
    pub snapshot: &'a Snapshot,
    pub(crate) affinity: OnceCell<AffinityState>,
    pub(crate) spread: OnceCell<SpreadState>,
}

/// Why no node fits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Misfit {
    /// How many nodes there are.
    pub nodes: usize,
    /// How many nodes said what.
    pub reasons: BTreeMap<Reason, usize>,
    /// Names of the rules that said no.
    pub plugins: Vec<&'static str>,
    /// Nodes where it could help to evict pods.
    pub preemptible: Vec<String>,
}

impl Misfit {
    /// Upstream's sentence of the `FailedScheduling` event and the `PodScheduled` condition.
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut counted: Vec<String> =
            self.reasons.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        counted.sort();
        format!("0/{} nodes are available: {}.", self.nodes, counted.join(", "))
    }
}

impl<'a> Cycle<'a> {
    /// A fresh look at a pod.
    pub fn new(pod: &'a PodInfo, snapshot: &'a Snapshot) -> Self {
        Cycle { pod, snapshot, affinity: OnceCell::new(), spread: OnceCell::new() }
    }

    /// Runs the filters on one node until one says no.
    pub fn filter(&self, node: &NodeInfo) -> Result<(), (&'static Plugin, Verdict)> {
        for plugin in PLUGINS {
            let Some(filter) = plugin.filter else { continue };
            match filter(self, node) {
                Verdict::Fits => {}
                no => return Err((plugin, no)),
            }
        }
        Ok(())
    }

    /// The best node. Of several that are equally good, `pick(n)` chooses one of `n`.
    pub fn decide(&self, pick: impl FnOnce(usize) -> usize) -> Result<&'a NodeInfo, Misfit> {
        let mut misfit = Misfit::default();
        let mut fitting = Vec::new();
        for node in self.snapshot.nodes() {
            misfit.nodes += 1;
            match self.filter(node) {
                Ok(()) => fitting.push(node),
                Err((plugin, verdict)) => misfit.note(node, plugin, verdict),
            }
        }
        match fitting.len() {
            0 => Err(misfit),
            1 => Ok(fitting[0]),
            _ => Ok(self.best(&fitting, pick)),
        }
    }

    fn best(&self, nodes: &[&'a NodeInfo], pick: impl FnOnce(usize) -> usize) -> &'a NodeInfo {
        let mut totals = vec![0; nodes.len()];
        for (plugin, score) in PLUGINS.iter().filter_map(|p| p.score.as_ref().map(|s| (p, s))) {
            debug_assert!(score.weight > 0, "{} has no weight", plugin.name);
            let mut scores: Vec<i64> = nodes.iter().map(|node| (score.raw)(self, node)).collect();
            score.normalize.apply(&mut scores);
            for (total, one) in totals.iter_mut().zip(scores) {
                *total += one * score.weight;
            }
        }
        let most = totals.iter().copied().max().unwrap_or_default();
        let best: Vec<usize> = (0..nodes.len()).filter(|i| totals[*i] == most).collect();
        nodes[best[pick(best.len()).min(best.len() - 1)]]
    }
}

impl Misfit {
    fn note(&mut self, node: &NodeInfo, plugin: &'static Plugin, verdict: Verdict) {
        if !self.plugins.contains(&plugin.name) {
            self.plugins.push(plugin.name);
        }
        let reasons = match verdict {
            Verdict::Fits => return,
            Verdict::Never(reasons) => reasons,
            Verdict::Not(reasons) => {
                self.preemptible.push(node.name.clone());
                reasons
            }
        };
        for reason in reasons {
            *self.reasons.entry(reason).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::{cpu, node, pod};
    use serde_json::{Value, json};

    fn two_nodes() -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(node("big", "4"));
        snapshot.set_node(node("small", "1"));
        snapshot
    }

    fn decide(snapshot: &Snapshot, spec: Value) -> Result<String, String> {
        let info = PodInfo::new(pod("new", spec));
        let cycle = Cycle::new(&info, snapshot);
        cycle.decide(|_| 0).map(|n| n.name.clone()).map_err(|m| m.message())
    }

    #[test]
    fn the_emptier_node_wins() {
        assert_eq!(decide(&two_nodes(), cpu("500m")), Ok("big".into()));
        assert_eq!(
            decide(&two_nodes(), json!({ "nodeSelector": { "kubernetes.io/hostname": "small" } })),
            Ok("small".into())
        );
    }

    #[test]
    fn reasons_are_counted_in_upstreams_words() {
        let snapshot = two_nodes();
        let none = Snapshot::default();
        assert_eq!(decide(&none, json!({})), Err("no nodes available to schedule pods".into()));
        assert_eq!(decide(&snapshot, cpu("8")), Err("0/2 nodes are available: 2 Insufficient cpu.".into()));
        assert_eq!(
            decide(&snapshot, json!({ "nodeSelector": { "disk": "ssd" } })),
            Err("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.".into())
        );
    }

    #[test]
    fn taints_ports_and_cordons_keep_pods_away() {
        let mut snapshot = Snapshot::default();
        let mut tainted = (*node("n", "4")).clone();
        tainted.spec =
            serde_json::from_value(json!({ "taints": [{ "key": "k", "effect": "NoSchedule" }] })).unwrap();
        snapshot.set_node(tainted.clone().into());
        assert_eq!(
            decide(&snapshot, json!({})),
            Err("0/1 nodes are available: 1 node(s) had untolerated taint(s).".into())
        );
        assert!(decide(&snapshot, json!({ "tolerations": [{ "operator": "Exists" }] })).is_ok());
        tainted.spec = serde_json::from_value(json!({ "unschedulable": true })).unwrap();
        snapshot.set_node(tainted.into());
        assert_eq!(
            decide(&snapshot, json!({})),
            Err("0/1 nodes are available: 1 node(s) were unschedulable.".into())
        );
        snapshot.set_node(node("n", "4"));
        let port = json!({ "nodeName": "n", "containers": [{ "name": "c", "ports": [{ "containerPort": 80, "hostPort": 80 }] }] });
        snapshot.set_pod(&pod("web", port.clone()));
        let mut again = port;
        again.as_object_mut().unwrap().remove("nodeName");
        assert_eq!(
            decide(&snapshot, again),
            Err("0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."
                .into())
        );
    }

    #[test]
    fn anti_affinity_and_spread_keep_pods_apart() {
        let selector = json!({ "matchLabels": { "app": "x" } });
        let key = "kubernetes.io/hostname";
        let apart = json!({ "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution":
            [{ "labelSelector": selector, "topologyKey": key }] } } });
        let spread = json!({ "topologySpreadConstraints":
            [{ "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector }] });
        for rule in [apart, spread] {
            let mut snapshot = two_nodes();
            snapshot.set_pod(&pod("there", json!({ "nodeName": "big" })));
            assert_eq!(decide(&snapshot, rule.clone()), Ok("small".into()), "{rule}");
        }
    }

    #[test]
    fn affinity_follows_pods_and_the_first_of_a_group_is_let_in() {
        let near = json!({ "affinity": { "podAffinity": { "requiredDuringSchedulingIgnoredDuringExecution":
            [{ "labelSelector": { "matchLabels": { "app": "x" } }, "topologyKey": "kubernetes.io/hostname" }] } } });
        let mut snapshot = two_nodes();
        assert_eq!(decide(&snapshot, near.clone()), Ok("big".into()));
        snapshot.set_pod(&pod("there", json!({ "nodeName": "small" })));
        assert_eq!(decide(&snapshot, near), Ok("small".into()));
    }
}
