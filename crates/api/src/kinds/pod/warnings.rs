//! What is allowed in a pod but hardly meant: sentences for the `Warning` header, in upstream's words and order.

mod paths;

use crate::Value;
use crate::field::{Path, Quoted};
use crate::kinds::look::{entries, given, int, int_or_zero, is_empty_map, items, text};
use crate::kinds::warn;
use crate::rules;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const NO_SELECTOR: &str = "a null labelSelector results in matching no pod";
const SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
const SECCOMP_OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_OF_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

const CONTAINERS: &[&str] = &["initContainers", "containers", "ephemeralContainers"];

/// Labels of nodes that got another name.
const RENAMED: &[(&str, &str, &str)] = &[
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "v1.17", "node.kubernetes.io/instance-type"),
];
/// Annotations that mean nothing any more.
const ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];
/// Volumes of drivers that left the tree, and how upstream spells them here.
const VOLUMES: &[(&str, &str, &str)] = &[
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Of a new pod. Updates are mostly not by people.
pub(super) fn of_pod(pod: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    if old.is_none() {
        name(&mut warnings, pod, "the Pod's hostname");
        let empty = Value::Null;
        let metadata = pod.get("metadata").unwrap_or(&empty);
        let (at, spec) = (Path::root("metadata"), Path::root("spec"));
        of_spec(&mut warnings, pod.get("spec").unwrap_or(&empty), metadata, &spec, &at);
    }
    warnings
}

/// Of what makes pods: its template at `spec.template`.
pub(crate) fn of_owner(owner: &Value, old: Option<&Value>) -> Vec<String> {
    let root = Path::root("spec");
    let of_template = owner.at(&["spec", "template"]);
    of_template_at(
        owner,
        old,
        of_template,
        old.and_then(|o| o.at(&["spec", "template"])),
        &root.child("template"),
    )
}

/// Of a pod template on its own.
pub(crate) fn of_template(owner: &Value, old: Option<&Value>) -> Vec<String> {
    let before = Some(old.unwrap_or(&Value::Null));
    let path = Path::root("template");
    of_template_at(owner, before, owner.get("template"), old.and_then(|o| o.get("template")), &path)
}

/// Of a cron job: its template lies deeper.
pub(crate) fn of_cron_job(cron: &Value, old: Option<&Value>) -> Vec<String> {
    const PLACE: &[&str] = &["spec", "jobTemplate", "spec", "template"];
    let root = Path::root("spec");
    let job = root.child("jobTemplate");
    let inner = job.child("spec");
    of_template_at(cron, old, cron.at(PLACE), old.and_then(|o| o.at(PLACE)), &inner.child("template"))
}

fn of_template_at(
    owner: &Value,
    old: Option<&Value>,
    template: Option<&Value>,
    before: Option<&Value>,
    path: &Path<'_>,
) -> Vec<String> {
    let mut warnings = Vec::new();
    if old.is_none() {
        name(&mut warnings, owner, "Pod names and hostnames");
    }
    let empty = Value::Null;
    if let Some(template) = template.filter(|t| before != Some(t)) {
        let metadata = template.get("metadata").unwrap_or(&empty);
        let (spec, at) = (path.child("spec"), path.child("metadata"));
        of_spec(&mut warnings, template.get("spec").unwrap_or(&empty), metadata, &spec, &at);
    }
    warnings
}

fn name(warnings: &mut Vec<String>, object: &Value, used: &str) {
    let name = object.str_at(&["metadata", "name"]);
    let wrong = rules::dns_label(name);
    if !name.is_empty() && !wrong.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in {used}, which can result in surprising behavior; a DNS label is recommended: [{}]",
            wrong.join(" ")
        ));
    }
}

