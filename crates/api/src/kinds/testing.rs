//! What the tables of tests in this crate share: trees written as YAML, errors as text.

use crate::kind::Context;
use crate::kinds::builtin_kind;
use crate::{Object, Str, Value, field};

/// A tree from YAML (or JSON).
pub(crate) fn tree(yaml: &str) -> Value {
    from_serde(serde_saphyr::from_str(yaml).expect("test YAML"))
}

fn from_serde(value: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match value {
        Json::Null => Value::Null,
        Json::Bool(b) => Value::Bool(b),
        Json::Number(n) => n.as_i64().map_or_else(|| Value::Float(n.as_f64().expect("a number")), Value::Int),
        Json::String(s) => Value::String(s.into()),
        Json::Array(items) => Value::Array(items.into_iter().map(from_serde).collect()),
        Json::Object(map) => {
            Value::Object(map.into_iter().map(|(k, v)| (Str::from(k), from_serde(v))).collect::<Object>())
        }
    }
}

/// Errors as a user sees them.
pub(crate) fn texts(errors: &[field::Error]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// A request context at a fixed time.
pub(crate) const CONTEXT: Context<'static> =
    Context { group: "", version: "v1", subresource: "", now_ms: 1_700_000_000_000 };

/// The object after its kind's defaults.
pub(crate) fn defaulted(group: &str, kind: &str, yaml: &str) -> Value {
    let mut object = tree(yaml);
    if let Some(default) = builtin_kind(group, kind).expect("built in").hooks.default {
        default(&mut object);
    }
    object
}

/// What validation of the defaulted object says on create.
pub(crate) fn create_errors(group: &str, kind: &str, yaml: &str) -> Vec<String> {
    let object = defaulted(group, kind, yaml);
    let validate = builtin_kind(group, kind).expect("built in").hooks.validate.expect("validates");
    texts(&validate(&object, None, &CONTEXT))
}

/// What validation of the change says.
pub(crate) fn update_errors(group: &str, kind: &str, old: &str, new: &str) -> Vec<String> {
    let (old, new) = (defaulted(group, kind, old), defaulted(group, kind, new));
    let validate = builtin_kind(group, kind).expect("built in").hooks.validate.expect("validates");
    texts(&validate(&new, Some(&old), &CONTEXT))
}
