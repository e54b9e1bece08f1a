//! One task a pod: it looks (API, runtime, probes), lets the plan decide, carries the steps out, publishes
//! the status, and sleeps until something happens or a timer with a reason fires.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::watch;

use super::memory::{Memory, Volumes};
use super::observed::{Observed, State};
use super::plan::{Plan, Situation, Step, Stop, plan_pod};
use super::publish::Publisher;
use super::resize::{self, Given, Pending};
use super::spec;
use super::starts::{Place, needs_place};
use super::status::{Sources, Verdict, pod_status};
use crate::backoff::add;
use crate::cri;
use crate::host::{Host, Waker};
use crate::probe::Probes;
use crate::termination;
use crate::volume::pod_volumes::{self, PodVolumes};

/// Plans carried out without a pause; after that other workers get their turn.
const MAX_ROUNDS: usize = 32;
/// Grace period of a pod that was removed from the API by force: nobody waits for it any more, and its place
/// may already be taken.
const GONE_GRACE: i64 = 2;
/// Pause after the runtime failed to answer.
const RUNTIME_RETRY: Duration = Duration::from_secs(1);

/// What the API wants of a pod.
#[derive(Debug, Clone)]
pub struct Desired {
    /// Newest object.
    pub pod: Arc<Pod>,
    /// The API (for a static pod: its file) no longer has it.
    pub gone: bool,
    /// A static pod.
    pub from_file: bool,
    /// The kubelet refuses or ends it.
    pub verdict: Option<Verdict>,
}

/// Memory shared with the tasks that a worker starts.
#[derive(Clone, Default)]
pub struct SharedMemory(Arc<Mutex<Memory>>);

impl SharedMemory {
    /// Exclusive access; never held over an await.
    pub fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Worker of one pod.
pub struct Worker {
    pub(super) host: Arc<Host>,
    pub(super) uid: String,
    pub(super) from_file: bool,
    /// The pod as it has been given resources; see `resize`.
    pub(super) pod: Arc<Pod>,
    pub(super) given: Given,
    pub(super) pending: Option<Pending>,
    pub(super) desired: watch::Receiver<Desired>,
    pub(super) waker: Arc<Waker>,
    pub(super) memory: SharedMemory,
    pub(super) volumes: PodVolumes,
    pub(super) probes: Probes,
    pub(super) publisher: Option<Publisher>,
    pub(super) last_status: Option<PodStatus>,
    pub(super) verdict: Option<Verdict>,
    /// Held from the first step of a start until there is nothing to do for now.
    pub(super) place: Option<Place>,
    pub(super) messages: HashMap<String, String>,
}

/// What a step did to the worker.
#[derive(Debug, PartialEq, Eq)]
pub enum Flow {
    /// Look again.
    Again,
    /// Sleep, at most until then.
    Sleep(Option<Timestamp>),
    /// Nothing of the pod is left.
    End,
}

impl Worker {
    /// A worker for what `desired` holds.
    pub fn new(host: Arc<Host>, desired: watch::Receiver<Desired>) -> Self {
        let first = desired.borrow().clone();
        let uid = spec::uid(&first.pod).to_owned();
        let waker = host.wakers.register(&uid);
        let memory = SharedMemory::default();
        let publisher = (!first.gone).then(|| match first.from_file {
            true => Publisher::mirror(host.clone(), first.pod.clone()),
            false => Publisher::start(host.config.client.clone(), &first.pod, host.stop.clone()),
        });
        let given = resize::given_before(&first.pod);
        Self {
            probes: Probes::new(host.clone(), memory.clone(), waker.clone()),
            volumes: PodVolumes::new(host.clone()),
            host,
            uid,
            from_file: first.from_file,
            pod: resize::as_given(&first.pod, &given),
            given,
            pending: None,
            desired,
            waker,
            memory,
            publisher,
            last_status: None,
            verdict: first.verdict,
            place: None,
            messages: HashMap::new(),
        }
    }

    /// Works until nothing of the pod is left, or the kubelet stops.
    pub async fn run(mut self) {
        let stop = self.host.stop.clone();
        loop {
            let flow = tokio::select! {
                flow = Box::pin(self.sync()) => flow,
                () = stop.cancelled() => return,
            };
            if flow != Flow::Again {
                self.place = None;
            }
            match flow {
                Flow::End => break,
                Flow::Again => {}
                Flow::Sleep(until) => tokio::select! {
                    () = self.waker.woken() => {}
                    () = sleep_until(until) => {}
                    changed = self.desired.changed() => if changed.is_err() { return },
                    () = stop.cancelled() => return,
                },
            }
        }
        self.host.wakers.remove(&self.uid);
        self.host.objects.release(&self.uid);
    }

