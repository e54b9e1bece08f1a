//! The shell of the stateful set controller.

use std::sync::Arc;
use std::time::Duration;

use corten_client::Api;
use corten_client::{Change, Key, Recorder, selector};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use super::plan::{self, Plan, Revisions, Why};
use super::{REVISION, pod};
use crate::answer::{self, changed_is_fine, gone_is_fine, ignore};
use crate::claim::{self, controller_of};
use crate::cluster::Cluster;
use crate::history;
use crate::pods;
use crate::shell::Shell;

struct Controller {
    cluster: Arc<Cluster>,
    recorder: Recorder,
}

/// The set's revisions: the one before, the present one, and all.
struct Versions {
    current: Arc<ControllerRevision>,
    update: Arc<ControllerRevision>,
    all: Vec<Arc<ControllerRevision>>,
}

fn name(revision: &ControllerRevision) -> &str {
    revision.metadata.name.as_deref().unwrap_or_default()
}

/// Keeps stateful sets until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    let recorder = cluster.recorder("statefulset-controller");
    Shell::open(cluster, Controller { cluster: cluster.clone(), recorder })
        .each(&cluster.stateful_sets)
        .wakes(&cluster.pods, Controller::woken_by_pod)
        .run(cluster.config.workers, Controller::reconcile)
        .await;
}

impl Controller {
    fn woken_by_pod(&self, change: &Change<Pod>) -> Vec<Key> {
        let pod = change.object();
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        match controller_of(&pod.metadata) {
            Some(owner) if owner.kind == "StatefulSet" => vec![Key::new(namespace, &*owner.name)],
            Some(_) => Vec::new(),
            None => {
                let sets = self.cluster.stateful_sets.list_namespace(&namespace);
                let labels = pod.metadata.labels.as_ref();
                let may_adopt = |set: &&Arc<StatefulSet>| {
                    plan::ordinal(set, pod).is_some() && selector::matches(&set.spec.selector, labels)
                };
                sets.iter().filter(may_adopt).map(|set| Key::of(&**set)).collect()
            }
        }
    }

    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Option<Duration>, kube::Error> {
        let Some(set) = self.cluster.stateful_sets.get(&key) else { return Ok(None) };
        if selector::is_empty(&set.spec.selector) {
            return Ok(None);
        }
        let mut candidates = self.cluster.pods.list_namespace(&key.namespace);
        candidates.retain(|pod| plan::ordinal(&set, pod).is_some());
        let claims = claim::claim(&set.metadata, &set.spec.selector, candidates);
        let owned = claim::carry_out(&self.cluster.client, &*set, claims).await?;
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let versions = self.versions(&key, &set).await?;
        let revisions = Revisions { current: name(&versions.current), update: name(&versions.update) };
        let now = Timestamp::now();
        let plan = plan::plan(&set, &owned, revisions, now);
        let again = plan.again;
        let outcome = self.carry_out(&key, &set, plan, &versions).await;
        self.write_status(&key, &set, plan::status(&set, &owned, revisions, now)).await?;
        outcome?;
        self.clean_history(&key, &set, &versions, &owned).await?;
        Ok(again)
    }

    async fn versions(&self, key: &Key, set: &StatefulSet) -> Result<Versions, kube::Error> {
        let all = self.cluster.revisions.list_namespace(&key.namespace);
        let own: Vec<_> = claim::claim(&set.metadata, &set.spec.selector, all).owned;
        let api: Api<ControllerRevision> = Api::namespaced(self.cluster.client.clone(), &key.namespace);
        let next = history::next_number(&own);
        let update = match history::present(set, &own) {
            Some(present) => {
                if present.revision < Some(next - 1) {
                    let patch = Patch::Merge(json!({ "revision": next }));
                    api.patch(name(present), &PatchParams::default(), &patch).await?;
                }
                present.clone()
            }
            None => Arc::new(self.new_revision(&api, history::new(set, next)).await?),
        };
        let before = set.status.as_ref().and_then(|s| s.current_revision.as_deref());
        let current = own.iter().find(|r| Some(name(r)) == before).unwrap_or(&update).clone();
        Ok(Versions { current, update, all: own })
    }

