//! What makes a ReplicaSet and a ReplicationController the same.

use corten_client::{Informer, Object};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Resource;

use crate::cluster::Cluster;
use corten_client::selector;

/// The counts of the status, the same in both kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pods that are not ended.
    pub replicas: i32,
    /// Those that have all labels of the template.
    pub fully_labeled: i32,
    /// Those that are ready.
    pub ready: i32,
    /// Those that are ready for long enough.
    pub available: i32,
    /// Those that are being deleted (replica sets only).
    pub terminating: i32,
    /// The generation that was looked at.
    pub observed_generation: i64,
    /// Why pods could not be made or deleted: reason and message.
    pub failure: Option<(&'static str, String)>,
}

/// An object that wants a number of equal pods.
pub trait Replicas: Object + Resource<Scope = NamespaceResourceScope> {
    /// The name of its controller in events.
    const CONTROLLER: &'static str;

    /// Its informer.
    fn informer(cluster: &Cluster) -> &Informer<Self>;
    /// How many pods.
    fn wanted(&self) -> i32;
    /// Which pods count.
    fn selector(&self) -> LabelSelector;
    /// What new pods look like.
    fn template(&self) -> PodTemplateSpec;
    /// How long a pod must be ready to be available, in seconds.
    fn min_ready_seconds(&self) -> i32;
    /// The object with a status of these counts; conditions of other kinds are kept.
    fn with_counts(&self, counts: &Counts) -> Self;
}

impl Replicas for ReplicaSet {
    const CONTROLLER: &'static str = "replicaset-controller";

    fn informer(cluster: &Cluster) -> &Informer<Self> {
        &cluster.replica_sets
    }

    fn wanted(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }

    fn selector(&self) -> LabelSelector {
        self.spec.selector.clone()
    }

    fn template(&self) -> PodTemplateSpec {
        self.spec.template.clone().unwrap_or_default()
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or_default()
    }

    fn with_counts(&self, counts: &Counts) -> Self {
        let mut conditions = self.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        let before = conditions.iter().find(|c| c.type_.as_deref() == Some(FAILURE)).cloned();
        conditions.retain(|c| c.type_.as_deref() != Some(FAILURE));
        if let Some((reason, message)) = &counts.failure {
            let same = before.filter(|b| b.reason.as_deref() == Some(reason));
            conditions.push(ReplicaSetCondition {
                type_: Some(FAILURE.to_owned()),
                status: Some("True".to_owned()),
                reason: Some((*reason).to_owned()),
                message: Some(message.clone()),
                last_transition_time: same.and_then(|b| b.last_transition_time).or_else(now),
            });
        }
        let status = ReplicaSetStatus {
            replicas: counts.replicas,
            fully_labeled_replicas: some(counts.fully_labeled),
            ready_replicas: some(counts.ready),
            available_replicas: some(counts.available),
            terminating_replicas: Some(counts.terminating),
            observed_generation: Some(counts.observed_generation),
            conditions: Some(conditions).filter(|c| !c.is_empty()),
        };
        ReplicaSet { status: Some(status), ..self.clone() }
    }
}

impl Replicas for ReplicationController {
    const CONTROLLER: &'static str = "replication-controller";

    fn informer(cluster: &Cluster) -> &Informer<Self> {
        &cluster.replication_controllers
    }

    fn wanted(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }

    fn selector(&self) -> LabelSelector {
        self.spec.as_ref().and_then(|s| s.selector.as_ref()).map(selector::of_labels).unwrap_or_default()
    }

    fn template(&self) -> PodTemplateSpec {
        self.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default()
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or_default()
    }

    fn with_counts(&self, counts: &Counts) -> Self {
        let mut conditions = self.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        let before = conditions.iter().find(|c| c.type_ == FAILURE).cloned();
        conditions.retain(|c| c.type_ != FAILURE);
        if let Some((reason, message)) = &counts.failure {
            let same = before.filter(|b| b.reason.as_deref() == Some(reason));
            conditions.push(ReplicationControllerCondition {
                type_: FAILURE.to_owned(),
                status: "True".to_owned(),
                reason: Some((*reason).to_owned()),
                message: Some(message.clone()),
                last_transition_time: same.and_then(|b| b.last_transition_time).or_else(now),
            });
        }
        let status = ReplicationControllerStatus {
            replicas: counts.replicas,
            fully_labeled_replicas: some(counts.fully_labeled),
            ready_replicas: some(counts.ready),
            available_replicas: some(counts.available),
            observed_generation: Some(counts.observed_generation),
            conditions: Some(conditions).filter(|c| !c.is_empty()),
        };
        ReplicationController { status: Some(status), ..self.clone() }
    }
}

/// The condition that says that pods could not be made or deleted.
const FAILURE: &str = "ReplicaFailure";

/// Counts of zero are left out, as upstream does.
fn some(count: i32) -> Option<i32> {
    Some(count).filter(|c| *c != 0)
}

fn now() -> Option<Time> {
    Some(Time(Timestamp::now()))
}
