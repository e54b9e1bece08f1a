//! Network policies as nftables, by netlink: the difference of two states as one transaction.
//!
//! A table of its own for each family, `ip NAME-policy` and `ip6 NAME-policy`, looks at forwarded packets (and, for what pods send, at
//! packets to the node itself) after service addresses were translated. Base chains map a pod's address to the chain of the policies
//! that choose it; each policy is a chain; who is chosen by selectors stands in sets:
//!
//! ```text
//! forward, priority 0   established → accept    source address vmap egress_pods       → goto egress_of_…
//! input                 the same
//! forward, priority 1   established → accept    destination address vmap ingress_pods → goto ingress_of_…
//! egress_of_…           jump egress_policy_… (each policy that chooses the pod), then drop
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use corten_sys::netfilter::Family;
use corten_sys::netfilter::nft::{
    Base, Batch, ChainType, Ct, DataType, Element, Hook, Meta, R0, Rule, Set, Table, Value, Values, Verdict,
};
use ipnet::IpNet;
use sha2::{Digest, Sha256};

use crate::firewall::{Allow, Direction, Firewall, Ports, Remote};
use crate::types::Protocol;

/// Bits of `ct state`.
const ESTABLISHED: u32 = 2;
const RELATED: u32 = 4;
/// Offset of the destination port in the headers of TCP, UDP and SCTP.
const PORT: u32 = 2;
/// Bytes of a hash in a chain's name.
const HASH_BYTES: usize = 8;

/// What stands in the table of one family.
#[derive(Debug, Default, PartialEq, Eq)]
struct Model {
    /// Type of the key, and keys.
    sets: BTreeMap<String, (Vec<DataType>, BTreeSet<Vec<u8>>)>,
    /// Address of a pod → the chain it is led to.
    pods: BTreeMap<Direction, BTreeMap<Vec<u8>, String>>,
    /// Rules in order.
    chains: BTreeMap<String, Vec<Rule>>,
}

/// The name of the tables.
pub(crate) fn table_name(cluster: &str) -> String {
    format!("{cluster}-policy")
}

/// One transaction that brings the tables from `old` (unknown: whatever is there) to `new`.
pub(crate) fn change(cluster: &str, old: Option<&Firewall>, new: &Firewall) -> Batch {
    let mut batch = Batch::new();
    if old.is_none() {
        // What earlier versions made with the `nft` program.
        batch.forget_inet_table(&table_name(cluster));
    }
    for family in families() {
        let table = Table { family, name: table_name(cluster) };
        let (before, after) = (old.map(|old| model(old, family)), model(new, family));
        match (before, after.is_needed()) {
            (Some(before), true) if before.is_needed() => difference(&mut batch, &table, &before, &after),
            (Some(before), false) if !before.is_needed() => {}
            (_, is_needed) => {
                batch.add_table(&table);
                batch.delete_table(&table);
                if is_needed {
                    batch.add_table(&table);
                    base_chains(&mut batch, &table);
                    difference(&mut batch, &table, &Model::default(), &after);
                    base_rules(&mut batch, &table);
                }
            }
        }
    }
    batch
}

/// Removes the tables, there or not.
pub(crate) fn removal(cluster: &str) -> Batch {
    change(cluster, None, &Firewall::default())
}

/// IPv6 only where this host has it.
fn families() -> impl Iterator<Item = Family> {
    let has_v6 = Path::new("/proc/sys/net/ipv6").exists();
    [Family::Ip, Family::Ip6].into_iter().filter(move |family| *family == Family::Ip || has_v6)
}

fn map_of(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress_pods",
        Direction::Egress => "egress_pods",
    }
}

/// Chains at hooks, the direction they look at, and its priority. Ingress comes after egress: both must agree, and to accept ends
/// only one's own chain.
const HOOKS: [(&str, Direction, Hook, i32); 3] = [
    ("egress_forward", Direction::Egress, Hook::Forward, 0),
    ("egress_input", Direction::Egress, Hook::Input, 0),
    ("ingress_forward", Direction::Ingress, Hook::Forward, 1),
];

