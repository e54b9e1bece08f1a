//! Removes pods that nobody else will: on nodes that are gone, finished beyond a limit, ending without ever having had a node.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use corten_client::Api;
use corten_client::Change;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;

use crate::answer::changed_is_fine;
use crate::cluster::Cluster;
use crate::pods::phase;
use crate::shell::Shell;

/// Finished pods that are kept in the cluster (upstream's `--terminated-pod-gc-threshold`).
const KEPT: usize = 12500;
/// A node that is not there may come back (or the cache may be behind): its pods are left alone so long.
const QUARANTINE: Duration = Duration::from_secs(40);

/// Looks when nodes go and when pods end, until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    let shell: Shell<_, ()> = Shell::open(cluster, cluster.clone());
    let later = shell.queue();
    cluster.nodes.on_change(move |change| {
        if let Change::Deleted(_) = change {
            later.add_after((), QUARANTINE);
        }
    });
    // Pods of nodes that went while nobody looked.
    shell.queue().add_after((), QUARANTINE);
    let started = tokio::time::Instant::now();
    shell
        .wakes(&cluster.pods, |_, change| {
            let pod = change.object();
            let ends_nowhere = pod.metadata.deletion_timestamp.is_some() && node(pod).is_empty();
            (!matches!(change, Change::Deleted(_)) && (ends_nowhere || is_finished(pod))).then_some(())
        })
        .run(1, move |me, ()| async move {
            let nodes = (started.elapsed() >= QUARANTINE).then(|| names(&me));
            collect(&me, nodes.as_ref()).await
        })
        .await;
}

fn names(cluster: &Cluster) -> HashSet<String> {
    cluster.nodes.list().iter().filter_map(|n| n.metadata.name.clone()).collect()
}

fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Why a pod is collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Orphaned,
    NeverPlaced,
    Surplus,
}

/// What to remove. `nodes` is `None` while nodes may still be unknown.
fn plan(pods: &[Arc<Pod>], nodes: Option<&HashSet<String>>, keep: usize) -> Vec<(Arc<Pod>, Why)> {
    let mut out = Vec::new();
    for pod in pods {
        if node(pod).is_empty() && pod.metadata.deletion_timestamp.is_some() {
            out.push((pod.clone(), Why::NeverPlaced));
        } else if !node(pod).is_empty() && nodes.is_some_and(|n| !n.contains(node(pod))) {
            out.push((pod.clone(), Why::Orphaned));
        }
    }
    let mut finished: Vec<&Arc<Pod>> = pods.iter().filter(|p| is_finished(p)).collect();
    finished.sort_by_key(|p| p.metadata.creation_timestamp.clone());
    finished.truncate(finished.len().saturating_sub(keep));
    out.extend(finished.into_iter().map(|pod| (pod.clone(), Why::Surplus)));
    out
}

async fn collect(
    cluster: &Cluster,
    nodes: Option<&HashSet<String>>,
) -> Result<Option<Duration>, kube::Error> {
    for (pod, why) in plan(&cluster.pods.list(), nodes, KEPT) {
        if why == Why::Orphaned && node_exists(cluster, node(&pod)).await? {
            continue;
        }
        remove(cluster, &pod, why).await?;
    }
    Ok(None)
}

/// Asks the API itself: the cache may be behind.
async fn node_exists(cluster: &Cluster, name: &str) -> Result<bool, kube::Error> {
    let api: Api<k8s_openapi::api::core::v1::Node> = Api::all(cluster.client.clone());
    Ok(api.get_opt(name).await?.is_some())
}

async fn remove(cluster: &Cluster, pod: &Pod, why: Why) -> Result<(), kube::Error> {
    let api: Api<Pod> =
        Api::namespaced(cluster.client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default());
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if why == Why::Orphaned && !is_finished(pod) {
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = json!({ "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
            "message": "PodGC: node no longer exists", "lastTransitionTime": now });
        let patch = Patch::Strategic(json!({ "status": { "phase": "Failed", "conditions": [condition] } }));
        changed_is_fine(api.patch_status(name, &PatchParams::default(), &patch).await)?;
    }
    let exactly = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
    let params = DeleteParams { preconditions: Some(exactly), ..DeleteParams::default().grace_period(0) };
    changed_is_fine(api.delete(name, &params).await)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, node: &str, phase: &str, ends: bool) -> Arc<Pod> {
        let ends = ends.then_some("2026-01-01T00:00:00Z");
        Arc::new(
            serde_json::from_value(json!({ "metadata": { "name": name, "deletionTimestamp": ends },
            "spec": { "nodeName": node, "containers": [] }, "status": { "phase": phase } }))
            .unwrap(),
        )
    }

    #[test]
    fn orphans_the_never_placed_and_the_surplus() {
        let pods = [
            pod("fine", "n", "Running", false),
            pod("orphan", "gone", "Running", false),
            pod("nowhere", "", "Pending", true),
            pod("waiting", "", "Pending", false),
            pod("done", "n", "Succeeded", false),
        ];
        let nodes = HashSet::from(["n".to_owned()]);
        let why = |nodes, keep| {
            plan(&pods, nodes, keep)
                .iter()
                .map(|(p, w)| (p.metadata.name.clone().unwrap(), *w))
                .collect::<Vec<_>>()
        };
        let orphan = ("orphan".to_owned(), Why::Orphaned);
        let nowhere = ("nowhere".to_owned(), Why::NeverPlaced);
        assert_eq!(why(Some(&nodes), 1), [orphan.clone(), nowhere.clone()]);
        assert_eq!(why(Some(&nodes), 0), [orphan, nowhere.clone(), ("done".to_owned(), Why::Surplus)]);
        assert_eq!(why(None, 1), [nowhere]);
    }
}
