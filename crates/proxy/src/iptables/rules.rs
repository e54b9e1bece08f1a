//! The rules of the iptables mode, pure.
//!
//! ```text
//! nat     PREROUTING, OUTPUT → C-SERVICES → C-VIPS ──────────► C-SVC-x (all endpoints)
//!                                         → C-NODEPORTS (own     C-SVL-x (those on this node)
//!                                           addresses)           C-EXT-x (from outside: masquerade or policy Local)
//!                                                                C-FW-x  (source ranges, then C-EXT-x)
//!                                                                  └► C-SEP-y (one endpoint: DNAT)
//!         POSTROUTING → C-POSTROUTING: masquerade what is marked
//! filter  INPUT, FORWARD, OUTPUT (new) → C-FIREWALL → C-VIPFW, C-NODEFW: reject or drop what was not led on
//! ```
//!
//! `C` is the cluster's name; upstream's chains have the same tasks and the prefix `KUBE`.

use std::collections::BTreeMap;

use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::Chains;
use crate::config::{Config, MASQUERADE_MARK};
use crate::ruleset::{
    At, Endpoint, Family, Frontend, FrontendKind, Masquerade, PortName, Route, ServicePort,
};

/// Bytes of a hash in a chain's name: a name of 11 characters, `-SVC-` and these in hex make 28, the most that iptables takes.
const HASH_BYTES: usize = 6;

/// The tables we write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    Nat = 0,
    Filter = 1,
}

impl Table {
    pub(super) const BOTH: [Self; 2] = [Self::Nat, Self::Filter];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Filter => "filter",
        }
    }
}

/// The cluster's name in front of everything, and the ranges of one family.
#[derive(Debug)]
pub(super) struct Names {
    cluster: String,
    family: Family,
    cluster_cidrs: Vec<IpNet>,
    node_ports: Option<Vec<IpNet>>,
    masquerade_all: bool,
}

impl Names {
    pub(super) fn new(config: &Config, family: Family) -> Self {
        Self {
            cluster: config.cluster_name.clone(),
            family,
            cluster_cidrs: config.cluster_cidrs_of(family).copied().collect(),
            node_ports: config.node_port_ranges_of(family),
            masquerade_all: config.masquerade_all,
        }
    }

    fn chain(&self, what: &str) -> String {
        format!("{}-{what}", self.cluster)
    }

    /// Whether a chain is this cluster's: `a` and `a-b` may be two clusters, so the rest of the name counts, too.
    pub(super) fn is_ours(&self, chain: &str) -> bool {
        let rest = chain.strip_prefix(&self.cluster).and_then(|rest| rest.strip_prefix('-'));
        rest.is_some_and(|rest| {
            FIXED.contains(&rest)
                || rest.split_once('-').is_some_and(|(kind, hash)| {
                    KINDS.contains(&kind) && hash.bytes().all(|b| b.is_ascii_hexdigit())
                })
        })
    }
}

/// Chains that are always there.
const FIXED: [&str; 9] = [
    "SERVICES",
    "VIPS",
    "NODEPORTS",
    "MARK-MASQ",
    "OFF-CLUSTER",
    "POSTROUTING",
    "FIREWALL",
    "VIPFW",
    "NODEFW",
];
/// Kinds of chains that belong to a service port or an endpoint of one.
const KINDS: [&str; 5] = ["SVC", "SVL", "EXT", "FW", "SEP"];

/// What one service port adds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Piece {
    /// Its own chains in the nat table.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Rules in chains that all services share.
    pub shared: BTreeMap<(Table, String), Vec<String>>,
}

/// Rules in the kernel's own chains: hook, and what comes after it.
pub(super) fn hooks(names: &Names, table: Table) -> Vec<(&'static str, String)> {
    match table {
        Table::Nat => vec![
            ("PREROUTING", format!("-j {}", names.chain("SERVICES"))),
            ("OUTPUT", format!("-j {}", names.chain("SERVICES"))),
            ("POSTROUTING", format!("-j {}", names.chain("POSTROUTING"))),
        ]
        .into_iter()
        .map(with_space)
        .collect(),
        Table::Filter => ["INPUT", "FORWARD", "OUTPUT"]
            .into_iter()
            .map(|hook| (hook, format!("-m conntrack --ctstate NEW -j {}", names.chain("FIREWALL"))))
            .collect(),
    }
}

