//! How a node joins: from a server's address and a token to certificates of its own.
//!
//! The server shows its CA in the TLS handshake; the token's hash says whether it is the right one. Behind the token the node
//! is `system:bootstrap:ID`, which may only ask for certificates (`certificates.k8s.io`) and read how the cluster is laid out.
//! Keys are made here and never leave. What was got is kept under `pki/`: a node that comes back needs no token.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use corten_client::Api;
use corten_client::watcher;
use corten_client::{Informer, Link};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::PostParams;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::args::Ranges;
use crate::layout::Layout;
use crate::pki::{self, Keys, Subject};
use crate::token::{HASH_LENGTH, Token, hash};

/// Namespace and name of the config map that tells nodes how the cluster is laid out.
pub const PUBLISHED: (&str, &str) = ("kube-public", "corten");
/// A server that does not answer is asked again after this.
const RETRY: Duration = Duration::from_secs(1);
/// One try to reach the server.
const CONNECT: Duration = Duration::from_secs(10);
/// A request for a certificate is approved and signed within this, or somebody has to look.
const SIGNED_WITHIN: Duration = Duration::from_secs(60);
/// Usages that clients' certificates ask for.
const CLIENT: [&str; 2] = ["digital signature", "client auth"];
/// The same for servers.
const SERVER: [&str; 2] = ["digital signature", "server auth"];

/// What a node knows about its server.
pub struct Server {
    /// `https://HOST:PORT`
    url: String,
    ca_pem: String,
}

/// Who a certificate is for.
pub struct Part<'a> {
    /// File name without ending.
    pub file: &'a str,
    /// User name.
    pub user: &'a str,
    /// Group, `""` for none.
    pub group: &'a str,
}

impl Server {
    /// The server at `url`: its CA is the one kept from an earlier life, or the one with the token's hash. Tries until the
    /// server answers.
    ///
    /// Errors: the server shows another CA, or there is neither a kept CA nor a token.
    pub async fn find(url: &str, token: Option<&Token>, layout: &Layout) -> Result<Self> {
        let kept = layout.pki().join("ca.crt");
        let url = url.trim_end_matches('/').to_owned();
        if let Ok(ca_pem) = fs::read_to_string(&kept) {
            let der = CertificateDer::from_pem_slice(ca_pem.as_bytes())?;
            if token.is_none_or(|token| hash(&der) == token.ca_hash) {
                return Ok(Server { url, ca_pem });
            }
        }
        let Some(token) = token else { bail!("the first join needs --token") };
        let uri: http::Uri = url.parse().with_context(|| format!("--server {url}"))?;
        let host = uri.host().map(|host| host.trim_matches(['[', ']']).to_owned());
        let (Some("https"), Some(host)) = (uri.scheme_str(), host) else {
            bail!("--server {url}: want https://HOST:PORT");
        };
        let address = (host, uri.port_u16().unwrap_or(6443));
        let ca = patiently("the server", || shown_ca(&address, token.ca_hash)).await?;
        let ca_pem = pki::certificate_pem(&ca);
        fs::create_dir_all(layout.pki()).context("a place for certificates")?;
        pki::write(&kept, ca_pem.as_bytes(), 0o644)?;
        Ok(Server { url, ca_pem })
    }

    /// The CA certificate as PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The server's address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A client that shows the token.
    fn by_token(&self, token: &Token) -> Result<Client> {
        Ok(Link::open(self.config(json!({ "token": token.bearer() }))?)?.client())
    }

    /// How to come as somebody with a certificate.
    pub fn by_certificate(&self, keys: &Keys) -> Result<kube::Config> {
        let (cert, key) = keys.pair().read()?;
        self.config(
            json!({ "client-certificate-data": pki::base64(&cert), "client-key-data": pki::base64(&key) }),
        )
    }

    fn config(&self, user: Value) -> Result<kube::Config> {
        let mut config = kube::Config::new(self.url.parse()?);
        config.root_cert = Some(vec![CertificateDer::from_pem_slice(self.ca_pem.as_bytes())?.to_vec()]);
        config.auth_info = serde_json::from_value(user)?;
        Ok(config)
    }
}

/// Keys with a certificate, and what was asked for.
pub struct Certified {
    keys: Keys,
    file: String,
    user: String,
    group: String,
    names: Vec<String>,
    addresses: Vec<IpAddr>,
    signer: &'static str,
    usages: &'static [&'static str],
    chance: f64,
}

