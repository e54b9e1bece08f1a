//! Validation of security contexts and of what an operating system forbids.

use super::spec::Scope;
use super::volume::descending_path;
use crate::Value;
use crate::field::{Error, Path};
use crate::kinds::look::{Errors, Zero, given, int, internal, is_true, items, one_of_given, text};
use crate::rules::{self, invalid_each};

const ID_MAX: i64 = i32::MAX as i64;
const SYSCTL_MAX_BYTES: usize = 253;
const SYSCTL_PATTERN: &str = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
const APP_ARMOR_PROFILE_MAX_BYTES: usize = 4095;
const PROFILE_TYPES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
const NET_SYSCTLS: &[&str] = &["net."];
const IPC_SYSCTLS: &[&str] = &["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];

fn id(errors: &mut Errors, value: &Value, field: &'static str, path: &Path<'_>) {
    if let Some(id) = int(value, field).filter(|id| !(0..=ID_MAX).contains(id)) {
        errors.push(Error::invalid(&path.child(field), id, rules::between(0, ID_MAX)));
    }
}

/// `spec.securityContext`
pub(super) fn pod(errors: &mut Errors, context: &Value, spec: &Value, path: &Path<'_>) {
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(errors, context, field, path);
    }
    let groups = path.child("supplementalGroups");
    for (i, group) in items(context, "supplementalGroups").iter().enumerate() {
        if let Some(group) = group.as_i64().filter(|g| !(0..=ID_MAX).contains(g)) {
            errors.push(Error::invalid(&groups.index(i), group, rules::between(0, ID_MAX)));
        }
    }
    if is_true(spec, "shareProcessNamespace") && is_true(spec, "hostPID") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        // The fields are the pod's.
        let pod = Path::root("spec");
        let pod = if path.parent().is_some() { path.parent().copied().unwrap_or(pod) } else { pod };
        errors.push(Error::invalid(&pod.child("shareProcessNamespace"), true, detail));
    }
    sysctls(errors, context, spec, &path.child("sysctls"));
    one_of_given(errors, context, "fsGroupChangePolicy", &["Always", "OnRootMismatch"], path);
    super::windows::options(errors, context, path);
    profiles(errors, context, path);
    one_of_given(errors, context, "supplementalGroupsPolicy", &["Merge", "Strict"], path);
    one_of_given(errors, context, "seLinuxChangePolicy", &["MountOption", "Recursive"], path);
}

fn sysctls(errors: &mut Errors, context: &Value, spec: &Value, path: &Path<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, sysctl) in items(context, "sysctls").iter().enumerate() {
        let (at, name) = (path.index(i), text(sysctl, "name"));
        let path = at.child("name");
        if name.is_empty() {
            errors.push(Error::required(&path, ""));
        } else if !is_sysctl(name) {
            let detail =
                format!("must have at most {SYSCTL_MAX_BYTES} characters and match regex {SYSCTL_PATTERN}");
            errors.push(Error::invalid(&path, name, detail));
        } else if seen.contains(&name) {
            errors.push(Error::duplicate(&path, name));
        }
        seen.push(name);
        let name_of = name.replace('/', ".");
        let starts = |prefixes: &[&str]| prefixes.iter().any(|p| name_of.starts_with(p));
        if is_true(spec, "hostNetwork") && starts(NET_SYSCTLS) {
            errors.push(Error::invalid(&path, name, "may not be specified when 'hostNetwork' is true"));
        } else if is_true(spec, "hostIPC") && starts(IPC_SYSCTLS) {
            errors.push(Error::invalid(&path, name, "may not be specified when 'hostIPC' is true"));
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= SYSCTL_MAX_BYTES
        && name.split(['.', '/']).all(|part| {
            let bytes = part.as_bytes();
            bytes.first().is_some_and(|b| plain(*b))
                && bytes.last().is_some_and(|b| plain(*b))
                && bytes.iter().all(|&b| plain(b) || matches!(b, b'-' | b'_'))
        })
}

/// `securityContext` of a container.
pub(super) fn container(errors: &mut Errors, context: &Value, scope: &Scope<'_>, path: &Path<'_>) {
    id(errors, context, "runAsUser", path);
    id(errors, context, "runAsGroup", path);
    one_of_given(errors, context, "procMount", &["Default", "Unmasked"], path);
    if scope.host_users && text(context, "procMount") == "Unmasked" {
        let detail = "`hostUsers` must be false to use `Unmasked`";
        errors.push(Error::invalid(&path.child("procMount"), "Unmasked", detail));
    }
    let escalation = given(context, "allowPrivilegeEscalation").and_then(Value::as_bool);
    if escalation == Some(false) {
        if is_true(context, "privileged") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(Error::invalid(path, context.clone(), detail));
        }
        let added = context.items_at(&["capabilities", "add"]);
        if added.iter().any(|c| c.as_str() == Some("CAP_SYS_ADMIN")) {
            let detail =
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(Error::invalid(path, context.clone(), detail));
        }
    }
    super::windows::options(errors, context, path);
    profiles(errors, context, path);
}

