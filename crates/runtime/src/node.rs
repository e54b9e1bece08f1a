//! The runtime's shared state, and finding everything again at a start.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use corten_streaming::StreamServer;
use corten_sys::cgroups::{Cgroups, HostCgroups, Version};
use corten_sys::mounts::{HostMounts, Mounts};
use corten_sys::{namespaces, sockets};
use k8s_cri::v1::ContainerEventType;

use crate::config::RuntimeConfig;
use crate::error::{Result, RuntimeError};
use crate::events::Events;
use crate::files;
use crate::registry::{
    CONTAINER_FILE, Container, ContainerRecord, Progress, Registry, SANDBOX_FILE, Sandbox, SandboxRecord,
    stored,
};
use crate::shim::{EXIT_FILE, Exited, SOCKET_FILE, STARTED_FILE};
use crate::spec::Host;
use crate::{lifecycle, status};

/// Exit code of containers whose end nobody saw, as containerd reports it.
pub(crate) const UNKNOWN_EXIT_CODE: i32 = 255;

/// One node's runtime.
pub(crate) struct Node {
    pub config: RuntimeConfig,
    pub cgroups: HostCgroups,
    pub mounts: HostMounts,
    pub host: Host,
    pub registry: Registry,
    pub events: Events,
    /// Set once, before the first request.
    pub streams: OnceLock<StreamServer>,
}

impl Node {
    /// Looks at the host and loads what an earlier run has left.
    pub(crate) fn load(config: RuntimeConfig) -> Result<Arc<Self>> {
        for dir in [config.sandboxes_dir(), config.containers_dir()] {
            std::fs::create_dir_all(&dir).map_err(files::failed(format!("create {}", dir.display())))?;
        }
        let cgroups = HostCgroups::detect()?;
        cgroups.create(&config.cgroup_root)?;
        let host = look_at_host(&cgroups, &config.cgroup_root);
        let node = Self {
            config,
            cgroups,
            mounts: HostMounts,
            host,
            registry: Registry::default(),
            events: Events::new(),
            streams: OnceLock::new(),
        };
        node.load_sandboxes();
        node.load_containers();
        Ok(Arc::new(node))
    }

    fn load_sandboxes(&self) {
        for (dir, record) in stored::<SandboxRecord>(&self.config.sandboxes_dir(), SANDBOX_FILE) {
            let Some(record) = record else {
                self.clean_up(&dir);
                continue;
            };
            let sandbox = Sandbox::new(dir, record);
            let (ready, on_host) = sandbox.with(|r| (r.ready, status::on_host_network(&r.config)));
            // After a reboot the pins are plain files and the pod's processes are gone.
            if ready && !on_host && !namespaces::is_pinned(&sandbox.dir.join("ns/net")) {
                let _ = sandbox.update(|r| r.ready = false);
            }
            self.registry.add_sandbox(Arc::new(sandbox));
        }
    }

    fn load_containers(&self) {
        for (dir, record) in stored::<ContainerRecord>(&self.config.containers_dir(), CONTAINER_FILE) {
            match record {
                Some(record) => {
                    let progress = Progress {
                        started: files::read_json(&dir.join(STARTED_FILE)).ok(),
                        exited: files::read_json(&dir.join(EXIT_FILE)).ok(),
                    };
                    self.registry.add_container(Arc::new(Container::new(dir, record, progress)));
                }
                None => self.clean_up(&dir),
            }
        }
    }

    /// Removes a directory whose record never came to be, or is already gone.
    fn clean_up(&self, dir: &Path) {
        let unpinned =
            ["net", "ipc", "uts", "pid"].iter().try_for_each(|n| namespaces::unpin(&dir.join("ns").join(n)));
        let cleaned = unpinned.and_then(|()| self.mounts.unmount_below(dir));
        let removed = cleaned.map_err(RuntimeError::from).and_then(|()| Ok(files::remove_dir(dir)?));
        if let Err(error) = removed {
            tracing::warn!(dir = %dir.display(), %error, "leftovers stay");
        }
    }

