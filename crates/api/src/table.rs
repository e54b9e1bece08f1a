//! `meta.k8s.io/v1` Tables: what `kubectl get` prints, rendered from a kind's columns.

use std::borrow::Cow;

use crate::kind::{Cell, Column, Kind};
use crate::time::{human_duration, parse_ms};
use crate::{Object, Value, json};

/// What each row carries beside its cells (`includeObject` of the request).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// The object's metadata, as PartialObjectMetadata (the default).
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

impl Include {
    /// From the query parameter; `None` for a value that is not allowed.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Include::Metadata),
            "None" => Some(Include::None),
            "Object" => Some(Include::Object),
            _ => None,
        }
    }
}

/// A whole table: definitions and one row an object. `list_metadata` is the list's (or the single object's) resource version,
/// continue token and remaining count.
pub fn render<'a>(
    kind: &Kind,
    objects: impl IntoIterator<Item = &'a Value>,
    include: Include,
    now_ms: i64,
    list_metadata: Option<Value>,
) -> Value {
    let mut table = Object::default();
    table.set("kind", Value::str("Table"));
    table.set("apiVersion", Value::str("meta.k8s.io/v1"));
    table.set("metadata", list_metadata.unwrap_or_else(Value::object));
    table.set("columnDefinitions", column_definitions(kind));
    let rows: Vec<Value> = objects.into_iter().map(|object| row(kind, object, include, now_ms)).collect();
    table.set("rows", rows);
    table.into()
}

/// The table's columns; watches send them with the first event only.
pub fn column_definitions(kind: &Kind) -> Vec<Value> {
    columns(kind).iter().map(definition).collect()
}

/// One object's row.
pub fn row(kind: &Kind, object: &Value, include: Include, now_ms: i64) -> Value {
    let mut row = Object::default();
    let cells: Vec<Value> = columns(kind).iter().map(|column| cell(column, object, now_ms)).collect();
    row.set("cells", cells);
    if let Some(conditions) = kind.hooks.row_conditions.and_then(|f| f(object)) {
        row.set("conditions", conditions);
    }
    match include {
        Include::None => {}
        Include::Metadata => row.set("object", partial_metadata(object)),
        Include::Object => row.set("object", object.clone()),
    }
    row.into()
}

/// `meta.k8s.io/v1` PartialObjectMetadata of an object.
pub fn partial_metadata(object: &Value) -> Value {
    let mut partial = Object::default();
    partial.set("kind", Value::str("PartialObjectMetadata"));
    partial.set("apiVersion", Value::str("meta.k8s.io/v1"));
    partial.set("metadata", object.get("metadata").cloned().unwrap_or_else(Value::object));
    partial.into()
}

/// A column without description.
pub(crate) const fn column(name: &'static str, kind: &'static str, priority: i32, cell: Cell) -> Column {
    Column {
        name: Cow::Borrowed(name),
        kind: Cow::Borrowed(kind),
        format: Cow::Borrowed(""),
        description: Cow::Borrowed(""),
        priority,
        cell,
    }
}

/// The name column.
pub const NAME: Column = Column {
    name: Cow::Borrowed("Name"),
    kind: Cow::Borrowed("string"),
    format: Cow::Borrowed("name"),
    description: Cow::Borrowed("Unique within a namespace."),
    priority: 0,
    cell: Cell::Text(&["metadata", "name"]),
};

/// The age column.
pub const AGE: Column = column("Age", "string", 0, Cell::Age(&["metadata", "creationTimestamp"]));

const DEFAULT: &[Column] =
    &[NAME, column("Created At", "date", 0, Cell::Text(&["metadata", "creationTimestamp"]))];
const CUSTOM_DEFAULT: &[Column] =
    &[NAME, column("Age", "date", 0, Cell::Text(&["metadata", "creationTimestamp"]))];

fn columns(kind: &Kind) -> &[Column] {
    match &*kind.columns {
        [] if kind.versions.iter().all(|v| v.message.is_empty()) => CUSTOM_DEFAULT,
        [] => DEFAULT,
        columns => columns,
    }
}

