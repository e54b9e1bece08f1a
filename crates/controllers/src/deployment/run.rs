//! The shell of the deployment controller.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use corten_client::Api;
use corten_client::{Change, Key, Recorder, selector};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;

use super::plan::{self, Bounds, Scale, size};
use super::{DESIRED, HASH_LABEL, MAX, REVISION, REVISION_HISTORY, hash, status};
use crate::answer::changed_is_fine;
use crate::claim::{self, controller_of};
use crate::cluster::Cluster;
use crate::pods;
use crate::shell::Shell;

/// Annotations of a deployment that its replica sets do not take over.
const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];
/// Longest list of earlier revisions that is kept, in bytes (upstream's limit).
const LONGEST_HISTORY: usize = 2000;

type Labels = BTreeMap<String, String>;

struct Controller {
    cluster: Arc<Cluster>,
    recorder: Recorder,
}

/// Rolls deployments out until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    let recorder = cluster.recorder("deployment-controller");
    Shell::open(cluster, Controller { cluster: cluster.clone(), recorder })
        .each(&cluster.deployments)
        .wakes(&cluster.replica_sets, |me, change| me.woken_by_set(change.object()))
        .wakes(&cluster.pods, Controller::woken_by_pod)
        .run(cluster.config.workers, Controller::reconcile)
        .await;
}

/// The deployment's replica sets: the one of the present template, and the others.
struct Sets {
    new: Option<Arc<ReplicaSet>>,
    old: Vec<Arc<ReplicaSet>>,
}

impl Sets {
    fn sort(deployment: &Deployment, all: &[Arc<ReplicaSet>]) -> Self {
        let new = plan::newest(deployment, all).cloned();
        let uid = new.as_ref().and_then(|s| s.metadata.uid.clone());
        let old = all.iter().filter(|s| new.is_none() || s.metadata.uid != uid).cloned().collect();
        Sets { new, old }
    }

    fn all(&self) -> Vec<Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new).cloned().collect()
    }
}

impl Controller {
    fn woken_by_set(&self, set: &ReplicaSet) -> Vec<Key> {
        let namespace = set.metadata.namespace.clone().unwrap_or_default();
        match controller_of(&set.metadata) {
            Some(owner) if owner.kind == "Deployment" => vec![Key::new(namespace, &*owner.name)],
            Some(_) => Vec::new(),
            None => {
                let deployments = self.cluster.deployments.list_namespace(&namespace);
                let may_adopt =
                    |d: &&Arc<Deployment>| selector::matches(&d.spec.selector, set.metadata.labels.as_ref());
                deployments.iter().filter(may_adopt).map(|d| Key::of(&**d)).collect()
            }
        }
    }

    /// A recreation waits for the last old pod to be gone.
    fn woken_by_pod(&self, change: &Change<Pod>) -> Vec<Key> {
        let Change::Deleted(pod) = change else { return Vec::new() };
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let owner = controller_of(&pod.metadata).filter(|r| r.kind == "ReplicaSet");
        let set = owner.and_then(|o| self.cluster.replica_sets.get(&Key::new(namespace, &*o.name)));
        set.map(|set| self.woken_by_set(&set)).unwrap_or_default()
    }

    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Option<Duration>, kube::Error> {
        let Some(deployment) = self.cluster.deployments.get(&key) else { return Ok(None) };
        if selector::is_empty(&deployment.spec.selector) {
            return Ok(None);
        }
        let candidates = self.cluster.replica_sets.list_namespace(&key.namespace);
        let claims = claim::claim(&deployment.metadata, &deployment.spec.selector, candidates);
        let owned = claim::carry_out(&self.cluster.client, &*deployment, claims).await?;
        let mut sets = Sets::sort(&deployment, &owned);
        if deployment.metadata.deletion_timestamp.is_none() {
            self.move_on(&deployment, &mut sets).await?;
        }
        self.write_status(&deployment, &sets).await
    }

