//! The small steps that all walks over typed values share.

use std::collections::HashMap;

use crate::{Object, Str, Value};

/// From how many fields on a hash index pays for itself.
const INDEX_FROM: usize = 32;

/// Finds fields of an object that is walked beside another one: usually at the same place, else by scan or index.
pub(super) struct Lookup<'v> {
    object: &'v Object,
    index: Option<HashMap<&'v str, &'v Value>>,
}

impl<'v> Lookup<'v> {
    pub fn new(object: &'v Object) -> Self {
        let index = (object.len() >= INDEX_FROM)
            .then(|| object.iter().map(|(key, value)| (key.as_str(), value)).collect());
        Lookup { object, index }
    }

    pub fn get(&self, key: &str) -> Option<&'v Value> {
        match &self.index {
            Some(index) => index.get(key).copied(),
            None => self.object.get(key),
        }
    }
}

/// The fields of two objects, each once: first those of the left one, then those that only the right one has.
pub(super) fn zip<'v>(
    left: &'v Object,
    right: &'v Object,
    mut each: impl FnMut(&'v Str, Option<&'v Value>, Option<&'v Value>),
) {
    let (in_left, in_right) = (Lookup::new(left), Lookup::new(right));
    for (key, value) in left.iter() {
        each(key, Some(value), in_right.get(key));
    }
    for (key, value) in right.iter().filter(|(key, _)| in_left.get(key).is_none()) {
        each(key, None, Some(value));
    }
}

/// The object, if the value is one; everything else, null too, counts as none.
pub(super) fn as_map(value: Option<&Value>) -> Option<&Object> {
    value.and_then(Value::as_object)
}

/// The items, if the value is a list; everything else, null too, counts as none.
pub(super) fn as_list(value: Option<&Value>) -> Option<&Vec<Value>> {
    value.and_then(Value::as_array)
}
