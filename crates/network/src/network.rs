//! The handle that puts addresses, links and rules together, in an order that survives a crash anywhere.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures::future::BoxFuture;
use ipnet::{Ipv4Net, Ipv6Net};
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use crate::addresses::{Addresses, Record, gateway, gateway_v6};
use crate::firewall::Firewall;
use crate::flows;
use crate::links::{self, Veth};
use crate::peers::{self, LinkChanges, Own, Peer, Uplink};
use crate::policies;
use crate::routes::{self, Route, Way};
use crate::rules::{self, RuleNames};
use crate::types::{Attachment, Guard, NetworkConfig, NetworkError, PodIps};
use crate::watch::{self, TableChanges};

/// Longest cluster name that leaves room for the bridge's digit and the kernel's 15 characters.
const MAX_NAME: usize = 11;
/// Longest sandbox id; CRI runtimes use 64 hex digits.
const MAX_SANDBOX_ID: usize = 128;
/// Characters of the cluster's name at the start of a veth name, before eight of a hash.
const VETH_PREFIX: usize = 6;

/// Cheap, cloneable handle on the node's pod network.
///
/// ```no_run
/// # async fn f(config: corten_network::NetworkConfig) -> Result<(), corten_network::NetworkError> {
/// let network = corten_network::PodNetwork::new(config)?;
/// network.set_pod_cidr("10.244.0.0/24".parse().expect("a CIDR"))?;
/// network.ensure_bridge().await?;
/// let ips = network
///     .attach(corten_network::Attachment {
///         sandbox_id: "8c1f".into(),
///         pod: corten_network::PodName::default(),
///         netns: "/run/netns/8c1f".into(),
///         port_mappings: vec![],
///     })
///     .await?;
/// println!("{}", ips.primary);
/// network.detach("8c1f").await
/// # }
/// ```
#[derive(Clone)]
pub struct PodNetwork {
    inner: Arc<Inner>,
}

struct Inner {
    config: NetworkConfig,
    bridge: String,
    addresses: Mutex<Addresses>,
    /// Bridge and rules are known to be right.
    ready: tokio::sync::Mutex<bool>,
    host: OnceCell<rtnetlink::Handle>,
    /// What leads to other nodes, once this node is part of a network between nodes.
    uplink: OnceLock<Uplink>,
    /// MTU of pods' links, in bytes, once asked for.
    mtu: OnceCell<Option<u32>>,
    /// The other nodes that the kernel knows the ways to; `None` when it must be looked at.
    peers: tokio::sync::Mutex<Option<BTreeSet<Peer>>>,
    /// The network policies that the kernel has; `None` when that is not known.
    firewall: tokio::sync::Mutex<Option<Firewall>>,
    /// Asked before a pod starts.
    guard: OnceLock<Arc<dyn Guard>>,
    /// One rule change at a time, so that a rebuild does not lose a pod that is just being added.
    rules: tokio::sync::Mutex<()>,
}

impl PodNetwork {
    /// Opens the recorded state in `config.state_dir` (made when missing); touches no link yet.
    pub fn new(config: NetworkConfig) -> Result<Self, NetworkError> {
        check_name(&config.cluster_name)?;
        let addresses = Addresses::load(&config.state_dir, config.pod_cidr)?;
        Ok(Self {
            inner: Arc::new(Inner {
                bridge: format!("{}0", config.cluster_name),
                addresses: Mutex::new(addresses),
                ready: tokio::sync::Mutex::new(false),
                host: OnceCell::new(),
                uplink: OnceLock::new(),
                mtu: OnceCell::new(),
                peers: tokio::sync::Mutex::new(None),
                firewall: tokio::sync::Mutex::new(None),
                guard: OnceLock::new(),
                rules: tokio::sync::Mutex::new(()),
                config,
            }),
        })
    }

    /// Sets or confirms this node's pod CIDR (node.spec.podCIDR), which is remembered over restarts. A
    /// different CIDR is refused while pods hold addresses outside it. Call `ensure_bridge` after it.
    pub fn set_pod_cidr(&self, cidr: Ipv4Net) -> Result<(), NetworkError> {
        self.addresses().set_cidr(cidr)
    }

    /// Sets this node's range of IPv6, or that it has none; after [`PodNetwork::set_pod_cidr`]. In a cluster without a second
    /// family it is passed over.
    pub fn set_pod_cidr_v6(&self, cidr: Option<Ipv6Net>) -> Result<(), NetworkError> {
        self.addresses().set_cidr_v6(cidr.filter(|_| self.inner.config.cluster_cidr_v6.is_some()))
    }

