//! Merging two lists: sets of scalars, and lists of maps told apart by a key.

use std::collections::{HashMap, HashSet};

use super::{DIRECTIVE, ELEMENT_ORDER, Mode, PatchSchema, expected, failed, go, go_list, merge_map};
use crate::patch::PatchError;
use crate::patch::fields::Scalar;
use crate::{Object, Value};

/// How two lists of one field merge.
pub(super) struct Merging<'k, S> {
    /// The merge key of maps; `""` for scalars.
    pub key: &'k str,
    /// The type of an item.
    pub items: S,
    pub mode: Mode,
}

/// All items have one type, and it is not a list.
pub(super) fn element_type(lists: [&[Value]; 2]) -> Result<&Value, PatchError> {
    let mut items = lists.into_iter().flatten();
    let Some(first) = items.next() else {
        return failed("no elements in any of the given slices".to_owned());
    };
    if matches!(first, Value::Array(_)) {
        return Err(PatchError::DoesNotFit("lists of lists are not supported".to_owned()));
    }
    let kind = std::mem::discriminant(first);
    if items.any(|item| std::mem::discriminant(item) != kind) {
        let lists: Vec<_> = lists.iter().map(|list| go_list(list)).collect();
        return failed(format!("list element types are not identical: [{}]", lists.join(" ")));
    }
    Ok(first)
}

fn no_merge_key<T>(item: &Object, key: &str) -> Result<T, PatchError> {
    let item = go(&Value::Object(item.clone()));
    failed(format!("map: {item} does not contain declared merge key: {key}"))
}

pub(super) fn as_map(value: &Value) -> Result<&Object, PatchError> {
    value.as_object().map_or_else(|| failed(expected("map[string]interface {}", value)), Ok)
}

fn directive(item: &Value) -> Option<&Value> {
    item.get(DIRECTIVE)
}

fn is_deletion(item: &Value) -> bool {
    directive(item).and_then(Value::as_str) == Some("delete")
}