    async fn sync(&mut self) -> Flow {
        self.take_changes();
        for round in 0..MAX_ROUNDS {
            let observed = match self.observe().await {
                Ok(observed) => observed,
                Err(error) => {
                    tracing::warn!(pod = spec::describe(&self.pod), %error, "runtime does not answer");
                    return Flow::Sleep(Some(add(Timestamp::now(), RUNTIME_RETRY)));
                }
            };
            let now = Timestamp::now();
            let deadline = self.check_deadline(now);
            let stop = self.stop_reason();
            let plan = {
                let memory = self.memory.lock();
                let (pod, stop) = (self.pod.as_ref(), stop.as_ref());
                plan_pod(&Situation { pod, observed: &observed, memory: &memory, stop, now })
            };
            self.tell(&plan);
            // a start that follows at once changes the status again: one patch is enough
            let starting = plan.steps.iter().all(|step| matches!(step, Step::Start { .. }));
            if round == 0 || plan.steps.is_empty() || !starting {
                self.publish(&observed, &plan, stop.is_some(), now);
            }
            if plan.steps.is_empty() {
                let times = [plan.wake, deadline, self.token_renewal(now)];
                return Flow::Sleep(times.into_iter().flatten().min());
            }
            if needs_place(&plan) && !self.has_place().await {
                return Flow::Again;
            }
            for step in plan.steps {
                // on the heap: a sleeping worker shall be small
                let (began, shown) = (Instant::now(), format!("{step:?}"));
                let flow = Box::pin(self.execute(step, &observed)).await;
                tracing::debug!(pod = spec::name(&self.pod), step = shown, took = ?began.elapsed(), "step done");
                if flow != Flow::Again {
                    return flow;
                }
            }
        }
        tokio::task::yield_now().await;
        Flow::Again
    }

    /// Whether the pod may start at once. Otherwise this waits for a place, or until the pod shall end, and the plan is old then.
    /// A static pod never waits: it may be what the others need.
    async fn has_place(&mut self) -> bool {
        if self.from_file || self.place.is_some() {
            return true;
        }
        self.place = self.host.starts.free();
        if self.place.is_some() {
            return true;
        }
        let ending = |desired: &Desired| desired.gone || desired.pod.metadata.deletion_timestamp.is_some();
        let host = self.host.clone();
        tokio::select! {
            place = host.starts.wait() => self.place = Some(place),
            _ = self.desired.wait_for(ending) => {}
        }
        false
    }

