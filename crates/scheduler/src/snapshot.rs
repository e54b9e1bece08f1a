//! What the scheduler knows: every node with the pods on it and the sums that filters and scores ask for.
//!
//! Pods that were just bound are *assumed*: they count at once, before the watch brings them back.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use corten_client::Key;
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::pod::{HostPort, PodInfo, is_finished, node_of};
use crate::resources::{Resources, allocatable};

/// A node and what is on it.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    /// The node's name.
    pub name: String,
    /// The object; missing while only pods that name the node are known.
    pub node: Option<Arc<Node>>,
    /// What it can give.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub allowed_pods: i64,
    /// What its pods ask for.
    pub requested: Resources,
    /// The same with defaults for pods that ask for nothing.
    pub scoring_requested: Resources,
    /// Its pods.
    pub pods: BTreeMap<Key, Arc<PodInfo>>,
    /// Images that are on it, by name, with their sizes in bytes.
    pub images: HashMap<String, i64>,
}

impl NodeInfo {
    fn set_node(&mut self, node: Arc<Node>) {
        (self.allocatable, self.allowed_pods) = allocatable(&node);
        let images = node.status.iter().flat_map(|s| s.images.iter().flatten());
        self.images = images
            .flat_map(|i| i.names.iter().flatten().map(|n| (n.clone(), i.size_bytes.unwrap_or_default())))
            .collect();
        self.node = Some(node);
    }

    /// Puts a pod onto the node.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.scoring_requested.add(&pod.scoring);
        self.pods.insert(pod.key.clone(), pod);
    }

    /// Takes a pod from the node. The sums are made anew: one that has reached its bound does not know what to give back.
    pub fn remove(&mut self, key: &Key) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(key)?;
        (self.requested, self.scoring_requested) = (Resources::default(), Resources::default());
        for other in self.pods.values() {
            self.requested.add(&other.requests);
            self.scoring_requested.add(&other.scoring);
        }
        Some(pod)
    }

    /// Is a port of this kind taken?
    pub fn is_taken(&self, port: &HostPort) -> bool {
        self.pods.values().any(|pod| pod.ports.iter().any(|other| other.conflicts(port)))
    }

    /// The value of a label of the node.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.node.as_ref()?.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }
}

/// All nodes and the pods on them.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    nodes: BTreeMap<String, NodeInfo>,
    placed: HashMap<Key, String>,
    /// Labels of namespaces, for affinity terms with a namespace selector.
    pub namespaces: HashMap<String, BTreeMap<String, String>>,
}

