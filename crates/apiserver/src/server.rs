//! The door to the network: TLS, HTTP/1.1 and HTTP/2, bounded connections, an orderly end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use corten_sys::sockets;
use futures::future::BoxFuture;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ApiServer;
use crate::authn::ClientCerts;
use crate::connection::Door;

/// After an accept error (out of descriptors) the server waits so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The certificate that the server shows.
#[derive(Clone, Debug)]
pub struct ServingCert {
    /// PEM chain, leaf first.
    pub cert_pem: Vec<u8>,
    /// PEM key.
    pub key_pem: Vec<u8>,
}

impl ApiServer {
    /// Serves until some time after `shutdown`: at once `/readyz` fails, so that balancers look elsewhere; after the delay that was
    /// asked for nobody is let in any more and watches end; requests that run are answered, and connections end with an answer or
    /// when nothing more comes on them. Returns when all have ended, or after the longest time for it.
    ///
    /// Errors: the certificates are unusable.
    pub fn serve_tls<'a>(
        &'a self,
        listener: TcpListener,
        cert: &'a ServingCert,
        shutdown: CancellationToken,
    ) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let config = self.config();
            let clients = config.client_ca_pem.as_deref().map(ClientCerts::new).transpose()?.map(Arc::new);
            let tls = TlsAcceptor::from(Arc::new(tls_config(cert, clients.clone())?));
            // Watchers, above all, whose machine is gone: nobody else would ever ask for them.
            sockets::ask_whether_peers_live(&listener).map_err(io::Error::other)?;
            let closing = CancellationToken::new();
            let door = Door { server: self.clone(), tls, clients, closing: closing.clone() };
            let connections = TaskTracker::new();
            tokio::select! {
                let_in = let_in(&listener, &door, &connections) => let_in?,
                () = self.asked_to_end(&shutdown) => {}
            }
            drop(listener);
            closing.cancel();
            self.end_watches();
            connections.close();
            let _ = tokio::time::timeout(config.shutdown.drain, connections.wait()).await;
            Ok(())
        })
    }

    /// Returns when nobody is to be let in any more.
    async fn asked_to_end(&self, shutdown: &CancellationToken) {
        shutdown.cancelled().await;
        self.stop_being_ready();
        tokio::time::sleep(self.config().shutdown.delay).await;
    }
}

/// Accepts connections, without end.
async fn let_in(listener: &TcpListener, door: &Door, connections: &TaskTracker) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(door.server.config().limits.connections));
    loop {
        let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
        let Ok((tcp, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let door = door.clone();
        connections.spawn(async move {
            let _place = place;
            if let Err(error) = door.serve(tcp).await {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
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
