//! The kubelet's HTTPS API: logs, exec, attach, port-forward, pods, health, stats and metrics. Only clients
//! with a certificate of the client CA are served.

mod logs;
mod query;
mod stats;
mod tls;
mod tunnel;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use self::query::Query;
use self::tls::Peer;
use crate::config::Renewed;
use crate::host::Host;
use crate::kubelet::Error;
use crate::pod::manager::Manager;

/// Body of an answer.
type Body = BoxBody<Bytes, std::io::Error>;

/// How long a client may take to finish the TLS handshake.
const HANDSHAKE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
/// Connections served at the same time.
const MAX_CONNECTIONS: usize = 1000;

/// How long a request about pods waits for the kubelet's first list of them.
const FIRST_PODS: std::time::Duration = std::time::Duration::from_secs(15);
/// Remembers a port that was not chosen by the settings, below the data directory.
const PORT_FILE: &str = "kubelet.port";

/// A bound server.
pub struct Server {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

/// What handlers need.
#[derive(Clone)]
struct Context {
    host: Arc<Host>,
    manager: Manager,
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never: Infallible| match never {}).boxed()
}

fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut answer = Response::new(full(text.into()));
    *answer.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    answer
}

fn document(value: &Value) -> Response<Body> {
    let mut answer = Response::new(full(value.to_string()));
    let json = http::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, json);
    answer
}

impl Server {
    /// Binds the port; `None` when the settings have no certificate.
    pub async fn bind(host: &Host, listen: SocketAddr) -> Result<Option<Self>, Error> {
        let config = &host.config;
        let (Some(cert), Some(key), Some(ca)) =
            (&config.serving_cert, &config.serving_key, &config.client_ca)
        else {
            return Ok(None);
        };
        let tls = tls::server_config(cert, key, ca).map_err(Error::Tls)?;
        let listener = match listen.port() {
            0 => any_port(listen, &config.data_dir.join(PORT_FILE)).await?,
            _ => TcpListener::bind(listen).await?,
        };
        corten_sys::sockets::ask_whether_peers_live(&listener)?;
        Ok(Some(Self { listener, acceptor: TlsAcceptor::from(Arc::new(tls)) }))
    }

    /// Shows another certificate from now on.
    fn show(&mut self, host: &Host, cert: &[u8], key: &[u8]) {
        let Some(ca) = &host.config.client_ca else { return };
        match tls::server_config(cert, key, ca) {
            Ok(config) => self.acceptor = TlsAcceptor::from(Arc::new(config)),
            Err(error) => tracing::warn!(error, "the kubelet keeps its old certificate"),
        }
    }

    /// The port in use.
    pub fn port(&self) -> u16 {
        self.listener.local_addr().map_or(0, |address| address.port())
    }

    /// Serves until the kubelet stops.
    pub async fn run(mut self, host: Arc<Host>, manager: Manager) {
        let mut renewed = host.config.serving_renewed.clone();
        let slots = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
        let context = Context { host: host.clone(), manager };
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                (cert, key) = newer(&mut renewed) => {
                    self.show(&host, &cert, &key);
                    continue;
                }
                () = host.stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (acceptor, context) = (self.acceptor.clone(), context.clone());
                    tokio::spawn(async move {
                        serve(stream, acceptor, context).await;
                        drop(slot);
                    });
                }
                // too many open files: give others time to close some
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            }
        }
    }
}

/// The next certificate and its key; never, where none will come.
async fn newer(renewed: &mut Option<Renewed>) -> (Vec<u8>, Vec<u8>) {
    if let Some(seen) = renewed
        && seen.changed().await.is_ok()
    {
        return seen.borrow_and_update().clone();
    }
    std::future::pending().await
}

