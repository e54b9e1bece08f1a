//! A map being changed key by key: like [`Object`], but fast for the large maps that only patches and attackers bring.

use std::collections::HashMap;

use crate::{Object, Str, Value};

/// From how many fields on a hash index pays for itself.
const INDEX_FROM: usize = 32;

/// The fields of an object in order, found by scanning while they are few and by hash when they are many.
pub(crate) struct Fields {
    slots: Vec<Option<(Str, Value)>>,
    index: Option<HashMap<Str, usize>>,
}

impl Fields {
    pub(crate) fn new(object: Object) -> Self {
        let slots: Vec<_> = object.into_iter().map(Some).collect();
        let mut fields = Fields { slots, index: None };
        fields.index_if_large();
        fields
    }

    fn index_if_large(&mut self) {
        if self.index.is_none() && self.slots.len() >= INDEX_FROM {
            let named = self.slots.iter().enumerate();
            self.index =
                Some(named.filter_map(|(i, slot)| slot.as_ref().map(|(k, _)| (k.clone(), i))).collect());
        }
    }

    fn position(&self, key: &str) -> Option<usize> {
        match &self.index {
            Some(index) => index.get(key).copied(),
            None => self.slots.iter().position(|slot| slot.as_ref().is_some_and(|(k, _)| k == key)),
        }
    }

    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        let at = self.position(key)?;
        self.slots[at].as_mut().map(|(_, value)| value)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.slots[self.position(key)?].as_ref().map(|(_, value)| value)
    }

    /// Sets a field: in its place if it is there, else at the end.
    pub(crate) fn set(&mut self, key: Str, value: Value) {
        if let Some(slot) = self.get_mut(&key) {
            *slot = value;
            return;
        }
        if let Some(index) = &mut self.index {
            index.insert(key.clone(), self.slots.len());
        }
        self.slots.push(Some((key, value)));
        self.index_if_large();
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.position(key)?;
        if let Some(index) = &mut self.index {
            index.remove(key);
        }
        self.slots[at].take().map(|(_, value)| value)
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        let gone = |slot: &Option<(Str, Value)>| slot.as_ref().is_some_and(|(k, _)| !keep(k));
        self.slots.retain(|slot| slot.is_some() && !gone(slot));
        self.index = None;
        self.index_if_large();
    }

    pub(crate) fn keys_with_prefix(&self, prefix: &str) -> Vec<Str> {
        let keys = self.slots.iter().flatten().map(|(key, _)| key);
        keys.filter(|key| key.starts_with(prefix)).cloned().collect()
    }

    pub(crate) fn into_object(self) -> Object {
        self.slots.into_iter().flatten().collect()
    }
}

/// A scalar as a hash key. Lists and maps equal nothing, as in no list of theirs they could be told apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    Float(u64),
    Text(Str),
}

impl Scalar {
    pub(crate) fn of(value: &Value) -> Option<Scalar> {
        Some(match value {
            Value::Null => Scalar::Null,
            Value::Bool(b) => Scalar::Bool(*b),
            Value::Int(n) => Scalar::Int(*n),
            Value::Float(n) => Scalar::Float(n.to_bits()),
            Value::String(s) => Scalar::Text(s.clone()),
            Value::Array(_) | Value::Object(_) => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_maps_behave_alike() {
        for size in [3i64, 31, 32, 500] {
            let object = (0..size).map(|i| (Str::from(format!("k{i}")), Value::Int(i))).collect();
            let mut fields = Fields::new(object);
            fields.set("k1".into(), Value::Null);
            fields.set("new".into(), Value::Int(-1));
            assert_eq!(fields.remove("k0"), Some(Value::Int(0)));
            assert_eq!(fields.remove("k0"), None);
            assert_eq!(fields.get("new"), Some(&Value::Int(-1)));
            fields.retain(|k| k != "k2");
            fields.set("k2".into(), Value::Bool(true));
            let object = fields.into_object();
            assert_eq!(object.len() as i64, size);
            assert_eq!(object.keys().next().map(Str::as_str), Some("k1"));
            assert_eq!(object.keys().last().map(Str::as_str), Some("k2"));
        }
    }
}
