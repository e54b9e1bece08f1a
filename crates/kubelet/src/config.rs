//! What a kubelet has to be told.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use corten_client::Informers;
use k8s_openapi::api::core::v1::Taint;

/// Certificates (PEM) that take the place of one another, each with its key; empty until there is a newer one.
pub type Renewed = tokio::sync::watch::Receiver<(Vec<u8>, Vec<u8>)>;

/// Settings of a kubelet. [`Config::new`] fills in upstream's defaults.
#[derive(Clone)]
pub struct Config {
    /// Name of the Node object.
    pub node_name: String,
    /// Client with the identity `system:node:NAME`.
    pub client: kube::Client,
    /// The informers of this process, when others in it see all pods and services, too. A kubelet alone watches its own pods only.
    pub informers: Option<Informers>,
    /// CRI endpoint: `unix:///path` or a path.
    pub cri_endpoint: String,
    /// The node's data directory (`…/node`): `pods/` and `logs/` are below it.
    pub data_dir: PathBuf,
    /// Directory with manifests of static pods.
    pub static_pods: Option<PathBuf>,
    /// The node's addresses; found out by itself when empty.
    pub node_ips: Vec<IpAddr>,
    /// Address that the kubelet's API listens on.
    pub listen: IpAddr,
    /// Port of the kubelet's API; 0 takes a free one, the same as last time where possible.
    pub port: u16,
    /// PEM of the kubelet API's certificate (chain). Without it the API is not served.
    pub serving_cert: Option<Vec<u8>>,
    /// PEM of the key of `serving_cert`.
    pub serving_key: Option<Vec<u8>>,
    /// Newer ones, to be shown from then on.
    pub serving_renewed: Option<Renewed>,
    /// PEM of the CA whose clients may use the kubelet's API.
    pub client_ca: Option<Vec<u8>>,
    /// Addresses of the cluster's DNS.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// The node's own resolver settings.
    pub resolv_conf: PathBuf,
    /// Labels of a new Node object.
    pub node_labels: BTreeMap<String, String>,
    /// Taints of a new Node object.
    pub node_taints: Vec<Taint>,
    /// Most pods on the node.
    pub max_pods: u32,
    /// CPU kept for the system, in thousandths.
    pub reserved_cpu_milli: i64,
    /// Memory kept for the system, in bytes.
    pub reserved_memory: i64,
    /// cgroup of all pods (`/<name>/kubepods`); `None` leaves cgroups alone.
    pub cgroup_root: Option<String>,
    /// Pod CIDR for a node that gets none from the API (a kubelet without controllers).
    pub pod_cidr: Option<String>,
    /// How often the lease is renewed.
    pub lease_renewal: Duration,
    /// How often the node's status is sent although nothing changed.
    pub status_report: Duration,
    /// Images pulled at the same time.
    pub parallel_pulls: usize,
    /// Largest log file before it is rotated, in bytes.
    pub log_max_size: u64,
    /// Log files kept of a container.
    pub log_max_files: usize,
    /// Use of the image file system, in percent, from which unused images go. Upstream says 85; imported images
    /// cannot be pulled again, and people's disks are full, so the default is later here.
    pub image_gc_high_percent: u64,
    /// Use down to which images are collected.
    pub image_gc_low_percent: u64,
    /// Free memory below which the node is under memory pressure, in bytes.
    pub memory_pressure_below: u64,
    /// Free disk space, in percent, below which the node is under disk pressure. Upstream says 10; see above.
    pub disk_pressure_below_percent: u64,
}

/// Version that the kubelet says it is.
pub const KUBELET_VERSION: &str = "v1.37.0";

impl Config {
    /// Upstream's defaults around the four things that have none.
    pub fn new(node_name: &str, client: kube::Client, cri_endpoint: &str, data_dir: PathBuf) -> Self {
        Self {
            node_name: node_name.to_owned(),
            client,
            informers: None,
            cri_endpoint: cri_endpoint.to_owned(),
            data_dir,
            static_pods: None,
            node_ips: Vec::new(),
            listen: IpAddr::from([0, 0, 0, 0]),
            port: 10250,
            serving_cert: None,
            serving_key: None,
            serving_renewed: None,
            client_ca: None,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            node_labels: BTreeMap::new(),
            node_taints: Vec::new(),
            max_pods: 110,
            reserved_cpu_milli: 0,
            reserved_memory: 0,
            cgroup_root: None,
            pod_cidr: None,
            lease_renewal: Duration::from_secs(10),
            status_report: Duration::from_secs(300),
            parallel_pulls: 5,
            log_max_size: 10 << 20,
            log_max_files: 5,
            image_gc_high_percent: 95,
            image_gc_low_percent: 90,
            memory_pressure_below: 100 << 20,
            disk_pressure_below_percent: 5,
        }
    }

    /// Directory of one pod's volumes and files.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.data_dir.join("pods").join(uid)
    }

    /// Directory of one pod's logs.
    pub fn log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.data_dir.join("logs").join(format!("{namespace}_{name}_{uid}"))
    }
}
