//! JSON patch (RFC 6902) as Kubernetes applies it, which is looser than the RFC in four places.
//!
//! A negative index counts from the end; `replace` of a missing field of a map adds it; `test` of a missing field succeeds
//! against null; whatever stands before the first `/` of a path is ignored. Clients rely on the first two.

use std::borrow::Cow;

use super::{PatchError, depth};
use crate::{Object, Str, Value, json};

/// The most operations that one patch may have.
pub const MAX_OPERATIONS: usize = 10_000;

/// How much all `copy` operations of one patch may add to the object, in bytes of JSON.
pub const MAX_COPY_BYTES: usize = 3 << 20;

/// Applies the operations one after the other; the first that fails ends it.
pub fn apply(document: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let operations = operations(patch)?;
    let mut copied_bytes = 0;
    operations.iter().try_for_each(|operation| run(document, operation, &mut copied_bytes))
}

fn operations(patch: &Value) -> Result<&[Value], PatchError> {
    let list = patch.as_array().ok_or_else(|| {
        let what = patch.type_name();
        PatchError::Malformed(format!("json: cannot unmarshal {what} into Go value of type jsonpatch.Patch"))
    })?;
    if let Some(stray) = list.iter().find(|item| !matches!(item, Value::Object(_) | Value::Null)) {
        return Err(PatchError::Malformed(format!(
            "json: cannot unmarshal {} into Go value of type jsonpatch.Operation",
            stray.type_name()
        )));
    }
    if list.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            list.len()
        )));
    }
    Ok(list)
}

fn run(document: &mut Value, operation: &Value, copied_bytes: &mut usize) -> Result<(), PatchError> {
    let name = operation.get("op").and_then(Value::as_str).unwrap_or("unknown");
    match name {
        "add" => {
            let path = text(operation, name, "path")?;
            add(document, path, value(operation), name)
        }
        "remove" => remove(document, text(operation, name, "path")?, name).map(drop),
        "replace" => replace(document, text(operation, name, "path")?, value(operation)),
        "move" => {
            let from = text(operation, name, "from")?;
            let moved = remove(document, from, name)?;
            add(document, text(operation, name, "path")?, moved, name)
        }
        "copy" => copy(document, operation, copied_bytes),
        "test" => test(document, text(operation, name, "path")?, operation.get("value")),
        other => fail(format!("Unexpected kind: {other}")),
    }
}

fn fail<T>(message: String) -> Result<T, PatchError> {
    Err(PatchError::DoesNotFit(message))
}

fn text<'p>(operation: &'p Value, name: &str, field: &str) -> Result<&'p str, PatchError> {
    match operation.get(field).and_then(Value::as_str) {
        Some(text) => Ok(text),
        None => fail(format!("{name} operation failed to decode {field}: missing value")),
    }
}

fn value(operation: &Value) -> Value {
    operation.get("value").cloned().unwrap_or_default()
}

fn add(document: &mut Value, path: &str, value: Value, name: &str) -> Result<(), PatchError> {
    check_depth(path, &value)?;
    let Some((container, key)) = find(document, path) else {
        return fail(format!(
            "{name} operation does not apply: doc is missing path: \"{path}\": missing value"
        ));
    };
    container.add(&key, value).or_else(|why| fail(format!("error in {name} for path: '{path}': {why}")))
}

fn remove(document: &mut Value, path: &str, name: &str) -> Result<Value, PatchError> {
    let Some((container, key)) = find(document, path) else {
        return fail(format!(
            "{name} operation does not apply: doc is missing path: \"{path}\": missing value"
        ));
    };
    container.remove(&key).or_else(|why| fail(format!("error in {name} for path: '{path}': {why}")))
}

fn replace(document: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    check_depth(path, &value)?;
    if path.is_empty() {
        return replace_root(document, value);
    }
    let Some((container, key)) = find(document, path) else {
        return fail(format!("replace operation does not apply: doc is missing path: {path}: missing value"));
    };
    container.set(&key, value).or_else(|_| {
        fail(format!("replace operation does not apply: doc is missing key: {path}: missing value"))
    })
}

fn replace_root(document: &mut Value, value: Value) -> Result<(), PatchError> {
    if !matches!(value, Value::Object(_) | Value::Array(_)) {
        return fail("replace operation value must be object or array".into());
    }
    *document = value;
    Ok(())
}

