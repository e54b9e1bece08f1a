//! What may change in a pod that exists, and by which way.

use super::container::image_is_trimmed;
use crate::field::{Error, Path};
use crate::kinds::look::{Errors, given, int, items, required, same, text};
use crate::rules::{self, invalid_each};
use crate::{Object, Value, json};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
     `spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be \
     set to 1 if it was previously negative)";

/// The rules of a PUT on the pod itself.
pub(super) fn spec(errors: &mut Errors, new: &Value, old: &Value) {
    let path = Path::root("spec");
    for field in ["containers", "initContainers"] {
        let (now, before, at) = (items(new, field), items(old, field), path.child(field));
        if now.len() != before.len() {
            errors.push(Error::forbidden(&at, "pod updates may not add or remove containers"));
            return;
        }
        for (i, container) in now.iter().enumerate() {
            required(errors, container, "image", &at.index(i));
            image_is_trimmed(errors, container, &at.index(i));
        }
    }
    if !deadline(errors, new, old, &path.child("activeDeadlineSeconds")) {
        return;
    }
    added_tolerations(errors, new, old, &path.child("tolerations"));
    deleted_gates(errors, new, old, &path.child("schedulingGates"));
    let mut masked = new.clone();
    mask_what_may_change(&mut masked, new, old);
    if super::defaults::is_gated(old) {
        gated_placement(errors, &mut masked, old, &path);
    }
    if !same(Some(&masked), Some(old)) {
        let detail =
            format!("pod updates may not change fields other than {UPDATABLE}\n{}", difference(old, &masked));
        errors.push(Error::forbidden(&path, detail));
    }
}

/// Returns false where upstream stops looking.
fn deadline(errors: &mut Errors, new: &Value, old: &Value, path: &Path<'_>) -> bool {
    let max = i64::from(i32::MAX);
    match (int(new, "activeDeadlineSeconds"), int(old, "activeDeadlineSeconds")) {
        (Some(now), _) if !(0..=max).contains(&now) => {
            errors.push(Error::invalid(path, now, rules::between(0, max)));
            false
        }
        (Some(now), Some(before)) if before < now => {
            errors.push(Error::invalid(path, now, "must be less than or equal to previous value"));
            false
        }
        (None, Some(_)) => {
            errors.push(Error::invalid(
                path,
                Value::Null,
                "must not update from a positive integer to nil value",
            ));
            true
        }
        _ => true,
    }
}

fn added_tolerations(errors: &mut Errors, new: &Value, old: &Value, path: &Path<'_>) {
    let without_seconds = |toleration: &Value| {
        let mut toleration = toleration.clone();
        toleration.object_at_mut(&[]).remove("tolerationSeconds");
        toleration
    };
    let kept = |before: &Value| {
        let wanted = without_seconds(before);
        items(new, "tolerations").iter().any(|now| same(Some(&without_seconds(now)), Some(&wanted)))
    };
    if !items(old, "tolerations").iter().all(kept) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(Error::forbidden(path, detail));
    }
}

fn deleted_gates(errors: &mut Errors, new: &Value, old: &Value, path: &Path<'_>) {
    let before = items(old, "schedulingGates");
    for (i, gate) in items(new, "schedulingGates").iter().enumerate() {
        let name = text(gate, "name");
        if !before.iter().any(|g| text(g, "name") == name) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.push(Error::forbidden(&path.index(i).child("name"), detail));
        }
    }
}

fn put_back(masked: &mut Value, old: &Value, field: &str) {
    let Some(masked) = masked.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => {
            masked.insert(field, value.clone());
        }
        None => {
            masked.remove(field);
        }
    }
}

fn mask_what_may_change(masked: &mut Value, new: &Value, old: &Value) {
    for field in ["containers", "initContainers"] {
        let list = masked.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten();
        for (container, before) in list.zip(items(old, field)) {
            put_back(container, before, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        put_back(masked, old, field);
    }
    let grace = |spec: &Value| int(spec, "terminationGracePeriodSeconds").unwrap_or(0);
    if grace(old) < 0 && grace(new) == 1 {
        put_back(masked, old, "terminationGracePeriodSeconds");
    }
}

/// While a pod waits at its gates, its node selector and node affinity may become narrower.
fn gated_placement(errors: &mut Errors, masked: &mut Value, old: &Value, path: &Path<'_>) {
    let widened = crate::kinds::look::entries(old, "nodeSelector")
        .any(|(key, value)| masked.at(&["nodeSelector", key]) != Some(value));
    if widened {
        let now = masked.get("nodeSelector").cloned().unwrap_or_default();
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.push(Error::invalid(&path.child("nodeSelector"), now, detail));
    }
    put_back(masked, old, "nodeSelector");
    const TERMS: &[&str] =
        &["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
    let (before, now) = (old.items_at(TERMS), masked.items_at(TERMS));
    let path = path.child("affinity");
    let path = path.child("nodeAffinity");
    let path = path.child(TERMS[2]);
    let path = path.child(TERMS[3]);
    if !before.is_empty() && before.len() != now.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.push(Error::invalid(&path, Value::from(now.to_vec()), detail));
    } else {
        for (i, (before, now)) in before.iter().zip(now).enumerate() {
            if !only_additions(now, before) {
                let detail = "only additions are allowed (no mutations or deletions)";
                errors.push(Error::invalid(&path.index(i), now.clone(), detail));
            }
        }
    }
    let affinity_without_nodes = |spec: &Value| {
        let mut affinity = spec.get("affinity").cloned().unwrap_or_default();
        if let Some(affinity) = affinity.as_object_mut() {
            affinity.remove("nodeAffinity");
        }
        affinity
    };
    if same(Some(&affinity_without_nodes(masked)), Some(&affinity_without_nodes(old))) {
        put_back(masked, old, "affinity");
    }
}

fn only_additions(now: &Value, before: &Value) -> bool {
    let fields = ["matchExpressions", "matchFields"];
    if fields.iter().all(|f| items(before, f).is_empty()) {
        return fields.iter().all(|f| items(now, f).is_empty());
    }
    fields.iter().all(|f| items(now, f).starts_with(items(before, f)))
}

/// The fields of two trees that differ, as lines `- path: old` and `+ path: new`.
fn difference(old: &Value, new: &Value) -> String {
    let mut lines = String::new();
    collect_difference(Some(old), Some(new), "", &mut lines);
    lines
}

fn collect_difference(old: Option<&Value>, new: Option<&Value>, path: &str, lines: &mut String) {
    if same(old, new) {
        return;
    }
    match (old, new) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let added = b.keys().filter(|key| !a.contains_key(key));
            for key in a.keys().chain(added) {
                let path = if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
                collect_difference(a.get(key), b.get(key), &path, lines);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                collect_difference(Some(a), Some(b), &format!("{path}[{i}]"), lines);
            }
        }
        (old, new) => {
            for (mark, value) in [('-', old), ('+', new)] {
                if let Some(value) = value {
                    lines.push_str(&format!("{mark} {path}: {}\n", json::to_string(value)));
                }
            }
        }
    }
}

/// The rules of `pods/ephemeralcontainers`: containers may only be added.
pub(super) fn ephemeral_containers(errors: &mut Errors, new: &Value, old: &Value) {
    let at = Path::root("spec");
    let path = at.child("ephemeralContainers");
    for before in items(old, "ephemeralContainers") {
        let name = text(before, "name");
        match items(new, "ephemeralContainers").iter().find(|c| text(c, "name") == name) {
            None => {
                let detail = format!("existing ephemeral containers \"{name}\" may not be removed\n");
                errors.push(Error::forbidden(&path, detail));
            }
            Some(now) if !same(Some(now), Some(before)) => {
                let changed = difference(before, now);
                let detail =
                    format!("existing ephemeral containers \"{name}\" may not be changed\n{changed}");
                errors.push(Error::forbidden(&path, detail));
            }
            Some(_) => {}
        }
    }
}

/// The rules of `pods/resize`: only amounts of cpu and memory change, and none goes away.
pub(super) fn resize(errors: &mut Errors, new: &Value, old: &Value) {
    let (new_spec, old_spec) = (spec_of(new), spec_of(old));
    let path = Path::root("spec");
    if super::qos::class(new_spec) != super::qos::class(old_spec) {
        let class = new.str_at(&["status", "qosClass"]);
        errors.push(Error::invalid(&path, class, "Pod QOS Class may not change as a result of resizing"));
    }
    let mut masked = new_spec.clone();
    for field in ["containers", "initContainers"] {
        let (now, before, list) = (items(new_spec, field), items(old_spec, field), path.child(field));
        if now.len() != before.len() {
            let detail = format!("{field} may not be added or removed on resize");
            errors.push(Error::forbidden(&list, detail));
            return;
        }
        for (i, (now, before)) in now.iter().zip(before).enumerate() {
            if text(now, "name") != text(before, "name") {
                let detail = format!("{field} may not be renamed or reordered on resize");
                errors.push(Error::forbidden(&list.index(i).child("name"), detail));
            }
            kept_amounts(errors, now, before, &list.index(i).child("resources"));
        }
        let list = masked.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten();
        for (container, before) in list.zip(before) {
            mask_amounts(container, before);
        }
    }
    if errors.is_empty() && !same(Some(&masked), Some(old_spec)) {
        errors.push(Error::forbidden(&path, "only cpu and memory resources are mutable"));
    }
}

fn spec_of(pod: &Value) -> &Value {
    pod.get("spec").unwrap_or(&Value::Null)
}

fn kept_amounts(errors: &mut Errors, now: &Value, before: &Value, path: &Path<'_>) {
    for (list, what) in [("requests", "resource requests"), ("limits", "resource limits")] {
        let gone = before
            .at(&["resources", list])
            .and_then(Value::as_object)
            .is_some_and(|amounts| amounts.keys().any(|name| now.at(&["resources", list, name]).is_none()));
        if gone {
            errors.push(Error::forbidden(&path.child(list), format!("{what} cannot be removed")));
        }
    }
}

fn mask_amounts(container: &mut Value, before: &Value) {
    for list in ["requests", "limits"] {
        for name in ["cpu", "memory"] {
            let amounts: &mut Object = container.object_at_mut(&["resources", list]);
            match before.at(&["resources", list, name]) {
                Some(amount) => amounts.set(name, amount.clone()),
                None => drop(amounts.remove(name)),
            }
        }
    }
}

/// Annotations that may not come, go or change.
pub(super) fn annotations(errors: &mut Errors, new: &Value, old: &Value) {
    let at = Path::root("metadata");
    let path = at.child("annotations");
    let fixed = |key: &str| {
        if key == super::MIRROR {
            Some("mirror pod annotation")
        } else {
            key.starts_with("container.apparmor.security.beta.kubernetes.io/")
                .then_some("AppArmor annotations")
        }
    };
    let (now, before) = (new.at(&["metadata", "annotations"]), old.at(&["metadata", "annotations"]));
    let get = |map: Option<&Value>, key: &str| map.and_then(|m| m.get(key)).cloned();
    for (map, is_old) in [(before, true), (now, false)] {
        for key in map.and_then(Value::as_object).into_iter().flat_map(Object::keys) {
            let unchanged =
                if is_old { get(now, key) == get(before, key) } else { get(before, key).is_some() };
            if let Some(what) = fixed(key).filter(|_| !unchanged) {
                let may_not = if is_old { "may not remove or update" } else { "may not add" };
                errors.push(Error::forbidden(&path.key(key), format!("{may_not} {what}")));
            }
        }
    }
}

/// The rules of a PUT on the pod's status.
pub(super) fn status(errors: &mut Errors, new: &Value, old: &Value) {
    let path = Path::root("status");
    let empty = Value::Null;
    let (now, before) = (new.get("status").unwrap_or(&empty), old.get("status").unwrap_or(&empty));
    for (i, condition) in items(now, "conditions").iter().enumerate() {
        let kind = text(condition, "type");
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            let at = path.child("conditions");
            invalid_each(errors, &at.index(i).child("Type"), kind, rules::qualified_name(kind));
        }
    }
    nominated_node(errors, now, before, old, &path.child("nominatedNodeName"));
    if text(now, "qosClass") != text(before, "qosClass") {
        errors.push(Error::invalid(&path.child("qosClass"), text(now, "qosClass"), "field is immutable"));
    }
    let spec = spec_of(old);
    for field in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        no_resurrection(errors, field, now, before, spec, &path.child(field));
    }
    for (i, ip) in items(now, "podIPs").iter().enumerate() {
        let ip = text(ip, "ip");
        invalid_each(errors, &path.child("podIPs").index(i), ip, rules::ip_address(ip));
    }
    host_ips(errors, now, &path.child("hostIPs"));
}

fn nominated_node(errors: &mut Errors, now: &Value, before: &Value, old: &Value, path: &Path<'_>) {
    let name = text(now, "nominatedNodeName");
    if name.is_empty() || name == text(before, "nominatedNodeName") {
        return;
    }
    invalid_each(errors, path, name, rules::dns_subdomain(name));
    if !old.str_at(&["spec", "nodeName"]).is_empty() {
        errors.push(Error::forbidden(path, "may not be set on pods that are already bound to a node"));
    }
}

fn host_ips(errors: &mut Errors, now: &Value, path: &Path<'_>) {
    for (i, ip) in items(now, "hostIPs").iter().enumerate() {
        let ip = text(ip, "ip");
        if i == 0 && ip != text(now, "hostIP") {
            errors.push(Error::invalid(&path.index(0).child("ip"), ip, "must be equal to `hostIP`"));
        }
        invalid_each(errors, &path.index(i), ip, rules::ip_address(ip));
    }
}

/// A container that ended for good may not be reported as not ended.
fn no_resurrection(
    errors: &mut Errors,
    field: &str,
    now: &Value,
    before: &Value,
    spec: &Value,
    path: &Path<'_>,
) {
    for (i, ended) in items(before, field).iter().enumerate() {
        let Some(terminated) = ended.at(&["state", "terminated"]).filter(|t| !t.is_null()) else { continue };
        let name = text(ended, "name");
        let exit_code = int(terminated, "exitCode").unwrap_or(0);
        if field != "ephemeralContainerStatuses" && may_restart(spec, name, exit_code) {
            continue;
        }
        let risen =
            |status: &&Value| text(status, "name") == name && status.at(&["state", "terminated"]).is_none();
        if items(now, field).iter().find(risen).is_some() {
            let detail = "may not be transitioned to non-terminated state";
            errors.push(Error::forbidden(&path.index(i).child("state"), detail));
        }
    }
}

/// May the container of that name start again after that exit code?
fn may_restart(spec: &Value, name: &str, exit_code: i64) -> bool {
    let all = || items(spec, "containers").iter().chain(items(spec, "initContainers"));
    let container = all().find(|c| text(c, "name") == name);
    let restarts = |policy: &str| match policy {
        "Always" => true,
        "OnFailure" => exit_code != 0,
        _ => false,
    };
    let rule = container.into_iter().flat_map(|c| items(c, "restartPolicyRules")).find(|rule| {
        let listed = rule.items_at(&["exitCodes", "values"]).iter().any(|v| v.as_i64() == Some(exit_code));
        listed == (rule.str_at(&["exitCodes", "operator"]) == "In")
    });
    match container.and_then(|c| given(c, "restartPolicy")).and_then(Value::as_str) {
        _ if rule.is_some() => true,
        Some(policy) => restarts(policy),
        None => restarts(text(spec, "restartPolicy")),
    }
}
