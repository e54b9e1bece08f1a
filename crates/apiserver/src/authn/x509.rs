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

/// The second in which a certificate runs out, since 1970.
fn last_second(der: &[u8]) -> Option<u64> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    u64::try_from(certificate.validity().not_after.timestamp()).ok()
}

/// Who is at the other end of a connection. As upstream, a certificate is good for requests that come before it runs out, not for
/// as long as the connection lasts.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    peer: Peer,
    /// Seconds since 1970.
    until: Option<u64>,
}

impl Shown {
    /// No certificates are asked for.
    pub fn nothing() -> Self {
        Shown { peer: Peer::Network(None), until: None }
    }

    /// Who asks at this time.
    pub fn at(&self, now: UnixTime) -> Peer {
        let over = self.until.is_some_and(|until| now.as_secs() > until);
        if over { Peer::Stranger } else { self.peer.clone() }
    }
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
    pub(crate) fn judge(&self, shown: &[CertificateDer<'_>], now: UnixTime) -> Shown {
        let Some((leaf, chain)) = shown.split_first() else { return Shown::nothing() };
        let peer = match self.verifier.verify_client_cert(leaf, chain, now) {
            Ok(_) => Peer::Network(user_of_certificate(leaf).map(Arc::new)),
            Err(error) => {
                tracing::debug!(%error, "client certificate");
                Peer::Stranger
            }
        };
        Shown { peer, until: last_second(leaf) }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_certificate_ends_before_its_connection() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let made = params.self_signed(&key).unwrap();
        let until = last_second(made.der());
        assert_eq!(until, Some(1_893_456_000));
        let peer = Peer::Network(Some(Arc::new(User::new("ann", [""; 0]))));
        let shown = Shown { peer, until };
        let at = |second| shown.at(UnixTime::since_unix_epoch(Duration::from_secs(second)));
        assert!(matches!(at(1_893_456_000), Peer::Network(Some(_))));
        assert!(matches!(at(1_893_456_001), Peer::Stranger));
        assert!(matches!(Shown::nothing().at(UnixTime::now()), Peer::Network(None)));
    }
}
