//! Empties namespaces that are being deleted, and lets them go when they are empty.

mod conditions;

use std::sync::Arc;
use std::time::Duration;

use corten_client::{Change, Key};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::PartialObjectMeta;
use kube::discovery::{ApiCapabilities, Scope, verbs};
use kube::{Api, Discovery};
use serde_json::json;

use self::conditions::Seen;
use crate::answer::gone_is_fine;
use crate::cluster::Cluster;
use crate::shell::Shell;

/// The finalizer in a namespace's spec that stands for this controller.
const FINALIZER: &str = "kubernetes";

/// Why a namespace could not be emptied yet.
#[derive(Debug, thiserror::Error)]
pub enum NotEmpty {
    /// The API said no, or nothing.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// Objects are on their way out, which takes time, or could not be deleted.
    #[error("{0}")]
    Remaining(String),
}

/// Objects go in crowds: so long after the first of them it is looked who is left.
const CROWD: Duration = Duration::from_millis(500);

/// Empties namespaces until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    let ends = |namespace: &Namespace| namespace.metadata.deletion_timestamp.is_some();
    let shell = Shell::open(cluster, cluster.clone());
    let (queue, me) = (shell.queue(), cluster.clone());
    // What a finalizer held may go long after the deletion was asked for, when a retry is many minutes away.
    cluster.census.on_change(move |_, namespace, _| {
        let key = Key::new("", namespace);
        if me.namespaces.get(&key).is_some_and(|n| ends(&n)) {
            queue.add_after(key, CROWD);
        }
    });
    shell
        .wakes(&cluster.namespaces, move |_, change| {
            Some(Key::of(&**change.object())).filter(|_| ends(change.object()))
        })
        // Pods take the longest to go: look again when one is gone.
        .wakes(&cluster.pods, move |me, change| {
            let Change::Deleted(pod) = change else { return None };
            let key = Key::new("", pod.metadata.namespace.clone()?);
            me.namespaces.get(&key).is_some_and(|n| ends(&n)).then_some(key)
        })
        .run(cluster.config.workers, |me, key| async move { reconcile(&me, key).await })
        .await;
}

async fn reconcile(cluster: &Cluster, key: Key) -> Result<Option<Duration>, NotEmpty> {
    let Some(namespace) = cluster.namespaces.get(&key) else { return Ok(None) };
    let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.clone()).unwrap_or_default();
    if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|f| f == FINALIZER) {
        return Ok(None);
    }
    let seen = empty(cluster, &key.name).await;
    write_conditions(cluster, &namespace, &seen).await?;
    if let Some(obstacle) = seen.obstacle() {
        return Err(NotEmpty::Remaining(obstacle));
    }
    finish(cluster, &namespace).await?;
    Ok(None)
}

/// Deletes everything of every kind. A kind that cannot be deleted stands in the way of no other.
async fn empty(cluster: &Cluster, namespace: &str) -> Seen {
    let discovery = match Discovery::new(cluster.client.clone()).run().await {
        Ok(discovery) => discovery,
        Err(error) => return Seen { undiscovered: Some(error.to_string()), ..Seen::default() },
    };
    let kinds = discovery.groups().flat_map(|g| g.recommended_resources());
    let mut kinds: Vec<_> = kinds.filter(|(_, can)| is_ours(can)).map(|(resource, _)| resource).collect();
    let is_pods = |r: &ApiResource| r.group.is_empty() && r.plural == "pods";
    kinds.sort_by_key(|r| !is_pods(r));
    let mut seen = Seen::default();
    for resource in kinds {
        // Pods may need the rest (policies, secrets) as long as they run: it stays until they are gone.
        if !is_pods(&resource) && seen.remaining.contains_key("pods.") {
            break;
        }
        let api: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), namespace, &resource);
        match empty_kind(&api).await {
            Ok(left) => note(&mut seen, &resource, &left),
            Err(error) => seen.failures.push(error.to_string()),
        }
    }
    seen
}

fn note(seen: &mut Seen, resource: &ApiResource, left: &[PartialObjectMeta<DynamicObject>]) {
    if left.is_empty() {
        return;
    }
    seen.remaining.insert(format!("{}.{}", resource.plural, resource.group), left.len());
    for finalizer in left.iter().flat_map(|object| object.metadata.finalizers.iter().flatten()) {
        *seen.finalizers.entry(finalizer.clone()).or_default() += 1;
    }
}

fn is_ours(can: &ApiCapabilities) -> bool {
    can.scope == Scope::Namespaced
        && can.supports_operation(verbs::DELETE_COLLECTION)
        && can.supports_operation(verbs::LIST)
}

/// What is left after all were told to go.
async fn empty_kind(api: &Api<DynamicObject>) -> Result<Vec<PartialObjectMeta<DynamicObject>>, kube::Error> {
    let some = ListParams::default().limit(1);
    if api.list_metadata(&some).await?.items.is_empty() {
        return Ok(Vec::new());
    }
    api.delete_collection(&DeleteParams::background(), &ListParams::default()).await?;
    Ok(api.list_metadata(&ListParams::default()).await?.items)
}

async fn write_conditions(cluster: &Cluster, namespace: &Namespace, seen: &Seen) -> Result<(), kube::Error> {
    let old = namespace.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let Some(conditions) = conditions::after(old, seen, Timestamp::now()) else { return Ok(()) };
    let patch = Patch::Strategic(json!({ "status": { "conditions": conditions } }));
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    gone_is_fine(api.patch_status(name, &PatchParams::default(), &patch).await)
}

async fn finish(cluster: &Cluster, namespace: &Namespace) -> Result<(), kube::Error> {
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    let Some(mut fresh) = api.get_opt(name).await? else { return Ok(()) };
    if let Some(finalizers) = fresh.spec.as_mut().and_then(|s| s.finalizers.as_mut()) {
        finalizers.retain(|f| f != FINALIZER);
    }
    let answer = api.replace_subresource::<Namespace>("finalize", name, &PostParams::default(), &fresh).await;
    gone_is_fine(answer)
}
