//! What a cluster could leave behind on its host.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Everything that clusters make, one line each. Take one before and one after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostState(BTreeSet<String>);

impl HostState {
    /// Looks now.
    pub fn look() -> Self {
        let mut found = BTreeSet::new();
        found.extend(interfaces());
        found.extend(mounts());
        found.extend(tables());
        found.extend(cgroups());
        found.extend(processes());
        Self(found)
    }

    /// What is here and was not there before. Traces of other test clusters (they come and go at the same time) do not
    /// count; those of `cluster` always do.
    pub fn since(&self, before: &HostState, cluster: &str) -> Vec<String> {
        let new = self.0.difference(&before.0);
        new.filter(|line| line.contains(cluster) || !of_a_test_cluster(line)).cloned().collect()
    }

    /// The lines that contain `text`.
    pub fn about(&self, text: &str) -> Vec<&str> {
        self.0.iter().map(String::as_str).filter(|line| line.contains(text)).collect()
    }
}

/// Test clusters keep their data in such a directory, and name what they make after it.
fn of_a_test_cluster(line: &str) -> bool {
    line.contains("/corten-t")
        || line.contains(" /t")
        || line.contains("interface t")
        || line.contains("table inet t")
        || line.contains("table ip t")
        || line.contains("table ip6 t")
}

fn interfaces() -> Vec<String> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    entries.map(|entry| format!("interface {}", entry.file_name().to_string_lossy())).collect()
}

/// Network namespaces are seen through the mounts and processes that hold them.
fn mounts() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(|line| line.split(' ').nth(4)).map(|path| format!("mount {path}")).collect()
}

fn tables() -> Vec<String> {
    let output = Command::new("nft").args(["list", "tables"]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().map(|line| format!("nftables {line}")).collect()
}

fn cgroups() -> Vec<String> {
    let text = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let roots =
        text.lines().filter(|line| line.split(' ').nth(2).is_some_and(|kind| kind.starts_with("cgroup")));
    let mut found = Vec::new();
    for root in roots.filter_map(|line| line.split(' ').nth(1)) {
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                found.push(format!("cgroup {root} /{}", entry.file_name().to_string_lossy()));
            }
        }
    }
    found
}

/// Processes by what they run and their cgroup, which names the cluster; kernel threads and what the test program itself starts
/// come and go.
fn processes() -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<_> = words.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        let line = words.join(" ");
        let ours = ["corten", "testserver", "nginx", "mysqld"].iter().any(|name| {
            words.first().is_some_and(|program| {
                program.rsplit('/').next() == Some(name) || program.starts_with(&format!("{name}:"))
            })
        });
        if !ours {
            continue;
        }
        let cgroup = cgroup_of(&entry.path());
        // Who ended in between has lost its cgroup, and does not count.
        if fs::read(entry.path().join("cmdline")).is_ok_and(|words| !words.is_empty()) {
            found.push(format!("process {line} {cgroup}"));
        }
    }
    found
}

/// The deepest cgroup of a process: on hosts with version 1, not every hierarchy has one.
fn cgroup_of(process: &Path) -> String {
    let text = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.max_by_key(|path| path.len()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_test_clusters_run_does_not_count() {
        let before = HostState(BTreeSet::new());
        let line = |cluster: &str| format!("process testserver  /{cluster}/kubepods/pod1/2");
        let after = HostState([line("tab1"), line("tab2"), "process testserver  /".into()].into());
        let own = vec!["process testserver  /".to_owned(), line("tab1")];
        assert_eq!(after.since(&before, "tab1"), own);
    }
}
