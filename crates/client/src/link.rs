//! A client over the network that notices when the other side is gone.
//!
//! Without care, what was cut off waits for TCP's own patience: two minutes between tries, a quarter of an hour until it gives up.
//! Here a connection whose other side says nothing for [`DEAD_AFTER`] is closed by the kernel (so watches end with an error and are
//! opened again), connecting and the first byte of an answer have deadlines, and after a request that failed or was given up
//! the next one goes over a fresh connection: those that lie around idle are most likely as dead.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client as Http, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ConfigExt};
use kube::{Client, Config};
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};

/// Opening a TCP connection takes at most this; within it a lost packet is sent again after one and three seconds.
const CONNECT: Duration = Duration::from_secs(5);
/// The same with the TLS handshake, which a busy server may be slow at.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// A connection whose other side has acknowledged nothing for so long is dead.
const DEAD_AFTER: Duration = Duration::from_secs(30);
/// A quiet connection asks after this whether the other side is there...
const ASK_AFTER: Duration = Duration::from_secs(15);
/// ...and again after this.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// An answer begins within this. API servers give up on a request after 60 s themselves.
const ANSWER: Duration = Duration::from_secs(65);
/// Idle connections are closed after this, before the server does it.
const IDLE: Duration = Duration::from_secs(20);
/// Idle connections kept.
const MOST_IDLE: usize = 4;

type Pool = Arc<dyn Fn(Request<Body>) -> ResponseFuture + Send + Sync>;
type Dial = Arc<dyn Fn() -> Pool + Send + Sync>;

/// The way to one API server. Clones and their clients share its connections.
#[derive(Clone)]
pub struct Link {
    ways: Ways,
    client: Client,
}

impl Link {
    /// A link as a kubeconfig describes it. Nothing is sent yet. Must be called inside a tokio runtime.
    ///
    /// Errors: certificates or credentials that cannot be used; a proxy (this build has none).
    pub fn open(config: Config) -> Result<Self, kube::Error> {
        if let Some(proxy) = config.proxy_url {
            let (proxy_url, protocol_feature) = (Box::new(proxy), "kube/http-proxy");
            return Err(kube::Error::ProxyProtocolDisabled { proxy_url, protocol_feature });
        }
        let ways = Ways::new(&config)?;
        let sender = ways.clone();
        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.default_retry.then(|| RetryLayer::new(RetryPolicy::server_retry())))
            .option_layer(config.auth_layer()?)
            .layer(config.extra_headers_layer()?)
            .service(service_fn(move |request| send(sender.clone(), request)));
        Ok(Link { ways, client: Client::new(service, config.default_namespace) })
    }

    /// The client over this link.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// From now on connections are made with the certificates of `config`; those that are in use end in their time.
    ///
    /// Errors: certificates that cannot be used; then all stays as it is.
    pub fn renew(&self, config: &Config) -> Result<(), kube::Error> {
        self.ways.take(dialer(config)?);
        Ok(())
    }
}

/// The connections in use, and how new ones are made.
#[derive(Clone)]
struct Ways(Arc<Mutex<(Dial, Pool)>>);

impl Ways {
    fn new(config: &Config) -> Result<Self, kube::Error> {
        let dial = dialer(config)?;
        let pool = dial();
        Ok(Ways(Arc::new(Mutex::new((dial, pool)))))
    }

    fn pool(&self) -> Pool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    fn take(&self, dial: Dial) {
        let pool = dial();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (dial, pool);
    }

    /// Forgets the connections of `failed`, unless that was done already.
    fn leave(&self, failed: &Pool) {
        let mut ways = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&ways.1, failed) {
            ways.1 = (ways.0)();
        }
    }
}

async fn send(ways: Ways, request: Request<Body>) -> Result<Response<Incoming>, BoxError> {
    let mut trial = Trial { pool: ways.pool(), ways, answered: false };
    let answer = tokio::time::timeout(ANSWER, (trial.pool)(request)).await??;
    trial.answered = true;
    Ok(answer)
}

/// A request under way. Whether it fails or somebody loses patience with it: its connections are not used again.
struct Trial {
    ways: Ways,
    pool: Pool,
    answered: bool,
}

impl Drop for Trial {
    fn drop(&mut self) {
        if !self.answered {
            self.ways.leave(&self.pool);
        }
    }
}

fn dialer(config: &Config) -> Result<Dial, kube::Error> {
    let https = config.rustls_https_connector_with_connector(tcp())?;
    let connect = service_fn(move |to: Uri| {
        let connected = https.clone().oneshot(to);
        Box::pin(async move { tokio::time::timeout(HANDSHAKE, connected).await.map_err(BoxError::from)? })
            as BoxFuture<'static, _>
    });
    Ok(Arc::new(move || {
        let mut http = Http::builder(TokioExecutor::new());
        http.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE).pool_max_idle_per_host(MOST_IDLE);
        let http = http.build(connect.clone());
        Arc::new(move |request| http.request(request))
    }))
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(ASK_AFTER));
    tcp.set_keepalive_interval(Some(ASK_AGAIN));
    tcp.set_tcp_user_timeout(Some(DEAD_AFTER));
    tcp
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use k8s_openapi::api::core::v1::Node;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::Api;

    const NODE: &str = r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n"}}"#;

    /// A server that says nothing on its first `silent` connections; counts connections.
    async fn server(silent: usize) -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let counted = count.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let number = counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(answer(tcp, number >= silent));
            }
        });
        (address, count)
    }

    async fn answer(mut tcp: TcpStream, speaks: bool) {
        let mut read = [0; 4096];
        while tcp.read(&mut read).await.is_ok_and(|n| n > 0) {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{NODE}", NODE.len());
            if speaks && tcp.write_all(head.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn link(address: SocketAddr) -> Link {
        Link::open(Config::new(format!("http://{address}").parse().unwrap())).unwrap()
    }

    #[tokio::test]
    async fn what_answers_is_used_again_and_what_is_given_up_is_not() {
        let (address, connections) = server(0).await;
        let nodes: Api<Node> = Api::all(link(address).client());
        for _ in 0..3 {
            nodes.get("n").await.unwrap();
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1);

        let (address, connections) = server(1).await;
        let nodes: Api<Node> = Api::all(link(address).client());
        let patience = Duration::from_millis(100);
        let mut silent = Box::pin(nodes.get("n"));
        // Given up when it has a connection, and not before.
        while connections.load(Ordering::SeqCst) == 0 {
            assert!(tokio::time::timeout(patience, &mut silent).await.is_err());
        }
        drop(silent);
        nodes.get("n").await.unwrap();
        assert_eq!(connections.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn new_certificates_mean_new_connections() {
        let (address, connections) = server(0).await;
        let link = link(address);
        let nodes: Api<Node> = Api::all(link.client());
        nodes.get("n").await.unwrap();
        link.renew(&Config::new(format!("http://{address}").parse().unwrap())).unwrap();
        nodes.get("n").await.unwrap();
        assert_eq!(connections.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_proxy_is_refused() {
        let mut config = Config::new("http://127.0.0.1:1".parse().unwrap());
        config.proxy_url = Some("http://127.0.0.1:2".parse().unwrap());
        assert!(Link::open(config).is_err());
    }
}
