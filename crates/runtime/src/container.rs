//! Containers before and after their program runs: made, updated, removed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use corten_sys::cgroups::{Cgroups, Version};
use corten_sys::process::signal_number;
use k8s_cri::v1 as cri;
use k8s_cri::v1::{ContainerConfig, ContainerEventType, NamespaceMode};

use crate::error::{Result, RuntimeError};
use crate::files;
use crate::image::Image;
use crate::image_volumes;
use crate::lifecycle;
use crate::node::{Node, blocking, new_id};
use crate::registry::{Container, ContainerRecord, Phase, Progress, Sandbox, SandboxRecord};
use crate::shim::{CONFIG_FILE, SOCKET_FILE, ShimConfig};
use crate::spec;

/// The OCI document in a container's directory, by the name that OCI gives it.
pub(crate) const SPEC_FILE: &str = "config.json";
const SIGTERM: i32 = 15;
/// Annotation with the pod's own stop signal; see the kubelet's `labels`.
const STOP_SIGNAL: &str = "io.corten.container.stopSignal";

/// CreateContainer: everything but the process.
pub(crate) async fn create(
    node: &Arc<Node>,
    sandbox: &Arc<Sandbox>,
    config: ContainerConfig,
) -> Result<String> {
    if !sandbox.with(|r| r.ready) {
        return Err(RuntimeError::Precondition(format!("sandbox container {:?} is not running", sandbox.id)));
    }
    let (node2, sandbox2) = (node.clone(), sandbox.clone());
    let container = blocking(move || make(&node2, &sandbox2, config)).await?;
    node.registry.add_container(container.clone());
    node.announce(ContainerEventType::ContainerCreatedEvent, &container);
    Ok(container.id.clone())
}

fn make(node: &Arc<Node>, sandbox: &Sandbox, config: ContainerConfig) -> Result<Arc<Container>> {
    let name = config.image.as_ref().map(|i| i.image.clone()).unwrap_or_default();
    let missing = || RuntimeError::NotFound(format!("failed to resolve image {name:?}: not found"));
    let image = node.config.images.resolve(&name)?.ok_or_else(missing)?;
    let id = new_id();
    let dir = node.config.containers_dir().join(&id);
    let pod = sandbox.record();
    let mut record = new_record(&id, &pod, config, &image);
    std::fs::create_dir_all(&dir).map_err(files::failed(format!("create {}", dir.display())))?;
    let made = write_all(node, sandbox, &pod, &image, &dir, &mut record);
    if let Err(error) = made {
        if let Err(second) = clear(node, &dir, &record.cgroup) {
            tracing::warn!(container = id, %second, "failed container not cleaned up");
        }
        return Err(error);
    }
    Ok(Arc::new(Container::new(dir, record, Progress::default())))
}

fn new_record(id: &str, pod: &SandboxRecord, config: ContainerConfig, image: &Image) -> ContainerRecord {
    let asked = config.image.clone().unwrap_or_default();
    let of_image = || image.config.config().as_ref().and_then(|c| c.stop_signal().clone());
    let stop_signal = config.annotations.get(STOP_SIGNAL).cloned().or_else(of_image);
    ContainerRecord {
        id: id.to_owned(),
        sandbox_id: pod.id.clone(),
        image_id: image.id.clone(),
        image_name: image_name(&asked, image),
        image_ref: image.repo_digests.first().unwrap_or(&image.id).clone(),
        created_at_ns: crate::shim::now_ns(),
        cgroup: format!("{}/{id}", pod.cgroup),
        log_path: log_path(&pod.config.log_directory, &config.log_path),
        stop_signal: stop_signal.and_then(|name| signal_number(&name)).unwrap_or(SIGTERM),
        user: spec::User::default(),
        shares_pids: false,
        resources: config.linux.as_ref().and_then(|l| l.resources.clone()),
        config,
    }
}

/// The image's name as the user wrote it, if it is one of its tags; else its first tag.
fn image_name(asked: &cri::ImageSpec, image: &Image) -> String {
    let written =
        if asked.user_specified_image.is_empty() { &asked.image } else { &asked.user_specified_image };
    let same = image.references.iter().find(|tag| *tag == written || tag.ends_with(&format!("/{written}")));
    same.or(image.references.first()).unwrap_or(written).clone()
}

fn log_path(directory: &str, name: &str) -> Option<PathBuf> {
    (!directory.is_empty() && !name.is_empty()).then(|| Path::new(directory).join(name))
}

