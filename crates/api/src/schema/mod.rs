//! One schema for built-in kinds and custom resources: a flat arena of nodes, walked with copyable handles.
//!
//! ```
//! use corten_api::schema::{self, ListType, Type};
//! let pod = schema::for_kind("", "v1", "Pod").expect("built in");
//! let containers = pod.child("spec").and_then(|spec| spec.child("containers")).expect("in the field table");
//! assert_eq!((containers.ty(), containers.list_type()), (Type::List, ListType::Map));
//! assert_eq!(containers.merge_key(), Some("name"));
//! let image = containers.items().and_then(|c| c.child("image")).expect("in the field table");
//! assert_eq!(image.ty(), Type::String);
//! ```

mod conform;
mod gotype;
mod structural;
mod table;

use std::fmt;

pub use conform::{DecodeError, Findings, MAX_FINDINGS, Mode, cannot_handle, conform, settle};
pub use table::{builtin, for_kind, message, messages};

use crate::{Str, Value};

/// What a value may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Type {
    /// Any JSON value, kept as it is (`apiextensions.JSON`, `x-kubernetes-preserve-unknown-fields` without a type).
    #[default]
    Any,
    /// `true`, `false`
    Bool,
    /// Go's int32.
    Int32,
    /// Go's int64.
    Int64,
    /// Go's float64.
    Float,
    /// Text.
    String,
    /// Base64 in JSON, bytes in protobuf.
    Bytes,
    /// `metav1.Time`: RFC 3339, seconds.
    Time,
    /// `metav1.MicroTime`: RFC 3339, microseconds.
    MicroTime,
    /// `metav1.Duration`: `1h2m3s`.
    Duration,
    /// `resource.Quantity`: `500m`.
    Quantity,
    /// `intstr.IntOrString`: an int32 or a string.
    IntOrString,
    /// `runtime.RawExtension`: any object, kept as it is.
    Raw,
    /// `metav1.FieldsV1`: the set of fields of server-side apply, kept as it is.
    FieldsV1,
    /// `JSONSchemaPropsOrArray`: an object of the item schema or a list of them.
    SchemaOrArray,
    /// `JSONSchemaPropsOrBool`: an object of the item schema or a boolean.
    SchemaOrBool,
    /// `JSONSchemaPropsOrStringArray`: an object of the item schema or a list of strings.
    SchemaOrStrings,
    /// A map with known fields.
    Struct,
    /// A map of names to values of one schema.
    Map,
    /// A list of values of one schema.
    List,
}

/// How lists merge under server-side apply (`x-kubernetes-list-type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// Replaced as a whole.
    #[default]
    Atomic,
    /// Scalars, each there once.
    Set,
    /// Objects told apart by [`SchemaRef::list_keys`].
    Map,
}

/// How a strategic merge patch treats a field (`x-kubernetes-patch-strategy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// Lists merge by [`SchemaRef::merge_key`] (or as sets of scalars) instead of being replaced.
    pub merge: bool,
    /// The patch replaces the object as a whole.
    pub replace: bool,
    /// Keys that the patch's `$retainKeys` does not name are cleared.
    pub retain_keys: bool,
}

/// When a field leaves the object on Go's way through a struct and back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Omit {
    /// Custom resources: what is there stays, what is not is not added.
    #[default]
    Keep,
    /// No `omitempty`: written even where it was not given.
    Never,
    /// `omitempty`: zero scalars and empty lists and maps go (structs stay).
    Empty,
    /// `omitempty,omitzero`: zero structs go too.
    Zero,
}

/// What only few nodes have.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Keys of a `listType=map` list.
    pub list_keys: Vec<Str>,
    /// `patchMergeKey`.
    pub merge_key: Option<Str>,
    /// Declared default.
    pub default: Option<Value>,
    /// Allowed values.
    pub enum_values: Vec<Value>,
    /// What only schemas of custom resources have.
    pub limits: Option<Box<Limits>>,
}

/// The rest of an OpenAPI schema, for validation and `explain` of custom resources.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// OpenAPI `type`, `""` for none.
    pub type_name: Str,
    /// OpenAPI `format`.
    pub format: Option<Str>,
    /// One or more sentences for `explain`.
    pub description: Option<Str>,
    /// Names of fields that must be there.
    pub required: Vec<Str>,
    /// `minimum`, and is it exclusive?
    pub minimum: Option<(f64, bool)>,
    /// `maximum`, and is it exclusive?
    pub maximum: Option<(f64, bool)>,
    /// `multipleOf`
    pub multiple_of: Option<f64>,
    /// `minLength`, `minItems` or `minProperties`, whichever fits the type.
    pub min_len: Option<u64>,
    /// `maxLength`, `maxItems` or `maxProperties`, whichever fits the type.
    pub max_len: Option<u64>,
    /// `pattern`
    pub pattern: Option<Str>,
    /// `uniqueItems`
    pub unique_items: bool,
    /// `x-kubernetes-validations`, `allOf`, `anyOf`, `oneOf`, `not`: kept as given, for who evaluates them.
    pub checks: Option<Value>,
}

