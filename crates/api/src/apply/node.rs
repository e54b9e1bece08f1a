//! What the typed merge asks of a schema, and the two places it comes from: the field table or a CRD, or the value itself.

use std::sync::LazyLock;

use super::path::PathElement;
use crate::schema::{self, FieldRef, ListType, Omit, SchemaRef, Type};
use crate::{Object, Str, Value};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// What a scalar may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    String,
    Numeric,
    Boolean,
    /// Any of the three.
    Untyped,
}

/// Which shapes a type allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Atom {
    pub scalar: bool,
    pub list: bool,
    pub map: bool,
}

/// How a value is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Map,
    Scalar,
    List,
}

impl Atom {
    pub const ANY: Atom = Atom { scalar: true, list: true, map: true };
    pub const SCALAR: Atom = Atom { scalar: true, list: false, map: false };
    pub const LIST: Atom = Atom { scalar: false, list: true, map: false };
    pub const MAP: Atom = Atom { scalar: false, list: false, map: true };

    /// Narrowed to the shape of the value, where the type allows that; null and nothing narrow nothing.
    pub fn narrowed(self, value: Option<&Value>) -> Atom {
        match value {
            Some(Value::Array(_)) if self.list => Atom::LIST,
            Some(Value::Object(_)) if self.map => Atom::MAP,
            Some(Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::String(_)) if self.scalar => {
                Atom::SCALAR
            }
            _ => self,
        }
    }

    /// The shape that is tried first.
    pub fn shape(self) -> Shape {
        if self.map {
            Shape::Map
        } else if self.scalar {
            Shape::Scalar
        } else {
            Shape::List
        }
    }
}

/// A type, as far as merging cares.
pub(super) trait Node: Copy {
    fn atom(self) -> Atom;
    /// What a scalar may be.
    fn scalar(self) -> Scalar;
    /// Are lists replaced as a whole?
    fn atomic_list(self) -> bool;
    /// The key fields of a list's items; none for a set.
    fn keys(&self) -> &[Str];
    fn item(self) -> Option<Self>;
    /// Are maps replaced as a whole?
    fn atomic_map(self) -> bool;
    /// The type of a declared field.
    fn field(self, name: &str) -> Option<Self>;
    /// The type of fields that are not declared; `None` where there may be none.
    fn element(self) -> Option<Self>;
    /// What a key field counts as in an item that leaves it out. Called on the item's type.
    fn key_default(self, name: &str) -> Option<Value>;
    /// What Go has in a declared field that was not given: structs held by value and lists without `omitempty` are there.
    fn zero(self, name: &str) -> Option<&'static Value>;
    /// Untyped and without fields: nothing is known that could have changed.
    fn is_deduced(self) -> bool;

    /// The type below a key of a map, declared or not.
    fn child(self, name: &str) -> Option<Self> {
        self.field(name).or_else(|| self.element())
    }

    /// How the value of this type is walked.
    fn shape(self, value: Option<&Value>) -> Shape {
        self.atom().narrowed(value).shape()
    }

    /// The path element of a list's item.
    fn path_element(self, item: &Value) -> Result<PathElement, String> {
        if self.atomic_list() {
            return Err("invalid indexing of non-associative list".to_owned());
        }
        match (self.keys(), item) {
            ([], Value::Object(_)) => {
                Err("associative list without keys has an element that's a map type".to_owned())
            }
            ([], Value::Array(_)) => Err("not supported: associative list with lists as elements".to_owned()),
            ([], Value::Null) => {
                Err("associative list without keys has an element that's an explicit null".to_owned())
            }
            ([], scalar) => Ok(PathElement::Value(scalar.clone())),
            (keys, Value::Object(fields)) => self.key_of(keys, fields),
            (_, Value::Null) => Err("associative list with keys may not have a null element".to_owned()),
            _ => Err("associative list with keys may not have non-map elements".to_owned()),
        }
    }

    /// The key of an item. An item that leaves a key field out is another than one that has it, unless there is a default.
    fn key_of(self, keys: &[Str], fields: &Object) -> Result<PathElement, String> {
        let value = |name: &Str| {
            let given = fields.get(name).cloned();
            given.or_else(|| self.item().and_then(|item| item.key_default(name)))
        };
        let mut key = Vec::with_capacity(keys.len());
        key.extend(keys.iter().filter_map(|name| Some((name.clone(), value(name)?))));
        if key.is_empty() {
            let names: Vec<_> = keys.iter().map(|k| format!("\"{k}\"")).collect();
            return Err(format!(
                "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                names.join(" ")
            ));
        }
        key.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(PathElement::Key(key.into()))
    }
}

