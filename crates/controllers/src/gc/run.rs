//! The shell of the garbage collector: watches the metadata of everything that can be deleted.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use corten_client::WorkQueue;
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::discovery::{Scope, verbs};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Discovery, ResourceExt};
use serde_json::json;
use tokio::sync::watch;

use super::graph::{FOREGROUND, Graph, Node, ORPHAN, Place, Step, Uid};
use crate::answer::changed_is_fine;
use crate::cluster::Cluster;

/// Kinds whose objects never own and are never owned in earnest; they come and go too often to be watched.
const IGNORED: &[&str] = &["Event"];
/// Absent owners that are remembered, so that a thousand dependents do not ask a thousand times.
const ABSENT: usize = 1000;

struct Resource {
    api: ApiResource,
    namespaced: bool,
}

impl Resource {
    /// `pods`, `deployments.apps`.
    fn name(&self) -> String {
        match self.api.group.as_str() {
            "" => self.api.plural.clone(),
            group => format!("{}.{group}", self.api.plural),
        }
    }
}

struct Collector {
    cluster: Arc<Cluster>,
    resources: Vec<Resource>,
    by_kind: HashMap<(String, String), usize>,
    graph: Mutex<Graph>,
    absent: Mutex<HashSet<Uid>>,
    queue: WorkQueue<Uid>,
}

/// Collects until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    let mut pause = Duration::from_millis(100);
    let resources = loop {
        match discover(cluster).await {
            Ok(resources) => break resources,
            Err(error) => tracing::debug!(%error, "discovery failed, trying again"),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = cluster.stop.cancelled() => return,
        }
        pause = (pause * 2).min(Duration::from_secs(10));
    };
    let by_kind =
        resources.iter().enumerate().map(|(i, r)| ((r.api.group.clone(), r.api.kind.clone()), i)).collect();
    let collector = Arc::new(Collector {
        cluster: cluster.clone(),
        resources,
        by_kind,
        graph: Mutex::default(),
        absent: Mutex::default(),
        queue: WorkQueue::new(),
    });
    collector.watch_all().await;
    let me = collector.clone();
    let reconcile = move |uid| {
        let me = me.clone();
        async move { me.look_at(uid).await }
    };
    collector.queue.run(cluster.config.workers, cluster.stop.clone(), reconcile).await;
}