impl Certified {
    /// Opens the keys, as yet perhaps without a certificate that is good.
    fn open(
        layout: &Layout,
        part: &Part<'_>,
        names: Vec<String>,
        addresses: &[IpAddr],
        (signer, usages): (&'static str, &'static [&'static str]),
    ) -> Result<Self> {
        let subject = Subject { user: part.user, group: part.group, names: &names, addresses };
        let keys = Keys::open(&layout.pki(), part.file, &subject)?;
        let (file, user, group) = (part.file.to_owned(), part.user.to_owned(), part.group.to_owned());
        let (addresses, chance) = (addresses.to_vec(), rand::random());
        Ok(Certified { keys, file, user, group, names, addresses, signer, usages, chance })
    }

    /// The keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// File of both, without ending.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// From 0 to 1, the same as long as this process lives: spreads what many do.
    pub fn chance(&self) -> f64 {
        self.chance
    }

    /// Asks for a certificate and keeps it.
    pub async fn ask(&self, client: &Client) -> Result<()> {
        let (names, addresses) = (self.names.as_slice(), self.addresses.as_slice());
        let subject = Subject { user: &self.user, group: &self.group, names, addresses };
        certify(client, &self.keys, &subject, self.signer, self.usages).await
    }
}

/// The certificate of one part of the node, asked for behind the token where none is kept that is good.
pub async fn client_certificate(
    server: &Server,
    token: Option<&Token>,
    layout: &Layout,
    part: &Part<'_>,
) -> Result<Certified> {
    let signer = match part.group {
        "system:nodes" => "kubernetes.io/kube-apiserver-client-kubelet",
        _ => "kubernetes.io/kube-apiserver-client",
    };
    let certified = Certified::open(layout, part, Vec::new(), &[], (signer, &CLIENT))?;
    if !certified.keys.are_certified()? {
        let token = token.context("the node has no certificate that is good, and no --token")?;
        certified.ask(&server.by_token(token)?).await?;
    }
    Ok(certified)
}

/// The certificate of the kubelet's API, asked for by the node itself.
pub async fn serving_certificate(
    client: &Client,
    layout: &Layout,
    user: &str,
    name: &str,
    addresses: &[IpAddr],
) -> Result<Certified> {
    let part = Part { file: "kubelet", user, group: "system:nodes" };
    let signer: (_, &[_]) = ("kubernetes.io/kubelet-serving", &SERVER);
    let certified = Certified::open(layout, &part, vec![name.to_owned()], addresses, signer)?;
    if !certified.keys.are_certified()? {
        certified.ask(client).await?;
    }
    Ok(certified)
}

/// How the cluster is laid out, as the server published it; as it was told last while the server does not answer.
pub async fn ranges(client: &Client, layout: &Layout) -> Result<Ranges> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), PUBLISHED.0);
    let kept = layout.root().join("cluster.json");
    let ask = || async { Ok(maps.get(PUBLISHED.1).await?.data.unwrap_or_default()) };
    let data = match fs::read_to_string(&kept) {
        Ok(before) => match ask().await {
            Ok(data) => data,
            Err(error) => {
                tracing::info!("the server does not tell how the cluster is laid out: {error:#}");
                serde_json::from_str(&before).with_context(|| format!("{}", kept.display()))?
            }
        },
        Err(_) => patiently("the cluster's layout", ask).await?,
    };
    pki::write(&kept, serde_json::to_string_pretty(&data)?.as_bytes(), 0o644)?;
    ranges_of(&data)
}

fn ranges_of(data: &BTreeMap<String, String>) -> Result<Ranges> {
    let field = |name: &str| data.get(name).ok_or_else(|| anyhow!("the server does not tell {name}"));
    Ok(Ranges {
        service_cidr: field("serviceCIDR")?.parse()?,
        cluster_cidr: field("clusterCIDR")?.parse()?,
        cluster_domain: field("clusterDomain")?.clone(),
    })
}

/// The other side of [`ranges`].
pub fn published(ranges: &Ranges) -> Value {
    let (namespace, name) = PUBLISHED;
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace},
        "data": data_of(ranges),
    })
}

fn data_of(ranges: &Ranges) -> BTreeMap<String, String> {
    let fields = [
        ("serviceCIDR", ranges.service_cidr.to_string()),
        ("clusterCIDR", ranges.cluster_cidr.to_string()),
        ("clusterDomain", ranges.cluster_domain.clone()),
    ];
    fields.map(|(name, value)| (name.to_owned(), value)).into()
}

async fn certify(
    client: &Client,
    keys: &Keys,
    subject: &Subject<'_>,
    signer: &str,
    usages: &[&str],
) -> Result<()> {
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let request = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("join-".to_owned()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(keys.request(subject)?.into_bytes()),
            signer_name: signer.to_owned(),
            usages: Some(usages.iter().map(|usage| (*usage).to_owned()).collect()),
            ..CertificateSigningRequestSpec::default()
        },
        ..CertificateSigningRequest::default()
    };
    let create = || async { Ok(requests.create(&PostParams::default(), &request).await?) };
    let made = patiently("a certificate signing request", create).await?;
    let name = made.metadata.name.unwrap_or_default();
    let signed = tokio::time::timeout(SIGNED_WITHIN, signed(requests, &name)).await;
    let pem = signed.with_context(|| {
        format!("certificate signing request {name} waits to be approved (is there a node of this name?)")
    })??;
    keys.keep(&String::from_utf8(pem)?)
}