impl Snapshot {
    /// The nodes that exist, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values().filter(|info| info.node.is_some())
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(name)
    }

    /// A node came or changed.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let info = self.nodes.entry(name.clone()).or_default();
        info.name = name;
        info.set_node(node);
    }

    /// A node went; its pods stay known until they are deleted.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(info) = self.nodes.get_mut(name) {
            info.node = None;
            if info.pods.is_empty() {
                self.nodes.remove(name);
            }
        }
    }

    /// A pod came, changed, was bound or ended.
    pub fn set_pod(&mut self, pod: &Arc<Pod>) {
        let info = PodInfo::new(pod.clone());
        match node_of(pod) {
            Some(node) if !is_finished(pod) => self.place(Arc::new(info), node),
            _ => self.remove_pod(&info.key),
        }
    }

    /// Counts a pod on a node.
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove_pod(&pod.key);
        self.placed.insert(pod.key.clone(), node.to_owned());
        let info = self.nodes.entry(node.to_owned()).or_default();
        node.clone_into(&mut info.name);
        info.add(pod);
    }

    /// The pod that counts under this key.
    pub fn placed_pod(&self, key: &Key) -> Option<&Arc<PodInfo>> {
        self.nodes.get(self.placed.get(key)?)?.pods.get(key)
    }

    /// An assumed pod was not bound. What the watch has brought under its name meanwhile stays: another pod, or this one bound by
    /// someone else (or by us, where only the answer was lost).
    pub fn forget_assumed(&mut self, pod: &PodInfo) {
        let is_assumed = |placed: &Arc<PodInfo>| placed.is_same(pod) && node_of(&placed.pod).is_none();
        if self.placed_pod(&pod.key).is_some_and(is_assumed) {
            self.remove_pod(&pod.key);
        }
    }

    /// A pod went.
    pub fn remove_pod(&mut self, key: &Key) {
        let Some(node) = self.placed.remove(key) else { return };
        let Some(info) = self.nodes.get_mut(&node) else { return };
        info.remove(key);
        if info.pods.is_empty() && info.node.is_none() {
            self.nodes.remove(&node);
        }
    }

    /// All placed pods with their nodes (those that exist).
    pub fn placed_pods(&self) -> impl Iterator<Item = (&Arc<PodInfo>, &NodeInfo)> {
        self.nodes().flat_map(|node| node.pods.values().map(move |pod| (pod, node)))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub(crate) fn node(name: &str, cpu: &str) -> Arc<Node> {
        let allocatable = json!({ "cpu": cpu, "memory": "4Gi", "pods": "3" });
        let labels = json!({ "kubernetes.io/hostname": name });
        let object = json!({ "metadata": { "name": name, "labels": labels }, "status": { "allocatable": allocatable } });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    pub(crate) fn pod(name: &str, spec: Value) -> Arc<Pod> {
        let mut object = json!({ "metadata": { "name": name, "namespace": "default", "uid": name,
            "labels": { "app": "x" } }, "spec": { "containers": [{ "name": "c" }] } });
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        Arc::new(serde_json::from_value(object).unwrap())
    }

    pub(crate) fn cpu(amount: &str) -> Value {
        json!({ "containers": [{ "name": "c", "resources": { "requests": { "cpu": amount } } }] })
    }

    #[test]
    fn sums_follow_pods() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(node("n", "2"));
        let mut spec = cpu("500m");
        spec["nodeName"] = json!("n");
        snapshot.set_pod(&pod("a", spec.clone()));
        snapshot.set_pod(&pod("a", spec.clone()));
        assert_eq!(snapshot.node("n").unwrap().requested.milli_cpu, 500);
        snapshot.remove_pod(&Key::new("default", "a"));
        assert_eq!(snapshot.node("n").unwrap().requested.milli_cpu, 0);
    }

    #[test]
    fn only_what_was_assumed_is_forgotten_when_a_binding_fails() {
        let assumed = PodInfo::new(pod("a", cpu("1")));
        let bound = |uid: &str| {
            let mut spec = cpu("1");
            spec["nodeName"] = json!("n");
            let mut object = (*pod("a", spec)).clone();
            object.metadata.uid = Some(uid.into());
            Arc::new(object)
        };
        for (told, left) in [(None, 0), (Some(bound("a")), 1000), (Some(bound("other")), 1000)] {
            let mut snapshot = Snapshot::default();
            snapshot.set_node(node("n", "2"));
            snapshot.place(Arc::new(PodInfo::new(assumed.pod.clone())), "n");
            told.iter().for_each(|pod| snapshot.set_pod(pod));
            snapshot.forget_assumed(&assumed);
            assert_eq!(snapshot.node("n").unwrap().requested.milli_cpu, left, "{told:?}");
        }
    }

    #[test]
    fn amounts_beyond_all_bounds_leave_the_sums_right() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(node("n", "2"));
        let with = |memory: &str| {
            json!({ "nodeName": "n", "containers": [{ "name": "c", "resources": { "requests": { "memory": memory } } },
                                                  { "name": "d", "resources": { "requests": { "memory": memory } } }] })
        };
        for (name, memory) in [("small", "1Gi"), ("huge", "8E"), ("huger", "8E")] {
            snapshot.set_pod(&pod(name, with(memory)));
        }
        assert_eq!(snapshot.node("n").unwrap().requested.memory, i64::MAX);
        snapshot.remove_pod(&Key::new("default", "huge"));
        snapshot.remove_pod(&Key::new("default", "huger"));
        assert_eq!(snapshot.node("n").unwrap().requested.memory, 2 << 30);
    }

    #[test]
    fn pods_of_an_unknown_node_are_kept_for_it() {
        let mut snapshot = Snapshot::default();
        snapshot.set_pod(&pod("a", json!({ "nodeName": "later" })));
        assert_eq!(snapshot.nodes().count(), 0);
        snapshot.set_node(node("later", "1"));
        assert_eq!(snapshot.placed_pods().count(), 1);
        snapshot.remove_node("later");
        snapshot.remove_pod(&Key::new("default", "a"));
        assert!(snapshot.node("later").is_none());
    }
}
