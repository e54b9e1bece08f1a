//! The shell around the plan: watch, gather, plan what changed, carry it out; and again with patience when that fails.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use corten_client::Api;
use corten_client::k8s_openapi::api::core::v1::{Node as ApiNode, Service};
use corten_client::k8s_openapi::api::discovery::v1::EndpointSlice;
use corten_client::k8s_openapi::jiff::Timestamp;
use corten_client::kube::Client;
use corten_client::watcher;
use corten_client::{Change as Event, Informer, Key};
use corten_sys::netfilter::Socket;
use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::Instant as Clock;
use tokio_util::sync::CancellationToken;

use crate::backend::{Backend, Error};
use crate::config::Config;
use crate::flows::Stale;
use crate::health::{Health, NodePorts, serve_metrics, serve_proxy};
use crate::metrics::Metrics;
use crate::plan::{Node, Planner, service_of};
use crate::ruleset::Change;

/// After a failure; doubles each time.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// The longest wait after failures.
const LAST_RETRY: Duration = Duration::from_secs(30);
/// After a repair, so long nobody else is listened to: two that fight over rules must not take all of the machine. Doubles up to
/// the time between two regular syncs while they fight.
const REPAIR_PAUSE: Duration = Duration::from_secs(1);
/// Of what happened between two syncs, so many times are kept for the figures.
const MOST_TRIGGERS: usize = 1024;
/// The annotation of a slice that says when what it shows happened.
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// The cluster autoscaler's sign that a node goes.
const LEAVING: &str = "ToBeDeletedByClusterAutoscaler";
/// What upstream's proxy watches: neither headless services nor those of other proxies.
const OURS: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";

/// What the proxy watches.
#[derive(Clone)]
pub struct Inputs {
    /// All services.
    pub services: Informer<Service>,
    /// All slices.
    pub slices: Informer<EndpointSlice>,
    /// This node at least.
    pub nodes: Informer<ApiNode>,
}

impl Inputs {
    /// Informers of the proxy's own, as narrow as it needs them.
    pub fn watch(client: &Client, node_name: &str, stop: &CancellationToken) -> Self {
        let ours = || watcher::Config::default().labels(OURS);
        let node = watcher::Config::default().fields(&format!("metadata.name={node_name}"));
        Inputs {
            services: Informer::start(Api::all(client.clone()), ours(), stop.clone()),
            slices: Informer::start(Api::all(client.clone()), ours(), stop.clone()),
            nodes: Informer::start(Api::all(client.clone()), node, stop.clone()),
        }
    }
}

/// Runs the proxy until `stop`. What stands on the host then stays, so that a successor finds traffic flowing;
/// [`cleanup`](crate::cleanup) removes it.
pub fn run(inputs: Inputs, config: Config, stop: CancellationToken) -> BoxFuture<'static, Result<(), Error>> {
    Box::pin(serve(inputs, config, stop))
}

async fn serve(inputs: Inputs, config: Config, stop: CancellationToken) -> Result<(), Error> {
    let backend = crate::backend_of(&config)?;
    work_with(backend, true, inputs, config, stop).await;
    Ok(())
}

/// [`run`] with a back end of the caller's; leaves what other modes put on the host.
pub async fn run_with(backend: Box<dyn Backend>, inputs: Inputs, config: Config, stop: CancellationToken) {
    work_with(backend, false, inputs, config, stop).await;
}

async fn work_with(
    backend: Box<dyn Backend>,
    may_have_others: bool,
    inputs: Inputs,
    config: Config,
    stop: CancellationToken,
) {
    let health = Health::default();
    let metrics = Arc::new(Metrics::new(config.mode));
    if let Some(at) = config.healthz {
        serve_proxy(at, health.clone(), metrics.clone(), stop.clone());
    }
    if let Some(at) = config.metrics {
        serve_metrics(at, config.mode, metrics.clone(), stop.clone());
    }
    let pending = Pending::listen(&inputs, &metrics);
    let flows = Socket::open().map(Arc::new);
    if let Err(error) = &flows {
        tracing::warn!(%error, "stale flows stay");
    }
    let mut proxy = Proxy {
        planner: Planner::new(Node { name: config.node_name.clone(), zone: String::new() }),
        checks: NodePorts::new(health.clone()),
        flows: flows.ok(),
        is_unknown: true,
        full_at: Clock::now(),
        repaired_at: None,
        pause: REPAIR_PAUSE,
        metrics,
        may_have_others,
        backend,
        inputs,
        config,
        pending,
        health,
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = proxy.work() => {}
    }
}