    async fn move_on(&self, deployment: &Deployment, sets: &mut Sets) -> Result<(), kube::Error> {
        let bounds = Bounds::of(deployment);
        let paused = deployment.spec.paused == Some(true);
        if paused || plan::was_scaled(deployment, &sets.all()) {
            self.renew(deployment, sets).await?;
            let steps = if plan::was_scaled(deployment, &sets.all()) {
                plan::scale_in_proportion(bounds, &sets.all())
            } else {
                plan::scale_from_nothing(bounds, sets.new.as_ref(), &sets.old, revision).into_iter().collect()
            };
            self.scale_all(deployment, sets, steps).await?;
            return self.tell_sizes(deployment, sets).await;
        }
        if plan::is_recreate(deployment) {
            self.recreate(deployment, sets, bounds).await?;
        } else {
            self.renew_or_create(deployment, sets).await?;
            let steps = sets.new.as_ref().map(|new| plan::roll(bounds, new, &sets.old)).unwrap_or_default();
            self.scale_all(deployment, sets, steps).await?;
        }
        self.clean_history(deployment, sets).await
    }

    async fn recreate(
        &self,
        deployment: &Deployment,
        sets: &mut Sets,
        bounds: Bounds,
    ) -> Result<(), kube::Error> {
        let steps = plan::recreate(bounds, None, &sets.old, false);
        if !steps.is_empty() {
            return self.scale_all(deployment, sets, steps).await;
        }
        if self.old_pods_run(deployment, sets) {
            return Ok(());
        }
        self.renew_or_create(deployment, sets).await?;
        let steps = plan::recreate(bounds, sets.new.as_deref(), &sets.old, false);
        self.scale_all(deployment, sets, steps).await
    }

    fn old_pods_run(&self, deployment: &Deployment, sets: &Sets) -> bool {
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
        let is_old = |uid: &str| sets.old.iter().any(|set| set.metadata.uid.as_deref() == Some(uid));
        let pods = self.cluster.pods.list_namespace(namespace);
        pods.iter()
            .filter(|pod| controller_of(&pod.metadata).is_some_and(|owner| is_old(&owner.uid)))
            .any(|pod| !matches!(pods::phase(pod), "Succeeded" | "Failed"))
    }

