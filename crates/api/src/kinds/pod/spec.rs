//! Validation of a pod's spec, also below a controller's template. Order and words are those of upstream.

use std::collections::HashMap;

use super::{affinity, container, security, volume, windows};
use crate::field::{Error, Path};
use crate::kinds::look::{Errors, Zero, entries, given, int, internal, is_true, items, one_of, text};
use crate::rules::{self, invalid_each};
use crate::{Value, meta};

const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_LIST_MAX_BYTES: usize = 2048;
const HOSTNAME_OVERRIDE_MAX_BYTES: usize = 64;

/// What the parts of one pod must know of each other.
pub(super) struct Scope<'a> {
    /// A pod, not a template.
    pub(super) is_pod: bool,
    /// The pod's name, where it has one (templates have none).
    pub(super) pod_name: &'a str,
    /// Volumes without mistakes, by name.
    pub(super) volumes: HashMap<&'a str, &'a Value>,
    /// Names in `resourceClaims`.
    pub(super) claims: Vec<&'a str>,
    pub(super) restart_policy: &'a str,
    pub(super) grace_seconds: Option<i64>,
    /// `os.name`, where it is given.
    pub(super) os: Option<&'a str>,
    pub(super) host_users: bool,
}

/// Validates a pod's spec. `metadata` is the pod's; templates pass none.
pub(crate) fn validate(errors: &mut Errors, spec: &Value, metadata: Option<&Value>, path: &Path<'_>) {
    if int(spec, "terminationGracePeriodSeconds").is_none() {
        errors.push(Error::required(&path.child("terminationGracePeriodSeconds"), ""));
    }
    let mut scope = Scope {
        is_pod: metadata.is_some(),
        pod_name: metadata.map_or("", |m| text(m, "name")),
        volumes: HashMap::new(),
        claims: items(spec, "resourceClaims")
            .iter()
            .map(|c| text(c, "name"))
            .filter(|n| !n.is_empty())
            .collect(),
        restart_policy: text(spec, "restartPolicy"),
        grace_seconds: int(spec, "terminationGracePeriodSeconds"),
        os: given(spec, "os").map(|os| text(os, "name")),
        host_users: given(spec, "hostUsers").and_then(Value::as_bool) != Some(false),
    };
    volume::validate(errors, items(spec, "volumes"), &mut scope, &path.child("volumes"));
    resource_claims(errors, spec, metadata, &path.child("resourceClaims"));
    container::containers(errors, spec, &scope, &path.child("containers"));
    container::init_containers(errors, spec, &scope, &path.child("initContainers"));
    container::ephemeral_containers(errors, spec, &scope, &path.child("ephemeralContainers"));
    if let Some(resources) = given(spec, "resources") {
        container::pod_resources(errors, spec, resources, &scope, &path.child("resources"));
    }
    host_network_ports(errors, spec, &scope, path);
    let restart_policies = &["Always", "OnFailure", "Never"];
    one_of(errors, scope.restart_policy, restart_policies, &path.child("restartPolicy"));
    let dns_policies = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(errors, text(spec, "dnsPolicy"), dns_policies, &path.child("dnsPolicy"));
    meta::labels(errors, spec.get("nodeSelector"), &path.child("nodeSelector"));
    if let Some(context) = given(spec, "securityContext") {
        security::pod(errors, context, spec, &path.child("securityContext"));
    }
    if let Some(affinity) = given(spec, "affinity") {
        affinity::validate(errors, affinity, &path.child("affinity"));
    }
    dns_config(errors, spec, &path.child("dnsConfig"));
    gates(errors, spec, path);
    affinity::topology_spread(
        errors,
        items(spec, "topologySpreadConstraints"),
        &path.child("topologySpreadConstraints"),
    );
    host_users(errors, spec, &scope, path);
    hostname_override(errors, spec, path);
    names(errors, spec, path);
    affinity::tolerations(errors, items(spec, "tolerations"), &path.child("tolerations"));
    host_aliases(errors, spec, &path.child("hostAliases"));
    classes(errors, spec, path);
    windows::host_process(errors, spec, path);
    if let Some(os) = scope.os {
        security::os(errors, spec, os, path);
    }
    container::file_key_volumes(errors, spec, path);
}

