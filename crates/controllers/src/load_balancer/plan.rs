//! Which addresses a load balancer has. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use corten_client::Key;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Node, Service};

use super::pool::Pool;

/// Keeps a service until its addresses are given back (upstream's name).
pub const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
const GOING: &str = "ToBeDeletedByClusterAutoscaler";
/// Packets to the address are for the proxy on the node, with the address as they came.
const MODE: &str = "VIP";

/// What to do about a service.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Not ours, or nothing to do.
    Leave,
    /// It should have these addresses.
    Give(Vec<IpAddr>),
    /// It is no load balancer of ours (any more): take the addresses back.
    Release,
    /// It cannot have what it asks for.
    Refuse(String),
}

/// What is known.
pub struct Observed<'a> {
    /// The service.
    pub service: &'a Service,
    /// All services.
    pub services: &'a [Arc<Service>],
    /// Addresses that were given, where the services do not show them yet.
    pub given: &'a BTreeMap<Key, Vec<IpAddr>>,
    /// All nodes.
    pub nodes: &'a [Arc<Node>],
    /// The nodes with a ready endpoint of the service.
    pub endpoint_nodes: &'a BTreeSet<String>,
    /// The configured addresses.
    pub pool: &'a Pool,
}

/// Is it a load balancer that this provider serves?
pub fn wants(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let ours =
        spec.is_some_and(|s| s.type_.as_deref() == Some("LoadBalancer") && s.load_balancer_class.is_none());
    ours && service.metadata.deletion_timestamp.is_none()
}

/// Is there something to give back?
pub fn is_held(service: &Service) -> bool {
    service.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

/// The addresses in the status.
pub fn shown(service: &Service) -> Vec<IpAddr> {
    let ingress = service.status.iter().filter_map(|s| s.load_balancer.as_ref()?.ingress.as_ref()).flatten();
    ingress.filter_map(|i| i.ip.as_ref()?.parse().ok()).collect()
}

/// The addresses as the status says them.
pub fn ingress(addresses: &[IpAddr]) -> Vec<LoadBalancerIngress> {
    let one = |ip: &IpAddr| LoadBalancerIngress {
        ip: Some(ip.to_string()),
        ip_mode: Some(MODE.to_owned()),
        ..LoadBalancerIngress::default()
    };
    addresses.iter().map(one).collect()
}

/// Plans one service.
pub fn plan(seen: &Observed<'_>) -> Step {
    if !wants(seen.service) {
        return if is_held(seen.service) { Step::Release } else { Step::Leave };
    }
    let answer = if seen.pool.is_empty() { of_nodes(seen) } else { of_pool(seen) };
    match answer {
        Ok(addresses) => Step::Give(addresses),
        Err(why) => Step::Refuse(why),
    }
}

/// The other services that hold addresses, and which. One that was given some a moment ago may not show that it holds anything.
fn others<'a>(seen: &Observed<'a>) -> Vec<(&'a Arc<Service>, Vec<IpAddr>)> {
    let me = Key::of(seen.service);
    let held = seen.services.iter().filter_map(|service| {
        let key = Key::of(&**service);
        let given = seen.given.get(&key);
        let holds = key != me && (is_held(service) || given.is_some());
        let mut addresses = shown(service);
        addresses.extend(given.into_iter().flatten());
        holds.then_some((service, addresses))
    });
    held.collect()
}

fn families(service: &Service) -> Vec<bool> {
    let said = service.spec.as_ref().and_then(|s| s.ip_families.as_ref());
    let v6: Vec<_> = said.into_iter().flatten().map(|family| family == "IPv6").collect();
    if v6.is_empty() { vec![false] } else { v6 }
}

fn of_pool(seen: &Observed<'_>) -> Result<Vec<IpAddr>, String> {
    let taken: BTreeSet<IpAddr> = others(seen).into_iter().flat_map(|(_, addresses)| addresses).collect();
    if let Some(asked) = seen.service.spec.as_ref().and_then(|s| s.load_balancer_ip.as_deref())
        && !asked.is_empty()
    {
        let ip = asked.parse().map_err(|_| format!("loadBalancerIP {asked} is no IP address"))?;
        return match (seen.pool.contains(ip), taken.contains(&ip)) {
            (false, _) => Err(format!("loadBalancerIP {ip} is not in the pool")),
            (_, true) => Err(format!("loadBalancerIP {ip} is held by another service")),
            _ => Ok(vec![ip]),
        };
    }
    let mut mine = shown(seen.service);
    mine.extend(seen.given.get(&Key::of(seen.service)).into_iter().flatten());
    let keep = |v6: bool| {
        let free = |ip: &&IpAddr| ip.is_ipv6() == v6 && seen.pool.contains(**ip) && !taken.contains(ip);
        mine.iter().find(free).copied()
    };
    let wanted = families(seen.service);
    let found: Vec<_> = wanted
        .iter()
        .filter_map(|v6| keep(*v6).or_else(|| seen.pool.free(*v6, |ip| taken.contains(&ip))))
        .collect();
    let full = wanted.iter().any(|v6| seen.pool.has_family(*v6));
    match (found.is_empty(), full) {
        (false, _) => Ok(found),
        (_, true) => Err("no address of the pool is free".to_owned()),
        _ => Err("the pool has no addresses of the service's families".to_owned()),
    }
}