/// What informers told and nobody looked at yet. As large as the number of services at most.
#[derive(Clone, Default)]
struct Pending {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Default)]
struct Waiting {
    services: BTreeSet<Key>,
    slices: HashMap<Key, BTreeMap<String, Arc<EndpointSlice>>>,
    has_node_changed: bool,
    /// When what waits happened, as far as slices say; only what happened while this proxy ran.
    triggers: Vec<Timestamp>,
}

impl Pending {
    fn listen(inputs: &Inputs, metrics: &Arc<Metrics>) -> Self {
        let pending = Pending::default();
        let (me, figures) = (pending.clone(), metrics.clone());
        inputs.services.on_change(move |event| {
            figures.service_changed(Timestamp::now());
            me.tell(|waiting| waiting.services.extend([Key::of(&**event.object())]));
        });
        let (me, figures, begin) = (pending.clone(), metrics.clone(), Timestamp::now());
        inputs.slices.on_change(move |event| {
            figures.endpoints_changed(Timestamp::now());
            me.tell(|waiting| {
                waiting.triggers.extend(trigger(event).filter(|at| *at > begin));
                waiting.triggers.truncate(MOST_TRIGGERS);
                waiting.slice(event);
            });
        });
        let me = pending.clone();
        inputs.nodes.on_change(move |_| me.tell(|waiting| waiting.has_node_changed = true));
        pending
    }

    fn state(&self) -> MutexGuard<'_, Waiting> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.state());
        self.shared.wake.notify_one();
    }
}

impl Waiting {
    fn slice(&mut self, event: &Event<EndpointSlice>) {
        let (old, new) = match event {
            Event::Added(new) => (None, Some(new)),
            Event::Updated { old, new } => (Some(old), Some(new)),
            Event::Deleted(old) => (Some(old), None),
        };
        let name = |slice: &EndpointSlice| slice.metadata.name.clone().unwrap_or_default();
        if let Some((key, old)) = old.and_then(|old| Some((service_of(old)?, old)))
            && let Some(slices) = self.slices.get_mut(&key)
        {
            slices.remove(&name(old));
            if slices.is_empty() {
                self.slices.remove(&key);
            }
            self.services.insert(key);
        }
        if let Some((key, new)) = new.and_then(|new| Some((service_of(new)?, new))) {
            self.slices.entry(key.clone()).or_default().insert(name(new), new.clone());
            self.services.insert(key);
        }
    }
}

/// When what a new state of a slice shows happened.
fn trigger(event: &Event<EndpointSlice>) -> Option<Timestamp> {
    let of = |slice: &EndpointSlice| slice.metadata.annotations.as_ref()?.get(TRIGGER).cloned();
    let text = match event {
        Event::Added(new) => of(new),
        Event::Updated { old, new } => of(new).filter(|text| of(old).as_ref() != Some(text)),
        Event::Deleted(_) => None,
    };
    text?.parse().ok()
}

struct Proxy {
    inputs: Inputs,
    config: Config,
    pending: Pending,
    planner: Planner,
    backend: Box<dyn Backend>,
    /// What the host has is not known: the next attempt is a full sync.
    is_unknown: bool,
    /// The last full sync.
    full_at: Clock,
    /// The last one because of somebody else.
    repaired_at: Option<Clock>,
    /// Nobody else is listened to for so long after it.
    pause: Duration,
    metrics: Arc<Metrics>,
    /// An earlier life may have used another mode.
    may_have_others: bool,
    flows: Option<Arc<Socket>>,
    health: Health,
    checks: NodePorts,
}

impl Proxy {
    async fn work(&mut self) {
        self.inputs.services.synced().await;
        self.inputs.slices.synced().await;
        self.inputs.nodes.synced().await;
        let mut failures = 0u32;
        loop {
            match self.step().await {
                Ok(()) => failures = 0,
                Err(error) => {
                    self.metrics.failed();
                    failures = failures.saturating_add(1);
                    tracing::warn!(%error, failures, "services are not up to date on this host, trying again");
                }
            }
            if failures == 0 {
                tokio::time::sleep(self.config.min_sync).await;
                self.wait().await;
            } else {
                tokio::time::sleep(retry_after(failures)).await;
            }
        }
    }