/// The type of a real object.
#[derive(Clone, Copy, Debug)]
pub(super) enum Typed<'a> {
    /// Built in, or from the schema of a CRD.
    Schema(SchemaRef<'a>),
    /// Read off the value: maps merge, lists are atomic.
    Deduced,
}

impl<'a> Typed<'a> {
    fn schema(self) -> Option<SchemaRef<'a>> {
        match self {
            Typed::Schema(schema) => Some(schema),
            Typed::Deduced => None,
        }
    }

    fn declared(self, name: &str) -> Option<FieldRef<'a>> {
        self.schema()?.field(name)
    }
}

impl Node for Typed<'_> {
    fn atom(self) -> Atom {
        match self.schema().map(SchemaRef::ty) {
            Some(Type::Struct | Type::Map | Type::FieldsV1) => Atom::MAP,
            Some(Type::List) => Atom::LIST,
            None
            | Some(
                Type::Any | Type::Raw | Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStrings,
            ) => Atom::ANY,
            Some(_) => Atom::SCALAR,
        }
    }

    fn scalar(self) -> Scalar {
        match self.schema().map(SchemaRef::ty) {
            Some(Type::String | Type::Bytes | Type::Duration) => Scalar::String,
            Some(Type::Int32 | Type::Int64 | Type::Float) => Scalar::Numeric,
            Some(Type::Bool) => Scalar::Boolean,
            _ => Scalar::Untyped,
        }
    }

    fn atomic_list(self) -> bool {
        self.schema().is_none_or(|s| s.ty() != Type::List || s.list_type() == ListType::Atomic)
    }

    fn keys(&self) -> &[Str] {
        self.schema().map_or(&[], SchemaRef::list_keys)
    }

    fn item(self) -> Option<Self> {
        Some(self.schema().and_then(SchemaRef::items).map_or(Typed::Deduced, Typed::Schema))
    }

    fn atomic_map(self) -> bool {
        self.schema().is_some_and(|s| matches!(s.ty(), Type::Struct | Type::Map) && s.is_atomic())
    }

    fn field(self, name: &str) -> Option<Self> {
        let field = self.declared(name)?.schema();
        let of_resource = name == "metadata" && self.schema().is_some_and(SchemaRef::embedded_resource);
        // The schema of a custom resource does not speak of its metadata; it is what it is everywhere.
        let metadata = if of_resource { schema::message(OBJECT_META) } else { None };
        Some(Typed::Schema(metadata.unwrap_or(field)))
    }

    fn element(self) -> Option<Self> {
        let Some(schema) = self.schema() else { return Some(Typed::Deduced) };
        match schema.ty() {
            Type::Map => Some(schema.values().map_or(Typed::Deduced, Typed::Schema)),
            // OpenAPI knows no empty struct: without fields it is a map of anything.
            Type::Struct if !schema.preserve_unknown() && schema.fields().len() > 0 => None,
            _ => Some(Typed::Deduced),
        }
    }

    fn key_default(self, name: &str) -> Option<Value> {
        let field = self.declared(name)?;
        if let Some(default) = field.schema().default() {
            return Some(default.clone());
        }
        if field.omit() != Omit::Never || field.pointer() || field.schema().ty() == Type::Bytes {
            return None;
        }
        match self.field(name)?.scalar() {
            Scalar::String => Some(Value::str("")),
            Scalar::Numeric => Some(Value::Int(0)),
            Scalar::Boolean => Some(Value::Bool(false)),
            Scalar::Untyped => None,
        }
    }

    fn zero(self, name: &str) -> Option<&'static Value> {
        static EMPTY: LazyLock<Value> = LazyLock::new(Value::object);
        let field = self.declared(name)?;
        match (field.omit(), field.pointer(), field.schema().ty()) {
            (Omit::Never | Omit::Empty, false, Type::Struct) => Some(&EMPTY),
            (Omit::Never, _, Type::Struct | Type::List | Type::Map) => Some(&Value::Null),
            _ => None,
        }
    }

    fn is_deduced(self) -> bool {
        self.schema().is_none_or(|s| !matches!(s.ty(), Type::Struct | Type::Map | Type::List))
    }
}
