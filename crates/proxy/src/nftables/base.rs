//! What is the same whatever services there are: hooks, dispatch by maps, marks and masquerade.

use std::net::IpAddr;

use corten_sys::netfilter::nft::{Base, Batch, ChainType, Ct, Hook, Meta, R0, Rule, Side, Table, Verdict};
use ipnet::IpNet;

use super::names::{self, *};
use crate::config::{Config, MASQUERADE_MARK};
use crate::ruleset::Family;

pub(super) const MARK: &str = "mark-for-masquerade";
pub(super) const MARK_OFF_CLUSTER: &str = "mark-off-cluster";
pub(super) const REJECT: &str = "reject";
const SERVICES_CHAIN: &str = "dispatch";
const NO_ENDPOINTS_CHECK: &str = "no-endpoints-check";
const CLUSTER_IPS_CHECK: &str = "cluster-ips-check";
const FIREWALL_CHECK: &str = "firewall-check";
const MASQUERADING: &str = "masquerading";
const REMEMBER: &str = "remember";

/// `NF_CT_STATE_BIT(IP_CT_NEW)`, `IPS_DST_NAT`.
const STATE_NEW: u32 = 8;
const STATUS_DNAT: u32 = 32;
const TCP: u8 = 6;
/// Before and at destination NAT, at filters, before and at source NAT.
const BEFORE_DNAT: i32 = -110;
const DNAT: i32 = -100;
const FILTER: i32 = 0;
const BEFORE_SNAT: i32 = 99;
const SNAT: i32 = 100;

/// Where addresses stand in the header of a family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    source: u32,
    destination: u32,
    length: u32,
    /// Registers that an address takes.
    pub words: u32,
}

impl Layout {
    pub(super) fn of(family: Family) -> Self {
        match family {
            Family::V4 => Layout { source: 12, destination: 16, length: 4, words: 1 },
            Family::V6 => Layout { source: 8, destination: 24, length: 16, words: 4 },
        }
    }

    pub(super) fn source(&self, rule: Rule, into: u32) -> Rule {
        rule.load(Base::Network, self.source, self.length, into)
    }

    pub(super) fn destination(&self, rule: Rule, into: u32) -> Rule {
        rule.load(Base::Network, self.destination, self.length, into)
    }

    /// Address, protocol and port into registers in a row; returns the one after.
    pub(super) fn service(&self, rule: Rule, into: u32) -> (Rule, u32) {
        port(self.destination(rule, into), into + self.words)
    }

    /// The address, protocol and port that the flow's first packet was sent to; returns the register after.
    pub(super) fn original(&self, rule: Rule, into: u32) -> (Rule, u32) {
        let key = if self.words == 1 { Ct::OriginalIp } else { Ct::OriginalIp6 };
        original_port(rule.ct(key, into), into + self.words)
    }

    /// Goes on only if the address that [`Layout::source`] or [`Layout::destination`] loaded is in the range (or is not).
    pub(super) fn within(rule: Rule, range: &IpNet, is_in: bool) -> Rule {
        let network = names::address(range.network());
        let is_single = range.prefix_len() == range.max_prefix_len();
        let mask = names::address(range.netmask());
        let zero = vec![0; mask.len()];
        let rule = if is_single { rule } else { rule.bits(R0, &mask, &zero) };
        rule.compare(R0, is_in, &network)
    }

    pub(super) fn from(&self, range: &IpNet) -> Rule {
        Self::within(self.source(Rule::new(), R0), range, true)
    }

    pub(super) fn to(&self, range: &IpNet) -> Rule {
        Self::within(self.destination(Rule::new(), R0), range, true)
    }
}

/// Protocol and port into registers in a row; returns the one after.
pub(super) fn port(rule: Rule, into: u32) -> (Rule, u32) {
    (rule.meta(Meta::Protocol, into).load(Base::Transport, 2, 2, into + 1), into + 2)
}

/// Protocol and port that the flow's first packet was sent to; returns the register after.
pub(super) fn original_port(rule: Rule, into: u32) -> (Rule, u32) {
    (rule.meta(Meta::Protocol, into).ct(Ct::OriginalPort, into + 1), into + 2)
}

