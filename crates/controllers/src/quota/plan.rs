//! What counts against a quota. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use corten_api::quantity::{Format, Quantity};
use corten_scheduler::resources::{self, Resources};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, Pod, ResourceQuota, ScopedResourceSelectorRequirement, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::jiff::Timestamp;

use crate::pods;

const OF_CLASS: &str = ".storageclass.storage.k8s.io/";

/// The objects of a namespace.
pub struct Observed<'a> {
    /// Pods.
    pub pods: &'a [Arc<Pod>],
    /// Services.
    pub services: &'a [Arc<Service>],
    /// Volume claims.
    pub claims: &'a [Arc<PersistentVolumeClaim>],
    /// Objects of a resource (`configmaps`, `deployments.apps`).
    pub count: &'a dyn Fn(&str) -> u64,
    /// Now.
    pub now: Timestamp,
}

/// What is used of each resource that the quota limits.
pub fn used(quota: &ResourceQuota, seen: &Observed<'_>) -> BTreeMap<String, Text> {
    let spec = quota.spec.as_ref();
    let scopes = scopes(quota);
    let pods: Vec<&Arc<Pod>> =
        seen.pods.iter().filter(|pod| scopes.iter().all(|scope| is_in(pod, scope))).collect();
    let hard = spec.and_then(|s| s.hard.as_ref()).into_iter().flatten();
    let one = |name: &String| {
        let amount = if is_of_pods(name) {
            of_pods(name, &pods, seen.now)
        } else if scopes.is_empty() {
            of_others(name, seen)
        } else {
            // Only pods have scopes.
            count(0)
        };
        (name.clone(), Text(amount.to_string()))
    };
    hard.map(|(name, _)| one(name)).collect()
}

/// Leaves what a quota is known to be charged where less was counted.
pub fn keep_higher(used: &mut BTreeMap<String, Text>, known: &BTreeMap<String, Text>) {
    for (name, counted) in used {
        let Some(known) = known.get(name) else { continue };
        if let (Ok(more), Ok(less)) = (Quantity::parse(&known.0), Quantity::parse(&counted.0))
            && more > less
        {
            *counted = known.clone();
        }
    }
}

fn count(number: impl TryInto<i64>) -> Quantity {
    Quantity::from_value(number.try_into().unwrap_or(i64::MAX), Format::DecimalSI)
}

fn is_of_pods(name: &str) -> bool {
    let (side, resource) = name.split_once('.').unwrap_or(("requests", name));
    let compute = matches!(resource, "cpu" | "memory" | "ephemeral-storage");
    let extended = resource != "storage" && (resource.contains('/') || resource.starts_with("hugepages-"));
    let classes = name.contains(OF_CLASS) || name.starts_with("count/");
    matches!(name, "pods" | "count/pods")
        || (!classes && matches!(side, "requests" | "limits") && (compute || extended))
}

fn of_pods(name: &str, pods: &[&Arc<Pod>], now: Timestamp) -> Quantity {
    if name == "count/pods" {
        return count(pods.len());
    }
    let running = pods.iter().filter(|pod| !is_over(pod, now));
    if name == "pods" {
        return count(running.count());
    }
    let (of, resource): (fn(&Pod) -> Resources, &str) = match name.split_once('.') {
        Some(("limits", resource)) => (resources::limits, resource),
        Some(("requests", resource)) => (resources::requests, resource),
        _ => (resources::requests, name),
    };
    running.map(|pod| amount(&of(pod), resource)).fold(zero(resource), |sum, one| sum + one)
}

fn zero(resource: &str) -> Quantity {
    amount(&Resources::default(), resource)
}

fn amount(of: &Resources, resource: &str) -> Quantity {
    match resource {
        "cpu" => Quantity::from_milli(of.milli_cpu),
        "memory" => Quantity::from_value(of.memory, Format::BinarySI),
        "ephemeral-storage" => Quantity::from_value(of.ephemeral_storage, Format::BinarySI),
        other => count(of.scalar.get(other).copied().unwrap_or_default()),
    }
}

/// Ended, or should have ended by now: such pods use nothing.
fn is_over(pod: &Pod, now: Timestamp) -> bool {
    let ends = pod.metadata.deletion_timestamp.as_ref().map(|t| t.0);
    let late = ends.is_some_and(|at| {
        now.as_second() > at.as_second() + pod.metadata.deletion_grace_period_seconds.unwrap_or_default()
    });
    late || matches!(pods::phase(pod), "Succeeded" | "Failed")
}

