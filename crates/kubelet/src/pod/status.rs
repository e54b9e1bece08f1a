//! A pod's status from its spec, the runtime and the probes: phase, conditions, container states, in
//! upstream's words. Pure; the clock is only used for new transition times.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container as ContainerSpec, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, ContainerUser, HostIP, LinuxContainerUser, Pod, PodCondition,
    PodIP, PodStatus, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::memory::{Memory, Waiting};
use super::observed::{Container, Observed, State};
use super::resize::{self, Pending};
use super::spec::{self, Kind};

/// Conditions of a pod whose resources change.
pub const RESIZE_CONDITIONS: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];
/// Reason of a container that nobody can find.
const LOST: &str = "ContainerStatusUnknown";

/// Why the kubelet ends or refuses a pod, for `status.reason` and `status.message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// CamelCase.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Whether the node's need ended the pod and not the pod itself: that is told by the condition DisruptionTarget.
    pub disruption: bool,
}

/// What a status is made from.
pub struct Sources<'a> {
    /// Spec, and the status that the API has.
    pub pod: &'a Pod,
    /// The status that was published last.
    pub last: Option<&'a PodStatus>,
    /// Runtime.
    pub observed: &'a Observed,
    /// Worker's memory.
    pub memory: &'a Memory,
    /// Waiting reasons of the plan.
    pub waiting: &'a BTreeMap<String, Waiting>,
    /// The pod has to end (deleted or ended by the kubelet).
    pub stopping: bool,
    /// Nothing runs any more and nothing will.
    pub ended: bool,
    /// The kubelet's own verdict.
    pub verdict: Option<&'a Verdict>,
    /// Why the pod does not get the resources that it wants.
    pub resize_pending: Option<&'a Pending>,
    /// The node's addresses.
    pub host_ips: &'a [String],
    /// `corten`: what stands before `://` in container ids.
    pub runtime_name: &'a str,
    /// Now.
    pub now: Timestamp,
}

/// Makes the status.
pub fn pod_status(sources: &Sources<'_>) -> PodStatus {
    let base = sources.last.or(sources.pod.status.as_ref()).cloned().unwrap_or_default();
    let all = spec::containers(sources.pod);
    let statuses = |wanted: fn(Kind) -> bool| -> Vec<ContainerStatus> {
        let of_kind = all.iter().filter(|(kind, _)| wanted(*kind));
        of_kind.map(|(kind, c)| container_status(sources, *kind, c, &base)).collect()
    };
    let init = statuses(|kind| matches!(kind, Kind::Init | Kind::Sidecar));
    let main = statuses(|kind| kind == Kind::Main);
    let ephemeral = statuses(|kind| kind == Kind::Ephemeral);
    let phase = overall_phase(sources, &init, &main, &base);
    let ips = pod_ips(sources, &base);
    let mut status = PodStatus {
        observed_generation: sources.pod.metadata.generation,
        reason: sources.verdict.map(|verdict| verdict.reason.clone()).or(base.reason.clone()),
        message: sources.verdict.map(|verdict| verdict.message.clone()).or(base.message.clone()),
        host_ip: sources.host_ips.first().cloned(),
        host_ips: Some(sources.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()),
        qos_class: Some(base.qos_class.clone().unwrap_or_else(|| spec::qos_class(sources.pod).to_owned())),
        start_time: Some(base.start_time.clone().unwrap_or(Time(whole_seconds(sources.now)))),
        ..base
    };
    status.conditions = Some(conditions(sources, &phase, &init, &main, &status));
    status.phase = Some(phase);
    if refused(sources, &main) {
        return status;
    }
    status.init_container_statuses = (!init.is_empty()).then_some(init);
    status.container_statuses = Some(main);
    status.ephemeral_container_statuses = (!ephemeral.is_empty()).then_some(ephemeral);
    status
}

/// A pod that was refused before anything ran says so, and nothing about its containers.
fn refused(sources: &Sources<'_>, main: &[ContainerStatus]) -> bool {
    let never_ran = main.iter().all(|status| status.container_id.is_none());
    sources.verdict.is_some() && never_ran && sources.observed.containers.is_empty()
}

fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn pod_ips(sources: &Sources<'_>, base: &PodStatus) -> Vec<String> {
    let sandbox = sources.observed.ready_sandbox();
    if spec::host_network(sources.pod) {
        let shown = sandbox.is_some() || base.pod_ip.is_some();
        return if shown { sources.host_ips.to_vec() } else { Vec::new() };
    }
    match sandbox {
        Some(sandbox) if !sandbox.ips.is_empty() => sandbox.ips.clone(),
        _ => base.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect(),
    }
}