impl<S: PatchSchema> Merging<'_, S> {
    /// The scalars that are not in the deletion list.
    pub fn delete(&self, original: Vec<Value>, deleted: Vec<Value>) -> Result<Vec<Value>, PatchError> {
        if original.is_empty() && deleted.is_empty() {
            return Ok(original);
        }
        if matches!(element_type([&original, &deleted])?, Value::Object(_)) {
            return self.merge(original, deleted);
        }
        let gone: HashSet<_> = deleted.iter().filter_map(Scalar::of).collect();
        Ok(original.into_iter().filter(|v| Scalar::of(v).is_none_or(|v| !gone.contains(&v))).collect())
    }

    pub fn merge(&self, original: Vec<Value>, patch: Vec<Value>) -> Result<Vec<Value>, PatchError> {
        if original.is_empty() && patch.is_empty() {
            return Ok(original);
        }
        if !matches!(element_type([&original, &patch])?, Value::Object(_)) {
            let both = original.iter().chain(&patch).cloned();
            let mut seen = HashSet::new();
            let both = both.filter(|v| Scalar::of(v).is_none_or(|v| seen.insert(v))).collect();
            return self.arrange(both, &patch, &original);
        }
        if self.key.is_empty() {
            return failed(format!("cannot merge lists without merge key for {}", kind_of(&self.items)));
        }
        let (original, patch) = self.obey_directives(original, patch)?;
        let merged = self.merge_maps(original.clone(), &patch)?;
        self.arrange(merged, &patch, &original)
    }

    /// Deletes and replaces as the patch's items say; what is left of the patch is to be merged.
    fn obey_directives(
        &self,
        mut original: Vec<Value>,
        patch: Vec<Value>,
    ) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
        let mut replace = false;
        let mut deleted = HashSet::new();
        let (special, rest): (Vec<_>, Vec<_>) = patch.into_iter().partition(|item| directive(item).is_some());
        for item in &special {
            match directive(item).and_then(Value::as_str) {
                Some("delete") => deleted.extend(self.id(item)?),
                Some("replace") => replace = true,
                Some("merge") => {
                    return failed("merging lists cannot yet be specified in the patch".to_owned());
                }
                _ => {
                    return failed(super::unknown_directive(
                        directive(item).unwrap_or(&Value::Null),
                        as_map(item)?,
                    ));
                }
            }
        }
        if replace {
            return Ok((rest, Vec::new()));
        }
        if !deleted.is_empty() {
            original.retain(|item| {
                item.get(self.key).and_then(Scalar::of).is_none_or(|id| !deleted.contains(&id))
            });
        }
        Ok((original, rest))
    }

    fn merge_maps(&self, mut original: Vec<Value>, patch: &[Value]) -> Result<Vec<Value>, PatchError> {
        let mut places = HashMap::new();
        for (at, item) in original.iter().enumerate() {
            if let Some(id) = item.get(self.key).and_then(Scalar::of) {
                places.entry(id).or_insert(at);
            }
        }
        for item in patch {
            let id = self.id(item)?;
            match id.as_ref().and_then(|id| places.get(id)) {
                Some(&at) => {
                    if let (Value::Object(into), Value::Object(item)) = (&mut original[at], item) {
                        merge_map(into, item.clone(), self.items, self.mode)?;
                    }
                }
                None => {
                    places.extend(id.map(|id| (id, original.len())));
                    original.push(item.clone());
                }
            }
        }
        Ok(original)
    }

    /// The live list as upstream reads its order after merging. It merges in place, so what is appended takes the room of
    /// what was deleted: `[1, 2, 4]` less 1 with 3 added reads as `[2, 4, 3]`, and 3 comes after 4.
    pub fn live_after(&self, live: &[Value], patch: &[Value]) -> Result<Vec<Value>, PatchError> {
        let replaces = patch.iter().any(|item| directive(item).and_then(Value::as_str) == Some("replace"));
        if self.key.is_empty() || replaces {
            return Ok(live.to_vec());
        }
        let (mut after, added) = self.obey_directives(live.to_vec(), patch.to_vec())?;
        let kept = self.ranks(&after);
        after.extend(
            added.into_iter().filter(|i| self.id_or_value(i).is_none_or(|id| !kept.contains_key(&id))),
        );
        after.truncate(live.len());
        after.extend_from_slice(&live[after.len()..]);
        Ok(after)
    }

    /// The item's identity: the value of its merge key; `None` where that is no scalar and so equals no other.
    pub fn id(&self, item: &Value) -> Result<Option<Scalar>, PatchError> {
        let map = as_map(item)?;
        match map.get(self.key) {
            Some(value) => Ok(Scalar::of(value)),
            None => no_merge_key(map, self.key),
        }
    }

    fn id_or_value(&self, item: &Value) -> Option<Scalar> {
        if self.key.is_empty() { Scalar::of(item) } else { item.get(self.key).and_then(Scalar::of) }
    }

    pub fn ranks(&self, list: &[Value]) -> HashMap<Scalar, usize> {
        let mut ranks = HashMap::new();
        for (at, item) in list.iter().enumerate() {
            if let Some(id) = self.id_or_value(item) {
                ranks.entry(id).or_insert(at);
            }
        }
        ranks
    }

    /// Brings a merged list into order: the items named by `order` in that order, the others in the order of `live`, both
    /// woven together so that an item of the others stays before those of the first that it stood before in `live`.
    pub fn arrange(
        &self,
        merged: Vec<Value>,
        order: &[Value],
        live: &[Value],
    ) -> Result<Vec<Value>, PatchError> {
        if !self.key.is_empty() {
            merged.iter().try_for_each(|item| self.id(item).map(drop))?;
        }
        let (order_ranks, live_ranks) = (self.ranks(order), self.ranks(live));
        let in_order = |item: &Value| self.id_or_value(item).is_some_and(|id| order_ranks.contains_key(&id));
        let (ordered, others) = merged.into_iter().partition(in_order);
        let ordered = self.sort(ordered, order, &order_ranks)?;
        let others = self.sort(others, live, &live_ranks)?;
        Ok(self.weave(others, ordered, &live_ranks))
    }

    /// Sorts by rank, deletions last.
    pub fn sort(
        &self,
        mut items: Vec<Value>,
        order: &[Value],
        ranks: &HashMap<Scalar, usize>,
    ) -> Result<Vec<Value>, PatchError> {
        if !self.key.is_empty() {
            items.iter().chain(order).try_for_each(|item| self.id(item).map(drop))?;
        }
        let rank = |item: &Value| self.id_or_value(item).and_then(|id| ranks.get(&id).copied());
        items.sort_by_cached_key(|item| (is_deletion(item), rank(item).unwrap_or(usize::MAX)));
        Ok(items)
    }

    fn weave(&self, left: Vec<Value>, right: Vec<Value>, ranks: &HashMap<Scalar, usize>) -> Vec<Value> {
        let rank = |item: &Value| self.id_or_value(item).and_then(|id| ranks.get(&id).copied());
        let mut out = Vec::with_capacity(left.len() + right.len());
        let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
        while let (Some(l), Some(r)) = (left.peek(), right.peek()) {
            let left_first = matches!((rank(l), rank(r)), (Some(l), Some(r)) if l < r);
            out.extend(if left_first { left.next() } else { right.next() });
        }
        out.extend(left);
        out.extend(right);
        out
    }

    /// The patch's items (deletions apart) must come in the order that `$setElementOrder` gives, and be in it.
    pub fn check_order(&self, patch: &[Value], order: &[Value]) -> Result<(), PatchError> {
        if order.is_empty() || patch.is_empty() {
            return Ok(());
        }
        if !self.key.is_empty() {
            patch.iter().try_for_each(|item| as_map(item).map(drop))?;
        }
        let mut wanted = patch.iter().filter(|item| directive(item).is_none()).peekable();
        for item in order {
            let Some(next) = wanted.peek() else { return Ok(()) };
            if self.same(next, item)? {
                wanted.next();
            }
        }
        match wanted.next() {
            None => Ok(()),
            Some(_) => failed(format!(
                "The order in patch list:\n{}\n doesn't match {ELEMENT_ORDER} list:\n{}\n",
                go_list(patch),
                go_list(order)
            )),
        }
    }

    pub fn same(&self, a: &Value, b: &Value) -> Result<bool, PatchError> {
        if self.key.is_empty() {
            return Ok(a == b);
        }
        let (a, b) = (self.id(a)?, self.id(b)?);
        Ok(a.is_some() && a == b)
    }
}

fn kind_of<S: PatchSchema>(schema: &S) -> &'static str {
    if schema.name().is_empty() { "map" } else { "struct" }
}
