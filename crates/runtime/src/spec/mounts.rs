//! The mounts of a container: kernel file systems, the pod's files, and what CRI asks for.

use std::fs;
use std::path::{Path, PathBuf};

use corten_sys::cgroups::Version;
use k8s_cri::v1::{LinuxContainerSecurityContext, Mount, MountPropagation, NamespaceMode};
use serde_json::{Value, json};

use super::{Input, Result, SpecError};

/// Mounts, in the order in which they are made.
pub(super) struct Mounts {
    pub list: Vec<Value>,
    /// Directories made read-only once everything below them is mounted.
    pub make_readonly: Vec<String>,
    /// Propagation of the container's root.
    pub propagation: &'static str,
}

pub(super) fn mounts(input: &Input<'_>, context: &LinuxContainerSecurityContext) -> Result<Mounts> {
    let asked = asked_for(&input.config.mounts)?;
    let mut list = kernel(context.privileged);
    let mut make_readonly = Vec::new();
    match input.host.cgroups {
        Version::V2 => list.push(cgroup_v2(context.privileged)),
        Version::V1 => {
            list.extend(cgroup_v1(input, context.privileged));
            make_readonly.push("/sys/fs/cgroup".to_owned());
        }
    }
    list.extend(of_the_pod(input, context));
    let taken: Vec<&str> = asked.iter().filter_map(destination).collect();
    list.retain(|mount| destination(mount).is_none_or(|d| !hidden(d, &taken)));
    make_readonly.retain(|path| !taken.contains(&path.as_str()));
    list.extend(asked);
    // Parents before children, whatever the order they were asked for in.
    list.sort_by_key(|mount| destination(mount).map_or(0, |d| Path::new(d).components().count()));
    Ok(Mounts { list, make_readonly, propagation: propagation(&input.config.mounts) })
}

fn destination(mount: &Value) -> Option<&str> {
    mount["destination"].as_str()
}

/// A default mount gives way to one asked for at the same place, and what is below /sys/fs/cgroup with it.
fn hidden(destination: &str, taken: &[&str]) -> bool {
    let covers = |t: &&str| **t == *"/sys/fs/cgroup" && Path::new(destination).starts_with(t);
    taken.iter().any(|t| *t == destination || covers(t))
}

fn kernel(privileged: bool) -> Vec<Value> {
    let sys = if privileged { "rw" } else { "ro" };
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", sys]),
    ]
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": kind, "source": source, "options": options})
}

fn bind(destination: &str, source: &Path, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": options})
}

fn cgroup_v2(privileged: bool) -> Value {
    let access = if privileged { "rw" } else { "ro" };
    mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access])
}

/// The group's own directory of each hierarchy, bound: libcontainer's own way would leave them writable.
fn cgroup_v1(input: &Input<'_>, privileged: bool) -> Vec<Value> {
    let access = if privileged { "rw" } else { "ro" };
    let mut list =
        vec![mount("/sys/fs/cgroup", "tmpfs", "tmpfs", &["nosuid", "noexec", "nodev", "mode=755"])];
    for (name, point) in &input.host.cgroup_mounts {
        let source = point.join(input.cgroup.trim_start_matches('/'));
        let target = format!("/sys/fs/cgroup/{name}");
        list.push(bind(&target, &source, &["bind", "nosuid", "noexec", "nodev", access]));
    }
    list
}

fn of_the_pod(input: &Input<'_>, context: &LinuxContainerSecurityContext) -> Vec<Value> {
    let access = if context.readonly_rootfs { "ro" } else { "rw" };
    let file = |name: &str| {
        let source = input.pod.dir.join(name);
        source.exists().then(|| bind(&format!("/etc/{name}"), &source, &["rbind", "rprivate", access]))
    };
    let host_ipc = context.namespace_options.as_ref().is_some_and(|o| o.ipc() == NamespaceMode::Node);
    let shm = if host_ipc { PathBuf::from("/dev/shm") } else { input.pod.dir.join("shm") };
    let shm = bind("/dev/shm", &shm, &["rbind", "rprivate", "rw"]);
    ["hostname", "hosts", "resolv.conf"].iter().filter_map(|name| file(name)).chain([shm]).collect()
}

fn asked_for(mounts: &[Mount]) -> Result<Vec<Value>> {
    mounts.iter().map(one_asked_for).collect()
}

fn one_asked_for(mount: &Mount) -> Result<Value> {
    let target = &mount.container_path;
    if !Path::new(target).is_absolute() {
        return Err(SpecError(format!("mount path {target:?} is not absolute")));
    }
    let source = Path::new(&mount.host_path);
    // As containerd does: what is not there becomes a directory.
    if fs::symlink_metadata(source).is_err() {
        fs::create_dir_all(source)
            .map_err(|e| SpecError(format!("failed to create host path {:?}: {e}", mount.host_path)))?;
    }
    let access = match (mount.recursive_read_only, mount.readonly) {
        (true, _) => "rro",
        (false, true) => "ro",
        (false, false) => "rw",
    };
    let spread = match mount.propagation() {
        MountPropagation::PropagationPrivate => "rprivate",
        MountPropagation::PropagationHostToContainer => "rslave",
        MountPropagation::PropagationBidirectional => "rshared",
    };
    // A cleaned path, so that "/a/" and "/a" count as one place.
    let clean: PathBuf = Path::new(target).components().collect();
    Ok(bind(&clean.to_string_lossy(), source, &["rbind", spread, access]))
}

/// Mounts made in the container reach the host only when its whole tree is shared with the host's.
fn propagation(mounts: &[Mount]) -> &'static str {
    let shared = mounts.iter().any(|m| m.propagation() == MountPropagation::PropagationBidirectional);
    if shared { "shared" } else { "slave" }
}
