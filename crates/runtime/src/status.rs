//! What CRI is told of sandboxes and containers.

use k8s_cri::v1 as cri;
use k8s_cri::v1::{ContainerState, NamespaceMode, PodSandboxState};

use crate::registry::{Container, Phase, Progress, Sandbox};

/// Whether a sandbox uses the node's own network.
pub(crate) fn on_host_network(config: &cri::PodSandboxConfig) -> bool {
    namespace_options(config).network() == NamespaceMode::Node
}

/// The sandbox's namespaces as asked for.
pub(crate) fn namespace_options(config: &cri::PodSandboxConfig) -> cri::NamespaceOption {
    let context = config.linux.as_ref().and_then(|l| l.security_context.as_ref());
    context.and_then(|c| c.namespace_options.clone()).unwrap_or_default()
}

fn sandbox_state(ready: bool) -> PodSandboxState {
    if ready { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready }
}

pub(crate) fn sandbox_status(sandbox: &Sandbox) -> cri::PodSandboxStatus {
    sandbox.with(|r| cri::PodSandboxStatus {
        id: r.id.clone(),
        metadata: r.config.metadata.clone(),
        state: sandbox_state(r.ready).into(),
        created_at: r.created_at_ns,
        network: Some(cri::PodSandboxNetworkStatus {
            ip: r.ips.first().cloned().unwrap_or_default(),
            additional_ips: r.ips.iter().skip(1).map(|ip| cri::PodIp { ip: ip.clone() }).collect(),
        }),
        linux: Some(cri::LinuxPodSandboxStatus {
            namespaces: Some(cri::Namespace { options: Some(namespace_options(&r.config)) }),
        }),
        labels: r.config.labels.clone(),
        annotations: r.config.annotations.clone(),
        runtime_handler: r.runtime_handler.clone(),
    })
}

pub(crate) fn sandbox_item(sandbox: &Sandbox) -> cri::PodSandbox {
    sandbox.with(|r| cri::PodSandbox {
        id: r.id.clone(),
        metadata: r.config.metadata.clone(),
        state: sandbox_state(r.ready).into(),
        created_at: r.created_at_ns,
        labels: r.config.labels.clone(),
        annotations: r.config.annotations.clone(),
        runtime_handler: r.runtime_handler.clone(),
    })
}

fn container_state(phase: Phase) -> ContainerState {
    match phase {
        Phase::Created => ContainerState::ContainerCreated,
        Phase::Running => ContainerState::ContainerRunning,
        Phase::Exited => ContainerState::ContainerExited,
    }
}

pub(crate) fn container_item(container: &Container) -> cri::Container {
    let phase = container.phase();
    container.with(|r| cri::Container {
        id: r.id.clone(),
        pod_sandbox_id: r.sandbox_id.clone(),
        metadata: r.config.metadata.clone(),
        image: Some(image_spec(r)),
        image_ref: r.image_ref.clone(),
        state: container_state(phase).into(),
        created_at: r.created_at_ns,
        labels: r.config.labels.clone(),
        annotations: r.config.annotations.clone(),
        image_id: r.image_id.clone(),
    })
}

pub(crate) fn container_status(container: &Container) -> cri::ContainerStatus {
    let progress = container.progress();
    let exited = progress.exited.clone();
    container.with(|r| cri::ContainerStatus {
        id: r.id.clone(),
        metadata: r.config.metadata.clone(),
        state: container_state(progress.phase()).into(),
        created_at: r.created_at_ns,
        started_at: progress.started.map_or(0, |s| s.at_ns),
        finished_at: exited.as_ref().map_or(0, |e| e.at_ns),
        exit_code: exited.as_ref().map_or(0, |e| e.code),
        image: Some(image_spec(r)),
        image_ref: r.image_ref.clone(),
        reason: reason(&progress),
        message: exited.map(|e| e.message).unwrap_or_default(),
        labels: r.config.labels.clone(),
        annotations: r.config.annotations.clone(),
        mounts: r.config.mounts.clone(),
        log_path: r.log_path.as_ref().map(|p| p.display().to_string()).unwrap_or_default(),
        resources: r
            .resources
            .clone()
            .map(|linux| cri::ContainerResources { linux: Some(linux), windows: None }),
        image_id: r.image_id.clone(),
        user: Some(cri::ContainerUser {
            linux: Some(cri::LinuxContainerUser {
                uid: r.user.uid.into(),
                gid: r.user.gid.into(),
                supplemental_groups: r.user.groups.iter().map(|g| i64::from(*g)).collect(),
            }),
        }),
    })
}

fn image_spec(record: &crate::registry::ContainerRecord) -> cri::ImageSpec {
    let mut spec = record.config.image.clone().unwrap_or_default();
    spec.image.clone_from(&record.image_name);
    spec
}

/// The words that the kubelet shows as `reason` of a terminated container.
fn reason(progress: &Progress) -> String {
    let Some(exited) = &progress.exited else { return String::new() };
    match &exited.reason {
        Some(reason) => reason.clone(),
        None if exited.oom => "OOMKilled".into(),
        None if exited.code == 0 => "Completed".into(),
        None => "Error".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::Exited;

    #[test]
    fn reasons_of_an_end() {
        for (code, oom, given, want) in [
            (0, false, None, "Completed"),
            (1, false, None, "Error"),
            (137, true, None, "OOMKilled"),
            (128, false, Some("StartError"), "StartError"),
        ] {
            let reason_given = given.map(str::to_owned);
            let exited =
                Exited { code, signal: 0, at_ns: 0, oom, reason: reason_given, message: String::new() };
            assert_eq!(reason(&Progress { started: None, exited: Some(exited) }), want);
        }
        assert_eq!(reason(&Progress::default()), "");
    }
}
