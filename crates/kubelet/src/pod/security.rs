//! Security contexts: what pod and container say together, in CRI's terms. Pure.

use k8s_cri::v1 as pb;
use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile, SecurityContext};

use super::spec;

/// Paths hidden from containers with the default procMount.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Paths that containers with the default procMount can only read.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The user that an image asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageUser {
    /// Numeric user.
    pub uid: Option<i64>,
    /// User by name, where it is not numeric.
    pub username: String,
}

/// Namespaces of a pod's containers; `target` is the container whose processes an ephemeral one joins.
pub fn namespaces(pod: &Pod, target: Option<&str>) -> pb::NamespaceOption {
    let spec = pod.spec.clone().unwrap_or_default();
    let on = |flag: Option<bool>| flag == Some(true);
    let node_or = |flag: Option<bool>, other: pb::NamespaceMode| {
        if on(flag) { pb::NamespaceMode::Node as i32 } else { other as i32 }
    };
    let pid =
        if on(spec.share_process_namespace) { pb::NamespaceMode::Pod } else { pb::NamespaceMode::Container };
    let mut options = pb::NamespaceOption {
        network: node_or(spec.host_network, pb::NamespaceMode::Pod),
        ipc: node_or(spec.host_ipc, pb::NamespaceMode::Pod),
        pid: node_or(spec.host_pid, pid),
        ..Default::default()
    };
    if let Some(target) = target
        && !on(spec.host_pid)
        && !on(spec.share_process_namespace)
    {
        options.pid = pb::NamespaceMode::Target as i32;
        options.target_id = target.to_owned();
    }
    options
}

/// Whether any container is privileged.
pub fn has_privileged(pod: &Pod) -> bool {
    spec::containers(pod).iter().any(|(_, c)| is_privileged(c))
}

fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|context| context.privileged) == Some(true)
}

fn number(value: i64) -> pb::Int64Value {
    pb::Int64Value { value }
}

/// CRI's profile; without any the container is unconfined, as upstream's default is.
fn seccomp(profile: Option<&SeccompProfile>) -> pb::SecurityProfile {
    use pb::security_profile::ProfileType;
    let (kind, local) = match profile.map(|profile| profile.type_.as_str()) {
        Some("RuntimeDefault") => (ProfileType::RuntimeDefault, String::new()),
        Some("Localhost") => {
            let file = profile.and_then(|profile| profile.localhost_profile.clone()).unwrap_or_default();
            (ProfileType::Localhost, file)
        }
        _ => (ProfileType::Unconfined, String::new()),
    };
    pb::SecurityProfile { profile_type: kind as i32, localhost_ref: local }
}

/// The sandbox's security context.
pub fn of_sandbox(pod: &Pod) -> pb::LinuxSandboxSecurityContext {
    use pb::security_profile::ProfileType;
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.clone()).unwrap_or_default();
    let default =
        pb::SecurityProfile { profile_type: ProfileType::RuntimeDefault as i32, ..Default::default() };
    let profile = context.seccomp_profile.as_ref().map_or(default, |profile| seccomp(Some(profile)));
    pb::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, None)),
        run_as_user: context.run_as_user.map(number),
        run_as_group: context.run_as_group.map(number),
        supplemental_groups: supplemental_groups(pod),
        supplemental_groups_policy: groups_policy(pod),
        privileged: has_privileged(pod),
        seccomp: Some(profile),
        ..Default::default()
    }
}

fn supplemental_groups(pod: &Pod) -> Vec<i64> {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.clone()).unwrap_or_default();
    let mut groups = context.supplemental_groups.unwrap_or_default();
    groups.extend(context.fs_group);
    groups
}

fn groups_policy(pod: &Pod) -> i32 {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    match context.and_then(|context| context.supplemental_groups_policy.as_deref()) {
        Some("Strict") => pb::SupplementalGroupsPolicy::Strict as i32,
        _ => pb::SupplementalGroupsPolicy::Merge as i32,
    }
}

