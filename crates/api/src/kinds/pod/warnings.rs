//! What is allowed in a pod but hardly meant: sentences for the `Warning` header, in upstream's words.

use crate::Value;
use crate::field::{Path, Quoted};
use crate::kinds::look::{entries, given, int, int_or_zero, items, quantity, text};
use crate::rules;

/// Labels of nodes that got another name.
const RENAMED: &[(&str, &str, &str)] = &[
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "v1.17", "node.kubernetes.io/instance-type"),
];

/// Of a pod.
pub(super) fn of_pod(pod: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    if old.is_none() {
        name(&mut warnings, pod, "the Pod's hostname");
    }
    if old.is_none_or(|old| old.get("spec") != pod.get("spec")) {
        of_spec(&mut warnings, pod.get("spec").unwrap_or(&Value::Null), &Path::root("spec"));
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
    if let Some(spec) = template.filter(|t| before != Some(t)).and_then(|t| t.get("spec")) {
        of_spec(&mut warnings, spec, &path.child("spec"));
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

fn of_spec(warnings: &mut Vec<String>, spec: &Value, path: &Path<'_>) {
    let selector = path.child("nodeSelector");
    for (label, _) in entries(spec, "nodeSelector") {
        if let Some((_, since, other)) = RENAMED.iter().find(|(old, ..)| *old == label.as_str()) {
            warnings
                .push(format!("{}: deprecated since {since}; use \"{other}\" instead", selector.key(label)));
        }
    }
    let volumes = path.child("volumes");
    for (i, _) in items(spec, "volumes").iter().enumerate().filter(|(_, v)| given(v, "gitRepo").is_some()) {
        let path = volumes.index(i);
        warnings.push(format!(
            "{}: deprecated in v1.11, and disabled by default in v1.33+",
            path.child("gitRepo")
        ));
    }
    let secrets = path.child("imagePullSecrets");
    for (i, _) in
        items(spec, "imagePullSecrets").iter().enumerate().filter(|(_, s)| text(s, "name").is_empty())
    {
        let path = secrets.index(i);
        warnings.push(format!("{}: invalid empty name \"\"", path.child("name")));
    }
    if int(spec, "terminationGracePeriodSeconds").is_some_and(|n| n < 0) {
        let path = path.child("terminationGracePeriodSeconds");
        warnings.push(format!("{path}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    for list in ["initContainers", "containers"] {
        let place = path.child(list);
        for (i, container) in items(spec, list).iter().enumerate() {
            of_container(warnings, container, &place.index(i));
        }
    }
}

fn of_container(warnings: &mut Vec<String>, container: &Value, path: &Path<'_>) {
    let resources = path.child("resources");
    for side in ["limits", "requests"] {
        for (name, amount) in container.get("resources").into_iter().flat_map(|r| entries(r, side)) {
            let amount = quantity(Some(amount));
            if matches!(name.as_str(), "memory" | "ephemeral-storage") && amount.milli() % 1000 != 0 {
                let (place, shown) = (resources.child(side), amount.to_string().quoted());
                let place = place.key(name);
                warnings
                    .push(format!("{place}: fractional byte value {shown} is invalid, must be an integer"));
            }
        }
    }
    let (env, list) = (items(container, "env"), path.child("env"));
    for (i, variable) in env.iter().enumerate() {
        let name = text(variable, "name");
        // One that is made of its former self is meant to hide it.
        let extends = || text(variable, "value").contains(&format!("$({name})"));
        if env[..i].iter().any(|other| text(other, "name") == name) && !extends() {
            let (place, name) = (list.index(i), name.quoted());
            warnings.push(format!(
                "{place}: hides previous definition of {name}, which may be dropped when using apply"
            ));
        }
    }
    let (ports, list) = (items(container, "ports"), path.child("ports"));
    let same = |a: &Value, b: &Value| {
        ["containerPort", "hostPort"].iter().all(|field| int_or_zero(a, field) == int_or_zero(b, field))
            && text(a, "protocol") == text(b, "protocol")
            && text(a, "hostIP") == text(b, "hostIP")
    };
    for (i, port) in ports.iter().enumerate() {
        if let Some(first) = ports[..i].iter().position(|other| same(other, port)) {
            let place = list.index(i);
            warnings.push(format!("{place}: duplicate port definition with {}", list.index(first)));
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
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
            "spec.containers[0].resources.limits[memory]: fractional byte value \"128m\" is invalid, must be an integer",
            "spec.containers[0].env[2]: hides previous definition of \"A\", which may be dropped when using apply",
            "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
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