    fn api<K>(&self, deployment: &Deployment) -> Api<K>
    where
        K: corten_client::Object + kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(
            self.cluster.client.clone(),
            deployment.metadata.namespace.as_deref().unwrap_or_default(),
        )
    }

    async fn renew_or_create(&self, deployment: &Deployment, sets: &mut Sets) -> Result<(), kube::Error> {
        if sets.new.is_some() {
            return self.renew(deployment, sets).await;
        }
        let created = self.create(deployment, sets).await?;
        self.write_revision(deployment, &created).await?;
        sets.new = Some(created);
        Ok(())
    }

    /// Gives the set of the present template its revision and the deployment's annotations.
    async fn renew(&self, deployment: &Deployment, sets: &mut Sets) -> Result<(), kube::Error> {
        let Some(new) = sets.new.clone() else { return Ok(()) };
        let mut renewed = (*new).clone();
        let annotations = renewed.metadata.annotations.get_or_insert_default();
        annotate(annotations, deployment, next_revision(&sets.old));
        renewed.spec.min_ready_seconds = deployment.spec.min_ready_seconds;
        if renewed.metadata.annotations != new.metadata.annotations
            || renewed.spec.min_ready_seconds != new.spec.min_ready_seconds
        {
            let name = new.metadata.name.as_deref().unwrap_or_default();
            let api = self.api::<ReplicaSet>(deployment);
            sets.new = Some(Arc::new(api.replace(name, &PostParams::default(), &renewed).await?));
        }
        if let Some(new) = &sets.new {
            self.write_revision(deployment, new).await?;
        }
        Ok(())
    }

    async fn create(&self, deployment: &Deployment, sets: &Sets) -> Result<Arc<ReplicaSet>, kube::Error> {
        let collisions = deployment.status.as_ref().and_then(|s| s.collision_count).unwrap_or_default();
        let bounds = Bounds::of(deployment);
        let all = plan::total(&sets.old);
        let replicas =
            if plan::is_recreate(deployment) { bounds.wanted } else { plan::new_size(bounds, 0, all) };
        let set = new_set(deployment, collisions, replicas, next_revision(&sets.old));
        let api = self.api::<ReplicaSet>(deployment);
        match api.create(&PostParams::default(), &set).await {
            Ok(created) => {
                let name = created.metadata.name.as_deref().unwrap_or_default();
                if replicas > 0 {
                    self.tell(deployment, &Scale { name: name.to_owned(), from: 0, to: replicas });
                }
                Ok(Arc::new(created))
            }
            Err(kube::Error::Api(answer)) if answer.reason == "AlreadyExists" => {
                self.taken(deployment, &set, collisions, answer).await
            }
            Err(error) => Err(error),
        }
    }

    /// The name is taken: by our own set that the cache does not show yet, or by another template with the same hash.
    async fn taken(
        &self,
        deployment: &Deployment,
        wanted: &ReplicaSet,
        collisions: i32,
        answer: Box<kube::core::Status>,
    ) -> Result<Arc<ReplicaSet>, kube::Error> {
        let name = wanted.metadata.name.as_deref().unwrap_or_default();
        let found = self.api::<ReplicaSet>(deployment).get(name).await?;
        let ours =
            controller_of(&found.metadata).is_some_and(|r| Some(&r.uid) == deployment.metadata.uid.as_ref());
        let same =
            found.spec.template.as_ref().is_some_and(|t| hash::same_template(t, &deployment.spec.template));
        if ours && same {
            return Ok(Arc::new(found));
        }
        let mut counted = deployment.clone();
        counted.status.get_or_insert_default().collision_count = Some(collisions + 1);
        let name = deployment.metadata.name.as_deref().unwrap_or_default();
        self.api::<Deployment>(deployment).replace_status(name, &PostParams::default(), &counted).await?;
        Err(kube::Error::Api(answer))
    }

    async fn write_revision(&self, deployment: &Deployment, set: &ReplicaSet) -> Result<(), kube::Error> {
        let revision = annotation(&set.metadata, REVISION);
        if revision.is_empty() || annotation(&deployment.metadata, REVISION) == revision {
            return Ok(());
        }
        let patch = json!({ "metadata": { "annotations": { REVISION: revision } } });
        let name = deployment.metadata.name.as_deref().unwrap_or_default();
        self.api::<Deployment>(deployment).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    async fn scale_all(
        &self,
        deployment: &Deployment,
        sets: &mut Sets,
        steps: Vec<Scale>,
    ) -> Result<(), kube::Error> {
        for step in steps {
            let slot = sets
                .old
                .iter_mut()
                .chain(&mut sets.new)
                .find(|s| s.metadata.name.as_deref() == Some(&step.name));
            let Some(slot) = slot else { continue };
            let mut scaled = (**slot).clone();
            scaled.spec.replicas = Some(step.to);
            tell_size(scaled.metadata.annotations.get_or_insert_default(), deployment);
            *slot = Arc::new(
                self.api::<ReplicaSet>(deployment)
                    .replace(&step.name, &PostParams::default(), &scaled)
                    .await?,
            );
            self.tell(deployment, &step);
        }
        Ok(())
    }

    /// Notes the wanted size in sets that did not have to change theirs, so that the scaling counts as done.
    async fn tell_sizes(&self, deployment: &Deployment, sets: &mut Sets) -> Result<(), kube::Error> {
        for slot in sets.old.iter_mut().chain(&mut sets.new).filter(|s| size(s) > 0) {
            let mut told = (**slot).clone();
            tell_size(told.metadata.annotations.get_or_insert_default(), deployment);
            if told.metadata.annotations != slot.metadata.annotations {
                let name = told.metadata.name.clone().unwrap_or_default();
                *slot = Arc::new(
                    self.api::<ReplicaSet>(deployment).replace(&name, &PostParams::default(), &told).await?,
                );
            }
        }
        Ok(())
    }

    fn tell(&self, deployment: &Deployment, step: &Scale) {
        let way = if step.to > step.from { "up" } else { "down" };
        let message = format!("Scaled {way} replica set {} from {} to {}", step.name, step.from, step.to);
        self.recorder.normal(deployment, "ScalingReplicaSet", message);
    }

    async fn clean_history(&self, deployment: &Deployment, sets: &Sets) -> Result<(), kube::Error> {
        let status = status::status(deployment, &sets.all(), sets.new.as_ref(), Timestamp::now());
        let Some(limit) =
            deployment.spec.revision_history_limit.filter(|_| status::is_complete(deployment, &status))
        else {
            return Ok(());
        };
        for set in plan::surplus_history(limit, &sets.old, revision) {
            let exactly = Preconditions {
                uid: set.metadata.uid.clone(),
                resource_version: set.metadata.resource_version.clone(),
            };
            let params = DeleteParams { preconditions: Some(exactly), ..DeleteParams::background() };
            let name = set.metadata.name.as_deref().unwrap_or_default();
            match self.api::<ReplicaSet>(deployment).delete(name, &params).await {
                Ok(_) => {}
                Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn write_status(
        &self,
        deployment: &Deployment,
        sets: &Sets,
    ) -> Result<Option<Duration>, kube::Error> {
        let now = Timestamp::now();
        let status: DeploymentStatus = status::status(deployment, &sets.all(), sets.new.as_ref(), now);
        let again = status::deadline_in(deployment, &status, now);
        if deployment.status.as_ref() == Some(&status) {
            return Ok(again);
        }
        let updated = Deployment { status: Some(status), ..deployment.clone() };
        let name = deployment.metadata.name.as_deref().unwrap_or_default();
        let api = self.api::<Deployment>(deployment);
        // Gone, or changed (by our own revision, too): the watch brings what is true, and with it another look.
        changed_is_fine(api.replace_status(name, &PostParams::default(), &updated).await).map(|()| again)
    }
}

fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> &'a str {
    meta.annotations.as_ref().and_then(|a| a.get(key)).map(String::as_str).unwrap_or_default()
}

fn revision(set: &ReplicaSet) -> i64 {
    annotation(&set.metadata, REVISION).parse().unwrap_or_default()
}

fn next_revision(old: &[Arc<ReplicaSet>]) -> i64 {
    old.iter().map(|s| revision(s)).max().unwrap_or_default() + 1
}

fn tell_size(annotations: &mut Labels, deployment: &Deployment) {
    let bounds = Bounds::of(deployment);
    annotations.insert(DESIRED.to_owned(), bounds.wanted.to_string());
    annotations.insert(MAX.to_owned(), bounds.most().to_string());
}

/// Takes over the deployment's annotations, and moves on to `next` when an old template became the present one again.
fn annotate(annotations: &mut Labels, deployment: &Deployment, next: i64) {
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let present = annotations.get(REVISION).cloned().unwrap_or_default();
    if present.parse::<i64>().unwrap_or_default() >= next {
        return;
    }
    annotations.insert(REVISION.to_owned(), next.to_string());
    if !present.is_empty() {
        let history = annotations.entry(REVISION_HISTORY.to_owned()).or_default();
        let mut numbers: Vec<&str> =
            history.split(',').filter(|n| !n.is_empty()).chain([&*present]).collect();
        while numbers.iter().map(|n| n.len() + 1).sum::<usize>() > LONGEST_HISTORY {
            numbers.remove(0);
        }
        *history = numbers.join(",");
    }
}

fn new_set(deployment: &Deployment, collisions: i32, replicas: i32, revision: i64) -> ReplicaSet {
    let name = deployment.metadata.name.clone().unwrap_or_default();
    let hash = hash::hash(&deployment.spec.template, collisions);
    let mut template = deployment.spec.template.clone();
    let meta = template.metadata.get_or_insert_default();
    meta.labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = meta.labels.clone();
    let mut by = deployment.spec.selector.clone();
    by.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    let mut annotations = Labels::new();
    annotate(&mut annotations, deployment, revision);
    tell_size(&mut annotations, deployment);
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            owner_references: Some(vec![claim::reference(deployment)]),
            labels,
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: deployment.spec.min_ready_seconds,
            selector: by,
            template: Some(template),
        },
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_that_comes_back_gets_a_new_number_and_keeps_its_history() {
        let deployment = Deployment::default();
        let mut annotations = Labels::from([(REVISION.to_owned(), "1".to_owned())]);
        annotate(&mut annotations, &deployment, 1);
        assert_eq!(annotations.len(), 1);
        annotate(&mut annotations, &deployment, 3);
        annotate(&mut annotations, &deployment, 5);
        assert_eq!(annotations[REVISION], "5");
        assert_eq!(annotations[REVISION_HISTORY], "1,3");
    }
}