/// The container's security context. Errors are messages of CreateContainerConfigError.
pub fn of_container(
    pod: &Pod,
    container: &Container,
    image: &ImageUser,
    target: Option<&str>,
) -> Result<pb::LinuxContainerSecurityContext, String> {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.clone()).unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let run_as_user = own.run_as_user.or(of_pod.run_as_user);
    if own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) {
        verify_non_root(pod, container, run_as_user, image)?;
    }
    let privileged = own.privileged == Some(true);
    let open = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |list: &[&str]| if open { vec![] } else { list.iter().map(|p| (*p).to_owned()).collect() };
    let user = run_as_user.or(image.uid);
    Ok(pb::LinuxContainerSecurityContext {
        capabilities: capabilities(&own),
        privileged,
        namespace_options: Some(namespaces(pod, target)),
        run_as_user: user.map(number),
        run_as_username: if user.is_none() { image.username.clone() } else { String::new() },
        run_as_group: own.run_as_group.or(of_pod.run_as_group).map(number),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: supplemental_groups(pod),
        supplemental_groups_policy: groups_policy(pod),
        no_new_privs: own.allow_privilege_escalation == Some(false) && !privileged,
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(seccomp(own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref()))),
        ..Default::default()
    })
}

fn capabilities(context: &SecurityContext) -> Option<pb::Capability> {
    let wanted = context.capabilities.clone()?;
    Some(pb::Capability {
        add_capabilities: wanted.add.unwrap_or_default(),
        drop_capabilities: wanted.drop.unwrap_or_default(),
        ..Default::default()
    })
}

fn verify_non_root(
    pod: &Pod,
    container: &Container,
    user: Option<i64>,
    image: &ImageUser,
) -> Result<(), String> {
    let whose = format!("(pod: \"{}\", container: {})", spec::describe(pod), container.name);
    match (user, image.uid) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {whose}")),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err(format!("container has runAsNonRoot and image will run as root {whose}")),
        (None, Some(_)) => Ok(()),
        (None, None) if !image.username.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {whose}",
            image.username
        )),
        (None, None) => Err(format!("container has runAsNonRoot and image will run as root {whose}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn made(
        pod: Value,
        container: Value,
        image: ImageUser,
    ) -> Result<pb::LinuxContainerSecurityContext, String> {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"securityContext": pod, "containers": []}}))
            .unwrap();
        let container = serde_json::from_value(json!({"name": "a", "securityContext": container})).unwrap();
        of_container(&pod, &container, &image, None)
    }

    fn uid(uid: i64) -> ImageUser {
        ImageUser { uid: Some(uid), username: String::new() }
    }

    #[test]
    fn non_root() {
        let named = ImageUser { uid: None, username: "www".into() };
        let who = "(pod: \"p_n(u)\", container: a)";
        for (container, image, expected) in [
            (json!({}), uid(5), None),
            (json!({}), uid(0), Some("container has runAsNonRoot and image will run as root")),
            (json!({"runAsUser": 7}), uid(0), None),
            (json!({"runAsUser": 0}), uid(5), Some("container's runAsUser breaks non-root policy")),
            (
                json!({}),
                named.clone(),
                Some(
                    "container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root",
                ),
            ),
            (json!({"runAsNonRoot": false}), uid(0), None),
        ] {
            let found = made(json!({"runAsNonRoot": true}), container.clone(), image).err();
            assert_eq!(found, expected.map(|text| format!("{text} {who}")), "{container}");
        }
    }

    #[test]
    fn container_wins_over_pod() {
        let context = made(
            json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 9, "supplementalGroups": [8]}),
            json!({"runAsUser": 3, "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true}),
            uid(0),
        )
        .unwrap();
        assert_eq!(context.run_as_user, Some(number(3)));
        assert_eq!(context.run_as_group, Some(number(2)));
        assert_eq!(context.supplemental_groups, [8, 9]);
        assert!(context.no_new_privs && context.readonly_rootfs);
        assert_eq!(context.capabilities.unwrap().drop_capabilities, ["ALL"]);
        assert!(context.masked_paths.contains(&"/proc/kcore".to_owned()));
        let open = made(json!({}), json!({"privileged": true}), uid(0)).unwrap();
        assert!(open.privileged && open.masked_paths.is_empty());
    }

    #[test]
    fn the_image_names_the_user_when_nobody_else_does() {
        assert_eq!(made(json!({}), json!({}), uid(33)).unwrap().run_as_user, Some(number(33)));
        let named = ImageUser { uid: None, username: "www".into() };
        assert_eq!(made(json!({}), json!({}), named).unwrap().run_as_username, "www");
    }
}
