//! The rules, one row each, in upstream's order: what keeps a pod off a node, and what makes one node better than another.

pub mod affinity;
pub mod node;
pub mod resources;
pub mod spread;

use crate::cycle::{Cycle, Verdict};
use crate::queue::Event;
use crate::snapshot::NodeInfo;

/// The best score a node can get from one rule.
pub const MAX_SCORE: i64 = 100;

/// One rule.
#[derive(Debug)]
pub struct Plugin {
    /// Upstream's name.
    pub name: &'static str,
    /// Can the pod run on that node?
    pub filter: Option<fn(&Cycle<'_>, &NodeInfo) -> Verdict>,
    /// How good is the node?
    pub score: Option<Score>,
    /// What may turn this rule's no into a yes.
    pub helped_by: &'static [Event],
}

/// How a rule scores.
#[derive(Debug)]
pub struct Score {
    /// How much it counts.
    pub weight: i64,
    /// The score of one node, in any unit.
    pub raw: fn(&Cycle<'_>, &NodeInfo) -> i64,
    /// How raw scores become 0 to [`MAX_SCORE`].
    pub normalize: Normalize,
}

/// How raw scores become 0 to [`MAX_SCORE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalize {
    /// They are already.
    Not,
    /// The highest becomes the maximum.
    ByMax,
    /// The highest becomes 0.
    ByMaxReversed,
    /// The range between lowest and highest is stretched.
    ByRange,
}

impl Normalize {
    /// Puts scores into the range.
    pub fn apply(self, scores: &mut [i64]) {
        let max = scores.iter().copied().max().unwrap_or_default();
        let min = scores.iter().copied().min().unwrap_or_default();
        for score in scores {
            *score = match self {
                Normalize::Not => *score,
                Normalize::ByMax if max == 0 => 0,
                Normalize::ByMax => MAX_SCORE * *score / max,
                Normalize::ByMaxReversed if max == 0 => MAX_SCORE,
                Normalize::ByMaxReversed => MAX_SCORE - MAX_SCORE * *score / max,
                Normalize::ByRange if max == min => 0,
                Normalize::ByRange => MAX_SCORE * (*score - min) / (max - min),
            };
        }
    }
}

/// Things of a node.
const NODE: &[Event] = &[Event::NodeChanged];
/// Things of a node and of the pods on it.
const NODE_AND_PODS: &[Event] = &[Event::NodeChanged, Event::PodGone, Event::PodPlaced];

/// All rules.
pub const PLUGINS: &[Plugin] = &[
    Plugin { name: "NodeUnschedulable", filter: Some(node::unschedulable), score: None, helped_by: NODE },
    Plugin { name: "NodeName", filter: Some(node::name), score: None, helped_by: NODE },
    Plugin {
        name: "TaintToleration",
        filter: Some(node::taints),
        score: Some(Score { weight: 3, raw: node::score_taints, normalize: Normalize::ByMaxReversed }),
        helped_by: NODE,
    },
    Plugin {
        name: "NodeAffinity",
        filter: Some(node::affinity),
        score: Some(Score { weight: 2, raw: node::score_affinity, normalize: Normalize::ByMax }),
        helped_by: NODE,
    },
    Plugin {
        name: "NodePorts",
        filter: Some(node::ports),
        score: None,
        helped_by: &[Event::NodeChanged, Event::PodGone],
    },
    Plugin {
        name: "NodeResourcesFit",
        filter: Some(resources::fit),
        score: Some(Score { weight: 1, raw: resources::least_allocated, normalize: Normalize::Not }),
        helped_by: &[Event::NodeChanged, Event::PodGone],
    },
    Plugin {
        name: "PodTopologySpread",
        filter: Some(spread::filter),
        score: Some(Score { weight: 2, raw: spread::score, normalize: Normalize::ByMaxReversed }),
        helped_by: NODE_AND_PODS,
    },
    Plugin {
        name: "InterPodAffinity",
        filter: Some(affinity::filter),
        score: Some(Score { weight: 2, raw: affinity::score, normalize: Normalize::ByRange }),
        // Its terms may choose namespaces by label.
        helped_by: &[Event::NodeChanged, Event::PodGone, Event::PodPlaced, Event::NamespaceChanged],
    },
    Plugin {
        name: "NodeResourcesBalancedAllocation",
        filter: None,
        score: Some(Score { weight: 1, raw: resources::balanced, normalize: Normalize::Not }),
        helped_by: &[],
    },
    Plugin {
        name: "ImageLocality",
        filter: None,
        score: Some(Score { weight: 1, raw: node::score_images, normalize: Normalize::Not }),
        helped_by: &[],
    },
];

/// May that event let a pod through which these rules turned away?
pub fn may_help(event: Event, turned_away_by: &[&'static str]) -> bool {
    turned_away_by.is_empty()
        || PLUGINS.iter().any(|p| turned_away_by.contains(&p.name) && p.helped_by.contains(&event))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_normalised() {
        let table = [
            (Normalize::ByMax, [0, 5, 10], [0, 50, 100]),
            (Normalize::ByMaxReversed, [0, 5, 10], [100, 50, 0]),
            (Normalize::ByMaxReversed, [0, 0, 0], [100, 100, 100]),
            (Normalize::ByRange, [-10, 0, 10], [0, 50, 100]),
            (Normalize::ByRange, [7, 7, 7], [0, 0, 0]),
        ];
        for (how, mut scores, expected) in table {
            how.apply(&mut scores);
            assert_eq!(scores, expected, "{how:?}");
        }
    }
}
