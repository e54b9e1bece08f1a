//! Network policies as nftables rules, and the difference of two states as one transaction.
//!
//! A table of its own, `inet NAME-policy`, looks at forwarded packets (and, for what pods send, at packets to the node itself) after
//! service addresses were translated. Base chains map a pod's address to the chain of the policies that choose it; each policy is a
//! chain; who is chosen by selectors stands in sets. A pod that comes or goes thus changes elements of sets, never a rule. What the node
//! itself sends to its own pods, probes above all, is not forwarded and always passes, as network plugins have it. What a
//! policy allows is decided at a connection's first packet.
//!
//! Where pods have IPv6 addresses, every set and map has a counterpart for them, whose name ends in `_6`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use corten_sys::netfilter::nft::Batch;
use ipnet::IpNet;
use tokio::io::AsyncWriteExt;

use crate::types::{NetworkError, Protocol};

/// `nft` on a loaded machine takes milliseconds; more than this means that it hangs.
const NFT_TIMEOUT: Duration = Duration::from_secs(20);

/// Seen from the pods that a policy chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
}

/// The other side of a connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remote {
    /// Everybody.
    Any,
    /// The addresses of this set ([`Firewall::addresses`]).
    Set(String),
    /// A block of addresses without some others.
    Block {
        /// All these.
        cidr: IpNet,
        /// Not these.
        except: Vec<IpNet>,
    },
}

/// Ports at the connection's destination.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ports {
    /// Every protocol and port.
    Any,
    /// All ports of a protocol.
    Protocol(Protocol),
    /// From the first to the last, both included.
    Range(Protocol, u16, u16),
    /// Destination address, protocol and port are in this set ([`Firewall::endpoints`]): ports given by name.
    Set(String),
}

/// One thing that a policy allows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allow {
    /// The other side.
    pub remote: Remote,
    /// Ports.
    pub ports: Ports,
}

/// All policies that concern one node. Names of sets are free: up to 24 characters `[a-z0-9_]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Firewall {
    /// Sets of addresses.
    pub addresses: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Sets of address, protocol and port.
    pub endpoints: BTreeMap<String, BTreeSet<(IpAddr, Protocol, u16)>>,
    /// What each policy allows in a direction; a policy's name is any text without a line's end.
    pub policies: BTreeMap<(Direction, String), BTreeSet<Allow>>,
    /// The isolated pods of this node, and the policies that choose them.
    pub pods: BTreeMap<(Direction, IpAddr), BTreeSet<String>>,
}

impl Firewall {
    /// No pod is isolated.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// The families that rules are needed for: pods without IPv6 addresses can neither send nor get any of it.
    fn families(&self) -> &'static [Kind] {
        let dual = self.pods.keys().any(|(_, address)| address.is_ipv6());
        if dual { &[Kind::V4, Kind::V6] } else { &[Kind::V4] }
    }
}

/// One family in the words of `nft`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    V4,
    V6,
}

impl Kind {
    fn of(address: &IpAddr) -> Self {
        if address.is_ipv4() { Kind::V4 } else { Kind::V6 }
    }

    fn word(self) -> &'static str {
        if self == Kind::V4 { "ip" } else { "ip6" }
    }

    fn named(self, name: &str) -> String {
        if self == Kind::V4 { name.to_owned() } else { format!("{name}_6") }
    }

    /// The type of a set of addresses, of address, protocol and port, and of a map to verdicts.
    fn types(self) -> [&'static str; 3] {
        match self {
            Kind::V4 => ["ipv4_addr", "ipv4_addr . inet_proto . inet_service", "ipv4_addr : verdict"],
            Kind::V6 => ["ipv6_addr", "ipv6_addr . inet_proto . inet_service", "ipv6_addr : verdict"],
        }
    }
}

impl Direction {
    fn word(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// The remote side's place in a packet.
    fn remote(self) -> &'static str {
        match self {
            Self::Ingress => "saddr",
            Self::Egress => "daddr",
        }
    }
}