// ---- containers ----

fn container_status(
    sources: &Sources<'_>,
    kind: Kind,
    c: &ContainerSpec,
    base: &PodStatus,
) -> ContainerStatus {
    let list = match kind {
        Kind::Main => &base.container_statuses,
        Kind::Ephemeral => &base.ephemeral_container_statuses,
        Kind::Init | Kind::Sidecar => &base.init_container_statuses,
    };
    let old = list.iter().flatten().find(|old| old.name == c.name);
    let mut status = match sources.observed.latest(&c.name).filter(|latest| latest.state != State::Created) {
        Some(latest) => seen_status(sources, kind, c, latest),
        None => unseen_status(sources, c, old),
    };
    if let Some(why) = waiting_for(sources, kind, c, &status) {
        let terminated = status.state.take().filter(|state| state.terminated.is_some());
        status.last_state = terminated.or(status.last_state);
        status.state = Some(waiting_state(&why));
        status.started = Some(false);
    }
    let state = status.state.as_ref();
    status.ready = match kind {
        Kind::Init => state.and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0),
        Kind::Ephemeral => false,
        Kind::Main | Kind::Sidecar => is_ready(sources, c, &status),
    };
    status.stop_signal = c.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone());
    let has = sources.observed.latest(&c.name).filter(|latest| latest.state == State::Running);
    let unfinished =
        has.is_some_and(|has| resize::difference(sources.pod, c, has.resources.as_ref()).is_some());
    status.resources = match old.filter(|_| unfinished) {
        Some(old) => old.resources.clone(),
        None => c.resources.clone(),
    };
    status.allocated_resources = c.resources.as_ref().and_then(|r| r.requests.clone());
    status
}

fn is_ready(sources: &Sources<'_>, c: &ContainerSpec, status: &ContainerStatus) -> bool {
    let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
    let latest = sources.observed.latest(&c.name);
    let health = latest.map(|latest| sources.memory.health(&c.name, &latest.id)).unwrap_or_default();
    running && health.ready && health.started
}

fn seen_status(sources: &Sources<'_>, kind: Kind, c: &ContainerSpec, latest: &Container) -> ContainerStatus {
    let running = latest.state == State::Running;
    let started = running && sources.memory.health(&c.name, &latest.id).started;
    let previous = sources.observed.previous(&c.name).map(|previous| state_of(sources, previous));
    ContainerStatus {
        name: c.name.clone(),
        image: if latest.image.is_empty() {
            c.image.clone().unwrap_or_default()
        } else {
            latest.image.clone()
        },
        image_id: latest.image_ref.clone(),
        container_id: Some(format!("{}://{}", sources.runtime_name, latest.id)),
        restart_count: latest.restart_count,
        started: Some(if kind == Kind::Ephemeral { running } else { started }),
        state: Some(state_of(sources, latest)),
        last_state: Some(previous.unwrap_or_default()),
        user: latest.user.as_ref().map(user_status),
        volume_mounts: volume_mounts(c),
        ..ContainerStatus::default()
    }
}

fn user_status((uid, gid, groups): &(i64, i64, Vec<i64>)) -> ContainerUser {
    let supplemental_groups = (!groups.is_empty()).then(|| groups.clone());
    ContainerUser { linux: Some(LinuxContainerUser { uid: *uid, gid: *gid, supplemental_groups }) }
}

fn volume_mounts(c: &ContainerSpec) -> Option<Vec<VolumeMountStatus>> {
    let mounts = c.volume_mounts.as_ref().filter(|mounts| !mounts.is_empty())?;
    let one = |m: &k8s_openapi::api::core::v1::VolumeMount| VolumeMountStatus {
        name: m.name.clone(),
        mount_path: m.mount_path.clone(),
        read_only: m.read_only.filter(|read_only| *read_only),
        recursive_read_only: m.read_only.filter(|read_only| *read_only).map(|_| "Disabled".to_owned()),
        ..VolumeMountStatus::default()
    };
    Some(mounts.iter().map(one).collect())
}

