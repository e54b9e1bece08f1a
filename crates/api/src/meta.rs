//! Validation of object metadata and label selectors, the same for every kind.

use crate::field::{Error, Path};
use crate::kind::{Kind, Scope};
use crate::rules::{self, invalid_each};
use crate::selector::LabelSelector;
use crate::{Object, Value};

/// All annotations of one object together: keys and values in bytes.
pub const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;
/// Longest name of a field manager.
pub const FIELD_MANAGER_MAX_BYTES: usize = 128;
const SUBRESOURCE_MAX_BYTES: usize = 256;
const IMMUTABLE: &str = "field is immutable";
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// The broken rules of a new object's metadata (name filled in from `generateName` before).
pub fn validate_create(kind: &Kind, object: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let path = Path::root("metadata");
    validate(&mut errors, kind, object.get("metadata").unwrap_or(&Value::Null), &path);
    errors
}

/// The broken rules of an update. What the client left out was carried over before with [`carry_over`].
pub fn validate_update(kind: &Kind, new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let path = Path::root("metadata");
    let empty = Value::Null;
    let (new, old) = (new.get("metadata").unwrap_or(&empty), old.get("metadata").unwrap_or(&empty));
    if old.get("deletionTimestamp").is_some_and(|t| !t.is_null()) {
        no_new_finalizers(&mut errors, new, old, &path.child("finalizers"));
    }
    if new.str_at(&["resourceVersion"]).is_empty() {
        errors.push(Error::invalid(&path.child("resourceVersion"), "", "must be specified for an update"));
    }
    for field in
        ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        let (now, before) = (present(new, field), present(old, field));
        if now != before {
            errors.push(Error::invalid(&path.child(field), now, IMMUTABLE));
        }
    }
    validate_common(&mut errors, kind, new, &path);
    errors
}

/// The value of a field, `null` for a missing and `""` for neither: Go cannot tell them apart.
fn present<'a>(meta: &'a Value, field: &str) -> &'a Value {
    static NULL: Value = Value::Null;
    static EMPTY: Value = Value::str("");
    let is_text = matches!(field, "name" | "namespace" | "uid");
    match meta.get(field) {
        Some(value) if !value.is_null() => value,
        _ if is_text => &EMPTY,
        _ => &NULL,
    }
}

/// Copies what a client may leave out of an update from the stored object: uid, creation and deletion marks.
pub fn carry_over(new: &mut Value, old: &Value) {
    let old = old.get("metadata").unwrap_or(&Value::Null);
    let meta = new.object_at_mut(&["metadata"]);
    for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let missing = match meta.get(field) {
            None | Some(Value::Null) => true,
            Some(Value::String(s)) => s.is_empty(),
            Some(_) => false,
        };
        match old.get(field) {
            Some(value) if missing => meta.set(field, value.clone()),
            None if missing => {
                meta.remove(field);
            }
            _ => {}
        }
    }
}

fn validate(errors: &mut Vec<Error>, kind: &Kind, meta: &Value, path: &Path<'_>) {
    let rule = kind.hooks.name_rule.unwrap_or(rules::name_is_subdomain);
    let prefix = meta.str_at(&["generateName"]);
    if !prefix.is_empty() {
        invalid_each(errors, &path.child("generateName"), prefix, rule(prefix, true));
    }
    match meta.str_at(&["name"]) {
        "" => errors.push(Error::required(&path.child("name"), "name or generateName is required")),
        name => invalid_each(errors, &path.child("name"), name, rule(name, false)),
    }
    validate_namespace(errors, kind, meta.str_at(&["namespace"]), &path.child("namespace"));
    validate_common(errors, kind, meta, path);
}

fn validate_namespace(errors: &mut Vec<Error>, kind: &Kind, namespace: &str, path: &Path<'_>) {
    match kind.scope {
        Scope::Namespaced if namespace.is_empty() => errors.push(Error::required(path, "")),
        Scope::Namespaced => invalid_each(errors, path, namespace, rules::name_is_label(namespace, false)),
        Scope::Cluster if !namespace.is_empty() => {
            errors.push(Error::forbidden(path, "not allowed on this type"))
        }
        Scope::Cluster => {}
    }
}