async fn discover(cluster: &Cluster) -> Result<Vec<Resource>, kube::Error> {
    let discovery = Discovery::new(cluster.client.clone()).run().await?;
    let mut resources = Vec::new();
    for (api, can) in discovery.groups().flat_map(|g| g.recommended_resources()) {
        let all = [verbs::DELETE, verbs::LIST, verbs::WATCH].iter().all(|verb| can.supports_operation(verb));
        if all && !IGNORED.contains(&api.kind.as_str()) {
            resources.push(Resource { api, namespaced: can.scope == Scope::Namespaced });
        }
    }
    Ok(resources)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Collector {
    /// Starts a watch per resource and waits until each has listed once: before that, owners only seem to be missing.
    async fn watch_all(self: &Arc<Self>) {
        let mut synced = Vec::new();
        for resource in 0..self.resources.len() {
            let (tell, listed) = watch::channel(false);
            let me = self.clone();
            tokio::spawn(async move {
                let stop = me.cluster.stop.clone();
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = me.watch(resource, tell) => {}
                }
            });
            synced.push(listed);
        }
        for listed in &mut synced {
            // An error says that the watch's task has ended with the cluster.
            let _ = listed.wait_for(|done| *done).await;
        }
    }

    async fn watch(&self, resource: usize, listed: watch::Sender<bool>) {
        let api: Api<PartialObjectMeta<DynamicObject>> =
            Api::all_with(self.cluster.client.clone(), &self.resources[resource].api);
        let mut events = pin!(watcher(api, watcher::Config::default()).backoff(corten_client::watch_pause()));
        let mut unseen = HashSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => unseen = lock(&self.graph).of_resource(resource),
                Ok(Event::InitApply(object)) => {
                    unseen.remove(object.uid().as_deref().unwrap_or_default());
                    self.set(resource, &object);
                }
                Ok(Event::InitDone) => {
                    unseen.drain().for_each(|uid| self.remove(&uid));
                    listed.send_replace(true);
                }
                Ok(Event::Apply(object)) => self.set(resource, &object),
                Ok(Event::Delete(object)) => self.remove(object.uid().as_deref().unwrap_or_default()),
                Err(error) => {
                    tracing::debug!(kind = self.resources[resource].api.kind, %error, "watch broke, retrying")
                }
            }
        }
    }

    fn set(&self, resource: usize, object: &PartialObjectMeta<DynamicObject>) {
        let place =
            Place { resource, namespace: object.namespace().unwrap_or_default(), name: object.name_any() };
        let Some(uid) = object.uid() else { return };
        let (is_new, look) = {
            let mut graph = lock(&self.graph);
            (graph.get(&uid).is_none(), graph.set(&uid, Node::new(place, &object.metadata)))
        };
        if is_new {
            self.cluster.census.note(
                &self.resources[resource].name(),
                &object.namespace().unwrap_or_default(),
                true,
            );
        }
        look.into_iter().for_each(|uid| self.queue.add(uid));
    }

    fn remove(&self, uid: &str) {
        let (place, look) = {
            let mut graph = lock(&self.graph);
            (graph.get(uid).map(|node| node.place.clone()), graph.remove(uid))
        };
        if let Some(place) = place {
            self.cluster.census.note(&self.resources[place.resource].name(), &place.namespace, false);
        }
        self.note_absent(uid.to_owned());
        look.into_iter().for_each(|uid| self.queue.add(uid));
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

    fn api(&self, node: &Node) -> Api<DynamicObject> {
        self.api_at(node.place.resource, &node.place.namespace)
    }

    fn api_at(&self, resource: usize, namespace: &str) -> Api<DynamicObject> {
        let resource = &self.resources[resource];
        let client = self.cluster.client.clone();
        if resource.namespaced && !namespace.is_empty() {
            Api::namespaced_with(client, namespace, &resource.api)
        } else {
            Api::all_with(client, &resource.api)
        }
    }

    /// Is an owner that the graph does not know really not there? An owner of a kind that nobody serves is not judged.
    async fn ask(&self, uid: &Uid, node: &Node, owners: Vec<OwnerReference>) -> Result<(), kube::Error> {
        let mut found_absent = false;
        for owner in owners {
            let group = owner.api_version.split_once('/').map_or("", |(group, _)| group).to_owned();
            let Some(resource) = self.by_kind.get(&(group, owner.kind.clone())) else { continue };
            let found = self.api_at(*resource, &node.place.namespace).get_metadata_opt(&owner.name).await?;
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
        let kept: Vec<_> = node.owners.iter().filter(|o| !owners.contains(&o.uid)).collect();
        let patch = json!({ "metadata": { "uid": uid, "ownerReferences": kept } });
        let answer =
            self.api(node).patch(&node.place.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        changed_is_fine(answer)
    }

    async fn delete(&self, uid: &Uid, node: &Node, foreground: bool) -> Result<(), kube::Error> {
        let params = if foreground { DeleteParams::foreground() } else { DeleteParams::background() };
        let exactly = Preconditions { uid: Some(uid.clone()), resource_version: None };
        let params = DeleteParams { preconditions: Some(exactly), ..params };
        changed_is_fine(self.api(node).delete(&node.place.name, &params).await)
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
        let api = self.api(node);
        let Some(object) = api.get_metadata_opt(&node.place.name).await? else { return Ok(()) };
        if object.metadata.uid.as_ref() != Some(uid) {
            return Ok(());
        }
        let kept: Vec<_> = object.finalizers().iter().filter(|f| *f != finalizer).collect();
        let patch = json!({ "metadata": { "uid": uid, "resourceVersion": object.metadata.resource_version, "finalizers": kept } });
        match api.patch(&node.place.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            answer => answer.map(drop),
        }
    }
}