    /// Takes over what the API and the watched objects say.
    fn take_changes(&mut self) {
        let desired = self.desired.borrow_and_update().clone();
        if let Some(publisher) = &self.publisher {
            publisher.saw(&desired.pod);
        }
        let described = |pod: &Pod| (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
        let mut refresh = described(&desired.pod) != described(&self.pod);
        self.give(&desired.pod);
        self.verdict = self.verdict.take().or(desired.verdict);
        let mut memory = self.memory.lock();
        if self.waker.take_refresh() {
            refresh = true;
            let now = Timestamp::now();
            for container in memory.containers.values_mut() {
                if let Some(problem) = container.problem.as_mut().filter(|problem| !problem.pull) {
                    problem.retry_at = now;
                }
            }
        }
        if refresh && pod_volumes::has_live(&self.pod) {
            memory.volumes = Volumes::Wanted;
        }
    }

    /// Gives the pod what it wants, if the node has room.
    fn give(&mut self, pod: &Arc<Pod>) {
        let wanted = resize::wanted(pod);
        if wanted == self.given {
            self.pending = None;
        } else if !self.is_ending() {
            self.pending = self.host.resize(pod).err();
            if self.pending.is_none() {
                self.given = wanted;
            }
        }
        self.pod = resize::as_given(pod, &self.given);
    }

    fn token_renewal(&self, now: Timestamp) -> Option<Timestamp> {
        let at = self.volumes.renew_at()?;
        if at <= now {
            self.memory.lock().volumes = Volumes::Wanted;
            return Some(add(now, RUNTIME_RETRY));
        }
        Some(at)
    }

    async fn observe(&mut self) -> cri::Result<Observed> {
        let mut observed = Observed::load(&self.host.cri, &self.uid).await?;
        for container in observed.containers.iter_mut().filter(|c| c.state == State::Exited) {
            let message = match self.messages.get(&container.id) {
                Some(known) => known.clone(),
                None => termination::message(container),
            };
            self.messages.insert(container.id.clone(), message.clone());
            if !message.is_empty() {
                container.message = message;
            }
        }
        self.messages.retain(|id, _| observed.containers.iter().any(|c| c.id == *id));
        if let Some(sandbox) = observed.ready_sandbox() {
            self.memory.lock().ips.clone_from(&sandbox.ips);
        }
        self.probes.reconcile(&self.pod, &observed, self.is_ending());
        self.forget_finished_kills(&observed);
        Ok(observed)
    }

    fn forget_finished_kills(&self, observed: &Observed) {
        let running: Vec<&str> = observed.running().map(|c| c.id.as_str()).collect();
        for container in self.memory.lock().containers.values_mut() {
            if container.killing.as_ref().is_some_and(|killing| !running.contains(&killing.id.as_str())) {
                container.killing = None;
            }
        }
    }

    fn is_ending(&self) -> bool {
        self.stop_reason().is_some()
    }

    fn stop_reason(&self) -> Option<Stop> {
        let grace = spec::grace_period(&self.pod);
        if self.desired.borrow().gone {
            return Some(Stop::Deleted { grace: if self.from_file { grace } else { grace.min(GONE_GRACE) } });
        }
        if self.pod.metadata.deletion_timestamp.is_some() {
            return Some(Stop::Deleted { grace });
        }
        if self.verdict.is_some() || spec::is_terminal(&self.pod) {
            return Some(Stop::Ended { grace });
        }
        None
    }

    /// Ends a pod that is older than its activeDeadlineSeconds; answers when that will be.
    fn check_deadline(&mut self, now: Timestamp) -> Option<Timestamp> {
        let seconds = u64::try_from(self.pod.spec.as_ref()?.active_deadline_seconds?).ok()?;
        let status = self.last_status.as_ref().or(self.pod.status.as_ref())?;
        let deadline = add(status.start_time.as_ref()?.0, Duration::from_secs(seconds));
        if deadline > now {
            return Some(deadline);
        }
        if self.verdict.is_none() && !self.is_ending() {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            self.host.pod_event(&self.pod, "Normal", "DeadlineExceeded", message.clone());
            let reason = "DeadlineExceeded".to_owned();
            self.verdict = Some(Verdict { reason, message, disruption: false });
        }
        None
    }

    /// Events about new reasons to wait.
    fn tell(&self, plan: &Plan) {
        let mut memory = self.memory.lock();
        for (name, waiting) in &plan.waiting {
            let Some((kind, container)) = spec::container(&self.pod, name) else { continue };
            let told = &mut memory.of(name).told;
            if told.as_deref() == Some(&waiting.reason) {
                continue;
            }
            *told = Some(waiting.reason.clone());
            let event = |type_, reason, message: String| {
                self.host.container_event(&self.pod, kind, name, (type_, reason), message);
            };
            match waiting.reason.as_str() {
                "CrashLoopBackOff" => {
                    let pod = spec::describe(&self.pod);
                    event(
                        "Warning",
                        "BackOff",
                        format!("Back-off restarting failed container {name} in pod {pod}"),
                    );
                }
                "ImagePullBackOff" => {
                    let image = container.image.clone().unwrap_or_default();
                    event("Normal", "BackOff", format!("Back-off pulling image \"{image}\""));
                    event("Warning", "Failed", "Error: ImagePullBackOff".to_owned());
                }
                _ => {}
            }
        }
    }

    fn publish(&mut self, observed: &Observed, plan: &Plan, stopping: bool, now: Timestamp) {
        let status = {
            let memory = self.memory.lock();
            pod_status(&Sources {
                pod: &self.pod,
                last: self.last_status.as_ref(),
                observed,
                memory: &memory,
                waiting: &plan.waiting,
                stopping,
                ended: plan.ended,
                verdict: self.verdict.as_ref(),
                resize_pending: self.pending.as_ref(),
                host_ips: &self.host.node_ips,
                runtime_name: self.host.runtime_name(),
                now,
            })
        };
        if let Some(publisher) = &self.publisher {
            publisher.put(status.clone());
        }
        self.last_status = Some(status);
    }
}

async fn sleep_until(until: Option<Timestamp>) {
    match until {
        Some(at) => {
            let left = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
            tokio::time::sleep(left).await;
        }
        None => std::future::pending().await,
    }
}