fn of_nodes(seen: &Observed<'_>) -> Result<Vec<IpAddr>, String> {
    let ports = |service: &Service| -> BTreeSet<(String, i32)> {
        let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
        ports.map(|p| (p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), p.port)).collect()
    };
    let mine = ports(seen.service);
    for (other, addresses) in others(seen) {
        if !addresses.is_empty()
            && let Some((protocol, port)) = mine.intersection(&ports(other)).next()
        {
            let other = Key::of(&**other);
            return Err(format!("port {port}/{protocol} of the nodes is held by service {other}"));
        }
    }
    let local =
        seen.service.spec.as_ref().and_then(|s| s.external_traffic_policy.as_deref()) == Some("Local");
    let has_endpoint = |n: &Node| n.metadata.name.as_ref().is_some_and(|n| seen.endpoint_nodes.contains(n));
    let open: Vec<_> = seen.nodes.iter().filter(|n| takes_traffic(n)).collect();
    // Who waits for the address before there are endpoints gets one, and the last endpoint does not take it along.
    let narrow = local && open.iter().any(|n| has_endpoint(n));
    let nodes: Vec<_> = open.into_iter().filter(|n| !narrow || has_endpoint(n)).collect();
    let families = families(seen.service);
    let addresses = |kind: &str| -> BTreeSet<IpAddr> {
        let all = nodes.iter().flat_map(|n| n.status.iter().flat_map(|s| s.addresses.iter().flatten()));
        let of_kind = all.filter(|a| a.type_ == kind).filter_map(|a| a.address.parse::<IpAddr>().ok());
        of_kind.filter(|ip| families.contains(&ip.is_ipv6())).collect()
    };
    let external = addresses("ExternalIP");
    let best = if external.is_empty() { addresses("InternalIP") } else { external };
    Ok(best.into_iter().collect())
}

