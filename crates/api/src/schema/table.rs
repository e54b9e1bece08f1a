//! The built-in schema, read once from the field table (`fields.tsv`): one line a field, columns named by its first line.
//!
//! `-` and `<inline>` stand for embedded structs: of a `TypeMeta` without a number (kind and apiVersion), or of a message that is
//! its own on the wire and whose fields are the outer one's in JSON. A field `*` speaks of the message itself: its Go type is
//! `struct` (with `atomic` as list type where server-side apply replaces it as a whole) or `=` and the message that it is another
//! name of. `omit` is `empty` for `omitempty`, `zero` for `omitempty,omitzero`. The `wire` column is not used: the Go type tells,
//! and upstream's tags are wrong in places.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::LazyLock;

use super::{Field, ListType, Node, NodeId, Omit, PatchStrategy, Rules, Schema, SchemaRef, Struct, StructId};
use super::{Type, Wire};
use crate::{Str, Value, json};

const TABLE: &str = include_str!("../../fields.tsv");
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const CORE: &str = "io.k8s.api.core.v1";
const RUNTIME: &str = "io.k8s.apimachinery.pkg.runtime";
const APIEXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions";
const APIREGISTRATION: &str = "io.k8s.kube-aggregator.pkg.apis.apiregistration";

/// FNV-1a: the table is ours, so nobody can aim at its hashes, and reading it is part of every start.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Names<T> = HashMap<&'static str, T, BuildHasherDefault<Fnv>>;

struct Table {
    schema: Schema,
    by_message: Names<StructId>,
}

static BUILTIN: LazyLock<Table> = LazyLock::new(|| Loader::default().load(TABLE));

/// The arena of all built-in messages.
pub fn builtin() -> &'static Schema {
    &BUILTIN.schema
}

/// A built-in struct by its full name, e.g. `io.k8s.api.core.v1.Pod`.
pub fn message(name: &str) -> Option<SchemaRef<'static>> {
    let table = &*BUILTIN;
    let id = table.by_message.get(name)?;
    Some(table.schema.node(NodeId(id.0)))
}

/// All built-in structs in the table's order.
pub fn messages() -> impl Iterator<Item = SchemaRef<'static>> {
    let schema = builtin();
    (0..schema.structs.len() as u32).map(|i| schema.node(NodeId(i)))
}

/// The built-in schema of a kind (lists and subresource bodies too). Kinds of `meta/v1` (`Status`, `DeleteOptions`,
/// `PartialObjectMetadata` …) are found under every group and version, as clients may send them so.
pub fn for_kind(group: &str, version: &str, kind: &str) -> Option<SchemaRef<'static>> {
    message(&format!("{}.{version}.{kind}", package(group))).or_else(|| message(&format!("{META}.{kind}")))
}

/// The Go package path of an API group, as OpenAPI spells it.
fn package(group: &str) -> String {
    match group {
        "" => "io.k8s.api.core".to_owned(),
        "apiextensions.k8s.io" => APIEXTENSIONS.to_owned(),
        "apiregistration.k8s.io" => APIREGISTRATION.to_owned(),
        "internal.apiserver.k8s.io" => "io.k8s.api.apiserverinternal".to_owned(),
        _ => format!("io.k8s.api.{}", group.split('.').next().unwrap_or(group)),
    }
}

/// One line of the table.
struct Row {
    columns: [&'static str; 14],
}

impl Row {
    fn parse(line: &'static str) -> Row {
        let mut columns = [""; 14];
        for (slot, text) in columns.iter_mut().zip(line.split('\t')) {
            *slot = text;
        }
        Row { columns }
    }

