//! What changed between two objects, as sets of fields.

use std::cmp::Ordering;

use super::node::{Node, Shape};
use super::path::{PathElement, same};
use super::set::{Level, Set};
use super::walk::{as_list, as_map, zip};
use crate::{Object, Value};

/// The fields that differ. No field is in more than one of the three.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Comparison {
    /// Only in the new object.
    pub added: Set,
    /// In both, with other values.
    pub modified: Set,
    /// Only in the old object.
    pub removed: Set,
}

impl Comparison {
    /// Without the fields (and what lies below them) that a write does not own here.
    pub fn without(self, fields: &Set) -> Self {
        Comparison {
            added: self.added.recursive_difference(fields),
            modified: self.modified.recursive_difference(fields),
            removed: self.removed.recursive_difference(fields),
        }
    }

    /// What the new object says otherwise than the old one, and what it no longer says.
    pub fn touched(self) -> (Set, Set) {
        (self.modified.union(self.added), self.removed)
    }
}

/// Compares two objects of one type. An error names an item that cannot be told apart from others.
pub(super) fn compare<N: Node>(old: &Value, new: &Value, node: N) -> Result<Comparison, String> {
    if old == new {
        return Ok(Comparison::default());
    }
    Ok(walk(Some(old), Some(new), node)?.below)
}

/// What a step of the walk found: for the field itself, and below it.
#[derive(Default)]
struct Found {
    added: bool,
    modified: bool,
    removed: bool,
    leaf: bool,
    below: Comparison,
}

/// The three sets of one level, being collected.
#[derive(Default)]
struct Levels {
    added: Level,
    modified: Level,
    removed: Level,
}

impl Levels {
    /// Where one side is empty, all of the other is added or removed.
    fn with_room(old: usize, new: usize) -> Self {
        let room = |count, other| if other == 0 { Level::with_capacity(count) } else { Level::default() };
        Levels { added: room(new, old), modified: Level::default(), removed: room(old, new) }
    }

    fn push(&mut self, element: PathElement, found: Found) {
        let Comparison { added, modified, removed } = found.below;
        let parts = [
            (&mut self.added, found.added, added),
            (&mut self.modified, found.modified, modified),
            (&mut self.removed, found.removed, removed),
        ];
        let mut parts =
            parts.into_iter().filter(|(_, member, below)| *member || !below.is_empty()).peekable();
        while let Some((level, member, below)) = parts.next() {
            if parts.peek().is_none() {
                level.push(element, member, below);
                return;
            }
            level.push(element.clone(), member, below);
        }
    }

    fn finish(self) -> Comparison {
        Comparison {
            added: self.added.finish(),
            modified: self.modified.finish(),
            removed: self.removed.finish(),
        }
    }
}

fn walk<N: Node>(old: Option<&Value>, new: Option<&Value>, node: N) -> Result<Found, String> {
    let (old_atom, new_atom) = (node.atom().narrowed(old), node.atom().narrowed(new));
    let mut found = if new.is_none() {
        walk_as(old_atom.shape(), old, new, node)?
    } else if old.is_none() || old_atom == new_atom {
        walk_as(new_atom.shape(), old, new, node)?
    } else {
        both_shapes(walk_as(old_atom.shape(), old, new, node)?, walk_as(new_atom.shape(), old, new, node)?)
    };
    if !found.leaf {
        found.added |= old.is_none();
        found.removed |= new.is_none();
    }
    Ok(found)
}

/// A value that changed its shape is looked at as both.
fn both_shapes(as_old: Found, as_new: Found) -> Found {
    Found {
        added: as_old.added || as_new.added,
        modified: as_old.modified || as_new.modified,
        removed: as_old.removed || as_new.removed,
        leaf: as_new.leaf,
        below: Comparison {
            added: as_old.below.added.union(as_new.below.added),
            modified: as_old.below.modified.union(as_new.below.modified),
            removed: as_old.below.removed.union(as_new.below.removed),
        },
    }
}

fn walk_as<N: Node>(
    shape: Shape,
    old: Option<&Value>,
    new: Option<&Value>,
    node: N,
) -> Result<Found, String> {
    match shape {
        Shape::Scalar => Ok(leaf(old, new)),
        Shape::Map => {
            let (a, b) = (as_map(old), as_map(new));
            let empty = a.is_none_or(Object::is_empty) && b.is_none_or(Object::is_empty);
            if node.atomic_map() || empty { Ok(leaf(old, new)) } else { maps(a, b, node) }
        }
        Shape::List => {
            let (a, b) = (as_list(old), as_list(new));
            let empty = a.is_none_or(Vec::is_empty) && b.is_none_or(Vec::is_empty);
            if node.atomic_list() || empty { Ok(leaf(old, new)) } else { lists(a, b, node) }
        }
    }
}

