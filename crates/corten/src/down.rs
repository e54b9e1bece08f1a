//! `corten down`: ends a cluster and removes what it put on this host. Everything is found by the cluster's name and data
//! directory, so it also cleans up after a crash.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use corten_network::{NetworkConfig, PodNetwork};
use corten_sys::cgroups::{Cgroups, HostCgroups};
use corten_sys::mounts::{HostMounts, Mounts};
use corten_sys::process::PidFd;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

use crate::args::DownArgs;
use crate::layout::Layout;
use crate::pid_file;

/// The cluster's process has so long to end after SIGTERM.
const TERM_PATIENCE: Duration = Duration::from_secs(20);
/// What a node makes anew at its next start; images and logs stay.
const NODE_STATE: &[&str] = &["sandboxes", "containers", "pods", "network", "cri.sock"];

/// Ends the process, then all containers, then removes mounts, interfaces, rules and cgroups.
pub fn down(args: &DownArgs) -> Result<()> {
    let (name, layout) = (&args.cluster.name, Layout::new(&args.cluster.data_dir())?);
    if let Some(pid) = pid_file::running(&layout.pid_file())? {
        end_process(pid)?;
    }
    end_containers(name, &layout)?;
    // Only below what we make ourselves: the data directory may be a mount of its own.
    for part in NODE_STATE {
        HostMounts.unmount_below(&layout.node().join(part)).context("unmount")?;
    }
    remove_network(name, &layout)?;
    for part in NODE_STATE {
        remove(&layout.node().join(part))?;
    }
    if args.purge {
        remove(layout.root())?;
    }
    println!("cluster {name} is down");
    Ok(())
}

fn end_process(pid: i32) -> Result<()> {
    let process = PidFd::open(pid).context("the cluster's process")?;
    process.signal(nix::libc::SIGTERM)?;
    if wait(&process, TERM_PATIENCE)? {
        return Ok(());
    }
    process.signal(nix::libc::SIGKILL)?;
    if wait(&process, TERM_PATIENCE)? { Ok(()) } else { bail!("process {pid} does not end") }
}

/// Has the process ended within the time?
pub fn wait(process: &PidFd, patience: Duration) -> Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(process.as_descriptor().as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Kills everything in the cluster's cgroups, and the shims, which live outside of them.
fn end_containers(name: &str, layout: &Layout) -> Result<()> {
    let cgroups = HostCgroups::detect().context("cgroups")?;
    let root = format!("/{name}");
    cgroups.kill_all(&root).context("kill containers")?;
    for pid in shims(layout.root())? {
        let Ok(process) = PidFd::open(pid) else { continue };
        process.signal(nix::libc::SIGKILL)?;
        wait(&process, TERM_PATIENCE)?;
    }
    cgroups.remove(&root).context("remove cgroups")
}

/// Processes `… shim … DATA_DIR/…`, and shims whose working directory is below it.
fn shims(root: &Path) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("read /proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = words.split(|b| *b == 0).collect();
        let is_shim = words.get(1) == Some(&b"shim".as_slice());
        let below =
            words.iter().any(|w| std::str::from_utf8(w).is_ok_and(|w| Path::new(w).starts_with(root)));
        let works_below = std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(root));
        if is_shim && (below || works_below) {
            found.push(pid);
        }
    }
    Ok(found)
}

fn remove_network(name: &str, layout: &Layout) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let network = PodNetwork::new(NetworkConfig {
        cluster_name: name.to_owned(),
        pod_cidr: None,
        cluster_cidr: ipnet::Ipv4Net::default(),
        cluster_cidr_v6: None,
        prefers_v6: false,
        state_dir: layout.network(),
        mtu: None,
    })
    .context("pod network")?;
    runtime.block_on(network.teardown()).context("remove the pod network")?;
    runtime.block_on(corten_proxy::cleanup(name)).context("remove the rules of services")
}

fn remove(path: &Path) -> Result<()> {
    let outcome = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match outcome {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.with_context(|| format!("cannot remove {}", path.display())),
    }
}
