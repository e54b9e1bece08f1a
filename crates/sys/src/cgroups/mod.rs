//! Control groups, version 1 and 2 behind one trait: create, limit, measure, kill, remove.
//!
//! A group is named by its path below the hierarchy's root, with a leading slash, the same in every
//! hierarchy of version 1 (`/corten/kubepods/burstable/pod<uid>/<container>`).

mod devices;
mod files;
mod v1;
mod v2;

use std::path::PathBuf;
use std::sync::Mutex;

use crate::error::Result;

pub use devices::{DeviceKind, DeviceRule, MKNOD, READ, WRITE};
pub use files::parse_oom_kills;

/// Which interface the host mounts. Hybrid hosts (v1 controllers, empty v2 tree) count as version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy a controller.
    V1,
    /// The unified hierarchy.
    V2,
}

/// Limits to write; `None` and empty leave a file untouched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Relative weight, 2 to 262144 (1024 is one CPU's worth of requests).
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU each period; -1 is no limit.
    pub cpu_quota_us: Option<i64>,
    /// Length of the period in microseconds.
    pub cpu_period_us: Option<u64>,
    /// Memory; -1 is no limit.
    pub memory_bytes: Option<i64>,
    /// Memory and swap together; -1 is no limit.
    pub memory_and_swap_bytes: Option<i64>,
    /// Processes and threads; -1 is no limit.
    pub pids: Option<i64>,
    /// CPUs allowed, as a list (`0-3,7`).
    pub cpuset_cpus: String,
    /// Memory nodes allowed, as a list.
    pub cpuset_mems: String,
    /// Page size (`2MB`) and limit in bytes.
    pub hugepages: Vec<(String, u64)>,
    /// Files of version 2 written as they are (`memory.min`).
    pub unified: Vec<(String, String)>,
}

/// What a group uses; a controller that is not there counts as zero, limits as `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time used since the group was made, in nanoseconds.
    pub cpu_ns: u64,
    /// All memory charged, page cache included.
    pub memory_bytes: u64,
    /// Page cache that can be dropped at once; usage minus this is the working set.
    pub inactive_file_bytes: u64,
    /// Anonymous memory.
    pub rss_bytes: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that needed I/O.
    pub major_page_faults: u64,
    /// The memory limit, if one is set.
    pub memory_limit_bytes: Option<u64>,
    /// Swap in use.
    pub swap_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}

impl Usage {
    /// Usage without what the kernel can drop at once: what eviction and `kubectl top` look at.
    pub fn working_set_bytes(&self) -> u64 {
        self.memory_bytes.saturating_sub(self.inactive_file_bytes)
    }
}

/// What callers need of control groups; [`HostCgroups`] does it, [`RecordingCgroups`] writes it down.
pub trait Cgroups: Send + Sync {
    /// Which interface is in use.
    fn version(&self) -> Version;
    /// Makes the group and its parents; an existing one is fine.
    fn create(&self, path: &str) -> Result<()>;
    /// Whether the group exists.
    fn exists(&self, path: &str) -> bool;
    /// Writes limits to an existing group.
    fn apply(&self, path: &str, limits: &Limits) -> Result<()>;
    /// Moves a process into the group.
    fn add(&self, path: &str, pid: i32) -> Result<()>;
    /// The processes of the group and of the groups below it.
    fn processes(&self, path: &str) -> Result<Vec<i32>>;
    /// Kills every process of the group and below, until none is left; a missing group is fine, the root
    /// of the hierarchy is refused.
    fn kill_all(&self, path: &str) -> Result<()>;
    /// Removes the (empty) group and the groups below it; a missing one is fine.
    fn remove(&self, path: &str) -> Result<()>;
    /// What the group uses now.
    fn usage(&self, path: &str) -> Result<Usage>;
    /// How many processes of the group the out-of-memory killer has ended.
    fn oom_kills(&self, path: &str) -> Result<u64>;
    /// The names of the groups directly below `path`.
    fn children(&self, path: &str) -> Result<Vec<String>>;
}

/// The kernel's control groups.
#[derive(Debug, Clone)]
pub enum HostCgroups {
    /// Version 1: controller name and where its hierarchy is mounted.
    V1(v1::Hierarchies),
    /// Version 2: where the one hierarchy is mounted.
    V2(v2::Hierarchy),
}

impl HostCgroups {
    /// Finds out what this host mounts.
    pub fn detect() -> Result<Self> {
        let mounts = files::read("/proc/self/mountinfo".as_ref())?;
        Ok(Self::from_mountinfo(&mounts))
    }

    fn from_mountinfo(mounts: &str) -> Self {
        let hierarchies = v1::Hierarchies::parse(mounts);
        if hierarchies.has("memory") || hierarchies.has("cpu") {
            return Self::V1(hierarchies);
        }
        Self::V2(v2::Hierarchy { root: v2::find_root(mounts) })
    }

    fn host(&self) -> &dyn Cgroups {
        match self {
            Self::V1(host) => host,
            Self::V2(host) => host,
        }
    }

    /// The hierarchies of version 1 by the name of their mount point (`cpu,cpuacct`); none on version 2.
    pub fn mount_points(&self) -> Vec<(String, PathBuf)> {
        match self {
            Self::V1(host) => host.mount_points(),
            Self::V2(_) => Vec::new(),
        }
    }

