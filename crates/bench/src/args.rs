//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::objects::Kind;

/// Measures a Kubernetes API server from the outside.
#[derive(Clone, Debug, Parser)]
#[command(name = "corten-bench", version)]
pub struct Args {
    /// What to measure.
    #[command(subcommand)]
    pub command: Command,

    /// Print one JSON object per line instead of a table.
    #[arg(long, global = true)]
    pub json: bool,
}

/// One measurement, or all of them.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Create objects: pods of 2 KB that no scheduler touches, or config maps of 1 KB.
    Create(Load),
    /// Replace objects, each conditional on the version it has.
    Update(Load),
    /// Read single objects.
    Get(Load),
    /// List all objects of the namespace, from the store and from the cache (resourceVersion=0).
    List(Load),
    /// Change objects while many watch them; the latency is from the write's begin to the event's arrival.
    Watch(WatchLoad),
    /// The API server's speed table: a fresh API server with its store, without anything else, several times over; upstream's
    /// beside it where its programs are at hand.
    Speed(Speed),
    /// Start pods and wait for their containers: one at a time, then all at once.
    PodStart(PodStart),
    /// Start a cluster and measure how long it takes and what it costs when idle.
    Up(Up),
    /// Ask a DNS server over UDP: the built-in one on a core of its own (needs root), or any with the same services.
    Dns(Dns),
    /// Carry out services in a network namespace, without a cluster: first sync, one changed endpoint, connections. Needs root.
    Proxy(ProxyBench),
    /// Every figure that the project aims at, in one run: the API server's speed table, services and DNS, a cluster of its own with pods.
    Figures(Figures),
    /// Start, load, watches and pod start, of any cluster; starts the cluster itself when a command is given after `--`.
    All(All),
}

/// DNS answers.
#[derive(Clone, Debug, ClapArgs)]
pub struct Dns {
    /// Ask this server instead of the built-in one; it must have the services `svc-0` … in the namespace `bench`, every
    /// tenth (`svc-9`, …) headless with ten endpoints, all with a port `http`.
    #[arg(long, value_name = "ADDR:PORT")]
    pub server: Option<std::net::SocketAddr>,

    /// Services in all.
    #[arg(long, default_value_t = 10_000)]
    pub services: usize,

    /// Seconds for each kind of question.
    #[arg(long, default_value_t = 5)]
    pub secs: u64,

    /// Questions in flight.
    #[arg(long, default_value_t = 32)]
    pub in_flight: usize,
}

/// Services without a cluster.
#[derive(Clone, Debug, ClapArgs)]
pub struct ProxyBench {
    /// Numbers of services.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 1000, 10_000])]
    pub services: Vec<u32>,

    /// Proxy mode.
    #[arg(long, default_value = "nftables")]
    pub mode: corten_proxy::Mode,

    /// Changes and connections, each.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
}

/// Which server, and which processes pay for it.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct Target {
    /// How to reach the server and as whom.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,

    /// A context of the kubeconfig other than the current one.
    #[arg(long)]
    pub context: Option<String>,

    /// A process whose CPU time and memory (children included) are the server's; may be repeated.
    #[arg(long = "server-pid")]
    pub server_pids: Vec<u32>,

    /// The namespace to make and remove [default: corten-bench-PID].
    #[arg(long)]
    pub namespace: Option<String>,

    /// The server runs without controllers: make the namespace's service account, too.
    #[arg(long)]
    pub bare: bool,
}

/// Requests of one kind.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct Load {
    #[command(flatten)]
    pub target: Target,

    /// What kind of objects.
    #[arg(long, value_enum, default_value_t = Kind::Pods)]
    pub kind: Kind,

    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub clients: u32,

    /// Requests in all.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,

    /// Objects to work on (create makes as many as it has requests).
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub objects: u32,
}

/// The API server's speed table.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct Speed {
    /// The program `corten`.
    #[arg(long, value_name = "PROGRAM")]
    pub corten: PathBuf,

    /// A directory with the programs `etcd` and `kube-apiserver`, measured side by side; without it the table shows what was
    /// recorded for Kubernetes 1.20.2 on a machine with two cores.
    #[arg(long, value_name = "DIR")]
    pub upstream: Option<PathBuf>,

    /// Fresh servers of each kind; the table shows medians.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,

    /// Pods, and as many config maps.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    pub pods: u32,

    /// Seconds between /readyz and the look at idle memory.
    #[arg(long, default_value_t = 5)]
    pub api_settle_secs: u64,

    /// After the rounds, run once more with perf looking on, and write what it sees of each piece of work into this directory.
    /// Names need a build with `--config profile.release.strip=false`.
    #[arg(long, value_name = "DIR")]
    pub profile: Option<PathBuf>,
}

/// Watch fan-out.
#[derive(Clone, Debug, ClapArgs)]
pub struct WatchLoad {
    #[command(flatten)]
    pub load: Load,

    /// Watchers, each on a connection of its own.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub watchers: u32,
}

/// Pod start latency.
#[derive(Clone, Debug, ClapArgs)]
pub struct PodStart {
    #[command(flatten)]
    pub target: Target,

