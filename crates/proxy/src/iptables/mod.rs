//! The iptables mode: rules by `iptables-restore --noflush`, one transaction a table, so that neither other clusters' nor
//! upstream's chains are touched. A change of endpoints rewrites the chains of its service only.

mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use async_trait::async_trait;
use corten_sys::netfilter::Changed;

use crate::backend::{Backend, Error};
use crate::config::Config;
use crate::program;
use crate::ruleset::{Change, Family, Ruleset, ServicePort};
use crate::watch::Watch;
use rules::{Names, Piece, Table};

/// Rules of iptables in the network namespace of the threads that call.
#[derive(Debug)]
pub struct Iptables {
    config: Config,
    watch: Watch,
    /// The programs write nftables, whose changes the kernel tells. The older ones write what nobody tells of.
    is_nft: bool,
}

impl Iptables {
    /// For one cluster on this node. Starts nothing.
    pub fn new(config: &Config) -> Self {
        Self { config: config.clone(), watch: Watch::open(None), is_nft: false }
    }

    fn names(&self, family: Family) -> Names {
        Names::new(&self.config, family)
    }

    async fn sync_family(&self, family: Family, rules: &Ruleset) -> Result<Option<u32>, Error> {
        let names = self.names(family);
        let pieces = rules.ports.iter().filter(|(name, _)| name.family == family);
        let wanted = whole(&names, pieces.map(|(name, port)| rules::piece(&names, name, port)));
        let mut text = String::new();
        for table in Table::BOTH {
            let there = Saved::read(family, table, &names).await?;
            text += &there.replace_by(&names, table, &wanted[table as usize]);
        }
        restore(family, &text).await
    }

    async fn apply_family(&self, family: Family, change: &Change) -> Result<Option<u32>, Error> {
        let names = self.names(family);
        let mut patch = Patch::default();
        for one in change.ports.iter().filter(|one| one.name.family == family) {
            let piece = |port: &Option<Arc<ServicePort>>| match port {
                Some(port) => rules::piece(&names, &one.name, port),
                None => Piece::default(),
            };
            patch.add(&piece(&one.old), &piece(&one.new));
        }
        restore(family, &patch.text()).await
    }

    /// What others did while our programs made changes is told by [`Backend::disturbed`].
    fn sort_out(&mut self, own: &[u32]) {
        let names = self.names(Family::V4);
        self.watch.sort_out(own, |changed| concerns(changed, &names));
    }
}

#[async_trait]
impl Backend for Iptables {
    async fn sync_all(&mut self, rules: &Ruleset) -> Result<(), Error> {
        let version = program::run("iptables", &["-V"], "").await;
        self.is_nft = version.is_ok_and(|text| text.contains("nf_tables"));
        // Whatever others did until now, this repairs.
        self.watch.forget();
        let mut own = Vec::new();
        for family in Family::BOTH {
            own.extend(self.sync_family(family, rules).await?);
        }
        self.sort_out(&own);
        Ok(())
    }

    async fn apply(&mut self, change: &Change, _rules: &Ruleset) -> Result<(), Error> {
        let mut own = Vec::new();
        for family in Family::BOTH {
            own.extend(self.apply_family(family, change).await?);
        }
        self.sort_out(&own);
        Ok(())
    }

    async fn cleanup(&mut self) -> Result<(), Error> {
        for family in Family::BOTH {
            let names = self.names(family);
            let mut text = String::new();
            for table in Table::BOTH {
                let there = match Saved::read(family, table, &names).await {
                    // Without the program there are no rules of ours.
                    Err(Error::Program { why, .. }) if why.starts_with("cannot start") => return Ok(()),
                    other => other?,
                };
                text += &there.removal(table);
            }
            restore(family, &text).await?;
        }
        self.watch.forget();
        Ok(())
    }

    async fn disturbed(&mut self) {
        let names = self.names(Family::V4);
        self.watch.next(|changed| concerns(changed, &names)).await;
    }

    fn hears_all(&self) -> bool {
        self.is_nft && self.watch.hears()
    }
}

/// Chains of ours that go or lose rules, and the same for those of the kernel that lead to ours.
fn concerns(changed: &Changed, names: &Names) -> bool {
    const IP: u8 = 2;
    const IP6: u8 = 10;
    let is_in_table = |table: &Table| table.name() == changed.table;
    let Some(table) = Table::BOTH.into_iter().find(is_in_table) else { return false };
    let leads =
        |chain: &str| names.is_ours(chain) || rules::hooks(names, table).iter().any(|(h, _)| *h == chain);
    changed.is_gone && matches!(changed.family, IP | IP6) && changed.chain.as_deref().is_none_or(leads)
}

