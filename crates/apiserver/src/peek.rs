//! Looks into canonical JSON without decoding it: selectors, finalizers and phases cost a scan, not a tree.
//!
//! The bytes come from [`crate::stored`], so they are valid and compact; on anything else the answer is `None`, never a panic.

use std::borrow::Cow;

/// The raw bytes of the value at a path of field names.
pub fn raw<'a>(json: &'a [u8], path: &[&str]) -> Option<&'a [u8]> {
    let mut value = json;
    for name in path {
        value = fields(value).find(|(key, _)| *key == name.as_bytes())?.1;
    }
    Some(value)
}

/// Any scalar at a path as text, `""` where there is none.
pub fn text<'a>(json: &'a [u8], path: &[&str]) -> Cow<'a, str> {
    let Some(value) = raw(json, path) else { return Cow::Borrowed("") };
    match value.first() {
        Some(b'"') => unquote(value).unwrap_or_default(),
        _ => String::from_utf8_lossy(value),
    }
}

/// The string fields of the object at a path (labels, annotations).
pub fn strings<'a>(json: &'a [u8], path: &[&str]) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
    let object = raw(json, path).unwrap_or_default();
    fields(object).filter_map(|(key, value)| Some((unescape(key)?, unquote(value)?)))
}

/// The fields of an object in order: raw key (without quotes) and raw value.
pub fn fields(object: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = object.strip_prefix(b"{").unwrap_or_default();
    std::iter::from_fn(move || {
        rest = rest.strip_prefix(b",").unwrap_or(rest);
        let end = string_end(rest)?;
        let key = &rest[1..end - 1];
        let value = rest[end..].strip_prefix(b":")?;
        let (value, tail) = value.split_at(value_end(value)?);
        rest = tail;
        Some((key, value))
    })
}

/// The string that a JSON string literal stands for.
fn unquote(literal: &[u8]) -> Option<Cow<'_, str>> {
    unescape(literal.strip_prefix(b"\"")?.strip_suffix(b"\"")?)
}

fn unescape(inner: &[u8]) -> Option<Cow<'_, str>> {
    if !inner.contains(&b'\\') {
        return std::str::from_utf8(inner).ok().map(Cow::Borrowed);
    }
    let quoted = [b"\"", inner, b"\""].concat();
    serde_json::from_slice::<String>(&quoted).ok().map(Cow::Owned)
}

/// Index behind the string literal at the start.
fn string_end(json: &[u8]) -> Option<usize> {
    if json.first() != Some(&b'"') {
        return None;
    }
    let mut at = 1;
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    None
}

/// Index behind the value at the start. Does not recurse.
fn value_end(json: &[u8]) -> Option<usize> {
    match *json.first()? {
        b'"' => string_end(json),
        b'{' | b'[' => nested_end(json),
        b',' | b'}' | b']' => None,
        _ => Some(json.iter().position(|b| b",}]".contains(b)).unwrap_or(json.len())),
    }
}

fn nested_end(json: &[u8]) -> Option<usize> {
    let (mut at, mut depth) = (0, 0usize);
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => {
                at += string_end(&json[at..])?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &[u8] = br#"{"kind":"Pod","metadata":{"name":"a\"b","labels":{"x":"1","y/z":"}"},"finalizers":[]},"spec":{"n":-5,"t":true,"c":[{"a":[1,2]},"s",3]}}"#;

    #[test]
    fn finds() {
        assert_eq!(text(POD, &["metadata", "name"]), "a\"b");
        assert_eq!(text(POD, &["spec", "n"]), "-5");
        assert_eq!(text(POD, &["spec", "t"]), "true");
        assert_eq!(text(POD, &["spec", "missing"]), "");
        assert_eq!(raw(POD, &["metadata", "finalizers"]), Some(&b"[]"[..]));
        let labels: Vec<_> = strings(POD, &["metadata", "labels"]).collect();
        assert_eq!(labels, [("x".into(), "1".into()), ("y/z".into(), "}".into())]);
    }

    #[test]
    fn broken_bytes_give_nothing() {
        for cut in 0..POD.len() {
            let _ = raw(&POD[..cut], &["spec", "c"]);
            let _ = strings(&POD[..cut], &["metadata", "labels"]).count();
        }
        assert_eq!(raw(b"", &["a"]), None);
        assert_eq!(raw(b"[1]", &["a"]), None);
    }
}
