//! Which slices a service should have. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

use super::packing::{Changes, Identity, Wanted, endpoints, pack};
use super::ports::{self, Ports};
use super::{HEADLESS, MANAGED_BY, SERVICE_NAME, TRIGGER_TIME, facts};
use crate::claim;

/// The name of this controller in the managed-by label (upstream's).
pub const CONTROLLER: &str = "endpointslice-controller.k8s.io";
/// Most endpoints of a slice (upstream's `--max-endpoints-per-slice`).
const MOST: usize = 100;
const ZONE: &str = "topology.kubernetes.io/zone";
const IPV4: &str = "IPv4";
const IPV6: &str = "IPv6";
/// Traffic distributions that want hints, and whether they want nodes named, too.
const CLOSE: &[(&str, bool)] = &[("PreferClose", false), ("PreferSameZone", false), ("PreferSameNode", true)];

/// What is known.
pub struct Observed<'a> {
    /// The service; it has a selector.
    pub service: &'a Service,
    /// The pods that it selects.
    pub pods: &'a [Arc<Pod>],
    /// The slices of that service that this controller keeps.
    pub slices: &'a [Arc<EndpointSlice>],
    /// Nodes by name.
    pub node: &'a (dyn Fn(&str) -> Option<Arc<Node>> + Sync),
    /// The oldest change that is not written yet.
    pub triggered: Option<Timestamp>,
}

/// What to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// Writes of slices.
    pub changes: Changes,
    /// Pods that were left out because their node is not known (yet, or any more).
    pub lost: Vec<String>,
}

/// Plans the slices of a service.
pub fn plan(seen: &Observed<'_>) -> Plan {
    let families = families(seen.service);
    let mut plan = Plan::default();
    for family in &families {
        of_family(seen, family, &mut plan);
    }
    let other_family = seen.slices.iter().filter(|s| !families.contains(&s.address_type.as_str()));
    plan.changes.delete.extend(other_family.cloned());
    plan.changes.recycle(|slice| is_owned(slice, seen.service));
    hint(&mut plan.changes, seen.service);
    let changes = &mut plan.changes;
    for slice in changes.create.iter_mut().chain(&mut changes.update) {
        tell_trigger(&mut slice.metadata, seen.triggered);
    }
    plan
}

/// Notes when the change happened that an object is written for.
pub fn tell_trigger(meta: &mut ObjectMeta, triggered: Option<Timestamp>) {
    let annotations = meta.annotations.get_or_insert_default();
    match triggered {
        Some(at) => annotations.insert(TRIGGER_TIME.to_owned(), at.to_string()),
        None => annotations.remove(TRIGGER_TIME),
    };
    meta.annotations.take_if(|a| a.is_empty());
}

/// The address types of a service: those that it says, else that of its address, else both.
fn families(service: &Service) -> Vec<&'static str> {
    let spec = service.spec.as_ref();
    let said: Vec<_> = spec.iter().flat_map(|s| s.ip_families.iter().flatten()).collect();
    let of_ip = |ip: &str| if ip.contains(':') { IPV6 } else { IPV4 };
    let known: Vec<_> = [IPV4, IPV6].into_iter().filter(|f| said.iter().any(|s| s == f)).collect();
    match spec.and_then(|s| s.cluster_ip.as_deref()) {
        _ if !known.is_empty() => known,
        Some(ip) if facts::has_address(service) => vec![of_ip(ip)],
        _ => vec![IPV4, IPV6],
    }
}

/// One list of ports and the endpoints that have it.
#[derive(Default)]
struct Group {
    ports: Vec<EndpointPort>,
    wanted: Wanted,
    existing: Vec<Arc<EndpointSlice>>,
}

fn of_family(seen: &Observed<'_>, family: &str, plan: &mut Plan) {
    let mut groups: BTreeMap<Ports, Group> = BTreeMap::new();
    for pod in seen.pods.iter().filter(|pod| facts::counts(pod, true)) {
        place(seen, family, pod, &mut groups, &mut plan.lost);
    }
    let nothing = groups.is_empty();
    let mut changes = Changes::default();
    for slice in seen.slices.iter().filter(|s| s.address_type == family) {
        let group = groups.get_mut(&Ports::of(slice.ports.as_deref().unwrap_or_default()));
        match group.filter(|_| is_owned(slice, seen.service)) {
            Some(group) => group.existing.push(slice.clone()),
            None => changes.delete.push(slice.clone()),
        }
    }
    for group in groups.into_values() {
        let fresh = empty(seen.service, family, group.ports);
        changes.add(pack(&group.existing, group.wanted, MOST, &fresh));
    }
    if nothing {
        keep_a_place(&mut changes, empty(seen.service, family, Vec::new()));
    }
    plan.changes.add(changes);
}