fn profiles(errors: &mut Errors, context: &Value, path: &Path<'_>) {
    if let Some(profile) = given(context, "seccompProfile") {
        seccomp(errors, profile, &path.child("seccompProfile"));
    }
    if let Some(profile) = given(context, "appArmorProfile") {
        app_armor(errors, profile, &path.child("appArmorProfile"));
    }
}

fn profile_type(errors: &mut Errors, profile: &Value, field: &str, path: &Path<'_>) {
    match text(profile, "type") {
        "" => {
            errors.push(Error::required(&path.child("type"), format!("type is required when {field} is set")))
        }
        kind if !PROFILE_TYPES.contains(&kind) => {
            errors.push(Error::not_supported(&path.child("type"), kind, PROFILE_TYPES));
        }
        _ => {}
    }
}

const SECCOMP: &[(&str, &str, Zero)] =
    &[("type", "Type", Zero::Text), ("localhostProfile", "LocalhostProfile", Zero::Null)];

fn seccomp(errors: &mut Errors, profile: &Value, path: &Path<'_>) {
    profile_type(errors, profile, "seccompProfile", path);
    let local = given(profile, "localhostProfile").and_then(Value::as_str);
    let at = path.child("localhostProfile");
    match (text(profile, "type") == "Localhost", local) {
        (true, None) => errors.push(Error::required(&at, "must be set when seccomp type is Localhost")),
        (true, Some(file)) => descending_path(errors, file, &at),
        (false, Some(_)) => {
            errors.push(Error::invalid(
                &at,
                internal(profile, SECCOMP),
                "can only be set when seccomp type is Localhost",
            ));
        }
        (false, None) => {}
    }
}

fn app_armor(errors: &mut Errors, profile: &Value, path: &Path<'_>) {
    let local = given(profile, "localhostProfile").and_then(Value::as_str);
    let at = path.child("localhostProfile");
    let is_local = text(profile, "type") == "Localhost";
    match local {
        None if is_local => errors.push(Error::required(&at, "must be set when AppArmor type is Localhost")),
        Some(name) if is_local => {
            if name.trim() != name {
                errors.push(Error::invalid(&at, name, "must not be padded with whitespace"));
            } else if name.is_empty() {
                errors.push(Error::required(&at, "must be set when AppArmor type is Localhost"));
            }
            if name.len() > APP_ARMOR_PROFILE_MAX_BYTES {
                errors.push(Error::too_long(&at, APP_ARMOR_PROFILE_MAX_BYTES));
            }
        }
        Some(name) if matches!(text(profile, "type"), "RuntimeDefault" | "Unconfined") => {
            errors.push(Error::invalid(&at, name, "can only be set when AppArmor type is Localhost"));
        }
        _ => {}
    }
    profile_type(errors, profile, "appArmorProfile", path);
}

const NOT_ON_WINDOWS_POD: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];
const NOT_ON_WINDOWS_CONTAINER: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// `spec.os`: a known name, and nothing that this system does not have.
pub(super) fn os(errors: &mut Errors, spec: &Value, os: &str, path: &Path<'_>) {
    let at = path.child("os");
    match os {
        "" => errors.push(Error::required(&at.child("name"), "")),
        "linux" => linux(errors, spec, path),
        "windows" => windows(errors, spec, path),
        other => errors.push(Error::not_supported(&at, other, &["linux", "windows"])),
    }
}

