//! The pure heart of the kubelet: from a pod's spec, what the runtime has and what is remembered to the
//! next steps. Upstream's rules of `computePodActions`, of termination order and of back-off.
//!
//! Example: a new pod with one container gives `[Prepare]`; once its sandbox is ready `[Start a]`; once `a`
//! runs nothing; when `a` has exited the second time nothing but a wake-up when its back-off ends.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod};

use super::memory::{Memory, Volumes, Waiting};
use super::observed::{Container, Observed, State};
use super::resize;
use super::spec::{self, Kind};
use crate::backoff::{self, go_duration};

/// How long `ErrImagePull` is shown before it becomes `ImagePullBackOff`.
const SHOW_PULL_ERROR: Duration = Duration::from_secs(4);

/// Why a pod has to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// Deleted in the API; `grace` in seconds.
    Deleted {
        /// Seconds from SIGTERM to SIGKILL.
        grace: i64,
    },
    /// Ended by the kubelet (deadline, eviction) or already terminal in the API.
    Ended {
        /// Seconds from SIGTERM to SIGKILL.
        grace: i64,
    },
}

impl Stop {
    fn grace(&self) -> i64 {
        match self {
            Stop::Deleted { grace } | Stop::Ended { grace } => *grace,
        }
    }
}

/// Why a container is stopped; the words of the Killing event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KillWhy {
    /// The pod ends.
    Pod,
    /// A probe failed: `liveness` or `startup`.
    Probe(&'static str),
    /// The spec changed.
    Definition,
    /// Its resources changed, and its policy wants a restart for that.
    Resize,
}

impl KillWhy {
    /// The event's message.
    pub fn message(&self, container: &str) -> String {
        match self {
            KillWhy::Pod => format!("Stopping container {container}"),
            KillWhy::Probe(probe) => format!("Container {container} failed {probe} probe, will be restarted"),
            KillWhy::Resize => format!("Container {container} resize requires restart"),
            KillWhy::Definition => format!("Container {container} definition changed, will be restarted"),
        }
    }
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Set up volumes and, at the same time, make a sandbox (`attempt` of it, where one is missing).
    Prepare {
        /// Volumes are missing.
        volumes: bool,
        /// Attempt number of the sandbox to make.
        sandbox: Option<u32>,
    },
    /// Make and start a container; pull its image first where needed.
    Start {
        /// Name in the spec.
        name: String,
        /// Restart count of the new one.
        restart_count: i32,
        /// The end of the one before, which counts for the back-off.
        after: Option<Timestamp>,
    },
    /// Stop a container in the background.
    Kill {
        /// CRI id.
        id: String,
        /// Name in the spec.
        name: String,
        /// Words for the event.
        why: KillWhy,
        /// Seconds from SIGTERM to SIGKILL.
        grace: i64,
    },
    /// Tell the runtime what a running container may use now.
    Resize {
        /// CRI id.
        id: String,
        /// Name in the spec.
        name: String,
    },
    /// Remove a dead container that nobody will ask for.
    Remove {
        /// CRI id.
        id: String,
    },
    /// Stop a sandbox: nothing runs in it any more.
    StopSandbox {
        /// CRI id.
        id: String,
    },
    /// Remove a sandbox that another one has replaced and that holds nothing.
    RemoveSandbox {
        /// CRI id.
        id: String,
    },
    /// Everything has ended: take the volumes down, keep what describes the end.
    TakeDown,
    /// Everything has ended and the pod is deleted: remove what is left of it.
    Cleanup,
}

/// What to do, and when to look again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
    /// When time itself changes the plan.
    pub wake: Option<Timestamp>,
    /// Why containers that should run do not, by name.
    pub waiting: BTreeMap<String, Waiting>,
    /// Nothing runs and nothing ever will.
    pub ended: bool,
}