    async fn new_revision(
        &self,
        api: &Api<ControllerRevision>,
        revision: ControllerRevision,
    ) -> Result<ControllerRevision, kube::Error> {
        match api.create(&PostParams::default(), &revision).await {
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                api.get(name(&revision)).await
            }
            other => other,
        }
    }

    async fn carry_out(
        &self,
        key: &Key,
        set: &StatefulSet,
        plan: Plan,
        versions: &Versions,
    ) -> Result<(), kube::Error> {
        let old = pod::template_of(&versions.current).unwrap_or_else(|| set.spec.template.clone());
        for (ordinal, is_new) in plan.create {
            let (template, revision): (&PodTemplateSpec, _) =
                if is_new { (&set.spec.template, &versions.update) } else { (&old, &versions.current) };
            let pod = pod::new(set, ordinal, template, name(revision));
            self.create(key, set, &pod).await?;
        }
        for (pod, why) in plan.delete {
            self.delete(key, set, &pod, why).await?;
        }
        Ok(())
    }

    async fn create(&self, key: &Key, set: &StatefulSet, pod: &Pod) -> Result<(), kube::Error> {
        let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
        let set_name = &key.name;
        let outcome = match self.create_claims(key, set, pod_name).await {
            Ok(()) => {
                let api: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &key.namespace);
                api.create(&PostParams::default(), pod).await.map(drop)
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => {
                let message = format!("create Pod {pod_name} in StatefulSet {set_name} successful");
                self.recorder.normal(set, "SuccessfulCreate", message);
                Ok(())
            }
            // The cache does not show it yet, or one of that name is still going: its end brings another look.
            Err(error) if answer::is_conflict(&error) || answer::is_namespace_ending(&error) => Ok(()),
            Err(error) => {
                let words = answer::words(&error);
                let message =
                    format!("create Pod {pod_name} in StatefulSet {set_name} failed error: {words}");
                self.recorder.warning(set, "FailedCreate", message);
                Err(error)
            }
        }
    }

    async fn create_claims(&self, key: &Key, set: &StatefulSet, pod: &str) -> Result<(), kube::Error> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.cluster.client.clone(), &key.namespace);
        for claim in pod::claims(set, pod) {
            let claim_name = claim.metadata.name.clone().unwrap_or_default();
            if self.cluster.claims.get(&Key::new(&*key.namespace, &*claim_name)).is_some() {
                continue;
            }
            ignore(api.create(&PostParams::default(), &claim).await, &[409])?;
            let message = format!("create Claim {claim_name} Pod {pod} in StatefulSet {} success", key.name);
            self.recorder.normal(set, "SuccessfulCreate", message);
        }
        Ok(())
    }

    async fn delete(&self, key: &Key, set: &StatefulSet, pod: &Pod, why: Why) -> Result<(), kube::Error> {
        let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
        let set_name = &key.name;
        if why == Why::Ended {
            let (reason, word) = match pods::phase(pod) {
                "Failed" => ("RecreatingFailedPod", "failed"),
                _ => ("RecreatingTerminatedPod", "terminated"),
            };
            let message = format!("StatefulSet {key} is recreating {word} Pod {pod_name}");
            self.recorder.warning(set, reason, message);
        }
        pods::delete(&self.cluster.client, pod).await?;
        let message = format!("delete Pod {pod_name} in StatefulSet {set_name} successful");
        self.recorder.normal(set, "SuccessfulDelete", message);
        Ok(())
    }

    async fn write_status(
        &self,
        key: &Key,
        set: &StatefulSet,
        status: StatefulSetStatus,
    ) -> Result<(), kube::Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let updated = StatefulSet { status: Some(status), ..set.clone() };
        let api: Api<StatefulSet> = Api::namespaced(self.cluster.client.clone(), &key.namespace);
        changed_is_fine(api.replace_status(&key.name, &PostParams::default(), &updated).await)
    }

    async fn clean_history(
        &self,
        key: &Key,
        set: &StatefulSet,
        versions: &Versions,
        owned: &[Arc<Pod>],
    ) -> Result<(), kube::Error> {
        let of_pod = |pod: &Arc<Pod>| pod.metadata.labels.as_ref().and_then(|l| l.get(REVISION).cloned());
        let mut live: Vec<_> = owned.iter().filter_map(of_pod).collect();
        live.extend([name(&versions.current).to_owned(), name(&versions.update).to_owned()]);
        let in_use = |revision: &ControllerRevision| live.iter().any(|l| l == name(revision));
        let api: Api<ControllerRevision> = Api::namespaced(self.cluster.client.clone(), &key.namespace);
        let limit = set.spec.revision_history_limit.unwrap_or(10);
        for revision in history::surplus(limit, &versions.all, in_use) {
            gone_is_fine(api.delete(name(revision), &DeleteParams::default()).await)?;
        }
        Ok(())
    }
}
