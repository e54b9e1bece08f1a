//! Putting a kubelet together and running it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use corten_client::Api;
use corten_client::watcher;
use corten_client::{Informer, Object, Recorder};
use corten_sys::cgroups::{Cgroups, HostCgroups};
use corten_sys::mounts::HostMounts;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::cri::{Cri, CriError};
use crate::host::{Host, Wakers};
use crate::image::gc;
use crate::image::pull::Puller;
use crate::logs::rotate;
use crate::node::lease;
use crate::node::machine::Machine;
use crate::node::register::Reporter;
use crate::objects::ObjectCache;
use crate::pod::manager::Manager;
use crate::pod::starts::Starts;
use crate::resources::PodCgroups;
use crate::server::Server;
use crate::{dns, eviction, manifests};

/// Pause between tries to reach the runtime at the start.
const RUNTIME_RETRY: Duration = Duration::from_millis(50);
/// How long the kubelet waits for its workers at the end.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Why a kubelet cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runtime's endpoint is none.
    #[error("container runtime: {0}")]
    Runtime(#[from] CriError),
    /// Directories, sockets.
    #[error("kubelet: {0}")]
    Io(#[from] std::io::Error),
    /// Control groups.
    #[error("kubelet: {0}")]
    Kernel(#[from] corten_sys::Error),
    /// Certificate, key or CA of the API.
    #[error("kubelet API: {0}")]
    Tls(String),
}

/// A kubelet that is ready to run.
pub struct Kubelet {
    host: Arc<Host>,
    server: Option<Server>,
    port: u16,
}

impl Kubelet {
    /// Prepares directories and cgroups and binds the API's port. Nothing is asked of the cluster yet. Must
    /// be called inside a tokio runtime.
    pub fn new(config: Config) -> BoxFuture<'static, Result<Self, Error>> {
        Box::pin(async move {
            for dir in ["pods", "logs"] {
                std::fs::create_dir_all(config.data_dir.join(dir))?;
            }
            let stop = CancellationToken::new();
            let cri = Cri::connect(&config.cri_endpoint)?;
            let wakers = Arc::new(Wakers::default());
            let of_objects = wakers.clone();
            let notify = Arc::new(move |uids: &std::collections::BTreeSet<String>| {
                uids.iter().for_each(|uid| of_objects.refresh(uid));
            });
            let client = config.client.clone();
            let listen = SocketAddr::new(config.listen, config.port);
            let node_ips = match config.node_ips.as_slice() {
                [] => vec![own_address().to_string()],
                given => given.iter().map(ToString::to_string).collect(),
            };
            let machine = Machine::read(&config.data_dir);
            let host = Arc::new(Host {
                events: Recorder::new(client.clone(), "kubelet", &config.node_name),
                objects: ObjectCache::new(client.clone(), notify),
                services: all_services(&config, &stop),
                node: this_node(&config, &stop),
                cgroups: pod_cgroups(&config)?,
                mounts: Arc::new(HostMounts),
                puller: Puller::new(cri.clone(), config.parallel_pulls),
                starts: Starts::for_machine(machine.cpu_milli),
                machine,
                resolver: dns::parse_resolv_conf(
                    &std::fs::read_to_string(&config.resolv_conf).unwrap_or_default(),
                ),
                runtime: OnceLock::new(),
                node_changed: Arc::default(),
                status_due: false.into(),
                runtime_events: tokio::sync::watch::Sender::new(0),
                node_ips,
                wakers,
                mirrors: Arc::default(),
                admission: std::sync::Mutex::default(),
                stop,
                cri,
                config,
            });
            let server = Server::bind(&host, listen).await?;
            let port = server.as_ref().map_or(host.config.port, Server::port);
            Ok(Self { host, server, port })
        })
    }

    /// The port that the kubelet's API listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs until `shutdown`; containers stay as they are.
    pub fn run(self, shutdown: CancellationToken) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(async move {
            let stop = self.host.stop.clone();
            let manager = Manager::new(self.host.clone());
            let work = self.work(manager.clone());
            tokio::select! {
                () = shutdown.cancelled() => {}
                result = work => result?,
            }
            stop.cancel();
            let _ = tokio::time::timeout(STOP_PATIENCE, manager.stopped()).await;
            Ok(())
        })
    }

    async fn work(self, manager: Manager) -> Result<(), Error> {
        let host = self.host;
        if let Some(server) = self.server {
            tokio::spawn(server.run(host.clone(), manager.clone()));
        }
        wait_for_runtime(&host).await;
        if let Some(path) = host.config.static_pods.clone() {
            // They run before there is an API, and may be what serves it.
            tokio::spawn(manifests::run(host.clone(), manager.clone(), path));
            tokio::spawn(manager.clone().follow_runtime());
        }
        let mut reporter = Reporter::new(host.clone(), self.port);
        let pods = pods_here(&host);
        let node = reporter.register().await;
        tokio::spawn(lease::run(host.clone(), node));
        tokio::spawn(reporter.run());
        if host.config.static_pods.is_none() {
            tokio::spawn(manager.clone().follow_runtime());
        }
        // Without its pods the kubelet would take everything that runs for left-over.
        if !(pods.synced().await && host.node.synced().await) {
            return Ok(());
        }
        let known = pods.list();
        manager.account(&known);
        let told = manager.clone();
        pods.on_change(move |change| told.changed(change));
        manager.has_listed();
        if let Err(error) = manager.adopt_orphans(&known).await {
            tracing::warn!(%error, "left-over containers were not looked at");
        }
        tokio::spawn(rotate::run(host.clone()));
        tokio::spawn(gc::run(host.clone()));
        tokio::spawn(eviction::run(host.clone(), manager));
        host.stop.cancelled().await;
        Ok(())
    }
}

