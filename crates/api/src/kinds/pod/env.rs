//! Validation of environment variables and of what they are read from.

use crate::Value;
use crate::field::{Error, Path};
use crate::kinds::look::{Errors, given, required, required_by, text};
use crate::rules::{self, invalid_each};

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const VOLUME_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const SIZES: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";

/// `env` of a container.
pub(super) fn env(errors: &mut Errors, variables: &[Value], path: &Path<'_>) {
    for (i, variable) in variables.iter().enumerate() {
        let path = path.index(i);
        required_by(errors, variable, "name", &path, rules::env_name);
        if let Some(from) = given(variable, "valueFrom") {
            value_from(errors, from, !text(variable, "value").is_empty(), &path.child("valueFrom"));
        }
    }
}

fn value_from(errors: &mut Errors, from: &Value, has_value: bool, path: &Path<'_>) {
    let mut sources = 0;
    if let Some(field) = given(from, "fieldRef") {
        sources += 1;
        field_ref(errors, field, ENV_FIELDS, &path.child("fieldRef"));
    }
    if let Some(resource) = given(from, "resourceFieldRef") {
        sources += 1;
        resource_ref(errors, resource, false, &path.child("resourceFieldRef"));
    }
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        if let Some(key) = given(from, kind) {
            sources += 1;
            let name = text(key, "name");
            invalid_each(errors, &path.child(kind).child("name"), name, rules::dns_subdomain(name));
            required_by(errors, key, "key", &path.child(kind), rules::config_key);
        }
    }
    if let Some(file) = given(from, "fileKeyRef") {
        sources += 1;
        file_ref(errors, file, &path.child("fileKeyRef"));
    }
    let detail = match sources {
        0 => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        }
        _ if has_value => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.push(Error::invalid(path, "", detail));
}

fn file_ref(errors: &mut Errors, file: &Value, path: &Path<'_>) {
    required_by(errors, file, "key", path, rules::env_name);
    required_by(errors, file, "volumeName", path, rules::dns_label);
    match text(file, "path") {
        "" => errors.push(Error::required(&path.child("path"), "")),
        given => super::volume::no_backsteps(errors, given, &path.child("path")),
    }
}

/// A field of the pod. `volume` files may also show all labels or annotations.
fn field_ref(errors: &mut Errors, field: &Value, expressions: &[&str], path: &Path<'_>) {
    for part in ["apiVersion", "fieldPath"] {
        if text(field, part).is_empty() {
            errors.push(Error::required(&path.child(part), ""));
            return;
        }
    }
    let label = text(field, "fieldPath");
    let (name, subscript) = match label.strip_suffix("']").and_then(|l| l.split_once("['")) {
        Some((name, subscript)) => (name, Some(subscript)),
        None => (label, None),
    };
    let path_of = path.child("fieldPath");
    if text(field, "apiVersion") != "v1" {
        let detail =
            format!("error converting fieldPath: unsupported pod version: {}", text(field, "apiVersion"));
        errors.push(Error::invalid(&path_of, label, detail));
        return;
    }
    if subscript.is_none() && !KNOWN_FIELDS.contains(&label) {
        let detail = format!("error converting fieldPath: field label not supported: {label}");
        errors.push(Error::invalid(&path_of, label, detail));
        return;
    }
    match (name, subscript) {
        ("metadata.annotations", Some(key)) => {
            let key = key.to_ascii_lowercase();
            invalid_each(errors, path, key.as_str(), rules::qualified_name(&key));
        }
        ("metadata.labels", Some(key)) => invalid_each(errors, path, key, rules::qualified_name(key)),
        (_, Some(_)) => {
            let detail =
                format!("error converting fieldPath: field label does not support subscript: {label}");
            errors.push(Error::invalid(&path_of, label, detail));
        }
        (name, None) if !expressions.contains(&name) => {
            errors.push(Error::not_supported(&path_of, name, expressions));
        }
        (_, None) => {}
    }
}

fn resource_ref(errors: &mut Errors, resource: &Value, is_volume: bool, path: &Path<'_>) {
    let name = text(resource, "resource");
    let huge = name.starts_with("requests.hugepages-") || name.starts_with("limits.hugepages-");
    if is_volume && text(resource, "containerName").is_empty() {
        errors.push(Error::required(&path.child("containerName"), ""));
    } else if name.is_empty() {
        errors.push(Error::required(&path.child("resource"), ""));
    } else if !RESOURCES.contains(&name) && !huge {
        errors.push(Error::not_supported(&path.child("resource"), name, RESOURCES));
    }
    let divisor = match resource.get("divisor") {
        Some(Value::String(text)) => text.to_string(),
        Some(Value::Int(n)) => n.to_string(),
        _ => return,
    };
    divisor_of(errors, name, &divisor, &path.child("divisor"));
}

fn divisor_of(errors: &mut Errors, name: &str, divisor: &str, path: &Path<'_>) {
    if divisor == "0" {
        return;
    }
    let (allowed, shown, what): (fn(&str) -> bool, &str, &str) = match name {
        "limits.cpu" | "requests.cpu" => (|d| matches!(d, "1" | "1m"), "1m and 1", "cpu"),
        "limits.memory" | "requests.memory" => (is_size, SIZES, "memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => {
            (is_size, SIZES, "local ephemeral storage")
        }
        name if name.contains(".hugepages-") => (is_size, SIZES, "hugepages"),
        _ => return,
    };
    if !allowed(divisor) {
        let detail = format!("only divisor's values {shown} are supported with the {what} resource");
        errors.push(Error::invalid(path, name, detail));
    }
}

fn is_size(divisor: &str) -> bool {
    SIZES.split(", ").any(|size| size == divisor)
}

/// `envFrom` of a container.
pub(super) fn env_from(errors: &mut Errors, sources: &[Value], path: &Path<'_>) {
    for (i, source) in sources.iter().enumerate() {
        let at = path.index(i);
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            invalid_each(errors, &at.child("prefix"), prefix, rules::env_name(prefix));
        }
        let kinds = ["configMapRef", "secretRef"];
        for kind in kinds {
            if let Some(reference) = given(source, kind) {
                required_by(errors, reference, "name", &at.child(kind), |name| {
                    rules::name_is_subdomain(name, true)
                });
            }
        }
        match kinds.iter().filter(|kind| given(source, kind).is_some()).count() {
            1 => {}
            0 => errors.push(Error::invalid(path, "", "must specify one of: `configMapRef` or `secretRef`")),
            _ => {
                errors.push(Error::invalid(path, "", "may not have more than one field specified at a time"))
            }
        }
    }
}

/// One file of a downward API volume (also of a projected one).
pub(super) fn downward_file(errors: &mut Errors, file: &Value, path: &Path<'_>) {
    required(errors, file, "path", path);
    super::volume::local_path(errors, text(file, "path"), &path.child("path"));
    match (given(file, "fieldRef"), given(file, "resourceFieldRef")) {
        (Some(field), other) => {
            field_ref(errors, field, VOLUME_FIELDS, &path.child("fieldRef"));
            if other.is_some() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(Error::invalid(path, "resource", detail));
            }
        }
        (None, Some(resource)) => resource_ref(errors, resource, true, &path.child("resourceFieldRef")),
        (None, None) => {
            errors.push(Error::required(path, "one of fieldRef and resourceFieldRef is required"))
        }
    }
    super::volume::file_mode(errors, file, "mode", path);
}
