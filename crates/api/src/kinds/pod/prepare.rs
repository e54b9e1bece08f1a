//! What a new pod is given beside its defaults, once admission is through: label keys become selectors, and the resources of
//! the pod as a whole are completed from those of its containers.

use crate::kinds::look::{at_mut, entries, given, items, items_mut};
use crate::kinds::usage::{Usage, containers_total};
use crate::{Object, Str, Value};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// `matchLabelKeys` and `mismatchLabelKeys` of affinity and of topology spread: the pod's own values join the selector.
pub(super) fn label_keys(pod: &mut Value) {
    let spec = pod.get("spec");
    if spec.is_none_or(|s| given(s, "topologySpreadConstraints").or_else(|| given(s, "affinity")).is_none()) {
        return;
    }
    let labels = pod.at(&["metadata", "labels"]).and_then(Value::as_object).cloned().unwrap_or_default();
    let Some(spec) = pod.get_mut("spec") else { return };
    for constraint in items_mut(spec, "topologySpreadConstraints") {
        join(constraint, &labels);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = at_mut(spec, &["affinity", kind]) else { continue };
        items_mut(affinity, REQUIRED).for_each(|term| join(term, &labels));
        for weighted in items_mut(affinity, PREFERRED) {
            if let Some(term) = at_mut(weighted, &["podAffinityTerm"]) {
                join(term, &labels);
            }
        }
    }
}

fn join(term: &mut Value, labels: &Object) {
    let mut wanted = Vec::new();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in items(term, field).iter().filter_map(Value::as_str) {
            if let Some(value) = labels.get(key) {
                let mut requirement = Object::default();
                requirement.set("key", key);
                requirement.set("operator", Value::str(operator));
                requirement.set("values", vec![value.clone()]);
                wanted.push(Value::Object(requirement));
            }
        }
    }
    let Some(selector) = at_mut(term, &["labelSelector"]).filter(|_| !wanted.is_empty()) else { return };
    match selector.get_mut("matchExpressions").and_then(Value::as_array_mut) {
        Some(expressions) => expressions.extend(wanted),
        None => selector.object_at_mut(&[]).set("matchExpressions", wanted),
    }
}

/// Resources that a pod may ask for as a whole.
pub(super) fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge(name)
}

fn is_huge(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Completes `spec.resources` where it names any amount.
pub(super) fn pod_level_resources(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec") else { return };
    let has =
        |spec: &Value, side: &str| spec.get("resources").is_some_and(|r| entries(r, side).next().is_some());
    if !has(spec, "requests") && !has(spec, "limits") {
        return;
    }
    let (requests, limits) = (containers_total(spec, "requests"), containers_total(spec, "limits"));
    let names = |spec: &Value, side: &str| -> Vec<Str> {
        given(spec, "resources").into_iter().flat_map(|r| entries(r, side)).map(|(k, _)| k.clone()).collect()
    };
    let asked = names(spec, "requests");
    set_each(spec, "limits", &limits, |name| is_huge(name) && !asked.iter().any(|n| n == name));
    set_each(spec, "requests", &requests, |name| is_pod_level(name) && !is_huge(name));
    requests_from_limits(spec);
    limits_from_containers(spec, &limits, &names(spec, "requests"));
}

fn set_each(spec: &mut Value, side: &'static str, amounts: &Usage, wanted: impl Fn(&str) -> bool) {
    for (name, amount) in amounts.iter().filter(|(name, _)| wanted(name)) {
        if spec.at(&["resources", side, name]).is_none() {
            spec.object_at_mut(&["resources", side]).insert(Str::from(name.as_str()), amount.to_string());
        }
    }
}

fn requests_from_limits(spec: &mut Value) {
    let limits = spec.at(&["resources", "limits"]).and_then(Value::as_object).cloned().unwrap_or_default();
    for (name, limit) in limits.iter().filter(|(name, _)| is_pod_level(name)) {
        if spec.at(&["resources", "requests", name]).is_none() {
            spec.object_at_mut(&["resources", "requests"]).insert(name.clone(), limit.clone());
        }
    }
}

/// A resource that every container limits is limited for the pod too, by no less than it asks for.
fn limits_from_containers(spec: &mut Value, limits: &Usage, asked: &[Str]) {
    let everyone = |spec: &Value, name: &str| {
        ["containers", "initContainers"]
            .iter()
            .flat_map(|list| items(spec, list))
            .all(|container| container.at(&["resources", "limits", name]).is_some())
    };
    for name in asked.iter().filter(|name| is_pod_level(name)) {
        let known = spec.at(&["resources", "limits", name]).is_some();
        let Some(sum) = limits.get(name.as_str()).filter(|_| !known && everyone(spec, name)) else {
            continue;
        };
        let request = crate::kinds::look::quantity(spec.at(&["resources", "requests", name]));
        let limit = if request > *sum { request } else { *sum };
        spec.object_at_mut(&["resources", "limits"]).insert(name.clone(), limit.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::tree;

    #[test]
    fn label_keys_join_the_selector() {
        let mut pod = tree(
            "{metadata: {labels: {app: web, tier: front}}, spec: {topologySpreadConstraints: [{matchLabelKeys: [app, other], \
             labelSelector: {matchLabels: {a: b}}}, {matchLabelKeys: [app]}], affinity: {podAffinity: {\
             requiredDuringSchedulingIgnoredDuringExecution: [{matchLabelKeys: [app], mismatchLabelKeys: [tier], labelSelector: \
             {matchExpressions: [{key: k, operator: Exists}]}}]}}}}",
        );
        label_keys(&mut pod);
        let constraints = pod.items_at(&["spec", "topologySpreadConstraints"]);
        let wanted = tree("[{key: app, operator: In, values: [web]}]");
        assert_eq!(constraints[0].at(&["labelSelector", "matchExpressions"]), Some(&wanted));
        assert_eq!(constraints[1].get("labelSelector"), None);
        let terms = pod.items_at(&["spec", "affinity", "podAffinity", REQUIRED]);
        let wanted = tree(
            "[{key: k, operator: Exists}, {key: app, operator: In, values: [web]}, {key: tier, operator: NotIn, values: [front]}]",
        );
        assert_eq!(terms[0].at(&["labelSelector", "matchExpressions"]), Some(&wanted));
    }

    #[test]
    fn pods_as_a_whole() {
        let cases = [
            ("{containers: [{resources: {requests: {cpu: '1'}}}]}", "null"),
            (
                "{resources: {limits: {cpu: '4'}}, containers: [{resources: {requests: {cpu: '1', memory: 1Gi}}}]}",
                "{limits: {cpu: '4'}, requests: {cpu: '1', memory: 1Gi}}",
            ),
            (
                "{resources: {requests: {cpu: '4'}}, containers: [{resources: {limits: {cpu: '1', hugepages-2Mi: 4Mi}}}]}",
                "{requests: {cpu: '4', hugepages-2Mi: 4Mi}, limits: {hugepages-2Mi: 4Mi, cpu: '4'}}",
            ),
            (
                "{resources: {limits: {memory: 1Gi}}, containers: [{}]}",
                "{limits: {memory: 1Gi}, requests: {memory: 1Gi}}",
            ),
        ];
        for (spec, wanted) in cases {
            let mut pod = tree(&format!("{{spec: {spec}}}"));
            pod_level_resources(&mut pod);
            let got = pod.at(&["spec", "resources"]).cloned().unwrap_or_default();
            assert_eq!(got, tree(wanted), "{spec}");
        }
    }
}
