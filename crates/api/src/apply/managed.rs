//! `metadata.managedFields`: who owns which fields, on the wire and in memory.

use super::set::Set;
use crate::{Object, Str, Value};

/// How a manager came to own fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    /// Server-side apply: what it no longer says is removed.
    Apply,
    /// Every other write.
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// Who a manager is. An applier is the same in all versions of the API, an updater is another one in each.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub name: Str,
    pub operation: Operation,
    pub api_version: Str,
    pub subresource: Str,
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }
}

/// One manager with what it owns.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub identity: Identity,
    /// RFC 3339, seconds; `None` where it is not known.
    pub time: Option<Str>,
    set: Set,
    /// The FieldsV1 that `set` was read from, as long as it has not changed.
    wire: Option<Value>,
}

impl Owner {
    pub fn new(identity: Identity, set: Set) -> Self {
        Owner { identity, time: None, set, wire: None }
    }

    pub fn set(&self) -> &Set {
        &self.set
    }

    pub fn is_applier(&self) -> bool {
        self.identity.operation == Operation::Apply
    }

    pub fn replace_set(&mut self, set: Set) {
        self.set = set;
        self.wire = None;
    }

    /// Adds what it owned before.
    pub fn keep(&mut self, before: Owner) {
        if before.set.is_subset(&self.set) {
            return;
        }
        if self.set.is_subset(&before.set) {
            (self.set, self.wire) = (before.set, before.wire);
            return;
        }
        let both = std::mem::take(&mut self.set).union(before.set);
        self.replace_set(both);
    }

    /// Takes away what another one changed.
    pub fn lose(&mut self, fields: &Set) {
        if self.set.intersects(fields) {
            let kept = std::mem::take(&mut self.set).difference(fields);
            self.replace_set(kept);
        }
    }

    fn read(entry: &Value, at: usize) -> Result<Self, String> {
        let operation = match entry.str_at(&["operation"]) {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return Err("operation must be `Apply` or `Update`".to_owned()),
        };
        if entry.str_at(&["apiVersion"]).is_empty() {
            return Err("apiVersion must not be empty".to_owned());
        }
        match entry.str_at(&["fieldsType"]) {
            "FieldsV1" => {}
            "" => return Err(format!("missing fieldsType in managed fields entry {at}")),
            other => return Err(format!("invalid fieldsType \"{other}\" in managed fields entry {at}")),
        }
        let wire = entry.get("fieldsV1").filter(|fields| !fields.is_null());
        let set = wire.map_or_else(|| Ok(Set::default()), Set::from_fields_v1);
        Ok(Owner {
            identity: Identity {
                name: text(entry, "manager").unwrap_or_default(),
                operation,
                api_version: text(entry, "apiVersion").unwrap_or_default(),
                subresource: text(entry, "subresource").unwrap_or_default(),
            },
            time: text(entry, "time"),
            set: set.map_err(|why| format!("error decoding versioned set: error decoding set: {why}"))?,
            wire: wire.cloned(),
        })
    }

    fn write(self) -> Value {
        let mut entry = Object::default();
        if !self.identity.name.is_empty() {
            entry.set("manager", self.identity.name);
        }
        entry.set("operation", Value::str(self.identity.operation.as_str()));
        entry.set("apiVersion", self.identity.api_version);
        if let Some(time) = self.time {
            entry.set("time", time);
        }
        entry.set("fieldsType", Value::str("FieldsV1"));
        entry.set("fieldsV1", self.wire.unwrap_or_else(|| self.set.to_fields_v1()));
        if !self.identity.subresource.is_empty() {
            entry.set("subresource", self.identity.subresource);
        }
        entry.into()
    }

    /// The order on the wire: appliers first, then by time, name, version, subresource.
    fn wire_order(&self) -> (Operation, &str, &str, &str, &str) {
        let Identity { name, operation, api_version, subresource } = &self.identity;
        (*operation, self.time.as_deref().unwrap_or_default(), name, api_version, subresource)
    }
}

