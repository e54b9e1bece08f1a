//! JSON to value tree and back.

use crate::Value;

/// Writes a value as compact JSON (Go's escaping of `<`, `>`, `&` included).
pub fn to_vec(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    write(value, &mut out);
    out
}

/// The same as text.
pub fn to_string(value: &Value) -> String {
    String::from_utf8_lossy(&to_vec(value)).into_owned()
}

/// Appends a value as compact JSON.
pub fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(n) => out.extend_from_slice(n.to_string().as_bytes()),
        Value::Float(n) => out.extend_from_slice(n.to_string().as_bytes()),
        Value::String(s) => write_string(s, out),
        Value::Array(items) => write_list(out, b'[', b']', items.iter(), |item, out| write(item, out)),
        Value::Object(fields) => write_list(out, b'{', b'}', fields.iter(), |(key, item), out| {
            write_string(key, out);
            out.push(b':');
            write(item, out);
        }),
    }
}

fn write_list<T>(
    out: &mut Vec<u8>,
    open: u8,
    close: u8,
    items: impl Iterator<Item = T>,
    one: impl Fn(T, &mut Vec<u8>),
) {
    out.push(open);
    for (i, item) in items.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        one(item, out);
    }
    out.push(close);
}

fn write_string(s: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for c in s.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            c if c < ' ' || matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}') => {
                out.extend_from_slice(format!("\\u{:04x}", c as u32).as_bytes());
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}
