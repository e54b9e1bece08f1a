//! The shell of the Endpoints controller.

use std::sync::Arc;
use std::time::Duration;

use corten_client::Api;
use corten_client::{Change, Key, Recorder};
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};

use super::trigger::Triggers;
use super::{facts, legacy};
use crate::answer;
use crate::cluster::Cluster;
use crate::expect::Written;
use crate::shell::Shell;

struct Controller {
    cluster: Arc<Cluster>,
    recorder: Recorder,
    written: Written,
    triggers: Triggers,
}

/// Keeps the Endpoints of services with a selector until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    let controller = Controller {
        cluster: cluster.clone(),
        recorder: cluster.recorder("endpoint-controller"),
        written: Written::default(),
        triggers: Triggers::default(),
    };
    let shell = Shell::open(cluster, controller)
        .each(&cluster.services)
        .wakes(&cluster.endpoints, |me, change| woken_by_endpoints(&me.cluster, change))
        .wakes(&cluster.pods, |me, change| facts::woken_by_pod(&me.cluster, change));
    // Services may have gone while nobody looked.
    let queue = shell.queue();
    cluster.endpoints.list().iter().for_each(|endpoints| queue.add(Key::of(&**endpoints)));
    shell.run(cluster.config.workers, Controller::reconcile).await;
}

/// Endpoints made by hand may come before their service, or belong to none: they are left alone until a service of their
/// name has been there and goes.
fn woken_by_endpoints(cluster: &Cluster, change: &Change<Endpoints>) -> Option<Key> {
    let key = Key::of(&**change.object());
    let is_ours = matches!(change, Change::Deleted(_)) || cluster.services.get(&key).is_some();
    is_ours.then_some(key)
}

/// Records of leader election that old clients keep in Endpoints: such objects belong to no service.
pub(super) fn is_election(meta: &ObjectMeta) -> bool {
    meta.annotations.iter().flatten().any(|(key, _)| key == "control-plane.alpha.kubernetes.io/leader")
}

impl Controller {
    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Option<Duration>, kube::Error> {
        let present = self.cluster.endpoints.get(&key);
        if let Some(delay) = self.written.missing(&key, present.iter().map(|e| &e.metadata)) {
            return Ok(Some(delay));
        }
        let Some(service) = self.cluster.services.get(&key) else {
            self.triggers.forget(&key);
            return self.delete(&key, present.as_deref()).await;
        };
        if !facts::is_kept(&service) {
            return Ok(None);
        }
        let pods = facts::selected(&self.cluster, &service);
        let triggered = self.triggers.look(&key, &service, &pods);
        let Some(next) = legacy::plan(&service, &pods, present.as_deref(), triggered) else {
            return Ok(None);
        };
        let api: Api<Endpoints> = Api::namespaced(self.cluster.client.clone(), &key.namespace);
        let (answer, reason, failure) = match &present {
            None => (
                api.create(&PostParams::default(), &next).await,
                "FailedToCreateEndpoint",
                format!("Failed to create endpoint for service {key}"),
            ),
            Some(_) => (
                api.replace(&key.name, &PostParams::default(), &next).await,
                "FailedToUpdateEndpoint",
                format!("Failed to update endpoint {key}"),
            ),
        };
        match answer {
            Ok(made) => self.written.wrote(&key, &made.metadata),
            Err(error) if answer::is_namespace_ending(&error) => {}
            Err(error) => {
                if !answer::is_conflict(&error) {
                    let message = format!("{failure}: {}", answer::words(&error));
                    self.recorder.warning(&next, reason, message);
                }
                return Err(error);
            }
        }
        Ok(None)
    }

    /// A service takes its Endpoints along, those made by hand, too (upstream's rule).
    async fn delete(&self, key: &Key, present: Option<&Endpoints>) -> Result<Option<Duration>, kube::Error> {
        self.written.forget(key);
        let Some(endpoints) = present.filter(|e| !is_election(&e.metadata)) else { return Ok(None) };
        let api: Api<Endpoints> = Api::namespaced(self.cluster.client.clone(), &key.namespace);
        // The cache of services may be behind that of Endpoints.
        let services: Api<k8s_openapi::api::core::v1::Service> =
            Api::namespaced(self.cluster.client.clone(), &key.namespace);
        if services.get_opt(&key.name).await?.is_some() {
            return Ok(None);
        }
        let exactly =
            kube::api::Preconditions { uid: endpoints.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(exactly), ..DeleteParams::default() };
        answer::changed_is_fine(api.delete(&key.name, &params).await)?;
        Ok(None)
    }
}
