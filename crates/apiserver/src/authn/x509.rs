//! Client certificates: whether they are ours, and the user in them, as upstream maps it.

use std::io;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Peer;
use crate::server::{provider, roots};
use crate::user::User;

/// CN is the name, every O a group. `None` for a certificate without a name. The chain is not looked at.
fn user_of_certificate(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    if name.is_empty() {
        return None;
    }
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok());
    Some(User::new(name, groups))
}

/// Client certificates are asked for but judged after the handshake, as upstream does it: a client whose certificate is strange or
/// has run out gets an answer (401) instead of a torn connection.
#[derive(Debug)]
pub(crate) struct ClientCerts {
    verifier: Arc<dyn ClientCertVerifier>,
}

impl ClientCerts {
    /// Those that the CAs in this bundle signed are known.
    ///
    /// Errors: no CA in it.
    pub(crate) fn new(ca_pem: &[u8]) -> io::Result<Self> {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca_pem)?), provider())
            .allow_unauthenticated()
            .build()
            .map_err(io::Error::other)?;
        Ok(ClientCerts { verifier })
    }

    /// Who showed these certificates, leaf first.
    pub(crate) fn judge(&self, shown: &[CertificateDer<'_>], now: UnixTime) -> Peer {
        let Some((leaf, chain)) = shown.split_first() else { return Peer::Network(None) };
        match self.verifier.verify_client_cert(leaf, chain, now) {
            Ok(_) => Peer::Network(user_of_certificate(leaf).map(Arc::new)),
            Err(error) => {
                tracing::debug!(%error, "client certificate");
                Peer::Stranger
            }
        }
    }
}

impl ClientCertVerifier for ClientCerts {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
