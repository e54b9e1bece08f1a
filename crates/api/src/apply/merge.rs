//! Merging a partly given object into a whole one, by type: nothing is removed, the given leaves win.

use std::collections::{BTreeMap, BTreeSet};

use super::node::{Node, Shape};
use super::path::PathElement;
use super::walk::{as_list, as_map, zip};
use crate::{Object, Value};

/// The live object with what `given` says laid over it. Both must be valid; items that cannot be told apart are left out.
pub(super) fn merge<N: Node>(live: &Value, given: &Value, node: N) -> Value {
    walk(Some(live), Some(given), node).unwrap_or_default()
}

fn walk<N: Node>(live: Option<&Value>, given: Option<&Value>, node: N) -> Option<Value> {
    let (Some(_), Some(_)) = (live, given) else { return keep_given(live, given) };
    match node.shape(given) {
        Shape::Scalar => keep_given(live, given),
        Shape::Map => {
            let (a, b) = (as_map(live), as_map(given));
            let empty = a.is_none_or(Object::is_empty) && b.is_none_or(Object::is_empty);
            if node.atomic_map() || empty { keep_given(live, given) } else { maps(a, b, node) }
        }
        Shape::List => {
            let (a, b) = (as_list(live), as_list(given));
            let empty = a.is_none_or(Vec::is_empty) && b.is_none_or(Vec::is_empty);
            if node.atomic_list() || empty { keep_given(live, given) } else { lists(a, b, node) }
        }
    }
}

fn keep_given(live: Option<&Value>, given: Option<&Value>) -> Option<Value> {
    given.or(live).cloned()
}

fn maps<N: Node>(live: Option<&Object>, given: Option<&Object>, node: N) -> Option<Value> {
    let (Some(live), Some(given)) = (live, given) else {
        return live.or(given).cloned().map(Value::Object);
    };
    let mut out = Object::default();
    zip(live, given, |key, live, given| {
        let merged = match node.child(key) {
            Some(child) => walk(live, given, child),
            None => keep_given(live, given),
        };
        if let Some(merged) = merged {
            out.push_unchecked(key.clone(), merged);
        }
    });
    (!out.is_empty()).then_some(Value::Object(out))
}

/// The items of one list in order, and where each path element is found: `None` for one that is there twice.
struct Items<'v> {
    elements: Vec<(PathElement, &'v Value)>,
    single: BTreeMap<PathElement, Option<&'v Value>>,
}

impl<'v> Items<'v> {
    fn new<N: Node>(list: Option<&'v Vec<Value>>, node: N) -> Self {
        let list = list.map_or(&[][..], Vec::as_slice);
        let mut items = Items { elements: Vec::with_capacity(list.len()), single: BTreeMap::new() };
        for item in list {
            let Ok(element) = node.path_element(item) else { continue };
            items.single.entry(element.clone()).and_modify(|single| *single = None).or_insert(Some(item));
            items.elements.push((element, item));
        }
        items
    }

    fn has(&self, element: &PathElement) -> bool {
        self.single.contains_key(element)
    }

    fn get(&self, element: &PathElement) -> Option<&'v Value> {
        self.single.get(element).copied().flatten()
    }
}

/// Weaves two lists: the given order holds for the given items, the live order for the others, and an item of the live list
/// keeps its place relative to the items that both have where the given order allows it.
fn lists<N: Node>(live: Option<&Vec<Value>>, given: Option<&Vec<Value>>, node: N) -> Option<Value> {
    let item = node.item()?;
    let (live, given) = (Items::new(live, node), Items::new(given, node));
    let mut shared = given.elements.iter().map(|(e, _)| e).filter(|e| live.has(e));
    let mut next_shared = shared.next();
    let mut merged = BTreeSet::new();
    let mut out = Vec::with_capacity(live.elements.len().max(given.elements.len()));
    let (mut l, mut g) = (0, 0);
    let take = |element: &PathElement| walk(live.get(element), given.get(element), item);
    while l < live.elements.len() || g < given.elements.len() {
        if let (Some((element, _)), Some((wanted, _))) = (live.elements.get(l), given.elements.get(g)) {
            if element == wanted {
                merged.insert(element);
                out.extend(take(element));
                (l, g) = (l + 1, g + 1);
                next_shared = shared.next();
                continue;
            }
            if given.has(element) && next_shared.is_some_and(|next| next != element) {
                l += 1;
                continue;
            }
        }
        if let Some((element, value)) = live.elements.get(l) {
            if !given.has(element) {
                out.extend(walk(Some(value), None, item));
                l += 1;
                continue;
            }
            if merged.contains(element) {
                l += 1;
            }
        }
        if let Some((element, _)) = given.elements.get(g) {
            merged.insert(element);
            out.extend(take(element));
            g += 1;
            if next_shared == Some(element) {
                next_shared = shared.next();
            }
        }
    }
    (!out.is_empty()).then_some(Value::Array(out))
}
