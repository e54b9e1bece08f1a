//! The other nodes: from Node objects to what the pod network needs of them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use corten_client::{Change, Informer};
use corten_network::{LinkChanges, Peer, PodNetwork};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::api::core::v1::Node;
use tokio::sync::Notify;

use crate::RETRY;

/// Keeps the ways to other nodes' pods as the nodes say. A node that is not ready keeps its ways: its pods may still run.
pub(crate) async fn follow(network: &PodNetwork, nodes: &Informer<Node>, me: &str) {
    let changed = Arc::new(Notify::new());
    let wake = changed.clone();
    nodes.on_change(move |change| {
        // Heartbeats change neither.
        let same = |old: &Node, new: &Node| facts(old) == facts(new);
        if !matches!(change, Change::Updated { old, new } if same(old, new)) {
            wake.notify_one();
        }
    });
    nodes.synced().await;
    let mut links = network.link_changes().ok();
    loop {
        let done = apply(network, &nodes.list(), me).await;
        if let Err(error) = &done {
            tracing::warn!(%error, "ways to other nodes are not complete, trying again");
        }
        tokio::select! {
            () = changed.notified() => {}
            () = link_up(&mut links) => network.forget_peers().await,
            () = tokio::time::sleep(RETRY), if done.is_err() => {}
        }
    }
}

/// Waits for ever where the kernel tells nothing.
async fn link_up(links: &mut Option<LinkChanges>) {
    if let Some(changes) = links
        && changes.next().await.is_some()
    {
        return;
    }
    std::future::pending().await
}

async fn apply(
    network: &PodNetwork,
    nodes: &[Arc<Node>],
    me: &str,
) -> Result<(), corten_network::NetworkError> {
    let own = nodes.iter().find(|node| node.metadata.name.as_deref() == Some(me));
    // The node is not registered, or has no addresses yet: the next change tells.
    let Some(cidr) = own.and_then(|node| pod_cidr(node)) else { return Ok(()) };
    network.set_pod_cidr(cidr)?;
    network.set_pod_cidr_v6(own.and_then(|node| pod_cidr_v6(node)))?;
    network.set_peers(others(nodes, me)).await
}

fn others(nodes: &[Arc<Node>], me: &str) -> BTreeSet<Peer> {
    let others = nodes.iter().filter(|node| node.metadata.name.as_deref() != Some(me));
    others.filter_map(|node| facts(node)).collect()
}

/// All that others need to know of a node; an IPv4 address and range are the least.
fn facts(node: &Node) -> Option<Peer> {
    Some(Peer {
        node_ip: node_ip(node)?,
        pod_cidr: pod_cidr(node)?,
        node_ip_v6: node_ip_v6(node),
        pod_cidr_v6: pod_cidr_v6(node),
    })
}

/// The first IPv4 range of spec.podCIDRs.
fn pod_cidr(node: &Node) -> Option<Ipv4Net> {
    pod_cidrs(node).find_map(|net| if let IpNet::V4(net) = net { Some(net) } else { None })
}

/// The first IPv6 range of spec.podCIDRs.
fn pod_cidr_v6(node: &Node) -> Option<Ipv6Net> {
    pod_cidrs(node).find_map(|net| if let IpNet::V6(net) = net { Some(net) } else { None })
}

fn pod_cidrs(node: &Node) -> impl Iterator<Item = IpNet> + '_ {
    let spec = node.spec.iter();
    let all = spec.flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr));
    all.filter_map(|text| text.parse().ok()).map(|net: IpNet| net.trunc())
}

/// The first IPv4 address of type InternalIP.
fn node_ip(node: &Node) -> Option<Ipv4Addr> {
    node_ips(node).find_map(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None })
}

/// The first IPv6 address of type InternalIP.
fn node_ip_v6(node: &Node) -> Option<Ipv6Addr> {
    node_ips(node).find_map(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None })
}

fn node_ips(node: &Node) -> impl Iterator<Item = IpAddr> + '_ {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let internal = addresses.filter(|address| address.type_ == "InternalIP");
    internal.filter_map(|address| address.address.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, spec: Value, addresses: Value) -> Arc<Node> {
        let node =
            json!({ "metadata": { "name": name }, "spec": spec, "status": { "addresses": addresses } });
        Arc::new(serde_json::from_value(node).unwrap())
    }

    #[test]
    fn peers_are_other_nodes_with_address_and_range() {
        let address = |ip: &str| json!([{ "type": "Hostname", "address": "x" }, { "type": "InternalIP", "address": ip }]);
        let nodes = [
            node("me", json!({ "podCIDR": "10.1.0.0/24" }), address("192.0.2.1")),
            node("a", json!({ "podCIDR": "10.1.1.0/24", "podCIDRs": ["10.1.1.0/24"] }), address("192.0.2.2")),
            node("dual", json!({ "podCIDRs": ["fd00::/64", "10.1.2.0/24"] }), address("192.0.2.3")),
            node("no-range", json!({}), address("192.0.2.4")),
            node("no-address", json!({ "podCIDR": "10.1.4.0/24" }), json!([])),
            node("six", json!({ "podCIDR": "10.1.5.0/24" }), address("fd01::1")),
        ];
        let peers: Vec<_> =
            others(&nodes, "me").into_iter().map(|p| format!("{} {}", p.node_ip, p.pod_cidr)).collect();
        assert_eq!(peers, ["192.0.2.2 10.1.1.0/24", "192.0.2.3 10.1.2.0/24"]);
        let both = json!([{ "type": "InternalIP", "address": "192.0.2.9" }, { "type": "InternalIP", "address": "fd01::9" }]);
        let both = facts(&node("both", json!({ "podCIDRs": ["10.1.9.0/24", "fd00::/64"] }), both)).unwrap();
        assert_eq!(both.node_ip_v6, Some("fd01::9".parse().unwrap()));
        assert_eq!(both.pod_cidr_v6, Some("fd00::/64".parse().unwrap()));
        assert_eq!(pod_cidr(&nodes[0]).unwrap().to_string(), "10.1.0.0/24");
    }
}
