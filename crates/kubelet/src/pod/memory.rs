//! What a pod's worker remembers between two looks at the runtime: back-offs, things under way, problems.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_cri::v1::LinuxContainerResources;

use crate::backoff::Backoff;

/// Why a container does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Upstream's CamelCase word.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Waiting {
    /// A reason without more words, or with them.
    pub fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into() }
    }
}

/// A start that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What the status says.
    pub waiting: Waiting,
    /// When the next try is due; for pulls the back-off decides instead.
    pub retry_at: Timestamp,
    /// When it happened.
    pub since: Timestamp,
    /// A failed pull: turns into ImagePullBackOff.
    pub pull: bool,
}

/// A container that is being stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Killing {
    /// CRI id.
    pub id: String,
    /// When SIGKILL is due.
    pub deadline: Timestamp,
}

/// What the probes say of one running container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// CRI id that the rest is about.
    pub id: String,
    /// The startup probe has passed, or there is none.
    pub started: bool,
    /// The readiness probe says yes, or there is none.
    pub ready: bool,
    /// The probe whose failure ends the container.
    pub failed: Option<FailedProbe>,
}

/// A probe that failed often enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedProbe {
    /// `liveness` or `startup`.
    pub probe: &'static str,
    /// Grace period of the probe's own, in seconds.
    pub grace: Option<i64>,
}

/// Memory of one container.
#[derive(Debug, Clone, Default)]
pub struct ContainerMemory {
    /// Back-off of restarts.
    pub backoff: Backoff,
    /// Back-off of pulls.
    pub pull_backoff: Backoff,
    /// A pull is under way.
    pub pulling: bool,
    /// Reference of the image pulled or found for the next start.
    pub pulled: Option<String>,
    /// References of the images of its image volumes, by volume, for the next start.
    pub volume_images: BTreeMap<String, String>,
    /// Why the last start failed.
    pub problem: Option<Problem>,
    /// Being stopped.
    pub killing: Option<Killing>,
    /// Id of the container whose postStart hook has not ended.
    pub post_start: Option<String>,
    /// What the probes say.
    pub health: Option<Health>,
    /// When a change of its resources that failed is tried again, and why it failed.
    pub resize_failed: Option<(Timestamp, String)>,
    /// Id and resources that the runtime has taken: a runtime that shows others is not told the same again and again.
    pub resize_told: Option<(String, LinuxContainerResources)>,
    /// The waiting reason that was last told in an event.
    pub told: Option<String>,
}

/// How far the volumes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Volumes {
    /// To be set up.
    #[default]
    Wanted,
    /// Set up failed; try again then.
    Failed(Timestamp),
    /// In place.
    Ready,
    /// Taken down: the pod has ended.
    Gone,
}

/// Memory of a pod.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// By container name.
    pub containers: BTreeMap<String, ContainerMemory>,
    /// How far the volumes are.
    pub volumes: Volumes,
    /// The pod's addresses.
    pub ips: Vec<String>,
    /// Set-ups of volumes that failed in a row.
    pub volume_failures: u32,
    /// When to try the sandbox again.
    pub sandbox_retry: Option<Timestamp>,
    /// Sandboxes that failed in a row.
    pub sandbox_failures: u32,
}

impl Memory {
    /// Memory of one container.
    pub fn of(&mut self, name: &str) -> &mut ContainerMemory {
        self.containers.entry(name.to_owned()).or_default()
    }

    /// Memory of one container, if there is any.
    pub fn get(&self, name: &str) -> Option<&ContainerMemory> {
        self.containers.get(name)
    }

    /// What the probes say of the container with this id; without probes all is well once it runs.
    pub fn health(&self, name: &str, id: &str) -> Health {
        let known = self.get(name).and_then(|memory| memory.health.clone());
        known.filter(|health| health.id == id).unwrap_or_default()
    }

    /// Whether the container's postStart hook still runs.
    pub fn in_post_start(&self, name: &str, id: &str) -> bool {
        self.get(name).is_some_and(|memory| memory.post_start.as_deref() == Some(id))
    }
}
