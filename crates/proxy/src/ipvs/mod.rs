//! The ipvs mode: one virtual service of the kernel's load balancer for each frontend, the services' addresses on a dummy
//! interface, and a table of nftables for what IPVS does not know.
//!
//! IPVS knows no owners: a network namespace has room for one cluster in this mode, and for nobody else's virtual services on the
//! host's addresses. Differs from the other modes in this: node ports are taken on the configured addresses of the node only; with policy
//! Local on both sides, traffic from inside to an outside address stays on the node, too; connections end with their service.

mod link;
mod rules;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use async_trait::async_trait;
use corten_sys::ipvs::{Command, Ipvs as Kernel};
use corten_sys::namespaces::write_sysctl;

use crate::backend::{Backend, Error};
use crate::config::Config;
use crate::guard::{self, Elements};
use crate::ruleset::{Change, PortName, Ruleset, ServicePort};
use crate::watch::Watch;
use link::Link;
use wanted::{Draining, Wanted};

/// How IPVS must behave: conntrack knows its connections (for masquerading), a client's port is taken again only when the old
/// connection is over, and what goes to a destination that is gone ends.
const SYSCTLS: [(&str, &str); 4] = [
    ("net/ipv4/vs/conntrack", "1"),
    ("net/ipv4/vs/conn_reuse_mode", "0"),
    ("net/ipv4/vs/expire_nodest_conn", "1"),
    ("net/ipv4/vs/expire_quiescent_template", "1"),
];
/// Forwarding must be on for packets that leave the node after all.
const FORWARDING: (&str, &str) = ("net/ipv4/ip_forward", "1");

/// IPVS in the network namespace of the threads that call.
pub struct Ipvs {
    config: Config,
    table: String,
    link: Link,
    /// Opened when it is needed: a look-up can make the kernel load a module.
    kernel: Option<Box<dyn Kernel>>,
    /// How many frontends each address on the interface has.
    addresses: BTreeMap<IpAddr, usize>,
    /// How many service ports have each endpoint that may reach itself.
    loops: BTreeMap<Entry, usize>,
    draining: Draining,
    watch: Watch,
}

/// Map or set, and key.
type Entry = (String, String);

impl Ipvs {
    /// For one cluster on this node. Starts nothing.
    pub fn new(config: &Config) -> Self {
        Self {
            config: config.clone(),
            table: format!("{}-ipvs", config.cluster_name),
            link: Link::new(&config.cluster_name),
            kernel: None,
            addresses: BTreeMap::new(),
            loops: BTreeMap::new(),
            draining: Draining::new(),
            watch: Watch::open(None),
        }
    }

    fn kernel(&mut self) -> Result<&mut Box<dyn Kernel>, Error> {
        if self.kernel.is_none() {
            let opened = corten_sys::ipvs::Kernel::open().map_err(|error| {
                if error.is_missing() {
                    Error::Unsupported("this kernel has no IPVS".into())
                } else {
                    error.into()
                }
            })?;
            self.kernel = Some(Box::new(opened));
        }
        self.kernel.as_mut().ok_or_else(|| Error::Unsupported("IPVS".into()))
    }

