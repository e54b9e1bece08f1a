//! The bookkeeping of ownership: what a write takes from others, what it owns itself, what an apply prunes.

use std::sync::LazyLock;

use super::compare::{Comparison, compare};
use super::conflict::Conflict;
use super::fields::{field_set, reconciled, with_named_fields};
use super::managed::{Identity, Managed, Operation, Owner};
use super::merge::merge;

use super::path::same;
use super::remove::remove;
use super::set::Set;
use super::{Manager, Target};
use crate::{Str, Value};

/// Fields that no manager ever owns.
static SYSTEM_FIELDS: LazyLock<Set> = LazyLock::new(|| {
    Set::of_fields(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
});

/// The field that a comparison finds removed whenever managers are kept apart from the object.
static MANAGED_FIELDS: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&[&["metadata", "managedFields"]]));

/// Why an apply did not happen.
pub(super) enum Refusal {
    /// Others own fields that the patch wants otherwise.
    Conflicts(Vec<Conflict>),
    /// Upstream's sentence for what should not have happened.
    Failed(String),
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Refusal::Failed(why)
    }
}

/// What changed between two objects, in each version in which a manager speaks of it.
pub(super) struct Changes<'a, 't> {
    target: &'a Target<'t>,
    reset: &'a Set,
    old: &'a Value,
    new: &'a Value,
    others: Vec<(Str, Option<Change>)>,
    own: Change,
}

/// A comparison, folded into what it takes from others.
struct Change {
    touched: Set,
    removed: Set,
}

impl Change {
    fn new(comparison: Comparison, reset: &Set) -> Self {
        let (touched, removed) = comparison.without(reset).touched();
        Change { touched, removed: removed.recursive_difference(&MANAGED_FIELDS) }
    }
}

impl<'a, 't> Changes<'a, 't> {
    pub fn new(
        target: &'a Target<'t>,
        reset: &'a Set,
        old: &'a Value,
        new: &'a Value,
    ) -> Result<Self, String> {
        let comparison =
            compare(old, new, target.node()).map_err(|why| format!("failed to compare objects: {why}"))?;
        let own = Change::new(comparison, reset);
        Ok(Changes { target, reset, old, new, others: Vec::new(), own })
    }

    /// Did nothing change that anybody could own?
    pub fn is_empty(&self) -> bool {
        self.own.touched.is_empty() && self.own.removed.is_empty()
    }

    /// What the writer owns now.
    pub fn into_owned(self) -> Set {
        self.own.touched.difference(&SYSTEM_FIELDS)
    }

    /// The change as a version of the API sees it; `None` where the version is gone.
    fn at(&mut self, version: &Str) -> Result<Option<&Change>, String> {
        if *version == self.target.api_version {
            return Ok(Some(&self.own));
        }
        let at = match self.others.iter().position(|(other, _)| other == version) {
            Some(at) => at,
            None => {
                let change = self.compare_at(version)?;
                self.others.push((version.clone(), change));
                self.others.len() - 1
            }
        };
        Ok(self.others[at].1.as_ref())
    }

    fn compare_at(&self, version: &str) -> Result<Option<Change>, String> {
        let convert = |object| self.target.convert(object, self.target.api_version, version);
        let (Some((old, node)), Some((new, _))) = (convert(self.old), convert(self.new)) else {
            return Ok(None);
        };
        let comparison =
            compare(&old, &new, node).map_err(|why| format!("failed to compare objects: {why}"))?;
        Ok(Some(Change::new(comparison, self.reset)))
    }

    /// What of others' fields the writer says otherwise.
    fn conflicts(&mut self, managed: &Managed) -> Result<Vec<Conflict>, String> {
        let mut conflicts = Vec::new();
        for owner in &managed.owners {
            if let Some(change) = self.at(&owner.identity.api_version)? {
                let fields = owner.set().intersection(&change.touched);
                conflicts.extend(Conflict::all(&owner.identity, &fields));
            }
        }
        conflicts.sort_by(|a, b| {
            let key = |c: &Conflict| {
                (
                    c.manager.name.clone(),
                    c.manager.operation,
                    c.manager.api_version.clone(),
                    c.manager.subresource.clone(),
                )
            };
            key(a).cmp(&key(b))
        });
        Ok(conflicts)
    }

    /// Takes from all managers what changed; those without fields or without a served version go.
    pub fn take_from(&mut self, managed: &mut Managed) -> Result<(), String> {
        let mut kept = Vec::with_capacity(managed.owners.len() + 1);
        for mut owner in std::mem::take(&mut managed.owners) {
            let Some(change) = self.at(&owner.identity.api_version)? else { continue };
            owner.lose(&change.touched);
            owner.lose(&change.removed);
            if !owner.set().is_empty() {
                kept.push(owner);
            }
        }
        managed.owners = kept;
        Ok(())
    }
}

/// Rewrites sets whose schema changed since: what became atomic is owned as a whole.
pub(super) fn reconcile(managed: &mut Managed, target: &Target<'_>) {
    let current = |owner: &&mut Owner| owner.identity.api_version == target.api_version;
    for owner in managed.owners.iter_mut().filter(current) {
        if let Some(set) = reconciled(owner.set(), target.node()) {
            owner.replace_set(set);
        }
    }
}

