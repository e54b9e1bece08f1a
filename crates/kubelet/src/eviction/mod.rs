//! Eviction: under pressure of memory or disk the kubelet ends pods, the greediest and least important
//! first; and at any time those that have more on its disk than their limits allow. The decisions are pure.

mod limits;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::host::Host;
use crate::labels;
use crate::node::machine;
use crate::pod::manager::Manager;
use crate::pod::spec;
use crate::pod::status::Verdict;
use crate::volume::pod_volumes;
use limits::Usage;

/// How often pressure is looked at (upstream's monitoring interval).
const LOOK: Duration = Duration::from_secs(10);
/// Priority from which pods are never evicted.
const CRITICAL: i32 = 2_000_000_000;

/// A pod and what it uses of the resource that is short, in bytes.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Pod.
    pub pod: Arc<Pod>,
    /// Its use.
    pub used: u64,
}

/// The pod to evict for `resource`: those above their requests first, then low priority, then the one that
/// is furthest above its request.
pub fn worst<'a>(candidates: &'a [Candidate], resource: &str) -> Option<&'a Candidate> {
    let evictable = |pod: &Pod| {
        let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
        priority < CRITICAL
            && !spec::is_static(pod)
            && !spec::is_terminal(pod)
            && pod.metadata.deletion_timestamp.is_none()
    };
    let rank = |candidate: &&Candidate| {
        let request = spec::requests(&candidate.pod).get(resource).copied().unwrap_or(0);
        let over = i128::from(candidate.used) - i128::from(request);
        let priority = candidate.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
        (over > 0, std::cmp::Reverse(priority), over)
    };
    candidates.iter().filter(|candidate| evictable(&candidate.pod)).max_by_key(rank)
}

/// Watches until the kubelet stops.
pub async fn run(host: Arc<Host>, manager: Manager) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = host.stop.cancelled() => return,
        }
        hold_to_limits(&host, &manager).await;
        if short_of_memory(&host) {
            let used = |pod: &Pod| host.cgroups.working_set(pod).unwrap_or(0);
            evict(&host, &manager, "memory", used);
        } else if short_of_disk(&host) {
            let used = |pod: &Pod| size_of(&host.config.pod_dir(spec::uid(pod)));
            evict(&host, &manager, "ephemeral-storage", used);
        }
    }
}

fn short_of_memory(host: &Host) -> bool {
    let free = machine::memory_available().and_then(|free| u64::try_from(free).ok());
    free.is_some_and(|free| free < host.config.memory_pressure_below)
}

fn short_of_disk(host: &Host) -> bool {
    let disk = machine::disk(&host.config.data_dir);
    disk.is_ok_and(|disk| 100 - disk.used_percent().min(100) < host.config.disk_pressure_below_percent)
}

fn evict(host: &Host, manager: &Manager, resource: &str, used: impl Fn(&Pod) -> u64) {
    let pods = manager.pods();
    let candidates: Vec<Candidate> =
        pods.into_iter().map(|pod| Candidate { used: used(&pod), pod }).collect();
    let Some(worst) = worst(&candidates, resource) else { return };
    end(host, manager, &worst.pod, format!("The node was low on resource: {resource}. "), true);
}

fn end(host: &Host, manager: &Manager, pod: &Pod, message: String, disruption: bool) {
    host.pod_event(pod, "Warning", "Evicted", message.clone());
    manager.evict(spec::uid(pod), Verdict { reason: "Evicted".to_owned(), message, disruption });
}

/// Ends the pods that have more on the disk than they may.
async fn hold_to_limits(host: &Arc<Host>, manager: &Manager) {
    let limited = |pod: &Arc<Pod>| {
        limits::has_limits(pod) && !spec::is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
    };
    for pod in manager.pods().into_iter().filter(limited) {
        let its = HashMap::from([(labels::POD_UID.to_owned(), spec::uid(&pod).to_owned())]);
        let Ok(stats) = host.cri.container_stats(its).await else { continue };
        let layers = stats.into_iter().filter_map(|one| {
            let name = one.attributes?.labels.remove(labels::CONTAINER_NAME)?;
            Some((name, one.writable_layer?.used_bytes?.value))
        });
        let (layers, node, its) = (layers.collect(), host.clone(), pod.clone());
        let usage = tokio::task::spawn_blocking(move || measure(&node, &its, layers)).await;
        if let Some(message) = usage.ok().and_then(|usage| limits::exceeded(&pod, &usage)) {
            end(host, manager, &pod, message, false);
        }
    }
}

/// What a pod has on the disk: its containers' `layers`, and what is counted here of logs and volumes.
fn measure(host: &Host, pod: &Pod, layers: BTreeMap<String, u64>) -> Usage {
    let logs = host.config.log_dir(spec::namespace(pod), spec::name(pod), spec::uid(pod));
    let containers = layers.into_iter().map(|(name, layer)| {
        let used = layer + size_of(&logs.join(&name));
        (name, used)
    });
    let dir = host.config.pod_dir(spec::uid(pod));
    let volumes = limits::volumes(pod)
        .filter_map(|(volume, _)| Some((volume.name.clone(), size_of(&pod_volumes::path(&dir, volume)?))));
    Usage { containers: containers.collect(), volumes: volumes.collect() }
}

/// Bytes below a directory; links are not followed.
fn size_of(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn candidate(name: &str, priority: i32, request: &str, used: u64) -> Candidate {
        let pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"priority": priority,
            "containers": [{"name": "a", "resources": {"requests": {"memory": request}}}]}}))
        .unwrap();
        Candidate { pod: Arc::new(pod), used }
    }

    #[test]
    fn ranking() {
        for (list, expected) in [
            (vec![candidate("modest", 0, "100", 50), candidate("greedy", 0, "100", 150)], Some("greedy")),
            (vec![candidate("low", 1, "100", 150), candidate("high", 9, "100", 900)], Some("low")),
            (vec![candidate("within", 0, "100", 90), candidate("over", 9, "10", 20)], Some("over")),
            (vec![candidate("more", 0, "10", 90), candidate("less", 0, "10", 20)], Some("more")),
            (vec![candidate("critical", CRITICAL, "0", 900)], None),
        ] {
            let found = worst(&list, "memory").map(|candidate| spec::name(&candidate.pod).to_owned());
            assert_eq!(found.as_deref(), expected);
        }
    }
}
