//! What processes cost: CPU time and memory of a process and all below it, from /proc.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    ops::Sub,
    path::{Path, PathBuf},
    time::Duration,
};

/// Unit of the CPU times in /proc, which Linux fixed at 100 a second for every architecture we know.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time and memory of some process trees at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// User and system time, with that of children that have ended.
    pub cpu_secs: f64,
    /// Proportional set size: shared pages count by how many share them.
    pub pss_kb: u64,
    /// Resident set size.
    pub rss_kb: u64,
    /// How many processes.
    pub processes: usize,
}

/// What the second moment cost more in CPU; its memory.
impl Sub for Usage {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { cpu_secs: self.cpu_secs - before.cpu_secs, ..self }
    }
}

impl Usage {
    /// Share of one core over a time.
    pub fn core_share(&self, over: Duration) -> f64 {
        self.cpu_secs / over.as_secs_f64()
    }
}

/// Sums up the processes `roots` and everything they started.
pub fn usage(roots: &[u32]) -> Usage {
    let mut total = Usage::default();
    for pid in tree(roots) {
        // A process may end while we look.
        let Some(stat) = stat(pid) else { continue };
        total.cpu_secs += stat.ticks as f64 / TICKS_PER_SECOND;
        total.pss_kb += field_kb(&format!("/proc/{pid}/smaps_rollup"), "Pss:").unwrap_or(0);
        total.rss_kb += field_kb(&format!("/proc/{pid}/status"), "VmRSS:").unwrap_or(0);
        total.processes += 1;
    }
    total
}

/// What lies in a directory; nothing where it cannot be read, or is gone by now.
pub fn paths_in(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn tree(roots: &[u32]) -> BTreeSet<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_string_lossy().parse().ok();
        if let Some((pid, stat)) = pid.and_then(|pid| Some((pid, stat(pid)?))) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut found = BTreeSet::new();
    let mut open = roots.to_vec();
    while let Some(pid) = open.pop() {
        if found.insert(pid) {
            open.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found
}

struct Stat {
    parent: u32,
    ticks: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name in parentheses may hold anything, blanks and parentheses too.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let ticks = (11..=14).map(number).sum::<Option<u64>>()?;
    Some(Stat { parent: u32::try_from(number(1)?).ok()?, ticks })
}

fn field_kb(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_the_name() {
        let line = "42 (a) b (c) S 7 1 1 0 -1 4 0 0 0 0 100 20 3 4 20 0 1 0 5 0 0";
        let stat = parse_stat(line).unwrap();
        assert_eq!((stat.parent, stat.ticks), (7, 127));
        assert!(parse_stat("nonsense").is_none());
    }

    #[test]
    fn this_process_uses_memory_and_its_child_counts() {
        let me = std::process::id();
        let alone = usage(&[me]);
        assert!(alone.rss_kb > 0 && alone.pss_kb > 0 && alone.pss_kb <= alone.rss_kb);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(tree(&[me]).contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!tree(&[me]).contains(&child.id()));
    }
}
