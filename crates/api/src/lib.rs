//! The Kubernetes API as data: values, schemas, kinds, patches, codecs, errors. Does no I/O and never waits.

pub mod apply;
pub mod cbor;
pub mod discovery;
pub mod duration;
pub mod field;
pub mod json;
pub mod kind;
pub mod kinds;
pub mod meta;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod rules;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
#[cfg(test)]
mod testdata;
pub mod time;
pub mod value;
pub mod yaml;

pub use kind::Kind;
pub use status::{GroupResource, Result, Status};
pub use value::{Object, Str, Value};