fn unseen_status(sources: &Sources<'_>, c: &ContainerSpec, old: Option<&ContainerStatus>) -> ContainerStatus {
    let known = old.filter(|old| old.container_id.as_deref().is_some_and(|id| !id.is_empty()));
    if let Some(known) = known {
        return forgotten_status(known);
    }
    let has_init =
        sources.pod.spec.as_ref().and_then(|s| s.init_containers.as_ref()).is_some_and(|i| !i.is_empty());
    let reason = if has_init { "PodInitializing" } else { "ContainerCreating" };
    ContainerStatus {
        name: c.name.clone(),
        image: c.image.clone().unwrap_or_default(),
        started: Some(false),
        state: Some(waiting_state(&Waiting::new(reason, ""))),
        last_state: Some(ContainerState::default()),
        volume_mounts: volume_mounts(c),
        ..ContainerStatus::default()
    }
}

/// The API has seen it, the runtime knows nothing of it: an end that was seen stays, anything else is lost.
fn forgotten_status(old: &ContainerStatus) -> ContainerStatus {
    let mut status = old.clone();
    let ended =
        |state: &Option<ContainerState>| state.as_ref().is_some_and(|state| state.terminated.is_some());
    if !ended(&status.state) && !ended(&status.last_state) {
        let message = "The container could not be located when the pod was terminated";
        status.state = Some(ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: 137,
                reason: Some(LOST.to_owned()),
                message: Some(message.to_owned()),
                ..ContainerStateTerminated::default()
            }),
            ..ContainerState::default()
        });
    }
    status.started = Some(false);
    status
}

fn waiting_state(waiting: &Waiting) -> ContainerState {
    let message = (!waiting.message.is_empty()).then(|| waiting.message.clone());
    let waiting = ContainerStateWaiting { reason: Some(waiting.reason.clone()), message };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

/// A container that shall run and does not is Waiting; one that is not to run (again) shows its end.
fn waiting_for(
    sources: &Sources<'_>,
    kind: Kind,
    c: &ContainerSpec,
    status: &ContainerStatus,
) -> Option<Waiting> {
    let state = status.state.as_ref()?;
    if state.running.is_some() {
        let latest = sources.observed.latest(&c.name)?;
        let hook_runs = sources.memory.in_post_start(&c.name, &latest.id);
        return hook_runs.then(|| Waiting::new("ContainerCreating", ""));
    }
    if sources.stopping || sources.ended {
        return None;
    }
    if let Some(terminated) = &state.terminated
        && !spec::should_restart(sources.pod, kind, c, terminated.exit_code)
    {
        return None;
    }
    if let Some(why) = sources.waiting.get(&c.name) {
        return Some(why.clone());
    }
    let problem = sources.memory.get(&c.name).and_then(|memory| memory.problem.as_ref());
    problem.map(|problem| problem.waiting.clone())
}

fn state_of(sources: &Sources<'_>, c: &Container) -> ContainerState {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    match c.state {
        State::Running => {
            let started_at = c.started_at.map(|at| Time(whole_seconds(at)));
            ContainerState { running: Some(ContainerStateRunning { started_at }), ..Default::default() }
        }
        State::Created | State::Unknown => waiting_state(&Waiting::new("ContainerCreating", "")),
        State::Exited => {
            let default_reason = if c.exit_code == 0 { "Completed" } else { "Error" };
            ContainerState {
                terminated: Some(ContainerStateTerminated {
                    exit_code: c.exit_code,
                    reason: text(&c.reason).or_else(|| Some(default_reason.to_owned())),
                    message: text(&c.message),
                    started_at: Some(Time(whole_seconds(c.started_at.unwrap_or(Timestamp::UNIX_EPOCH)))),
                    finished_at: c.finished_at.map(|at| Time(whole_seconds(at))),
                    container_id: Some(format!("{}://{}", sources.runtime_name, c.id)),
                    signal: None,
                }),
                ..ContainerState::default()
            }
        }
    }
}

// ---- phase ----

fn overall_phase(
    sources: &Sources<'_>,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    base: &PodStatus,
) -> String {
    let before = base.phase.as_deref().unwrap_or_default();
    if matches!(before, "Succeeded" | "Failed") {
        return before.to_owned();
    }
    if sources.verdict.is_some() {
        return "Failed".to_owned();
    }
    phase(sources.pod, init, main, sources.ended).to_owned()
}

