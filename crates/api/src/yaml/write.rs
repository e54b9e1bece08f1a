//! The style of `kubectl -o yaml`: keys sorted, lists at the indentation of their key, quotes only where they are needed.

use super::scalar;
use crate::{Object, Str, Value};

/// Writes one document.
pub fn to_string(value: &Value) -> String {
    let mut out = String::with_capacity(1024);
    match value {
        Value::Object(fields) if !fields.is_empty() => map(fields, 0, false, &mut out),
        Value::Array(items) if !items.is_empty() => list(items, 0, false, &mut out),
        other => {
            scalar_text(other, 0, &mut out);
            out.push('\n');
        }
    }
    out
}

fn indent(depth: usize, out: &mut String) {
    out.extend(std::iter::repeat_n("  ", depth));
}

/// `inline`: the first line continues one that has been begun (`- `).
fn map(fields: &Object, depth: usize, inline: bool, out: &mut String) {
    let mut sorted: Vec<(&Str, &Value)> = fields.iter().collect();
    sorted.sort_by_key(|(key, _)| *key);
    for (i, (key, value)) in sorted.into_iter().enumerate() {
        if i > 0 || !inline {
            indent(depth, out);
        }
        string(key, depth, false, out);
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                map(inner, depth + 1, false, out);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                list(items, depth, false, out);
            }
            other => {
                out.push(' ');
                scalar_text(other, depth + 1, out);
                out.push('\n');
            }
        }
    }
}

fn list(items: &[Value], depth: usize, inline: bool, out: &mut String) {
    for (i, item) in items.iter().enumerate() {
        if i > 0 || !inline {
            indent(depth, out);
        }
        out.push_str("- ");
        match item {
            Value::Object(fields) if !fields.is_empty() => map(fields, depth + 1, true, out),
            Value::Array(inner) if !inner.is_empty() => list(inner, depth + 1, true, out),
            other => {
                scalar_text(other, depth + 1, out);
                out.push('\n');
            }
        }
    }
}

fn scalar_text(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::String(text) => string(text, depth, true, out),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
        other => out.push_str(&crate::json::to_string(other)),
    }
}

fn string(text: &str, depth: usize, may_span_lines: bool, out: &mut String) {
    if text.chars().any(|c| {
        (c.is_control() && c != '\n') || matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}' | '\u{85}')
    }) {
        quoted(text, out);
    } else if text.contains('\n') {
        // A literal block cannot begin with white space that is its own.
        match may_span_lines && !text.starts_with([' ', '\n']) {
            true => literal(text, depth, out),
            false => quoted(text, out),
        }
    } else if scalar::resolve(text).is_some() || text.is_empty() || looks_like_base60(text) {
        quoted(text, out);
    } else if is_plain(text) {
        out.push_str(text);
    } else {
        out.push('\'');
        out.push_str(&text.replace('\'', "''"));
        out.push('\'');
    }
}

/// `|`, with `-` where no line break ends the text and `+` where several do.
fn literal(text: &str, depth: usize, out: &mut String) {
    let body = text.trim_end_matches('\n');
    let breaks = text.len() - body.len();
    out.push_str(match breaks {
        0 => "|-",
        1 => "|",
        _ => "|+",
    });
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(depth, out);
            out.push_str(line);
        }
    }
    out.extend(std::iter::repeat_n('\n', breaks.saturating_sub(1)));
}

fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{feff}' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04X}", c as u32)),
            c if c.is_control() => out.push_str(&format!("\\x{:02X}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// May the text stand without quotes? White space, indicators and what looks like structure may not.
fn is_plain(text: &str) -> bool {
    let first = text.chars().next().unwrap_or(' ');
    let second = text.chars().nth(1).unwrap_or(' ');
    let indicator = "#,[]{}&*!|>'\"%@`".contains(first);
    let ambiguous = "-?:".contains(first) && second == ' ';
    !indicator
        && !ambiguous
        && !text.starts_with(' ')
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.starts_with("---")
        && !text.starts_with("...")
        && text != "="
        && text != "<<"
}

/// `1:30` is a number in base 60 for older readers.
fn looks_like_base60(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.contains(':')
        && digits.bytes().all(|c| c.is_ascii_digit() || matches!(c, b':' | b'.' | b'_'))
}
