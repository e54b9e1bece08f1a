//! The Endpoints of a service: the older form, one object, addresses grouped by the ports that they have. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

use super::{HEADLESS, TRIGGER_TIME, facts, slices::tell_trigger};
use crate::pods;

/// Most addresses of an Endpoints object; what is beyond is left out, ready ones last.
const MOST: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const TRUNCATED: &str = "truncated";
const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");

/// What a service's Endpoints should be; `None` when `present` is that already.
pub fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    present: Option<&Endpoints>,
    triggered: Option<Timestamp>,
) -> Option<Endpoints> {
    let mut subsets = subsets(service, pods);
    let truncated = truncate(&mut subsets, MOST);
    let mut labels = facts::labels(service, &[HEADLESS]);
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    let was_truncated = present.and_then(|p| p.metadata.annotations.as_ref()?.get(OVER_CAPACITY)).is_some();
    if let Some(present) = present
        && present.subsets.as_deref().unwrap_or_default() == subsets
        && present.metadata.labels.as_ref() == Some(&labels)
        && was_truncated == truncated
    {
        return None;
    }
    let mut next = present.cloned().unwrap_or_else(|| Endpoints { metadata: named(service), subsets: None });
    next.subsets = Some(subsets).filter(|s| !s.is_empty());
    next.metadata.labels = Some(labels);
    let annotations = next.metadata.annotations.get_or_insert_default();
    annotations.remove(TRIGGER_TIME);
    match truncated {
        true => drop(annotations.insert(OVER_CAPACITY.to_owned(), TRUNCATED.to_owned())),
        false => drop(annotations.remove(OVER_CAPACITY)),
    }
    tell_trigger(&mut next.metadata, triggered);
    Some(next)
}

fn named(service: &Service) -> ObjectMeta {
    ObjectMeta {
        name: service.metadata.name.clone(),
        namespace: service.metadata.namespace.clone(),
        ..ObjectMeta::default()
    }
}

/// A port in an order of its own: name, number, protocol, application protocol.
type Port = (Option<String>, i32, String, Option<String>);
/// An address in an order of its own: IP and whose it is.
type Whose = (String, Option<String>);

fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let anyway = facts::publishes_not_ready(service);
    let mut by_ports: BTreeMap<BTreeSet<Port>, BTreeMap<Whose, (EndpointAddress, bool)>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| facts::counts(pod, anyway)) {
        let ports = ports(service, pod);
        if ports.is_empty() && !(facts::is_headless(service) && facts::ports(service).is_empty()) {
            continue;
        }
        let Some(address) = address(service, pod) else { continue };
        let ready = anyway || pods::is_ready(pod);
        let whose = (address.ip.clone(), pod.metadata.uid.clone());
        by_ports.entry(ports).or_default().insert(whose, (address, ready));
    }
    by_ports.into_iter().map(|(ports, addresses)| subset(ports, addresses.into_values())).collect()
}

fn subset(ports: BTreeSet<Port>, addresses: impl Iterator<Item = (EndpointAddress, bool)>) -> EndpointSubset {
    let (ready, other): (Vec<_>, Vec<_>) = addresses.partition(|(_, ready)| *ready);
    let list = |some: Vec<(EndpointAddress, bool)>| {
        Some(some.into_iter().map(|(address, _)| address).collect()).filter(|l: &Vec<_>| !l.is_empty())
    };
    let port = |(name, port, protocol, app_protocol)| EndpointPort {
        name,
        port,
        protocol: Some(protocol),
        app_protocol,
    };
    EndpointSubset {
        addresses: list(ready),
        not_ready_addresses: list(other),
        ports: Some(ports.into_iter().map(port).collect()).filter(|p: &Vec<_>| !p.is_empty()),
    }
}

fn ports(service: &Service, pod: &Pod) -> BTreeSet<Port> {
    let found = facts::ports(service).iter().filter_map(|port| {
        let protocol = facts::protocol(port.protocol.as_deref()).to_owned();
        let name = port.name.clone().filter(|name| !name.is_empty());
        Some((name, facts::target_port(pod, port)?, protocol, port.app_protocol.clone()))
    });
    found.collect()
}

/// The pod's address of the service's first family.
fn address(service: &Service, pod: &Pod) -> Option<EndpointAddress> {
    let spec = service.spec.as_ref()?;
    let v6 = match spec.ip_families.as_ref().and_then(|f| f.first()) {
        Some(family) => family == "IPv6",
        None if facts::has_address(service) => spec.cluster_ip.as_ref()?.contains(':'),
        None => facts::addresses(pod).first()?.is_ipv6(),
    };
    let ip: IpAddr = facts::addresses(pod).into_iter().find(|ip| ip.is_ipv6() == v6)?;
    Some(EndpointAddress {
        ip: ip.to_string(),
        hostname: facts::hostname(pod, service),
        node_name: facts::node_name(pod),
        target_ref: Some(facts::reference(pod)),
    })
}

