//! The set of fields that an object mentions, and the set with all named fields above its members.

use super::node::{Node, Shape};
use super::path::PathElement;
use super::set::{Entry, Level, Set};
use super::walk::{as_list, as_map};
use crate::{Object, Value};

/// Every leaf and every item of a list that the object mentions: what an applier owns.
pub(super) fn field_set<N: Node>(value: &Value, node: N) -> Set {
    walk(value, node).1
}

/// Is the value itself a member, and what is below it?
fn walk<N: Node>(value: &Value, node: N) -> (bool, Set) {
    match node.shape(Some(value)) {
        Shape::Scalar => (true, Set::default()),
        Shape::Map if node.atomic_map() => (true, Set::default()),
        Shape::List if node.atomic_list() => (true, Set::default()),
        Shape::Map => (false, as_map(Some(value)).map_or_else(Set::default, |map| maps(map, node))),
        Shape::List => (false, as_list(Some(value)).map_or_else(Set::default, |list| lists(list, node))),
    }
}

fn maps<N: Node>(map: &Object, node: N) -> Set {
    let mut level = Level::default();
    for (key, value) in map.iter() {
        let declared = node.field(key);
        let Some(child) = declared.or_else(|| node.element()) else { continue };
        let (leaf, below) = walk(value, child);
        let empty = value.is_null() || value.as_object().is_some_and(Object::is_empty);
        level.push(PathElement::Field(key.clone()), leaf || empty || declared.is_none(), below);
    }
    level.finish()
}

fn lists<N: Node>(list: &[Value], node: N) -> Set {
    let Some(item) = node.item() else { return Set::default() };
    let mut elements: Vec<_> =
        list.iter().filter_map(|value| Some((node.path_element(value).ok()?, value))).collect();
    elements.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut level = Level::default();
    for group in elements.chunk_by(|(a, _), (b, _)| a == b) {
        match group {
            [(element, value)] => level.push(element.clone(), true, walk(value, item).1),
            [(element, _), ..] => level.leaf(element.clone()),
            [] => {}
        }
    }
    level.finish()
}

/// The set, with every declared field that has members below it a member too. What is removed by such a set leaves no empty
/// structs behind.
pub(super) fn with_named_fields<N: Node>(set: &Set, node: Option<N>) -> Set {
    let entries = set.entries().iter().map(|entry| {
        let declared = match &entry.element {
            PathElement::Field(name) => node.and_then(|node| node.field(name)),
            _ => None,
        };
        let child = match &entry.element {
            PathElement::Field(_) => declared.or_else(|| node.and_then(|node| node.element())),
            PathElement::Key(_) => node.and_then(|node| node.item()),
            _ => None,
        };
        Entry {
            element: entry.element.clone(),
            member: entry.member || declared.is_some(),
            children: with_named_fields(&entry.children, child),
        }
    });
    Set::from_entries(entries.collect())
}

/// The set after the schema changed under it: what became atomic is owned as a whole. `None` where nothing changed.
pub(super) fn reconciled<N: Node>(set: &Set, node: N) -> Option<Set> {
    let entries = set.entries();
    // Schemas hardly ever change: nothing is copied before the first entry that did.
    let (at, first) =
        entries.iter().enumerate().find_map(|(at, entry)| Some((at, reconciled_entry(entry, node)?)))?;
    let rest = entries[at + 1..].iter();
    let rest = rest.map(|entry| reconciled_entry(entry, node).unwrap_or_else(|| entry.clone()));
    Some(Set::from_entries(entries[..at].iter().cloned().chain([first]).chain(rest).collect()))
}

fn reconciled_entry<N: Node>(entry: &Entry, node: N) -> Option<Entry> {
    if entry.children.is_empty() {
        return None;
    }
    let child = match &entry.element {
        PathElement::Field(name) => node.child(name)?,
        _ => node.item()?,
    };
    if child.is_deduced() {
        return None;
    }
    let atomic = match child.atom().shape() {
        Shape::Map => child.atomic_map(),
        Shape::List => child.atomic_list(),
        Shape::Scalar => return None,
    };
    let element = entry.element.clone();
    if atomic {
        return Some(Entry { element, member: true, children: Set::default() });
    }
    let children = reconciled(&entry.children, child)?;
    Some(Entry { element, member: entry.member, children })
}
