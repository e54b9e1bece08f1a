//! Who owns whom, and what follows for one object. Pure.
//!
//! The graph knows objects by UID. An owner that was named but never seen is not in it; whether it exists is asked of the
//! API before anything is deleted for its sake.

use std::collections::{HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// Waits until the dependents that block it are gone.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Leaves its dependents behind.
pub const ORPHAN: &str = "orphan";

/// A unique object.
pub type Uid = String;

/// Where to find an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Index of its resource in the collector's list.
    pub resource: usize,
    /// Namespace, empty for cluster-scoped objects.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// An object as the collector looks at it.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it is.
    pub place: Place,
    /// Its owners.
    pub owners: Vec<OwnerReference>,
    /// Is it being deleted?
    pub ends: bool,
    /// It waits for its dependents.
    pub foreground: bool,
    /// It leaves its dependents behind.
    pub orphans: bool,
}

impl Node {
    /// From an object's metadata.
    pub fn new(place: Place, meta: &ObjectMeta) -> Self {
        let ends = meta.deletion_timestamp.is_some();
        let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|f| f == finalizer);
        Node {
            place,
            owners: meta.owner_references.clone().unwrap_or_default(),
            ends,
            foreground: ends && has(FOREGROUND),
            orphans: ends && has(ORPHAN),
        }
    }
}

/// What is known of an owner reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// There, and staying (or going without waiting for dependents).
    Solid,
    /// There, but waiting for its dependents to go.
    Waiting,
    /// Not seen: the API must be asked.
    Unknown,
}

/// What follows for an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing.
    Keep,
    /// Ask the API whether these owners exist; with those that do not taken as absent, look again.
    Ask(Vec<OwnerReference>),
    /// Take these owners out of its references.
    Disown(Vec<Uid>),
    /// Delete it; in the foreground when it has dependents of its own and an owner waits.
    Delete {
        /// Wait for its dependents?
        foreground: bool,
    },
    /// Delete these first, which block it.
    DeleteDependents(Vec<Uid>),
    /// Cut these loose, then remove the finalizer `orphan`.
    Orphan(Vec<Uid>),
    /// No dependent blocks it any more: remove the finalizer `foregroundDeletion`.
    LetGo,
}

/// All objects and their ties.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: HashMap<Uid, Node>,
    dependents: HashMap<Uid, HashSet<Uid>>,
}