    fn message(&self) -> &'static str {
        self.columns[0]
    }
    fn package(&self) -> &'static str {
        self.message().rsplit_once('.').map_or("", |(package, _)| package)
    }
    fn field(&self) -> &'static str {
        self.columns[1]
    }
    fn number(&self) -> u32 {
        self.columns[2].parse().unwrap_or(0)
    }
    fn go(&self) -> &'static str {
        self.columns[5]
    }
    fn list_type(&self) -> &'static str {
        self.columns[6]
    }
    fn is_type_meta(&self) -> bool {
        self.go().rsplit('.').next() == Some("TypeMeta") && self.number() == 0
    }
    fn omit(&self) -> Omit {
        match self.columns[13] {
            "empty" => Omit::Empty,
            "zero" => Omit::Zero,
            _ => Omit::Never,
        }
    }
    fn patch(&self) -> PatchStrategy {
        let has = |word| self.columns[8].split(',').any(|w| w == word);
        PatchStrategy { merge: has("merge"), replace: has("replace"), retain_keys: has("retainKeys") }
    }

    /// Keys, default and enum, where the row has any.
    fn rules(&self) -> Option<Box<Rules>> {
        let [_, _, _, _, _, _, _, keys, _, merge_key, default, _, enums, _] = self.columns;
        if keys.is_empty() && merge_key.is_empty() && default.is_empty() && enums.is_empty() {
            return None;
        }
        let words = |text: &'static str| text.split(',').filter(|w| !w.is_empty());
        Some(Box::new(Rules {
            list_keys: words(keys).map(Str::from_static).collect(),
            merge_key: (!merge_key.is_empty()).then(|| Str::from_static(merge_key)),
            default: (!default.is_empty()).then(|| literal(default)),
            enum_values: words(enums).map(Value::str).collect(),
            ..Rules::default()
        }))
    }
}

/// A default as the table writes it: JSON, or a bare word for a string.
fn literal(text: &'static str) -> Value {
    json::parse(&bytes::Bytes::from_static(text.as_bytes())).unwrap_or(Value::str(text))
}

#[derive(Default)]
struct Loader {
    schema: Schema,
    by_message: Names<StructId>,
    /// Nodes without rules of their own, shared by all fields of that Go type in the package that is being read.
    plain: Names<NodeId>,
    /// The same for types that are alike everywhere.
    scalars: Names<NodeId>,
    package: &'static str,
    /// Space to put names together.
    name: String,
}

impl Loader {
    fn load(mut self, text: &'static str) -> Table {
        self.schema.built_in = true;
        self.schema.fields.reserve(6000);
        self.schema.nodes.reserve(4500);
        self.schema.structs.reserve(1300);
        self.by_message.reserve(1300);
        self.name_messages(text);
        self.read_fields(text);
        self.sort_fields();
        Table { schema: self.schema, by_message: self.by_message }
    }

    /// Every message gets its struct and, under the same number, its node, so that fields can point at what comes later.
    fn name_messages(&mut self, text: &'static str) {
        let mut aliases = Vec::new();
        for line in text.lines().skip(1) {
            let (message, rest) = line.split_once('\t').unwrap_or((line, ""));
            if !rest.starts_with("*\t") {
                self.name_message(message);
                continue;
            }
            let row = Row::parse(line);
            match row.go().strip_prefix('=') {
                Some(target) => aliases.push((message, target)),
                None => {
                    let id = self.name_message(message);
                    self.schema.nodes[id.0 as usize].atomic = row.list_type() == "atomic";
                }
            }
        }
        for (alias, target) in aliases {
            if let Some(&id) = self.by_message.get(target) {
                self.by_message.insert(alias, id);
            }
        }
    }

    fn name_message(&mut self, message: &'static str) -> StructId {
        if let Some(last) = self.schema.structs.last()
            && last.message == message
        {
            return StructId(self.schema.structs.len() as u32 - 1);
        }
        let id = StructId(self.schema.structs.len() as u32);
        self.schema.structs.push(Struct { message, ..Struct::default() });
        self.schema.push_node(Node { ty: Type::Struct, fields: id, ..Node::default() });
        self.by_message.insert(message, id);
        id
    }

    fn read_fields(&mut self, text: &'static str) {
        let mut at = 0;
        for row in text.lines().skip(1).map(Row::parse).filter(|row| !row.go().starts_with('=')) {
            if self.schema.structs[at].message != row.message() {
                at += 1;
                self.schema.structs[at].first = self.schema.fields.len() as u32;
            }
            if row.field() != "*" {
                self.read_field(&row);
            }
            let first = self.schema.structs[at].first;
            self.schema.structs[at].len = self.schema.fields.len() as u32 - first;
        }
    }

    fn read_field(&mut self, row: &Row) {
        if row.is_type_meta() {
            let text = self.type_node("", "string");
            self.schema.fields.extend(["kind", "apiVersion"].map(|name| plain_field(name, text)));
            return;
        }
        let embedded = matches!(row.field(), "-" | "<inline>");
        let node = self.field_node(row);
        if embedded && self.schema.nodes[node.0 as usize].ty != Type::Struct {
            return;
        }
        self.schema.fields.push(Field {
            name: Str::from_static(if embedded { "" } else { row.field() }),
            node,
            wire: Wire { number: row.number(), embedded },
            omit: row.omit(),
            required: !embedded && row.columns[11] == "required",
            pointer: row.go().starts_with('*'),
        });
    }

