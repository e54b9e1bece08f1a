//! Facts about a pod as an endpoint of a service. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use corten_client::{Change, Key};
use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, PodSpec, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::cluster::Cluster;
use crate::pods;

type Labels = BTreeMap<String, String>;

/// Are the endpoints of this service ours to keep? Services without selector are kept by hand, external names have none.
pub fn is_kept(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|s| s.selector.is_some() && s.type_.as_deref() != Some("ExternalName"))
}

/// Does the service select a pod with these labels? An empty selector selects every pod.
pub fn selects(service: &Service, labels: Option<&Labels>) -> bool {
    let wanted = service.spec.as_ref().and_then(|s| s.selector.as_ref());
    wanted.is_some_and(|w| w.iter().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value)))
}

/// Has the service an address of its own?
pub fn has_address(service: &Service) -> bool {
    let ip = service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref());
    !matches!(ip, None | Some("" | "None"))
}

/// Is it headless by its own word? Only such services may be without ports.
pub fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

/// Are pods published before they are ready?
pub fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true)
}

/// The ports of a service.
pub fn ports(service: &Service) -> &[ServicePort] {
    service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default()
}

/// The protocol of a port: TCP where nothing is said.
pub fn protocol(given: Option<&str>) -> &str {
    given.filter(|p| !p.is_empty()).unwrap_or("TCP")
}

/// Does the pod count? Not when it has ended or has no address yet; pods that are being deleted only `with_terminating`.
pub fn counts(pod: &Pod, with_terminating: bool) -> bool {
    let ended = matches!(pods::phase(pod), "Succeeded" | "Failed");
    !ended && !addresses(pod).is_empty() && (with_terminating || pod.metadata.deletion_timestamp.is_none())
}

/// The pod's addresses, first the main one.
pub fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all = status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect::<Vec<_>>();
    if all.is_empty() { status.pod_ip.iter().filter_map(|ip| ip.parse().ok()).collect() } else { all }
}

/// Where a service's port leads in this pod; `None` for a name that no container gives to a port of that protocol.
pub fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match port.target_port.as_ref() {
        None => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => named_port(pod.spec.as_ref()?, name, port),
    }
}

fn named_port(spec: &PodSpec, name: &str, wanted: &ServicePort) -> Option<i32> {
    let is_sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(is_sidecar);
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let fits = ports.into_iter().find(|p| {
        let same = protocol(p.protocol.as_deref()) == protocol(wanted.protocol.as_deref());
        same && p.name.as_deref() == Some(name)
    });
    fits.map(|p| p.container_port)
}

/// The host name that the pod has in this service's domain.
pub fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let here =
        pod.metadata.namespace == service.metadata.namespace && spec.subdomain == service.metadata.name;
    spec.hostname.clone().filter(|name| here && !name.is_empty())
}

/// The node that the pod is on.
pub fn node_name(pod: &Pod) -> Option<String> {
    pod.spec.as_ref()?.node_name.clone().filter(|name| !name.is_empty())
}

