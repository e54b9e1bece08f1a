//! Validation of containers, init containers and ephemeral containers.

use super::spec::Scope;
use super::{env, handler, security};
use crate::Value;
use crate::field::{Error, Path};
use crate::kinds::look::{
    Errors, compare_quantities, entries, given, int_or_zero, is_true, items, one_of, one_of_given, quantity,
    required, required_by, same, text,
};
use crate::kinds::usage::containers_total;
use crate::rules::{self, invalid_each};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const RESTART_RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const SIDECAR_ONLY: &str = "may not be set for init containers without restartPolicy=Always";
/// What an ephemeral container may not have.
const NOT_EPHEMERAL: &[&str] = &[
    "lifecycle",
    "livenessProbe",
    "ports",
    "readinessProbe",
    "resources",
    "restartPolicy",
    "restartPolicyRules",
    "startupProbe",
    "resizePolicy",
];

/// `spec.containers`
pub(super) fn containers(errors: &mut Errors, spec: &Value, scope: &Scope<'_>, path: &Path<'_>) {
    let all = items(spec, "containers");
    if all.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    let mut names: Vec<&str> = Vec::new();
    for (i, container) in all.iter().enumerate() {
        let path = path.index(i);
        common(errors, container, scope, &path);
        let name = text(container, "name");
        if names.contains(&name) {
            errors.push(Error::duplicate(&path.child("name"), name));
        } else {
            names.push(name);
        }
        handlers(errors, container, scope, &path);
        restart_policy(errors, container, &path);
    }
    host_port_conflicts(errors, all, path);
}

/// `spec.initContainers`
pub(super) fn init_containers(errors: &mut Errors, spec: &Value, scope: &Scope<'_>, path: &Path<'_>) {
    let mut names: Vec<&str> = items(spec, "containers").iter().map(|c| text(c, "name")).collect();
    for (i, container) in items(spec, "initContainers").iter().enumerate() {
        let at = path.index(i);
        common(errors, container, scope, &at);
        let is_sidecar = text(container, "restartPolicy") == "Always";
        let unsaid = given(container, "restartPolicy").is_none();
        match items(container, "restartPolicyRules").is_empty() {
            true if unsaid => {}
            // Without a policy nobody looks at its rules.
            false if unsaid => {
                let detail = "must specify restartPolicy when restart rules are used";
                errors.push(Error::required(&at.child("restartPolicy"), detail));
            }
            _ => restart_policy(errors, container, &at),
        }
        let name = text(container, "name");
        if names.contains(&name) {
            errors.push(Error::duplicate(&at.child("name"), name));
        } else if !name.is_empty() {
            names.push(name);
        }
        host_port_conflicts(errors, std::slice::from_ref(container), path);
        if is_sidecar {
            handlers(errors, container, scope, &at);
        } else {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if given(container, field).is_some() {
                    errors.push(Error::forbidden(&at.child(field), SIDECAR_ONLY));
                }
            }
        }
    }
}

/// `spec.ephemeralContainers`
pub(super) fn ephemeral_containers(errors: &mut Errors, spec: &Value, scope: &Scope<'_>, path: &Path<'_>) {
    let others: Vec<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|field| items(spec, field))
        .map(|c| text(c, "name"))
        .collect();
    let mut names = others.clone();
    for (i, container) in items(spec, "ephemeralContainers").iter().enumerate() {
        let path = path.index(i);
        common(errors, container, scope, &path);
        image_is_trimmed(errors, container, &path);
        let name = text(container, "name");
        if names.contains(&name) {
            errors.push(Error::duplicate(&path.child("name"), name));
        } else {
            names.push(name);
        }
        let target = text(container, "targetContainerName");
        if !target.is_empty() && !others.contains(&target) {
            errors.push(Error::not_found(&path.child("targetContainerName"), target));
        }
        ephemeral_fields(errors, container, &path);
    }
}

