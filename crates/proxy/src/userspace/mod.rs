//! The userspace mode: this process accepts connections to services and copies them to endpoints. For kernels that can
//! do no better; the endpoint sees the node's address, and connections end when the process ends.
//!
//! nftables leads the packets here: two maps say for each frontend which local port listens for it. What must not get
//! through at all is kept out by [`guard`](crate::guard).

mod balance;
mod listener;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use ipnet::IpNet;
use tokio::sync::Semaphore;

use crate::backend::{Backend, Error};
use crate::config::Config;
use crate::guard::{self, Elements};
use crate::ruleset::{Change, Family, PortName, Protocol, Route, Ruleset, ServicePort};
use crate::watch::Watch;
use balance::Balancer;
use listener::{CONNECTION_LIMIT, Desk, Listener};

/// Listeners and redirects in the network namespace of the threads that call.
pub struct Userspace {
    config: Config,
    table: String,
    cluster_cidrs: Arc<Vec<IpNet>>,
    connections: Arc<Semaphore>,
    services: BTreeMap<PortName, Service>,
    watch: Watch,
}

/// One service port that is served.
struct Service {
    balancer: Arc<Mutex<Balancer>>,
    /// One for each way of choosing among endpoints.
    listeners: Vec<(Route, Listener)>,
    /// What it has in the table.
    elements: Elements,
}

impl Userspace {
    /// For one cluster on this node. Starts nothing.
    pub fn new(config: &Config) -> Self {
        Self {
            config: config.clone(),
            table: format!("{}-userspace", config.cluster_name),
            cluster_cidrs: Arc::new(config.cluster_cidrs.clone()),
            connections: Arc::new(Semaphore::new(CONNECTION_LIMIT)),
            services: BTreeMap::new(),
            watch: Watch::open(None),
        }
    }

    /// Opens what the port needs, and says what belongs into the table for it.
    async fn open(&mut self, name: &PortName, port: &Arc<ServicePort>) -> Result<(), Error> {
        let mut service = match self.services.remove(name) {
            Some(service) => {
                service.balancer.lock().unwrap_or_else(PoisonError::into_inner).update(port.clone());
                service
            }
            None => Service {
                balancer: Arc::new(Mutex::new(Balancer::new(port.clone()))),
                listeners: Vec::new(),
                elements: Elements::default(),
            },
        };
        let ways = ways(port);
        service.listeners.retain(|(way, _)| ways.contains(way));
        for way in ways {
            if service.listeners.iter().all(|(there, _)| *there != way) {
                let desk = Desk {
                    balancer: service.balancer.clone(),
                    route: way,
                    cluster_cidrs: self.cluster_cidrs.clone(),
                    connections: self.connections.clone(),
                };
                match Listener::start(port.protocol, name.family, desk).await {
                    Ok(listener) => service.listeners.push((way, listener)),
                    Err(source) => {
                        let what = format!("listen for {name}");
                        self.services.insert(name.clone(), service);
                        return Err(Error::Io { what, source });
                    }
                }
            }
        }
        service.elements = elements(name, port, &service.listeners);
        self.services.insert(name.clone(), service);
        Ok(())
    }

    /// The commands for the table as a whole.
    fn whole(&self, elements: &Elements) -> String {
        let mut text = guard::removal(&self.table);
        let _ = writeln!(text, "add table inet {}", self.table);
        text + &guard::base(&self.table, &self.config)
            + &redirects(&self.table, &self.config)
            + &Elements::default().change_to(elements, &self.table)
    }

    /// What others did to the table while our program changed it is told by [`Backend::disturbed`].
    fn sort_out(&mut self, own: Option<u32>) {
        let table = &self.table;
        self.watch.sort_out(own.as_slice(), |changed| changed.table == *table);
    }
}

