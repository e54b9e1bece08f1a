//! The shell of the autoscaler controller. It looks every [`PERIOD`]: use has no watch.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use corten_client::Api;
use corten_client::{Change, Key, Recorder};
use futures::future::join_all;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus, MetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::behavior::{Past, limited, stabilized};
use super::metrics::{PodUse, Samples};
use super::plan::{self, Proposal};
use crate::answer::{self, changed_is_fine};
use crate::cluster::Cluster;
use crate::shell::Shell;

/// Between two looks (upstream's `--horizontal-pod-autoscaler-sync-period`).
const PERIOD: Duration = Duration::from_secs(15);
/// Samples that were not renewed for so long are forgotten, in seconds.
const SAMPLE_LIFE: i64 = 300;

struct Controller {
    cluster: Arc<Cluster>,
    recorder: Recorder,
    samples: Mutex<Samples>,
    past: Mutex<HashMap<Key, Past>>,
}

/// Scales until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    let controller = Controller {
        cluster: cluster.clone(),
        recorder: cluster.recorder("horizontal-pod-autoscaler"),
        samples: Mutex::default(),
        past: Mutex::default(),
    };
    Shell::open(cluster, controller)
        .wakes(&cluster.autoscalers, woken_by_itself)
        .run(1, Controller::reconcile)
        .await;
}

/// Its own status wakes nobody: the timer runs.
fn woken_by_itself(_: &Controller, change: &Change<HorizontalPodAutoscaler>) -> Option<Key> {
    match change {
        Change::Updated { old, new } if old.spec == new.spec => None,
        _ => Some(Key::of(&**change.object())),
    }
}

/// The size that a target outside of the bounds gets at once, whatever is measured; and why.
fn into_bounds(hpa: &HorizontalPodAutoscaler, current: i32) -> Option<(i32, &'static str)> {
    let (least, most) = (hpa.spec.min_replicas.unwrap_or(1), hpa.spec.max_replicas);
    if current > most {
        Some((most, "Current number of replicas above Spec.MaxReplicas"))
    } else if current < least {
        Some((least, "Current number of replicas below Spec.MinReplicas"))
    } else {
        None
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The status on its way: conditions are set as the look goes on.
struct Draft<'a> {
    hpa: &'a HorizontalPodAutoscaler,
    status: HorizontalPodAutoscalerStatus,
    now: Timestamp,
}

impl Draft<'_> {
    fn set(&mut self, kind: &str, holds: bool, reason: &str, message: impl Into<String>) {
        let status = if holds { "True" } else { "False" };
        let all = self.status.conditions.get_or_insert_default();
        let before = all.iter().position(|c| c.type_ == kind).map(|index| all.remove(index));
        let since = before.filter(|c| c.status == status).and_then(|c| c.last_transition_time);
        all.push(HorizontalPodAutoscalerCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.into()),
            last_transition_time: since.or(Some(Time(self.now))),
            ..HorizontalPodAutoscalerCondition::default()
        });
    }

    /// Within the bounds of the spec.
    fn bounded(&mut self, wanted: i32) -> i32 {
        let (least, most) = (self.hpa.spec.min_replicas.unwrap_or(1), self.hpa.spec.max_replicas);
        if wanted > most {
            let message = "the desired replica count is more than the maximum replica count";
            self.set("ScalingLimited", true, "TooManyReplicas", message);
            return most;
        }
        if wanted < least {
            let message = "the desired replica count is less than the minimum replica count";
            self.set("ScalingLimited", true, "TooFewReplicas", message);
            return least;
        }
        self.set(
            "ScalingLimited",
            false,
            "DesiredWithinRange",
            "the desired count is within the acceptable range",
        );
        wanted
    }
}

impl Controller {
    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Option<Duration>, kube::Error> {
        let Some(hpa) = self.cluster.autoscalers.get(&key) else {
            lock(&self.past).remove(&key);
            return Ok(None);
        };
        let now = Timestamp::now();
        let mut draft = Draft { hpa: &hpa, status: hpa.status.clone().unwrap_or_default(), now };
        draft.status.observed_generation = hpa.metadata.generation;
        self.look(&key, &hpa, &mut draft).await;
        if hpa.status.as_ref() != Some(&draft.status) {
            let updated = HorizontalPodAutoscaler { status: Some(draft.status), ..(*hpa).clone() };
            let api: Api<HorizontalPodAutoscaler> =
                Api::namespaced(self.cluster.client.clone(), &key.namespace);
            changed_is_fine(api.replace_status(&key.name, &PostParams::default(), &updated).await)?;
        }
        Ok(Some(PERIOD))
    }

