//! The pod network of one node: a bridge, a veth pair and an address for each sandbox, and the nftables
//! rules that let pods reach the outside (masquerade) and be reached through the node (hostPort).
//!
//! Everything put on the host carries the cluster's name, so that several clusters share one machine and
//! [`PodNetwork::teardown`] finds what it must remove. Links, addresses and routes go through rtnetlink;
//! rules go through the `nft` binary (`nft -f -`, one transaction a change), which only pods with a
//! hostPort pay for.

mod types;

use std::collections::BTreeSet;

pub use types::{Attachment, NetworkConfig, NetworkError, PodIps, PortMapping, Protocol};

/// Cheap, cloneable handle on the node's pod network.
#[derive(Clone)]
pub struct PodNetwork {}

impl PodNetwork {
    /// Opens the recorded state in `config.state_dir` (made when missing); touches no link yet.
    pub fn new(_config: NetworkConfig) -> Result<Self, NetworkError> {
        Ok(Self {})
    }

    /// Sets or confirms this node's pod CIDR (node.spec.podCIDR). A different CIDR is refused while pods
    /// hold addresses of the old one.
    pub fn set_pod_cidr(&self, _cidr: ipnet::Ipv4Net) -> Result<(), NetworkError> {
        Ok(())
    }

    /// The pod CIDR, once known.
    pub fn pod_cidr(&self) -> Option<ipnet::Ipv4Net> {
        None
    }

    /// Makes bridge, gateway address, sysctls and the nftables table. Idempotent.
    pub async fn ensure_bridge(&self) -> Result<(), NetworkError> {
        Ok(())
    }

    /// Connects the network namespace bound at `attachment.netns`: loopback up, `eth0` with an address,
    /// default route, host ports. Calling it again for the same sandbox returns the same address.
    pub async fn attach(&self, _attachment: Attachment) -> Result<PodIps, NetworkError> {
        Err(NetworkError::NoPodCidr)
    }

    /// Removes what `attach` made, from recorded state; succeeds when there is nothing to remove.
    pub async fn detach(&self, _sandbox_id: &str) -> Result<(), NetworkError> {
        Ok(())
    }

    /// After a restart: detaches every recorded sandbox that is not in `live`, and restores the rules.
    pub async fn reconcile(&self, _live: &BTreeSet<String>) -> Result<(), NetworkError> {
        Ok(())
    }

    /// Removes the bridge, every veth on it, the nftables table and the recorded state.
    pub async fn teardown(&self) -> Result<(), NetworkError> {
        Ok(())
    }
}
