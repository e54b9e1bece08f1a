//! The shell of the load balancer controller.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use corten_client::Api;
use corten_client::{Change, Key, Recorder};
use k8s_openapi::api::core::v1::{Node, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::plan::{self, FINALIZER, Observed, Step};
use super::pool::Pool;
use crate::answer::gone_is_fine;
use crate::cluster::Cluster;
use crate::endpoints::SERVICE_NAME;
use crate::expect::Written;
use crate::index::Index;
use crate::shell::Shell;

struct Controller {
    cluster: Arc<Cluster>,
    recorder: Recorder,
    pool: Pool,
    slices: Index<EndpointSlice>,
    /// What was given, for as long as the service may not show it yet.
    given: Mutex<BTreeMap<Key, Vec<IpAddr>>>,
    written: Written,
}

/// Gives and takes back addresses until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    let controller = Controller {
        cluster: cluster.clone(),
        recorder: cluster.recorder("service-controller"),
        pool: Pool(cluster.config.load_balancer_pool.clone()),
        slices: Index::of(&cluster.endpoint_slices, service_of),
        given: Mutex::default(),
        written: Written::default(),
    };
    Shell::open(cluster, controller)
        .wakes(&cluster.services, Controller::woken_by_service)
        .wakes(&cluster.nodes, Controller::woken_by_node)
        .wakes(&cluster.endpoint_slices, Controller::woken_by_slice)
        // One worker: two services must not get the same address.
        .run(1, Controller::reconcile)
        .await;
}

fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(Key::new(slice.metadata.namespace.clone().unwrap_or_default(), &**name))
}

/// What people are told when a field of a service changes: event reason and the field.
const TOLD: &[(&str, fn(&ServiceSpec) -> String)] = &[
    ("Type", |spec| spec.type_.clone().unwrap_or_default()),
    ("LoadbalancerIP", |spec| spec.load_balancer_ip.clone().unwrap_or_default()),
    ("LoadBalancerSourceRanges", |spec| {
        format!("[{}]", spec.load_balancer_source_ranges.clone().unwrap_or_default().join(" "))
    }),
    ("ExternalTrafficPolicy", |spec| spec.external_traffic_policy.clone().unwrap_or_default()),
];

