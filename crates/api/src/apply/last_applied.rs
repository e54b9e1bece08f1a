//! The annotation of client-side apply, where `kubectl apply` and `kubectl apply --server-side` meet on one object.

use super::compare::compare;
use super::conflict::Conflict;
use super::fields::field_set;
use super::set::Set;
use super::{Manager, Target};
use crate::{Object, Value, json};

/// Where client-side apply keeps what it applied last.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The field manager of `kubectl apply --server-side`; only it is spared.
const KUBECTL: &str = "kubectl";

/// The most that all annotations may have, in bytes of keys and values.
const MAX_ANNOTATIONS_BYTES: usize = 256 << 10;

/// May a conflict of this manager turn out to be none?
pub(super) fn may_spare(manager: &Manager<'_>) -> bool {
    manager.name == KUBECTL
}

/// The conflicts without those over fields that kubectl itself set by client-side apply and nobody changed since.
pub(super) fn still_conflicting(
    conflicts: Vec<Conflict>,
    live: &Value,
    target: &Target<'_>,
    manager: &Manager<'_>,
) -> Vec<Conflict> {
    if !may_spare(manager) {
        return conflicts;
    }
    match set_by_client(live, target) {
        Some(own) => conflicts.into_iter().filter(|conflict| !own.has(&conflict.path)).collect(),
        None => conflicts,
    }
}

/// The fields of the annotation that the live object still has so.
fn set_by_client(live: &Value, target: &Target<'_>) -> Option<Set> {
    let text = annotation(live)?;
    let applied = json::parse(&bytes::Bytes::copy_from_slice(text.as_bytes())).ok()?;
    if applied.str_at(&["apiVersion"]) != target.api_version {
        return None;
    }
    super::validate::validate(&applied, target.node(), false).ok()?;
    let changed = compare(&applied, live, target.node()).ok()?;
    let set = field_set(&applied, target.node());
    Some(set.difference(&changed.modified).difference(&changed.added).difference(&changed.removed))
}

fn annotation(object: &Value) -> Option<&str> {
    let text = object.at(&["metadata", "annotations"])?.get(LAST_APPLIED)?.as_str()?;
    (!text.is_empty()).then_some(text)
}

/// Keeps the annotation true where there is one, so that users can go back to client-side apply.
pub(super) fn refresh(object: &mut Value, patch: &Value, manager: &Manager<'_>) {
    if !may_spare(manager) || annotation(object).is_none() {
        return;
    }
    let mut applied = patch.clone();
    if let Some(annotations) = applied.get_mut("metadata").and_then(|m| m.get_mut("annotations")) {
        annotations.as_object_mut().map(|a| a.remove(LAST_APPLIED));
    }
    sort(&mut applied);
    let text = json::to_string(&applied) + "\n";
    let annotations = object.object_at_mut(&["metadata", "annotations"]);
    annotations.set(LAST_APPLIED, text);
    if size(annotations) > MAX_ANNOTATIONS_BYTES {
        annotations.remove(LAST_APPLIED);
    }
}

fn size(annotations: &Object) -> usize {
    annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum()
}

fn sort(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.sort();
            fields.iter_mut().for_each(|(_, value)| sort(value));
        }
        Value::Array(items) => items.iter_mut().for_each(sort),
        _ => {}
    }
}