    /// Until something changed in the cluster, somebody else changed our rules, or a regular full sync is due.
    async fn wait(&mut self) {
        let shared = self.pending.shared.clone();
        let backend = &mut self.backend;
        let quiet_until = self.repaired_at.map(|at| at + self.pause);
        let disturbed = async {
            if let Some(until) = quiet_until {
                tokio::time::sleep_until(until).await;
            }
            backend.disturbed().await;
        };
        tokio::select! {
            () = shared.wake.notified() => {}
            () = disturbed => {
                tracing::warn!("somebody else changed rules of services, they are written anew");
                self.metrics.disturbed();
                let is_fight = self.repaired_at.is_some_and(|at| at.elapsed() < self.pause * 2);
                let longest = self.config.sync_period.max(REPAIR_PAUSE);
                self.pause = if is_fight { (self.pause * 2).min(longest) } else { REPAIR_PAUSE };
                (self.is_unknown, self.repaired_at) = (true, Some(Clock::now()));
            }
            () = tokio::time::sleep_until(self.full_at + self.config.sync_period) => {
                self.full_at = Clock::now();
                self.is_unknown |= !self.backend.hears_all();
            }
        }
    }

    /// Plans what changed and carries it out.
    async fn step(&mut self) -> Result<(), Error> {
        let triggers = self.plan();
        let change = self.planner.take_change();
        self.checks.set(&self.planner.rules().health_checks).await;
        if change.is_empty() && !self.is_unknown {
            return Ok(());
        }
        let begin = Instant::now();
        self.health.queued(begin);
        let is_full = self.is_unknown;
        let stale = self.carry_out(&change).await?;
        let now = Timestamp::now();
        self.health.done(now);
        self.metrics.synced(is_full, begin.elapsed(), now, &triggers);
        self.remove_other_modes();
        tracing::debug!(ports = change.ports.len(), elapsed = ?begin.elapsed(), "services are up to date");
        remove_flows(self.flows.clone(), stale).await;
        Ok(())
    }

    async fn carry_out(&mut self, change: &Change) -> Result<Stale, Error> {
        let rules = self.planner.rules();
        if std::mem::replace(&mut self.is_unknown, true) {
            self.backend.sync_all(rules).await?;
            self.is_unknown = false;
            self.full_at = Clock::now();
            return Ok(Stale::of_all(rules));
        }
        self.backend.apply(change, rules).await?;
        self.is_unknown = false;
        Ok(Stale::of_change(change))
    }

    /// Once, when services are reached by the configured mode.
    fn remove_other_modes(&mut self) {
        if std::mem::take(&mut self.may_have_others) {
            let config = self.config.clone();
            tokio::spawn(async move { crate::cleanup_others(&config).await });
        }
    }

    /// Brings the plan up to date; returns when what it now shows happened.
    fn plan(&mut self) -> Vec<Timestamp> {
        let pending = self.pending.clone();
        let mut waiting = pending.state();
        if std::mem::take(&mut waiting.has_node_changed) {
            self.set_node(&mut waiting);
        }
        for key in std::mem::take(&mut waiting.services) {
            let service = self.inputs.services.get(&key);
            let slices = waiting.slices.get(&key);
            let slices: Vec<&EndpointSlice> =
                slices.into_iter().flatten().map(|(_, slice)| &**slice).collect();
            self.planner.set(&key, service.as_deref(), &slices);
        }
        std::mem::take(&mut waiting.triggers)
    }

    /// Another zone plans everything anew.
    fn set_node(&mut self, waiting: &mut Waiting) {
        let name = &self.config.node_name;
        let object = self.inputs.nodes.get(&Key::new("", name.clone()));
        let node =
            object.as_deref().map(Node::of).unwrap_or_else(|| Node { name: name.clone(), ..Node::default() });
        let taints =
            object.iter().flat_map(|node| node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()));
        let is_deleted = object.as_ref().is_some_and(|node| node.metadata.deletion_timestamp.is_some());
        self.health.leaving(is_deleted || taints.into_iter().any(|taint| taint.key == LEAVING));
        if node != *self.planner.node() {
            waiting.services.extend(self.planner.known().cloned());
            self.planner.set_node(node);
        }
    }
}

/// A failure here costs some UDP clients a while; the rules themselves are in place.
async fn remove_flows(socket: Option<Arc<Socket>>, stale: Stale) {
    let Some(socket) = socket.filter(|_| !stale.is_empty()) else { return };
    // The table of flows may be long.
    match tokio::task::spawn_blocking(move || stale.remove(&socket)).await {
        Ok(Ok(count)) => tracing::debug!(count, "stale flows removed"),
        Ok(Err(error)) => tracing::warn!(%error, "stale flows stay"),
        Err(error) => tracing::warn!(%error, "stale flows stay"),
    }
}

fn retry_after(failures: u32) -> Duration {
    let factor = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST_RETRY.saturating_mul(factor).min(LAST_RETRY)
}

#[cfg(test)]
mod tests;
