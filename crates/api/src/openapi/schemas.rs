//! Definitions of messages: the field table in the words of OpenAPI.

use std::collections::{BTreeSet, HashMap};

use super::Form;
use crate::kind::Kind;
use crate::kinds::Snapshot;
use crate::schema::{self, FieldRef, ListType, SchemaRef, Type};
use crate::{Object, Value};

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const DURATION: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Duration";
const FIELDS_V1: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1";
const RAW: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

/// Name of the definition that PATCH bodies refer to.
pub(super) const PATCH_BODY: &str = PATCH;

/// Definitions of the named messages and of all that they refer to.
pub(super) fn definitions(form: Form, kinds: &Snapshot, wanted: BTreeSet<String>) -> Object {
    let identities = identities(kinds);
    let custom = custom_schemas(kinds);
    let mut todo: Vec<String> = wanted.into_iter().collect();
    let mut done: BTreeSet<String> = todo.iter().cloned().collect();
    let mut made: Vec<(String, Value)> = Vec::new();
    while let Some(name) = todo.pop() {
        let mut walk = Walk { form, refs: BTreeSet::new() };
        let mut definition = match custom.get(name.as_str()) {
            Some(schema) => walk.custom(schema),
            None => walk.definition(&name),
        };
        if let Some(identities) = identities.get(name.as_str()) {
            definition.set("x-kubernetes-group-version-kind", identities.clone());
        }
        made.push((name, definition.into()));
        for name in walk.refs {
            if done.insert(name.clone()) {
                todo.push(name);
            }
        }
    }
    made.sort_by(|a, b| a.0.cmp(&b.0));
    made.into_iter().map(|(name, value)| (name.into(), value)).collect()
}

/// The definition's name of a kind: its message, or for a CRD its reversed group, version and kind.
pub(super) fn name_of(kind: &Kind, version: &crate::kind::Version, list: bool) -> String {
    let suffix = if list { &*kind.list_kind } else { &*kind.kind };
    match version.message.rsplit_once('.') {
        Some((package, _)) => format!("{package}.{suffix}"),
        None => {
            let reversed: Vec<&str> = kind.group.rsplit('.').collect();
            format!("{}.{}.{suffix}", reversed.join("."), version.name)
        }
    }
}

fn identity(group: &str, version: &str, kind: &str) -> Value {
    let mut gvk = Object::default();
    gvk.set("group", group);
    gvk.set("kind", kind);
    gvk.set("version", version);
    gvk.into()
}

/// Which definitions are kinds.
fn identities(kinds: &Snapshot) -> HashMap<String, Vec<Value>> {
    let mut all: HashMap<String, Vec<Value>> = HashMap::new();
    for kind in kinds.iter() {
        for version in kind.versions.iter().filter(|v| v.served) {
            let mut add = |list: bool, name: &str| {
                let identity = identity(&kind.group, &version.name, name);
                all.entry(name_of(kind, version, list)).or_default().push(identity);
            };
            add(false, &kind.kind);
            add(true, &kind.list_kind);
        }
    }
    let bodies = [
        ("io.k8s.api.autoscaling.v1.Scale", "autoscaling", "Scale"),
        ("io.k8s.api.policy.v1.Eviction", "policy", "Eviction"),
        ("io.k8s.api.authentication.v1.TokenRequest", "authentication.k8s.io", "TokenRequest"),
        ("io.k8s.apimachinery.pkg.apis.meta.v1.Status", "", "Status"),
        ("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions", "", "DeleteOptions"),
    ];
    for (message, group, kind) in bodies {
        all.entry(message.to_owned()).or_default().push(identity(group, "v1", kind));
    }
    all
}

/// The schemas of CRDs by the name of their definition; lists have an empty one.
fn custom_schemas(kinds: &Snapshot) -> HashMap<String, Value> {
    let mut all = HashMap::new();
    for kind in kinds.iter() {
        for version in kind.versions.iter().filter(|v| v.served && v.message.is_empty()) {
            let schema = version.open_api.as_deref().cloned().unwrap_or_else(Value::object);
            all.insert(
                name_of(kind, version, false),
                with_meta(schema, false, &name_of(kind, version, false)),
            );
            all.insert(
                name_of(kind, version, true),
                with_meta(Value::object(), true, &name_of(kind, version, false)),
            );
        }
    }
    all
}