/// The phase by upstream's rule; `ended` tells that nothing will run any more.
pub fn phase(pod: &Pod, init: &[ContainerStatus], main: &[ContainerStatus], ended: bool) -> &'static str {
    let kinds = spec::containers(pod);
    let sidecar = |name: &str| kinds.iter().any(|(kind, c)| *kind == Kind::Sidecar && c.name == name);
    let restarts = |status: &ContainerStatus| {
        let found = kinds.iter().find(|(_, c)| c.name == status.name).zip(exit(status));
        found.is_some_and(|((kind, c), code)| spec::should_restart(pod, *kind, c, code))
    };
    let mut count = Counts::default();
    for status in init {
        if sidecar(&status.name) { count.sidecar(status) } else { count.init(status, restarts(status)) }
    }
    for status in main {
        count.main(status, restarts(status));
    }
    if count.init_lost > 0 {
        return if count.sidecars_running > 0 && !ended { "Pending" } else { "Failed" };
    }
    if ended {
        let all_good = count.stopped > 0 && count.succeeded == main.len() && count.init_failed == 0;
        return if all_good { "Succeeded" } else { "Failed" };
    }
    if count.init_pending > 0 || count.init_failed > 0 || count.waiting > 0 {
        return "Pending";
    }
    if count.running > 0 {
        return "Running";
    }
    match count.stopped {
        0 => "Pending",
        _ if count.sidecars_running > 0 || count.restarting > 0 => "Running",
        stopped if count.succeeded == stopped => "Succeeded",
        _ => "Failed",
    }
}

#[derive(Default)]
struct Counts {
    init_pending: usize,
    init_failed: usize,
    /// Of these, the ones that never run again.
    init_lost: usize,
    sidecars_running: usize,
    waiting: usize,
    running: usize,
    stopped: usize,
    /// Of these, the ones that run again.
    restarting: usize,
    succeeded: usize,
}

fn last_exit(status: &ContainerStatus) -> Option<i32> {
    Some(status.last_state.as_ref()?.terminated.as_ref()?.exit_code)
}

/// How the container ended, if it does not run now.
fn exit(status: &ContainerStatus) -> Option<i32> {
    let state = status.state.as_ref()?;
    let now = state.terminated.as_ref().map(|terminated| terminated.exit_code);
    now.or_else(|| last_exit(status).filter(|_| state.running.is_none()))
}

impl Counts {
    fn init(&mut self, status: &ContainerStatus, restarts: bool) {
        let ended = status.state.as_ref().is_some_and(|state| state.terminated.is_some());
        match exit(status) {
            Some(0) if ended => {}
            None | Some(0) => self.init_pending += 1,
            Some(_) => {
                self.init_failed += 1;
                self.init_lost += usize::from(!restarts);
            }
        }
    }

    fn sidecar(&mut self, status: &ContainerStatus) {
        if status.state.as_ref().is_some_and(|state| state.running.is_some()) {
            self.sidecars_running += 1;
        } else if status.restart_count == 0 && status.container_id.is_none() {
            self.init_pending += 1;
        }
    }

    fn main(&mut self, status: &ContainerStatus, restarts: bool) {
        let state = status.state.as_ref();
        if state.is_some_and(|state| state.running.is_some()) {
            self.running += 1;
        } else if exit(status).is_some() {
            self.stopped += 1;
            self.restarting += usize::from(restarts);
            let terminated = state.and_then(|state| state.terminated.as_ref());
            self.succeeded += usize::from(terminated.is_some_and(|terminated| terminated.exit_code == 0));
        } else {
            self.waiting += 1;
        }
    }
}

// ---- conditions ----

struct Verdicts<'a> {
    sources: &'a Sources<'a>,
    old: &'a [PodCondition],
}