fn pod_cgroups(config: &Config) -> Result<PodCgroups, Error> {
    let Some(root) = config.cgroup_root.clone() else { return Ok(PodCgroups::new(String::new(), None)?) };
    let kernel: Arc<dyn Cgroups> = Arc::new(HostCgroups::detect()?);
    Ok(PodCgroups::new(root, Some(kernel))?)
}

fn all_services(config: &Config, stop: &CancellationToken) -> Informer<Service> {
    match &config.informers {
        Some(shared) => shared.get(),
        None => Informer::start(Api::all(config.client.clone()), watcher::Config::default(), stop.clone()),
    }
}

fn this_node(config: &Config, stop: &CancellationToken) -> Informer<Node> {
    let name = config.node_name.clone();
    let field = format!("metadata.name={name}");
    ours(config, stop, &field, move |node: &Node| node.metadata.name.as_ref() == Some(&name))
}

fn pods_here(host: &Host) -> Informer<Pod> {
    let name = host.config.node_name.clone();
    let field = format!("spec.nodeName={name}");
    let here = move |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_ref() == Some(&name));
    ours(&host.config, &host.stop, &field, here)
}

/// The objects that concern this node: a part of what the process sees, or a watch narrowed by the field selector.
fn ours<K>(
    config: &Config,
    stop: &CancellationToken,
    field: &str,
    wanted: impl Fn(&K) -> bool + Send + Sync + 'static,
) -> Informer<K>
where
    K: Object,
{
    match &config.informers {
        Some(shared) => shared.get::<K>().narrowed(wanted),
        None => {
            let narrow = watcher::Config::default().fields(field);
            Informer::start(Api::all(config.client.clone()), narrow, stop.clone())
        }
    }
}

async fn wait_for_runtime(host: &Host) {
    loop {
        match host.cri.version().await {
            Ok(version) => {
                let _ = host.runtime.set((version.runtime_name, version.runtime_version));
                return;
            }
            Err(error) => {
                tracing::debug!(%error, "runtime is not there yet");
                tokio::time::sleep(RUNTIME_RETRY).await;
            }
        }
    }
}

/// The address from which this machine would reach others; loopback when it reaches nobody. Nothing is sent.
fn own_address() -> IpAddr {
    let routed = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    routed.map_or(IpAddr::from([127, 0, 0, 1]), |address| address.ip())
}
