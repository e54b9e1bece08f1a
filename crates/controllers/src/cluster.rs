//! What the controllers see of the cluster: one informer a kind, shared by all of them.

use std::sync::Arc;
use std::time::Duration;

use corten_client::{Informer, Informers, Recorder};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolumeClaim, Pod, ReplicationController, ResourceQuota,
    Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::gc::Census;
use crate::load_balancer::Span;
use crate::node_zones::Rates;

/// Settings of the controllers.
#[derive(Clone)]
pub struct Config {
    /// Addresses of all pods, one range or with a comma one of each family; each node gets a part. Empty: nodes get none.
    pub cluster_cidr: String,
    /// Prefix length of a node's part of an IPv4 range.
    pub node_cidr_mask: u8,
    /// The same of an IPv6 range; `None`: 64, or what fits.
    pub node_cidr_mask_v6: Option<u8>,
    /// The CA certificate (PEM) that pods find in the config map `kube-root-ca.crt`.
    pub root_ca: String,
    /// Addresses for services of type LoadBalancer. Empty: they get the nodes' addresses.
    pub load_balancer_pool: Vec<Span>,
    /// A node is unhealthy when it has not spoken for so long.
    pub node_monitor_grace: Duration,
    /// How fast silent nodes are emptied.
    pub node_eviction: Rates,
    /// Longest life of the certificates that are signed, and their life when nothing is asked for.
    pub signing_life: Duration,
    /// CA certificate and key (PEM) for certificate signing requests; without them none are signed.
    pub signing_ca: Option<(String, String)>,
    /// Keys worked on at once, per controller.
    pub workers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            cluster_cidr: "10.244.0.0/16".into(),
            node_cidr_mask: 24,
            node_cidr_mask_v6: None,
            root_ca: String::new(),
            load_balancer_pool: Vec::new(),
            node_monitor_grace: Duration::from_secs(50),
            node_eviction: Rates::default(),
            signing_life: Duration::from_secs(365 * 24 * 60 * 60),
            signing_ca: None,
            workers: 5,
        }
    }
}

/// One row a kind: what the field says, its name, the kind, and a field selector where not all objects are of interest.
macro_rules! informers {
    ($($doc:literal $name:ident: $kind:ty $(, only $fields:literal)?;)*) => {
        /// The informers, the client and the settings.
        pub struct Cluster {
            /// For writes, and reads that must be fresh.
            pub client: Client,
            /// Settings.
            pub config: Config,
            /// Ends everything.
            pub stop: CancellationToken,
            /// How many objects there are.
            pub census: Census,
            $(#[doc = $doc] pub $name: Informer<$kind>,)*
        }

        impl Cluster {
            /// Opens the informers.
            pub fn start(client: Client, informers: &Informers, config: Config, stop: CancellationToken) -> Arc<Self> {
                Arc::new(Cluster {
                    $($name: informers.only(concat!($($fields)?)),)*
                    client,
                    config,
                    stop,
                    census: Census::default(),
                })
            }

            /// Waits until every informer has its first list. `false`: they were stopped before.
            pub async fn synced(&self) -> bool {
                true $(&& self.$name.synced().await)*
            }
        }
    };
}

informers! {
    "Pods." pods: Pod;
    "Nodes." nodes: Node;
    "Namespaces." namespaces: Namespace;
    "Service accounts." service_accounts: ServiceAccount;
    "The config maps named `kube-root-ca.crt`." root_cas: ConfigMap, only "metadata.name=kube-root-ca.crt";
    "Replication controllers." replication_controllers: ReplicationController;
    "Replica sets." replica_sets: ReplicaSet;
    "Deployments." deployments: Deployment;
    "Daemon sets." daemon_sets: DaemonSet;
    "Controller revisions." revisions: ControllerRevision;
    "Jobs." jobs: Job;
    "Cron jobs." cron_jobs: CronJob;
    "Horizontal pod autoscalers." autoscalers: HorizontalPodAutoscaler;
    "Disruption budgets." budgets: PodDisruptionBudget;
    "Stateful sets." stateful_sets: StatefulSet;
    "Services." services: Service;
    "Volume claims." claims: PersistentVolumeClaim;
    "Resource quotas." quotas: ResourceQuota;
    "Endpoints." endpoints: Endpoints;
    "Cluster roles." cluster_roles: ClusterRole;
    "Endpoint slices." endpoint_slices: EndpointSlice;
    "Ranges of services' addresses." service_cidrs: ServiceCIDR;
    "Addresses of services." ip_addresses: IPAddress;
}

impl Cluster {
    /// Events in the name of a controller.
    pub fn recorder(&self, controller: &str) -> Recorder {
        Recorder::new(self.client.clone(), controller, "")
    }
}
