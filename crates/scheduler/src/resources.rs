//! What a pod asks for and what a node has, as integers: milli-CPUs, bytes, counts.

use std::collections::BTreeMap;

use corten_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Node, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// CPU of a container without a request, when nodes are compared (upstream's non-zero default), in milli-CPUs.
pub const DEFAULT_MILLI_CPU: i64 = 100;
/// Memory of a container without a request, when nodes are compared, in bytes.
pub const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts by resource. Extended resources and huge pages are in `scalar`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// In thousandths of a CPU.
    pub milli_cpu: i64,
    /// In bytes.
    pub memory: i64,
    /// In bytes.
    pub ephemeral_storage: i64,
    /// Everything else, in its own unit.
    pub scalar: BTreeMap<String, i64>,
}

type Amounts = BTreeMap<String, Text>;

impl Resources {
    /// From a list as objects carry it. Amounts that do not parse count as nothing: the API refuses them.
    pub fn of(list: Option<&Amounts>) -> Self {
        let mut out = Resources::default();
        for (name, amount) in list.into_iter().flatten() {
            let Ok(quantity) = Quantity::parse(&amount.0) else { continue };
            match name.as_str() {
                "cpu" => out.milli_cpu = quantity.milli(),
                "memory" => out.memory = quantity.value(),
                "ephemeral-storage" => out.ephemeral_storage = quantity.value(),
                "pods" => {}
                other => {
                    out.scalar.insert(other.to_owned(), quantity.value());
                }
            }
        }
        out
    }

    /// Adds; a sum ends at the bound of its type (two containers may ask for 8E each).
    pub fn add(&mut self, other: &Resources) {
        self.milli_cpu = self.milli_cpu.saturating_add(other.milli_cpu);
        self.memory = self.memory.saturating_add(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.saturating_add(other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let mine = self.scalar.entry(name.clone()).or_default();
            *mine = mine.saturating_add(*amount);
        }
    }

    /// Is something less than in `other`?
    pub fn is_less_somewhere(&self, other: &Resources) -> bool {
        let scalar = |of: &Resources, name: &String| of.scalar.get(name).copied().unwrap_or_default();
        self.milli_cpu < other.milli_cpu
            || self.memory < other.memory
            || self.ephemeral_storage < other.ephemeral_storage
            || other.scalar.keys().any(|name| scalar(self, name) < scalar(other, name))
    }

    fn raise_to(&mut self, other: &Resources) {
        self.milli_cpu = self.milli_cpu.max(other.milli_cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.max(other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let mine = self.scalar.entry(name.clone()).or_default();
            *mine = (*mine).max(*amount);
        }
    }
}

/// What a pod asks for: the containers together, or the hungriest init container (with the sidecars that were started before
/// it) where that is more; and the overhead of its runtime class.
pub fn requests(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    total(spec, |c| effective(pod, c))
}

/// What a container asks for, or what its node has set aside for it where that is more: a pod that was resized holds what it had until
/// the kubelet has carried it out. A resize that the node can never carry out counts for nothing.
fn effective(pod: &Pod, container: &Container) -> Resources {
    let of = |r: Option<&ResourceRequirements>| Resources::of(r.and_then(|r| r.requests.as_ref()));
    let status = pod.status.as_ref();
    let mut all =
        status.into_iter().flat_map(|s| s.container_statuses.iter().chain(&s.init_container_statuses));
    let told = all.find_map(|list| list.iter().find(|c| c.name == container.name));
    let allocated = told.and_then(|c| c.allocated_resources.as_ref());
    let mut amounts = match allocated {
        Some(_) if is_resize_infeasible(pod) => Resources::default(),
        _ => of(container.resources.as_ref()),
    };
    amounts.raise_to(&Resources::of(allocated));
    amounts.raise_to(&of(told.and_then(|c| c.resources.as_ref())));
    amounts
}

fn is_resize_infeasible(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let pending = conditions.into_iter().find(|c| c.type_ == "PodResizePending");
    pending.is_some_and(|c| c.reason.as_deref() == Some("Infeasible"))
}

/// What a pod may use at most, counted like its requests. Containers without a limit count as nothing.
pub fn limits(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    total(spec, |c| Resources::of(c.resources.as_ref().and_then(|r| r.limits.as_ref())))
}

/// The same with defaults for containers that ask for nothing, so that they count for something when nodes are compared.
pub fn scoring_requests(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    total(spec, |container| {
        let list = container.resources.as_ref().and_then(|r| r.requests.as_ref());
        let mut amounts = effective(pod, container);
        let asks_for = |name: &str| list.is_some_and(|l| l.contains_key(name));
        if !asks_for("cpu") {
            amounts.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !asks_for("memory") {
            amounts.memory = DEFAULT_MEMORY;
        }
        amounts
    })
}

fn total(spec: &PodSpec, of: impl Fn(&Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&of(container));
    }
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let own = of(container);
        let mut step = sidecars.clone();
        step.add(&own);
        peak.raise_to(&step);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = step;
        }
    }
    running.add(&sidecars);
    running.raise_to(&peak);
    if let Some(pod_level) = &spec.resources {
        running.override_with(&Resources::of(pod_level.requests.as_ref()));
    }
    running.add(&Resources::of(spec.overhead.as_ref()));
    running
}