fn copy(document: &mut Value, operation: &Value, copied_bytes: &mut usize) -> Result<(), PatchError> {
    let from = text(operation, "copy", "from")?;
    let Some((container, key)) = find(document, from) else {
        return fail(format!(
            "copy operation does not apply: doc is missing from path: {from}: missing value"
        ));
    };
    let value = match container.get(&key) {
        Ok(value) => value.cloned(),
        Err(why) => return fail(format!("error in copy for from: '{from}': {why}")),
    };
    *copied_bytes += value.as_ref().map_or(0, |value| json::to_vec(value).len());
    if *copied_bytes > MAX_COPY_BYTES {
        return fail(format!(
            "Unable to complete the copy, the accumulated size increase of copy is {copied_bytes}, exceeding the limit {MAX_COPY_BYTES}"
        ));
    }
    add(document, text(operation, "copy", "path")?, value.unwrap_or_default(), "copy")
}

fn test(document: &mut Value, path: &str, expected: Option<&Value>) -> Result<(), PatchError> {
    let expected = expected.unwrap_or(&Value::Null);
    let actual = if path.is_empty() {
        Some(&*document)
    } else {
        let Some((container, key)) = find(document, path) else {
            return fail(format!("test operation does not apply: is missing path: {path}: missing value"));
        };
        match container.into_ref(&key) {
            Ok(value) => value,
            Err(why) => return fail(format!("error in test for path: '{path}': {why}")),
        }
    };
    match actual.unwrap_or(&Value::Null) == expected {
        true => Ok(()),
        false => fail(format!("testing value {path} failed: test failed")),
    }
}

fn check_depth(path: &str, value: &Value) -> Result<(), PatchError> {
    let levels = path.bytes().filter(|b| *b == b'/').count() + depth(value);
    if levels > json::MAX_DEPTH { fail("exceeded max depth".into()) } else { Ok(()) }
}

/// The list or map that holds what a path names, and the path's last token.
fn find<'v, 'p>(document: &'v mut Value, path: &'p str) -> Option<(Container<'v>, Cow<'p, str>)> {
    let (_, path) = path.split_once('/')?;
    let (parents, key) = path.rsplit_once('/').map_or((None, path), |(parents, key)| (Some(parents), key));
    let mut at = Container::of(document)?;
    for token in parents.into_iter().flat_map(|parents| parents.split('/')) {
        at = Container::of(at.into_mut(&unescape(token))?)?;
    }
    Some((at, unescape(key)))
}

fn unescape(token: &str) -> Cow<'_, str> {
    if token.contains('~') { token.replace("~1", "/").replace("~0", "~").into() } else { token.into() }
}

enum Container<'v> {
    Map(&'v mut Object),
    List(&'v mut Vec<Value>),
}

impl<'v> Container<'v> {
    fn of(value: &'v mut Value) -> Option<Self> {
        match value {
            Value::Object(fields) => Some(Container::Map(fields)),
            Value::Array(items) => Some(Container::List(items)),
            _ => None,
        }
    }

    fn into_mut(self, key: &str) -> Option<&'v mut Value> {
        match self {
            Container::Map(fields) => fields.get_mut(key),
            Container::List(items) => {
                let at = index(key, items.len()).ok()?;
                items.get_mut(at)
            }
        }
    }

    /// A missing field of a map is `None`, a missing item of a list an error.
    fn into_ref(self, key: &str) -> Result<Option<&'v Value>, String> {
        match self {
            Container::Map(fields) => Ok(fields.get(key)),
            Container::List(items) => index(key, items.len()).map(|at| Some(&items[at])),
        }
    }

    fn get(&self, key: &str) -> Result<Option<&Value>, String> {
        match self {
            Container::Map(fields) => Ok(fields.get(key)),
            Container::List(items) => index(key, items.len()).map(|at| Some(&items[at])),
        }
    }

    fn set(self, key: &str, value: Value) -> Result<(), String> {
        match self {
            Container::Map(fields) => {
                fields.insert(key, value);
            }
            Container::List(items) => {
                let at = index(key, items.len())?;
                items[at] = value;
            }
        }
        Ok(())
    }

    fn add(self, key: &str, value: Value) -> Result<(), String> {
        match self {
            Container::Map(fields) => {
                fields.insert(Str::from(key), value);
            }
            Container::List(items) if key == "-" => items.push(value),
            Container::List(items) => {
                let at = index(key, items.len() + 1)?;
                items.insert(at, value);
            }
        }
        Ok(())
    }

    fn remove(self, key: &str) -> Result<Value, String> {
        match self {
            Container::Map(fields) => fields
                .remove(key)
                .ok_or_else(|| format!("Unable to remove nonexistent key: {key}: missing value")),
            Container::List(items) => {
                let at = index(key, items.len())?;
                Ok(items.remove(at))
            }
        }
    }
}

