//! Strategic merge patch: a merge patch that knows from the schema which lists merge, by what key, and takes directives.
//!
//! | directive in the patch | meaning |
//! |---|---|
//! | `$patch: replace` in a map | the map becomes what stands beside the directive |
//! | `$patch: delete` in a map | the map becomes empty |
//! | `$patch: delete` in a list's item | the item with that merge key goes |
//! | `$patch: replace` in a list's item | the list becomes the patch's other items |
//! | `$retainKeys: [a, b]` | all fields but these are cleared |
//! | `$deleteFromPrimitiveList/f: [1]` | these scalars leave the list `f` |
//! | `$setElementOrder/f: […]` | the order of the list `f`, by merge key or by value |

mod diff;
mod lists;
mod types;

#[cfg(test)]
mod golden;

pub use diff::{three_way, two_way};
pub use types::{PatchSchema, PatchStrategy};

use std::collections::HashSet;

use super::PatchError;
use super::fields::Fields;
use super::merge::prune_nulls;
use crate::{Object, Str, Value};
use lists::Merging;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList";
const ELEMENT_ORDER: &str = "$setElementOrder";

const BAD_PRIMITIVE_LIST: &str = "invalid patch format of primitive list";
const BAD_RETAIN_KEYS: &str = "invalid patch format of retainKeys";
const BAD_ELEMENT_ORDER: &str = "invalid patch format of setElementOrder list";

/// Merges `patch` into `document`, whose type is `schema`.
pub fn apply<S: PatchSchema>(document: &mut Value, patch: Value, schema: S) -> Result<(), PatchError> {
    let (Value::Object(fields), Value::Object(patch)) = (document, patch) else {
        return malformed("invalid JSON document");
    };
    merge_map(fields, patch, schema, Mode::Apply)
}

/// Is the patch applied to an object, or added to another patch (whose directives then stay)?
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Apply,
    Combine,
}

fn malformed<T>(message: &str) -> Result<T, PatchError> {
    Err(PatchError::Malformed(message.to_owned()))
}

fn failed<T>(message: String) -> Result<T, PatchError> {
    Err(PatchError::Failed(message))
}

fn merge_map<S: PatchSchema>(
    original: &mut Object,
    mut patch: Object,
    schema: S,
    mode: Mode,
) -> Result<(), PatchError> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        *original = replacement(&directive.clone(), patch)?;
        return Ok(());
    }
    let mut fields = Fields::new(std::mem::take(original));
    retain_keys(&mut fields, &mut patch, mode)?;
    let mut patch = Fields::new(patch);
    order_lists(&mut fields, &mut patch, schema, mode)?;
    for (key, value) in patch.into_object() {
        merge_field(&mut fields, key, value, schema, mode)?;
    }
    *original = fields.into_object();
    Ok(())
}

/// What a map with a `$patch` directive makes of the one it meets.
fn replacement(directive: &Value, mut patch: Object) -> Result<Object, PatchError> {
    match directive.as_str() {
        Some("replace") => {
            patch.remove(DIRECTIVE);
            Ok(patch)
        }
        Some("delete") => Ok(Object::default()),
        _ => failed(unknown_directive(directive, &patch)),
    }
}

fn unknown_directive(directive: &Value, patch: &Object) -> String {
    format!("unknown patch type: {} in map: {}", go(directive), go(&Value::Object(patch.clone())))
}

fn retain_keys(fields: &mut Fields, patch: &mut Object, mode: Mode) -> Result<(), PatchError> {
    let Some(listed) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    if mode == Mode::Combine {
        return match fields.get(RETAIN_KEYS) {
            Some(other) if *other != listed => failed(format!(
                "{} and {} are not deep equal: this may happen when calculating the 3-way diff patch",
                go(other),
                go(&listed)
            )),
            _ => {
                fields.set(RETAIN_KEYS.into(), listed);
                Ok(())
            }
        };
    }
    let Value::Array(listed) = &listed else { return malformed(BAD_RETAIN_KEYS) };
    let keys: HashSet<&str> = listed.iter().filter_map(Value::as_str).collect();
    let is_directive = |key: &str| key.starts_with(DELETE_FROM) || key.starts_with(ELEMENT_ORDER);
    if patch.iter().any(|(key, value)| !value.is_null() && !is_directive(key) && !keys.contains(key.as_str()))
    {
        return malformed(BAD_RETAIN_KEYS);
    }
    fields.retain(|key| keys.contains(key));
    Ok(())
}

/// Merges every list whose order the patch gives, and takes it out of the patch.
fn order_lists<S: PatchSchema>(
    fields: &mut Fields,
    patch: &mut Fields,
    schema: S,
    mode: Mode,
) -> Result<(), PatchError> {
    for directive in patch.keys_with_prefix(ELEMENT_ORDER) {
        let Some(order) = patch.remove(&directive) else { continue };
        if mode == Mode::Combine {
            keep_order(fields, &directive, &order)?;
        }
        let Value::Array(order) = order else { return failed(expected("[]interface {}", &order)) };
        let key = key_of(&directive, ELEMENT_ORDER, BAD_ELEMENT_ORDER)?;
        order_list(fields, patch, key, &order, schema, mode)?;
    }
    Ok(())
}

fn keep_order(fields: &mut Fields, directive: &Str, order: &Value) -> Result<(), PatchError> {
    match fields.get(directive) {
        Some(other) if other != order => malformed(BAD_ELEMENT_ORDER),
        Some(_) => Ok(()),
        None => {
            fields.set(directive.clone(), order.clone());
            Ok(())
        }
    }
}