/// Chains with their rules, by table.
type Chains = [BTreeMap<String, Vec<String>>; 2];

/// Everything of one family.
fn whole(names: &Names, pieces: impl Iterator<Item = Piece>) -> Chains {
    let mut all = rules::fixed(names);
    for piece in pieces {
        all[Table::Nat as usize].extend(piece.chains);
        for ((table, chain), rules) in piece.shared {
            all[table as usize].entry(chain).or_default().extend(rules);
        }
    }
    all
}

/// What of ours stands in one table.
#[derive(Debug, Default, PartialEq, Eq)]
struct Saved {
    chains: BTreeSet<String>,
    /// `CHAIN rest` of rules in chains that are not ours, which lead to ours.
    jumps: Vec<String>,
}

impl Saved {
    async fn read(family: Family, table: Table, names: &Names) -> Result<Self, Error> {
        let text = program::run(save_program(family), &["-t", table.name()], "").await?;
        Ok(Self::parse(&text, names))
    }

    fn parse(text: &str, names: &Names) -> Self {
        let mut saved = Self::default();
        for line in text.lines() {
            if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next()) {
                if names.is_ours(chain) {
                    saved.chains.insert(chain.into());
                }
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let leads_to = rule.split(" -j ").nth(1).and_then(|rest| rest.split(' ').next());
                let is_inside = rule.split(' ').next().is_some_and(|chain| names.is_ours(chain));
                if !is_inside && leads_to.is_some_and(|chain| names.is_ours(chain)) {
                    saved.jumps.push(rule.into());
                }
            }
        }
        saved
    }

    /// Lines that bring the table to `wanted`.
    fn replace_by(&self, names: &Names, table: Table, wanted: &BTreeMap<String, Vec<String>>) -> String {
        let mut text = format!("*{}\n", table.name());
        let stale: Vec<_> = self.chains.iter().filter(|chain| !wanted.contains_key(*chain)).collect();
        for chain in wanted.keys().chain(stale.iter().copied()) {
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        for (chain, rules) in wanted {
            write_rules(&mut text, chain, rules);
        }
        for (hook, rule) in rules::hooks(names, table) {
            // Whatever the order of its words when saved: the chain that it leads to tells.
            let target = rule.split(" -j ").nth(1).unwrap_or_default();
            let is_there = |jump: &String| {
                jump.starts_with(&format!("{hook} ")) && jump.ends_with(&format!(" -j {target}"))
            };
            if !self.jumps.iter().any(is_there) {
                let _ = writeln!(text, "-I {hook} 1 {rule}");
            }
        }
        write_deletions(&mut text, stale.into_iter());
        text + "COMMIT\n"
    }

    /// Lines that remove all of it.
    fn removal(&self, table: Table) -> String {
        if self.chains.is_empty() {
            return String::new();
        }
        let mut text = format!("*{}\n", table.name());
        for chain in &self.chains {
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        for jump in &self.jumps {
            let _ = writeln!(text, "-D {jump}");
        }
        write_deletions(&mut text, self.chains.iter());
        text + "COMMIT\n"
    }
}

/// The difference between service ports, as lines.
#[derive(Debug, Default)]
struct Patch {
    /// New or changed chains of the nat table.
    set: BTreeMap<String, Vec<String>>,
    gone: BTreeSet<String>,
    /// Rules of chains that all services share: all deletions stand before all additions.
    deleted: [Vec<String>; 2],
    added: [Vec<String>; 2],
}

impl Patch {
    fn add(&mut self, old: &Piece, new: &Piece) {
        for (chain, rules) in &new.chains {
            if old.chains.get(chain) != Some(rules) {
                self.set.insert(chain.clone(), rules.clone());
            }
        }
        self.gone.extend(old.chains.keys().filter(|chain| !new.chains.contains_key(*chain)).cloned());
        let flat = |piece: &Piece| -> BTreeSet<(Table, String)> {
            let lines = piece.shared.iter().flat_map(|((table, chain), rules)| {
                rules.iter().map(move |rule| (*table, format!("{chain} {rule}")))
            });
            lines.collect()
        };
        let (before, after) = (flat(old), flat(new));
        for (table, line) in before.difference(&after) {
            self.deleted[*table as usize].push(line.clone());
        }
        for (table, line) in after.difference(&before) {
            self.added[*table as usize].push(line.clone());
        }
    }

    fn text(&self) -> String {
        Table::BOTH.into_iter().map(|table| self.table(table)).collect()
    }

    fn table(&self, table: Table) -> String {
        let mut text = String::new();
        let is_nat = table == Table::Nat;
        if is_nat {
            for chain in self.set.keys().chain(&self.gone) {
                let _ = writeln!(text, ":{chain} - [0:0]");
            }
            for (chain, rules) in &self.set {
                write_rules(&mut text, chain, rules);
            }
        }
        for line in &self.deleted[table as usize] {
            let _ = writeln!(text, "-D {line}");
        }
        for line in &self.added[table as usize] {
            let _ = writeln!(text, "-A {line}");
        }
        if is_nat {
            write_deletions(&mut text, self.gone.iter());
        }
        if text.is_empty() { text } else { format!("*{}\n{text}COMMIT\n", table.name()) }
    }
}

fn write_rules(text: &mut String, chain: &str, rules: &[String]) {
    for rule in rules {
        let _ = writeln!(text, "-A {chain} {rule}");
    }
}

fn write_deletions<'a>(text: &mut String, chains: impl Iterator<Item = &'a String>) {
    for chain in chains {
        let _ = writeln!(text, "-X {chain}");
    }
}

