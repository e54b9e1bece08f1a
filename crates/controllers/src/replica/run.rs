//! The shell of the replica controllers.

use std::sync::Arc;
use std::time::Duration;

use corten_client::{Change, Key, Recorder, WorkQueue};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;

use super::kind::{Counts, Replicas};
use super::plan::{self, Plan};
use crate::claim::{self, controller_of};
use crate::cluster::Cluster;
use crate::expect::Expectations;
use crate::pods;
use corten_client::selector;

struct Controller<K: Replicas> {
    cluster: Arc<Cluster>,
    recorder: Recorder,
    queue: WorkQueue<Key>,
    expectations: Expectations,
    kind: std::marker::PhantomData<fn() -> K>,
}

/// Keeps the pods of all objects of one kind until the cluster's stop.
pub async fn run<K: Replicas>(cluster: &Arc<Cluster>) {
    let controller = Arc::new(Controller::<K> {
        cluster: cluster.clone(),
        recorder: cluster.recorder(K::CONTROLLER),
        queue: WorkQueue::new(),
        expectations: Expectations::default(),
        kind: std::marker::PhantomData,
    });
    let me = controller.clone();
    K::informer(cluster).on_change(move |change| me.queue.add(Key::of(&**change.object())));
    let me = controller.clone();
    cluster.pods.on_change(move |change| me.pod_changed(change));
    let me = controller.clone();
    let reconcile = move |key| {
        let me = me.clone();
        async move { me.reconcile(key).await }
    };
    controller.queue.run(cluster.config.workers, cluster.stop.clone(), reconcile).await;
}

impl<K: Replicas> Controller<K> {
    fn pod_changed(&self, change: &Change<Pod>) {
        let pod = change.object();
        if let Change::Updated { old, .. } = change
            && let Some(before) = self.owner(old)
            && self.owner(pod).as_ref() != Some(&before)
        {
            self.queue.add(before);
        }
        match self.owner(pod) {
            Some(owner) => {
                self.note(change, &owner);
                self.queue.add(owner);
            }
            None if controller_of(&pod.metadata).is_none() => self.wake_those_that_may_adopt(pod),
            None => {}
        }
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

    fn wake_those_that_may_adopt(&self, pod: &Pod) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for object in K::informer(&self.cluster).list_namespace(namespace) {
            let by = object.selector();
            if !selector::is_empty(&by) && selector::matches(&by, pod.metadata.labels.as_ref()) {
                self.queue.add(Key::of(&*object));
            }
        }
    }

    async fn reconcile(&self, key: Key) -> Result<Option<Duration>, kube::Error> {
        let Some(object) = K::informer(&self.cluster).get(&key) else {
            self.expectations.forget(&key);
            return Ok(None);
        };
        let by = object.selector();
        if selector::is_empty(&by) {
            return Ok(None);
        }
        let writes_are_back = self.expectations.met(&key);
        let claims = claim::claim(object.meta(), &by, self.cluster.pods.list_namespace(&key.namespace));
        let owned = claim::carry_out(&self.cluster.client, &*object, claims).await?;
        let outcome = if writes_are_back && object.meta().deletion_timestamp.is_none() {
            self.carry_out(&key, &object, plan::plan(object.wanted(), &owned)).await
        } else {
            Ok(())
        };
        self.write_status(&object, &owned, outcome.as_ref().err()).await?;
        outcome.map_err(|(_, error)| error)?;
        Ok(plan::next_available(&owned, object.min_ready_seconds(), Timestamp::now()))
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
        if is_namespace_ending(&error) {
            return Ok(());
        }
        self.recorder.warning(object, "FailedCreate", format!("Error creating: {}", words(&error)));
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
                        format!("Error deleting: {}", words(error)),
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
        let counts = Counts { failure: failure.map(|(reason, error)| (*reason, words(error))), ..counts };
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
    let status = |object: &K| serde_json::to_value(object).ok().and_then(|v| v.get("status").cloned());
    status(a) == status(b)
}

/// What an error says, without our client's own words.
fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// A namespace that is being deleted takes no pods; trying on would only make noise.
fn is_namespace_ending(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|d| &d.causes);
    status.code == 403 && causes.into_iter().any(|c| c.reason == "NamespaceTerminating")
}
