//! Reading trees in hooks: Go's zero values for what is missing, and the checks that all kinds write again and again.

use std::cmp::Ordering;

use crate::field::{Error, Path};
use crate::quantity::Quantity;
use crate::rules::{self, Messages, invalid_each};
use crate::{Object, Str, Value};

/// What hooks collect.
pub(crate) type Errors = Vec<Error>;

/// The field, unless it is missing or null.
pub(crate) fn given<'a>(value: &'a Value, field: &str) -> Option<&'a Value> {
    value.get(field).filter(|v| !v.is_null())
}

/// The text of a field, `""` where there is none.
pub(crate) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.str_at(&[field])
}

/// The integer of a field.
pub(crate) fn int(value: &Value, field: &str) -> Option<i64> {
    value.get(field).and_then(Value::as_i64)
}

/// The integer of a field, 0 where there is none.
pub(crate) fn int_or_zero(value: &Value, field: &str) -> i64 {
    int(value, field).unwrap_or(0)
}

/// Is the flag given and set?
pub(crate) fn is_true(value: &Value, field: &str) -> bool {
    value.get(field).and_then(Value::as_bool) == Some(true)
}

/// The items of a list field, none where it is missing.
pub(crate) fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.items_at(&[field])
}

/// The fields of a map field, none where it is missing.
pub(crate) fn entries<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = (&'a Str, &'a Value)> {
    value.get(field).and_then(Value::as_object).into_iter().flat_map(Object::iter)
}

/// Does the map have no fields (or is it missing)?
pub(crate) fn is_empty_map(value: Option<&Value>) -> bool {
    value.and_then(Value::as_object).is_none_or(Object::is_empty)
}

/// Equal, where a missing field equals null, an empty list and an empty map (Go's semantic equality).
pub(crate) fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (meaning(a), meaning(b)) {
        (None, None) => true,
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let covered = |x: &Object, y: &Object| x.iter().all(|(key, v)| same(Some(v), y.get(key)));
            covered(a, b) && b.keys().filter(|k| !a.contains_key(k)).all(|k| meaning(b.get(k)).is_none())
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            a.len() == b.len() && a.iter().zip(b).all(|(x, y)| same(Some(x), Some(y)))
        }
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

fn meaning(value: Option<&Value>) -> Option<&Value> {
    value.filter(|v| match v {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => fields.iter().any(|(_, v)| meaning(Some(v)).is_some()),
        _ => true,
    })
}

/// `field is immutable` unless the field is what it was.
pub(crate) fn immutable(errors: &mut Errors, new: &Value, old: &Value, field: &str, path: &Path<'_>) {
    if !same(new.get(field), old.get(field)) {
        let now = new.get(field).cloned().unwrap_or_default();
        errors.push(Error::invalid(&path.child(field), now, IMMUTABLE));
    }
}

/// `field is immutable` with no word of what the field is now: how rules say it that upstream generates.
pub(crate) fn fixed(errors: &mut Errors, new: &Value, old: &Value, field: &str, path: &Path<'_>) {
    if !same(new.get(field), old.get(field)) {
        errors.push(Error::invalid(&path.child(field), Value::Null, IMMUTABLE));
    }
}

/// Upstream's words for a field that may not change.
pub(crate) const IMMUTABLE: &str = "field is immutable";

/// The number of a field (0 where it is missing) may not be negative.
pub(crate) fn not_negative(errors: &mut Errors, value: &Value, field: &str, path: &Path<'_>) {
    let n = int_or_zero(value, field);
    if n < 0 {
        errors.push(Error::invalid(&path.child(field), n, rules::NOT_NEGATIVE));
    }
}

/// The number must be at least 1.
pub(crate) fn positive(errors: &mut Errors, n: i64, path: &Path<'_>) {
    if n <= 0 {
        errors.push(Error::invalid(path, n, "must be greater than zero"));
    }
}

/// The text of a field must be there; then its rule must hold.
pub(crate) fn required_by(
    errors: &mut Errors,
    value: &Value,
    field: &str,
    path: &Path<'_>,
    rule: fn(&str) -> Messages,
) {
    match text(value, field) {
        "" => errors.push(Error::required(&path.child(field), "")),
        given => invalid_each(errors, &path.child(field), given, rule(given)),
    }
}

