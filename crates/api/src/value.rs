//! The value tree in flight: what a request body becomes between decoding and encoding.
//!
//! Strings are slices of the request body where they can be (no copy, no lifetime), keys of known fields are
//! `&'static str`, and an object is a flat list of pairs in the order they came in. Trees live as long as one request;
//! what is kept longer (labels in an index, say) must be copied with [`Str::detached`], or it would keep the body alive.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Deref;

use bytestring::ByteString;

/// An immutable UTF-8 string that clones cheaply: static, a slice of a shared buffer, or owned.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Str(ByteString);

impl Str {
    /// A string that costs nothing to make or clone.
    pub const fn from_static(s: &'static str) -> Self {
        Str(ByteString::from_static(s))
    }

    /// A slice of a shared buffer, without copying.
    pub fn shared(s: ByteString) -> Self {
        Str(s)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A copy that shares no buffer with anything else.
    pub fn detached(&self) -> Self {
        Str::from(self.as_str())
    }
}

impl Deref for Str {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Str {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Str {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Str {
    fn from(s: &str) -> Self {
        Str(ByteString::from(s))
    }
}

impl From<String> for Str {
    fn from(s: String) -> Self {
        Str(ByteString::from(s))
    }
}

impl PartialEq<str> for Str {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Str {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl fmt::Debug for Str {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Str {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One JSON value. Integers and floats are apart, as in Kubernetes' unstructured objects: `1` is [`Value::Int`], `1.0` a float.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// `null`
    #[default]
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A number without fraction or exponent that fits an i64.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// A string.
    String(Str),
    /// A list.
    Array(Vec<Value>),
    /// A map.
    Object(Object),
}

impl Value {
    /// An empty object.
    pub fn object() -> Self {
        Value::Object(Object::default())
    }

    /// A string that costs nothing.
    pub const fn str(s: &'static str) -> Self {
        Value::String(Str::from_static(s))
    }

    /// The text, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(s) => Some(s),
            _ => None,
        }
    }

    /// The integer, if this is one (a float without fraction is not).
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Int(n) => Some(*n),
            _ => None,
        }
    }

    /// The boolean, if this is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The list, if this is one.
    pub fn as_array(&self) -> Option<&Vec<Value>> {
        match self {
            Value::Array(a) => Some(a),
            _ => None,
        }
    }

    /// The list, if this is one.
    pub fn as_array_mut(&mut self) -> Option<&mut Vec<Value>> {
        match self {
            Value::Array(a) => Some(a),
            _ => None,
        }
    }

    /// The map, if this is one.
    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Value::Object(o) => Some(o),
            _ => None,
        }
    }

    /// The map, if this is one.
    pub fn as_object_mut(&mut self) -> Option<&mut Object> {
        match self {
            Value::Object(o) => Some(o),
            _ => None,
        }
    }

    /// `null`?
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// The field of an object; `None` for a missing field and for anything that is not an object.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_object()?.get(key)
    }