fn validate_common(errors: &mut Vec<Error>, kind: &Kind, meta: &Value, path: &Path<'_>) {
    if let Some(generation) = meta.get("generation").and_then(Value::as_i64).filter(|g| *g < 0) {
        errors.push(Error::invalid(&path.child("generation"), generation, rules::NOT_NEGATIVE));
    }
    labels(errors, meta.get("labels"), &path.child("labels"));
    annotations(errors, meta.get("annotations"), &path.child("annotations"));
    owner_references(errors, meta, &path.child("ownerReferences"));
    let list = meta.items_at(&["finalizers"]);
    finalizers(errors, list, &path.child("finalizers"));
    if is_strict_about_finalizers(kind) {
        standard_finalizers(errors, list, &path.child("finalizers"));
    }
    managed_fields(errors, meta.items_at(&["managedFields"]), &path.child("managedFields"));
}

/// The rules of a map of labels.
pub fn labels(errors: &mut Vec<Error>, labels: Option<&Value>, path: &Path<'_>) {
    for (key, value) in fields(labels) {
        invalid_each(errors, path, key.as_str(), rules::qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        invalid_each(errors, path, value, rules::label_value(value));
    }
}

/// The rules of a map of annotations.
pub fn annotations(errors: &mut Vec<Error>, annotations: Option<&Value>, path: &Path<'_>) {
    let mut bytes = 0;
    for (key, value) in fields(annotations) {
        let wrong = if key.bytes().any(|b| b.is_ascii_uppercase()) {
            rules::qualified_name(&key.to_ascii_lowercase())
        } else {
            rules::qualified_name(key)
        };
        invalid_each(errors, path, key.as_str(), wrong);
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > ANNOTATIONS_MAX_BYTES {
        errors.push(Error::too_long(path, ANNOTATIONS_MAX_BYTES));
    }
}

fn fields(map: Option<&Value>) -> impl Iterator<Item = (&crate::Str, &Value)> {
    map.and_then(Value::as_object).into_iter().flat_map(Object::iter)
}

fn owner_references(errors: &mut Vec<Error>, meta: &Value, path: &Path<'_>) {
    let mut controller: Option<String> = None;
    for (i, owner) in meta.items_at(&["ownerReferences"]).iter().enumerate() {
        owner_reference(errors, owner, &path.index(i));
        if owner.get("controller").and_then(Value::as_bool) != Some(true) {
            continue;
        }
        let name = format!("{}/{}", owner.str_at(&["kind"]), owner.str_at(&["name"]));
        match &controller {
            None => controller = Some(name),
            Some(first) => {
                let all = meta.get("ownerReferences").cloned().unwrap_or_default();
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                );
                errors.push(Error::invalid(path, all, detail));
            }
        }
    }
}

fn owner_reference(errors: &mut Vec<Error>, owner: &Value, path: &Path<'_>) {
    let version = owner.str_at(&["apiVersion"]);
    if version.is_empty() {
        errors.push(Error::required(&path.child("apiVersion"), "must not be empty"));
    } else if version.matches('/').count() > 1 || version.ends_with('/') {
        let detail = "must be <group>/<version> or <version>";
        errors.push(Error::invalid(&path.child("apiVersion"), version, detail));
    }
    for field in ["kind", "name", "uid"] {
        if owner.str_at(&[field]).is_empty() {
            errors.push(Error::required(&path.child(field), "must not be empty"));
        }
    }
    if version == "v1" && owner.str_at(&["kind"]) == "Event" {
        errors.push(Error::invalid(path, owner.clone(), "/v1, Kind=Event is disallowed from being an owner"));
    }
}

fn finalizers(errors: &mut Vec<Error>, finalizers: &[Value], path: &Path<'_>) {
    for name in finalizers.iter().filter_map(Value::as_str) {
        invalid_each(errors, path, name, rules::qualified_name(name));
    }
    let has = |wanted: &str| finalizers.iter().any(|f| f.as_str() == Some(wanted));
    if has(ORPHAN) && has(FOREGROUND) {
        let detail = format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set");
        errors.push(Error::invalid(path, Value::from(finalizers.to_vec()), detail));
    }
}

/// Groups whose kinds know old finalizers by name and want all others qualified.
fn is_strict_about_finalizers(kind: &Kind) -> bool {
    let loose = matches!(&*kind.kind, "Event" | "PodDisruptionBudget");
    matches!(&*kind.group, "" | "apps" | "batch" | "autoscaling") && !loose
}

fn standard_finalizers(errors: &mut Vec<Error>, finalizers: &[Value], path: &Path<'_>) {
    for (i, name) in finalizers.iter().filter_map(Value::as_str).enumerate() {
        if !name.contains('/') && !matches!(name, "kubernetes" | ORPHAN | FOREGROUND) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(Error::invalid(&path.index(i), name, detail));
        }
    }
}

