//! The API's copy of a static pod, its mirror: made where it is missing, made again when somebody deletes it, replaced when
//! the pod's file has changed, kept true. The pod itself never waits for it: it runs without an API, too.

use std::sync::Arc;
use std::time::Duration;

use corten_client::Api;
use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Error;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use tokio::sync::watch;

use super::publish::{Outbox, status_patch};
use super::spec;
use crate::host::{Host, Waker};
use crate::labels;

/// First pause after the API has refused or has not answered.
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// Longest pause.
const RETRY_LONGEST: Duration = Duration::from_secs(10);

/// Keeper of one mirror.
pub struct Mirror {
    host: Arc<Host>,
    api: Api<Pod>,
    pod: Arc<Pod>,
    waker: Arc<Waker>,
}

impl Mirror {
    /// A keeper for the static pod.
    pub fn new(host: Arc<Host>, pod: Arc<Pod>) -> Self {
        let api = Api::namespaced(host.config.client.clone(), spec::namespace(&pod));
        let waker = host.mirrors.register(spec::uid(&pod));
        Self { host, api, pod, waker }
    }

    /// Works until the pod is finished or its worker has gone.
    pub async fn run(self, mut outbox: watch::Receiver<Outbox>) {
        let mut pause = RETRY_FIRST;
        loop {
            let wanted = outbox.borrow_and_update().clone();
            match self.sync(&wanted).await {
                Ok(()) if wanted.finish => break,
                Ok(()) => {
                    pause = RETRY_FIRST;
                    tokio::select! {
                        changed = outbox.changed() => if changed.is_err() { break },
                        () = self.waker.woken() => {}
                    }
                }
                Err(error) => {
                    tracing::debug!(pod = spec::name(&self.pod), %error, "the mirror pod is not as it should be");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_LONGEST);
                }
            }
        }
        self.host.mirrors.remove(spec::uid(&self.pod));
    }

    async fn sync(&self, wanted: &Outbox) -> Result<(), Error> {
        let found = self.find().await?.map(|pod| (fate(&pod, spec::uid(&self.pod), wanted.finish), pod));
        let mirror = match found {
            Some((Fate::Keep, pod)) => pod,
            Some((Fate::Foreign, _)) => return Ok(()),
            Some((Fate::Remove, pod)) => {
                self.delete(&pod).await?;
                return match wanted.finish {
                    true => Ok(()),
                    false => self.create(wanted).await,
                };
            }
            None if wanted.finish => return Ok(()),
            None => return self.create(wanted).await,
        };
        self.tell(&mirror, wanted.status.as_ref()).await
    }

    /// By a list, because nodes may only get pods that are there and theirs.
    async fn find(&self) -> Result<Option<Pod>, Error> {
        let (node, name) = (&self.host.config.node_name, spec::name(&self.pod));
        let fields = format!("spec.nodeName={node},metadata.name={name}");
        Ok(self.api.list(&ListParams::default().fields(&fields)).await?.items.into_iter().next())
    }

    async fn create(&self, wanted: &Outbox) -> Result<(), Error> {
        let Some(node) = self.host.node.list().first().cloned() else {
            // Its uid is needed. It comes with the first answer of the API, which wakes nobody here.
            return Err(Error::Service("the node is not registered yet".into()));
        };
        let mirror = self.api.create(&PostParams::default(), &copy(&self.pod, &node)).await?;
        self.tell(&mirror, wanted.status.as_ref()).await
    }

    async fn tell(&self, mirror: &Pod, status: Option<&PodStatus>) -> Result<(), Error> {
        let before = mirror.status.clone().unwrap_or_default();
        let Some(patch) = status.and_then(|status| status_patch(spec::uid(mirror), &before, status)) else {
            return Ok(());
        };
        let name = spec::name(mirror);
        self.api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await.map(drop)
    }

    async fn delete(&self, pod: &Pod) -> Result<(), Error> {
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        match self.api.delete(spec::name(pod), &params).await {
            Err(Error::Api(status)) if status.code == 404 => Ok(()),
            other => other.map(drop),
        }
    }
}

/// What becomes of the pod that the API has under a static pod's name.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It is the mirror.
    Keep,
    /// It was: of another version of the file, being deleted, or no longer wanted.
    Remove,
    /// Somebody's own pod; or, at the end, the mirror of a newer version.
    Foreign,
}

fn fate(found: &Pod, hash: &str, finish: bool) -> Fate {
    let current = match spec::annotation(found, labels::CONFIG_MIRROR) {
        None => return Fate::Foreign,
        Some(of) => of == hash,
    };
    match (current, finish) {
        (true, false) if found.metadata.deletion_timestamp.is_none() => Fate::Keep,
        (false, true) => Fate::Foreign,
        _ => Fate::Remove,
    }
}

/// The mirror of `pod`: owned by its node, marked with the hash of its file.
fn copy(pod: &Pod, node: &Node) -> Pod {
    let mut annotations = pod.metadata.annotations.clone().unwrap_or_default();
    annotations.insert(labels::CONFIG_MIRROR.to_owned(), spec::uid(pod).to_owned());
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    Pod {
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            labels: pod.metadata.labels.clone(),
            annotations: Some(annotations),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: pod.spec.clone(),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(metadata: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": metadata, "spec": {"containers": []}})).unwrap()
    }

    #[test]
    fn fates() {
        let mirror = |hash: &str| json!({"annotations": {labels::CONFIG_MIRROR: hash}});
        let mut ending = mirror("h");
        ending["deletionTimestamp"] = json!("2020-01-01T00:00:00Z");
        for (metadata, finish, expected) in [
            (mirror("h"), false, Fate::Keep),
            (mirror("h"), true, Fate::Remove),
            (mirror("old"), false, Fate::Remove),
            (mirror("newer"), true, Fate::Foreign),
            (ending, false, Fate::Remove),
            (json!({}), false, Fate::Foreign),
        ] {
            assert_eq!(fate(&pod(metadata.clone()), "h", finish), expected, "{metadata} {finish}");
        }
    }

    #[test]
    fn mirrors() {
        let node = serde_json::from_value(json!({"metadata": {"name": "n1", "uid": "nu"}})).unwrap();
        let own = pod(json!({"name": "p-n1", "namespace": "kube-system", "uid": "h", "labels": {"a": "b"},
            "annotations": {labels::CONFIG_HASH: "h"}}));
        let made = serde_json::to_value(copy(&own, &node)).unwrap();
        assert_eq!(
            made["metadata"]["annotations"],
            json!({labels::CONFIG_HASH: "h", labels::CONFIG_MIRROR: "h"})
        );
        assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "nu");
        assert!(made["metadata"].get("uid").is_none());
    }
}
