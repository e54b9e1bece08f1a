//! The three kinds of patch that a client sends as a document, and why one of them can fail.
//!
//! Each takes the object as it is and changes it in place. After an error the object is half changed: throw it away.

pub(crate) mod fields;
pub mod json;
pub mod merge;
pub mod strategic;

use crate::{Status, Value};

/// Why a patch was not applied; each kind is answered with the code that upstream answers with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// 400: this is no patch.
    #[error("{0}")]
    Malformed(String),
    /// 413: more operations than [`json::MAX_OPERATIONS`].
    #[error("{0}")]
    TooLarge(String),
    /// 422: a good patch that does not fit this object. Upstream hides the reason from the client; logs have it.
    #[error("{0}")]
    DoesNotFit(String),
    /// 500 in upstream, though the client is to blame: the message is passed on as it is.
    #[error("{0}")]
    Failed(String),
}

impl From<PatchError> for Box<Status> {
    fn from(error: PatchError) -> Self {
        match error {
            PatchError::Malformed(message) => Status::new(400, "BadRequest", message),
            PatchError::TooLarge(message) => {
                Status::too_large(format!("Request entity too large: {message}"))
            }
            PatchError::DoesNotFit(_) => {
                let mut status = Status::new(
                    422,
                    "Invalid",
                    "the server rejected our request due to an error in our request",
                );
                status.of_routing = true;
                status
            }
            PatchError::Failed(message) => Status::new(500, "", message),
        }
    }
}

/// How many levels of lists and maps are in a value: 0 for a scalar, 1 for `{}`.
pub(crate) fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.iter().map(|(_, v)| depth(v)).max().unwrap_or(0),
        _ => 0,
    }
}