    /// The node of a field: the shared one of its Go type, or a copy that carries the field's rules.
    fn field_node(&mut self, row: &Row) -> NodeId {
        let id = self.type_node(row.package(), row.go());
        let (patch, rules) = (row.patch(), row.rules());
        if row.list_type().is_empty() && patch == PatchStrategy::default() && rules.is_none() {
            return id;
        }
        let mut node = self.schema.nodes[id.0 as usize].clone();
        (node.patch, node.rules) = (patch, rules);
        match (node.ty, row.list_type()) {
            (Type::List, "set") => node.list_type = ListType::Set,
            (Type::List, "map") => node.list_type = ListType::Map,
            (Type::Struct | Type::Map, word) if !word.is_empty() => node.atomic = word == "atomic",
            _ => {}
        }
        self.schema.push_node(node)
    }

    fn type_node(&mut self, package: &'static str, go: &'static str) -> NodeId {
        let go = go.trim_start_matches('*');
        if package != self.package && !package.is_empty() {
            self.package = package;
            self.plain.clear();
        }
        if let Some(&id) = self.scalars.get(go).or_else(|| self.plain.get(go)) {
            return id;
        }
        let node = self.new_node(package, go);
        let anywhere = matches!(node.ty, Type::Bool | Type::Int32 | Type::Int64 | Type::Float | Type::Bytes)
            || matches!(go, "string" | "[]string" | "metav1.Time" | "metav1.ObjectMeta" | "metav1.ListMeta");
        let id = self.schema.push_node(node);
        if anywhere {
            self.scalars.insert(go, id)
        } else {
            self.plain.insert(go, id)
        };
        id
    }

    fn new_node(&mut self, package: &'static str, go: &'static str) -> Node {
        let spelled_out = go != "[]byte" && (go.starts_with('[') || go.starts_with("map["));
        let name = go.rsplit('.').next().unwrap_or(go);
        if let Some(ty) = special(name).filter(|_| !spelled_out) {
            let item = match ty {
                Type::List => self.type_node("", "string"),
                Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStrings => {
                    self.type_node(package, "JSONSchemaProps")
                }
                _ => NodeId(0),
            };
            return Node { ty, item, go, ..Node::default() };
        }
        match container(go) {
            Some((ty, item)) => Node { ty, item: self.type_node(package, item), go, ..Node::default() },
            None => self.named_node(package, go),
        }
    }

    fn named_node(&mut self, package: &str, go: &'static str) -> Node {
        match self.resolve(package, go) {
            Some(id) => Node { go, ..self.schema.nodes[id.0 as usize].clone() },
            None => Node { ty: Type::String, go, ..Node::default() },
        }
    }

    /// The message that a Go type names in a package. The import aliases are few and used alike everywhere.
    fn resolve(&mut self, package: &str, go: &str) -> Option<StructId> {
        let Some((alias, name)) = go.split_once('.') else { return self.find(&[package], go) };
        let group = package.rsplit_once('.').map_or("", |(group, _)| group);
        match alias {
            "metav1" => self.find(&[META], name),
            "runtime" => self.find(&[RUNTIME], name),
            "corev1" | "apiv1" => self.find(&[CORE], name),
            "v1" => self
                .find(&[CORE], name)
                .or_else(|| self.find(&[META], name))
                .or_else(|| self.find(&[group, ".v1"], name))
                .or_else(|| self.find(&["io.k8s.api.authentication.v1"], name)),
            _ => {
                let (group, version) = alias.split_at(alias.rfind('v').unwrap_or(alias.len()));
                self.find(&["io.k8s.api.", group, ".", version], name)
            }
        }
    }

    fn find(&mut self, package: &[&str], name: &str) -> Option<StructId> {
        self.name.clear();
        self.name.extend(package.iter().copied());
        self.name.push('.');
        self.name.push_str(name);
        self.by_message.get(self.name.as_str()).copied()
    }

