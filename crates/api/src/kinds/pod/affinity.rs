//! Validation of everything that says where a pod may run: affinity, tolerations, topology spread.

use crate::field::{Error, Path};
use crate::kinds::look::{Errors, given, int, int_or_zero, items, one_of_given, positive, text};
use crate::rules::{self, invalid_each};
use crate::{Value, meta};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// `spec.affinity`
pub(super) fn validate(errors: &mut Errors, affinity: &Value, path: &Path<'_>) {
    if let Some(node) = given(affinity, "nodeAffinity") {
        let path = path.child("nodeAffinity");
        if let Some(selector) = given(node, REQUIRED) {
            node_selector(errors, selector, &path.child(REQUIRED));
        }
        for (i, term) in items(node, PREFERRED).iter().enumerate() {
            let path = path.child(PREFERRED);
            let path = path.index(i);
            weight(errors, term, &path);
            node_term(
                errors,
                given(term, "preference").unwrap_or(&Value::Null),
                false,
                &path.child("preference"),
            );
        }
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(pods) = given(affinity, kind) else { continue };
        let path = path.child(kind);
        for (i, term) in items(pods, REQUIRED).iter().enumerate() {
            pod_term(errors, term, &path.child(REQUIRED).index(i));
        }
        for (i, weighted) in items(pods, PREFERRED).iter().enumerate() {
            let path = path.child(PREFERRED);
            let path = path.index(i);
            weight(errors, weighted, &path);
            let term = given(weighted, "podAffinityTerm").unwrap_or(&Value::Null);
            pod_term(errors, term, &path.child("podAffinityTerm"));
        }
    }
}

fn weight(errors: &mut Errors, term: &Value, path: &Path<'_>) {
    let weight = int_or_zero(term, "weight");
    if !(1..=100).contains(&weight) {
        errors.push(Error::invalid(&path.child("weight"), weight, "must be in the range 1-100"));
    }
}

/// A node selector: at least one term.
pub(crate) fn node_selector(errors: &mut Errors, selector: &Value, path: &Path<'_>) {
    let (terms, path) = (items(selector, "nodeSelectorTerms"), path.child("nodeSelectorTerms"));
    if terms.is_empty() {
        errors.push(Error::required(&path, "must have at least one node selector term"));
    }
    for (i, term) in terms.iter().enumerate() {
        node_term(errors, term, true, &path.index(i));
    }
}

fn node_term(errors: &mut Errors, term: &Value, check_values: bool, path: &Path<'_>) {
    let expressions = path.child("matchExpressions");
    for (i, requirement) in items(term, "matchExpressions").iter().enumerate() {
        node_requirement(errors, requirement, check_values, &expressions.index(i));
    }
    let fields = path.child("matchFields");
    for (i, requirement) in items(term, "matchFields").iter().enumerate() {
        field_requirement(errors, requirement, &fields.index(i));
    }
}