    fn wanted<'a>(&self, ports: impl Iterator<Item = (&'a PortName, &'a ServicePort)>) -> Wanted {
        ports.flat_map(|(name, port)| wanted::wanted(&self.config, name, port)).collect()
    }

    /// What IPVS has of ours: virtual services at addresses that are. Notes what drains since an earlier life.
    fn there(&mut self, ours: impl Fn(&IpAddr) -> bool) -> Result<Wanted, Error> {
        let mut draining = Draining::new();
        let kernel = self.kernel()?;
        let mut all = Wanted::new();
        for service in kernel.services()? {
            if !ours(&service.key.address.ip()) {
                continue;
            }
            let mut behind = BTreeSet::<SocketAddr>::new();
            for (destination, _) in kernel.destinations(service.key)? {
                match destination.weight {
                    0 => drop(draining.insert((service.key, destination.address))),
                    _ => drop(behind.insert(destination.address)),
                }
            }
            all.insert(service.key, (service, behind));
        }
        self.draining = draining;
        Ok(all)
    }

    /// Ends the draining of destinations that have no connection left.
    fn end_draining(&mut self) -> Result<(), Error> {
        let services: BTreeSet<_> = self.draining.iter().map(|(service, _)| *service).collect();
        for service in services {
            let kernel = self.kernel()?;
            let idle: Vec<SocketAddr> = kernel
                .destinations(service)?
                .into_iter()
                .filter(|(destination, connections)| destination.weight == 0 && *connections == 0)
                .map(|(destination, _)| destination.address)
                .collect();
            let done: Vec<_> =
                idle.iter().map(|address| Command::DeleteDestination(service, *address)).collect();
            kernel.run(&done)?;
            self.draining.retain(|(of, address)| *of != service || !idle.contains(address));
        }
        Ok(())
    }

    /// What others did to the table while our program changed it is told by [`Backend::disturbed`].
    fn sort_out(&mut self, own: Option<u32>) {
        let table = &self.table;
        self.watch.sort_out(own.as_slice(), |changed| changed.table == *table);
    }
}

#[async_trait]
impl Backend for Ipvs {
    async fn sync_all(&mut self, rules: &Ruleset) -> Result<(), Error> {
        self.kernel()?;
        for (name, value) in SYSCTLS.into_iter().chain([FORWARDING]) {
            // Older kernels do not know all of them.
            if let Err(error) = write_sysctl(name, value) {
                tracing::warn!(%error, "IPVS may not work as it should");
            }
        }
        let on_link = self.link.ensure().await?;
        let ports = || rules.ports.iter().map(|(name, port)| (name, &**port));
        self.addresses = addresses(ports().map(|(_, port)| port));
        let mut elements = Elements::default();
        ports().for_each(|(name, port)| elements.merge(rules::elements(name, port)));
        self.loops = loops(ports());
        elements.maps.extend(self.loops.keys().map(|entry| (entry.clone(), String::new())));
        let mut text = guard::removal(&self.table);
        let _ = writeln!(text, "add table inet {}", self.table);
        text += &rules::base(&self.table, &self.config);
        // Whatever others did until now, this repairs.
        self.watch.forget();
        let own = guard::apply(&(text + &Elements::default().change_to(&elements, &self.table))).await?;
        self.sort_out(own);

        let ours: BTreeSet<IpAddr> = on_link.iter().chain(&self.config.node_ips).copied().collect();
        let (old, new) = (self.there(|ip| ours.contains(ip))?, self.wanted(ports()));
        let commands = wanted::commands(&old, &new, &mut self.draining);
        self.kernel()?.run(&commands)?;
        self.link.add(self.addresses.keys().copied().filter(|ip| !on_link.contains(ip))).await?;
        let gone = on_link.into_iter().filter(|ip| !self.addresses.contains_key(ip)).collect();
        self.link.remove(&gone).await?;
        self.end_draining()
    }

    async fn apply(&mut self, change: &Change, _rules: &Ruleset) -> Result<(), Error> {
        let before = || change.ports.iter().filter_map(|one| Some((&one.name, &**one.old.as_ref()?)));
        let after = || change.ports.iter().filter_map(|one| Some((&one.name, &**one.new.as_ref()?)));
        let (mut had, mut has) = (Elements::default(), Elements::default());
        before().for_each(|(name, port)| had.merge(rules::elements(name, port)));
        after().for_each(|(name, port)| has.merge(rules::elements(name, port)));
        let (gone, come) = recount(&mut self.loops, &loops(before()), &loops(after()));
        had.maps.extend(gone.into_iter().map(|entry| (entry, String::new())));
        has.maps.extend(come.into_iter().map(|entry| (entry, String::new())));
        let own = guard::apply(&had.change_to(&has, &self.table)).await?;
        self.sort_out(own);

        let (old, new) = (self.wanted(before()), self.wanted(after()));
        let commands = wanted::commands(&old, &new, &mut self.draining);
        self.kernel()?.run(&commands)?;
        let (less, more) = (addresses(before().map(|b| b.1)), addresses(after().map(|a| a.1)));
        let (gone, come) = recount(&mut self.addresses, &less, &more);
        self.link.add(come.into_iter()).await?;
        self.link.remove(&gone).await?;
        self.end_draining()
    }