fn of_spec(
    warnings: &mut Vec<String>,
    spec: &Value,
    metadata: &Value,
    path: &Path<'_>,
    metadata_path: &Path<'_>,
) {
    of_placement(warnings, spec, path);
    let annotated = |key: &str| metadata.at(&["annotations", key]).is_some();
    let annotations = metadata_path.child("annotations");
    let has_annotations = !is_empty_map(metadata.get("annotations"));
    for (key, message) in ANNOTATIONS.iter().filter(|(key, _)| annotated(key)) {
        warnings.push(format!("{}: {message}", annotations.key(key)));
    }
    of_volumes(warnings, items(spec, "volumes"), &path.child("volumes"));
    paths::overlaps(warnings, items(spec, "volumes"));
    of_lists(warnings, spec, path);
    for name in ["memory", "ephemeral-storage"] {
        if let Some(amount) = spec.at(&["overhead", name]) {
            warn::bytes(warnings, amount, &path.child("overhead").key(name));
        }
    }
    let unconfined = |of: &Value| of.at(&["securityContext", "seccompProfile"]).is_none();
    if unconfined(spec) && annotated(SECCOMP_OF_POD) {
        warnings.push(format!("{}: {SECCOMP}", annotations.key(SECCOMP_OF_POD)));
    }
    each_container(spec, path, |container, path| {
        if has_annotations && unconfined(container) {
            let key = format!("{SECCOMP_OF_CONTAINER}{}", text(container, "name"));
            if annotated(&key) {
                warnings.push(format!("{}: {SECCOMP}", annotations.key(&key)));
            }
        }
        of_container(warnings, container, path);
    });
    of_ports(warnings, spec, path);
    if int(spec, "terminationGracePeriodSeconds").is_some_and(|n| n < 0) {
        let path = path.child("terminationGracePeriodSeconds");
        warnings.push(format!("{path}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    of_affinity(warnings, spec, path);
    let config = path.child("dnsConfig");
    let servers = config.child("nameservers");
    for (i, server) in spec.items_at(&["dnsConfig", "nameservers"]).iter().enumerate() {
        warn::address(warnings, server.as_str().unwrap_or_default(), &servers.index(i));
    }
    let aliases = path.child("hostAliases");
    for (i, alias) in items(spec, "hostAliases").iter().enumerate() {
        warn::address(warnings, text(alias, "ip"), &aliases.index(i).child("ip"));
    }
}

fn each_container(spec: &Value, path: &Path<'_>, mut visit: impl FnMut(&Value, &Path<'_>)) {
    for list in CONTAINERS {
        let place = path.child(list);
        items(spec, list).iter().enumerate().for_each(|(i, container)| visit(container, &place.index(i)));
    }
}

fn renamed(label: &str) -> Option<String> {
    let (_, since, other) = RENAMED.iter().find(|(old, ..)| *old == label)?;
    Some(format!("deprecated since {since}; use \"{other}\" instead"))
}

fn of_placement(warnings: &mut Vec<String>, spec: &Value, path: &Path<'_>) {
    let selector = path.child("nodeSelector");
    for (label, _) in entries(spec, "nodeSelector") {
        warnings.extend(renamed(label).map(|message| format!("{}: {message}", selector.key(label))));
    }
    let affinity = path.child("affinity");
    let nodes = affinity.child("nodeAffinity");
    if let Some(node) = spec.at(&["affinity", "nodeAffinity"]) {
        let required = nodes.child(REQUIRED);
        let terms = required.child("nodeSelectorTerms");
        for (i, term) in node.items_at(&[REQUIRED, "nodeSelectorTerms"]).iter().enumerate() {
            of_node_term(warnings, term, false, &terms.index(i));
        }
        let preferred = nodes.child(PREFERRED);
        for (i, weighted) in items(node, PREFERRED).iter().enumerate() {
            let term = given(weighted, "preference").unwrap_or(&Value::Null);
            of_node_term(warnings, term, true, &preferred.index(i).child("preference"));
        }
    }
    let list = path.child("topologySpreadConstraints");
    for (i, constraint) in items(spec, "topologySpreadConstraints").iter().enumerate() {
        let (path, key) = (list.index(i), text(constraint, "topologyKey"));
        warnings
            .extend(renamed(key).map(|message| format!("{}: {key} is {message}", path.child("topologyKey"))));
        if given(constraint, "labelSelector").is_none() {
            warnings.push(format!("{}: {NO_SELECTOR}", path.child("labelSelector")));
        }
    }
}

fn of_node_term(warnings: &mut Vec<String>, term: &Value, check_values: bool, path: &Path<'_>) {
    let list = path.child("matchExpressions");
    for (i, expression) in items(term, "matchExpressions").iter().enumerate() {
        let (path, key) = (list.index(i), text(expression, "key"));
        warnings.extend(renamed(key).map(|message| format!("{}: {key} is {message}", path.child("key"))));
        let values = path.child("values");
        for (j, value) in items(expression, "values").iter().enumerate().filter(|_| check_values) {
            let value = value.as_str().unwrap_or_default();
            let wrong = rules::label_value(value);
            warnings.extend(wrong.iter().map(|m| format!("{}: {value} is invalid, {m}", values.index(j))));
        }
    }
}

fn of_volumes(warnings: &mut Vec<String>, volumes: &[Value], list: &Path<'_>) {
    for (i, volume) in volumes.iter().enumerate() {
        let path = list.index(i);
        for (_, shown, message) in VOLUMES.iter().filter(|(kind, ..)| given(volume, kind).is_some()) {
            warnings.push(format!("{}: {message}", path.child(shown)));
        }
        if let Some(claim) = volume.at(&["ephemeral", "volumeClaimTemplate", "spec"]) {
            let (own, template) = (path.child("ephemeral"), "volumeClaimTemplate");
            warn::claim_spec(warnings, claim, &own.child(template).child("spec"));
        }
    }
}

/// Lists whose keys are checked by nobody else.
fn of_lists(warnings: &mut Vec<String>, spec: &Value, path: &Path<'_>) {
    for (field, key) in [("hostAliases", "ip"), ("imagePullSecrets", "name")] {
        let (all, list) = (items(spec, field), path.child(field));
        for (i, item) in all.iter().enumerate() {
            let own = text(item, key);
            if all[..i].iter().any(|other| text(other, key) == own) {
                let at = list.index(i);
                warnings.push(format!("{}: duplicate {key} {}", at.child(key), own.quoted()));
            }
        }
    }
    let list = path.child("imagePullSecrets");
    for (i, _) in
        items(spec, "imagePullSecrets").iter().enumerate().filter(|(_, s)| text(s, "name").is_empty())
    {
        let at = list.index(i);
        warnings.push(format!("{}: invalid empty name \"\"", at.child("name")));
    }
}

fn of_container(warnings: &mut Vec<String>, container: &Value, path: &Path<'_>) {
    let resources = path.child("resources");
    for name in ["memory", "ephemeral-storage"] {
        for side in ["limits", "requests"] {
            if let Some(amount) = container.at(&["resources", side, name]) {
                warn::bytes(warnings, amount, &resources.child(side).key(name));
            }
        }
    }
    let (env, list) = (items(container, "env"), path.child("env"));
    for (i, variable) in env.iter().enumerate() {
        let (name, value) = (text(variable, "name"), text(variable, "value"));
        if !env[..i].iter().any(|other| text(other, "name") == name) {
            continue;
        }
        // One that is made of its former self, and of more, is meant to hide it.
        let reference = format!("$({name})");
        let extends =
            given(variable, "valueFrom").is_none() && value != reference && value.contains(&reference);
        if !extends {
            let (place, name) = (list.index(i), name.quoted());
            warnings.push(format!(
                "{place}: hides previous definition of {name}, which may be dropped when using apply"
            ));
        }
    }
}

/// A port that was met before, and where.
struct Met<'a> {
    port: &'a Value,
    place: String,
}

fn of_ports(warnings: &mut Vec<String>, spec: &Value, path: &Path<'_>) {
    let mut all = CONTAINERS.iter().flat_map(|list| items(spec, list)).flat_map(|c| items(c, "ports"));
    let (first, second) = (all.next(), all.next());
    // The usual pod has one port or none, and nothing to compare.
    if second.is_none() && first.is_none_or(|port| text(port, "hostIP").is_empty()) {
        return;
    }
    let mut met: Vec<Met<'_>> = Vec::new();
    for list in CONTAINERS {
        let containers = path.child(list);
        for (i, container) in items(spec, list).iter().enumerate() {
            let at = containers.index(i);
            let ports = at.child("ports");
            for (j, port) in items(container, "ports").iter().enumerate() {
                let place = ports.index(j).to_string();
                of_port(warnings, port, &place, &met);
                met.push(Met { port, place });
            }
        }
    }
    for (i, Met { port, place }) in met.iter().enumerate() {
        let name = text(port, "name");
        let first = met[..i].iter().find(|other| !name.is_empty() && text(other.port, "name") == name);
        if let Some(Met { place: first, .. }) = first {
            warnings.push(format!(
                "{place}: duplicate port name {} with {first}, services and probes that select ports by name will use {first}",
                name.quoted()
            ));
        }
    }
}

fn of_port(warnings: &mut Vec<String>, port: &Value, place: &str, met: &[Met<'_>]) {
    let (own, host, ip) =
        (int_or_zero(port, "containerPort"), int_or_zero(port, "hostPort"), text(port, "hostIP"));
    let protocol = text(port, "protocol");
    if !ip.is_empty() && host == 0 {
        let name = text(port, "name");
        warnings.push(format!(
            "{place}: hostIP set without hostPort: {{Name:{name} HostPort:{host} ContainerPort:{own} Protocol:{protocol} HostIP:{ip}}}"
        ));
    }
    let alike = |other: &&Met<'_>| {
        int_or_zero(other.port, "containerPort") == own && text(other.port, "protocol") == protocol
    };
    for Met { port: other, place: first } in met.iter().filter(alike) {
        let (other_host, other_ip) = (int_or_zero(other, "hostPort"), text(other, "hostIP"));
        let how = if ip == other_ip && host == other_host {
            "duplicate"
        } else if host == 0 || other_host == 0 {
            "overlapping"
        } else if host == other_host && ip.is_empty() != other_ip.is_empty() {
            "dangerously ambiguous"
        } else {
            continue;
        };
        warnings.push(format!("{place}: {how} port definition with {first}"));
    }
}

fn of_affinity(warnings: &mut Vec<String>, spec: &Value, path: &Path<'_>) {
    let affinity = path.child("affinity");
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(pods) = spec.at(&["affinity", kind]) else { continue };
        let path = affinity.child(kind);
        let required = path.child(REQUIRED);
        for (i, term) in items(pods, REQUIRED).iter().enumerate() {
            if given(term, "labelSelector").is_none() {
                warnings.push(format!("{}: {NO_SELECTOR}", required.index(i).child("labelSelector")));
            }
        }
        let preferred = path.child(PREFERRED);
        for (i, weighted) in items(pods, PREFERRED).iter().enumerate() {
            if weighted.at(&["podAffinityTerm", "labelSelector"]).is_none() {
                let at = preferred.index(i);
                let at = at.child("podAffinityTerm");
                warnings.push(format!("{}: {NO_SELECTOR}", at.child("labelSelector")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::tree;

    #[test]
    fn what_is_hardly_meant() {
        let pod = tree(
            "{metadata: {name: a.b}, spec: {nodeSelector: {beta.kubernetes.io/os: linux}, terminationGracePeriodSeconds: -1, containers: \
             [{resources: {limits: {memory: 128m}}, env: [{name: A, value: '1'}, {name: A, value: $(A)2}, {name: A, value: '3'}], \
             ports: [{containerPort: 80}, {containerPort: 80}]}]}}",
        );
        let wanted = [
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: \
             [must not contain dots]",
            "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
            "spec.containers[0].resources.limits[memory]: fractional byte value \"128m\" is invalid, must be an integer",
            "spec.containers[0].env[2]: hides previous definition of \"A\", which may be dropped when using apply",
            "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
        ];
        assert_eq!(of_pod(&pod, None), wanted);
        assert_eq!(of_pod(&pod, Some(&pod)), Vec::<String>::new());
    }

    #[test]
    fn templates() {
        let owner = tree("{metadata: {name: a.b}, spec: {template: {spec: {imagePullSecrets: [{}]}}}}");
        assert_eq!(
            of_owner(&owner, None),
            [
                "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is \
                 recommended: [must not contain dots]",
                "spec.template.spec.imagePullSecrets[0].name: invalid empty name \"\"",
            ]
        );
        let cron = tree(
            "{metadata: {name: c}, spec: {jobTemplate: {spec: {template: {spec: {volumes: [{gitRepo: {}}]}}}}}}",
        );
        assert_eq!(
            of_cron_job(&cron, None),
            [
                "spec.jobTemplate.spec.template.spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+"
            ]
        );
    }
}
