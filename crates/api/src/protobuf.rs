//! Kubernetes' protobuf by the field table: `k8s\0`, an envelope naming apiVersion and kind, the message.

use std::fmt;

use crate::Value;

/// Bytes that are no such message, or a value that has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtobufError(pub(crate) String);

impl fmt::Display for ProtobufError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ProtobufError {}

/// The four bytes before the envelope.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// Decodes an enveloped object.
pub fn decode(body: &[u8]) -> Result<Value, ProtobufError> {
    let _ = body;
    Err(ProtobufError("not yet".to_owned()))
}

/// Encodes an object with its envelope; the value must be conform to its kind's schema.
pub fn encode(value: &Value) -> Result<Vec<u8>, ProtobufError> {
    let _ = value;
    Err(ProtobufError("not yet".to_owned()))
}