fn write_all(
    node: &Arc<Node>,
    sandbox: &Sandbox,
    pod: &SandboxRecord,
    image: &Image,
    dir: &Path,
    record: &mut ContainerRecord,
) -> Result<()> {
    // First of all, so that whatever follows can be found and removed.
    files::write_json(&dir.join(crate::registry::CONTAINER_FILE), record)?;
    let rootfs = node.config.images.mount_rootfs(image, dir)?;
    let seen = spec::Pod { dir: sandbox.dir.clone(), hostname: pod.config.hostname.clone() };
    let config = image_volumes::mount_all(&node.config.images, dir, &record.config)?;
    let built = spec::build(&spec::Input {
        config: &config,
        image: &image.config,
        rootfs: &rootfs,
        pod: &seen,
        host: &node.host,
        cgroup: &record.cgroup,
        target_pid: target_pid(node, &record.config),
    })?;
    if let Some(parent) = record.log_path.as_ref().and_then(|p| p.parent()) {
        std::fs::create_dir_all(parent).map_err(files::failed(format!("create {}", parent.display())))?;
    }
    if !built.device_rules.is_empty() && node.host.cgroups == Version::V2 {
        node.cgroups.create(&record.cgroup)?;
        node.cgroups.restrict_devices(&record.cgroup, &built.device_rules)?;
    }
    record.user = built.user;
    record.shares_pids = built.shares_pids;
    let shim = ShimConfig {
        id: record.id.clone(),
        log_path: record.log_path.clone(),
        tty: record.config.tty,
        stdin: record.config.stdin,
        stdin_once: record.config.stdin_once,
        cgroup: record.cgroup.clone(),
        kill_group_at_exit: built.shares_pids,
        seccomp: built.seccomp,
        final_capabilities: built.final_capabilities,
    };
    files::write_json(&dir.join(SPEC_FILE), &built.spec)?;
    files::write_json(&dir.join(CONFIG_FILE), &shim)?;
    Ok(files::write_json(&dir.join(crate::registry::CONTAINER_FILE), record)?)
}

/// For `NamespaceMode::Target`: the main process of the container named there.
fn target_pid(node: &Node, config: &ContainerConfig) -> Option<i32> {
    let options = config.linux.as_ref()?.security_context.as_ref()?.namespace_options.as_ref()?;
    if options.pid() != NamespaceMode::Target {
        return None;
    }
    let target = node.registry.find_container(&options.target_id)?;
    (target.phase() == Phase::Running).then(|| target.progress().started.map(|s| s.pid)).flatten()
}

/// UpdateContainerResources, of a running container and of what a later start would use.
pub(crate) async fn update(
    node: &Arc<Node>,
    container: &Arc<Container>,
    wanted: cri::LinuxContainerResources,
) -> Result<()> {
    let _busy = container.busy.lock().await;
    let mut merged = container.with(|r| r.resources.clone()).unwrap_or_default();
    spec::merge_resources(&mut merged, &wanted);
    if container.phase() == Phase::Running {
        let (node, cgroup) = (node.clone(), container.with(|r| r.cgroup.clone()));
        let limits = spec::limits(&wanted, &node.host);
        blocking(move || Ok(node.cgroups.apply(&cgroup, &limits)?)).await?;
    } else if container.phase() == Phase::Created {
        let mut document: serde_json::Value = files::read_json(&container.dir.join(SPEC_FILE))?;
        spec::replace_resources(&mut document, &merged, &node.host);
        files::write_json(&container.dir.join(SPEC_FILE), &document)?;
    }
    container.update(|r| r.resources = Some(merged))
}

/// RemoveContainer; a running one is killed first.
pub(crate) async fn remove(node: &Arc<Node>, container: &Arc<Container>) -> Result<()> {
    lifecycle::kill(node, container).await?;
    let _busy = container.busy.lock().await;
    if node.registry.find_container(&container.id).is_none() {
        return Ok(());
    }
    let (node2, container2) = (node.clone(), container.clone());
    blocking(move || clear(&node2, &container2.dir, &container2.with(|r| r.cgroup.clone()))).await?;
    node.registry.forget_container(&container.id);
    node.announce(ContainerEventType::ContainerDeletedEvent, container);
    Ok(())
}

/// Removes all that a container has on the node; the record goes last.
fn clear(node: &Node, dir: &Path, cgroup: &str) -> Result<()> {
    node.cgroups.kill_all(cgroup)?;
    node.cgroups.remove(cgroup)?;
    node.config.images.unmount_rootfs(dir)?;
    image_volumes::unmount_all(&node.config.images, dir)?;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name() == crate::registry::CONTAINER_FILE {
            continue;
        }
        let path = entry.path();
        let removed = if path.is_dir() && !path.is_symlink() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        // A shim that is just leaving removes its own socket.
        match removed {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(files::failed(format!("remove {}", path.display()))(e).into());
            }
            _ => {}
        }
    }
    Ok(files::remove_dir(dir)?)
}

/// Whether the container's shim can be spoken to.
pub(crate) fn has_shim(container: &Container) -> bool {
    container.dir.join(SOCKET_FILE).exists()
}
