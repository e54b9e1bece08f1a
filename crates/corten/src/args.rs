//! The command line: what people read first.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use corten_api::duration;
use corten_controllers::load_balancer::Span;
use ipnet::IpNet;

use crate::cidrs::Cidrs;
use crate::kube_flags::{AccessArgs, KubeArgs};
use crate::proxy::ProxyMode;

/// Kubernetes in one binary: a cluster in a second, with nothing else to install.
///
/// `corten up` starts a whole cluster (control plane and one node) on this machine. Use it with the kubectl you have:
/// it prints where the kubeconfig is.
#[derive(Debug, Parser)]
#[command(
    name = "corten",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub struct Cli {
    /// What to log: a level (error, warn, info, debug, trace), or levels per part (`info,corten_kubelet=debug`).
    #[arg(
        long,
        global = true,
        env = "CORTEN_LOG",
        default_value = "info",
        value_name = "FILTER",
        help_heading = "Logging"
    )]
    pub log: String,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands, most used first.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a cluster: control plane and one node in this process.
    ///
    /// Containers live on when this process ends and are taken over at the next start. `corten down` ends everything.
    Up(Box<UpArgs>),
    /// Start only a control plane: API server, store, scheduler and controllers.
    Server(Box<ServerArgs>),
    /// Start a node and join it to the cluster of a server elsewhere.
    ///
    /// The server is a `corten up` or `corten server` that listens where this machine can reach it (--listen 0.0.0.0:6443).
    Agent(Box<AgentArgs>),
    /// Print the token with which nodes join the cluster on this machine, or make and take back others that run out.
    Token(TokenArgs),
    /// Start only an API server and its store.
    ///
    /// Takes kube-apiserver's flags, too; linked as `kube-apiserver` (and as `etcd`) the binary can stand where tools expect those two.
    Apiserver(Box<ApiserverArgs>),
    /// Hold the place of an etcd beside `corten apiserver`, for tools that start both.
    Etcd(EtcdArgs),
    /// Start only a scheduler, for any Kubernetes API server.
    Scheduler(SchedulerArgs),
    /// Start only the controllers, for any Kubernetes API server.
    ControllerManager(ControllerArgs),
    /// Run only the service proxy of this machine, against the API server of a kubeconfig.
    Proxy(Box<ProxyAloneArgs>),
    /// Stop a cluster and remove everything that it put on this machine.
    ///
    /// Ends the process and all containers, then removes mounts, namespaces, interfaces, rules and cgroups of that name. The
    /// data directory stays unless --purge is given.
    Down(DownArgs),
    /// Start only the cluster's DNS, for any Kubernetes API server.
    Dns(Box<crate::dns::DnsCommand>),
    /// Import, list, pull and remove container images.
    Image(ImageArgs),
    /// Print a kubeconfig of a cluster on this machine: the admin's, or one for a part that runs alone.
    Kubeconfig(KubeconfigArgs),
    /// Hold one container (started by the runtime, never by people).
    #[command(hide = true)]
    Shim {
        /// The shim's own words.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<std::ffi::OsString>,
    },
}

/// Which cluster on this machine.
#[derive(Clone, Debug, Args)]
pub struct ClusterArgs {
    /// Name of the cluster: everything that it puts on this host carries it, so several can live side by side.
    #[arg(long, global = true, default_value = "corten", value_parser = cluster_name)]
    pub name: String,
    /// Where everything is kept [default: /var/lib/NAME].
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

impl ClusterArgs {
    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| PathBuf::from("/var/lib").join(&self.name))
    }
}

/// `corten up`
#[derive(Clone, Debug, Args)]
pub struct UpArgs {
    /// The control plane.
    #[command(flatten)]
    pub server: ServerArgs,
    /// The node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Go into the background as soon as the node is Ready.
    #[arg(long, short = 'd')]
    pub detach: bool,
}

/// `corten server`, and the control plane's part of `corten up`.
#[derive(Clone, Debug, Args)]
pub struct ServerArgs {
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,

