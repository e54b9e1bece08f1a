//! Probes: who is probed when, and what the results mean for the container.

pub mod check;
pub mod counter;
pub mod grpc;
mod redirect;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tokio::task::AbortHandle;

use self::counter::Counter;
use crate::backoff::add;
use crate::host::{Host, Waker};
use crate::pod::memory::{FailedProbe, Health};
use crate::pod::observed::{self, Observed, State};
use crate::pod::spec::{self, Kind};
use crate::pod::worker::SharedMemory;

/// The three kinds of probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Has it started?
    Startup,
    /// Does it live?
    Liveness,
    /// Can it serve?
    Readiness,
}

impl Purpose {
    /// As events begin.
    pub fn title(self) -> &'static str {
        match self {
            Purpose::Startup => "Startup",
            Purpose::Liveness => "Liveness",
            Purpose::Readiness => "Readiness",
        }
    }

    fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Purpose::Startup => container.startup_probe.as_ref(),
            Purpose::Liveness => container.liveness_probe.as_ref(),
            Purpose::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// The probes of one pod.
pub struct Probes {
    host: Arc<Host>,
    memory: SharedMemory,
    waker: Arc<Waker>,
    tasks: HashMap<(String, Purpose), AbortHandle>,
}

impl Probes {
    /// No probe runs yet.
    pub fn new(host: Arc<Host>, memory: SharedMemory, waker: Arc<Waker>) -> Self {
        Self { host, memory, waker, tasks: HashMap::new() }
    }

    /// Starts probes of containers that run, ends those of containers that do not.
    pub fn reconcile(&mut self, pod: &Arc<Pod>, observed: &Observed, ending: bool) {
        let mut wanted = Vec::new();
        for (kind, container) in spec::containers(pod) {
            let running = observed.latest(&container.name).filter(|c| c.state == State::Running);
            let Some(running) = running.filter(|c| !self.memory.lock().in_post_start(&container.name, &c.id))
            else {
                continue;
            };
            let health = self.health_of(pod, kind, &container, running);
            for purpose in [Purpose::Startup, Purpose::Liveness, Purpose::Readiness] {
                let its_time = match purpose {
                    Purpose::Startup => !health.started && !ending,
                    Purpose::Liveness => health.started && !ending,
                    Purpose::Readiness => health.started,
                };
                if kind != Kind::Ephemeral && its_time && purpose.of(&container).is_some() {
                    wanted.push((running.id.clone(), purpose));
                    self.ensure(pod, kind, &container, running, purpose);
                }
            }
        }
        self.tasks.retain(|key, task| {
            let keep = wanted.contains(key);
            if !keep {
                task.abort();
            }
            keep
        });
    }

    /// What is known of a running container; a new one begins unready until its probes say otherwise, an
    /// adopted one as the API last knew it.
    fn health_of(
        &self,
        pod: &Pod,
        kind: Kind,
        container: &Container,
        running: &observed::Container,
    ) -> Health {
        let mut memory = self.memory.lock();
        let health = &mut memory.of(&container.name).health;
        if let Some(known) = health.as_ref().filter(|known| known.id == running.id) {
            return known.clone();
        }
        let adopted = api_view(pod, kind, &container.name, &running.id);
        let fresh = Health {
            id: running.id.clone(),
            started: container.startup_probe.is_none() || adopted.is_some_and(|(started, _)| started),
            ready: container.readiness_probe.is_none() || adopted.is_some_and(|(_, ready)| ready),
            failed: None,
        };
        *health = Some(fresh.clone());
        fresh
    }

    fn ensure(
        &mut self,
        pod: &Arc<Pod>,
        kind: Kind,
        container: &Container,
        running: &observed::Container,
        purpose: Purpose,
    ) {
        let key = (running.id.clone(), purpose);
        if self.tasks.contains_key(&key) {
            return;
        }
        let Some(probe) = purpose.of(container).cloned() else { return };
        let task = Task {
            host: self.host.clone(),
            memory: self.memory.clone(),
            waker: self.waker.clone(),
            pod: pod.clone(),
            kind,
            container: container.clone(),
            id: running.id.clone(),
            started_at: running.started_at.unwrap_or(running.created_at),
            purpose,
            probe,
        };
        self.tasks.insert(key, tokio::spawn(task.run()).abort_handle());
    }