    /// The field of an object, to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.as_object_mut()?.get_mut(key)
    }

    /// The value at a path of field names: `pod.at(&["spec", "nodeName"])`.
    pub fn at(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(self, |value, key| value.get(key))
    }

    /// The string at a path; `""` where there is none, as Go's zero value.
    pub fn str_at(&self, path: &[&str]) -> &str {
        self.at(path).and_then(Value::as_str).unwrap_or_default()
    }

    /// The items of the list at a path; empty where there is none.
    pub fn items_at(&self, path: &[&str]) -> &[Value] {
        self.at(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// The object at a path, made (with everything above it) where it is missing or not an object.
    pub fn object_at_mut(&mut self, path: &[&'static str]) -> &mut Object {
        path.iter().fold(self.make_object(), |object, key| object.entry(key).make_object())
    }

    fn make_object(&mut self) -> &mut Object {
        if !matches!(self, Value::Object(_)) {
            *self = Value::object();
        }
        match self {
            Value::Object(o) => o,
            _ => unreachable!("made an object above"),
        }
    }

    /// What the value is, in the words of JSON: `string`, `array` …
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Int(_) | Value::Float(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        }
    }
}

impl From<&str> for Value {
    fn from(s: &str) -> Self {
        Value::String(s.into())
    }
}
impl From<String> for Value {
    fn from(s: String) -> Self {
        Value::String(s.into())
    }
}
impl From<Str> for Value {
    fn from(s: Str) -> Self {
        Value::String(s)
    }
}
impl From<i64> for Value {
    fn from(n: i64) -> Self {
        Value::Int(n)
    }
}
impl From<bool> for Value {
    fn from(b: bool) -> Self {
        Value::Bool(b)
    }
}
impl From<Object> for Value {
    fn from(o: Object) -> Self {
        Value::Object(o)
    }
}
impl From<Vec<Value>> for Value {
    fn from(a: Vec<Value>) -> Self {
        Value::Array(a)
    }
}

/// A map of a few fields in the order they came in. Equality ignores the order.
///
/// Look-up is a scan: Kubernetes objects have few fields a level. Decoders and merges of large maps (config map data) must
/// not call [`Object::insert`] once a key; they check duplicates their own way and use [`Object::push_unchecked`].
#[derive(Clone, Debug, Default)]
pub struct Object {
    pairs: Vec<(Str, Value)>,
}

impl Object {
    /// How many fields.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// No fields?
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The value of a field.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// The value of a field, to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.pairs.iter_mut().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// Is the field there (`null` counts)?
    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Sets a field and returns what was there.
    pub fn insert(&mut self, key: impl Into<Str>, value: impl Into<Value>) -> Option<Value> {
        let (key, value) = (key.into(), value.into());
        match self.get_mut(&key) {
            Some(slot) => Some(std::mem::replace(slot, value)),
            None => {
                self.pairs.push((key, value));
                None
            }
        }
    }

    /// Sets a field whose name is known at compile time.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.insert(Str::from_static(key), value);
    }

    /// Appends a field that is known to be absent.
    pub fn push_unchecked(&mut self, key: Str, value: Value) {
        debug_assert!(self.pairs.len() > 64 || !self.contains_key(&key), "duplicate key {key}");
        self.pairs.push((key, value));
    }

    /// The field's value, `null` first where it was missing.
    pub fn entry(&mut self, key: &'static str) -> &mut Value {
        let at = self.pairs.iter().position(|(k, _)| k == key).unwrap_or_else(|| {
            self.pairs.push((Str::from_static(key), Value::Null));
            self.pairs.len() - 1
        });
        &mut self.pairs[at].1
    }

    /// [`Object::entry`] for a name that is shared already.
    pub(crate) fn entry_shared(&mut self, key: &Str) -> &mut Value {
        let at = self.pairs.iter().position(|(k, _)| k == key).unwrap_or_else(|| {
            self.pairs.push((key.clone(), Value::Null));
            self.pairs.len() - 1
        });
        &mut self.pairs[at].1
    }

    /// Appends a field that may be there already; [`Object::settle_duplicates`] must follow.
    pub(crate) fn append(&mut self, key: Str, value: Value) {
        self.pairs.push((key, value));
    }

    /// Of fields appended twice the first keeps its place and gets the value of the last; `found` is told each name that came again.
    pub(crate) fn settle_duplicates(&mut self, found: impl FnMut(&Str)) {
        settle_duplicates(&mut self.pairs, 0, found);
    }

    /// Removes a field; the order of the others stays.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.pairs.iter().position(|(k, _)| k == key)?;
        Some(self.pairs.remove(at).1)
    }

    /// Keeps the fields for which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &mut Value) -> bool) {
        self.pairs.retain_mut(|(k, v)| keep(k, v));
    }

    /// Keeps the fields for which `keep` says so; names may be replaced by equal ones, or by others not there yet.
    pub(crate) fn retain_pairs(&mut self, mut keep: impl FnMut(&mut Str, &mut Value) -> bool) {
        self.pairs.retain_mut(|(k, v)| keep(k, v));
    }

    /// The fields in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Str, &Value)> {
        self.pairs.iter().map(|(k, v)| (k, v))
    }

    /// The fields in order, values to be changed.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = (&Str, &mut Value)> {
        self.pairs.iter_mut().map(|(k, v)| (&*k, v))
    }

    /// The names in order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &Str> {
        self.pairs.iter().map(|(k, _)| k)
    }

    /// Sorts the fields by name (the order of Go's maps on the wire).
    pub fn sort(&mut self) {
        self.pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
    }
}