/// Index into an arena's nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct NodeId(u32);

/// Index into an arena's structs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct StructId(u32);

#[derive(Clone, Debug, Default)]
struct Node {
    ty: Type,
    list_type: ListType,
    patch: PatchStrategy,
    /// Server-side apply replaces the whole map or struct.
    atomic: bool,
    nullable: bool,
    preserve_unknown: bool,
    embedded: bool,
    /// Value of the map, item of the list, JSONSchemaProps of the unions.
    item: NodeId,
    /// Fields of the struct.
    fields: StructId,
    /// Go's spelling of the type, without a leading `*`; empty in custom resources.
    go: &'static str,
    rules: Option<Box<Rules>>,
}

/// A struct's fields; `by_name` sorts them with those of embedded structs mixed in.
#[derive(Clone, Debug, Default)]
struct Struct {
    message: &'static str,
    first: u32,
    len: u32,
    by_name: Vec<u32>,
    /// Own fields that protobuf carries.
    by_number: Vec<u32>,
    /// Those of `by_name` that Go writes even when they were not given.
    always: Vec<u32>,
    /// Those of `by_name` with a declared default.
    defaulted: Vec<u32>,
}

/// How a field travels in protobuf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wire {
    /// Field number; 0 for fields that protobuf does not carry.
    pub number: u32,
    /// One of an embedded struct that is a message of its own on the wire.
    pub embedded: bool,
}

/// One field of a struct.
#[derive(Clone, Debug)]
pub struct Field {
    name: Str,
    node: NodeId,
    wire: Wire,
    omit: Omit,
    required: bool,
    pointer: bool,
}

/// An arena of schema nodes: all built-in messages, or one version of a custom resource.
#[derive(Debug, Default)]
pub struct Schema {
    nodes: Vec<Node>,
    fields: Vec<Field>,
    structs: Vec<Struct>,
    built_in: bool,
}

impl Schema {
    /// The first node: the schema of the whole object for custom resources.
    pub fn root(&self) -> SchemaRef<'_> {
        self.node(NodeId(0))
    }

    fn node(&self, id: NodeId) -> SchemaRef<'_> {
        SchemaRef { schema: self, node: &self.nodes[id.0 as usize] }
    }

    fn push_node(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        NodeId(self.nodes.len() as u32 - 1)
    }
}

/// A handle on one node; copies freely, as long as its arena lives.
#[derive(Clone, Copy)]
pub struct SchemaRef<'a> {
    schema: &'a Schema,
    node: &'a Node,
}

impl fmt::Debug for SchemaRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SchemaRef({:?} {})", self.node.ty, self.go_type())
    }
}

impl PartialEq for SchemaRef<'_> {
    /// The same node of the same arena.
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.node, other.node)
    }
}

impl<'a> SchemaRef<'a> {
    /// What the value may be.
    pub fn ty(self) -> Type {
        self.node.ty
    }

