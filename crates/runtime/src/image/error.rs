//! What can go wrong with images, and which gRPC code it is for a CRI client.

use tonic::{Code, Status};

/// An image operation failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The reference, file or content is not what it should be.
    #[error("{0}")]
    Invalid(String),
    /// No such image, here or in the registry.
    #[error("{0}")]
    NotFound(String),
    /// The registry wants other credentials.
    #[error("{0}")]
    Unauthorized(String),
    /// The registry cannot be reached or failed for the moment.
    #[error("{0}")]
    Unavailable(String),
    /// The image is used by a container.
    #[error("{0}")]
    InUse(String),
    /// A file or system call failed.
    #[error("{action}: {source}")]
    Io {
        /// What was being done.
        action: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl ImageError {
    /// An [`ImageError::Io`] maker for `map_err`.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// The same error with what was being attempted in front, as containerd words it.
    pub(crate) fn during(self, what: &str) -> Self {
        match self {
            Self::Invalid(m) => Self::Invalid(format!("{what}: {m}")),
            Self::NotFound(m) => Self::NotFound(format!("{what}: {m}")),
            Self::Unauthorized(m) => Self::Unauthorized(format!("{what}: {m}")),
            Self::Unavailable(m) => Self::Unavailable(format!("{what}: {m}")),
            Self::InUse(m) => Self::InUse(format!("{what}: {m}")),
            Self::Io { action, source } => Self::Io { action: format!("{what}: {action}"), source },
        }
    }

    /// The gRPC code for CRI.
    pub fn code(&self) -> Code {
        match self {
            Self::Invalid(_) => Code::InvalidArgument,
            Self::NotFound(_) => Code::NotFound,
            Self::Unauthorized(_) => Code::Unauthenticated,
            Self::Unavailable(_) => Code::Unavailable,
            Self::InUse(_) => Code::FailedPrecondition,
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                Code::ResourceExhausted
            }
            Self::Io { .. } => Code::Unknown,
        }
    }
}

impl From<ImageError> for Status {
    fn from(error: ImageError) -> Self {
        Status::new(error.code(), error.to_string())
    }
}
