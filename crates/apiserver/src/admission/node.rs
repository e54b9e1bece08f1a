//! NodeRestriction and TaintNodesByCondition: what kubelets may not do to their own objects, and how nodes begin.

use std::collections::{BTreeMap, BTreeSet};

use corten_api::{GroupResource, Object, Result, Status, Value};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Attributes, Operation};

const MIRROR: &str = "kubernetes.io/config.mirror";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Labels by which people keep nodes apart that must not choose for themselves.
const RESTRICTED_DOMAIN: &str = "node-restriction.kubernetes.io";
/// Labels of Kubernetes' own that kubelets set.
const KUBELET_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
const KUBELET_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

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
    async move {
        let node = a.call.user.node_name().unwrap_or_default();
        let kind = &a.call.kind;
        match (kind.group.as_ref(), kind.plural.as_ref(), a.operation) {
            ("", "pods", Operation::Create) if a.call.info.subresource.is_empty() => {
                mirror_pod(a, node, object).await
            }
            ("", "pods", _) => own_pod(a, node, object),
            ("", "nodes", _) => own_node(a, node, object),
            ("", "persistentvolumeclaims", Operation::Update) => claim_status(a, node, object),
            ("coordination.k8s.io", "leases", Operation::Create) => same_name(
                a,
                node,
                object,
                "can only access node lease with the same name as the requesting node",
            ),
            ("storage.k8s.io", "csinodes", Operation::Create) => same_name(
                a,
                node,
                object,
                "can only access CSINode with the same name as the requesting node",
            ),
            ("resource.k8s.io", "resourceslices", Operation::Create | Operation::Delete) => {
                own_slice(a, node, object)
            }
            _ => Ok(()),
        }
    }
    .boxed()
}

/// A mirror pod shows what the node runs by itself: it is the node's own and refers to nothing else. From what other pods of the
/// node refer to follows what the node may read.
async fn mirror_pod(a: &Attributes<'_>, node: &str, pod: &Value) -> Result<()> {
    let refuse = |why: &str| Err(a.forbidden(pod, why));
    if pod.at(&["metadata", "annotations", MIRROR]).is_none() {
        return refuse(&format!(
            "pod does not have \"{MIRROR}\" annotation, node \"{node}\" can only create mirror pods"
        ));
    }
    if pod.str_at(&["spec", "nodeName"]) != node {
        return refuse(&format!("node \"{node}\" can only create pods with spec.nodeName set to itself"));
    }
    owned_by_node(a, node, pod).await?;
    match reference(pod) {
        None => Ok(()),
        Some(what) => refuse(&format!("node \"{node}\" can not create pods that reference {what}")),
    }
}

async fn owned_by_node(a: &Attributes<'_>, node: &str, pod: &Value) -> Result<()> {
    let refuse = |why: String| Err(a.forbidden(pod, &why));
    let only = format!("node \"{node}\" can only create pods with");
    let owner = match pod.items_at(&["metadata", "ownerReferences"]) {
        [] => return refuse(format!("{only} an owner reference set to itself")),
        [owner] => owner,
        _ => return refuse(format!("{only} a single owner reference set to itself")),
    };
    let said = |field: &str| owner.str_at(&[field]);
    if (said("apiVersion"), said("kind"), said("name")) != ("v1", "Node", node) {
        return refuse(format!("{only} an owner reference set to itself"));
    }
    let is = |field: &str| owner.get(field).and_then(Value::as_bool) == Some(true);
    if !is("controller") {
        return refuse(format!("{only} a controller owner reference set to itself"));
    }
    if is("blockOwnerDeletion") {
        return refuse(format!("node \"{node}\" must not set blockOwnerDeletion on an owner reference"));
    }
    let of = GroupResource { group: "", resource: "nodes" };
    let found =
        a.server.read_internal("nodes", "", node).await?.ok_or_else(|| Status::not_found(of, node))?;
    let (expected, got) = (said("uid"), found.str_at(&["metadata", "uid"]));
    match expected == got {
        true => Ok(()),
        false => refuse(format!("node {node} UID mismatch: expected {expected} got {got}")),
    }
}

