//! What network policies mean for one node, without a word of Kubernetes or of nftables.
//!
//! Packets are looked at when they are forwarded (and, for what pods send, when they go to the node itself) after service addresses
//! were translated. What the node itself sends to its own pods, probes above all, always passes, as network plugins have it. What a
//! policy allows is decided at a connection's first packet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::types::Protocol;

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
}