/// Writes the parts of one table that do not depend on services.
pub(super) struct Writer<'a> {
    pub config: &'a Config,
    pub family: Family,
    pub table: &'a Table,
    pub batch: &'a mut Batch,
}

impl Writer<'_> {
    /// Table, sets, chains and their rules.
    pub(super) fn write(&mut self) {
        self.batch.add_table(self.table);
        for set in names::sets(self.family) {
            self.batch.add_set(self.table, &set);
        }
        self.write_marks();
        self.write_dispatch();
        self.write_refusals();
        self.write_firewall();
        self.write_memory();
        self.write_masquerade();
        self.write_hooks();
    }

    fn chain(&mut self, name: &str, rules: &[Rule]) {
        self.batch.add_chain(self.table, name);
        for rule in rules {
            self.batch.add_rule(self.table, name, rule);
        }
    }

    fn write_marks(&mut self) {
        let all_but = (!MASQUERADE_MARK).to_ne_bytes();
        let mark = MASQUERADE_MARK.to_ne_bytes();
        let set = || Rule::new().meta(Meta::Mark, R0).bits(R0, &all_but, &mark).set_mark(R0);
        self.chain(MARK, &[set()]);
        let layout = Layout::of(self.family);
        let ranges = self.config.cluster_cidrs_of(self.family);
        let inside = ranges.filter(|_| !self.config.masquerade_all);
        let mut rules: Vec<Rule> = inside.map(|r| layout.from(r).verdict(&Verdict::Return)).collect();
        rules.push(set());
        self.chain(MARK_OFF_CLUSTER, &rules);
    }

    fn write_dispatch(&mut self) {
        let (rule, _) = Layout::of(self.family).service(Rule::new(), R0);
        let mut rules = vec![rule.verdict_map(SERVICES, R0)];
        rules.extend(self.to_node_ports().into_iter().map(|r| port(r, R0).0.verdict_map(NODE_PORTS, R0)));
        self.chain(SERVICES_CHAIN, &rules);
    }

    /// Beginnings of rules for packets to addresses that take node ports.
    fn to_node_ports(&self) -> Vec<Rule> {
        let layout = Layout::of(self.family);
        let local = || Rule::new().is_local(Side::Destination);
        if let Some(ranges) = self.config.node_port_ranges_of(self.family) {
            let each =
                ranges.iter().map(|range| Layout::within(layout.destination(local(), R0), range, true));
            return each.collect();
        }
        vec![Layout::within(layout.destination(local(), R0), &loopback(self.family), false)]
    }

    fn write_refusals(&mut self) {
        let family = names::sys_family(self.family);
        let tcp = Rule::new().meta(Meta::Protocol, R0).compare(R0, true, &[TCP]);
        self.chain(REJECT, &[tcp.reject_tcp(), Rule::new().reject(family)]);
        let layout = Layout::of(self.family);
        let mut rules = vec![layout.service(Rule::new(), R0).0.verdict_map(NO_ENDPOINTS, R0)];
        rules.extend(
            self.to_node_ports().into_iter().map(|r| port(r, R0).0.verdict_map(NO_ENDPOINT_NODE_PORTS, R0)),
        );
        self.chain(NO_ENDPOINTS_CHECK, &rules);
        let reject = Verdict::Goto(REJECT.into());
        let known = layout.destination(Rule::new(), R0).is_in(CLUSTER_IPS, R0).verdict(&reject);
        let mut rules = vec![known];
        for range in self.config.service_cidrs_of(self.family) {
            // An address of the range that this host itself has (cluster DNS) is none of ours.
            rules.push(layout.to(range).is_local(Side::Destination).verdict(&Verdict::Return));
            rules.push(layout.to(range).verdict(&Verdict::Drop));
        }
        self.chain(CLUSTER_IPS_CHECK, &rules);
    }

    fn write_firewall(&mut self) {
        let (rule, _) = Layout::of(self.family).service(Rule::new(), R0);
        self.chain(FIREWALL_CHECK, &[rule.verdict_map(FIREWALL, R0)]);
    }

    /// Clients are remembered behind the destination NAT, where the packet says which endpoint it got.
    fn write_memory(&mut self) {
        let led = || has_bits(Rule::new().ct(Ct::Status, R0), STATUS_DNAT);
        let (service, _) = Layout::of(self.family).original(led(), R0);
        let (node_port, _) = original_port(led(), R0);
        let rules = [service.verdict_map(STICKY, R0), node_port.verdict_map(STICKY_NODE_PORTS, R0)];
        self.chain(REMEMBER, &rules);
    }

    fn write_masquerade(&mut self) {
        let layout = Layout::of(self.family);
        let (zero, all, mark) = (0u32.to_ne_bytes(), u32::MAX.to_ne_bytes(), MASQUERADE_MARK.to_ne_bytes());
        let led = has_bits(Rule::new().ct(Ct::Status, R0), STATUS_DNAT);
        let itself = layout.destination(layout.source(led, R0), R0 + layout.words);
        let unmarked = Rule::new().meta(Meta::Mark, R0).bits(R0, &mark, &zero).compare(R0, true, &zero);
        let rules = [
            itself.is_in(HAIRPINS, R0).masquerade(),
            unmarked.verdict(&Verdict::Return),
            Rule::new().meta(Meta::Mark, R0).bits(R0, &all, &mark).set_mark(R0),
            Rule::new().masquerade(),
        ];
        self.chain(MASQUERADING, &rules);
    }

    fn write_hooks(&mut self) {
        use ChainType::{Filter, Nat};
        let hooks: [(&str, ChainType, Hook, i32, &[&str]); 10] = [
            ("firewall-prerouting", Filter, Hook::Prerouting, BEFORE_DNAT, &[FIREWALL_CHECK]),
            ("firewall-output", Filter, Hook::Output, BEFORE_DNAT, &[FIREWALL_CHECK]),
            ("filter-input", Filter, Hook::Input, FILTER, &[NO_ENDPOINTS_CHECK]),
            ("filter-forward", Filter, Hook::Forward, FILTER, &[NO_ENDPOINTS_CHECK, CLUSTER_IPS_CHECK]),
            ("filter-output", Filter, Hook::Output, FILTER, &[NO_ENDPOINTS_CHECK, CLUSTER_IPS_CHECK]),
            ("nat-prerouting", Nat, Hook::Prerouting, DNAT, &[SERVICES_CHAIN]),
            ("nat-output", Nat, Hook::Output, DNAT, &[SERVICES_CHAIN]),
            // Who masquerades first ends the way through the chains of its hook: clients are remembered before anybody does,
            // be it the pod network or another cluster on this host.
            ("remember-input", Nat, Hook::Input, BEFORE_SNAT, &[REMEMBER]),
            ("remember-postrouting", Nat, Hook::Postrouting, BEFORE_SNAT, &[REMEMBER]),
            ("nat-postrouting", Nat, Hook::Postrouting, SNAT, &[MASQUERADING]),
        ];
        for (name, kind, hook, priority, targets) in hooks {
            self.batch.add_base_chain(self.table, name, kind, hook, priority);
            for target in targets {
                // Chains of type nat see the first packet only; filters must ask for it.
                let rule = match kind {
                    Nat => Rule::new(),
                    Filter => has_bits(Rule::new().ct(Ct::State, R0), STATE_NEW),
                };
                self.batch.add_rule(self.table, name, &rule.verdict(&Verdict::Jump((*target).to_owned())));
            }
        }
    }
}

fn has_bits(rule: Rule, bits: u32) -> Rule {
    let zero = 0u32.to_ne_bytes();
    rule.bits(R0, &bits.to_ne_bytes(), &zero).compare(R0, false, &zero)
}

fn loopback(family: Family) -> IpNet {
    let (address, prefix): (IpAddr, u8) = match family {
        Family::V4 => ([127, 0, 0, 0].into(), 8),
        Family::V6 => (std::net::Ipv6Addr::LOCALHOST.into(), 128),
    };
    IpNet::new_assert(address, prefix)
}
