//! Mode nftables: one table a family, `NAME-proxy`, that the kernel gets by netlink as one batch a change.
//!
//! Services are elements of maps, and the chains they lead to are shared by all services with as many endpoints (see `ways.rs`):
//! finding a service takes one look-up however many there are, a first sync is elements only, and one changed endpoint
//! is about three messages.

mod base;
mod entries;
mod names;
mod ways;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use async_trait::async_trait;
use corten_sys::netfilter::Socket;
use corten_sys::netfilter::nft::{self, Batch, Element, Rule, Table, Value, Verdict};

use self::base::Layout;
use self::entries::{Entries, Slots, Stands, element, entries, firewall_chain, shared};
use self::names::{AFFINITY, NODE_PORT_AFFINITY, address, key, table, target};
use self::ways::Way;
use crate::backend::{Backend, Error};
use crate::config::Config;
use crate::ruleset::{At, Change, Family, FrontendKind, PortChange, PortName, Ruleset, ServicePort};
use crate::watch::Watch;

/// So many chains may stand unused before they are removed. They are kept because the number of endpoints of a service often
/// comes back, and because kernels before 6.2 want some time between the last use of a chain and its end.
const MOST_IDLE_CHAINS: usize = 64;
/// Forgotten clients go in batches of this size.
const FORGET_AT_ONCE: usize = 256;

/// The back end. Acts on the network namespace of the thread that made it.
pub struct Nftables {
    config: Config,
    socket: Socket,
    tables: Vec<FamilyTable>,
    watch: Watch,
}

/// What stands in the table of one family.
struct FamilyTable {
    family: Family,
    table: Table,
    slots: HashMap<PortName, Slots>,
    /// Elements that several service ports ask for.
    shared: HashMap<(&'static str, Vec<u8>), u32>,
    /// What verdicts lead to, and how many do.
    ways: BTreeMap<Way, u32>,
    /// Chains that services share and that stand.
    chains: BTreeSet<String>,
    /// Chains of one service port's source ranges, and whether they are used.
    firewalls: BTreeMap<String, bool>,
}

impl Nftables {
    /// For the cluster of that name; IPv6 only where this host has it.
    pub fn new(config: Config) -> Result<Self, Error> {
        let has_v6 = Path::new("/proc/sys/net/ipv6").exists();
        let families = Family::BOTH.into_iter().filter(|family| *family == Family::V4 || has_v6);
        let tables = families.map(|family| FamilyTable::new(&config, family)).collect();
        let socket = Socket::open()?;
        let watch = Watch::open(Some(&socket));
        Ok(Nftables { socket, config, tables, watch })
    }

    fn sync_now(&mut self, rules: &Ruleset) -> Result<(), Error> {
        // Whatever others did until now, this repairs.
        self.watch.forget();
        let mut batch = Batch::new();
        for table in &mut self.tables {
            let clients = table.remembered(&self.socket);
            *table = FamilyTable::new(&self.config, table.family);
            table.begin(&self.config, &mut batch);
            let ports = rules.ports.iter().filter(|(name, _)| name.family == table.family);
            let changes: Vec<PortChange> = ports
                .map(|(name, port)| PortChange { name: name.clone(), old: None, new: Some(port.clone()) })
                .collect();
            table.write(&self.config, &changes, &mut batch);
            table.remember_again(clients, rules, &mut batch);
        }
        Ok(batch.commit(&self.socket)?)
    }

    fn apply_now(&mut self, change: &Change) -> Result<(), Error> {
        let mut batch = Batch::new();
        for table in &mut self.tables {
            let ours: Vec<PortChange> =
                change.ports.iter().filter(|port| port.name.family == table.family).cloned().collect();
            if !ours.is_empty() {
                table.remove_idle(&mut batch);
                table.write(&self.config, &ours, &mut batch);
            }
        }
        batch.commit(&self.socket)?;
        for table in &self.tables {
            table.forget(change, &self.socket)?;
        }
        Ok(())
    }

    fn cleanup_now(&self) -> Result<(), Error> {
        let mut batch = Batch::new();
        for table in &self.tables {
            batch.add_table(&table.table);
            batch.delete_table(&table.table);
        }
        Ok(batch.commit(&self.socket)?)
    }
}

#[async_trait]
impl Backend for Nftables {
    // A batch is milliseconds inside one system call; moving it to another thread would leave the network namespace.
    async fn sync_all(&mut self, rules: &Ruleset) -> Result<(), Error> {
        self.sync_now(rules)
    }