fn save_program(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables-save",
        Family::V6 => "ip6tables-save",
    }
}

/// Returns the program's process id, if one was needed.
async fn restore(family: Family, text: &str) -> Result<Option<u32>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let program = match family {
        Family::V4 => "iptables-restore",
        Family::V6 => "ip6tables-restore",
    };
    // Waits for other programs that hold the lock of legacy iptables; the nft variant takes and ignores it.
    program::run_noted(program, &["--noflush", "--wait", "30"], text).await.map(|(_, id)| Some(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::{At, Endpoint, Frontend, FrontendKind, PortName, Protocol, Route};
    use expect_test::expect;

    fn names() -> Names {
        let mut config = Config::new("c", "n");
        config.cluster_cidrs = vec!["10.1.0.0/16".parse().unwrap()];
        Names::new(&config, Family::V4)
    }

    fn name() -> PortName {
        PortName {
            namespace: "ns".into(),
            service: "web".into(),
            port: String::new(),
            protocol: Protocol::Tcp,
            family: Family::V4,
        }
    }

    fn service(endpoints: &[&str], route: Route) -> ServicePort {
        let endpoint = |ip: &&str| Endpoint { address: ip.parse().unwrap(), port: 8080, is_local: true };
        let at = At { address: Some("10.96.0.7".parse().unwrap()), protocol: Protocol::Tcp, port: 80 };
        ServicePort {
            protocol: Protocol::Tcp,
            frontends: vec![Frontend { at, kind: FrontendKind::ClusterIp, route }],
            cluster: endpoints.iter().map(endpoint).collect(),
            local: vec![],
            serving: vec![],
            affinity_s: None,
            source_ranges: vec![],
        }
    }

    #[test]
    fn a_changed_endpoint_touches_its_service_only() {
        let (names, name) = (names(), name());
        let old = rules::piece(&names, &name, &service(&["10.1.0.2", "10.1.0.3"], Route::Cluster));
        let new = rules::piece(&names, &name, &service(&["10.1.0.2"], Route::Cluster));
        let mut patch = Patch::default();
        patch.add(&old, &new);
        expect![[r#"
            *nat
            :c-SVC-30d9775f8896 - [0:0]
            :c-SEP-160f63ec4fb5 - [0:0]
            -A c-SVC-30d9775f8896 -d 10.96.0.7 -p tcp -m tcp --dport 80 -j c-OFF-CLUSTER
            -A c-SVC-30d9775f8896 -j c-SEP-0e5b973ed655
            -X c-SEP-160f63ec4fb5
            COMMIT
        "#]]
        .assert_eq(&patch.text());
    }

    #[test]
    fn the_last_endpoint_leaves_a_reject_behind() {
        let (names, name) = (names(), name());
        let old = rules::piece(&names, &name, &service(&["10.1.0.2"], Route::Cluster));
        let new = rules::piece(&names, &name, &service(&[], Route::Reject));
        let mut patch = Patch::default();
        patch.add(&old, &new);
        expect![[r#"
            *nat
            :c-SEP-0e5b973ed655 - [0:0]
            :c-SVC-30d9775f8896 - [0:0]
            -D c-VIPS -d 10.96.0.7 -p tcp -m tcp --dport 80 -m comment --comment "ns/web/tcp" -j c-SVC-30d9775f8896
            -X c-SEP-0e5b973ed655
            -X c-SVC-30d9775f8896
            COMMIT
            *filter
            -A c-VIPFW -d 10.96.0.7 -p tcp -m tcp --dport 80 -j REJECT
            COMMIT
        "#]].assert_eq(&patch.text());
    }

    #[test]
    fn others_concern_us_when_they_take_something_away() {
        let gone = |family, table: &str, chain: Option<&str>| Changed {
            family,
            table: table.into(),
            chain: chain.map(str::to_owned),
            is_gone: true,
            sender: 1,
        };
        for (changed, expected) in [
            (gone(2, "nat", None), true),
            (gone(2, "nat", Some("PREROUTING")), true),
            (gone(10, "filter", Some("c-FIREWALL")), true),
            (gone(2, "filter", Some("PREROUTING")), false),
            (gone(2, "nat", Some("DOCKER")), false),
            (gone(2, "mangle", None), false),
            (gone(1, "nat", None), false),
            (Changed { is_gone: false, ..gone(2, "nat", Some("PREROUTING")) }, false),
        ] {
            assert_eq!(concerns(&changed, &names()), expected, "{changed:?}");
        }
    }

    #[test]
    fn what_a_crash_left_is_found_by_name() {
        let saved = Saved::parse(
            "*nat\n:PREROUTING ACCEPT [0:0]\n:c-SVC-0 - [0:0]\n:c-SERVICES - [0:0]\n:cc-SERVICES - [0:0]\n\
             :KUBE-SERVICES - [0:0]\n-A PREROUTING -m comment --comment x -j c-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n\
             -A c-SERVICES -j c-SVC-0\nCOMMIT\n",
            &names(),
        );
        assert_eq!(saved.chains.iter().map(String::as_str).collect::<Vec<_>>(), ["c-SERVICES", "c-SVC-0"]);
        assert_eq!(saved.jumps, ["PREROUTING -m comment --comment x -j c-SERVICES"]);
        expect![[r#"
            *nat
            :c-SERVICES - [0:0]
            :c-SVC-0 - [0:0]
            -D PREROUTING -m comment --comment x -j c-SERVICES
            -X c-SERVICES
            -X c-SVC-0
            COMMIT
        "#]]
        .assert_eq(&saved.removal(Table::Nat));
        assert_eq!(Saved::default().removal(Table::Nat), "");
    }

    #[test]
    fn everything_of_one_service() {
        let (names, name) = (names(), name());
        let mut port = service(&["10.1.0.2", "10.1.0.3"], Route::Cluster);
        port.local = vec![port.cluster[0]];
        port.affinity_s = Some(10);
        port.source_ranges = vec!["192.0.2.0/24".parse().unwrap()];
        for (kind, address, number) in [
            (FrontendKind::LoadBalancerIp, Some("203.0.113.1".parse().unwrap()), 80),
            (FrontendKind::NodePort, None, 30080),
        ] {
            let at = At { address, protocol: Protocol::Tcp, port: number };
            port.frontends.push(Frontend { at, kind, route: Route::Split });
        }
        let wanted = whole(&names, [rules::piece(&names, &name, &port)].into_iter());
        let text: String = Table::BOTH
            .map(|table| Saved::default().replace_by(&names, table, &wanted[table as usize]))
            .concat();
        expect![[r#"
            *nat
            :c-EXT-30d9775f8896 - [0:0]
            :c-FW-30d9775f8896 - [0:0]
            :c-MARK-MASQ - [0:0]
            :c-NODEPORTS - [0:0]
            :c-OFF-CLUSTER - [0:0]
            :c-POSTROUTING - [0:0]
            :c-SEP-0e5b973ed655 - [0:0]
            :c-SEP-160f63ec4fb5 - [0:0]
            :c-SERVICES - [0:0]
            :c-SVC-30d9775f8896 - [0:0]
            :c-SVL-30d9775f8896 - [0:0]
            :c-VIPS - [0:0]
            -A c-EXT-30d9775f8896 -s 10.1.0.0/16 -j c-SVC-30d9775f8896
            -A c-EXT-30d9775f8896 -m addrtype --src-type LOCAL -j c-MARK-MASQ
            -A c-EXT-30d9775f8896 -m addrtype --src-type LOCAL -j c-SVC-30d9775f8896
            -A c-EXT-30d9775f8896 -j c-SVL-30d9775f8896
            -A c-FW-30d9775f8896 -s 192.0.2.0/24 -j c-EXT-30d9775f8896
            -A c-FW-30d9775f8896 -s 203.0.113.1 -j c-EXT-30d9775f8896
            -A c-MARK-MASQ -j MARK --or-mark 0x4000
            -A c-NODEPORTS -p tcp -m tcp --dport 30080 -m comment --comment "ns/web/tcp" -j c-EXT-30d9775f8896
            -A c-OFF-CLUSTER -s 10.1.0.0/16 -j RETURN
            -A c-OFF-CLUSTER -j c-MARK-MASQ
            -A c-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
            -A c-POSTROUTING -j MARK --xor-mark 0x4000
            -A c-POSTROUTING -j MASQUERADE --random-fully
            -A c-SEP-0e5b973ed655 -s 10.1.0.2 -j c-MARK-MASQ
            -A c-SEP-0e5b973ed655 -m recent --name c-SEP-0e5b973ed655 --set
            -A c-SEP-0e5b973ed655 -p tcp -m tcp -j DNAT --to-destination 10.1.0.2:8080
            -A c-SEP-160f63ec4fb5 -s 10.1.0.3 -j c-MARK-MASQ
            -A c-SEP-160f63ec4fb5 -m recent --name c-SEP-160f63ec4fb5 --set
            -A c-SEP-160f63ec4fb5 -p tcp -m tcp -j DNAT --to-destination 10.1.0.3:8080
            -A c-SERVICES -j c-VIPS
            -A c-SERVICES ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j c-NODEPORTS
            -A c-SVC-30d9775f8896 -d 10.96.0.7 -p tcp -m tcp --dport 80 -j c-OFF-CLUSTER
            -A c-SVC-30d9775f8896 -m recent --name c-SEP-0e5b973ed655 --rcheck --seconds 10 --reap -j c-SEP-0e5b973ed655
            -A c-SVC-30d9775f8896 -m recent --name c-SEP-160f63ec4fb5 --rcheck --seconds 10 --reap -j c-SEP-160f63ec4fb5
            -A c-SVC-30d9775f8896 -m statistic --mode random --probability 0.5000000000 -j c-SEP-0e5b973ed655
            -A c-SVC-30d9775f8896 -j c-SEP-160f63ec4fb5
            -A c-SVL-30d9775f8896 -m recent --name c-SEP-0e5b973ed655 --rcheck --seconds 10 --reap -j c-SEP-0e5b973ed655
            -A c-SVL-30d9775f8896 -j c-SEP-0e5b973ed655
            -A c-VIPS -d 10.96.0.7 -p tcp -m tcp --dport 80 -m comment --comment "ns/web/tcp" -j c-SVC-30d9775f8896
            -A c-VIPS -d 203.0.113.1 -p tcp -m tcp --dport 80 -m comment --comment "ns/web/tcp" -j c-FW-30d9775f8896
            -I PREROUTING 1 -m comment --comment "service portals" -j c-SERVICES
            -I OUTPUT 1 -m comment --comment "service portals" -j c-SERVICES
            -I POSTROUTING 1 -m comment --comment "service portals" -j c-POSTROUTING
            COMMIT
            *filter
            :c-FIREWALL - [0:0]
            :c-NODEFW - [0:0]
            :c-VIPFW - [0:0]
            -A c-FIREWALL -j c-VIPFW
            -A c-FIREWALL ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j c-NODEFW
            -A c-VIPFW -d 203.0.113.1 -p tcp -m tcp --dport 80 -j DROP
            -I INPUT 1 -m conntrack --ctstate NEW -j c-FIREWALL
            -I FORWARD 1 -m conntrack --ctstate NEW -j c-FIREWALL
            -I OUTPUT 1 -m conntrack --ctstate NEW -j c-FIREWALL
            COMMIT
        "#]].assert_eq(&text);
    }
}
