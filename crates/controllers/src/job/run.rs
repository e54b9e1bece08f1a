//! The shell of the job controller.

use std::sync::Arc;
use std::time::Duration;

use corten_client::Api;
use corten_client::{Change, Key, Recorder, selector};
use futures::future::join_all;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use super::account::is_tracked;
use super::plan::{self, Plan};
use super::{INDEX, MANAGED_BY, TRACKING};
use crate::answer;
use crate::claim::{self, controller_of};
use crate::cluster::Cluster;
use crate::expect::{Expectations, Written};
use crate::index::Index;
use crate::pods;
use crate::shell::Shell;

struct Controller {
    cluster: Arc<Cluster>,
    recorder: Recorder,
    pods: Index<Pod>,
    expectations: Expectations,
    written: Written,
}

/// The job of a pod; the pods of a namespace that nobody controls stand together under a key without a name.
fn place(pod: &Pod) -> Option<Key> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    match controller_of(&pod.metadata) {
        Some(reference) => (reference.kind == "Job").then(|| Key::new(namespace, &*reference.name)),
        None => Some(Key::new(namespace, "")),
    }
}

fn owner(pod: &Pod) -> Option<Key> {
    place(pod).filter(|key| !key.name.is_empty())
}

fn selector_of(job: &Job) -> LabelSelector {
    job.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default()
}

/// Runs jobs until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    let controller = Controller {
        cluster: cluster.clone(),
        recorder: cluster.recorder("job-controller"),
        pods: Index::of(&cluster.pods, place),
        expectations: Expectations::default(),
        written: Written::default(),
    };
    Shell::open(cluster, controller)
        .each(&cluster.jobs)
        .wakes(&cluster.pods, Controller::woken_by_pod)
        .run(cluster.config.workers, Controller::reconcile)
        .await;
}

impl Controller {
    fn woken_by_pod(&self, change: &Change<Pod>) -> Vec<Key> {
        let pod = change.object();
        let now = owner(pod);
        let before = match change {
            Change::Updated { old, .. } => owner(old).filter(|before| now.as_ref() != Some(before)),
            _ => None,
        };
        let mut keys: Vec<Key> = before.into_iter().collect();
        match now {
            Some(key) => {
                self.note(change, &key);
                keys.push(key);
            }
            None if controller_of(&pod.metadata).is_none() => {
                keys.extend(self.those_that_may_adopt(pod));
                keys.extend(place(pod).filter(|_| is_tracked(pod)));
            }
            None => {}
        }
        keys
    }

    fn note(&self, change: &Change<Pod>, key: &Key) {
        let pod = change.object();
        if matches!(change, Change::Added(_)) {
            self.expectations.created(key);
        }
        if matches!(change, Change::Deleted(_)) || pod.metadata.deletion_timestamp.is_some() {
            self.expectations.deleted(key, pod.metadata.uid.as_deref().unwrap_or_default());
        }
    }