/// The first thing of the API that a pod refers to, in upstream's words.
fn reference(pod: &Value) -> Option<&'static str> {
    let given = |value: Option<&Value>| value.is_some_and(|v| !v.is_null());
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    if !spec.str_at(&["serviceAccountName"]).is_empty() {
        return Some("serviceaccounts");
    }
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let containers = || lists.iter().flat_map(|list| spec.items_at(&[list]));
    let env = |one: &str, all: &str| {
        containers().any(|c| {
            c.items_at(&["env"]).iter().any(|e| given(e.at(&["valueFrom", one])))
                || c.items_at(&["envFrom"]).iter().any(|e| given(e.get(all)))
        })
    };
    if !spec.items_at(&["imagePullSecrets"]).is_empty() || env("secretKeyRef", "secretRef") {
        return Some("secrets");
    }
    if env("configMapKeyRef", "configMapRef") {
        return Some("configmaps");
    }
    if !spec.items_at(&["resourceClaims"]).is_empty() {
        return Some("resourceclaims");
    }
    spec.items_at(&["volumes"]).iter().find_map(volume_reference)
}

/// What a volume is made of, and what that refers to.
const VOLUMES: [(&str, &str); 7] = [
    ("configMap", "configmaps"),
    ("secret", "secrets"),
    ("csi", "csidrivers (via CSI volumes)"),
    ("glusterfs", "endpoints (via glusterFS volumes)"),
    ("persistentVolumeClaim", "persistentvolumeclaims"),
    ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
    ("azureFile", "secrets"),
];
const PROJECTIONS: [(&str, &str); 5] = [
    ("configMap", "configmaps"),
    ("secret", "secrets"),
    ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
    ("clusterTrustBundle", "clustertrustbundles"),
    ("podCertificate", "podcertificates"),
];

fn volume_reference(volume: &Value) -> Option<&'static str> {
    let has = |of: &Value, field: &str| of.get(field).is_some_and(|v| !v.is_null());
    let first = |of: &Value, table: &[(&str, &'static str)]| {
        table.iter().find(|(field, _)| has(of, field)).map(|(_, what)| *what)
    };
    // Secrets with the names of shared storage stand one level down (CephFS, RBD, flex volumes, …).
    let fields = volume.as_object().into_iter().flat_map(Object::iter);
    let names_secret = fields.map(|(_, source)| source).any(|source| has(source, "secretRef"));
    first(volume, &VOLUMES)
        .or(names_secret.then_some("secrets"))
        .or_else(|| volume.items_at(&["projected", "sources"]).iter().find_map(|s| first(s, &PROJECTIONS)))
}

/// What a node may write of a pod's status: nothing that widens what it may read or who chooses the pod.
const NOT_BY_NODES: [(&str, &str); 3] = [
    ("resourceClaimStatuses", "resource claim statues"),
    ("extendedResourceClaimStatus", "extended resource claim status"),
    ("nodeAllocatableResourceClaimStatuses", "node allocatable resource claim statuses"),
];

fn own_pod(a: &Attributes<'_>, node: &str, pod: &Value) -> Result<()> {
    // The stored object's: a change of it is what is asked about.
    let bound = a.old.unwrap_or(pod).str_at(&["spec", "nodeName"]);
    if bound != node {
        let why = format!("node \"{node}\" can only change pods with spec.nodeName set to itself");
        return Err(a.forbidden(pod, &why));
    }
    let (Operation::Update, Some(old)) = (a.operation, a.old) else { return Ok(()) };
    if !same(pod, old, &["metadata", "labels"]) {
        return Err(a.forbidden(pod, &format!("node \"{node}\" cannot update labels through pod status")));
    }
    for (field, what) in NOT_BY_NODES {
        if !same(pod, old, &["status", field]) {
            return Err(a.forbidden(pod, &format!("node \"{node}\" cannot update {what}")));
        }
    }
    Ok(())
}

