//! The shell of the controller that mirrors hand-made Endpoints.

use std::sync::Arc;
use std::time::Duration;

use corten_client::{Change, Key, Recorder};
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::legacy_run::is_election;
use super::mirror::{self, CONTROLLER, MOST};
use super::packing::Changes;
use super::run::service_of;
use super::write;
use crate::cluster::Cluster;
use crate::expect::Written;
use crate::index::Index;
use crate::shell::Shell;

const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";

struct Controller {
    cluster: Arc<Cluster>,
    recorder: Recorder,
    slices: Index<EndpointSlice>,
    written: Written,
}

/// Mirrors until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    let controller = Controller {
        cluster: cluster.clone(),
        recorder: cluster.recorder("endpoint-slice-mirroring-controller"),
        slices: Index::of(&cluster.endpoint_slices, |slice| service_of(slice, CONTROLLER)),
        written: Written::default(),
    };
    Shell::open(cluster, controller)
        .each(&cluster.services)
        .each(&cluster.endpoints)
        .wakes(&cluster.endpoint_slices, Controller::woken_by_slice)
        .run(cluster.config.workers, Controller::reconcile)
        .await;
}

/// Is it to be mirrored? Not what has a selector (its slices are kept), asks not to be, or is no list of endpoints at all.
fn is_mirrored(endpoints: &Endpoints, service: Option<&Service>) -> bool {
    let skips = endpoints.metadata.labels.iter().flatten().any(|(k, v)| k == SKIP && v == "true");
    let by_hand = service.is_some_and(|s| s.spec.as_ref().is_none_or(|s| s.selector.is_none()));
    by_hand && !skips && !is_election(&endpoints.metadata) && endpoints.metadata.deletion_timestamp.is_none()
}

impl Controller {
    fn woken_by_slice(&self, change: &Change<EndpointSlice>) -> Option<Key> {
        let key = service_of(change.object(), CONTROLLER)?;
        if let Change::Deleted(slice) = change {
            self.written.gone(&key, &slice.metadata);
        }
        Some(key)
    }

    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Option<Duration>, write::Failed> {
        let existing = self.slices.get(&key);
        if let Some(delay) = self.written.missing(&key, existing.iter().map(|s| &s.metadata)) {
            return Ok(Some(delay));
        }
        let service = self.cluster.services.get(&key);
        let endpoints = self.cluster.endpoints.get(&key).filter(|e| is_mirrored(e, service.as_deref()));
        let whom = format!("Endpoints {key}");
        let changes = match &endpoints {
            Some(endpoints) => {
                let plan = mirror::plan(endpoints, &existing);
                self.tell(endpoints, plan.invalid, plan.skipped);
                plan.changes
            }
            None => Changes { delete: existing, ..Changes::default() },
        };
        write::carry_out(&self.cluster.client, &self.written, &key, &whom, changes).await?;
        Ok(None)
    }

    fn tell(&self, endpoints: &Endpoints, invalid: usize, skipped: usize) {
        if invalid > 0 {
            let message = format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices");
            self.recorder.warning(endpoints, "InvalidIPAddress", message);
        }
        if skipped > invalid {
            let message = format!(
                "A max of {MOST} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} addresses were skipped"
            );
            self.recorder.warning(endpoints, "TooManyAddressesToMirror", message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn only_hand_made_endpoints_of_services_without_selector_are_mirrored() {
        let service = |spec: serde_json::Value| from_value::<Service>(json!({ "spec": spec })).unwrap();
        let endpoints =
            |meta: serde_json::Value| from_value::<Endpoints>(json!({ "metadata": meta })).unwrap();
        let (plain, selecting) = (service(json!({})), service(json!({ "selector": { "a": "b" } })));
        assert!(is_mirrored(&endpoints(json!({})), Some(&plain)));
        assert!(!is_mirrored(&endpoints(json!({})), Some(&selecting)));
        assert!(!is_mirrored(&endpoints(json!({})), None));
        assert!(!is_mirrored(&endpoints(json!({ "labels": { SKIP: "true" } })), Some(&plain)));
        let elected = json!({ "annotations": { "control-plane.alpha.kubernetes.io/leader": "{}" } });
        assert!(!is_mirrored(&endpoints(elected), Some(&plain)));
    }
}
