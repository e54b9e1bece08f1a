//! What makes a pod special.

pub(super) mod affinity;
mod columns;
pub(super) mod container;
pub(super) mod defaults;
pub(super) mod drivers;
mod env;
pub(super) mod features;
mod handler;
mod prepare;
pub mod qos;
mod security;
pub(super) mod spec;
mod update;
pub(super) mod volume;
pub(super) mod warnings;
mod windows;

use super::look::{Errors, given, int, items, text};
use super::row::NO_HOOKS;
use crate::field::{self, Error, Path};
use crate::kind::{Context, Grace, Hooks};
use crate::{Object, Result, Value, meta};

pub(super) use columns::COLUMNS;

/// Marks the API's image of a pod that the kubelet runs from a file.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";

pub(super) const HOOKS: Hooks = Hooks {
    default: Some(defaults::pod),
    prepare_create: Some(prepare_create),
    prepare_update: Some(prepare_update),
    validate: Some(validate),
    warnings: Some(warnings::of_pod),
    graceful_delete: Some(graceful_delete),
    row_conditions: Some(columns::row_conditions),
    selectable_value: Some(selectable_value),
    ..NO_HOOKS
};

/// A new pod is Pending, knows its class, and says so when it waits at gates.
fn prepare_create(pod: &mut Value, cx: &Context<'_>) {
    let empty = Value::Null;
    prepare::label_keys(pod);
    prepare::pod_level_resources(pod);
    let class = qos::class(pod.get("spec").unwrap_or(&empty));
    let gated = defaults::is_gated(pod.get("spec").unwrap_or(&empty));
    if let Some(spec) = pod.get_mut("spec") {
        defaults::service_account(spec);
    }
    let mut status = Object::default();
    status.set("phase", Value::str("Pending"));
    if gated {
        let mut condition = Object::default();
        condition.set("type", Value::str("PodScheduled"));
        condition.set("status", Value::str("False"));
        condition.set("lastTransitionTime", crate::time::rfc3339(cx.now_ms));
        condition.set("reason", Value::str("SchedulingGated"));
        condition.set("message", Value::str("Scheduling is blocked due to non-empty scheduling gates"));
        status.set("conditions", vec![Value::Object(condition)]);
    }
    status.set("qosClass", Value::str(class));
    pod.object_at_mut(&[]).set("status", status);
}

fn prepare_update(pod: &mut Value, old: &Value, cx: &Context<'_>) {
    match cx.subresource {
        "status" => prepare_status(pod, old),
        "ephemeralcontainers" => keep_all_but(pod, old, &["ephemeralContainers"]),
        "resize" => keep_all_but(pod, old, &["containers", "initContainers"]),
        _ => {
            if let Some(spec) = pod.get_mut("spec") {
                defaults::service_account(spec);
            }
        }
    }
}

/// A kubelet that leaves the class out does not mean to change it.
fn prepare_status(pod: &mut Value, old: &Value) {
    if let Some(class) =
        old.at(&["status", "qosClass"]).filter(|_| pod.str_at(&["status", "qosClass"]).is_empty())
    {
        pod.object_at_mut(&["status"]).set("qosClass", class.clone());
    }
}

