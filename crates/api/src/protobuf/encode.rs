//! Writing, back to front like Go's generated code: a message is there before its length, so nothing is measured twice.
//! Whatever is no pointer, list or map in Go is written even when it is zero.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{MAGIC, ProtobufError, is_wrapped_list};
use crate::schema::{FieldRef, SchemaRef, Type};
use crate::time::Time;
use crate::{Object, Str, Value, json};

type Encoded = Result<(), ProtobufError>;

pub(super) fn enveloped(
    object: &Object,
    schema: SchemaRef<'_>,
    api_version: &str,
    kind: &str,
) -> Result<Vec<u8>, ProtobufError> {
    let mut out = Backwards::default();
    out.run(4, b"");
    out.run(3, b"");
    out.nested(2, |out| out.message(object, schema))?;
    out.nested(1, |out| {
        out.run(2, kind.as_bytes());
        out.run(1, api_version.as_bytes());
        Ok(())
    })?;
    out.bytes(MAGIC);
    Ok(out.finish())
}

pub(super) fn watch_event(event: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Backwards::default();
    let start = out.reversed.len();
    out.run(1, object);
    out.length(start);
    out.tag(2, 2);
    out.run(1, event.as_bytes());
    out.finish()
}

/// Bytes in reverse order.
#[derive(Default)]
struct Backwards {
    reversed: Vec<u8>,
}

impl Backwards {
    fn finish(mut self) -> Vec<u8> {
        self.reversed.reverse();
        self.reversed
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.reversed.extend(bytes.iter().rev());
    }

    fn varint(&mut self, mut n: u64) {
        let mut bytes = [0u8; 10];
        let mut len = 0;
        loop {
            bytes[len] = (n & 0x7f) as u8 | if n > 0x7f { 0x80 } else { 0 };
            len += 1;
            n >>= 7;
            if n == 0 {
                break;
            }
        }
        self.bytes(&bytes[..len]);
    }

    fn tag(&mut self, number: u32, wire: u64) {
        self.varint(u64::from(number) << 3 | wire);
    }

    fn number(&mut self, number: u32, n: u64) {
        self.varint(n);
        self.tag(number, 0);
    }

    /// The length of what was written since `start`.
    fn length(&mut self, start: usize) {
        let len = self.reversed.len() - start;
        self.varint(len as u64);
    }

    fn run(&mut self, number: u32, bytes: &[u8]) {
        let start = self.reversed.len();
        self.bytes(bytes);
        self.length(start);
        self.tag(number, 2);
    }

    fn nested(&mut self, number: u32, write: impl FnOnce(&mut Self) -> Encoded) -> Encoded {
        let start = self.reversed.len();
        write(self)?;
        self.length(start);
        self.tag(number, 2);
        Ok(())
    }

    fn message(&mut self, object: &Object, schema: SchemaRef<'_>) -> Encoded {
        for field in schema.wire_fields().rev() {
            let number = field.wire().number;
            if field.wire().embedded {
                self.nested(number, |out| out.message(object, field.schema()))?;
                continue;
            }
            let value = object.get(field.name()).filter(|v| !v.is_null());
            self.field(field, number, value).map_err(|e| within(field.name(), e))?;
        }
        Ok(())
    }

    fn field(&mut self, field: FieldRef<'_>, number: u32, value: Option<&Value>) -> Encoded {
        let schema = field.schema();
        let Some(value) = value else {
            let nothing =
                field.pointer() || matches!(schema.ty(), Type::List | Type::Map | Type::Bytes | Type::Any);
            return if nothing { Ok(()) } else { self.value(number, schema, &Value::Null) };
        };
        match (schema.ty(), value) {
            (Type::List, Value::Array(items)) if !is_wrapped_list(schema) => {
                let item = schema.items().ok_or_else(|| mismatch(value))?;
                items.iter().rev().try_for_each(|value| self.value(number, item, value))
            }
            (Type::Map, Value::Object(entries)) => self.map(number, schema, entries),
            _ => self.value(number, schema, value),
        }
    }

    fn map(&mut self, number: u32, schema: SchemaRef<'_>, entries: &Object) -> Encoded {
        let inner = schema.values().ok_or_else(|| ProtobufError("map without values".to_owned()))?;
        let mut sorted: Vec<(&Str, &Value)> = entries.iter().collect();
        sorted.sort_by(|(a, _), (b, _)| b.cmp(a));
        for (key, value) in sorted {
            self.nested(number, |out| {
                if !(value.is_null() && inner.ty() == Type::Bytes) {
                    out.value(2, inner, value).map_err(|e| within(key, e))?;
                }
                out.run(1, key.as_bytes());
                Ok(())
            })?;
        }
        Ok(())
    }

