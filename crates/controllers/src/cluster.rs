//! What the controllers see of the cluster: one informer a kind, shared by all of them.

use std::sync::Arc;

use corten_client::{Informer, Recorder};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, ReplicationController, ServiceAccount};
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

/// Settings of the controllers.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses of all pods; each node gets a part. Empty: nodes get none.
    pub cluster_cidr: String,
    /// Prefix length of a node's part.
    pub node_cidr_mask: u8,
    /// The CA certificate (PEM) that pods find in the config map `kube-root-ca.crt`.
    pub root_ca: String,
    /// Keys worked on at once, per controller.
    pub workers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            cluster_cidr: "10.244.0.0/16".into(),
            node_cidr_mask: 24,
            root_ca: String::new(),
            workers: 5,
        }
    }
}

/// The informers, the client and the settings.
pub struct Cluster {
    /// For writes, and reads that must be fresh.
    pub client: Client,
    /// Settings.
    pub config: Config,
    /// Ends everything.
    pub stop: CancellationToken,
    /// Pods.
    pub pods: Informer<Pod>,
    /// Nodes.
    pub nodes: Informer<Node>,
    /// Namespaces.
    pub namespaces: Informer<Namespace>,
    /// Service accounts.
    pub service_accounts: Informer<ServiceAccount>,
    /// The config maps named `kube-root-ca.crt`.
    pub root_cas: Informer<ConfigMap>,
    /// Replication controllers.
    pub replication_controllers: Informer<ReplicationController>,
    /// Replica sets.
    pub replica_sets: Informer<ReplicaSet>,
    /// Deployments.
    pub deployments: Informer<Deployment>,
    /// Daemon sets.
    pub daemon_sets: Informer<DaemonSet>,
    /// Controller revisions.
    pub revisions: Informer<ControllerRevision>,
}

impl Cluster {
    /// Starts the informers.
    pub fn start(client: Client, config: Config, stop: CancellationToken) -> Arc<Self> {
        fn all<K>(client: &Client, stop: &CancellationToken) -> Informer<K>
        where
            K: kube::Resource<DynamicType = ()>
                + Clone
                + serde::de::DeserializeOwned
                + std::fmt::Debug
                + Send
                + Sync
                + 'static,
        {
            Informer::start(Api::all(client.clone()), watcher::Config::default(), stop.clone())
        }
        let root_cas = watcher::Config::default().fields("metadata.name=kube-root-ca.crt");
        Arc::new(Cluster {
            pods: all(&client, &stop),
            nodes: all(&client, &stop),
            namespaces: all(&client, &stop),
            service_accounts: all(&client, &stop),
            root_cas: Informer::start(Api::all(client.clone()), root_cas, stop.clone()),
            replication_controllers: all(&client, &stop),
            replica_sets: all(&client, &stop),
            deployments: all(&client, &stop),
            daemon_sets: all(&client, &stop),
            revisions: all(&client, &stop),
            client,
            config,
            stop,
        })
    }

    /// Waits until every informer has its first list. `false`: they were stopped before.
    pub async fn synced(&self) -> bool {
        self.pods.synced().await
            && self.nodes.synced().await
            && self.namespaces.synced().await
            && self.service_accounts.synced().await
            && self.root_cas.synced().await
            && self.replication_controllers.synced().await
            && self.replica_sets.synced().await
            && self.deployments.synced().await
            && self.daemon_sets.synced().await
            && self.revisions.synced().await
    }

    /// Events in the name of a controller.
    pub fn recorder(&self, controller: &str) -> Recorder {
        Recorder::new(self.client.clone(), controller, "")
    }
}