/// Waits for the certificate, or for a refusal.
async fn signed(requests: Api<CertificateSigningRequest>, name: &str) -> Result<Vec<u8>> {
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let done = CancellationToken::new();
    let _ended = done.clone().drop_guard();
    let seen = Informer::start(requests, only, done);
    let changed = Arc::new(Notify::new());
    let wake = changed.clone();
    seen.on_change(move |_| wake.notify_one());
    loop {
        for status in seen.list().iter().filter_map(|request| request.status.clone()) {
            if let Some(certificate) = status.certificate {
                return Ok(certificate.0);
            }
            let refused = |kind: &str| kind == "Denied" || kind == "Failed";
            if let Some(no) = status.conditions.unwrap_or_default().into_iter().find(|c| refused(&c.type_)) {
                bail!("{name}: {}: {}", no.type_, no.message.unwrap_or_default());
            }
        }
        changed.notified().await;
    }
}

/// Tries until the server answers. What it refuses stays refused.
async fn patiently<T, Try: Future<Output = Result<T>>>(
    what: &str,
    mut attempt: impl FnMut() -> Try,
) -> Result<T> {
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if is_final(&error) => return Err(error).with_context(|| what.to_owned()),
            Err(error) => tracing::info!("{what}: {error:#}; trying again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// An answer that will not change by asking again. What is not there may still come: the server is perhaps just starting.
fn is_final(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => matches!(status.code, 400..=403 | 422),
        Some(_) => false,
        None => {
            error.downcast_ref::<std::io::Error>().is_none_or(|e| e.kind() == std::io::ErrorKind::InvalidData)
        }
    }
}

/// The CA that the server at this address shows and is certified by, if it has the hash.
async fn shown_ca(
    (host, port): &(String, u16),
    ca_hash: [u8; HASH_LENGTH],
) -> Result<CertificateDer<'static>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(ByHash { ca_hash, provider: provider.clone(), found: Mutex::default() });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_no_client_auth();
    let name = ServerName::try_from(host.clone())?;
    let connect = async {
        let tcp = TcpStream::connect((host.as_str(), *port)).await?;
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    };
    let slow = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
    tokio::time::timeout(CONNECT, connect).await.map_err(slow)??;
    let found = verifier.found.lock().unwrap_or_else(PoisonError::into_inner).take();
    found.ok_or_else(|| anyhow!("the server showed no certificate"))
}

/// Believes a server that is certified by the CA of this hash, which it must show itself.
#[derive(Debug)]
struct ByHash {
    ca_hash: [u8; HASH_LENGTH],
    provider: Arc<CryptoProvider>,
    found: Mutex<Option<CertificateDer<'static>>>,
}

impl ServerCertVerifier for ByHash {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let general = |error: String| rustls::Error::General(error);
        let ca = intermediates.iter().find(|shown| hash(shown) == self.ca_hash);
        let ca = ca.ok_or_else(|| general("the server's CA is not the one of the token".to_owned()))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone());
        let verifier = verifier.build().map_err(|error| general(error.to_string()))?;
        let verified =
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(ca.clone().into_owned());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A TLS server with a certificate of `pki`, which shows its CA; answers one handshake after the other.
    async fn server(pki: &crate::pki::Pki) -> (String, u16) {
        let pair = pki.server("s", "s", &["localhost".to_owned()], &[]).unwrap();
        let (cert, key) = pair.read().unwrap();
        let chain = format!("{cert}{}", pki.ca_pem());
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().unwrap();
        let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let _ = acceptor.accept(tcp).await;
            }
        });
        ("localhost".to_owned(), port)
    }

    #[tokio::test]
    async fn the_right_ca_is_found_and_another_is_refused_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let pki = crate::pki::Pki::open(dir.path()).unwrap();
        let address = server(&pki).await;
        let right = hash(&CertificateDer::from_pem_slice(pki.ca_pem().as_bytes()).unwrap());
        let ca = shown_ca(&address, right).await.unwrap();
        assert_eq!(hash(&ca), right);
        let error = shown_ca(&address, [7; HASH_LENGTH]).await.unwrap_err();
        assert!(is_final(&error), "{error:#}");
        assert!(error.to_string().contains("not the one of the token"), "{error:#}");
    }

    #[test]
    fn what_is_told_is_understood() {
        let ranges = Ranges {
            service_cidr: "10.1.0.0/16".parse().unwrap(),
            cluster_cidr: "10.2.0.0/16".parse().unwrap(),
            cluster_domain: "example.org".to_owned(),
        };
        let data = data_of(&ranges);
        assert_eq!(data_of(&ranges_of(&data).unwrap()), data);
        assert!(ranges_of(&BTreeMap::new()).is_err());
    }

    #[test]
    fn what_is_worth_another_try() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert!(!is_final(&refused.into()));
        let api = |code| kube::Error::Api(Box::new(kube::core::Status { code, ..Default::default() }));
        assert!(is_final(&api(401).into()) && !is_final(&api(404).into()) && !is_final(&api(503).into()));
    }
}
