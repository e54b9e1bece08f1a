//! What the slices of one service offer: endpoints by port name, protocol and family, each address and port once.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use corten_client::k8s_openapi::api::discovery::v1::{Endpoint as ApiEndpoint, EndpointPort, EndpointSlice};

use super::Node;
use crate::ruleset::{Endpoint, Family, Protocol};

/// Services named so are left to nobody: the label is copied from the service to its slices.
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";

/// An endpoint with everything that decides whether it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub endpoint: Endpoint,
    pub is_ready: bool,
    pub is_serving: bool,
    pub is_terminating: bool,
    /// Hinted for this node; none: no hint at all.
    pub for_node: Option<bool>,
    /// Hinted for this node's zone; none: no hint at all.
    pub for_zone: Option<bool>,
}

/// Port name, protocol and family → candidates, sorted by address and port.
pub(super) type Offers = HashMap<(String, Protocol, Family), Vec<Candidate>>;

/// Reads the slices of one service. Where two slices have the same endpoint, a local one wins over a remote one (upstream),
/// then a ready one, then a serving one: an endpoint that just moved is not lost.
pub(super) fn offers(slices: &[&EndpointSlice], node: &Node) -> Offers {
    let mut found = HashMap::<_, BTreeMap<(IpAddr, u16), Candidate>>::new();
    for slice in slices.iter().filter(|slice| is_ours(slice)) {
        for port in slice.ports.iter().flatten() {
            let Some((name, protocol, number)) = read_port(port) else { continue };
            for candidate in slice.endpoints.iter().flatten().filter_map(|e| read_endpoint(e, number, node)) {
                let family = Family::of(candidate.endpoint.address);
                let of_port = found.entry((name.to_owned(), protocol, family)).or_default();
                keep_better(of_port, candidate);
            }
        }
    }
    found.into_iter().map(|(key, endpoints)| (key, endpoints.into_values().collect())).collect()
}

fn is_ours(slice: &EndpointSlice) -> bool {
    let is_headless = slice.metadata.labels.as_ref().is_some_and(|l| l.contains_key(HEADLESS));
    matches!(slice.address_type.as_str(), "IPv4" | "IPv6") && !is_headless
}

fn read_port(port: &EndpointPort) -> Option<(&str, Protocol, u16)> {
    let number = port.port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0)?;
    let protocol = Protocol::parse(port.protocol.as_deref())?;
    Some((port.name.as_deref().unwrap_or_default(), protocol, number))
}

/// Only the first address of an endpoint counts.
fn read_endpoint(from: &ApiEndpoint, port: u16, node: &Node) -> Option<Candidate> {
    let address = from.addresses.first()?.parse().ok()?;
    let is_local = !node.name.is_empty() && from.node_name.as_ref() == Some(&node.name);
    let conditions = from.conditions.as_ref();
    let hints = from.hints.as_ref();
    let nodes = hints.and_then(|h| h.for_nodes.as_ref()).filter(|nodes| !nodes.is_empty());
    let zones = hints.and_then(|h| h.for_zones.as_ref()).filter(|zones| !zones.is_empty());
    Some(Candidate {
        endpoint: Endpoint { address, port, is_local },
        is_ready: conditions.and_then(|c| c.ready).unwrap_or(true),
        is_serving: conditions.and_then(|c| c.serving).unwrap_or(true),
        is_terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        for_node: nodes.map(|nodes| nodes.iter().any(|n| n.name == node.name)),
        for_zone: zones.map(|zones| zones.iter().any(|z| z.name == node.zone)),
    })
}

fn keep_better(into: &mut BTreeMap<(IpAddr, u16), Candidate>, candidate: Candidate) {
    let worth = |c: &Candidate| (c.endpoint.is_local, c.is_ready, c.is_serving);
    let key = (candidate.endpoint.address, candidate.endpoint.port);
    match into.get_mut(&key) {
        Some(there) if worth(there) >= worth(&candidate) => {}
        Some(there) => *there = candidate,
        None => drop(into.insert(key, candidate)),
    }
}
