//! Small HTTP servers: `/healthz` and `/livez` of the proxy, its `/metrics`, and one for each healthCheckNodePort, by which load balancers find the
//! nodes that have an endpoint.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use corten_client::k8s_openapi::jiff::Timestamp;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::backend::Mode;
use crate::metrics::Metrics;
use crate::ruleset::HealthCheck;

/// A proxy whose changes do not get through for so long is not healthy (upstream: twice its sync period).
const PATIENCE: Duration = Duration::from_secs(120);
/// Connections at a time, each server.
const MOST_CONNECTIONS: usize = 64;
/// A request must be there by then.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How the proxy is. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// The oldest change that is not carried out.
    waits_since: Option<Instant>,
    updated: Option<Timestamp>,
    /// The node is about to be removed.
    is_leaving: bool,
}

impl Health {
    /// There is something to do.
    pub fn queued(&self, now: Instant) {
        self.with(|state| state.waits_since = state.waits_since.or(Some(now)));
    }

    /// Everything is done.
    pub fn done(&self, at: Timestamp) {
        self.with(|state| (state.waits_since, state.updated) = (None, Some(at)));
    }

    /// Load balancers shall not send anything new here.
    pub fn leaving(&self, is_leaving: bool) {
        self.with(|state| state.is_leaving = is_leaving);
    }

    /// Do changes get through?
    pub fn is_live(&self, now: Instant) -> bool {
        let since = self.with(|state| state.waits_since);
        since.is_none_or(|since| now.saturating_duration_since(since) < PATIENCE)
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Upstream's bodies: while changes get through, the last update is now.
    fn answer(&self, path: &str) -> Answer {
        let state = self.with(|state| *state);
        let is_live = self.is_live(Instant::now());
        let is_good = match path {
            "/healthz" => is_live && !state.is_leaving,
            "/livez" => is_live,
            _ => return Answer::missing(),
        };
        let now = Timestamp::now();
        let updated = if is_good { Some(now) } else { state.updated };
        let mut body =
            json!({ "lastUpdated": updated.map(|t| t.to_string()), "currentTime": now.to_string() });
        if path == "/healthz" {
            body["nodeEligible"] = (!state.is_leaving).into();
        }
        Answer::json(is_good, body.to_string())
    }
}

struct Answer {
    status: StatusCode,
    content_type: &'static str,
    weight: Option<usize>,
    body: String,
}

impl Answer {
    fn json(is_good: bool, body: String) -> Self {
        Answer { status: status(is_good), content_type: "application/json", weight: None, body }
    }

    fn text(body: String) -> Self {
        Answer {
            status: StatusCode::OK,
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            weight: None,
            body,
        }
    }