fn no_new_finalizers(errors: &mut Vec<Error>, new: &Value, old: &Value, path: &Path<'_>) {
    let old = old.items_at(&["finalizers"]);
    let mut added: Vec<&str> =
        new.items_at(&["finalizers"]).iter().filter(|f| !old.contains(f)).filter_map(Value::as_str).collect();
    if added.is_empty() {
        return;
    }
    added.sort_unstable();
    let list = added.iter().map(|f| format!("\"{f}\"")).collect::<Vec<_>>().join(", ");
    let detail = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{list}}}"
    );
    errors.push(Error::forbidden(path, detail));
}

fn managed_fields(errors: &mut Vec<Error>, entries: &[Value], path: &Path<'_>) {
    for (i, entry) in entries.iter().enumerate() {
        let path = path.index(i);
        match entry.str_at(&["operation"]) {
            "Apply" | "Update" => {}
            "" => errors.push(Error::required(&path.child("operation"), "must not be empty")),
            other => errors.push(Error::not_supported(&path.child("operation"), other, &["Apply", "Update"])),
        }
        if !matches!(entry.str_at(&["fieldsType"]), "" | "FieldsV1") {
            let bad = entry.str_at(&["fieldsType"]);
            errors.push(Error::invalid(&path.child("fieldsType"), bad, "must be `FieldsV1`"));
        }
        errors.extend(field_manager(entry.str_at(&["manager"]), &path.child("manager")));
        if entry.str_at(&["subresource"]).len() > SUBRESOURCE_MAX_BYTES {
            errors.push(Error::too_long(&path.child("subresource"), SUBRESOURCE_MAX_BYTES));
        }
    }
}

/// The rules of a field manager's name (`fieldManager` of a request).
pub fn field_manager(name: &str, path: &Path<'_>) -> Vec<Error> {
    let mut errors = Vec::new();
    if name.len() > FIELD_MANAGER_MAX_BYTES {
        errors.push(Error::too_long(path, FIELD_MANAGER_MAX_BYTES));
    }
    for (at, c) in name.char_indices().filter(|(_, c)| c.is_control()) {
        let detail = format!("invalid character U+{:04X} (at position {at})", c as u32);
        errors.push(Error::invalid(path, name, detail));
    }
    errors
}

/// The rules of a `metav1.LabelSelector` (missing is fine).
pub fn label_selector(errors: &mut Vec<Error>, selector: Option<&Value>, path: &Path<'_>) {
    let Some(selector) = selector else { return };
    labels(errors, selector.get("matchLabels"), &path.child("matchLabels"));
    let expressions = path.child("matchExpressions");
    for (i, requirement) in selector.items_at(&["matchExpressions"]).iter().enumerate() {
        label_requirement(errors, requirement, &expressions.index(i));
    }
}

fn label_requirement(errors: &mut Vec<Error>, requirement: &Value, path: &Path<'_>) {
    let values = requirement.items_at(&["values"]);
    let values_path = path.child("values");
    match requirement.str_at(&["operator"]) {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(Error::required(&values_path, detail));
        }
        "In" | "NotIn" => {}
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(Error::forbidden(&values_path, detail));
        }
        "Exists" | "DoesNotExist" => {}
        other => errors.push(Error::invalid(&path.child("operator"), other, "not a valid selector operator")),
    }
    let key = requirement.str_at(&["key"]);
    invalid_each(errors, &path.child("key"), key, rules::qualified_name(key));
    for (i, value) in values.iter().enumerate() {
        let value = value.as_str().unwrap_or_default();
        invalid_each(errors, &values_path.index(i), value, rules::label_value(value));
    }
}

/// Does a `metav1.LabelSelector` select everything (missing or without requirements)?
pub fn selector_is_empty(selector: Option<&Value>) -> bool {
    selector.is_none_or(|s| {
        s.items_at(&["matchExpressions"]).is_empty()
            && s.get("matchLabels").and_then(Value::as_object).is_none_or(Object::is_empty)
    })
}

/// Can a `metav1.LabelSelector` be understood?
pub fn selector_is_sound(selector: &Value) -> bool {
    LabelSelector::from_object(selector).is_ok()
}

/// Does a `metav1.LabelSelector` select these labels? A malformed one selects nothing.
pub fn selector_matches(selector: &Value, labels: Option<&Value>) -> bool {
    let get = |key: &str| labels.and_then(|l| l.get(key)).and_then(Value::as_str);
    LabelSelector::from_object(selector).is_ok_and(|selector| selector.matches_with(get))
}

#[cfg(test)]
mod tests;
