//! From CRI's container configuration and the image's to the OCI runtime specification.
//!
//! `build` decides everything and touches only the image's root file system (user names, working
//! directory) and what mounts and devices refer to; the shim hands the result to libcontainer unchanged.

mod devices;
mod mounts;
mod resources;
mod rootfs;
mod security;
mod user;

use std::path::{Path, PathBuf};

use k8s_cri::v1::{ContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext, NamespaceMode};
use oci_spec::image::ImageConfiguration;
use serde_json::{Value, json};

use crate::seccomp::Filters;
use corten_sys::cgroups::{DeviceRule, Version};

pub(crate) use resources::{limits, merge_resources};
pub(crate) use user::User;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why no specification can be made; the text goes to the CRI client.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct SpecError(pub String);

type Result<T> = std::result::Result<T, SpecError>;

/// What a host offers that shapes specifications.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    /// Which control groups there are.
    pub cgroups: Version,
    /// Where the control group hierarchies are mounted: name below /sys/fs/cgroup, and mount point.
    pub cgroup_mounts: Vec<(String, PathBuf)>,
    /// Whether memory and swap can be limited together.
    pub swap_limits: bool,
    /// The node's host name, for pods on the host network.
    pub hostname: String,
    /// The lowest OOM score adjustment that this process may give: its own where it lacks CAP_SYS_RESOURCE.
    pub least_oom_score_adj: i64,
}

impl Host {
    /// The adjustment that a container gets: as asked for, or as near as the host lets us. A container that is a little more
    /// likely to be killed under memory pressure beats one that cannot start.
    fn oom_score_adj(&self, asked: i64) -> i64 {
        asked.max(self.least_oom_score_adj)
    }
}

/// The sandbox as a container sees it.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    /// The sandbox's directory: `ns/`, `shm/`, `hosts`, `hostname`, `resolv.conf`.
    pub dir: PathBuf,
    /// Its host name; empty on the host network.
    pub hostname: String,
}

/// Everything one specification is made from.
pub(crate) struct Input<'a> {
    pub config: &'a ContainerConfig,
    pub image: &'a ImageConfiguration,
    pub rootfs: &'a Path,
    pub pod: &'a Pod,
    pub host: &'a Host,
    /// The container's control group.
    pub cgroup: &'a str,
    /// Main process of the container whose pid namespace is joined (`NamespaceMode::Target`).
    pub target_pid: Option<i32>,
}

/// A finished specification.
#[derive(Debug)]
pub(crate) struct Output {
    /// The OCI document (`config.json`).
    pub spec: Value,
    /// Who the program runs as.
    pub user: User,
    /// Filters for the program and for what is executed beside it.
    pub seccomp: Option<Filters>,
    /// Capabilities after the filters are installed, when installing needs more.
    pub final_capabilities: Option<Vec<String>>,
    /// Devices allowed, for version 2 of control groups; none when all are.
    pub device_rules: Vec<DeviceRule>,
    /// Whether processes may outlive the main one (no pid namespace of its own).
    pub shares_pids: bool,
}

/// Makes the specification. Creates missing host paths of mounts and the working directory.
pub(crate) fn build(input: &Input<'_>) -> Result<Output> {
    let context = security_context(input.config);
    let user = user::resolve(input.rootfs, &context, image_user(input.image))?;
    let filters = security::filters(&context)?;
    let capabilities = security::capabilities(&context, filters.is_some())?;
    let cwd = working_dir(input);
    let mounts = mounts::mounts(input, &context)?;
    let devices = devices::devices(&input.config.devices, context.privileged)?;
    let device_rules = devices.filter.clone();
    rootfs::ensure_dir(input.rootfs, &cwd, &input.config.mounts)
        .map_err(|e| SpecError(format!("create working directory {}: {e}", cwd.display())))?;
    let mut process = json!({
        "terminal": input.config.tty,
        "user": user.to_oci(),
        "args": command(input.config, input.image)?,
        "env": environment(input),
        "cwd": cwd,
        "capabilities": capabilities.set,
        "noNewPrivileges": context.no_new_privs,
    });
    if let Some(resources) = input.config.linux.as_ref().and_then(|l| l.resources.as_ref()) {
        process["oomScoreAdj"] = json!(input.host.oom_score_adj(resources.oom_score_adj));
    }
    let spec = json!({
        "ociVersion": "1.2.0",
        "process": process,
        "root": {"path": input.rootfs, "readonly": context.readonly_rootfs},
        "mounts": mounts.list,
        "annotations": input.config.annotations,
        "linux": linux(input, &context, &mounts, devices)?,
    });
    Ok(Output {
        spec,
        user,
        seccomp: filters,
        final_capabilities: capabilities.at_last,
        device_rules,
        shares_pids: pid_mode(&context) != NamespaceMode::Container,
    })
}

/// The process of an exec: the main one's, with another command.
pub(crate) fn exec_process(spec: &Value, command: &[String], terminal: bool) -> Value {
    let mut process = spec["process"].clone();
    process["args"] = json!(command);
    process["terminal"] = json!(terminal);
    let lacks_term = terminal && !has_variable(&process["env"], "TERM=");
    if let Some(env) = process["env"].as_array_mut().filter(|_| lacks_term) {
        env.push(json!("TERM=xterm"));
    }
    process
}