/// Is the field the same in both? Nothing, null and empty are one.
fn same(new: &Value, old: &Value, path: &[&str]) -> bool {
    let value = |of: &Value| {
        let found = of.at(path).filter(|v| !v.is_null()).cloned();
        found.filter(|v| {
            !(v.as_array().is_some_and(|a| a.is_empty()) || v.as_object().is_some_and(|o| o.is_empty()))
        })
    };
    value(new) == value(old)
}

fn own_node(a: &Attributes<'_>, node: &str, object: &Value) -> Result<()> {
    let name = object.str_at(&["metadata", "name"]);
    if name != node {
        let why = format!("node \"{node}\" is not allowed to modify node \"{name}\"");
        return Err(Status::forbidden(a.call.resource(), name, &why));
    }
    let refuse = |why: String| Err(a.forbidden(object, &why));
    let labels = forbidden_labels(object, a.old.unwrap_or(&Value::Null)).join(", ");
    let Some(old) = a.old else {
        return match labels.is_empty() {
            true => Ok(()),
            false => refuse(format!("node \"{node}\" is not allowed to set the following labels: {labels}")),
        };
    };
    for (path, what) in [(["spec", "taints"], "taints"), (["metadata", "ownerReferences"], "ownerReferences")]
    {
        if !same(object, old, &path) {
            return refuse(format!("node \"{node}\" is not allowed to modify {what}"));
        }
    }
    match labels.is_empty() {
        true => Ok(()),
        false => refuse(format!("is not allowed to modify labels: {labels}")),
    }
}

/// Labels that are new, other or gone, and by which pods might be led to the node or away from it, sorted.
fn forbidden_labels(new: &Value, old: &Value) -> Vec<String> {
    let labels = |of: &Value| -> BTreeMap<String, Value> {
        let labels = of.at(&["metadata", "labels"]).and_then(Value::as_object);
        labels.into_iter().flat_map(Object::iter).map(|(k, v)| (k.to_string(), v.clone())).collect()
    };
    let (new, old) = (labels(new), labels(old));
    let keys: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
    let changed = keys.into_iter().filter(|key| new.get(*key) != old.get(*key));
    changed.filter(|key| !nodes_may_label(key)).cloned().collect()
}

/// May a node give itself this label? Kubelets set labels of their own and those that nobody at Kubernetes gave a meaning.
pub fn nodes_may_label(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else { return true };
    let within = |parent: &str| domain == parent || domain.ends_with(&format!(".{parent}"));
    let kubelets = KUBELET_LABELS.contains(&label) || KUBELET_DOMAINS.iter().any(|d| within(d));
    !within(RESTRICTED_DOMAIN) && (kubelets || !(within("kubernetes.io") || within("k8s.io")))
}

fn same_name(a: &Attributes<'_>, node: &str, object: &Value, why: &str) -> Result<()> {
    if object.str_at(&["metadata", "name"]) == node { Ok(()) } else { Err(a.forbidden(object, why)) }
}

fn own_slice(a: &Attributes<'_>, node: &str, slice: &Value) -> Result<()> {
    let verb = if a.operation == Operation::Create { "create" } else { "delete" };
    let why = format!("can only {verb} ResourceSlice with the same NodeName as the requesting node");
    if slice.str_at(&["spec", "nodeName"]) == node { Ok(()) } else { Err(a.forbidden(slice, &why)) }
}

/// Of a claim only what its growing changes.
fn claim_status(a: &Attributes<'_>, node: &str, claim: &Value) -> Result<()> {
    let rest = |of: &Value| {
        let mut rest = of.clone();
        for field in ["resourceVersion", "managedFields"] {
            rest.object_at_mut(&["metadata"]).remove(field);
        }
        for field in ["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"] {
            rest.object_at_mut(&["status"]).remove(field);
        }
        rest
    };
    if a.old.is_none_or(|old| rest(old) == rest(claim)) {
        return Ok(());
    }
    let why = format!(
        "node \"{node}\" is not allowed to update fields other than status.quantity and status.conditions"
    );
    Err(a.forbidden(claim, &why))
}