/// Do names repeat in these pairs? Few are compared each with each, many by hashing.
fn has_duplicates(pairs: &[(Str, Value)]) -> bool {
    if pairs.len() <= MANY_FIELDS {
        return pairs
            .iter()
            .enumerate()
            .any(|(i, (key, _))| pairs[..i].iter().any(|(other, _)| other == key));
    }
    let mut seen = HashSet::with_capacity(pairs.len());
    pairs.iter().any(|(key, _)| !seen.insert(key.as_str()))
}

/// See [`Object::settle_duplicates`]; looks only at the pairs from `start` on.
pub(crate) fn settle_duplicates(pairs: &mut Vec<(Str, Value)>, start: usize, mut found: impl FnMut(&Str)) {
    if !has_duplicates(&pairs[start..]) {
        return;
    }
    let mut at: HashMap<Str, usize> = HashMap::new();
    let mut kept: Vec<(Str, Value)> = Vec::new();
    for (key, value) in pairs.drain(start..) {
        match at.get(&key) {
            None => {
                at.insert(key.clone(), kept.len());
                kept.push((key, value));
            }
            Some(&i) => {
                found(&key);
                kept[i].1 = value;
            }
        }
    }
    pairs.extend(kept);
}

/// Objects with more fields than this are looked through by an index where one look-up follows another.
const MANY_FIELDS: usize = 32;

impl PartialEq for Object {
    /// One pass, each pair of values compared once: fields mostly stand in the same place on both sides.
    fn eq(&self, other: &Self) -> bool {
        let mut index: Option<HashMap<&str, &Value>> = None;
        let mut find = |key: &str| {
            if other.len() <= MANY_FIELDS {
                return other.get(key);
            }
            let index = index.get_or_insert_with(|| other.iter().map(|(k, v)| (k.as_str(), v)).collect());
            index.get(key).copied()
        };
        self.len() == other.len()
            && self.pairs.iter().enumerate().all(|(i, (key, value))| {
                let same_place = other.pairs.get(i).filter(|(k, _)| k == key).map(|(_, v)| v);
                same_place.or_else(|| find(key)) == Some(value)
            })
    }
}

impl FromIterator<(Str, Value)> for Object {
    /// The keys must be distinct.
    fn from_iter<I: IntoIterator<Item = (Str, Value)>>(pairs: I) -> Self {
        Object { pairs: pairs.into_iter().collect() }
    }
}

impl IntoIterator for Object {
    type Item = (Str, Value);
    type IntoIter = std::vec::IntoIter<(Str, Value)>;
    fn into_iter(self) -> Self::IntoIter {
        self.pairs.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(pairs: &[(&str, i64)]) -> Value {
        Value::Object(pairs.iter().map(|(k, v)| (Str::from(*k), Value::Int(*v))).collect())
    }

    #[test]
    fn equality_ignores_the_order_of_fields() {
        assert_eq!(object(&[("a", 1), ("b", 2)]), object(&[("b", 2), ("a", 1)]));
        assert_ne!(object(&[("a", 1), ("b", 2)]), object(&[("b", 1), ("a", 2)]));
        assert_ne!(object(&[("a", 1)]), object(&[("a", 1), ("b", 2)]));
        let names: Vec<String> = (0..20_000).map(|i| format!("key-{i}")).collect();
        let forwards: Vec<(&str, i64)> = names.iter().map(|n| (n.as_str(), 1)).collect();
        let backwards: Vec<(&str, i64)> = forwards.iter().rev().copied().collect();
        assert_eq!(object(&forwards), object(&backwards));
    }

    #[test]
    fn deep_differences_are_found_in_one_pass() {
        let nest = |n: i64| {
            (0..400).fold(Value::Int(n), |inner, _| {
                Value::Object([(Str::from("a"), inner)].into_iter().collect())
            })
        };
        assert_ne!(nest(1), nest(2));
    }

    #[test]
    fn duplicates_settle_on_the_last_value() {
        let mut fields = Object::default();
        for (i, key) in ["a", "b", "a", "c", "a"].into_iter().enumerate() {
            fields.append(Str::from(key), Value::Int(i as i64));
        }
        let mut found = Vec::new();
        fields.settle_duplicates(|key| found.push(key.to_string()));
        assert_eq!(
            (found, Value::Object(fields)),
            (vec!["a".into(), "a".into()], object(&[("a", 4), ("b", 1), ("c", 3)]))
        );
    }
}