/// Any free port; the last one, if it is still free: then what the Node object says about a kubelet that was restarted
/// stays true.
async fn any_port(listen: SocketAddr, memory: &std::path::Path) -> std::io::Result<TcpListener> {
    let last = std::fs::read_to_string(memory).ok().and_then(|text| text.trim().parse().ok());
    if let Some(port) = last
        && let Ok(listener) = TcpListener::bind(SocketAddr::new(listen.ip(), port)).await
    {
        return Ok(listener);
    }
    let listener = TcpListener::bind(listen).await?;
    if let Err(error) = std::fs::write(memory, listener.local_addr()?.port().to_string()) {
        tracing::debug!(%error, "the kubelet's port is not remembered");
    }
    Ok(listener)
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, context: Context) {
    let _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await else {
        return;
    };
    let peer = Arc::new(tls::peer(stream.get_ref().1));
    let stop = context.host.stop.clone();
    let service = service_fn(move |request| {
        let (context, peer) = (context.clone(), peer.clone());
        async move { Ok::<_, Infallible>(guarded(context, &peer, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::select! {
        _ = connection => {}
        () = stop.cancelled() => {}
    }
}

async fn guarded(context: Context, peer: &Peer, request: Request<Incoming>) -> Response<Body> {
    match peer {
        Peer::Unknown => text(StatusCode::UNAUTHORIZED, "Unauthorized"),
        Peer::User { name, masters: false } => {
            let verb = request.method().as_str().to_lowercase();
            let why = format!("Forbidden (user={name}, verb={verb}, resource=nodes, subresource(s)=[proxy])");
            text(StatusCode::FORBIDDEN, why)
        }
        Peer::User { masters: true, .. } => route(context, request).await,
    }
}

async fn route(context: Context, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let about_pods = !matches!(parts.as_slice(), ["healthz" | "livez" | "readyz" | "configz", ..]);
    // Just after a start pods that run would seem not to exist.
    if about_pods && tokio::time::timeout(FIRST_PODS, context.manager.listed()).await.is_err() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the kubelet does not know its pods yet");
    }
    match (request.method(), parts.as_slice()) {
        (&Method::GET, ["healthz" | "livez" | "readyz", ..]) => text(StatusCode::OK, "ok"),
        (&Method::GET, ["pods"]) => document(&pods(&context)),
        (&Method::GET, ["configz"]) => document(&configz(&context)),
        (&Method::GET, ["stats", "summary"]) => stats::summary(&context).await,
        (&Method::GET, ["metrics"]) => stats::metrics(&context).await,
        (&Method::GET, ["metrics", "resource"]) => stats::resource_metrics(&context).await,
        (&Method::GET, ["containerLogs", namespace, pod, container]) => {
            logs::container_logs(&context, namespace, pod, container, &query).await
        }
        (_, ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container]) => {
            tunnel::exec(&context, (namespace, pod, container), &query, request).await
        }
        (_, ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container]) => {
            tunnel::attach(&context, (namespace, pod, container), &query, request).await
        }
        (_, ["portForward", namespace, pod] | ["portForward", namespace, pod, _]) => {
            tunnel::port_forward(&context, (namespace, pod), &query, request).await
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

fn pods(context: &Context) -> Value {
    let items: Vec<Value> = context.manager.pods().iter().map(|pod| json!(pod.as_ref())).collect();
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

fn configz(context: &Context) -> Value {
    let config = &context.host.config;
    json!({"kubeletconfig": {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "clusterDomain": config.cluster_domain,
        "clusterDNS": config.cluster_dns,
        "maxPods": config.max_pods,
        "containerRuntimeEndpoint": config.cri_endpoint,
        "containerLogMaxSize": config.log_max_size.to_string(),
        "containerLogMaxFiles": config.log_max_files,
        "imageGCHighThresholdPercent": config.image_gc_high_percent,
        "imageGCLowThresholdPercent": config.image_gc_low_percent,
        "cgroupRoot": config.cgroup_root,
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_free_port_stays_the_same_as_long_as_it_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let (memory, any) = (dir.path().join(PORT_FILE), SocketAddr::from(([127, 0, 0, 1], 0)));
        let first = any_port(any, &memory).await.unwrap();
        let port = first.local_addr().unwrap().port();
        let second = any_port(any, &memory).await.unwrap();
        assert_ne!(second.local_addr().unwrap().port(), port);
        drop((first, second));
        let third = any_port(any, &memory).await.unwrap().local_addr().unwrap().port();
        assert_eq!(std::fs::read_to_string(&memory).unwrap(), third.to_string());
    }
}
