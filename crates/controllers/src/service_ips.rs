//! An IPAddress object for each cluster IP (`kubectl get ipaddresses`), and what is wrong with those that are there.
//!
//! The services are the record of what is taken (the API server's allocator reads nothing else), so that making one stays a single
//! write; the objects follow them. What must not be goes, as in upstream's repair loop: objects without their service, with a wrong
//! reference or with wrong labels. What nobody can put right is told by events: an address that two services have, or that is in no
//! range.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use corten_client::{Api, Change, Key, Recorder};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{IPAddress, IPAddressSpec, ParentReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams, Preconditions};

use crate::answer::{changed_is_fine, gone_is_fine, ignore};
use crate::cluster::Cluster;
use crate::service_cidr::ranges;
use crate::shell::Shell;

const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
const MANAGED_BY: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");
/// At once: most are a single write each.
const WORKERS: usize = 2;

struct Controller {
    cluster: Arc<Cluster>,
    recorder: Recorder,
}

/// What an IPAddress must be for a service.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Make,
    /// Another one in its place.
    Replace,
    /// It belongs to a service that really has the address, too.
    Taken,
}

/// Follows services until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    let controller = || Controller {
        cluster: cluster.clone(),
        recorder: cluster.recorder("ipallocator-repair-controller"),
    };
    let of_services = Shell::open(cluster, controller())
        .each(&cluster.services)
        .wakes(&cluster.ip_addresses, |_, change| parent(change.object()))
        // What was in no range may be in one now.
        .wakes(&cluster.service_cidrs, |controller, change| match change {
            Change::Updated { old, new } if old.spec == new.spec => Vec::new(),
            _ => controller.cluster.services.list().iter().map(|service| Key::of(&**service)).collect(),
        })
        .run(WORKERS, Controller::follow);
    let of_addresses = Shell::open(cluster, controller())
        .each(&cluster.ip_addresses)
        .wakes(&cluster.services, |_, change| given_up(change))
        .run(WORKERS, Controller::clear);
    tokio::join!(of_services, of_addresses);
}

/// Addresses that a service had and has no more, as keys of their objects.
fn given_up(change: &Change<Service>) -> Vec<Key> {
    let (before, now) = match change {
        Change::Added(_) => return Vec::new(),
        Change::Deleted(old) => (addresses(old), Vec::new()),
        Change::Updated { old, new } => (addresses(old), addresses(new)),
    };
    let gone = before.into_iter().filter(|ip| !now.contains(ip));
    gone.map(|ip| Key::new(String::new(), ip.to_string())).collect()
}

/// The addresses that a service has of its own.
fn addresses(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = service.spec.as_ref().filter(|spec| spec.type_.as_deref() != Some("ExternalName"))
    else {
        return Vec::new();
    };
    spec.cluster_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).collect()
}

/// The service that an object says to belong to.
fn parent(address: &IPAddress) -> Option<Key> {
    let parent = &address.spec.parent_ref;
    let is_service = parent.group.as_deref().unwrap_or_default().is_empty() && parent.resource == "services";
    is_service.then(|| Key::new(parent.namespace.clone().unwrap_or_default(), parent.name.clone()))
}

