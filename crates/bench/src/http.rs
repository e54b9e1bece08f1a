//! A light HTTP/1.1 client: one connection, one request at a time, no pool, no retry layers; so that what is measured
//! is the server.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::kubeconfig::Credentials;

/// No answer within this time is an error.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Where the server is and how to prove who we are; shared by all connections.
pub struct Endpoint {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    authorization: Option<HeaderValue>,
    /// Host header.
    authority: HeaderValue,
    /// Path prefix of the server URL, without a slash at the end.
    base: String,
}

impl Endpoint {
    /// Prepares the TLS set-up once.
    pub fn new(credentials: &Credentials) -> Result<Arc<Self>> {
        let uri: Uri =
            credentials.server.parse().with_context(|| format!("server {:?}", credentials.server))?;
        let host = uri.host().context("the server has no host")?.trim_matches(['[', ']']).to_owned();
        let secure = uri.scheme_str() != Some("http");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tls = if secure { Some(tls(credentials, &host)?) } else { None };
        let bearer = |token: &String| HeaderValue::try_from(format!("Bearer {token}"));
        let authority = uri.authority().context("the server has no host")?.as_str();
        Ok(Arc::new(Self {
            authorization: credentials.token.as_ref().map(bearer).transpose()?,
            authority: HeaderValue::try_from(authority)?,
            base: uri.path().trim_end_matches('/').to_owned(),
            host,
            port,
            tls,
        }))
    }

    /// A new connection.
    pub async fn connect(self: &Arc<Self>) -> Result<Connection> {
        let sender = tokio::time::timeout(REQUEST_TIMEOUT, self.handshake()).await??;
        Ok(Connection { endpoint: self.clone(), sender })
    }

    async fn handshake(&self) -> Result<http1::SendRequest<Full<Bytes>>> {
        let tcp = TcpStream::connect((&*self.host, self.port)).await?;
        tcp.set_nodelay(true)?;
        let Some((connector, name)) = &self.tls else {
            let (sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
            tokio::spawn(connection);
            return Ok(sender);
        };
        let stream = connector.connect(name.clone(), tcp).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Its errors reach us through the requests.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn request(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(header::HOST, self.authority.clone())
            .header(header::USER_AGENT, "corten-bench")
            .header(header::ACCEPT, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization.clone());
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        Ok(request.body(Full::new(body.unwrap_or_default()))?)
    }
}

fn tls(credentials: &Credentials, host: &str) -> Result<(TlsConnector, ServerName<'static>)> {
    let mut roots = RootCertStore::empty();
    let ca = credentials.ca.as_deref().context("the cluster has no certificate-authority")?;
    for certificate in CertificateDer::pem_slice_iter(ca) {
        roots.add(certificate?)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match &credentials.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?
        }
    };
    let name = credentials.server_name.as_deref().unwrap_or(host).to_owned();
    Ok((TlsConnector::from(Arc::new(config)), ServerName::try_from(name)?))
}

/// A connection that is kept alive.
pub struct Connection {
    endpoint: Arc<Endpoint>,
    sender: http1::SendRequest<Full<Bytes>>,
}

/// An answer, read to its end.
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

impl Answer {
    /// The body of a 2xx answer, an error with the server's words otherwise.
    pub fn ok(self) -> Result<Bytes> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        let text = String::from_utf8_lossy(&self.body);
        bail!("{}: {}", self.status, text.chars().take(300).collect::<String>().trim())
    }
}

impl Connection {
    /// One request and its whole answer.
    pub async fn send(&mut self, method: Method, path: &str, body: Option<Bytes>) -> Result<Answer> {
        tokio::time::timeout(REQUEST_TIMEOUT, self.send_unlimited(method, path, body)).await?
    }

    async fn send_unlimited(&mut self, method: Method, path: &str, body: Option<Bytes>) -> Result<Answer> {
        let (status, body) = self.start(method, path, body).await?;
        Ok(Answer { status, body: body.collect().await?.to_bytes() })
    }

    /// A GET whose answer is only counted, for those of many megabytes; its size.
    pub async fn measure(&mut self, path: &str) -> Result<usize> {
        tokio::time::timeout(REQUEST_TIMEOUT, self.measure_unlimited(path)).await?
    }

    async fn measure_unlimited(&mut self, path: &str) -> Result<usize> {
        let mut body = self.stream(path).await?;
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok(bytes)
    }

    /// A GET whose answer is read in pieces.
    pub async fn stream(&mut self, path: &str) -> Result<Incoming> {
        let (status, body) =
            tokio::time::timeout(REQUEST_TIMEOUT, self.start(Method::GET, path, None)).await??;
        if status.is_success() {
            return Ok(body);
        }
        let body = body.collect().await?.to_bytes();
        Answer { status, body }.ok()?;
        bail!("not a stream")
    }

    async fn start(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<(StatusCode, Incoming)> {
        // A server may close a connection between two requests; one that closes it within one is not forgiven.
        if self.sender.ready().await.is_err() {
            self.sender = self.endpoint.handshake().await?;
        }
        let answer = self.sender.send_request(self.endpoint.request(method, path, body)?).await?;
        Ok((answer.status(), answer.into_body()))
    }
}

/// Cuts a stream into lines, as a watch sends its events; most come whole and are not copied.
pub struct Lines {
    body: Incoming,
    /// The begin of a line that is not there yet.
    buffer: Vec<u8>,
}

impl Lines {
    /// The lines of a body.
    pub fn new(body: Incoming) -> Self {
        Self { body, buffer: Vec::new() }
    }

    /// Calls `each` for every line of the next piece; false at the end of the stream.
    pub async fn next(&mut self, mut each: impl FnMut(&[u8])) -> Result<bool> {
        let Some(frame) = self.body.frame().await else { return Ok(false) };
        let Ok(data) = frame?.into_data() else { return Ok(true) };
        let mut rest = &data[..];
        while let Some(length) = memchr::memchr(b'\n', rest) {
            if self.buffer.is_empty() {
                each(&rest[..length]);
            } else {
                self.buffer.extend_from_slice(&rest[..length]);
                each(&self.buffer);
                self.buffer.clear();
            }
            rest = &rest[length + 1..];
        }
        self.buffer.extend_from_slice(rest);
        Ok(true)
    }
}
