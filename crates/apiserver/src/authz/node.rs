//! What a kubelet may do: the rules of `system:node`, narrowed to its own node, its lease, the pods bound to it and what those pods name.
//! Upstream's node authoriser, with the graph replaced by a look at the pods of one namespace.

use corten_api::Value;

use super::Attributes;
use super::rbac::bootstrap::NODE_RULES;
use crate::ApiServer;
use crate::peek;

const MIRROR: &str = "kubernetes.io/config.mirror";

/// What is said against a request; empty where no more is to be said than that it is not allowed.
type Verdict = Result<(), String>;

/// Upstream's words for an object that no pod of the node leads to.
fn unrelated(node: &str) -> String {
    format!("no relationship found between node '{node}' and this object")
}

fn only_if(allowed: bool, reason: impl Into<String>) -> Verdict {
    if allowed { Ok(()) } else { Err(reason.into()) }
}

impl ApiServer {
    /// The decision for the kubelet of `node`.
    pub(super) async fn node_may(&self, node: &str, a: &Attributes) -> Verdict {
        if a.path.is_some() {
            return Err(String::new());
        }
        let verb = a.verb.as_str();
        let changes = matches!(verb, "get" | "update" | "patch");
        match (a.group.as_str(), a.full_resource().as_str()) {
            ("", "nodes") => may_node(node, verb, &a.name),
            ("", "nodes/status") => only_if(changes && a.name == node, ""),
            ("coordination.k8s.io", "leases") => may_lease(node, a),
            ("storage.k8s.io", "csinodes") => {
                let reason = "can only access CSINode with the same name as the requesting node";
                only_if(a.name == node || verb == "create", reason)
            }
            ("", "pods") => self.may_pod(node, a).await,
            // What is there no more is for the verb to tell.
            ("", "pods/status") => only_if(changes && self.pod_is_elsewhere(node, a).await != Some(true), ""),
            ("", "pods/eviction") => {
                only_if(verb == "create" && self.pod_is_elsewhere(node, a).await != Some(true), "")
            }
            ("", "secrets" | "configmaps") => match verb {
                "get" | "list" | "watch" if a.namespace.is_empty() => {
                    Err("can only read namespaced object of this type".into())
                }
                "get" | "list" | "watch" => self.may_named(node, a).await,
                _ => Err("can only read resources of this type".into()),
            },
            ("", "persistentvolumeclaims") => match verb {
                "get" => self.may_named(node, a).await,
                _ => Err("can only get individual resources of this type".into()),
            },
            ("", "persistentvolumeclaims/status") => match verb {
                "update" | "patch" => self.may_named(node, a).await,
                _ => Err("can only get/update/patch this type".into()),
            },
            ("", "persistentvolumes") => match verb {
                "get" => self.may_volume(node, a).await,
                _ => Err("can only get individual resources of this type".into()),
            },
            ("resource.k8s.io", "resourceclaims") => match verb {
                "get" => self.may_named(node, a).await,
                _ => Err("can only get individual resources of this type".into()),
            },
            ("resource.k8s.io", "resourceslices") => self.may_slice(node, a).await,
            ("", "serviceaccounts/token") if verb == "create" => self.may_named(node, a).await,
            ("", "serviceaccounts") => match verb {
                "get" => self.may_named(node, a).await,
                _ => Err("can only create tokens for individual service accounts".into()),
            },
            _ => only_if(NODE_RULES.iter().any(|rule| rule.allows(a)), ""),
        }
    }

    /// A volume is a node's where the claim that it is bound to is.
    async fn may_volume(&self, node: &str, a: &Attributes) -> Verdict {
        let volume = self.read_internal("persistentvolumes", "", &a.name).await.ok().flatten();
        let claim = volume.as_ref().and_then(|v| v.at(&["spec", "claimRef"])).unwrap_or(&Value::Null);
        let claim = Attributes {
            namespace: claim.str_at(&["namespace"]).to_owned(),
            resource: "persistentvolumeclaims".into(),
            name: claim.str_at(&["name"]).to_owned(),
            ..Attributes::default()
        };
        match claim.name.is_empty() {
            true => Err(unrelated(node)),
            false => self.may_named(node, &claim).await,
        }
    }

