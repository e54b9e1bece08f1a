//! `corten apiserver` under load is told to end: it says so first, and no request that it took is lost.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Only failures ever use it up.
const PATIENCE: Duration = Duration::from_secs(120);
/// Clients of each version of HTTP.
const CLIENTS: usize = 2;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The server's process; killed when a test gives up.
struct Server {
    child: Child,
    address: SocketAddr,
    tls: TlsConnector,
    http2: TlsConnector,
}

impl Server {
    fn start(dir: &Path, flags: &[&str]) -> Self {
        let tokens = dir.join("tokens");
        std::fs::write(&tokens, "t,admin,1,system:masters\n").expect("a file can be written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_corten"));
        command.args(["apiserver", "--bind-address", "127.0.0.1", "--secure-port", "0"]).args(flags);
        command.arg("--data-dir").arg(dir.join("d")).arg("--token-auth-file").arg(tokens);
        command.env("CORTEN_LOG", "error").stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program can be run");
        let output = child.stdout.take().expect("its output is a pipe");
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let ready = lines.find(|line| line.contains("API server ready at https://"));
        let ready = ready.expect("the server says where it is");
        let address = ready.rsplit("https://").next().and_then(|a| a.parse().ok()).expect("an address");
        let connector = |alpn: &[u8]| {
            let pem = std::fs::read(dir.join("d/pki/ca.crt")).expect("the CA is a file");
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(&pem).expect("PEM")).expect("a CA");
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            let config = config.expect("versions").with_root_certificates(roots);
            let mut config = config.with_no_client_auth();
            config.alpn_protocols = vec![alpn.to_vec()];
            TlsConnector::from(Arc::new(config))
        };
        let (tls, http2) = (connector(b"http/1.1"), connector(b"h2"));
        // What else it says is read, so that it can say it.
        std::thread::spawn(move || lines.for_each(drop));
        Server { child, address, tls, http2 }
    }

    fn door(&self, http2: bool) -> Door {
        Door { address: self.address, tls: if http2 { &self.http2 } else { &self.tls }.clone(), http2 }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("process ids fit");
        kill(Pid::from_raw(pid), signal).expect("it runs");
    }

    /// How it ended.
    async fn ended(mut self) -> Option<i32> {
        let all = async {
            loop {
                if let Some(status) = self.child.try_wait().expect("it is our child") {
                    return status.code();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, all).await.expect("it ends")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where to connect to, and how.
#[derive(Clone)]
struct Door {
    address: SocketAddr,
    tls: TlsConnector,
    http2: bool,
}

enum Line {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Door {
    /// A connection. Errors: nobody is let in any more.
    async fn open(&self) -> Result<Line, Failure> {
        let tcp = TcpStream::connect(self.address).await?;
        let stream = TokioIo::new(self.tls.connect(ServerName::try_from("127.0.0.1")?, tcp).await?);
        if self.http2 {
            let (line, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
            tokio::spawn(connection);
            return Ok(Line::Two(line));
        }
        let (line, connection) = http1::handshake(stream).await?;
        tokio::spawn(connection);
        Ok(Line::One(line))
    }
}

impl Line {
    /// Is it still good for a request?
    async fn ready(&mut self) -> bool {
        match self {
            Line::One(line) => line.ready().await.is_ok(),
            Line::Two(line) => line.ready().await.is_ok(),
        }
    }

    /// Errors: the server did not take the request.
    async fn ask(&mut self, method: &str, path: &str, body: String) -> Result<Response<Incoming>, Failure> {
        if !self.ready().await {
            return Err("the server has ended the connection".into());
        }
        let request = Request::builder().method(method).header("authorization", "Bearer t");
        let request = request.header("content-type", "application/json");
        Ok(match self {
            Line::One(line) => {
                let request = request.uri(path).header("host", "x").body(Full::from(body))?;
                line.send_request(request).await?
            }
            Line::Two(line) => {
                let uri = format!("https://x{path}");
                let request = request.version(Version::HTTP_2).uri(uri).body(Full::from(body))?;
                line.send_request(request).await?
            }
        })
    }
}

/// What one client did.
#[derive(Default)]
struct Done {
    /// Names that were answered with 201.
    made: BTreeSet<String>,
    /// Names whose request was not taken.
    refused: BTreeSet<String>,
    /// Answers with `Connection: close`.
    told: usize,
}

/// Makes and reads config maps on connections that are kept, until nobody lets it in.
async fn load(door: Door, client: usize) -> Done {
    let (mut done, mut number) = (Done::default(), 0);
    while let Ok(mut line) = door.open().await {
        while line.ready().await {
            let name = format!("c{client}-{number}");
            number += 1;
            let body = format!(r#"{{"metadata":{{"name":"{name}"}},"data":{{"k":"v"}}}}"#);
            let Ok(answer) = line.ask("POST", MAPS, body).await else {
                done.refused.insert(name);
                break;
            };
            done.told += usize::from(answer.headers().contains_key("connection"));
            assert_eq!(answer.status(), 201);
            let whole = answer.into_body().collect().await.expect("an answer that was begun is whole");
            assert!(whole.to_bytes().ends_with(b"}"));
            done.made.insert(name.clone());
            if !line.ready().await {
                break;
            }
            let Ok(answer) = line.ask("GET", &format!("{MAPS}/{name}"), String::new()).await else { break };
            done.told += usize::from(answer.headers().contains_key("connection"));
            assert_eq!(answer.status(), 200);
            answer.into_body().collect().await.expect("an answer that was begun is whole");
        }
    }
    done
}

/// Asks whether the server is ready until it says no; then it still answers.
async fn until_not_ready(door: Door) {
    let mut line = door.open().await.expect("the server runs");
    loop {
        let answer = line.ask("GET", "/readyz?verbose", String::new()).await.expect("it serves on");
        let code = answer.status().as_u16();
        let text = answer.into_body().collect().await.expect("whole").to_bytes();
        if code != 200 {
            assert_eq!(code, 500);
            assert!(String::from_utf8_lossy(&text).contains("[-]shutdown failed"), "{text:?}");
            break;
        }
    }
    let mut other = door.open().await.expect("it lets in until the delay is over");
    for path in ["/livez", MAPS] {
        let answer = other.ask("GET", path, String::new()).await.expect("it serves on");
        assert_eq!(answer.status(), 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &["--shutdown-delay-duration", "10s"]);
    let mut clients = Vec::new();
    for client in 0..2 * CLIENTS {
        clients.push(tokio::spawn(load(server.door(client >= CLIENTS), client)));
    }
    let mut watches = Vec::new();
    for http2 in [false, true] {
        let mut line = server.door(http2).open().await.expect("the server runs");
        let watch = line.ask("GET", &format!("{MAPS}?watch=1"), String::new()).await.expect("it serves");
        watches.push(tokio::spawn(async move {
            let _line = line;
            watch.into_body().collect().await.expect("a watch comes to a clean end").to_bytes()
        }));
    }
    server.signal(Signal::SIGTERM);
    let all = async {
        until_not_ready(server.door(false)).await;
        let mut done = Vec::new();
        for client in clients {
            done.push(client.await.expect("no answer was broken"));
        }
        for watch in watches {
            assert!(watch.await.expect("a clean end").ends_with(b"\n"), "the last event is whole");
        }
        done
    };
    let done = tokio::time::timeout(PATIENCE, all).await.expect("everything comes to an end");
    assert_eq!(server.ended().await, Some(0));
    assert!(done.iter().all(|client| !client.made.is_empty()));
    let told: usize = done.iter().map(|client| client.told).sum();
    assert!(told > 0, "HTTP/1.1 clients are told");

    let server = Server::start(dir.path(), &[]);
    let mut line = server.door(false).open().await.expect("it starts anew");
    let list = line.ask("GET", MAPS, String::new()).await.expect("it serves");
    let list = list.into_body().collect().await.expect("a list").to_bytes();
    let list: serde_json::Value = serde_json::from_slice(&list).expect("JSON");
    let names = list["items"].as_array().into_iter().flatten().filter_map(|o| o["metadata"]["name"].as_str());
    let there: BTreeSet<&str> = names.collect();
    for client in &done {
        assert!(client.made.iter().all(|name| there.contains(&**name)), "what was acknowledged is there");
        let taken: Vec<_> = client.refused.iter().filter(|name| there.contains(&***name)).collect();
        assert!(taken.is_empty(), "taken and not answered: {taken:?}");
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &["--shutdown-delay-duration", "1h"]);
    server.signal(Signal::SIGTERM);
    tokio::time::timeout(PATIENCE, until_not_ready(server.door(false))).await.expect("it was told");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended().await, Some(1));
}