fn ephemeral_fields(errors: &mut Errors, container: &Value, path: &Path<'_>) {
    let detail = "cannot be set for an Ephemeral Container";
    // A struct that is given counts even where nothing is in it; resources are no pointer.
    let is_set = |field: &&&str| match container.get(field) {
        Some(Value::Object(fields)) if fields.is_empty() => **field != "resources",
        value => !same(value, None),
    };
    for field in NOT_EPHEMERAL.iter().filter(is_set) {
        errors.push(Error::forbidden(&path.child(field), detail));
    }
    let mounts = path.child("volumeMounts");
    for (i, mount) in items(container, "volumeMounts").iter().enumerate() {
        for field in ["subPath", "subPathExpr"] {
            if !text(mount, field).is_empty() {
                errors.push(Error::forbidden(&mounts.index(i).child(field), detail));
            }
        }
    }
}

fn common(errors: &mut Errors, container: &Value, scope: &Scope<'_>, path: &Path<'_>) {
    required_by(errors, container, "name", path, rules::dns_label);
    required(errors, container, "image", path);
    let message_policies = &["File", "FallbackToLogsOnError"];
    let message_policy = path.child("terminationMessagePolicy");
    one_of(errors, text(container, "terminationMessagePolicy"), message_policies, &message_policy);
    ports(errors, items(container, "ports"), &path.child("ports"));
    env::env(errors, items(container, "env"), &path.child("env"));
    env::env_from(errors, items(container, "envFrom"), &path.child("envFrom"));
    super::volume::mounts(errors, container, scope, &path.child("volumeMounts"));
    super::volume::devices(errors, container, scope, &path.child("volumeDevices"));
    one_of(errors, text(container, "imagePullPolicy"), PULL_POLICIES, &path.child("imagePullPolicy"));
    if let Some(given) = given(container, "resources") {
        resources(errors, given, scope, &path.child("resources"), resource_name);
    }
    resize_policy(errors, container, scope, &path.child("resizePolicy"));
    if let Some(context) = given(container, "securityContext") {
        security::container(errors, context, scope, &path.child("securityContext"));
    }
}

/// An image name may not begin or end with a space (only pods are asked: templates with such names exist).
pub(super) fn image_is_trimmed(errors: &mut Errors, container: &Value, path: &Path<'_>) {
    let image = text(container, "image");
    if image.trim() != image {
        errors.push(Error::invalid(
            &path.child("image"),
            image,
            "must not have leading or trailing whitespace",
        ));
    }
}

fn handlers(errors: &mut Errors, container: &Value, scope: &Scope<'_>, path: &Path<'_>) {
    if let Some(lifecycle) = given(container, "lifecycle") {
        handler::lifecycle(errors, lifecycle, scope, &path.child("lifecycle"));
    }
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = given(container, kind) {
            handler::probe(errors, probe, kind, scope, &path.child(kind));
        }
    }
}

fn restart_policy(errors: &mut Errors, container: &Value, path: &Path<'_>) {
    let rules = items(container, "restartPolicyRules");
    if given(container, "restartPolicy").is_none() {
        if !rules.is_empty() {
            let detail = "must specify restartPolicy when restart rules are used";
            errors.push(Error::required(&path.child("restartPolicy"), detail));
        }
    } else {
        one_of_given(errors, container, "restartPolicy", &["Always", "Never", "OnFailure"], path);
    }
    let path = path.child("restartPolicyRules");
    if rules.len() > RESTART_RULES_MAX {
        errors.push(Error::too_long(&path, RESTART_RULES_MAX));
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = path.index(i);
        let action = text(rule, "action");
        if !matches!(action, "Restart" | "RestartAllContainers") {
            errors.push(Error::not_supported(
                &path.child("action"),
                action,
                &["Restart", "RestartAllContainers"],
            ));
        }
        let codes_path = path.child("exitCodes");
        let Some(codes) = given(rule, "exitCodes") else {
            errors.push(Error::required(&codes_path, "must be specified"));
            continue;
        };
        let operator = text(codes, "operator");
        if !matches!(operator, "In" | "NotIn") {
            errors.push(Error::not_supported(&codes_path.child("operator"), operator, &["In", "NotIn"]));
        }
        if items(codes, "values").len() > EXIT_CODES_MAX {
            errors.push(Error::too_long(&codes_path.child("values"), EXIT_CODES_MAX));
        }
    }
}