/// A jump without conditions, made so that it reads like one with a condition.
fn with_space((hook, rule): (&'static str, String)) -> (&'static str, String) {
    (hook, format!("-m comment --comment \"service portals\" {rule}"))
}

/// Chains that do not depend on services.
pub(super) fn fixed(names: &Names) -> Chains {
    let mark = format!("{MASQUERADE_MARK:#x}/{MASQUERADE_MARK:#x}");
    let nat = [
        ("SERVICES", services(names)),
        ("VIPS", vec![]),
        ("NODEPORTS", vec![]),
        ("MARK-MASQ", vec![format!("-j MARK --or-mark {MASQUERADE_MARK:#x}")]),
        ("OFF-CLUSTER", off_cluster(names)),
        (
            "POSTROUTING",
            vec![
                format!("-m mark ! --mark {mark} -j RETURN"),
                format!("-j MARK --xor-mark {MASQUERADE_MARK:#x}"),
                "-j MASQUERADE --random-fully".into(),
            ],
        ),
    ];
    let filter = [
        ("FIREWALL", [vec![format!("-j {}", names.chain("VIPFW"))], to_node(names, "NODEFW")].concat()),
        ("VIPFW", vec![]),
        ("NODEFW", vec![]),
    ];
    let named = |(what, rules): (&str, Vec<String>)| (names.chain(what), rules);
    [nat.into_iter().map(named).collect(), filter.into_iter().map(named).collect()]
}

fn services(names: &Names) -> Vec<String> {
    [vec![format!("-j {}", names.chain("VIPS"))], to_node(names, "NODEPORTS")].concat()
}

/// Jumps for packets to those of the node's own addresses that take node ports.
fn to_node(names: &Names, chain: &str) -> Vec<String> {
    let target = names.chain(chain);
    let local = "-m addrtype --dst-type LOCAL";
    let loopback = match names.family {
        Family::V4 => "127.0.0.0/8",
        Family::V6 => "::1/128",
    };
    match &names.node_ports {
        None => vec![format!("! -d {loopback} {local} -j {target}")],
        Some(ranges) => ranges.iter().map(|range| format!("-d {range} {local} -j {target}")).collect(),
    }
}

/// Marks what comes from outside of the cluster; nothing when nobody knows what that is.
fn off_cluster(names: &Names) -> Vec<String> {
    let mark = format!("-j {}", names.chain("MARK-MASQ"));
    if names.masquerade_all {
        return vec![mark];
    }
    if names.cluster_cidrs.is_empty() {
        return vec![];
    }
    let inside = names.cluster_cidrs.iter().map(|range| format!("-s {range} -j RETURN"));
    inside.chain([mark]).collect()
}

/// Everything that one service port needs.
pub(super) fn piece(names: &Names, name: &PortName, port: &ServicePort) -> Piece {
    let mut made = Maker { names, name, port, hash: hash(&[&full_name(name)]), piece: Piece::default() };
    for frontend in &port.frontends {
        made.frontend(frontend);
    }
    made.piece
}

fn full_name(name: &PortName) -> String {
    format!("{name}")
}

fn hash(parts: &[&str]) -> String {
    let digest = Sha256::digest(parts.join(" ").as_bytes());
    hex::encode(&digest[..HASH_BYTES])
}

struct Maker<'a> {
    names: &'a Names,
    name: &'a PortName,
    port: &'a ServicePort,
    hash: String,
    piece: Piece,
}

