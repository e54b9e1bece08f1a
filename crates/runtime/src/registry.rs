//! What sandboxes and containers there are: in memory for every call, on disk for the next start.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_cri::v1::{ContainerConfig, LinuxContainerResources, PodSandboxConfig};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::error::{Result, RuntimeError};
use crate::files;
use crate::shim::{Exited, Started};
use crate::spec::User;

/// The agent's record in a sandbox's directory: the first file written, the last removed.
pub(crate) const SANDBOX_FILE: &str = "sandbox.json";
/// The agent's record in a container's directory.
pub(crate) const CONTAINER_FILE: &str = "container.json";

/// Locks a mutex whose data stays meaningful whatever a panicking holder did.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What never changes of a sandbox, and what does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub id: String,
    pub config: PodSandboxConfig,
    pub runtime_handler: String,
    pub created_at_ns: i64,
    /// Parent of the containers' control groups.
    pub cgroup: String,
    /// Whether the sandbox takes containers. False while it is being made and once it is stopped.
    pub ready: bool,
    /// Addresses, the primary one first; empty on the host network.
    pub ips: Vec<String>,
}

/// One pod sandbox.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub id: String,
    pub dir: PathBuf,
    record: Mutex<SandboxRecord>,
    /// Held while the sandbox is started, stopped or removed.
    pub busy: tokio::sync::Mutex<()>,
}

impl Sandbox {
    pub(crate) fn new(dir: PathBuf, record: SandboxRecord) -> Self {
        Self { id: record.id.clone(), dir, record: Mutex::new(record), busy: tokio::sync::Mutex::new(()) }
    }

    pub(crate) fn record(&self) -> SandboxRecord {
        locked(&self.record).clone()
    }

    /// Looks at the record without copying it.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&SandboxRecord) -> T) -> T {
        look(&locked(&self.record))
    }

    /// Changes the record, in memory and on disk.
    pub(crate) fn update(&self, change: impl FnOnce(&mut SandboxRecord)) -> Result<()> {
        let mut record = locked(&self.record);
        change(&mut record);
        Ok(files::write_json(&self.dir.join(SANDBOX_FILE), &*record)?)
    }
}

/// What a container was made from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub id: String,
    pub sandbox_id: String,
    pub config: ContainerConfig,
    /// CRI's image id.
    pub image_id: String,
    /// The image's name as users know it.
    pub image_name: String,
    /// Digest of the image in its repository, or its id.
    pub image_ref: String,
    pub created_at_ns: i64,
    pub cgroup: String,
    pub log_path: Option<PathBuf>,
    /// Number of the signal that asks the program to stop.
    pub stop_signal: i32,
    pub user: User,
    /// Whether processes may outlive the main one.
    pub shares_pids: bool,
    pub resources: Option<LinuxContainerResources>,
}

/// What happened to a container so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    pub started: Option<Started>,
    pub exited: Option<Exited>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Created,
    Running,
    Exited,
}

impl Progress {
    pub(crate) fn phase(&self) -> Phase {
        match (&self.started, &self.exited) {
            (_, Some(_)) => Phase::Exited,
            (Some(_), None) => Phase::Running,
            (None, None) => Phase::Created,
        }
    }
}

/// A sample of CPU time, to tell a rate from two of them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CpuSample {
    pub at_ns: i64,
    pub used_ns: u64,
    pub nano_cores: Option<u64>,
}

/// One container.
#[derive(Debug)]
pub(crate) struct Container {
    pub id: String,
    pub sandbox_id: String,
    pub dir: PathBuf,
    record: Mutex<ContainerRecord>,
    progress: watch::Sender<Progress>,
    pub cpu: Mutex<CpuSample>,
    /// Held while the container is started or removed.
    pub busy: tokio::sync::Mutex<()>,
}

impl Container {
    pub(crate) fn new(dir: PathBuf, record: ContainerRecord, progress: Progress) -> Self {
        Self {
            id: record.id.clone(),
            sandbox_id: record.sandbox_id.clone(),
            dir,
            record: Mutex::new(record),
            progress: watch::Sender::new(progress),
            cpu: Mutex::default(),
            busy: tokio::sync::Mutex::new(()),
        }
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&ContainerRecord) -> T) -> T {
        look(&locked(&self.record))
    }

    /// Changes the record, in memory and on disk.
    pub(crate) fn update(&self, change: impl FnOnce(&mut ContainerRecord)) -> Result<()> {
        let mut record = locked(&self.record);
        change(&mut record);
        Ok(files::write_json(&self.dir.join(CONTAINER_FILE), &*record)?)
    }

    pub(crate) fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.progress.borrow().phase()
    }

    pub(crate) fn set_started(&self, started: Started) {
        self.progress.send_modify(|p| p.started = Some(started));
    }

    /// Notes the end; the first one noted counts.
    pub(crate) fn set_exited(&self, exited: Exited) {
        self.progress.send_if_modified(|p| {
            let first = p.exited.is_none();
            if first {
                p.exited = Some(exited);
            }
            first
        });
    }

    /// Returns once the container has ended.
    pub(crate) async fn ended(&self) {
        let mut progress = self.progress.subscribe();
        // The sender lives as long as `self`.
        let _ = progress.wait_for(|p| p.exited.is_some()).await;
    }
}