const CLAIM: &[(&str, &str, Zero)] = &[
    ("name", "Name", Zero::Text),
    ("resourceClaimName", "ResourceClaimName", Zero::Null),
    ("resourceClaimTemplateName", "ResourceClaimTemplateName", Zero::Null),
];

fn resource_claims(errors: &mut Errors, spec: &Value, metadata: Option<&Value>, path: &Path<'_>) {
    let is_mirror = metadata.is_some_and(|m| m.at(&["annotations", super::MIRROR]).is_some());
    let mut seen: Vec<&str> = Vec::new();
    for (i, claim) in items(spec, "resourceClaims").iter().enumerate() {
        if is_mirror {
            errors.push(Error::forbidden(&Path::root(""), "static pods do not support resource claims"));
            continue;
        }
        let path = path.index(i);
        let name = text(claim, "name");
        if name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        } else if seen.contains(&name) {
            errors.push(Error::duplicate(&path.child("name"), name));
        } else {
            invalid_each(errors, &path.child("name"), name, rules::dns_label(name));
            seen.push(name);
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"];
        match sources.iter().filter(|s| given(claim, s).is_some()).count() {
            1 => {}
            0 => errors.push(Error::invalid(
                &path,
                internal(claim, CLAIM),
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            )),
            _ => errors.push(Error::invalid(
                &path,
                internal(claim, CLAIM),
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            )),
        }
        for source in sources {
            if let Some(name) = given(claim, source).and_then(Value::as_str) {
                invalid_each(errors, &path.child(source), name, rules::dns_subdomain(name));
            }
        }
    }
}

fn host_network_ports(errors: &mut Errors, spec: &Value, scope: &Scope<'_>, path: &Path<'_>) {
    if !is_true(spec, "hostNetwork") {
        return;
    }
    let containers = path.child("containers");
    for (i, container) in items(spec, "containers").iter().enumerate() {
        let at = containers.index(i);
        let ports = at.child("ports");
        for (j, port) in items(container, "ports").iter().enumerate() {
            let (host, own) = (int(port, "hostPort").unwrap_or(0), int(port, "containerPort").unwrap_or(0));
            if (scope.is_pod || host != 0) && host != own {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(Error::invalid(&ports.index(j).child("hostPort"), host, detail));
            }
        }
    }
}

fn dns_config(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let config = given(spec, "dnsConfig");
    if text(spec, "dnsPolicy") == "None" {
        let Some(config) = config else {
            errors.push(Error::required(path, "must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        };
        if items(config, "nameservers").is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(Error::required(&path.child("nameservers"), detail));
            return;
        }
    }
    let Some(config) = config else { return };
    let (servers, searches) = (items(config, "nameservers"), items(config, "searches"));
    if servers.len() > NAMESERVERS_MAX {
        let detail = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.push(Error::invalid(&path.child("nameservers"), Value::from(servers.to_vec()), detail));
    }
    for (i, server) in servers.iter().enumerate() {
        let server = server.as_str().unwrap_or_default();
        invalid_each(errors, &path.child("nameservers").index(i), server, rules::ip_address(server));
    }
    dns_searches(errors, searches, &path.child("searches"));
    for (i, option) in items(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            errors.push(Error::required(&path.child("options").index(i), "must not be empty"));
        }
    }
}

fn dns_searches(errors: &mut Errors, searches: &[Value], path: &Path<'_>) {
    let all = || Value::from(searches.to_vec());
    if searches.len() > SEARCHES_MAX {
        errors.push(Error::invalid(
            path,
            all(),
            format!("must not have more than {SEARCHES_MAX} search paths"),
        ));
    }
    let bytes: usize = searches.iter().map(|s| s.as_str().map_or(0, str::len) + 1).sum();
    if bytes.saturating_sub(1) > SEARCH_LIST_MAX_BYTES {
        let detail = format!(
            "must not have more than {SEARCH_LIST_MAX_BYTES} characters (including spaces) in the search list"
        );
        errors.push(Error::invalid(path, all(), detail));
    }
    for (i, search) in searches.iter().enumerate() {
        let search = search.as_str().unwrap_or_default();
        if search != "." {
            let search = search.strip_suffix('.').unwrap_or(search);
            invalid_each(errors, &path.index(i), search, rules::dns_subdomain_with_underscore(search));
        }
    }
}

fn gates(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    for (i, gate) in items(spec, "readinessGates").iter().enumerate() {
        let kind = text(gate, "conditionType");
        let path = path.child("readinessGates");
        invalid_each(errors, &path.index(i).child("conditionType"), kind, rules::qualified_name(kind));
    }
    let mut seen: Vec<&str> = Vec::new();
    for (i, gate) in items(spec, "schedulingGates").iter().enumerate() {
        let name = text(gate, "name");
        let path = path.child("schedulingGates");
        invalid_each(errors, &path.index(i), name, rules::qualified_name(name));
        if seen.contains(&name) {
            errors.push(Error::duplicate(&path.index(i), name));
        }
        seen.push(name);
    }
}

fn host_users(errors: &mut Errors, spec: &Value, scope: &Scope<'_>, path: &Path<'_>) {
    if scope.host_users {
        return;
    }
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if is_true(spec, field) {
            errors.push(Error::forbidden(&path.child(shown), "when `hostUsers` is false"));
        }
    }
}

