//! How fast nodes that fell silent are emptied: zone by zone, slower or not at all where much of a zone is silent, for then it is more
//! likely the network than the nodes. Upstream's rules and defaults.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use tokio::time::Instant;

/// A zone with fewer silent nodes than this is not disrupted, whatever their share.
const FEWEST_SILENT: usize = 3;
const REGION: [&str; 2] = ["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"];
const ZONE: [&str; 2] = ["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"];

/// Nodes a second that begin to be emptied, in each zone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// While the zone is healthy, and while all of it is silent but others are not.
    pub normal: f64,
    /// While much of a large zone is silent; in a small one nothing is emptied then.
    pub secondary: f64,
    /// Share of silent nodes from which a zone is disrupted.
    pub threshold: f64,
    /// A zone with more nodes than this is large.
    pub large: usize,
}

impl Default for Rates {
    fn default() -> Self {
        Rates { normal: 0.1, secondary: 0.01, threshold: 0.55, large: 50 }
    }
}

/// How a zone is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Well enough.
    Normal,
    /// Much of it is silent.
    Partial,
    /// All of it is silent.
    Full,
}

/// Nodes of one zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Those that are Ready.
    pub ready: usize,
    /// The others.
    pub silent: usize,
}

impl Count {
    /// The zone's state; shares are of its nodes.
    pub fn state(self, threshold: f64) -> State {
        let share = self.silent as f64 / (self.ready + self.silent).max(1) as f64;
        match (self.ready, self.silent) {
            (0, 1..) => State::Full,
            (_, FEWEST_SILENT..) if share >= threshold => State::Partial,
            _ => State::Normal,
        }
    }

    /// Nodes a second; 0: none.
    pub fn rate(self, rates: &Rates) -> f64 {
        match self.state(rates.threshold) {
            State::Normal | State::Full => rates.normal,
            State::Partial if self.ready + self.silent > rates.large => rates.secondary,
            State::Partial => 0.0,
        }
    }
}

/// The zone of a node: region and zone labels; nodes without them share one.
pub fn zone_of(node: &Node) -> String {
    let labels = node.metadata.labels.as_ref();
    let label =
        |names: [&str; 2]| names.into_iter().find_map(|name| labels?.get(name).cloned()).unwrap_or_default();
    format!("{}/{}", label(REGION), label(ZONE))
}

/// All zones, with how their nodes are.
pub fn count<'a>(nodes: impl IntoIterator<Item = (&'a Node, bool)>) -> BTreeMap<String, Count> {
    let mut zones: BTreeMap<String, Count> = BTreeMap::new();
    for (node, ready) in nodes {
        let zone = zones.entry(zone_of(node)).or_default();
        if ready {
            zone.ready += 1;
        } else {
            zone.silent += 1;
        }
    }
    zones
}

/// When no zone has a node that is ready it is rather us who are cut off: then nothing is emptied.
pub fn all_are_silent(zones: &BTreeMap<String, Count>) -> bool {
    zones.values().all(|zone| zone.ready == 0)
}

/// Whose turn it is in one zone: a bucket that holds one token.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    tokens: f64,
    at: Instant,
}

impl Turn {
    /// A zone where nothing was emptied yet.
    pub fn new(now: Instant) -> Self {
        Turn { tokens: 1.0, at: now }
    }

    /// Takes the turn, or says how long to wait; `None`: until the zone changes.
    pub fn take(&mut self, rate: f64, now: Instant) -> Result<(), Option<Duration>> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        *self = Turn { tokens: (self.tokens + passed * rate).min(1.0), at: now };
        if rate <= 0.0 {
            return Err(None);
        }
        // Not quite one: what was waited for has come, whatever was rounded.
        if self.tokens >= 0.999 {
            self.tokens = 0.0;
            return Ok(());
        }
        Err(Duration::try_from_secs_f64((1.0 - self.tokens) / rate).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn states_and_rates_of_zones() {
        let rates = Rates::default();
        for (ready, silent, state, rate) in [
            (0, 0, State::Normal, 0.1),
            (3, 0, State::Normal, 0.1),
            (1, 2, State::Normal, 0.1),
            (2, 3, State::Partial, 0.0),
            (3, 3, State::Normal, 0.1),
            (0, 1, State::Full, 0.1),
            (0, 9, State::Full, 0.1),
            (20, 30, State::Partial, 0.0),
            (20, 31, State::Partial, 0.01),
            (45, 55, State::Partial, 0.01),
            (46, 54, State::Normal, 0.1),
        ] {
            let zone = Count { ready, silent };
            assert_eq!((zone.state(rates.threshold), zone.rate(&rates)), (state, rate), "{zone:?}");
        }
    }

    #[test]
    fn nodes_are_counted_by_region_and_zone() {
        let node = |labels: serde_json::Value| -> Node {
            from_value(json!({ "metadata": { "labels": labels } })).unwrap()
        };
        let a = node(json!({ "topology.kubernetes.io/zone": "a" }));
        let old = node(json!({ "failure-domain.beta.kubernetes.io/zone": "a" }));
        let none = node(json!({}));
        let zones = count([(&a, true), (&old, false), (&none, false)]);
        assert_eq!(zones["/a"], Count { ready: 1, silent: 1 });
        assert_eq!(zones["/"], Count { ready: 0, silent: 1 });
        assert!(!all_are_silent(&zones));
        assert!(all_are_silent(&count([(&a, false), (&none, false)])));
    }

    #[test]
    fn one_node_at_a_time() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut turn = Turn::new(start);
        assert_eq!(turn.take(0.1, start), Ok(()));
        assert_eq!(turn.take(0.1, after(4)), Err(Some(Duration::from_secs(6))));
        assert_eq!(turn.take(0.1, after(10)), Ok(()));
        assert_eq!(turn.take(0.0, after(100)), Err(None));
        assert!(turn.take(0.1, after(101)).is_err(), "nothing is gathered while nothing may go");
        assert_eq!(turn.take(0.1, after(200)), Ok(()));
        assert!(turn.take(0.1, after(200)).is_err(), "nothing is saved up");
    }
}
