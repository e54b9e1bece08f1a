//! `corten up` and `corten server`: the cluster, or its control plane, in this process. Wiring only: each part is a crate of its own.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use corten_apiserver::{ApiServer, KubeletClient, ServiceAccountKeys, ServingCert, User};
use corten_client::{Informer, in_process};
use corten_kubelet::Kubelet;
use corten_network::{NetworkConfig, PodNetwork};
use corten_runtime::RuntimeConfig;
use corten_runtime::image::{ImageStore, StoreConfig};
use corten_store::{Embedded, Options};
use k8s_openapi::api::core::v1::Node;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::args::{NodeArgs, ServerArgs};
use crate::kubeconfig;
use crate::layout::Layout;
use crate::parts::{Parts, live};
use crate::pid_file::PidFile;
use crate::pki::{Identity, Pki};
use crate::signals::Signals;

/// Everything that starting a part needs.
#[derive(Clone)]
struct Cluster {
    args: ServerArgs,
    layout: Layout,
    pki: Arc<Pki>,
    node_name: String,
    node_ip: IpAddr,
    stop: CancellationToken,
    started: Instant,
}

/// Runs a cluster until SIGTERM or SIGINT. Progress goes to standard output, one line a step; logs go to standard error.
pub async fn up(args: ServerArgs, node: Option<NodeArgs>) -> Result<()> {
    let (started, mut signals) = (Instant::now(), Signals::catch()?);
    let layout = Layout::new(&args.cluster.data_dir())?;
    let _running = PidFile::take(&layout.pid_file())?;
    let pki = Arc::new(Pki::open(&layout.pki())?);
    let node_name = node.as_ref().and_then(|n| n.node_name.clone()).map_or_else(host_name, Ok)?;
    let node_ip = node.as_ref().and_then(|n| n.node_ip).unwrap_or_else(address_of_default_route);
    live(&mut signals, async |parts| {
        let cluster = Cluster { args, layout, pki, node_name, node_ip, stop: parts.stop(), started };
        cluster.start(node.as_ref(), parts).await
    })
    .await
}

impl Cluster {
    async fn start(&self, node: Option<&NodeArgs>, parts: &mut Parts) -> Result<()> {
        let listener = TcpListener::bind(self.args.listen)
            .await
            .with_context(|| format!("cannot listen on {}", self.args.listen))?;
        let address = listener.local_addr()?;
        let api = self.api_server(address)?;
        self.write_kubeconfigs(address)?;
        self.serve(&api, listener, parts)?;
        api.bootstrap().await.map_err(|status| anyhow!("bootstrap: {}", status.message))?;
        self.say(format_args!("API server ready at https://{address}"));
        self.start_control_plane(&api, parts);
        match node {
            Some(node) => {
                self.start_node(node, &api, parts)?;
                self.tell_when_ready(&api, parts);
            }
            None => self.tell_kubeconfig(),
        }
        Ok(())
    }

    /// One line of progress. A reader that is gone (a detached start that has seen enough) is no error.
    fn say(&self, what: std::fmt::Arguments<'_>) {
        let _ = writeln!(std::io::stdout(), "[{:>5} ms] {what}", self.started.elapsed().as_millis());
    }

    fn api_server(&self, address: SocketAddr) -> Result<ApiServer> {
        let store = Embedded::open(Options::new(self.layout.store())).context("cannot open the store")?;
        let keys = self.pki.service_account_key()?;
        let (public, private) = keys.read()?;
        let issuer = format!("https://kubernetes.default.svc.{}", self.args.cluster_domain);
        let kubelet_client = self.pki.client(&Identity {
            file: "apiserver-kubelet-client",
            user: "kube-apiserver-kubelet-client",
            group: "system:masters",
        })?;
        let (cert, key) = kubelet_client.read()?;
        let ca = self.pki.ca_pem().as_bytes().to_vec();
        let mut config = corten_apiserver::Config::new(Arc::new(store));
        config.client_ca_pem = Some(ca.clone());
        config.service_account = ServiceAccountKeys {
            issuer: issuer.clone(),
            audiences: vec![issuer],
            signing_key_pem: private.into_bytes(),
            verifying_keys_pem: vec![public.into_bytes()],
        };
        config.kubelet_client =
            Some(KubeletClient { cert_pem: cert.into_bytes(), key_pem: key.into_bytes(), ca_pem: Some(ca) });
        config.service_cidr = self.args.service_cidr;
        config.advertise_address = if address.ip().is_unspecified() { self.node_ip } else { address.ip() };
        config.advertise_port = address.port();
        config.cluster_domain.clone_from(&self.args.cluster_domain);
        ApiServer::new(config).map_err(|why| anyhow!("API server: {why}"))
    }

