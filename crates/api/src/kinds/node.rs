//! Nodes: taints, pod ranges, amounts.

use super::look::{Errors, entries, is_true, items, text};
use super::pod::affinity::taint_effect;
use super::pod::container::resource_value;
use super::row::NO_HOOKS;
use crate::Value;
use crate::field::{self, Error, Path, Quoted};
use crate::kind::{Context, Hooks};
use crate::rules::{self, invalid_each};

pub(super) const HOOKS: Hooks = Hooks {
    default: Some(default),
    prepare_create: Some(prepare_create),
    prepare_update: Some(prepare_update),
    validate: Some(validate),
    warnings: Some(|node, _| warnings(node)),
    selectable_value: Some(|node, path| {
        let unschedulable = || node.get("spec").is_some_and(|spec| is_true(spec, "unschedulable"));
        (path == "spec.unschedulable").then(|| unschedulable().to_string())
    }),
    ..NO_HOOKS
};

/// Of fields that mean nothing any more, and of ranges written in an odd way.
fn warnings(node: &Value) -> Vec<String> {
    let (mut warnings, empty) = (Vec::new(), Value::Null);
    let spec = node.get("spec").unwrap_or(&empty);
    if spec.get("configSource").is_some_and(|c| !c.is_null()) {
        warnings.push("spec.configSource: the feature is removed".to_owned());
    }
    if !text(spec, "externalID").is_empty() {
        let message = "spec.externalID: this field is deprecated, and is unused by Kubernetes";
        warnings.push(message.to_owned());
    }
    let root = Path::root("spec");
    let list = root.child("podCIDRs");
    for (i, range) in items(spec, "podCIDRs").iter().enumerate() {
        super::warn::block(&mut warnings, range.as_str().unwrap_or_default(), &list.index(i));
    }
    warnings
}

/// All capacity may be used unless the node says otherwise.
fn default(node: &mut Value) {
    let capacity = node.at(&["status", "capacity"]).filter(|c| !c.is_null()).cloned();
    let missing = node.at(&["status", "allocatable"]).is_none_or(Value::is_null);
    if let Some(capacity) = capacity.filter(|_| missing) {
        node.object_at_mut(&["status"]).set("allocatable", capacity);
    }
    mirror_pod_range(node);
}

/// `podCIDR` is the first of `podCIDRs`; where they differ, the list is the one.
fn mirror_pod_range(node: &mut Value) {
    let first = node.items_at(&["spec", "podCIDRs"]).first().cloned();
    let old = node.str_at(&["spec", "podCIDR"]).to_owned();
    match first {
        Some(first) if !old.is_empty() && first.as_str() != Some(old.as_str()) => {
            node.object_at_mut(&["spec"]).set("podCIDRs", vec![Value::from(old)]);
        }
        Some(first) => node.object_at_mut(&["spec"]).set("podCIDR", first),
        None if !old.is_empty() => node.object_at_mut(&["spec"]).set("podCIDRs", vec![Value::from(old)]),
        None => {}
    }
}

/// Nodes register themselves: the status of a new node is kept.
fn prepare_create(node: &mut Value, _cx: &Context<'_>) {
    mirror_pod_range(node);
}

fn prepare_update(node: &mut Value, _old: &Value, _cx: &Context<'_>) {
    mirror_pod_range(node);
}

fn validate(node: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let empty = Value::Null;
    let (spec, metadata) = (node.get("spec").unwrap_or(&empty), Path::root("metadata"));
    taints(&mut errors, items(spec, "taints"), &metadata.child("taints"));
    amounts(&mut errors, node);
    declared_features(&mut errors, node.items_at(&["status", "declaredFeatures"]));
    match old {
        None => pod_ranges(&mut errors, spec),
        Some(old) => changes(&mut errors, node, old),
    }
    errors
}

/// Names of features in CamelCase, sorted, each once.
fn declared_features(errors: &mut Errors, features: &[Value]) {
    let status = Path::root("status");
    let list = status.child("declaredFeatures");
    let mut last: Option<&str> = None;
    for (i, feature) in features.iter().filter_map(Value::as_str).enumerate() {
        match last {
            Some(before) if before == feature => errors.push(Error::duplicate(&list.index(i), feature)),
            Some(before) if before > feature => {
                errors.push(Error::invalid(&list.index(i), feature, "list must be sorted alphabetically"));
            }
            _ => {}
        }
        last = Some(feature);
        let part = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric());
        if !feature.split('/').all(part) || !feature.starts_with(|c: char| c.is_ascii_uppercase()) {
            let detail = format!(
                "invalid feature name {}: must start with an UpperCamelCase segment, with subsequent segments separated by '/' \
                 (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes",
                feature.quoted()
            );
            errors.push(Error::invalid(&list.index(i), feature, detail));
        }
    }
}

