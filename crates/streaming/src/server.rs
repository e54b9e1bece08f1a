//! The streaming server of a container runtime: one-time URLs on loopback, as CRI's Exec, Attach and
//! PortForward hand them out.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::backend::{StreamBackend, StreamError};
use crate::remotecommand::Target;
use crate::{portforward, remotecommand, upgrade};

/// URLs that may wait to be opened; more are refused, as upstream does.
const MAX_PENDING: usize = 1000;
/// Connections served at once; more wait in the kernel.
const MAX_CONNECTIONS: usize = 2000;
/// How long a connection may take to send its request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Random bytes of a token: not to be guessed by other users of the machine.
const TOKEN_BYTES: usize = 24;
/// Wait after the system refused a connection, for example for want of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What a registered URL will do when it is opened.
#[derive(Debug, Clone)]
pub enum StreamRequest {
    /// Run a command.
    Exec {
        /// Container to run in.
        container_id: String,
        /// Command and arguments.
        command: Vec<String>,
        /// Whether the client sends input.
        stdin: bool,
        /// Whether it wants output.
        stdout: bool,
        /// Whether it wants errors apart; ignored with `tty`.
        stderr: bool,
        /// Give the command a terminal.
        tty: bool,
    },
    /// Connect to the main process.
    Attach {
        /// Container to attach to.
        container_id: String,
        /// Whether the client sends input.
        stdin: bool,
        /// Whether it wants output.
        stdout: bool,
        /// Whether it wants errors apart; ignored with `tty`.
        stderr: bool,
        /// Whether the container has a terminal.
        tty: bool,
    },
    /// Connect to ports.
    PortForward {
        /// Sandbox to connect to.
        sandbox_id: String,
        /// Ports of CRI's request, for clients of the old WebSocket protocol; others name them later.
        ports: Vec<u16>,
    },
}

/// Streams that a client asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Input.
    pub stdin: bool,
    /// Output.
    pub stdout: bool,
    /// Errors; never with a terminal.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
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
    /// Upstream's: one minute, four hours, 30 seconds.
    fn default() -> Self {
        Self {
            token_ttl: Duration::from_secs(60),
            idle_timeout: Some(Duration::from_secs(4 * 60 * 60)),
            stream_creation_timeout: Duration::from_secs(30),
        }
    }
}

/// A running streaming server; cheap to clone. It stops accepting when the last handle is dropped; sessions
/// that run then go on.
#[derive(Clone)]
pub struct StreamServer {
    shared: Arc<Shared>,
    _guard: Arc<DropGuard>,
}

struct Shared {
    address: SocketAddr,
    backend: Arc<dyn StreamBackend>,
    config: StreamServerConfig,
    pending: Mutex<HashMap<String, (StreamRequest, Instant)>>,
}

impl StreamServer {
    /// Binds 127.0.0.1 on a free port and serves `backend` there.
    pub async fn start(
        backend: Arc<dyn StreamBackend>,
        config: StreamServerConfig,
    ) -> std::io::Result<StreamServer> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { address, backend, config, pending: Mutex::default() });
        let stop = CancellationToken::new();
        tokio::spawn(accept(listener, Arc::clone(&shared), stop.clone()));
        Ok(Self { shared, _guard: Arc::new(stop.drop_guard()) })
    }

    /// Makes a one-time URL (`http://127.0.0.1:PORT/exec/TOKEN`) for `request`. Errors when too many unused
    /// URLs are waiting.
    pub fn register(&self, request: StreamRequest) -> Result<String, StreamError> {
        let kind = kind(&request);
        let token =
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(rand::random::<[u8; TOKEN_BYTES]>());
        let url = format!("http://{}/{kind}/{token}", self.shared.address);
        let mut pending = self.shared.pending();
        let now = Instant::now();
        pending.retain(|_, (_, expires)| *expires > now);
        if pending.len() >= MAX_PENDING {
            return Err(StreamError("maximum number of in-flight requests exceeded".into()));
        }
        pending.insert(token, (request, now + self.shared.config.token_ttl));
        Ok(url)
    }
}