/// The reference from an endpoint to its pod.
pub fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The labels of a service for what belongs to it: all but the reserved ones, and the headless mark.
pub fn labels(service: &Service, reserved: &[&str]) -> Labels {
    let given = service.metadata.labels.iter().flatten();
    let mut labels: Labels =
        given.filter(|(k, _)| !reserved.contains(&k.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect();
    if !has_address(service) {
        labels.insert(super::HEADLESS.to_owned(), String::new());
    }
    labels
}

/// All that endpoints depend on: a pod's other changes (and there are many while it starts) wake nobody.
fn matters(pod: &Pod) -> impl PartialEq + '_ {
    let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
    (
        (&pod.metadata.uid, &pod.metadata.labels, pod.metadata.deletion_timestamp.is_some()),
        spec.map(|s| (&s.node_name, &s.hostname, &s.subdomain)),
        status.map(|s| (&s.pod_ip, &s.pod_ips)),
        (pods::ready_since(pod), matches!(pods::phase(pod), "Succeeded" | "Failed")),
    )
}

/// The services whose endpoints a change of a pod may change.
pub fn woken_by_pod(cluster: &Cluster, change: &Change<Pod>) -> Vec<Key> {
    let (now, before) = match change {
        Change::Updated { old, new } if matters(old) == matters(new) => return Vec::new(),
        Change::Updated { old, new } => (new, Some(old)),
        Change::Added(pod) | Change::Deleted(pod) => (pod, None),
    };
    let services = cluster.services.list_namespace(now.metadata.namespace.as_deref().unwrap_or_default());
    let concerned = |service: &&Arc<Service>| {
        let selects = |pod: &Arc<Pod>| selects(service, pod.metadata.labels.as_ref());
        is_kept(service) && (selects(now) || before.is_some_and(selects))
    };
    services.iter().filter(concerned).map(|service| Key::of(&**service)).collect()
}

/// The pods that a service selects.
pub fn selected(cluster: &Cluster, service: &Service) -> Vec<Arc<Pod>> {
    let mut pods = cluster.pods.list_namespace(service.metadata.namespace.as_deref().unwrap_or_default());
    pods.retain(|pod| selects(service, pod.metadata.labels.as_ref()));
    pods
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    pub(crate) fn service(spec: Value) -> Service {
        let meta = json!({ "name": "my-service", "namespace": "ns", "uid": "s1", "labels": { "team": "a" },
            "creationTimestamp": "2026-01-01T00:00:00Z" });
        let mut whole = json!({ "type": "ClusterIP", "clusterIP": "10.96.0.7", "ipFamilies": ["IPv4"],
            "selector": { "app": "MyApp" }, "ports": [{ "port": 80, "protocol": "TCP", "targetPort": 9376 }] });
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        from_value(json!({ "metadata": meta, "spec": whole })).unwrap()
    }

    pub(crate) fn pod(name: &str, ip: &str, ready: bool) -> Pod {
        let status = if ready { "True" } else { "False" };
        from_value(json!({
            "metadata": { "name": name, "namespace": "ns", "uid": name, "labels": { "app": "MyApp" } },
            "spec": { "nodeName": "n1", "containers": [{ "name": "c", "ports": [
                { "name": "web", "containerPort": 8080, "protocol": "TCP" },
                { "name": "dns", "containerPort": 53, "protocol": "UDP" }] }] },
            "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }], "conditions":
                [{ "type": "Ready", "status": status, "lastTransitionTime": "2026-01-01T00:00:10Z" }] },
        }))
        .unwrap()
    }

    #[test]
    fn target_ports_are_numbers_or_names_of_that_protocol() {
        let mut pod = pod("a", "10.0.0.1", true);
        let sidecar = json!([{ "name": "s", "restartPolicy": "Always",
            "ports": [{ "name": "side", "containerPort": 7 }] },
            { "name": "once", "ports": [{ "name": "early", "containerPort": 8 }] }]);
        pod.spec.as_mut().unwrap().init_containers = from_value(sidecar).unwrap();
        let table = [
            (json!({ "port": 80, "targetPort": 9376 }), Some(9376)),
            (json!({ "port": 80, "targetPort": "web" }), Some(8080)),
            (json!({ "port": 80, "targetPort": "web", "protocol": "UDP" }), None),
            (json!({ "port": 80, "targetPort": "dns", "protocol": "UDP" }), Some(53)),
            (json!({ "port": 80, "targetPort": "side" }), Some(7)),
            (json!({ "port": 80, "targetPort": "early" }), None),
            (json!({ "port": 80 }), Some(80)),
        ];
        for (port, wanted) in table {
            assert_eq!(target_port(&pod, &from_value(port.clone()).unwrap()), wanted, "{port}");
        }
    }

    #[test]
    fn pods_that_ended_or_have_no_address_do_not_count() {
        let running = pod("a", "10.0.0.1", false);
        let mut ended = running.clone();
        ended.status.as_mut().unwrap().phase = Some("Failed".into());
        let mut nowhere = running.clone();
        nowhere.status = None;
        let mut ending = running.clone();
        ending.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert!(counts(&running, false) && counts(&ending, true));
        assert!(!counts(&ended, true) && !counts(&nowhere, true) && !counts(&ending, false));
    }

    #[test]
    fn only_what_endpoints_depend_on_matters() {
        let before = pod("a", "10.0.0.1", true);
        let mut noise = before.clone();
        noise.metadata.resource_version = Some("7".into());
        noise.metadata.annotations = Some([("a".to_owned(), "b".to_owned())].into());
        assert!(matters(&before) == matters(&noise));
        let (sick, moved) = (pod("a", "10.0.0.1", false), pod("a", "10.0.0.2", true));
        assert!(matters(&before) != matters(&sick) && matters(&before) != matters(&moved));
    }

    #[test]
    fn hostnames_belong_to_the_subdomain_of_the_service() {
        let mut pod = pod("a", "10.0.0.1", true);
        let spec = pod.spec.as_mut().unwrap();
        (spec.hostname, spec.subdomain) = (Some("db-0".into()), Some("my-service".into()));
        assert_eq!(hostname(&pod, &service(json!({}))).as_deref(), Some("db-0"));
        pod.spec.as_mut().unwrap().subdomain = Some("other".into());
        assert_eq!(hostname(&pod, &service(json!({}))), None);
    }
}
