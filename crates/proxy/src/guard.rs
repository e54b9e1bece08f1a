//! What the modes that are not packet filters themselves (ipvs, userspace) have `nft` keep out: frontends without
//! endpoints, sources outside of a load balancer's ranges, and outside traffic that policy Local has no endpoint for.
//!
//! Maps of verdicts, so that their size does not matter to a packet and a change is a change of elements:
//!
//! ```text
//! prerouting, output (new connections, before any address is changed)
//!   address . protocol . port  vmap @guard4      own address: protocol . port vmap @ports4
//!     → drop | goto refuse | goto inside4 | jump from-203.0.113.1-tcp-80
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::backend::Error;
use crate::config::Config;
use crate::program;
use crate::ruleset::{At, Family, Frontend, FrontendKind, PortName, Route, ServicePort};

/// The suffix of a family in names of maps and chains.
pub(crate) fn digit(family: Family) -> char {
    match family {
        Family::V4 => '4',
        Family::V6 => '6',
    }
}

/// The family's name as nft writes it in `FAMILY daddr`.
pub(crate) fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// Type of the family's addresses in nft.
pub(crate) fn address_type(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    }
}

/// Matches packets to those of the node's addresses that take node ports; none: there are no such addresses.
pub(crate) fn to_node(config: &Config, family: Family) -> Option<String> {
    let ip = word(family);
    match config.node_port_ranges_of(family) {
        Some(ranges) if ranges.is_empty() => None,
        Some(ranges) => Some(format!("{ip} daddr {{ {} }} fib daddr type local", list(&ranges))),
        None => {
            let loopback = if family == Family::V4 { "127.0.0.0/8" } else { "::1" };
            Some(format!("{ip} daddr != {loopback} fib daddr type local"))
        }
    }
}

