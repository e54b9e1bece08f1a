//! YAML in (as `sigs.k8s.io/yaml` reads it: through JSON) and out (in kubectl's style).

use std::fmt;

use crate::Value;

/// A document that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct YamlError(pub(crate) String);

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for YamlError {}

/// What [`parse`] found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// The value.
    pub value: Value,
    /// Keys given twice, in upstream's words (`line 3: key "a" already set in map`).
    pub duplicates: Vec<String>,
}

/// Reads the first document.
pub fn parse(body: &[u8]) -> Result<Document, YamlError> {
    Ok(parse_all(body)?.into_iter().next().unwrap_or_default())
}

/// Reads all documents; empty ones are left out.
pub fn parse_all(body: &[u8]) -> Result<Vec<Document>, YamlError> {
    let _ = body;
    Err(YamlError("not yet".to_owned()))
}