fn taints(errors: &mut Errors, taints: &[Value], path: &Path<'_>) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (i, taint) in taints.iter().enumerate() {
        let path = path.index(i);
        let (key, effect, value) = (text(taint, "key"), text(taint, "effect"), text(taint, "value"));
        invalid_each(errors, &path.child("key"), key, rules::qualified_name(key));
        let wrong = rules::label_value(value);
        if !wrong.is_empty() {
            errors.push(Error::invalid(&path.child("value"), value, wrong.join(";")));
        }
        taint_effect(errors, effect, &path.child("effect"));
        if seen.contains(&(key, effect)) {
            let mut error = Error::duplicate(&path, taint.clone());
            error.body.push_str(": taints must be unique by key and effect pair");
            errors.push(error);
        }
        seen.push((key, effect));
    }
}

fn amounts(errors: &mut Errors, node: &Value) {
    let (empty, path) = (Value::Null, Path::root("status"));
    let status = node.get("status").unwrap_or(&empty);
    for list in ["capacity", "allocatable"] {
        for (name, amount) in entries(status, list) {
            resource_value(errors, name, amount, &path.child(list).child(name));
        }
    }
}

fn pod_ranges(errors: &mut Errors, spec: &Value) {
    let at = Path::root("spec");
    let (ranges, path) = (items(spec, "podCIDRs"), at.child("podCIDRs"));
    for (i, range) in ranges.iter().enumerate() {
        let range = range.as_str().unwrap_or_default();
        invalid_each(errors, &path.index(i), range, rules::cidr(range));
    }
    let six = ranges.iter().filter(|r| r.as_str().unwrap_or_default().contains(':')).count();
    if ranges.len() > 2 || (ranges.len() == 2 && six != 1) {
        let detail = "may specify no more than one CIDR for each IP family";
        errors.push(Error::invalid(&path, Value::from(ranges.to_vec()), detail));
    }
}

fn changes(errors: &mut Errors, node: &Value, old: &Value) {
    let (addresses, status) = (node.items_at(&["status", "addresses"]), Path::root("status"));
    for (i, address) in addresses.iter().enumerate().filter(|(i, a)| addresses[..*i].contains(a)) {
        errors.push(Error::duplicate(&status.child("addresses").index(i), address.clone()));
    }
    let (before, now) = (old.items_at(&["spec", "podCIDRs"]), node.items_at(&["spec", "podCIDRs"]));
    let spec = Path::root("spec");
    if !before.is_empty() && before != now {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(Error::forbidden(&spec.child("podCIDRs"), detail));
    }
    let provider = old.str_at(&["spec", "providerID"]);
    if !provider.is_empty() && provider != node.str_at(&["spec", "providerID"]) {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.push(Error::forbidden(&spec.child("providerID"), detail));
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{create_errors, defaulted, tree, update_errors};

    #[test]
    fn defaults() {
        let node = defaulted("", "Node", "{spec: {podCIDR: 10.0.0.0/24}, status: {capacity: {cpu: '4'}}}");
        let wanted = "{spec: {podCIDR: 10.0.0.0/24, podCIDRs: [10.0.0.0/24]}, \
                      status: {capacity: {cpu: '4'}, allocatable: {cpu: '4'}}}";
        assert_eq!(node, tree(wanted));
    }

    #[test]
    fn broken_nodes() {
        assert_eq!(
            create_errors("", "Node", "{spec: {taints: [{key: a, effect: Never}], podCIDRs: [10.0.0.1/24]}}"),
            [
                "metadata.taints[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \
                 \"PreferNoSchedule\", \"NoExecute\"",
                "spec.podCIDRs[0]: Invalid value: \"10.0.0.1/24\": must not have bits set beyond the prefix length",
            ]
        );
        assert_eq!(
            update_errors(
                "",
                "Node",
                "{spec: {podCIDRs: [10.0.0.0/24]}}",
                "{spec: {podCIDRs: [10.0.1.0/24]}}"
            ),
            ["spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"]
        );
    }
}
