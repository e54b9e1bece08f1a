//! The pod network of one node: a veth pair, an address and a route for each sandbox, and the nftables
//! rules that let pods reach the outside (masquerade) and be reached through the node (hostPort). The bridge
//! `NAME0` has no ports: it is the link that holds the node's address among its pods.
//!
//! In a dual-stack cluster each pod has an IPv6 address (/128) beside its IPv4 address, made from it: both stand at the same place of
//! their ranges, so that nothing more must be handed out or remembered. Neighbours are known for ever and addresses are not probed for
//! duplicates: a second family costs a pod's start a few netlink messages and no waiting.
//!
//! Everything put on the host carries the cluster's name, so that several clusters share one machine and
//! [`PodNetwork::teardown`] finds what it must remove. Everything goes through netlink, one transaction a change.

mod addresses;
mod firewall;
mod flows;
mod links;
mod local;
mod network;
mod peers;
mod policies;
mod routes;
mod rules;
mod types;
mod watch;

pub use firewall::{Allow, Direction, Firewall, Ports, Remote};
pub use local::hold_addresses;
pub use network::PodNetwork;
pub use peers::{DEFAULT_VNI, LinkChanges, Peer, Transport, Uplink};
pub use types::{
    Admitted, Attachment, Guard, NetworkConfig, NetworkError, PodIps, PodName, PortMapping, Protocol,
};
pub use watch::TableChanges;
