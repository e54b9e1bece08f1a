//! One error for the whole crate: what was tried, on what, and the errno that came back.

use std::io;

/// A failed kernel call. `what` reads as "mount overlay on /x", the source is the errno.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct Error {
    /// What was tried, with the path or id it was tried on.
    pub what: String,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

/// Result of a kernel call.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether the object was not there (ENOENT, ESRCH, ENODEV).
    pub fn is_missing(&self) -> bool {
        matches!(self.source.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ESRCH | nix::libc::ENODEV))
            || self.source.kind() == io::ErrorKind::NotFound
    }

    pub(crate) fn last(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: io::Error::last_os_error() }
    }
}

/// Adds the attempt to a raw error.
pub(crate) trait Context<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error { what: what(), source: source.into() })
    }
}
