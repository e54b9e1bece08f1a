//! What the streaming server asks for: exec, attach and port-forward on live containers.

use std::net::TcpStream;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use corten_streaming::{
    ByteReader, ByteStream, ByteWriter, Session, StreamBackend, StreamError, TerminalSize,
};
use corten_sys::namespaces;
use futures::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::error::RuntimeError;
use crate::exec::{self, DRAIN_PATIENCE, Streams};
use crate::node::{Node, blocking};
use crate::registry::Phase;
use crate::shim::wire::{self, Kind};
use crate::{shim_client, status};

const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
const CHUNK: usize = 32 * 1024;

/// The runtime as a streaming backend. Weak: the node owns the streaming server.
pub(crate) struct Backend(pub Weak<Node>);

impl From<RuntimeError> for StreamError {
    fn from(error: RuntimeError) -> Self {
        StreamError(error.to_string())
    }
}

impl Backend {
    fn node(&self) -> Result<Arc<Node>, StreamError> {
        self.0.upgrade().ok_or_else(|| StreamError("the runtime is shutting down".into()))
    }
}

#[async_trait]
impl StreamBackend for Backend {
    async fn exec(
        &self,
        container_id: &str,
        command: &[String],
        session: Session,
    ) -> Result<i32, StreamError> {
        let node = self.node()?;
        let container = node.registry.container(container_id)?;
        let (streams, mut ending) = exec::start(&node, &container, command, session.tty).await?.split();
        let Session { stdin, stdout, stderr, resize, .. } = session;
        let (inward, outward) = match streams {
            Streams::Terminal(terminal) => {
                let resizing = resize_terminal(resize, terminal.clone());
                let inward = futures::future::join(copy_in(stdin, terminal.clone(), true), resizing);
                let inward: BoxFuture = Box::pin(inward.map(|_| ()));
                let outward: BoxFuture = Box::pin(copy_out(Box::pin(terminal), stdout));
                (inward, outward)
            }
            Streams::Pipes { stdin: to, stdout: out, stderr: err } => {
                let inward: BoxFuture = Box::pin(copy_in(stdin, to, false));
                let both =
                    futures::future::join(copy_out(Box::pin(out), stdout), copy_out(Box::pin(err), stderr));
                let outward: BoxFuture = Box::pin(both.map(|_| ()));
                (inward, outward)
            }
        };
        let mut outward = outward;
        let waiting = async {
            tokio::select! {
                _ = &mut outward => Ok(ending.exit_code().await?),
                code = ending.exit_code() => {
                    let code = code?;
                    let _ = tokio::time::timeout(DRAIN_PATIENCE, outward).await;
                    Ok(code)
                }
            }
        };
        with_background(inward, waiting).await
    }

    async fn attach(&self, container_id: &str, session: Session) -> Result<(), StreamError> {
        let node = self.node()?;
        let container = node.registry.container(container_id)?;
        if container.phase() != Phase::Running {
            return Err(StreamError(format!("container {container_id:?} is not running")));
        }
        let (mut from, mut to) = shim_client::connect(&container.dir)?.into_split();
        let failed = |e: std::io::Error| StreamError(format!("attach: {e}"));
        to.write_all(&wire::frame(Kind::Attach, b"")).await.map_err(failed)?;
        let Session { stdin, mut stdout, mut stderr, resize, .. } = session;
        let leaves = container.with(|r| !r.config.stdin_once || r.config.tty);
        let inward = feed_shim(stdin, resize, to, leaves);
        let output = async {
            loop {
                let Some((kind, body)) = shim_client::read_frame(&mut from).await.map_err(failed)? else {
                    return Ok(());
                };
                let target = match kind {
                    Kind::Stdout => &mut stdout,
                    Kind::Stderr => &mut stderr,
                    Kind::Done => return Ok(()),
                    _ => continue,
                };
                if let Some(writer) = target {
                    writer.write_all(&body).await.map_err(failed)?;
                    writer.flush().await.map_err(failed)?;
                }
            }
        };
        tokio::select! {
            done = output => done,
            () = inward => Ok(()),
        }
    }

    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<Box<dyn ByteStream>, StreamError> {
        let node = self.node()?;
        let sandbox = node.registry.sandbox(sandbox_id)?;
        let (ready, on_host) = sandbox.with(|r| (r.ready, status::on_host_network(&r.config)));
        if !ready {
            return Err(StreamError(format!("sandbox {sandbox_id:?} is not running")));
        }
        let netns = sandbox.dir.join("ns/net");
        let stream = blocking(move || {
            let connected = match on_host {
                true => connect_loopback(port),
                false => namespaces::run_in_netns(&netns, || connect_loopback(port))?,
            };
            connected.map_err(|e| {
                RuntimeError::Other(format!("failed to connect to localhost:{port} inside namespace: {e}"))
            })
        })
        .await?;
        let failed = |e: std::io::Error| StreamError(format!("port {port}: {e}"));
        stream.set_nonblocking(true).map_err(failed)?;
        Ok(Box::new(tokio::net::TcpStream::from_std(stream).map_err(failed)?))
    }
}