impl Resources {
    /// Pod-level requests stand in place of the sum of the containers'.
    fn override_with(&mut self, pod_level: &Resources) {
        for (mine, theirs) in
            [(&mut self.milli_cpu, pod_level.milli_cpu), (&mut self.memory, pod_level.memory)]
        {
            if theirs > 0 {
                *mine = theirs;
            }
        }
    }
}

/// What a node can give to pods, and how many pods it takes.
pub fn allocatable(node: &Node) -> (Resources, i64) {
    let list = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
    let pods =
        list.and_then(|l| l.get("pods")).and_then(|q| Quantity::parse(&q.0).ok()).map_or(0, |q| q.value());
    (Resources::of(list), pods)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({ "spec": spec })).unwrap()
    }

    #[test]
    fn containers_add_up_and_init_containers_peak() {
        let cpu = |amount: &str| json!({ "requests": { "cpu": amount, "memory": "1Gi" } });
        let table = [
            (
                json!({ "containers": [{ "name": "a", "resources": cpu("100m") }, { "name": "b", "resources": cpu("1") }] }),
                1100,
            ),
            (
                json!({ "containers": [{ "name": "a", "resources": cpu("100m") }],
                        "initContainers": [{ "name": "i", "resources": cpu("2") }] }),
                2000,
            ),
            (
                json!({ "containers": [{ "name": "a", "resources": cpu("100m") }],
                        "initContainers": [{ "name": "s", "restartPolicy": "Always", "resources": cpu("300m") },
                                           { "name": "i", "resources": cpu("50m") }] }),
                400,
            ),
            (json!({ "containers": [{ "name": "a" }], "overhead": { "cpu": "10m" } }), 10),
        ];
        for (spec, expected) in table {
            assert_eq!(requests(&pod(spec.clone())).milli_cpu, expected, "{spec}");
        }
    }

    #[test]
    fn a_pod_that_is_resized_holds_what_it_has_until_that_is_given_back() {
        let list = |cpu: &str| json!({ "cpu": cpu });
        let pending =
            |reason: &str| json!([{ "type": "PodResizePending", "status": "True", "reason": reason }]);
        // Wanted, allocated, in effect, why it waits.
        let table = [
            ("100m", "500m", "500m", "", 500),
            ("100m", "100m", "500m", "", 500),
            ("100m", "100m", "100m", "", 100),
            ("900m", "500m", "500m", "Deferred", 900),
            ("900m", "500m", "500m", "Infeasible", 500),
        ];
        for (wanted, allocated, actual, why, expected) in table {
            let pod: Pod = serde_json::from_value(json!({
                "spec": { "containers": [{ "name": "c", "resources": { "requests": list(wanted) } }] },
                "status": { "conditions": pending(why), "containerStatuses": [{ "name": "c", "image": "", "imageID": "",
                    "ready": true, "restartCount": 0, "allocatedResources": list(allocated),
                    "resources": { "requests": list(actual) } }] } }))
            .unwrap();
            assert_eq!(requests(&pod).milli_cpu, expected, "{wanted} {allocated} {actual} {why}");
        }
    }

    #[test]
    fn a_container_without_requests_counts_when_nodes_are_compared() {
        let pod = pod(json!({ "containers": [{ "name": "a" }] }));
        assert_eq!(requests(&pod), Resources::default());
        assert_eq!(scoring_requests(&pod).memory, DEFAULT_MEMORY);
    }
}