fn labels(ip: IpAddr) -> BTreeMap<String, String> {
    [(FAMILY, family(ip)), MANAGED_BY].map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn has_labels(address: &IPAddress, ip: IpAddr) -> bool {
    let present = address.metadata.labels.clone().unwrap_or_default();
    labels(ip).iter().all(|(key, value)| present.get(key) == Some(value))
}

/// `has` says whether a service that is there has the address.
fn plan(ip: IpAddr, service: &Key, present: Option<&IPAddress>, has: impl Fn(&Key) -> bool) -> Step {
    let Some(present) = present else { return Step::Make };
    match parent(present) {
        Some(holder) if holder == *service && has_labels(present, ip) => Step::Nothing,
        Some(holder) if holder != *service && has(&holder) => Step::Taken,
        _ => Step::Replace,
    }
}

fn object(ip: IpAddr, service: &Key) -> IPAddress {
    IPAddress {
        metadata: ObjectMeta {
            name: Some(ip.to_string()),
            labels: Some(labels(ip)),
            ..ObjectMeta::default()
        },
        spec: IPAddressSpec {
            parent_ref: ParentReference {
                group: None,
                resource: "services".to_owned(),
                namespace: Some(service.namespace.clone()),
                name: service.name.clone(),
            },
        },
    }
}

impl Controller {
    fn api(&self) -> Api<IPAddress> {
        Api::all(self.cluster.client.clone())
    }

    fn has(&self, service: &Key, ip: IpAddr) -> bool {
        self.cluster.services.get(service).is_some_and(|service| addresses(&service).contains(&ip))
    }

    async fn follow(self: Arc<Self>, key: Key) -> Result<Option<Duration>, kube::Error> {
        let Some(service) = self.cluster.services.get(&key) else { return Ok(None) };
        for ip in addresses(&service) {
            let known = ranges(&self.cluster);
            if !known.is_empty() && !known.iter().any(|range| range.contains(&ip)) {
                let text = format!(
                    "Cluster IP [{}]: {ip} is not within any configured Service CIDR; please recreate service",
                    family(ip)
                );
                self.recorder.warning(&*service, "ClusterIPOutOfRange", text);
                continue;
            }
            let present = self.cluster.ip_addresses.get(&Key::new(String::new(), ip.to_string()));
            match plan(ip, &key, present.as_deref(), |holder| self.has(holder, ip)) {
                Step::Nothing => {}
                Step::Make => self.make(ip, &key).await?,
                Step::Replace => {
                    let text = format!(
                        "the ClusterIP [{}]: {ip} for Service {}/{} has a wrong reference; repairing",
                        family(ip),
                        key.namespace,
                        key.name
                    );
                    self.recorder.warning(&*service, "ClusterIPNotAllocated", text);
                    if let Some(present) = present {
                        self.remove(&present).await?;
                    }
                    self.make(ip, &key).await?;
                }
                Step::Taken => {
                    let text = format!(
                        "Cluster IP [{}]:{ip} was assigned to multiple services; please recreate service",
                        family(ip)
                    );
                    self.recorder.warning(&*service, "ClusterIPAlreadyAllocated", text);
                }
            }
        }
        Ok(None)
    }

    /// One that is there by now is looked at when the watch brings it.
    async fn make(&self, ip: IpAddr, service: &Key) -> Result<(), kube::Error> {
        ignore(self.api().create(&PostParams::default(), &object(ip, service)).await, &[409])
    }

    async fn remove(&self, address: &IPAddress) -> Result<(), kube::Error> {
        let only = Preconditions { uid: address.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
        let name = address.metadata.name.as_deref().unwrap_or_default();
        changed_is_fine(self.api().delete(name, &params).await)
    }

    /// Removes an object of ours whose service is gone or has the address no more; the API is asked, because watches of two kinds
    /// know nothing of each other's order.
    async fn clear(self: Arc<Self>, key: Key) -> Result<Option<Duration>, kube::Error> {
        let Some(address) = self.cluster.ip_addresses.get(&key) else { return Ok(None) };
        let ours = address
            .metadata
            .labels
            .as_ref()
            .and_then(|l| l.get(MANAGED_BY.0))
            .is_some_and(|by| by == MANAGED_BY.1);
        let (Some(service), Ok(ip)) = (parent(&address).filter(|_| ours), key.name.parse::<IpAddr>()) else {
            return Ok(None);
        };
        if self.has(&service, ip) {
            return Ok(None);
        }
        let services: Api<Service> = Api::namespaced(self.cluster.client.clone(), &service.namespace);
        let fresh = services.get_opt(&service.name).await?;
        if fresh.is_some_and(|service| addresses(&service).contains(&ip)) {
            return Ok(None);
        }
        gone_is_fine(self.remove(&address).await)?;
        Ok(None)
    }
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    fn service(ips: &[&str]) -> Service {
        from_value(json!({ "metadata": { "name": "web", "namespace": "ns" },
            "spec": { "type": "ClusterIP", "clusterIP": ips.first(), "clusterIPs": ips } }))
        .unwrap()
    }

    #[test]
    fn an_object_for_each_address_of_a_service() {
        let (ip, web, other) = (IpAddr::from([10, 0, 0, 7]), Key::new("ns", "web"), Key::new("ns", "other"));
        let step = |present: Option<&IPAddress>, others: &[&Key]| {
            plan(ip, &web, present, |key| others.contains(&key))
        };
        assert_eq!(step(None, &[]), Step::Make);
        let right = object(ip, &web);
        assert_eq!(step(Some(&right), &[]), Step::Nothing);
        let of_other = object(ip, &other);
        assert_eq!(step(Some(&of_other), &[&other]), Step::Taken);
        assert_eq!(step(Some(&of_other), &[]), Step::Replace);
        let mut unlabelled = right.clone();
        unlabelled.metadata.labels = None;
        assert_eq!(step(Some(&unlabelled), &[]), Step::Replace);
        let mut gateway = right;
        gateway.spec.parent_ref.resource = "gateways".to_owned();
        assert_eq!(step(Some(&gateway), &[&other]), Step::Replace);
    }

    #[test]
    fn what_a_service_gives_up_is_looked_at() {
        let keys =
            |change: &Change<Service>| given_up(change).into_iter().map(|key| key.name).collect::<Vec<_>>();
        let (both, one) = (Arc::new(service(&["10.0.0.7", "fd00::7"])), Arc::new(service(&["10.0.0.7"])));
        assert_eq!(keys(&Change::Added(both.clone())), Vec::<String>::new());
        assert_eq!(keys(&Change::Updated { old: both.clone(), new: one }), ["fd00::7"]);
        assert_eq!(keys(&Change::Deleted(both)), ["10.0.0.7", "fd00::7"]);
        assert!(addresses(&service(&["None"])).is_empty());
    }
}
