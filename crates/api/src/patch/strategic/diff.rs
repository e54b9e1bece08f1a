//! Making strategic merge patches: what turns one object into another, and what `kubectl apply` sends.

use std::collections::HashSet;

use super::lists::{Merging, as_map, element_type};
use super::{
    DELETE_FROM, DIRECTIVE, ELEMENT_ORDER, Mode, PatchSchema, RETAIN_KEYS, child, failed, go, merge_map,
};
use crate::patch::PatchError;
use crate::{Object, Str, Value};

/// The patch that turns `original` into `modified`; `{}` where there is nothing to do.
pub fn two_way<S: PatchSchema>(
    original: &Object,
    modified: &Object,
    schema: S,
) -> Result<Object, PatchError> {
    diff_maps(original, modified, schema, Want { changes: true, deletions: true, retain_keys: false })
}

/// What `kubectl apply` sends: the changes from `current` to `modified`, and the deletions from `original` (what was applied
/// last) to `modified`. What others changed in `current` meanwhile and the user does not speak of stays.
pub fn three_way<S: PatchSchema>(
    original: &Object,
    modified: &Object,
    current: &Object,
    schema: S,
) -> Result<Object, PatchError> {
    let changes = Want { changes: true, deletions: false, retain_keys: false };
    let deletions = Want { changes: false, deletions: true, retain_keys: false };
    let changes = diff_maps(current, modified, schema, changes)?;
    let mut patch = diff_maps(original, modified, schema, deletions)?;
    merge_map(&mut patch, changes, schema, Mode::Combine)?;
    Ok(patch)
}

/// Which differences are wanted.
#[derive(Clone, Copy)]
struct Want {
    /// Fields and items that are new or other than before.
    changes: bool,
    /// Fields and items that are gone.
    deletions: bool,
    /// `$retainKeys` beside what changed in this map.
    retain_keys: bool,
}

fn diff_maps<S: PatchSchema>(
    original: &Object,
    modified: &Object,
    schema: S,
    want: Want,
) -> Result<Object, PatchError> {
    let mut patch = Object::default();
    for (key, new) in modified.iter() {
        match original.get(key) {
            Some(old) => diff_field(&mut patch, key, old, new, schema, want)?,
            None if want.changes => patch.push_unchecked(key.clone(), new.clone()),
            None => {}
        }
    }
    let gone = || original.iter().filter(|(key, _)| !modified.contains_key(key));
    if want.deletions {
        gone().for_each(|(key, _)| patch.push_unchecked(key.clone(), Value::Null));
    }
    if want.retain_keys && (!patch.is_empty() || gone().any(|(_, value)| !value.is_null())) {
        let mut kept: Vec<_> = modified.iter().filter(|(_, v)| !v.is_null()).map(|(k, _)| k).collect();
        kept.sort();
        if !kept.is_empty() {
            let kept: Vec<Value> = kept.into_iter().map(|k| k.clone().into()).collect();
            patch.insert(RETAIN_KEYS, kept);
        }
    }
    Ok(patch)
}

fn diff_field<S: PatchSchema>(
    patch: &mut Object,
    key: &Str,
    old: &Value,
    new: &Value,
    schema: S,
    want: Want,
) -> Result<(), PatchError> {
    if key == DIRECTIVE {
        return diff_directive(patch, old, new);
    }
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let Some(field) = known(schema, key, old == new)? else { return Ok(()) };
            if field.strategy().replace {
                if want.changes {
                    patch.insert(key.clone(), new.clone());
                }
                return Ok(());
            }
            let want = Want { retain_keys: field.strategy().retain_keys, ..want };
            let inner = diff_maps(old, new, field, want)?;
            if !inner.is_empty() {
                patch.insert(key.clone(), inner);
            }
            Ok(())
        }
        (Value::Array(old), Value::Array(new)) => {
            let Some(field) = known(schema, key, old == new)? else { return Ok(()) };
            if field.strategy().merge {
                return diff_merging_lists(patch, key, old, new, field, want);
            }
            if want.changes && old != new {
                patch.insert(key.clone(), new.clone());
            }
            Ok(())
        }
        _ => {
            if want.changes && old != new {
                patch.insert(key.clone(), new.clone());
            }
            Ok(())
        }
    }
}

/// The field's type; `None` where it is not known and does not matter because nothing changed.
fn known<S: PatchSchema>(schema: S, key: &str, same: bool) -> Result<Option<S>, PatchError> {
    match child(schema, key) {
        Ok(field) => Ok(Some(field)),
        Err(_) if same => Ok(None),
        Err(error) => Err(error),
    }
}

fn diff_directive(patch: &mut Object, old: &Value, new: &Value) -> Result<(), PatchError> {
    if old.as_str().is_none() || new.as_str().is_none() {
        return failed(format!("invalid value for special key: {DIRECTIVE}"));
    }
    if old != new {
        patch.set(DIRECTIVE, new.clone());
    }
    Ok(())
}

/// What a list adds to the patch: items, deletions beside it, the wanted order.
#[derive(Default)]
struct ListDiff {
    items: Vec<Value>,
    deleted: Vec<Value>,
    order: Vec<Value>,
}

fn diff_merging_lists<S: PatchSchema>(
    patch: &mut Object,
    key: &Str,
    old: &[Value],
    new: &[Value],
    list: S,
    want: Want,
) -> Result<(), PatchError> {
    let want = Want { retain_keys: list.strategy().retain_keys, ..want };
    let diff = diff_lists(old, new, list, want)?;
    let keys = [key.clone(), format!("{DELETE_FROM}/{key}").into(), format!("{ELEMENT_ORDER}/{key}").into()];
    for (key, list) in keys.into_iter().zip([diff.items, diff.deleted, diff.order]) {
        if !list.is_empty() {
            patch.insert(key, list);
        }
    }
    Ok(())
}