#[async_trait]
impl Backend for Userspace {
    async fn sync_all(&mut self, rules: &Ruleset) -> Result<(), Error> {
        let stale: Vec<_> =
            self.services.keys().filter(|name| !rules.ports.contains_key(*name)).cloned().collect();
        for (name, port) in &rules.ports {
            self.open(name, port).await?;
        }
        let mut all = Elements::default();
        for name in rules.ports.keys() {
            if let Some(service) = self.services.get_mut(name) {
                all.merge(std::mem::take(&mut service.elements));
            }
        }
        // Whatever others did until now, this repairs.
        self.watch.forget();
        let own = guard::apply(&self.whole(&all)).await?;
        self.sort_out(own);
        // Listeners go last: nothing leads to them any more.
        stale.iter().for_each(|name| drop(self.services.remove(name)));
        Ok(())
    }

    async fn apply(&mut self, change: &Change, _rules: &Ruleset) -> Result<(), Error> {
        let (mut old, mut new) = (Elements::default(), Elements::default());
        for one in &change.ports {
            if let (Some(port), Some(service)) = (&one.old, self.services.get(&one.name)) {
                old.merge(elements(&one.name, port, &service.listeners));
            }
        }
        for one in &change.ports {
            if let Some(port) = &one.new {
                self.open(&one.name, port).await?;
                if let Some(service) = self.services.get_mut(&one.name) {
                    new.merge(std::mem::take(&mut service.elements));
                }
            }
        }
        let own = guard::apply(&old.change_to(&new, &self.table)).await?;
        self.sort_out(own);
        for one in change.ports.iter().filter(|one| one.new.is_none()) {
            self.services.remove(&one.name);
        }
        Ok(())
    }

    async fn cleanup(&mut self) -> Result<(), Error> {
        guard::remove(&self.table).await?;
        self.services.clear();
        Ok(())
    }

    async fn disturbed(&mut self) {
        let table = &self.table;
        self.watch.next(|changed| changed.table == *table).await;
    }

    fn hears_all(&self) -> bool {
        self.watch.hears()
    }
}

/// The ways of choosing that the port's frontends use and that a process can carry out.
fn ways(port: &ServicePort) -> Vec<Route> {
    let is_served = |route: &Route| !matches!(route, Route::Reject | Route::Drop);
    let is_possible = port.protocol != Protocol::Sctp;
    let mut ways: Vec<Route> = Vec::new();
    for route in port.frontends.iter().map(|f| f.route).filter(|route| is_possible && is_served(route)) {
        if !ways.contains(&route) {
            ways.push(route);
        }
    }
    ways
}

/// The redirects and the guard of one service port.
fn elements(name: &PortName, port: &ServicePort, listeners: &[(Route, Listener)]) -> Elements {
    let mut all = Elements::default();
    all.guard(name, port);
    for frontend in &port.frontends {
        if let Some((_, listener)) = listeners.iter().find(|(way, _)| *way == frontend.route) {
            let (map, key) = guard::key(frontend.at);
            let map = format!("to_{map}{}", guard::digit(name.family));
            all.maps.insert((map, key), listener.port.to_string());
        }
    }
    all
}

/// Maps and chains that lead packets to listeners.
fn redirects(table: &str, config: &Config) -> String {
    let mut text = guard::define_maps(table, "to_", |_| "inet_service".into());
    let _ = writeln!(text, "add chain inet {table} lead");
    for family in Family::BOTH {
        let (ip, d) = (guard::word(family), guard::digit(family));
        let nfproto = guard::nfproto(family);
        let only = format!("meta nfproto {nfproto} meta l4proto {{ tcp, udp }}");
        let _ = writeln!(
            text,
            "add rule inet {table} lead {only} redirect to :{ip} daddr . meta l4proto . th dport map @to_vips{d}"
        );
        if let Some(local) = guard::to_node(config, family) {
            let _ = writeln!(
                text,
                "add rule inet {table} lead {only} {local} redirect to :meta l4proto . th dport map @to_ports{d}"
            );
        }
    }
    for hook in ["prerouting", "output"] {
        let _ = writeln!(
            text,
            "add chain inet {table} lead_{hook} {{ type nat hook {hook} priority -100; }}\n\
             add rule inet {table} lead_{hook} jump lead"
        );
    }
    text
}
