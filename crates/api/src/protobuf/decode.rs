//! Reading: fields by number, unknown ones skipped, strings as slices of the body.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use bytestring::ByteString;

use super::{Envelope, ProtobufError, is_wrapped_list};
use crate::schema::{FieldRef, SchemaRef, Type};
use crate::time::Time;
use crate::{Object, Str, Value, json};

/// How deep messages may nest: each may be two levels of JSON (a list or map and its item).
const MAX_MESSAGES: usize = json::MAX_DEPTH / 2;

type Decoded<T> = Result<T, ProtobufError>;

/// How a field travels: number, then varint, 8 bytes, a run of bytes or 4 bytes.
enum Payload<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Payload<'a> {
    fn bytes(&self) -> Decoded<&'a [u8]> {
        match self {
            Payload::Bytes(bytes) => Ok(bytes),
            Payload::Number(_) => Err(malformed("wrong wire type")),
        }
    }

    fn number(&self) -> Decoded<u64> {
        match self {
            Payload::Number(n) => Ok(*n),
            Payload::Bytes(_) => Err(malformed("wrong wire type")),
        }
    }
}

fn malformed(why: &str) -> ProtobufError {
    ProtobufError(format!("proto: {why}"))
}

/// The fields of one message, in the order they come.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Decoded<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or_else(|| malformed("unexpected EOF"))?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(malformed("integer overflow"))
    }

    fn take(&mut self, len: usize) -> Decoded<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(|| malformed("unexpected EOF"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn next(&mut self) -> Decoded<Option<(u32, Payload<'a>)>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| malformed("illegal tag"))?;
        let payload = match tag & 7 {
            0 => Payload::Number(self.varint()?),
            1 => Payload::Number(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes"))),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| malformed("negative length"))?;
                Payload::Bytes(self.take(len)?)
            }
            5 => {
                Payload::Number(u64::from(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes"))))
            }
            _ => return Err(malformed("illegal wire type")),
        };
        Ok(Some((number, payload)))
    }
}

pub(super) fn envelope(body: &Bytes) -> Decoded<Envelope> {
    let mut envelope = Envelope::default();
    let mut fields = Fields { rest: body };
    while let Some((number, payload)) = fields.next()? {
        let bytes = payload.bytes()?;
        match number {
            1 => {
                let mut meta = Fields { rest: bytes };
                while let Some((number, payload)) = meta.next()? {
                    let text = text(body, payload.bytes()?);
                    match number {
                        1 => envelope.api_version = text,
                        2 => envelope.kind = text,
                        _ => {}
                    }
                }
            }
            2 => envelope.raw = body.slice_ref(bytes),
            4 => envelope.content_type = text(body, bytes),
            _ => {}
        }
    }
    Ok(envelope)
}

/// A bare `WatchEvent`: its type and the enveloped object.
pub(super) fn watch_event(body: &Bytes) -> Decoded<(Str, Bytes)> {
    let (mut event, mut object) = (Str::default(), Bytes::new());
    let mut fields = Fields { rest: body };
    while let Some((number, payload)) = fields.next()? {
        match number {
            1 => event = text(body, payload.bytes()?),
            2 => object = body.slice_ref(first_bytes(payload.bytes()?)?),
            _ => {}
        }
    }
    Ok((event, object))
}

/// Decodes a message into an object.
pub(super) fn message(body: &Bytes, schema: SchemaRef<'_>, object: &mut Object) -> Decoded<()> {
    Reader { body, depth: 0 }.message(body, schema, object)
}

struct Reader<'b> {
    body: &'b Bytes,
    depth: usize,
}

impl Reader<'_> {
    fn message(&mut self, bytes: &[u8], schema: SchemaRef<'_>, object: &mut Object) -> Decoded<()> {
        if self.depth == MAX_MESSAGES {
            return Err(malformed("exceeded max depth"));
        }
        self.depth += 1;
        let mut fields = Fields { rest: bytes };
        let mut has_maps = false;
        while let Some((number, payload)) = fields.next()? {
            let Some(field) = schema.declared_fields().find(|f| f.wire().number == number) else { continue };
            if field.wire().embedded {
                self.message(payload.bytes()?, field.schema(), object)?;
            } else {
                has_maps |= field.schema().ty() == Type::Map;
                self.field(field, &payload, object)?;
            }
        }
        if has_maps {
            for (_, value) in object.iter_mut() {
                if let Value::Object(entries) = value {
                    entries.settle_duplicates(|_| {});
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn field(&mut self, field: FieldRef<'_>, payload: &Payload<'_>, object: &mut Object) -> Decoded<()> {
        let schema = field.schema();
        match (schema.items(), schema.values()) {
            (Some(item), _) if schema.ty() == Type::List && !is_wrapped_list(schema) => {
                let slot = object.entry_shared(field.name());
                if slot.is_null() {
                    *slot = Value::Array(Vec::new());
                }
                if let Value::Array(items) = slot {
                    self.items(item, payload, items)?;
                }
            }
            (_, Some(value)) => {
                let slot = object.entry_shared(field.name());
                if slot.is_null() {
                    *slot = Value::object();
                }
                if let Value::Object(entries) = slot {
                    self.entry(value, payload.bytes()?, entries)?;
                }
            }
            _ => {
                let value = self.value(schema, payload)?;
                object.insert(field.name().clone(), value);
            }
        }
        Ok(())
    }

    /// One item of a repeated field, or many packed numbers.
    fn items(&mut self, item: SchemaRef<'_>, payload: &Payload<'_>, items: &mut Vec<Value>) -> Decoded<()> {
        match (item.ty(), payload) {
            (Type::Int32 | Type::Int64 | Type::Bool, Payload::Bytes(packed)) => {
                let mut numbers = Fields { rest: packed };
                while !numbers.rest.is_empty() {
                    let number = Payload::Number(numbers.varint()?);
                    items.push(self.value(item, &number)?);
                }
            }
            _ => items.push(self.value(item, payload)?),
        }
        Ok(())
    }

    fn entry(&mut self, schema: SchemaRef<'_>, bytes: &[u8], entries: &mut Object) -> Decoded<()> {
        let (mut key, mut value) = (Str::default(), None);
        let mut fields = Fields { rest: bytes };
        while let Some((number, payload)) = fields.next()? {
            match number {
                1 => key = text(self.body, payload.bytes()?),
                2 => value = Some(self.value(schema, &payload)?),
                _ => {}
            }
        }
        let value = match value {
            Some(value) => value,
            None if schema.ty() == Type::Bytes => Value::Null,
            None => self
                .value(schema, &Payload::Bytes(&[]))
                .or_else(|_| self.value(schema, &Payload::Number(0)))?,
        };
        entries.append(key, value);
        Ok(())
    }

    fn value(&mut self, schema: SchemaRef<'_>, payload: &Payload<'_>) -> Decoded<Value> {
        Ok(match schema.ty() {
            Type::Bool => Value::Bool(payload.number()? != 0),
            Type::Int32 => Value::Int(i64::from(payload.number()? as i32)),
            Type::Int64 => Value::Int(payload.number()? as i64),
            Type::Float => float(f64::from_bits(payload.number()?)),
            Type::String => Value::String(text(self.body, payload.bytes()?)),
            Type::Bytes => Value::from(STANDARD.encode(payload.bytes()?)),
            Type::Struct => {
                let mut object = Object::default();
                self.message(payload.bytes()?, schema, &mut object)?;
                Value::Object(object)
            }
            Type::List => self.wrapped_list(payload.bytes()?)?,
            Type::Map => return Err(malformed("a map of maps has no message")),
            Type::Time | Type::MicroTime => time(payload.bytes()?, schema.ty())?,
            Type::Quantity | Type::Duration => self.quantity(payload.bytes()?)?,
            Type::IntOrString => self.int_or_string(payload.bytes()?)?,
            Type::Raw | Type::FieldsV1 | Type::Any => self.raw(payload.bytes()?)?,
            Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStrings => {
                self.union(schema, payload.bytes()?)?
            }
        })
    }

    fn wrapped_list(&mut self, bytes: &[u8]) -> Decoded<Value> {
        let mut items = Vec::new();
        let mut fields = Fields { rest: bytes };
        while let Some((number, payload)) = fields.next()? {
            if number == 1 {
                items.push(Value::String(text(self.body, payload.bytes()?)));
            }
        }
        Ok(Value::Array(items))
    }

    fn quantity(&mut self, bytes: &[u8]) -> Decoded<Value> {
        let digits = text(self.body, first_bytes(bytes)?);
        Ok(if digits.is_empty() { Value::str("0") } else { Value::String(digits) })
    }

    fn int_or_string(&mut self, bytes: &[u8]) -> Decoded<Value> {
        let (mut is_string, mut number, mut string) = (false, 0, Str::default());
        let mut fields = Fields { rest: bytes };
        while let Some((field, payload)) = fields.next()? {
            match field {
                1 => is_string = payload.number()? != 0,
                2 => number = i64::from(payload.number()? as i32),
                3 => string = text(self.body, payload.bytes()?),
                _ => {}
            }
        }
        Ok(if is_string { Value::String(string) } else { Value::Int(number) })
    }

    /// JSON within bytes, or another enveloped object.
    fn raw(&mut self, bytes: &[u8]) -> Decoded<Value> {
        let raw = self.body.slice_ref(first_bytes(bytes)?);
        if raw.starts_with(super::MAGIC) {
            return super::decode(&raw);
        }
        if raw.is_empty() {
            return Ok(Value::Null);
        }
        json::parse(&raw).map_err(|e| ProtobufError(e.to_string()))
    }

    fn union(&mut self, schema: SchemaRef<'_>, bytes: &[u8]) -> Decoded<Value> {
        let props = schema.items().ok_or_else(|| malformed("union without a schema"))?;
        let (mut object, mut items, mut allows) = (None, Vec::new(), false);
        let mut fields = Fields { rest: bytes };
        while let Some((number, payload)) = fields.next()? {
            match (schema.ty(), number) {
                (Type::SchemaOrBool, 1) => allows = payload.number()? != 0,
                (Type::SchemaOrBool, 2) | (_, 1) => object = Some(self.value(props, &payload)?),
                (Type::SchemaOrArray, 2) => items.push(self.value(props, &payload)?),
                (Type::SchemaOrStrings, 2) => items.push(Value::String(text(self.body, payload.bytes()?))),
                _ => {}
            }
        }
        Ok(match object {
            Some(object) => object,
            None if schema.ty() == Type::SchemaOrBool => Value::Bool(allows),
            None => Value::Array(items),
        })
    }
}

/// A slice of the body where it is UTF-8.
fn text(body: &Bytes, bytes: &[u8]) -> Str {
    match ByteString::try_from(body.slice_ref(bytes)) {
        Ok(text) => Str::shared(text),
        Err(_) => Str::from(String::from_utf8_lossy(bytes).into_owned()),
    }
}

/// Field 1 of a message that has only this one.
fn first_bytes(bytes: &[u8]) -> Decoded<&[u8]> {
    let mut found: &[u8] = &[];
    let mut fields = Fields { rest: bytes };
    while let Some((number, payload)) = fields.next()? {
        if number == 1 {
            found = payload.bytes()?;
        }
    }
    Ok(found)
}

/// Whole floats are integers in JSON.
fn float(n: f64) -> Value {
    let whole = n.fract() == 0.0 && n.abs() < 1e15;
    if whole { Value::Int(n as i64) } else { Value::Float(n) }
}

/// An empty message is Go's zero time.
fn time(bytes: &[u8], ty: Type) -> Decoded<Value> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let mut time = Time::default();
    let mut fields = Fields { rest: bytes };
    while let Some((number, payload)) = fields.next()? {
        match number {
            1 => time.seconds = payload.number()? as i64,
            2 => time.nanos = (payload.number()? as u32).min(999_999_999),
            _ => {}
        }
    }
    Ok(Value::from(if ty == Type::Time { time.to_seconds_text() } else { time.to_micros_text() }))
}