    async fn apply(&mut self, change: &Change, _: &Ruleset) -> Result<(), Error> {
        self.apply_now(change)
    }

    async fn cleanup(&mut self) -> Result<(), Error> {
        self.cleanup_now()
    }

    async fn disturbed(&mut self) {
        let name = names::table(&self.config.cluster_name, Family::V4).name;
        self.watch.next(|changed| changed.table == name).await;
    }

    fn hears_all(&self) -> bool {
        self.watch.hears()
    }
}

impl FamilyTable {
    fn new(config: &Config, family: Family) -> Self {
        FamilyTable {
            family,
            table: table(&config.cluster_name, family),
            slots: HashMap::new(),
            shared: HashMap::new(),
            ways: BTreeMap::new(),
            chains: BTreeSet::new(),
            firewalls: BTreeMap::new(),
        }
    }

    /// Removes whatever is there and writes what does not depend on services.
    fn begin(&self, config: &Config, batch: &mut Batch) {
        // Making a table that is there changes nothing, and one that is not there cannot be removed.
        batch.add_table(&self.table);
        batch.delete_table(&self.table);
        base::Writer { config, family: self.family, table: &self.table, batch }.write();
    }

    fn write(&mut self, config: &Config, changes: &[PortChange], batch: &mut Batch) {
        let mut plus = BTreeMap::<&'static str, Vec<Element>>::new();
        let mut minus = BTreeMap::<&'static str, Vec<Element>>::new();
        for change in changes {
            self.firewall(config, change, batch);
            let (old, new) = self.differ(change);
            for ((map, key), stands) in &old {
                minus.entry(map).or_default().push(element(key, stands));
                self.release(stands);
            }
            for ((map, key), stands) in &new {
                self.hold(config, stands, batch);
                plus.entry(map).or_default().push(element(key, stands));
            }
        }
        self.count(changes, &mut plus, &mut minus);
        for (map, elements) in &minus {
            batch.delete_elements(&self.table, map, elements);
        }
        for (map, elements) in &plus {
            batch.add_elements(&self.table, map, elements);
        }
    }

    /// Elements to take out and to put in for one service port.
    fn differ(&mut self, change: &PortChange) -> (Entries, Entries) {
        let slots = self.slots.remove(&change.name).unwrap_or_default();
        let mut old = change.old.as_ref().map(|port| entries(&change.name, port, &slots)).unwrap_or_default();
        let Some(port) = &change.new else { return (old, Entries::new()) };
        let slots = slots.follow(port);
        let mut new = entries(&change.name, port, &slots);
        self.slots.insert(change.name.clone(), slots);
        new.retain(|key, stands| {
            let is_same = old.get(key) == Some(stands);
            if is_same {
                old.remove(key);
            }
            !is_same
        });
        (old, new)
    }

    fn hold(&mut self, config: &Config, stands: &Stands, batch: &mut Batch) {
        let Stands::For(way) = stands else { return };
        if let Some(uses) = self.ways.get_mut(way) {
            *uses += 1;
            return;
        }
        self.ways.insert(*way, 1);
        for (name, rules) in way.chains(config, self.family) {
            if self.chains.insert(name.clone()) {
                write_chain(batch, &self.table, &name, &rules);
            }
        }
    }

    fn release(&mut self, stands: &Stands) {
        if let Stands::For(way) = stands
            && let Some(uses) = self.ways.get_mut(way)
        {
            *uses = uses.saturating_sub(1);
        }
    }

    /// Removes chains that nothing led to before this batch, when they are many.
    fn remove_idle(&mut self, batch: &mut Batch) {
        let idle_ways = self.ways.values().filter(|uses| **uses == 0).count();
        let idle_firewalls = self.firewalls.values().filter(|is_used| !**is_used).count();
        if idle_ways + idle_firewalls <= MOST_IDLE_CHAINS {
            return;
        }
        self.ways.retain(|_, uses| *uses > 0);
        let needed: BTreeSet<String> = self.ways.keys().flat_map(Way::names).collect();
        let mut idle: Vec<String> = self.chains.difference(&needed).cloned().collect();
        idle.extend(self.firewalls.iter().filter(|(_, is_used)| !**is_used).map(|(name, _)| name.clone()));
        // Empty all before removing any: they lead to each other.
        idle.iter().for_each(|name| batch.flush_chain(&self.table, name));
        idle.iter().for_each(|name| batch.delete_chain(&self.table, name));
        self.chains = needed;
        self.firewalls.retain(|_, is_used| *is_used);
    }

