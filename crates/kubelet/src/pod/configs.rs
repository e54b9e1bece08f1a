//! From a pod's spec to CRI's sandbox and container configurations.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use k8s_cri::v1 as pb;
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};

use super::security::{self, ImageUser};
use super::spec;
use crate::config::Config;
use crate::expand::{expand, unknown_references};
use crate::volume::{pod_volumes, sub_path};
use crate::{dns, labels, resources};

/// File name of a pod's hosts file in its directory.
pub const HOSTS_FILE: &str = "etc-hosts";

/// The sandbox's configuration. Errors go into the FailedCreatePodSandBox event.
pub fn sandbox_config(
    config: &Config,
    pod: &Pod,
    attempt: u32,
    resolver: &pb::DnsConfig,
    cgroup_parent: Option<String>,
) -> Result<pb::PodSandboxConfig, String> {
    if pod.spec.as_ref().and_then(|spec| spec.host_users) == Some(false) {
        return Err("user namespaces are not supported by this kubelet".to_owned());
    }
    let (namespace, name, uid) = (spec::namespace(pod), spec::name(pod), spec::uid(pod));
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let sysctls = context.and_then(|context| context.sysctls.as_ref()).into_iter().flatten();
    let on_host = spec::host_network(pod);
    let hostname =
        if on_host { config.node_name.clone() } else { dns::kernel_hostname(pod, &config.cluster_domain)? };
    Ok(pb::PodSandboxConfig {
        metadata: Some(pb::PodSandboxMetadata {
            name: name.to_owned(),
            uid: uid.to_owned(),
            namespace: namespace.to_owned(),
            attempt,
        }),
        hostname,
        log_directory: config.log_dir(namespace, name, uid).to_string_lossy().into_owned(),
        dns_config: Some(dns::pod_dns(pod, resolver, &config.cluster_dns, &config.cluster_domain)),
        port_mappings: if on_host { Vec::new() } else { port_mappings(pod) },
        labels: sandbox_labels(pod),
        annotations: pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
        linux: Some(pb::LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent.unwrap_or_default(),
            security_context: Some(security::of_sandbox(pod)),
            sysctls: sysctls.map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect(),
            ..Default::default()
        }),
        windows: None,
    })
}

fn pod_labels(pod: &Pod) -> HashMap<String, String> {
    [
        (labels::POD_NAME, spec::name(pod)),
        (labels::POD_NAMESPACE, spec::namespace(pod)),
        (labels::POD_UID, spec::uid(pod)),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

fn sandbox_labels(pod: &Pod) -> HashMap<String, String> {
    let own = pod.metadata.labels.clone().unwrap_or_default();
    own.into_iter().chain(pod_labels(pod)).collect()
}

fn port_mappings(pod: &Pod) -> Vec<pb::PortMapping> {
    let all = spec::containers(pod);
    let ports = all.iter().flat_map(|(_, c)| c.ports.iter().flatten());
    ports
        .filter(|port| port.host_port.is_some_and(|host_port| host_port > 0))
        .map(|port| pb::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => pb::Protocol::Udp as i32,
                Some("SCTP") => pb::Protocol::Sctp as i32,
                _ => pb::Protocol::Tcp as i32,
            },
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

/// What a container's configuration is made from.
pub struct ContainerInputs<'a> {
    /// Settings of the kubelet.
    pub config: &'a Config,
    /// Pod.
    pub pod: &'a Pod,
    /// Spec.
    pub container: &'a Container,
    /// Restarts before this one.
    pub restart_count: i32,
    /// Image reference that the runtime knows.
    pub image_ref: &'a str,
    /// User of the image.
    pub image_user: ImageUser,
    /// Finished environment.
    pub env: Vec<(String, String)>,
    /// References of the images of image volumes, by volume.
    pub volume_images: BTreeMap<String, String>,
    /// The machine's memory, for OOM scores.
    pub memory_bytes: i64,
    /// Container whose processes an ephemeral one joins.
    pub target: Option<&'a str>,
}

/// The container's configuration; makes the files that it mounts. Errors are messages of
/// CreateContainerConfigError.
pub fn container_config(inputs: &ContainerInputs<'_>) -> Result<pb::ContainerConfig, String> {
    let (pod, c) = (inputs.pod, inputs.container);
    let known: BTreeMap<&str, &str> = inputs.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let lookup = |name: &str| known.get(name).map(|value| (*value).to_owned());
    let words = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|word| expand(word, lookup)).collect()
    };
    let linux = pb::LinuxContainerConfig {
        resources: Some(resources::container_resources(pod, c, inputs.memory_bytes)),
        security_context: Some(security::of_container(pod, c, &inputs.image_user, inputs.target)?),
    };
    Ok(pb::ContainerConfig {
        metadata: Some(pb::ContainerMetadata {
            name: c.name.clone(),
            attempt: u32::try_from(inputs.restart_count).unwrap_or(0),
        }),
        image: Some(pb::ImageSpec {
            image: inputs.image_ref.to_owned(),
            user_specified_image: c.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: words(&c.command),
        args: words(&c.args),
        working_dir: c.working_dir.clone().unwrap_or_default(),
        mounts: mounts(inputs, &lookup)?,
        envs: inputs
            .env
            .iter()
            .map(|(key, value)| pb::KeyValue { key: key.clone(), value: value.clone() })
            .collect(),
        labels: container_labels(pod, c),
        annotations: annotations(inputs),
        log_path: format!("{}/{}.log", c.name, inputs.restart_count),
        stdin: c.stdin == Some(true),
        stdin_once: c.stdin_once == Some(true),
        tty: c.tty == Some(true),
        linux: Some(linux),
        ..Default::default()
    })
}

fn container_labels(pod: &Pod, c: &Container) -> HashMap<String, String> {
    let mut labels = pod_labels(pod);
    labels.insert(labels::CONTAINER_NAME.to_owned(), c.name.clone());
    labels
}

fn annotations(inputs: &ContainerInputs<'_>) -> HashMap<String, String> {
    let c = inputs.container;
    let own = |text: &Option<String>, default: &str| text.clone().unwrap_or_else(|| default.to_owned());
    let stop_signal = c.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone());
    let stop_signal = stop_signal.map(|signal| (labels::STOP_SIGNAL, signal));
    [
        (labels::CONTAINER_HASH, spec::container_hash(c)),
        (labels::RESTART_COUNT, inputs.restart_count.to_string()),
        (labels::TERMINATION_PATH, own(&c.termination_message_path, "/dev/termination-log")),
        (labels::TERMINATION_POLICY, own(&c.termination_message_policy, "File")),
        (labels::GRACE_PERIOD, spec::grace_period(inputs.pod).to_string()),
    ]
    .into_iter()
    .chain(stop_signal)
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

// ---- mounts ----

fn mounts(
    inputs: &ContainerInputs<'_>,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<pb::Mount>, String> {
    let c = inputs.container;
    let dir = inputs.config.pod_dir(spec::uid(inputs.pod));
    let mut list = Vec::new();
    for mount in c.volume_mounts.iter().flatten() {
        list.push(volume_mount(inputs, &dir, mount, lookup)?);
    }
    let taken = |list: &[pb::Mount], path: &str| list.iter().any(|mount| mount.container_path == path);
    if !taken(&list, "/etc/hosts") {
        list.push(plain_mount("/etc/hosts", &dir.join(HOSTS_FILE)));
    }
    let message_path = c.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    if !message_path.is_empty() && !taken(&list, message_path) {
        let file =
            termination_file(&dir, &c.name, inputs.restart_count).map_err(|error| error.to_string())?;
        list.push(plain_mount(message_path, &file));
    }
    Ok(list)
}

fn plain_mount(inside: &str, outside: &Path) -> pb::Mount {
    pb::Mount {
        container_path: inside.to_owned(),
        host_path: outside.to_string_lossy().into_owned(),
        ..Default::default()
    }
}

/// An empty file that the container may write its last words to.
fn termination_file(dir: &Path, container: &str, restart_count: i32) -> std::io::Result<PathBuf> {
    let dir = dir.join("containers").join(container);
    fs::create_dir_all(&dir)?;
    let file = dir.join(format!("{restart_count}-{:08x}", rand::random::<u32>()));
    fs::File::create(&file)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666))?;
    Ok(file)
}

