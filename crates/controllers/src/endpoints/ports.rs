//! Ports of a slice in an order of their own, so that equal lists of ports are found whatever their order. Pure.

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointPort;

use super::facts;

/// A list of ports as a key: name, number, protocol, application protocol of each, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports(Vec<(String, Option<i32>, String, String)>);

impl Ports {
    /// The key of a slice's ports.
    pub fn of(ports: &[EndpointPort]) -> Self {
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let key = |p: &EndpointPort| {
            let protocol = facts::protocol(p.protocol.as_deref()).to_owned();
            (text(&p.name), p.port, protocol, text(&p.app_protocol))
        };
        let mut all: Vec<_> = ports.iter().map(key).collect();
        all.sort();
        Ports(all)
    }
}

/// The ports of a service in one pod; a name that the pod does not have is left out.
pub fn in_pod(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let found = facts::ports(service).iter().filter_map(|port| {
        Some(EndpointPort {
            // A port without name has an empty one in slices.
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(facts::target_port(pod, port)?),
            protocol: Some(facts::protocol(port.protocol.as_deref()).to_owned()),
            app_protocol: port.app_protocol.clone(),
        })
    });
    found.collect()
}
