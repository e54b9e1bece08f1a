//! One look at a container: exec, httpGet, tcpSocket, grpc. Errors are what the Unhealthy event says.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;

use super::redirect::{MAX_REDIRECTS, follow, is_redirect};
use crate::host::Host;
use crate::pod::spec;

/// Most of an answer that is read (upstream's 10 KiB), in bytes.
const MAX_BODY: usize = 10 << 10;

/// Runs a probe once. What is fine may come with words of warning.
pub async fn check(
    host: &Host,
    pod: &Pod,
    container: &Container,
    id: &str,
    probe: &Probe,
    ip: Option<String>,
    timeout: Duration,
) -> Result<Option<String>, String> {
    let quiet = |outcome: Result<(), String>| outcome.map(|()| None);
    if let Some(exec) = &probe.exec {
        return quiet(run_command(host, id, exec.command.clone().unwrap_or_default(), timeout).await);
    }
    let ip = ip.ok_or("the pod has no address")?;
    if let Some(get) = &probe.http_get {
        return http(&http_target(get, container, &ip)?, "kube-probe/1.37", timeout).await;
    }
    if let Some(socket) = &probe.tcp_socket {
        let target = socket.host.clone().filter(|host| !host.is_empty()).unwrap_or(ip);
        return quiet(tcp(&target, port_number(&socket.port, container)?, timeout).await);
    }
    if let Some(grpc) = &probe.grpc {
        let port = u16::try_from(grpc.port).map_err(|_| format!("invalid port {}", grpc.port))?;
        let service = grpc.service.as_deref().unwrap_or_default();
        return quiet(super::grpc::check(&ip, port, service, timeout).await);
    }
    Err(format!("missing probe handler for {}:{}", spec::describe(pod), container.name))
}

async fn run_command(host: &Host, id: &str, command: Vec<String>, timeout: Duration) -> Result<(), String> {
    let shown = command.join(" ");
    match host.cri.exec_sync(id, command, timeout).await {
        Ok(answer) if answer.exit_code == 0 => Ok(()),
        Ok(answer) => {
            let mut output = answer.stdout;
            output.extend(answer.stderr);
            output.truncate(MAX_BODY);
            Err(String::from_utf8_lossy(&output).into_owned())
        }
        Err(error) if error.code == tonic::Code::DeadlineExceeded => {
            Err(format!("command timed out: \"{shown}\" timed out after {}s", timeout.as_secs()))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// The number of a port that may be a container port's name.
pub fn port_number(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())
        }
    };
    let number = number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
    number.ok_or_else(|| match port {
        IntOrString::Int(number) => format!("invalid port number: {number}"),
        IntOrString::String(name) => {
            format!("couldn't find port: \"{name}\" in container \"{}\"", container.name)
        }
    })
}

// ---- TCP ----

/// Connects and closes.
pub async fn tcp(host: &str, port: u16, timeout: Duration) -> Result<(), String> {
    connect(host, port, timeout).await.map(drop)
}

async fn connect(host: &str, port: u16, timeout: Duration) -> Result<TcpStream, String> {
    let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    match tokio::time::timeout(timeout, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(format!("dial tcp {shown}: connect: {}", plain(&error))),
        Err(_) => Err(format!("dial tcp {shown}: i/o timeout")),
    }
}

/// An I/O error in the kernel's words, as Go prints it: `connection refused`.
fn plain(error: &std::io::Error) -> String {
    let text = match error.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_owned(),
        None => error.to_string(),
    };
    text.to_lowercase()
}

// ---- HTTP ----

/// Where an HTTP probe goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTarget {
    /// With TLS (whose certificate is not verified).
    pub tls: bool,
    /// Host or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query, with its slash.
    pub path: String,
    /// Headers of the probe.
    pub headers: Vec<(String, String)>,
}

impl HttpTarget {
    /// The whole URL.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }

    fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{host}:{}", self.port)
    }
}

/// Where `get` goes for a container of the pod with this address.
pub fn http_target(get: &HTTPGetAction, container: &Container, ip: &str) -> Result<HttpTarget, String> {
    let path = get.path.clone().unwrap_or_default();
    let headers = get.http_headers.iter().flatten();
    Ok(HttpTarget {
        tls: get.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
        host: get.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| ip.to_owned()),
        port: port_number(&get.port, container)?,
        path: if path.starts_with('/') { path } else { format!("/{path}") },
        headers: headers.map(|header| (header.name.clone(), header.value.clone())).collect(),
    })
}

/// What a server said.
struct Answer {
    status: u16,
    location: Option<String>,
    body: String,
}

