//! `/metrics`, `/ready` and `/health` over plain HTTP, for probes and Prometheus.

use std::fmt::Write;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::responder::Responder;

/// A whole request and its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// After an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest request.
const MAX_REQUEST: usize = 8192;
/// Names of response codes, by number.
const RCODES: [&str; 6] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];

/// Answers one request after the other until stopped: who asks is a probe, not a crowd.
pub async fn serve(listener: TcpListener, responder: Arc<Responder>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let served = match accepted {
            Ok((stream, _)) => timeout(PATIENCE, answer(stream, &responder)).await.unwrap_or(Ok(())),
            Err(error) => {
                // Without descriptors the next accept would fail at once, too.
                tokio::time::sleep(ACCEPT_PAUSE).await;
                Err(error)
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "DNS metrics");
        }
    }
}

async fn answer(mut stream: TcpStream, responder: &Responder) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() > MAX_REQUEST || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let path = request.split(|b| *b == b' ').nth(1).unwrap_or_default();
    let (status, body) = match path {
        b"/metrics" => ("200 OK", metrics(responder)),
        b"/health" => ("200 OK", "OK".to_owned()),
        b"/ready" if responder.zone.is_synced() => ("200 OK", "OK".to_owned()),
        b"/ready" => ("503 Service Unavailable", "the API's objects are not known yet".to_owned()),
        _ => ("404 Not Found", "404 page not found".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// The counters in Prometheus' text form.
fn metrics(responder: &Responder) -> String {
    let counters = &responder.counters;
    let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, values: &[(String, u64)]| {
        let _ = writeln!(text, "# HELP corten_dns_{name} {help}\n# TYPE corten_dns_{name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(text, "corten_dns_{name}{labels} {value}");
        }
    };
    let plain = |value: u64| vec![(String::new(), value)];
    let requests = [("udp", &counters.udp), ("tcp", &counters.tcp)];
    let requests = requests.map(|(proto, counter)| (format!("{{proto=\"{proto}\"}}"), value(counter)));
    family("requests_total", "counter", "Messages that came in.", &requests);
    let rcodes = RCODES.iter().zip(&counters.rcodes);
    let rcodes: Vec<_> = rcodes.map(|(name, n)| (format!("{{rcode=\"{name}\"}}"), value(n))).collect();
    family("responses_total", "counter", "Replies by response code.", &rcodes);
    family(
        "forwarded_total",
        "counter",
        "Questions put to other servers.",
        &plain(value(&counters.forwarded)),
    );
    family("cache_hits_total", "counter", "Known answers of other servers.", &plain(value(&counters.known)));
    let forwarder = &responder.forwarder;
    family(
        "cache_entries",
        "gauge",
        "Answers of other servers that are kept.",
        &plain(forwarder.kept() as u64),
    );
    family(
        "forward_in_flight",
        "gauge",
        "Questions that wait for other servers.",
        &plain(forwarder.in_flight() as u64),
    );
    family("services", "gauge", "Services that are known.", &plain(responder.zone.services() as u64));
    text
}