fn hostname_override(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let Some(name) = given(spec, "hostnameOverride").and_then(Value::as_str) else { return };
    let path_of = path.child("hostnameOverride");
    if is_true(spec, "setHostnameAsFQDN") {
        errors.push(Error::forbidden(&path_of, "may not be specified when setHostnameAsFQDN is true"));
    }
    if is_true(spec, "hostNetwork") {
        errors.push(Error::forbidden(&path_of, "may not be specified when hostNetwork is true"));
    }
    if name.len() > HOSTNAME_OVERRIDE_MAX_BYTES {
        errors.push(Error::too_long(&path_of, HOSTNAME_OVERRIDE_MAX_BYTES));
    }
    invalid_each(errors, &path_of, name, rules::dns_subdomain(name));
}

fn names(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let mut check = |field: &'static str, rule: fn(&str) -> rules::Messages| {
        let name = text(spec, field);
        if !name.is_empty() {
            invalid_each(errors, &path.child(field), name, rule(name));
        }
    };
    check("serviceAccountName", rules::dns_subdomain);
    check("nodeName", rules::dns_subdomain);
    if let Some(seconds) =
        int(spec, "activeDeadlineSeconds").filter(|s| !(1..=i64::from(i32::MAX)).contains(s))
    {
        let detail = rules::between(1, i64::from(i32::MAX));
        errors.push(Error::invalid(&path.child("activeDeadlineSeconds"), seconds, detail));
    }
    for field in ["hostname", "subdomain"] {
        let name = text(spec, field);
        if !name.is_empty() {
            invalid_each(errors, &path.child(field), name, rules::dns_label(name));
        }
    }
}

fn host_aliases(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    for (i, alias) in items(spec, "hostAliases").iter().enumerate() {
        let (path, ip) = (path.index(i), text(alias, "ip"));
        invalid_each(errors, &path.child("ip"), ip, rules::ip_address(ip));
        for (j, name) in items(alias, "hostnames").iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            invalid_each(errors, &path.child("hostnames").index(j), name, rules::dns_subdomain(name));
        }
    }
}

fn classes(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    for field in ["priorityClassName", "runtimeClassName"] {
        let name = given(spec, field).and_then(Value::as_str);
        if let Some(name) = name.filter(|n| field == "runtimeClassName" || !n.is_empty()) {
            invalid_each(errors, &path.child(field), name, rules::dns_subdomain(name));
        }
    }
    if let Some(policy) = given(spec, "preemptionPolicy").and_then(Value::as_str) {
        one_of(errors, policy, &["PreemptLowerPriority", "Never"], &path.child("preemptionPolicy"));
    }
    for (name, amount) in entries(spec, "overhead") {
        let path = path.child("overhead");
        let path = path.child("limits");
        container::resource_amount(errors, name, amount, &path.key(name));
    }
}