    /// Ends all probes.
    pub fn stop_all(&mut self) {
        self.tasks.drain().for_each(|(_, task)| task.abort());
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.stop_all();
    }
}

/// Started and ready, as the API has it of the same container.
fn api_view(pod: &Pod, kind: Kind, name: &str, id: &str) -> Option<(bool, bool)> {
    let status = pod.status.as_ref()?;
    let list = match kind {
        Kind::Main => &status.container_statuses,
        Kind::Ephemeral => &status.ephemeral_container_statuses,
        Kind::Init | Kind::Sidecar => &status.init_container_statuses,
    };
    let known = list.iter().flatten().find(|known| known.name == name)?;
    let same = known.container_id.as_deref()?.ends_with(&format!("://{id}"));
    same.then_some((known.started == Some(true), known.ready))
}

/// One probe of one container.
struct Task {
    host: Arc<Host>,
    memory: SharedMemory,
    waker: Arc<Waker>,
    pod: Arc<Pod>,
    kind: Kind,
    container: Container,
    id: String,
    started_at: Timestamp,
    purpose: Purpose,
    probe: Probe,
}

fn positive(value: Option<i32>, default: u64) -> u64 {
    value.and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
}

impl Task {
    async fn run(self) {
        let delay = Duration::from_secs(positive(self.probe.initial_delay_seconds, 0));
        let begin = add(self.started_at, delay);
        let left = Duration::try_from(begin.duration_since(Timestamp::now())).unwrap_or_default();
        tokio::time::sleep(left).await;
        let period = Duration::from_secs(positive(self.probe.period_seconds, 10));
        let timeout = Duration::from_secs(positive(self.probe.timeout_seconds, 1));
        let mut counter = Counter::new(
            positive(self.probe.success_threshold, 1),
            positive(self.probe.failure_threshold, 3),
        );
        let mut ticker = tokio::time::interval(period);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticker.tick().await;
            let (pod, container, ip) = (&self.pod, &self.container, self.pod_ip());
            let outcome = check::check(&self.host, pod, container, &self.id, &self.probe, ip, timeout).await;
            self.tell(&outcome);
            if let Some(good) = counter.record(outcome.is_ok())
                && !self.apply(good)
            {
                return;
            }
        }
    }

    fn tell(&self, outcome: &Result<Option<String>, String>) {
        let title = self.purpose.title();
        let (reason, message) = match outcome {
            Ok(None) => return,
            Ok(Some(words)) => ("ProbeWarning", format!("{title} probe warning: {words}")),
            Err(why) => ("Unhealthy", format!("{title} probe failed: {why}")),
        };
        let about = ("Warning", reason);
        self.host.container_event(&self.pod, self.kind, &self.container.name, about, message);
    }

    fn pod_ip(&self) -> Option<String> {
        if spec::host_network(&self.pod) {
            return self.host.node_ips.first().cloned();
        }
        self.memory.lock().ips.first().cloned()
    }

    /// Takes over a verdict; answers whether the probe goes on.
    fn apply(&self, good: bool) -> bool {
        let mut memory = self.memory.lock();
        let health = memory.of(&self.container.name).health.as_mut().filter(|health| health.id == self.id);
        let Some(health) = health else { return false };
        let before = health.clone();
        let failed = |probe| FailedProbe { probe, grace: self.probe.termination_grace_period_seconds };
        let goes_on = match (self.purpose, good) {
            (Purpose::Startup, true) => {
                health.started = true;
                false
            }
            (Purpose::Startup, false) => {
                health.failed = Some(failed("startup"));
                false
            }
            (Purpose::Liveness, false) => {
                health.failed = Some(failed("liveness"));
                false
            }
            (Purpose::Liveness, true) => true,
            (Purpose::Readiness, ready) => {
                health.ready = ready;
                true
            }
        };
        if *health != before {
            self.waker.wake();
        }
        goes_on
    }
}