/// A CRD's schema with the fields that every object has.
fn with_meta(mut schema: Value, list: bool, item: &str) -> Value {
    let object = schema.object_at_mut(&[]);
    object.set("type", Value::str("object"));
    let properties = schema.object_at_mut(&["properties"]);
    for field in ["apiVersion", "kind"] {
        let mut text = Object::default();
        text.set("type", Value::str("string"));
        text.set("description", sentence(field));
        properties.set(field, text);
    }
    let meta = if list { "ListMeta" } else { "ObjectMeta" };
    let mut metadata = Object::default();
    metadata.set("$message", format!("io.k8s.apimachinery.pkg.apis.meta.v1.{meta}"));
    properties.set("metadata", metadata);
    if list {
        let mut entry = Object::default();
        entry.set("$message", item);
        let mut items = Object::default();
        items.set("type", Value::str("array"));
        items.set("items", entry);
        properties.set("items", items);
    }
    schema
}

struct Walk {
    form: Form,
    refs: BTreeSet<String>,
}

impl Walk {
    fn definition(&mut self, name: &str) -> Object {
        if let Some(simple) = self.simple(name) {
            return simple;
        }
        let mut definition = Object::default();
        definition.set("type", Value::str("object"));
        let Some(message) = schema::message(name) else { return definition };
        let short = name.rsplit('.').next().unwrap_or(name);
        definition.set("description", sentence(short));
        let (mut properties, mut required) = (Object::default(), Vec::new());
        for field in message.fields() {
            if field.required() {
                required.push(Value::String(field.name().clone()));
            }
            properties.push_unchecked(field.name().clone(), self.property(field));
        }
        if !properties.is_empty() {
            definition.set("properties", properties);
        }
        if !required.is_empty() {
            definition.set("required", required);
        }
        if message.is_atomic() && message.ty() == Type::Struct {
            definition.set("x-kubernetes-map-type", Value::str("atomic"));
        }
        definition
    }

    /// Messages that JSON does not write as objects with fields.
    fn simple(&self, name: &str) -> Option<Object> {
        let mut definition = Object::default();
        let any_of = |types: [&'static str; 2]| -> Vec<Value> {
            types
                .iter()
                .map(|t| {
                    let mut of = Object::default();
                    of.set("type", Value::str(t));
                    of.into()
                })
                .collect()
        };
        match name {
            QUANTITY if self.form == Form::V3 => definition.set("oneOf", any_of(["string", "number"])),
            INT_OR_STRING if self.form == Form::V3 => {
                definition.set("format", Value::str("int-or-string"));
                definition.set("oneOf", any_of(["integer", "string"]));
            }
            QUANTITY | DURATION => definition.set("type", Value::str("string")),
            INT_OR_STRING => {
                definition.set("type", Value::str("string"));
                definition.set("format", Value::str("int-or-string"));
            }
            TIME | MICRO_TIME => {
                definition.set("type", Value::str("string"));
                definition.set("format", Value::str("date-time"));
            }
            FIELDS_V1 | RAW | PATCH => definition.set("type", Value::str("object")),
            _ => return None,
        }
        definition.set("description", sentence(name.rsplit('.').next().unwrap_or(name)));
        Some(definition)
    }

    fn property(&mut self, field: FieldRef<'_>) -> Value {
        let schema = field.schema();
        let mut property = self.value(schema);
        property.set("description", sentence(field.name()));
        if let Some(default) = schema.default() {
            property.set("default", default.clone());
        }
        if let Some(key) = schema.merge_key() {
            property.set("x-kubernetes-patch-merge-key", key);
        }
        if let Some(strategy) = patch_strategy(schema) {
            property.set("x-kubernetes-patch-strategy", strategy);
        }
        if schema.ty() == Type::List {
            let kind = match schema.list_type() {
                ListType::Atomic => "atomic",
                ListType::Set => "set",
                ListType::Map => "map",
            };
            property.set("x-kubernetes-list-type", Value::str(kind));
            if !schema.list_keys().is_empty() {
                let keys: Vec<Value> = schema.list_keys().iter().map(|k| Value::String(k.clone())).collect();
                property.set("x-kubernetes-list-map-keys", keys);
            }
        } else if schema.ty() == Type::Map && schema.is_atomic() {
            property.set("x-kubernetes-map-type", Value::str("atomic"));
        }
        property.into()
    }