    /// Address and port of the API server. Port 0 takes a free one.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:6443", help_heading = "API server")]
    pub listen: SocketAddr,
    /// More names or addresses that the API server's certificate is valid for.
    #[arg(long, value_name = "NAME", help_heading = "API server")]
    pub tls_san: Vec<String>,
    /// Where else to write the admin kubeconfig, beside DATA_DIR/kubeconfig.
    #[arg(long, value_name = "FILE", help_heading = "API server")]
    pub write_kubeconfig: Option<PathBuf>,

    /// Address at which pods and other machines reach the API server; it listens there, too [default: the address of
    /// --listen, or of this host; with --listen on loopback the gateway of this node's pods].
    #[arg(long, value_name = "ADDR", help_heading = "API server")]
    pub advertise_address: Option<IpAddr>,

    /// Addresses for services of type LoadBalancer: CIDR, FIRST-LAST or one address; several with commas [default: the nodes' own].
    #[arg(long, value_name = "RANGE", value_delimiter = ',', help_heading = "Network")]
    pub load_balancer_pool: Vec<Span>,
    /// Addresses and domain.
    #[command(flatten)]
    pub ranges: Ranges,
    /// Controllers.
    #[command(flatten)]
    pub controllers: ControllerFlags,
    /// Who may ask.
    #[command(flatten)]
    pub access: AccessArgs,
}

/// Settings of the controllers.
#[derive(Clone, Debug, Args)]
pub struct ControllerFlags {
    /// A node that says nothing for so long is not Ready any more.
    #[arg(long, value_name = "DURATION", default_value = "50s", value_parser = duration::parse, help_heading = "Controllers")]
    pub node_monitor_grace_period: Duration,
    /// Nodes a second that begin to be emptied when they fall silent, in each zone.
    #[arg(long, value_name = "RATE", default_value_t = 0.1, value_parser = rate, help_heading = "Controllers")]
    pub node_eviction_rate: f64,
    /// The same while much of a large zone is silent; in a small one nothing is emptied then.
    #[arg(long, value_name = "RATE", default_value_t = 0.01, value_parser = rate, help_heading = "Controllers")]
    pub secondary_node_eviction_rate: f64,
    /// Share of silent nodes from which a zone counts as disrupted.
    #[arg(long, value_name = "SHARE", default_value_t = 0.55, value_parser = rate, help_heading = "Controllers")]
    pub unhealthy_zone_threshold: f64,
    /// A zone with more nodes than this is large.
    #[arg(long, value_name = "N", default_value_t = 50, help_heading = "Controllers")]
    pub large_cluster_size_threshold: usize,
    /// Longest life of the certificates that are signed for nodes and others who ask, and their life when nothing is asked for.
    #[arg(long, value_name = "DURATION", default_value = "8760h0m0s", value_parser = duration::parse, help_heading = "Controllers")]
    pub cluster_signing_duration: Duration,
}

impl ControllerFlags {
    /// The controllers' settings with these.
    pub fn config(&self) -> corten_controllers::Config {
        corten_controllers::Config {
            node_monitor_grace: self.node_monitor_grace_period,
            node_eviction: corten_controllers::node_zones::Rates {
                normal: self.node_eviction_rate,
                secondary: self.secondary_node_eviction_rate,
                threshold: self.unhealthy_zone_threshold,
                large: self.large_cluster_size_threshold,
            },
            signing_life: self.cluster_signing_duration,
            ..corten_controllers::Config::default()
        }
    }
}

/// `corten apiserver`
#[derive(Clone, Debug, Args)]
pub struct ApiserverArgs {
    /// Corten's own flags.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Those of kube-apiserver.
    #[command(flatten)]
    pub kube: KubeArgs,
}

/// `corten etcd`: the flags of etcd that such tools give.
#[derive(Clone, Debug, Args)]
pub struct EtcdArgs {
    /// Where the objects of the API server are kept [default: NAME.etcd].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Name, for the default directory.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Where to answer.
    #[arg(long, value_name = "URL", value_delimiter = ',', default_value = "http://localhost:2379")]
    pub listen_client_urls: Vec<String>,
    /// Taken and not needed: there is one address and there are no peers.
    #[arg(long, value_name = "URL", hide = true)]
    pub advertise_client_urls: Option<String>,
    /// The same.
    #[arg(long, value_name = "URL", hide = true)]
    pub listen_peer_urls: Option<String>,
    /// The same.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub unsafe_no_fsync: Option<bool>,
}