fn ports(errors: &mut Errors, ports: &[Value], path: &Path<'_>) {
    let mut names: Vec<&str> = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = text(port, "name");
        if !name.is_empty() {
            let wrong = rules::port_name(name);
            if !wrong.is_empty() {
                invalid_each(errors, &path.child("name"), name, wrong);
            } else if names.contains(&name) {
                errors.push(Error::duplicate(&path.child("name"), name));
            } else {
                names.push(name);
            }
        }
        match int_or_zero(port, "containerPort") {
            0 => errors.push(Error::required(&path.child("containerPort"), "")),
            n => invalid_each(errors, &path.child("containerPort"), n, rules::port_number(n)),
        }
        match int_or_zero(port, "hostPort") {
            0 => {}
            n => invalid_each(errors, &path.child("hostPort"), n, rules::port_number(n)),
        }
        one_of(errors, text(port, "protocol"), PROTOCOLS, &path.child("protocol"));
    }
}

fn host_port_conflicts(errors: &mut Errors, containers: &[Value], path: &Path<'_>) {
    let mut taken: Vec<String> = Vec::new();
    for (i, container) in containers.iter().enumerate() {
        let at = path.index(i);
        let ports = at.child("ports");
        for (j, port) in items(container, "ports").iter().enumerate() {
            let number = int_or_zero(port, "hostPort");
            if number == 0 {
                continue;
            }
            let key = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
            if taken.contains(&key) {
                errors.push(Error::duplicate(&ports.index(j).child("hostPort"), &key));
            } else {
                taken.push(key);
            }
        }
    }
}

fn resize_policy(errors: &mut Errors, container: &Value, scope: &Scope<'_>, path: &Path<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, policy) in items(container, "resizePolicy").iter().enumerate() {
        let (name, restart) = (text(policy, "resourceName"), text(policy, "restartPolicy"));
        if seen.contains(&name) {
            errors.push(Error::duplicate(&path.index(i), name));
        }
        seen.push(name);
        for (given, known) in [(name, &["cpu", "memory"]), (restart, &["NotRequired", "RestartContainer"])] {
            match given {
                "" => errors.push(Error::required(path, "")),
                given if !known.contains(&given) => errors.push(Error::not_supported(path, given, known)),
                _ => {}
            }
        }
        if scope.restart_policy == "Never" && restart != "NotRequired" {
            let detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.push(Error::invalid(path, restart, detail));
        }
    }
}

/// Is it a resource like `hugepages-2Mi`?
fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// A resource of nodes or pods that Kubernetes itself knows: no prefix, or one under kubernetes.io.
pub(crate) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && rules::qualified_name(&format!("requests.{name}")).is_empty()
}

/// May more be asked for than is there?
pub(crate) fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];

/// The rules of any resource name: qualified, and a standard one where it has no prefix.
pub(crate) fn resource_name_basic(errors: &mut Errors, name: &str, path: &Path<'_>) -> bool {
    let wrong = rules::qualified_name(name);
    if !wrong.is_empty() {
        invalid_each(errors, path, name, wrong);
        return false;
    }
    if !name.contains('/')
        && !STANDARD.contains(&name)
        && !is_huge_page(name)
        && !name.starts_with("requests.hugepages-")
    {
        errors.push(Error::invalid(path, name, "must be a standard resource type or fully qualified"));
        return false;
    }
    true
}

