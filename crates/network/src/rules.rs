//! The nftables rules of the pod network, by netlink.
//!
//! Host ports live in maps, so that a pod with a hostPort changes elements and never a rule. All chains have policy accept; nothing of
//! other tables is touched. The tables are `ip NAME` and, in a dual-stack cluster, `ip6 NAME`; `inet NAME`, which earlier versions made
//! with the `nft` program, is removed.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use corten_sys::netfilter::nft::{
    Base, Batch, ChainType, Ct, DataType, Element, Hook, Meta, R0, Rule, Set, Side, Table, Value, Values,
    Verdict,
};
use corten_sys::netfilter::{Family, Socket};
use ipnet::{IpNet, Ipv4Net};

use crate::addresses::Record;
use crate::routes::has_ipv6;
use crate::types::{NetworkError, Protocol};

/// Offset of the destination port in the headers of TCP, UDP and SCTP.
const PORT: u32 = 2;
/// `IPS_DST_NAT`
const TRANSLATED: u32 = 32;
/// The bit of a new flow in `ct state`.
const NEW: u32 = 8;
/// Before flows are known: where a packet that lies about its source is dropped.
const RAW: i32 = -300;

/// The register behind every key: addresses of two families take up to four words, and protocol and port two more.
const DATA: u32 = R0 + 6;

const PORTS: &str = "hostports";
const ADDRESS_PORTS: &str = "hostip_ports";
const PODS: &str = "hostport_pods";
const SELVES: &str = "hostport_selves";

/// The ranges that the rules of one family are written with.
#[derive(Debug, Clone)]
pub(crate) struct RuleNames {
    /// This node's pods.
    pub pod_cidr: IpNet,
    /// All pods.
    pub cluster_cidr: IpNet,
}

impl RuleNames {
    fn layout(&self) -> Layout {
        Layout::of(if self.pod_cidr.addr().is_ipv4() { Family::Ip } else { Family::Ip6 })
    }
}

/// Where a family has its addresses, in bytes of its header, and how many words one takes in a register or key.
#[derive(Debug, Clone, Copy)]
struct Layout {
    family: Family,
    source: u32,
    destination: u32,
    words: u32,
}

impl Layout {
    fn of(family: Family) -> Self {
        match family {
            Family::Ip => Layout { family, source: 12, destination: 16, words: 1 },
            Family::Ip6 => Layout { family, source: 8, destination: 24, words: 4 },
        }
    }

    fn address(self) -> DataType {
        if self.family == Family::Ip { DataType::Ip } else { DataType::Ip6 }
    }

    fn load(self, rule: Rule, offset: u32, into: u32) -> Rule {
        rule.load(Base::Network, offset, 4 * self.words, into)
    }

    /// Goes on only if the address at `offset` is in (or is not in) the block.
    fn within(self, rule: Rule, offset: u32, block: IpNet, is_in: bool) -> Rule {
        let none = vec![0; 4 * self.words as usize];
        self.load(rule, offset, R0).bits(R0, &octets(block.netmask()), &none).compare(
            R0,
            is_in,
            &octets(block.network()),
        )
    }