    fn sort_fields(&mut self) {
        for at in 0..self.schema.structs.len() {
            let mut names = Vec::new();
            self.flatten(at, &mut names);
            let field = |i: u32| &self.schema.fields[i as usize];
            names.sort_by(|&a, &b| field(a).name.cmp(&field(b).name));
            let always = names.iter().copied().filter(|&i| self.always_written(field(i))).collect();
            let defaulted = names.iter().copied().filter(|&i| self.has_default(field(i))).collect();
            let own =
                self.schema.structs[at].first..self.schema.structs[at].first + self.schema.structs[at].len;
            let mut by_number: Vec<u32> = own.filter(|&i| field(i).wire.number > 0).collect();
            by_number.sort_by_key(|&i| field(i).wire.number);
            let slot = &mut self.schema.structs[at];
            slot.by_number = by_number;
            (slot.by_name, slot.always, slot.defaulted) = (names, always, defaulted);
        }
    }

    /// A default that is the zero value changes nothing unless a pointer tells it from absence.
    fn has_default(&self, field: &Field) -> bool {
        let rules = &self.schema.nodes[field.node.0 as usize].rules;
        let default = rules.as_ref().and_then(|r| r.default.as_ref());
        let zero = matches!(default, Some(Value::Int(0) | Value::Bool(false)))
            || default.and_then(Value::as_str).is_some_and(str::is_empty);
        default.is_some() && (field.pointer || !zero)
    }

    fn flatten(&self, at: usize, names: &mut Vec<u32>) {
        let s = &self.schema.structs[at];
        for i in s.first..s.first + s.len {
            let field = &self.schema.fields[i as usize];
            match field.wire.embedded {
                true => {
                    let inner = self.schema.nodes[field.node.0 as usize].fields;
                    self.flatten(inner.0 as usize, names);
                }
                false => names.push(i),
            }
        }
    }

    /// `omitempty` has no effect on Go structs, and several scalars of the API are structs in Go.
    fn always_written(&self, field: &Field) -> bool {
        let ty = self.schema.nodes[field.node.0 as usize].ty;
        let struct_in_go = matches!(
            ty,
            Type::Struct
                | Type::Time
                | Type::MicroTime
                | Type::Duration
                | Type::Quantity
                | Type::IntOrString
                | Type::Raw
        );
        match field.omit {
            Omit::Never => true,
            Omit::Empty => struct_in_go && !field.pointer,
            Omit::Zero | Omit::Keep => false,
        }
    }
}

fn plain_field(name: &'static str, node: NodeId) -> Field {
    Field {
        name: Str::from_static(name),
        node,
        wire: Wire::default(),
        omit: Omit::Empty,
        required: false,
        pointer: false,
    }
}

/// Go types with a form of their own in JSON, by their name without the package.
fn special(name: &str) -> Option<Type> {
    Some(match name {
        "string" => Type::String,
        "bool" => Type::Bool,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "float64" => Type::Float,
        "interface{}" | "JSON" => Type::Any,
        "[]byte" => Type::Bytes,
        "Time" => Type::Time,
        "MicroTime" => Type::MicroTime,
        "Duration" => Type::Duration,
        "Quantity" => Type::Quantity,
        "IntOrString" => Type::IntOrString,
        "RawExtension" => Type::Raw,
        "FieldsV1" => Type::FieldsV1,
        "JSONSchemaPropsOrArray" => Type::SchemaOrArray,
        "JSONSchemaPropsOrBool" => Type::SchemaOrBool,
        "JSONSchemaPropsOrStringArray" => Type::SchemaOrStrings,
        "Verbs" | "ExtraValue" | "AttestationValue" => Type::List,
        _ => return None,
    })
}