fn place(
    seen: &Observed<'_>,
    family: &str,
    pod: &Pod,
    groups: &mut BTreeMap<Ports, Group>,
    lost: &mut Vec<String>,
) {
    let node = facts::node_name(pod).and_then(|name| (seen.node)(&name));
    let endpoint = endpoint(seen.service, pod, node.as_deref(), family);
    if endpoint.addresses.is_empty() {
        return;
    }
    if node.is_none() && !facts::publishes_not_ready(seen.service) {
        lost.push(pod.metadata.name.clone().unwrap_or_default());
        return;
    }
    let ports = ports::in_pod(seen.service, pod);
    let group = groups.entry(Ports::of(&ports)).or_default();
    group.ports = ports;
    group.wanted.insert(Identity::of(&endpoint), endpoint);
}

fn endpoint(service: &Service, pod: &Pod, node: Option<&Node>, family: &str) -> Endpoint {
    let serving = crate::pods::is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let conditions = EndpointConditions {
        ready: Some(facts::publishes_not_ready(service) || (serving && !terminating)),
        serving: Some(serving),
        terminating: Some(terminating),
    };
    let of_family = |ip: &IpAddr| ip.is_ipv6() == (family == IPV6);
    let zone = node.and_then(|n| n.metadata.labels.as_ref()?.get(ZONE)).filter(|z| !z.is_empty());
    Endpoint {
        addresses: facts::addresses(pod).into_iter().filter(of_family).map(|ip| ip.to_string()).collect(),
        conditions: Some(conditions),
        hostname: facts::hostname(pod, service),
        node_name: facts::node_name(pod),
        target_ref: Some(facts::reference(pod)),
        zone: zone.cloned(),
        ..Endpoint::default()
    }
}

fn empty(service: &Service, family: &str, ports: Vec<EndpointPort>) -> EndpointSlice {
    let name = service.metadata.name.clone().unwrap_or_default();
    let mut labels = facts::labels(service, &[SERVICE_NAME, MANAGED_BY, HEADLESS]);
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    EndpointSlice {
        address_type: family.to_owned(),
        endpoints: Some(Vec::new()),
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![claim::reference(service)]),
            ..ObjectMeta::default()
        },
        ports: Some(ports),
    }
}

fn is_owned(slice: &EndpointSlice, service: &Service) -> bool {
    let owners = slice.metadata.owner_references.iter().flatten();
    owners.into_iter().any(|o| o.kind == "Service" && Some(&o.uid) == service.metadata.uid.as_ref())
}

/// A service without endpoints has one empty slice, so that "none" can be told from "not looked at yet".
fn keep_a_place(changes: &mut Changes, place: EndpointSlice) {
    let owner =
        |s: &EndpointSlice| s.metadata.owner_references.iter().flatten().next().map(|o| o.uid.clone());
    let fits = |slice: &Arc<EndpointSlice>| {
        let bare = endpoints(slice).is_empty() && slice.ports.as_ref().is_none_or(Vec::is_empty);
        bare && slice.metadata.labels == place.metadata.labels && owner(slice) == owner(&place)
    };
    match changes.delete.iter().position(fits) {
        Some(index) => changes.keep.push(changes.delete.remove(index)),
        None => changes.create.push(place),
    }
}

/// Which clients an endpoint is for, where the service wants traffic to stay close. Endpoints that are not ready keep what they
/// have.
fn wanted_hints(endpoint: &Endpoint, service: &Service) -> Option<EndpointHints> {
    let distribution = service.spec.as_ref().and_then(|s| s.traffic_distribution.as_deref());
    let (_, name_nodes) = CLOSE.iter().find(|(name, _)| distribution == Some(name))?;
    if endpoint.conditions.as_ref().and_then(|c| c.ready) != Some(true) {
        return endpoint.hints.clone();
    }
    let zones = endpoint.zone.clone().map(|name| vec![ForZone { name }]);
    let nodes = endpoint.node_name.clone().filter(|_| *name_nodes).map(|name| vec![ForNode { name }]);
    (zones.is_some() || nodes.is_some()).then_some(EndpointHints { for_nodes: nodes, for_zones: zones })
}

