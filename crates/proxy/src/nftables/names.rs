//! What stands in the table, by name, and how keys and values are laid out in it.

use std::net::IpAddr;

use corten_sys::netfilter::nft::{DataType, Set, Table, Values};
use corten_sys::netfilter::{self};

use crate::ruleset::{At, Endpoint, Family};

/// Address, protocol, port → the chain for cluster IPs, external IPs and load balancer IPs.
pub(super) const SERVICES: &str = "services";
/// Protocol, port → the chain for node ports.
pub(super) const NODE_PORTS: &str = "nodeports";
/// Address, protocol, port, number → endpoint.
pub(super) const ENDPOINTS: &str = "endpoints";
/// The same for policy Local where policy Cluster stands beside it.
pub(super) const LOCAL_ENDPOINTS: &str = "local-endpoints";
/// Protocol, port, number → endpoint.
pub(super) const NODE_PORT_ENDPOINTS: &str = "nodeport-endpoints";
/// The same for policy Local.
pub(super) const LOCAL_NODE_PORT_ENDPOINTS: &str = "local-nodeport-endpoints";
/// Address, protocol, port → drop or reject.
pub(super) const NO_ENDPOINTS: &str = "no-endpoints";
/// Protocol, port → drop or reject.
pub(super) const NO_ENDPOINT_NODE_PORTS: &str = "no-endpoint-nodeports";
/// Address, protocol, port → the chain that looks at the source.
pub(super) const FIREWALL: &str = "firewall";
/// Cluster IPs: their other ports are refused.
pub(super) const CLUSTER_IPS: &str = "cluster-ips";
/// An endpoint's address twice: source and destination of one that reaches itself.
pub(super) const HAIRPINS: &str = "hairpins";
/// Client, address, protocol, port → the endpoint it stays at.
pub(super) const AFFINITY: &str = "affinity";
/// Client, protocol, port → the endpoint it stays at.
pub(super) const NODE_PORT_AFFINITY: &str = "nodeport-affinity";
/// Address, protocol, port → the chain that remembers clients.
pub(super) const STICKY: &str = "sticky";
/// Protocol, port → the chain that remembers clients.
pub(super) const STICKY_NODE_PORTS: &str = "sticky-nodeports";
/// Clients whose endpoint is remembered, in each map; what comes on top is balanced without memory.
pub(super) const MOST_CLIENTS: u32 = 65_536;

/// The table of one cluster and family.
pub(super) fn table(cluster: &str, family: Family) -> Table {
    Table { family: sys_family(family), name: format!("{cluster}-proxy") }
}

pub(super) fn sys_family(family: Family) -> netfilter::Family {
    match family {
        Family::V4 => netfilter::Family::Ip,
        Family::V6 => netfilter::Family::Ip6,
    }
}

/// All sets and maps.
pub(super) fn sets(family: Family) -> Vec<Set> {
    use DataType::{Mark, Port, Protocol};
    let ip = if family == Family::V4 { DataType::Ip } else { DataType::Ip6 };
    let endpoint = || Values::Data(vec![ip, Port]);
    let set = |name: &str, key: &[DataType], values: Values| Set {
        name: name.to_owned(),
        key: key.to_vec(),
        values,
        dynamic: None,
    };
    let memory = |name, key: &[DataType]| Set { dynamic: Some(MOST_CLIENTS), ..set(name, key, endpoint()) };
    vec![
        set(SERVICES, &[ip, Protocol, Port], Values::Verdicts),
        set(NODE_PORTS, &[Protocol, Port], Values::Verdicts),
        set(ENDPOINTS, &[ip, Protocol, Port, Mark], endpoint()),
        set(LOCAL_ENDPOINTS, &[ip, Protocol, Port, Mark], endpoint()),
        set(NODE_PORT_ENDPOINTS, &[Protocol, Port, Mark], endpoint()),
        set(LOCAL_NODE_PORT_ENDPOINTS, &[Protocol, Port, Mark], endpoint()),
        set(NO_ENDPOINTS, &[ip, Protocol, Port], Values::Verdicts),
        set(NO_ENDPOINT_NODE_PORTS, &[Protocol, Port], Values::Verdicts),
        set(FIREWALL, &[ip, Protocol, Port], Values::Verdicts),
        set(CLUSTER_IPS, &[ip], Values::None),
        set(HAIRPINS, &[ip, ip], Values::None),
        set(STICKY, &[ip, Protocol, Port], Values::Verdicts),
        set(STICKY_NODE_PORTS, &[Protocol, Port], Values::Verdicts),
        memory(AFFINITY, &[ip, ip, Protocol, Port]),
        memory(NODE_PORT_AFFINITY, &[ip, Protocol, Port]),
    ]
}

/// Words of an address.
pub(super) fn address(of: IpAddr) -> Vec<u8> {
    match of {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// Words that match a packet's destination.
pub(super) fn key(at: At) -> Vec<u8> {
    let mut words = at.address.map(address).unwrap_or_default();
    words.extend([at.protocol.number(), 0, 0, 0]);
    words.extend(at.port.to_be_bytes());
    words.extend([0, 0]);
    words
}

/// Words that match a destination and a random number.
pub(super) fn numbered_key(at: At, number: u32) -> Vec<u8> {
    let mut words = key(at);
    words.extend(number.to_ne_bytes());
    words
}

/// Words that flows are led to.
pub(super) fn target(endpoint: &Endpoint) -> Vec<u8> {
    let mut words = address(endpoint.address);
    words.extend(endpoint.port.to_be_bytes());
    words.extend([0, 0]);
    words
}