    /// The full name of a built-in struct, `io.k8s.api.core.v1.PodSpec`; `""` for everything else.
    pub fn message(self) -> &'a str {
        if self.node.ty == Type::Struct { self.fields_of().message } else { "" }
    }

    /// A struct's field by its JSON name (case counts), those of embedded structs included.
    pub fn field(self, name: &str) -> Option<FieldRef<'a>> {
        if self.node.ty != Type::Struct {
            return None;
        }
        let by_name = &self.fields_of().by_name;
        let at =
            by_name.binary_search_by(|&i| self.schema.fields[i as usize].name.as_str().cmp(name)).ok()?;
        Some(self.field_at(by_name[at]))
    }

    /// A struct's fields sorted by JSON name, those of embedded structs included.
    pub fn fields(self) -> impl ExactSizeIterator<Item = FieldRef<'a>> {
        let by_name: &[u32] = if self.node.ty == Type::Struct { &self.fields_of().by_name } else { &[] };
        by_name.iter().map(move |&i| self.field_at(i))
    }

    /// A struct's own fields in declared order, embedded structs as one field (see [`FieldRef::wire`]).
    pub fn declared_fields(self) -> impl ExactSizeIterator<Item = FieldRef<'a>> {
        let own = if self.node.ty == Type::Struct {
            let s = self.fields_of();
            s.first..s.first + s.len
        } else {
            0..0
        };
        own.map(move |i| self.field_at(i))
    }

    /// A struct's own fields that protobuf carries, sorted by number.
    pub fn wire_fields(self) -> impl DoubleEndedIterator<Item = FieldRef<'a>> {
        let by_number: &[u32] = if self.node.ty == Type::Struct { &self.fields_of().by_number } else { &[] };
        by_number.iter().map(move |&i| self.field_at(i))
    }

    /// A list that is a message of its own in protobuf.
    pub(crate) fn is_wrapped(self) -> bool {
        !self.node.go.starts_with("[]") && self.node.go != "ValidationRules"
    }

    /// Item of a list; the JSONSchemaProps of the schema unions.
    pub fn items(self) -> Option<SchemaRef<'a>> {
        let has = matches!(
            self.node.ty,
            Type::List | Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStrings
        );
        has.then(|| self.schema.node(self.node.item))
    }

    /// Value of a map.
    pub fn values(self) -> Option<SchemaRef<'a>> {
        (self.node.ty == Type::Map).then(|| self.schema.node(self.node.item))
    }

    /// The schema below a key: a struct's field or a map's value.
    pub fn child(self, key: &str) -> Option<SchemaRef<'a>> {
        match self.node.ty {
            Type::Struct => Some(self.field(key)?.schema()),
            _ => self.values(),
        }
    }

    /// How a list merges under server-side apply.
    pub fn list_type(self) -> ListType {
        self.node.list_type
    }

    /// The keys of a [`ListType::Map`].
    pub fn list_keys(self) -> &'a [Str] {
        self.rules().map_or(&[], |r| &r.list_keys)
    }

    /// Does server-side apply replace the map, struct or list as a whole?
    pub fn is_atomic(self) -> bool {
        match self.node.ty {
            Type::Struct | Type::Map => self.node.atomic,
            Type::List => self.node.list_type == ListType::Atomic,
            _ => true,
        }
    }

    /// How a strategic merge patch treats the value.
    pub fn patch_strategy(self) -> PatchStrategy {
        self.node.patch
    }

    /// The key by which a strategic merge patch tells list items apart.
    pub fn merge_key(self) -> Option<&'a str> {
        self.rules()?.merge_key.as_deref()
    }

    /// The declared default.
    pub fn default(self) -> Option<&'a Value> {
        self.rules()?.default.as_ref()
    }

    /// The allowed values, where they are listed.
    pub fn enum_values(self) -> &'a [Value] {
        self.rules().map_or(&[], |r| &r.enum_values)
    }

    /// May the value be `null` (custom resources)?
    pub fn nullable(self) -> bool {
        self.node.nullable
    }

    /// Are fields kept that the schema does not know?
    pub fn preserve_unknown(self) -> bool {
        self.node.preserve_unknown
    }

    /// Is the value an object of its own, with apiVersion, kind and metadata?
    pub fn embedded_resource(self) -> bool {
        self.node.embedded
    }

    /// The rarer rules, where there are any.
    pub fn rules(self) -> Option<&'a Rules> {
        self.node.rules.as_deref()
    }

    /// Built in: types are errors of the decoder. Custom resources leave them to the validation.
    pub fn is_built_in(self) -> bool {
        self.schema.built_in
    }

    /// [`SchemaRef::field`] for a walk in order: `cursor` guesses the position behind the last one found.
    fn field_near(self, name: &str, cursor: &mut usize) -> Option<FieldRef<'a>> {
        let by_name = &self.fields_of().by_name;
        let name_at = |i: u32| self.schema.fields[i as usize].name.as_str();
        let at = match by_name.get(*cursor) {
            Some(&i) if name_at(i) == name => *cursor,
            _ => by_name.binary_search_by(|&i| name_at(i).cmp(name)).ok()?,
        };
        *cursor = at + 1;
        Some(self.field_at(by_name[at]))
    }

    fn fields_of(self) -> &'a Struct {
        &self.schema.structs[self.node.fields.0 as usize]
    }

    fn field_at(self, index: u32) -> FieldRef<'a> {
        FieldRef { schema: self.schema, field: &self.schema.fields[index as usize] }
    }
}

/// A handle on one field of a struct.
#[derive(Clone, Copy)]
pub struct FieldRef<'a> {
    schema: &'a Schema,
    field: &'a Field,
}

impl<'a> FieldRef<'a> {
    /// The JSON name; empty for an embedded struct.
    pub fn name(self) -> &'a Str {
        &self.field.name
    }

    /// What the field holds.
    pub fn schema(self) -> SchemaRef<'a> {
        self.schema.node(self.field.node)
    }

    /// How it travels in protobuf.
    pub fn wire(self) -> Wire {
        self.field.wire
    }

    /// When it is left out.
    pub fn omit(self) -> Omit {
        self.field.omit
    }

    /// Neither `omitempty` nor marked optional: OpenAPI lists it under `required`.
    pub fn required(self) -> bool {
        self.field.required
    }

    /// A Go pointer: absent differs from zero.
    pub fn pointer(self) -> bool {
        self.field.pointer
    }
}
