//! JSON to value tree and back, byte for byte as clients of a Go API server know it.

mod order;
mod parse;
mod write;

pub use order::in_order;
pub use parse::{MAX_DEPTH, MAX_DUPLICATES, Strict, SyntaxError, parse, parse_strict, parse_text};
pub(crate) use write::write_fields;
pub use write::{to_string, to_vec, write};