/// Which addresses and names a cluster uses.
#[derive(Clone, Debug, Args)]
pub struct Ranges {
    /// Addresses of services: one range, or for dual stack one of each family; the first one's family is the default.
    #[arg(long, value_name = "CIDR[,CIDR]", default_value = "10.96.0.0/16", help_heading = "Network")]
    pub service_cidr: Cidrs,
    /// Addresses of pods: one range, or for dual stack one of each family. Each node gets a /24 (IPv6: a /64) of it.
    #[arg(long, value_name = "CIDR[,CIDR]", default_value = "10.244.0.0/16", help_heading = "Network")]
    pub cluster_cidr: Cidrs,
    /// Domain of the cluster's DNS names.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", help_heading = "Network")]
    pub cluster_domain: String,
}

impl Ranges {
    /// Where the cluster's DNS answers: the tenth address of each service range, the default family first.
    pub fn dns(&self) -> Vec<IpAddr> {
        self.service_cidr.nth(10).collect()
    }

    /// As this machine can have them.
    ///
    /// Errors: nothing is left, or pods would have no IPv4 address, which this pod network always gives them.
    pub fn usable(&self, has_v6: bool) -> anyhow::Result<Ranges> {
        let mut ranges = self.clone();
        if !has_v6 && (self.service_cidr.v6().is_some() || self.cluster_cidr.v6().is_some()) {
            tracing::warn!("this kernel has no IPv6, or has it disabled: going on with IPv4 alone");
            let left = self.service_cidr.without_v6().zip(self.cluster_cidr.without_v6());
            let Some((services, pods)) = left else {
                anyhow::bail!("no range is left without IPv6, which this kernel does not have")
            };
            (ranges.service_cidr, ranges.cluster_cidr) = (services, pods);
        }
        if ranges.cluster_cidr.v4().is_none() {
            anyhow::bail!(
                "--cluster-cidr {}: want an IPv4 range, alone or beside an IPv6 one",
                self.cluster_cidr
            );
        }
        Ok(ranges)
    }
}

/// The node's part of `corten up`.
#[derive(Clone, Debug, Args)]
pub struct NodeArgs {
    /// Name of this node [default: the host's name].
    #[arg(long, value_name = "NAME", help_heading = "Node")]
    pub node_name: Option<String>,
    /// Address of this node, or one of each family [default: those of the default routes, or 127.0.0.1].
    #[arg(long, value_name = "ADDR[,ADDR]", value_delimiter = ',', help_heading = "Node")]
    pub node_ip: Vec<IpAddr>,
    /// Labels of this node.
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', help_heading = "Node")]
    pub node_labels: Vec<String>,
    /// Port of the kubelet's API. 0 takes a free one, the same as last time where possible.
    #[arg(long, value_name = "PORT", default_value_t = 10250, help_heading = "Node")]
    pub kubelet_port: u16,
    /// Most pods on this node.
    #[arg(long, value_name = "N", default_value_t = 110, help_heading = "Node")]
    pub max_pods: u32,
    /// Addresses of the DNS that pods ask [default: the tenth address of the service range].
    #[arg(long, value_name = "ADDR", value_delimiter = ',', help_heading = "Node")]
    pub cluster_dns: Vec<IpAddr>,
    /// Run the pods that the manifests in this directory (or this one file) describe, with or without an API: static pods.
    #[arg(long, value_name = "PATH", visible_alias = "static-pod-path", help_heading = "Node")]
    pub pod_manifest_path: Option<PathBuf>,
    /// Use another container runtime (containerd, CRI-O) at this CRI socket instead of the built-in one.
    #[arg(long, value_name = "SOCKET", help_heading = "Node")]
    pub container_runtime_endpoint: Option<String>,
    /// Reach this registry (HOST or HOST:PORT) by plain HTTP; those on loopback always are.
    #[arg(long, value_name = "HOST", help_heading = "Node")]
    pub insecure_registry: Vec<String>,
    /// The service proxy.
    #[command(flatten)]
    pub proxy: ProxyArgs,
    /// DNS on this node.
    #[command(flatten)]
    pub dns: crate::dns::DnsArgs,
    /// Ways to other nodes.
    #[command(flatten)]
    pub pod_network: PodNetworkArgs,
}

