//! The server on a real socket: TLS, client certificates, and streams passed on to a kubelet that is played here.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use crate::body::{Body, empty, full};
use crate::testing::TestServer;
use crate::{Config, KubeletClient, ServingCert};

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    fn new() -> Ca {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["ca".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Ca { issuer: Issuer::new(params, key), pem }
    }

    fn leaf(&self, user: &str, group: &str) -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        (cert.pem().into_bytes(), key.serialize_pem().into_bytes())
    }

    fn connector(&self, identity: Option<(Vec<u8>, Vec<u8>)>, alpn: &[u8]) -> TlsConnector {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(crate::server::roots(self.pem.as_bytes()).unwrap());
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let (chain, key) = crate::server::identity(&cert, &key).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        Arc::new(config).into()
    }
}

/// A kubelet that tells which path was asked for, and echoes upgraded streams.
async fn kubelet(ca: &Ca) -> SocketAddr {
    let (cert, key) = ca.leaf("system:node:n", "system:nodes");
    let (chain, key) = crate::server::identity(&cert, &key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(tcp).await else { return };
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(play_kubelet))
                    .with_upgrades();
                let _ = connection.await;
            });
        }
    });
    address
}

async fn play_kubelet(mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path_and_query().unwrap().to_string();
    if path.contains("missing") {
        return Ok(Response::builder().status(400).body(full("no such container")).unwrap());
    }
    let Some(upgrade) = request.headers().get("upgrade").cloned() else {
        return Ok(Response::new(full(path)));
    };
    let stream = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(stream.await.unwrap());
        stream.write_all(path.as_bytes()).await.unwrap();
        let mut byte = [0];
        while let Ok(1) = stream.read(&mut byte).await {
            stream.write_all(&byte).await.unwrap();
        }
    });
    let response = Response::builder().status(101).header("connection", "Upgrade").header("upgrade", upgrade);
    Ok(response.body(empty()).unwrap())
}

struct Net {
    server: TestServer,
    ca: Ca,
    address: SocketAddr,
    shutdown: CancellationToken,
    done: JoinHandle<std::io::Result<()>>,
}

impl Net {
    async fn start() -> Net {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Config)) -> Net {
        let ca = Ca::new();
        let (cert_pem, key_pem) = ca.leaf("kube-apiserver-kubelet-client", "system:masters");
        let kubelet = kubelet(&ca).await;
        let server = TestServer::start_with(|config| {
            config.client_ca_pem = Some(ca.pem.clone().into_bytes());
            let ca_pem = Some(ca.pem.clone().into_bytes());
            config.kubelet_client = Some(KubeletClient { cert_pem, key_pem, ca_pem });
            change(config);
        })
        .await;
        prepare(&server, kubelet).await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cert_pem, key_pem) = ca.leaf("kube-apiserver", "");
        let (api, shutdown) = (server.api.clone(), CancellationToken::new());
        let stop = shutdown.clone();
        let done =
            tokio::spawn(
                async move { api.serve_tls(listener, &ServingCert { cert_pem, key_pem }, stop).await },
            );
        Net { server, ca, address, shutdown, done }
    }

    fn admin(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        Some(self.ca.leaf("admin", "system:masters"))
    }

    async fn ask(&self, identity: Option<(Vec<u8>, Vec<u8>)>, request: Request<Body>) -> Response<Incoming> {
        let connector = self.ca.connector(identity, b"http/1.1");
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let stream = connector.connect(ServerName::try_from("127.0.0.1").unwrap(), tcp).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.unwrap()
    }

    /// The administrator's connection over HTTP/2, and the task that ends with it.
    async fn http2(&self) -> (http2::SendRequest<Body>, JoinHandle<hyper::Result<()>>) {
        let connector = self.ca.connector(self.admin(), b"h2");
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let stream = connector.connect(ServerName::try_from("127.0.0.1").unwrap(), tcp).await.unwrap();
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        (sender, tokio::spawn(connection))
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let request = Request::builder().uri(path).header("host", "x").body(empty()).unwrap();
        let response = self.ask(self.admin(), request).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// A node whose kubelet is ours, and a pod bound to it.
async fn prepare(server: &TestServer, kubelet: SocketAddr) {
    let account = r#"{"metadata":{"name":"default"}}"#;
    server.ask("POST", "/api/v1/namespaces/default/serviceaccounts", account).await;
    let node = format!(
        r#"{{"metadata":{{"name":"n"}},"status":{{"addresses":[{{"type":"InternalIP","address":"127.0.0.1"}}],
        "daemonEndpoints":{{"kubeletEndpoint":{{"Port":{}}}}}}}}}"#,
        kubelet.port()
    );
    assert_eq!(server.ask("POST", "/api/v1/nodes", node).await.code, 201);
    let pod = r#"{"metadata":{"name":"p"},"spec":{"nodeName":"n","containers":[{"name":"c","image":"i"},{"name":"missing","image":"i"}]}}"#;
    let made = server.ask("POST", "/api/v1/namespaces/default/pods", pod).await;
    assert_eq!(made.code, 201, "{}", made.text);
}

