//! The processes of a pod on this machine, found by its cgroup: to see when they have really ended.

use std::{
    collections::BTreeSet,
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use corten_sys::process::PidFd;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::process::paths_in;

/// Where cgroups are mounted: version 2 here, or each hierarchy of version 1 in a directory of its own.
const MOUNT: &str = "/sys/fs/cgroup";

/// A process that lives on for so long after the delete will not end.
const PATIENCE_MS: u16 = 60_000;

/// By quality of service; guaranteed pods have none.
const CLASSES: [&str; 3] = ["besteffort", "burstable", ""];

/// Handles on the processes that a pod had when it was looked at.
pub struct PodProcesses(Vec<PidFd>);

impl PodProcesses {
    /// Those of the pod with this uid in the cluster with this cgroup root.
    pub fn of(root: &str, uid: &str) -> Self {
        // A pod may have its cgroup in a hierarchy of version 1 that its containers are not in.
        let pids: BTreeSet<i32> =
            cgroups(Path::new(MOUNT), root, uid).iter().flat_map(|dir| pids(dir)).collect();
        // One that has ended meanwhile need not be waited for.
        Self(pids.into_iter().filter_map(|pid| PidFd::open(pid).ok()).collect())
    }

    /// Waits for the last one's end.
    pub async fn ended(self) -> Result<()> {
        ensure!(!self.0.is_empty(), "no process was seen");
        tokio::task::spawn_blocking(move || self.0.iter().try_for_each(ended)).await?
    }
}

fn ended(process: &PidFd) -> Result<()> {
    let mut descriptors = [PollFd::new(process.as_descriptor().as_fd(), PollFlags::POLLIN)];
    ensure!(poll(&mut descriptors, PollTimeout::from(PATIENCE_MS))? > 0, "a process lives on");
    Ok(())
}

fn cgroups(mount: &Path, root: &str, uid: &str) -> Vec<PathBuf> {
    let roots = [mount.to_owned()].into_iter().chain(paths_in(mount));
    let pods = roots.map(|at| at.join(root).join("kubepods"));
    let pod = format!("pod{uid}");
    pods.flat_map(|pods| CLASSES.map(|class| pods.join(class).join(&pod)))
        .filter(|dir| dir.is_dir())
        .collect()
}

/// Of the pod itself and of its containers.
fn pids(dir: &Path) -> Vec<i32> {
    let files = [dir.to_owned()].into_iter().chain(paths_in(dir)).map(|dir| dir.join("cgroup.procs"));
    let text: String = files.filter_map(|file| fs::read_to_string(file).ok()).collect();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn processes_are_found_by_cgroup_and_waited_for() {
        let mount = tempfile::tempdir().unwrap();
        let pod = mount.path().join("memory/bench/kubepods/burstable/podu-1");
        let container = pod.join("c1");
        fs::create_dir_all(&container).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(pod.join("cgroup.procs"), "").unwrap();
        fs::write(container.join("cgroup.procs"), format!("{}\n", child.id())).unwrap();
        fs::create_dir_all(
            mount.path().join("a-hierarchy-without-processes/bench/kubepods/burstable/podu-1"),
        )
        .unwrap();
        let found = cgroups(mount.path(), "bench", "u-1");
        assert_eq!(found.len(), 2);
        assert!(cgroups(mount.path(), "bench", "u-2").is_empty());
        let pids: Vec<i32> = found.iter().flat_map(|dir| pids(dir)).collect();
        assert_eq!(pids, [i32::try_from(child.id()).unwrap()]);
        let processes = PodProcesses(vec![PidFd::open(pids[0]).unwrap()]);
        child.kill().unwrap();
        processes.ended().await.unwrap();
        child.wait().unwrap();
        assert!(PodProcesses(Vec::new()).ended().await.is_err());
    }
}
