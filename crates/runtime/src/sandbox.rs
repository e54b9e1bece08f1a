//! Pod sandboxes: namespaces without a process, the pod's files, its network.
//!
//! The record is the first file written and the last one removed, so that a crash between any two steps
//! leaves a sandbox that RemovePodSandbox cleans up.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use corten_network::{Attachment, PodIps, PodName, PortMapping, Protocol};
use corten_sys::cgroups::Cgroups;
use corten_sys::mounts::Mounts;
use corten_sys::namespaces::{self, Kind};
use k8s_cri::v1 as cri;
use k8s_cri::v1::{ContainerEventType, NamespaceMode, PodSandboxConfig};

use crate::error::{Result, RuntimeError};
use crate::files;
use crate::node::{Node, blocking, new_id};
use crate::registry::{Sandbox, SandboxRecord};
use crate::{container, lifecycle, shim_client, status};

/// Size of a pod's /dev/shm, as everywhere.
const SHM_BYTES: u64 = 64 << 20;
/// The control group of a shared pid namespace's first process, below the pod's.
const PAUSE_GROUP: &str = "pause";
/// Sysctls that make ports below 1024 and ping usable without capabilities; containerd's defaults.
const NETWORK_SYSCTLS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

/// RunPodSandbox.
pub(crate) async fn run(node: &Arc<Node>, config: PodSandboxConfig, handler: String) -> Result<String> {
    check(&config)?;
    let id = new_id();
    let dir = node.config.sandboxes_dir().join(&id);
    let record = SandboxRecord {
        cgroup: cgroup_parent(node, &config, &id),
        id: id.clone(),
        config,
        runtime_handler: handler,
        created_at_ns: crate::shim::now_ns(),
        ready: false,
        ips: Vec::new(),
    };
    std::fs::create_dir_all(&dir).map_err(files::failed(format!("create {}", dir.display())))?;
    let sandbox = Arc::new(Sandbox::new(dir, record));
    sandbox.update(|_| {}).inspect_err(|_| drop(files::remove_dir(&sandbox.dir)))?;
    let _busy = sandbox.busy.lock().await;
    node.registry.add_sandbox(sandbox.clone());
    match bring_up(node, &sandbox).await {
        Ok(ips) => {
            sandbox.update(|r| {
                r.ready = true;
                r.ips = ips;
            })?;
            node.announce_id(ContainerEventType::ContainerCreatedEvent, &id, &id);
            node.announce_id(ContainerEventType::ContainerStartedEvent, &id, &id);
            Ok(id)
        }
        Err(error) => {
            // What cannot be undone now stays listed as not ready, for the kubelet to remove later.
            match tear_down(node, &sandbox).await {
                Ok(()) => forget(node, &sandbox).await?,
                Err(second) => tracing::warn!(sandbox = id, %second, "failed sandbox not cleaned up"),
            }
            Err(error)
        }
    }
}

fn check(config: &PodSandboxConfig) -> Result<()> {
    let has_name = config.metadata.as_ref().is_some_and(|m| !m.name.is_empty());
    if !has_name {
        return Err(RuntimeError::Invalid("sandbox config must include metadata with a name".into()));
    }
    let options = status::namespace_options(config);
    if options.userns_options.is_some_and(|u| u.mode() == NamespaceMode::Pod) {
        return Err(RuntimeError::Invalid("user namespaces are not supported by this runtime".into()));
    }
    Ok(())
}

fn cgroup_parent(node: &Node, config: &PodSandboxConfig, id: &str) -> String {
    match config.linux.as_ref().map(|l| l.cgroup_parent.as_str()) {
        Some(parent) if !parent.is_empty() => format!("/{}", parent.trim_matches('/')),
        _ => format!("/{}/{id}", node.config.cgroup_root.trim_matches('/')),
    }
}

async fn bring_up(node: &Arc<Node>, sandbox: &Arc<Sandbox>) -> Result<Vec<String>> {
    let config = sandbox.with(|r| r.config.clone());
    let options = status::namespace_options(&config);
    let (node2, sandbox2, config2) = (node.clone(), sandbox.clone(), config.clone());
    blocking(move || prepare(&node2, &sandbox2, &config2)).await?;
    if options.pid() == NamespaceMode::Pod {
        start_pause(node, sandbox).await?;
    }
    if status::on_host_network(&config) {
        return Ok(Vec::new());
    }
    let attachment = Attachment {
        sandbox_id: sandbox.id.clone(),
        pod: pod_name(&config),
        netns: sandbox.dir.join("ns/net"),
        port_mappings: config.port_mappings.iter().map(port_mapping).collect::<Result<_>>()?,
    };
    let PodIps { primary, additional } = node.config.network.attach(attachment).await?;
    Ok([primary].into_iter().chain(additional).map(|ip| ip.to_string()).collect())
}