    async fn cleanup(&mut self) -> Result<(), Error> {
        if let Some(on_link) = self.link.look().await? {
            // Node ports were taken on addresses that nobody may know any more: all of this host's count.
            let ours = |ip: &IpAddr| on_link.contains(ip) || UdpSocket::bind((*ip, 0)).is_ok();
            let commands: Vec<_> = self.there(ours)?.into_keys().map(Command::DeleteService).collect();
            self.kernel()?.run(&commands)?;
            self.link.delete().await?;
        }
        self.addresses.clear();
        self.draining.clear();
        guard::remove(&self.table).await
    }

    // Of IPVS itself nobody tells: the regular full sync looks.
    async fn disturbed(&mut self) {
        let table = &self.table;
        self.watch.next(|changed| changed.table == *table).await;
    }
}

/// Brings `counts` up to date; returns what nobody has any more and what is new.
fn recount<K: Ord + Clone>(
    counts: &mut BTreeMap<K, usize>,
    less: &BTreeMap<K, usize>,
    more: &BTreeMap<K, usize>,
) -> (BTreeSet<K>, BTreeSet<K>) {
    let (mut gone, mut come) = (BTreeSet::new(), BTreeSet::new());
    for key in less.keys().chain(more.keys()).collect::<BTreeSet<_>>() {
        let number = |of: &BTreeMap<K, usize>| of.get(key).copied().unwrap_or(0);
        let had = number(counts);
        let has = (had + number(more)).saturating_sub(number(less));
        if has == 0 {
            counts.remove(key);
            gone.insert(key.clone());
        } else {
            counts.insert(key.clone(), has);
        }
        if had == 0 && has > 0 {
            come.insert(key.clone());
        }
    }
    (gone, come)
}

/// Entries for endpoints that reach themselves, with the number of service ports that have them.
fn loops<'a>(ports: impl Iterator<Item = (&'a PortName, &'a ServicePort)>) -> BTreeMap<Entry, usize> {
    let mut all = BTreeMap::new();
    for entry in ports.flat_map(|(name, port)| rules::loops(name, port)) {
        *all.entry(entry).or_insert(0) += 1;
    }
    all
}

/// Addresses of frontends, with their numbers.
fn addresses<'a>(ports: impl Iterator<Item = &'a ServicePort>) -> BTreeMap<IpAddr, usize> {
    let mut all = BTreeMap::new();
    for address in ports.flat_map(|port| &port.frontends).filter_map(|frontend| frontend.at.address) {
        *all.entry(address).or_insert(0) += 1;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_have_goes_with_the_second() {
        let count = |of: &[(char, usize)]| of.iter().copied().collect::<BTreeMap<_, _>>();
        let mut counts = count(&[('a', 2), ('b', 1)]);
        let (gone, come) = recount(&mut counts, &count(&[('a', 1), ('b', 1)]), &count(&[('c', 1)]));
        assert_eq!((gone, come), (BTreeSet::from(['b']), BTreeSet::from(['c'])));
        let (gone, come) = recount(&mut counts, &count(&[('a', 1), ('c', 1)]), &count(&[('c', 1)]));
        assert_eq!((gone, come), (BTreeSet::from(['a']), BTreeSet::new()));
        assert_eq!(counts, count(&[('c', 1)]));
    }
}
