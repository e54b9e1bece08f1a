//! What a kubelet may do beyond the fixed rows: its own node, its lease, the pods bound to it and what those pods name.
//! Upstream's node authoriser, with the graph replaced by a look at the pods of one namespace.

use corten_api::Value;

use super::Attributes;
use crate::ApiServer;
use crate::peek;

impl ApiServer {
    /// The decision for the kubelet of `node`.
    pub(super) async fn node_may(&self, node: &str, a: &Attributes) -> bool {
        if a.path.is_some() {
            return a.verb == "get" && a.path.as_deref() == Some("/metrics");
        }
        let verb = a.verb.as_str();
        let reads = matches!(verb, "get" | "list" | "watch");
        match (a.group.as_str(), a.full_resource().as_str()) {
            ("", "nodes") => may_node(node, verb, &a.name),
            ("", "nodes/status") => matches!(verb, "get" | "update" | "patch") && a.name == node,
            ("coordination.k8s.io", "leases") => {
                a.namespace == "kube-node-lease"
                    && (a.name == node || (verb == "create" && a.name.is_empty()))
            }
            ("storage.k8s.io", "csinodes") => a.name == node || verb == "create",
            ("", "pods") => match verb {
                "list" | "watch" => a.selected_node.as_deref() == Some(node) || self.pod_is_on(node, a).await,
                "get" | "delete" => self.pod_is_on(node, a).await,
                "create" => true,
                _ => false,
            },
            ("", "pods/status") => {
                matches!(verb, "get" | "update" | "patch") && self.pod_is_on(node, a).await
            }
            ("", "pods/eviction") => verb == "create" && self.pod_is_on(node, a).await,
            ("", "secrets" | "configmaps" | "persistentvolumeclaims") => {
                reads && !a.name.is_empty() && self.pods_name(node, a).await
            }
            ("", "serviceaccounts/token") => verb == "create" && self.pods_name(node, a).await,
            ("", "serviceaccounts") => verb == "get" && self.pods_name(node, a).await,
            _ => false,
        }
    }

    async fn pod_is_on(&self, node: &str, a: &Attributes) -> bool {
        if a.name.is_empty() {
            return false;
        }
        match self.read_raw("pods", &a.namespace, &a.name).await {
            Ok(Some(pod)) => peek::text(&pod.value, &["spec", "nodeName"]) == node,
            // The pod may be gone already; upstream's graph lags in the same direction.
            Ok(None) => true,
            Err(_) => false,
        }
    }

    async fn pods_name(&self, node: &str, a: &Attributes) -> bool {
        let Ok(pods) = self.list_raw("pods", &a.namespace).await else { return false };
        let mut mine = pods.iter().filter(|p| peek::text(&p.value, &["spec", "nodeName"]) == node);
        mine.any(|pod| self.tree(pod).is_ok_and(|pod| names(&pod, &a.resource, &a.name)))
    }
}

fn may_node(node: &str, verb: &str, name: &str) -> bool {
    match verb {
        "create" => true,
        "get" | "list" | "watch" | "update" | "patch" => name == node,
        _ => false,
    }
}

/// Does the pod refer to the object?
fn names(pod: &Value, resource: &str, name: &str) -> bool {
    match resource {
        "serviceaccounts" => pod.str_at(&["spec", "serviceAccountName"]) == name,
        "persistentvolumeclaims" => volumes(pod).any(|v| claim_of(pod, v) == name),
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
