//! What a streaming server asks of the thing that runs containers.

use std::pin::Pin;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// Bytes to read.
pub type ByteReader = Pin<Box<dyn AsyncRead + Send>>;
/// Bytes to write; shutdown or drop ends the stream.
pub type ByteWriter = Pin<Box<dyn AsyncWrite + Send>>;

/// A two-way byte stream such as a TCP connection.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Size of a terminal in character cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The client's side of one exec or attach.
pub struct Session {
    /// What the client types; end of file means that stdin was closed.
    pub stdin: Option<ByteReader>,
    /// Where output goes. With a tty everything goes here.
    pub stdout: Option<ByteWriter>,
    /// Where errors go; always `None` with a tty.
    pub stderr: Option<ByteWriter>,
    /// Whether a terminal was asked for.
    pub tty: bool,
    /// Changes of the terminal's size; ends when the client goes away.
    pub resize: mpsc::Receiver<TerminalSize>,
}

/// Why a stream could not be served; becomes a `Status` with reason InternalError on the error stream.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StreamError(pub String);

/// Runs commands and connects to ports; implemented by a container runtime.
///
/// The futures are dropped when the client goes away: a backend that must clean up does it on drop.
#[async_trait]
pub trait StreamBackend: Send + Sync + 'static {
    /// Runs `command` in the container and returns its exit code after all output was written.
    async fn exec(
        &self,
        container_id: &str,
        command: &[String],
        session: Session,
    ) -> Result<i32, StreamError>;
    /// Connects to the main process; returns when it ends or its output is closed.
    async fn attach(&self, container_id: &str, session: Session) -> Result<(), StreamError>;
    /// Connects to `port` on the sandbox's loopback.
    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<Box<dyn ByteStream>, StreamError>;
}
