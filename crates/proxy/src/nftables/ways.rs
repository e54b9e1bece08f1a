//! Chains that many services share: one for each number of endpoints and each way to masquerade. What a chain `pick-3` does:
//! look up (destination, random number below 3) in the map of endpoints and lead the flow there.
//!
//! That is why ten thousand services are ten thousand elements and not as many chains, and why one more endpoint is one element
//! and one changed verdict.

use std::time::Duration;

use corten_sys::netfilter::nft::{Base, R0, Rule, Side, Verdict};

use super::base::{self, Layout, MARK, MARK_OFF_CLUSTER};
use super::names::{self, *};
use crate::config::Config;
use crate::ruleset::{Family, Masquerade};

/// Choosing one of so many endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Pick {
    /// Keys without an address.
    pub is_node_port: bool,
    /// In the maps of local endpoints.
    pub is_local: bool,
    /// How many.
    pub count: u32,
    /// Clients that are remembered get the same again.
    pub is_sticky: bool,
}

/// What a verdict map's element leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Way {
    /// To any endpoint, masqueraded so.
    To(Pick, Masquerading),
    /// Pods and this host to one of the first, others to one of the second, or nowhere.
    Split(Pick, Option<Pick>),
    /// Not away, but into memory: which endpoint a client got.
    Remember {
        /// Without an address.
        is_node_port: bool,
        /// For so long.
        seconds: u32,
    },
}

/// [`Masquerade`] without the case that belongs to [`Way::Split`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Masquerading {
    OffCluster,
    Always,
}

impl From<Masquerade> for Masquerading {
    fn from(from: Masquerade) -> Self {
        match from {
            Masquerade::OffCluster => Masquerading::OffCluster,
            Masquerade::Always | Masquerade::FromHost => Masquerading::Always,
        }
    }
}

/// A chain and its rules.
pub(super) type Chain = (String, Vec<Rule>);

impl Pick {
    fn name(&self) -> String {
        let node_port = if self.is_node_port { "-nodeport" } else { "" };
        let local = if self.is_local { "-local" } else { "" };
        let sticky = if self.is_sticky { "-sticky" } else { "" };
        format!("pick{node_port}{local}-{}{sticky}", self.count)
    }

    fn endpoints(&self) -> &'static str {
        match (self.is_node_port, self.is_local) {
            (false, false) => ENDPOINTS,
            (false, true) => LOCAL_ENDPOINTS,
            (true, false) => NODE_PORT_ENDPOINTS,
            (true, true) => LOCAL_NODE_PORT_ENDPOINTS,
        }
    }

    fn destination(&self, layout: Layout, rule: Rule, into: u32) -> (Rule, u32) {
        if self.is_node_port { base::port(rule, into) } else { layout.service(rule, into) }
    }

    /// A random endpoint's address and port into registers.
    fn choose(&self, layout: Layout, into: u32) -> Rule {
        let (rule, number) = self.destination(layout, Rule::new(), R0);
        rule.random(self.count, number).map(self.endpoints(), R0, into)
    }

    fn chain(&self, family: Family) -> Chain {
        let layout = Layout::of(family);
        let lead = |rule: Rule| rule.dnat(names::sys_family(family), R0, R0 + layout.words);
        let mut rules = Vec::new();
        if self.is_sticky {
            let client = layout.source(Rule::new(), R0);
            let (client, _) = self.destination(layout, client, R0 + layout.words);
            rules.push(lead(client.map(memory(self.is_node_port), R0, R0)));
        }
        rules.push(lead(self.choose(layout, R0)));
        (self.name(), rules)
    }
}

impl Way {
    /// The chain that an element leads to.
    pub(super) fn name(&self) -> String {
        match self {
            Way::To(pick, Masquerading::OffCluster) => format!("off-cluster-{}", pick.name()),
            Way::To(pick, Masquerading::Always) => format!("masquerade-{}", pick.name()),
            Way::Split(pick, None) => format!("split-{}-0", pick.name()),
            Way::Split(pick, Some(local)) => format!("split-{}-{}", pick.name(), local.count),
            Way::Remember { is_node_port: false, seconds } => format!("remember-{seconds}s"),
            Way::Remember { is_node_port: true, seconds } => format!("remember-nodeport-{seconds}s"),
        }
    }

    /// Names of all chains that it needs.
    pub(super) fn names(&self) -> Vec<String> {
        let picks = match self {
            Way::To(pick, _) => vec![pick.name()],
            Way::Split(pick, local) => std::iter::once(pick).chain(local).map(Pick::name).collect(),
            Way::Remember { .. } => vec![],
        };
        picks.into_iter().chain([self.name()]).collect()
    }

    /// All chains that it needs, those that others go to first.
    pub(super) fn chains(&self, config: &Config, family: Family) -> Vec<Chain> {
        let jump = |name: &str| Rule::new().verdict(&Verdict::Jump(name.to_owned()));
        let goto = |pick: &Pick| Rule::new().verdict(&Verdict::Goto(pick.name()));
        match self {
            Way::To(pick, masquerading) => {
                let mark = match masquerading {
                    Masquerading::Always => Some(MARK),
                    Masquerading::OffCluster => tells_pods(config, family).then_some(MARK_OFF_CLUSTER),
                };
                let mut rules: Vec<Rule> = mark.map(jump).into_iter().collect();
                rules.push(goto(pick));
                vec![pick.chain(family), (self.name(), rules)]
            }
            Way::Split(pick, local) => {
                let mut chains = vec![pick.chain(family)];
                chains.extend(local.map(|local| local.chain(family)));
                chains.push((self.name(), split_rules(pick, local.as_ref(), config, family)));
                chains
            }
            Way::Remember { is_node_port, seconds } => {
                vec![(self.name(), vec![remember_rule(family, *is_node_port, *seconds)])]
            }
        }
    }
}

fn memory(is_node_port: bool) -> &'static str {
    if is_node_port { NODE_PORT_AFFINITY } else { AFFINITY }
}

/// Runs behind the destination NAT. A client that is known keeps its endpoint and begins its time anew.
fn remember_rule(family: Family, is_node_port: bool, seconds: u32) -> Rule {
    let layout = Layout::of(family);
    let client = layout.source(Rule::new(), R0);
    let after = R0 + layout.words;
    let (rule, got) =
        if is_node_port { base::original_port(client, after) } else { layout.original(client, after) };
    let rule = layout.destination(rule, got).load(Base::Transport, 2, 2, got + layout.words);
    rule.remember(memory(is_node_port), R0, got, Duration::from_secs(seconds.into()))
}

/// Is anything to be masqueraded on the way to cluster IPs?
fn tells_pods(config: &Config, family: Family) -> bool {
    config.masquerade_all || config.cluster_cidrs_of(family).next().is_some()
}

fn split_rules(pick: &Pick, local: Option<&Pick>, config: &Config, family: Family) -> Vec<Rule> {
    let layout = Layout::of(family);
    let to_any = Verdict::Goto(pick.name());
    let ranges = config.cluster_cidrs_of(family);
    let mut rules: Vec<Rule> = ranges.map(|range| layout.from(range).verdict(&to_any)).collect();
    let from_host = || Rule::new().is_local(Side::Source);
    rules.push(from_host().verdict(&Verdict::Jump(MARK.to_owned())));
    rules.push(from_host().verdict(&to_any));
    rules.extend(local.map(|local| Rule::new().verdict(&Verdict::Goto(local.name()))));
    rules
}