    /// Protocol and port of the destination.
    fn port(rule: Rule, into: u32) -> Rule {
        rule.meta(Meta::Protocol, into).load(Base::Transport, PORT, 2, into + 1)
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn table(cluster: &str, family: Family) -> Table {
    Table { family, name: cluster.to_owned() }
}

/// One transaction that brings our chains and maps to exactly this state, whatever was there; `ranges` of each family that is.
pub(crate) fn base(cluster: &str, ranges: &[RuleNames], records: &[Record]) -> Batch {
    let mut batch = removal(cluster);
    for names in ranges {
        family_base(&mut batch, cluster, names, records);
    }
    batch
}

fn family_base(batch: &mut Batch, cluster: &str, names: &RuleNames, records: &[Record]) {
    let layout = names.layout();
    let table = table(cluster, layout.family);
    definitions(batch, &table);
    batch.add_chain(&table, "hostports_to_pods");
    for rule in to_pods(layout) {
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
    if layout.family == Family::Ip {
        batch.add_base_chain(&table, "pod_input", ChainType::Filter, Hook::Input, 0);
        batch.add_rule(&table, "pod_input", &guard(names));
    } else {
        batch.add_base_chain(&table, "pod_prerouting", ChainType::Filter, Hook::Prerouting, RAW);
        batch.add_rule(&table, "pod_prerouting", &honest(names));
    }
    for record in records {
        add(batch, &table, record);
    }
}

/// Host ports of one address of the node come before those of all.
fn to_pods(layout: Layout) -> [Rule; 2] {
    let lead = |rule: Rule, map, data| rule.map(map, R0, data).dnat(layout.family, data, data + layout.words);
    let by_address = layout.load(Rule::new(), layout.destination, R0);
    let by_address = lead(Layout::port(by_address, R0 + layout.words), ADDRESS_PORTS, DATA);
    [by_address, lead(Layout::port(Rule::new(), R0), PORTS, DATA)]
}

/// What leaves the cluster has the node's address. So must what comes through a host port from the node's loopback or from the pod
/// itself, or the pod would answer to the wrong place. IPv6 knows no way from loopback to another link.
fn masquerades(names: &RuleNames) -> Vec<Rule> {
    let layout = names.layout();
    let leaving = layout.within(Rule::new(), layout.source, names.pod_cidr, true);
    let leaving = layout.within(leaving, layout.destination, names.cluster_cidr, false).masquerade();
    let to_itself = layout.load(translated(), layout.source, R0);
    let to_itself =
        layout.load(to_itself, layout.destination, R0 + layout.words).is_in(SELVES, R0).masquerade();
    if layout.family == Family::Ip6 {
        return vec![leaving, to_itself];
    }
    let from_loopback = layout.within(translated(), layout.source, loopback(), true);
    let from_loopback = layout.load(from_loopback, layout.destination, R0);
    let from_loopback = Layout::port(from_loopback, R0 + layout.words).is_in(PODS, R0).masquerade();
    vec![leaving, from_loopback, to_itself]
}

fn loopback() -> IpNet {
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into()
}

/// `route_localnet`, which the links of pods with host ports need, would also let such a pod send to the node's loopback.
fn guard(names: &RuleNames) -> Rule {
    let layout = names.layout();
    let from_pod = layout.within(Rule::new(), layout.source, names.pod_cidr, true);
    layout
        .within(from_pod, layout.destination, loopback(), true)
        .ct(Ct::State, R0)
        .bits(R0, &NEW.to_ne_bytes(), &[0; 4])
        .compare(R0, false, &[0; 4])
        .verdict(&Verdict::Drop)
}

/// Who says to be a pod must come by the way that leads to it. IPv4 has `rp_filter` for it.
fn honest(names: &RuleNames) -> Rule {
    let layout = names.layout();
    let pod = layout.within(Rule::new(), layout.source, names.cluster_cidr, true);
    pod.came_astray().verdict(&Verdict::Drop)
}

fn translated() -> Rule {
    Rule::new().ct(Ct::Status, R0).bits(R0, &TRANSLATED.to_ne_bytes(), &[0; 4]).compare(R0, false, &[0; 4])
}

/// Table, maps and sets; adding them again changes nothing.
fn definitions(batch: &mut Batch, table: &Table) {
    use DataType::{Port, Protocol};
    let address = Layout::of(table.family).address();
    batch.add_table(table);
    let to_pod = || Values::Data(vec![address, Port]);
    for (name, key, values) in [
        (PORTS, vec![Protocol, Port], to_pod()),
        (ADDRESS_PORTS, vec![address, Protocol, Port], to_pod()),
        (PODS, vec![address, Protocol, Port], Values::None),
        (SELVES, vec![address, address], Values::None),
    ] {
        batch.add_set(table, &Set { name: name.to_owned(), key, values, dynamic: None });
    }
}

/// Opens the host ports of one pod; nothing when it has none.
pub(crate) fn open_ports(cluster: &str, record: &Record) -> Batch {
    let mut batch = Batch::new();
    if !record.ports.is_empty() {
        for family in families(record) {
            let table = table(cluster, family);
            definitions(&mut batch, &table);
            add(&mut batch, &table, record);
        }
    }
    batch
}

fn families(record: &Record) -> impl Iterator<Item = Family> {
    record.addresses().map(|address| if address.is_ipv4() { Family::Ip } else { Family::Ip6 })
}

/// Closes them, open or not: adding an element first makes its deletion safe.
pub(crate) fn close_ports(cluster: &str, record: &Record) -> Batch {
    let mut batch = open_ports(cluster, record);
    for family in families(record) {
        for (set, elements) in elements(record, family) {
            batch.delete_elements(&table(cluster, family), set, &elements);
        }
    }
    batch
}

fn add(batch: &mut Batch, table: &Table, record: &Record) {
    for (set, elements) in elements(record, table.family) {
        batch.add_elements(table, set, &elements);
    }
}

/// The elements of one pod in one family by their set; no set without elements.
fn elements(record: &Record, family: Family) -> Vec<(&'static str, Vec<Element>)> {
    let is_family = |ip: &IpAddr| ip.is_ipv4() == (family == Family::Ip);
    let Some(own) = record.addresses().find(is_family).map(octets) else { return Vec::new() };
    let (mut ports, mut address_ports, mut targets) = (Vec::new(), Vec::new(), BTreeSet::new());
    for port in &record.ports {
        let data = Value::Data([own.clone(), number(port.container_port)].concat());
        let key = [protocol(port.protocol), number(port.host_port)].concat();
        match port.host_ip {
            Some(ip) if is_family(&ip) => address_ports.push(element([octets(ip), key].concat(), data)),
            Some(_) => continue,
            None => ports.push(element(key, data)),
        }
        let target = [own.clone(), protocol(port.protocol), number(port.container_port)].concat();
        targets.insert(target);
    }
    let mut selves = Vec::new();
    if !record.ports.is_empty() {
        selves.push(element([own.clone(), own].concat(), Value::None));
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
    let mut batch = Batch::new();
    batch.forget_inet_table(cluster);
    for family in [Family::Ip, Family::Ip6].into_iter().filter(|family| *family == Family::Ip || has_ipv6()) {
        let table = table(cluster, family);
        batch.add_table(&table);
        batch.delete_table(&table);
    }
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
            address_v6: None,
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
        let mut record =
            record(vec![port(5353, None), port(53, Some("10.0.0.1")), port(54, Some("fd01::1"))]);
        assert!(elements(&record, Family::Ip6).is_empty());
        record.address_v6 = Some("fd00::5".parse().unwrap());
        let six: Vec<_> = elements(&record, Family::Ip6)
            .into_iter()
            .map(|(set, all)| (set, all[0].key.len(), all.len()))
            .collect();
        assert_eq!(six, [(PORTS, 8, 1), (ADDRESS_PORTS, 24, 1), (PODS, 24, 1), (SELVES, 32, 1)]);
        let elements = elements(&record, Family::Ip);
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