fn definition(column: &Column) -> Value {
    let mut definition = Object::default();
    definition.set("name", &*column.name);
    definition.set("type", &*column.kind);
    definition.set("format", &*column.format);
    definition.set("description", &*column.description);
    definition.set("priority", i64::from(column.priority));
    definition.into()
}

fn cell(column: &Column, object: &Value, now_ms: i64) -> Value {
    match &column.cell {
        Cell::Text(path) => text_or(object.at(path), ""),
        Cell::TextOr(path, missing) => text_or(object.at(path), missing),
        Cell::Int(path) => object.at(path).and_then(Value::as_i64).unwrap_or(0).into(),
        Cell::Bool(path, missing) => object.at(path).and_then(Value::as_bool).unwrap_or(*missing).into(),
        Cell::Count(path) => count(object.at(path)).into(),
        Cell::Age(path) => age(object.str_at(path), now_ms).into(),
        Cell::Compute(compute) => compute(object, now_ms),
        Cell::JsonPath(path) => custom_cell(column, json_path(object, path), now_ms),
    }
}

fn text_or(value: Option<&Value>, missing: &str) -> Value {
    match value {
        None | Some(Value::Null) => missing.into(),
        Some(Value::String(s)) => s.detached().into(),
        Some(other) => json::to_string(other).into(),
    }
}

/// How many items or fields a list or map has; 0 for anything else.
pub(crate) fn count(value: Option<&Value>) -> i64 {
    let n = match value {
        Some(Value::Array(items)) => items.len(),
        Some(Value::Object(fields)) => fields.len(),
        _ => 0,
    };
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn custom_cell(column: &Column, found: Vec<&Value>, now_ms: i64) -> Value {
    let Some(&first) = found.first() else { return Value::Null };
    match (&*column.kind, first) {
        ("date", Value::String(time)) => age(time, now_ms).into(),
        ("date", _) => Value::str("<unknown>"),
        ("integer", Value::Float(n)) => Value::Int(*n as i64),
        ("string", Value::String(s)) => s.detached().into(),
        ("string", _) => found.iter().map(|v| plain(v)).collect::<Vec<_>>().join(" ").into(),
        _ => first.clone(),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(s) => s.to_string(),
        other => json::to_string(other),
    }
}

/// The time since an RFC 3339 time as kubectl prints it; `<unknown>` where there is none.
pub fn age(time: &str, now_ms: i64) -> String {
    parse_ms(time).map_or_else(|| "<unknown>".to_owned(), |then| human_duration(now_ms - then))
}

/// The values that a JSONPath of a CRD's column selects: fields, `['quoted fields']`, `[index]`, `[*]`,
/// and filters `[?(@.a.b=="c")]`. Anything else selects nothing.
pub fn json_path<'a>(object: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut rest = path.trim().trim_start_matches('{').trim_end_matches('}').trim_start_matches('$');
    let mut found = vec![object];
    while !rest.is_empty() {
        let Some((step, after)) = next_step(rest) else { return Vec::new() };
        found = found.into_iter().flat_map(|value| apply_step(value, step)).collect();
        rest = after;
    }
    found.retain(|value| !value.is_null());
    found
}

fn next_step(path: &str) -> Option<(&str, &str)> {
    if let Some(inside) = path.strip_prefix('[') {
        let end = if inside.starts_with("?(") { inside.find(")]")? + 1 } else { inside.find(']')? };
        return Some((&path[..end + 2], &inside[end + 1..]));
    }
    let field = path.strip_prefix('.')?;
    let mut escaped = false;
    let end = field
        .find(|c: char| {
            let ends = !escaped && (c == '.' || c == '[');
            escaped = c == '\\';
            ends
        })
        .unwrap_or(field.len());
    Some((&field[..end], &field[end..]))
}