    /// Slices of the node alone; what a new one says is for admission.
    async fn may_slice(&self, node: &str, a: &Attributes) -> Verdict {
        match a.verb.as_str() {
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" => {
                let found =
                    self.list_group("resource.k8s.io", "resourceslices", "").await.unwrap_or_default();
                let own = found.iter().any(|slice| {
                    peek::text(&slice.value, &["metadata", "name"]) == a.name
                        && peek::text(&slice.value, &["spec", "nodeName"]) == node
                });
                only_if(own, unrelated(node))
            }
            "list" | "watch" | "deletecollection" => only_if(
                a.selected_node.as_deref() == Some(node),
                "can only list/watch/deletecollection resourceslices with nodeName field selector",
            ),
            _ => Err(String::new()),
        }
    }

    async fn may_pod(&self, node: &str, a: &Attributes) -> Verdict {
        match a.verb.as_str() {
            "create" => Ok(()),
            "get" => only_if(self.pod_is_elsewhere(node, a).await == Some(false), unrelated(node)),
            "delete" => only_if(self.pod_is_elsewhere(node, a).await != Some(true), unrelated(node)),
            "list" | "watch" if a.selected_node.as_deref() == Some(node) => Ok(()),
            "list" | "watch" if !a.name.is_empty() => {
                only_if(self.pod_is_elsewhere(node, a).await == Some(false), unrelated(node))
            }
            "list" | "watch" => Err("can only list/watch pods with spec.nodeName field selector".into()),
            _ => Err(String::new()),
        }
    }

    /// An object that pods of the node name.
    async fn may_named(&self, node: &str, a: &Attributes) -> Verdict {
        match a.name.is_empty() {
            true => Err("No Object name found".into()),
            false => only_if(self.pods_name(node, a).await, unrelated(node)),
        }
    }

    /// Is the pod on another node, or on none? `None` when it is not there.
    async fn pod_is_elsewhere(&self, node: &str, a: &Attributes) -> Option<bool> {
        match self.read_raw("pods", &a.namespace, &a.name).await {
            Ok(Some(pod)) => Some(peek::text(&pod.value, &["spec", "nodeName"]) != node),
            Ok(None) => None,
            Err(_) => Some(true),
        }
    }

    async fn pods_name(&self, node: &str, a: &Attributes) -> bool {
        let Ok(pods) = self.list_raw("pods", &a.namespace).await else { return false };
        let mut mine = pods.iter().filter(|p| peek::text(&p.value, &["spec", "nodeName"]) == node);
        mine.any(|pod| self.tree(pod).is_ok_and(|pod| names(&pod, &a.resource, &a.name)))
    }
}

fn may_node(node: &str, verb: &str, name: &str) -> Verdict {
    match verb {
        "create" => Ok(()),
        "get" | "list" | "watch" => {
            only_if(name == node, format!("node '{node}' cannot read '{name}', only its own Node object"))
        }
        "update" | "patch" => only_if(name == node, ""),
        _ => Err(String::new()),
    }
}

fn may_lease(node: &str, a: &Attributes) -> Verdict {
    let verb = a.verb.as_str();
    if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a node lease".into());
    }
    if a.namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".into());
    }
    let reason = "can only access node lease with the same name as the requesting node";
    only_if(a.name == node || (verb == "create" && a.name.is_empty()), reason)
}

/// Does the pod refer to the object? Mirror pods are made by nodes, so nothing follows from what they name.
fn names(pod: &Value, resource: &str, name: &str) -> bool {
    if pod.at(&["metadata", "annotations", MIRROR]).is_some() {
        return false;
    }
    match resource {
        "serviceaccounts" => pod.str_at(&["spec", "serviceAccountName"]) == name,
        "persistentvolumeclaims" => volumes(pod).any(|v| claim_of(pod, v) == name),
        "resourceclaims" => has_claim(pod, name),
        "secrets" => {
            pod.items_at(&["spec", "imagePullSecrets"]).iter().any(|s| s.str_at(&["name"]) == name)
                || in_env(pod, ["secretKeyRef", "secretRef"], name)
                || volumes(pod)
                    .any(|v| v.str_at(&["secret", "secretName"]) == name || in_projection(v, "secret", name))
                || volumes(pod).any(|v| has_secret_ref(v, name))
        }
        "configmaps" => {
            in_env(pod, ["configMapKeyRef", "configMapRef"], name)
                || volumes(pod)
                    .any(|v| v.str_at(&["configMap", "name"]) == name || in_projection(v, "configMap", name))
        }
        _ => false,
    }
}

/// Named by the spec, or made from a template and then named by the status.
fn has_claim(pod: &Value, name: &str) -> bool {
    let in_spec = pod.items_at(&["spec", "resourceClaims"]).iter();
    let in_status = pod.items_at(&["status", "resourceClaimStatuses"]).iter();
    in_spec.chain(in_status).any(|claim| claim.str_at(&["resourceClaimName"]) == name)
}

fn volumes(pod: &Value) -> impl Iterator<Item = &Value> {
    pod.items_at(&["spec", "volumes"]).iter()
}

fn claim_of(pod: &Value, volume: &Value) -> String {
    if volume.get("ephemeral").is_some() {
        return format!("{}-{}", pod.str_at(&["metadata", "name"]), volume.str_at(&["name"]));
    }
    volume.str_at(&["persistentVolumeClaim", "claimName"]).to_owned()
}

fn in_projection(volume: &Value, source: &str, name: &str) -> bool {
    volume.items_at(&["projected", "sources"]).iter().any(|s| s.str_at(&[source, "name"]) == name)
}

/// CSI, CephFS, … volumes name secrets one level down.
fn has_secret_ref(volume: &Value, name: &str) -> bool {
    let Some(fields) = volume.as_object() else { return false };
    fields.iter().any(|(_, source)| {
        source.str_at(&["secretRef", "name"]) == name
            || source.str_at(&["nodePublishSecretRef", "name"]) == name
    })
}

fn in_env(pod: &Value, [one, all]: [&str; 2], name: &str) -> bool {
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let mut containers = lists.iter().flat_map(|list| pod.items_at(&["spec", list]));
    containers.any(|c| {
        c.items_at(&["env"]).iter().any(|e| e.str_at(&["valueFrom", one, "name"]) == name)
            || c.items_at(&["envFrom"]).iter().any(|e| e.str_at(&[all, "name"]) == name)
    })
}