/// Writes changed limits into a document whose container has not been started yet.
pub(crate) fn replace_resources(spec: &mut Value, resources: &LinuxContainerResources, host: &Host) {
    let devices = spec["linux"]["resources"]["devices"].as_array().cloned().unwrap_or_default();
    spec["linux"]["resources"] = resources::to_oci(Some(resources), host, devices);
    spec["process"]["oomScoreAdj"] = json!(host.oom_score_adj(resources.oom_score_adj));
}

fn has_variable(env: &Value, prefix: &str) -> bool {
    env.as_array().is_some_and(|all| all.iter().any(|e| e.as_str().is_some_and(|e| e.starts_with(prefix))))
}

fn linux(
    input: &Input<'_>,
    context: &LinuxContainerSecurityContext,
    mounts: &mounts::Mounts,
    devices: devices::Devices,
) -> Result<Value> {
    let resources = input.config.linux.as_ref().and_then(|l| l.resources.as_ref());
    let mut masked = context.masked_paths.clone();
    let mut readonly = context.readonly_paths.clone();
    if context.privileged {
        masked.clear();
        readonly.clear();
    } else {
        readonly.extend(mounts.make_readonly.iter().cloned());
    }
    Ok(json!({
        "cgroupsPath": input.cgroup,
        "namespaces": namespaces(input, context)?,
        "devices": devices.nodes,
        "resources": resources::to_oci(resources, input.host, devices.rules),
        "maskedPaths": masked,
        "readonlyPaths": readonly,
        "rootfsPropagation": mounts.propagation,
    }))
}

fn namespaces(input: &Input<'_>, context: &LinuxContainerSecurityContext) -> Result<Vec<Value>> {
    let options = context.namespace_options.clone().unwrap_or_default();
    let pinned = |kind: &str, name: &str| json!({"type": kind, "path": input.pod.dir.join("ns").join(name)});
    let mut all = vec![json!({"type": "mount"})];
    if options.network() != NamespaceMode::Node {
        all.push(pinned("network", "net"));
        all.push(pinned("uts", "uts"));
    }
    if options.ipc() != NamespaceMode::Node {
        all.push(pinned("ipc", "ipc"));
    }
    match (pid_mode(context), input.target_pid) {
        (NamespaceMode::Container, _) => all.push(json!({"type": "pid"})),
        (NamespaceMode::Pod, _) => all.push(pinned("pid", "pid")),
        (NamespaceMode::Node, _) => {}
        (NamespaceMode::Target, Some(pid)) => {
            all.push(json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")}));
        }
        (NamespaceMode::Target, None) => {
            return Err(SpecError(format!("target container {:?} is not running", options.target_id)));
        }
    }
    // On version 1 the group's own directories are bound instead: see `mounts`.
    if input.host.cgroups == Version::V2 && !context.privileged {
        all.push(json!({"type": "cgroup"}));
    }
    Ok(all)
}

fn pid_mode(context: &LinuxContainerSecurityContext) -> NamespaceMode {
    context.namespace_options.as_ref().map(|o| o.pid()).unwrap_or(NamespaceMode::Pod)
}

fn security_context(config: &ContainerConfig) -> LinuxContainerSecurityContext {
    config.linux.as_ref().and_then(|l| l.security_context.clone()).unwrap_or_default()
}

fn image_user(image: &ImageConfiguration) -> &str {
    image.config().as_ref().and_then(|c| c.user().as_deref()).unwrap_or("")
}

/// Kubernetes' rule: a command replaces ENTRYPOINT and CMD, arguments alone replace CMD.
fn command(config: &ContainerConfig, image: &ImageConfiguration) -> Result<Vec<String>> {
    let image = image.config().as_ref();
    let entrypoint = image.and_then(|c| c.entrypoint().clone()).unwrap_or_default();
    let cmd = image.and_then(|c| c.cmd().clone()).unwrap_or_default();
    let words = match (config.command.is_empty(), config.args.is_empty()) {
        (true, true) => [entrypoint, cmd].concat(),
        (true, false) => [entrypoint, config.args.clone()].concat(),
        (false, _) => [config.command.clone(), config.args.clone()].concat(),
    };
    match words.first() {
        Some(first) if !first.is_empty() => Ok(words),
        _ => Err(SpecError("no command specified".into())),
    }
}

fn environment(input: &Input<'_>) -> Vec<String> {
    let image = input.image.config().as_ref().and_then(|c| c.env().clone()).unwrap_or_default();
    let hostname = if input.pod.hostname.is_empty() { &input.host.hostname } else { &input.pod.hostname };
    let mut all = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if input.config.tty {
        all.push("TERM=xterm".into());
    }
    all.extend(image);
    all.extend(input.config.envs.iter().map(|pair| format!("{}={}", pair.key, pair.value)));
    last_of_each(all)
}

/// Later entries replace earlier ones of the same name, in the earlier one's place.
fn last_of_each(all: Vec<String>) -> Vec<String> {
    let mut out: Vec<String> = Vec::with_capacity(all.len());
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut places = std::collections::HashMap::new();
    for entry in all {
        match places.get(&name(&entry)) {
            Some(place) => out[*place] = entry,
            None => {
                places.insert(name(&entry), out.len());
                out.push(entry);
            }
        }
    }
    out
}

fn working_dir(input: &Input<'_>) -> PathBuf {
    let image = input.image.config().as_ref().and_then(|c| c.working_dir().as_deref()).unwrap_or("");
    let chosen = [input.config.working_dir.as_str(), image, "/"].into_iter().find(|d| !d.is_empty());
    Path::new("/").join(chosen.unwrap_or("/"))
}

#[cfg(test)]
mod tests;
