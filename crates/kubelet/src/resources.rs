//! From requests and limits to the kernel's numbers: shares, quotas, OOM scores, and the pods' cgroups.

use std::sync::Arc;

use corten_sys::cgroups::{Cgroups, Limits};
use k8s_cri::v1::LinuxContainerResources;
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::pod::spec;
use crate::quantity;

/// Least CPU weight that the kernel takes.
const MIN_SHARES: i64 = 2;
/// Greatest CPU weight that the kernel takes.
const MAX_SHARES: i64 = 262_144;
/// Length of a quota period, in microseconds.
const PERIOD_US: i64 = 100_000;
/// Least quota that the kernel takes, in microseconds.
const MIN_QUOTA_US: i64 = 1000;
/// Score of Guaranteed containers: killed last.
const GUARANTEED_SCORE: i64 = -997;
/// Score of BestEffort containers: killed first.
const BEST_EFFORT_SCORE: i64 = 1000;
/// Priority from which a pod is critical to its node.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// CPU weight of `milli` thousandths of a CPU.
pub fn shares(milli: i64) -> i64 {
    (milli.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// Microseconds of CPU in each period for a limit of `milli`; zero is no limit.
pub fn quota(milli: i64) -> i64 {
    if milli == 0 { 0 } else { (milli.saturating_mul(PERIOD_US) / 1000).max(MIN_QUOTA_US) }
}

/// The OOM score adjustment by upstream's formula: who asks for much memory is killed later.
pub fn oom_score(pod: &Pod, container: &Container, capacity_bytes: i64) -> i64 {
    let critical = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0) >= CRITICAL_PRIORITY;
    match spec::qos_class(pod) {
        _ if critical => GUARANTEED_SCORE,
        "Guaranteed" => GUARANTEED_SCORE,
        "BestEffort" => BEST_EFFORT_SCORE,
        _ => {
            let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
            let request = quantity::get(requests, "memory").unwrap_or(0);
            let score = 1000 - request.saturating_mul(1000) / capacity_bytes.max(1);
            score.clamp(1000 + GUARANTEED_SCORE, BEST_EFFORT_SCORE - 1)
        }
    }
}

/// CRI's resources of one container.
pub fn container_resources(pod: &Pod, container: &Container, capacity_bytes: i64) -> LinuxContainerResources {
    let resources = container.resources.as_ref();
    let requests = resources.and_then(|r| r.requests.as_ref());
    let limits = resources.and_then(|r| r.limits.as_ref());
    let cpu_limit = quantity::get_milli(limits, "cpu").unwrap_or(0);
    let cpu_request = quantity::get_milli(requests, "cpu").unwrap_or(cpu_limit);
    LinuxContainerResources {
        cpu_period: PERIOD_US,
        cpu_quota: quota(cpu_limit),
        cpu_shares: shares(cpu_request),
        memory_limit_in_bytes: quantity::get(limits, "memory").unwrap_or(0),
        oom_score_adj: oom_score(pod, container, capacity_bytes),
        ..Default::default()
    }
}

/// The cgroup of a pod below `root` (`/corten/kubepods`).
pub fn pod_cgroup(root: &str, pod: &Pod) -> String {
    let uid = spec::uid(pod);
    match spec::qos_class(pod) {
        "Guaranteed" => format!("{root}/pod{uid}"),
        "Burstable" => format!("{root}/burstable/pod{uid}"),
        _ => format!("{root}/besteffort/pod{uid}"),
    }
}

/// Limits of a pod's cgroup: weight by its requests; quota and memory where every container has a limit.
pub fn pod_limits(pod: &Pod) -> Limits {
    let requests = spec::requests(pod);
    let limits = spec::limits(pod);
    let class = spec::qos_class(pod);
    let milli = requests.get("cpu").or_else(|| limits.get("cpu")).copied().unwrap_or(0);
    let weight = if class == "BestEffort" { MIN_SHARES } else { shares(milli) };
    let positive = |name: &str| limits.get(name).copied().filter(|amount| *amount > 0);
    let cpu_quota_us = positive("cpu").map(quota);
    Limits {
        cpu_shares: u64::try_from(weight).ok(),
        cpu_quota_us,
        cpu_period_us: cpu_quota_us.and(u64::try_from(PERIOD_US).ok()),
        memory_bytes: positive("memory"),
        ..Limits::default()
    }
}

/// The pods' part of the cgroup tree.
#[derive(Clone)]
pub struct PodCgroups {
    root: String,
    cgroups: Option<Arc<dyn Cgroups>>,
}

impl PodCgroups {
    /// Makes `root` and the groups of the QoS classes. Without `cgroups` nothing is ever written.
    pub fn new(root: String, cgroups: Option<Arc<dyn Cgroups>>) -> corten_sys::Result<Self> {
        if let Some(cgroups) = &cgroups {
            for group in [root.clone(), format!("{root}/burstable"), format!("{root}/besteffort")] {
                cgroups.create(&group)?;
            }
            let least = Limits { cpu_shares: u64::try_from(MIN_SHARES).ok(), ..Limits::default() };
            cgroups.apply(&format!("{root}/besteffort"), &least)?;
        }
        Ok(Self { root, cgroups })
    }

    /// Path of a pod's group.
    pub fn path(&self, pod: &Pod) -> String {
        pod_cgroup(&self.root, pod)
    }

    /// Makes a pod's group and writes its limits.
    pub fn ensure(&self, pod: &Pod) -> corten_sys::Result<()> {
        let Some(cgroups) = &self.cgroups else { return Ok(()) };
        let path = self.path(pod);
        cgroups.create(&path)?;
        cgroups.apply(&path, &pod_limits(pod))
    }

    /// Removes a pod's group and all below it.
    pub fn remove(&self, pod: &Pod) -> corten_sys::Result<()> {
        let Some(cgroups) = &self.cgroups else { return Ok(()) };
        cgroups.remove(&self.path(pod))
    }

    /// Removes the groups of pods that nobody knows any more.
    pub fn remove_uid(&self, uid: &str) -> corten_sys::Result<()> {
        let Some(cgroups) = &self.cgroups else { return Ok(()) };
        for class in ["", "/burstable", "/besteffort"] {
            cgroups.remove(&format!("{}{class}/pod{uid}", self.root))?;
        }
        Ok(())
    }

    /// The uids of pods that have a group.
    pub fn known_uids(&self) -> Vec<String> {
        let Some(cgroups) = &self.cgroups else { return Vec::new() };
        let classes = ["", "/burstable", "/besteffort"].map(|class| format!("{}{class}", self.root));
        let names = classes.iter().flat_map(|group| cgroups.children(group).unwrap_or_default());
        names.filter_map(|name| name.strip_prefix("pod").map(str::to_owned)).collect()
    }

    /// Weight of the Burstable class: what its pods ask for together.
    pub fn weigh_burstable(&self, milli: i64) -> corten_sys::Result<()> {
        let Some(cgroups) = &self.cgroups else { return Ok(()) };
        let limits = Limits { cpu_shares: u64::try_from(shares(milli)).ok(), ..Limits::default() };
        cgroups.apply(&format!("{}/burstable", self.root), &limits)
    }

    /// Memory that a pod uses and the kernel cannot simply drop, in bytes.
    pub fn working_set(&self, pod: &Pod) -> Option<u64> {
        let usage = self.cgroups.as_ref()?.usage(&self.path(pod)).ok()?;
        Some(usage.working_set_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(resources: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": "u"},
            "spec": {"containers": [{"name": "a", "resources": resources}]}}))
        .unwrap()
    }

    #[test]
    fn numbers() {
        for (milli, expected) in [(0, 2), (1, 2), (100, 102), (1000, 1024), (i64::MAX, 262_144)] {
            assert_eq!(shares(milli), expected, "{milli}");
        }
        for (milli, expected) in [(0, 0), (1, 1000), (10, 1000), (100, 10_000), (2000, 200_000)] {
            assert_eq!(quota(milli), expected, "{milli}");
        }
    }

    #[test]
    fn scores() {
        let capacity = 4 << 30;
        for (resources, expected) in [
            (json!({}), 1000),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), -997),
            (json!({"requests": {"memory": "1Gi"}}), 750),
            (json!({"requests": {"cpu": "1"}}), 999),
            (json!({"requests": {"memory": "4Gi"}}), 3),
        ] {
            let pod = pod(resources.clone());
            let (_, container) = spec::container(&pod, "a").unwrap();
            assert_eq!(oom_score(&pod, &container, capacity), expected, "{resources}");
        }
    }

    #[test]
    fn groups() {
        for (resources, path) in [
            (json!({}), "/c/kubepods/besteffort/podu"),
            (json!({"requests": {"cpu": "1"}}), "/c/kubepods/burstable/podu"),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "/c/kubepods/podu"),
        ] {
            assert_eq!(pod_cgroup("/c/kubepods", &pod(resources)), path);
        }
        let limits = pod_limits(&pod(json!({"limits": {"cpu": "500m", "memory": "1Mi"}})));
        assert_eq!((limits.cpu_shares, limits.cpu_quota_us), (Some(512), Some(50_000)));
        assert_eq!(limits.memory_bytes, Some(1 << 20));
        assert_eq!(pod_limits(&pod(json!({"requests": {"cpu": "1"}}))).memory_bytes, None);
    }
}
