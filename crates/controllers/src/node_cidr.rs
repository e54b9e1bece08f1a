//! Gives every node its part of the pods' addresses (`spec.podCIDR`).

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use corten_client::Key;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::cluster::Cluster;
use crate::shell::Shell;

/// Hands out parts of a range until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    let Some(range) = Range::parse(&cluster.config.cluster_cidr, cluster.config.node_cidr_mask) else {
        if !cluster.config.cluster_cidr.is_empty() {
            tracing::error!(
                cidr = cluster.config.cluster_cidr,
                "cluster CIDR is no IPv4 range: nodes get no pod CIDR"
            );
        }
        return;
    };
    let allotter = Allotter { cluster: cluster.clone(), range, given: Mutex::default() };
    // One worker: two nodes must not get the same part.
    Shell::open(cluster, allotter)
        .each(&cluster.nodes)
        .run(1, |me, key| async move { allot(&me.cluster, me.range, &me.given, key).await })
        .await;
}

struct Allotter {
    cluster: Arc<Cluster>,
    range: Range,
    given: Mutex<HashSet<String>>,
}

async fn allot(
    cluster: &Cluster,
    range: Range,
    given: &Mutex<HashSet<String>>,
    key: Key,
) -> Result<Option<Duration>, kube::Error> {
    let taken = |node: &Arc<Node>| node.spec.as_ref().and_then(|s| s.pod_cidr.clone());
    let Some(node) = cluster.nodes.get(&key) else { return Ok(None) };
    if taken(&node).is_some() {
        return Ok(None);
    }
    let in_use: HashSet<String> = cluster.nodes.list().iter().filter_map(taken).collect();
    let part = {
        // Parts that were given but are not in the cache yet, until they are.
        let mut given = given.lock().unwrap_or_else(PoisonError::into_inner);
        given.retain(|part| !in_use.contains(part));
        let free = range.parts().find(|part| !in_use.contains(part) && !given.contains(part));
        given.extend(free.clone());
        free
    };
    let Some(part) = part else {
        cluster.recorder("cidrAllocator").normal(
            &*node,
            "CIDRNotAvailable",
            format!("Node {} status is now: CIDRNotAvailable", key.name),
        );
        return Ok(None);
    };
    let patch = json!({ "spec": { "podCIDR": part, "podCIDRs": [part] } });
    let answer = Api::<Node>::all(cluster.client.clone())
        .patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
        .await;
    if answer.is_err() {
        given.lock().unwrap_or_else(PoisonError::into_inner).remove(&part);
    }
    answer.map(|_| None)
}

/// An IPv4 range and the prefix length of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u32,
    prefix: u8,
    part_prefix: u8,
}

impl Range {
    fn parse(cidr: &str, part_prefix: u8) -> Option<Self> {
        let (address, prefix) = cidr.split_once('/')?;
        let (address, prefix): (Ipv4Addr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
        let fits = prefix >= 1 && prefix <= part_prefix && part_prefix <= 30;
        let mask = u32::MAX.checked_shl(32u32.checked_sub(u32::from(prefix))?)?;
        fits.then_some(Range { first: u32::from(address) & mask, prefix, part_prefix })
    }

    fn parts(self) -> impl Iterator<Item = String> {
        let count = 1u32 << (self.part_prefix - self.prefix);
        let step = 1u32 << (32 - self.part_prefix);
        (0..count).map(move |i| format!("{}/{}", Ipv4Addr::from(self.first + i * step), self.part_prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_and_its_parts() {
        let parts: Vec<_> = Range::parse("10.244.3.0/22", 24).unwrap().parts().collect();
        assert_eq!(parts, ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"]);
        for bad in ["", "10.0.0.0", "fd00::/64", "10.0.0.0/25", "10.0.0.0/33", "10.0.0.0/0"] {
            assert_eq!(Range::parse(bad, 24), None, "{bad}");
        }
    }
}
