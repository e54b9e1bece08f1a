//! Reading and writing the small text files of a control group, and walking the tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Context, Error, Result};

/// The kernel has no blocking wait for "the group is empty" in version 1; this bounds the waiting.
const EMPTY_ATTEMPTS: u32 = 400;
const EMPTY_PAUSE: Duration = Duration::from_millis(5);

pub(super) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).doing(|| format!("read {}", path.display()))
}

pub(super) fn write(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).doing(|| format!("write {value} to {}", path.display()))
}

/// One number; `max`, a missing file and version 1's "no limit" (near 2^63) are `None`.
pub(super) fn number(path: &Path) -> Option<u64> {
    let value: u64 = fs::read_to_string(path).ok()?.trim().parse().ok()?;
    (value < 1 << 62).then_some(value)
}

/// The value behind `key` in a file of `key value` lines.
pub(super) fn keyed(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// The `oom_kill` counter of `memory.oom_control` (v1) or `memory.events` (v2).
pub fn parse_oom_kills(text: &str) -> u64 {
    keyed(text, "oom_kill")
}

/// `dir` and every directory below it, parents first.
pub(super) fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_owned()];
    let mut next = 0;
    while next < all.len() {
        let children = fs::read_dir(&all[next]).into_iter().flatten().flatten();
        let directories = children.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path());
        all.extend(directories.collect::<Vec<_>>());
        next += 1;
    }
    all
}

/// The processes in `dir` and below.
pub(super) fn processes(dir: &Path) -> Vec<i32> {
    let lists = tree(dir).into_iter().filter_map(|d| fs::read_to_string(d.join("cgroup.procs")).ok());
    let mut pids: Vec<i32> =
        lists.flat_map(|text| text.lines().filter_map(|l| l.parse().ok()).collect::<Vec<_>>()).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Calls `kill` until no process is left in `dir`. Bounded: a process stuck in the kernel ends it with an error.
pub(super) fn kill_until_empty(root: &Path, dir: &Path, mut kill: impl FnMut(&[i32])) -> Result<()> {
    if dir == root {
        let source = std::io::Error::from(std::io::ErrorKind::InvalidInput);
        return Err(Error { what: "kill all processes of the host".into(), source });
    }
    for _ in 0..EMPTY_ATTEMPTS {
        let pids = processes(dir);
        if pids.is_empty() {
            return Ok(());
        }
        kill(&pids);
        std::thread::sleep(EMPTY_PAUSE);
    }
    let source = std::io::Error::from(std::io::ErrorKind::TimedOut);
    Err(Error { what: format!("kill all processes in {}", dir.display()), source })
}

/// Removes `dir` and the groups below it, deepest first. EBUSY passes once the last process has left.
pub(super) fn remove_tree(dir: &Path) -> Result<()> {
    for path in tree(dir).into_iter().rev() {
        remove_one(&path)?;
    }
    Ok(())
}

fn remove_one(path: &Path) -> Result<()> {
    let mut attempt = 0;
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy && attempt < EMPTY_ATTEMPTS => {
                attempt += 1;
                std::thread::sleep(EMPTY_PAUSE);
            }
            Err(source) => return Err(Error { what: format!("remove group {}", path.display()), source }),
        }
    }
}

/// `path` below `root`, whatever it contains: dots cannot lead out.
pub(super) fn below(root: &Path, path: &str) -> PathBuf {
    let parts = Path::new(path).components().filter(|c| matches!(c, std::path::Component::Normal(_)));
    root.join(parts.collect::<PathBuf>())
}

pub(super) fn child_names(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).doing(|| format!("list {}", dir.display()))?;
    let groups = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    Ok(groups.map(|e| e.file_name().to_string_lossy().into_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_their_whole_name() {
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        let v2 = "low 0\nhigh 0\nmax 7\noom 4\noom_kill 2\noom_group_kill 1\n";
        assert_eq!((parse_oom_kills(v1), parse_oom_kills(v2), parse_oom_kills("")), (3, 2, 0));
    }

    #[test]
    fn group_names_stay_below_the_root() {
        assert_eq!(below(Path::new("/c"), "/a/../../b"), Path::new("/c/a/b"));
    }
}