/// How pods of different nodes reach each other.
#[derive(Clone, Debug, Args)]
pub struct PodNetworkArgs {
    /// How packets travel between nodes: by routes, by VXLAN, or `auto`: by routes to neighbours and VXLAN to others.
    #[arg(long, value_name = "auto|routes|vxlan", default_value = "auto", help_heading = "Node")]
    pub pod_network: corten_network::Transport,
    /// VXLAN network identifier, the same on all nodes; clusters that share machines need different ones.
    #[arg(long, value_name = "VNI", default_value_t = corten_network::DEFAULT_VNI, help_heading = "Node",
        value_parser = clap::value_parser!(u32).range(1..1 << 24))]
    pub vxlan_id: u32,
}

impl NodeArgs {
    /// The labels as pairs.
    pub fn labels(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let pair = |label: &String| {
            let (key, value) = label.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        };
        let pairs = self
            .node_labels
            .iter()
            .map(|l| pair(l).ok_or_else(|| anyhow::anyhow!("--node-labels {l}: want KEY=VALUE")));
        let pairs: BTreeMap<String, String> = pairs.collect::<anyhow::Result<_>>()?;
        // The API server would refuse the node with them, again and again.
        if let Some(label) = pairs.keys().find(|label| !corten_apiserver::nodes_may_label(label)) {
            anyhow::bail!(
                "--node-labels {label}: a node may not give itself this label; an administrator can"
            );
        }
        Ok(pairs)
    }
}

/// `corten agent`
#[derive(Clone, Debug, Args)]
pub struct AgentArgs {
    /// Name and data directory on this host.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// The server to join.
    #[arg(long, value_name = "https://HOST:PORT")]
    pub server: String,
    /// Token of the server, as `corten token` prints it there. A node that has joined before needs none.
    #[arg(long, value_name = "TOKEN", env = "CORTEN_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// File with the token.
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// The node.
    #[command(flatten)]
    pub node: NodeArgs,
}

/// How services are led to pods.
#[derive(Clone, Debug, Args)]
pub struct ProxyArgs {
    /// How services are led to pods: nftables, iptables, ipvs, userspace, or none where another proxy does it.
    #[arg(long, value_name = "MODE", default_value = "nftables", help_heading = "Services")]
    pub proxy_mode: ProxyMode,
    /// Give all traffic to cluster IPs an address of this node as its source.
    #[arg(long, help_heading = "Services")]
    pub masquerade_all: bool,
    /// Take node ports only on addresses of this node in these ranges [default: on all but loopback].
    #[arg(long, value_name = "CIDR", value_delimiter = ',', help_heading = "Services")]
    pub node_port_addresses: Vec<IpNet>,
}