    /// The chain that looks at sources; it is written anew when ranges or addresses change.
    fn firewall(&mut self, config: &Config, change: &PortChange, batch: &mut Batch) {
        let rules = |port: &ServicePort| (port.source_ranges.clone(), load_balancer_ips(port));
        let wanted = change.new.as_ref().filter(|port| !port.source_ranges.is_empty());
        let Some(port) = wanted else { return self.idle_firewall(change) };
        if change.old.as_ref().is_some_and(|old| rules(old) == rules(port)) {
            return;
        }
        let name = firewall_chain(&change.name);
        let rules = firewall_rules(config, self.family, port);
        self.firewalls.insert(name.clone(), true);
        write_chain(batch, &self.table, &name, &rules);
    }

    fn idle_firewall(&mut self, change: &PortChange) {
        if let Some(is_used) = self.firewalls.get_mut(&firewall_chain(&change.name)) {
            *is_used = false;
        }
    }

    /// Elements that several service ports ask for come with the first and go with the last.
    fn count(
        &mut self,
        changes: &[PortChange],
        plus: &mut BTreeMap<&'static str, Vec<Element>>,
        minus: &mut BTreeMap<&'static str, Vec<Element>>,
    ) {
        let mut before = BTreeMap::<(&'static str, Vec<u8>), bool>::new();
        let all =
            |port: &Option<std::sync::Arc<ServicePort>>| port.as_ref().map(|p| shared(p)).unwrap_or_default();
        for change in changes {
            for (item, is_new) in each(all(&change.old), false).chain(each(all(&change.new), true)) {
                let uses = self.shared.entry(item.clone()).or_default();
                before.entry(item).or_insert(*uses > 0);
                *uses = if is_new { *uses + 1 } else { uses.saturating_sub(1) };
            }
        }
        for ((set, key), was_there) in before {
            let item = (set, key);
            let is_there = self.shared.get(&item).is_some_and(|uses| *uses > 0);
            if !is_there {
                self.shared.remove(&item);
            }
            let element = || Element { key: item.1.clone(), value: Value::None, life: None };
            match (was_there, is_there) {
                (false, true) => plus.entry(set).or_default().push(element()),
                (true, false) => minus.entry(set).or_default().push(element()),
                _ => {}
            }
        }
    }

    /// Clients whose endpoint is remembered, of both maps; none when there is no table.
    fn remembered(&self, socket: &Socket) -> Vec<(&'static str, Element)> {
        let of = |map: &'static str| {
            let all = nft::elements(socket, &self.table, map).unwrap_or_default();
            all.into_iter().map(move |element| (map, element))
        };
        of(AFFINITY).chain(of(NODE_PORT_AFFINITY)).collect()
    }

    /// A new table keeps what the one before knew, where it still holds.
    fn remember_again(&self, clients: Vec<(&'static str, Element)>, rules: &Ruleset, batch: &mut Batch) {
        if clients.is_empty() {
            return;
        }
        let ports =
            rules.ports.iter().filter(|(name, port)| name.family == self.family && port.affinity_s.is_some());
        let valid = self.sticky(ports.map(|(_, port)| &**port));
        for map in [AFFINITY, NODE_PORT_AFFINITY] {
            let kept = clients
                .iter()
                .filter(|(m, client)| *m == map && self.holds(&valid, map, client) == Some(true));
            batch.add_elements(&self.table, map, kept.map(|(_, client)| client));
        }
    }

    /// Map and destination → endpoints that clients may stay at.
    fn sticky<'a>(
        &self,
        ports: impl Iterator<Item = &'a ServicePort>,
    ) -> HashMap<(&'static str, Vec<u8>), BTreeSet<Vec<u8>>> {
        let mut all = HashMap::<_, BTreeSet<Vec<u8>>>::new();
        for port in ports {
            let targets: BTreeSet<Vec<u8>> = match port.affinity_s {
                Some(_) => port.reachable().iter().map(target).collect(),
                None => BTreeSet::new(),
            };
            for frontend in &port.frontends {
                all.entry((affinity_map(frontend.at), key(frontend.at)))
                    .or_default()
                    .extend(targets.iter().cloned());
            }
        }
        all
    }