    async fn target(
        &self,
        key: &Key,
        hpa: &HorizontalPodAutoscaler,
    ) -> Result<(kube::Api<DynamicObject>, Scale), kube::Error> {
        let reference = &hpa.spec.scale_target_ref;
        let api_version = reference.api_version.as_deref().unwrap_or("v1");
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let kind = GroupVersionKind::gvk(group, version, &reference.kind);
        let (resource, _) = kube::discovery::pinned_kind(&self.cluster.client, &kind).await?;
        let api: kube::Api<DynamicObject> =
            kube::Api::namespaced_with(self.cluster.client.clone(), &key.namespace, &resource);
        let scale = api.get_scale(&reference.name).await?;
        let scale =
            serde_json::to_value(&scale).and_then(serde_json::from_value).map_err(kube::Error::SerdeError)?;
        Ok((api, scale))
    }

    async fn look(&self, key: &Key, hpa: &HorizontalPodAutoscaler, draft: &mut Draft<'_>) {
        let (api, scale) = match self.target(key, hpa).await {
            Ok(found) => found,
            Err(error) => {
                let words = answer::words(&error);
                self.recorder.warning(hpa, "FailedGetScale", words.clone());
                let message =
                    format!("the HPA controller was unable to get the target's current scale: {words}");
                draft.set("AbleToScale", false, "FailedGetScale", message);
                return;
            }
        };
        let message = "the HPA controller was able to get the target's current scale";
        draft.set("AbleToScale", true, "SucceededGetScale", message);
        let current = scale.spec.as_ref().and_then(|s| s.replicas).unwrap_or_default();
        draft.status.current_replicas = Some(scale.status.as_ref().map_or(current, |s| s.replicas));
        if current == 0 && hpa.spec.min_replicas != Some(0) {
            let message = "scaling is disabled since the replica count of the target is zero";
            draft.set("ScalingActive", false, "ScalingDisabled", message);
            draft.status.desired_replicas = 0;
            return;
        }
        if let Some((size, why)) = into_bounds(hpa, current) {
            return self.rescale(key, &api, hpa, draft, (current, size), why).await;
        }
        let selector = scale.status.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default();
        if selector.is_empty() {
            // It would choose every pod of the namespace.
            self.recorder.warning(hpa, "SelectorRequired", "selector is required");
            let message = "the HPA target's scale is missing a selector";
            draft.set("ScalingActive", false, "InvalidSelector", message);
            draft.status.desired_replicas = current;
            return;
        }
        let Some((wanted, why)) = self.measure(key, hpa, &selector, current, draft).await else {
            draft.status.desired_replicas = current;
            return;
        };
        let size = self.decide(key, hpa, wanted, current, draft);
        let why = if size > current {
            format!("{why} above target")
        } else {
            "All metrics below target".to_owned()
        };
        self.rescale(key, &api, hpa, draft, (current, size), &why).await;
    }