/// The text of a field must be there.
pub(crate) fn required(errors: &mut Errors, value: &Value, field: &str, path: &Path<'_>) {
    if text(value, field).is_empty() {
        errors.push(Error::required(&path.child(field), ""));
    }
}

/// The text must be one of those; an empty one is a missing value.
pub(crate) fn one_of(errors: &mut Errors, given: &str, supported: &[&str], path: &Path<'_>) {
    if given.is_empty() {
        errors.push(Error::required(path, ""));
    } else if !supported.contains(&given) {
        errors.push(Error::not_supported(path, given, supported));
    }
}

/// The text, if the field is given, must be one of those.
pub(crate) fn one_of_given(
    errors: &mut Errors,
    value: &Value,
    field: &str,
    supported: &[&str],
    path: &Path<'_>,
) {
    if let Some(given) = given(value, field).and_then(Value::as_str).filter(|t| !supported.contains(t)) {
        errors.push(Error::not_supported(&path.child(field), given, supported));
    }
}

/// A port by number or by name.
pub(crate) fn port_or_name(errors: &mut Errors, port: Option<&Value>, path: &Path<'_>) {
    match port {
        Some(Value::String(name)) => invalid_each(errors, path, name, rules::port_name(name)),
        port => {
            let number = port.and_then(Value::as_i64).unwrap_or(0);
            invalid_each(errors, path, number, rules::port_number(number));
        }
    }
}

/// The quantity written as text or number; zero where it is missing or no quantity (decoding has refused those).
pub(crate) fn quantity(value: Option<&Value>) -> Quantity {
    let parsed = match value {
        Some(Value::String(text)) => Quantity::parse(text).ok(),
        Some(Value::Int(n)) => Quantity::parse(&n.to_string()).ok(),
        _ => None,
    };
    parsed.unwrap_or_default()
}

/// How two quantities compare.
pub(crate) fn compare_quantities(a: Option<&Value>, b: Option<&Value>) -> Ordering {
    quantity(a).cmp(&quantity(b))
}

/// A struct as messages print those of which upstream's internal type has no JSON names: Go's names in the type's order, each
/// with what stands there where nothing is given.
pub(crate) fn internal(value: &Value, fields: &[(&str, &'static str, Zero)]) -> Value {
    let mut shown = Object::default();
    for (name, go, zero) in fields {
        let zero = || match zero {
            Zero::Null => Value::Null,
            Zero::Text => Value::str(""),
            Zero::Number => Value::Int(0),
        };
        shown.set(go, given(value, name).cloned().unwrap_or_else(zero));
    }
    shown.into()
}

/// What stands for a field that is not given.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Zero {
    /// `null`: a pointer, a list, a map.
    Null,
    /// `""`
    Text,
    /// `0`
    Number,
}

/// Sets a field that is missing or null.
pub(crate) fn set_missing(object: &mut Value, field: &'static str, value: impl Into<Value>) {
    let missing = object.get(field).is_none_or(Value::is_null);
    if let Some(object) = object.as_object_mut().filter(|_| missing) {
        object.set(field, value);
    }
}

/// Sets a text field that is missing or empty.
pub(crate) fn set_empty(object: &mut Value, field: &'static str, value: &'static str) {
    if text(object, field).is_empty() && matches!(object, Value::Object(_)) {
        object.object_at_mut(&[]).set(field, Value::str(value));
    }
}

/// Sets a number field that is missing or 0.
pub(crate) fn set_zero(object: &mut Value, field: &'static str, value: i64) {
    if int_or_zero(object, field) == 0 && matches!(object, Value::Object(_)) {
        object.object_at_mut(&[]).set(field, value);
    }
}

/// The items of a list field, to be changed.
pub(crate) fn items_mut<'a>(object: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    object.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

/// The value at a path of field names, to be changed.
pub(crate) fn at_mut<'a>(object: &'a mut Value, path: &[&str]) -> Option<&'a mut Value> {
    path.iter().try_fold(object, |value, key| value.get_mut(key)).filter(|v| !v.is_null())
}
