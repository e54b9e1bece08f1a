//! Does an object have its type, as far as merging needs it?

use std::collections::BTreeSet;

use super::node::{Node, Scalar, Shape};
use super::path::PathElement;
use crate::{Object, Value};

/// At most so many mistakes are told.
const MAX_MISTAKES: usize = 100;

/// Upstream's sentence about all that is wrong with the object. `duplicates` allows items that share a key.
pub(super) fn validate<N: Node>(value: &Value, node: N, duplicates: bool) -> Result<(), String> {
    let mut walk = Walk { path: Vec::new(), mistakes: Vec::new(), duplicates };
    walk.value(value, node);
    match walk.mistakes.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("errors:\n  {}", many.join("\n  "))),
    }
}

struct Walk {
    path: Vec<PathElement>,
    mistakes: Vec<String>,
    duplicates: bool,
}

impl Walk {
    fn mistake(&mut self, message: impl std::fmt::Display) {
        if self.mistakes.len() < MAX_MISTAKES {
            let path: String = self.path.iter().map(ToString::to_string).collect();
            self.mistakes.push(if path.is_empty() {
                message.to_string()
            } else {
                format!("{path}: {message}")
            });
        }
    }

    fn value<N: Node>(&mut self, value: &Value, node: N) {
        match (node.shape(Some(value)), value) {
            (_, Value::Null) => {}
            (Shape::Scalar, value) => self.scalar(value, node.scalar()),
            (Shape::List, Value::Array(items)) => self.list(items, node),
            (Shape::List, value) => self.mistake(format_args!("expected list, got &{{{}}}", plain(value))),
            (Shape::Map, Value::Object(fields)) => self.map(fields, node),
            (Shape::Map, value) => self.mistake(format_args!("expected map, got &{{{}}}", plain(value))),
        }
    }

    fn scalar(&mut self, value: &Value, scalar: Scalar) {
        let fits = match scalar {
            Scalar::String => matches!(value, Value::String(_)),
            Scalar::Numeric => matches!(value, Value::Int(_) | Value::Float(_)),
            Scalar::Boolean => matches!(value, Value::Bool(_)),
            Scalar::Untyped => !matches!(value, Value::Array(_) | Value::Object(_)),
        };
        if fits {
            return;
        }
        match scalar {
            Scalar::String => self.mistake(format_args!(
                "expected string, got &value.valueUnstructured{{Value:{}}}",
                in_go(value)
            )),
            Scalar::Numeric => {
                self.mistake(format_args!("expected numeric (int or float), got {}", go_type(value)));
            }
            Scalar::Boolean => self.mistake(format_args!("expected boolean, got &{{{}}}", plain(value))),
            Scalar::Untyped => self.mistake(format_args!("expected any scalar, got &{{{}}}", plain(value))),
        }
    }

    fn list<N: Node>(&mut self, items: &[Value], node: N) {
        let Some(item) = node.item() else { return };
        let mut seen = BTreeSet::new();
        for (at, value) in items.iter().enumerate() {
            let element = if node.atomic_list() {
                PathElement::Index(at as i64)
            } else {
                match node.path_element(value) {
                    Ok(element) => element,
                    Err(why) => return self.mistake(format_args!("element {at}: {why}")),
                }
            };
            if !node.atomic_list() && !seen.insert(element.clone()) && !self.duplicates {
                self.mistake(format_args!("duplicate entries for key {element}"));
            }
            self.path.push(element);
            self.value(value, item);
            self.path.pop();
        }
    }

    fn map<N: Node>(&mut self, fields: &Object, node: N) {
        for (key, value) in fields.iter() {
            let child = node.child(key);
            self.path.push(PathElement::Field(key.clone()));
            match child {
                Some(child) => self.value(value, child),
                None => self.mistake("field not declared in schema"),
            }
            self.path.pop();
            if child.is_none() {
                return;
            }
        }
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int64",
        Value::Float(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// As Go's `%v` prints it.
fn plain(value: &Value) -> String {
    crate::patch::strategic::go(value)
}

/// As Go's `%#v` prints it.
fn in_go(value: &Value) -> String {
    use crate::field::Quoted;
    match value {
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(in_go).collect();
            format!("[]interface {{}}{{{}}}", items.join(", "))
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(k, _)| k.as_str());
            let fields: Vec<_> = fields.iter().map(|(k, v)| format!("{}:{}", k.quoted(), in_go(v))).collect();
            format!("map[string]interface {{}}{{{}}}", fields.join(", "))
        }
        Value::Null => "interface {}(nil)".to_owned(),
        scalar => scalar.quoted(),
    }
}