    fn value(&mut self, schema: SchemaRef<'_>) -> Object {
        let mut value = Object::default();
        let mut typed = |kind: &'static str, format: &'static str| {
            value.set("type", Value::str(kind));
            if !format.is_empty() {
                value.set("format", Value::str(format));
            }
        };
        match schema.ty() {
            Type::Bool => typed("boolean", ""),
            Type::Int32 => typed("integer", "int32"),
            Type::Int64 => typed("integer", "int64"),
            Type::Float => typed("number", "double"),
            Type::String => typed("string", ""),
            Type::Bytes => typed("string", "byte"),
            Type::Time => return self.reference(TIME),
            Type::MicroTime => return self.reference(MICRO_TIME),
            Type::Duration => return self.reference(DURATION),
            Type::Quantity => return self.reference(QUANTITY),
            Type::IntOrString => return self.reference(INT_OR_STRING),
            Type::Raw => return self.reference(RAW),
            Type::FieldsV1 => return self.reference(FIELDS_V1),
            Type::Struct => return self.reference(schema.message()),
            Type::List => {
                typed("array", "");
                let items = schema.items().map(|items| self.value(items)).unwrap_or_default();
                value.set("items", items);
            }
            Type::Map => {
                typed("object", "");
                let values = schema.values().map(|values| self.value(values)).unwrap_or_default();
                value.set("additionalProperties", values);
            }
            _ => {}
        }
        let enums = schema.enum_values();
        if !enums.is_empty() {
            value.set("enum", enums.to_vec());
        }
        value
    }

    fn reference(&mut self, name: &str) -> Object {
        self.refs.insert(name.to_owned());
        let mut reference = Object::default();
        reference.set("$ref", self.form.reference(name));
        match self.form {
            Form::V2 => reference,
            Form::V3 => {
                let mut all = Object::default();
                all.set("allOf", vec![Value::Object(reference)]);
                all
            }
        }
    }

    /// A CRD's own schema; version 2 knows less and drops what it does not know.
    fn custom(&mut self, schema: &Value) -> Object {
        match self.custom_value(schema) {
            Value::Object(object) => object,
            _ => Object::default(),
        }
    }

    fn custom_value(&mut self, schema: &Value) -> Value {
        match schema {
            Value::Object(fields) => {
                if let Some(message) = fields.get("$message").and_then(Value::as_str) {
                    return self.reference(message).into();
                }
                let unknown_to_v2 = ["oneOf", "anyOf", "not", "nullable", "x-kubernetes-validations"];
                let kept = fields
                    .iter()
                    .filter(|(key, _)| self.form == Form::V3 || !unknown_to_v2.contains(&key.as_str()));
                let kept: Vec<_> = kept.map(|(key, value)| (key.clone(), value)).collect();
                kept.into_iter()
                    .map(|(key, value)| (key, self.custom_value(value)))
                    .collect::<Object>()
                    .into()
            }
            Value::Array(items) => {
                items.iter().map(|item| self.custom_value(item)).collect::<Vec<_>>().into()
            }
            other => other.clone(),
        }
    }
}

fn patch_strategy(schema: SchemaRef<'_>) -> Option<String> {
    let strategy = schema.patch_strategy();
    let words =
        [(strategy.merge, "merge"), (strategy.replace, "replace"), (strategy.retain_keys, "retainKeys")];
    let words: Vec<&str> = words.iter().filter(|(set, _)| *set).map(|(_, word)| *word).collect();
    (!words.is_empty()).then(|| words.join(","))
}

/// A name as a sentence: `terminationGracePeriodSeconds` becomes `Termination grace period seconds.`
fn sentence(name: &str) -> String {
    let mut text = String::with_capacity(name.len() + 8);
    let mut before = ' ';
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        let word_begins = c.is_ascii_uppercase()
            && (before.is_ascii_lowercase()
                || before.is_ascii_digit()
                || (before.is_ascii_uppercase() && chars.peek().is_some_and(char::is_ascii_lowercase)));
        if word_begins {
            text.push(' ');
        }
        let acronym =
            before.is_ascii_uppercase() || chars.peek().is_some_and(|next| next.is_ascii_uppercase());
        match c {
            c if text.is_empty() => text.extend(c.to_uppercase()),
            c if word_begins && !acronym => text.push(c.to_ascii_lowercase()),
            c => text.push(c),
        }
        before = c;
    }
    text.push('.');
    text
}

#[cfg(test)]
mod tests {
    use super::sentence;

    #[test]
    fn sentences() {
        let cases = [
            ("terminationGracePeriodSeconds", "Termination grace period seconds."),
            ("podIP", "Pod IP."),
            ("hostPID", "Host PID."),
            ("kind", "Kind."),
            ("PodSpec", "Pod spec."),
        ];
        for (name, wanted) in cases {
            assert_eq!(sentence(name), wanted);
        }
    }
}