fn of_others(name: &str, seen: &Observed<'_>) -> Quantity {
    if let Some((class, resource)) = name.split_once(OF_CLASS) {
        return of_claims(resource, seen.claims, Some(class));
    }
    match name {
        "services.nodeports" => count(seen.services.iter().map(|s| node_ports(s)).sum::<usize>()),
        "services.loadbalancers" => count(seen.services.iter().filter(|s| kind(s) == "LoadBalancer").count()),
        "requests.storage" => of_claims(name, seen.claims, None),
        _ => count((seen.count)(name.strip_prefix("count/").unwrap_or(name))),
    }
}

fn kind(service: &Service) -> &str {
    service.spec.as_ref().and_then(|s| s.type_.as_deref()).unwrap_or_default()
}

fn node_ports(service: &Service) -> usize {
    let Some(spec) = &service.spec else { return 0 };
    let ports = spec.ports.as_deref().unwrap_or_default();
    match kind(service) {
        "LoadBalancer" if spec.allocate_load_balancer_node_ports == Some(false) => {
            ports.iter().filter(|p| p.node_port.is_some_and(|n| n != 0)).count()
        }
        "NodePort" | "LoadBalancer" => ports.len(),
        _ => 0,
    }
}

fn of_claims(resource: &str, claims: &[Arc<PersistentVolumeClaim>], class: Option<&str>) -> Quantity {
    let spec = |c: &Arc<PersistentVolumeClaim>| c.spec.clone().unwrap_or_default();
    let mine =
        claims.iter().map(spec).filter(|c| class.is_none() || c.storage_class_name.as_deref() == class);
    if resource == "persistentvolumeclaims" {
        return count(mine.count());
    }
    let storage = mine.filter_map(|c| Quantity::parse(&c.resources?.requests?.get("storage")?.0).ok());
    storage.fold(Quantity::from_value(0, Format::BinarySI), |sum, one| sum + one)
}

/// The scopes of a quota, those of its plain list as requirements.
fn scopes(quota: &ResourceQuota) -> Vec<ScopedResourceSelectorRequirement> {
    let Some(spec) = &quota.spec else { return Vec::new() };
    let plain = spec.scopes.iter().flatten().map(|name| ScopedResourceSelectorRequirement {
        scope_name: name.clone(),
        operator: "Exists".to_owned(),
        values: None,
    });
    let selected = spec.scope_selector.iter().flat_map(|s| s.match_expressions.iter().flatten().cloned());
    plain.chain(selected).collect()
}

fn is_in(pod: &Pod, scope: &ScopedResourceSelectorRequirement) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let has_deadline = spec.active_deadline_seconds.is_some_and(|s| s >= 0);
    match scope.scope_name.as_str() {
        "Terminating" => has_deadline,
        "NotTerminating" => !has_deadline,
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => {
            let class = spec.priority_class_name.as_ref().filter(|c| !c.is_empty());
            let values = scope.values.as_deref().unwrap_or_default();
            match scope.operator.as_str() {
                "In" => class.is_some_and(|c| values.contains(c)),
                "NotIn" => !class.is_some_and(|c| values.contains(c)),
                "DoesNotExist" => class.is_none(),
                _ => class.is_some(),
            }
        }
        "CrossNamespacePodAffinity" => looks_beyond(pod),
        _ => false,
    }
}

fn is_best_effort(pod: &Pod) -> bool {
    match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        Some(class) => class == "BestEffort",
        None => {
            let nothing = |r: Resources| r.milli_cpu == 0 && r.memory == 0;
            nothing(resources::requests(pod)) && nothing(resources::limits(pod))
        }
    }
}

