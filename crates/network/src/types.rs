//! The words of this crate: configuration, what a sandbox asks for, and what can go wrong.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// What a node must know to run its pod network.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Cluster name, 1–11 characters `[a-z][a-z0-9-]*`; names every object on the host.
    pub cluster_name: String,
    /// This node's part of the cluster CIDR; may arrive later by `set_pod_cidr`.
    pub pod_cidr: Option<Ipv4Net>,
    /// All pods of the cluster; traffic inside it is not masqueraded.
    pub cluster_cidr: Ipv4Net,
    /// The same of IPv6; `None` in a cluster of one family, whose pods' links know no IPv6.
    pub cluster_cidr_v6: Option<Ipv6Net>,
    /// Pods' first address is that of IPv6.
    pub prefers_v6: bool,
    /// Directory for the records of attached sandboxes, owned by this crate.
    pub state_dir: PathBuf,
    /// MTU of bridge and veth pairs, in bytes; `None` keeps the kernel's default of 1500.
    pub mtu: Option<u32>,
}

/// One sandbox's wish to be connected.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// The CRI sandbox id.
    pub sandbox_id: String,
    /// Whose sandbox it is.
    pub pod: PodName,
    /// Where the sandbox's network namespace is bound.
    pub netns: PathBuf,
    /// Ports of the node that lead to the pod.
    pub port_mappings: Vec<PortMapping>,
}

/// What the kubelet calls the pod when it speaks with the runtime; for the guard only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
}

/// What [`Guard::admit`] returns.
pub type Admitted<'a> = std::pin::Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Somebody who is asked about every pod that got its addresses, before anything runs in it.
pub trait Guard: Send + Sync {
    /// Returns when the pod may start; waits for a bounded time only.
    fn admit<'a>(&'a self, pod: &'a PodName, ips: &'a PodIps) -> Admitted<'a>;
}

/// One hostPort.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port on the node; 0 means none and is skipped, as CRI does.
    pub host_port: u16,
    /// Port in the pod.
    pub container_port: u16,
    /// Only this address of the node; `None` is every local address.
    pub host_ip: Option<IpAddr>,
}

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    /// The name nftables uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// The addresses a sandbox was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodIps {
    /// status.podIP.
    pub primary: IpAddr,
    /// The address of the other family in a dual-stack cluster.
    pub additional: Vec<IpAddr>,
}

/// Why the pod network could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// No pod CIDR has been assigned to the node yet.
    #[error("node has no pod CIDR yet")]
    NoPodCidr,
    /// The CIDR is too small or would change under running pods.
    #[error("pod CIDR {cidr} is not usable: {reason}")]
    BadCidr {
        /// The CIDR in question.
        cidr: IpNet,
        /// What is wrong with it.
        reason: String,
    },
    /// A name or id that cannot be used on the host.
    #[error("invalid {what} {value:?}")]
    InvalidName {
        /// Which name.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// Every address of the pod CIDR is in use.
    #[error("no free address in pod CIDR {0}")]
    NoFreeAddress(Ipv4Net),
    /// Another pod holds the host port.
    #[error("host port {port} is already in use by sandbox {holder}")]
    HostPortTaken {
        /// The port, as `protocol/port`.
        port: String,
        /// The sandbox that has it.
        holder: String,
    },
    /// The kernel refused a netlink request.
    #[error("{action}: {source}")]
    Netlink {
        /// What was being done.
        action: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// The kernel refused rules.
    #[error("nftables: {0}")]
    Nft(String),
    /// A file or system call failed.
    #[error("{action}: {source}")]
    Io {
        /// What was being done.
        action: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl NetworkError {
    /// An [`NetworkError::Io`] maker for `map_err`.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// An [`NetworkError::Netlink`] maker for `map_err`.
    pub(crate) fn netlink(action: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        let action = action.into();
        move |source| Self::Netlink { action, source }
    }
}
