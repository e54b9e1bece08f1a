//! Removes pods that nobody else will: on nodes that are gone, finished beyond a limit, ending without ever having had a node.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use corten_client::{Api, Change, Key};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use tokio::time::Instant;

use crate::answer::changed_is_fine;
use crate::cluster::Cluster;
use crate::pods::phase;
use crate::shell::Shell;

/// Finished pods that are kept in the cluster (upstream's `--terminated-pod-gc-threshold`).
const KEPT: usize = 12500;
/// A node that is not there may come back (or the cache may be behind): its pods are left alone so long.
const QUARANTINE: Duration = Duration::from_secs(40);

struct Collector {
    cluster: Arc<Cluster>,
    missing: Mutex<Missing>,
}

/// Looks when nodes go and when pods end, until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    let collector = Collector { cluster: cluster.clone(), missing: Mutex::default() };
    Shell::open(cluster, collector)
        .wakes(&cluster.nodes, |_, change| matches!(change, Change::Deleted(_)).then_some(()))
        .wakes(&cluster.pods, |me, change| {
            let pod = change.object();
            let ends = pod.metadata.deletion_timestamp.is_some();
            let concerns = match node(pod) {
                "" => ends,
                name => me.cluster.nodes.get(&Key::new("", name)).is_none(),
            };
            (!matches!(change, Change::Deleted(_)) && (concerns || is_finished(pod))).then_some(())
        })
        .run(1, |me, ()| async move { me.collect().await })
        .await;
}

/// The nodes that pods name and that are not there, since when. One that comes back in time is as if it had never gone.
#[derive(Debug, Default)]
struct Missing(HashMap<String, Instant>);

impl Missing {
    /// Those that are missing for long enough, and when the next one is.
    fn gone(&mut self, missing: HashSet<String>, now: Instant) -> (HashSet<String>, Option<Duration>) {
        self.0.retain(|name, _| missing.contains(name));
        for name in missing {
            self.0.entry(name).or_insert(now);
        }
        let left = |since: &Instant| QUARANTINE.saturating_sub(now.saturating_duration_since(*since));
        let gone = self.0.iter().filter(|(_, since)| left(since).is_zero()).map(|(name, _)| name.clone());
        let next = self.0.values().map(left).filter(|left| !left.is_zero()).min();
        (gone.collect(), next)
    }
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

/// What to remove; `gone` are nodes.
fn plan(pods: &[Arc<Pod>], gone: &HashSet<String>, keep: usize) -> Vec<(Arc<Pod>, Why)> {
    let mut out = Vec::new();
    for pod in pods {
        if node(pod).is_empty() && pod.metadata.deletion_timestamp.is_some() {
            out.push((pod.clone(), Why::NeverPlaced));
        } else if gone.contains(node(pod)) {
            out.push((pod.clone(), Why::Orphaned));
        }
    }
    let mut finished: Vec<&Arc<Pod>> = pods.iter().filter(|p| is_finished(p)).collect();
    finished.sort_by_key(|p| p.metadata.creation_timestamp.clone());
    finished.truncate(finished.len().saturating_sub(keep));
    out.extend(finished.into_iter().map(|pod| (pod.clone(), Why::Surplus)));
    out
}

impl Collector {
    async fn collect(&self) -> Result<Option<Duration>, kube::Error> {
        let (cluster, pods) = (&self.cluster, self.cluster.pods.list());
        let mut named: HashSet<&str> = pods.iter().map(|pod| node(pod)).filter(|n| !n.is_empty()).collect();
        named.retain(|name| cluster.nodes.get(&Key::new("", *name)).is_none());
        let missing = named.into_iter().map(str::to_owned).collect();
        let (gone, next) =
            self.missing.lock().unwrap_or_else(PoisonError::into_inner).gone(missing, Instant::now());
        for (pod, why) in plan(&pods, &gone, KEPT) {
            if why == Why::Orphaned && node_exists(cluster, node(&pod)).await? {
                continue;
            }
            remove(cluster, &pod, why).await?;
        }
        Ok(next)
    }
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
        let (none, gone) = (HashSet::new(), HashSet::from(["gone".to_owned()]));
        let why = |gone, keep| {
            plan(&pods, gone, keep)
                .iter()
                .map(|(p, w)| (p.metadata.name.clone().unwrap(), *w))
                .collect::<Vec<_>>()
        };
        let orphan = ("orphan".to_owned(), Why::Orphaned);
        let nowhere = ("nowhere".to_owned(), Why::NeverPlaced);
        assert_eq!(why(&gone, 1), [orphan.clone(), nowhere.clone()]);
        assert_eq!(why(&gone, 0), [orphan, nowhere.clone(), ("done".to_owned(), Why::Surplus)]);
        assert_eq!(why(&none, 1), [nowhere]);
    }

    #[test]
    fn a_node_is_gone_when_it_was_missing_for_long_at_a_stretch() {
        let (mut missing, start) = (Missing::default(), Instant::now());
        let (none, one) = (HashSet::new, || HashSet::from(["n".to_owned()]));
        let later = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(missing.gone(one(), start), (none(), Some(QUARANTINE)));
        assert_eq!(missing.gone(one(), later(39)), (none(), Some(Duration::from_secs(1))));
        assert_eq!(missing.gone(none(), later(39)), (none(), None), "it came back");
        assert_eq!(missing.gone(one(), later(50)), (none(), Some(QUARANTINE)));
        assert_eq!(missing.gone(one(), later(90)), (one(), None));
    }
}
