//! Objects at rest: canonical JSON that begins `{"kind":K,"apiVersion":V,"metadata":{` and holds no resource version.
//!
//! The resource version is known only after the write, so it is spliced in on the way out, right behind the opening brace
//! of `metadata`; a list or an event then is made of copies of stored bytes.

use corten_api::{Object, Result, Status, Str, Value, json};

/// The form of an object's bytes before its metadata fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head<'a> {
    /// As stored.
    Own,
    /// Without kind and version: items of built-in lists.
    Bare,
    /// With this `apiVersion` and `kind` instead.
    As {
        /// `apps/v1`
        api_version: &'a str,
        /// `Deployment`
        kind: &'a str,
    },
}

/// The canonical bytes of an object. `metadata.resourceVersion` and `metadata.selfLink` are left out.
pub fn encode(object: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    write_head(object.str_at(&["apiVersion"]), object.str_at(&["kind"]), &mut out);
    let metadata = object.get("metadata").and_then(Value::as_object);
    let kept = metadata
        .into_iter()
        .flat_map(Object::iter)
        .filter(|(k, _)| *k != "resourceVersion" && *k != "selfLink");
    write_fields(kept, &mut out);
    out.push(b'}');
    let rest = object.as_object().into_iter().flat_map(Object::iter);
    let rest = rest.filter(|(k, _)| !matches!(k.as_str(), "kind" | "apiVersion" | "metadata"));
    for (key, value) in rest {
        out.push(b',');
        write_field(key, value, &mut out);
    }
    out.push(b'}');
    out
}

fn write_head(api_version: &str, kind: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"kind\":");
    json::write(&Value::from(kind), out);
    out.extend_from_slice(b",\"apiVersion\":");
    json::write(&Value::from(api_version), out);
    out.extend_from_slice(b",\"metadata\":{");
}

fn write_fields<'a>(fields: impl Iterator<Item = (&'a Str, &'a Value)>, out: &mut Vec<u8>) {
    for (i, (key, value)) in fields.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_field(key, value, out);
    }
}

fn write_field(key: &Str, value: &Value, out: &mut Vec<u8>) {
    json::write(&Value::String(key.clone()), out);
    out.push(b':');
    json::write(value, out);
}

/// Appends the object with its resource version; 0 (a dry run's) is none.
pub fn write(bytes: &[u8], revision: u64, head: Head<'_>, out: &mut Vec<u8>) {
    let split = metadata_start(bytes);
    match head {
        Head::Own => out.extend_from_slice(&bytes[..split]),
        Head::Bare => out.extend_from_slice(b"{\"metadata\":{"),
        Head::As { api_version, kind } => write_head(api_version, kind, out),
    }
    if revision != 0 {
        out.extend_from_slice(b"\"resourceVersion\":\"");
        out.extend_from_slice(revision.to_string().as_bytes());
        out.push(b'"');
        if bytes.get(split).is_some_and(|b| *b != b'}') {
            out.push(b',');
        }
    }
    out.extend_from_slice(&bytes[split..]);
}

/// The object alone with its resource version.
pub fn to_json(bytes: &[u8], revision: u64, head: Head<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 64);
    write(bytes, revision, head, &mut out);
    out
}

/// Index behind `"metadata":{`. Kind and version hold no brace, so it is the second one.
fn metadata_start(bytes: &[u8]) -> usize {
    let second = bytes.iter().skip(1).position(|b| *b == b'{');
    second.map_or(bytes.len(), |at| at + 2)
}

/// The tree of a stored object, resource version included.
///
/// Errors: 500 when the bytes are no JSON (the store was written by something else).
pub fn tree(bytes: &[u8], revision: u64) -> Result<Value> {
    let text = bytes::Bytes::from(to_json(bytes, revision, Head::Own));
    crate::decode::json(text).map_err(|e| Status::internal(format!("stored object: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn round_trip() {
        let source = br#"{"apiVersion":"v1","spec":{"x":1},"metadata":{"resourceVersion":"9","name":"a"},"kind":"Pod"}"#;
        let object = crate::decode::json(bytes::Bytes::from_static(source)).unwrap();
        let stored = encode(&object);
        assert_eq!(
            text(stored.clone()),
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"},"spec":{"x":1}}"#
        );
        assert_eq!(
            text(to_json(&stored, 7, Head::Own)),
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"7","name":"a"},"spec":{"x":1}}"#
        );
        assert_eq!(
            text(to_json(&stored, 7, Head::Bare)),
            r#"{"metadata":{"resourceVersion":"7","name":"a"},"spec":{"x":1}}"#
        );
        assert!(
            text(to_json(&stored, 7, Head::As { api_version: "g/v2", kind: "P" }))
                .starts_with(r#"{"kind":"P","apiVersion":"g/v2","metadata":{"resourceVersion":"7","name""#)
        );
        assert_eq!(to_json(&stored, 0, Head::Own), stored);
        assert_eq!(tree(&stored, 3).unwrap().str_at(&["metadata", "resourceVersion"]), "3");
    }

    #[test]
    fn empty_metadata_and_garbage() {
        let stored = encode(&Value::object());
        assert_eq!(text(stored.clone()), r#"{"kind":"","apiVersion":"","metadata":{}}"#);
        assert_eq!(
            text(to_json(&stored, 1, Head::Own)),
            r#"{"kind":"","apiVersion":"","metadata":{"resourceVersion":"1"}}"#
        );
        assert!(tree(b"", 1).is_err());
    }
}
