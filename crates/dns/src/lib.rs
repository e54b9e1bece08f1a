//! Cluster DNS: names of Services and pods from the informers' memory, everything else from other servers.
//!
//! A query's way: a socket ([`udp`], [`tcp`]) → [`responder`] → the [`zone`] by the rules in [`answer`], or [`forward`].
//! Follows the Kubernetes DNS specification 1.1.0; where that is silent, what kubeadm's CoreDNS does.

pub mod answer;
pub mod forward;
mod http;
pub mod responder;
mod service;
mod tcp;
mod udp;
pub mod wire;
pub mod zone;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use corten_client::Informer;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use answer::Settings;
use forward::Forwarder;
pub use forward::{StubDomain, Upstreams};
use responder::{Counters, Responder};
pub use service::ensure_service;
use udp::{StopOnDrop, Stopper};
use wire::Name;
use zone::Zone;

/// Time to live of answers about the cluster, in seconds: kubeadm's.
pub const DEFAULT_TTL: u32 = 30;

/// What answers are made from.
#[derive(Clone)]
pub struct Inputs {
    /// Services of all namespaces.
    pub services: Informer<Service>,
    /// EndpointSlices of all namespaces.
    pub slices: Informer<EndpointSlice>,
    /// Namespaces: `ns.svc.ZONE` exists as long as its namespace.
    pub namespaces: Informer<Namespace>,
}

impl Inputs {
    /// Informers of one's own.
    pub fn start(client: &kube::Client, stop: &CancellationToken) -> Inputs {
        let config = corten_client::watcher::Config::default;
        Inputs {
            services: Informer::start(corten_client::Api::all(client.clone()), config(), stop.clone()),
            slices: Informer::start(corten_client::Api::all(client.clone()), config(), stop.clone()),
            namespaces: Informer::start(corten_client::Api::all(client.clone()), config(), stop.clone()),
        }
    }
}

/// How DNS is served.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's domain, `cluster.local`.
    pub zone: String,
    /// Addresses to answer at, over UDP and TCP. They need not be on the host yet; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Who is asked about other names.
    pub upstreams: Upstreams,
    /// Domains with servers of their own.
    pub stub_domains: Vec<StubDomain>,
    /// Time to live of answers about the cluster, in seconds.
    pub ttl: u32,
    /// Where `/metrics`, `/ready` and `/health` are served, if anywhere.
    pub http: Option<SocketAddr>,
    /// Threads that answer over UDP, for each address.
    pub udp_threads: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            zone: "cluster.local".to_owned(),
            listen: Vec::new(),
            upstreams: Upstreams::ResolvConf("/etc/resolv.conf".into()),
            stub_domains: Vec::new(),
            ttl: DEFAULT_TTL,
            http: None,
            udp_threads: 1,
        }
    }
}

/// Why DNS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such domain.
    #[error("{0:?} is not a domain name")]
    Domain(String),
    /// An address cannot be listened at.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// A thread cannot be started, or ended with an error.
    #[error("DNS server: {0}")]
    Thread(#[from] io::Error),
}

/// Binds and serves until `stop`.
pub fn run(inputs: Inputs, config: Config, stop: CancellationToken) -> BoxFuture<'static, Result<(), Error>> {
    Box::pin(async move { Server::bind(inputs, &config, stop)?.run().await })
}

/// Bound sockets that nobody answers at yet.
pub struct Server {
    inputs: Inputs,
    responder: Arc<Responder>,
    udp: Vec<std::net::UdpSocket>,
    tcp: Vec<TcpListener>,
    http: Option<TcpListener>,
    addresses: Vec<SocketAddr>,
    stop: CancellationToken,
}

impl Server {
    /// Takes the addresses. Needs a tokio runtime.
    pub fn bind(inputs: Inputs, config: &Config, stop: CancellationToken) -> Result<Server, Error> {
        let zone = Name::from_text(&config.zone).ok_or_else(|| Error::Domain(config.zone.clone()))?;
        let (mut udp, mut tcp, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
        for wanted in &config.listen {
            let listener = listen(*wanted)?;
            // Port 0: the same free one for both.
            let address = SocketAddr::new(wanted.ip(), listener.local_addr()?.port());
            tcp.push(listener);
            let shared = config.udp_threads > 1;
            for _ in 0..config.udp_threads.max(1) {
                udp.push(udp::open(address, shared).map_err(|source| Error::Listen { address, source })?);
            }
            addresses.push(address);
        }
        let http = config.http.map(listen).transpose()?;
        let servers: Vec<IpAddr> =
            addresses.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()).collect();
        let forwarder =
            Forwarder::new(config.upstreams.clone(), &config.stub_domains, &addresses, stop.clone())
                .map_err(Error::Domain)?;
        let responder = Arc::new(Responder {
            zone: Arc::new(Zone::new(zone)),
            forwarder,
            settings: Settings { ttl: config.ttl, servers },
            counters: Counters::default(),
        });
        Ok(Server { inputs, responder, udp, tcp, http, addresses, stop: stop.child_token() })
    }

    /// Where it answers, with the ports that were free.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What answers; for measurements and tests.
    pub fn responder(&self) -> &Arc<Responder> {
        &self.responder
    }

    /// Answers until stopped, from the first moment on: what is not found before the first lists are there is a
    /// failure of ours, not a name that does not exist.
    pub async fn run(self) -> Result<(), Error> {
        let Server { inputs, responder, udp, tcp, http, addresses, stop } = self;
        responder.zone.follow(&inputs.services, &inputs.slices, &inputs.namespaces);
        let stopper = Stopper::new()?;
        let _stops = StopOnDrop(stopper.clone());
        let mut parts = JoinSet::new();
        for socket in udp {
            let thread = udp::serve(socket, responder.clone(), Handle::current(), stopper.clone())?;
            parts.spawn(async move {
                let joined = tokio::task::spawn_blocking(|| thread.join()).await;
                joined
                    .map_err(io::Error::other)?
                    .unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
            });
        }
        let (synced, stopped) = (responder.clone(), stop.clone());
        parts.spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => return Ok(()),
                () = all_synced(&inputs) => synced.zone.mark_synced(),
            }
            tracing::info!(?addresses, services = synced.zone.services(), "DNS is ready");
            stopped.cancelled().await;
            Ok(())
        });
        for listener in tcp {
            let (responder, stop) = (responder.clone(), stop.clone());
            parts.spawn(async move {
                tcp::serve(listener, responder, stop).await;
                Ok(())
            });
        }
        if let Some(listener) = http {
            let (responder, stop) = (responder.clone(), stop.clone());
            parts.spawn(async move {
                http::serve(listener, responder, stop).await;
                Ok(())
            });
        }
        let first = tokio::select! {
            () = stop.cancelled() => Ok(()),
            ended = parts.join_next() => ended.map_or(Ok(()), |ended| ended.map_err(io::Error::other)?),
        };
        stop.cancel();
        stopper.stop();
        while parts.join_next().await.is_some() {}
        Ok(first?)
    }
}

async fn all_synced(inputs: &Inputs) {
    inputs.services.synced().await;
    inputs.slices.synced().await;
    inputs.namespaces.synced().await;
}

fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    let bound = udp::open_tcp(address).and_then(TcpListener::from_std);
    bound.map_err(|source| Error::Listen { address, source })
}