fn each_context(spec: &Value, path: &Path<'_>, mut visit: impl FnMut(&Value, &Path<'_>)) {
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        let list = path.child(field);
        for (i, container) in items(spec, field).iter().enumerate() {
            if let Some(context) = given(container, "securityContext") {
                visit(context, &list.index(i).child("securityContext"));
            }
        }
    }
}

fn linux(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let mut check = |context: &Value, path: &Path<'_>| {
        if given(context, "windowsOptions").is_some() {
            let detail = "windows options cannot be set for a linux pod";
            errors.push(Error::forbidden(&path.child("windowsOptions"), detail));
        }
    };
    if let Some(context) = given(spec, "securityContext") {
        check(context, &path.child("securityContext"));
    }
    each_context(spec, path, check);
}

fn windows(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let mut forbid = |value: &Value, fields: &[&str], path: &Path<'_>| {
        for field in fields.iter().filter(|f| given(value, f).is_some()) {
            errors.push(Error::forbidden(&path.child(field), "cannot be set for a windows pod"));
        }
    };
    if let Some(context) = given(spec, "securityContext") {
        forbid(context, NOT_ON_WINDOWS_POD, &path.child("securityContext"));
    }
    forbid(spec, &["hostUsers", "shareProcessNamespace"], path);
    for field in ["hostPID", "hostIPC"].into_iter().filter(|f| is_true(spec, f)) {
        forbid(spec, &[field], path);
    }
    each_context(spec, path, |context, path| forbid(context, NOT_ON_WINDOWS_CONTAINER, path));
}

/// Annotations that only pods (and templates) have: mirror pods, deletion cost, old seccomp and AppArmor marks.
pub(super) fn annotations(errors: &mut Errors, annotations: &Value, spec: &Value, path: &Path<'_>) {
    let get = |key: &str| annotations.get(key).and_then(Value::as_str);
    if let Some(value) = get(super::MIRROR).filter(|_| text(spec, "nodeName").is_empty()) {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        errors.push(Error::invalid(&path.key(super::MIRROR), value, detail));
    }
    const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    if let Some(cost) = get(COST).filter(|cost| !is_deletion_cost(cost)) {
        errors.push(Error::invalid(&path.key(COST), cost, "must be a 32bit integer"));
    }
    for (key, profile) in annotations.as_object().into_iter().flat_map(crate::Object::iter) {
        let profile = profile.as_str().unwrap_or_default();
        if key == "seccomp.security.alpha.kubernetes.io/pod"
            || key.starts_with("container.seccomp.security.alpha.kubernetes.io/")
        {
            let known = matches!(profile, "runtime/default" | "docker/default" | "unconfined");
            match profile.strip_prefix("localhost/") {
                Some(file) => descending_path(errors, file, &path.child(key)),
                None if !known => invalid_each(
                    errors,
                    &path.child(key),
                    profile,
                    vec!["must be a valid seccomp profile".to_owned()],
                ),
                None => {}
            }
        }
        if let Some(name) = key.strip_prefix("container.apparmor.security.beta.kubernetes.io/") {
            app_armor_annotation(errors, name, profile, spec, &path.key(key));
        }
    }
}

fn app_armor_annotation(errors: &mut Errors, name: &str, profile: &str, spec: &Value, path: &Path<'_>) {
    let fields = ["initContainers", "containers", "ephemeralContainers"];
    if !fields.iter().flat_map(|field| items(spec, field)).any(|c| text(c, "name") == name) {
        errors.push(Error::invalid(path, name, "container not found"));
    }
    if !matches!(profile, "" | "runtime/default" | "unconfined") && !profile.starts_with("localhost/") {
        errors.push(Error::invalid(path, profile, format!("invalid AppArmor profile name: \"{profile}\"")));
    }
}

/// A 32-bit integer without a plus sign or leading zeros.
fn is_deletion_cost(cost: &str) -> bool {
    let digits = cost.strip_prefix('-').unwrap_or(cost);
    cost == "0" || (digits.starts_with(|c: char| ('1'..='9').contains(&c)) && cost.parse::<i32>().is_ok())
}
