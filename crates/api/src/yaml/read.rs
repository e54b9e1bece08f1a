//! Events of the parser to value trees, with aliases and merge keys, bounded.

use std::collections::{HashMap, HashSet};

use serde_saphyr::granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Tag};

use super::{Document, YamlError, scalar};
use crate::json::{MAX_DEPTH, MAX_DUPLICATES};
use crate::{Object, Str, Value};

/// How many nodes aliases may add to a document in all.
pub const MAX_ALIAS_NODES: usize = 100_000;

/// Reads the first document; `null` where there is none.
pub fn parse(body: &[u8]) -> Result<Document, YamlError> {
    Ok(read(body, true)?.into_iter().next().unwrap_or_default())
}

/// Reads all documents; empty ones are left out.
pub fn parse_all(body: &[u8]) -> Result<Vec<Document>, YamlError> {
    read(body, false)
}

fn read(body: &[u8], only_first: bool) -> Result<Vec<Document>, YamlError> {
    let text =
        std::str::from_utf8(body).map_err(|_| YamlError("yaml: invalid leading UTF-8 octet".to_owned()))?;
    let mut documents = Vec::new();
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| syntax(&e))?;
        match event {
            Event::DocumentStart(..) => builder = Builder::default(),
            Event::DocumentEnd => {
                let done = std::mem::take(&mut builder);
                let document = Document { value: done.root, duplicates: done.duplicates };
                if !document.value.is_null() {
                    documents.push(document);
                }
                if only_first {
                    break;
                }
            }
            event => builder.take(event, &span.start)?,
        }
    }
    Ok(documents)
}

fn syntax(error: &ScanError) -> YamlError {
    YamlError(format!("yaml: line {}: {}", error.marker().line(), error.info()))
}

/// A list or map that is still open.
struct Open {
    anchor: usize,
    container: Container,
}

enum Container {
    List(Vec<Value>),
    Map {
        object: Object,
        /// The key whose value comes next, and whether it is a merge key.
        key: Option<(Str, bool)>,
        /// Fields that merge keys lend; those given here win.
        merged: Vec<Object>,
        /// The names that are there, and so that of no value lent.
        seen: HashSet<Str>,
        /// A name came twice.
        repeats: bool,
    },
}

#[derive(Default)]
struct Builder {
    root: Value,
    open: Vec<Open>,
    anchors: HashMap<usize, (Value, usize)>,
    alias_nodes: usize,
    duplicates: Vec<String>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, at: &Marker) -> Result<(), YamlError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let merge = plain && text == "<<" && tag.is_none();
                let value = scalar_value(&text, plain, tag.as_deref())?;
                self.remember(anchor, &value);
                self.put(value, merge, at)
            }
            Event::SequenceStart(_, anchor, _) => self.begin(anchor, Container::List(Vec::new())),
            Event::MappingStart(_, anchor, _) => self.begin(
                anchor,
                Container::Map {
                    object: Object::default(),
                    key: None,
                    merged: Vec::new(),
                    seen: HashSet::new(),
                    repeats: false,
                },
            ),
            Event::SequenceEnd | Event::MappingEnd => self.end(at),
            Event::Alias(anchor) => {
                let (value, nodes) = self.anchors.get(&anchor).cloned().unwrap_or_default();
                self.alias_nodes += nodes;
                if self.alias_nodes > MAX_ALIAS_NODES {
                    return Err(YamlError("yaml: document contains excessive aliasing".to_owned()));
                }
                self.put(value, false, at)
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, anchor: usize, container: Container) -> Result<(), YamlError> {
        if self.open.len() == MAX_DEPTH {
            return Err(YamlError(format!("yaml: exceeded max depth of {MAX_DEPTH}")));
        }
        self.open.push(Open { anchor, container });
        Ok(())
    }

    fn end(&mut self, at: &Marker) -> Result<(), YamlError> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let value = match open.container {
            Container::List(items) => Value::Array(items),
            Container::Map { mut object, merged, mut seen, repeats, .. } => {
                if repeats {
                    object.settle_duplicates(|_| {});
                }
                for (key, value) in merged.into_iter().flatten() {
                    if seen.insert(key.clone()) {
                        object.append(key, value);
                    }
                }
                Value::Object(object)
            }
        };
        self.remember(open.anchor, &value);
        self.put(value, false, at)
    }

    fn remember(&mut self, anchor: usize, value: &Value) {
        if anchor != 0 {
            self.anchors.insert(anchor, (value.clone(), nodes(value)));
        }
    }

    /// A finished node goes where it belongs: the root, a list, or a map as key or value.
    fn put(&mut self, value: Value, is_merge_key: bool, at: &Marker) -> Result<(), YamlError> {
        let Some(open) = self.open.last_mut() else {
            self.root = value;
            return Ok(());
        };
        match &mut open.container {
            Container::List(items) => items.push(value),
            Container::Map { object, key, merged, seen, repeats } => match key.take() {
                None => *key = Some((key_text(value)?, is_merge_key)),
                Some((_, true)) => merged.extend(merge_sources(value)?),
                Some((name, false)) => {
                    if !seen.insert(name.clone()) {
                        *repeats = true;
                        if self.duplicates.len() < MAX_DUPLICATES {
                            let line = at.line();
                            let name = name.as_str();
                            self.duplicates.push(format!("line {line}: key {name:?} already set in map"));
                        }
                    }
                    object.append(name, value);
                }
            },
        }
        Ok(())
    }
}

fn nodes(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(nodes).sum(),
        Value::Object(fields) => fields.iter().map(|(_, value)| nodes(value)).sum(),
        _ => 0,
    }
}

fn scalar_value(text: &str, plain: bool, tag: Option<&Tag>) -> Result<Value, YamlError> {
    let resolved = match tag.map(Tag::suffix) {
        Some("str" | "binary") => None,
        Some("int" | "float" | "bool" | "null") => scalar::resolve(text),
        _ if plain => scalar::resolve(text),
        _ => None,
    };
    match resolved {
        Some(Value::Float(n)) if !n.is_finite() => Err(YamlError(format!("json: unsupported value: {n:?}"))),
        Some(value) => Ok(value),
        None => Ok(Value::from(text)),
    }
}

/// JSON has only text as keys; what else YAML has becomes its text.
fn key_text(key: Value) -> Result<Str, YamlError> {
    Ok(match key {
        Value::String(text) => text,
        Value::Int(n) => Str::from(n.to_string()),
        Value::Bool(b) => Str::from(b.to_string()),
        Value::Float(n) => Str::from(n.to_string()),
        Value::Null => return Err(YamlError("unsupported map key of type: <nil>".to_owned())),
        Value::Array(_) | Value::Object(_) => {
            return Err(YamlError("yaml: invalid map key: a list or a map".to_owned()));
        }
    })
}

fn merge_sources(value: Value) -> Result<Vec<Object>, YamlError> {
    let wrong = || YamlError("yaml: map merge requires map or sequence of maps as the value".to_owned());
    match value {
        Value::Object(object) => Ok(vec![object]),
        Value::Array(items) => items
            .into_iter()
            .map(|item| match item {
                Value::Object(object) => Ok(object),
                _ => Err(wrong()),
            })
            .collect(),
        _ => Err(wrong()),
    }
}
