//! Control groups version 1: one hierarchy a controller, each with its own files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::files::{
    below, child_names, keyed, kill_until_empty, number, processes, read, remove_tree, write,
};
use super::{Cgroups, Limits, Usage, Version};
use crate::error::{Context, Result};

/// Where each controller's hierarchy is mounted.
#[derive(Debug, Clone, Default)]
pub struct Hierarchies {
    roots: BTreeMap<String, PathBuf>,
}

impl Hierarchies {
    /// Reads mountinfo: `… <mount point> … - cgroup <source> rw,<controllers>`.
    pub(super) fn parse(mountinfo: &str) -> Self {
        let mut roots = BTreeMap::new();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let mut tail = right.split(' ');
            let (Some("cgroup"), Some(options)) = (tail.next(), tail.nth(1)) else { continue };
            let Some(point) = left.split(' ').nth(4) else { continue };
            for option in options.split(',').filter(|o| !matches!(*o, "rw" | "ro" | "xattr")) {
                roots.entry(option.to_owned()).or_insert_with(|| PathBuf::from(point));
            }
        }
        Self { roots }
    }

    pub(super) fn has(&self, controller: &str) -> bool {
        self.roots.contains_key(controller)
    }

    pub(super) fn directory(&self, controller: &str, path: &str) -> Option<PathBuf> {
        self.roots.get(controller).map(|root| below(root, path))
    }

    /// The distinct hierarchies (cpu and cpuacct may share one).
    fn hierarchies(&self) -> Vec<&Path> {
        let mut all: Vec<&Path> = self.roots.values().map(PathBuf::as_path).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    pub(super) fn mount_points(&self) -> Vec<(String, PathBuf)> {
        // Hierarchies with a name only (systemd's) limit nothing.
        let limiting = self.roots.iter().filter(|(controller, _)| !controller.starts_with("name="));
        let mut all: Vec<_> = limiting
            .filter_map(|(_, root)| Some((root.file_name()?.to_string_lossy().into_owned(), root.to_owned())))
            .collect();
        all.sort();
        all.dedup();
        all
    }

    /// The hierarchy that decides which processes belong to a group.
    fn members(&self, path: &str) -> Option<PathBuf> {
        ["freezer", "pids", "memory", "cpu"].iter().find_map(|c| self.directory(c, path))
    }

    fn set(&self, controller: &str, path: &str, file: &str, value: &str) -> Result<()> {
        match self.directory(controller, path) {
            Some(dir) => write(&dir.join(file), value),
            None => Ok(()),
        }
    }

    fn freeze(&self, path: &str, state: &str) {
        // Only a help against fork bombs: killing goes on without it.
        let _ = self.set("freezer", path, "freezer.state", state);
    }

    fn apply_memory(&self, path: &str, limits: &Limits) -> Result<()> {
        let memory = limits.memory_bytes.map(|v| v.to_string());
        let both = limits.memory_and_swap_bytes.map(|v| v.to_string());
        let set_memory = |value: &Option<String>| match value {
            Some(v) => self.set("memory", path, "memory.limit_in_bytes", v),
            None => Ok(()),
        };
        let set_both = |value: &Option<String>| match value {
            Some(v) if self.swap_accounted(path) => {
                self.set("memory", path, "memory.memsw.limit_in_bytes", v)
            }
            _ => Ok(()),
        };
        // memory ≤ memory+swap must hold at every moment: lowering and raising want opposite orders.
        if set_memory(&memory).is_ok() {
            return set_both(&both);
        }
        set_both(&both).and_then(|()| set_memory(&memory))
    }

    fn swap_accounted(&self, path: &str) -> bool {
        self.directory("memory", path).is_some_and(|d| d.join("memory.memsw.limit_in_bytes").exists())
    }

    fn apply_cpu(&self, path: &str, limits: &Limits) -> Result<()> {
        if let Some(shares) = limits.cpu_shares {
            self.set("cpu", path, "cpu.shares", &shares.to_string())?;
        }
        if let Some(period) = limits.cpu_period_us.filter(|p| *p > 0) {
            self.set("cpu", path, "cpu.cfs_period_us", &period.to_string())?;
        }
        match limits.cpu_quota_us {
            Some(quota) => self.set("cpu", path, "cpu.cfs_quota_us", &quota.to_string()),
            None => Ok(()),
        }
    }
}

impl Cgroups for Hierarchies {
    fn version(&self) -> Version {
        Version::V1
    }