fn text(entry: &Value, key: &str) -> Option<Str> {
    match entry.get(key) {
        Some(Value::String(text)) => Some(text.clone()),
        _ => None,
    }
}

/// All managers of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Managed {
    pub owners: Vec<Owner>,
}

impl Managed {
    /// Reads `metadata.managedFields`; of two entries of one manager the later counts.
    pub fn read(entries: &[Value]) -> Result<Self, String> {
        let mut managed = Managed::default();
        for (at, entry) in entries.iter().enumerate() {
            let owner = Owner::read(entry, at)?;
            managed.owners.retain(|other| other.identity != owner.identity);
            managed.owners.push(owner);
        }
        Ok(managed)
    }

    /// The list for `metadata.managedFields`.
    pub fn write(mut self) -> Vec<Value> {
        self.owners.sort_by(|a, b| a.wire_order().cmp(&b.wire_order()));
        self.owners.into_iter().map(Owner::write).collect()
    }

    pub fn take(&mut self, identity: &Identity) -> Option<Owner> {
        let at = self.owners.iter().position(|owner| owner.identity == *identity)?;
        Some(self.owners.remove(at))
    }

    /// Merges the oldest updaters of a version into one that is called `ancient-changes`, until there are few enough.
    pub fn cap_updaters(&mut self) {
        let updaters = self.owners.iter().filter(|owner| !owner.is_applier()).count();
        let Some(mut surplus) = updaters.checked_sub(MAX_UPDATERS).filter(|n| *n > 0) else { return };
        self.owners.sort_by(|a, b| a.wire_order().cmp(&b.wire_order()));
        let old: Vec<_> =
            self.owners.iter().filter(|o| !o.is_applier()).map(|o| o.identity.clone()).collect();
        let mut first_of_version: Vec<Identity> = Vec::new();
        for identity in old {
            if surplus == 0 {
                return;
            }
            match first_of_version.iter().find(|first| first.api_version == identity.api_version).cloned() {
                Some(first) => {
                    self.bury(&first, &identity);
                    surplus -= 1;
                }
                None => first_of_version.push(identity),
            }
        }
    }

    /// Moves what an old updater owns into its version's bucket, which the first one of that version becomes.
    fn bury(&mut self, first: &Identity, identity: &Identity) {
        let bucket = Identity {
            name: Str::from_static("ancient-changes"),
            operation: Operation::Update,
            api_version: identity.api_version.clone(),
            subresource: Str::default(),
        };
        let Some(owner) = self.take(identity) else { return };
        let existing = self.take(&bucket).or_else(|| self.take(first));
        let set = existing.map_or_else(Set::default, |existing| existing.set);
        let mut merged = Owner::new(bucket, set.union(owner.set));
        merged.time = owner.time;
        self.owners.push(merged);
    }
}

/// How many updaters are told apart.
pub const MAX_UPDATERS: usize = 10;

/// The entries of an object.
pub(super) fn entries(object: &Value) -> &[Value] {
    object.items_at(&["metadata", "managedFields"])
}

/// Takes the field out of an object that is to be compared.
pub(super) fn take_entries(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove("managedFields")
}

/// Sets the field; an empty list removes it.
pub(super) fn put_entries(object: &mut Value, entries: Vec<Value>) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    if entries.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.set("managedFields", entries);
    }
}

/// Does a client ask to forget all managers: an empty list, or one empty entry?
pub(super) fn asks_for_reset(given: &Value) -> bool {
    let empty = |entry: &Value| {
        entry
            .as_object()
            .is_some_and(|fields| fields.iter().all(|(_, v)| v.is_null() || v.as_str() == Some("")))
    };
    match given {
        Value::Array(entries) => entries.is_empty() || (entries.len() == 1 && empty(&entries[0])),
        _ => false,
    }
}
