//! The shell of the garbage collector: watches the metadata of everything that can be deleted.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use corten_client::WorkQueue;
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::sync::{Notify, watch};

use super::graph::{FOREGROUND, Graph, Node, ORPHAN, Place, Step, Uid};
use super::kinds::{Kinds, Resource, discover};
use crate::answer::gone_is_fine;
use crate::cluster::Cluster;

/// Absent owners that are remembered, so that a thousand dependents do not ask a thousand times.
const ABSENT: usize = 1000;
/// Between two looks at which kinds there are, at first and at most.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LAST_LOOK: Duration = Duration::from_secs(10);
/// Definitions come in crowds, and what they define is served a moment later.
const CROWD: Duration = Duration::from_millis(500);
/// The API server's own groups: they bring nothing that was not there.
const OWN_GROUP: &str = "kube-aggregator.kubernetes.io/automanaged";

struct Collector {
    cluster: Arc<Cluster>,
    kinds: RwLock<Kinds>,
    /// Something that makes kinds has changed.
    kinds_changed: Notify,
    graph: Mutex<Graph>,
    absent: Mutex<HashSet<Uid>>,
    queue: WorkQueue<Uid>,
}

/// Collects until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    let collector = Arc::new(Collector {
        cluster: cluster.clone(),
        kinds: RwLock::default(),
        kinds_changed: Notify::new(),
        graph: Mutex::default(),
        absent: Mutex::default(),
        queue: WorkQueue::new(),
    });
    let stop = cluster.stop.clone();
    tokio::select! {
        () = stop.cancelled() => return,
        () = collector.watch_all() => {}
    }
    let me = collector.clone();
    let reconcile = move |uid| {
        let me = me.clone();
        async move { me.look_at(uid).await }
    };
    let follow = async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = collector.follow_kinds() => {}
        }
    };
    tokio::join!(collector.queue.run(cluster.config.workers, stop.clone(), reconcile), follow);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Collector {
    /// Starts a watch per kind and waits until each has listed once: before that, owners only seem to be missing.
    async fn watch_all(self: &Arc<Self>) {
        let started = self.start_watches().await;
        for (_, mut listed) in started {
            // An error says that the watch's task has ended with the cluster, or its kind.
            let _ = listed.wait_for(|done| *done).await;
        }
    }

    /// Watches kinds that are defined later, and looks then at what they own: it may be garbage already.
    async fn follow_kinds(self: &Arc<Self>) {
        loop {
            self.kinds_changed.notified().await;
            tokio::time::sleep(CROWD).await;
            for (kind, mut listed) in self.start_watches().await {
                let me = self.clone();
                tokio::spawn(async move {
                    if listed.wait_for(|done| *done).await.is_ok() {
                        me.look_at_owned_by(kind);
                    }
                });
            }
        }
    }

    /// Starts the watches of kinds that have none; each tells when it has listed.
    async fn start_watches(self: &Arc<Self>) -> Vec<(usize, watch::Receiver<bool>)> {
        let mut pause = FIRST_LOOK;
        let found = loop {
            match discover(&self.cluster.client, &self.cluster.stop).await {
                Ok(found) => break found,
                Err(error) => tracing::debug!(%error, "discovery failed, trying again"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_LOOK);
        };
        let new = self.kinds.write().unwrap_or_else(PoisonError::into_inner).update(found);
        new.into_iter().filter_map(|kind| Some((kind, self.start_watch(kind)?))).collect()
    }

    fn start_watch(self: &Arc<Self>, kind: usize) -> Option<watch::Receiver<bool>> {
        let resource = self.kind(kind)?;
        let (tell, listed) = watch::channel(false);
        let me = self.clone();
        tokio::spawn(async move {
            let stop = resource.stop.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = me.watch(kind, &resource, tell) => {}
            }
        });
        Some(listed)
    }

    fn kind(&self, kind: usize) -> Option<Arc<Resource>> {
        self.kinds.read().unwrap_or_else(PoisonError::into_inner).get(kind)
    }

    fn look_at_owned_by(&self, kind: usize) {
        let Some(resource) = self.kind(kind) else { return };
        let owned = lock(&self.graph).owned_by(&resource.api.group, &resource.api.kind);
        owned.into_iter().for_each(|uid| self.queue.add(uid));
    }

    /// The definition of that name is gone, and its objects with it.
    fn end_kind(&self, name: &str) {
        let ended = self.kinds.write().unwrap_or_else(PoisonError::into_inner).end(name);
        let objects = ended.map(|kind| lock(&self.graph).of_resource(kind)).unwrap_or_default();
        objects.iter().for_each(|uid| self.remove(uid));
    }

    async fn watch(&self, resource: usize, kind: &Resource, listed: watch::Sender<bool>) {
        let api: Api<PartialObjectMeta<DynamicObject>> =
            Api::all_with(self.cluster.client.clone(), &kind.api);
        let mut events = pin!(watcher(api, watcher::Config::default()).backoff(corten_client::watch_pause()));
        let mut unseen = HashSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => unseen = lock(&self.graph).of_resource(resource),
                Ok(Event::InitApply(object)) => {
                    unseen.remove(object.uid().as_deref().unwrap_or_default());
                    self.set(resource, kind, &object);
                }
                Ok(Event::InitDone) => {
                    unseen.drain().for_each(|uid| self.remove(&uid));
                    listed.send_replace(true);
                }
                Ok(Event::Apply(object)) => self.set(resource, kind, &object),
                Ok(Event::Delete(object)) => self.remove(object.uid().as_deref().unwrap_or_default()),
                Err(error) => {
                    tracing::debug!(kind = kind.api.kind, %error, "watch broke, retrying")
                }
            }
        }
    }

    fn set(&self, resource: usize, kind: &Resource, object: &PartialObjectMeta<DynamicObject>) {
        if kind.makes_kinds() && !object.labels().contains_key(OWN_GROUP) {
            self.kinds_changed.notify_one();
        }
        let place =
            Place { resource, namespace: object.namespace().unwrap_or_default(), name: object.name_any() };
        let Some(uid) = object.uid() else { return };
        let (is_new, look) = {
            let mut graph = lock(&self.graph);
            (graph.get(&uid).is_none(), graph.set(&uid, Node::new(place, &object.metadata)))
        };
        if is_new {
            self.cluster.census.note(&kind.name(), &object.namespace().unwrap_or_default(), true);
        }
        look.into_iter().for_each(|uid| self.queue.add(uid));
    }

    fn remove(&self, uid: &str) {
        let (place, look) = {
            let mut graph = lock(&self.graph);
            (graph.get(uid).map(|node| node.place.clone()), graph.remove(uid))
        };
        self.note_absent(uid.to_owned());
        look.into_iter().for_each(|uid| self.queue.add(uid));
        let Some((kind, place)) = place.and_then(|place| Some((self.kind(place.resource)?, place))) else {
            return;
        };
        self.cluster.census.note(&kind.name(), &place.namespace, false);
        if kind.defines_kinds() {
            self.end_kind(&place.name);
        }
    }

    fn note_absent(&self, uid: Uid) {
        let mut absent = lock(&self.absent);
        if absent.len() >= ABSENT {
            absent.clear();
        }
        absent.insert(uid);
    }

    async fn look_at(&self, uid: Uid) -> Result<Option<Duration>, kube::Error> {
        let (step, node) = {
            let graph = lock(&self.graph);
            let Some(node) = graph.get(&uid).cloned() else { return Ok(None) };
            (graph.plan(&uid, &lock(&self.absent)), node)
        };
        match step {
            Step::Keep => Ok(()),
            Step::Ask(owners) => self.ask(&uid, &node, owners).await,
            Step::Disown(owners) => self.disown(&uid, &node, &owners).await,
            Step::Delete { foreground } => self.delete(&uid, &node, foreground).await,
            Step::DeleteDependents(dependents) => {
                dependents.into_iter().for_each(|d| self.queue.add(d));
                Ok(())
            }
            Step::Orphan(dependents) => self.orphan(&uid, &node, dependents).await,
            Step::LetGo => self.remove_finalizer(&uid, &node, FOREGROUND).await,
        }
        .map(|()| None)
    }

    /// `None`: nobody knows its kind any more.
    fn api(&self, node: &Node) -> Option<Api<DynamicObject>> {
        self.api_at(node.place.resource, &node.place.namespace)
    }

    fn api_at(&self, kind: usize, namespace: &str) -> Option<Api<DynamicObject>> {
        let (kind, client) = (self.kind(kind)?, self.cluster.client.clone());
        Some(if kind.namespaced && !namespace.is_empty() {
            Api::namespaced_with(client, namespace, &kind.api)
        } else {
            Api::all_with(client, &kind.api)
        })
    }

    /// The object as the API has it, if it is this one still. What the graph knows may be older: each kind has a watch of its own.
    async fn live(
        &self,
        uid: &Uid,
        node: &Node,
    ) -> Result<Option<(Api<DynamicObject>, PartialObjectMeta<DynamicObject>)>, kube::Error> {
        let Some(api) = self.api(node) else { return Ok(None) };
        let found = api.get_metadata_opt(&node.place.name).await?;
        Ok(found.filter(|object| object.metadata.uid.as_ref() == Some(uid)).map(|object| (api, object)))
    }

    /// Is an owner that the graph does not know really not there? An owner of a kind that nobody serves is not judged.
    async fn ask(&self, uid: &Uid, node: &Node, owners: Vec<OwnerReference>) -> Result<(), kube::Error> {
        let mut found_absent = false;
        for owner in owners {
            let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
            let kind = self.kinds.read().unwrap_or_else(PoisonError::into_inner).find(group, &owner.kind);
            let Some(api) = kind.and_then(|kind| self.api_at(kind, &node.place.namespace)) else { continue };
            let found = api.get_metadata_opt(&owner.name).await?;
            if found.is_none_or(|o| o.metadata.uid.as_deref() != Some(&owner.uid)) {
                self.note_absent(owner.uid);
                found_absent = true;
            }
        }
        if found_absent {
            self.queue.add(uid.clone());
        }
        Ok(())
    }

    async fn disown(&self, uid: &Uid, node: &Node, owners: &[Uid]) -> Result<(), kube::Error> {
        let Some((api, live)) = self.live(uid, node).await? else { return Ok(()) };
        let (gone, kept): (Vec<_>, Vec<_>) =
            live.owner_references().iter().partition(|o| owners.contains(&o.uid));
        if gone.is_empty() {
            return Ok(());
        }
        let version = &live.metadata.resource_version;
        let patch =
            json!({ "metadata": { "uid": uid, "resourceVersion": version, "ownerReferences": kept } });
        gone_is_fine(api.patch(&node.place.name, &PatchParams::default(), &Patch::Merge(patch)).await)
    }

    /// Deletes the object if the API shows the owners that were judged. An owner that orphaned its dependents may be seen to go before
    /// they are seen to be free; then the watch brings them, and with them another look.
    async fn delete(&self, uid: &Uid, node: &Node, foreground: bool) -> Result<(), kube::Error> {
        let Some((api, live)) = self.live(uid, node).await? else { return Ok(()) };
        if live.owner_references() != node.owners || live.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let params = if foreground { DeleteParams::foreground() } else { DeleteParams::background() };
        let exactly =
            Preconditions { uid: Some(uid.clone()), resource_version: live.metadata.resource_version };
        let params = DeleteParams { preconditions: Some(exactly), ..params };
        gone_is_fine(api.delete(&node.place.name, &params).await)
    }

    async fn orphan(&self, uid: &Uid, node: &Node, dependents: Vec<Uid>) -> Result<(), kube::Error> {
        for dependent in dependents {
            let found = lock(&self.graph).get(&dependent).cloned();
            if let Some(found) = found {
                self.disown(&dependent, &found, std::slice::from_ref(uid)).await?;
            }
        }
        self.remove_finalizer(uid, node, ORPHAN).await
    }

    async fn remove_finalizer(&self, uid: &Uid, node: &Node, finalizer: &str) -> Result<(), kube::Error> {
        let Some((api, object)) = self.live(uid, node).await? else { return Ok(()) };
        let kept: Vec<_> = object.finalizers().iter().filter(|f| *f != finalizer).collect();
        let patch = json!({ "metadata": { "uid": uid, "resourceVersion": object.metadata.resource_version, "finalizers": kept } });
        gone_is_fine(api.patch(&node.place.name, &PatchParams::default(), &Patch::Merge(patch)).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corten_client::Informers;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use kube::api::ApiResource;
    use kube::client::Body;
    use serde_json::{Value, from_value};
    use tokio_util::sync::CancellationToken;

    /// A collector before an API that answers everything with one pod and notes what is written.
    fn collector(pod: Value) -> (Collector, Arc<Mutex<Vec<http::Method>>>) {
        let writes: Arc<Mutex<Vec<http::Method>>> = Arc::default();
        let noted = writes.clone();
        let client = corten_client::in_process(tower::service_fn(move |request: http::Request<Body>| {
            if request.method() != http::Method::GET {
                lock(&noted).push(request.method().clone());
            }
            let body = Body::from(pod.to_string().into_bytes());
            async move { Ok::<_, std::convert::Infallible>(http::Response::new(body)) }
        }));
        let stop = CancellationToken::new();
        let informers = Informers::new(client.clone(), stop.clone());
        let cluster = Cluster::start(client, &informers, crate::Config::default(), stop.clone());
        let api = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
        let mut kinds = Kinds::default();
        kinds.update(vec![Resource { api, namespaced: true, stop }]);
        let collector = Collector {
            cluster,
            kinds: RwLock::new(kinds),
            kinds_changed: Notify::new(),
            graph: Mutex::default(),
            absent: Mutex::default(),
            queue: WorkQueue::new(),
        };
        (collector, writes)
    }

    #[tokio::test]
    async fn nothing_is_deleted_for_owners_that_the_api_does_not_show_any_more() {
        let owners = json!([{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "gone" }]);
        let meta = |owners: Value| {
            json!({ "name": "p", "namespace": "ns", "uid": "p", "resourceVersion": "7",
                                           "ownerReferences": owners })
        };
        let with = |field: &str, value: &str| {
            let mut meta = meta(owners.clone());
            meta[field] = json!(value);
            meta
        };
        let table = [
            (meta(owners.clone()), true),
            (meta(json!([])), false),
            (with("uid", "another"), false),
            (with("deletionTimestamp", "2026-01-01T00:00:00Z"), false),
        ];
        let known: ObjectMeta = from_value(meta(owners.clone())).unwrap();
        let place = Place { resource: 0, namespace: "ns".into(), name: "p".into() };
        for (live, goes) in table {
            let (collector, writes) =
                collector(json!({ "apiVersion": "v1", "kind": "Pod", "metadata": live.clone() }));
            collector.delete(&"p".to_owned(), &Node::new(place.clone(), &known), false).await.unwrap();
            let expected = if goes { vec![http::Method::DELETE] } else { Vec::new() };
            assert_eq!(*lock(&writes), expected, "{live}");
        }
    }
}