    fn create(&self, path: &str) -> Result<()> {
        for root in self.hierarchies() {
            let dir = below(root, path);
            fs::create_dir_all(&dir).doing(|| format!("create group {}", dir.display()))?;
        }
        match self.roots.get("cpuset") {
            Some(root) => inherit_cpuset(root, &below(root, path)),
            None => Ok(()),
        }
    }

    fn exists(&self, path: &str) -> bool {
        self.hierarchies().iter().any(|root| below(root, path).is_dir())
    }

    fn apply(&self, path: &str, limits: &Limits) -> Result<()> {
        self.apply_memory(path, limits)?;
        self.apply_cpu(path, limits)?;
        if let Some(pids) = limits.pids {
            let value = if pids < 0 { "max".to_owned() } else { pids.to_string() };
            self.set("pids", path, "pids.max", &value)?;
        }
        for (file, value) in [("cpuset.cpus", &limits.cpuset_cpus), ("cpuset.mems", &limits.cpuset_mems)] {
            if !value.is_empty() {
                self.set("cpuset", path, file, value)?;
            }
        }
        limits.hugepages.iter().try_for_each(|(size, bytes)| {
            self.set("hugetlb", path, &format!("hugetlb.{size}.limit_in_bytes"), &bytes.to_string())
        })
    }

    fn add(&self, path: &str, pid: i32) -> Result<()> {
        for root in self.hierarchies() {
            write(&below(root, path).join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    fn processes(&self, path: &str) -> Result<Vec<i32>> {
        Ok(self.members(path).map(|dir| processes(&dir)).unwrap_or_default())
    }

    fn kill_all(&self, path: &str) -> Result<()> {
        let (Some(dir), Some(root)) = (self.members(path), self.members("/")) else { return Ok(()) };
        kill_until_empty(&root, &dir, |pids| {
            self.freeze(path, "FROZEN");
            for pid in pids {
                let _ = crate::process::kill(*pid, nix::libc::SIGKILL);
            }
            self.freeze(path, "THAWED");
        })
    }

    fn remove(&self, path: &str) -> Result<()> {
        self.hierarchies().iter().try_for_each(|root| match below(root, path) {
            dir if dir == *root => Ok(()),
            dir => remove_tree(&dir),
        })
    }

    fn usage(&self, path: &str) -> Result<Usage> {
        let file = |controller: &str, name: &str| self.directory(controller, path).map(|dir| dir.join(name));
        let value = |controller: &str, name: &str| file(controller, name).and_then(|f| number(&f));
        let stat = match file("memory", "memory.stat") {
            Some(path) => read(&path)?,
            None => String::new(),
        };
        let memory = value("memory", "memory.usage_in_bytes").unwrap_or(0);
        let both = value("memory", "memory.memsw.usage_in_bytes").unwrap_or(memory);
        Ok(Usage {
            cpu_ns: value("cpuacct", "cpuacct.usage").unwrap_or(0),
            memory_bytes: memory,
            inactive_file_bytes: keyed(&stat, "total_inactive_file"),
            rss_bytes: keyed(&stat, "total_rss"),
            page_faults: keyed(&stat, "total_pgfault"),
            major_page_faults: keyed(&stat, "total_pgmajfault"),
            memory_limit_bytes: value("memory", "memory.limit_in_bytes"),
            swap_bytes: both.saturating_sub(memory),
            pids: value("pids", "pids.current").unwrap_or(0),
        })
    }

    fn oom_kills(&self, path: &str) -> Result<u64> {
        match self.directory("memory", path) {
            Some(dir) => read(&dir.join("memory.oom_control")).map(|text| super::parse_oom_kills(&text)),
            None => Ok(0),
        }
    }

    fn children(&self, path: &str) -> Result<Vec<String>> {
        match self.members(path) {
            Some(dir) => child_names(&dir),
            None => Ok(Vec::new()),
        }
    }
}

/// A new cpuset is empty and takes no process; every level gets its parent's CPUs and memory nodes.
fn inherit_cpuset(root: &Path, dir: &Path) -> Result<()> {
    let Ok(below_root) = dir.strip_prefix(root) else { return Ok(()) };
    let mut parent = root.to_owned();
    for part in below_root.components() {
        let child = parent.join(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if read(&child.join(file))?.trim().is_empty() {
                write(&child.join(file), read(&parent.join(file))?.trim())?;
            }
        }
        parent = child;
    }
    Ok(())
}
