//! Netfilter by netlink, without any program: tables of nftables in one atomic batch, and the connection tracker's flows.
//!
//! Everything acts on the network namespace of the thread that opened the [`Socket`].

mod changes;
pub mod conntrack;
pub mod nft;
mod socket;
mod wire;

pub use changes::{Changed, Changes, Taken};
pub use socket::Socket;

/// IP family of a table or a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

impl Family {
    /// `NFPROTO_*`, which equals `AF_*` for these.
    pub(crate) fn number(self) -> u8 {
        match self {
            Family::Ip => 2,
            Family::Ip6 => 10,
        }
    }
}