/// Named things of an nftables table.
#[derive(Debug, Default, PartialEq, Eq)]
struct Table {
    /// Type and elements.
    sets: BTreeMap<String, (&'static str, BTreeSet<String>)>,
    /// Type, and value by key.
    maps: BTreeMap<String, (&'static str, BTreeMap<String, String>)>,
    /// Rules in order.
    chains: BTreeMap<String, Vec<String>>,
}

/// Commands that bring the table from `old` (unknown: whatever is there) to `new`, which is not empty.
pub(crate) fn change(cluster: &str, old: Option<&Firewall>, new: &Firewall) -> String {
    let old = old.filter(|old| !old.is_empty() && old.families() == new.families());
    let name = table_name(cluster);
    let mut text = String::new();
    if old.is_none() {
        let fresh = format!("add table inet {name}\ndelete table inet {name}\nadd table inet {name}\n");
        let _ = write!(text, "{fresh}{}", base_chains(&name));
    }
    difference(&name, &old.map(table).unwrap_or_default(), &table(new), &mut text);
    if old.is_none() {
        text.push_str(&base_rules(&name, new.families()));
    }
    text
}

/// Removes the table, there or not.
pub(crate) fn removal(cluster: &str) -> Batch {
    let mut batch = Batch::new();
    batch.forget_inet_table(&table_name(cluster));
    batch
}

fn table_name(cluster: &str) -> String {
    format!("{cluster}-policy")
}

/// Ingress comes after egress: both must agree, and to accept ends only one's own chain.
fn base_chains(name: &str) -> String {
    let hooks =
        [("egress_forward", "forward", 0), ("egress_input", "input", 0), ("ingress_forward", "forward", 1)];
    let mut text = String::new();
    for (chain, hook, priority) in hooks {
        let _ = writeln!(
            text,
            "add chain inet {name} {chain} {{ type filter hook {hook} priority {priority}; }}"
        );
    }
    text
}

fn base_rules(name: &str, families: &[Kind]) -> String {
    let mut text = String::new();
    for (chain, word, direction) in [
        ("egress_forward", "saddr", Direction::Egress),
        ("egress_input", "saddr", Direction::Egress),
        ("ingress_forward", "daddr", Direction::Ingress),
    ] {
        let _ = writeln!(text, "add rule inet {name} {chain} ct state established,related accept");
        for kind in families {
            let (ip, map) = (kind.word(), kind.named(&map_of(direction)));
            let _ = writeln!(text, "add rule inet {name} {chain} {ip} {word} vmap @{map}");
        }
    }
    text
}

fn map_of(direction: Direction) -> String {
    format!("{}_pods", direction.word())
}

fn table(firewall: &Firewall) -> Table {
    let mut table = Table::default();
    let families = firewall.families();
    for kind in families {
        sets(&mut table, firewall, *kind);
    }
    for ((direction, policy), allowed) in &firewall.policies {
        let rules = allowed.iter().flat_map(|allow| rules(*direction, allow, families)).collect();
        table.chains.insert(policy_chain(*direction, policy), rules);
    }
    for ((direction, address), policies) in &firewall.pods {
        let chain = pods_chain(*direction, policies);
        table.chains.entry(chain.clone()).or_insert_with(|| of_all(*direction, policies));
        if let Some((_, elements)) = table.maps.get_mut(&Kind::of(address).named(&map_of(*direction))) {
            elements.insert(address.to_string(), format!("goto {chain}"));
        }
    }
    table
}

/// Sets and maps of one family.
fn sets(table: &mut Table, firewall: &Firewall, kind: Kind) {
    let [of_addresses, of_endpoints, of_verdicts] = kind.types();
    for (name, addresses) in &firewall.addresses {
        let own = addresses.iter().filter(|address| Kind::of(address) == kind);
        table.sets.insert(kind.named(name), (of_addresses, own.map(ToString::to_string).collect()));
    }
    for (name, endpoints) in &firewall.endpoints {
        let own = endpoints.iter().filter(|(address, ..)| Kind::of(address) == kind);
        let element = |(address, protocol, port): &(IpAddr, Protocol, u16)| {
            format!("{address} . {} . {port}", protocol.name())
        };
        table.sets.insert(kind.named(name), (of_endpoints, own.map(element).collect()));
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        table.maps.insert(kind.named(&map_of(direction)), (of_verdicts, BTreeMap::new()));
    }
}

/// One of the policies must allow it.
fn of_all(direction: Direction, policies: &BTreeSet<String>) -> Vec<String> {
    let mut rules: Vec<_> =
        policies.iter().map(|policy| format!("jump {}", policy_chain(direction, policy))).collect();
    rules.push("counter drop".to_owned());
    rules
}

fn policy_chain(direction: Direction, policy: &str) -> String {
    format!("{}_policy_{}", direction.word(), short_hash(policy.as_bytes()))
}

/// Pods chosen by the same policies share a chain.
fn pods_chain(direction: Direction, policies: &BTreeSet<String>) -> String {
    let all = policies.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
    format!("{}_of_{}", direction.word(), short_hash(all.as_bytes()))
}

fn short_hash(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex::encode(&sha2::Sha256::digest(bytes)[..8])
}

/// One rule; one of each family where sets tell.
fn rules(direction: Direction, allow: &Allow, families: &[Kind]) -> Vec<String> {
    let by_set = matches!(allow.remote, Remote::Set(_)) || matches!(allow.ports, Ports::Set(_));
    let families = if by_set { families } else { &families[..1] };
    families.iter().map(|kind| rule(direction, allow, *kind)).collect()
}

fn rule(direction: Direction, allow: &Allow, kind: Kind) -> String {
    let (side, ip) = (direction.remote(), kind.word());
    let remote = match &allow.remote {
        Remote::Any => String::new(),
        Remote::Set(name) => format!("{ip} {side} @{} ", kind.named(name)),
        Remote::Block { cidr, except } => block(side, cidr, except),
    };
    let ports = match &allow.ports {
        Ports::Any => String::new(),
        Ports::Protocol(protocol) => format!("meta l4proto {} ", protocol.name()),
        Ports::Range(protocol, first, last) if first == last => format!("{} dport {first} ", protocol.name()),
        Ports::Range(protocol, first, last) => format!("{} dport {first}-{last} ", protocol.name()),
        Ports::Set(name) => format!("{ip} daddr . meta l4proto . th dport @{} ", kind.named(name)),
    };
    format!("{remote}{ports}accept")
}

fn block(side: &str, cidr: &IpNet, except: &[IpNet]) -> String {
    let family = |net: &IpNet| if matches!(net.addr(), IpAddr::V4(_)) { "ip" } else { "ip6" };
    let (word, cidr) = (family(cidr), cidr.trunc());
    // A block of everything is no match to nftables, but still means one family.
    let mut text = match (cidr.prefix_len(), word) {
        (0, "ip") => "meta nfproto ipv4 ".to_owned(),
        (0, _) => "meta nfproto ipv6 ".to_owned(),
        _ => format!("{word} {side} {cidr} "),
    };
    for net in except.iter().filter(|net| family(net) == word) {
        let _ = write!(text, "{word} {side} != {} ", net.trunc());
    }
    text
}

/// In an order in which nothing refers to what is not there: new sets and chains first, then rules and elements, removals last.
fn difference(name: &str, old: &Table, new: &Table, text: &mut String) {
    let mut line = |words: std::fmt::Arguments<'_>| {
        let _ = writeln!(text, "{words}");
    };
    for (set, (kind, _)) in new.sets.iter().filter(|(set, _)| !old.sets.contains_key(*set)) {
        line(format_args!("add set inet {name} {set} {{ type {kind}; }}"));
    }
    for (map, (kind, _)) in new.maps.iter().filter(|(map, _)| !old.maps.contains_key(*map)) {
        line(format_args!("add map inet {name} {map} {{ type {kind}; }}"));
    }
    for chain in new.chains.keys().filter(|chain| !old.chains.contains_key(*chain)) {
        line(format_args!("add chain inet {name} {chain}"));
    }
    for (set, (_, elements)) in &new.sets {
        let none = BTreeSet::new();
        let before = old.sets.get(set).map_or(&none, |(_, elements)| elements);
        for (verb, changed) in [("delete", before.difference(elements)), ("add", elements.difference(before))]
        {
            let changed: Vec<&str> = changed.map(String::as_str).collect();
            if !changed.is_empty() {
                line(format_args!("{verb} element inet {name} {set} {{ {} }}", changed.join(", ")));
            }
        }
    }
    for (chain, rules) in new.chains.iter().filter(|(chain, rules)| old.chains.get(*chain) != Some(rules)) {
        if old.chains.contains_key(chain) {
            line(format_args!("flush chain inet {name} {chain}"));
        }
        for rule in rules {
            line(format_args!("add rule inet {name} {chain} {rule}"));
        }
    }
    for (map, (_, elements)) in &new.maps {
        let none = BTreeMap::new();
        let before = old.maps.get(map).map_or(&none, |(_, elements)| elements);
        for (key, value) in before.iter().filter(|(key, value)| elements.get(*key) != Some(value)) {
            line(format_args!("delete element inet {name} {map} {{ {key} : {value} }}"));
        }
        for (key, value) in elements.iter().filter(|(key, value)| before.get(*key) != Some(value)) {
            line(format_args!("add element inet {name} {map} {{ {key} : {value} }}"));
        }
    }
    let gone: Vec<_> = old.chains.keys().filter(|chain| !new.chains.contains_key(*chain)).collect();
    for chain in &gone {
        line(format_args!("flush chain inet {name} {chain}"));
    }
    for chain in &gone {
        line(format_args!("delete chain inet {name} {chain}"));
    }
    for set in old.sets.keys().filter(|set| !new.sets.contains_key(*set)) {
        line(format_args!("delete set inet {name} {set}"));
    }
}

/// Feeds `commands` to `nft -f -`: all or nothing.
pub(crate) async fn apply(commands: &str) -> Result<(), NetworkError> {
    if commands.is_empty() {
        return Ok(());
    }
    let failed = |error: std::io::Error| NetworkError::Nft(format!("cannot run nft: {error}"));
    let mut child = tokio::process::Command::new("nft")
        .args(["-f", "-"])
        .env("PATH", search_path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A broken pipe only means that nft gave up early; its message says why.
        let _ = stdin.write_all(commands.as_bytes()).await;
    }
    let output = tokio::time::timeout(NFT_TIMEOUT, child.wait_with_output())
        .await
        .map_err(|_| NetworkError::Nft(format!("nft did not finish in {NFT_TIMEOUT:?}")))?
        .map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(NetworkError::Nft(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Administrative directories are missing from the PATH of many services.
fn search_path() -> String {
    format!("{}:/usr/sbin:/sbin:/usr/bin:/bin", std::env::var("PATH").unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 1, 0, last])
    }

    /// Pod 2 accepts the set `s_a` on TCP 80.
    fn one_policy(members: &[u8]) -> Firewall {
        let allow = Allow { remote: Remote::Set("s_a".into()), ports: Ports::Range(Protocol::Tcp, 80, 80) };
        let policy = (Direction::Ingress, "ns/p".to_owned());
        Firewall {
            addresses: BTreeMap::from([("s_a".into(), members.iter().map(|m| address(*m)).collect())]),
            policies: BTreeMap::from([(policy.clone(), BTreeSet::from([allow]))]),
            pods: BTreeMap::from([((Direction::Ingress, address(2)), BTreeSet::from([policy.1]))]),
            ..Firewall::default()
        }
    }

    #[test]
    fn from_nothing_the_whole_table() {
        expect_test::expect![[r#"
            add table inet c-policy
            delete table inet c-policy
            add table inet c-policy
            add chain inet c-policy egress_forward { type filter hook forward priority 0; }
            add chain inet c-policy egress_input { type filter hook input priority 0; }
            add chain inet c-policy ingress_forward { type filter hook forward priority 1; }
            add set inet c-policy s_a { type ipv4_addr; }
            add map inet c-policy egress_pods { type ipv4_addr : verdict; }
            add map inet c-policy ingress_pods { type ipv4_addr : verdict; }
            add chain inet c-policy ingress_of_0f2e0b4e5c7d9a11
            add chain inet c-policy ingress_policy_0f2e0b4e5c7d9a11
            add element inet c-policy s_a { 10.1.0.3 }
            add rule inet c-policy ingress_of_0f2e0b4e5c7d9a11 jump ingress_policy_0f2e0b4e5c7d9a11
            add rule inet c-policy ingress_of_0f2e0b4e5c7d9a11 counter drop
            add rule inet c-policy ingress_policy_0f2e0b4e5c7d9a11 ip saddr @s_a tcp dport 80 accept
            add element inet c-policy ingress_pods { 10.1.0.2 : goto ingress_of_0f2e0b4e5c7d9a11 }
            add rule inet c-policy egress_forward ct state established,related accept
            add rule inet c-policy egress_forward ip saddr vmap @egress_pods
            add rule inet c-policy egress_input ct state established,related accept
            add rule inet c-policy egress_input ip saddr vmap @egress_pods
            add rule inet c-policy ingress_forward ct state established,related accept
            add rule inet c-policy ingress_forward ip daddr vmap @ingress_pods
        "#]]
        .assert_eq(&change("c", None, &one_policy(&[3])).replace(&short_hash(b"ns/p"), "0f2e0b4e5c7d9a11"));
    }

    #[test]
    fn a_second_family_has_sets_and_maps_of_its_own() {
        let six = |last: u16| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last]);
        let mut both = one_policy(&[3]);
        both.addresses.get_mut("s_a").unwrap().insert(six(3));
        assert_eq!(both.families(), [Kind::V4], "no pod of ours has the other family");
        both.pods.insert((Direction::Ingress, six(2)), BTreeSet::from(["ns/p".into()]));
        let text = change("c", Some(&one_policy(&[3])), &both);
        for line in [
            "delete table inet c-policy",
            "add set inet c-policy s_a_6 { type ipv6_addr; }",
            "add element inet c-policy s_a_6 { fd00::3 }",
            "add map inet c-policy ingress_pods_6 { type ipv6_addr : verdict; }",
            "add rule inet c-policy ingress_forward ip daddr vmap @ingress_pods",
            "add rule inet c-policy ingress_forward ip6 daddr vmap @ingress_pods_6",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(text.contains("ip6 saddr @s_a_6 tcp dport 80 accept"), "{text}");
        let mut more = both.clone();
        more.addresses.get_mut("s_a").unwrap().insert(six(4));
        assert_eq!(change("c", Some(&both), &more), "add element inet c-policy s_a_6 { fd00::4 }\n");
    }

    #[test]
    fn a_pod_more_is_one_element() {
        let (before, after) = (one_policy(&[3]), one_policy(&[3, 4]));
        assert_eq!(change("c", Some(&before), &after), "add element inet c-policy s_a { 10.1.0.4 }\n");
        assert_eq!(change("c", Some(&after), &before), "delete element inet c-policy s_a { 10.1.0.4 }\n");
        let mut two = before.clone();
        two.pods.insert((Direction::Ingress, address(9)), BTreeSet::from(["ns/p".into()]));
        let text = change("c", Some(&before), &two);
        assert!(
            text.starts_with("add element inet c-policy ingress_pods { 10.1.0.9 : goto")
                && text.lines().count() == 1
        );
    }

    #[test]
    fn rules() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let table = [
            (Remote::Any, Ports::Any, "accept"),
            (Remote::Any, Ports::Protocol(Protocol::Sctp), "meta l4proto sctp accept"),
            (Remote::Set("s".into()), Ports::Range(Protocol::Udp, 5, 9), "ip daddr @s udp dport 5-9 accept"),
            (Remote::Any, Ports::Set("n".into()), "ip daddr . meta l4proto . th dport @n accept"),
            (
                Remote::Block { cidr: net("10.0.0.5/8"), except: vec![net("10.1.0.0/16"), net("fd00::/8")] },
                Ports::Any,
                "ip daddr 10.0.0.0/8 ip daddr != 10.1.0.0/16 accept",
            ),
            (
                Remote::Block { cidr: net("0.0.0.0/0"), except: vec![] },
                Ports::Any,
                "meta nfproto ipv4 accept",
            ),
            (
                Remote::Block { cidr: net("fd00::/8"), except: vec![] },
                Ports::Any,
                "ip6 daddr fd00::/8 accept",
            ),
        ];
        for (remote, ports, text) in table {
            assert_eq!(rule(Direction::Egress, &Allow { remote, ports }, Kind::V4), text);
        }
    }
}
