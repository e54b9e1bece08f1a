//! Control groups version 2: one hierarchy, controllers switched on level by level.

use std::fs;
use std::path::{Path, PathBuf};

use super::files::{
    below, child_names, keyed, kill_until_empty, number, processes, read, remove_tree, write,
};
use super::{Cgroups, Limits, Usage, Version};
use crate::error::{Context, Result};

/// Controllers handed down to the groups of pods and containers.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"];

/// The mounted hierarchy.
#[derive(Debug, Clone)]
pub struct Hierarchy {
    pub(super) root: PathBuf,
}

/// The mount point of the unified hierarchy; the usual place when the table names none.
pub(super) fn find_root(mountinfo: &str) -> PathBuf {
    let point = mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        right.starts_with("cgroup2 ").then(|| left.split(' ').nth(4)).flatten()
    });
    PathBuf::from(point.unwrap_or("/sys/fs/cgroup"))
}

impl Hierarchy {
    pub(super) fn directory(&self, path: &str) -> PathBuf {
        below(&self.root, path)
    }

    fn set(&self, path: &str, file: &str, value: &str) -> Result<()> {
        write(&self.directory(path).join(file), value)
    }

    fn apply_memory(&self, path: &str, limits: &Limits) -> Result<()> {
        if let Some(bytes) = limits.memory_bytes {
            self.set(path, "memory.max", &or_max(bytes))?;
        }
        let Some(both) = limits.memory_and_swap_bytes else { return Ok(()) };
        let swap = if both < 0 { -1 } else { both - limits.memory_bytes.unwrap_or(0).clamp(0, both) };
        match self.directory(path).join("memory.swap.max").exists() {
            true => self.set(path, "memory.swap.max", &or_max(swap)),
            false => Ok(()),
        }
    }

    fn apply_cpu(&self, path: &str, limits: &Limits) -> Result<()> {
        if let Some(shares) = limits.cpu_shares {
            self.set(path, "cpu.weight", &weight_from_shares(shares).to_string())?;
        }
        let period = limits.cpu_period_us.filter(|p| *p > 0).unwrap_or(100_000);
        match limits.cpu_quota_us {
            Some(quota) => self.set(path, "cpu.max", &format!("{} {period}", or_max(quota))),
            None => Ok(()),
        }
    }
}

/// Version 1 weighs 2–262144 around 1024, version 2 weighs 1–10000 around 100.
pub(super) fn weight_from_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

impl Cgroups for Hierarchy {
    fn version(&self) -> Version {
        Version::V2
    }

    fn create(&self, path: &str) -> Result<()> {
        let target = self.directory(path);
        fs::create_dir_all(&target).doing(|| format!("create group {}", target.display()))?;
        let mut level = self.root.clone();
        for part in target.strip_prefix(&self.root).into_iter().flat_map(Path::components) {
            enable_controllers(&level);
            level = level.join(part);
        }
        Ok(())
    }

    fn exists(&self, path: &str) -> bool {
        self.directory(path).is_dir()
    }

    fn apply(&self, path: &str, limits: &Limits) -> Result<()> {
        self.apply_memory(path, limits)?;
        self.apply_cpu(path, limits)?;
        if let Some(pids) = limits.pids {
            self.set(path, "pids.max", &or_max(pids))?;
        }
        for (file, value) in [("cpuset.cpus", &limits.cpuset_cpus), ("cpuset.mems", &limits.cpuset_mems)] {
            if !value.is_empty() {
                self.set(path, file, value)?;
            }
        }
        for (size, bytes) in &limits.hugepages {
            self.set(path, &format!("hugetlb.{size}.max"), &bytes.to_string())?;
        }
        limits
            .unified
            .iter()
            .filter(|(file, _)| !file.contains('/'))
            .try_for_each(|(f, v)| self.set(path, f, v))
    }

    fn add(&self, path: &str, pid: i32) -> Result<()> {
        self.set(path, "cgroup.procs", &pid.to_string())
    }

    fn processes(&self, path: &str) -> Result<Vec<i32>> {
        Ok(processes(&self.directory(path)))
    }

    fn kill_all(&self, path: &str) -> Result<()> {
        let dir = self.directory(path);
        kill_until_empty(&self.root, &dir, |pids| {
            // cgroup.kill takes the whole tree at once (5.14); older kernels get one signal a process.
            if write(&dir.join("cgroup.kill"), "1").is_err() {
                for pid in pids {
                    let _ = crate::process::kill(*pid, nix::libc::SIGKILL);
                }
            }
        })
    }

    fn remove(&self, path: &str) -> Result<()> {
        match self.directory(path) {
            dir if dir == self.root => Ok(()),
            dir => remove_tree(&dir),
        }
    }

    fn usage(&self, path: &str) -> Result<Usage> {
        let dir = self.directory(path);
        let cpu = read(&dir.join("cpu.stat"))?;
        let memory = read(&dir.join("memory.stat")).unwrap_or_default();
        Ok(Usage {
            cpu_ns: keyed(&cpu, "usage_usec") * 1000,
            memory_bytes: number(&dir.join("memory.current")).unwrap_or(0),
            inactive_file_bytes: keyed(&memory, "inactive_file"),
            rss_bytes: keyed(&memory, "anon"),
            page_faults: keyed(&memory, "pgfault"),
            major_page_faults: keyed(&memory, "pgmajfault"),
            memory_limit_bytes: number(&dir.join("memory.max")),
            swap_bytes: number(&dir.join("memory.swap.current")).unwrap_or(0),
            pids: number(&dir.join("pids.current")).unwrap_or(0),
        })
    }

    fn oom_kills(&self, path: &str) -> Result<u64> {
        read(&self.directory(path).join("memory.events")).map(|text| super::parse_oom_kills(&text))
    }

    fn children(&self, path: &str) -> Result<Vec<String>> {
        child_names(&self.directory(path))
    }
}

/// One by one: a controller that this host lacks must not keep the others off.
fn enable_controllers(level: &Path) {
    let available = read(&level.join("cgroup.controllers")).unwrap_or_default();
    let enabled = read(&level.join("cgroup.subtree_control")).unwrap_or_default();
    for controller in CONTROLLERS {
        let has = |list: &str| list.split_whitespace().any(|c| c == controller);
        if has(&available) && !has(&enabled) {
            let _ = write(&level.join("cgroup.subtree_control"), &format!("+{controller}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_limits_translate() {
        for (shares, weight) in [(0, 1), (2, 1), (1024, 39), (262_144, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(weight_from_shares(shares), weight, "{shares}");
        }
        assert_eq!((or_max(-1), or_max(5)), ("max".into(), "5".into()));
    }
}
