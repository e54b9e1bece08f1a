//! TLS of the kubelet's API and who stands behind a client certificate.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::{ServerConnection, WebPkiClientVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Group whose members may do anything.
const MASTERS: &str = "system:masters";

/// The one at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// No certificate of the client CA.
    Unknown,
    /// User of the certificate.
    User {
        /// Common name.
        name: String,
        /// Whether the user is in `system:masters`.
        masters: bool,
    },
}

/// Server settings from PEM; clients without certificate are let in and refused by each request.
pub fn server_config(cert: &[u8], key: &[u8], ca: &[u8]) -> Result<rustls::ServerConfig, String> {
    let certificates = |pem: &[u8]| -> Result<Vec<CertificateDer<'static>>, String> {
        CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("certificate: {error}"))
    };
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("key: {error}"))?;
    let mut roots = RootCertStore::empty();
    for root in certificates(ca)? {
        roots.add(root).map_err(|error| format!("client CA: {error}"))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| format!("client CA: {error}"))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(cert)?, key)
        .map_err(|error| error.to_string())?;
    // exec and its like need HTTP/1.1
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The user of a connection whose handshake is done.
pub fn peer(connection: &ServerConnection) -> Peer {
    connection
        .peer_certificates()
        .and_then(|chain| chain.first())
        .and_then(|leaf| user(leaf))
        .unwrap_or(Peer::Unknown)
}

fn user(der: &[u8]) -> Option<Peer> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let masters = subject.iter_organization().any(|group| group.as_str() == Ok(MASTERS));
    Some(Peer::User { name, masters })
}