fn pod_name(config: &PodSandboxConfig) -> PodName {
    let metadata = config.metadata.clone().unwrap_or_default();
    PodName { namespace: metadata.namespace, name: metadata.name, uid: metadata.uid }
}

/// Namespaces, /dev/shm and the files below /etc.
fn prepare(node: &Node, sandbox: &Sandbox, config: &PodSandboxConfig) -> Result<()> {
    let options = status::namespace_options(config);
    let linux = config.linux.clone().unwrap_or_default();
    let mut kinds = Vec::new();
    let own_network = options.network() != NamespaceMode::Node;
    if own_network {
        kinds.extend([Kind::Net, Kind::Uts]);
    }
    if options.ipc() != NamespaceMode::Node {
        kinds.push(Kind::Ipc);
    }
    namespaces::create_pinned(&kinds, &sandbox.dir.join("ns"), || {
        if own_network {
            namespaces::set_hostname(&config.hostname)?;
            for (name, value) in NETWORK_SYSCTLS {
                // Defaults only: a kernel without one of them is no reason to refuse the pod.
                let _ = namespaces::write_sysctl(name, value);
            }
        }
        linux.sysctls.iter().try_for_each(|(name, value)| namespaces::write_sysctl(name, value))
    })?;
    if options.ipc() != NamespaceMode::Node {
        let shm = sandbox.dir.join("shm");
        std::fs::create_dir_all(&shm).map_err(files::failed(format!("create {}", shm.display())))?;
        node.mounts.tmpfs(&shm, SHM_BYTES, 0o1777)?;
    }
    etc_files(&sandbox.dir, config, &node.host.hostname)
}

fn etc_files(dir: &Path, config: &PodSandboxConfig, node_name: &str) -> Result<()> {
    let hostname = if config.hostname.is_empty() { node_name } else { &config.hostname };
    let host = |path: &str| std::fs::read(path).unwrap_or_default();
    let resolv = match &config.dns_config {
        Some(dns) => resolv_conf(dns).into_bytes(),
        None => host("/etc/resolv.conf"),
    };
    // The kubelet mounts its own hosts file into every container; this one is for others.
    let hosts = host("/etc/hosts");
    for (name, text) in
        [("hostname", format!("{hostname}\n").into_bytes()), ("hosts", hosts), ("resolv.conf", resolv)]
    {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(files::failed(format!("write {}", path.display())))?;
    }
    Ok(())
}

fn resolv_conf(dns: &cri::DnsConfig) -> String {
    let mut lines: Vec<String> = Vec::new();
    if !dns.searches.is_empty() {
        lines.push(format!("search {}\n", dns.searches.join(" ")));
    }
    lines.extend(dns.servers.iter().map(|server| format!("nameserver {server}\n")));
    if !dns.options.is_empty() {
        lines.push(format!("options {}\n", dns.options.join(" ")));
    }
    lines.concat()
}

fn port_mapping(mapping: &cri::PortMapping) -> Result<PortMapping> {
    let port = |value: i32| u16::try_from(value).map_err(|_| RuntimeError::Invalid(format!("port {value}")));
    let host_ip = match mapping.host_ip.as_str() {
        "" => None,
        // A wildcard means every address, of both families as a listener on `::` has it.
        "::" | "0.0.0.0" => None,
        ip => Some(ip.parse().map_err(|e| RuntimeError::Invalid(format!("host ip {ip:?}: {e}")))?),
    };
    Ok(PortMapping {
        protocol: match mapping.protocol() {
            cri::Protocol::Tcp => Protocol::Tcp,
            cri::Protocol::Udp => Protocol::Udp,
            cri::Protocol::Sctp => Protocol::Sctp,
        },
        host_port: port(mapping.host_port)?,
        container_port: port(mapping.container_port)?,
        host_ip,
    })
}

