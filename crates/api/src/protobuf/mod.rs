//! Kubernetes' protobuf by the field table: `k8s\0`, an envelope naming apiVersion and kind, the message.
//!
//! Watch streams are length-delimited frames of a bare `WatchEvent` whose object carries the envelope again.

mod decode;
mod encode;

use std::fmt;

use bytes::Bytes;

use crate::schema::{self, Mode, SchemaRef, Type, for_kind};
use crate::{Object, Str, Value, json};

/// Bytes that are no such message, or a value that has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtobufError(String);

impl fmt::Display for ProtobufError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ProtobufError {}

/// The four bytes before the envelope.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// A watch stream's frame begins with its length, big endian.
const FRAME_HEADER: usize = 4;

/// Decodes an enveloped object into the form that [`schema::conform`] gives it, without defaults.
pub fn decode(body: &Bytes) -> Result<Value, ProtobufError> {
    let envelope = Envelope::decode(body)?;
    if envelope.content_type == "application/json" {
        return json::parse(&envelope.raw).map_err(|e| ProtobufError(e.to_string()));
    }
    let schema = envelope.schema()?;
    let mut object = Object::default();
    if !envelope.kind.is_empty() {
        object.set("kind", Value::String(envelope.kind));
        object.set("apiVersion", Value::String(envelope.api_version));
    }
    decode::message(&envelope.raw, schema, &mut object)?;
    let mut value = Value::Object(object);
    schema::conform(&mut value, schema, Mode::READ).map_err(|e| ProtobufError(e.to_string()))?;
    Ok(value)
}

/// Encodes an object with its envelope; the object must be conform to its kind's schema.
pub fn encode(value: &Value) -> Result<Vec<u8>, ProtobufError> {
    let (api_version, kind) = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
    let schema = schema_of(api_version, kind)?;
    let object = value.as_object().ok_or_else(|| ProtobufError("only objects have a message".to_owned()))?;
    encode::enveloped(object, schema, api_version, kind)
}

/// Appends one frame of a watch stream: the event with an object that [`encode`] made.
pub fn watch_frame(event: &str, object: &[u8], out: &mut Vec<u8>) {
    let message = encode::watch_event(event, object);
    out.extend_from_slice(&(message.len() as u32).to_be_bytes());
    out.extend_from_slice(&message);
}

/// Takes the first frame off a watch stream: event type and object. `None` until the frame is whole.
pub fn read_watch_frame(stream: &mut Bytes) -> Result<Option<(Str, Value)>, ProtobufError> {
    let Some(header) = stream.first_chunk::<FRAME_HEADER>() else { return Ok(None) };
    let end = FRAME_HEADER + u32::from_be_bytes(*header) as usize;
    if stream.len() < end {
        return Ok(None);
    }
    let frame = stream.split_to(end).slice(FRAME_HEADER..);
    let (event, object) = decode::watch_event(&frame)?;
    Ok(Some((event, decode(&object)?)))
}

/// `runtime.Unknown`
#[derive(Default)]
struct Envelope {
    api_version: Str,
    kind: Str,
    raw: Bytes,
    content_type: Str,
}

impl Envelope {
    fn decode(body: &Bytes) -> Result<Envelope, ProtobufError> {
        if !body.starts_with(MAGIC) {
            let message =
                "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]";
            return Err(ProtobufError(message.to_owned()));
        }
        decode::envelope(&body.slice(MAGIC.len()..))
    }

    fn schema(&self) -> Result<SchemaRef<'static>, ProtobufError> {
        schema_of(&self.api_version, &self.kind)
    }
}

fn schema_of(api_version: &str, kind: &str) -> Result<SchemaRef<'static>, ProtobufError> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    // The one object that goes without a kind of its own.
    let kind = if kind.is_empty() && version.is_empty() { "WatchEvent" } else { kind };
    for_kind(group, version, kind).ok_or_else(|| {
        ProtobufError(format!("no kind \"{kind}\" is registered for version \"{api_version}\""))
    })
}

/// Lists that are messages of their own on the wire (`Verbs`, `ExtraValue`, `AttestationValue`).
fn is_wrapped_list(schema: SchemaRef<'_>) -> bool {
    schema.ty() == Type::List && schema.is_wrapped()
}

#[cfg(test)]
mod tests;