    /// The pod CIDR, once known.
    pub fn pod_cidr(&self) -> Option<Ipv4Net> {
        self.addresses().cidr()
    }

    /// Makes this node part of a network between nodes: `set_peers` says who the others are. Call it once, before the
    /// first `attach`: pods' links are made so small that their packets fit into a tunnel.
    pub fn join(&self, uplink: Uplink) {
        let _ = self.inner.uplink.set(uplink);
    }

    /// From now on `guard` is asked about every pod before it starts; the first one stays.
    pub fn set_guard(&self, guard: Arc<dyn Guard>) {
        let _ = self.inner.guard.set(guard);
    }

    /// Leads to the pods of exactly these other nodes; the node itself may be among them. Needs `join` and a pod CIDR.
    /// Asking again for the same costs nothing; a change touches only what it changes.
    pub fn set_peers(&self, peers: BTreeSet<Peer>) -> BoxFuture<'_, Result<(), NetworkError>> {
        Box::pin(self.lead_to(peers))
    }

    async fn lead_to(&self, peers: BTreeSet<Peer>) -> Result<(), NetworkError> {
        let Some(uplink) = self.inner.uplink.get() else { return Ok(()) };
        let mut known = self.inner.peers.lock().await;
        if known.as_ref() == Some(&peers) {
            return Ok(());
        }
        *known = None;
        self.ensure_ready().await?;
        let (v4, v6) = self.ranges()?;
        let own = Own { v4: v4.trunc(), v6 };
        peers::apply(self.host().await?, &self.inner.config.cluster_name, own, uplink, &peers).await?;
        *known = Some(peers);
        Ok(())
    }

    /// Tells of links after whose change `forget_peers` and `set_peers` are due.
    pub fn link_changes(&self) -> Result<LinkChanges, NetworkError> {
        LinkChanges::open(&self.inner.config.cluster_name)
    }

    /// Makes the next `set_peers` look at what the kernel has.
    pub async fn forget_peers(&self) {
        *self.inner.peers.lock().await = None;
    }

    /// Enforces exactly these network policies, in one transaction that changes what differs from the last ones.
    pub fn set_firewall(&self, firewall: Firewall) -> BoxFuture<'_, Result<(), NetworkError>> {
        Box::pin(self.enforce(firewall))
    }

    async fn enforce(&self, firewall: Firewall) -> Result<(), NetworkError> {
        let mut known = self.inner.firewall.lock().await;
        if known.as_ref() == Some(&firewall) {
            return Ok(());
        }
        let old = known.take();
        rules::apply(policies::change(&self.inner.config.cluster_name, old.as_ref(), &firewall))?;
        *known = Some(firewall);
        Ok(())
    }

    /// Tells of tables after whose removal `repair_tables` is due.
    pub fn table_changes(&self) -> Result<TableChanges, NetworkError> {
        TableChanges::open(&self.inner.config.cluster_name)
    }

    /// Writes masquerade and host ports anew when somebody removed their table or that of policies, and makes the next
    /// `set_firewall` write all policies. True when something was missing.
    pub async fn repair_tables(&self) -> Result<bool, NetworkError> {
        if self.pod_cidr().is_none() || !*self.inner.ready.lock().await {
            return Ok(false);
        }
        let mut known = self.inner.firewall.lock().await;
        let has_policies = known.as_ref().is_some_and(|known| !known.is_empty());
        if !watch::are_missing(&self.inner.config.cluster_name, has_policies)? {
            return Ok(false);
        }
        *known = None;
        drop(known);
        self.ensure_bridge().await?;
        Ok(true)
    }

    /// Makes bridge, gateway address, routes, sysctls and the nftables table. Idempotent.
    pub fn ensure_bridge(&self) -> BoxFuture<'_, Result<(), NetworkError>> {
        Box::pin(self.make_bridge())
    }

    async fn make_bridge(&self) -> Result<(), NetworkError> {
        let mut ready = self.inner.ready.lock().await;
        *ready = false;
        self.prepare_host().await?;
        *ready = true;
        Ok(())
    }

    /// Connects the network namespace bound at `attachment.netns`: loopback up, `eth0` with a /32 address,
    /// default route, host ports. Calling it again for the same sandbox gives the same address and repairs
    /// links and rules. Makes the bridge if nobody did. On failure nothing stays behind.
    pub fn attach(&self, attachment: Attachment) -> BoxFuture<'_, Result<PodIps, NetworkError>> {
        Box::pin(self.attach_sandbox(attachment))
    }

    async fn attach_sandbox(&self, attachment: Attachment) -> Result<PodIps, NetworkError> {
        check_sandbox_id(&attachment.sandbox_id)?;
        let gateways = self.gateways()?;
        self.ensure_ready().await?;
        let record = self.reserve(&attachment)?;
        if let Err(error) = self.connect(&attachment, &record, gateways).await {
            // Perhaps somebody removed the bridge: the next attach looks again.
            *self.inner.ready.lock().await = false;
            if let Err(cleanup) = self.detach(&attachment.sandbox_id).await {
                tracing::warn!(sandbox = %attachment.sandbox_id, %cleanup, "network of failed sandbox stays behind");
            }
            return Err(error);
        }
        let ips = record.ips(self.inner.config.prefers_v6);
        if let Some(guard) = self.inner.guard.get() {
            guard.admit(&attachment.pod, &ips).await;
        }
        Ok(ips)
    }

    /// Removes what `attach` made, from recorded state; succeeds when there is nothing to remove.
    pub fn detach<'a>(&'a self, sandbox_id: &'a str) -> BoxFuture<'a, Result<(), NetworkError>> {
        Box::pin(self.detach_sandbox(sandbox_id))
    }

    async fn detach_sandbox(&self, sandbox_id: &str) -> Result<(), NetworkError> {
        let record = self.addresses().get(sandbox_id).cloned();
        let Some(record) = record else { return Ok(()) };
        {
            let _order = self.inner.rules.lock().await;
            rules::apply(rules::close_ports(&self.inner.config.cluster_name, &record))?;
        }
        let host = self.host().await?;
        links::delete(host, &record.link).await?;
        if !record.routed {
            for address in record.addresses() {
                routes::delete(host, self.metric(), address.into()).await?;
            }
        }
        // Last: until here a crash leaves the record, and reconcile finishes the work.
        self.addresses().release(sandbox_id)
    }

    /// The address of an attached sandbox.
    pub fn pod_ips(&self, sandbox_id: &str) -> Option<PodIps> {
        let addresses = self.addresses();
        let record = addresses.get(sandbox_id)?;
        Some(record.ips(self.inner.config.prefers_v6))
    }

    /// After a restart: detaches every recorded sandbox that is not in `live`, removes pods' links
    /// that nobody remembers, and restores bridge and rules. Without a pod CIDR it only detaches.
    pub async fn reconcile(&self, live: &BTreeSet<String>) -> Result<(), NetworkError> {
        let gone: Vec<String> = self
            .addresses()
            .records()
            .map(|record| record.sandbox_id.clone())
            .filter(|id| !live.contains(id))
            .collect();
        for id in gone {
            self.detach(&id).await?;
        }
        if self.pod_cidr().is_some() {
            self.ensure_bridge().await?;
        }
        let known: BTreeSet<String> = self.addresses().records().map(|record| record.link.clone()).collect();
        self.remove_links(|name| !known.contains(name)).await
    }

    /// Removes all pods' links, the bridge, the tunnel, routes, nftables tables and the recorded state.
    pub fn teardown(&self) -> BoxFuture<'_, Result<(), NetworkError>> {
        Box::pin(self.tear_down())
    }

    async fn tear_down(&self) -> Result<(), NetworkError> {
        let mut ready = self.inner.ready.lock().await;
        *ready = false;
        let links: Vec<String> = self.addresses().records().map(|record| record.link.clone()).collect();
        for link in links {
            links::delete(self.host().await?, &link).await?;
        }
        self.remove_links(|_| true).await?;
        let host = self.host().await?;
        links::delete(host, &self.inner.bridge).await?;
        links::delete(host, &peers::tunnel_name(&self.inner.config.cluster_name)).await?;
        *self.inner.peers.lock().await = None;
        links::delete(host, &crate::local::link(&self.inner.config.cluster_name)).await?;
        for route in routes::list(host, self.metric()).await? {
            routes::delete(host, self.metric(), route.to).await?;
        }
        let _order = self.inner.rules.lock().await;
        rules::apply(rules::removal(&self.inner.config.cluster_name))?;
        *self.inner.firewall.lock().await = None;
        rules::apply(policies::removal(&self.inner.config.cluster_name))?;
        let dir = &self.inner.config.state_dir;
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(NetworkError::io(format!("remove {}", dir.display()))(error));
            }
            _ => {}
        }
        *self.addresses() = Addresses::load(dir, self.inner.config.pod_cidr)?;
        Ok(())
    }

    fn addresses(&self) -> MutexGuard<'_, Addresses> {
        // Addresses are changed only after the disk was: a panic between leaves nothing half done.
        self.inner.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn host(&self) -> Result<&rtnetlink::Handle, NetworkError> {
        self.inner.host.get_or_try_init(|| async { links::connect() }).await
    }

    async fn ensure_ready(&self) -> Result<(), NetworkError> {
        let mut ready = self.inner.ready.lock().await;
        if !*ready {
            self.prepare_host().await?;
            *ready = true;
        }
        Ok(())
    }

    /// This node's parts of the pods' ranges; the second where cluster and node have one.
    fn ranges(&self) -> Result<(Ipv4Net, Option<Ipv6Net>), NetworkError> {
        let addresses = self.addresses();
        let v4 = addresses.cidr().ok_or(NetworkError::NoPodCidr)?;
        Ok((v4, addresses.cidr_v6().filter(|_| self.inner.config.cluster_cidr_v6.is_some())))
    }

    fn gateways(&self) -> Result<(Ipv4Addr, Option<Ipv6Addr>), NetworkError> {
        self.ranges().map(|(v4, v6)| (gateway(v4), v6.map(gateway_v6)))
    }

    async fn prepare_host(&self) -> Result<(), NetworkError> {
        let ((cidr, cidr_v6), gateways) = (self.ranges()?, self.gateways()?);
        let Inner { config, bridge, .. } = &*self.inner;
        let host = self.host().await?;
        let index = links::ensure_bridge(host, bridge, gateways.0, gateways.1, self.mtu().await?).await?;
        set_sysctls(bridge)?;
        let mut names = vec![RuleNames { pod_cidr: cidr.into(), cluster_cidr: config.cluster_cidr.into() }];
        if let (Some(own), Some(all)) = (cidr_v6, config.cluster_cidr_v6) {
            forward_v6()?;
            names.push(RuleNames { pod_cidr: own.into(), cluster_cidr: all.into() });
        }
        // An address without a pod is answered for at once, and never leaves the node by its default route.
        for range in &names {
            routes::add(host, self.metric(), &Route { to: range.pod_cidr, way: Way::Unreachable }).await?;
        }
        self.route_pods(index, gateways).await?;
        let _order = self.inner.rules.lock().await;
        let records: Vec<Record> = self.addresses().records().cloned().collect();
        rules::apply(rules::base(&config.cluster_name, &names, &records))
    }

    /// Leads to each pod by its own link, or by the bridge for pods of earlier versions, which are its ports. The kernel
    /// drops these routes when somebody takes the gateway's address away.
    async fn route_pods(
        &self,
        bridge: u32,
        gateways: (Ipv4Addr, Option<Ipv6Addr>),
    ) -> Result<(), NetworkError> {
        let host = self.host().await?;
        let links = links::pod_links(host, &self.inner.config.cluster_name, Some(bridge)).await?;
        let records: Vec<Record> = self.addresses().records().cloned().collect();
        for record in records {
            let link = if record.routed { links.get(&record.link).copied() } else { Some(bridge) };
            let Some(link) = link else { continue };
            for to in record.addresses() {
                let source = if to.is_ipv4() { Some(gateways.0.into()) } else { gateways.1.map(Into::into) };
                let Some(source) = source else { continue };
                let route = Route { to: to.into(), way: Way::Link { link, source } };
                routes::add(host, self.metric(), &route).await?;
            }
        }
        Ok(())
    }

    async fn mtu(&self) -> Result<Option<u32>, NetworkError> {
        let Inner { config, uplink, mtu, .. } = &*self.inner;
        let ask = async || match (config.mtu, uplink.get()) {
            (None, Some(uplink)) => peers::pod_mtu(self.host().await?, uplink).await.map(Some),
            (configured, _) => Ok(configured),
        };
        mtu.get_or_try_init(ask).await.copied()
    }

    fn metric(&self) -> u32 {
        routes::metric(&self.inner.config.cluster_name)
    }

    fn reserve(&self, attachment: &Attachment) -> Result<Record, NetworkError> {
        let link = veth_name(&self.inner.config.cluster_name, &attachment.sandbox_id);
        let ports = attachment.port_mappings.iter().filter(|port| port.host_port != 0).cloned().collect();
        self.addresses().reserve(&attachment.sandbox_id, link, ports)
    }

    async fn connect(
        &self,
        attachment: &Attachment,
        record: &Record,
        (gateway, gateway_v6): (Ipv4Addr, Option<Ipv6Addr>),
    ) -> Result<(), NetworkError> {
        let config = &self.inner.config;
        let alias = format!("{}/{}", config.cluster_name, record.sandbox_id);
        let veth = Veth {
            name: &record.link,
            alias: &alias,
            address: record.address,
            gateway,
            v6: record.address_v6.zip(gateway_v6),
            metric: self.metric(),
            from_loopback: !record.ports.is_empty(),
            mtu: self.mtu().await?,
        };
        links::connect_pod(self.host().await?, &attachment.netns, &veth).await?;
        {
            let _order = self.inner.rules.lock().await;
            rules::apply(rules::open_ports(&config.cluster_name, record))?;
        }
        self.forget_flows(record).await;
        Ok(())
    }

    /// What fails here costs some UDP clients a while; the ports themselves are open.
    async fn forget_flows(&self, record: &Record) {
        if !flows::has_udp(record) {
            return;
        }
        let forgotten = async {
            let node = links::node_addresses(self.host().await?).await?;
            flows::forget_stale(record, node).await
        };
        if let Err(error) = forgotten.await {
            tracing::warn!(sandbox = %record.sandbox_id, %error, "stale flows to host ports stay");
        }
    }

    async fn remove_links(&self, unwanted: impl Fn(&str) -> bool) -> Result<(), NetworkError> {
        let host = self.host().await?;
        let bridge = links::find(host, &self.inner.bridge).await?.map(|link| link.header.index);
        for name in links::pod_links(host, &self.inner.config.cluster_name, bridge).await?.into_keys() {
            if unwanted(&name) {
                links::delete(host, &name).await?;
            }
        }
        Ok(())
    }
}