/// The rules of a container's resource name.
pub(crate) fn resource_name(errors: &mut Errors, name: &str, path: &Path<'_>) {
    resource_name_basic(errors, name, path);
    if !name.contains('/') {
        if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge_page(name) {
            errors.push(Error::invalid(path, name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.push(Error::invalid(path, name, "doesn't follow extended resource name standard"));
    }
}

fn pod_resource_name(errors: &mut Errors, name: &str, path: &Path<'_>) {
    if resource_name_basic(errors, name, path) && !matches!(name, "cpu" | "memory") && !is_huge_page(name) {
        errors.push(Error::not_supported(path, name, &["cpu", "hugepages-", "memory"]));
    }
}

/// The rules of one amount of a container resource: name and value.
pub(super) fn resource_amount(errors: &mut Errors, name: &str, amount: &Value, path: &Path<'_>) {
    resource_name(errors, name, path);
    resource_value(errors, name, amount, path);
}

/// Amounts are not negative, and whole where the resource is counted.
pub(crate) fn resource_value(errors: &mut Errors, name: &str, amount: &Value, path: &Path<'_>) {
    let value = quantity(Some(amount));
    if value.sign() < 0 {
        errors.push(Error::invalid(path, value.to_string(), rules::NOT_NEGATIVE));
    }
    let counted = matches!(
        name,
        "pods"
            | "services"
            | "replicationcontrollers"
            | "resourcequotas"
            | "secrets"
            | "configmaps"
            | "persistentvolumeclaims"
            | "services.nodeports"
            | "services.loadbalancers"
    ) || is_extended(name);
    if counted && value.has_thousandths() {
        errors.push(Error::invalid(path, amount.clone(), "must be an integer"));
    }
}

type NameRule = fn(&mut Errors, &str, &Path<'_>);

fn resources(errors: &mut Errors, given: &Value, scope: &Scope<'_>, path: &Path<'_>, name_rule: NameRule) {
    let (limits, requests) = (path.child("limits"), path.child("requests"));
    for (name, amount) in entries(given, "limits") {
        name_rule(errors, name, &limits.key(name));
        resource_value(errors, name, amount, &limits.key(name));
        huge_pages(errors, name, amount, &limits.key(name));
    }
    for (name, amount) in entries(given, "requests") {
        name_rule(errors, name, &requests.key(name));
        resource_value(errors, name, amount, &requests.key(name));
        request_within_limit(errors, given, name, amount, (&requests, &limits));
        huge_pages(errors, name, amount, &requests.key(name));
    }
    let names = || entries(given, "limits").chain(entries(given, "requests")).map(|(name, _)| name.as_str());
    if names().any(is_huge_page) && !names().any(|name| matches!(name, "cpu" | "memory")) {
        errors.push(Error::forbidden(path, "HugePages require cpu or memory"));
    }
    claims(errors, items(given, "claims"), scope, &path.child("claims"));
}

/// Huge pages come in whole pages of the size in their name.
fn huge_pages(errors: &mut Errors, name: &str, amount: &Value, path: &Path<'_>) {
    let Some(size) = name.strip_prefix("hugepages-") else { return };
    let amount = quantity(Some(amount));
    let size = crate::quantity::Quantity::parse(size).ok().filter(|size| size.sign() > 0);
    let bytes = |q: crate::quantity::Quantity| (q.milli() % 1000 == 0).then(|| q.value());
    let whole = size.and_then(|size| Some(bytes(amount)? % bytes(size)? == 0)).unwrap_or(false);
    if !whole || amount.sign() < 0 {
        let detail = format!("{amount} is not positive integer multiple of {name}");
        errors.push(Error::invalid(path, amount.to_string(), detail));
    }
}

fn request_within_limit(
    errors: &mut Errors,
    resources: &Value,
    name: &str,
    request: &Value,
    (requests, limits): (&Path<'_>, &Path<'_>),
) {
    let Some(limit) = resources.at(&["limits", name]) else {
        if !may_overcommit(name) {
            errors.push(Error::required(limits, "Limit must be set for non overcommitable resources"));
        }
        return;
    };
    let order = compare_quantities(Some(request), Some(limit));
    let words = match order {
        std::cmp::Ordering::Equal => return,
        _ if !may_overcommit(name) => "must be equal to",
        std::cmp::Ordering::Greater => "must be less than or equal to",
        std::cmp::Ordering::Less => return,
    };
    let detail = format!("{words} {name} limit of {}", shown(limit));
    errors.push(Error::invalid(requests, shown(request), detail));
}

fn claims(errors: &mut Errors, claims: &[Value], scope: &Scope<'_>, path: &Path<'_>) {
    let mut seen: Vec<String> = Vec::new();
    for (i, claim) in claims.iter().enumerate() {
        let (path, name, request) = (path.index(i), text(claim, "name"), text(claim, "request"));
        if name.is_empty() {
            errors.push(Error::required(&path, ""));
            continue;
        }
        let key = if request.is_empty() { name.to_owned() } else { format!("{name}/{request}") };
        if !request.is_empty() {
            invalid_each(errors, &path.child("request"), request, rules::dns_label(request));
        }
        let covered = seen
            .iter()
            .any(|s| *s == key || *s == name || (request.is_empty() && s.starts_with(&format!("{name}/"))));
        if covered {
            errors.push(Error::duplicate(&path, &key));
        }
        seen.push(key);
        if !scope.claims.contains(&name) {
            let mut error = Error::not_found(&path, name);
            error.body.push_str(": must be one of the names in pod.spec.resourceClaims");
            let mut names = scope.claims.clone();
            names.sort_unstable();
            let known = if names.is_empty() {
                " which is empty".to_owned()
            } else {
                format!(": {}", names.join(", "))
            };
            error.body.push_str(&known);
            errors.push(error);
        }
    }
}

/// `spec.resources`: amounts for the pod as a whole.
pub(super) fn pod_resources(
    errors: &mut Errors,
    spec: &Value,
    given: &Value,
    scope: &Scope<'_>,
    path: &Path<'_>,
) {
    if scope.os == Some("windows") {
        errors.push(Error::forbidden(path, "may not be set for a windows pod"));
        return;
    }
    if given.get("claims").is_some() {
        errors.push(Error::forbidden(
            &path.child("claims"),
            "claims may not be set for Resources at pod-level",
        ));
    }
    resources(errors, given, scope, path, pod_resource_name);
    let (asked, limited) = (containers_total(spec, "requests"), containers_total(spec, "limits"));
    let huge = |name: &str| name.starts_with("hugepages-");
    for (side, sums, word) in [("requests", &asked, "requests"), ("limits", &limited, "limits")] {
        for (name, sum) in sums.iter().filter(|(name, _)| side == "requests" || huge(name)) {
            let Some(wanted) = given.at(&[side, name]).map(|q| quantity(Some(q))) else { continue };
            if *sum > wanted {
                let detail = format!("must be greater than or equal to aggregate container {word} of {sum}");
                errors.push(Error::invalid(&path.child(side).key(name), wanted.to_string(), detail));
            }
        }
    }
    let containers = path.child("containers");
    for (i, container) in items(spec, "containers").iter().enumerate() {
        let at = containers.index(i);
        for (name, limit) in container.get("resources").into_iter().flat_map(|r| entries(r, "limits")) {
            let Some(whole) = given.at(&["limits", name]) else { continue };
            if compare_quantities(Some(limit), Some(whole)) == std::cmp::Ordering::Greater {
                let detail = format!("must be less than or equal to pod limits of {}", shown(whole));
                errors.push(Error::invalid(&at.key(name).child("limits"), shown(limit), detail));
            }
        }
    }
}

/// The amount as it is stored.
fn shown(amount: &Value) -> String {
    amount.as_str().map_or_else(|| quantity(Some(amount)).to_string(), str::to_owned)
}

/// A file that an environment variable is read from must lie on an emptyDir of the pod.
pub(super) fn file_key_volumes(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        let list = path.child(field);
        for (i, container) in items(spec, field).iter().enumerate() {
            let at = list.index(i);
            let env = at.child("env");
            for (j, variable) in items(container, "env").iter().enumerate() {
                let Some(file) = variable.at(&["valueFrom", "fileKeyRef"]) else { continue };
                let (env, from) = (env.index(j), text(file, "volumeName"));
                let (env, key) = (env.child("valueFrom"), "fileKeyRef");
                let path = env.child(key);
                match items(spec, "volumes").iter().find(|v| text(v, "name") == from) {
                    None => errors.push(Error::not_found(&path.child("volumeName"), from)),
                    Some(volume) if given(volume, "emptyDir").is_none() => {
                        let detail = "referenced volume must be of type emptyDir";
                        errors.push(Error::invalid(&path.child("volumeName"), from, detail));
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

/// Does the container run with all of the node's privileges?
pub(super) fn is_privileged(container: &Value) -> bool {
    container.get("securityContext").is_some_and(|context| is_true(context, "privileged"))
}
