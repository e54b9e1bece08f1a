//! JSON merge patch (RFC 7386) as Kubernetes applies it.
//!
//! Two things differ from the RFC's pseudo code, both inherited from the library that upstream uses: nulls are also pruned
//! from objects inside a list that newly appears, and a patch that is neither object nor list is refused.

use super::PatchError;
use super::fields::Fields;
use crate::{Object, Value};

/// Merges `patch` into `document`. Only a patch that is no document at all fails.
pub fn apply(document: &mut Value, mut patch: Value) -> Result<(), PatchError> {
    match (&mut *document, patch) {
        (Value::Object(fields), Value::Object(patch)) => merge_object(fields, patch),
        (_, container @ (Value::Object(_) | Value::Array(_))) => {
            patch = container;
            prune_nulls(&mut patch);
            *document = patch;
        }
        _ => return Err(PatchError::Malformed("Invalid JSON Patch".into())),
    }
    Ok(())
}

fn merge_object(document: &mut Object, patch: Object) {
    let mut fields = Fields::new(std::mem::take(document));
    for (key, value) in patch {
        match (fields.get_mut(&key), value) {
            (_, Value::Null) => {
                fields.remove(&key);
            }
            (Some(slot @ (Value::Object(_) | Value::Array(_))), value) => merge_value(slot, value),
            (_, mut value) => {
                prune_nulls(&mut value);
                fields.set(key, value);
            }
        }
    }
    *document = fields.into_object();
}

fn merge_value(slot: &mut Value, mut patch: Value) {
    match (&mut *slot, &mut patch) {
        (Value::Object(fields), Value::Object(patch)) => return merge_object(fields, std::mem::take(patch)),
        (Value::Object(_), _) => {}
        _ => prune_nulls(&mut patch),
    }
    *slot = patch;
}

/// Drops the null fields of all objects inside; the nulls of lists stay.
pub(crate) fn prune_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.retain(|_, v| {
            prune_nulls(v);
            !v.is_null()
        }),
        Value::Array(items) => items.iter_mut().for_each(prune_nulls),
        _ => {}
    }
}

/// The patch that turns `from` into `to`. `None` where they are equal.
///
/// A null in `to` cannot be said in a merge patch: it comes out as a removal.
pub fn diff(from: &Value, to: &Value) -> Option<Value> {
    let (Value::Object(old), Value::Object(new)) = (from, to) else {
        return (from != to).then(|| to.clone());
    };
    let was: Fields = Fields::new(old.clone());
    let is: Fields = Fields::new(new.clone());
    let mut patch = Object::default();
    for (key, value) in new.iter() {
        let change = match was.get(key) {
            Some(old) => diff(old, value),
            None => Some(value.clone()),
        };
        if let Some(change) = change {
            patch.push_unchecked(key.clone(), change);
        }
    }
    for key in old.keys().filter(|k| is.get(k).is_none()) {
        patch.push_unchecked(key.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdata::parse;

    #[test]
    fn rows() {
        // The RFC's own table, as far as a Kubernetes object can look so, and what differs from it.
        for (document, patch, want) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            (r#"{}"#, r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
            (r#"{"a":1}"#, r#"{"a":{"b":null,"c":1}}"#, r#"{"a":{"c":1}}"#),
            (r#"{}"#, r#"{"a":[{"b":null},null]}"#, r#"{"a":[{},null]}"#),
            (r#"{"a":{"x":1}}"#, r#"{"a":[{"b":null}]}"#, r#"{"a":[{"b":null}]}"#),
            (r#"{"a":1}"#, r#"[{"b":null}]"#, r#"[{}]"#),
        ] {
            let mut value = parse(document);
            apply(&mut value, parse(patch)).unwrap();
            assert_eq!(value, parse(want), "{document} + {patch}");
        }
        for patch in ["null", "1", "\"x\"", "true"] {
            let error = apply(&mut parse("{}"), parse(patch)).unwrap_err();
            assert_eq!(error, PatchError::Malformed("Invalid JSON Patch".into()));
        }
    }
}