fn order_list<S: PatchSchema>(
    fields: &mut Fields,
    patch: &mut Fields,
    key: Str,
    order: &[Value],
    schema: S,
    mode: Mode,
) -> Result<(), PatchError> {
    let original = fields.get(&key).map(as_list).transpose()?.cloned();
    let change = patch.get(&key).map(as_list).transpose()?.cloned();
    let list = child(schema, &key)?;
    let merging = Merging { key: list.merge_key(), items: list.items().unwrap_or(list), mode };
    merging.check_order(change.as_deref().unwrap_or_default(), order)?;
    let merged = match (&original, &change) {
        (None, None) => return Ok(()),
        (Some(original), None) => original.clone(),
        (None, Some(change)) => change.iter().cloned().filter_map(without_directives).collect(),
        (Some(original), Some(change)) if list.strategy().merge => {
            merging.merge(original.clone(), change.clone())?
        }
        (Some(_), Some(change)) => change.clone(),
    };
    let (original, change) = (original.unwrap_or_default(), change.unwrap_or_default());
    lists::element_type([&original, &change])?;
    let live = if list.strategy().merge { merging.live_after(&original, &change)? } else { original };
    fields.set(key.clone(), Value::Array(merging.arrange(merged, order, &live)?));
    patch.remove(&key);
    Ok(())
}

fn as_list(value: &Value) -> Result<&Vec<Value>, PatchError> {
    value.as_array().map_or_else(|| failed(expected("[]interface {}", value)), Ok)
}

/// Upstream's complaint about a Go type; only the name of what was wanted is passed.
fn expected(wanted: &str, value: &Value) -> String {
    let got = match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int64",
        Value::Float(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    };
    format!("expected a {wanted}, but received a {got}")
}

/// `f` in `$setElementOrder/f`.
fn key_of(directive: &Str, prefix: &str, complaint: &str) -> Result<Str, PatchError> {
    match directive.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')) {
        Some(key) => Ok(Str::from(key)),
        None => malformed(complaint),
    }
}

fn merge_field<S: PatchSchema>(
    fields: &mut Fields,
    key: Str,
    value: Value,
    schema: S,
    mode: Mode,
) -> Result<(), PatchError> {
    let deletes = key.starts_with(DELETE_FROM);
    if deletes && mode == Mode::Combine {
        fields.set(key, value);
        return Ok(());
    }
    let key = if deletes { key_of(&key, DELETE_FROM, BAD_PRIMITIVE_LIST)? } else { key };
    if value.is_null() {
        fields.remove(&key);
        if mode == Mode::Apply {
            return Ok(());
        }
    }
    match (fields.get_mut(&key), value) {
        (Some(Value::Object(inner)), Value::Object(patch)) => {
            let schema = child(schema, &key)?;
            if schema.strategy().replace {
                *inner = patch;
                return Ok(());
            }
            merge_map(inner, patch, schema, mode)
        }
        (Some(Value::Array(inner)), Value::Array(patch)) => {
            let list = child(schema, &key)?;
            *inner = merge_list(std::mem::take(inner), patch, list, deletes, mode)?;
            Ok(())
        }
        _ if deletes => Ok(()),
        (_, value) => {
            put(fields, key, value, mode);
            Ok(())
        }
    }
}

fn merge_list<S: PatchSchema>(
    original: Vec<Value>,
    patch: Vec<Value>,
    list: S,
    deletes: bool,
    mode: Mode,
) -> Result<Vec<Value>, PatchError> {
    let merging = Merging { key: list.merge_key(), items: list.items().unwrap_or(list), mode };
    match (deletes, list.strategy().merge) {
        (true, _) => merging.delete(original, patch),
        (false, true) => merging.merge(original, patch),
        (false, false) => Ok(patch),
    }
}

/// Sets a field that the original does not have, or has with another type.
fn put(fields: &mut Fields, key: Str, mut value: Value, mode: Mode) {
    if mode == Mode::Apply {
        prune_nulls(&mut value);
    }
    match without_directives(value) {
        Some(value) => fields.set(key, value),
        None => drop(fields.remove(&key)),
    }
}

/// The value without the maps that carry a `$patch` directive, itself perhaps.
fn without_directives(value: Value) -> Option<Value> {
    Some(match value {
        Value::Object(fields) if fields.contains_key(DIRECTIVE) => return None,
        Value::Object(fields) => {
            let kept = fields.into_iter().filter_map(|(k, v)| Some((k, without_directives(v)?)));
            Value::Object(kept.collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().filter_map(without_directives).collect()),
        scalar => scalar,
    })
}

fn child<S: PatchSchema>(schema: S, key: &str) -> Result<S, PatchError> {
    match schema.child(key) {
        Some(child) => Ok(child),
        None => failed(format!(
            "unable to find api field in struct {} for the json field \"{key}\"",
            schema.name()
        )),
    }
}

/// A value as Go's `%v` prints it.
pub(crate) fn go(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Float(n) => n.to_string(),
        Value::String(s) => s.to_string(),
        Value::Array(items) => go_list(items),
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(k, _)| k.as_str());
            let fields: Vec<_> = fields.iter().map(|(k, v)| format!("{k}:{}", go(v))).collect();
            format!("map[{}]", fields.join(" "))
        }
    }
}

fn go_list(items: &[Value]) -> String {
    let items: Vec<_> = items.iter().map(go).collect();
    format!("[{}]", items.join(" "))
}
