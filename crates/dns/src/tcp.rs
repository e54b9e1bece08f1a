//! TCP: for answers that do not fit into a datagram, within bounds (RFC 7766).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::responder::{Outcome, Responder, Transport};

/// Connections at the same time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 256;
/// Queries on one connection.
const MAX_QUERIES: usize = 1000;
/// A connection may be silent for so long, and a client may take so long to read.
const IDLE: Duration = Duration::from_secs(10);
/// Longer queries end their connection.
const MAX_QUERY: usize = 4096;
/// After an accept that failed (no descriptors left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts and answers until stopped.
pub async fn serve(listener: TcpListener, responder: Arc<Responder>, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((place, stream, client)) = accepted else { continue };
        let (responder, stop) = (responder.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                outcome = converse(stream, &responder) => {
                    if let Err(error) = outcome {
                        tracing::debug!(%client, %error, "TCP connection");
                    }
                }
            }
            drop(place);
        });
    }
}

type Accepted = (tokio::sync::OwnedSemaphorePermit, TcpStream, SocketAddr);

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> Option<Accepted> {
    let place = places.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, client)) => Some((place, stream, client)),
        Err(error) => {
            tracing::debug!(%error, "TCP accept");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn converse(mut stream: TcpStream, responder: &Responder) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut query, mut reply) = (Vec::new(), Vec::new());
    for _ in 0..MAX_QUERIES {
        if !timeout(IDLE, read(&mut stream, &mut query)).await?? {
            return Ok(());
        }
        match responder.respond(&query, Transport::Tcp, &mut reply) {
            Outcome::Ignore => return Ok(()),
            Outcome::Reply => {}
            Outcome::Forward(job) => responder.finish(job, &mut reply).await,
        }
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        reply.splice(..0, length.to_be_bytes());
        timeout(IDLE, stream.write_all(&reply)).await??;
    }
    Ok(())
}

/// Reads one message; `false` at the end of the connection.
async fn read(stream: &mut TcpStream, query: &mut Vec<u8>) -> io::Result<bool> {
    let length = match stream.read_u16().await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        other => usize::from(other?),
    };
    if length > MAX_QUERY {
        return Ok(false);
    }
    query.resize(length, 0);
    stream.read_exact(query).await?;
    Ok(true)
}