/// Gives all endpoints their hints; slices whose hints are wrong are written, too.
fn hint(changes: &mut Changes, service: &Service) {
    let wrong = |slice: &Arc<EndpointSlice>| {
        endpoints(slice).iter().any(|endpoint| endpoint.hints != wanted_hints(endpoint, service))
    };
    let (renew, keep): (Vec<_>, Vec<_>) = std::mem::take(&mut changes.keep).into_iter().partition(wrong);
    changes.keep = keep;
    changes.update.extend(renew.iter().map(|slice| (**slice).clone()));
    for slice in changes.create.iter_mut().chain(&mut changes.update) {
        for endpoint in slice.endpoints.iter_mut().flatten() {
            endpoint.hints = wanted_hints(endpoint, service);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::{pod, service};
    use super::*;
    use serde_json::{Value, json};

    fn node(zone: &str) -> Arc<Node> {
        let labels = json!({ ZONE: zone });
        Arc::new(serde_json::from_value(json!({ "metadata": { "name": "n1", "labels": labels } })).unwrap())
    }

    fn planned(service: &Service, pods: Vec<Pod>, slices: &[Arc<EndpointSlice>]) -> Plan {
        let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
        let node = |name: &str| (name == "n1").then(|| node("z1"));
        plan(&Observed { service, pods: &pods, slices, node: &node, triggered: None })
    }

    /// The slices as they are after a plan.
    fn stored(plan: Plan) -> Vec<Arc<EndpointSlice>> {
        let mut all = plan.changes.keep;
        for (number, mut slice) in plan.changes.create.into_iter().enumerate() {
            slice.metadata.name = Some(format!("new-{number}"));
            all.push(Arc::new(slice));
        }
        all.extend(plan.changes.update.into_iter().map(Arc::new));
        all
    }

    fn is_quiet(plan: &Plan) -> bool {
        plan.changes.create.is_empty() && plan.changes.update.is_empty() && plan.changes.delete.is_empty()
    }

    fn ready_of(slice: &EndpointSlice) -> Vec<(bool, bool, bool)> {
        let conditions = endpoints(slice).iter().filter_map(|e| e.conditions.as_ref());
        conditions.map(|c| (c.ready.unwrap(), c.serving.unwrap(), c.terminating.unwrap())).collect()
    }

    #[test]
    fn a_slice_tells_all_about_its_pods() {
        let service = service(json!({}));
        let plan = planned(&service, vec![pod("a", "10.0.0.1", true)], &[]);
        let slice = &plan.changes.create[0];
        let told = serde_json::to_value(slice).unwrap();
        let labels = json!({ "team": "a", SERVICE_NAME: "my-service", MANAGED_BY: CONTROLLER });
        assert_eq!(told["metadata"]["labels"], labels);
        assert_eq!(told["metadata"]["generateName"], "my-service-");
        assert_eq!(told["metadata"]["ownerReferences"][0]["uid"], "s1");
        assert_eq!(told["ports"], json!([{ "name": "", "port": 9376, "protocol": "TCP" }]));
        let endpoint = json!({ "addresses": ["10.0.0.1"], "nodeName": "n1", "zone": "z1",
            "conditions": { "ready": true, "serving": true, "terminating": false },
            "targetRef": { "kind": "Pod", "namespace": "ns", "name": "a", "uid": "a" } });
        assert_eq!(told["endpoints"], json!([endpoint]));
    }

    #[test]
    fn pods_with_other_ports_under_the_same_name_get_other_slices() {
        let ports = json!([{ "name": "http", "port": 80, "targetPort": "web", "protocol": "TCP" }]);
        let service = service(json!({ "ports": ports }));
        let mut other = pod("b", "10.0.0.2", true);
        other.spec.as_mut().unwrap().containers[0].ports.as_mut().unwrap()[0].container_port = 9090;
        let plan = planned(&service, vec![pod("a", "10.0.0.1", true), other], &[]);
        let numbers: Vec<_> =
            plan.changes.create.iter().map(|s| s.ports.as_ref().unwrap()[0].port.unwrap()).collect();
        assert_eq!(numbers, [8080, 9090]);
    }

    #[test]
    fn what_is_there_already_is_not_written_again() {
        let service = service(json!({}));
        let pods = || vec![pod("a", "10.0.0.1", true), pod("b", "10.0.0.2", false)];
        let slices = stored(planned(&service, pods(), &[]));
        assert_eq!(ready_of(&slices[0]), [(true, true, false), (false, false, false)]);
        assert!(is_quiet(&planned(&service, pods(), &slices)));
        let gone = planned(&service, vec![], &slices);
        assert_eq!(gone.changes.update.len(), 1, "the slice becomes the empty one");
        let none = stored(gone);
        assert_eq!((none.len(), endpoints(&none[0]).len()), (1, 0));
        assert!(is_quiet(&planned(&service, vec![], &none)));
        let back = planned(&service, pods(), &none);
        assert_eq!((back.changes.create.len(), back.changes.update.len()), (0, 1));
    }

    #[test]
    fn ending_pods_serve_but_are_not_ready() {
        let mut ending = pod("a", "10.0.0.1", true);
        ending.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let table: [(Value, (bool, bool, bool)); 2] = [
            (json!({}), (false, true, true)),
            (json!({ "publishNotReadyAddresses": true }), (true, true, true)),
        ];
        for (spec, expected) in table {
            let plan = planned(&service(spec.clone()), vec![ending.clone()], &[]);
            assert_eq!(ready_of(&plan.changes.create[0]), [expected], "{spec}");
        }
    }

    #[test]
    fn headless_services_are_marked_and_may_have_no_ports() {
        let service = service(json!({ "clusterIP": "None", "ports": [] }));
        let plan = planned(&service, vec![pod("a", "10.0.0.1", true)], &[]);
        let slice = &plan.changes.create[0];
        assert_eq!(slice.metadata.labels.as_ref().unwrap().get(HEADLESS).map(String::as_str), Some(""));
        assert_eq!((slice.ports.as_deref(), endpoints(slice).len()), (Some(&[][..]), 1));
    }

    #[test]
    fn families_follow_the_service() {
        let table = [
            (json!({ "ipFamilies": ["IPv6", "IPv4"] }), vec![IPV4, IPV6]),
            (json!({ "ipFamilies": null, "clusterIP": "fd00::1" }), vec![IPV6]),
            (json!({ "ipFamilies": null, "clusterIP": "None" }), vec![IPV4, IPV6]),
        ];
        for (spec, expected) in table {
            assert_eq!(families(&service(spec.clone())), expected, "{spec}");
        }
    }

    #[test]
    fn pods_of_unknown_nodes_wait_unless_published_anyway() {
        let mut stray = pod("a", "10.0.0.1", true);
        stray.spec.as_mut().unwrap().node_name = Some("nobody".into());
        let plan = planned(&service(json!({})), vec![stray.clone()], &[]);
        assert_eq!((plan.lost.len(), endpoints(&plan.changes.create[0]).len()), (1, 0));
        let plan = planned(&service(json!({ "publishNotReadyAddresses": true })), vec![stray], &[]);
        assert_eq!((plan.lost.len(), endpoints(&plan.changes.create[0]).len()), (0, 1));
    }

    #[test]
    fn hints_come_and_go_with_the_distribution() {
        let pods = || vec![pod("a", "10.0.0.1", true), pod("b", "10.0.0.2", false)];
        let hints =
            |slices: &[Arc<EndpointSlice>]| serde_json::to_value(&endpoints(&slices[0])[0].hints).unwrap();
        let zone = json!({ "forZones": [{ "name": "z1" }] });
        let both = json!({ "forZones": [{ "name": "z1" }], "forNodes": [{ "name": "n1" }] });
        let mut slices = Vec::new();
        let table = [("PreferClose", zone.clone()), ("PreferSameNode", both), ("PreferSameZone", zone)];
        for (distribution, expected) in table {
            let service = service(json!({ "trafficDistribution": distribution }));
            slices = stored(planned(&service, pods(), &slices));
            assert_eq!(hints(&slices), expected, "{distribution}");
            assert!(is_quiet(&planned(&service, pods(), &slices)));
        }
        let plain = stored(planned(&service(json!({})), pods(), &slices));
        assert_eq!(hints(&plain), Value::Null);
    }
}