fn base_chains(batch: &mut Batch, table: &Table) {
    for direction in [Direction::Ingress, Direction::Egress] {
        let key = vec![address_type(table.family)];
        let map = Set { name: map_of(direction).to_owned(), key, values: Values::Verdicts, dynamic: None };
        batch.add_set(table, &map);
    }
    for (name, _, hook, priority) in HOOKS {
        batch.add_base_chain(table, name, ChainType::Filter, hook, priority);
    }
}

fn base_rules(batch: &mut Batch, table: &Table) {
    let zero = 0u32.to_ne_bytes();
    let known = Rule::new()
        .ct(Ct::State, R0)
        .bits(R0, &(ESTABLISHED | RELATED).to_ne_bytes(), &zero)
        .compare(R0, false, &zero)
        .verdict(&Verdict::Accept);
    for (chain, direction, ..) in HOOKS {
        batch.add_rule(table, chain, &known);
        // The pod's own side.
        let is_source = direction == Direction::Egress;
        let pod = address(Rule::new(), table.family, is_source).verdict_map(map_of(direction), R0);
        batch.add_rule(table, chain, &pod);
    }
}

fn address_type(family: Family) -> DataType {
    if family == Family::Ip { DataType::Ip } else { DataType::Ip6 }
}

/// Loads the source or destination address.
fn address(rule: Rule, family: Family, is_source: bool) -> Rule {
    let (source, destination, length) = if family == Family::Ip { (12, 16, 4) } else { (8, 24, 16) };
    rule.load(Base::Network, if is_source { source } else { destination }, length, R0)
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn is_of(family: Family, address: IpAddr) -> bool {
    address.is_ipv4() == (family == Family::Ip)
}

/// Everything takes whole words of four bytes.
fn word(bytes: &[u8]) -> Vec<u8> {
    let mut word = bytes.to_vec();
    word.resize(4, 0);
    word
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

impl Model {
    /// Without an isolated pod of the family, no table is needed.
    fn is_needed(&self) -> bool {
        self.pods.values().any(|pods| !pods.is_empty())
    }
}

fn model(firewall: &Firewall, family: Family) -> Model {
    let mut model = Model::default();
    for (name, addresses) in &firewall.addresses {
        let keys = addresses.iter().copied().filter(|ip| is_of(family, *ip)).map(bytes);
        model.sets.insert(name.clone(), (vec![address_type(family)], keys.collect()));
    }
    for (name, endpoints) in &firewall.endpoints {
        let own = endpoints.iter().filter(|(ip, ..)| is_of(family, *ip));
        let keys = own.map(|(ip, protocol, port)| {
            [bytes(*ip), word(&[number(*protocol)]), word(&port.to_be_bytes())].concat()
        });
        let types = vec![address_type(family), DataType::Protocol, DataType::Port];
        model.sets.insert(name.clone(), (types, keys.collect()));
    }
    for ((direction, policy), allowed) in &firewall.policies {
        let rules = allowed.iter().filter_map(|allow| rule(*direction, allow, family)).collect();
        model.chains.insert(policy_chain(*direction, policy), rules);
    }
    for ((direction, ip), policies) in &firewall.pods {
        if is_of(family, *ip) {
            let chain = pods_chain(*direction, policies);
            model.chains.entry(chain.clone()).or_insert_with(|| of_all(*direction, policies));
            model.pods.entry(*direction).or_default().insert(bytes(*ip), chain);
        }
    }
    model
}

/// One of the policies must allow it.
fn of_all(direction: Direction, policies: &BTreeSet<String>) -> Vec<Rule> {
    let jump = |policy: &String| Rule::new().verdict(&Verdict::Jump(policy_chain(direction, policy)));
    let mut rules: Vec<Rule> = policies.iter().map(jump).collect();
    rules.push(Rule::new().counter().verdict(&Verdict::Drop));
    rules
}

fn word_of(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

fn policy_chain(direction: Direction, policy: &str) -> String {
    format!("{}_policy_{}", word_of(direction), short_hash(policy.as_bytes()))
}

/// Pods chosen by the same policies share a chain.
fn pods_chain(direction: Direction, policies: &BTreeSet<String>) -> String {
    let all = policies.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
    format!("{}_of_{}", word_of(direction), short_hash(all.as_bytes()))
}

fn short_hash(bytes: &[u8]) -> String {
    hex::encode(&Sha256::digest(bytes)[..HASH_BYTES])
}

/// None where it concerns the other family only.
fn rule(direction: Direction, allow: &Allow, family: Family) -> Option<Rule> {
    // The remote side is where the packet comes from, seen from a pod that gets it.
    let is_source = direction == Direction::Ingress;
    let rule = match &allow.remote {
        Remote::Any => Rule::new(),
        Remote::Set(name) => address(Rule::new(), family, is_source).is_in(name, R0),
        Remote::Block { cidr, except } => block(family, is_source, cidr, except)?,
    };
    let of = |rule: Rule, protocol| rule.meta(Meta::Protocol, R0).compare(R0, true, &[number(protocol)]);
    let port = |rule: Rule| rule.load(Base::Transport, PORT, 2, R0);
    let rule = match &allow.ports {
        Ports::Any => rule,
        Ports::Protocol(protocol) => of(rule, *protocol),
        Ports::Range(protocol, first, last) if first == last => {
            port(of(rule, *protocol)).compare(R0, true, &first.to_be_bytes())
        }
        Ports::Range(protocol, first, last) => {
            port(of(rule, *protocol)).at_least(R0, &first.to_be_bytes()).at_most(R0, &last.to_be_bytes())
        }
        Ports::Set(name) => {
            let after = R0 + if family == Family::Ip { 1 } else { 4 };
            let key = address(rule, family, false).meta(Meta::Protocol, after);
            key.load(Base::Transport, PORT, 2, after + 1).is_in(name, R0)
        }
    };
    Some(rule.verdict(&Verdict::Accept))
}

fn block(family: Family, is_source: bool, cidr: &IpNet, except: &[IpNet]) -> Option<Rule> {
    if !is_of(family, cidr.addr()) {
        return None;
    }
    let within = |rule: Rule, net: &IpNet, is_in: bool| {
        let mask = bytes(net.netmask());
        let zero = vec![0; mask.len()];
        address(rule, family, is_source).bits(R0, &mask, &zero).compare(R0, is_in, &bytes(net.network()))
    };
    let rule = if cidr.prefix_len() == 0 { Rule::new() } else { within(Rule::new(), cidr, true) };
    let own = except.iter().filter(|net| is_of(family, net.addr()));
    Some(own.fold(rule, |rule, net| within(rule, net, false)))
}

fn member(key: &[u8]) -> Element {
    Element { key: key.to_vec(), value: Value::None, life: None }
}

/// In an order in which nothing refers to what is not there: new sets and chains first, then rules and elements, removals last.
fn difference(batch: &mut Batch, table: &Table, old: &Model, new: &Model) {
    for (name, (key, _)) in new.sets.iter().filter(|(name, _)| !old.sets.contains_key(*name)) {
        let set = Set { name: name.clone(), key: key.clone(), values: Values::None, dynamic: None };
        batch.add_set(table, &set);
    }
    for chain in new.chains.keys().filter(|chain| !old.chains.contains_key(*chain)) {
        batch.add_chain(table, chain);
    }
    let none = BTreeSet::new();
    for (name, (_, keys)) in &new.sets {
        let before = old.sets.get(name).map_or(&none, |(_, keys)| keys);
        let gone: Vec<Element> = before.difference(keys).map(|key| member(key)).collect();
        let come: Vec<Element> = keys.difference(before).map(|key| member(key)).collect();
        batch.delete_elements(table, name, &gone);
        batch.add_elements(table, name, &come);
    }
    for (chain, rules) in new.chains.iter().filter(|(chain, rules)| old.chains.get(*chain) != Some(rules)) {
        if old.chains.contains_key(chain) {
            batch.flush_chain(table, chain);
        }
        rules.iter().for_each(|rule| batch.add_rule(table, chain, rule));
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        pods(batch, table, direction, old.pods.get(&direction), new.pods.get(&direction));
    }
    let gone: Vec<_> = old.chains.keys().filter(|chain| !new.chains.contains_key(*chain)).collect();
    // Empty all before removing any: they lead to each other.
    gone.iter().for_each(|chain| batch.flush_chain(table, chain));
    gone.iter().for_each(|chain| batch.delete_chain(table, chain));
    for name in old.sets.keys().filter(|name| !new.sets.contains_key(*name)) {
        batch.delete_set(table, name);
    }
}

/// Which chain each pod is led to.
fn pods(
    batch: &mut Batch,
    table: &Table,
    direction: Direction,
    old: Option<&BTreeMap<Vec<u8>, String>>,
    new: Option<&BTreeMap<Vec<u8>, String>>,
) {
    let none = BTreeMap::new();
    let (old, new) = (old.unwrap_or(&none), new.unwrap_or(&none));
    let differ = |these: &BTreeMap<Vec<u8>, String>, others: &BTreeMap<Vec<u8>, String>| -> Vec<Element> {
        let changed = these.iter().filter(|(key, chain)| others.get(*key) != Some(chain));
        let lead = |chain: &String| Value::Verdict(Verdict::Goto(chain.clone()));
        changed.map(|(key, chain)| Element { key: key.clone(), value: lead(chain), life: None }).collect()
    };
    batch.delete_elements(table, map_of(direction), &differ(old, new));
    batch.add_elements(table, map_of(direction), &differ(new, old));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_policy(sources: &[u8]) -> Firewall {
        let mut firewall = Firewall::default();
        let ip = |last: &u8| std::net::Ipv4Addr::new(10, 1, 0, *last).into();
        firewall.addresses.insert("s_a".into(), sources.iter().map(ip).collect());
        let ports = Ports::Range(Protocol::Tcp, 80, 80);
        let allow = Allow { remote: Remote::Set("s_a".into()), ports };
        firewall.policies.insert((Direction::Ingress, "ns/p".into()), BTreeSet::from([allow]));
        firewall.pods.insert((Direction::Ingress, ip(&2)), BTreeSet::from(["ns/p".into()]));
        firewall
    }

    fn of_change(old: Option<&Firewall>, new: &Firewall) -> usize {
        change("c", old, new).len()
    }

    #[test]
    fn only_what_differs_is_told() {
        let (before, after) = (one_policy(&[3]), one_policy(&[3, 4]));
        assert_eq!(of_change(Some(&before), &before), 0);
        assert_eq!(of_change(Some(&before), &after), 1, "one element more");
        assert_eq!(of_change(Some(&Firewall::default()), &Firewall::default()), 0);
        let mut more = before.clone();
        more.policies.insert((Direction::Ingress, "ns/q".into()), BTreeSet::new());
        // A chain for the policy; nobody is chosen by it.
        assert_eq!(of_change(Some(&before), &more), 1);
        // Chain flushed and removed.
        assert_eq!(of_change(Some(&more), &before), 2);
        // The table of the one family that has pods is made anew, or removed: it is added first, as it may not be there.
        assert_eq!(of_change(Some(&before), &Firewall::default()), 2);
    }

    #[test]
    fn families_are_apart() {
        let mut firewall = one_policy(&[3]);
        let six = Remote::Block { cidr: "fd00::/8".parse().unwrap(), except: vec![] };
        let allow = Allow { remote: six, ports: Ports::Any };
        firewall.policies.insert((Direction::Ingress, "ns/q".into()), BTreeSet::from([allow]));
        let chain = policy_chain(Direction::Ingress, "ns/q");
        assert_eq!(model(&firewall, Family::Ip).chains[&chain], []);
        assert_eq!(model(&firewall, Family::Ip6).chains[&chain].len(), 1);
        assert!(model(&firewall, Family::Ip).is_needed() && !model(&firewall, Family::Ip6).is_needed());
    }

    #[test]
    fn names_fit_the_kernel() {
        for policies in [BTreeSet::from(["ns/p".to_owned()]), BTreeSet::from(["a/b".into(), "a/c".into()])] {
            assert!(pods_chain(Direction::Ingress, &policies).len() < 128);
        }
        assert_ne!(policy_chain(Direction::Ingress, "a/b"), policy_chain(Direction::Egress, "a/b"));
    }
}