const POD: &str = "/api/v1/namespaces/default/pods/p";

#[tokio::test]
async fn certificates_say_who_asks() {
    let net = Net::start().await;
    let request = || Request::builder().uri("/api/v1/nodes").header("host", "x").body(empty()).unwrap();
    assert_eq!(net.ask(net.admin(), request()).await.status(), 200);
    assert_eq!(net.ask(Some(net.ca.leaf("bob", "x")), request()).await.status(), 403);
    assert_eq!(net.ask(None, request()).await.status(), 403);
    let version = || Request::builder().uri("/version").header("host", "x").body(empty()).unwrap();
    assert_eq!(net.ask(None, version()).await.status(), 200);
    // A stranger's certificate is answered, not hung up on, and no better than none.
    let stranger = Ca::new().leaf("admin", "system:masters");
    assert_eq!(net.ask(Some(stranger.clone()), request()).await.status(), 401);
    assert_eq!(net.ask(Some(stranger), version()).await.status(), 401);
}

#[tokio::test]
async fn heads_have_no_body_on_the_wire() {
    let net = Net::start().await;
    let request = |path| Request::head(path).header("host", "x").body(empty()).unwrap();
    for (path, code) in [("/livez", 200), ("/metrics", 200), ("/version", 405), ("/api/v1/nodes/n", 405)] {
        let response = net.ask(net.admin(), request(path)).await;
        assert_eq!(response.status(), code, "{path}");
        assert_ne!(response.headers()["content-length"], "0", "{path}");
        assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty(), "{path}");
    }
    let (mut sender, _) = net.http2().await;
    let request = Request::head("https://x/livez").body(empty()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-length"]),
        (200, &"2".parse().unwrap())
    );
    assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
}

#[tokio::test]
async fn http2_is_spoken() {
    let net = Net::start().await;
    let (mut sender, _) = net.http2().await;
    let request = Request::builder().uri("https://x/api/v1/nodes/n").body(empty()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);

    // What is too large is read to its end before it is refused: the stream ends as it should.
    let body = full(vec![b' '; 2 * crate::body::MAX_BODY_BYTES]);
    let request = Request::post("https://x/api/v1/nodes").body(body).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 413);
    let status = response.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&status).contains("Request entity too large"));
}

#[tokio::test]
async fn shutdown_ends_watches() {
    let net = Net::start().await;
    let request = Request::builder().uri("/api/v1/nodes?watch=1").header("host", "x").body(empty()).unwrap();
    let response = net.ask(net.admin(), request).await;
    net.shutdown.cancel();
    let events = response.into_body().collect().await.unwrap().to_bytes();
    assert!(events.starts_with(b"{\"type\":\"ADDED\""));
    net.done.await.unwrap().unwrap();
    assert!(net.server.api.ending().is_cancelled());
}