    fn missing() -> Self {
        Answer { status: StatusCode::NOT_FOUND, ..Answer::text("404 page not found\n".to_owned()) }
    }
}

fn status(is_good: bool) -> StatusCode {
    if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

type Responder = Arc<dyn Fn(&str) -> Answer + Send + Sync>;

/// Serves `/healthz` and `/livez` until `stop`.
pub(crate) fn serve_proxy(at: SocketAddr, health: Health, metrics: Arc<Metrics>, stop: CancellationToken) {
    let respond = move |path: &str| {
        let answer = health.answer(path);
        metrics.asked(path, answer.status.as_u16());
        answer
    };
    serve_at(at, "health", Arc::new(respond), stop);
}

/// Serves `/metrics`, `/proxyMode` and, as upstream does there, a plain `/healthz` until `stop`.
pub(crate) fn serve_metrics(at: SocketAddr, mode: Mode, metrics: Arc<Metrics>, stop: CancellationToken) {
    let respond = move |path: &str| match path {
        "/metrics" => Answer::text(metrics.text()),
        "/proxyMode" => Answer::text(mode.name().to_owned()),
        "/healthz" => Answer::text("ok".to_owned()),
        _ => Answer::missing(),
    };
    serve_at(at, "metrics", Arc::new(respond), stop);
}

fn serve_at(at: SocketAddr, what: &'static str, respond: Responder, stop: CancellationToken) {
    tokio::spawn(async move {
        match TcpListener::bind(at).await {
            Ok(listener) => serve(listener, respond, stop).await,
            Err(error) => tracing::warn!(%at, %error, what, "not served"),
        }
    });
}

/// The servers of all healthCheckNodePorts.
pub(crate) struct NodePorts {
    health: Health,
    servers: HashMap<u16, Server>,
}

struct Server {
    check: Arc<Mutex<HealthCheck>>,
    _stop: DropGuard,
}

impl NodePorts {
    pub(crate) fn new(health: Health) -> Self {
        NodePorts { health, servers: HashMap::new() }
    }

    /// Opens, changes and closes servers so that these are there.
    pub(crate) async fn set(&mut self, checks: &BTreeMap<u16, HealthCheck>) {
        self.servers.retain(|port, _| checks.contains_key(port));
        for (port, check) in checks {
            match self.servers.get(port) {
                Some(server) => *server.check.lock().unwrap_or_else(PoisonError::into_inner) = check.clone(),
                None => self.open(*port, check).await,
            }
        }
    }

    async fn open(&mut self, port: u16, check: &HealthCheck) {
        let listener = match listen(port).await {
            Ok(listener) => listener,
            Err(error) => {
                let HealthCheck { namespace, service, .. } = check;
                tracing::warn!(%namespace, %service, port, %error, "health check is not served");
                return;
            }
        };
        let check = Arc::new(Mutex::new(check.clone()));
        let stop = CancellationToken::new();
        let (shared, health) = (check.clone(), self.health.clone());
        let respond: Responder = Arc::new(move |_| {
            let check = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
            node_port_answer(&check, health.is_live(Instant::now()))
        });
        tokio::spawn(serve(listener, respond, stop.clone()));
        self.servers.insert(port, Server { check, _stop: stop.drop_guard() });
    }
}

/// On all addresses of both families, or of IPv4 where there is no other.
async fn listen(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        other => other,
    }
}

fn node_port_answer(check: &HealthCheck, is_live: bool) -> Answer {
    let is_good = check.local_endpoints > 0 && is_live;
    let body = json!({
        "service": {"namespace": check.namespace, "name": check.service},
        "localEndpoints": check.local_endpoints,
        "serviceProxyHealthy": is_live,
    });
    Answer { weight: Some(check.local_endpoints), ..Answer::json(is_good, body.to_string()) }
}

async fn serve(listener: TcpListener, respond: Responder, stop: CancellationToken) {
    let seats = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(seat) = seats.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, most likely: the next attempt waits.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (respond, stop) = (respond.clone(), stop.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let answer = respond(request.uri().path());
                async move { Ok::<_, Infallible>(response(&answer)) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                () = stop.cancelled() => {}
                outcome = connection => drop(outcome),
            }
            drop(seat);
        });
    }
}

fn response(answer: &Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(answer.body.clone()));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert("content-type", http::HeaderValue::from_static(answer.content_type));
    headers.insert("x-content-type-options", http::HeaderValue::from_static("nosniff"));
    if let Some(weight) = answer.weight {
        headers.insert("x-load-balancing-endpoint-weight", weight.into());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn health_follows_what_waits() {
        let (health, begin) = (Health::default(), Instant::now());
        assert_eq!(health.answer("/healthz").status, 200);
        health.queued(begin);
        health.queued(begin + PATIENCE);
        assert!(health.is_live(begin + PATIENCE / 2));
        assert!(!health.is_live(begin + PATIENCE), "the oldest counts");
        health.done(Timestamp::UNIX_EPOCH);
        assert!(health.is_live(begin + PATIENCE));
        health.leaving(true);
        let status = ["/healthz", "/livez", "/"].map(|path| health.answer(path).status.as_u16());
        assert_eq!(status, [503, 200, 404]);
        let body =
            |path: &str| -> serde_json::Value { serde_json::from_str(&health.answer(path).body).unwrap() };
        assert_eq!(body("/healthz")["nodeEligible"], false);
        assert_eq!(body("/healthz")["lastUpdated"], "1970-01-01T00:00:00Z", "what fails says since when");
        let live = body("/livez");
        assert_eq!(live["lastUpdated"], live["currentTime"], "what works is up to date");
        assert!(live.get("nodeEligible").is_none());
    }

    async fn get(port: u16) -> String {
        let mut stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn load_balancers_are_told_about_local_endpoints() {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let check = |local_endpoints| {
            let check = HealthCheck { namespace: "ns".into(), service: "web".into(), local_endpoints };
            BTreeMap::from([(port, check)])
        };
        let mut servers = NodePorts::new(Health::default());
        servers.set(&check(2)).await;
        let answer = get(port).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"localEndpoints\":2"), "{answer}");
        assert!(answer.contains("x-load-balancing-endpoint-weight: 2"), "{answer}");
        servers.set(&check(0)).await;
        assert!(get(port).await.starts_with("HTTP/1.1 503"));
        servers.set(&BTreeMap::new()).await;
        assert!(servers.servers.is_empty());
    }
}