/// A write that already made its object: others lose what it changed, the writer owns it.
pub(super) fn update(
    managed: &mut Managed,
    mut changes: Changes<'_, '_>,
    identity: Identity,
    time: &str,
) -> Result<(), String> {
    // What the writer changes of its own fields stays its own: it mostly writes the same ones, and its set need not be made anew.
    let mut before = managed.take(&identity);
    if let Some(before) = &mut before {
        before.lose(&changes.own.removed);
        before.lose(&SYSTEM_FIELDS);
    }
    changes.take_from(managed)?;
    let set = changes.into_owned();
    if set.is_empty() {
        managed.owners.extend(before.filter(|before| !before.set().is_empty()));
        return Ok(());
    }
    let mut owner = Owner::new(identity, set);
    if let Some(before) = before {
        owner.keep(before);
    }
    owner.time = Some(Str::from(time));
    managed.owners.push(owner);
    Ok(())
}

/// An apply: the object it makes (`None` where it changes nothing), with the managers after it.
pub(super) fn apply(
    managed: &mut Managed,
    live: &Value,
    patch: &Value,
    target: &Target<'_>,
    manager: &Manager<'_>,
    force: bool,
) -> Result<Option<Value>, Refusal> {
    let node = target.node();
    let reset = Set::of_fields(target.reset_fields);
    let identity = manager.identity(Operation::Apply, target);
    reconcile(managed, target);
    let last = managed.take(&identity);
    let set = field_set(patch, node).recursive_difference(&reset);
    let merged = merge(live, patch, node);
    let new = match &last {
        Some(last) if !last.set().is_empty() => prune(merged, managed, &set, last, target)?,
        _ => merged,
    };
    let mut changes = Changes::new(target, &reset, live, &new)?;
    let conflicts = if force { Vec::new() } else { changes.conflicts(managed)? };
    if !conflicts.is_empty() {
        return Err(Refusal::Conflicts(conflicts));
    }
    changes.take_from(managed)?;
    let unchanged = same(live, &new);
    keep_applier(
        managed,
        last,
        Owner::new(identity, set.difference(&SYSTEM_FIELDS)),
        unchanged,
        manager.time,
    );
    Ok((!unchanged).then_some(new))
}

fn keep_applier(managed: &mut Managed, last: Option<Owner>, mut owner: Owner, unchanged: bool, now: &str) {
    if owner.set().is_empty() {
        return;
    }
    owner.time = if unchanged { last.and_then(|last| last.time) } else { Some(Str::from(now)) };
    managed.owners.push(owner);
}

/// Removes what the manager applied last time and not this time, unless somebody else owns it.
fn prune(
    merged: Value,
    managed: &Managed,
    applied: &Set,
    last: &Owner,
    target: &Target<'_>,
) -> Result<Value, String> {
    let version = &last.identity.api_version;
    let same_version = *version == target.api_version;
    if same_version && nothing_dropped(managed, applied, last, version) {
        return Ok(merged);
    }
    let here = target.api_version;
    let Some((merged, node)) = target.convert(&merged, here, version) else { return Ok(merged) };
    let pruned = remove(merged.clone(), &with_named_fields(last.set(), Some(node)), node);
    let pruned = add_back_owned(&merged, pruned, managed, applied, target, version)?;
    let named = |set: &Set| with_named_fields(set, Some(node));
    let lost = named(&field_set(&merged, node)).difference(&named(&field_set(&pruned, node)));
    let pruned = remove(merged, &lost.intersection(&named(last.set())), node);
    let back = target.convert(&pruned, version, here).map(|(pruned, _)| pruned);
    back.ok_or_else(|| "failed to prune fields: the request's version of the object is gone".to_owned())
}

/// The usual case: all that was applied last time is still owned by somebody.
fn nothing_dropped(managed: &Managed, applied: &Set, last: &Owner, version: &str) -> bool {
    let same_version = managed.owners.iter().filter(|owner| owner.identity.api_version == version);
    last.set().is_subset(applied) || {
        let dropped = last.set().clone().difference(applied);
        same_version.fold(dropped, |dropped, owner| dropped.difference(owner.set())).is_empty()
    }
}

/// Brings back what pruning took from others, and from the applier's new set, in each version that they speak.
fn add_back_owned(
    merged: &Value,
    pruned: Value,
    managed: &Managed,
    applied: &Set,
    target: &Target<'_>,
    pruned_version: &Str,
) -> Result<Value, String> {
    let mut at_versions: Vec<(Str, Set)> = vec![(pruned_version.clone(), Set::default())];
    let own = (Str::from(target.api_version), applied);
    let owners = managed.owners.iter().map(|owner| (owner.identity.api_version.clone(), owner.set()));
    for (version, set) in owners.chain([own]) {
        match at_versions.iter_mut().find(|(other, _)| *other == version) {
            Some((_, union)) => *union = std::mem::take(union).union(set.clone()),
            None => at_versions.push((version, set.clone())),
        }
    }
    let mut pruned = pruned;
    for (version, set) in at_versions {
        pruned = add_back_at(merged, pruned, pruned_version, &version, &set, target)?;
    }
    Ok(pruned)
}

fn add_back_at(
    merged: &Value,
    pruned: Value,
    from: &str,
    version: &str,
    owned: &Set,
    target: &Target<'_>,
) -> Result<Value, String> {
    let (Some((merged, node)), Some((there, _))) =
        (target.convert(merged, from, version), target.convert(&pruned, from, version))
    else {
        return Ok(pruned);
    };
    let named = |set: &Set| with_named_fields(set, Some(node));
    let kept = named(&field_set(&there, node)).union(named(owned));
    let gone = named(&field_set(&merged, node)).difference(&kept);
    let back = remove(merged, &gone, node);
    let back = target.convert(&back, version, from).map(|(back, _)| back);
    back.ok_or_else(|| format!("failed to convert pruned object at version {version}"))
}