#[tokio::test]
async fn logs_come_from_the_kubelet() {
    let net = Net::start().await;
    let (code, path) =
        net.get(&format!("{POD}/log?container=c&follow=true&tailLines=5&timestamps=true")).await;
    assert_eq!(
        (code, path.as_str()),
        (200, "/containerLogs/default/p/c?follow=true&timestamps=true&tailLines=5")
    );
    let (code, text) = net.get(&format!("{POD}/log")).await;
    assert_eq!(code, 400);
    assert!(
        text.contains("a container name must be specified for pod p, choose one of: [c missing]"),
        "{text}"
    );
    let (code, text) = net.get(&format!("{POD}/log?container=missing")).await;
    assert_eq!(code, 400);
    assert!(text.contains("no such container"), "{text}");
    assert_eq!(net.get(&format!("{POD}/log?container=c&tailLines=-1")).await.0, 422);
    let (code, path) = net.get("/api/v1/nodes/n/proxy/stats/summary?x=1").await;
    assert_eq!((code, path.as_str()), (200, "/stats/summary?x=1"));
    let bare = Request::builder().uri("/api/v1/nodes/n/proxy?a=b").header("host", "x").body(empty()).unwrap();
    let moved = net.ask(net.admin(), bare).await;
    assert_eq!(
        (moved.status().as_u16(), &moved.headers()["location"]),
        (301, &"/api/v1/nodes/n/proxy/?a=b".parse().unwrap())
    );
    // Bodies do not survive a redirect, so only reads are sent to the slash.
    let bare = Request::delete("/api/v1/nodes/n/proxy?a=b").header("host", "x").body(empty()).unwrap();
    let passed = net.ask(net.admin(), bare).await.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(passed, "/?a=b");
    assert_eq!(net.get("/api/v1/namespaces/default/services/kubernetes:81/proxy/").await.0, 503);
    let none = net
        .server
        .ask(
            "POST",
            "/api/v1/namespaces/default/services",
            r#"{"metadata":{"name":"s"},"spec":{"ports":[{"port":80}]}}"#,
        )
        .await;
    assert_eq!(none.code, 201, "{}", none.text);
    let (code, text) = net.get("/api/v1/namespaces/default/services/s/proxy/").await;
    assert_eq!(code, 503);
    assert!(text.contains(r#"no endpoints available for service \"s\""#), "{text}");
    assert_eq!(net.get("/api/v1/nodes/none/proxy/x").await.0, 404);
}

#[tokio::test]
async fn exec_is_tunnelled() {
    let net = Net::start().await;
    let uri = format!("{POD}/exec?container=c&command=echo&command=a%20b&stdout=true&stdin=true&tty=false");
    let request = Request::builder()
        .uri(uri)
        .header("host", "x")
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1")
        .header("x-stream-protocol-version", "v4.channel.k8s.io")
        .body(empty())
        .unwrap();
    let response = net.ask(net.admin(), request).await;
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["upgrade"], "SPDY/3.1");
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let wanted = "/exec/default/p/c?input=1&output=1&command=echo&command=a%20b";
    let mut path = vec![0; wanted.len()];
    stream.read_exact(&mut path).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&path), wanted);
    stream.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"ping");
}

