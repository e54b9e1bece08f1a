//! Real kubectl against the codecs: a stand-in for an API server knows one pod, whose containers are
//! processes of this machine. Needs kubectl in the PATH.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::convert::Infallible;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use corten_streaming::{
    ByteStream, Session, StreamBackend, StreamError, StreamRequest, StreamServerConfig, serve,
};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

const TIMEOUT: Duration = Duration::from_secs(60);

struct Processes;

#[async_trait]
impl StreamBackend for Processes {
    async fn exec(&self, _container: &str, command: &[String], session: Session) -> Result<i32, StreamError> {
        let failed = |error: std::io::Error| StreamError(error.to_string());
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let (mut to_child, mut out, mut err) =
            (child.stdin.take().unwrap(), child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let Session { stdin, mut stdout, mut stderr, .. } = session;
        let input = tokio::spawn(async move {
            if let Some(mut stdin) = stdin {
                let _ = tokio::io::copy(&mut stdin, &mut to_child).await;
            }
        });
        let copy_out = async {
            if let Some(stdout) = &mut stdout {
                let _ = tokio::io::copy(&mut out, stdout).await;
            }
        };
        let copy_err = async {
            if let Some(stderr) = &mut stderr {
                let _ = tokio::io::copy(&mut err, stderr).await;
            }
        };
        tokio::join!(copy_out, copy_err);
        let status = child.wait().await.map_err(failed)?;
        input.abort();
        Ok(status.code().unwrap_or(-1))
    }

    async fn attach(&self, _container: &str, session: Session) -> Result<(), StreamError> {
        session.stdout.unwrap().write_all(b"attached\n").await.map_err(|error| StreamError(error.to_string()))
    }

    async fn port_forward(&self, _sandbox: &str, port: u16) -> Result<Box<dyn ByteStream>, StreamError> {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(connection) => Ok(Box::new(connection)),
            Err(error) => Err(StreamError(error.to_string())),
        }
    }
}

fn document(path: &str) -> Option<Value> {
    let resource = |name: &str, kind: &str| json!({"name": name, "singularName": "", "namespaced": true, "kind": kind, "verbs": ["get", "create"]});
    Some(match path {
        "/version" => json!({"major": "1", "minor": "37", "gitVersion": "v1.37.0"}),
        "/api" => json!({"kind": "APIVersions", "versions": ["v1"]}),
        "/apis" => json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []}),
        "/api/v1" => {
            json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [resource("pods", "Pod")]})
        }
        "/api/v1/namespaces/default/pods/p" => json!({
            "kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "namespace": "default", "uid": "u"},
            "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]},
            "status": {"phase": "Running"},
        }),
        _ => return None,
    })
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let query: Vec<(String, String)> = request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), decode(value)))
        .collect();
    let flag = |name: &str| query.iter().any(|(key, value)| key == name && value == "true");
    let (stdin, stdout, stderr, tty) = (flag("stdin"), flag("stdout"), flag("stderr"), flag("tty"));
    let wanted = match path.rsplit('/').next() {
        Some("exec") => StreamRequest::Exec {
            container_id: "c".into(),
            command: query
                .into_iter()
                .filter(|(name, _)| name == "command")
                .map(|(_, value)| value)
                .collect(),
            stdin,
            stdout,
            stderr,
            tty,
        },
        Some("attach") => StreamRequest::Attach { container_id: "c".into(), stdin, stdout, stderr, tty },
        Some("portforward") => StreamRequest::PortForward { sandbox_id: "s".into(), ports: vec![] },
        _ => {
            let body = document(&path).unwrap_or_else(|| {
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404})
            });
            let code = if body["kind"] == "Status" { 404 } else { 200 };
            let response = Response::builder().status(code).header("content-type", "application/json");
            return Ok(response.body(Full::from(body.to_string())).unwrap());
        }
    };
    Ok(serve(request, wanted, Arc::new(Processes), StreamServerConfig::default()))
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                bytes.push(u8::from_str_radix(std::str::from_utf8(&tail[..2]).unwrap(), 16).unwrap());
                rest = &tail[2..];
            }
            other => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).unwrap()
}