fn leaf(old: Option<&Value>, new: Option<&Value>) -> Found {
    let modified = matches!((old, new), (Some(old), Some(new)) if !same(old, new));
    Found { added: old.is_none(), removed: new.is_none(), modified, leaf: true, below: Comparison::default() }
}

fn maps<N: Node>(old: Option<&Object>, new: Option<&Object>, node: N) -> Result<Found, String> {
    let none = Object::default();
    let both = old.is_some() && new.is_some();
    let (old, new) = (old.unwrap_or(&none), new.unwrap_or(&none));
    let mut levels = Levels::with_room(old.len(), new.len());
    let mut error = None;
    zip(old, new, |key, old, new| {
        let zero = || if both { node.zero(key) } else { None };
        let (old, new) = (old.or_else(zero), new.or_else(zero));
        if error.is_some() || old == new {
            return;
        }
        let Some(child) = node.child(key) else { return };
        match walk(old, new, child) {
            Ok(found) => levels.push(PathElement::Field(key.clone()), found),
            Err(why) => error = Some(why),
        }
    });
    match error {
        Some(why) => Err(why),
        None => Ok(Found { below: levels.finish(), ..Found::default() }),
    }
}

/// The items of a list, sorted by path element.
fn items<N: Node>(list: Option<&Vec<Value>>, node: N) -> Result<Vec<(PathElement, &Value)>, String> {
    let list = list.map_or(&[][..], Vec::as_slice);
    let mut items = Vec::with_capacity(list.len());
    for (at, item) in list.iter().enumerate() {
        let element = node.path_element(item).map_err(|why| format!("element {at}: {why}"))?;
        items.push((element, item));
    }
    if !items.is_sorted_by(|(a, _), (b, _)| a <= b) {
        items.sort_by(|(a, _), (b, _)| a.cmp(b));
    }
    Ok(items)
}

fn lists<N: Node>(old: Option<&Vec<Value>>, new: Option<&Vec<Value>>, node: N) -> Result<Found, String> {
    let Some(item) = node.item() else { return Ok(Found::default()) };
    let (mut old, mut new) = (items(old, node)?, items(new, node)?);
    let mut levels = Levels::with_room(old.len(), new.len());
    let same_key = |(a, _): &(PathElement, &Value), (b, _): &(PathElement, &Value)| a == b;
    let (mut old, mut new) = (old.chunk_by_mut(same_key).peekable(), new.chunk_by_mut(same_key).peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => a[0].0.cmp(&b[0].0),
        };
        let a = if order.is_le() { old.next() } else { None }.unwrap_or_default();
        let b = if order.is_ge() { new.next() } else { None }.unwrap_or_default();
        let found = items_of_one_key(a, b, item)?;
        if let Some((element, _)) = a.first_mut().or(b.first_mut()) {
            // Nobody looks at the items of this key again.
            levels.push(std::mem::replace(element, PathElement::Index(0)), found);
        }
    }
    Ok(Found { below: levels.finish(), ..Found::default() })
}

/// Items that share a key are one leaf; a single one is walked.
fn items_of_one_key<N: Node>(
    old: &[(PathElement, &Value)],
    new: &[(PathElement, &Value)],
    item: N,
) -> Result<Found, String> {
    let mut found = match (old.len(), new.len()) {
        (2.., 2..) => {
            let same = old.len() == new.len() && old.iter().zip(new).all(|(a, b)| same(a.1, b.1));
            Found { modified: !same, ..Found::default() }
        }
        (2.., 0) | (0, 2..) => Found::default(),
        (2.., _) => walk(None, first(new), item)?,
        (_, 2..) => walk(first(old), None, item)?,
        _ if first(old) == first(new) => Found::default(),
        _ => walk(first(old), first(new), item)?,
    };
    found.removed |= old.len() >= 2 && new.len() < 2;
    found.added |= new.len() >= 2 && old.len() < 2;
    Ok(found)
}

fn first<'v>(items: &[(PathElement, &'v Value)]) -> Option<&'v Value> {
    items.first().map(|(_, value)| *value)
}
