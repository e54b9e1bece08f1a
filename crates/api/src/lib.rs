//! The Kubernetes API as data: values, schemas, kinds, patches, codecs, errors. Does no I/O and never waits.

pub mod field;
pub mod json;
pub mod kind;
pub mod kinds;
pub mod meta;
pub mod rules;
pub mod status;
pub mod value;

pub use kind::Kind;
pub use status::{GroupResource, Result, Status};
pub use value::{Object, Str, Value};
