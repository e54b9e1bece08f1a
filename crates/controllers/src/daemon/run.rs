//! The shell of the daemon set controller.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use corten_client::Api;
use corten_client::{Change, Key, Recorder, selector};
use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::plan::{self, Plan};
use crate::answer::{changed_is_fine, gone_is_fine};
use crate::claim::{self, controller_of};
use crate::cluster::Cluster;
use crate::expect::Expectations;
use crate::history;
use crate::pods;
use crate::shell::Shell;

struct Controller {
    cluster: Arc<Cluster>,
    recorder: Recorder,
    expectations: Expectations,
    backoff: Backoff,
}

/// Keeps daemons on nodes until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    let controller = Controller {
        cluster: cluster.clone(),
        recorder: cluster.recorder("daemonset-controller"),
        expectations: Expectations::default(),
        backoff: Backoff::default(),
    };
    Shell::open(cluster, controller)
        .each(&cluster.daemon_sets)
        .wakes(&cluster.nodes, Controller::woken_by_node)
        .wakes(&cluster.pods, Controller::woken_by_pod)
        .run(cluster.config.workers, Controller::reconcile)
        .await;
}

impl Controller {
    fn woken_by_node(&self, change: &Change<Node>) -> Vec<Key> {
        let what = |node: &Node| (node.metadata.labels.clone(), node.spec.clone().and_then(|s| s.taints));
        if let Change::Updated { old, new } = change
            && what(old) == what(new)
        {
            return Vec::new();
        }
        self.cluster.daemon_sets.list().iter().map(|set| Key::of(&**set)).collect()
    }

    fn woken_by_pod(&self, change: &Change<Pod>) -> Vec<Key> {
        let pod = change.object();
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        match controller_of(&pod.metadata) {
            Some(owner) if owner.kind == "DaemonSet" => {
                let key = Key::new(namespace, &*owner.name);
                if matches!(change, Change::Added(_)) {
                    self.expectations.created(&key);
                }
                if matches!(change, Change::Deleted(_)) || pod.metadata.deletion_timestamp.is_some() {
                    self.expectations.deleted(&key, pod.metadata.uid.as_deref().unwrap_or_default());
                }
                vec![key]
            }
            Some(_) => Vec::new(),
            None => {
                let sets = self.cluster.daemon_sets.list_namespace(&namespace);
                let may_adopt = |set: &&Arc<DaemonSet>| {
                    selector::matches(&set.spec.selector, pod.metadata.labels.as_ref())
                };
                sets.iter().filter(may_adopt).map(|set| Key::of(&**set)).collect()
            }
        }
    }

    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Option<Duration>, kube::Error> {
        let Some(set) = self.cluster.daemon_sets.get(&key) else {
            self.expectations.forget(&key);
            self.backoff.forget(&key);
            return Ok(None);
        };
        if selector::is_empty(&set.spec.selector) {
            return Ok(None);
        }
        let mut again = self.expectations.missing(&key);
        let claims =
            claim::claim(&set.metadata, &set.spec.selector, self.cluster.pods.list_namespace(&key.namespace));
        let pods = claim::carry_out(&self.cluster.client, &*set, claims).await?;
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let (hash, revisions) = self.revision(&key, &set).await?;
        let (nodes, now) = (self.cluster.nodes.list(), Timestamp::now());
        if again.is_none() {
            let mut plan = plan::manage(&set, &nodes, &pods, &hash, now);
            again = self.hold_back(&key, &mut plan);
            if plan.create_on.is_empty() && plan.delete.is_empty() {
                plan = plan::roll(&set, &nodes, &pods, &hash, now);
            }
            self.carry_out(&key, &set, plan, &hash).await?;
            self.clean_history(&key, &set, &revisions, &pods).await?;
        }
        self.write_status(&set, plan::status(&set, &nodes, &pods, &hash, now)).await?;
        let min_ready = set.spec.min_ready_seconds.unwrap_or_default();
        let available = crate::replica::plan::next_available(&pods, min_ready, now);
        Ok([available, again].into_iter().flatten().min())
    }

    /// Takes out of the plan what is to be done about failed pods too soon; says how long it has to wait.
    fn hold_back(&self, key: &Key, plan: &mut Plan) -> Option<Duration> {
        let now = Instant::now();
        let waits = plan.failed_on().into_iter().filter_map(|node| {
            let wait = self.backoff.take(key, &node, now).err()?;
            Some((node, wait))
        });
        let held: BTreeMap<String, Duration> = waits.collect();
        plan.leave_alone(&held);
        held.into_values().min()
    }