/// `corten proxy`
#[derive(Clone, Debug, Args)]
pub struct ProxyAloneArgs {
    /// Rules on this host carry the name.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Kubeconfig of the API server, with the identity of this part.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["config", "cleanup"])]
    pub kubeconfig: Option<PathBuf>,
    /// Configuration file: a KubeProxyConfiguration of kubeproxy.config.k8s.io/v1alpha1. As upstream, flags that a field of the file
    /// stands for are then ignored, all but the node's name.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How services are led to pods.
    #[command(flatten)]
    pub proxy: ProxyArgs,
    /// Name of this node [default: the host's name].
    #[arg(long, value_name = "NAME", alias = "hostname-override", help_heading = "Node")]
    pub node_name: Option<String>,
    /// Address of this node, or one of each family [default: that of the default route].
    #[arg(long, value_name = "ADDR[,ADDR]", value_delimiter = ',', help_heading = "Node")]
    pub node_ip: Vec<IpAddr>,
    /// Addresses of pods: what comes from elsewhere gets an address of this node.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', help_heading = "Network")]
    pub cluster_cidr: Vec<IpNet>,
    /// Addresses of services: packets to those that no service has are dropped.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', help_heading = "Network")]
    pub service_cidr: Vec<IpNet>,
    /// Where /healthz and /livez are served [default: nowhere].
    #[arg(long, value_name = "ADDR:PORT", help_heading = "Services")]
    pub healthz_bind_address: Option<SocketAddr>,
    /// Where /metrics and /proxyMode are served [default: nowhere].
    #[arg(long, value_name = "ADDR:PORT", help_heading = "Services")]
    pub metrics_bind_address: Option<SocketAddr>,
    /// Where the host does not tell when somebody else changes rules of services, they are all written anew after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, help_heading = "Services",
        value_parser = clap::value_parser!(u64).range(1..))]
    pub sync_period: u64,
    /// Only remove all rules of that name and end.
    #[arg(long)]
    pub cleanup: bool,
}

/// How a part that runs alone finds its API server.
#[derive(Clone, Debug, Args)]
pub struct AloneArgs {
    /// Kubeconfig of the API server, with the identity of this part.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
}

/// Of several copies one works.
#[derive(Clone, Debug, Args)]
pub struct ElectionArgs {
    /// Work only while holding the lease in kube-system: several copies can stand by.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_elect: bool,
}

/// `corten scheduler`
#[derive(Clone, Debug, Args)]
pub struct SchedulerArgs {
    /// Where the API server is.
    #[command(flatten)]
    pub alone: AloneArgs,
    /// Copies.
    #[command(flatten)]
    pub election: ElectionArgs,
    /// Schedule the pods whose spec.schedulerName is this.
    #[arg(long, value_name = "NAME", default_value = "default-scheduler")]
    pub scheduler_name: String,
}

/// `corten controller-manager`
#[derive(Clone, Debug, Args)]
pub struct ControllerArgs {
    /// Where the API server is.
    #[command(flatten)]
    pub alone: AloneArgs,
    /// Copies.
    #[command(flatten)]
    pub election: ElectionArgs,
    /// Addresses of pods, one range or one of each family; each node gets a part. Without it nodes get none.
    #[arg(long, value_name = "CIDR[,CIDR]")]
    pub cluster_cidr: Option<Cidrs>,
    /// Prefix length of a node's part of an IPv4 range.
    #[arg(long, value_name = "BITS", default_value_t = 24, alias = "node-cidr-mask-size-ipv4")]
    pub node_cidr_mask_size: u8,
    /// Prefix length of a node's part of an IPv6 range [default: 64, or what fits].
    #[arg(long, value_name = "BITS")]
    pub node_cidr_mask_size_ipv6: Option<u8>,
    /// CA certificate that pods find in the config map kube-root-ca.crt [default: that of the kubeconfig].
    #[arg(long, value_name = "FILE")]
    pub root_ca_file: Option<PathBuf>,
    /// CA certificate with which certificate signing requests are signed. Without it none are.
    #[arg(long, value_name = "FILE", requires = "cluster_signing_key_file")]
    pub cluster_signing_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "cluster_signing_cert_file")]
    pub cluster_signing_key_file: Option<PathBuf>,
    /// How they work.
    #[command(flatten)]
    pub flags: ControllerFlags,
}

/// `corten kubeconfig`
#[derive(Clone, Debug, Args)]
pub struct KubeconfigArgs {
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Make one for this user instead (for example system:kube-scheduler), by a certificate of the cluster's CA.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Group of that user.
    #[arg(long, value_name = "NAME", requires = "user")]
    pub group: Option<String>,
}

/// `corten down`
#[derive(Clone, Debug, Args)]
pub struct DownArgs {
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Delete the data directory, too: store, certificates, images and logs.
    #[arg(long)]
    pub purge: bool,
}

