//! Small JSON files that are there whole or not at all.
//!
//! They are renamed into place but not synced: after a power failure no container runs any more, and what
//! cannot be read then is cleaned up at the next start.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{action}: {source}")]
pub(crate) struct FileError {
    action: String,
    source: io::Error,
}

/// Makes an error out of what was tried.
pub(crate) fn failed(action: impl Into<String>) -> impl FnOnce(io::Error) -> FileError {
    let action = action.into();
    move |source| FileError { action, source }
}

/// Writes `value` beside `path` and renames it into place.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), FileError> {
    let text = serde_json::to_vec(value).map_err(|e| failed("encode JSON")(e.into()))?;
    write_whole(path, &text)
}

/// Writes bytes beside `path` and renames them into place.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    if let Err(error) = fs::write(&temporary, bytes) {
        // Half of it would only take room where there is none.
        let _ = fs::remove_file(&temporary);
        return Err(failed(format!("write {}", temporary.display()))(error));
    }
    fs::rename(&temporary, path).map_err(failed(format!("rename {}", temporary.display())))
}

/// Reads a file that [`write_json`] wrote.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, FileError> {
    let text = fs::read(path).map_err(failed(format!("read {}", path.display())))?;
    serde_json::from_slice(&text).map_err(|e| failed(format!("parse {}", path.display()))(e.into()))
}

/// Removes a directory and all in it; a missing one is fine.
pub(crate) fn remove_dir(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(format!("remove {}", path.display()))(e)),
        _ => Ok(()),
    }
}