/// Everything a plan depends on.
pub struct Situation<'a> {
    /// Spec.
    pub pod: &'a Pod,
    /// Runtime.
    pub observed: &'a Observed,
    /// Worker's memory.
    pub memory: &'a Memory,
    /// Why the pod has to end, if it has to.
    pub stop: Option<&'a Stop>,
    /// Now.
    pub now: Timestamp,
}

/// Plans the next steps of a pod.
pub fn plan_pod(situation: &Situation<'_>) -> Plan {
    let mut planner = Planner { s: situation, plan: Plan::default() };
    planner.run();
    planner.plan
}

struct Planner<'a> {
    s: &'a Situation<'a>,
    plan: Plan,
}

enum Walk {
    Next,
    Stop,
}

impl Planner<'_> {
    fn run(&mut self) {
        if let Some(stop) = self.s.stop {
            return self.end(stop.grace(), matches!(stop, Stop::Deleted { .. }));
        }
        if self.has_run_its_course() {
            return self.end(spec::grace_period(self.s.pod), false);
        }
        self.kill_strays();
        if self.prepare() {
            self.containers();
        }
        self.prune();
    }

    // ---- the end ----

    fn end(&mut self, grace: i64, cleanup: bool) {
        let group = self.next_to_kill();
        if !group.is_empty() {
            for container in group {
                self.kill(&container, KillWhy::Pod, grace);
            }
            return;
        }
        for sandbox in self.s.observed.sandboxes.iter().filter(|sandbox| sandbox.ready) {
            self.plan.steps.push(Step::StopSandbox { id: sandbox.id.clone() });
        }
        self.plan.ended = self.plan.steps.is_empty();
        if self.plan.ended && cleanup {
            self.plan.steps.push(Step::Cleanup);
        } else if self.plan.ended && self.s.memory.volumes != Volumes::Gone {
            self.plan.steps.push(Step::TakeDown);
        }
    }

    /// Everything but sidecars at once; then the sidecars one by one, the last one first.
    fn next_to_kill(&self) -> Vec<Container> {
        let sidecars: Vec<String> = spec::containers(self.s.pod)
            .into_iter()
            .filter(|(kind, _)| *kind == Kind::Sidecar)
            .map(|(_, container)| container.name.clone())
            .collect();
        let running: Vec<Container> = self.s.observed.running().cloned().collect();
        let others: Vec<_> = running.iter().filter(|c| !sidecars.contains(&c.name)).cloned().collect();
        if !others.is_empty() {
            return others;
        }
        let last = sidecars.iter().rev().find_map(|name| running.iter().find(|c| c.name == *name));
        last.cloned().into_iter().collect()
    }

    fn kill(&mut self, container: &Container, why: KillWhy, grace: i64) {
        let deadline = backoff::add(self.s.now, Duration::from_secs(u64::try_from(grace).unwrap_or(0)));
        let under_way = self.s.memory.get(&container.name).and_then(|memory| memory.killing.as_ref());
        if under_way.is_some_and(|killing| killing.id == container.id && killing.deadline <= deadline) {
            return;
        }
        let (id, name) = (container.id.clone(), container.name.clone());
        self.plan.steps.push(Step::Kill { id, name, why, grace });
    }

    /// A pod that is not restarted for ever, all of whose containers have ended for good.
    fn has_run_its_course(&self) -> bool {
        let all = spec::containers(self.s.pod);
        let over = |kind: Kind, c: &ContainerSpec| {
            let latest = self.s.observed.latest(&c.name).filter(|latest| latest.state == State::Exited);
            latest.filter(|latest| !spec::should_restart(self.s.pod, kind, c, latest.exit_code))
        };
        let init_failed = all
            .iter()
            .any(|(kind, c)| *kind == Kind::Init && over(*kind, c).is_some_and(|c| c.exit_code != 0));
        let mut mains = all.iter().filter(|(kind, _)| *kind == Kind::Main).peekable();
        init_failed || mains.peek().is_some() && mains.all(|(kind, c)| over(*kind, c).is_some())
    }

    // ---- sandbox and volumes ----

    /// Containers of a sandbox that is gone cannot be kept.
    fn kill_strays(&mut self) {
        let ready = self.s.observed.ready_sandbox().map(|sandbox| sandbox.id.clone());
        let strays: Vec<Container> =
            self.s.observed.running().filter(|c| Some(&c.sandbox) != ready.as_ref()).cloned().collect();
        for stray in strays {
            self.kill(&stray, KillWhy::Pod, spec::grace_period(self.s.pod));
        }
    }

    fn prepare(&mut self) -> bool {
        let observed = self.s.observed;
        let sandbox = observed.ready_sandbox();
        let lost_network = sandbox.is_some_and(|s| s.ips.is_empty() && !spec::host_network(self.s.pod));
        if let Some(broken) = sandbox.filter(|_| lost_network) {
            self.plan.steps.push(Step::StopSandbox { id: broken.id.clone() });
            return false;
        }
        let wants_sandbox = sandbox.is_none() && self.due(self.s.memory.sandbox_retry);
        let wants_volumes = match self.s.memory.volumes {
            Volumes::Ready => false,
            Volumes::Wanted | Volumes::Gone => true,
            Volumes::Failed(retry) => self.due(Some(retry)),
        };
        if wants_sandbox || wants_volumes {
            let next = observed.sandboxes.first().map_or(0, |newest| newest.attempt.saturating_add(1));
            self.plan
                .steps
                .push(Step::Prepare { volumes: wants_volumes, sandbox: wants_sandbox.then_some(next) });
        }
        sandbox.is_some() && self.s.memory.volumes == Volumes::Ready
    }

    fn due(&mut self, at: Option<Timestamp>) -> bool {
        match at {
            Some(at) if at > self.s.now => {
                self.wake(at);
                false
            }
            _ => true,
        }
    }

    fn wake(&mut self, at: Timestamp) {
        self.plan.wake = Some(self.plan.wake.map_or(at, |earlier| earlier.min(at)));
    }

    // ---- containers ----

    fn containers(&mut self) {
        let pod = self.s.pod;
        let all = spec::containers(pod);
        let mains_began =
            all.iter().any(|(kind, c)| *kind == Kind::Main && self.s.observed.current(&c.name).is_some());
        for (kind, container) in &all {
            let walk = match kind {
                Kind::Init if mains_began => Walk::Next,
                Kind::Init => self.init(container),
                Kind::Sidecar => match self.long_running(*kind, container) {
                    _ if mains_began => Walk::Next,
                    walk => self.sidecar_gate(container, walk),
                },
                Kind::Main => self.long_running(*kind, container),
                Kind::Ephemeral => self.ephemeral(container),
            };
            if matches!(walk, Walk::Stop) {
                break;
            }
        }
    }

    fn init(&mut self, container: &ContainerSpec) -> Walk {
        match self.s.observed.current(&container.name).cloned() {
            Some(c) if c.state == State::Exited && c.exit_code == 0 => return Walk::Next,
            Some(c) if c.state == State::Running => {
                self.check_definition(container);
                self.check_resources(container, &c);
            }
            _ => self.start(Kind::Init, container),
        }
        Walk::Stop
    }

    /// The next container waits until a sidecar has started.
    fn sidecar_gate(&self, container: &ContainerSpec, walk: Walk) -> Walk {
        let running = self.s.observed.current(&container.name).filter(|c| c.state == State::Running);
        let started = running.is_some_and(|c| self.s.memory.health(&container.name, &c.id).started);
        if started { walk } else { Walk::Stop }
    }

    fn long_running(&mut self, kind: Kind, container: &ContainerSpec) -> Walk {
        let current = self.s.observed.current(&container.name).cloned();
        match current {
            Some(c) if c.state == State::Running => {
                if self.s.memory.in_post_start(&container.name, &c.id) {
                    return Walk::Stop;
                }
                self.check_health(container, &c);
                self.check_definition(container);
                self.check_resources(container, &c);
            }
            Some(c) if c.state == State::Unknown => {
                self.kill(&c, KillWhy::Pod, spec::grace_period(self.s.pod))
            }
            Some(c) if c.state == State::Exited => {
                if spec::should_restart(self.s.pod, kind, container, c.exit_code) {
                    self.start(kind, container);
                }
            }
            _ if self.ended_for_good_elsewhere(kind, container) => {}
            _ => self.start(kind, container),
        }
        Walk::Next
    }

    /// Ended in an older sandbox, and not to be run again.
    fn ended_for_good_elsewhere(&self, kind: Kind, container: &ContainerSpec) -> bool {
        let latest = self.s.observed.latest(&container.name).filter(|latest| latest.state == State::Exited);
        latest.is_some_and(|latest| !spec::should_restart(self.s.pod, kind, container, latest.exit_code))
    }

    fn ephemeral(&mut self, container: &ContainerSpec) -> Walk {
        if self.s.observed.latest(&container.name).is_none() {
            self.start(Kind::Ephemeral, container);
        }
        Walk::Next
    }

    fn check_health(&mut self, container: &ContainerSpec, running: &Container) {
        if let Some(failed) = self.s.memory.health(&container.name, &running.id).failed {
            let grace = failed.grace.unwrap_or_else(|| spec::grace_period(self.s.pod));
            self.kill(running, KillWhy::Probe(failed.probe), grace);
        }
    }

    fn check_definition(&mut self, container: &ContainerSpec) {
        let Some(running) = self.s.observed.current(&container.name).cloned() else { return };
        let changed = spec::is_redefined(container, &running.hash);
        let planned = self.plan.steps.iter().any(|s| matches!(s, Step::Kill { id, .. } if *id == running.id));
        if changed && !planned {
            self.kill(&running, KillWhy::Definition, spec::grace_period(self.s.pod));
        }
    }

    fn check_resources(&mut self, container: &ContainerSpec, running: &Container) {
        let Some(difference) = resize::difference(self.s.pod, container, running.resources.as_ref()) else {
            return;
        };
        let planned =
            self.plan.steps.iter().any(|step| matches!(step, Step::Kill { id, .. } if *id == running.id));
        let memory = self.s.memory.get(&container.name);
        if planned || memory.is_some_and(|memory| memory.killing.is_some()) {
            return;
        }
        if difference.restarts(container) {
            return self.kill(running, KillWhy::Resize, spec::grace_period(self.s.pod));
        }
        let target = (running.id.clone(), resize::target(self.s.pod, container));
        if memory.is_some_and(|memory| memory.resize_told.as_ref() == Some(&target)) {
            return;
        }
        let failed = memory.and_then(|memory| memory.resize_failed.as_ref());
        if self.due(failed.map(|(retry_at, _)| *retry_at)) {
            let (id, name) = (running.id.clone(), container.name.clone());
            self.plan.steps.push(Step::Resize { id, name });
        }
    }

    /// Starts a container unless a back-off, a problem or a pull stands in the way.
    fn start(&mut self, kind: Kind, container: &ContainerSpec) {
        let name = &container.name;
        let latest = self.s.observed.latest(name);
        let after =
            latest.filter(|c| c.state == State::Exited).map(|c| c.finished_at.unwrap_or(c.created_at));
        // What it did under another definition does not count against it.
        let redefined = latest.is_some_and(|c| spec::is_redefined(container, &c.hash));
        let crashed = after.filter(|_| !redefined);
        if self.pull_blocks(container) || self.crash_blocks(name, crashed) || self.problem_blocks(name) {
            return;
        }
        if let Some(leftover) = latest.filter(|c| c.state == State::Created) {
            self.plan.steps.push(Step::Remove { id: leftover.id.clone() });
        }
        let restart_count = match latest {
            Some(c) if c.state == State::Created => c.restart_count,
            Some(c) => c.restart_count.saturating_add(1),
            None => self.remembered_restarts(kind, name),
        };
        self.plan.steps.push(Step::Start { name: name.clone(), restart_count, after });
    }

    /// A container that the API has seen and the runtime has forgotten keeps its count.
    fn remembered_restarts(&self, kind: Kind, name: &str) -> i32 {
        let Some(status) = &self.s.pod.status else { return 0 };
        let list = match kind {
            Kind::Main => &status.container_statuses,
            Kind::Ephemeral => &status.ephemeral_container_statuses,
            Kind::Init | Kind::Sidecar => &status.init_container_statuses,
        };
        let known = list.iter().flatten().find(|known| known.name == name);
        let ran = known.filter(|known| known.container_id.as_deref().is_some_and(|id| !id.is_empty()));
        ran.map_or(0, |known| known.restart_count.saturating_add(1))
    }

    fn crash_blocks(&mut self, name: &str, after: Option<Timestamp>) -> bool {
        let (Some(ended), Some(memory)) = (after, self.s.memory.get(name)) else { return false };
        let Some(until) = memory.backoff.until(ended, self.s.now) else { return false };
        let message = format!(
            "back-off {} restarting failed container={name} pod={}",
            go_duration(memory.backoff.delay()),
            spec::describe(self.s.pod)
        );
        self.plan.waiting.insert(name.to_owned(), Waiting::new("CrashLoopBackOff", message));
        self.wake(until);
        true
    }

    fn pull_blocks(&mut self, container: &ContainerSpec) -> bool {
        let Some(memory) = self.s.memory.get(&container.name) else { return false };
        let problem = memory.problem.as_ref().filter(|problem| problem.pull);
        let until = memory.pull_backoff.until_since_update(self.s.now);
        let (Some(problem), Some(until)) = (problem, until.or(memory.pulling.then_some(Timestamp::MAX)))
        else {
            return memory.pulling;
        };
        let flips = backoff::add(problem.since, SHOW_PULL_ERROR);
        let waiting = if flips > self.s.now {
            self.wake(flips);
            problem.waiting.clone()
        } else {
            let image = container.image.as_deref().unwrap_or_default();
            let Waiting { reason, message } = &problem.waiting;
            Waiting::new(
                "ImagePullBackOff",
                format!("Back-off pulling image \"{image}\": {reason}: {message}"),
            )
        };
        self.plan.waiting.insert(container.name.clone(), waiting);
        if !memory.pulling {
            self.wake(until);
        }
        true
    }

    fn problem_blocks(&mut self, name: &str) -> bool {
        let problem = self.s.memory.get(name).and_then(|memory| memory.problem.clone());
        let Some(problem) = problem.filter(|problem| !problem.pull) else { return false };
        self.plan.waiting.insert(name.to_owned(), problem.waiting);
        !self.due(Some(problem.retry_at))
    }

    /// Of every container the newest and one dead one before it stay (for `logs --previous`).
    fn prune(&mut self) {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for container in &self.s.observed.containers {
            let count = seen.entry(&container.name).or_default();
            *count += 1;
            let old = *count > 2 && matches!(container.state, State::Exited | State::Created);
            if old {
                self.plan.steps.push(Step::Remove { id: container.id.clone() });
            }
        }
        // The newest sandbox tells the attempt number and the addresses; older ones that are down are only litter.
        let holds = |id: &str| self.s.observed.containers.iter().any(|c| c.sandbox == id);
        let replaced = self.s.observed.sandboxes.iter().skip(1).filter(|s| !s.ready && !holds(&s.id));
        let steps: Vec<Step> = replaced.map(|s| Step::RemoveSandbox { id: s.id.clone() }).collect();
        self.plan.steps.extend(steps);
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