    #[command(flatten)]
    pub pods: PodOptions,
}

/// What the started pods are.
#[derive(Clone, Debug, ClapArgs)]
pub struct PodOptions {
    /// The container's image; it should be on the node already.
    #[arg(long)]
    pub image: String,

    /// The container's command, split at blanks; empty = the image's own.
    #[arg(long, default_value = "")]
    pub pod_command: String,

    /// Pods started one after the other.
    #[arg(long, default_value_t = 50)]
    pub one_by_one: u32,

    /// Pods started at once.
    #[arg(long, default_value_t = 30)]
    pub burst: u32,

    /// The cgroup, below the root of each hierarchy, in which the cluster keeps the pods of this machine (Corten: its name); with it
    /// the end of the pods' processes is measured, too.
    #[arg(long, value_name = "NAME")]
    pub cgroup_root: Option<String>,
}

/// Start and idle cost of a cluster.
#[derive(Clone, Debug, ClapArgs)]
pub struct Up {
    /// Seconds over which idle CPU is measured.
    #[arg(long, default_value_t = 60)]
    pub idle_secs: u64,

    /// Seconds between node Ready and the idle measurement.
    #[arg(long, default_value_t = 5)]
    pub settle_secs: u64,

    /// Seconds to wait for the node.
    #[arg(long, default_value_t = 60)]
    pub ready_secs: u64,

    /// A shell command run when the node is ready (image imports); it sees BENCH_DATA_DIR and KUBECONFIG.
    #[arg(long)]
    pub setup: Option<String>,

    /// Where the cluster keeps its data [default: a scratch directory, removed at the end].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// The command that starts the cluster. `{data}` stands for that directory, in which it writes `kubeconfig`;
    /// without it `--data-dir DIR` is added at the end.
    #[arg(last = true)]
    pub cluster: Vec<String>,
}

/// Parts of the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Section {
    /// The API server alone.
    Api,
    /// Proxy and DNS, in network namespaces of their own.
    Services,
    /// A cluster with its node.
    Cluster,
}

/// Every figure that the project aims at.
#[derive(Clone, Debug, ClapArgs)]
pub struct Figures {
    #[command(flatten)]
    pub speed: Speed,

    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Section::Api, Section::Services, Section::Cluster])]
    pub sections: Vec<Section>,

    /// The cluster's name, as the command after `--` gives it.
    #[arg(long, default_value = "bench")]
    pub name: String,

    /// An image that listens on port 8080, answers /readyz, and ends at once on SIGTERM (`--setup` imports it).
    #[arg(long, default_value = "corten.local/testserver:1")]
    pub image: String,

    /// Pods started one after the other.
    #[arg(long, default_value_t = 50)]
    pub one_by_one: u32,

    /// Pods started at once.
    #[arg(long, default_value_t = 30)]
    pub burst: u32,

    /// Pods that fill the node.
    #[arg(long, default_value_t = 110)]
    pub full: u32,

    /// Services of which the first answer is awaited.
    #[arg(long, default_value_t = 50)]
    pub answers: u32,

    #[command(flatten)]
    pub up: Up,
}

impl Figures {
    /// The part that concerns started pods.
    pub fn pods(&self) -> PodOptions {
        PodOptions {
            image: self.image.clone(),
            pod_command: String::new(),
            one_by_one: self.one_by_one,
            burst: self.burst,
            cgroup_root: Some(self.name.clone()),
        }
    }
}

/// All measurements in one table.
#[derive(Clone, Debug, ClapArgs)]
pub struct All {
    #[command(flatten)]
    pub target: Target,

    /// Connections.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub clients: u32,

    /// Requests of each kind.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,

    /// Lists of each kind, each of `--count` objects.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub lists: u32,

    /// Watchers.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub watchers: u32,

    /// The image of the pods to start; without it no pod is started.
    #[arg(long)]
    pub image: Option<String>,

    /// The pods' command, split at blanks; empty = the image's own.
    #[arg(long, default_value = "")]
    pub pod_command: String,

    /// Pods started one after the other.
    #[arg(long, default_value_t = 50)]
    pub one_by_one: u32,

    /// Pods started at once.
    #[arg(long, default_value_t = 30)]
    pub burst: u32,

    /// Without a command `--kubeconfig` names a running server.
    #[command(flatten)]
    pub up: Up,
}

impl All {
    /// A load on one kind.
    pub fn load(&self, kind: Kind, count: u32) -> Load {
        Load { target: self.target.clone(), kind, clients: self.clients, count, objects: self.count }
    }

    /// The part that concerns started pods, when there is an image for them.
    pub fn pods(&self) -> Option<PodOptions> {
        Some(PodOptions {
            image: self.image.clone()?,
            pod_command: self.pod_command.clone(),
            one_by_one: self.one_by_one,
            burst: self.burst,
            cgroup_root: None,
        })
    }
}

impl Up {
    /// `--ready-secs`.
    pub fn ready_within(&self) -> Duration {
        Duration::from_secs(self.ready_secs)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Args::command().debug_assert();
    }
}