fn node_requirement(errors: &mut Errors, requirement: &Value, check_values: bool, path: &Path<'_>) {
    let (values, values_path) = (items(requirement, "values"), path.child("values"));
    match text(requirement, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(Error::required(&values_path, detail));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(Error::forbidden(&values_path, detail));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.push(Error::required(&values_path, detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.push(Error::invalid(&path.child("operator"), other, "not a valid selector operator")),
    }
    let key = text(requirement, "key");
    invalid_each(errors, &path.child("key"), key, rules::qualified_name(key));
    for (i, value) in values.iter().enumerate().filter(|_| check_values) {
        let value = value.as_str().unwrap_or_default();
        invalid_each(errors, &values_path.index(i), value, rules::label_value(value));
    }
}

fn field_requirement(errors: &mut Errors, requirement: &Value, path: &Path<'_>) {
    let (values, values_path) = (items(requirement, "values"), path.child("values"));
    match text(requirement, "operator") {
        "In" | "NotIn" if values.len() == 1 => {}
        "In" | "NotIn" => {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.push(Error::required(&values_path, detail));
        }
        other => errors.push(Error::invalid(&path.child("operator"), other, "not a valid selector operator")),
    }
    match text(requirement, "key") {
        "metadata.name" => {
            for (i, value) in values.iter().enumerate() {
                let value = value.as_str().unwrap_or_default();
                invalid_each(errors, &values_path.index(i), value, rules::dns_subdomain(value));
            }
        }
        key => errors.push(Error::invalid(&path.child("key"), key, "not a valid field selector key")),
    }
}

fn pod_term(errors: &mut Errors, term: &Value, path: &Path<'_>) {
    meta::label_selector(errors, given(term, "labelSelector"), &path.child("labelSelector"));
    meta::label_selector(errors, given(term, "namespaceSelector"), &path.child("namespaceSelector"));
    for name in items(term, "namespaces").iter().filter_map(Value::as_str) {
        invalid_each(errors, &path.child("namespace"), name, rules::dns_label(name));
    }
    label_keys(errors, term, path);
    let key = text(term, "topologyKey");
    if key.is_empty() {
        errors.push(Error::required(&path.child("topologyKey"), "can not be empty"));
    }
    invalid_each(errors, &path.child("topologyKey"), key, rules::qualified_name(key));
}

/// `matchLabelKeys` and `mismatchLabelKeys`: label names, not in both, only beside a selector.
fn label_keys(errors: &mut Errors, term: &Value, path: &Path<'_>) {
    let selector = given(term, "labelSelector");
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let (keys, path) = (items(term, field), path.child(field));
        if !keys.is_empty() && selector.is_none() {
            errors.push(Error::forbidden(&path, "must not be specified when labelSelector is not set"));
            continue;
        }
        for (i, key) in keys.iter().enumerate() {
            let key = key.as_str().unwrap_or_default();
            invalid_each(errors, &path.index(i), key, rules::qualified_name(key));
        }
    }
    let mismatch = items(term, "mismatchLabelKeys");
    for (i, key) in items(term, "matchLabelKeys").iter().enumerate().filter(|(_, key)| mismatch.contains(key))
    {
        let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
        errors.push(Error::invalid(&path.child("matchLabelKeys").index(i), key.clone(), detail));
    }
}

/// `spec.topologySpreadConstraints`
pub(super) fn topology_spread(errors: &mut Errors, constraints: &[Value], path: &Path<'_>) {
    for (i, constraint) in constraints.iter().enumerate() {
        let path = path.index(i);
        positive(errors, int_or_zero(constraint, "maxSkew"), &path.child("maxSkew"));
        let (key, action) = (text(constraint, "topologyKey"), text(constraint, "whenUnsatisfiable"));
        if key.is_empty() {
            errors.push(Error::required(&path.child("topologyKey"), "can not be empty"));
        }
        let actions = &["DoNotSchedule", "ScheduleAnyway"];
        if !actions.contains(&action) {
            errors.push(Error::not_supported(&path.child("whenUnsatisfiable"), action, actions));
        }
        let again = |c: &Value| text(c, "topologyKey") == key && text(c, "whenUnsatisfiable") == action;
        if constraints[i + 1..].iter().any(again) {
            let at = path.child("{topologyKey, whenUnsatisfiable}");
            errors.push(Error::duplicate(&at, format!("{{{key}, {action}}}")));
        }
        if let Some(domains) = int(constraint, "minDomains") {
            positive(errors, domains, &path.child("minDomains"));
            if action != "DoNotSchedule" {
                let detail =
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.push(Error::invalid(&path.child("minDomains"), domains, detail));
            }
        }
        one_of_given(errors, constraint, "nodeAffinityPolicy", &["Honor", "Ignore"], &path);
        one_of_given(errors, constraint, "nodeTaintsPolicy", &["Honor", "Ignore"], &path);
        label_keys(errors, constraint, &path);
        meta::label_selector(errors, given(constraint, "labelSelector"), &path.child("labelSelector"));
    }
}

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// A taint's effect, which may not be missing.
pub(crate) fn taint_effect(errors: &mut Errors, effect: &str, path: &Path<'_>) {
    if effect.is_empty() {
        errors.push(Error::required(path, ""));
    } else if !EFFECTS.contains(&effect) {
        errors.push(Error::not_supported(path, effect, EFFECTS));
    }
}

/// `spec.tolerations`
pub(crate) fn tolerations(errors: &mut Errors, tolerations: &[Value], path: &Path<'_>) {
    for (i, toleration) in tolerations.iter().enumerate() {
        let path = path.index(i);
        let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
        let operator_path = path.child("operator");
        if !key.is_empty() {
            invalid_each(errors, &path.child("key"), key, rules::qualified_name(key));
        } else if operator != "Exists" {
            let detail =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(Error::invalid(&operator_path, operator, detail));
        }
        let effect = text(toleration, "effect");
        if int(toleration, "tolerationSeconds").is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(Error::invalid(&path.child("effect"), effect, detail));
        }
        toleration_value(errors, operator, text(toleration, "value"), &operator_path);
        if !effect.is_empty() {
            taint_effect(errors, effect, &path.child("effect"));
        }
    }
}

fn toleration_value(errors: &mut Errors, operator: &str, value: &str, path: &Path<'_>) {
    match operator {
        "" | "Equal" => {
            let wrong = rules::label_value(value);
            if !wrong.is_empty() {
                errors.push(Error::invalid(path, value, wrong.join(";")));
            }
        }
        "Exists" if !value.is_empty() => {
            errors.push(Error::invalid(path, value, "value must be empty when `operator` is 'Exists'"));
        }
        "Exists" => {}
        // Known, but their feature is off by default.
        "Lt" | "Gt" => {
            errors.push(Error::not_supported(path, operator, &["Equal", "Exists", "Lt", "Gt"]));
        }
        other => errors.push(Error::not_supported(path, other, &["Equal", "Exists"])),
    }
}