    fn those_that_may_adopt(&self, pod: &Pod) -> Vec<Key> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let jobs = self.cluster.jobs.list_namespace(namespace);
        let may_adopt = |job: &&Arc<Job>| {
            let by = selector_of(job);
            job.metadata.deletion_timestamp.is_none()
                && !selector::is_empty(&by)
                && selector::matches(&by, pod.metadata.labels.as_ref())
        };
        jobs.iter().filter(may_adopt).map(|job| Key::of(&**job)).collect()
    }

    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Option<Duration>, kube::Error> {
        if key.name.is_empty() {
            return self.free_uncontrolled(&key).await.map(|()| None);
        }
        let Some(job) = self.cluster.jobs.get(&key) else {
            self.expectations.forget(&key);
            self.written.forget(&key);
            return self.free_orphans(&key).await.map(|()| None);
        };
        let managed_by = job.spec.as_ref().and_then(|s| s.managed_by.as_deref());
        if managed_by.is_some_and(|by| by != MANAGED_BY) {
            return Ok(None);
        }
        if let Some(delay) = self.written.missing(&key, [&job.metadata]) {
            return Ok(Some(delay));
        }
        if let Some(delay) = self.expectations.missing(&key) {
            return Ok(Some(delay));
        }
        let pods = self.claim(&key, &job).await?;
        let plan = plan::plan(&job, &pods, Timestamp::now());
        let again = plan.again;
        self.carry_out(&key, &job, plan).await?;
        Ok(again)
    }

    /// The job's pods: those that it has, and those without a controller that its selector matches.
    async fn claim(&self, key: &Key, job: &Job) -> Result<Vec<Arc<Pod>>, kube::Error> {
        let mut pods = self.pods.get(key);
        let by = selector_of(job);
        if selector::is_empty(&by) {
            return Ok(pods);
        }
        pods.extend(self.pods.get(&Key::new(&*key.namespace, "")));
        let claims = claim::claim(&job.metadata, &by, pods);
        claim::carry_out_with(&self.cluster.client, job, claims, Some(TRACKING)).await
    }

    /// Pods that no job counts any more, because it was deleted without them or somebody took their owner away.
    async fn free_uncontrolled(&self, key: &Key) -> Result<(), kube::Error> {
        let pods = self.pods.get(key).into_iter();
        let free: Vec<_> =
            pods.filter(|pod| is_tracked(pod) && self.those_that_may_adopt(pod).is_empty()).collect();
        join_all(free.iter().map(|pod| self.untrack(pod))).await.into_iter().collect()
    }

    /// Pods of a job that is gone are counted by nobody: they must not wait for it.
    async fn free_orphans(&self, key: &Key) -> Result<(), kube::Error> {
        let orphans: Vec<_> = self.pods.get(key).into_iter().filter(|pod| is_tracked(pod)).collect();
        if orphans.is_empty() {
            return Ok(());
        }
        let api: Api<Job> = Api::namespaced(self.cluster.client.clone(), &key.namespace);
        if api.get_opt(&key.name).await?.is_some() {
            return Ok(());
        }
        join_all(orphans.iter().map(|pod| self.untrack(pod))).await.into_iter().collect()
    }

    async fn carry_out(&self, key: &Key, job: &Job, plan: Plan) -> Result<(), kube::Error> {
        if job.status.as_ref() != Some(&plan.status) {
            let updated = Job { status: Some(plan.status.clone()), ..job.clone() };
            let api: Api<Job> = Api::namespaced(self.cluster.client.clone(), &key.namespace);
            let made = api.replace_status(&key.name, &PostParams::default(), &updated).await?;
            self.written.wrote(key, &made.metadata);
        }
        for (warning, reason, message) in &plan.words {
            match warning {
                true => self.recorder.warning(job, reason, message.clone()),
                false => self.recorder.normal(job, reason, message.clone()),
            }
        }
        let freed = plan.untrack.iter().chain(&plan.drop).map(|pod| self.untrack(pod));
        join_all(freed).await.into_iter().collect::<Result<(), _>>()?;
        self.change_pods(key, job, &plan).await
    }

    async fn change_pods(&self, key: &Key, job: &Job, plan: &Plan) -> Result<(), kube::Error> {
        let delete: Vec<_> = plan.delete.iter().chain(&plan.drop).collect();
        if delete.is_empty() && plan.create.is_empty() {
            return Ok(());
        }
        let uids = delete.iter().filter_map(|pod| pod.metadata.uid.clone());
        self.expectations.expect(key, plan.create.len(), uids);
        let deleted = join_all(delete.iter().map(|pod| self.delete(key, job, pod))).await;
        let created = self.create(key, job, plan).await;
        deleted.into_iter().chain([created]).collect()
    }

    async fn delete(&self, key: &Key, job: &Job, pod: &Pod) -> Result<(), kube::Error> {
        let answer = pods::delete(&self.cluster.client, pod).await;
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match &answer {
            Ok(()) => self.recorder.normal(job, "SuccessfulDelete", format!("Deleted pod: {name}")),
            Err(error) => {
                self.expectations.deleted(key, pod.metadata.uid.as_deref().unwrap_or_default());
                let message = format!("Error deleting: {}", answer::words(error));
                self.recorder.warning(job, "FailedDelete", message);
            }
        }
        answer
    }

    async fn create(&self, key: &Key, job: &Job, plan: &Plan) -> Result<(), kube::Error> {
        let mut pods: Vec<Pod> = plan.create.iter().map(|index| new_pod(key, job, *index)).collect();
        for (pod, index) in pods.iter_mut().zip(&plan.create) {
            let failures = index.and_then(|index| plan.failures.get(&index));
            failures.into_iter().for_each(|failures| failures.note(pod));
        }
        let (created, error) = pods::create_all(&self.cluster.client, &pods).await;
        for pod in &created {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            self.recorder.normal(job, "SuccessfulCreate", format!("Created pod: {name}"));
        }
        for _ in created.len()..pods.len() {
            self.expectations.created(key);
        }
        match error {
            None => Ok(()),
            Some(error) if answer::is_namespace_ending(&error) => Ok(()),
            Some(error) => {
                let message = format!("Error creating: {}", answer::words(&error));
                self.recorder.warning(job, "FailedCreate", message);
                Err(error)
            }
        }
    }

    async fn untrack(&self, pod: &Pod) -> Result<(), kube::Error> {
        if !is_tracked(pod) {
            return Ok(());
        }
        let finalizers = json!([TRACKING]);
        let meta = json!({ "uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": finalizers });
        let patch = Patch::Strategic(json!({ "metadata": meta }));
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.cluster.client.clone(), namespace);
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        answer::changed_is_fine(api.patch(name, &PatchParams::default(), &patch).await)
    }
}

/// A pod of the job; one of an indexed job knows its index by annotation, label, host name and environment.
fn new_pod(key: &Key, job: &Job, index: Option<i32>) -> Pod {
    let template = job.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let mut pod = pods::from_template(&template, &key.namespace, &key.name, claim::reference(job));
    pod.metadata.finalizers.get_or_insert_default().push(TRACKING.to_owned());
    let Some(index) = index else { return pod };
    pod.metadata.generate_name = Some(format!("{}-{index}-", key.name));
    pod.metadata.annotations.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(format!("{}-{index}", key.name));
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            let env = container.env.get_or_insert_default();
            if !env.iter().any(|e| e.name == "JOB_COMPLETION_INDEX") {
                env.push(index_variable());
            }
        }
    }
    pod
}

fn index_variable() -> EnvVar {
    let field_ref = ObjectFieldSelector {
        field_path: format!("metadata.annotations['{INDEX}']"),
        ..ObjectFieldSelector::default()
    };
    let value_from = EnvVarSource { field_ref: Some(field_ref), ..EnvVarSource::default() };
    EnvVar { name: "JOB_COMPLETION_INDEX".to_owned(), value_from: Some(value_from), ..EnvVar::default() }
}
