//! The door to the network: TLS, HTTP/1.1 and HTTP/2, bounded connections, an orderly end.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use corten_sys::sockets;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ApiServer;
use crate::audit;
use crate::authn::{ClientCerts, Peer};
use crate::body::boxed;

/// A client has so long for the TLS handshake, and as long for the head of a request.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// Open connections have so long to finish after shutdown began.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// After an accept error (out of descriptors) the server waits so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Streams of one HTTP/2 connection.
const MAX_STREAMS: u32 = 1000;
/// Bytes of all headers of one request.
const MAX_HEADER_BYTES: usize = 256 * 1024;
/// Headers of one HTTP/1 request.
const MAX_HEADERS: usize = 200;
/// Quiet HTTP/2 connections are asked whether they live.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// The certificate that the server shows.
#[derive(Clone, Debug)]
pub struct ServingCert {
    /// PEM chain, leaf first.
    pub cert_pem: Vec<u8>,
    /// PEM key.
    pub key_pem: Vec<u8>,
}

impl ApiServer {
    /// Serves until `shutdown`; then watches end, open requests get a few seconds, and the call returns.
    ///
    /// Errors: the certificates are unusable.
    pub fn serve_tls<'a>(
        &'a self,
        listener: TcpListener,
        cert: &'a ServingCert,
        shutdown: CancellationToken,
    ) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let clients =
                self.config().client_ca_pem.as_deref().map(ClientCerts::new).transpose()?.map(Arc::new);
            let tls = TlsAcceptor::from(Arc::new(tls_config(cert, clients.clone())?));
            // Watchers, above all, whose machine is gone: nobody else would ever ask for them.
            sockets::ask_whether_peers_live(&listener).map_err(io::Error::other)?;
            let places = Arc::new(Semaphore::new(self.config().limits.connections));
            let connections = TaskTracker::new();
            loop {
                let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = shutdown.cancelled() => break,
                };
                let Ok((tcp, _)) = accepted else {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                let (server, tls, shutdown) = (self.clone(), tls.clone(), shutdown.clone());
                let clients = clients.clone();
                connections.spawn(async move {
                    let _place = place;
                    if let Err(error) = server.serve_connection(tcp, tls, clients, shutdown).await {
                        tracing::debug!(%error, "connection ended");
                    }
                });
            }
            self.end_watches();
            connections.close();
            let _ = tokio::time::timeout(DRAIN_TIMEOUT, connections.wait()).await;
            Ok(())
        })
    }

    async fn serve_connection(
        &self,
        tcp: TcpStream,
        tls: TlsAcceptor,
        clients: Option<Arc<ClientCerts>>,
        shutdown: CancellationToken,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        tcp.set_nodelay(true)?;
        let from = tcp.peer_addr()?.ip();
        let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(tcp)).await??;
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let peer = clients.map_or(Peer::Network(None), |clients| clients.judge(shown, UnixTime::now()));
        let service = service_fn(move |mut request: http::Request<Incoming>| {
            request.extensions_mut().insert(audit::Remote(from));
            let (server, peer) = (self.clone(), peer.clone());
            async move { Ok::<_, Infallible>(server.handle(request.map(boxed), peer).await) }
        });
        let builder = http_builder();
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    }
}

fn http_builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES as u32);
    builder
}

fn tls_config(cert: &ServingCert, clients: Option<Arc<ClientCerts>>) -> io::Result<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => builder.with_client_cert_verifier(clients),
    };
    let (chain, key) = identity(&cert.cert_pem, &cert.key_pem)?;
    let mut config = builder.with_single_cert(chain, key).map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The one implementation of cryptography in the house.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Reads a chain and its key.
pub(crate) fn identity(
    cert_pem: &[u8],
    key_pem: &[u8],
) -> io::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain =
        CertificateDer::pem_slice_iter(cert_pem).collect::<Result<_, _>>().map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(io::Error::other)?;
    Ok((chain, key))
}

/// Reads a bundle of CA certificates.
pub(crate) fn roots(pem: &[u8]) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    Ok(roots)
}