    /// What the metrics ask for, and why; `None` when that is not known.
    async fn measure(
        &self,
        key: &Key,
        hpa: &HorizontalPodAutoscaler,
        selector: &str,
        current: i32,
        draft: &mut Draft<'_>,
    ) -> Option<(i32, String)> {
        let api: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &key.namespace);
        let pods = match api.list(&ListParams::default().labels(selector)).await {
            Ok(list) => list.items.into_iter().map(Arc::new).collect::<Vec<_>>(),
            Err(error) => {
                draft.set("ScalingActive", false, "FailedGetResourceMetric", answer::words(&error));
                return None;
            }
        };
        let uses = self.uses(&pods).await;
        let asked =
            hpa.spec.metrics.iter().flatten().map(|m| plan::propose(m, &pods, &uses, current, draft.now));
        let (good, bad): (Vec<_>, Vec<_>) = asked.partition(Result::is_ok);
        let good: Vec<Proposal> = good.into_iter().filter_map(Result::ok).collect();
        let error = bad.into_iter().find_map(Result::err);
        let statuses: Vec<MetricStatus> = good.iter().map(|p| p.status.clone()).collect();
        draft.status.current_metrics = Some(statuses).filter(|s| !s.is_empty());
        let best = good.into_iter().max_by_key(|p| p.replicas);
        match (best, error) {
            // What is not known could ask for more: then nothing gets smaller.
            (Some(best), Some(_)) if best.replicas < current => Some((current, best.name)),
            (Some(best), _) => {
                let message =
                    format!("the HPA was able to successfully calculate a replica count from {}", best.name);
                draft.set("ScalingActive", true, "ValidMetricFound", message);
                Some((best.replicas, best.name))
            }
            (None, error) => {
                let why = error.unwrap_or_else(|| "no metrics".to_owned());
                self.recorder.warning(hpa, "FailedGetResourceMetric", why.clone());
                let message = format!("the HPA was unable to compute the replica count: {why}");
                draft.set("ScalingActive", false, "FailedGetResourceMetric", message);
                None
            }
        }
    }

    /// Asks the kubelets of these pods.
    async fn uses(&self, pods: &[Arc<Pod>]) -> HashMap<Key, PodUse> {
        let node = |pod: &Arc<Pod>| pod.spec.as_ref()?.node_name.clone();
        let nodes: BTreeSet<String> = pods.iter().filter_map(node).collect();
        let summaries = join_all(nodes.iter().map(|node| self.summary(node))).await;
        let mut samples = lock(&self.samples);
        let uses = summaries.iter().flatten().flat_map(|summary| samples.take(summary)).collect();
        let oldest = Timestamp::now().as_second() - SAMPLE_LIFE;
        samples.forget_before(Timestamp::from_second(oldest).unwrap_or(Timestamp::UNIX_EPOCH));
        uses
    }

    async fn summary(&self, node: &str) -> Option<Value> {
        let path = format!("/api/v1/nodes/{node}/proxy/stats/summary");
        let request = http::Request::get(path).body(Vec::new()).ok()?;
        match self.cluster.client.request(request).await {
            Ok(summary) => Some(summary),
            Err(error) => {
                tracing::debug!(node, %error, "no summary");
                None
            }
        }
    }

    fn decide(
        &self,
        key: &Key,
        hpa: &HorizontalPodAutoscaler,
        wanted: i32,
        current: i32,
        draft: &mut Draft<'_>,
    ) -> i32 {
        let mut all = lock(&self.past);
        let past = all.entry(key.clone()).or_default();
        past.forget(draft.now);
        let steady = stabilized(hpa, past, wanted, current, draft.now);
        past.recommended.push((draft.now, wanted));
        if steady == wanted {
            draft.set("AbleToScale", true, "ReadyForNewScale", "recommended size matches current size");
        } else {
            let message = "recent recommendations were higher than current one, applying the highest recent recommendation";
            draft.set("AbleToScale", true, "ScaleDownStabilized", message);
        }
        let bounded = draft.bounded(steady);
        let (size, held) = limited(hpa, past, bounded, current, draft.now);
        if held {
            let (reason, way) = if bounded > current {
                ("ScaleUpLimit", "increasing")
            } else {
                ("ScaleDownLimit", "decreasing")
            };
            let message = format!("the desired replica count is {way} faster than the maximum scale rate");
            draft.set("ScalingLimited", true, reason, message);
        }
        size
    }

    /// Sets the size. Only what was carried out counts against the rates.
    async fn rescale(
        &self,
        key: &Key,
        api: &kube::Api<DynamicObject>,
        hpa: &HorizontalPodAutoscaler,
        draft: &mut Draft<'_>,
        (current, size): (i32, i32),
        why: &str,
    ) {
        draft.status.desired_replicas = size;
        if size == current {
            return;
        }
        let patch = Patch::Merge(json!({ "spec": { "replicas": size } }));
        let name = &hpa.spec.scale_target_ref.name;
        match api.patch_scale(name, &PatchParams::default(), &patch).await {
            Ok(_) => {
                self.recorder.normal(hpa, "SuccessfulRescale", format!("New size: {size}; reason: {why}"));
                let message = format!("the HPA controller was able to update the target scale to {size}");
                draft.set("AbleToScale", true, "SucceededRescale", message);
                draft.status.last_scale_time = Some(Time(draft.now));
                lock(&self.past).entry(key.clone()).or_default().changed.push((draft.now, size - current));
            }
            Err(error) => {
                let words = answer::words(&error);
                let message = format!("New size: {size}; reason: {why}; error: {words}");
                self.recorder.warning(hpa, "FailedRescale", message);
                let message = format!("the HPA controller was unable to update the target scale: {words}");
                draft.set("AbleToScale", false, "FailedUpdateScale", message);
                draft.status.desired_replicas = current;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_outside_of_the_bounds_is_brought_into_them_without_metrics() {
        let hpa: HorizontalPodAutoscaler =
            serde_json::from_value(json!({ "metadata": { "name": "h" }, "spec": {
            "minReplicas": 2, "maxReplicas": 5, "scaleTargetRef": { "kind": "Deployment", "name": "d" } } }))
            .unwrap();
        for (current, expected) in [(1, Some(2)), (2, None), (5, None), (9, Some(5))] {
            assert_eq!(into_bounds(&hpa, current).map(|(size, _)| size), expected, "{current}");
        }
    }
}
