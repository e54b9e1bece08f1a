//! Routes and permanent neighbours, and how ours are told from others'.
//!
//! Every route made here carries one protocol number and a metric made from the cluster's name. That is how they
//! are found again after a crash and removed by a teardown that remembers nothing; clusters side by side do
//! not see each other's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};
use sha2::{Digest, Sha256};

use crate::types::NetworkError;

/// Says in `ip route` who made a route; from the numbers that nobody has registered.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(199);
/// Metrics above this one lose against every route that people make.
const METRIC_BASE: u32 = 0x4000_0000;

/// How packets reach a destination.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// The destination is at the other end of a link; the node itself sends from `source`.
    Link {
        /// Index of the link.
        link: u32,
        /// The node's address for its own packets, of the destination's family.
        source: IpAddr,
    },
    /// Through a gateway that is taken to be on the link.
    Via {
        /// Index of the link.
        link: u32,
        /// The gateway, of the destination's family.
        gateway: IpAddr,
    },
    /// Nowhere: senders are told at once.
    Unreachable,
}

/// One route of ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Route {
    /// The destination.
    pub to: IpNet,
    /// The way to it.
    pub way: Way,
}

/// The metric of all routes of one cluster.
pub(crate) fn metric(cluster: &str) -> u32 {
    let hash = Sha256::digest(cluster);
    METRIC_BASE | (u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) & (METRIC_BASE - 1))
}

/// Whether the kernel has IPv6 at all.
pub(crate) fn has_ipv6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").exists()
}

/// A route to `to` with our marks.
fn marked(to: IpNet, metric: u32) -> RouteMessage {
    let (prefix, protocol) = (to.prefix_len(), PROTOCOL);
    match to.addr() {
        IpAddr::V4(address) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, prefix)
            .protocol(protocol)
            .priority(metric)
            .build(),
        IpAddr::V6(address) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(address, prefix)
            .protocol(protocol)
            .priority(metric)
            .build(),
    }
}

/// An address as an attribute has it.
pub(crate) fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

/// Adds the route, in place of another one of ours to the same destination.
pub(crate) async fn add(handle: &Handle, metric: u32, route: &Route) -> Result<(), NetworkError> {
    let mut message = marked(route.to, metric);
    match route.way {
        Way::Link { link, source } => {
            message.attributes.push(RouteAttribute::Oif(link));
            message.attributes.push(RouteAttribute::PrefSource(route_address(source)));
            message.header.scope = RouteScope::Link;
        }
        Way::Via { link, gateway } => via(&mut message, link, gateway),
        Way::Unreachable => message.header.kind = RouteType::Unreachable,
    }
    let added = handle.route().add(message).replace().execute().await;
    added.map_err(NetworkError::netlink(format!("add route to {}", route.to)))
}

/// Leads through `gateway`, which need not be in a network of the link.
pub(crate) fn via(message: &mut RouteMessage, link: u32, gateway: IpAddr) {
    use rtnetlink::packet_route::route::RouteFlags;
    message.attributes.push(RouteAttribute::Oif(link));
    message.attributes.push(RouteAttribute::Gateway(route_address(gateway)));
    message.header.flags |= RouteFlags::Onlink;
}

/// Removes our route to `to`; succeeds when there is none.
pub(crate) async fn delete(handle: &Handle, metric: u32, to: IpNet) -> Result<(), NetworkError> {
    let mut message = marked(to, metric);
    message.header.kind = RouteType::Unspec;
    message.header.scope = RouteScope::NoWhere;
    match handle.route().del(message).execute().await {
        Err(error) if !crate::links::is(&error, nix::errno::Errno::ESRCH) => {
            Err(NetworkError::netlink(format!("delete route to {to}"))(error))
        }
        _ => Ok(()),
    }
}

/// All routes of the cluster that has this metric.
pub(crate) async fn list(handle: &Handle, metric: u32) -> Result<Vec<Route>, NetworkError> {
    let mut questions = vec![RouteMessageBuilder::<Ipv4Addr>::new().build()];
    if has_ipv6() {
        questions.push(RouteMessageBuilder::<Ipv6Addr>::new().build());
    }
    let mut found = Vec::new();
    for question in questions {
        let all: Vec<RouteMessage> = handle
            .route()
            .get(question)
            .execute()
            .try_collect()
            .await
            .map_err(NetworkError::netlink("list routes"))?;
        found.extend(all.iter().filter_map(|message| ours(message, metric)));
    }
    Ok(found)
}

fn ours(message: &RouteMessage, metric: u32) -> Option<Route> {
    use rtnetlink::packet_route::AddressFamily;
    let of_cluster =
        message.header.protocol == PROTOCOL && message.attributes.contains(&RouteAttribute::Priority(metric));
    let none: IpAddr = match message.header.address_family {
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    };
    let (mut to, mut link, mut gateway, mut source) = (none, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = address_of(address).unwrap_or(none),
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Gateway(address) => gateway = address_of(address),
            RouteAttribute::PrefSource(address) => source = address_of(address),
            _ => {}
        }
    }
    let way = match (message.header.kind, link, gateway) {
        (RouteType::Unicast, Some(link), Some(gateway)) => Way::Via { link, gateway },
        (RouteType::Unicast, Some(link), None) => Way::Link { link, source: source.unwrap_or(none) },
        _ => Way::Unreachable,
    };
    let to = IpNet::new(to, message.header.destination_prefix_length).ok()?;
    of_cluster.then_some(Route { to, way })
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// Says which hardware address `address` has on `link`, for ever: nobody needs to ask.
pub(crate) async fn add_neighbour(
    handle: &Handle,
    link: u32,
    address: IpAddr,
    mac: &[u8],
) -> Result<(), NetworkError> {
    handle
        .neighbours()
        .add(link, address)
        .link_layer_address(mac)
        .replace()
        .execute()
        .await
        .map_err(NetworkError::netlink(format!("add neighbour {address}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_tell_clusters_apart_and_lose() {
        assert_ne!(metric("a"), metric("b"));
        assert_eq!(metric("a"), metric("a"));
        assert!(metric("corten") >= METRIC_BASE && metric("corten") < 2 * METRIC_BASE);
    }
}
