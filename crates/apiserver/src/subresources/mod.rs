//! What stands behind `/NAME/SUBRESOURCE`. Status and the like are the object under other rules; the rest have a file each.

pub(crate) mod binding;
mod eviction;
mod scale;
mod token;

use std::sync::Arc;

use corten_api::kind::Subresource;
use corten_api::{Object, Result, Status, Value};
use http::{Request, Response};

use crate::body::Body;
use crate::call::Call;
use crate::{ApiServer, connect, encode, meta, read, write};

/// Serves a request with a subresource.
pub(crate) async fn serve(
    server: &ApiServer,
    call: Arc<Call>,
    request: Request<Body>,
) -> Result<Response<Body>> {
    let subresource = call.kind.subresource(&call.info.subresource).ok_or_else(Status::no_route)?;
    match subresource {
        Subresource::Status => object(server, &call, request, &["get", "patch", "update"]).await,
        Subresource::Object { verbs, .. } => object(server, &call, request, verbs).await,
        Subresource::Scale { .. } => scale::serve(server, &call, subresource, request).await,
        Subresource::Action { name, .. } if call.info.verb == "create" => match *name {
            "binding" => binding::serve(server, &call, request).await,
            "eviction" => eviction::serve(server, &call, request).await,
            "token" => token::serve(server, &call, request).await,
            _ => Err(Status::no_route()),
        },
        Subresource::Action { .. } => Err(Status::no_method()),
        Subresource::Connect { name: "log", .. } if call.info.verb != "get" => Err(Status::no_method()),
        Subresource::Connect { .. } => connect::serve(server, &call, request).await,
    }
}

async fn object(
    server: &ApiServer,
    call: &Call,
    request: Request<Body>,
    verbs: &[&str],
) -> Result<Response<Body>> {
    match call.info.verb {
        verb if !verbs.contains(&verb) => Err(Status::no_method()),
        "get" => read::get(server, call).await,
        "update" => write::update(server, call, request).await,
        "patch" => write::patch(server, call, request).await,
        _ => Err(Status::no_method()),
    }
}

/// The answer of actions that return no object of their own.
pub(crate) fn success(call: &Call) -> Result<Response<Body>> {
    let mut status = Object::default();
    status.set("kind", Value::str("Status"));
    status.set("apiVersion", Value::str("v1"));
    status.set("metadata", Object::default());
    status.set("status", Value::str("Success"));
    status.set("code", 201);
    encode::value(call, 201, &status.into())
}

/// Leaves of a change only what the request's subresource may change; the rest stays as it is stored.
pub(crate) fn keep_to_subresource(call: &Call, object: &mut Value, old: &Value) {
    match call.info.subresource.as_str() {
        "" => {
            if meta::has_status(call.edge().storage_kind) {
                meta::take_field(object, "status", old);
            }
            if is_namespace(call) {
                meta::take_field(object, "spec", old);
            }
        }
        "status" => {
            let mut kept = with_metadata(call, object, old);
            meta::take_field(&mut kept, "status", object);
            *object = kept;
        }
        "finalize" => {
            let kept = with_metadata(call, object, old);
            take_in_spec(object, kept, "finalizers");
        }
        "ephemeralcontainers" => {
            let kept = stored(object, old);
            take_in_spec(object, kept, "ephemeralContainers");
        }
        "resize" => resize(object, old),
        "approval" => {
            let mut kept = with_metadata(call, object, old);
            let conditions = object.at(&["status", "conditions"]).cloned().unwrap_or_default();
            kept.object_at_mut(&["status"]).set("conditions", conditions);
            *object = kept;
        }
        _ => {}
    }
}

fn is_namespace(call: &Call) -> bool {
    call.kind.group.is_empty() && call.kind.plural == "namespaces"
}

/// Groups whose objects let nothing of their metadata be changed through their status; custom resources are the same.
const STATUS_ALONE: &[&str] = &[
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "resource.k8s.io",
    "storage.k8s.io",
    "storagemigration.k8s.io",
];

/// The stored object with the candidate's resource version and managed fields. Most kinds also let all other metadata through
/// their status, as upstream's strategies do (kubelets annotate nodes that way); deployments keep their labels.
fn with_metadata(call: &Call, object: &Value, old: &Value) -> Value {
    let group = &*call.kind.group;
    if STATUS_ALONE.contains(&group) || !is_built_in(group) {
        return stored(object, old);
    }
    let mut kept = old.clone();
    let from = object.get("metadata").unwrap_or(&Value::Null);
    let before = old.get("metadata").unwrap_or(&Value::Null);
    kept.object_at_mut(&[]).set("metadata", from.clone());
    match &*call.kind.kind {
        "Deployment" => take_fields(&mut kept, before, &["labels"]),
        // Old kubelets broke them in a way that garbage collection could not bear.
        "Pod" => take_fields(&mut kept, before, &["ownerReferences"]),
        _ => {}
    }
    kept
}

/// The stored object with the candidate's resource version and managed fields.
fn stored(object: &Value, old: &Value) -> Value {
    let mut kept = old.clone();
    let from = object.get("metadata").unwrap_or(&Value::Null);
    take_fields(&mut kept, from, &["resourceVersion", "managedFields"]);
    kept
}

fn take_fields(object: &mut Value, from: &Value, fields: &[&'static str]) {
    let into = meta::metadata(object);
    for field in fields {
        match from.get(field) {
            Some(value) => into.set(field, value.clone()),
            None => {
                into.remove(field);
            }
        }
    }
}

/// Built-in groups have no dot (`apps`) or are Kubernetes' own.
pub(crate) fn is_built_in(group: &str) -> bool {
    !group.contains('.') || group.ends_with(".k8s.io")
}

fn take_in_spec(object: &mut Value, mut kept: Value, field: &'static str) {
    let spec = kept.object_at_mut(&["spec"]);
    match object.at(&["spec", field]) {
        Some(value) => spec.set(field, value.clone()),
        None => {
            spec.remove(field);
        }
    }
    *object = kept;
}

/// Of a resized pod only the containers' resources and resize policies.
fn resize(object: &mut Value, old: &Value) {
    let mut kept = stored(object, old);
    for list in ["containers", "initContainers"] {
        let wanted = object.items_at(&["spec", list]);
        let spec = kept.object_at_mut(&["spec"]);
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = container.str_at(&["name"]).to_owned();
            let Some(wanted) = wanted.iter().find(|c| c.str_at(&["name"]) == name) else { continue };
            for field in ["resources", "resizePolicy"] {
                meta::take_field(container, field, wanted);
            }
        }
    }
    *object = kept;
}