    /// The hash of the present template's revision, which is made, or moved to the end of the history, where needed.
    async fn revision(
        &self,
        key: &Key,
        set: &DaemonSet,
    ) -> Result<(String, Vec<Arc<ControllerRevision>>), kube::Error> {
        let all = self.cluster.revisions.list_namespace(&key.namespace);
        let own: Vec<_> = claim::claim(&set.metadata, &set.spec.selector, all).owned;
        let api: Api<ControllerRevision> = Api::namespaced(self.cluster.client.clone(), &key.namespace);
        let next = history::next_number(&own);
        let Some(present) = history::present(set, &own) else {
            let revision = history::new(set, next);
            return match api.create(&PostParams::default(), &revision).await {
                Ok(made) => Ok((history::hash_of::<DaemonSet>(&made).to_owned(), own)),
                Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                    let found = api.get(revision.metadata.name.as_deref().unwrap_or_default()).await?;
                    Ok((history::hash_of::<DaemonSet>(&found).to_owned(), own))
                }
                Err(error) => Err(error),
            };
        };
        if present.revision < Some(next - 1) {
            let patch = Patch::Merge(json!({ "revision": next }));
            api.patch(present.metadata.name.as_deref().unwrap_or_default(), &PatchParams::default(), &patch)
                .await?;
        }
        Ok((history::hash_of::<DaemonSet>(present).to_owned(), own.clone()))
    }

    async fn carry_out(&self, key: &Key, set: &DaemonSet, plan: Plan, hash: &str) -> Result<(), kube::Error> {
        for pod in &plan.failed {
            let (name, node) = (
                pod.metadata.name.as_deref().unwrap_or_default(),
                pod.spec.as_ref().and_then(|s| s.node_name.as_deref()),
            );
            let message = format!(
                "Found failed daemon pod {}/{name} on node {}, will try to kill it",
                key.namespace,
                node.unwrap_or_default()
            );
            self.recorder.warning(set, "FailedDaemonPod", message);
        }
        if plan.create_on.is_empty() && plan.delete.is_empty() {
            return Ok(());
        }
        let uids = plan.delete.iter().filter_map(|p| p.metadata.uid.clone());
        self.expectations.expect(key, plan.create_on.len(), uids);
        let created = join_all(plan.create_on.iter().map(|node| self.create(key, set, node, hash)));
        let deleted = join_all(plan.delete.iter().map(|pod| self.delete(key, set, pod)));
        let (created, deleted) = tokio::join!(created, deleted);
        created.into_iter().chain(deleted).collect()
    }

    async fn create(&self, key: &Key, set: &DaemonSet, node: &str, hash: &str) -> Result<(), kube::Error> {
        let template = plan::template(set, node, hash);
        let pod = pods::from_template(&template, &key.namespace, &key.name, claim::reference(set));
        let api: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &key.namespace);
        match api.create(&PostParams::default(), &pod).await {
            Ok(pod) => {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                self.recorder.normal(set, "SuccessfulCreate", format!("Created pod: {name}"));
                Ok(())
            }
            Err(error) => {
                self.expectations.created(key);
                self.recorder.warning(set, "FailedCreate", format!("Error creating: {error}"));
                Err(error)
            }
        }
    }

    async fn delete(&self, key: &Key, set: &DaemonSet, pod: &Pod) -> Result<(), kube::Error> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let answer = pods::delete(&self.cluster.client, pod).await;
        match &answer {
            Ok(()) => self.recorder.normal(set, "SuccessfulDelete", format!("Deleted pod: {name}")),
            Err(error) => {
                self.expectations.deleted(key, pod.metadata.uid.as_deref().unwrap_or_default());
                self.recorder.warning(set, "FailedDelete", format!("Error deleting: {error}"));
            }
        }
        answer
    }

    async fn clean_history(
        &self,
        key: &Key,
        set: &DaemonSet,
        revisions: &[Arc<ControllerRevision>],
        pods: &[Arc<Pod>],
    ) -> Result<(), kube::Error> {
        let present = history::present(set, revisions).map(|r| history::hash_of::<DaemonSet>(r).to_owned());
        let in_use = |revision: &ControllerRevision| {
            let hash = history::hash_of::<DaemonSet>(revision);
            present.as_deref() == Some(hash) || pods.iter().any(|p| plan::is_updated(p, hash))
        };
        let api: Api<ControllerRevision> = Api::namespaced(self.cluster.client.clone(), &key.namespace);
        for revision in history::surplus(set.spec.revision_history_limit.unwrap_or(10), revisions, in_use) {
            let name = revision.metadata.name.as_deref().unwrap_or_default();
            gone_is_fine(api.delete(name, &DeleteParams::default()).await)?;
        }
        Ok(())
    }

    async fn write_status(
        &self,
        set: &DaemonSet,
        status: k8s_openapi::api::apps::v1::DaemonSetStatus,
    ) -> Result<(), kube::Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let updated = DaemonSet { status: Some(status), ..set.clone() };
        let api: Api<DaemonSet> = Api::namespaced(
            self.cluster.client.clone(),
            set.metadata.namespace.as_deref().unwrap_or_default(),
        );
        let name = set.metadata.name.as_deref().unwrap_or_default();
        // Changed meanwhile: the watch brings the change, and with it another look.
        changed_is_fine(api.replace_status(name, &PostParams::default(), &updated).await)
    }
}
