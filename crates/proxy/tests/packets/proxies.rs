//! Both nodes' proxies: a back end on each, inside its node's network namespace.

use std::sync::Arc;
use std::time::Duration;

use corten_proxy::{Backend, Change, Config, Error, Mode, Node, Ruleset, plan};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

use crate::table::{self, Case};
use crate::world::{CLUSTER_CIDRS, Family, Place, World};

/// One node's back end. Its threads, and so its sockets and programs, are inside the node.
pub struct Proxy {
    runtime: Runtime,
    backend: Arc<Mutex<Box<dyn Backend>>>,
    config: Config,
    node: Place,
    rules: Ruleset,
}

impl Proxy {
    /// Starts the back end of `mode` on a node, without any rules so far.
    pub fn start(world: &World, node: Place, mode: Mode) -> Self {
        Self::start_as(world, node, mode, cluster_name(mode))
    }

    /// The same for a cluster of that name.
    pub fn start_as(world: &World, node: Place, mode: Mode, cluster: &str) -> Self {
        let runtime = world.at(node).inside(|| {
            // Threads are where the thread was that started them.
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()
        });
        let runtime = runtime.expect("a runtime");
        let config = config(node, mode, cluster);
        let used = config.clone();
        let backend = wait(&runtime, async move { corten_proxy::backend_of(&used) });
        let backend = Arc::new(Mutex::new(backend.expect("a back end")));
        Self { runtime, backend, config, node, rules: Ruleset::default() }
    }

    /// Makes the host have exactly the rules of these cases.
    pub fn sync_all(&mut self, cases: &[Case]) {
        self.rules = self.plan(cases);
        let (backend, rules) = (self.backend.clone(), self.rules.clone());
        self.must(async move { backend.lock().await.sync_all(&rules).await });
    }

    /// Carries out the difference between what was and these cases.
    pub fn change_to(&mut self, cases: &[Case]) {
        let new = self.plan(cases);
        let change = Change::between(&self.rules, &new);
        assert!(!change.is_empty());
        self.rules = new.clone();
        let backend = self.backend.clone();
        self.must(async move { backend.lock().await.apply(&change, &new).await });
    }

    /// Does it hear within this time that somebody else changed its rules?
    pub fn is_disturbed(&self, time: Duration) -> bool {
        let backend = self.backend.clone();
        wait(&self.runtime, async move {
            let mut backend = backend.lock().await;
            tokio::time::timeout(time, backend.disturbed()).await.is_ok()
        })
    }

    /// Removes what other modes have left.
    pub fn cleanup_others(&self) {
        let config = self.config.clone();
        self.must(async move { corten_proxy::cleanup_others(&config).await });
    }

    /// Removes everything.
    pub fn cleanup(&mut self) {
        self.rules = Ruleset::default();
        let backend = self.backend.clone();
        self.must(async move { backend.lock().await.cleanup().await });
    }

    /// As a `SIGKILL` would: its sockets are closed, what it told the kernel stays.
    pub fn kill(self) {
        self.runtime.shutdown_timeout(std::time::Duration::from_secs(10));
    }

    fn plan(&self, cases: &[Case]) -> Ruleset {
        let objects: Vec<_> = cases.iter().enumerate().map(|(at, case)| table::objects(at, case)).collect();
        let services = objects.iter().map(|(service, _)| service);
        let slices = objects.iter().flat_map(|(_, slices)| slices);
        plan(services, slices, &Node { name: self.node.name().into(), ..Node::default() })
    }

    fn must(&self, work: impl Future<Output = Result<(), Error>> + Send + 'static) {
        wait(&self.runtime, work).unwrap_or_else(|problem| panic!("{:?}: {problem}", self.node));
    }
}

/// The future runs on the runtime's own threads: `block_on` would run it on this one, outside of the node.
fn wait<T: Send + 'static>(runtime: &Runtime, work: impl Future<Output = T> + Send + 'static) -> T {
    runtime.block_on(runtime.spawn(work)).expect("the back end does not panic")
}

fn config(node: Place, mode: Mode, cluster: &str) -> Config {
    let mut config = Config::new(cluster, node.name());
    config.mode = mode;
    config.node_ips = vec![node.address(Family::V4), node.address(Family::V6)];
    config.cluster_cidrs = CLUSTER_CIDRS.iter().map(|range| range.parse().expect("a range")).collect();
    config.service_cidrs =
        ["10.96.0.0/16", "fd00:96::/112"].map(|range| range.parse().expect("a range")).into();
    config
}

/// Of the longest kind, so that names derived from it show that they fit.
fn cluster_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Nftables => "packets-nft",
        Mode::Iptables => "packets-ipt",
        Mode::Ipvs => "packets-vs",
        Mode::Userspace => "packets-usr",
    }
}
