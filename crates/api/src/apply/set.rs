//! A set of fields: who owns what. A tree of sorted path elements, so that set algebra is one merge join a level.

use std::cmp::Ordering;

use bytestring::ByteString;

use super::path::PathElement;
use crate::{Object, Str, Value};

/// A set of paths. An element of a level may be a member itself, have members below it, or both; never neither.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    entries: Vec<Entry>,
}

/// One element of a level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub element: PathElement,
    pub member: bool,
    pub children: Set,
}

impl Entry {
    fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }
}

impl Set {
    /// No members?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many members.
    pub fn len(&self) -> usize {
        self.entries.iter().map(|e| usize::from(e.member) + e.children.len()).sum()
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Entries in any order, none twice, none empty.
    pub(super) fn from_entries(mut entries: Vec<Entry>) -> Self {
        if !entries.is_sorted_by(|a, b| a.element < b.element) {
            entries.sort_unstable_by(|a, b| a.element.cmp(&b.element));
        }
        Set { entries }
    }

    /// The set of paths of plain field names.
    pub fn of_fields(paths: &[&[&str]]) -> Self {
        let mut set = Set::default();
        for path in paths {
            let path: Vec<_> = path.iter().map(|name| PathElement::Field(Str::from(*name))).collect();
            set.insert(&path);
        }
        set
    }

    /// Adds one path. The empty path, the object itself, is never owned.
    pub fn insert(&mut self, path: &[PathElement]) {
        let Some((first, rest)) = path.split_first() else { return };
        let at = match self.find(first) {
            Ok(at) => at,
            Err(at) => {
                let entry = Entry { element: first.clone(), member: false, children: Set::default() };
                self.entries.insert(at, entry);
                at
            }
        };
        match rest {
            [] => self.entries[at].member = true,
            rest => self.entries[at].children.insert(rest),
        }
    }

    fn find(&self, element: &PathElement) -> Result<usize, usize> {
        self.entries.binary_search_by(|entry| entry.element.cmp(element))
    }

    /// The entry of an element of the first level.
    pub(super) fn get(&self, element: &PathElement) -> Option<&Entry> {
        self.find(element).ok().map(|at| &self.entries[at])
    }

    /// Is the path a member?
    pub fn has(&self, path: &[PathElement]) -> bool {
        match path {
            [] => false,
            [last] => self.get(last).is_some_and(|entry| entry.member),
            [first, rest @ ..] => self.get(first).is_some_and(|entry| entry.children.has(rest)),
        }
    }

    /// All members, those of a level before those below it.
    pub fn paths(&self) -> Vec<Vec<PathElement>> {
        let mut paths = Vec::new();
        self.collect(&mut Vec::new(), &mut paths);
        paths
    }

    fn collect(&self, prefix: &mut Vec<PathElement>, paths: &mut Vec<Vec<PathElement>>) {
        for entry in self.entries.iter().filter(|entry| entry.member) {
            let mut path = prefix.clone();
            path.push(entry.element.clone());
            paths.push(path);
        }
        for entry in &self.entries {
            prefix.push(entry.element.clone());
            entry.children.collect(prefix, paths);
            prefix.pop();
        }
    }

    /// Members of either.
    pub fn union(self, other: Set) -> Set {
        if self.is_empty() || other.is_empty() {
            return if self.is_empty() { other } else { self };
        }
        let mut entries = Vec::with_capacity(self.entries.len() + other.entries.len());
        let (mut a, mut b) = (self.entries.into_iter().peekable(), other.entries.into_iter().peekable());
        while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
            let order = x.element.cmp(&y.element);
            let x = if order.is_le() { a.next() } else { None };
            let y = if order.is_ge() { b.next() } else { None };
            entries.extend(match (x, y) {
                (Some(x), Some(y)) => Some(Entry {
                    element: x.element,
                    member: x.member || y.member,
                    children: x.children.union(y.children),
                }),
                (x, y) => x.or(y),
            });
        }
        entries.extend(a);
        entries.extend(b);
        Set { entries }
    }

    /// Members of both.
    pub fn intersection(&self, other: &Set) -> Set {
        let mut cursor = other.entries.as_slice();
        let both = self.entries.iter().filter_map(|entry| {
            let there = seek(&mut cursor, &entry.element)?;
            Some(Entry {
                element: entry.element.clone(),
                member: entry.member && there.member,
                children: entry.children.intersection(&there.children),
            })
        });
        Set { entries: both.filter(|entry| !entry.is_empty()).collect() }
    }

    /// Is there a member of both? The cheap question before [`Set::intersection`].
    pub fn intersects(&self, other: &Set) -> bool {
        let mut cursor = other.entries.as_slice();
        self.entries.iter().any(|entry| {
            seek(&mut cursor, &entry.element).is_some_and(|there| {
                (entry.member && there.member) || entry.children.intersects(&there.children)
            })
        })
    }

    /// Are all members also in the other?
    pub fn is_subset(&self, other: &Set) -> bool {
        let mut cursor = other.entries.as_slice();
        self.entries.iter().all(|entry| {
            seek(&mut cursor, &entry.element).is_some_and(|there| {
                (!entry.member || there.member) && entry.children.is_subset(&there.children)
            })
        })
    }