/// `corten token`
#[derive(Clone, Debug, Args)]
pub struct TokenArgs {
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// What to do with tokens. Nothing: print the server's own, which does not run out.
    #[command(subcommand)]
    pub command: Option<TokenCommand>,
}

/// What to do with tokens.
#[derive(Clone, Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it.
    Create {
        /// How long nodes can join with it; 0 is for ever.
        #[arg(long, value_name = "DURATION", default_value = "24h0m0s", value_parser = duration::parse)]
        ttl: Duration,
        /// What it is for.
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// List tokens, except the server's own.
    #[command(visible_alias = "ls")]
    List,
    /// Take tokens back. Nodes that have joined stay.
    #[command(visible_alias = "rm")]
    Delete {
        /// Tokens, or their ids.
        #[arg(required = true, value_name = "TOKEN")]
        tokens: Vec<String>,
    },
}

/// `corten image`
#[derive(Clone, Debug, Args)]
pub struct ImageArgs {
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// What to do with images.
    #[command(subcommand)]
    pub command: ImageCommand,
}

/// What to do with images.
#[derive(Clone, Debug, Subcommand)]
pub enum ImageCommand {
    /// Import images from tar files (OCI layout or `docker save`; gzip too). Works while the cluster is stopped.
    Import {
        /// Files to import.
        #[arg(required = true, value_name = "FILE.tar")]
        files: Vec<PathBuf>,
        /// Name for the image, in place of those in the file.
        #[arg(long = "as", value_name = "REFERENCE")]
        reference: Option<String>,
    },
    /// List images.
    #[command(visible_alias = "list")]
    Ls,
    /// Pull images from their registries (the cluster must be up).
    Pull {
        /// Images to pull.
        #[arg(required = true, value_name = "REFERENCE")]
        references: Vec<String>,
        /// User and password for the registry.
        #[arg(long, value_name = "USER:PASSWORD")]
        creds: Option<String>,
    },
    /// Remove images.
    #[command(visible_alias = "remove")]
    Rm {
        /// Images to remove: name, digest or id.
        #[arg(required = true, value_name = "IMAGE")]
        references: Vec<String>,
    },
}

/// A number that is not negative.
fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| rate.is_finite() && *rate >= 0.0);
    rate.ok_or_else(|| "a number from 0 on".to_owned())
}

/// Eleven characters, so that `NAME0` and more fit into an interface name.
const LONGEST_NAME: usize = 11;

fn cluster_name(name: &str) -> Result<String, String> {
    let fits = (1..=LONGEST_NAME).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if fits {
        return Ok(name.to_owned());
    }
    Err(format!("1 to {LONGEST_NAME} lower-case letters, digits and '-', beginning with a letter"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn without_ipv6_the_rest_goes_on() {
        let ranges = |service: &str, cluster: &str| Ranges {
            service_cidr: service.parse().unwrap(),
            cluster_cidr: cluster.parse().unwrap(),
            cluster_domain: "cluster.local".into(),
        };
        let told = |ranges: &Ranges, has_v6: bool| {
            ranges.usable(has_v6).map(|r| format!("{} {}", r.service_cidr, r.cluster_cidr)).ok()
        };
        let dual = ranges("fd00:1::/112,10.1.0.0/16", "10.2.0.0/16,fd00:2::/56");
        assert_eq!(told(&dual, true).unwrap(), "fd00:1::/112,10.1.0.0/16 10.2.0.0/16,fd00:2::/56");
        assert_eq!(told(&dual, false).unwrap(), "10.1.0.0/16 10.2.0.0/16");
        assert_eq!(told(&ranges("fd00::/112", "10.2.0.0/16"), false), None);
        assert_eq!(told(&ranges("fd00:1::/112", "fd00::/56"), true), None);
    }

    #[test]
    fn cluster_names_fit_into_interface_names() {
        for (name, good) in
            [("corten", true), ("a", true), ("a-1", true), ("", false), ("1a", false), ("A", false)]
        {
            assert_eq!(cluster_name(name).is_ok(), good, "{name}");
        }
        assert!(cluster_name("abcdefghijkl").is_err());
    }
}
