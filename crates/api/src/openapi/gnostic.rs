//! Documents in gnostic's protobuf form. Version 2 is what kubectl and Helm ask for before they turn to JSON; version 3 has its
//! tables in `gnostic_v3.rs`.
//!
//! The tables below are the wire format of `openapi.v2.Document`; the walk knows nothing of OpenAPI. Values that may be
//! anything (`default`, extensions) travel as YAML text, for which JSON will do.

use crate::{Object, Value, json};

use Shape::{
    Any, Count, Default, Each, Flag, Named, Number, One, OrFlag, OrReference, Parameter, Text, Wrap,
};

/// How a JSON value stands on the wire.
pub(super) enum Shape {
    /// A string.
    Text,
    /// A boolean.
    Flag,
    /// A double.
    Number,
    /// An integer.
    Count,
    /// Any value, as text.
    Any,
    /// A list: the field repeated.
    Each(&'static Shape),
    /// An object with fields.
    One(&'static Message),
    /// A message around the value, which stands in the field of that number.
    Wrap(u32, &'static Shape),
    /// A message with one entry (name 1, value 2) a key of the object, in the field of that number.
    Named(u32, &'static Shape),
    /// `additionalProperties`: a schema (1) or a boolean (2).
    OrFlag(&'static Shape),
    /// The message itself (1) or a reference to one (2).
    OrReference(&'static Message),
    /// A plain value: a number (1), a boolean (2) or a string (3); others have no place.
    Default,
    /// A parameter of an operation, which is of another type for every place it may stand in.
    Parameter,
}

/// The fields of a message by their JSON names.
pub(super) struct Message {
    pub fields: &'static [(&'static str, u32, Shape)],
    /// The number of the field for names that begin with `x-`.
    pub extensions: u32,
}

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Text),
        ("info", 2, One(&INFO)),
        ("paths", 8, Named(2, &One(&PATH))),
        ("definitions", 9, Named(1, &One(&SCHEMA))),
        ("security", 12, Each(&Named(1, &Wrap(1, &Each(&Text))))),
        ("securityDefinitions", 13, Named(1, &Wrap(2, &One(&API_KEY)))),
    ],
    extensions: 16,
};

static INFO: Message =
    Message { fields: &[("title", 1, Text), ("version", 2, Text), ("description", 3, Text)], extensions: 7 };

static API_KEY: Message = Message {
    fields: &[("type", 1, Text), ("name", 2, Text), ("in", 3, Text), ("description", 4, Text)],
    extensions: 5,
};

static PATH: Message = Message {
    fields: &[
        ("get", 2, One(&OPERATION)),
        ("put", 3, One(&OPERATION)),
        ("post", 4, One(&OPERATION)),
        ("delete", 5, One(&OPERATION)),
        ("options", 6, One(&OPERATION)),
        ("head", 7, One(&OPERATION)),
        ("patch", 8, One(&OPERATION)),
        ("parameters", 9, Each(&Parameter)),
    ],
    extensions: 10,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Each(&Text)),
        ("description", 3, Text),
        ("operationId", 5, Text),
        ("produces", 6, Each(&Text)),
        ("consumes", 7, Each(&Text)),
        ("parameters", 8, Each(&Parameter)),
        ("responses", 9, Named(1, &Wrap(1, &One(&RESPONSE)))),
        ("schemes", 10, Each(&Text)),
        ("deprecated", 11, Flag),
    ],
    extensions: 13,
};

static RESPONSE: Message =
    Message { fields: &[("description", 1, Text), ("schema", 2, Wrap(1, &One(&SCHEMA)))], extensions: 5 };

static BODY_PARAMETER: Message = Message {
    fields: &[
        ("description", 1, Text),
        ("name", 2, Text),
        ("in", 3, Text),
        ("required", 4, Flag),
        ("schema", 5, One(&SCHEMA)),
    ],
    extensions: 6,
};

static QUERY_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Flag),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 6, Text),
        ("format", 7, Text),
        ("uniqueItems", 20, Flag),
    ],
    extensions: 23,
};

/// Also of parameters in headers, whose message has the same numbers.
static PATH_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Flag),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 5, Text),
        ("format", 6, Text),
        ("uniqueItems", 19, Flag),
    ],
    extensions: 22,
};

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Text),
        ("format", 2, Text),
        ("title", 3, Text),
        ("description", 4, Text),
        ("default", 5, Any),
        ("multipleOf", 6, Number),
        ("maximum", 7, Number),
        ("exclusiveMaximum", 8, Flag),
        ("minimum", 9, Number),
        ("exclusiveMinimum", 10, Flag),
        ("maxLength", 11, Count),
        ("minLength", 12, Count),
        ("pattern", 13, Text),
        ("maxItems", 14, Count),
        ("minItems", 15, Count),
        ("uniqueItems", 16, Flag),
        ("maxProperties", 17, Count),
        ("minProperties", 18, Count),
        ("required", 19, Each(&Text)),
        ("enum", 20, Each(&Any)),
        ("additionalProperties", 21, OrFlag(&One(&SCHEMA))),
        ("type", 22, Wrap(1, &Text)),
        ("items", 23, Wrap(1, &One(&SCHEMA))),
        ("allOf", 24, Each(&One(&SCHEMA))),
        ("properties", 25, Named(1, &One(&SCHEMA))),
        ("example", 30, Any),
    ],
    extensions: 31,
};

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;

