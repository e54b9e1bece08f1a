//! Facts about pods, and making and removing them in the name of a controller.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use corten_client::Api;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{DeleteParams, PostParams, Preconditions};

/// Lower ones go first when pods are surplus.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// Pods created at once in the first step of a slow start; doubled with each step that succeeds.
const FIRST_BATCH: usize = 1;
/// Most pods created or deleted by one look at one object.
pub const BURST: usize = 500;

/// `Pending`, `Running` …
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Has not ended and is not being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !matches!(phase(pod), "Succeeded" | "Failed") && pod.metadata.deletion_timestamp.is_none()
}

/// Since when the pod is ready.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|c| c.type_ == "Ready" && c.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0))
}

/// Is the pod ready?
pub fn is_ready(pod: &Pod) -> bool {
    ready_since(pod).is_some()
}

/// How long until a ready pod counts as available; zero when it does, `None` when it is not ready.
pub fn until_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    let ready = ready_since(pod)?;
    let ripe_at = ready.as_millisecond() + i64::from(min_ready_seconds) * 1000;
    Some(Duration::from_millis(u64::try_from(ripe_at - now.as_millisecond()).unwrap_or_default()))
}

/// Is the pod ready for long enough?
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    until_available(pod, min_ready_seconds, now) == Some(Duration::ZERO)
}

/// Sorts pods so that those that are missed least come first (upstream's order): without node, pending, not ready, cheap
/// to delete, crowded on their node, ready for a shorter time, restarted more often, younger.
pub fn sort_for_deletion(pods: &mut [Arc<Pod>]) {
    let mut crowd: HashMap<String, usize> = HashMap::new();
    for pod in pods.iter().filter(|p| is_active(p)) {
        *crowd.entry(node(pod).to_owned()).or_default() += 1;
    }
    pods.sort_by_cached_key(|pod| {
        let restarts = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
        let created = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
        (
            !node(pod).is_empty(),
            match phase(pod) {
                "Pending" => 0,
                "Unknown" => 1,
                _ => 2,
            },
            is_ready(pod),
            deletion_cost(pod),
            std::cmp::Reverse(crowd.get(node(pod)).copied().unwrap_or_default()),
            std::cmp::Reverse(ready_since(pod)),
            std::cmp::Reverse(restarts.map(|c| c.restart_count).max()),
            std::cmp::Reverse(created),
        )
    });
}

fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

fn deletion_cost(pod: &Pod) -> i64 {
    let cost = pod.metadata.annotations.as_ref().and_then(|a| a.get(DELETION_COST));
    cost.and_then(|c| c.parse().ok()).unwrap_or_default()
}

/// A pod from a template. `name` is a prefix; the API adds the rest.
pub fn from_template(template: &PodTemplateSpec, namespace: &str, name: &str, owner: OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: Some(namespace.to_owned()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Creates `count` pods like `pod`, first one, then two, four …, so that an error that hits all is met once. Gives the
/// created pods and the first error; what was not tried is `count` less both.
pub async fn create(client: &Client, pod: &Pod, count: usize) -> (Vec<Pod>, Option<kube::Error>) {
    create_in_batches(client, count, |_| pod).await
}

/// The same for pods that differ; all are of one namespace.
pub async fn create_all(client: &Client, pods: &[Pod]) -> (Vec<Pod>, Option<kube::Error>) {
    create_in_batches(client, pods.len(), |number| &pods[number]).await
}

async fn create_in_batches<'a>(
    client: &Client,
    count: usize,
    pod: impl Fn(usize) -> &'a Pod,
) -> (Vec<Pod>, Option<kube::Error>) {
    let (mut created, mut batch) = (Vec::new(), FIRST_BATCH);
    while created.len() < count {
        let first = created.len();
        let now = batch.min(count - first);
        let params = PostParams::default();
        let api: Api<Pod> =
            Api::namespaced(client.clone(), pod(first).metadata.namespace.as_deref().unwrap_or_default());
        let answers = join_all((first..first + now).map(|number| api.create(&params, pod(number)))).await;
        let mut failed = None;
        for answer in answers {
            match answer {
                Ok(pod) => created.push(pod),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if failed.is_some() {
            return (created, failed);
        }
        batch *= 2;
    }
    (created, None)
}

/// Deletes exactly this pod; one that is gone is no error.
pub async fn delete(client: &Client, pod: &Pod) -> Result<(), kube::Error> {
    let api: Api<Pod> =
        Api::namespaced(client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default());
    let exactly = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
    let params = DeleteParams { preconditions: Some(exactly), ..DeleteParams::default() };
    match api.delete(pod.metadata.name.as_deref().unwrap_or_default(), &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn pod(name: &str, ready: bool, node: &str) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        let object = json!({
            "metadata": { "name": name, "namespace": "ns", "uid": name, "labels": { "app": "x" },
                "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "nodeName": node, "containers": [] },
            "status": { "phase": "Running", "conditions":
                [{ "type": "Ready", "status": status, "lastTransitionTime": "2026-01-01T00:00:10Z" }] },
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn the_least_missed_pods_go_first() {
        let mut cheap = (*pod("cheap", true, "a")).clone();
        cheap.metadata.annotations = Some([(DELETION_COST.to_owned(), "-5".to_owned())].into());
        let mut pods = vec![
            pod("crowded", true, "b"),
            pod("ready", true, "c"),
            Arc::new(cheap),
            pod("sick", false, "b"),
            pod("nowhere", false, ""),
        ];
        sort_for_deletion(&mut pods);
        let names: Vec<_> = pods.iter().map(|p| p.metadata.name.clone().unwrap()).collect();
        assert_eq!(names, ["nowhere", "sick", "cheap", "crowded", "ready"]);
    }

    #[test]
    fn available_means_ready_for_long_enough() {
        let pod = pod("a", true, "n");
        let at = |seconds: i64| Timestamp::from_second(1_767_225_610 + seconds).unwrap();
        assert_eq!(until_available(&pod, 30, at(10)), Some(Duration::from_secs(20)));
        assert!(is_available(&pod, 30, at(30)));
        assert!(is_available(&pod, 0, at(0)));
    }
}
