//! Services and endpoint slices → [`Ruleset`], pure. [`plan`] does it for everything at once; [`Planner`] does it service by
//! service and says what changed.
//!
//! Upstream's rules hold: `pkg/proxy/serviceport.go` for what a service asks for, `endpointslicecache.go` for what slices offer,
//! `topology.go` for which endpoints are used.

mod endpoints;
mod planner;
mod service;
mod topology;

use k8s_openapi::api::core::v1::{Node as ApiNode, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use corten_client::{Key, k8s_openapi};

pub use planner::Planner;

use crate::ruleset::Ruleset;

/// The label by which a slice names its service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
const ZONE: &str = "topology.kubernetes.io/zone";

/// What the plan needs to know of the node it is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Name, as in `endpoint.nodeName`.
    pub name: String,
    /// Zone by its label; empty when it has none.
    pub zone: String,
}

impl Node {
    /// Reads the labels of the node's object.
    pub fn of(object: &ApiNode) -> Self {
        let labels = object.metadata.labels.as_ref();
        Node {
            name: object.metadata.name.clone().unwrap_or_default(),
            zone: labels.and_then(|l| l.get(ZONE)).cloned().unwrap_or_default(),
        }
    }
}

/// The service that a slice belongs to: namespace and the label's value.
pub fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME).filter(|name| !name.is_empty())?;
    Some(Key::new(slice.metadata.namespace.clone().unwrap_or_default(), name.clone()))
}

/// The whole ruleset at once.
pub fn plan<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    node: &Node,
) -> Ruleset {
    let mut by_service = std::collections::HashMap::<Key, Vec<&EndpointSlice>>::new();
    for slice in slices {
        if let Some(key) = service_of(slice) {
            by_service.entry(key).or_default().push(slice);
        }
    }
    let mut planner = Planner::new(node.clone());
    for service in services {
        let key = Key::of(service);
        let slices = by_service.get(&key).map(Vec::as_slice).unwrap_or_default();
        planner.set(&key, Some(service), slices);
    }
    planner.take_change();
    planner.into_rules()
}

#[cfg(test)]
mod tests;
