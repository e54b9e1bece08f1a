//! NodeRestriction and TaintNodesByCondition: what kubelets may not do to their own objects, and how nodes begin.

use corten_api::{Object, Result, Status, Value};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Attributes, Operation};

const MIRROR: &str = "kubernetes.io/config.mirror";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const RESTRICTED_LABELS: &str = "node-restriction.kubernetes.io/";

pub(super) fn is_new(a: &Attributes<'_>) -> bool {
    a.operation == Operation::Create && a.is("nodes", "")
}

/// A new node takes no pods until the node controller has seen it ready.
pub(super) fn taint<'a>(_: &'a Attributes<'a>, node: &'a mut Value) -> BoxFuture<'a, Result<()>> {
    let known = node.items_at(&["spec", "taints"]).iter().any(|t| t.str_at(&["key"]) == NOT_READY);
    if !known {
        let mut taint = Object::default();
        taint.set("key", Value::str(NOT_READY));
        taint.set("effect", Value::str("NoSchedule"));
        let list = node.object_at_mut(&["spec"]).entry("taints");
        match list.as_array_mut() {
            Some(list) => list.push(taint.into()),
            None => *list = vec![Value::from(taint)].into(),
        }
    }
    std::future::ready(Ok(())).boxed()
}

/// Requests of kubelets.
pub(super) fn restricted(a: &Attributes<'_>) -> bool {
    a.call.user.node_name().is_some()
}

pub(super) fn validate<'a>(a: &'a Attributes<'a>, object: &'a Value) -> BoxFuture<'a, Result<()>> {
    let node = a.call.user.node_name().unwrap_or_default();
    std::future::ready(check(a, node, object)).boxed()
}

fn check(a: &Attributes<'_>, node: &str, object: &Value) -> Result<()> {
    let kind = &a.call.kind;
    match (kind.group.as_ref(), kind.plural.as_ref(), a.operation) {
        ("", "pods", Operation::Create) if a.call.info.subresource.is_empty() => mirror_pod(a, node, object),
        ("", "pods", _) if object.str_at(&["spec", "nodeName"]) != node => {
            let why = format!("node \"{node}\" can only change pods with spec.nodeName set to itself");
            Err(a.forbidden(object, &why))
        }
        ("", "nodes", _) => own_node(a, node, object),
        _ => Ok(()),
    }
}

fn mirror_pod(a: &Attributes<'_>, node: &str, pod: &Value) -> Result<()> {
    let refuse = |why: &str| Err(a.forbidden(pod, why));
    if pod.at(&["metadata", "annotations", MIRROR]).is_none() {
        return refuse(&format!(
            "pod does not have \"{MIRROR}\" annotation, node \"{node}\" can only create mirror pods"
        ));
    }
    if pod.str_at(&["spec", "nodeName"]) != node {
        return refuse(&format!("node \"{node}\" can only create pods with spec.nodeName set to itself"));
    }
    if !pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
        return refuse(&format!("node \"{node}\" can not create pods that reference a service account"));
    }
    Ok(())
}

fn own_node(a: &Attributes<'_>, node: &str, object: &Value) -> Result<()> {
    let name = object.str_at(&["metadata", "name"]);
    if name != node {
        let why = format!("node \"{node}\" is not allowed to modify node \"{name}\"");
        return Err(Status::forbidden(a.call.resource(), name, &why));
    }
    let Some(old) = a.old else { return Ok(()) };
    let taints = object.items_at(&["spec", "taints"]);
    if !taints.is_empty() && taints != old.items_at(&["spec", "taints"]) {
        return Err(a.forbidden(object, &format!("node \"{node}\" is not allowed to modify taints")));
    }
    if restricted_labels(object) != restricted_labels(old) {
        let why = format!("is not allowed to modify labels: {RESTRICTED_LABELS}");
        return Err(a.forbidden(object, &why));
    }
    Ok(())
}

fn restricted_labels(object: &Value) -> Vec<(&str, &Value)> {
    let labels = object.at(&["metadata", "labels"]).and_then(Value::as_object);
    let labels = labels.into_iter().flat_map(Object::iter);
    labels.filter(|(k, _)| k.contains(RESTRICTED_LABELS)).map(|(k, v)| (k.as_str(), v)).collect()
}