/// All sandboxes and containers by id.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    sandboxes: Mutex<HashMap<String, Arc<Sandbox>>>,
    containers: Mutex<HashMap<String, Arc<Container>>>,
}

impl Registry {
    /// The sandbox with this id or with an id that begins so; `None` when there is none or more than one.
    pub(crate) fn find_sandbox(&self, id: &str) -> Option<Arc<Sandbox>> {
        by_prefix(&locked(&self.sandboxes), id)
    }

    pub(crate) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        self.find_sandbox(id).ok_or_else(|| RuntimeError::no_sandbox(id))
    }

    /// The container with this id or with an id that begins so.
    pub(crate) fn find_container(&self, id: &str) -> Option<Arc<Container>> {
        by_prefix(&locked(&self.containers), id)
    }

    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>> {
        self.find_container(id).ok_or_else(|| RuntimeError::no_container(id))
    }

    pub(crate) fn add_sandbox(&self, sandbox: Arc<Sandbox>) {
        locked(&self.sandboxes).insert(sandbox.id.clone(), sandbox);
    }

    pub(crate) fn add_container(&self, container: Arc<Container>) {
        locked(&self.containers).insert(container.id.clone(), container);
    }

    pub(crate) fn forget_sandbox(&self, id: &str) {
        locked(&self.sandboxes).remove(id);
    }

    pub(crate) fn forget_container(&self, id: &str) {
        locked(&self.containers).remove(id);
    }

    /// All sandboxes, oldest first.
    pub(crate) fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        let mut all: Vec<_> = locked(&self.sandboxes).values().cloned().collect();
        all.sort_by_key(|s| (s.with(|r| r.created_at_ns), s.id.clone()));
        all
    }

    /// All containers, oldest first.
    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        let mut all: Vec<_> = locked(&self.containers).values().cloned().collect();
        all.sort_by_key(|c| (c.with(|r| r.created_at_ns), c.id.clone()));
        all
    }

    /// The containers of one sandbox, oldest first.
    pub(crate) fn containers_of(&self, sandbox_id: &str) -> Vec<Arc<Container>> {
        self.containers().into_iter().filter(|c| c.sandbox_id == sandbox_id).collect()
    }
}

fn by_prefix<T>(all: &HashMap<String, Arc<T>>, id: &str) -> Option<Arc<T>> {
    if let Some(found) = all.get(id) {
        return Some(found.clone());
    }
    let mut matching = all.iter().filter(|(full, _)| !id.is_empty() && full.starts_with(id));
    match (matching.next(), matching.next()) {
        (Some((_, only)), None) => Some(only.clone()),
        _ => None,
    }
}

/// The directories below `parent`, with the record in each; `None` where it is missing or unreadable.
pub(crate) fn stored<T: serde::de::DeserializeOwned>(parent: &Path, file: &str) -> Vec<(PathBuf, Option<T>)> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let dirs = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path());
    dirs.map(|dir| (dir.clone(), files::read_json(&dir.join(file)).ok())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_may_be_abbreviated_while_they_are_unique() {
        let all: HashMap<String, Arc<u8>> =
            [("abcd", 1), ("abef", 2), ("ab", 3)].map(|(id, n)| (id.to_owned(), Arc::new(n))).into();
        for (id, want) in
            [("abcd", Some(1)), ("abc", Some(1)), ("ab", Some(3)), ("a", None), ("", None), ("x", None)]
        {
            assert_eq!(by_prefix(&all, id).map(|n| *n), want, "{id}");
        }
    }

    #[test]
    fn the_first_end_counts() {
        let record = ContainerRecord {
            id: "c".into(),
            sandbox_id: "s".into(),
            config: ContainerConfig::default(),
            image_id: String::new(),
            image_name: String::new(),
            image_ref: String::new(),
            created_at_ns: 0,
            cgroup: String::new(),
            log_path: None,
            stop_signal: 15,
            user: User::default(),
            shares_pids: false,
            resources: None,
        };
        let container = Container::new("/nowhere".into(), record, Progress::default());
        assert_eq!(container.phase(), Phase::Created);
        container.set_started(Started { pid: 1, at_ns: 1 });
        assert_eq!(container.phase(), Phase::Running);
        let end =
            |code| Exited { code, signal: 0, at_ns: 2, oom: false, reason: None, message: String::new() };
        container.set_exited(end(3));
        container.set_exited(end(4));
        assert_eq!(container.progress().exited.map(|e| e.code), Some(3));
    }
}
