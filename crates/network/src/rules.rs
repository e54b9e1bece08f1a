//! The nftables rules of the pod network, by netlink.
//!
//! Host ports live in maps, so that a pod with a hostPort changes elements and never a rule. All chains have policy accept; nothing of
//! other tables is touched. The table is `ip NAME`; `inet NAME`, which earlier versions made with the `nft` program, is removed.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use corten_sys::netfilter::nft::{
    Base, Batch, ChainType, Ct, DataType, Element, Hook, Meta, R0, Rule, Set, Side, Table, Value, Values,
    Verdict,
};
use corten_sys::netfilter::{Family, Socket};
use ipnet::Ipv4Net;

use crate::addresses::Record;
use crate::types::{NetworkError, Protocol};

/// Offsets of the addresses in an IPv4 header, in bytes.
const SOURCE: u32 = 12;
const DESTINATION: u32 = 16;
/// Offset of the destination port in the headers of TCP, UDP and SCTP.
const PORT: u32 = 2;
/// `IPS_DST_NAT`
const TRANSLATED: u32 = 32;
/// The bit of a new flow in `ct state`.
const NEW: u32 = 8;

const PORTS: &str = "hostports";
const ADDRESS_PORTS: &str = "hostip_ports";
const PODS: &str = "hostport_pods";
const SELVES: &str = "hostport_selves";

/// The names and ranges that rules are written with.
#[derive(Debug, Clone)]
pub(crate) struct RuleNames {
    /// The table is `ip <cluster>`.
    pub cluster: String,
    /// This node's pods.
    pub pod_cidr: Ipv4Net,
    /// All pods.
    pub cluster_cidr: Ipv4Net,
}

fn table(cluster: &str) -> Table {
    Table { family: Family::Ip, name: cluster.to_owned() }
}

/// One transaction that brings our chains and maps to exactly this state, whatever was there.
pub(crate) fn base<'a>(names: &RuleNames, records: impl Iterator<Item = &'a Record>) -> Batch {
    let table = table(&names.cluster);
    let mut batch = removal(&names.cluster);
    definitions(&mut batch, &table);
    batch.add_chain(&table, "hostports_to_pods");
    for rule in to_pods() {
        batch.add_rule(&table, "hostports_to_pods", &rule);
    }
    let to_node = Rule::new().is_local(Side::Destination).verdict(&Verdict::Jump("hostports_to_pods".into()));
    for (chain, hook) in [("hostport_prerouting", Hook::Prerouting), ("hostport_output", Hook::Output)] {
        batch.add_base_chain(&table, chain, ChainType::Nat, hook, -100);
        batch.add_rule(&table, chain, &to_node);
    }
    batch.add_base_chain(&table, "pod_postrouting", ChainType::Nat, Hook::Postrouting, 100);
    for rule in masquerades(names) {
        batch.add_rule(&table, "pod_postrouting", &rule);
    }
    batch.add_base_chain(&table, "pod_input", ChainType::Filter, Hook::Input, 0);
    batch.add_rule(&table, "pod_input", &guard(names));
    for record in records {
        add(&mut batch, &table, record);
    }
    batch
}

/// Host ports of one address of the node come before those of all.
fn to_pods() -> [Rule; 2] {
    let data = R0 + 4;
    let by_address = Rule::new()
        .load(Base::Network, DESTINATION, 4, R0)
        .meta(Meta::Protocol, R0 + 1)
        .load(Base::Transport, PORT, 2, R0 + 2)
        .map(ADDRESS_PORTS, R0, data)
        .dnat(Family::Ip, data, data + 1);
    let by_port = Rule::new()
        .meta(Meta::Protocol, R0)
        .load(Base::Transport, PORT, 2, R0 + 1)
        .map(PORTS, R0, data)
        .dnat(Family::Ip, data, data + 1);
    [by_address, by_port]
}

/// What leaves the cluster has the node's address. So must what comes through a host port from the node's loopback or from the pod
/// itself, or the pod would answer to the wrong place.
fn masquerades(names: &RuleNames) -> [Rule; 3] {
    let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    let leaving = within(Rule::new(), SOURCE, names.pod_cidr, true);
    let from_loopback = within(translated(), SOURCE, loopback, true)
        .load(Base::Network, DESTINATION, 4, R0)
        .meta(Meta::Protocol, R0 + 1)
        .load(Base::Transport, PORT, 2, R0 + 2)
        .is_in(PODS, R0);
    let to_itself = translated()
        .load(Base::Network, SOURCE, 4, R0)
        .load(Base::Network, DESTINATION, 4, R0 + 1)
        .is_in(SELVES, R0);
    [
        within(leaving, DESTINATION, names.cluster_cidr, false).masquerade(),
        from_loopback.masquerade(),
        to_itself.masquerade(),
    ]
}

/// `route_localnet`, which the links of pods with host ports need, would also let such a pod send to the node's loopback.
fn guard(names: &RuleNames) -> Rule {
    let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    let from_pod = within(Rule::new(), SOURCE, names.pod_cidr, true);
    within(from_pod, DESTINATION, loopback, true)
        .ct(Ct::State, R0)
        .bits(R0, &NEW.to_ne_bytes(), &[0; 4])
        .compare(R0, false, &[0; 4])
        .verdict(&Verdict::Drop)
}

fn translated() -> Rule {
    Rule::new().ct(Ct::Status, R0).bits(R0, &TRANSLATED.to_ne_bytes(), &[0; 4]).compare(R0, false, &[0; 4])
}

/// Goes on only if the address at `offset` is in (or is not in) the block.
fn within(rule: Rule, offset: u32, block: Ipv4Net, is_in: bool) -> Rule {
    rule.load(Base::Network, offset, 4, R0).bits(R0, &block.netmask().octets(), &[0; 4]).compare(
        R0,
        is_in,
        &block.network().octets(),
    )
}

