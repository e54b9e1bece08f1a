//! One connection from its handshake to its end: requests on it, clients that are too slow, and the server's own end, at which no
//! request that came is lost.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rand::Rng;
use rustls::pki_types::UnixTime;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::sleep_until;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::ApiServer;
use crate::audit;
use crate::authn::{ClientCerts, Peer, Shown};
use crate::body::{Body, BoxError, boxed};
use crate::pipeline::LongRunning;
use crate::traffic::{Next, Pace, Traffic};

/// A client has so long for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// Streams of one HTTP/2 connection.
const MAX_STREAMS: u32 = 1000;
/// Bytes of all headers of one request.
const MAX_HEADER_BYTES: usize = 256 * 1024;
/// Headers of one HTTP/1 request.
const MAX_HEADERS: usize = 200;
/// Quiet HTTP/2 connections are asked whether they live.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// What all connections of a listener share.
#[derive(Clone)]
pub(crate) struct Door {
    pub server: ApiServer,
    pub tls: TlsAcceptor,
    pub clients: Option<Arc<ClientCerts>>,
    /// Cancelled when connections should end after what runs on them.
    pub closing: CancellationToken,
}

impl Door {
    /// Serves one connection to its end.
    ///
    /// Errors: why it broke off.
    pub async fn serve(self, tcp: TcpStream) -> Result<(), BoxError> {
        tcp.set_nodelay(true)?;
        let from = tcp.peer_addr()?.ip();
        let patience = self.server.config().limits.patience.clone();
        let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.tls.accept(tcp)).await??;
        let (_, session) = stream.get_ref();
        let shown = session.peer_certificates().unwrap_or_default();
        let shown = self.clients.as_ref().map_or_else(Shown::nothing, |c| c.judge(shown, UnixTime::now()));
        // As upstream: HTTP/2 is what was agreed on in the handshake, not what the first bytes look like.
        let http2 = session.alpn_protocol() == Some(b"h2");
        let traffic = Arc::new(Traffic::new(patience, http2, Instant::now()));
        self.exchange(Guarded { stream, traffic: traffic.clone() }, traffic, http2, shown, from).await
    }

    async fn exchange(
        self,
        stream: Guarded,
        traffic: Arc<Traffic>,
        http2: bool,
        shown: Shown,
        from: IpAddr,
    ) -> Result<(), BoxError> {
        let away = Arc::new(Notify::new());
        let service = service_fn(|request| {
            let call = Exchange { server: self.server.clone(), traffic: traffic.clone() };
            if http2 && call.sends_away(|| rand::rng().random()) {
                away.notify_one();
            }
            let peer = shown.at(UnixTime::now());
            async move { Ok::<_, Infallible>(call.answer(request, peer, from).await) }
        });
        let builder = http_builder(http2);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let alarm = sleep_until(Instant::now().into());
        tokio::pin!(alarm);
        loop {
            tokio::select! {
                ended = connection.as_mut() => return ended,
                () = self.closing.cancelled(), if !traffic.closing() => {
                    traffic.close();
                    // HTTP/2 has a frame that says which requests count. HTTP/1.1 says it with the next answer.
                    if http2 {
                        connection.as_mut().graceful_shutdown();
                    }
                    alarm.as_mut().reset(Instant::now().into());
                }
                () = away.notified() => connection.as_mut().graceful_shutdown(),
                () = &mut alarm => match traffic.next(Instant::now()) {
                    Next::At(at) => alarm.as_mut().reset(at.into()),
                    Next::Cut(why) => return Err(why.into()),
                    Next::Leave => {
                        connection.as_mut().graceful_shutdown();
                        traffic.leave(Instant::now());
                        alarm.as_mut().reset(Instant::now().into());
                    }
                },
            }
        }
    }
}

/// One request and its answer.
struct Exchange {
    server: ApiServer,
    traffic: Arc<Traffic>,
}

impl Exchange {
    /// Should the client look for another server? The dice lie between 0 and 1.
    fn sends_away(&self, dice: impl FnOnce() -> f64) -> bool {
        let chance = self.server.config().shutdown.goaway_chance;
        chance > 0.0 && dice() < chance
    }

    async fn answer(self, mut request: Request<Incoming>, peer: Peer, from: IpAddr) -> Response<Body> {
        let (open, began, version) = (self.traffic.request(), Instant::now(), request.version());
        request.extensions_mut().insert(audit::Remote(from));
        let mut response = self.server.handle(request.map(boxed), peer).await;
        if version < Version::HTTP_2 && self.traffic.closing() && !response.status().is_informational() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let pace = match response.extensions_mut().remove::<LongRunning>() {
            None => Pace::By(began + self.server.config().limits.request_timeout),
            Some(LongRunning::Watch) => Pace::Steady,
            Some(LongRunning::Stream) => Pace::Free,
        };
        response.map(|body| open.answer(body, pace))
    }
}

fn http_builder(http2: bool) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // The time for it is kept by `Traffic`, which also knows of idle connections.
        .header_read_timeout(None)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES as u32);
    if http2 { builder.http2_only() } else { builder.http1_only() }
}

/// The stream under HTTP, which notes what comes and what does not go.
struct Guarded {
    stream: TlsStream<TcpStream>,
    traffic: Arc<Traffic>,
}

impl Guarded {
    fn noted<T>(&self, outcome: Poll<T>) -> Poll<T> {
        self.traffic.wrote(outcome.is_ready(), Instant::now);
        outcome
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.traffic.read(Instant::now());
        }
        outcome
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.noted(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.noted(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.noted(outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.noted(outcome)
    }
}
