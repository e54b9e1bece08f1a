//! The shell of the replica controllers.

use std::sync::Arc;
use std::time::Duration;

use corten_client::Api;
use corten_client::{Change, Key, Recorder};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;

use super::kind::{Counts, Replicas};
use super::plan::{self, Plan};
use crate::answer;
use crate::claim::{self, controller_of};
use crate::cluster::Cluster;
use crate::expect::Expectations;
use crate::pods;
use crate::shell::Shell;
use corten_client::selector;

struct Controller<K: Replicas> {
    cluster: Arc<Cluster>,
    recorder: Recorder,
    expectations: Expectations,
    kind: std::marker::PhantomData<fn() -> K>,
}

/// Keeps the pods of all objects of one kind until the cluster's stop.
pub async fn run<K: Replicas>(cluster: &Arc<Cluster>) {
    let controller = Controller::<K> {
        cluster: cluster.clone(),
        recorder: cluster.recorder(K::CONTROLLER),
        expectations: Expectations::default(),
        kind: std::marker::PhantomData,
    };
    Shell::open(cluster, controller)
        .each(K::informer(cluster))
        .wakes(&cluster.pods, Controller::woken_by_pod)
        .run(cluster.config.workers, Controller::reconcile)
        .await;
}

impl<K: Replicas> Controller<K> {
    fn woken_by_pod(&self, change: &Change<Pod>) -> Vec<Key> {
        let pod = change.object();
        let owner = self.owner(pod);
        let before = match change {
            Change::Updated { old, .. } => self.owner(old).filter(|before| owner.as_ref() != Some(before)),
            _ => None,
        };
        let now = match owner {
            Some(owner) => {
                self.note(change, &owner);
                vec![owner]
            }
            None if controller_of(&pod.metadata).is_none() => self.those_that_may_adopt(pod),
            None => Vec::new(),
        };
        before.into_iter().chain(now).collect()
    }

    fn note(&self, change: &Change<Pod>, owner: &Key) {
        let pod = change.object();
        if matches!(change, Change::Added(_)) {
            self.expectations.created(owner);
        }
        if matches!(change, Change::Deleted(_)) || pod.metadata.deletion_timestamp.is_some() {
            self.expectations.deleted(owner, pod.metadata.uid.as_deref().unwrap_or_default());
        }
    }

    /// The key of the object of our kind that controls a pod.
    fn owner(&self, pod: &Pod) -> Option<Key> {
        let reference = controller_of(&pod.metadata).filter(|r| r.kind == K::kind(&()))?;
        Some(Key::new(pod.metadata.namespace.clone().unwrap_or_default(), &*reference.name))
    }

    fn those_that_may_adopt(&self, pod: &Pod) -> Vec<Key> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let objects = K::informer(&self.cluster).list_namespace(namespace);
        let may_adopt = |object: &&Arc<K>| {
            let by = object.selector();
            !selector::is_empty(&by) && selector::matches(&by, pod.metadata.labels.as_ref())
        };
        objects.iter().filter(may_adopt).map(|object| Key::of(&**object)).collect()
    }

    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Option<Duration>, kube::Error> {
        let Some(object) = K::informer(&self.cluster).get(&key) else {
            self.expectations.forget(&key);
            return Ok(None);
        };
        let by = object.selector();
        if selector::is_empty(&by) {
            return Ok(None);
        }
        let not_back = self.expectations.missing(&key);
        let claims = claim::claim(object.meta(), &by, self.cluster.pods.list_namespace(&key.namespace));
        let owned = claim::carry_out(&self.cluster.client, &*object, claims).await?;
        let outcome = if not_back.is_none() && object.meta().deletion_timestamp.is_none() {
            self.carry_out(&key, &object, plan::plan(object.wanted(), &owned)).await
        } else {
            Ok(())
        };
        self.write_status(&object, &owned, outcome.as_ref().err()).await?;
        outcome.map_err(|(_, error)| error)?;
        let available = plan::next_available(&owned, object.min_ready_seconds(), Timestamp::now());
        Ok([available, not_back].into_iter().flatten().min())
    }

    async fn carry_out(&self, key: &Key, object: &K, plan: Plan) -> Result<(), (&'static str, kube::Error)> {
        if plan.create > 0 {
            return self.create(key, object, plan.create).await.map_err(|e| ("FailedCreate", e));
        }
        if plan.delete.is_empty() {
            return Ok(());
        }
        self.delete(key, object, plan.delete).await.map_err(|e| ("FailedDelete", e))
    }

    async fn create(&self, key: &Key, object: &K, count: usize) -> Result<(), kube::Error> {
        self.expectations.expect(key, count, []);
        let pod =
            pods::from_template(&object.template(), &key.namespace, &key.name, claim::reference(object));
        let (created, error) = pods::create(&self.cluster.client, &pod, count).await;
        for pod in &created {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            self.recorder.normal(object, "SuccessfulCreate", format!("Created pod: {name}"));
        }
        for _ in created.len()..count {
            self.expectations.created(key);
        }
        let Some(error) = error else { return Ok(()) };
        if answer::is_namespace_ending(&error) {
            return Ok(());
        }
        self.recorder.warning(object, "FailedCreate", format!("Error creating: {}", answer::words(&error)));
        Err(error)
    }

    async fn delete(&self, key: &Key, object: &K, surplus: Vec<Arc<Pod>>) -> Result<(), kube::Error> {
        let uid = |pod: &Arc<Pod>| pod.metadata.uid.clone().unwrap_or_default();
        self.expectations.expect(key, 0, surplus.iter().map(uid));
        let one = |pod: Arc<Pod>| async move {
            let answer = pods::delete(&self.cluster.client, &pod).await;
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            match &answer {
                Ok(()) => self.recorder.normal(object, "SuccessfulDelete", format!("Deleted pod: {name}")),
                Err(error) => {
                    self.expectations.deleted(key, &uid(&pod));
                    self.recorder.warning(
                        object,
                        "FailedDelete",
                        format!("Error deleting: {}", answer::words(error)),
                    );
                }
            }
            answer
        };
        join_all(surplus.into_iter().map(one)).await.into_iter().collect()
    }

    async fn write_status(
        &self,
        object: &K,
        owned: &[Arc<Pod>],
        failure: Option<&(&'static str, kube::Error)>,
    ) -> Result<(), kube::Error> {
        let labels = object.template().metadata.and_then(|m| m.labels).unwrap_or_default();
        let generation = object.meta().generation.unwrap_or_default();
        let counts = plan::counts(
            owned,
            Some(&selector::of_labels(&labels)),
            object.min_ready_seconds(),
            generation,
            Timestamp::now(),
        );
        let counts =
            Counts { failure: failure.map(|(reason, error)| (*reason, answer::words(error))), ..counts };
        let updated = object.with_counts(&counts);
        if same_status(object, &updated) {
            return Ok(());
        }
        let name = object.meta().name.as_deref().unwrap_or_default();
        let api: Api<K> = Api::namespaced(
            self.cluster.client.clone(),
            object.meta().namespace.as_deref().unwrap_or_default(),
        );
        match api.replace_status(name, &PostParams::default(), &updated).await {
            Ok(_) => Ok(()),
            // Gone or changed: the watch brings what is true, and with it another look.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn same_status<K: Replicas>(a: &K, b: &K) -> bool {
    let status = |object: &K| {
        let json: serde_json::Value = serde_json::from_slice(&object.to_json().ok()?).ok()?;
        json.get("status").cloned()
    };
    status(a) == status(b)
}
