//! The controllers: each makes the cluster more like what an object asks for.
//!
//! One folder or file a controller: pure planning in `plan.rs` (or the upper half of the file), a shell that watches, plans
//! and writes. What several need is here once: [`cluster`] (the shared informers), [`shell`] (which changes wake which keys, and
//! the workers), [`index`] (objects by what they belong to), [`claim`] (adopting and releasing), [`pods`] (facts about pods,
//! creating and deleting them), [`expect`] (waiting for one's own writes to come back).

pub mod aggregation;
pub mod answer;
pub mod certificates;
pub mod claim;
pub mod cluster;
pub mod cron;
pub mod daemon;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod expect;
pub mod gc;
pub mod history;
pub mod hpa;
pub mod index;
pub mod job;
pub mod load_balancer;
pub mod namespace;
pub mod node_cidr;
pub mod node_lifecycle;
pub mod node_zones;
pub mod pod_gc;
pub mod pods;
pub mod quota;
pub mod replica;
pub mod service_account;
mod service_cidr;
mod service_ips;
pub mod shell;
pub mod stateful;
pub mod token_cleaner;

pub use cluster::{Cluster, Config};

use corten_client::Informers;
use corten_client::kube::Client;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

/// Runs all controllers until `stop`. Writes go through `client`, what is seen comes from the process's informers.
pub fn run(
    client: Client,
    informers: Informers,
    config: Config,
    stop: CancellationToken,
) -> BoxFuture<'static, ()> {
    Box::pin(reconcile_all(client, informers, config, stop))
}

async fn reconcile_all(client: Client, informers: Informers, config: Config, stop: CancellationToken) {
    let cluster = Cluster::start(client, &informers, config, stop);
    if !cluster.synced().await {
        return;
    }
    tokio::join!(
        aggregation::run(&cluster),
        certificates::run(&cluster),
        cron::run(&cluster),
        daemon::run(&cluster),
        deployment::run(&cluster),
        disruption::run(&cluster),
        endpoints::run(&cluster),
        endpoints::run_legacy(&cluster),
        endpoints::run_mirror(&cluster),
        gc::run(&cluster),
        hpa::run(&cluster),
        job::run(&cluster),
        job::run_ttl(&cluster),
        load_balancer::run(&cluster),
        namespace::run(&cluster),
        node_cidr::run(&cluster),
        node_lifecycle::run(&cluster),
        pod_gc::run(&cluster),
        quota::run(&cluster),
        service_account::run(&cluster),
        service_cidr::run(&cluster),
        service_ips::run(&cluster),
        stateful::run(&cluster),
        token_cleaner::run(&cluster),
        replica::run::<k8s_openapi::api::apps::v1::ReplicaSet>(&cluster),
        replica::run::<k8s_openapi::api::core::v1::ReplicationController>(&cluster),
    );
}