fn diff_lists<S: PatchSchema>(
    old: &[Value],
    new: &[Value],
    list: S,
    want: Want,
) -> Result<ListDiff, PatchError> {
    if old.is_empty() {
        let items = if want.changes { new.to_vec() } else { Vec::new() };
        return Ok(ListDiff { items, ..ListDiff::default() });
    }
    let merging = Merging { key: list.merge_key(), items: list.items().unwrap_or(list), mode: Mode::Apply };
    match element_type([old, new])? {
        Value::Object(_) => diff_maps_in_lists(old, new, &merging, want),
        _ => diff_scalars_in_lists(old, new, &merging, want),
    }
}

fn diff_maps_in_lists<S: PatchSchema>(
    old: &[Value],
    new: &[Value],
    merging: &Merging<'_, S>,
    want: Want,
) -> Result<ListDiff, PatchError> {
    let (items, deleted) = diff_items(old, new, merging, want)?;
    let mut items = merging.sort(items, new, &merging.ranks(new))?;
    items.extend(deleted);
    let moved = !same_order(old, new, merging)?;
    let order = if !items.is_empty() || (want.changes && moved) {
        let key_only = |item: &Value| {
            let key = Str::from(merging.key);
            Value::Object(Object::from_iter([(key, item.get(merging.key).cloned().unwrap_or_default())]))
        };
        new.iter().map(key_only).collect()
    } else {
        Vec::new()
    };
    Ok(ListDiff { items, deleted: Vec::new(), order })
}

fn same_order<S: PatchSchema>(
    old: &[Value],
    new: &[Value],
    merging: &Merging<'_, S>,
) -> Result<bool, PatchError> {
    if old.len() != new.len() {
        return Ok(false);
    }
    for (old, new) in old.iter().zip(new) {
        if !merging.same(old, new)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Items that are new or changed, and items that say which are to be deleted; both sorted by the text of the merge key.
fn diff_items<S: PatchSchema>(
    old: &[Value],
    new: &[Value],
    merging: &Merging<'_, S>,
    want: Want,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let (old, new) = (by_key(old, merging)?, by_key(new, merging)?);
    let (mut old, mut new) = (old.into_iter().peekable(), new.into_iter().peekable());
    let (mut items, mut deleted) = (Vec::new(), Vec::new());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return Ok((items, deleted)),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((old, _)), Some((new, _))) => old.cmp(new),
        };
        let before = if order.is_le() { old.next() } else { None };
        let after = if order.is_ge() { new.next() } else { None };
        match (before, after) {
            (Some((_, before)), Some((_, after))) => {
                let mut change = diff_maps(before, after, merging.items, want)?;
                if !change.is_empty() {
                    change.insert(merging.key, after.get(merging.key).cloned().unwrap_or_default());
                    items.push(change.into());
                }
            }
            (None, Some((_, added))) if want.changes => items.push(added.clone().into()),
            (Some((_, gone)), None) if want.deletions => deleted.push(deletion(gone, merging.key)),
            _ => {}
        }
    }
}

fn deletion(item: &Object, key: &str) -> Value {
    let mut directive = Object::default();
    directive.insert(key, item.get(key).cloned().unwrap_or_default());
    directive.set(DIRECTIVE, Value::str("delete"));
    directive.into()
}

fn by_key<'v, S: PatchSchema>(
    list: &'v [Value],
    merging: &Merging<'_, S>,
) -> Result<Vec<(String, &'v Object)>, PatchError> {
    let mut keyed = Vec::with_capacity(list.len());
    for item in list {
        let map = as_map(item)?;
        merging.id(item)?;
        keyed.push((go(map.get(merging.key).unwrap_or(&Value::Null)), map));
    }
    keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(keyed)
}

fn diff_scalars_in_lists<S: PatchSchema>(
    old: &[Value],
    new: &[Value],
    merging: &Merging<'_, S>,
    want: Want,
) -> Result<ListDiff, PatchError> {
    let sorted = |list: &[Value]| {
        let mut list = list.to_vec();
        list.sort_by_cached_key(go);
        list
    };
    let (old, sorted_new) = (sorted(old), sorted(new));
    let (items, deleted) = subtract_both(&old, &sorted_new);
    let items = if want.changes { merging.sort(items, new, &merging.ranks(new))? } else { Vec::new() };
    let deleted = if want.deletions { unique(deleted) } else { Vec::new() };
    // Upstream compares with the old list sorted: an unsorted list always brings its order along.
    let order = !deleted.is_empty() || (want.changes && old != new);
    Ok(ListDiff { items, deleted, order: if order { new.to_vec() } else { Vec::new() } })
}

/// What only `new` and what only `old` has, as often as it has it more; both sorted by text.
fn subtract_both(old: &[Value], new: &[Value]) -> (Vec<Value>, Vec<Value>) {
    let (mut added, mut gone) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        match (old.peek(), new.peek()) {
            (None, None) => return (added, gone),
            (Some(_), None) => gone.extend(old.next().cloned()),
            (None, Some(_)) => added.extend(new.next().cloned()),
            (Some(o), Some(n)) => match go(o).cmp(&go(n)) {
                std::cmp::Ordering::Less => gone.extend(old.next().cloned()),
                std::cmp::Ordering::Greater => added.extend(new.next().cloned()),
                std::cmp::Ordering::Equal => drop((old.next(), new.next())),
            },
        }
    }
}

fn unique(list: Vec<Value>) -> Vec<Value> {
    let mut seen = HashSet::new();
    list.into_iter().filter(|v| seen.insert(go(v))).collect()
}