/// Lists and maps, spelled out or behind a name, with the Go type of what they hold.
fn container(go: &'static str) -> Option<(Type, &'static str)> {
    match go.rsplit('.').next().unwrap_or(go) {
        "ResourceList" => return Some((Type::Map, "resource.Quantity")),
        "JSONSchemaDefinitions" => return Some((Type::Map, "JSONSchemaProps")),
        "JSONSchemaDependencies" => return Some((Type::Map, "JSONSchemaPropsOrStringArray")),
        "ValidationRules" => return Some((Type::List, "ValidationRule")),
        _ => {}
    }
    if let Some(item) = go.strip_prefix("[]") {
        return Some((Type::List, item));
    }
    let (_, value) = go.strip_prefix("map[")?.split_once(']')?;
    Some((Type::Map, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_varint_field_has_a_number_type_and_every_item_resolves() {
        for row in TABLE.lines().skip(1).map(Row::parse).filter(|r| r.columns[3] == "varint") {
            let field = message(row.message()).unwrap().declared_fields().find(|f| f.name() == row.field());
            let mut schema = field.unwrap().schema();
            schema = schema.items().unwrap_or(schema);
            assert!(
                matches!(schema.ty(), Type::Int32 | Type::Int64 | Type::Bool | Type::IntOrString)
                    || ["stream", "propagationPolicy"].contains(&row.field()), // strings with the wrong tag upstream
                "{} {}: {:?}",
                row.message(),
                row.field(),
                schema
            );
        }
    }

    #[test]
    fn names_of_known_structs_do_not_turn_into_strings() {
        let mut wrong = Vec::new();
        for schema in messages() {
            for field in schema.declared_fields() {
                let inner = field.schema().items().or(field.schema().values()).unwrap_or(field.schema());
                let go = inner.go_type().rsplit('.').next().unwrap_or_default();
                let looks_like_struct = ["Spec", "Status", "Source", "Reference", "List", "Meta", "Selector"]
                    .iter()
                    .any(|suffix| go.ends_with(suffix) && !go.ends_with("ConditionStatus"));
                let enumerated = !inner.enum_values().is_empty() || !field.schema().enum_values().is_empty();
                if inner.ty() == Type::String && looks_like_struct && !enumerated {
                    wrong.push(format!("{}.{} {go}", schema.message(), field.name()));
                }
            }
        }
        // Three enumerations are named like structs.
        let expected = [
            "core.v1.PersistentVolumeClaimStatus.allocatedResourceStatuses ClaimResourceStatus",
            "core.v1.ResourceHealth.health ResourceHealthStatus",
            "core.v1.PodStatus.resize PodResizeStatus",
        ];
        assert_eq!(wrong, expected.map(|name| format!("io.k8s.api.{name}")));
    }

    #[test]
    fn kinds_are_found_under_their_groups() {
        for (group, version, kind, found) in [
            ("", "v1", "Pod", "io.k8s.api.core.v1.Pod"),
            ("", "v1", "PodList", "io.k8s.api.core.v1.PodList"),
            ("apps", "v1", "Deployment", "io.k8s.api.apps.v1.Deployment"),
            ("rbac.authorization.k8s.io", "v1", "Role", "io.k8s.api.rbac.v1.Role"),
            ("", "v1", "Status", "io.k8s.apimachinery.pkg.apis.meta.v1.Status"),
            ("apps", "v1", "DeleteOptions", "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"),
            ("meta.k8s.io", "v1", "Table", "io.k8s.apimachinery.pkg.apis.meta.v1.Table"),
            ("autoscaling", "v1", "Scale", "io.k8s.api.autoscaling.v1.Scale"),
            (
                "apiregistration.k8s.io",
                "v1",
                "APIService",
                "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService",
            ),
            (
                "apiextensions.k8s.io",
                "v1",
                "CustomResourceDefinition",
                "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
            ),
        ] {
            assert_eq!(for_kind(group, version, kind).map(SchemaRef::message), Some(found));
        }
        assert_eq!(for_kind("", "v1", "Nope"), None);
    }

    #[test]
    fn embedded_structs_lend_their_fields() {
        let volume = message("io.k8s.api.core.v1.Volume").unwrap();
        assert!(volume.field("hostPath").is_some() && volume.field("name").is_some());
        assert_eq!(volume.declared_fields().len(), 2);
        let schema =
            message("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").unwrap();
        let below = schema.child("properties").and_then(SchemaRef::values).unwrap();
        assert_eq!(below.message(), schema.message());
    }

    #[test]
    fn merge_facts_reach_the_nodes() {
        let pod = message("io.k8s.api.core.v1.PodSpec").unwrap();
        let volumes = pod.child("volumes").unwrap();
        assert!(volumes.patch_strategy().merge && volumes.patch_strategy().retain_keys);
        assert!(pod.child("nodeSelector").unwrap().is_atomic());
        assert_eq!(pod.child("tolerations").unwrap().list_type(), ListType::Atomic);
        let service = message("io.k8s.api.core.v1.ServiceSpec").unwrap();
        assert!(service.child("selector").unwrap().is_atomic());
        let rs = message("io.k8s.api.apps.v1.ReplicaSetSpec").unwrap();
        assert!(rs.child("selector").unwrap().is_atomic(), "LabelSelector is an atomic struct");
        let port = message("io.k8s.api.core.v1.ContainerPort").unwrap();
        assert_eq!(port.child("protocol").unwrap().default(), Some(&Value::str("TCP")));
    }
}
