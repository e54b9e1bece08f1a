//! One step of a path into an object, as FieldsV1 spells it: `f:spec`, `k:{"name":"web"}`, `v:"a"`, `i:0`.

use std::cmp::Ordering;
use std::fmt;

use crate::field::Quoted;
use crate::{Str, Value, json};

/// Selects a field of a map or an item of a list. Ordered as upstream orders them: fields, keys, values, indices.
#[derive(Clone, Debug)]
pub enum PathElement {
    /// A field of a map or struct.
    Field(Str),
    /// The item of a list whose key fields have these values; sorted by name.
    Key(Box<[(Str, Value)]>),
    /// The item of a set with this value.
    Value(Value),
    /// The item of a list at this place.
    Index(i64),
}

impl PathElement {
    /// Reads `f:spec` and its like. `Ok(None)` for kinds of a future version, which are to be ignored.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let (kind, rest) = match (text.get(..1), text.get(1..2), text.get(2..)) {
            (Some(kind), Some(":"), Some(rest)) => (kind, rest),
            (Some(_), Some(_), _) => return Err(format!("missing colon: {text}")),
            _ => return Err("key must be 2 characters long:".to_owned()),
        };
        Ok(Some(match kind {
            "f" => PathElement::Field(rest.into()),
            "k" => PathElement::Key(parse_key(rest)?),
            "v" => PathElement::Value(parse_value(rest)?),
            "i" => {
                PathElement::Index(rest.parse().map_err(|_| format!("parsing \"{rest}\": invalid syntax"))?)
            }
            _ => return Ok(None),
        }))
    }

    /// The spelling of FieldsV1.
    pub fn to_field(&self) -> String {
        let mut text = Vec::new();
        self.spell(&mut text);
        String::from_utf8(text).expect("names and JSON are UTF-8")
    }

    /// Appends the spelling of FieldsV1.
    pub(super) fn spell(&self, text: &mut Vec<u8>) {
        match self {
            PathElement::Field(name) => {
                text.extend_from_slice(b"f:");
                text.extend_from_slice(name.as_bytes());
            }
            PathElement::Key(fields) => {
                text.extend_from_slice(b"k:");
                json::write_fields(fields.iter().map(|(name, value)| (name, value)), text);
            }
            PathElement::Value(value) => {
                text.extend_from_slice(b"v:");
                json::write(value, text);
            }
            PathElement::Index(index) => {
                text.extend_from_slice(b"i:");
                text.extend_from_slice(index.to_string().as_bytes());
            }
        }
    }

    fn rank(&self) -> u8 {
        match self {
            PathElement::Field(_) => 0,
            PathElement::Key(_) => 1,
            PathElement::Value(_) => 2,
            PathElement::Index(_) => 3,
        }
    }
}

fn parse_value(text: &str) -> Result<Value, String> {
    json::parse(&bytes::Bytes::copy_from_slice(text.as_bytes())).map_err(|error| error.to_string())
}

fn parse_key(text: &str) -> Result<Box<[(Str, Value)]>, String> {
    let Value::Object(fields) = parse_value(text)? else {
        return Err("a key of a list must be a JSON object".to_owned());
    };
    let mut fields: Vec<_> = fields.into_iter().collect();
    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(fields.into())
}

impl fmt::Display for PathElement {
    /// As messages spell it: `.spec`, `[name="web"]`, `[="a"]`, `[0]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathElement::Field(name) => write!(f, ".{name}"),
            PathElement::Key(fields) => {
                let fields: Vec<_> = fields.iter().map(|(k, v)| format!("{k}={}", v.quoted())).collect();
                write!(f, "[{}]", fields.join(","))
            }
            PathElement::Value(value) => write!(f, "[={}]", value.quoted()),
            PathElement::Index(index) => write!(f, "[{index}]"),
        }
    }
}

impl Ord for PathElement {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (PathElement::Field(a), PathElement::Field(b)) => a.cmp(b),
            (PathElement::Key(a), PathElement::Key(b)) => compare_keys(a, b),
            (PathElement::Value(a), PathElement::Value(b)) => compare(a, b),
            (PathElement::Index(a), PathElement::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for PathElement {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for PathElement {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for PathElement {}

fn compare_keys(a: &[(Str, Value)], b: &[(Str, Value)]) -> Ordering {
    let fields = a.iter().zip(b).map(|((ka, va), (kb, vb))| ka.cmp(kb).then_with(|| compare(va, vb)));
    fields.into_iter().find(|o| o.is_ne()).unwrap_or_else(|| a.len().cmp(&b.len()))
}

/// A total order over values in which numbers count, not their types: numbers, strings, booleans, lists, maps, null.
pub fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Int(a), Value::Float(b)) => (*a as f64).total_cmp(b),
        (Value::Float(a), Value::Int(b)) => a.total_cmp(&(*b as f64)),
        (Value::Float(a), Value::Float(b)) => a.total_cmp(b),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => {
            let items = a.iter().zip(b).map(|(a, b)| compare(a, b));
            items.into_iter().find(|o| o.is_ne()).unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (Value::Object(a), Value::Object(b)) => {
            let sorted = |object: &crate::Object| {
                let mut fields: Vec<_> = object.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
                fields.sort_by(|(a, _), (b, _)| a.cmp(b));
                fields
            };
            compare_keys(&sorted(a), &sorted(b))
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Float(_) | Value::Int(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    }
}

/// Are two values the same to an applier? `1` and `1.0` are; the order of fields does not count, that of items does.
pub fn same(a: &Value, b: &Value) -> bool {
    a == b || compare(a, b).is_eq()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_round_trips() {
        for text in
            ["f:spec", "f:a.b/c", "f:", r#"k:{"name":"web"}"#, r#"k:{"containerPort":80,"protocol":"TCP"}"#]
                .into_iter()
                .chain([r#"v:"a""#, "v:1", "v:1.5", "v:true", "v:null", "i:0", "i:-3"])
        {
            let element = PathElement::parse(text).unwrap().unwrap();
            assert_eq!(element.to_field(), text);
        }
        assert_eq!(PathElement::parse("x:future"), Ok(None));
        for bad in ["", "f", "fx", "k:{", "k:1", "v:", "v:1 2", "i:x", "é:"] {
            assert!(PathElement::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn order_and_messages() {
        let texts =
            ["f:a", "f:b", r#"k:{"a":1}"#, r#"k:{"a":1,"b":0}"#, r#"k:{"a":2}"#, "v:1", "v:2.5", r#"v:"a""#];
        let elements: Vec<_> = texts.iter().map(|t| PathElement::parse(t).unwrap().unwrap()).collect();
        assert!(elements.is_sorted());
        let shown: String = elements.iter().map(ToString::to_string).collect();
        assert_eq!(shown, r#".a.b[a=1][a=1,b=0][a=2][=1][=2.5][="a"]"#);
        assert_eq!(PathElement::parse("v:1"), PathElement::parse("v:1.0"));
    }
}