/// The subresource changes these fields of the spec and who owns them; everything else stays as it is stored.
fn keep_all_but(pod: &mut Value, old: &Value, fields: &[&'static str]) {
    let mut kept = old.clone();
    for &field in fields {
        let now = pod.get_mut("spec").and_then(|spec| spec.get_mut(field)).map(std::mem::take);
        let spec = kept.object_at_mut(&["spec"]);
        match now {
            Some(now) => spec.set(field, now),
            None => drop(spec.remove(field)),
        }
    }
    for field in ["resourceVersion", "managedFields"] {
        let metadata = kept.object_at_mut(&["metadata"]);
        match pod.at(&["metadata", field]) {
            Some(now) => metadata.set(field, now.clone()),
            None => drop(metadata.remove(field)),
        }
    }
    *pod = kept;
}

fn validate(pod: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let empty = Value::Null;
    let Some(old) = old else {
        whole(&mut errors, pod);
        only_on_create(&mut errors, pod);
        return errors;
    };
    let (new_spec, old_spec) = (pod.get("spec").unwrap_or(&empty), old.get("spec").unwrap_or(&empty));
    update::annotations(&mut errors, pod, old);
    let is_mirror = old.at(&["metadata", "annotations", MIRROR]).is_some();
    match cx.subresource {
        "status" => update::status(&mut errors, pod, old),
        // The API server itself assigns the node; no user's change is in it.
        "binding" => {}
        "ephemeralcontainers" if is_mirror => {
            return vec![Error::forbidden(
                &Path::root(""),
                "static pods do not support ephemeral containers",
            )];
        }
        "ephemeralcontainers" => {
            whole(&mut errors, pod);
            update::ephemeral_containers(&mut errors, new_spec, old_spec);
        }
        "resize" if is_mirror => {
            return vec![Error::forbidden(&Path::root(""), "static pods cannot be resized")];
        }
        "resize" => {
            whole(&mut errors, pod);
            update::resize(&mut errors, pod, old);
        }
        _ => {
            whole(&mut errors, pod);
            update::spec(&mut errors, new_spec, old_spec);
        }
    }
    errors
}

fn whole(errors: &mut Errors, pod: &Value) {
    let empty = Value::Null;
    let (spec, metadata) = (pod.get("spec").unwrap_or(&empty), pod.get("metadata").unwrap_or(&empty));
    let (spec_path, metadata_path) = (Path::root("spec"), Path::root("metadata"));
    if let Some(annotations) = given(metadata, "annotations") {
        security::annotations(errors, annotations, spec, &metadata_path.child("annotations"));
    }
    spec::validate(errors, spec, Some(metadata), &spec_path);
    tokens_have_an_account(errors, spec, &spec_path);
    for field in ["containers", "initContainers"] {
        for (i, container) in items(spec, field).iter().enumerate() {
            container::image_is_trimmed(errors, container, &spec_path.child(field).index(i));
        }
    }
}

fn tokens_have_an_account(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    if !text(spec, "serviceAccountName").is_empty() {
        return;
    }
    let volumes = path.child("volumes");
    for (i, volume) in items(spec, "volumes").iter().enumerate() {
        let volume_path = volumes.index(i);
        let projected = volume_path.child("projected");
        let sources = projected.child("sources");
        for (j, source) in volume.items_at(&["projected", "sources"]).iter().enumerate() {
            if given(source, "serviceAccountToken").is_some() {
                let detail = "must not be specified when serviceAccountName is not set";
                errors.push(Error::forbidden(&sources.index(j).child("serviceAccountToken"), detail));
            }
        }
    }
}

fn only_on_create(errors: &mut Errors, pod: &Value) {
    let empty = Value::Null;
    let (spec, path) = (pod.get("spec").unwrap_or(&empty), Path::root("spec"));
    if !items(spec, "ephemeralContainers").is_empty() {
        errors.push(Error::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
    }
    if !text(spec, "nodeName").is_empty() && defaults::is_gated(spec) {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.push(Error::forbidden(&path.child("nodeName"), detail));
    }
}

/// Validates a pod template at `owner[field]`: `spec.template` of a controller, `template` of a PodTemplate.
pub(super) fn template(errors: &mut Errors, template: &Value, path: &Path<'_>) {
    let empty = Value::Null;
    let spec = template.get("spec").unwrap_or(&empty);
    let metadata = template.get("metadata").unwrap_or(&empty);
    meta::labels(errors, metadata.get("labels"), &path.child("labels"));
    meta::annotations(errors, metadata.get("annotations"), &path.child("annotations"));
    if let Some(annotations) = given(metadata, "annotations") {
        security::annotations(errors, annotations, spec, &path.child("annotations"));
    }
    spec::validate(errors, spec, None, &path.child("spec"));
    if !items(spec, "ephemeralContainers").is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.push(Error::forbidden(&path.child("spec").child("ephemeralContainers"), detail));
    }
}

/// The asked-for grace, or the pod's own; nothing to wait for where no kubelet runs it or it is done.
fn graceful_delete(pod: &mut Value, asked: Option<i64>) -> Result<Grace> {
    let own = pod.get("spec").and_then(|spec| int(spec, "terminationGracePeriodSeconds"));
    let unscheduled = pod.str_at(&["spec", "nodeName"]).is_empty();
    let done = matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed");
    let seconds = match asked.or(own).unwrap_or(0) {
        _ if unscheduled || done => 0,
        negative if negative < 0 => 1,
        seconds => seconds,
    };
    Ok(if seconds == 0 { Grace::Immediate } else { Grace::Seconds(seconds) })
}

fn selectable_value(pod: &Value, path: &str) -> Option<String> {
    match path {
        "spec.hostNetwork" => {
            let host = pod.at(&["spec", "hostNetwork"]).and_then(Value::as_bool) == Some(true);
            Some(host.to_string())
        }
        "status.podIP" => {
            let first = pod.items_at(&["status", "podIPs"]).first();
            Some(first.map_or("", |ip| text(ip, "ip")).to_owned())
        }
        "status.podIPs" => {
            let all: Vec<&str> =
                pod.items_at(&["status", "podIPs"]).iter().map(|ip| text(ip, "ip")).collect();
            Some(all.join(","))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
