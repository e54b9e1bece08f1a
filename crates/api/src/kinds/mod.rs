//! All built-in kinds, and the table in which they and the kinds of CRDs are found.
//!
//! `rows.rs` holds one row a kind; what makes a kind special stands in a file of its own beside it.

mod autoscaling;
mod batch;
mod certificate;
mod columns;
mod conditions;
mod config;
mod crd;
mod csi;
mod devices;
mod endpoints;
mod event;
mod flow;
mod job_policy;
mod limit_range;
mod look;
mod migration;
pub mod namespace;
mod networking;
mod node;
mod plain;
pub mod pod;
mod quota;
mod rbac;
mod row;
mod rows;
mod schedule;
pub mod service;
mod storage;
mod trust;
pub mod usage;
mod warn;
mod webhook;
mod workload;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use crate::kind::{Kind, Text, Version};

/// The built-in kinds in discovery's order: group by group, resources by name.
pub fn builtin() -> &'static [Arc<Kind>] {
    static KINDS: LazyLock<Vec<Arc<Kind>>> =
        LazyLock::new(|| rows::ROWS.iter().map(|row| Arc::new(Kind::from(row))).collect());
    &KINDS
}

/// A built-in kind by group and kind name.
pub fn builtin_kind(group: &str, kind: &str) -> Option<&'static Arc<Kind>> {
    builtin().iter().find(|k| k.group == group && k.kind == kind)
}

/// Kinds that are served now: the built-in ones and those of CRDs.
///
/// Readers take the present [`Snapshot`] (one `Arc` clone) and never wait for writers longer than a pointer swap.
#[derive(Debug)]
pub struct KindTable {
    now: RwLock<Arc<Snapshot>>,
}

impl Default for KindTable {
    /// The built-in kinds.
    fn default() -> Self {
        Self::new(builtin().iter().cloned())
    }
}

impl KindTable {
    /// A table of the kinds given.
    pub fn new(kinds: impl IntoIterator<Item = Arc<Kind>>) -> Self {
        let snapshot = Snapshot::new(kinds.into_iter().collect(), 0);
        KindTable { now: RwLock::new(Arc::new(snapshot)) }
    }

    /// The table as it is now; stays as it is while it is held.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The kind behind `/apis/GROUP/VERSION/…/PLURAL`, if that version is served.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        self.snapshot().resource(group, version, plural).cloned()
    }

    /// The kind that an object's `apiVersion` and `kind` name, if that version is served.
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<Arc<Kind>> {
        self.snapshot().kind(group, version, kind).cloned()
    }

    /// Adds a kind, or replaces the one of the same group and plural.
    pub fn insert(&self, kind: Kind) {
        self.change(|kinds| {
            let kind = Arc::new(kind);
            match kinds.iter_mut().find(|k| k.group == kind.group && k.plural == kind.plural) {
                Some(old) => *old = kind,
                None => kinds.push(kind),
            }
        });
    }

    /// Takes a kind away.
    pub fn remove(&self, group: &str, plural: &str) {
        self.change(|kinds| kinds.retain(|k| k.group != group || k.plural != plural));
    }

    fn change(&self, edit: impl FnOnce(&mut Vec<Arc<Kind>>)) {
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        let mut kinds = now.kinds.clone();
        edit(&mut kinds);
        *now = Arc::new(Snapshot::new(kinds, now.generation + 1));
    }
}

/// The kinds of one moment, with their indexes.
#[derive(Debug)]
pub struct Snapshot {
    kinds: Vec<Arc<Kind>>,
    groups: HashMap<Text, Group>,
    generation: u64,
}

#[derive(Debug, Default)]
struct Group {
    by_plural: HashMap<Text, Arc<Kind>>,
    by_kind: HashMap<Text, Arc<Kind>>,
}

impl Snapshot {
    fn new(kinds: Vec<Arc<Kind>>, generation: u64) -> Self {
        let mut groups: HashMap<Text, Group> = HashMap::new();
        for kind in &kinds {
            let group = groups.entry(kind.group.clone()).or_default();
            group.by_plural.insert(kind.plural.clone(), kind.clone());
            group.by_kind.insert(kind.kind.clone(), kind.clone());
        }
        Snapshot { kinds, groups, generation }
    }

    /// The kind of a plural, if that version of it is served.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.groups.get(group)?.by_plural.get(plural).filter(|k| k.served(version).is_some())
    }

    /// The kind of a kind name, if that version of it is served.
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Kind>> {
        self.groups.get(group)?.by_kind.get(kind).filter(|k| k.served(version).is_some())
    }

    /// The kind of a plural in any version.
    pub fn group_resource(&self, group: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.groups.get(group)?.by_plural.get(plural)
    }

    /// The kind of a kind name in any version.
    pub fn group_kind(&self, group: &str, kind: &str) -> Option<&Arc<Kind>> {
        self.groups.get(group)?.by_kind.get(kind)
    }

    /// The version in which the objects of a kind rest, and the kind that this version belongs to.
    pub fn storage<'a>(&'a self, kind: &'a Kind) -> (&'a Kind, &'a Version) {
        let owner = kind.stored_as.as_ref().and_then(|(group, plural)| self.group_resource(group, plural));
        let owner = owner.map_or(kind, |k| k);
        (owner, owner.storage_version())
    }

    /// All kinds, the built-in ones in discovery's order, then those of CRDs as they came.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Kind>> {
        self.kinds.iter()
    }

    /// Counts changes of the table; what is derived from a snapshot may be cached under it.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
