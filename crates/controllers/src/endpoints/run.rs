//! The shell of the endpoint slice controller.

use std::sync::Arc;
use std::time::Duration;

use corten_client::{Change, Key, Recorder};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::slices::{self, CONTROLLER, Observed};
use super::trigger::Triggers;
use super::{MANAGED_BY, SERVICE_NAME, facts, write};
use crate::answer;
use crate::cluster::Cluster;
use crate::expect::Written;
use crate::index::Index;
use crate::shell::Shell;

/// Why a service has to be looked at again.
#[derive(Debug, thiserror::Error)]
enum Again {
    #[error(transparent)]
    Write(#[from] write::Failed),
    /// The cache of nodes is behind, or the pods' nodes are gone and the pods will follow.
    #[error("no node for pods {0:?}")]
    Lost(Vec<String>),
}

struct Controller {
    cluster: Arc<Cluster>,
    recorder: Recorder,
    slices: Index<EndpointSlice>,
    written: Written,
    triggers: Triggers,
}

/// The service of a slice with this managed-by label.
pub(super) fn service_of(slice: &EndpointSlice, kept_by: &str) -> Option<Key> {
    let labels = slice.metadata.labels.as_ref()?;
    let name = labels.get(SERVICE_NAME).filter(|name| !name.is_empty())?;
    let ours = labels.get(MANAGED_BY).map(String::as_str) == Some(kept_by);
    ours.then(|| Key::new(slice.metadata.namespace.clone().unwrap_or_default(), &**name))
}

/// Keeps the slices of services with a selector until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    let controller = Controller {
        cluster: cluster.clone(),
        recorder: cluster.recorder("endpoint-slice-controller"),
        slices: Index::of(&cluster.endpoint_slices, |slice| service_of(slice, CONTROLLER)),
        written: Written::default(),
        triggers: Triggers::default(),
    };
    Shell::open(cluster, controller)
        .each(&cluster.services)
        .wakes(&cluster.pods, |me, change| facts::woken_by_pod(&me.cluster, change))
        .wakes(&cluster.endpoint_slices, Controller::woken_by_slice)
        .wakes(&cluster.nodes, Controller::woken_by_node)
        .run(cluster.config.workers, Controller::reconcile)
        .await;
}

impl Controller {
    fn woken_by_slice(&self, change: &Change<EndpointSlice>) -> Vec<Key> {
        let now = service_of(change.object(), CONTROLLER);
        if let (Change::Deleted(slice), Some(key)) = (change, &now) {
            self.written.gone(key, &slice.metadata);
        }
        let before = match change {
            Change::Updated { old, .. } => {
                service_of(old, CONTROLLER).filter(|key| now.as_ref() != Some(key))
            }
            _ => None,
        };
        before.into_iter().chain(now).collect()
    }

    /// Endpoints carry their node's zone.
    fn woken_by_node(&self, change: &Change<Node>) -> Vec<Key> {
        match change {
            Change::Deleted(_) => return Vec::new(),
            Change::Updated { old, new } if old.metadata.labels == new.metadata.labels => return Vec::new(),
            _ => {}
        }
        self.cluster.services.list().iter().map(|service| Key::of(&**service)).collect()
    }

    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Option<Duration>, Again> {
        let Some(service) = self.cluster.services.get(&key) else {
            // Its slices have it as owner and are garbage.
            self.triggers.forget(&key);
            self.written.forget(&key);
            return Ok(None);
        };
        if !facts::is_kept(&service) || service.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let mut present = self.slices.get(&key);
        if let Some(delay) = self.written.missing(&key, present.iter().map(|s| &s.metadata)) {
            return Ok(Some(delay));
        }
        present.retain(|slice| slice.metadata.deletion_timestamp.is_none());
        let pods = facts::selected(&self.cluster, &service);
        let node = |name: &str| self.cluster.nodes.get(&Key::new("", name));
        let triggered = self.triggers.look(&key, &service, &pods);
        let seen = Observed { service: &service, pods: &pods, slices: &present, node: &node, triggered };
        let plan = slices::plan(&seen);
        let whom = format!("Service {key}");
        let outcome = write::carry_out(&self.cluster.client, &self.written, &key, &whom, plan.changes).await;
        if let Err(error) = &outcome
            && !answer::is_conflict(&error.error)
        {
            let message = format!("Error updating Endpoint Slices for {whom}: {error}");
            self.recorder.warning(&*service, "FailedToUpdateEndpointSlices", message);
        }
        outcome?;
        if plan.lost.is_empty() { Ok(None) } else { Err(Again::Lost(plan.lost)) }
    }
}