/// GETs, following redirects on the same host; every status from 200 to 399 is fine, a redirect that is not
/// followed with a warning.
pub async fn http(target: &HttpTarget, agent: &str, timeout: Duration) -> Result<Option<String>, String> {
    let url = target.url();
    match tokio::time::timeout(timeout, get_following(target, agent)).await {
        Ok(Ok(answer)) => match answer.status {
            200..300 => Ok(None),
            300..400 => Ok(Some(format!("Probe terminated redirects, Response body: {}", answer.body))),
            status => Err(format!("HTTP probe failed with statuscode: {status}")),
        },
        Ok(Err(error)) => Err(format!("Get \"{url}\": {error}")),
        Err(_) => Err(format!(
            "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

async fn get_following(first: &HttpTarget, agent: &str) -> Result<Answer, String> {
    let mut target = first.clone();
    for _ in 0..MAX_REDIRECTS {
        let answer = get(&target, agent).await?;
        let location = answer.location.as_deref().filter(|_| is_redirect(answer.status));
        let Some(location) = location else { return Ok(answer) };
        target = follow(&target, location).ok_or_else(|| format!("no way to {location:?}"))?;
        if target.host != first.host {
            return Ok(answer);
        }
    }
    Err(format!("stopped after {MAX_REDIRECTS} redirects"))
}

async fn get(target: &HttpTarget, agent: &str) -> Result<Answer, String> {
    let stream = connect(&target.host, target.port, Duration::from_secs(3600)).await?;
    if target.tls {
        let connector = tokio_rustls::TlsConnector::from(unverified());
        let name = ServerName::try_from(target.host.clone()).map_err(|error| error.to_string())?;
        let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
        exchange(TokioIo::new(stream), target, agent).await
    } else {
        exchange(TokioIo::new(stream), target, agent).await
    }
}

async fn exchange<S>(stream: S, target: &HttpTarget, agent: &str) -> Result<Answer, String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(stream).await.map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let answer = async {
        let request = request(target, agent)?;
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        let location = answer.headers().get(http::header::LOCATION);
        let location = location.map(|location| String::from_utf8_lossy(location.as_bytes()).into_owned());
        Ok(Answer { status, location, body: start_of(answer.into_body()).await })
    }
    .await;
    connection.abort();
    answer
}

/// Reads the body, so that servers do not see a broken pipe; what is too long or breaks off counts as far as it
/// came.
async fn start_of(mut body: hyper::body::Incoming) -> String {
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        bytes.extend_from_slice(frame.data_ref().map_or(&[][..], Bytes::as_ref));
        if bytes.len() >= MAX_BODY {
            break;
        }
    }
    bytes.truncate(MAX_BODY);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn request(target: &HttpTarget, agent: &str) -> Result<http::Request<Empty<Bytes>>, String> {
    let mut host = target.authority();
    let mut builder = http::Request::get(&target.path);
    let has = |name: &str| target.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
    if !has("user-agent") {
        builder = builder.header("User-Agent", agent);
    }
    if !has("accept") {
        builder = builder.header("Accept", "*/*");
    }
    for (name, value) in &target.headers {
        if name.eq_ignore_ascii_case("host") {
            host.clone_from(value);
        } else if !value.is_empty() {
            builder = builder.header(name, value);
        }
    }
    builder
        .header("Host", host)
        .header("Connection", "close")
        .body(Empty::new())
        .map_err(|error| error.to_string())
}

/// TLS as probes want it: whoever answers is fine.
fn unverified() -> Arc<rustls::ClientConfig> {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    let make = || {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(AnyServer(provider.clone()));
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring serves the default protocol versions")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Arc::new(config)
    };
    CONFIG.get_or_init(make).clone()
}

#[derive(Debug)]
struct AnyServer(Arc<rustls::crypto::CryptoProvider>);

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
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn container() -> Container {
        serde_json::from_value(json!({"name": "a", "ports": [{"name": "web", "containerPort": 8080}]}))
            .unwrap()
    }

    #[test]
    fn targets() {
        let get: HTTPGetAction = serde_json::from_value(
            json!({"path": "health?x=1", "port": "web", "scheme": "HTTPS", "httpHeaders": [{"name": "A", "value": "b"}]}),
        )
        .unwrap();
        let target = http_target(&get, &container(), "10.0.0.2").unwrap();
        assert_eq!(target.url(), "https://10.0.0.2:8080/health?x=1");
        let unknown = port_number(&IntOrString::String("nope".into()), &container());
        assert_eq!(unknown.unwrap_err(), "couldn't find port: \"nope\" in container \"a\"");
    }

    /// Answers one request after the other with these statuses (and headers), and the last one for ever.
    async fn answering(heads: &'static [&'static str]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for head in heads.iter().chain(std::iter::repeat(heads.last().unwrap())) {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await.unwrap();
                let answer = format!("HTTP/1.1 {head}\r\ncontent-length: 2\r\n\r\nok");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        port
    }

    fn local(port: u16) -> HttpTarget {
        HttpTarget { tls: false, host: "127.0.0.1".into(), port, path: "/".into(), headers: vec![] }
    }

    #[tokio::test]
    async fn http_answers() {
        let minute = Duration::from_secs(60);
        let warning = || Ok(Some("Probe terminated redirects, Response body: ok".to_owned()));
        let failed = |why: &str| Err(why.to_owned());
        let answers: [(&'static [&'static str], _); 7] = [
            (&["200 OK"], Ok(None)),
            (&["302 Found"], warning()),
            (&["302 Found\r\nlocation: http://0.0.0.0/", "500 Oops"], warning()),
            (&["302 Found\r\nlocation: /x", "308 Moved\r\nlocation: y", "200 OK"], Ok(None)),
            (&["302 Found\r\nlocation: /x", "404 Gone"], failed("HTTP probe failed with statuscode: 404")),
            (&["302 Found\r\nlocation: /x"], failed("stopped after 10 redirects")),
            (&["500 Oops"], failed("HTTP probe failed with statuscode: 500")),
        ];
        for (heads, expected) in answers {
            let found = http(&local(answering(heads).await), "t", minute).await;
            let plain = |error: String| error.rsplit("\": ").next().unwrap_or_default().to_owned();
            assert_eq!(found.map_err(plain), expected, "{heads:?}");
        }
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        assert_eq!(
            http(&local(closed), "t", minute).await.unwrap_err(),
            format!(
                "Get \"http://127.0.0.1:{closed}/\": dial tcp 127.0.0.1:{closed}: connect: connection refused"
            )
        );
    }

    #[tokio::test]
    async fn silent_servers_time_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = http(&local(port), "t", Duration::from_millis(20)).await.unwrap_err();
        assert!(
            error.ends_with("context deadline exceeded (Client.Timeout exceeded while awaiting headers)")
        );
        assert_eq!(tcp("127.0.0.1", port, Duration::from_secs(60)).await, Ok(()));
    }
}
