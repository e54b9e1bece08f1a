//! What the proxy of one node is told at its start.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use crate::backend::Mode;
use crate::ruleset::Family;

/// Mark of packets to be masqueraded: upstream's bit 14, so that both kinds of proxy can be told apart from other marks.
pub const MASQUERADE_MARK: u32 = 1 << 14;
/// Changes that come within this time are carried out together; the first after a quiet time goes at once.
pub const DEFAULT_MIN_SYNC: Duration = Duration::from_millis(10);

/// Upstream's default of the time between two regular looks at the whole.
pub const DEFAULT_SYNC_PERIOD: Duration = Duration::from_secs(30);

/// Configuration of one proxy.
#[derive(Clone, Debug)]
pub struct Config {
    /// Everything on the host carries this name.
    pub cluster_name: String,
    /// This node's name, as in `endpoint.nodeName`.
    pub node_name: String,
    /// This node's own addresses, the primary one first.
    pub node_ips: Vec<IpAddr>,
    /// How packets are led.
    pub mode: Mode,
    /// All pods' addresses: what is outside is off-cluster. Empty: not told apart.
    pub cluster_cidrs: Vec<IpNet>,
    /// All services' addresses: what is not allocated is dropped. Empty: left alone.
    pub service_cidrs: Vec<IpNet>,
    /// Masquerade all traffic through cluster IPs.
    pub masquerade_all: bool,
    /// Node ports are taken on those of the node's addresses that are in one of these ranges. Empty: on all but loopback.
    pub node_port_addresses: Vec<IpNet>,
    /// Least time between two changes of the host.
    pub min_sync: Duration,
    /// At the latest after so long, everything is written anew where this host does not tell of changes by others.
    pub sync_period: Duration,
    /// Where `/healthz` and `/livez` are served; none: nowhere.
    pub healthz: Option<SocketAddr>,
    /// Where `/metrics` and `/proxyMode` are served; none: nowhere.
    pub metrics: Option<SocketAddr>,
}

impl Config {
    /// Nothing but the names: nftables, no ranges, no health server.
    pub fn new(cluster_name: impl Into<String>, node_name: impl Into<String>) -> Self {
        Config {
            cluster_name: cluster_name.into(),
            node_name: node_name.into(),
            node_ips: Vec::new(),
            mode: Mode::default(),
            cluster_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            masquerade_all: false,
            node_port_addresses: Vec::new(),
            min_sync: DEFAULT_MIN_SYNC,
            sync_period: DEFAULT_SYNC_PERIOD,
            healthz: None,
            metrics: None,
        }
    }

    /// Ranges of pods of one family.
    pub fn cluster_cidrs_of(&self, family: Family) -> impl Iterator<Item = &IpNet> {
        self.cluster_cidrs.iter().filter(move |range| Family::of_range(range) == family)
    }

    /// Ranges of services of one family.
    pub fn service_cidrs_of(&self, family: Family) -> impl Iterator<Item = &IpNet> {
        self.service_cidrs.iter().filter(move |range| Family::of_range(range) == family)
    }

    /// Ranges of addresses that take node ports, of one family; none: all but loopback.
    pub fn node_port_ranges_of(&self, family: Family) -> Option<Vec<IpNet>> {
        if self.node_port_addresses.is_empty() {
            return None;
        }
        Some(self.node_port_addresses.iter().filter(|r| Family::of_range(r) == family).copied().collect())
    }
}
