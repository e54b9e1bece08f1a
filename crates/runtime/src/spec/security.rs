//! Capabilities, system call filters and the other fences around a container.

use k8s_cri::v1::LinuxContainerSecurityContext;
use k8s_cri::v1::security_profile::ProfileType;
use serde_json::{Value, json};

use super::{Result, SpecError};
use crate::seccomp::{self, Filters};

/// All capabilities in the order of their numbers; the kernel may know fewer.
const ALL: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];
/// What a container gets when it asks for nothing: the set that all CRI runtimes share.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];
/// What installing a filter without "no new privileges", and giving these up again, takes.
const FOR_FILTERS: [&str; 2] = ["SYS_ADMIN", "SETPCAP"];

/// Capabilities of the process.
pub(super) struct Capabilities {
    /// OCI's object of sets.
    pub set: Value,
    /// What must be left after the filters are installed, if that is less.
    pub at_last: Option<Vec<String>>,
}

pub(super) fn capabilities(context: &LinuxContainerSecurityContext, filtered: bool) -> Result<Capabilities> {
    let wanted = chosen(context)?;
    let ambient: Vec<String> = match &context.capabilities {
        Some(caps) => normalised(&caps.add_ambient_capabilities)?,
        None => Vec::new(),
    };
    let needs_more = filtered && !context.no_new_privs;
    let mut given = wanted.clone();
    if needs_more {
        given.extend(FOR_FILTERS.iter().map(|n| format!("CAP_{n}")).filter(|n| !wanted.contains(n)));
    }
    let mut set = json!({"bounding": given, "effective": given, "permitted": given});
    if !ambient.is_empty() {
        set["inheritable"] = json!(ambient);
        set["ambient"] = json!(ambient);
    }
    Ok(Capabilities { set, at_last: (needs_more && given != wanted).then_some(wanted) })
}

fn chosen(context: &LinuxContainerSecurityContext) -> Result<Vec<String>> {
    let known = own();
    let asked = context.capabilities.clone().unwrap_or_default();
    let (add, drop) = (normalised(&asked.add_capabilities)?, normalised(&asked.drop_capabilities)?);
    let all = |list: &[String]| list.iter().any(|name| name == "CAP_ALL");
    let base: Vec<&str> = match (context.privileged || all(&add), all(&drop)) {
        (true, _) => known.clone(),
        (false, true) => Vec::new(),
        (false, false) => DEFAULT.to_vec(),
    };
    let mut names: Vec<String> = base.iter().map(|name| format!("CAP_{name}")).collect();
    names.extend(add.iter().filter(|name| *name != "CAP_ALL").cloned());
    if !context.privileged {
        names.retain(|name| !drop.contains(name) || add.contains(name));
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// The capabilities that we have ourselves, and so can give: inside a virtual machine or a container some
/// may be missing, and a kernel may know fewer than we.
fn own() -> Vec<&'static str> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    ALL.iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1).map(|(_, name)| *name).collect()
}

fn normalised(names: &[String]) -> Result<Vec<String>> {
    let one = |name: &String| {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        match bare == "ALL" || ALL.contains(&bare) {
            true => Ok(format!("CAP_{bare}")),
            false => Err(SpecError(format!("unknown capability {name:?}"))),
        }
    };
    names.iter().map(one).collect()
}

/// The filters that a container asked for. AppArmor is refused where it would silently not be applied.
pub(super) fn filters(context: &LinuxContainerSecurityContext) -> Result<Option<Filters>> {
    if let Some(profile) = context.apparmor.as_ref().filter(|p| p.profile_type() == ProfileType::Localhost) {
        return Err(SpecError(format!("apparmor is not supported: profile {:?}", profile.localhost_ref)));
    }
    if context.privileged {
        return Ok(None);
    }
    let Some(profile) = &context.seccomp else { return Ok(None) };
    let made = match profile.profile_type() {
        ProfileType::Unconfined => return Ok(None),
        ProfileType::RuntimeDefault => seccomp::runtime_default(&chosen(context)?),
        ProfileType::Localhost => seccomp::from_file(profile.localhost_ref.as_ref()),
    };
    made.map(Some).map_err(|e| SpecError(format!("seccomp profile: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_cri::v1::Capability;

    fn set(add: &[&str], drop: &[&str], privileged: bool) -> Vec<String> {
        let list = |names: &[&str]| names.iter().map(|n| n.to_string()).collect();
        let capabilities = Capability {
            add_capabilities: list(add),
            drop_capabilities: list(drop),
            ..Capability::default()
        };
        let context = LinuxContainerSecurityContext {
            capabilities: Some(capabilities),
            privileged,
            ..Default::default()
        };
        chosen(&context).unwrap()
    }

    #[test]
    fn add_and_drop_combine_as_in_containerd() {
        assert_eq!(set(&[], &[], false).len(), DEFAULT.len());
        assert_eq!(set(&[], &["ALL"], false), Vec::<String>::new());
        assert_eq!(set(&["NET_ADMIN", "cap_chown"], &["ALL"], false), ["CAP_CHOWN", "CAP_NET_ADMIN"]);
        assert!(!set(&[], &["CHOWN"], false).contains(&"CAP_CHOWN".to_owned()));
        let all = set(&["ALL"], &["SYS_ADMIN"], false);
        assert_eq!(all.len(), own().iter().filter(|c| **c != "SYS_ADMIN").count());
        assert!(!all.contains(&"CAP_SYS_ADMIN".to_owned()));
        assert_eq!(set(&[], &["ALL"], true).len(), own().len());
        assert!(normalised(&["NONSENSE".into()]).is_err());
    }

    #[test]
    fn filters_borrow_capabilities_and_give_them_back() {
        let context = LinuxContainerSecurityContext::default();
        let borrowed = capabilities(&context, true).unwrap();
        assert!(borrowed.set["permitted"].to_string().contains("CAP_SYS_ADMIN"));
        assert!(!borrowed.at_last.unwrap().contains(&"CAP_SYS_ADMIN".to_owned()));
        let fenced = LinuxContainerSecurityContext { no_new_privs: true, ..Default::default() };
        assert!(capabilities(&fenced, true).unwrap().at_last.is_none());
    }
}