/// A position below `len`; negative ones count from the end.
fn index(key: &str, len: usize) -> Result<usize, String> {
    let given: i64 = key.parse().map_err(|_| format!("value was not a proper array index: '{key}'"))?;
    let at = if given < 0 { given + len as i64 } else { given };
    match usize::try_from(at) {
        Ok(at) if at < len => Ok(at),
        _ => Err(format!("Unable to access invalid index: {given}: invalid index referenced")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdata::parse;

    /// Document, operations, and the result or a part of the error.
    const ROWS: &[(&str, &str, &str)] = &[
        (r#"{"a":1}"#, r#"[{"op":"add","path":"/b","value":2}]"#, r#"{"a":1,"b":2}"#),
        (r#"{"a":1}"#, r#"[{"op":"add","path":"/a","value":2}]"#, r#"{"a":2}"#),
        (r#"{"a":1}"#, r#"[{"op":"add","path":"/b"}]"#, r#"{"a":1,"b":null}"#),
        (r#"{"a":[1,2]}"#, r#"[{"op":"add","path":"/a/1","value":9}]"#, r#"{"a":[1,9,2]}"#),
        (r#"{"a":[1,2]}"#, r#"[{"op":"add","path":"/a/-","value":9}]"#, r#"{"a":[1,2,9]}"#),
        (r#"{"a":[1,2]}"#, r#"[{"op":"add","path":"/a/2","value":9}]"#, r#"{"a":[1,2,9]}"#),
        (r#"{"a":[1,2]}"#, r#"[{"op":"add","path":"/a/-1","value":9}]"#, r#"{"a":[1,2,9]}"#),
        (
            r#"{"a":[1,2]}"#,
            r#"[{"op":"add","path":"/a/3","value":9}]"#,
            "error in add for path: '/a/3': Unable to access invalid index: 3: invalid index referenced",
        ),
        (
            r#"{"a":[1,2]}"#,
            r#"[{"op":"add","path":"/a/x","value":9}]"#,
            "value was not a proper array index: 'x'",
        ),
        (
            r#"{"a":1}"#,
            r#"[{"op":"add","path":"/b/c","value":2}]"#,
            "add operation does not apply: doc is missing path: \"/b/c\": missing value",
        ),
        (r#"{"a":1}"#, r#"[{"op":"add","path":"/a/c","value":2}]"#, "doc is missing path"),
        (r#"{"a":1}"#, r#"[{"op":"add","path":"","value":{}}]"#, "doc is missing path"),
        (r#"{"a":1}"#, r#"[{"op":"add","value":2}]"#, "add operation failed to decode path"),
        (
            r#"{"a/b":{"m~n":1}}"#,
            r#"[{"op":"replace","path":"/a~1b/m~0n","value":2}]"#,
            r#"{"a/b":{"m~n":2}}"#,
        ),
        (r#"{"~1":1}"#, r#"[{"op":"remove","path":"/~01"}]"#, "{}"),
        (r#"{"a":1,"b":2}"#, r#"[{"op":"remove","path":"/a"}]"#, r#"{"b":2}"#),
        (r#"{"a":[1,2,3]}"#, r#"[{"op":"remove","path":"/a/-2"}]"#, r#"{"a":[1,3]}"#),
        (
            r#"{"a":1}"#,
            r#"[{"op":"remove","path":"/b"}]"#,
            "Unable to remove nonexistent key: b: missing value",
        ),
        (r#"{"a":[1]}"#, r#"[{"op":"remove","path":"/a/-"}]"#, "not a proper array index"),
        (r#"{"a":1}"#, r#"[{"op":"replace","path":"/b","value":2}]"#, r#"{"a":1,"b":2}"#),
        (
            r#"{"a":[1]}"#,
            r#"[{"op":"replace","path":"/a/1","value":2}]"#,
            "replace operation does not apply: doc is missing key: /a/1: missing value",
        ),
        (r#"{"a":1}"#, r#"[{"op":"replace","path":"","value":{"b":2}}]"#, r#"{"b":2}"#),
        (r#"{"a":1}"#, r#"[{"op":"replace","path":"","value":3}]"#, "must be object or array"),
        (r#"{"a":1,"b":{}}"#, r#"[{"op":"move","from":"/a","path":"/b/c"}]"#, r#"{"b":{"c":1}}"#),
        (r#"{"a":[1,2,3]}"#, r#"[{"op":"move","from":"/a/0","path":"/a/2"}]"#, r#"{"a":[2,3,1]}"#),
        (r#"{"a":{"b":1}}"#, r#"[{"op":"move","from":"/a","path":"/a/b"}]"#, "doc is missing path"),
        (r#"{"a":{"b":1}}"#, r#"[{"op":"copy","from":"/a","path":"/a/b"}]"#, r#"{"a":{"b":{"b":1}}}"#),
        (r#"{"a":1}"#, r#"[{"op":"copy","from":"/x","path":"/y"}]"#, r#"{"a":1,"y":null}"#),
        (r#"{"a":{"b":[1]}}"#, r#"[{"op":"test","path":"/a","value":{"b":[1]}}]"#, r#"{"a":{"b":[1]}}"#),
        (r#"{"a":1}"#, r#"[{"op":"test","path":"/a","value":2}]"#, "testing value /a failed: test failed"),
        (r#"{"a":1}"#, r#"[{"op":"test","path":"/a","value":1.0}]"#, "testing value /a failed: test failed"),
        (r#"{"a":1}"#, r#"[{"op":"test","path":"/b","value":null}]"#, r#"{"a":1}"#),
        (r#"{"a":null}"#, r#"[{"op":"test","path":"/a"}]"#, r#"{"a":null}"#),
        (r#"{"a":1}"#, r#"[{"op":"test","path":"","value":{"a":1}}]"#, r#"{"a":1}"#),
        (
            r#"{"a":1}"#,
            r#"[{"op":"test","path":"/b/c","value":1}]"#,
            "test operation does not apply: is missing path: /b/c",
        ),
        (r#"{"a":1}"#, r#"[{"op":"bogus","path":"/a"}]"#, "Unexpected kind: bogus"),
        (r#"{"a":1}"#, "[null]", "Unexpected kind: unknown"),
        (r#"{"a":1}"#, "{}", "json: cannot unmarshal object into Go value of type jsonpatch.Patch"),
        (r#"{"a":1}"#, "[1]", "json: cannot unmarshal number into Go value of type jsonpatch.Operation"),
        (r#"{"a":1}"#, "[]", r#"{"a":1}"#),
    ];

    #[test]
    fn operations_one_by_one() {
        for (document, patch, want) in ROWS {
            let mut value = parse(document);
            match apply(&mut value, &parse(patch)) {
                Ok(()) if want.starts_with('{') => assert_eq!(value, parse(want), "{patch}"),
                Err(error) => assert!(error.to_string().contains(want), "{patch}: {error}"),
                Ok(()) => panic!("{patch}: {value:?}"),
            }
        }
    }

    #[test]
    fn bounds() {
        let step = parse(r#"{"op":"add","path":"/a","value":1}"#);
        let many = Value::Array(vec![step; MAX_OPERATIONS + 1]);
        let error = apply(&mut Value::object(), &many).unwrap_err();
        assert_eq!(
            error,
            PatchError::TooLarge("The allowed maximum operations in a JSON patch is 10000, got 10001".into())
        );

        // Each copy doubles the list: without a bound 40 operations would ask for a terabyte.
        let double = parse(r#"{"op":"copy","from":"/a","path":"/a/-"}"#);
        let mut value = parse(r#"{"a":["0123456789"]}"#);
        let error = apply(&mut value, &Value::Array(vec![double; 40])).unwrap_err().to_string();
        assert!(
            error.starts_with("Unable to complete the copy, the accumulated size increase of copy is"),
            "{error}"
        );

        // Each copy doubles the depth.
        let steps =
            (0..20).map(|i| format!(r#"{{"op":"copy","from":"/a","path":"/a{}"}}"#, "/b".repeat(1 << i)));
        let patch = format!("[{}]", steps.collect::<Vec<_>>().join(","));
        let mut value = parse(r#"{"a":{}}"#);
        assert_eq!(apply(&mut value, &parse(&patch)).unwrap_err().to_string(), "exceeded max depth");
    }

    #[test]
    fn upstream_hides_why_a_patch_does_not_fit() {
        let error = apply(&mut Value::object(), &parse(r#"[{"op":"remove","path":"/a"}]"#)).unwrap_err();
        let status: Box<crate::Status> = error.into();
        assert_eq!((status.code, status.reason), (422, "Invalid"));
        assert_eq!(status.message, "the server rejected our request due to an error in our request");
    }
}
