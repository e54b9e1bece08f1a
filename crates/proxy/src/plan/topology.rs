//! Which endpoints of a service port are used from this node, for traffic policy Cluster and for Local.

use super::endpoints::Candidate;
use crate::ruleset::Endpoint;

/// Which policies a service port ever follows. A port that can be reached from outside always needs the cluster's endpoints:
/// with policy Local, pods and the host still use them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Uses {
    pub cluster: bool,
    pub local: bool,
}

/// The outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    /// For policy Cluster; empty when that is never followed.
    pub cluster: Vec<Endpoint>,
    /// For policy Local; empty when that is never followed.
    pub local: Vec<Endpoint>,
    /// Is there a usable endpoint anywhere, be it out of reach from here?
    pub is_any: bool,
}

/// Ready endpoints, or where there is none (for each policy by itself) those that terminate and still serve.
pub(super) fn choose(candidates: &[Candidate], uses: Uses) -> Chosen {
    let mut chosen = Chosen::default();
    if uses.cluster {
        let hint = Hint::of(candidates);
        chosen.cluster = ready_or_leaving(candidates, |c| hint.allows(c), |_| true);
        chosen.is_any = !chosen.cluster.is_empty();
    }
    if uses.local {
        chosen.local = ready_or_leaving(candidates, |c| c.endpoint.is_local, |c| c.endpoint.is_local);
        chosen.is_any |= candidates.iter().any(|c| c.is_ready || is_leaving(c));
    }
    chosen
}

fn is_leaving(candidate: &Candidate) -> bool {
    candidate.is_serving && candidate.is_terminating
}

fn ready_or_leaving(
    candidates: &[Candidate],
    ready: impl Fn(&Candidate) -> bool,
    leaving: impl Fn(&Candidate) -> bool,
) -> Vec<Endpoint> {
    let pick = |keep: &dyn Fn(&Candidate) -> bool| -> Vec<Endpoint> {
        candidates.iter().filter(|c| keep(c)).map(|c| c.endpoint).collect()
    };
    let first = pick(&|c| c.is_ready && ready(c));
    if first.is_empty() { pick(&|c| is_leaving(c) && leaving(c)) } else { first }
}

/// How hints narrow the choice. They hold only when every ready endpoint has one and at least one is meant for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hint {
    None,
    SameZone,
    SameNode,
}

impl Hint {
    fn of(candidates: &[Candidate]) -> Self {
        let holds = |hint: fn(&Candidate) -> Option<bool>| {
            let mut ready = candidates.iter().filter(|c| c.is_ready).map(hint);
            let (complete, ours) = ready
                .by_ref()
                .fold((true, false), |(all, any), h| (all && h.is_some(), any || h == Some(true)));
            complete && ours
        };
        if holds(|c| c.for_node) {
            Hint::SameNode
        } else if holds(|c| c.for_zone) {
            Hint::SameZone
        } else {
            Hint::None
        }
    }

    fn allows(self, candidate: &Candidate) -> bool {
        match self {
            Hint::None => true,
            Hint::SameZone => candidate.for_zone == Some(true),
            Hint::SameNode => candidate.for_node == Some(true),
        }
    }
}