/// Names other namespaces in a term of its pod (anti-)affinity.
fn looks_beyond(pod: &Pod) -> bool {
    let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref());
    let near = affinity.and_then(|a| a.pod_affinity.as_ref());
    let far = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
    let required = near
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .chain(far.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()));
    let preferred = near
        .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .chain(far.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()));
    let mut terms = required.flatten().chain(preferred.flatten().map(|p| &p.pod_affinity_term));
    terms.any(|t| t.namespaces.as_ref().is_some_and(|n| !n.is_empty()) || t.namespace_selector.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    fn pod(phase: &str, requests: Value, more: Value) -> Arc<Pod> {
        let mut spec = json!({ "containers": [{ "name": "c", "resources":
            { "requests": requests, "limits": { "memory": "1Gi" } } }] });
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        Arc::new(from_value(json!({ "spec": spec, "status": { "phase": phase } })).unwrap())
    }

    fn told(quota: Value) -> Value {
        let pods = [
            pod(
                "Running",
                json!({ "cpu": "500m", "memory": "256Mi" }),
                json!({ "priorityClassName": "high" }),
            ),
            pod(
                "Pending",
                json!({ "cpu": "1", "example.com/gpu": "2" }),
                json!({ "activeDeadlineSeconds": 5 }),
            ),
            pod("Succeeded", json!({ "cpu": "4" }), json!({})),
        ];
        let ports = json!([{ "port": 1 }, { "port": 2 }]);
        let service =
            |kind: &str| Arc::new(from_value(json!({ "spec": { "type": kind, "ports": ports } })).unwrap());
        let services = [service("NodePort"), service("LoadBalancer"), service("ClusterIP")];
        let claim = |class: &str| {
            let spec =
                json!({ "storageClassName": class, "resources": { "requests": { "storage": "2Gi" } } });
            Arc::new(from_value(json!({ "spec": spec })).unwrap())
        };
        let claims = [claim("fast"), claim("slow")];
        let count = |resource: &str| if resource == "deployments.apps" { 7 } else { 3 };
        let now = Timestamp::UNIX_EPOCH;
        let seen = Observed { pods: &pods, services: &services, claims: &claims, count: &count, now };
        serde_json::to_value(used(&from_value(json!({ "spec": quota })).unwrap(), &seen)).unwrap()
    }

    #[test]
    fn what_is_charged_already_is_kept() {
        let texts = |pairs: &[(&str, &str)]| -> BTreeMap<String, Text> {
            pairs.iter().map(|(name, text)| (name.to_string(), Text(text.to_string()))).collect()
        };
        let mut used = texts(&[("pods", "1"), ("cpu", "500m"), ("memory", "2Gi"), ("services", "3")]);
        keep_higher(&mut used, &texts(&[("pods", "2"), ("cpu", "1"), ("memory", "1Gi"), ("secrets", "9")]));
        assert_eq!(used, texts(&[("pods", "2"), ("cpu", "1"), ("memory", "2Gi"), ("services", "3")]));
    }

    #[test]
    fn every_kind_of_resource_is_counted() {
        let table = [
            ("pods", "2"),
            ("count/pods", "3"),
            ("cpu", "1500m"),
            ("requests.cpu", "1500m"),
            ("requests.memory", "256Mi"),
            ("limits.memory", "2Gi"),
            ("requests.example.com/gpu", "2"),
            ("services", "3"),
            ("services.nodeports", "4"),
            ("services.loadbalancers", "1"),
            ("requests.storage", "4Gi"),
            ("fast.storageclass.storage.k8s.io/requests.storage", "2Gi"),
            ("fast.storageclass.storage.k8s.io/persistentvolumeclaims", "1"),
            ("count/deployments.apps", "7"),
            ("configmaps", "3"),
        ];
        for (name, expected) in table {
            assert_eq!(told(json!({ "hard": { name: "9" } })), json!({ name: expected }), "{name}");
        }
    }

    #[test]
    fn scopes_choose_pods() {
        let class = |operator: &str| {
            json!({ "matchExpressions":
                [{ "scopeName": "PriorityClass", "operator": operator, "values": ["high"] }] })
        };
        let table = [
            (json!({ "scopes": ["Terminating"] }), "1"),
            (json!({ "scopes": ["NotTerminating"] }), "1"),
            (json!({ "scopes": ["BestEffort"] }), "0"),
            (json!({ "scopeSelector": class("In") }), "1"),
            (json!({ "scopeSelector": class("NotIn") }), "1"),
            (json!({ "scopeSelector": class("Exists") }), "1"),
        ];
        for (mut quota, expected) in table {
            quota["hard"] = json!({ "pods": "9" });
            assert_eq!(told(quota.clone()), json!({ "pods": expected }), "{quota}");
        }
    }
}
