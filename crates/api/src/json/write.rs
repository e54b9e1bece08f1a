//! The writer: compact JSON exactly as Go's `encoding/json` writes it, HTML escaping included.

use crate::Value;
use crate::value::Str;

/// Writes a value as compact JSON.
pub fn to_vec(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    write(value, &mut out);
    out
}

/// The same as text.
pub fn to_string(value: &Value) -> String {
    String::from_utf8(to_vec(value)).expect("strings and punctuation are UTF-8")
}

/// Appends a value as compact JSON.
pub fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(n) => write_int(*n, out),
        Value::Float(n) => write_float(*n, out),
        Value::String(s) => write_string(s, out),
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write(item, out);
            }
            out.push(b']');
        }
        Value::Object(fields) => write_fields(fields.iter(), out),
    }
}

/// Appends the fields of an object, braces included.
pub(crate) fn write_fields<'v>(fields: impl Iterator<Item = (&'v Str, &'v Value)>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (i, (key, item)) in fields.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_key(key, out);
        write(item, out);
    }
    out.push(b'}');
}

fn write_key(key: &Str, out: &mut Vec<u8>) {
    write_string(key, out);
    out.push(b':');
}

fn write_int(n: i64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = n.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if n < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

/// Go writes the shortest digits that read back the same, with an exponent below 1e-6 and from 1e21 on.
fn write_float(n: f64, out: &mut Vec<u8>) {
    let size = n.abs();
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        let text = format!("{n:e}");
        match text.split_once('e') {
            Some((digits, exponent)) if !exponent.starts_with('-') => {
                out.extend_from_slice(format!("{digits}e+{exponent}").as_bytes());
            }
            _ => out.extend_from_slice(text.as_bytes()),
        }
    } else {
        out.extend_from_slice(format!("{n}").as_bytes());
    }
}

/// What to do with a byte in a string: 0 nothing, 1 hex escape, `E2` look further, anything else the letter of the escape.
const ESCAPES: [u8; 256] = {
    let mut table = [0; 256];
    let mut c = 0;
    while c < 0x20 {
        table[c] = 1;
        c += 1;
    }
    table[b'<' as usize] = 1;
    table[b'>' as usize] = 1;
    table[b'&' as usize] = 1;
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table[0x08] = b'b';
    table[0x0c] = b'f';
    table[b'\n' as usize] = b'n';
    table[b'\r' as usize] = b'r';
    table[b'\t' as usize] = b't';
    table[0xE2] = 0xE2;
    table
};

/// Appends a quoted string.
fn write_string(s: &str, out: &mut Vec<u8>) {
    let bytes = s.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    let mut done = 0;
    for (i, &c) in bytes.iter().enumerate() {
        let escape = ESCAPES[c as usize];
        if escape == 0 {
            continue;
        }
        let mut end = i + 1;
        let mut text = [b'\\', escape, 0, 0, 0, 0];
        let mut len = 2;
        match escape {
            1 => {
                text = [b'\\', b'u', b'0', b'0', hex(c >> 4), hex(c & 15)];
                len = 6;
            }
            0xE2 if bytes[i + 1] == 0x80 && matches!(bytes[i + 2], 0xA8 | 0xA9) => {
                text = [b'\\', b'u', b'2', b'0', b'2', hex(bytes[i + 2] & 15)];
                len = 6;
                end = i + 3;
            }
            0xE2 => continue,
            _ => {}
        }
        out.extend_from_slice(&bytes[done..i]);
        out.extend_from_slice(&text[..len]);
        done = end;
    }
    out.extend_from_slice(&bytes[done..]);
    out.push(b'"');
}

fn hex(digit: u8) -> u8 {
    b"0123456789abcdef"[digit as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_as_go_does() {
        for (value, text) in [
            (Value::Int(0), "0"),
            (Value::Int(i64::MIN), "-9223372036854775808"),
            (Value::Float(1.0), "1"),
            (Value::Float(0.1), "0.1"),
            (Value::Float(1e20), "100000000000000000000"),
            (Value::Float(1e21), "1e+21"),
            (Value::Float(1.5e-7), "1.5e-7"),
            (Value::Float(1e-6), "0.000001"),
            (Value::Float(-2.5e30), "-2.5e+30"),
            (
                Value::from("a<b>&\"\\\n\t\u{8}\u{1}\u{7f}"),
                "\"a\\u003cb\\u003e\\u0026\\\"\\\\\\n\\t\\b\\u0001\u{7f}\"",
            ),
            (Value::from("€\u{2028}\u{2029}é"), "\"€\\u2028\\u2029é\""),
            (Value::from(""), "\"\""),
        ] {
            assert_eq!(to_string(&value), text);
        }
    }
}
