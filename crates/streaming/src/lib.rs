//! The remote-command and port-forward protocols of Kubernetes: WebSocket subprotocols and SPDY/3.1, as a
//! server over a [`StreamBackend`], and raw pass-through for servers that only stand between.
//!
//! The crate knows neither CRI nor the API server, so that both can use it. One request becomes one task:
//! `server` finds out what a URL stands for, `upgrade` agrees on a protocol, `websocket` or `spdy` turns the
//! connection into byte pipes, `remotecommand` or `portforward` puts them together with the backend.

mod activity;
mod backend;
mod download;
mod portforward;
mod queue;
mod remotecommand;
mod server;
pub mod spdy;
mod status;
mod upgrade;
mod websocket;

pub use backend::{ByteReader, ByteStream, ByteWriter, Session, StreamBackend, StreamError, TerminalSize};
pub use download::Download;
pub use server::{StreamRequest, StreamServer, StreamServerConfig, serve};
pub use upgrade::{is_upgrade, is_websocket};

/// Copies bytes both ways between two upgraded connections until both directions are done; the end of one
/// direction is passed on as a half-close. Returns (client to backend, backend to client) byte counts.
pub async fn tunnel<A, B>(mut client: A, mut backend: B) -> std::io::Result<(u64, u64)>
where
    A: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    B: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    tokio::io::copy_bidirectional(&mut client, &mut backend).await
}
