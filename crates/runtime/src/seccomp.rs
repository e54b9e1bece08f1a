//! System call filters. For now the type only; see `install`.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// Compiled filters, ready to be installed by the process that is to be confined.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Filters {}

impl Filters {
    /// Installs the filters for the calling thread.
    pub(crate) fn install(&self) -> Result<(), String> {
        Err("filters are not supported yet".into())
    }
}

/// The profile for `RuntimeDefault`.
pub(crate) fn runtime_default() -> Result<Filters, String> {
    Err("filters are not supported yet".into())
}

/// A profile in a file of the node.
pub(crate) fn from_file(path: &Path) -> Result<Filters, String> {
    Err(format!("{}: filters are not supported yet", path.display()))
}