fn apply_step<'a>(value: &'a Value, step: &str) -> Vec<&'a Value> {
    let Some(inside) = step.strip_prefix('[').and_then(|s| s.strip_suffix(']')) else {
        return match step {
            "*" => children(value),
            name => value.get(&name.replace('\\', "")).into_iter().collect(),
        };
    };
    if inside == "*" {
        return children(value);
    }
    if let Some(name) = unquote(inside) {
        return value.get(name).into_iter().collect();
    }
    if let Some(condition) = inside.strip_prefix("?(@").and_then(|s| s.strip_suffix(')')) {
        return children(value).into_iter().filter(|item| filter_holds(item, condition)).collect();
    }
    let items = value.as_array().map_or(&[][..], Vec::as_slice);
    let index = inside.parse::<i64>().ok().and_then(|i| {
        let len = i64::try_from(items.len()).ok()?;
        usize::try_from(if i < 0 { len + i } else { i }).ok()
    });
    index.and_then(|i| items.get(i)).into_iter().collect()
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.iter().map(|(_, v)| v).collect(),
        _ => Vec::new(),
    }
}

fn unquote(text: &str) -> Option<&str> {
    let inner = |q: char| text.strip_prefix(q).and_then(|t| t.strip_suffix(q));
    inner('\'').or_else(|| inner('"'))
}

fn filter_holds(item: &Value, condition: &str) -> bool {
    let (path, wanted, equal) = match (condition.split_once("=="), condition.split_once("!=")) {
        (Some((path, wanted)), _) => (path, wanted, true),
        (None, Some((path, wanted))) => (path, wanted, false),
        (None, None) => return !json_path(item, condition).is_empty(),
    };
    let wanted = wanted.trim();
    let wanted = unquote(wanted).unwrap_or(wanted);
    let found = json_path(item, path.trim()).first().is_some_and(|v| plain(v) == wanted);
    found == equal
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{builtin, testing::tree};

    #[test]
    fn json_paths() {
        let object = tree(
            "{metadata: {annotations: {a.b/c: v}}, spec: {n: 3, list: [x, z]}, \
             status: {conditions: [{type: A, status: 'False'}, {type: Ready, status: 'True'}]}}",
        );
        let cases: &[(&str, &[&str])] = &[
            (".spec.n", &["3"]),
            (".spec.list[1]", &["z"]),
            (".spec.list[-1]", &["z"]),
            (".spec.list[*]", &["x", "z"]),
            (".metadata.annotations.a\\.b/c", &["v"]),
            (".metadata.annotations['a.b/c']", &["v"]),
            (".status.conditions[?(@.type==\"Ready\")].status", &["True"]),
            (".status.conditions[?(@.type=='Ready')].status", &["True"]),
            (".nothing.here", &[]),
            ("garbage", &[]),
            (".spec.list[", &[]),
        ];
        for (path, wanted) in cases {
            let found: Vec<String> = json_path(&object, path).into_iter().map(plain).collect();
            assert_eq!(found, *wanted, "{path}");
        }
    }

    #[test]
    fn every_kind_renders_an_empty_object() {
        let empty = Value::object();
        for kind in builtin() {
            let row = row(kind, &empty, Include::None, 0);
            let wanted = column_definitions(kind).len();
            assert_eq!(row.items_at(&["cells"]).len(), wanted, "{}", kind.kind);
        }
    }

    #[test]
    fn a_whole_table() {
        let kind = crate::kinds::builtin_kind("rbac.authorization.k8s.io", "Role").expect("built in");
        let object = tree("{kind: Role, metadata: {name: r, creationTimestamp: '2024-01-01T00:00:00Z'}}");
        let table = render(kind, [&object], Include::Metadata, 0, Some(tree("{resourceVersion: '7'}")));
        assert_eq!(table.str_at(&["metadata", "resourceVersion"]), "7");
        let row = &table.items_at(&["rows"])[0];
        assert_eq!(row.get("cells"), Some(&tree("[r, '2024-01-01T00:00:00Z']")));
        assert_eq!(row.str_at(&["object", "kind"]), "PartialObjectMetadata");
    }
}