/// May packets from outside come in by this node?
pub fn takes_traffic(node: &Node) -> bool {
    let excluded = node.metadata.labels.iter().flatten().any(|(key, _)| key == EXCLUDED);
    let going = node.spec.iter().flat_map(|s| s.taints.iter().flatten()).any(|t| t.key == GOING);
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let ready = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
    ready && !excluded && !going && node.metadata.deletion_timestamp.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    fn service(name: &str, spec: Value, addresses: &[&str]) -> Arc<Service> {
        let mut whole = json!({ "type": "LoadBalancer", "ports": [{ "port": 80, "protocol": "TCP" }] });
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        let ingress: Vec<_> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
        let finalizers = if addresses.is_empty() { json!([]) } else { json!([FINALIZER]) };
        let meta = json!({ "name": name, "namespace": "ns", "finalizers": finalizers });
        let status = json!({ "loadBalancer": { "ingress": ingress } });
        Arc::new(from_value(json!({ "metadata": meta, "spec": whole, "status": status })).unwrap())
    }

    fn node(name: &str, ready: &str, ip: &str) -> Arc<Node> {
        let status = json!({ "conditions": [{ "type": "Ready", "status": ready }],
            "addresses": [{ "type": "InternalIP", "address": ip }, { "type": "Hostname", "address": name }] });
        Arc::new(from_value(json!({ "metadata": { "name": name }, "status": status })).unwrap())
    }

    fn planned(service: &Service, others: &[Arc<Service>], pool: &[&str]) -> Step {
        planned_with(&BTreeMap::new(), service, others, pool, &["b"])
    }

    fn planned_with(
        given: &BTreeMap<Key, Vec<IpAddr>>,
        service: &Service,
        others: &[Arc<Service>],
        pool: &[&str],
        endpoints_on: &[&str],
    ) -> Step {
        let pool = Pool(pool.iter().map(|span| span.parse().unwrap()).collect());
        let nodes =
            [node("a", "True", "10.0.0.1"), node("b", "True", "10.0.0.2"), node("c", "Unknown", "10.0.0.3")];
        let endpoint_nodes = endpoints_on.iter().map(|node| (*node).to_owned()).collect();
        let (nodes, endpoint_nodes) = (&nodes, &endpoint_nodes);
        plan(&Observed { service, services: others, given, nodes, endpoint_nodes, pool: &pool })
    }

    fn give(addresses: &[&str]) -> Step {
        Step::Give(addresses.iter().map(|ip| ip.parse().unwrap()).collect())
    }

    #[test]
    fn only_load_balancers_without_a_class_are_served() {
        let table = [
            (service("a", json!({}), &[]), give(&["10.0.0.1", "10.0.0.2"])),
            (service("a", json!({ "loadBalancerClass": "example.com/x" }), &[]), Step::Leave),
            (service("a", json!({ "type": "ClusterIP" }), &[]), Step::Leave),
            (service("a", json!({ "type": "ClusterIP" }), &["10.0.0.1"]), Step::Release),
            (service("a", json!({ "externalTrafficPolicy": "Local" }), &[]), give(&["10.0.0.2"])),
            (service("a", json!({ "ipFamilies": ["IPv6"] }), &[]), give(&[])),
        ];
        for (service, expected) in table {
            assert_eq!(planned(&service, &[], &[]), expected, "{:?}", service.spec);
        }
    }

    #[test]
    fn what_was_given_a_moment_ago_is_taken_before_the_cache_shows_it() {
        let (first, second) = (service("a", json!({}), &[]), service("b", json!({}), &[]));
        let given = BTreeMap::from([(Key::new("ns", "a"), vec!["192.0.2.1".parse().unwrap()])]);
        let all = [first, second.clone()];
        assert_eq!(
            planned_with(&given, &second, &all, &["192.0.2.1-192.0.2.3"], &["b"]),
            give(&["192.0.2.2"])
        );
    }

    #[test]
    fn local_traffic_goes_to_nodes_with_endpoints_once_there_are_any() {
        let local = service("a", json!({ "externalTrafficPolicy": "Local" }), &[]);
        for (endpoints_on, addresses) in [
            (&["b"][..], &["10.0.0.2"][..]),
            (&[], &["10.0.0.1", "10.0.0.2"]),
            (&["c"], &["10.0.0.1", "10.0.0.2"]),
        ] {
            assert_eq!(
                planned_with(&BTreeMap::new(), &local, &[], &[], endpoints_on),
                give(addresses),
                "{endpoints_on:?}"
            );
        }
    }

    #[test]
    fn a_port_of_the_nodes_has_one_holder() {
        let holder = [service("b", json!({}), &["10.0.0.1"])];
        let clash = "port 80/TCP of the nodes is held by service ns/b".to_owned();
        assert_eq!(planned(&service("a", json!({}), &[]), &holder, &[]), Step::Refuse(clash));
        let other = json!({ "ports": [{ "port": 80, "protocol": "UDP" }] });
        assert_eq!(planned(&service("a", other, &[]), &holder, &[]), give(&["10.0.0.1", "10.0.0.2"]));
    }

    #[test]
    fn addresses_of_the_pool_are_given_kept_and_asked_for() {
        let pool = ["192.0.2.1-192.0.2.3"];
        let holder = [service("b", json!({}), &["192.0.2.1"])];
        let asks = |ip: &str| json!({ "loadBalancerIP": ip });
        let refuse = |why: &str| Step::Refuse(why.to_owned());
        let table = [
            (service("a", json!({}), &[]), give(&["192.0.2.2"])),
            (service("a", json!({}), &["192.0.2.3"]), give(&["192.0.2.3"])),
            (service("a", json!({}), &["198.51.100.1"]), give(&["192.0.2.2"])),
            (service("a", asks("192.0.2.3"), &["192.0.2.2"]), give(&["192.0.2.3"])),
            (
                service("a", asks("192.0.2.1"), &[]),
                refuse("loadBalancerIP 192.0.2.1 is held by another service"),
            ),
            (service("a", asks("192.0.2.9"), &[]), refuse("loadBalancerIP 192.0.2.9 is not in the pool")),
            (service("a", json!({ "ipFamilies": ["IPv4", "IPv6"] }), &[]), give(&["192.0.2.2"])),
            (
                service("a", json!({ "ipFamilies": ["IPv6"] }), &[]),
                refuse("the pool has no addresses of the service's families"),
            ),
        ];
        for (service, expected) in table {
            assert_eq!(planned(&service, &holder, &pool), expected, "{:?}", service.spec);
        }
        let full = planned(&service("a", json!({}), &[]), &holder, &["192.0.2.1"]);
        assert_eq!(full, refuse("no address of the pool is free"));
    }
}
