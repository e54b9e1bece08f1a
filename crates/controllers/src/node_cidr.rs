//! Gives every node its part of the pods' addresses (`spec.podCIDRs`): one of each range of the cluster, in their order.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use corten_client::Api;
use corten_client::Key;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::cluster::Cluster;
use crate::shell::Shell;

/// An IPv6 range has at most so many parts, as upstream bounds it: two to the power of this.
const MOST_PART_BITS: u8 = 16;
/// Nodes' parts of IPv6 ranges, unless the range is smaller (upstream's default).
const PART_V6: u8 = 64;
/// A small IPv6 range is shared by this many nodes at least, as bits.
const NODES_V6: u8 = 8;
/// The longest prefix of a node's part: fewer pods are no node.
const LONGEST: (u8, u8) = (30, 120);

/// Hands out parts of the cluster's ranges until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    let config = &cluster.config;
    if config.cluster_cidr.is_empty() {
        return;
    }
    let masks = (config.node_cidr_mask, config.node_cidr_mask_v6);
    let ranges: Option<Vec<Range>> =
        config.cluster_cidr.split(',').map(|cidr| Range::parse(cidr.trim(), masks)).collect();
    let Some(ranges) = ranges else {
        tracing::error!(
            cidr = config.cluster_cidr,
            "nodes get no pod CIDR: the cluster CIDR has no parts of that size"
        );
        return;
    };
    let allotter = Allotter { cluster: cluster.clone(), parts: Mutex::new(Parts::of(ranges)) };
    // One worker: two nodes must not get the same part.
    Shell::open(cluster, allotter)
        .each(&cluster.nodes)
        .run(1, |me, key| async move { me.allot(key).await })
        .await;
}

struct Allotter {
    cluster: Arc<Cluster>,
    parts: Mutex<Parts>,
}

/// The ranges, and whose parts are not in the cache yet.
struct Parts {
    ranges: Vec<Range>,
    given: HashMap<Key, Vec<String>>,
}

impl Parts {
    fn of(ranges: Vec<Range>) -> Self {
        Parts { ranges, given: HashMap::new() }
    }

    /// One free part of each range for a node; none at all where one of them is used up. `in_use` is what the cache shows.
    fn take(&mut self, node: &Key, in_use: &HashSet<String>) -> Option<Vec<String>> {
        self.settle(node);
        let is_given = |part: &String| self.given.values().flatten().any(|given| given == part);
        let free = |range: &Range| range.parts().find(|part| !in_use.contains(part) && !is_given(part));
        let parts: Vec<String> = self.ranges.iter().map(free).collect::<Option<_>>()?;
        self.given.insert(node.clone(), parts.clone());
        Some(parts)
    }

    /// The cache shows what the node was given, or the node is gone: its parts are another's one day.
    fn settle(&mut self, node: &Key) {
        self.given.remove(node);
    }
}

impl Allotter {
    async fn allot(&self, key: Key) -> Result<Option<Duration>, kube::Error> {
        let cluster = &self.cluster;
        let Some(node) = cluster.nodes.get(&key).filter(|node| parts_of(node).is_empty()) else {
            self.parts().settle(&key);
            return Ok(None);
        };
        let in_use: HashSet<String> = cluster.nodes.list().iter().flat_map(|node| parts_of(node)).collect();
        let Some(parts) = self.parts().take(&key, &in_use) else {
            cluster.recorder("cidrAllocator").normal(
                &*node,
                "CIDRNotAvailable",
                format!("Node {} status is now: CIDRNotAvailable", key.name),
            );
            return Ok(None);
        };
        let patch = json!({ "spec": { "podCIDR": parts[0], "podCIDRs": parts } });
        let answer = Api::<Node>::all(cluster.client.clone())
            .patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        if answer.is_err() {
            self.parts().settle(&key);
        }
        answer.map(|_| None)
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parts_of(node: &Node) -> Vec<String> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let mut parts: Vec<String> = spec.pod_cidrs.clone().unwrap_or_default();
    parts.extend(spec.pod_cidr.clone().filter(|one| !one.is_empty() && !parts.contains(one)));
    parts
}

/// A range and the prefix length of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u128,
    bits: u8,
    prefix: u8,
    part_prefix: u8,
}

