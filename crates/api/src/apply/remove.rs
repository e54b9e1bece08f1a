//! Taking fields out of an object, or all others.

use super::node::{Node, Shape};
use super::path::PathElement;
use super::set::Set;
use crate::Value;

/// The object without the fields of the set. What becomes empty by it is null.
pub(super) fn remove<N: Node>(value: Value, set: &Set, node: N) -> Value {
    match (node.shape(Some(&value)), value) {
        (Shape::Scalar, value) => value,
        (Shape::List, Value::Array(list)) if !node.atomic_list() => {
            let Some(item) = node.item() else { return Value::Null };
            let kept = list.into_iter().filter_map(|value| {
                let entry = node.path_element(&value).ok().and_then(|element| set.get(&element));
                remove_one(value, entry, Some(item))
            });
            some(Value::Array(kept.collect()))
        }
        (Shape::Map, Value::Object(map)) if !node.atomic_map() => {
            let kept = map.into_iter().filter_map(|(key, value)| {
                let entry = set.get(&PathElement::Field(key.clone()));
                let child = node.child(&key);
                Some((key, remove_one(value, entry, child)?))
            });
            some(Value::Object(kept.collect()))
        }
        _ => Value::Null,
    }
}

fn remove_one<N: Node>(value: Value, entry: Option<&super::set::Entry>, node: Option<N>) -> Option<Value> {
    match (entry, node) {
        (Some(entry), _) if entry.member => None,
        (Some(entry), Some(node)) => Some(remove(value, &entry.children, node)),
        _ => Some(value),
    }
}

fn some(value: Value) -> Value {
    let empty = match &value {
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    if empty { Value::Null } else { value }
}

/// Only the fields of the set.
#[cfg(test)]
pub(super) fn extract<N: Node>(value: &Value, set: &Set, node: N) -> Value {
    match (node.shape(Some(value)), value) {
        (Shape::List, Value::Array(list)) if !node.atomic_list() && !list.is_empty() => {
            let item = node.item().unwrap();
            let kept = list.iter().filter_map(|value| {
                let entry = set.get(&node.path_element(value).ok()?)?;
                let below = !entry.children.is_empty();
                Some(if below { extract(value, &entry.children, item) } else { value.clone() })
            });
            some(Value::Array(kept.collect()))
        }
        (Shape::Map, Value::Object(map)) if !node.atomic_map() && !map.is_empty() => {
            let kept = map.iter().filter_map(|(key, value)| {
                let entry = set.get(&PathElement::Field(key.clone()))?;
                let child = node.child(key)?;
                // Upstream descends with the whole set, not with what lies below the member.
                let below = if entry.member { set } else { &entry.children };
                Some((key.clone(), extract(value, below, child)))
            });
            some(Value::Object(kept.collect()))
        }
        (Shape::List, Value::Array(_)) | (Shape::Map, Value::Object(_)) | (Shape::Scalar, _) => value.clone(),
        _ => Value::Null,
    }
}