impl Graph {
    /// An object came or changed. Gives the objects to look at.
    pub fn set(&mut self, uid: &str, node: Node) -> Vec<Uid> {
        let before = self.nodes.get(uid);
        if before == Some(&node) {
            return Vec::new();
        }
        let mut look: Vec<Uid> = vec![uid.to_owned()];
        if node.ends && before.is_none_or(|b| !b.ends || b.foreground != node.foreground) {
            look.extend(self.dependents_of(uid));
        }
        // An owner that waits for this one may be let go when the tie is cut.
        look.extend(before.into_iter().flat_map(|b| &b.owners).map(|o| o.uid.clone()));
        self.untie(uid);
        for owner in &node.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.to_owned());
        }
        self.nodes.insert(uid.to_owned(), node);
        look
    }

    /// An object is gone. Gives the objects to look at: what it owned, and owners that waited for it.
    pub fn remove(&mut self, uid: &str) -> Vec<Uid> {
        let mut look: Vec<Uid> = self.dependents_of(uid).collect();
        self.untie(uid);
        if let Some(node) = self.nodes.remove(uid) {
            look.extend(node.owners.into_iter().map(|o| o.uid));
        }
        look
    }

    fn untie(&mut self, uid: &str) {
        for owner in self.nodes.get(uid).into_iter().flat_map(|n| &n.owners) {
            if let Some(siblings) = self.dependents.get_mut(&owner.uid) {
                siblings.remove(uid);
                if siblings.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }

    /// An object by UID.
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// All UIDs of objects at a resource.
    pub fn of_resource(&self, resource: usize) -> HashSet<Uid> {
        self.nodes.iter().filter(|(_, n)| n.place.resource == resource).map(|(uid, _)| uid.clone()).collect()
    }

    /// Objects that name an owner of that kind.
    pub fn owned_by(&self, group: &str, kind: &str) -> Vec<Uid> {
        let is_meant = |owner: &OwnerReference| {
            owner.kind == kind && owner.api_version.split_once('/').map_or("", |(group, _)| group) == group
        };
        let owned = self.nodes.iter().filter(|(_, node)| node.owners.iter().any(is_meant));
        owned.map(|(uid, _)| uid.clone()).collect()
    }

    fn dependents_of(&self, uid: &str) -> impl Iterator<Item = Uid> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect::<Vec<_>>().into_iter()
    }

    fn owner(&self, reference: &OwnerReference) -> Owner {
        match self.nodes.get(&reference.uid) {
            Some(node) if node.foreground => Owner::Waiting,
            Some(_) => Owner::Solid,
            None => Owner::Unknown,
        }
    }

    /// What follows for an object. `absent` are UIDs that the API said do not exist.
    pub fn plan(&self, uid: &str, absent: &HashSet<Uid>) -> Step {
        let Some(node) = self.nodes.get(uid) else { return Step::Keep };
        if node.orphans {
            return Step::Orphan(self.dependents_of(uid).collect());
        }
        if node.foreground {
            return self.wait_for_dependents(uid);
        }
        if node.ends || node.owners.is_empty() {
            return Step::Keep;
        }
        self.by_owners(uid, node, absent)
    }

    fn wait_for_dependents(&self, uid: &str) -> Step {
        let blocks = |dependent: &Uid| {
            let owners = self.nodes.get(dependent).into_iter().flat_map(|n| &n.owners);
            owners.into_iter().any(|o| o.uid == uid && o.block_owner_deletion == Some(true))
        };
        if !self.dependents_of(uid).any(|d| blocks(&d) && !self.waits_for(&d, uid)) {
            return Step::LetGo;
        }
        // Those that end already come back by themselves when they are gone; asking for them again would never rest.
        let stays = |dependent: &Uid| self.nodes.get(dependent).is_some_and(|n| !n.ends);
        match self.dependents_of(uid).filter(stays).collect::<Vec<_>>() {
            none if none.is_empty() => Step::Keep,
            dependents => Step::DeleteDependents(dependents),
        }
    }

    /// Does this object wait for `other` to go, itself or through what it waits for? Then `other` must not wait for it:
    /// a circle of owners would stay for ever.
    fn waits_for(&self, uid: &str, other: &str) -> bool {
        let (mut seen, mut next) = (HashSet::new(), vec![uid.to_owned()]);
        while let Some(uid) = next.pop() {
            let waits = self.nodes.get(&uid).is_some_and(|n| n.foreground);
            if uid == other {
                return true;
            }
            if waits && seen.insert(uid.clone()) {
                next.extend(self.dependents_of(&uid));
            }
        }
        false
    }

    fn by_owners(&self, uid: &str, node: &Node, absent: &HashSet<Uid>) -> Step {
        let (mut solid, mut waiting, mut dangling, mut ask) = (0, Vec::new(), Vec::new(), Vec::new());
        for reference in &node.owners {
            match self.owner(reference) {
                Owner::Solid => solid += 1,
                Owner::Waiting => waiting.push(reference.uid.clone()),
                Owner::Unknown if absent.contains(&reference.uid) => dangling.push(reference.uid.clone()),
                Owner::Unknown => ask.push(reference.clone()),
            }
        }
        if !ask.is_empty() {
            return Step::Ask(ask);
        }
        if solid == 0 {
            let has_dependents = self.dependents.contains_key(uid);
            return Step::Delete { foreground: !waiting.is_empty() && has_dependents };
        }
        dangling.extend(waiting);
        if dangling.is_empty() { Step::Keep } else { Step::Disown(dangling) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    fn node(name: &str, owners: &[&str], finalizer: Option<&str>) -> Node {
        let references: Vec<Value> = owners
            .iter()
            .map(|o| json!({ "apiVersion": "v1", "kind": "X", "name": o, "uid": o, "blockOwnerDeletion": true }))
            .collect();
        let ends = finalizer.map(|_| "2026-01-01T00:00:00Z");
        let meta: ObjectMeta = from_value(json!({ "ownerReferences": references, "deletionTimestamp": ends,
            "finalizers": finalizer.map(|f| vec![f]) }))
        .unwrap();
        Node::new(Place { resource: 0, namespace: "ns".into(), name: name.into() }, &meta)
    }

    fn graph(nodes: &[(&str, &[&str], Option<&str>)]) -> Graph {
        let mut graph = Graph::default();
        for (name, owners, finalizer) in nodes {
            graph.set(name, node(name, owners, *finalizer));
        }
        graph
    }

    #[test]
    fn what_follows_for_an_object() {
        let none = HashSet::new();
        let gone = HashSet::from(["gone".to_owned()]);
        let g = graph(&[
            ("root", &[], None),
            ("kept", &["root"], None),
            ("lost", &["gone"], None),
            ("half", &["root", "gone"], None),
            ("waits", &[], Some(FOREGROUND)),
            ("blocker", &["waits"], None),
            ("leaves", &[], Some(ORPHAN)),
            ("left", &["leaves"], None),
            ("alone", &[], Some(FOREGROUND)),
        ]);
        assert_eq!(g.plan("kept", &none), Step::Keep);
        assert!(matches!(g.plan("lost", &none), Step::Ask(refs) if refs[0].uid == "gone"));
        assert_eq!(g.plan("lost", &gone), Step::Delete { foreground: false });
        assert_eq!(g.plan("half", &gone), Step::Disown(vec!["gone".into()]));
        assert_eq!(g.plan("waits", &none), Step::DeleteDependents(vec!["blocker".into()]));
        assert_eq!(g.plan("blocker", &none), Step::Delete { foreground: false });
        assert_eq!(g.plan("leaves", &none), Step::Orphan(vec!["left".into()]));
        assert_eq!(g.plan("left", &none), Step::Keep);
        assert_eq!(g.plan("alone", &none), Step::LetGo);
        assert_eq!(g.plan("never seen", &none), Step::Keep);
    }

    #[test]
    fn circles_of_owners_come_to_an_end() {
        let (none, wait) = (HashSet::new(), Some(FOREGROUND));
        // c owns a, a owns b, b owns c; the last of them has just learned that it ends.
        let g = graph(&[("a", &["c"], wait), ("b", &["a"], wait), ("c", &["b"], None)]);
        assert_eq!(g.plan("a", &none), Step::Keep, "b ends already");
        assert_eq!(g.plan("b", &none), Step::DeleteDependents(vec!["c".into()]));
        assert_eq!(g.plan("c", &none), Step::Delete { foreground: true });
        let g = graph(&[("a", &["c"], wait), ("b", &["a"], wait), ("c", &["b"], wait)]);
        for member in ["a", "b", "c"] {
            assert_eq!(g.plan(member, &none), Step::LetGo, "{member}");
        }
        let g = graph(&[("a", &["b"], wait), ("b", &["a"], wait), ("x", &["a"], wait), ("y", &["x"], None)]);
        assert_eq!(g.plan("a", &none), Step::Keep, "x is outside of the circle");
        assert_eq!(g.plan("b", &none), Step::LetGo);
        let own = graph(&[("a", &["a"], wait)]);
        assert_eq!(own.plan("a", &none), Step::LetGo);
    }

    #[test]
    fn a_removed_owner_wakes_what_it_owned() {
        let mut g = graph(&[("root", &[], None), ("kept", &["root"], None)]);
        assert_eq!(g.remove("root"), ["kept"]);
        assert_eq!(g.remove("kept"), ["root"]);
        assert!(g.dependents.is_empty());
    }
}