type BoxFuture = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs `main` to its end, with `side` for as long as it lasts.
async fn with_background<T>(side: BoxFuture, main: impl Future<Output = T>) -> T {
    let mut main = std::pin::pin!(main);
    tokio::select! {
        done = &mut main => done,
        () = side => main.await,
    }
}

fn connect_loopback(port: u16) -> std::io::Result<TcpStream> {
    let v4 = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), CONNECT_PATIENCE);
    v4.or_else(|first| {
        let v6 = (std::net::Ipv6Addr::LOCALHOST, port).into();
        TcpStream::connect_timeout(&v6, CONNECT_PATIENCE).map_err(|_| first)
    })
}

async fn copy_out(mut from: std::pin::Pin<Box<impl AsyncRead>>, to: Option<ByteWriter>) {
    let Some(mut to) = to else {
        let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
        return;
    };
    let mut buffer = vec![0; CHUNK];
    while let Ok(count) = from.read(&mut buffer).await {
        let sent = async {
            to.write_all(&buffer[..count]).await?;
            to.flush().await
        };
        if count == 0 || sent.await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

async fn copy_in(from: Option<ByteReader>, mut to: impl AsyncWrite + Unpin, terminal: bool) {
    let Some(mut from) = from else { return };
    let _ = tokio::io::copy(&mut from, &mut to).await;
    if terminal {
        // A terminal has no end of file but the character that stands for it.
        let _ = to.write_all(&[4]).await;
    }
    let _ = to.shutdown().await;
}

async fn resize_terminal(mut sizes: mpsc::Receiver<TerminalSize>, terminal: crate::terminal::Terminal) {
    while let Some(size) = sizes.recv().await {
        terminal.resize(size.width, size.height);
    }
}

/// Sends what the client types, and its window's sizes, to the shim. Keeps the connection open at the end.
async fn feed_shim(
    stdin: Option<ByteReader>,
    mut sizes: mpsc::Receiver<TerminalSize>,
    mut shim: tokio::net::unix::OwnedWriteHalf,
    leaves: bool,
) {
    let mut stdin = stdin;
    let mut buffer = vec![0; CHUNK];
    let mut resizing = true;
    while stdin.is_some() || resizing {
        let typed = async {
            match &mut stdin {
                Some(reader) => reader.read(&mut buffer).await.unwrap_or(0),
                None => std::future::pending().await,
            }
        };
        let mut is_over = false;
        let bytes = tokio::select! {
            size = sizes.recv(), if resizing => match size {
                Some(size) => {
                    let body = [size.width.to_be_bytes(), size.height.to_be_bytes()].concat();
                    wire::frame(Kind::Resize, &body)
                }
                None => { resizing = false; continue }
            },
            count = typed => match count {
                0 => { stdin = None; is_over = leaves; wire::frame(Kind::StdinEnd, b"") }
                count => wire::frame(Kind::Stdin, &buffer[..count]),
            },
        };
        if shim.write_all(&bytes).await.is_err() {
            break;
        }
        if is_over {
            return;
        }
    }
    // Dropping the half would tell the shim that the client has left.
    std::future::pending::<()>().await;
}
