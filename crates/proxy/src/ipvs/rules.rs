//! What IPVS cannot do by itself: whose source address is changed, and policy Local for the cluster's own traffic.
//!
//! ```text
//! prerouting, output   guard: what must not get through (guard.rs)
//!                      masq: marks what will be masqueraded
//!                      inner: from inside the cluster to a frontend with policy Local → to its cluster IP (DNAT)
//!   … IPVS …
//! postrouting          masquerades what is marked, and what an endpoint sends to itself
//! ```

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::config::{Config, MASQUERADE_MARK};
use crate::guard::{self, Elements, address_type, digit, list, nfproto, word};
use crate::ruleset::{Endpoint, Family, Frontend, FrontendKind, Masquerade, PortName, Route, ServicePort};

/// The fixed part of the table.
pub(super) fn base(table: &str, config: &Config) -> String {
    let mut text = guard::base(table, config);
    text += &guard::define_maps(table, "masq_", |_| "verdict".into());
    text += &guard::define_maps(table, "inner_", |family| format!("{} . inet_service", address_type(family)));
    let mark = format!("meta mark set meta mark or {MASQUERADE_MARK:#x}");
    let _ = writeln!(
        text,
        "add chain inet {table} mark_all\nadd rule inet {table} mark_all {mark}\n\
         add chain inet {table} mark_host\nadd rule inet {table} mark_host fib saddr type local {mark}\n\
         add chain inet {table} masq\nadd rule inet {table} masq ct state != new return\n\
         add chain inet {table} inner\n\
         add chain inet {table} leave {{ type nat hook postrouting priority 100; }}\n\
         add rule inet {table} leave meta mark and {MASQUERADE_MARK:#x} == {MASQUERADE_MARK:#x} \
         meta mark set meta mark xor {MASQUERADE_MARK:#x} masquerade fully-random"
    );
    for family in Family::BOTH {
        text += &of_family(table, config, family, &mark);
    }
    for hook in ["prerouting", "output"] {
        let _ = writeln!(
            text,
            "add chain inet {table} masq_{hook} {{ type filter hook {hook} priority -140; }}\n\
             add rule inet {table} masq_{hook} jump masq\n\
             add chain inet {table} inner_{hook} {{ type nat hook {hook} priority -100; }}\n\
             add rule inet {table} inner_{hook} jump inner"
        );
    }
    text
}

fn of_family(table: &str, config: &Config, family: Family, mark: &str) -> String {
    let (ip, d, address) = (word(family), digit(family), address_type(family));
    let mut text = String::new();
    let _ = writeln!(text, "add chain inet {table} mark_off{d}");
    for rule in off_cluster(config, family, mark) {
        let _ = writeln!(text, "add rule inet {table} mark_off{d} {rule}");
    }
    let vip = format!("{ip} daddr . meta l4proto . th dport");
    let _ = writeln!(
        text,
        "add set inet {table} loop{d} {{ type {address} . inet_proto . inet_service . {address}; }}\n\
         add rule inet {table} leave {vip} . {ip} saddr @loop{d} masquerade fully-random\n\
         add rule inet {table} masq {vip} vmap @masq_vips{d}\n\
         add chain inet {table} inner{d}"
    );
    let dnat = format!("meta l4proto {{ tcp, udp, sctp }} dnat {ip} to");
    let _ = writeln!(text, "add rule inet {table} inner{d} {dnat} {vip} map @inner_vips{d}");
    if let Some(local) = guard::to_node(config, family) {
        let port = "meta l4proto . th dport";
        let _ = writeln!(
            text,
            "add rule inet {table} masq {local} {port} vmap @masq_ports{d}\n\
             add rule inet {table} inner{d} {local} {dnat} {port} map @inner_ports{d}"
        );
    }
    let ranges: Vec<_> = config.cluster_cidrs_of(family).copied().collect();
    if !ranges.is_empty() {
        let _ =
            writeln!(text, "add rule inet {table} inner {ip} saddr {{ {} }} jump inner{d}", list(&ranges));
    }
    let host = format!("meta nfproto {} fib saddr type local", nfproto(family));
    let _ = writeln!(text, "add rule inet {table} inner {host} jump inner{d}");
    text
}

/// Marks what comes from outside of the cluster. What this host sends to a service has the service's own address as source,
/// because that is one of the host's: it must be changed in any case.
fn off_cluster(config: &Config, family: Family, mark: &str) -> Vec<String> {
    let ranges: Vec<_> = config.cluster_cidrs_of(family).copied().collect();
    if config.masquerade_all {
        return vec![mark.into()];
    }
    if ranges.is_empty() {
        return vec![format!("fib saddr type local {mark}")];
    }
    vec![format!("{} saddr {{ {} }} return", word(family), list(&ranges)), mark.into()]
}

/// What one service port has in the table.
pub(super) fn elements(name: &PortName, port: &ServicePort) -> Elements {
    let mut all = Elements::default();
    all.guard(name, port);
    let d = digit(name.family);
    for frontend in port.frontends.iter().filter(|f| !matches!(f.route, Route::Reject | Route::Drop)) {
        let (map, key) = guard::key(frontend.at);
        let verdict = match frontend.masquerade() {
            Masquerade::Always => "goto mark_all".to_owned(),
            Masquerade::FromHost => "goto mark_host".to_owned(),
            Masquerade::OffCluster => format!("goto mark_off{d}"),
        };
        all.maps.insert((format!("masq_{map}{d}"), key.clone()), verdict);
        if let Some(inner) = inner(port, frontend) {
            all.maps.insert((format!("inner_{map}{d}"), key), inner);
        }
    }
    all
}

/// Set and key of each endpoint that may reach itself through the service. Services may share endpoints.
pub(super) fn loops(name: &PortName, port: &ServicePort) -> Vec<(String, String)> {
    let entry = |endpoint: &Endpoint| {
        let (address, protocol) = (endpoint.address, port.protocol.name());
        let key = format!("{address} . {protocol} . {} . {address}", endpoint.port);
        (format!("loop{}", digit(name.family)), key)
    };
    port.reachable().iter().map(entry).collect()
}

/// The cluster IP and port that stand for a frontend with policy Local, seen from inside.
fn inner(port: &ServicePort, frontend: &Frontend) -> Option<String> {
    if frontend.route != Route::Split {
        return None;
    }
    let all =
        port.frontends.iter().find(|f| f.kind == FrontendKind::ClusterIp && f.route == Route::Cluster)?;
    let address: IpAddr = all.at.address?;
    Some(format!("{address} . {}", all.at.port))
}