impl Shared {
    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<String, (StreamRequest, Instant)>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a path stands for; asking uses it up.
    fn take(&self, path: &str) -> Option<StreamRequest> {
        let (wanted, token) = path.strip_prefix('/')?.split_once('/')?;
        let (request, expires) = self.pending().remove(token)?;
        (expires > Instant::now() && kind(&request) == wanted).then_some(request)
    }
}

fn kind(request: &StreamRequest) -> &'static str {
    match request {
        StreamRequest::Exec { .. } => "exec",
        StreamRequest::Attach { .. } => "attach",
        StreamRequest::PortForward { .. } => "portforward",
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((connection, _)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    let _slot = slot;
                    serve_connection(connection, shared).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "streaming server cannot accept");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn serve_connection(connection: TcpStream, shared: Arc<Shared>) {
    // Keystrokes are small and must not wait for more.
    let _ = connection.set_nodelay(true);
    let service = service_fn(|request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(request, &shared)) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(connection), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "streaming connection ended");
    }
}

fn answer(request: Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::POST {
        return body(*upgrade::refuse(StatusCode::METHOD_NOT_ALLOWED, "method not allowed"));
    }
    match shared.take(request.uri().path()) {
        Some(wanted) => serve(request, wanted, Arc::clone(&shared.backend), shared.config.clone()),
        None => body(*upgrade::refuse(StatusCode::NOT_FOUND, "404 page not found")),
    }
}

fn body(refusal: Response<String>) -> Response<Full<Bytes>> {
    refusal.map(|text| Full::new(Bytes::from(text)))
}

/// Answers an upgrade request for `wanted` and serves the session in a task of its own. A request that is no
/// upgrade or offers no known protocol is refused with upstream's status code.
pub fn serve(
    request: Request<Incoming>,
    wanted: StreamRequest,
    backend: Arc<dyn StreamBackend>,
    config: StreamServerConfig,
) -> Response<Full<Bytes>> {
    match wanted {
        StreamRequest::Exec { container_id, command, stdin, stdout, stderr, tty } => {
            let wanted = Wanted { stdin, stdout, stderr: stderr && !tty, tty };
            serve_remote_command(request, Target::Exec { container_id, command }, wanted, backend, config)
        }
        StreamRequest::Attach { container_id, stdin, stdout, stderr, tty } => {
            let wanted = Wanted { stdin, stdout, stderr: stderr && !tty, tty };
            serve_remote_command(request, Target::Attach { container_id }, wanted, backend, config)
        }
        StreamRequest::PortForward { sandbox_id, ports } => {
            let (response, protocol) = match upgrade::port_forward(request.headers()) {
                Ok(agreed) => agreed,
                Err(refusal) => return body(*refusal),
            };
            tokio::spawn(async move {
                let Some(io) = upgraded(request).await else { return };
                portforward::serve(io, protocol, &sandbox_id, &ports, &*backend, &config).await;
            });
            response.map(|()| Full::default())
        }
    }
}

fn serve_remote_command(
    request: Request<Incoming>,
    target: Target,
    wanted: Wanted,
    backend: Arc<dyn StreamBackend>,
    config: StreamServerConfig,
) -> Response<Full<Bytes>> {
    let (response, protocol) = match upgrade::remote_command(request.headers()) {
        Ok(agreed) => agreed,
        Err(refusal) => return body(*refusal),
    };
    tokio::spawn(async move {
        let Some(io) = upgraded(request).await else { return };
        remotecommand::serve(io, protocol, target, wanted, &*backend, &config).await;
    });
    response.map(|()| Full::default())
}

async fn upgraded(request: Request<Incoming>) -> Option<TokioIo<hyper::upgrade::Upgraded>> {
    match hyper::upgrade::on(request).await {
        Ok(io) => Some(TokioIo::new(io)),
        Err(error) => {
            tracing::debug!(%error, "client went away during the upgrade");
            None
        }
    }
}