    fn serve(&self, api: &ApiServer, listener: TcpListener, parts: &mut Parts) -> Result<()> {
        let (cert, key) = self.api_server_certificate()?.read()?;
        let cert = ServingCert { cert_pem: cert.into_bytes(), key_pem: key.into_bytes() };
        let (api, stop) = (api.clone(), self.stop.clone());
        parts.start(
            "API server",
            async move { api.serve_tls(listener, &cert, stop).await.context("API server") },
        );
        Ok(())
    }

    fn api_server_certificate(&self) -> Result<crate::pki::Pair> {
        let domain = &self.args.cluster_domain;
        let mut names: Vec<String> =
            ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
                .map(str::to_owned)
                .into();
        names.push(format!("kubernetes.default.svc.{domain}"));
        names.push(self.node_name.clone());
        let first_service = self.args.service_cidr.hosts().next().map(IpAddr::V4);
        let mut addresses = vec![IpAddr::from([127, 0, 0, 1]), self.node_ip];
        addresses.extend(first_service);
        addresses.push(self.args.listen.ip());
        for san in &self.args.tls_san {
            match san.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => names.push(san.clone()),
            }
        }
        addresses.sort();
        addresses.dedup();
        self.pki.server("apiserver", "kube-apiserver", &names, &addresses)
    }

    fn write_kubeconfigs(&self, address: SocketAddr) -> Result<()> {
        let host = if address.ip().is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { address.ip() };
        let server = format!("https://{}", SocketAddr::new(host, address.port()));
        let admin = self.pki.client(&Identity {
            file: "admin",
            user: "kubernetes-admin",
            group: "system:masters",
        })?;
        let name = &self.args.cluster.name;
        for path in [Some(self.layout.kubeconfig()), self.args.write_kubeconfig.clone()].into_iter().flatten()
        {
            kubeconfig::write(&path, name, &server, self.pki.ca_pem(), "kubernetes-admin", &admin)?;
        }
        Ok(())
    }

    fn start_control_plane(&self, api: &ApiServer, parts: &mut Parts) {
        let scheduler = client(api, "system:kube-scheduler", &[]);
        let stop = self.stop.clone();
        parts.start("scheduler", async move {
            corten_scheduler::run(scheduler, corten_scheduler::Config::default(), stop).await;
            Ok(())
        });
        let controllers = client(api, "system:kube-controller-manager", &[]);
        let config = corten_controllers::Config {
            cluster_cidr: self.args.cluster_cidr.to_string(),
            root_ca: self.pki.ca_pem().to_owned(),
            ..corten_controllers::Config::default()
        };
        let stop = self.stop.clone();
        parts.start("controllers", async move {
            corten_controllers::run(controllers, config, stop).await;
            Ok(())
        });
    }

    fn start_node(&self, node: &NodeArgs, api: &ApiServer, parts: &mut Parts) -> Result<()> {
        let endpoint = match &node.container_runtime_endpoint {
            Some(endpoint) => endpoint.clone(),
            None => {
                self.start_runtime(node, parts)?;
                format!("unix://{}", self.layout.cri_socket().display())
            }
        };
        let (config, stop) = (self.kubelet_config(node, api, &endpoint)?, self.stop.clone());
        parts.start("kubelet", async move {
            let kubelet = Kubelet::new(config).await.context("kubelet")?;
            kubelet.run(stop).await.context("kubelet")
        });
        Ok(())
    }

    fn start_runtime(&self, node: &NodeArgs, parts: &mut Parts) -> Result<()> {
        let name = &self.args.cluster.name;
        let network = PodNetwork::new(NetworkConfig {
            cluster_name: name.clone(),
            pod_cidr: None,
            cluster_cidr: self.args.cluster_cidr,
            state_dir: self.layout.network(),
            mtu: None,
        })
        .context("pod network")?;
        let images = ImageStore::open(StoreConfig {
            dir: self.layout.images(),
            insecure_registries: node.insecure_registry.clone(),
        })
        .context("image store")?;
        let config = RuntimeConfig {
            cluster_name: name.clone(),
            node_dir: self.layout.node(),
            socket: self.layout.cri_socket(),
            cgroup_root: format!("/{name}"),
            // The running program itself, even when its file was replaced by a newer one meanwhile.
            shim_command: vec!["/proc/self/exe".to_owned(), "shim".to_owned()],
            network,
            images,
        };
        let stop = self.stop.clone();
        parts.start("container runtime", async move {
            corten_runtime::serve(config, stop.cancelled_owned()).await.context("container runtime")
        });
        Ok(())
    }

    fn kubelet_config(
        &self,
        node: &NodeArgs,
        api: &ApiServer,
        endpoint: &str,
    ) -> Result<corten_kubelet::Config> {
        let user = format!("system:node:{}", self.node_name);
        let client = client(api, &user, &["system:nodes"]);
        let names = [self.node_name.clone(), "localhost".to_owned()];
        let addresses = [IpAddr::from([127, 0, 0, 1]), self.node_ip];
        let (cert, key) = self.pki.server("kubelet", &user, &names, &addresses)?.read()?;
        let mut config = corten_kubelet::Config::new(&self.node_name, client, endpoint, self.layout.node());
        config.node_ips = vec![self.node_ip];
        config.port = node.kubelet_port;
        config.serving_cert = Some(cert.into_bytes());
        config.serving_key = Some(key.into_bytes());
        config.client_ca = Some(self.pki.ca_pem().as_bytes().to_vec());
        config.cluster_dns = self.args.service_cidr.hosts().nth(9).map(IpAddr::V4).into_iter().collect();
        config.cluster_domain.clone_from(&self.args.cluster_domain);
        config.node_labels = node.labels()?;
        config.max_pods = node.max_pods;
        config.cgroup_root = Some(format!("/{}/kubepods", self.args.cluster.name));
        Ok(config)
    }

    /// Says so when the node is Ready for the first time.
    fn tell_when_ready(&self, api: &ApiServer, parts: &mut Parts) {
        let client = client(api, "kubernetes-admin", &["system:masters"]);
        let (me, stop) = (self.clone(), self.stop.clone());
        parts.start("progress", async move {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = ready(client, &me.node_name) => {}
            }
            me.say(format_args!("node {} is Ready", me.node_name));
            me.tell_kubeconfig();
            stop.cancelled().await;
            Ok(())
        });
    }

    fn tell_kubeconfig(&self) {
        let path = self.args.write_kubeconfig.clone().unwrap_or_else(|| self.layout.kubeconfig());
        let _ = writeln!(std::io::stdout(), "export KUBECONFIG={}", path.display());
    }
}

/// Waits until the node's condition Ready is True.
async fn ready(client: Client, name: &str) {
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let done = CancellationToken::new();
    let nodes = Informer::<Node>::start(Api::all(client), only, done.clone());
    let changed = Arc::new(Notify::new());
    let wake = changed.clone();
    nodes.on_change(move |_| wake.notify_one());
    while !nodes.list().iter().any(|node| is_ready(node)) {
        changed.notified().await;
    }
    done.cancel();
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// A client of the API server in this process, in the name of one component.
fn client(api: &ApiServer, user: &str, groups: &[&str]) -> Client {
    in_process(api.in_process(User::new(user, groups.iter().copied())))
}

fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().context("cannot read the host's name")?;
    Ok(name.to_string_lossy().to_lowercase())
}

/// The address from which packets to the outside would go. Nothing is sent: connecting a UDP socket only asks for the route.
fn address_of_default_route() -> IpAddr {
    let ask = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        socket.connect(("203.0.113.1", 9))?;
        Ok(socket.local_addr()?.ip())
    };
    ask().unwrap_or(IpAddr::from([127, 0, 0, 1]))
}
