//! Custom resources: an OpenAPI v3 structural schema (`openAPIV3Schema` of a CRD version) becomes the same arena.

use super::{Field, Limits, ListType, Node, NodeId, Omit, Rules, Schema, Struct, StructId, Type, Wire};
use crate::{Str, Value};

impl Schema {
    /// The arena of a custom resource's schema; `null` (no schema) knows nothing and keeps everything. What the schema says
    /// is taken as it is: whether it may say so, the validation of the CRD decides.
    pub fn from_open_api(schema: &Value) -> Schema {
        let mut arena = Schema::default();
        let root = arena.push_node(Node::default());
        let mut node = arena.structural(schema, true);
        if schema.is_null() {
            node.preserve_unknown = true;
        }
        arena.nodes[root.0 as usize] = node;
        arena
    }

    fn structural(&mut self, schema: &Value, is_root: bool) -> Node {
        let flag = |name: &str| schema.get(name).and_then(Value::as_bool).unwrap_or(false);
        let embedded = is_root || flag("x-kubernetes-embedded-resource");
        let mut node = Node {
            ty: type_of(schema, embedded),
            nullable: flag("nullable"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded,
            atomic: schema.str_at(&["x-kubernetes-map-type"]) == "atomic",
            list_type: match schema.str_at(&["x-kubernetes-list-type"]) {
                "set" => ListType::Set,
                "map" => ListType::Map,
                _ => ListType::Atomic,
            },
            rules: rules(schema),
            ..Node::default()
        };
        match node.ty {
            Type::Struct => node.fields = self.properties(schema, embedded),
            Type::Map => node.item = self.child(schema.get("additionalProperties")),
            Type::List => node.item = self.child(schema.get("items")),
            _ => {}
        }
        node
    }

    /// `true` and nothing at all allow anything.
    fn child(&mut self, schema: Option<&Value>) -> NodeId {
        let node = match schema {
            Some(schema @ Value::Object(_)) => self.structural(schema, false),
            _ => Node { preserve_unknown: true, ..Node::default() },
        };
        self.push_node(node)
    }

    fn properties(&mut self, schema: &Value, embedded: bool) -> StructId {
        let required: Vec<&str> = schema.items_at(&["required"]).iter().filter_map(Value::as_str).collect();
        let mut fields = Vec::new();
        for (name, property) in
            schema.get("properties").and_then(Value::as_object).into_iter().flat_map(|p| p.iter())
        {
            let node = self.child(Some(property));
            fields.push(field(name.detached(), node, required.contains(&name.as_str())));
        }
        if embedded {
            self.implied(&mut fields);
        }
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        let first = self.fields.len() as u32;
        let by_name: Vec<u32> = (first..first + fields.len() as u32).collect();
        self.fields.extend(fields);
        let has_default = |i: &u32| {
            let node = &self.nodes[self.fields[*i as usize].node.0 as usize];
            node.rules.as_ref().is_some_and(|r| r.default.is_some())
        };
        let defaulted = by_name.iter().copied().filter(has_default).collect();
        let len = by_name.len() as u32;
        self.structs.push(Struct { first, len, by_name, defaulted, ..Struct::default() });
        StructId(self.structs.len() as u32 - 1)
    }

    /// Every object has these, whether its schema names them or not.
    fn implied(&mut self, fields: &mut Vec<Field>) {
        for (name, ty) in [("apiVersion", Type::String), ("kind", Type::String), ("metadata", Type::Any)] {
            if !fields.iter().any(|f| f.name == name) {
                let node = self.push_node(Node { ty, ..Node::default() });
                fields.push(field(Str::from_static(name), node, false));
            }
        }
    }
}

fn field(name: Str, node: NodeId, required: bool) -> Field {
    Field { name, node, wire: Wire::default(), omit: Omit::Keep, required, pointer: false }
}

fn type_of(schema: &Value, embedded: bool) -> Type {
    if schema.get("x-kubernetes-int-or-string").and_then(Value::as_bool) == Some(true) {
        return Type::IntOrString;
    }
    let has_map =
        !matches!(schema.get("additionalProperties"), None | Some(Value::Null | Value::Bool(false)));
    match schema.str_at(&["type"]) {
        "object" if has_map && !embedded => Type::Map,
        "object" => Type::Struct,
        "array" => Type::List,
        "string" => Type::String,
        "integer" => Type::Int64,
        "number" => Type::Float,
        "boolean" => Type::Bool,
        _ if embedded || schema.get("properties").is_some() => Type::Struct,
        _ => Type::Any,
    }
}

fn rules(schema: &Value) -> Option<Box<Rules>> {
    let strings = |name| schema.items_at(&[name]).iter().filter_map(Value::as_str).map(Str::from).collect();
    let limits = limits(schema);
    let rules = Rules {
        list_keys: strings("x-kubernetes-list-map-keys"),
        merge_key: None,
        default: schema.get("default").cloned(),
        enum_values: schema.items_at(&["enum"]).to_vec(),
        limits: (limits != Limits::default()).then(|| Box::new(limits)),
    };
    let empty = rules.list_keys.is_empty()
        && rules.default.is_none()
        && rules.enum_values.is_empty()
        && rules.limits.is_none();
    (!empty).then(|| Box::new(rules))
}

fn limits(schema: &Value) -> Limits {
    let text = |name| schema.get(name).and_then(Value::as_str).map(Str::from);
    let flag = |name| schema.get(name).and_then(Value::as_bool).unwrap_or(false);
    let number = |name| match schema.get(name) {
        Some(Value::Int(n)) => Some(*n as f64),
        Some(Value::Float(n)) => Some(*n),
        _ => None,
    };
    let length = |names: [&str; 3]| {
        names.iter().find_map(|name| u64::try_from(schema.get(name).and_then(Value::as_i64)?).ok())
    };
    let checks = ["x-kubernetes-validations", "allOf", "anyOf", "oneOf", "not"];
    let checks: crate::Object =
        checks.iter().filter_map(|name| Some((Str::from_static(name), schema.get(name)?.clone()))).collect();
    Limits {
        type_name: text("type").unwrap_or_default(),
        format: text("format"),
        description: text("description"),
        required: schema.items_at(&["required"]).iter().filter_map(Value::as_str).map(Str::from).collect(),
        minimum: number("minimum").map(|n| (n, flag("exclusiveMinimum"))),
        maximum: number("maximum").map(|n| (n, flag("exclusiveMaximum"))),
        multiple_of: number("multipleOf"),
        min_len: length(["minLength", "minItems", "minProperties"]),
        max_len: length(["maxLength", "maxItems", "maxProperties"]),
        pattern: text("pattern"),
        unique_items: flag("uniqueItems"),
        checks: (!checks.is_empty()).then_some(Value::Object(checks)),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::json;
    use crate::schema::{Mode, conform};

    const WIDGET: &str = r#"{"type":"object","required":["spec"],"properties":{
        "spec":{"type":"object","required":["size"],"properties":{
            "size":{"type":"integer","minimum":1,"default":3},
            "port":{"x-kubernetes-int-or-string":true},
            "labels":{"type":"object","additionalProperties":{"type":"string"}},
            "rules":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["name"],
                "items":{"type":"object","properties":{"name":{"type":"string"},"on":{"type":"boolean","default":true}}}},
            "free":{"type":"object","x-kubernetes-preserve-unknown-fields":true},
            "note":{"type":"string","nullable":true,"default":"x"},
            "template":{"type":"object","x-kubernetes-embedded-resource":true}}}}}"#;

    fn parsed(text: &str) -> Value {
        json::parse(&Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    fn walk(schema: &str, body: &str) -> (String, Vec<String>) {
        let arena = Schema::from_open_api(&parsed(schema));
        let mut value = parsed(body);
        let findings = conform(&mut value, arena.root(), Mode::REQUEST).unwrap();
        (json::to_string(&value), findings.unknown)
    }

    #[test]
    fn the_arena_tells_what_the_schema_says() {
        let arena = Schema::from_open_api(&parsed(WIDGET));
        let spec = arena.root().child("spec").unwrap();
        let rules = spec.child("rules").unwrap();
        assert_eq!(
            (rules.ty(), rules.list_type(), rules.list_keys()),
            (Type::List, ListType::Map, &[Str::from("name")][..])
        );
        assert_eq!(spec.child("labels").unwrap().values().unwrap().ty(), Type::String);
        assert_eq!(spec.child("port").unwrap().ty(), Type::IntOrString);
        assert!(spec.field("size").unwrap().required() && arena.root().embedded_resource());
        let size = spec.child("size").unwrap();
        assert_eq!(size.rules().unwrap().limits.as_ref().unwrap().minimum, Some((1.0, false)));
    }

    #[test]
    fn unknown_fields_go_and_defaults_come() {
        let (written, unknown) = walk(
            WIDGET,
            r#"{"apiVersion":"a/v1","kind":"Widget","metadata":{"name":"w","foo":1,"labels":{}},"extra":1,
            "spec":{"wrong":2,"port":"http","labels":{"a":"b"},"rules":[{"name":"r","nope":1}],"free":{"any":{"thing":null}},
            "template":{"kind":"X","metadata":{"name":"t","bar":1},"spec":{}}}}"#,
        );
        assert_eq!(
            unknown,
            [
                "metadata.foo",
                "extra",
                "spec.wrong",
                "spec.rules[0].nope",
                "spec.template.metadata.bar",
                "spec.template.spec"
            ]
        );
        assert_eq!(
            written,
            r#"{"apiVersion":"a/v1","kind":"Widget","metadata":{"name":"w"},"spec":{"port":"http","labels":{"a":"b"},"rules":[{"name":"r","on":true}],"free":{"any":{"thing":null}},"template":{"kind":"X","metadata":{"name":"t"}},"note":"x","size":3}}"#
        );
    }

    #[test]
    fn types_and_nulls_stay_for_the_validation() {
        let (written, unknown) =
            walk(WIDGET, r#"{"spec":{"size":"big","note":null,"labels":[],"rules":{"a":1}}}"#);
        assert_eq!(unknown, Vec::<String>::new());
        assert_eq!(written, r#"{"spec":{"size":"big","note":null,"labels":[],"rules":{"a":1}}}"#);
        let (written, _) = walk(WIDGET, r#"{"spec":{"size":null}}"#);
        assert_eq!(written, r#"{"spec":{"note":"x","size":3}}"#);
    }

    #[test]
    fn without_a_schema_everything_stays() {
        let (written, unknown) =
            walk("null", r#"{"kind":"A","x":{"y":[1]},"metadata":{"uid":5}}"#.replace("5", "\"5\"").as_str());
        assert_eq!(
            (written.as_str(), unknown.len()),
            (r#"{"kind":"A","x":{"y":[1]},"metadata":{"uid":"5"}}"#, 0)
        );
    }
}
