//! What the runtime has of a pod: sandboxes and containers, newest first.

use std::collections::HashMap;

use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_cri::v1 as pb;

use crate::cri::{Cri, Result};
use crate::labels;

/// State of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Made, never started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// The runtime lost track of it.
    Unknown,
}

/// A sandbox.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// CRI id.
    pub id: String,
    /// How many were made before it.
    pub attempt: u32,
    /// Whether it can hold containers.
    pub ready: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// The pod's addresses; none with the node's network.
    pub ips: Vec<String>,
}

/// A container.
#[derive(Debug, Clone)]
pub struct Container {
    /// CRI id.
    pub id: String,
    /// Name in the spec.
    pub name: String,
    /// Sandbox that it is in.
    pub sandbox: String,
    /// State.
    pub state: State,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Exit code.
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`, …
    pub reason: String,
    /// More about the end; the termination message where there is one.
    pub message: String,
    /// Image as the runtime names it.
    pub image: String,
    /// Image by digest.
    pub image_ref: String,
    /// Restarts before this one.
    pub restart_count: i32,
    /// Hash of the spec that it was made from.
    pub hash: String,
    /// Log file.
    pub log_path: String,
    /// User that it runs as: uid, gid, supplementary groups.
    pub user: Option<(i64, i64, Vec<i64>)>,
    /// Termination message: path inside, file outside, policy.
    pub termination: Option<Termination>,
    /// What it may use, where the runtime says.
    pub resources: Option<pb::LinuxContainerResources>,
}

/// Where a termination message comes from.
#[derive(Debug, Clone)]
pub struct Termination {
    /// File on the node.
    pub file: String,
    /// Whether the log's end may stand in for it.
    pub fallback_to_logs: bool,
}

/// A pod as the runtime has it.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Newest first.
    pub sandboxes: Vec<Sandbox>,
    /// Newest first.
    pub containers: Vec<Container>,
}

impl Observed {
    /// Asks the runtime.
    pub async fn load(cri: &Cri, uid: &str) -> Result<Self> {
        let of_pod: HashMap<_, _> = [(labels::POD_UID.to_owned(), uid.to_owned())].into();
        let (sandboxes, containers) =
            tokio::try_join!(cri.sandboxes(of_pod.clone()), cri.containers(of_pod.clone()))?;
        let boxes = try_join_all(sandboxes.iter().map(|listed| cri.sandbox_status(&listed.id)));
        let statuses = try_join_all(containers.iter().map(|listed| cri.container_status(&listed.id)));
        let (boxes, statuses) = tokio::try_join!(boxes, statuses)?;
        let of_sandbox = containers.into_iter().map(|listed| listed.pod_sandbox_id);
        let statuses = statuses.into_iter().zip(of_sandbox);
        let mut observed = Self {
            sandboxes: boxes.into_iter().flatten().map(sandbox).collect(),
            containers: statuses.filter_map(|(status, of)| Some(container(status?, of))).collect(),
        };
        observed.sort();
        Ok(observed)
    }

    /// Brings both lists into the order newest first.
    pub fn sort(&mut self) {
        self.sandboxes.sort_by_key(|s| std::cmp::Reverse((s.attempt, s.created_at)));
        self.containers.sort_by_key(|c| std::cmp::Reverse((c.restart_count, c.created_at)));
    }

    /// The sandbox in use.
    pub fn ready_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.iter().find(|sandbox| sandbox.ready)
    }

    /// The newest container called `name`.
    pub fn latest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// The newest container called `name` in the sandbox in use.
    pub fn current(&self, name: &str) -> Option<&Container> {
        let sandbox = &self.ready_sandbox()?.id;
        self.containers.iter().find(|container| container.name == name && container.sandbox == *sandbox)
    }

    /// The newest ended container called `name`, the newest of all left out.
    pub fn previous(&self, name: &str) -> Option<&Container> {
        let mut named = self.containers.iter().filter(|container| container.name == name);
        named.next();
        named.find(|container| container.state == State::Exited)
    }

    /// Containers that still have processes, or may have.
    pub fn running(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|c| matches!(c.state, State::Running | State::Unknown))
    }
}

fn sandbox(status: pb::PodSandboxStatus) -> Sandbox {
    let network = status.network.unwrap_or_default();
    let more = network.additional_ips.into_iter().map(|ip| ip.ip);
    Sandbox {
        id: status.id,
        attempt: status.metadata.map_or(0, |metadata| metadata.attempt),
        ready: status.state == pb::PodSandboxState::SandboxReady as i32,
        created_at: time(status.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
        ips: std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect(),
    }
}

fn container(status: pb::ContainerStatus, sandbox: String) -> Container {
    let annotation = |name: &str| status.annotations.get(name).map(String::as_str).unwrap_or_default();
    let metadata = status.metadata.clone().unwrap_or_default();
    let attempt = i32::try_from(metadata.attempt).unwrap_or(i32::MAX);
    let user = status.user.as_ref().and_then(|user| user.linux.clone());
    Container {
        name: status.labels.get(labels::CONTAINER_NAME).cloned().unwrap_or(metadata.name),
        sandbox,
        state: state(status.state),
        created_at: time(status.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
        started_at: time(status.started_at),
        finished_at: time(status.finished_at),
        exit_code: status.exit_code,
        image: status.image.as_ref().map(shown_image).unwrap_or_default(),
        restart_count: annotation(labels::RESTART_COUNT).parse().unwrap_or(attempt),
        hash: annotation(labels::CONTAINER_HASH).to_owned(),
        termination: termination(&status),
        resources: status.resources.and_then(|resources| resources.linux),
        user: user.map(|user| (user.uid, user.gid, user.supplemental_groups)),
        id: status.id,
        reason: status.reason,
        message: status.message,
        image_ref: status.image_ref,
        log_path: status.log_path,
    }
}

fn shown_image(spec: &pb::ImageSpec) -> String {
    if spec.user_specified_image.is_empty() { spec.image.clone() } else { spec.user_specified_image.clone() }
}

fn termination(status: &pb::ContainerStatus) -> Option<Termination> {
    let path = status.annotations.get(labels::TERMINATION_PATH)?;
    let policy = status.annotations.get(labels::TERMINATION_POLICY).map(String::as_str);
    let mount = status.mounts.iter().find(|mount| mount.container_path == *path);
    Some(Termination {
        file: mount.map(|mount| mount.host_path.clone()).unwrap_or_default(),
        fallback_to_logs: policy == Some("FallbackToLogsOnError"),
    })
}

fn state(state: i32) -> State {
    match pb::ContainerState::try_from(state) {
        Ok(pb::ContainerState::ContainerCreated) => State::Created,
        Ok(pb::ContainerState::ContainerRunning) => State::Running,
        Ok(pb::ContainerState::ContainerExited) => State::Exited,
        _ => State::Unknown,
    }
}

/// CRI's nanoseconds since 1970; zero is "never".
pub fn time(nanoseconds: i64) -> Option<Timestamp> {
    if nanoseconds <= 0 {
        return None;
    }
    Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()
}
