//! Changing what running containers may use: what a pod has been given, whether what it wants now fits, and which
//! containers still have to be told. Pure; the worker carries it out.
//!
//! The worker plans with the pod *as given*: a change of its resources counts only once the node has room for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_cri::v1::LinuxContainerResources;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, ResourceRequirements};

use super::spec;
use crate::resources;

/// Resources of a pod's containers by name.
pub type Given = BTreeMap<String, ResourceRequirements>;

/// Why a pod does not get what it wants: the condition PodResizePending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// `Deferred` (others are in the way) or `Infeasible` (it never fits).
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// What the spec asks for.
pub fn wanted(pod: &Pod) -> Given {
    each(pod).map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default())).collect()
}

/// What an earlier kubelet has given, as it told the API; of containers that never ran, what the spec asks for.
pub fn given_before(pod: &Pod) -> Given {
    let mut given = wanted(pod);
    let Some(status) = &pod.status else { return given };
    let lists = [&status.init_container_statuses, &status.container_statuses];
    let ran = |known: &&ContainerStatus| known.container_id.as_deref().is_some_and(|id| !id.is_empty());
    for known in lists.into_iter().flat_map(|list| list.iter().flatten()).filter(ran) {
        if let (Some(of), Some(told)) = (given.get_mut(&known.name), &known.resources) {
            (of.limits, of.requests) = (told.limits.clone(), told.requests.clone());
        }
    }
    given
}

/// The pod with what it has been given instead of what it wants.
pub fn as_given(pod: &Arc<Pod>, given: &Given) -> Arc<Pod> {
    if wanted(pod) == *given {
        return pod.clone();
    }
    let mut changed = pod.as_ref().clone();
    if let Some(spec) = &mut changed.spec {
        let init = spec.init_containers.iter_mut().flatten();
        for container in init.chain(&mut spec.containers) {
            if let Some(resources) = given.get(&container.name) {
                container.resources = Some(resources.clone());
            }
        }
    }
    Arc::new(changed)
}

fn each(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

/// What of a running container differs from what it has been given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference {
    /// CPU weight or quota.
    pub cpu: bool,
    /// Memory limit.
    pub memory: bool,
}

/// What a container shall have, but for its score: that depends on the machine and does not change.
pub fn target(pod: &Pod, c: &Container) -> LinuxContainerResources {
    LinuxContainerResources { oom_score_adj: 0, ..resources::container_resources(pod, c, 1) }
}

/// What still has to be told to the runtime; `None` when it has it all, or does not say.
pub fn difference(pod: &Pod, c: &Container, has: Option<&LinuxContainerResources>) -> Option<Difference> {
    let has = has.filter(|has| has.cpu_shares > 0)?;
    let shall = target(pod, c);
    let cpu = shall.cpu_shares != has.cpu_shares || shall.cpu_quota.max(0) != has.cpu_quota.max(0);
    let memory = shall.memory_limit_in_bytes.max(0) != has.memory_limit_in_bytes.max(0);
    (cpu || memory).then_some(Difference { cpu, memory })
}

impl Difference {
    /// Whether the container wants to be restarted for it (its resizePolicy).
    pub fn restarts(self, container: &Container) -> bool {
        let policies = container.resize_policy.iter().flatten();
        let restarts: BTreeSet<&str> = policies
            .filter(|policy| policy.restart_policy == "RestartContainer")
            .map(|policy| policy.resource_name.as_str())
            .collect();
        self.cpu && restarts.contains("cpu") || self.memory && restarts.contains("memory")
    }
}

/// Names of running containers that have not got all yet.
pub fn unfinished(pod: &Pod, observed: &super::observed::Observed) -> Vec<String> {
    let running = |c: &Container| {
        let seen = observed.current(&c.name).filter(|seen| seen.state == super::observed::State::Running)?;
        difference(pod, c, seen.resources.as_ref()).map(|_| c.name.clone())
    };
    let all = spec::containers(pod);
    all.iter().filter_map(|(_, c)| running(c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(resources: Value, status: Value) -> Arc<Pod> {
        let value = json!({"metadata": {"name": "p", "uid": "u"}, "status": status,
            "spec": {"containers": [{"name": "a", "resources": resources,
                "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]}]}});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn what_was_given_stays_until_more_is() {
        let told = json!({"containerStatuses": [{"name": "a", "containerID": "c://1", "image": "i", "imageID": "",
            "ready": true, "restartCount": 0, "resources": {"requests": {"cpu": "100m"}}}]});
        let now = pod(json!({"requests": {"cpu": "200m"}}), told);
        let before = given_before(&now);
        let cpu = |pod: &Pod| wanted(pod)["a"].requests.as_ref().unwrap()["cpu"].0.clone();
        assert_eq!(cpu(&as_given(&now, &before)), "100m");
        assert!(Arc::ptr_eq(&as_given(&now, &wanted(&now)), &now));
        let fresh = pod(json!({"requests": {"cpu": "200m"}}), json!({}));
        assert_eq!(given_before(&fresh), wanted(&fresh));
    }

    #[test]
    fn differences() {
        let pod =
            pod(json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "200m", "memory": "1Mi"}}), json!({}));
        let (_, c) = spec::container(&pod, "a").unwrap();
        let given = resources::container_resources(&pod, &c, 1);
        let with = |change: fn(&mut LinuxContainerResources)| {
            let mut has = given.clone();
            change(&mut has);
            difference(&pod, &c, Some(&has))
        };
        for (found, expected) in [
            (difference(&pod, &c, None), None),
            (with(|_| {}), None),
            (with(|has| has.oom_score_adj = 7), None),
            (with(|has| has.cpu_shares = 2), Some((true, false, false))),
            (with(|has| has.cpu_quota = 5), Some((true, false, false))),
            (with(|has| has.memory_limit_in_bytes = 5), Some((false, true, true))),
        ] {
            assert_eq!(found.map(|d| (d.cpu, d.memory, d.restarts(&c))), expected);
        }
    }
}