async fn start() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(connection), service_fn(answer))
                .with_upgrades();
            tokio::spawn(served);
        }
    });
    format!("http://{address}")
}

/// kubectl over WebSocket or SPDY, with nothing of this machine's configuration.
fn kubectl(server: &str, websockets: bool, home: &std::path::Path, args: &[&str]) -> Command {
    let mut command = Command::new("kubectl");
    let switch = if websockets { "true" } else { "false" };
    command
        .args(["--server", server, "--kubeconfig", "/dev/null"])
        .args(args)
        .env("HOME", home)
        .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", switch)
        .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", switch)
        .env_remove("KUBECONFIG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// (exit code, stdout, stderr)
async fn run(mut command: Command, input: &[u8]) -> (i32, String, String) {
    let mut child = command.spawn().expect("kubectl is installed");
    child.stdin.take().unwrap().write_all(input).await.unwrap();
    let output = tokio::time::timeout(TIMEOUT, child.wait_with_output()).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_and_attach() {
    let server = start().await;
    let home = tempfile::tempdir().unwrap();
    let long = "x".repeat(3_000_000);
    for websockets in [true, false] {
        let kubectl = |args: &[&str]| kubectl(&server, websockets, home.path(), args);
        let (code, out, err) =
            run(kubectl(&["exec", "p", "--", "sh", "-c", "echo out; echo err >&2"]), b"").await;
        assert_eq!((code, out.as_str(), err.as_str()), (0, "out\n", "err\n"), "websockets {websockets}");
        let (code, _, err) = run(kubectl(&["exec", "p", "--", "sh", "-c", "exit 42"]), b"").await;
        assert_eq!(
            (code, err.trim()),
            (42, "command terminated with exit code 42"),
            "websockets {websockets}"
        );
        let (code, out, err) = run(kubectl(&["exec", "-i", "p", "--", "cat"]), long.as_bytes()).await;
        assert_eq!((code, out.len(), err.as_str()), (0, long.len(), ""), "websockets {websockets}");
        let (code, _, err) = run(kubectl(&["exec", "p", "--", "/no/such/thing"]), b"").await;
        assert!(code == 1 && err.contains("No such file"), "websockets {websockets}: {code} {err}");
        let (code, out, err) = run(kubectl(&["attach", "p"]), b"").await;
        assert!(code == 0 && out.contains("attached"), "websockets {websockets}: {code} {out} {err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn port_forward() {
    let server = start().await;
    let home = tempfile::tempdir().unwrap();
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = echo.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut connection, _) = echo.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut reader, mut writer) = connection.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
        }
    });
    for websockets in [true, false] {
        let mut command =
            kubectl(&server, websockets, home.path(), &["port-forward", "pod/p", &format!(":{port}")]);
        let mut child = command.spawn().expect("kubectl is installed");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(TIMEOUT, lines.next_line()).await.unwrap().unwrap().unwrap();
        let local: u16 = line.split(" -> ").next().unwrap().rsplit(':').next().unwrap().parse().unwrap();
        for round in 0..20 {
            let mut connection = TcpStream::connect(("127.0.0.1", local)).await.unwrap();
            let sent = vec![b'a' + round; 100_000];
            let (mut reader, mut writer) = connection.split();
            let mut got = Vec::new();
            let (wrote, read) = tokio::join!(
                async {
                    writer.write_all(&sent).await?;
                    writer.shutdown().await
                },
                tokio::time::timeout(TIMEOUT, reader.read_to_end(&mut got))
            );
            wrote.unwrap();
            read.unwrap().unwrap();
            assert!(got == sent, "websockets {websockets}, round {round}: {} bytes", got.len());
        }
        child.kill().await.unwrap();
    }
}
