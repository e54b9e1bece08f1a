//! What stands where people expect an etcd. `corten etcd` (or the binary called as `etcd`) answers the health checks of tools that start
//! etcd and kube-apiserver side by side, and lends its data directory: `corten apiserver --etcd-servers URL` keeps its objects there. It
//! speaks no other word of etcd's protocol.

use std::convert::Infallible;
use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::args::EtcdArgs;
use crate::parts::live;
use crate::signals::Signals;

/// The path that only this stand-in answers.
const LEND: &str = "/corten/store";
/// What it shows as its version: the etcd that Kubernetes 1.37 goes with.
const VERSION: &str = r#"{"etcdserver":"3.6.5","etcdcluster":"3.6.0"}"#;
/// A client has so long for the head of a request.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// The named server has so long to say what it is.
const ASK_PATIENCE: Duration = Duration::from_secs(10);
/// Pause before it is asked again.
const ASK_PAUSE: Duration = Duration::from_millis(100);
/// Longest answer that is read.
const MAX_ANSWER: u64 = 64 * 1024;
/// After an accept error (out of descriptors) the server waits so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Holds the place until SIGTERM or SIGINT.
pub async fn etcd(args: EtcdArgs) -> Result<()> {
    let mut signals = Signals::catch()?;
    let name = args.name.as_deref().unwrap_or("default");
    let dir = args.data_dir.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.etcd")));
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let dir = std::path::absolute(dir)?;
    let lent = serde_json::json!({ "dataDir": dir.to_string_lossy() }).to_string();
    live(&mut signals, async |parts| {
        for url in &args.listen_client_urls {
            let address = address(url)?;
            let listener =
                TcpListener::bind(address).await.with_context(|| format!("cannot listen on {url}"))?;
            let _ = writeln!(std::io::stdout(), "stand-in for etcd at http://{}", listener.local_addr()?);
            let (stop, lent) = (parts.stop(), lent.clone());
            parts.start("stand-in for etcd", async move { serve(listener, lent, stop).await });
        }
        Ok(())
    })
    .await
}

async fn serve(listener: TcpListener, lent: String, stop: CancellationToken) -> Result<()> {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return Ok(()),
        };
        let Ok((tcp, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let lent = lent.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = answer(request.uri().path(), &lent);
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut builder = hyper::server::conn::http1::Builder::new();
            let builder = builder.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE);
            let _ = builder.serve_connection(TokioIo::new(tcp), service).await;
        });
    }
}

fn answer(path: &str, lent: &str) -> Response<Full<Bytes>> {
    let (code, text) = match path {
        "/health" => (200, r#"{"health":"true","reason":""}"#),
        "/livez" | "/readyz" => (200, "ok\n"),
        "/version" => (200, VERSION),
        LEND => (200, lent),
        _ => (404, "404 page not found\n"),
    };
    let mut response = Response::new(Full::new(Bytes::from(text.to_owned())));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    response
}

/// Where a URL of etcd's flags points.
fn address(url: &str) -> Result<SocketAddr> {
    let Some(rest) = url.strip_prefix("http://") else {
        bail!("{url}: want http://HOST:PORT (Corten's stand-in for etcd has no certificates)")
    };
    let host = rest.trim_end_matches('/');
    let mut found = host.to_socket_addrs().with_context(|| format!("{url}: no such address"))?;
    found.next().with_context(|| format!("{url}: no such address"))
}

/// The data directory that the stand-in behind `--etcd-servers` lends.
///
/// Errors: it is a real etcd, or nothing answers.
pub async fn lent(servers: &[String]) -> Result<PathBuf> {
    let [server] = servers else { bail!("--etcd-servers: name one server, Corten's own `etcd`") };
    let address = address(server).context("--etcd-servers")?;
    let deadline = tokio::time::Instant::now() + ASK_PATIENCE;
    let text = loop {
        let error = match tokio::time::timeout_at(deadline, ask(address)).await {
            Ok(Ok(text)) => break text,
            Ok(Err(error)) => error,
            Err(late) => {
                return Err(late).with_context(|| format!("--etcd-servers {server} does not answer"));
            }
        };
        if tokio::time::Instant::now() + ASK_PAUSE >= deadline {
            return Err(error).with_context(|| format!("--etcd-servers {server} does not answer"));
        }
        tokio::time::sleep(ASK_PAUSE).await;
    };
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let dir = serde_json::from_str::<serde_json::Value>(body).ok();
    let dir = dir.as_ref().and_then(|v| v["dataDir"].as_str()).map(PathBuf::from);
    ensure!(
        dir.is_some(),
        "--etcd-servers {server} is an etcd, which Corten cannot use as its store: leave the flag out, and the objects are kept in \
         --data-dir, or start `corten etcd` in place of that etcd"
    );
    Ok(dir.unwrap_or_default())
}

async fn ask(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {LEND} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_lends_its_directory_and_a_real_one_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, r#"{"dataDir":"/x/y"}"#.into(), stop.clone()));
        assert_eq!(lent(std::slice::from_ref(&url)).await.unwrap(), PathBuf::from("/x/y"));
        stop.cancel();
        serving.await.unwrap().unwrap();

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (stop, other) = (CancellationToken::new(), "404 page not found".to_owned());
        let serving = tokio::spawn(serve(listener, other, stop.clone()));
        let error = lent(&[url]).await.unwrap_err().to_string();
        assert!(error.contains("is an etcd"), "{error}");
        stop.cancel();
        serving.await.unwrap().unwrap();
        assert!(lent(&["https://127.0.0.1:1".into()]).await.is_err());
    }
}