/// Table, maps and sets; adding them again changes nothing.
fn definitions(batch: &mut Batch, table: &Table) {
    use DataType::{Ip, Port, Protocol};
    batch.add_table(table);
    let to_pod = || Values::Data(vec![Ip, Port]);
    for (name, key, values) in [
        (PORTS, vec![Protocol, Port], to_pod()),
        (ADDRESS_PORTS, vec![Ip, Protocol, Port], to_pod()),
        (PODS, vec![Ip, Protocol, Port], Values::None),
        (SELVES, vec![Ip, Ip], Values::None),
    ] {
        batch.add_set(table, &Set { name: name.to_owned(), key, values, dynamic: None });
    }
}

/// Opens the host ports of one pod; nothing when it has none.
pub(crate) fn open_ports(cluster: &str, record: &Record) -> Batch {
    let (table, mut batch) = (table(cluster), Batch::new());
    if !record.ports.is_empty() {
        definitions(&mut batch, &table);
        add(&mut batch, &table, record);
    }
    batch
}

/// Closes them, open or not: adding an element first makes its deletion safe.
pub(crate) fn close_ports(cluster: &str, record: &Record) -> Batch {
    let (table, mut batch) = (table(cluster), open_ports(cluster, record));
    for (set, elements) in elements(record) {
        batch.delete_elements(&table, set, &elements);
    }
    batch
}

fn add(batch: &mut Batch, table: &Table, record: &Record) {
    for (set, elements) in elements(record) {
        batch.add_elements(table, set, &elements);
    }
}

/// The elements of one pod by their set; no set without elements.
fn elements(record: &Record) -> Vec<(&'static str, Vec<Element>)> {
    let (mut ports, mut address_ports, mut targets) = (Vec::new(), Vec::new(), BTreeSet::new());
    for port in &record.ports {
        let data = Value::Data([word(&record.address.octets()), number(port.container_port)].concat());
        let key = [protocol(port.protocol), number(port.host_port)].concat();
        match port.host_ip {
            Some(ip) => address_ports.push(element([word(&ip.octets()), key].concat(), data)),
            None => ports.push(element(key, data)),
        }
        let target =
            [word(&record.address.octets()), protocol(port.protocol), number(port.container_port)].concat();
        targets.insert(target);
    }
    let mut selves = Vec::new();
    if !record.ports.is_empty() {
        let address = word(&record.address.octets());
        selves.push(element([address.clone(), address].concat(), Value::None));
    }
    let pods = targets.into_iter().map(|key| element(key, Value::None)).collect();
    let all = [(PORTS, ports), (ADDRESS_PORTS, address_ports), (PODS, pods), (SELVES, selves)];
    all.into_iter().filter(|(_, elements)| !elements.is_empty()).collect()
}

fn element(key: Vec<u8>, value: Value) -> Element {
    Element { key, value, life: None }
}

/// Everything takes whole words of four bytes.
fn word(bytes: &[u8]) -> Vec<u8> {
    let mut word = bytes.to_vec();
    word.resize(4, 0);
    word
}

fn number(port: u16) -> Vec<u8> {
    word(&port.to_be_bytes())
}

fn protocol(protocol: Protocol) -> Vec<u8> {
    word(&[match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }])
}

/// Removes the tables, there or not.
pub(crate) fn removal(cluster: &str) -> Batch {
    let (table, mut batch) = (table(cluster), Batch::new());
    batch.forget_inet_table(cluster);
    batch.add_table(&table);
    batch.delete_table(&table);
    batch
}

/// All or nothing; in the calling thread's network namespace.
pub(crate) fn apply(batch: Batch) -> Result<(), NetworkError> {
    if batch.is_empty() {
        return Ok(());
    }
    let applied = Socket::open().and_then(|socket| batch.commit(&socket));
    applied.map_err(|error| NetworkError::Nft(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PortMapping;

    fn record(ports: Vec<PortMapping>) -> Record {
        Record {
            sandbox_id: "s".into(),
            address: "10.1.0.5".parse().unwrap(),
            link: "v".into(),
            ports,
            routed: true,
        }
    }

    #[test]
    fn pods_without_host_ports_cost_no_rule() {
        assert!(open_ports("c", &record(vec![])).is_empty());
        assert!(close_ports("c", &record(vec![])).is_empty());
    }

    #[test]
    fn one_element_a_port_and_one_target() {
        let port = |host_port, host_ip: Option<&str>| PortMapping {
            protocol: Protocol::Udp,
            host_port,
            container_port: 53,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        };
        let elements = elements(&record(vec![port(5353, None), port(53, Some("10.0.0.1"))]));
        let keys: Vec<_> = elements
            .iter()
            .map(|(set, all)| (*set, all.iter().map(|e| &e.key[..]).collect::<Vec<_>>()))
            .collect();
        let expected: [(&str, Vec<&[u8]>); 4] = [
            (PORTS, vec![&[17, 0, 0, 0, 20, 233, 0, 0]]),
            (ADDRESS_PORTS, vec![&[10, 0, 0, 1, 17, 0, 0, 0, 0, 53, 0, 0]]),
            (PODS, vec![&[10, 1, 0, 5, 17, 0, 0, 0, 0, 53, 0, 0]]),
            (SELVES, vec![&[10, 1, 0, 5, 10, 1, 0, 5]]),
        ];
        assert_eq!(keys, expected);
        assert_eq!(elements[0].1[0].value, Value::Data(vec![10, 1, 0, 5, 0, 53, 0, 0]));
    }
}
