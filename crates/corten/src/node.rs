//! A node in this process: container runtime and kubelet. `corten up` and `corten agent` differ in how these reach the API.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use corten_client::Informers;
use corten_kubelet::{Kubelet, Renewed};
use corten_network::PodNetwork;
use corten_runtime::RuntimeConfig;
use corten_runtime::image::{ImageStore, StoreConfig};
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::args::{NodeArgs, Ranges};
use crate::dns;
use crate::layout::Layout;
use crate::parts::Parts;
use crate::pod_network;
use crate::proxy;

/// A part of the node, by the name that it has towards the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// `system:node:NAME`
    Kubelet,
    /// `system:kube-proxy`: what moves the packets of pods.
    Proxy,
    /// `system:kube-dns`
    Dns,
    /// `system:corten-network`
    Network,
}

impl Role {
    /// All parts, the kubelet first.
    pub const ALL: [Role; 4] = [Role::Kubelet, Role::Proxy, Role::Dns, Role::Network];

    /// User name and group (`""` for none) on the node of that name.
    pub fn identity(self, node: &str) -> (String, &'static str) {
        match self {
            Role::Kubelet => (format!("system:node:{node}"), "system:nodes"),
            Role::Proxy => ("system:kube-proxy".to_owned(), ""),
            Role::Dns => ("system:kube-dns".to_owned(), ""),
            Role::Network => ("system:corten-network".to_owned(), ""),
        }
    }

    /// File of its certificate, without ending.
    pub fn file(self) -> &'static str {
        match self {
            Role::Kubelet => "kubelet-client",
            Role::Proxy => "proxy-client",
            Role::Dns => "dns-client",
            Role::Network => "network-client",
        }
    }
}

/// How the kubelet's API shows itself (PEM), and whom it believes.
pub struct Serving {
    /// Certificate, with its chain.
    pub cert: String,
    /// Its key.
    pub key: String,
    /// The CA of those who may ask.
    pub ca: String,
    /// Newer certificates and their keys, where they are renewed meanwhile.
    pub renewed: Option<Renewed>,
}

/// What a node is made of.
pub struct Node {
    /// The cluster's name on this host.
    pub cluster: String,
    /// Where everything is.
    pub layout: Layout,
    /// Flags.
    pub args: NodeArgs,
    /// The Node object's name.
    pub name: String,
    /// The node's addresses, the default family first.
    pub ips: Vec<IpAddr>,
    /// Addresses and domain of the cluster.
    pub ranges: Ranges,
    /// What this process sees of the cluster, where the control plane runs in it, too.
    pub informers: Option<Informers>,
    /// The kubelet's certificate.
    pub serving: Serving,
    /// Gives each part its client.
    pub clients: Arc<dyn Fn(Role) -> Client + Send + Sync>,
    /// Ends everything.
    pub stop: CancellationToken,
}

/// A node whose kubelet has its port.
pub struct Prepared {
    node: Node,
    kubelet: Kubelet,
}

impl Node {
    /// Makes the kubelet, which binds its port; nothing works yet.
    pub async fn prepare(self) -> Result<Prepared> {
        let kubelet = Kubelet::new(self.kubelet_config()?).await.context("kubelet")?;
        Ok(Prepared { node: self, kubelet })
    }

    fn cri_endpoint(&self) -> String {
        let own = || format!("unix://{}", self.layout.cri_socket().display());
        self.args.container_runtime_endpoint.clone().unwrap_or_else(own)
    }

    fn kubelet_config(&self) -> Result<corten_kubelet::Config> {
        let client = (self.clients)(Role::Kubelet);
        let mut config =
            corten_kubelet::Config::new(&self.name, client, &self.cri_endpoint(), self.layout.node());
        config.informers.clone_from(&self.informers);
        config.node_ips.clone_from(&self.ips);
        if self.ips.iter().any(IpAddr::is_ipv6) {
            // On all addresses of both families: the API server asks at the node's first.
            config.listen = std::net::Ipv6Addr::UNSPECIFIED.into();
        }
        config.port = self.args.kubelet_port;
        config.serving_cert = Some(self.serving.cert.clone().into_bytes());
        config.serving_key = Some(self.serving.key.clone().into_bytes());
        config.serving_renewed.clone_from(&self.serving.renewed);
        config.client_ca = Some(self.serving.ca.clone().into_bytes());
        config.cluster_dns = self.args.cluster_dns.clone();
        if config.cluster_dns.is_empty() {
            // A pod of a dual-stack cluster has both families: one server is enough for it.
            config.cluster_dns.extend(self.ranges.dns().first());
        }
        config.cluster_domain.clone_from(&self.ranges.cluster_domain);
        config.node_labels = self.args.labels()?;
        config.max_pods = self.args.max_pods;
        config.static_pods.clone_from(&self.args.pod_manifest_path);
        config.cgroup_root = Some(format!("/{}/kubepods", self.cluster));
        Ok(config)
    }

    fn start_dns(&self, parts: &mut Parts) {
        let addresses = self.ranges.dns();
        if addresses.is_empty() || self.args.dns.disable_dns {
            return;
        }
        let inputs = match &self.informers {
            Some(all) => corten_dns::Inputs { services: all.get(), slices: all.get(), namespaces: all.get() },
            None => corten_dns::Inputs::start(&(self.clients)(Role::Dns), &self.stop),
        };
        dns::serve(&self.cluster, &self.ranges.cluster_domain, addresses, &self.args.dns, inputs, parts);
    }

    fn start_runtime(&self, parts: &mut Parts) -> Result<()> {
        let network = pod_network::open(
            &self.cluster,
            &self.layout,
            &self.ranges.cluster_cidr,
            &self.ips,
            &self.args.pod_network,
        )?;
        self.feed_network(network.clone(), parts);
        let images = ImageStore::open(StoreConfig {
            dir: self.layout.images(),
            insecure_registries: self.args.insecure_registry.clone(),
        })
        .context("image store")?;
        let config = RuntimeConfig {
            cluster_name: self.cluster.clone(),
            node_dir: self.layout.node(),
            socket: self.layout.cri_socket(),
            cgroup_root: format!("/{}", self.cluster),
            // The running program itself, even when its file was replaced by a newer one meanwhile.
            shim_command: vec!["/proc/self/exe".to_owned(), "shim".to_owned()],
            network,
            images,
        };
        let stop = self.stop.clone();
        parts.start("container runtime", async move {
            Ok(corten_runtime::serve(config, stop.cancelled_owned()).await?)
        });
        Ok(())
    }

    fn feed_network(&self, network: PodNetwork, parts: &mut Parts) {
        let me = corten_netfeed::Me { node: self.name.clone(), dns: self.ranges.dns() };
        let client = (self.clients)(Role::Network);
        pod_network::feed(network, client, self.informers.clone(), me, &self.stop, parts);
    }
}

impl Prepared {
    /// Starts all parts.
    pub fn start(self, parts: &mut Parts) -> Result<()> {
        if self.node.args.container_runtime_endpoint.is_none() {
            self.node.start_runtime(parts)?;
        }
        proxy::start(&self.node, parts);
        self.node.start_dns(parts);
        let stop = self.node.stop.clone();
        parts.start("kubelet", async move { Ok(self.kubelet.run(stop).await?) });
        Ok(())
    }
}