    /// Members of this one that are not in the other. A member stays when only something below it is in the other.
    pub fn difference(mut self, other: &Set) -> Set {
        let mut cursor = other.entries.as_slice();
        self.entries.retain_mut(|entry| {
            if let Some(gone) = seek(&mut cursor, &entry.element) {
                entry.member &= !gone.member;
                entry.children = std::mem::take(&mut entry.children).difference(&gone.children);
            }
            !entry.is_empty()
        });
        self
    }

    /// Members of this one that neither are in the other nor lie below one of its members.
    pub fn recursive_difference(mut self, other: &Set) -> Set {
        let mut cursor = other.entries.as_slice();
        self.entries.retain_mut(|entry| {
            let Some(gone) = seek(&mut cursor, &entry.element) else { return true };
            entry.children = std::mem::take(&mut entry.children).recursive_difference(&gone.children);
            !gone.member && !entry.is_empty()
        });
        self
    }

    /// Only the members that have none below them.
    #[cfg(test)]
    pub(super) fn leaves(&self) -> Set {
        let leaf = |entry: &Entry| Entry {
            element: entry.element.clone(),
            member: entry.member && entry.children.is_empty(),
            children: entry.children.leaves(),
        };
        Set { entries: self.entries.iter().map(leaf).collect() }
    }

    /// Reads the FieldsV1 of a managedFields entry.
    pub fn from_fields_v1(fields: &Value) -> Result<Set, String> {
        read(fields).map(|(set, _)| set)
    }

    /// Writes FieldsV1; all its names are slices of one text.
    pub fn to_fields_v1(&self) -> Value {
        let (mut text, mut ends) = (Vec::with_capacity(1024), Vec::with_capacity(64));
        self.spell(&mut text, &mut ends);
        let text = String::from_utf8(text).expect("names and JSON are UTF-8");
        let mut names = Names { text: text.into(), ends: ends.into_iter(), at: 0 };
        Value::Object(self.write(false, &mut names))
    }

    /// The names of all elements one behind the other, and where each ends.
    fn spell(&self, text: &mut Vec<u8>, ends: &mut Vec<usize>) {
        for entry in &self.entries {
            entry.element.spell(text);
            ends.push(text.len());
            entry.children.spell(text, ends);
        }
    }

    fn write(&self, member: bool, names: &mut Names) -> Object {
        let own = (member && !self.is_empty()).then(|| (Str::from_static("."), Value::object()));
        let below = self.entries.iter().map(|entry| {
            let name = names.next();
            (name, Value::Object(entry.children.write(entry.member, names)))
        });
        own.into_iter().chain(below).collect()
    }
}

/// The names that [`Set::spell`] wrote, in the same order.
struct Names {
    text: ByteString,
    ends: std::vec::IntoIter<usize>,
    at: usize,
}

impl Names {
    fn next(&mut self) -> Str {
        let start = self.at;
        self.at = self.ends.next().unwrap_or(start);
        Str::shared(self.text.slice_ref(&self.text[start..self.at]))
    }
}

/// The entry of an element in what is left of a level, which is read in order.
fn seek<'s>(level: &mut &'s [Entry], element: &PathElement) -> Option<&'s Entry> {
    while let Some((first, rest)) = level.split_first() {
        match first.element.cmp(element) {
            Ordering::Less => *level = rest,
            Ordering::Equal => {
                *level = rest;
                return Some(first);
            }
            Ordering::Greater => return None,
        }
    }
    None
}

/// A level and whether what holds it is a member itself: `.` says so, and so does an empty level.
fn read(fields: &Value) -> Result<(Set, bool), String> {
    let Value::Object(fields) = fields else {
        return Err(format!("expected a map of fields, got {}", fields.type_name()));
    };
    let mut entries = Vec::with_capacity(fields.len());
    let mut member = false;
    for (key, below) in fields.iter() {
        if key == "." {
            member = true;
            continue;
        }
        let Some(element) = PathElement::parse(key)? else { continue };
        let (children, member) = read(below)?;
        entries.push(Entry { element, member, children });
    }
    let set = merged(entries);
    let member = member || set.is_empty();
    Ok((set, member))
}

/// Clients may spell one element in two ways (`v:1`, `v:1.0`).
fn merged(entries: Vec<Entry>) -> Set {
    let mut set = Set::from_entries(entries);
    set.entries.dedup_by(|again, kept| {
        let same = again.element == kept.element;
        if same {
            kept.member |= again.member;
            kept.children = std::mem::take(&mut kept.children).union(std::mem::take(&mut again.children));
        }
        same
    });
    set
}

/// Collects the entries of one level in any order.
#[derive(Default)]
pub(super) struct Level {
    entries: Vec<Entry>,
}

impl Level {
    pub fn with_capacity(entries: usize) -> Self {
        Level { entries: Vec::with_capacity(entries) }
    }

    pub fn leaf(&mut self, element: PathElement) {
        self.entries.push(Entry { element, member: true, children: Set::default() });
    }

    /// Adds what was found for an element, if anything was.
    pub fn push(&mut self, element: PathElement, member: bool, children: Set) {
        if member || !children.is_empty() {
            self.entries.push(Entry { element, member, children });
        }
    }

    pub fn finish(self) -> Set {
        merged(self.entries)
    }
}