    /// One value under its field number; `null` is the zero value.
    fn value(&mut self, number: u32, schema: SchemaRef<'_>, value: &Value) -> Encoded {
        match (schema.ty(), value) {
            (Type::Bool, Value::Bool(b)) => self.number(number, u64::from(*b)),
            (Type::Bool | Type::Int32 | Type::Int64, Value::Null) => self.number(number, 0),
            (Type::Int32 | Type::Int64, Value::Int(n)) => self.number(number, *n as u64),
            (Type::Float, _) => self.float(number, value)?,
            (Type::String, Value::String(s)) => self.run(number, s.as_bytes()),
            (Type::String | Type::Bytes, Value::Null) => self.run(number, b""),
            (Type::Bytes, Value::String(s)) => {
                let bytes = STANDARD.decode(s.as_str()).map_err(|e| ProtobufError(e.to_string()))?;
                self.run(number, &bytes);
            }
            (Type::Struct, Value::Object(object)) => {
                self.nested(number, |out| out.message(object, schema))?
            }
            (Type::Struct, Value::Null) => {
                self.nested(number, |out| out.message(&Object::default(), schema))?
            }
            (Type::List, Value::Array(items)) => self.nested(number, |out| {
                let strings = items.iter().rev().filter_map(Value::as_str);
                strings.for_each(|item| out.run(1, item.as_bytes()));
                Ok(())
            })?,
            (Type::List, Value::Null) => self.run(number, b""),
            (Type::Time | Type::MicroTime, _) => self.time(number, schema.ty(), value)?,
            (Type::Quantity | Type::Duration, _) => {
                let text = value.as_str().unwrap_or("0");
                self.nested(number, |out| {
                    out.run(1, text.as_bytes());
                    Ok(())
                })?;
            }
            (Type::IntOrString, _) => self.int_or_string(number, value)?,
            (Type::Raw, Value::Null) => self.run(number, b""),
            (Type::Raw | Type::FieldsV1 | Type::Any, _) => self.nested(number, |out| {
                out.run(1, &json::to_vec(value));
                Ok(())
            })?,
            (Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStrings, _) => {
                self.nested(number, |out| out.union(schema, value))?;
            }
            _ => return Err(mismatch(value)),
        }
        Ok(())
    }

    fn float(&mut self, number: u32, value: &Value) -> Encoded {
        let n = match value {
            Value::Float(n) => *n,
            Value::Int(n) => *n as f64,
            Value::Null => 0.0,
            _ => return Err(mismatch(value)),
        };
        self.bytes(&n.to_bits().to_le_bytes());
        self.tag(number, 1);
        Ok(())
    }

    /// Go's zero time is an empty message; `metav1.Time` leaves the fraction out.
    fn time(&mut self, number: u32, ty: Type, value: &Value) -> Encoded {
        self.nested(number, |out| {
            let Some(text) = value.as_str() else { return Ok(()) };
            let time = Time::parse(text).map_err(|e| ProtobufError(e.to_string()))?;
            let nanos = if ty == Type::Time { 0 } else { time.nanos / 1000 * 1000 };
            out.number(2, u64::from(nanos));
            out.number(1, time.seconds as u64);
            Ok(())
        })
    }

    fn int_or_string(&mut self, number: u32, value: &Value) -> Encoded {
        let (is_string, n, text) = match value {
            Value::Int(n) => (0, *n, ""),
            Value::String(s) => (1, 0, s.as_str()),
            Value::Null => (0, 0, ""),
            _ => return Err(mismatch(value)),
        };
        self.nested(number, |out| {
            out.run(3, text.as_bytes());
            out.number(2, n as u64);
            out.number(1, is_string);
            Ok(())
        })
    }

    fn union(&mut self, schema: SchemaRef<'_>, value: &Value) -> Encoded {
        let props = schema.items().ok_or_else(|| mismatch(value))?;
        match (schema.ty(), value) {
            (Type::SchemaOrBool, Value::Bool(b)) => self.number(1, u64::from(*b)),
            (Type::SchemaOrBool, Value::Object(_)) => {
                self.value(2, props, value)?;
                self.number(1, 1);
            }
            (_, Value::Object(_)) => self.value(1, props, value)?,
            (Type::SchemaOrArray, Value::Array(items)) => {
                items.iter().rev().try_for_each(|item| self.value(2, props, item))?;
            }
            (_, Value::Array(items)) => {
                items.iter().rev().filter_map(Value::as_str).for_each(|item| self.run(2, item.as_bytes()));
            }
            _ => {}
        }
        Ok(())
    }
}

fn mismatch(value: &Value) -> ProtobufError {
    ProtobufError(format!("a {} does not fit its message", value.type_name()))
}

fn within(name: &str, error: ProtobufError) -> ProtobufError {
    ProtobufError(format!("{name}: {}", error.0))
}