/// Forwarding is needed. The rest is for pods of earlier versions, ports of the bridge: they find newer pods, and
/// are not told short cuts past the node.
fn set_sysctls(bridge: &str) -> Result<(), NetworkError> {
    let forward = "/proc/sys/net/ipv4/ip_forward";
    std::fs::write(forward, "1").map_err(NetworkError::io(format!("write {forward}")))?;
    for (name, value) in [("route_localnet", "1"), ("proxy_arp", "1"), ("send_redirects", "0")] {
        links::set_sysctl(bridge, name, value);
    }
    Ok(())
}

/// A host that routes no longer listens to other routers, unless it is told to: those of its links that did go on doing so.
fn forward_v6() -> Result<(), NetworkError> {
    let forward = "/proc/sys/net/ipv6/conf/all/forwarding";
    if std::fs::read_to_string(forward).is_ok_and(|text| text.trim() == "1") {
        return Ok(());
    }
    for entry in std::fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten() {
        let path = entry.path().join("accept_ra");
        if std::fs::read_to_string(&path).is_ok_and(|text| text.trim() == "1") {
            let _ = std::fs::write(&path, "2");
        }
    }
    std::fs::write(forward, "1").map_err(NetworkError::io(format!("write {forward}")))
}

/// At most 15 characters, found again from the sandbox id alone; the link's alias has the whole id.
fn veth_name(cluster: &str, sandbox_id: &str) -> String {
    let hash = hex::encode(Sha256::digest(format!("{cluster}/{sandbox_id}")));
    let prefix: String = cluster.chars().take(VETH_PREFIX).collect();
    format!("{prefix}{}", &hash[..8])
}

fn check_name(name: &str) -> Result<(), NetworkError> {
    let lower = |c: char| c.is_ascii_lowercase();
    let fits = (1..=MAX_NAME).contains(&name.len())
        && name.starts_with(lower)
        && name.chars().all(|c| lower(c) || c.is_ascii_digit() || c == '-');
    if fits { Ok(()) } else { Err(NetworkError::InvalidName { what: "cluster name", value: name.into() }) }
}

/// The id becomes a file name.
fn check_sandbox_id(id: &str) -> Result<(), NetworkError> {
    let fits = (1..=MAX_SANDBOX_ID).contains(&id.len())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if fits { Ok(()) } else { Err(NetworkError::InvalidName { what: "sandbox id", value: id.into() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel_and_refuse_the_rest() {
        assert!(check_name("abcdefghijk").is_ok());
        for bad in ["", "abcdefghijkl", "1a", "a b", "A", "a;b"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert!(veth_name("abcdefghijk", &"f".repeat(64)).len() <= 15);
        assert_ne!(veth_name("abcdefghijk", "1"), veth_name("abcdefghijl", "1"));
        for bad in ["", "..", "a/b", "a.tmp"] {
            assert!(check_sandbox_id(bad).is_err(), "{bad:?}");
        }
    }
}