/// The document of version 2 in protobuf; what the tables do not name is left out.
pub(super) fn encode(value: &Value) -> Vec<u8> {
    document(&DOCUMENT, value)
}

/// A whole document, by its table.
pub(super) fn document(of: &Message, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    message(&mut out, of, value);
    out
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n as u8) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn tag(out: &mut Vec<u8>, number: u32, wire: u32) {
    varint(out, u64::from(number << 3 | wire));
}

fn bytes(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    tag(out, number, BYTES);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn nested(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    bytes(out, number, &inner);
}

fn message(out: &mut Vec<u8>, of: &Message, value: &Value) {
    let fields = value.as_object().into_iter().flat_map(Object::iter);
    for (name, value) in fields {
        match of.fields.iter().find(|(known, ..)| *known == name.as_str()) {
            Some((_, number, shape)) => field(out, *number, shape, value),
            None if name.starts_with("x-") => entry(out, of.extensions, name, &Any, value),
            None => {}
        }
    }
}

fn entry(out: &mut Vec<u8>, number: u32, name: &str, shape: &Shape, value: &Value) {
    nested(out, number, |out| {
        bytes(out, 1, name.as_bytes());
        field(out, 2, shape, value);
    });
}

fn field(out: &mut Vec<u8>, number: u32, shape: &Shape, value: &Value) {
    match shape {
        Text => bytes(out, number, value.as_str().unwrap_or_default().as_bytes()),
        Flag => {
            tag(out, number, VARINT);
            varint(out, u64::from(value.as_bool() == Some(true)));
        }
        Count => {
            tag(out, number, VARINT);
            // Negative numbers are ten bytes long, as in every protobuf.
            varint(out, value.as_i64().unwrap_or(0) as u64);
        }
        Number => {
            let double = match value {
                Value::Int(n) => *n as f64,
                Value::Float(n) => *n,
                _ => 0.0,
            };
            tag(out, number, FIXED64);
            out.extend_from_slice(&double.to_le_bytes());
        }
        Any => nested(out, number, |out| bytes(out, 2, json::to_string(value).as_bytes())),
        Each(shape) => {
            for item in value.as_array().into_iter().flatten() {
                field(out, number, shape, item);
            }
        }
        One(of) => nested(out, number, |out| message(out, of, value)),
        Wrap(inner, shape) => nested(out, number, |out| field(out, *inner, shape, value)),
        Named(inner, shape) => nested(out, number, |out| {
            for (name, value) in value.as_object().into_iter().flat_map(Object::iter) {
                entry(out, *inner, name, shape, value);
            }
        }),
        OrFlag(shape) => nested(out, number, |out| match value {
            Value::Bool(_) => field(out, 2, &Flag, value),
            _ => field(out, 1, shape, value),
        }),
        OrReference(of) => nested(out, number, |out| match value.get("$ref") {
            Some(name) => nested(out, 2, |out| field(out, 1, &Text, name)),
            None => field(out, 1, &One(of), value),
        }),
        Default => nested(out, number, |out| match value {
            Value::Int(_) | Value::Float(_) => field(out, 1, &Number, value),
            Value::Bool(_) => field(out, 2, &Flag, value),
            Value::String(_) => field(out, 3, &Text, value),
            _ => {}
        }),
        Parameter => nested(out, number, |out| nested(out, 1, |out| parameter(out, value))),
    }
}

fn parameter(out: &mut Vec<u8>, value: &Value) {
    let (variant, of) = match value.str_at(&["in"]) {
        "body" => return field(out, 1, &One(&BODY_PARAMETER), value),
        "header" => (1, &PATH_PARAMETER),
        "query" => (3, &QUERY_PARAMETER),
        _ => (4, &PATH_PARAMETER),
    };
    nested(out, 2, |out| nested(out, variant, |out| message(out, of, value)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::tree;

    #[test]
    fn small_documents() {
        assert_eq!(encode(&tree("{swagger: '2.0'}")), b"\x0a\x032.0");
        assert_eq!(encode(&tree("{paths: {}, unknown: 1}")), b"\x42\x00");
        assert_eq!(
            encode(&tree("{definitions: {D: {type: string, x-a: [1]}}}")),
            // definitions { entry { "D", schema { type { "string" }, extension { "x-a", any { yaml "[1]" } } } } }
            b"\x4a\x21\x0a\x1f\x0a\x01D\x12\x1a\xb2\x01\x08\x0a\x06string\xfa\x01\x0c\x0a\x03x-a\x12\x05\x12\x03[1]"
        );
        assert_eq!(
            encode(&tree("{definitions: {D: {additionalProperties: true}}}")),
            b"\x4a\x0c\x0a\x0a\x0a\x01D\x12\x05\xaa\x01\x02\x10\x01"
        );
    }

    #[test]
    fn parameters_by_place() {
        let of = |place: &str| {
            let mut out = Vec::new();
            field(&mut out, 8, &Parameter, &tree(&format!("{{in: {place}}}")));
            out
        };
        assert_eq!(of("body"), b"\x42\x0a\x0a\x08\x0a\x06\x1a\x04body");
        assert_eq!(of("query"), b"\x42\x0d\x0a\x0b\x12\x09\x1a\x07\x12\x05query");
        assert_eq!(of("path"), b"\x42\x0c\x0a\x0a\x12\x08\x22\x06\x12\x04path");
    }
}
