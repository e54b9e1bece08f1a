//! Metadata that the system owns: names, uid, times, generation, marks of deletion.

use corten_api::kind::{Scope, Subresource};
use corten_api::{Kind, Object, Result, Status, Str, Value, time};
use rand::Rng;

use crate::call::Call;

/// Letters of generated names: no vowels, nothing that looks alike (upstream's set).
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
/// A generated name is at most a DNS label.
const MAX_BASE_LENGTH: usize = 63 - SUFFIX_LENGTH;

/// A random suffix, as `generateName` and the service account volume use it.
pub(crate) fn suffix() -> String {
    let mut rng = rand::rng();
    let letter = |_| char::from(SUFFIX_LETTERS[rng.random_range(0..SUFFIX_LETTERS.len())]);
    (0..SUFFIX_LENGTH).map(letter).collect()
}

/// The name made of a `generateName`.
pub(crate) fn generated(base: &str) -> String {
    let cut = (0..=base.len().min(MAX_BASE_LENGTH)).rev().find(|at| base.is_char_boundary(*at)).unwrap_or(0);
    format!("{}{}", &base[..cut], suffix())
}

/// The metadata of an object, made where it is missing.
pub(crate) fn metadata(object: &mut Value) -> &mut Object {
    object.object_at_mut(&["metadata"])
}

/// Sets what a new object gets from the system. The name may still be missing.
pub(crate) fn new_object(object: &mut Value, kind: &Kind, now_ms: i64) {
    let meta = metadata(object);
    for gone in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
        meta.remove(gone);
    }
    // Where nobody counts, a generation stays as it was brought.
    if kind.has_generation {
        meta.set("generation", 1);
    } else if matches!(meta.get("generation"), Some(Value::Null | Value::Int(0))) {
        meta.remove("generation");
    }
    meta.set("uid", uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string());
    meta.set("creationTimestamp", time::rfc3339(now_ms));
}

/// Makes the namespace of a body agree with the path.
///
/// Errors: 400 when it names another one.
pub(crate) fn agree_on_namespace(object: &mut Value, call: &Call) -> Result<()> {
    let wanted = call.info.namespace.as_str();
    let meta = metadata(object);
    let found = meta.get("namespace").and_then(Value::as_str).unwrap_or_default();
    if found == wanted {
        return Ok(());
    }
    match (call.kind.scope, found) {
        (Scope::Namespaced, "") => meta.set("namespace", wanted),
        (Scope::Cluster, _) if wanted.is_empty() => {}
        _ => {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    }
    Ok(())
}

/// Makes the name of a body agree with the path.
///
/// Errors: 400 when it names another one.
pub(crate) fn agree_on_name(object: &mut Value, wanted: &str) -> Result<()> {
    let meta = metadata(object);
    let found = meta.get("name").and_then(Value::as_str).unwrap_or_default();
    if found.is_empty() {
        meta.set("name", wanted);
        return Ok(());
    }
    if found == wanted {
        return Ok(());
    }
    Err(Status::bad_request(format!(
        "the name of the object ({found}) does not match the name on the URL ({wanted})"
    )))
}

/// Does the object insist on the version that it was read at?
pub(crate) fn names_version(object: &Value) -> bool {
    !matches!(object.str_at(&["metadata", "resourceVersion"]), "" | "0")
}

/// Does the kind keep `status` apart?
pub(crate) fn has_status(kind: &Kind) -> bool {
    kind.subresources.contains(&Subresource::Status)
}

/// Everything but the metadata and a status kept apart, compared: a change of it is a new generation.
pub(crate) fn same_spec(new: &Value, old: &Value) -> bool {
    let count = |v: &Value| relevant(v).count();
    count(new) == count(old) && relevant(new).all(|(k, v)| old.get(k) == Some(v))
}

fn relevant(object: &Value) -> impl Iterator<Item = (&Str, &Value)> {
    let fields = object.as_object().into_iter().flat_map(Object::iter);
    fields.filter(|(k, _)| !matches!(k.as_str(), "metadata" | "status"))
}

/// Replaces or removes a top-level field so that it is as in `from`.
pub(crate) fn take_field(object: &mut Value, field: &'static str, from: &Value) {
    let fields = object.object_at_mut(&[]);
    match from.get(field) {
        Some(value) => fields.set(field, value.clone()),
        None => {
            fields.remove(field);
        }
    }
}

/// Is the object marked for deletion?
pub(crate) fn is_deleting(object: &Value) -> bool {
    !object.str_at(&["metadata", "deletionTimestamp"]).is_empty()
}

/// Is nothing left that holds the deletion of a marked object?
pub(crate) fn is_done_deleting(object: &Value) -> bool {
    let grace = object.at(&["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(0);
    is_deleting(object) && grace == 0 && !has_finalizers(object)
}

/// Finalizers of the metadata, or of a namespace's spec.
pub(crate) fn has_finalizers(object: &Value) -> bool {
    let of_namespace = object.str_at(&["kind"]) == "Namespace" && object.str_at(&["apiVersion"]) == "v1";
    !object.items_at(&["metadata", "finalizers"]).is_empty()
        || (of_namespace && !object.items_at(&["spec", "finalizers"]).is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names() {
        assert_eq!(generated("web-").len(), 9);
        assert!(generated("web-").starts_with("web-"));
        assert_eq!(generated(&"x".repeat(100)).len(), 63);
        assert_ne!(generated("a"), generated("a"));
        assert!(generated(&"ü".repeat(60)).len() <= 63);
    }
}