    /// Restricts the devices that processes of the group may use, on version 2; on version 1 whoever makes the
    /// container writes the rules to the devices controller, and nothing is done here.
    pub fn restrict_devices(&self, path: &str, rules: &[DeviceRule]) -> Result<()> {
        match self {
            Self::V1(_) => Ok(()),
            Self::V2(host) => devices::restrict(&host.directory(path), rules),
        }
    }

    /// The directory of `path` that holds the controller's files (any controller name on version 2).
    pub fn directory(&self, controller: &str, path: &str) -> Option<PathBuf> {
        match self {
            Self::V1(host) => host.directory(controller, path),
            Self::V2(host) => Some(host.directory(path)),
        }
    }
}

impl Cgroups for HostCgroups {
    fn version(&self) -> Version {
        self.host().version()
    }
    fn create(&self, path: &str) -> Result<()> {
        self.host().create(path)
    }
    fn exists(&self, path: &str) -> bool {
        self.host().exists(path)
    }
    fn apply(&self, path: &str, limits: &Limits) -> Result<()> {
        self.host().apply(path, limits)
    }
    fn add(&self, path: &str, pid: i32) -> Result<()> {
        self.host().add(path, pid)
    }
    fn processes(&self, path: &str) -> Result<Vec<i32>> {
        self.host().processes(path)
    }
    fn kill_all(&self, path: &str) -> Result<()> {
        self.host().kill_all(path)
    }
    fn remove(&self, path: &str) -> Result<()> {
        self.host().remove(path)
    }
    fn usage(&self, path: &str) -> Result<Usage> {
        self.host().usage(path)
    }
    fn oom_kills(&self, path: &str) -> Result<u64> {
        self.host().oom_kills(path)
    }
    fn children(&self, path: &str) -> Result<Vec<String>> {
        self.host().children(path)
    }
}

/// A fake that remembers what was asked; usage is what the test puts there.
#[derive(Debug, Default)]
pub struct RecordingCgroups {
    /// One line for each change asked for, in order.
    pub calls: Mutex<Vec<String>>,
    /// The answer to every [`Cgroups::usage`].
    pub usage: Mutex<Usage>,
}

impl RecordingCgroups {
    fn note(&self, call: String) -> Result<()> {
        if let Ok(mut calls) = self.calls.lock() {
            calls.push(call);
        }
        Ok(())
    }
}

impl Cgroups for RecordingCgroups {
    fn version(&self) -> Version {
        Version::V2
    }
    fn create(&self, path: &str) -> Result<()> {
        self.note(format!("create {path}"))
    }
    fn exists(&self, path: &str) -> bool {
        let made = format!("create {path}");
        self.calls.lock().is_ok_and(|calls| calls.contains(&made))
    }
    fn apply(&self, path: &str, limits: &Limits) -> Result<()> {
        self.note(format!("apply {path} {limits:?}"))
    }
    fn add(&self, path: &str, pid: i32) -> Result<()> {
        self.note(format!("add {path} {pid}"))
    }
    fn processes(&self, _path: &str) -> Result<Vec<i32>> {
        Ok(Vec::new())
    }
    fn kill_all(&self, path: &str) -> Result<()> {
        self.note(format!("kill {path}"))
    }
    fn remove(&self, path: &str) -> Result<()> {
        self.note(format!("remove {path}"))
    }
    fn usage(&self, _path: &str) -> Result<Usage> {
        Ok(self.usage.lock().map(|u| *u).unwrap_or_default())
    }
    fn oom_kills(&self, _path: &str) -> Result<u64> {
        Ok(0)
    }
    fn children(&self, _path: &str) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 24 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
31 24 0:27 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
32 24 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n";
    const UNIFIED: &str = "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_mount_table_decides_the_version() {
        for (table, version, memory) in
            [(HYBRID, Version::V1, "/sys/fs/cgroup/memory/a"), (UNIFIED, Version::V2, "/sys/fs/cgroup/a")]
        {
            let host = HostCgroups::from_mountinfo(table);
            assert_eq!(host.version(), version);
            assert_eq!(host.directory("memory", "/a"), Some(PathBuf::from(memory)));
        }
    }

    #[test]
    fn a_group_on_this_host_is_made_limited_killed_and_removed() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("passed over: needs root");
        }
        let host = HostCgroups::detect().unwrap();
        let root = format!("/corten-sys-{}", std::process::id());
        let group = format!("{root}/a/b");
        host.create(&group).unwrap();
        let limits = Limits {
            cpu_shares: Some(512),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            memory_bytes: Some(64 << 20),
            memory_and_swap_bytes: Some(64 << 20),
            pids: Some(50),
            ..Limits::default()
        };
        host.apply(&group, &limits).unwrap();
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        host.add(&group, child.id() as i32).unwrap();
        assert_eq!(host.processes(&root).unwrap(), [child.id() as i32]);
        let usage = host.usage(&group).unwrap();
        assert_eq!((usage.memory_limit_bytes, usage.pids), (Some(64 << 20), 1));
        assert_eq!(host.oom_kills(&group).unwrap(), 0);
        // The children leave the group when they end, not when they are reaped.
        let killer = std::thread::spawn({
            let (host, root) = (host.clone(), root.clone());
            move || host.kill_all(&root)
        });
        child.wait().unwrap();
        killer.join().unwrap().unwrap();
        host.remove(&root).unwrap();
        assert!(!host.exists(&root));
        host.remove(&root).unwrap();
        host.kill_all(&root).unwrap();
        assert!(host.kill_all("/").is_err() && host.kill_all("").is_err());
    }
}