    /// May the client stay? None: its destination is not among those asked for.
    fn holds(
        &self,
        valid: &HashMap<(&'static str, Vec<u8>), BTreeSet<Vec<u8>>>,
        map: &'static str,
        client: &Element,
    ) -> Option<bool> {
        let destination = client.key.get(Layout::of(self.family).words as usize * 4..)?.to_vec();
        let targets = valid.get(&(map, destination))?;
        Some(matches!(&client.value, Value::Data(target) if targets.contains(target)))
    }

    /// Forgets clients of endpoints that are gone. Elements may end by themselves meanwhile: then one by one.
    fn forget(&self, change: &Change, socket: &Socket) -> Result<(), Error> {
        let stale = |port: &&PortChange| port.name.family == self.family && loses_clients(port);
        let affected: Vec<&PortChange> = change.ports.iter().filter(stale).collect();
        if affected.is_empty() {
            return Ok(());
        }
        // Destinations that are gone stand for no endpoint at all.
        let mut valid = self.sticky(affected.iter().filter_map(|port| port.old.as_deref()));
        valid.values_mut().for_each(BTreeSet::clear);
        valid.extend(self.sticky(affected.iter().filter_map(|port| port.new.as_deref())));
        let clients = self.remembered(socket);
        for map in [AFFINITY, NODE_PORT_AFFINITY] {
            let gone: Vec<&Element> = clients
                .iter()
                .filter(|(m, client)| *m == map && self.holds(&valid, map, client) == Some(false))
                .map(|(_, client)| client)
                .collect();
            gone.chunks(FORGET_AT_ONCE).try_for_each(|some| self.forget_some(map, some, socket))?;
        }
        Ok(())
    }

    fn forget_some(&self, map: &str, clients: &[&Element], socket: &Socket) -> Result<(), Error> {
        let delete = |some: &[&Element]| {
            let mut batch = Batch::new();
            batch.delete_elements(&self.table, map, some.iter().copied());
            batch.commit(socket)
        };
        match delete(clients) {
            Err(error) if error.is_missing() => {}
            other => return Ok(other?),
        }
        for client in clients {
            match delete(&[client]) {
                Err(error) if !error.is_missing() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }
}

fn each<T>(items: Vec<T>, is_new: bool) -> impl Iterator<Item = (T, bool)> {
    items.into_iter().map(move |item| (item, is_new))
}

fn affinity_map(at: At) -> &'static str {
    if at.address.is_none() { NODE_PORT_AFFINITY } else { AFFINITY }
}

/// Did a port with affinity lose endpoints or frontends, or its affinity?
fn loses_clients(change: &PortChange) -> bool {
    let Some(old) = change.old.as_ref().filter(|old| old.affinity_s.is_some()) else { return false };
    let Some(new) = &change.new else { return true };
    let now = new.reachable();
    let lost = old.reachable().iter().any(|endpoint| now.binary_search(endpoint).is_err());
    lost || new.affinity_s.is_none()
        || old.frontends.iter().any(|f| !new.frontends.iter().any(|n| n.at == f.at))
}

fn write_chain(batch: &mut Batch, table: &Table, name: &str, rules: &[Rule]) {
    batch.add_chain(table, name);
    batch.flush_chain(table, name);
    for rule in rules {
        batch.add_rule(table, name, rule);
    }
}

fn load_balancer_ips(port: &ServicePort) -> Vec<std::net::IpAddr> {
    let ours = port.frontends.iter().filter(|f| f.kind == FrontendKind::LoadBalancerIp);
    ours.filter_map(|f| f.at.address).collect()
}

/// Sources in the ranges pass, all others are dropped. Where this node is in a range, the load balancer IPs pass too: on a host
/// that has one as its own address, packets to it come from it.
fn firewall_rules(config: &Config, family: Family, port: &ServicePort) -> Vec<Rule> {
    let layout = Layout::of(family);
    let pass = |rule: Rule| rule.verdict(&Verdict::Return);
    let mut rules: Vec<Rule> = port.source_ranges.iter().map(|range| pass(layout.from(range))).collect();
    let has_node = config.node_ips.iter().any(|ip| port.source_ranges.iter().any(|range| range.contains(ip)));
    if has_node {
        let own = load_balancer_ips(port).into_iter();
        rules.extend(
            own.map(|ip| pass(layout.source(Rule::new(), nft::R0).compare(nft::R0, true, &address(ip)))),
        );
    }
    rules.push(Rule::new().verdict(&Verdict::Drop));
    rules
}

#[cfg(test)]
mod tests;