impl Maker<'_> {
    fn chain(&self, kind: &str) -> String {
        self.names.chain(&format!("{kind}-{}", self.hash))
    }

    fn share(&mut self, table: Table, chain: &str, rule: String) {
        self.piece.shared.entry((table, self.names.chain(chain))).or_default().push(rule);
    }

    fn frontend(&mut self, frontend: &Frontend) {
        let packets = packets(frontend.at);
        let (way, wall) = match frontend.at.address {
            Some(_) => ("VIPS", "VIPFW"),
            None => ("NODEPORTS", "NODEFW"),
        };
        match frontend.route {
            Route::Reject => self.share(Table::Filter, wall, format!("{packets} -j REJECT")),
            Route::Drop => self.share(Table::Filter, wall, format!("{packets} -j DROP")),
            route => {
                let target = self.way_in(frontend, route);
                let comment = format!("-m comment --comment \"{}\"", self.name);
                self.share(Table::Nat, way, format!("{packets} {comment} -j {target}"));
                // Who is not let through by ranges or by policy Local still has the service's address as destination.
                let is_guarded =
                    frontend.kind == FrontendKind::LoadBalancerIp && !self.port.source_ranges.is_empty();
                if is_guarded || (route == Route::Split && self.port.local.is_empty()) {
                    self.share(Table::Filter, wall, format!("{packets} -j DROP"));
                }
            }
        }
    }

    /// The chain that a frontend leads to.
    fn way_in(&mut self, frontend: &Frontend, route: Route) -> String {
        if frontend.kind == FrontendKind::ClusterIp {
            let chain = self.endpoints(route == Route::Local);
            let rule = format!("{} -j {}", packets(frontend.at), self.names.chain("OFF-CLUSTER"));
            let rules = self.piece.chains.entry(chain.clone()).or_default();
            rules.insert(0, rule);
            return chain;
        }
        let external = self.external(frontend, route);
        if frontend.kind == FrontendKind::LoadBalancerIp && !self.port.source_ranges.is_empty() {
            return self.firewall(frontend, &external);
        }
        external
    }

    fn external(&mut self, frontend: &Frontend, route: Route) -> String {
        let chain = self.chain("EXT");
        let mark = self.names.chain("MARK-MASQ");
        let rules = match route {
            Route::Split => self.split(&mark),
            _ if frontend.masquerade() == Masquerade::Always => {
                vec![format!("-j {mark}"), format!("-j {}", self.endpoints(route == Route::Local))]
            }
            _ => vec![format!("-j {}", self.endpoints(route == Route::Local))],
        };
        self.piece.chains.insert(chain.clone(), rules);
        chain
    }

    /// Policy Local: the cluster's own traffic goes everywhere, other traffic to this node's endpoints.
    fn split(&mut self, mark: &str) -> Vec<String> {
        let all = self.endpoints(false);
        let ranges = self.names.cluster_cidrs.iter();
        let mut rules: Vec<String> = ranges.map(|range| format!("-s {range} -j {all}")).collect();
        rules.push(format!("-m addrtype --src-type LOCAL -j {mark}"));
        rules.push(format!("-m addrtype --src-type LOCAL -j {all}"));
        if !self.port.local.is_empty() {
            let here = self.endpoints(true);
            rules.push(format!("-j {here}"));
        }
        rules
    }

    fn firewall(&mut self, frontend: &Frontend, onward: &str) -> String {
        let chain = self.chain("FW");
        let ranges = self.port.source_ranges.iter().map(|range| format!("-s {range} -j {onward}"));
        // A node that has the balancer's address itself may use it as source.
        let own = frontend.at.address.map(|address| format!("-s {address} -j {onward}"));
        self.piece.chains.insert(chain.clone(), ranges.chain(own).collect());
        chain
    }

    /// The chain that picks one of all endpoints, or of those on this node.
    fn endpoints(&mut self, is_local: bool) -> String {
        let chain = self.chain(if is_local { "SVL" } else { "SVC" });
        if self.piece.chains.contains_key(&chain) {
            return chain;
        }
        let all = if is_local { &self.port.local } else { &self.port.cluster };
        let targets: Vec<String> = all.iter().map(|endpoint| self.endpoint(endpoint)).collect();
        let mut rules = Vec::new();
        if let Some(seconds) = self.port.affinity_s {
            let stay =
                |to: &String| format!("-m recent --name {to} --rcheck --seconds {seconds} --reap -j {to}");
            rules.extend(targets.iter().map(stay));
        }
        rules.extend(targets.iter().enumerate().map(|(at, to)| one_of(targets.len() - at, to)));
        self.piece.chains.insert(chain.clone(), rules);
        chain
    }

    fn endpoint(&mut self, endpoint: &Endpoint) -> String {
        let Endpoint { address, port, .. } = endpoint;
        let target = match self.names.family {
            Family::V4 => format!("{address}:{port}"),
            Family::V6 => format!("[{address}]:{port}"),
        };
        let chain = self.names.chain(&format!("SEP-{}", hash(&[&full_name(self.name), &target])));
        let protocol = self.port.protocol.name();
        let mut rules = vec![format!("-s {address} -j {}", self.names.chain("MARK-MASQ"))];
        if self.port.affinity_s.is_some() {
            rules.push(format!("-m recent --name {chain} --set"));
        }
        rules.push(format!("-p {protocol} -m {protocol} -j DNAT --to-destination {target}"));
        self.piece.chains.insert(chain.clone(), rules);
        chain
    }
}

/// The rule that takes the first of `left` endpoints with equal chances.
fn one_of(left: usize, to: &str) -> String {
    match left {
        1 => format!("-j {to}"),
        _ => {
            let chance = 1.0 / left as f64;
            format!("-m statistic --mode random --probability {chance:.10} -j {to}")
        }
    }
}

/// Matches the packets of a frontend.
fn packets(at: At) -> String {
    let protocol = at.protocol.name();
    let to = at.address.map(|address| format!("-d {address} ")).unwrap_or_default();
    format!("{to}-p {protocol} -m {protocol} --dport {}", at.port)
}