/// `(status, reason, message)` of a condition.
type Judgement = (bool, Option<&'static str>, Option<String>);

fn conditions(
    sources: &Sources<'_>,
    phase: &str,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    status: &PodStatus,
) -> Vec<PodCondition> {
    let from_api = sources.pod.status.as_ref().and_then(|status| status.conditions.as_deref());
    let old = sources.last.and_then(|last| last.conditions.as_deref()).or(from_api).unwrap_or_default();
    let make = Verdicts { sources, old };
    let sandbox = sources.observed.ready_sandbox();
    let has_sandbox = sandbox.is_some_and(|s| spec::host_network(sources.pod) || !s.ips.is_empty());
    let containers_ready = containers_ready(sources.pod, phase, init, main);
    let ready = gates(sources.pod, from_api.unwrap_or_default(), containers_ready.clone());
    let mut list = vec![
        make.condition("PodReadyToStartContainers", (has_sandbox, None, None)),
        make.condition("Initialized", initialized(sources, phase, init)),
        make.condition("Ready", ready),
        make.condition("ContainersReady", containers_ready),
        make.condition("PodScheduled", (true, None, None)),
    ];
    if let Some(verdict) = sources.verdict.filter(|verdict| verdict.disruption) {
        let judgement = (true, Some("TerminationByKubelet"), Some(verdict.message.clone()));
        list.push(make.condition("DisruptionTarget", judgement));
    }
    list.extend(resizes(sources).into_iter().map(|(type_, judgement)| make.condition(type_, judgement)));
    let mut ours: Vec<String> = list.iter().map(|condition| condition.type_.clone()).collect();
    ours.extend(RESIZE_CONDITIONS.map(str::to_owned));
    let foreign = status.conditions.iter().flatten().filter(|condition| !ours.contains(&condition.type_));
    list.extend(foreign.cloned());
    list
}

/// Conditions that are there only while resources change.
fn resizes(sources: &Sources<'_>) -> Vec<(&'static str, Judgement)> {
    let [pending, in_progress] = RESIZE_CONDITIONS;
    let mut list = Vec::new();
    if let Some(why) = sources.resize_pending {
        list.push((pending, (true, Some(why.reason), Some(why.message.clone()))));
    }
    let unfinished = resize::unfinished(sources.pod, sources.observed);
    if !unfinished.is_empty() && !sources.stopping {
        let failed = unfinished.iter().find_map(|name| sources.memory.get(name)?.resize_failed.clone());
        let error = failed.map(|(_, why)| why);
        list.push((in_progress, (true, error.is_some().then_some("Error"), error)));
    }
    list
}

impl Verdicts<'_> {
    fn condition(&self, type_: &str, (ok, reason, message): Judgement) -> PodCondition {
        let status = if ok { "True" } else { "False" };
        let before = self.old.iter().find(|old| old.type_ == type_ && old.status == status);
        let since = before.and_then(|old| old.last_transition_time.clone());
        PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.map(str::to_owned),
            message,
            last_transition_time: Some(since.unwrap_or(Time(whole_seconds(self.sources.now)))),
            last_probe_time: None,
            observed_generation: self.sources.pod.metadata.generation,
        }
    }
}

fn initialized(sources: &Sources<'_>, phase: &str, init: &[ContainerStatus]) -> Judgement {
    if phase == "Succeeded" {
        return (true, Some("PodCompleted"), None);
    }
    let began = sources.observed.containers.iter().any(|c| {
        c.state != State::Created
            && spec::container(sources.pod, &c.name).is_some_and(|(k, _)| k == Kind::Main)
    });
    let done = |status: &&ContainerStatus| {
        let sidecar = spec::container(sources.pod, &status.name).is_some_and(|(k, _)| k == Kind::Sidecar);
        if sidecar { status.started == Some(true) } else { status.ready }
    };
    let incomplete: Vec<&str> = init.iter().filter(|s| !done(s)).map(|s| s.name.as_str()).collect();
    if began || incomplete.is_empty() {
        return (true, None, None);
    }
    let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
    (false, Some("ContainersNotInitialized"), Some(message))
}

fn containers_ready(pod: &Pod, phase: &str, init: &[ContainerStatus], main: &[ContainerStatus]) -> Judgement {
    match phase {
        "Succeeded" => return (false, Some("PodCompleted"), None),
        "Failed" => return (false, Some("PodFailed"), None),
        _ => {}
    }
    let sidecar =
        |s: &&ContainerStatus| spec::container(pod, &s.name).is_some_and(|(k, _)| k == Kind::Sidecar);
    let counted = init.iter().filter(sidecar).chain(main);
    let unready: Vec<&str> = counted.filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    if unready.is_empty() {
        return (true, None, None);
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    (false, Some("ContainersNotReady"), Some(message))
}

fn gates(pod: &Pod, known: &[PodCondition], containers_ready: Judgement) -> Judgement {
    if !containers_ready.0 {
        return containers_ready;
    }
    let gates = pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_ref()).into_iter().flatten();
    let complaints: Vec<String> = gates
        .filter_map(|gate| {
            let wanted = &gate.condition_type;
            match known.iter().find(|condition| condition.type_ == *wanted) {
                None => Some(format!(
                    "corresponding condition of pod readiness gate \"{wanted}\" does not exist."
                )),
                Some(c) if c.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{wanted}\" is not \"True\", but {}",
                    c.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if complaints.is_empty() {
        return (true, None, None);
    }
    (false, Some("ReadinessGatesNotReady"), Some(complaints.join(", ")))
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