/// A shared pid namespace needs a live process: a shim that only reaps.
async fn start_pause(node: &Arc<Node>, sandbox: &Arc<Sandbox>) -> Result<()> {
    let mut command = shim_client::shim_command(&node.config.shim_command)?;
    command.arg("pause").stdin(Stdio::null()).stderr(Stdio::null());
    let failed = |e: String| RuntimeError::Other(format!("start the pod's first process: {e}"));
    let output = tokio::process::Command::from(command).output().await.map_err(|e| failed(e.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let pid: i32 = text.trim().parse().map_err(|e| failed(format!("{e}: {text:?}")))?;
    let (node, sandbox) = (node.clone(), sandbox.clone());
    blocking(move || {
        let group = pause_group(&sandbox);
        node.cgroups.create(&group)?;
        node.cgroups.add(&group, pid)?;
        let source = format!("/proc/{pid}/ns/pid");
        Ok(namespaces::pin_path(source.as_ref(), &sandbox.dir.join("ns/pid"))?)
    })
    .await
}

fn pause_group(sandbox: &Sandbox) -> String {
    // The id keeps two sandboxes of one pod (an old and a new one) apart.
    format!("{}/{PAUSE_GROUP}-{}", sandbox.with(|r| r.cgroup.clone()), &sandbox.id[..13])
}

/// StopPodSandbox: every container is killed, the network released. Stopping again is fine.
pub(crate) async fn stop(node: &Arc<Node>, sandbox: &Arc<Sandbox>) -> Result<()> {
    let _busy = sandbox.busy.lock().await;
    let was_ready = sandbox.with(|r| r.ready);
    // A full disk must not keep anything running. The record is about to go, and if not, its namespaces tell the truth.
    if let Err(error) = sandbox.update(|r| r.ready = false) {
        tracing::warn!(sandbox = sandbox.id, %error, "stopped sandbox still recorded as ready");
    }
    for container in node.registry.containers_of(&sandbox.id) {
        lifecycle::stop(node, &container, Duration::ZERO).await?;
    }
    tear_down(node, sandbox).await?;
    if was_ready {
        node.announce_id(ContainerEventType::ContainerStoppedEvent, &sandbox.id, &sandbox.id);
    }
    Ok(())
}

/// Undoes `bring_up`; every step may have been done before.
async fn tear_down(node: &Arc<Node>, sandbox: &Arc<Sandbox>) -> Result<()> {
    node.config.network.detach(&sandbox.id).await?;
    let (node, sandbox) = (node.clone(), sandbox.clone());
    blocking(move || {
        let group = pause_group(&sandbox);
        node.cgroups.kill_all(&group)?;
        node.cgroups.remove(&group)?;
        for name in ["net", "ipc", "uts", "pid"] {
            namespaces::unpin(&sandbox.dir.join("ns").join(name))?;
        }
        Ok(node.mounts.unmount_below(&sandbox.dir)?)
    })
    .await
}

/// RemovePodSandbox: stops what runs, removes the containers, then the sandbox itself.
pub(crate) async fn remove(node: &Arc<Node>, sandbox: &Arc<Sandbox>) -> Result<()> {
    stop(node, sandbox).await?;
    for container in node.registry.containers_of(&sandbox.id) {
        container::remove(node, &container).await?;
    }
    let last = status::sandbox_status(sandbox);
    forget(node, sandbox).await?;
    node.events.send(ContainerEventType::ContainerDeletedEvent, &sandbox.id, Some(last), Vec::new());
    Ok(())
}

async fn forget(node: &Arc<Node>, sandbox: &Arc<Sandbox>) -> Result<()> {
    let (node2, sandbox2) = (node.clone(), sandbox.clone());
    blocking(move || {
        // A pod's own group belongs to the kubelet; without one the group is ours.
        let cgroup = sandbox2.with(|r| r.cgroup.clone());
        if cgroup.ends_with(&sandbox2.id) {
            node2.cgroups.remove(&cgroup)?;
        }
        Ok(files::remove_dir(&sandbox2.dir)?)
    })
    .await?;
    node.registry.forget_sandbox(&sandbox.id);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_one_line_a_server() {
        let list = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        let dns = cri::DnsConfig {
            servers: list(&["10.96.0.10", "1.1.1.1"]),
            searches: list(&["default.svc.cluster.local", "svc.cluster.local"]),
            options: list(&["ndots:5"]),
        };
        assert_eq!(
            resolv_conf(&dns),
            "search default.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\nnameserver 1.1.1.1\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&cri::DnsConfig::default()), "");
    }

    #[test]
    fn port_mappings_are_checked() {
        let mapping = |host_port, host_ip: &str| cri::PortMapping {
            protocol: 0,
            container_port: 80,
            host_port,
            host_ip: host_ip.into(),
        };
        assert_eq!(port_mapping(&mapping(8080, "")).unwrap().host_ip, None);
        assert_eq!(port_mapping(&mapping(8080, "127.0.0.1")).unwrap().host_port, 8080);
        assert!(port_mapping(&mapping(70_000, "")).is_err());
        assert!(port_mapping(&mapping(80, "nonsense")).is_err());
    }
}
