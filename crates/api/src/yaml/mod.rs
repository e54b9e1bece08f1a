//! YAML in, as `sigs.k8s.io/yaml` reads it (YAML 1.1 scalars, through JSON), and out in its style.

mod read;
mod scalar;
mod write;

use std::fmt;

pub use read::{MAX_ALIAS_NODES, parse, parse_all};
pub use write::to_string;

use crate::Value;

/// A document that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct YamlError(String);

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for YamlError {}

/// One document.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// The value; of keys given twice the last one.
    pub value: Value,
    /// Keys given twice, in upstream's words: `line 3: key "a" already set in map`.
    pub duplicates: Vec<String>,
}

impl Document {
    /// What strict decoding says about keys given twice.
    pub fn strict_error(&self) -> Option<String> {
        let lines: String = self.duplicates.iter().map(|line| format!("\n  {line}")).collect();
        (!lines.is_empty()).then(|| format!("yaml: unmarshal errors:{lines}"))
    }
}

#[cfg(test)]
mod tests;
