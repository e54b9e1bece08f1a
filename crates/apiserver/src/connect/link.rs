//! One connection to a target, made for one request.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::target::{Scheme, Target};
use crate::ApiServer;
use crate::body::{Body, BoxError};
use crate::config::KubeletClient;
use crate::server::{identity, roots};

/// A target has so long to take the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How kubelets are spoken to.
pub(crate) struct Kubelets {
    tls: TlsConnector,
    anonymous: TlsConnector,
}

impl Kubelets {
    /// Reads the client certificate.
    ///
    /// Errors: text for the operator.
    pub fn new(client: &KubeletClient) -> Result<Self, String> {
        let text = |e: std::io::Error| format!("kubelet client certificate: {e}");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = || {
            ClientConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .map_err(|e| e.to_string())
        };
        let any =
            || builder().map(|b| b.dangerous().with_custom_certificate_verifier(AnyServer::new(&provider)));
        let builder = match &client.ca_pem {
            Some(pem) => builder()?.with_root_certificates(roots(pem).map_err(text)?),
            None => any()?,
        };
        let (chain, key) = identity(&client.cert_pem, &client.key_pem).map_err(text)?;
        let config = builder.with_client_auth_cert(chain, key).map_err(|e| e.to_string())?;
        let anonymous = any()?.with_no_client_auth();
        Ok(Kubelets { tls: Arc::new(config).into(), anonymous: Arc::new(anonymous).into() })
    }
}

/// Sends one request; the connection lives as long as its answer, or as the upgraded stream.
pub(super) async fn send(
    server: &ApiServer,
    target: &Target,
    request: Request<Body>,
) -> Result<Response<Incoming>, BoxError> {
    let address = (target.host.as_str(), target.port);
    let tcp = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| format!("dial tcp {}: i/o timeout", target.authority()))?
        .map_err(|e| format!("dial tcp {}: {e}", target.authority()))?;
    tcp.set_nodelay(true)?;
    corten_sys::sockets::ask_whether_peers_live(&tcp)?;
    let kubelets = server.kubelets();
    let connector = match target.scheme {
        Scheme::Http => return exchange(tcp, request).await,
        Scheme::Kubelet => kubelets.map(|k| &k.tls),
        Scheme::Https => kubelets.map(|k| &k.anonymous),
    };
    let connector = connector.ok_or("no TLS client is configured")?;
    let name = ServerName::try_from(target.host.clone())?;
    let tls = tokio::time::timeout(CONNECT_TIMEOUT, connector.connect(name, tcp)).await??;
    exchange(tls, request).await
}

async fn exchange<S>(stream: S, request: Request<Body>) -> Result<Response<Incoming>, BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to a backend ended");
        }
    });
    Ok(sender.send_request(request).await?)
}

/// Accepts every certificate: kubelets sign their own unless the operator names a CA, and what pods serve is theirs.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl AnyServer {
    fn new(provider: &Arc<CryptoProvider>) -> Arc<Self> {
        Arc::new(AnyServer(provider.clone()))
    }
}

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