impl Controller {
    fn given(&self) -> MutexGuard<'_, BTreeMap<Key, Vec<IpAddr>>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn woken_by_service(&self, change: &Change<Service>) -> Vec<Key> {
        if let Change::Updated { old, new } = change
            && (plan::wants(old) || plan::wants(new))
        {
            self.tell_changes(old, new);
        }
        let mut keys = vec![Key::of(&**change.object())];
        let gives_back = match change {
            Change::Added(_) => false,
            Change::Deleted(old) => plan::is_held(old),
            // The API server clears the status at once when the type changes; the addresses are free when we let go.
            Change::Updated { old, new } => {
                let now = plan::shown(new);
                plan::shown(old).iter().any(|ip| !now.contains(ip))
                    || (plan::is_held(old) && !plan::is_held(new))
            }
        };
        // What was given back may be what another one waits for.
        if gives_back {
            keys.extend(self.load_balancers(|service| plan::shown(service).is_empty()));
        }
        keys
    }

    fn tell_changes(&self, old: &Service, new: &Service) {
        let (Some(before), Some(now)) = (&old.spec, &new.spec) else { return };
        for (reason, field) in TOLD {
            let (before, now) = (field(before), field(now));
            if before != now {
                self.recorder.normal(new, reason, format!("{before} -> {now}"));
            }
        }
    }

    fn load_balancers(&self, of_interest: impl Fn(&Service) -> bool) -> Vec<Key> {
        let services = self.cluster.services.list();
        services.iter().filter(|s| plan::wants(s) && of_interest(s)).map(|s| Key::of(&**s)).collect()
    }

    fn woken_by_node(&self, change: &Change<Node>) -> Vec<Key> {
        let matters =
            |node: &Node| (plan::takes_traffic(node), node.status.as_ref().and_then(|s| s.addresses.clone()));
        if let Change::Updated { old, new } = change
            && matters(old) == matters(new)
        {
            return Vec::new();
        }
        if self.pool.is_empty() { self.load_balancers(|_| true) } else { Vec::new() }
    }

    /// Where traffic stays on the node, only nodes with an endpoint take it.
    fn woken_by_slice(&self, change: &Change<EndpointSlice>) -> Option<Key> {
        let key = service_of(change.object()).filter(|_| self.pool.is_empty())?;
        let service = self.cluster.services.get(&key)?;
        let local = service.spec.as_ref()?.external_traffic_policy.as_deref() == Some("Local");
        (local && plan::wants(&service)).then_some(key)
    }

    fn endpoint_nodes(&self, key: &Key) -> BTreeSet<String> {
        let slices = self.slices.get(key);
        let endpoints = slices.iter().flat_map(|s| s.endpoints.iter().flatten());
        let ready = endpoints.filter(|e| e.conditions.as_ref().is_none_or(|c| c.ready != Some(false)));
        ready.filter_map(|e| e.node_name.clone()).collect()
    }

    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Option<Duration>, kube::Error> {
        let Some(service) = self.cluster.services.get(&key) else {
            self.given().remove(&key);
            self.written.forget(&key);
            return Ok(None);
        };
        if let Some(delay) = self.written.missing(&key, [&service.metadata]) {
            return Ok(Some(delay));
        }
        let step = plan::plan(&Observed {
            service: &service,
            services: &self.cluster.services.list(),
            given: &self.given(),
            nodes: &self.cluster.nodes.list(),
            endpoint_nodes: &self.endpoint_nodes(&key),
            pool: &self.pool,
        });
        match step {
            // It may have been given something that could not be written.
            Step::Leave => drop(self.given().remove(&key)),
            Step::Give(addresses) => self.give(&key, &service, addresses).await?,
            Step::Release => self.release(&key, &service).await?,
            Step::Refuse(why) => {
                let message = format!("Error syncing load balancer: {why}");
                self.recorder.warning(&*service, "SyncLoadBalancerFailed", message);
            }
        }
        Ok(None)
    }

    async fn give(&self, key: &Key, service: &Service, addresses: Vec<IpAddr>) -> Result<(), kube::Error> {
        let ingress = plan::ingress(&addresses);
        let present = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.clone());
        if plan::is_held(service) && present.clone().unwrap_or_default() == ingress {
            return Ok(());
        }
        let moved = plan::is_held(service) && present.is_some_and(|p| !p.is_empty());
        if !moved {
            self.recorder.normal(service, "EnsuringLoadBalancer", "Ensuring load balancer");
        }
        if addresses.is_empty() {
            let message = "There are no available nodes for LoadBalancer";
            self.recorder.warning(service, "UnAvailableLoadBalancer", message);
        }
        self.given().insert(key.clone(), addresses);
        self.write_finalizer(key, service, true).await?;
        self.write_status(key, json!(ingress)).await?;
        match moved {
            true => {
                self.recorder.normal(service, "UpdatedLoadBalancer", "Updated load balancer with new hosts")
            }
            false => self.recorder.normal(service, "EnsuredLoadBalancer", "Ensured load balancer"),
        }
        Ok(())
    }

    async fn release(&self, key: &Key, service: &Service) -> Result<(), kube::Error> {
        self.recorder.normal(service, "DeletingLoadBalancer", "Deleting load balancer");
        self.write_status(key, json!(null)).await?;
        self.write_finalizer(key, service, false).await?;
        self.given().remove(key);
        self.recorder.normal(service, "DeletedLoadBalancer", "Deleted load balancer");
        Ok(())
    }

    fn api(&self, key: &Key) -> Api<Service> {
        Api::namespaced(self.cluster.client.clone(), &key.namespace)
    }

    async fn write_finalizer(&self, key: &Key, service: &Service, held: bool) -> Result<(), kube::Error> {
        if plan::is_held(service) == held {
            return Ok(());
        }
        let mut finalizers = service.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|f| f != FINALIZER);
        if held {
            finalizers.push(FINALIZER.to_owned());
        }
        // With the UID and version: the list of finalizers is replaced as a whole.
        let (uid, version) = (&service.metadata.uid, &service.metadata.resource_version);
        let meta = json!({ "finalizers": finalizers, "uid": uid, "resourceVersion": version });
        let patch = Patch::Merge(json!({ "metadata": meta }));
        self.note(key, self.api(key).patch(&key.name, &PatchParams::default(), &patch).await)
    }

    async fn write_status(&self, key: &Key, ingress: serde_json::Value) -> Result<(), kube::Error> {
        let patch = Patch::Merge(json!({ "status": { "loadBalancer": { "ingress": ingress } } }));
        self.note(key, self.api(key).patch_status(&key.name, &PatchParams::default(), &patch).await)
    }

    /// Remembers what was written, so that the next look waits for the cache to show it.
    fn note(&self, key: &Key, answer: Result<Service, kube::Error>) -> Result<(), kube::Error> {
        if let Ok(service) = &answer {
            self.written.wrote(key, &service.metadata);
        }
        gone_is_fine(answer)
    }
}