fn volume_mount(
    inputs: &ContainerInputs<'_>,
    dir: &Path,
    mount: &VolumeMount,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<pb::Mount, String> {
    let volumes = inputs.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let volume = volumes.into_iter().find(|volume| volume.name == mount.name);
    let volume = volume.ok_or_else(|| {
        format!("cannot find volume \"{}\" to mount into container \"{}\"", mount.name, inputs.container.name)
    })?;
    let inside = if mount.mount_path.starts_with('/') {
        mount.mount_path.clone()
    } else {
        format!("/{}", mount.mount_path)
    };
    let sub = sub_path_of(mount, lookup)?;
    if let Some(source) = &volume.image {
        let shown = source.reference.clone().unwrap_or_default();
        return match sub {
            None => image_mount(inputs, mount, inside, shown),
            // CRI of this version has no word for it
            Some(_) => Err(format!("subPath is not supported in the image volume \"{}\"", mount.name)),
        };
    }
    let root = pod_volumes::path(dir, volume).ok_or_else(|| {
        format!("cannot find volume \"{}\" to mount into container \"{}\"", mount.name, inputs.container.name)
    })?;
    let host_path = match sub {
        Some(sub) => sub_path::resolve(&root, &sub)?,
        None => root,
    };
    Ok(pb::Mount {
        readonly: mount.read_only == Some(true),
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => pb::MountPropagation::PropagationHostToContainer as i32,
            Some("Bidirectional") => pb::MountPropagation::PropagationBidirectional as i32,
            _ => pb::MountPropagation::PropagationPrivate as i32,
        },
        recursive_read_only: mount.recursive_read_only.as_deref() == Some("Enabled"),
        ..plain_mount(&inside, &host_path)
    })
}

/// A mount of an image: the runtime makes it, always read-only.
fn image_mount(
    inputs: &ContainerInputs<'_>,
    mount: &VolumeMount,
    inside: String,
    shown: String,
) -> Result<pb::Mount, String> {
    let image = inputs.volume_images.get(&mount.name);
    let image = image.ok_or_else(|| format!("image of volume \"{}\" is not there", mount.name))?;
    Ok(pb::Mount {
        container_path: inside,
        readonly: true,
        image: Some(pb::ImageSpec {
            image: image.clone(),
            user_specified_image: shown,
            ..Default::default()
        }),
        ..Default::default()
    })
}

fn sub_path_of(
    mount: &VolumeMount,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<String>, String> {
    if let Some(expression) = mount.sub_path_expr.as_deref().filter(|text| !text.is_empty()) {
        let missing = unknown_references(expression, |name| lookup(name).is_some());
        if !missing.is_empty() {
            return Err(format!("missing value for {}", missing.join(", ")));
        }
        return Ok(Some(expand(expression, lookup)));
    }
    Ok(mount.sub_path.clone().filter(|path| !path.is_empty()))
}