impl Range {
    /// `masks` are the parts' prefix lengths of IPv4 and of IPv6; without the latter what fits.
    fn parse(cidr: &str, masks: (u8, Option<u8>)) -> Option<Self> {
        let (address, prefix) = cidr.split_once('/')?;
        let (address, prefix): (IpAddr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
        let (first, bits, part_prefix, longest) = match address {
            IpAddr::V4(ip) => (u128::from(u32::from(ip)), 32, masks.0, LONGEST.0),
            IpAddr::V6(ip) => {
                let fits = || PART_V6.max(prefix.saturating_add(NODES_V6)).min(LONGEST.1);
                (u128::from(ip), 128, masks.1.unwrap_or_else(fits), LONGEST.1)
            }
        };
        let few = bits == 32 || part_prefix.saturating_sub(prefix) <= MOST_PART_BITS;
        let fits = prefix >= 1 && prefix <= part_prefix && part_prefix <= longest && few;
        let below = u128::MAX.checked_shr(u32::from(128 - bits) + u32::from(prefix)).unwrap_or(0);
        fits.then_some(Range { first: first & !below, bits, prefix, part_prefix })
    }

    fn parts(self) -> impl Iterator<Item = String> {
        let (count, step) =
            (1u128 << (self.part_prefix - self.prefix), 1u128 << (self.bits - self.part_prefix));
        (0..count).map(move |i| format!("{}/{}", self.address(self.first + i * step), self.part_prefix))
    }

    fn address(self, number: u128) -> IpAddr {
        match u32::try_from(number) {
            Ok(number) if self.bits == 32 => Ipv4Addr::from(number).into(),
            _ => Ipv6Addr::from(number).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_and_its_parts() {
        let parts = |cidr: &str, v6: Option<u8>| -> Vec<String> {
            Range::parse(cidr, (24, v6)).unwrap().parts().take(5).collect()
        };
        assert_eq!(
            parts("10.244.3.0/22", None),
            ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"]
        );
        assert_eq!(
            parts("fd00:1::/62", Some(64)),
            ["fd00:1::/64", "fd00:1:0:1::/64", "fd00:1:0:2::/64", "fd00:1:0:3::/64"]
        );
        assert_eq!(parts("fd00:1:2::/56", None)[1], "fd00:1:2:1::/64");
        // Less than a /56 is shared by 256 nodes all the same.
        assert_eq!(parts("fd00:1::/64", None)[1], "fd00:1:0:0:100::/72");
        assert_eq!(parts("fd00:1::/112", None)[1], "fd00:1::100/120");
        for bad in ["", "10.0.0.0", "fd00::/16", "fd00::/121", "10.0.0.0/25", "10.0.0.0/33", "10.0.0.0/0"] {
            assert_eq!(Range::parse(bad, (24, Some(64))), None, "{bad}");
        }
    }

    #[test]
    fn parts_of_nodes_that_come_and_go_are_given_again() {
        let mut parts = Parts::of(vec![Range::parse("10.0.0.0/23", (24, None)).unwrap()]);
        let (none, node) = (HashSet::new(), |name: &str| Key::new("", name));
        let first = parts.take(&node("a"), &none);
        assert_eq!(parts.take(&node("a"), &none), first, "the cache was slow");
        let second = parts.take(&node("b"), &none);
        assert_ne!(second, first);
        assert_eq!(parts.take(&node("c"), &none), None);
        for name in ["a", "b"] {
            parts.settle(&node(name));
        }
        for name in ["c", "d", "e"] {
            assert_eq!(parts.take(&node(name), &none), first, "{name}");
            parts.settle(&node(name));
        }
        let shown = HashSet::from(["10.0.0.0/24".to_owned()]);
        assert_eq!(parts.take(&node("f"), &shown), second);
    }

    #[test]
    fn both_ranges_of_a_node_count_as_used() {
        let node: Node = serde_json::from_value(
            json!({ "spec": { "podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24", "fd00::/64"] } }),
        )
        .unwrap();
        assert_eq!(parts_of(&node), ["10.0.0.0/24", "fd00::/64"]);
    }
}
