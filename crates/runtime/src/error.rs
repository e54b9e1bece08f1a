//! What can go wrong in the runtime, and which gRPC code tells a CRI client.

use tonic::{Code, Status};

use crate::files::FileError;
use crate::image::ImageError;
use crate::spec::SpecError;

/// A CRI call failed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No such sandbox, container or image.
    #[error("{0}")]
    NotFound(String),
    /// The request cannot be right.
    #[error("{0}")]
    Invalid(String),
    /// The object is not in a state that allows the call.
    #[error("{0}")]
    Precondition(String),
    /// It took too long.
    #[error("{0}")]
    Timeout(String),
    /// The container's program could not be started; the words are meant for users.
    #[error("{0}")]
    Start(String),
    /// An image was missing or could not be mounted.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The pod network refused.
    #[error("failed to setup network for sandbox: {0}")]
    Network(#[from] corten_network::NetworkError),
    /// The kernel refused.
    #[error(transparent)]
    System(#[from] corten_sys::Error),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// Result of a runtime operation.
pub(crate) type Result<T> = std::result::Result<T, RuntimeError>;

impl RuntimeError {
    fn code(&self) -> Code {
        match self {
            Self::NotFound(_) => Code::NotFound,
            Self::Invalid(_) => Code::InvalidArgument,
            Self::Precondition(_) => Code::FailedPrecondition,
            Self::Timeout(_) => Code::DeadlineExceeded,
            Self::Image(error) => error.code(),
            Self::Start(_) | Self::Network(_) | Self::System(_) | Self::Other(_) => Code::Unknown,
        }
    }

    /// A container id that nothing is known of, in the words of CRI runtimes.
    pub(crate) fn no_container(id: &str) -> Self {
        Self::NotFound(format!("an error occurred when try to find container {id:?}: not found"))
    }

    /// A sandbox id that nothing is known of.
    pub(crate) fn no_sandbox(id: &str) -> Self {
        Self::NotFound(format!("an error occurred when try to find sandbox {id:?}: not found"))
    }
}

impl From<RuntimeError> for Status {
    fn from(error: RuntimeError) -> Self {
        Status::new(error.code(), error.to_string())
    }
}

impl From<FileError> for RuntimeError {
    fn from(error: FileError) -> Self {
        Self::Other(error.to_string())
    }
}

impl From<SpecError> for RuntimeError {
    fn from(error: SpecError) -> Self {
        Self::Invalid(format!("failed to generate container spec: {error}"))
    }
}

impl From<tokio::task::JoinError> for RuntimeError {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Other(format!("runtime task: {error}"))
    }
}