#[tokio::test]
async fn a_dead_kubelet_is_an_error() {
    let net = Net::start().await;
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().port();
    let patch = format!(r#"{{"status":{{"daemonEndpoints":{{"kubeletEndpoint":{{"Port":{closed}}}}}}}}}"#);
    let header = [("content-type", "application/merge-patch+json")];
    let patched = net.server.ask_with("PATCH", "/api/v1/nodes/n/status", &header, patch).await;
    assert_eq!(patched.code, 200, "{}", patched.text);
    let (code, text) = net.get(&format!("{POD}/log?container=c")).await;
    assert_eq!(code, 500);
    assert!(text.contains("error dialing backend"), "{text}");
}

/// A TLS connection on which the test itself speaks.
async fn raw(net: &Net, alpn: &[u8]) -> tokio_rustls::client::TlsStream<TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    // Little fits between a server that writes and a client that does not read.
    socket.set_recv_buffer_size(4096).unwrap();
    let tcp = socket.connect(net.address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    net.ca.connector(net.admin(), alpn).connect(name, tcp).await.unwrap()
}

/// What the server says until it ends the connection, which it may do with or without good manners.
async fn rest(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut said = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("the server hangs up");
    String::from_utf8_lossy(&said).into_owned()
}

/// Only failures ever use it up.
const PATIENCE: Duration = Duration::from_secs(120);
const SHORT: Duration = Duration::from_millis(50);

#[tokio::test]
async fn heads_that_do_not_come_are_not_waited_for() {
    let net = Net::start_with(|config| config.limits.patience.head = SHORT).await;
    for (alpn, begin) in [
        (b"http/1.1".as_slice(), ""),
        (b"http/1.1", "GET /version HTTP/1.1\r\nho"),
        (b"h2", ""),
        (b"h2", "PRI * HTTP/2.0\r\n"),
    ] {
        let mut stream = raw(&net, alpn).await;
        // The end may come before the first byte.
        let _ = stream.write_all(begin.as_bytes()).await;
        assert!(!rest(&mut stream).await.contains("gitVersion"), "{begin:?}");
    }
}

#[tokio::test]
async fn connections_without_requests_end() {
    let net = Net::start_with(|config| config.limits.patience.idle = SHORT).await;
    let mut stream = raw(&net, b"http/1.1").await;
    stream.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let said = rest(&mut stream).await;
    assert!(said.starts_with("HTTP/1.1 200") && said.contains("gitVersion"), "{said}");
}

#[tokio::test]
async fn bodies_that_do_not_come_are_not_waited_for() {
    let net = Net::start().await;
    let mut stream = raw(&net, b"http/1.1").await;
    let head = "POST /api/v1/namespaces?timeout=50ms HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let said = rest(&mut stream).await;
    assert!(said.starts_with("HTTP/1.1 504") && said.contains("allotted timeout"), "{said}");
}

/// More than sockets hold.
async fn much(net: &Net) {
    let filling = "x".repeat(1024 * 1024);
    for name in 0..12 {
        let map = format!(r#"{{"metadata":{{"name":"m{name}"}},"data":{{"k":"{filling}"}}}}"#);
        let made = net.server.ask("POST", "/api/v1/namespaces/default/configmaps", map).await;
        assert_eq!(made.code, 201, "{}", made.text);
    }
}

#[tokio::test]
async fn who_does_not_read_loses_the_connection() {
    let net = Net::start_with(|config| {
        config.limits.patience.stalled = SHORT;
        config.limits.connections = 1;
    })
    .await;
    much(&net).await;
    for query in ["", "?watch=1&resourceVersion=0"] {
        let mut stream = raw(&net, b"http/1.1").await;
        let request = format!("GET /api/v1/configmaps{query} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        // The only place is free again when the first connection is gone.
        let asked = tokio::time::timeout(PATIENCE, net.get("/version")).await;
        assert_eq!(asked.expect("the silent client goes").0, 200);
        assert!(!rest(&mut stream).await.ends_with("\r\n0\r\n\r\n"), "it was cut off");
    }
}

#[tokio::test]
async fn who_does_not_read_loses_its_stream_and_nobody_elses() {
    let net = Net::start_with(|config| config.limits.patience.stalled = SHORT).await;
    much(&net).await;
    let (mut sender, _) = net.http2().await;
    let ask = |path: &str| Request::get(format!("https://x{path}")).body(empty()).unwrap();
    let watch = sender.send_request(ask("/api/v1/configmaps?watch=1&resourceVersion=0")).await.unwrap();
    let others = async {
        loop {
            let metrics = sender.send_request(ask("/metrics")).await.unwrap();
            let metrics = metrics.into_body().collect().await.unwrap().to_bytes();
            if String::from_utf8_lossy(&metrics).contains("requests{verb=\"WATCH\"} 0") {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, others).await.expect("the watch goes");
    assert!(watch.into_body().collect().await.is_err());
}

#[tokio::test]
async fn clients_are_asked_to_connect_anew() {
    let net = Net::start_with(|config| config.shutdown.goaway_chance = 1.0).await;
    let (mut sender, connection) = net.http2().await;
    let request = Request::get("https://x/version").body(empty()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200, "and yet it is answered");
    answer.into_body().collect().await.unwrap();
    tokio::time::timeout(PATIENCE, connection).await.expect("the connection ends").unwrap().unwrap();
}