    /// Takes up the containers that still run; those whose shim is gone are noted as ended.
    pub(crate) fn adopt(self: &Arc<Self>) {
        for container in self.registry.containers() {
            let progress = container.progress();
            let connected = match progress.exited {
                None => sockets::connect(&container.dir.join(SOCKET_FILE)),
                Some(_) => {
                    // Ended while nobody looked.
                    self.released(&container);
                    continue;
                }
            };
            match connected {
                Ok(stream) => lifecycle::supervise(self, &container, stream, None),
                Err(_) if progress.started.is_some() => {
                    container.set_exited(self.lost(&container));
                    self.released(&container);
                }
                Err(_) => {}
            }
        }
    }

    /// The end of a container whose shim has gone: what it wrote down, or else that the end is unknown.
    /// Then nothing may be left running. Blocking.
    pub(crate) fn lost(&self, container: &Container) -> Exited {
        let path = container.dir.join(EXIT_FILE);
        if let Ok(recorded) = files::read_json(&path) {
            return recorded;
        }
        let exited = Exited {
            code: UNKNOWN_EXIT_CODE,
            signal: 0,
            at_ns: crate::shim::now_ns(),
            oom: false,
            reason: Some("Unknown".into()),
            message: "the container's shim has disappeared".into(),
        };
        let killed = self.cgroups.kill_all(&container.with(|r| r.cgroup.clone()));
        let recorded = files::write_json(&path, &exited);
        if let Some(error) = killed.err().map(|e| e.to_string()).or(recorded.err().map(|e| e.to_string())) {
            tracing::warn!(container = container.id, error, "lost container not cleaned up");
        }
        exited
    }

    /// Gives back what an ended container holds but its record, its log and its files. Blocking.
    pub(crate) fn release(&self, container: &Container) -> Result<()> {
        let cgroup = container.with(|r| r.cgroup.clone());
        self.cgroups.kill_all(&cgroup)?;
        self.cgroups.remove(&cgroup)?;
        Ok(self.mounts.unmount(&container.dir.join("rootfs"))?)
    }

    fn released(&self, container: &Container) {
        if let Err(error) = self.release(container) {
            tracing::warn!(container = container.id, %error, "ended container not released");
        }
    }

    /// Lets the network forget sandboxes that are no more.
    pub(crate) async fn reconcile_network(&self) -> Result<()> {
        let alive = |s: &Arc<Sandbox>| s.with(|r| r.ready && !status::on_host_network(&r.config));
        let live: BTreeSet<String> =
            self.registry.sandboxes().iter().filter(|s| alive(s)).map(|s| s.id.clone()).collect();
        Ok(self.config.network.reconcile(&live).await?)
    }

    /// Tells listeners of a container.
    pub(crate) fn announce(&self, kind: ContainerEventType, container: &Container) {
        self.announce_id(kind, &container.id, &container.sandbox_id);
    }

    /// Tells listeners of a container or sandbox by id.
    pub(crate) fn announce_id(&self, kind: ContainerEventType, id: &str, sandbox_id: &str) {
        if !self.events.heard() {
            return;
        }
        let sandbox = self.registry.find_sandbox(sandbox_id).map(|s| status::sandbox_status(&s));
        let containers = self.registry.containers_of(sandbox_id);
        let statuses = containers.iter().map(|c| status::container_status(c)).collect();
        self.events.send(kind, id, sandbox, statuses);
    }
}

fn look_at_host(cgroups: &HostCgroups, root: &str) -> Host {
    let file = |name: &str| cgroups.directory("memory", root).is_some_and(|dir| dir.join(name).exists());
    let swap_limits = match cgroups.version() {
        Version::V1 => file("memory.memsw.limit_in_bytes"),
        Version::V2 => file("memory.swap.max"),
    };
    let hostname = nix::unistd::gethostname().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default();
    Host {
        cgroups: cgroups.version(),
        cgroup_mounts: cgroups.mount_points(),
        swap_limits,
        hostname,
        least_oom_score_adj: least_oom_score_adj(),
    }
}

/// The kernel lets only CAP_SYS_RESOURCE go below what a process has already.
fn least_oom_score_adj() -> i64 {
    const LEAST: i64 = -1000;
    if caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_RESOURCE).unwrap_or(false) {
        return LEAST;
    }
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    own.trim().parse().unwrap_or(0)
}

/// A new id: 64 hexadecimal digits, as CRI clients expect them.
pub(crate) fn new_id() -> String {
    let bytes: [u8; 32] = rand::random();
    hex::encode(bytes)
}

/// Runs blocking work (mounts, control groups, directory trees) off the reactor threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}
