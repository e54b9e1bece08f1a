//! Routes and permanent neighbours, and how ours are told from others'.
//!
//! Every route made here carries one protocol number and a metric made from the cluster's name. That is how they
//! are found again after a crash and removed by a teardown that remembers nothing; clusters side by side do
//! not see each other's.

use std::net::{IpAddr, Ipv4Addr};

use futures::TryStreamExt;
use ipnet::Ipv4Net;
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
        /// The node's address for its own packets.
        source: Ipv4Addr,
    },
    /// Through a gateway that is taken to be on the link.
    Via {
        /// Index of the link.
        link: u32,
        /// The gateway.
        gateway: Ipv4Addr,
    },
    /// Nowhere: senders are told at once.
    Unreachable,
}

/// One route of ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Route {
    /// The destination.
    pub to: Ipv4Net,
    /// The way to it.
    pub way: Way,
}

/// The metric of all routes of one cluster.
pub(crate) fn metric(cluster: &str) -> u32 {
    let hash = Sha256::digest(cluster);
    METRIC_BASE | (u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) & (METRIC_BASE - 1))
}

/// Adds the route, in place of another one of ours to the same destination.
pub(crate) async fn add(handle: &Handle, metric: u32, route: &Route) -> Result<(), NetworkError> {
    let to = route.to;
    let message = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(to.addr(), to.prefix_len())
        .protocol(PROTOCOL)
        .priority(metric);
    let message = match route.way {
        Way::Link { link, source } => {
            message.output_interface(link).pref_source(source).scope(RouteScope::Link)
        }
        Way::Via { link, gateway } => message.output_interface(link).gateway(gateway).onlink(),
        Way::Unreachable => message.kind(RouteType::Unreachable),
    };
    let added = handle.route().add(message.build()).replace().execute().await;
    added.map_err(NetworkError::netlink(format!("add route to {to}")))
}

/// Removes our route to `to`; succeeds when there is none.
pub(crate) async fn delete(handle: &Handle, metric: u32, to: Ipv4Net) -> Result<(), NetworkError> {
    let message = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(to.addr(), to.prefix_len())
        .protocol(PROTOCOL)
        .priority(metric)
        .kind(RouteType::Unspec)
        .scope(RouteScope::NoWhere);
    match handle.route().del(message.build()).execute().await {
        Err(error) if !crate::links::is(&error, nix::errno::Errno::ESRCH) => {
            Err(NetworkError::netlink(format!("delete route to {to}"))(error))
        }
        _ => Ok(()),
    }
}

/// All routes of the cluster that has this metric.
pub(crate) async fn list(handle: &Handle, metric: u32) -> Result<Vec<Route>, NetworkError> {
    let all: Vec<RouteMessage> = handle
        .route()
        .get(RouteMessageBuilder::<Ipv4Addr>::new().build())
        .execute()
        .try_collect()
        .await
        .map_err(NetworkError::netlink("list routes"))?;
    Ok(all.iter().filter_map(|message| ours(message, metric)).collect())
}

fn ours(message: &RouteMessage, metric: u32) -> Option<Route> {
    let of_cluster =
        message.header.protocol == PROTOCOL && message.attributes.contains(&RouteAttribute::Priority(metric));
    let (mut to, mut link, mut gateway, mut source) = (Ipv4Addr::UNSPECIFIED, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => to = *address,
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(*address),
            _ => {}
        }
    }
    let way = match (message.header.kind, link, gateway) {
        (RouteType::Unicast, Some(link), Some(gateway)) => Way::Via { link, gateway },
        (RouteType::Unicast, Some(link), None) => {
            Way::Link { link, source: source.unwrap_or(Ipv4Addr::UNSPECIFIED) }
        }
        _ => Way::Unreachable,
    };
    let to = Ipv4Net::new(to, message.header.destination_prefix_length).ok()?;
    of_cluster.then_some(Route { to, way })
}

/// Says which hardware address `address` has on `link`, for ever: nobody needs to ask.
pub(crate) async fn add_neighbour(
    handle: &Handle,
    link: u32,
    address: Ipv4Addr,
    mac: &[u8],
) -> Result<(), NetworkError> {
    handle
        .neighbours()
        .add(link, IpAddr::V4(address))
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