fn size(addresses: &Option<Vec<EndpointAddress>>) -> usize {
    addresses.as_ref().map_or(0, Vec::len)
}

/// Leaves out addresses beyond `most`: those that are not ready first, and of each subset its share. Were there too many?
fn truncate(subsets: &mut Vec<EndpointSubset>, most: usize) -> bool {
    let ready: usize = subsets.iter().map(|s| size(&s.addresses)).sum();
    let other: usize = subsets.iter().map(|s| size(&s.not_ready_addresses)).sum();
    if ready + other <= most {
        return false;
    }
    shrink(subsets.iter_mut().map(|s| &mut s.addresses), ready, most.min(ready));
    shrink(
        subsets.iter_mut().map(|s| &mut s.not_ready_addresses),
        other,
        most.saturating_sub(ready).min(other),
    );
    subsets.retain(|s| size(&s.addresses) + size(&s.not_ready_addresses) > 0);
    true
}

/// Shares `room` among lists of together `all` addresses.
fn shrink<'a>(lists: impl Iterator<Item = &'a mut Option<Vec<EndpointAddress>>>, all: usize, room: usize) {
    let (mut seen, mut given) = (0, 0);
    for list in lists {
        seen += size(list);
        let share = (seen * room).checked_div(all).map_or(0, |whole| whole - given);
        given += share;
        if let Some(addresses) = list {
            addresses.truncate(share);
        }
        list.take_if(|l| l.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::{pod, service};
    use super::*;
    use serde_json::{Value, json};

    fn planned(spec: Value, pods: Vec<Pod>) -> Value {
        let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
        serde_json::to_value(plan(&service(spec), &pods, None, None).unwrap()).unwrap()
    }

    #[test]
    fn ready_and_other_addresses_by_ports() {
        let told = planned(json!({}), vec![pod("a", "10.0.0.1", true), pod("b", "10.0.0.2", false)]);
        let reference = |name: &str| json!({ "kind": "Pod", "namespace": "ns", "name": name, "uid": name });
        let address =
            |ip: &str, name: &str| json!([{ "ip": ip, "nodeName": "n1", "targetRef": reference(name) }]);
        let subset = json!({ "addresses": address("10.0.0.1", "a"), "notReadyAddresses": address("10.0.0.2", "b"),
            "ports": [{ "port": 9376, "protocol": "TCP" }] });
        assert_eq!(told["subsets"], json!([subset]));
        assert_eq!(told["metadata"]["labels"], json!({ "team": "a", MANAGED_BY.0: MANAGED_BY.1 }));
    }

    #[test]
    fn subsets_differ_by_ports_and_ends_are_left_out() {
        let named =
            json!({ "ports": [{ "name": "http", "port": 80, "targetPort": "web", "protocol": "TCP" }] });
        let mut other = pod("b", "10.0.0.2", true);
        other.spec.as_mut().unwrap().containers[0].ports.as_mut().unwrap()[0].container_port = 9090;
        let mut without = pod("c", "10.0.0.3", true);
        without.spec.as_mut().unwrap().containers[0].ports = None;
        let told = planned(named, vec![pod("a", "10.0.0.1", true), other, without]);
        assert_eq!(told["subsets"].as_array().unwrap().len(), 2);
        let mut ending = pod("a", "10.0.0.1", true);
        ending.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert!(planned(json!({}), vec![ending.clone()])["subsets"].is_null());
        let anyway = planned(json!({ "publishNotReadyAddresses": true }), vec![ending]);
        assert_eq!(anyway["subsets"][0]["addresses"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn headless_services_without_ports_have_addresses_only() {
        let told = planned(json!({ "clusterIP": "None", "ports": [] }), vec![pod("a", "10.0.0.1", true)]);
        assert!(told["subsets"][0]["ports"].is_null());
        assert_eq!(told["subsets"][0]["addresses"][0]["ip"], "10.0.0.1");
        assert_eq!(told["metadata"]["labels"][HEADLESS], "");
    }

    #[test]
    fn what_is_there_already_is_not_written_again() {
        let (service, pods) = (service(json!({})), [Arc::new(pod("a", "10.0.0.1", true))]);
        let first = plan(&service, &pods, None, None).unwrap();
        assert!(plan(&service, &pods, Some(&first), None).is_none());
        assert!(plan(&service, &[], Some(&first), None).is_some_and(|e| e.subsets.is_none()));
    }

    #[test]
    fn too_many_addresses_are_left_out_not_ready_ones_first() {
        let pods: Vec<_> = (0..1200)
            .map(|n| Arc::new(pod(&format!("p{n}"), &format!("10.0.{}.{}", n / 250, n % 250), n % 6 != 0)))
            .collect();
        let made = plan(&service(json!({})), &pods, None, None).unwrap();
        let subset = &made.subsets.unwrap()[0];
        assert_eq!((size(&subset.addresses), size(&subset.not_ready_addresses)), (1000, 0));
        assert_eq!(made.metadata.annotations.unwrap()[OVER_CAPACITY], TRUNCATED);
    }
}
