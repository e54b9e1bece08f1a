//! The pod network of one node: a bridge, a veth pair and an address for each sandbox, and the nftables
//! rules that let pods reach the outside (masquerade) and be reached through the node (hostPort).
//!
//! Everything put on the host carries the cluster's name, so that several clusters share one machine and
//! [`PodNetwork::teardown`] finds what it must remove. Links, addresses and routes go through rtnetlink;
//! rules go through the `nft` binary (`nft -f -`, one transaction a change), which only pods with a
//! hostPort pay for.

mod addresses;
mod links;
mod network;
mod rules;
mod types;

pub use network::PodNetwork;
pub use types::{Attachment, NetworkConfig, NetworkError, PodIps, PortMapping, Protocol};