/// Ranges with commas; nft does not take one that is inside another.
pub(crate) fn list(ranges: &[IpNet]) -> String {
    let all = IpNet::aggregate(&ranges.to_vec());
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The key of a frontend in a map, and the kind of map: by address and port, or by port alone.
pub(crate) fn key(at: At) -> (&'static str, String) {
    let (protocol, port) = (at.protocol.name(), at.port);
    match at.address {
        Some(address) => ("vips", format!("{address} . {protocol} . {port}")),
        None => ("ports", format!("{protocol} . {port}")),
    }
}

/// Definitions of a pair of maps: `NAMEvips4` by address, `NAMEports4` by port, for both families.
pub(crate) fn define_maps(table: &str, name: &str, value: impl Fn(Family) -> String) -> String {
    let mut text = String::new();
    for family in Family::BOTH {
        let (d, address, value) = (digit(family), address_type(family), value(family));
        let _ = writeln!(
            text,
            "add map inet {table} {name}vips{d} {{ type {address} . inet_proto . inet_service : {value}; }}\n\
             add map inet {table} {name}ports{d} {{ type inet_proto . inet_service : {value}; }}"
        );
    }
    text
}

/// The fixed part: maps, chains and hooks.
pub(crate) fn base(table: &str, config: &Config) -> String {
    let mut text = define_maps(table, "guard_", |_| "verdict".into());
    let _ = writeln!(text, "add chain inet {table} refuse\nadd rule inet {table} refuse reject");
    for family in Family::BOTH {
        let d = digit(family);
        let _ = writeln!(text, "add chain inet {table} inside{d}");
        for rule in inside(config, family) {
            let _ = writeln!(text, "add rule inet {table} inside{d} {rule}");
        }
        let _ = writeln!(text, "add rule inet {table} inside{d} drop");
    }
    let _ =
        writeln!(text, "add chain inet {table} guard\nadd rule inet {table} guard ct state != new return");
    for family in Family::BOTH {
        let (ip, d) = (word(family), digit(family));
        let _ = writeln!(
            text,
            "add rule inet {table} guard {ip} daddr . meta l4proto . th dport vmap @guard_vips{d}"
        );
        if let Some(local) = to_node(config, family) {
            let _ = writeln!(
                text,
                "add rule inet {table} guard {local} meta l4proto . th dport vmap @guard_ports{d}"
            );
        }
    }
    for hook in ["prerouting", "output"] {
        let _ = writeln!(
            text,
            "add chain inet {table} guard_{hook} {{ type filter hook {hook} priority -145; }}\n\
             add rule inet {table} guard_{hook} jump guard"
        );
    }
    text
}

/// Rules that return for the cluster's own traffic: from pods and from this host.
pub(crate) fn inside(config: &Config, family: Family) -> Vec<String> {
    let ranges: Vec<IpNet> = config.cluster_cidrs_of(family).copied().collect();
    let mut rules = Vec::new();
    if !ranges.is_empty() {
        rules.push(format!("{} saddr {{ {} }} return", word(family), list(&ranges)));
    }
    rules.push(format!("meta nfproto {} fib saddr type local return", nfproto(family)));
    rules
}

/// The family's name in `meta nfproto`.
pub(crate) fn nfproto(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

/// Things in a table that can be compared, added and taken away.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Elements {
    /// Map and key → value; no value in a set.
    pub maps: BTreeMap<(String, String), String>,
    /// Chain → rules; an element that leads there comes after it and goes before it.
    pub chains: BTreeMap<String, Vec<String>>,
}

impl Elements {
    /// Adds what the guard needs for one service port.
    pub(crate) fn guard(&mut self, name: &PortName, port: &ServicePort) {
        for frontend in &port.frontends {
            let (map, key) = key(frontend.at);
            let verdict = match frontend.route {
                Route::Reject => Some("goto refuse".to_owned()),
                Route::Drop => Some("drop".to_owned()),
                _ => self.narrow(name, port, frontend),
            };
            if let Some(verdict) = verdict {
                self.maps.insert((format!("guard_{map}{}", digit(name.family)), key), verdict);
            }
        }
    }

    /// For frontends that let some in.
    fn narrow(&mut self, name: &PortName, port: &ServicePort, frontend: &Frontend) -> Option<String> {
        let d = digit(name.family);
        let is_inside_only = frontend.route == Route::Split && port.local.is_empty();
        let guarded = frontend
            .at
            .address
            .filter(|_| frontend.kind == FrontendKind::LoadBalancerIp && !port.source_ranges.is_empty());
        let Some(address) = guarded else { return is_inside_only.then(|| format!("goto inside{d}")) };
        let chain = format!("from-{}-{}-{}", plain(address), frontend.at.protocol.name(), frontend.at.port);
        let onward = if is_inside_only { format!("goto inside{d}") } else { "return".into() };
        // A node that has the balancer's address itself may use it as source.
        let all: Vec<IpNet> = port.source_ranges.iter().copied().chain([address.into()]).collect();
        let let_in = format!("{} saddr {{ {} }} {onward}", word(name.family), list(&all));
        self.chains.insert(chain.clone(), vec![let_in, "drop".into()]);
        Some(format!("jump {chain}"))
    }

    /// Commands that turn `self` into `new` in `table`.
    pub(crate) fn change_to(&self, new: &Self, table: &str) -> String {
        let mut text = String::new();
        for (key, value) in &self.maps {
            if new.maps.get(key) != Some(value) {
                let _ = writeln!(text, "delete element inet {table} {} {{ {} }}", key.0, key.1);
            }
        }
        let changed: BTreeSet<&String> = new
            .chains
            .iter()
            .filter(|(name, rules)| self.chains.get(*name) != Some(rules))
            .map(|c| c.0)
            .collect();
        for name in changed {
            let _ = writeln!(text, "add chain inet {table} {name}\nflush chain inet {table} {name}");
            for rule in &new.chains[name] {
                let _ = writeln!(text, "add rule inet {table} {name} {rule}");
            }
        }
        for (key, value) in &new.maps {
            if self.maps.get(key) != Some(value) {
                let value = if value.is_empty() { String::new() } else { format!(" : {value}") };
                let _ = writeln!(text, "add element inet {table} {} {{ {}{value} }}", key.0, key.1);
            }
        }
        for name in self.chains.keys().filter(|name| !new.chains.contains_key(*name)) {
            let _ = writeln!(text, "flush chain inet {table} {name}\ndelete chain inet {table} {name}");
        }
        text
    }

    /// Takes in another one's things.
    pub(crate) fn merge(&mut self, other: Self) {
        self.maps.extend(other.maps);
        self.chains.extend(other.chains);
    }
}

/// An address as part of a chain's name.
fn plain(address: IpAddr) -> String {
    address.to_string().replace(':', "_")
}

/// Commands that remove the table, there or not.
pub(crate) fn removal(table: &str) -> String {
    format!("add table inet {table}\ndelete table inet {table}\n")
}

/// Feeds commands to `nft`: all or nothing. Returns the program's process id, if one was needed.
pub(crate) async fn apply(commands: &str) -> Result<Option<u32>, Error> {
    if commands.is_empty() {
        return Ok(None);
    }
    program::run_noted("nft", &["-f", "-"], commands).await.map(|(_, id)| Some(id))
}

/// Removes a table; without the program there is none.
pub(crate) async fn remove(table: &str) -> Result<(), Error> {
    match apply(&removal(table)).await {
        Err(Error::Program { why, .. }) if why.starts_with("cannot start") => Ok(()),
        other => other.map(drop),
    }
}
