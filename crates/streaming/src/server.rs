//! The streaming server of a container runtime: one-time URLs on loopback, as CRI's Exec, Attach and
//! PortForward hand them out.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{StreamBackend, StreamError};

/// What a registered URL will do when it is opened.
#[derive(Debug, Clone)]
pub enum StreamRequest {
    /// Run a command.
    Exec {
        /// Container to run in.
        container_id: String,
        /// Command and arguments.
        command: Vec<String>,
        /// Streams wanted.
        stdin: bool,
        /// Streams wanted.
        stdout: bool,
        /// Streams wanted; must be false with `tty`.
        stderr: bool,
        /// Give it a terminal.
        tty: bool,
    },
    /// Connect to the main process.
    Attach {
        /// Container to attach to.
        container_id: String,
        /// Streams wanted.
        stdin: bool,
        /// Streams wanted.
        stdout: bool,
        /// Streams wanted; must be false with `tty`.
        stderr: bool,
        /// Whether the container has a terminal.
        tty: bool,
    },
    /// Connect to ports.
    PortForward {
        /// Sandbox to connect to.
        sandbox_id: String,
        /// Ports of CRI's request; empty means any (then the client names them on each stream).
        ports: Vec<u16>,
    },
}

/// Limits of a streaming server.
#[derive(Debug, Clone)]
pub struct StreamServerConfig {
    /// How long an unused URL stays valid.
    pub token_ttl: Duration,
    /// How long a stream may be silent before it is closed; `None` is forever.
    pub idle_timeout: Option<Duration>,
    /// How long a SPDY client may take to open the streams it asked for.
    pub stream_creation_timeout: Duration,
}

impl Default for StreamServerConfig {
    fn default() -> Self {
        Self {
            token_ttl: Duration::from_secs(60),
            idle_timeout: Some(Duration::from_secs(4 * 60 * 60)),
            stream_creation_timeout: Duration::from_secs(30),
        }
    }
}

/// A running streaming server; cheap to clone. It stops when the last handle is dropped.
#[derive(Clone)]
pub struct StreamServer {}

impl StreamServer {
    /// Binds 127.0.0.1 on a free port and serves `backend` there.
    pub async fn start(
        _backend: Arc<dyn StreamBackend>,
        _config: StreamServerConfig,
    ) -> std::io::Result<StreamServer> {
        Ok(StreamServer {})
    }

    /// Makes a one-time URL (`http://127.0.0.1:PORT/exec/TOKEN`) for `request`. Errors when too many unused
    /// URLs are waiting.
    pub fn register(&self, _request: StreamRequest) -> Result<String, StreamError> {
        Err(StreamError("streaming is not available".into()))
    }
}
