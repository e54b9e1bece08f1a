//! One walk over an object: types checked, unknown fields dropped, values canonical, defaults set.

use std::fmt;

use super::gotype::reflect_name;
use super::{FieldRef, Omit, SchemaRef, Type, message};
use crate::quantity::Quantity;
use crate::time::Time;
use crate::value::{Object, Str};
use crate::{Status, Value};

/// What the walk does beside checking types and dropping unknown fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Apply the declared defaults.
    pub defaults: bool,
    /// Keep empty lists that Go writes in any case, for a look at who gave them; [`settle`] makes them null afterwards.
    pub empty_lists: bool,
}

impl Mode {
    /// For what a client sends.
    pub const REQUEST: Mode = Mode { defaults: true, empty_lists: false };
    /// For an object whose fields have owners.
    pub const OWNED: Mode = Mode { defaults: true, empty_lists: true };
    /// For what is only read: no defaults.
    pub const READ: Mode = Mode { defaults: false, empty_lists: false };
}

/// Upstream stops collecting strict errors here.
pub const MAX_FINDINGS: usize = 100;

/// What the walk found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Paths of dropped fields (`spec.containers[0].foo`), in order, each once, at most [`MAX_FINDINGS`].
    pub unknown: Vec<String>,
}

impl Findings {
    /// The findings as upstream words them one by one: `unknown field "spec.foo"`.
    pub fn messages(&self) -> impl Iterator<Item = String> {
        self.unknown.iter().map(|path| format!("unknown field \"{path}\""))
    }
}

/// A value that the schema's type cannot hold, in the words of Go's decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    message: String,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DecodeError {}

/// 400: the body cannot become an object of that kind. `error` is a [`DecodeError`], a syntax error or a strict decoding
/// error (`strict decoding error: unknown field "spec.foo", …`).
pub fn cannot_handle(version: &str, kind: &str, wanted: &str, error: impl fmt::Display) -> Box<Status> {
    Status::new(
        400,
        "BadRequest",
        format!("{kind} in version \"{version}\" cannot be handled as a {wanted}: {error}"),
    )
}

/// Brings an object into the form that a Go API server would give it: a round trip through its struct.
///
/// Built-in kinds: wrong types are errors; unknown fields go (and are found); `null` is absent; zero values of `omitempty`
/// fields go, fields without it come; times, quantities and bytes become canonical; declared defaults are set.
///
/// Custom resources: unknown fields go, declared defaults are set; types are for the validation, and `metadata` is walked
/// as `ObjectMeta`.
pub fn conform(value: &mut Value, schema: SchemaRef<'_>, mode: Mode) -> Result<Findings, DecodeError> {
    let mut walk = Walk { mode, quiet: false, findings: Findings::default() };
    walk.value(value, schema, None)?;
    Ok(walk.findings)
}

/// Makes null what [`Mode::OWNED`] kept, as bytes at rest have it. Says whether there was any.
pub fn settle(value: &mut Value, schema: SchemaRef<'_>) -> bool {
    has_empty_list(value) && settle_below(value, schema)
}

/// The cheap question: most objects have none.
fn has_empty_list(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty() || items.iter().any(has_empty_list),
        Value::Object(fields) => fields.iter().any(|(_, value)| has_empty_list(value)),
        _ => false,
    }
}

fn settle_below(value: &mut Value, schema: SchemaRef<'_>) -> bool {
    let mut found = false;
    match (schema.node.ty, value) {
        (Type::Struct, Value::Object(fields)) => {
            for (name, value) in fields.iter_mut() {
                let Some(field) = schema.field(name) else { continue };
                if field.omit() == Omit::Never && matches!(value, Value::Array(items) if items.is_empty()) {
                    *value = Value::Null;
                    found = true;
                } else {
                    found |= settle_below(value, field.schema());
                }
            }
        }
        (Type::List, Value::Array(items)) => {
            let item = schema.schema.node(schema.node.item);
            items.iter_mut().for_each(|value| found |= settle_below(value, item));
        }
        (Type::Map, Value::Object(fields)) => {
            let item = schema.schema.node(schema.node.item);
            fields.iter_mut().for_each(|(_, value)| found |= settle_below(value, item));
        }
        _ => {}
    }
    found
}

/// The way from the root to here, on the stack of the walk.
#[derive(Clone, Copy)]
struct Trail<'a> {
    parent: Option<&'a Trail<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    /// A field of a struct, by its name and the struct's.
    Field(&'a str, &'a str),
    Key(&'a str),
    Index(usize),
}

impl fmt::Display for Trail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Field(name, _) | Step::Key(name) if self.parent.is_some() => write!(f, ".{name}"),
            Step::Field(name, _) | Step::Key(name) => f.write_str(name),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

impl Trail<'_> {
    /// The innermost struct and the fields on the way, as Go's decoder names them: without indexes and keys.
    fn go_context(&self) -> (&str, Vec<&str>) {
        let (mut structure, mut fields) = match self.parent {
            Some(parent) => parent.go_context(),
            None => ("", Vec::new()),
        };
        if let Step::Field(name, message) = self.step {
            structure = message;
            fields.push(name);
        }
        (structure, fields)
    }
}

type Way<'a, 'b> = Option<&'a Trail<'b>>;
type Walked = Result<(), DecodeError>;

struct Walk {
    mode: Mode,
    /// Below types that upstream decodes on their own: unknown fields go without a finding.
    quiet: bool,
    findings: Findings,
}

impl Walk {
    fn value(&mut self, value: &mut Value, schema: SchemaRef<'_>, way: Way<'_, '_>) -> Walked {
        match (schema.node.ty, &mut *value) {
            (Type::String, Value::String(_)) | (Type::Bool, Value::Bool(_)) => Ok(()),
            (Type::Int64, Value::Int(_)) | (Type::Float, Value::Int(_) | Value::Float(_)) => Ok(()),
            (Type::Int32, Value::Int(n)) if i32::try_from(*n).is_ok() => Ok(()),
            (Type::Struct, Value::Object(object)) => self.structure(object, schema, way),
            (Type::List, Value::Array(items)) => self.list(items, schema, way),
            (Type::Map, Value::Object(object)) => self.map(object, schema, way),
            (Type::Any | Type::Raw | Type::FieldsV1, _) => Ok(()),
            _ if !schema.is_built_in() => Ok(()),
            (Type::Quantity, _) => quantity(value),
            (Type::IntOrString, Value::String(_)) => Ok(()),
            (Type::IntOrString, Value::Int(n)) if i32::try_from(*n).is_ok() => Ok(()),
            (Type::IntOrString, _) => Err(mismatch(value, "int32", way)),
            (Type::Time | Type::MicroTime, Value::String(text)) => {
                if let Some(canonical) = time(text, schema.node.ty)? {
                    *value = canonical;
                }
                Ok(())
            }
            (Type::Duration, Value::String(_)) => Ok(()),
            (Type::Time | Type::MicroTime | Type::Duration, _) => Err(mismatch(value, "string", way)),
            (Type::Bytes, Value::String(text)) => {
                if let Some(canonical) = bytes(text)? {
                    *text = canonical;
                }
                Ok(())
            }
            (Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStrings, _) => {
                self.union(value, schema)
            }
            _ => Err(mismatch(value, schema.go_type(), way)),
        }
    }

    fn structure(&mut self, object: &mut Object, schema: SchemaRef<'_>, way: Way<'_, '_>) -> Walked {
        let message = schema.message();
        let mut cursor = 0;
        let mut failed = None;
        object.retain_pairs(|key, value| {
            if failed.is_some() {
                return true;
            }
            let Some(field) = schema.field_near(key, &mut cursor) else {
                return schema.node.preserve_unknown || self.unknown(key, way);
            };
            let trail = Trail { parent: way, step: Step::Field(field.name(), message) };
            match self.field(value, field, schema, &trail) {
                Ok(keep) => keep,
                Err(error) => {
                    failed = Some(error);
                    true
                }
            }
        });
        match failed {
            Some(error) => Err(error),
            None => self.complete(object, schema, way),
        }
    }

    /// One field that is there; says whether it stays.
    fn field(
        &mut self,
        value: &mut Value,
        field: FieldRef<'_>,
        owner: SchemaRef<'_>,
        trail: &Trail<'_>,
    ) -> Result<bool, DecodeError> {
        let omit = field.field.omit;
        if omit == Omit::Keep {
            match message(OBJECT_META).filter(|_| owner.node.embedded && field.name() == "metadata") {
                Some(meta) => self.value(value, meta, Some(trail))?,
                None if value.is_null() && keeps_no_null(field.schema()) => return Ok(false),
                None => self.value(value, field.schema(), Some(trail))?,
            }
            return Ok(true);
        }
        if value.is_null() {
            return Ok(false);
        }
        self.value(value, field.schema(), Some(trail))?;
        let zero = match value {
            Value::Null | Value::Bool(false) | Value::Int(0) => true,
            Value::Bool(_) | Value::Int(_) => false,
            Value::Float(n) => *n == 0.0,
            Value::String(s) => s.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => {
                fields.is_empty() && (omit == Omit::Zero || field.schema().node.ty == Type::Map)
            }
        };
        // Pointers tell zero from absent; null stands for their absence and for Go's zero times.
        // Bytes at rest upstream cannot tell an empty list from none; what is written in any case is then null.
        if !self.mode.empty_lists
            && omit == Omit::Never
            && matches!(value, Value::Array(items) if items.is_empty())
        {
            *value = Value::Null;
        }
        let goes = zero && (!field.field.pointer || value.is_null()) && omit != Omit::Never;
        let scalar_struct = matches!(field.schema().node.ty, Type::IntOrString | Type::Raw | Type::Any);
        Ok(!goes || scalar_struct)
    }

    /// Fields that are not there but come: declared defaults, and what Go writes in any case.
    fn complete(&mut self, object: &mut Object, schema: SchemaRef<'_>, way: Way<'_, '_>) -> Walked {
        let fields = schema.fields_of();
        if self.mode.defaults {
            for &i in &fields.defaulted {
                let field = schema.field_at(i);
                if let Some(default) = field.schema().default().filter(|_| !object.contains_key(field.name()))
                {
                    object.push_unchecked(field.name().clone(), default.clone());
                }
            }
        }
        for &i in &fields.always {
            let field = schema.field_at(i);
            if !object.contains_key(field.name()) {
                let mut zero = zero(field);
                if let Value::Object(inner) = &mut zero {
                    let trail = Trail { parent: way, step: Step::Field(field.name(), schema.message()) };
                    self.complete(inner, field.schema(), Some(&trail))?;
                }
                object.push_unchecked(field.name().clone(), zero);
            }
        }
        Ok(())
    }

    fn list(&mut self, items: &mut [Value], schema: SchemaRef<'_>, way: Way<'_, '_>) -> Walked {
        let item = schema.schema.node(schema.node.item);
        for (i, value) in items.iter_mut().enumerate() {
            let trail = Trail { parent: way, step: Step::Index(i) };
            self.element(value, item, &trail)?;
        }
        Ok(())
    }

    fn map(&mut self, object: &mut Object, schema: SchemaRef<'_>, way: Way<'_, '_>) -> Walked {
        let item = schema.schema.node(schema.node.item);
        for (key, value) in object.iter_mut() {
            let trail = Trail { parent: way, step: Step::Key(key) };
            self.element(value, item, &trail)?;
            if matches!(item.node.ty, Type::Quantity) {
                whole_thousandths(value);
            }
        }
        Ok(())
    }

    /// A list item or map value: `null` is the zero value of its type.
    fn element(&mut self, value: &mut Value, schema: SchemaRef<'_>, trail: &Trail<'_>) -> Walked {
        if value.is_null() && schema.is_built_in() {
            *value = zero_of(schema.node.ty);
            if !matches!(schema.node.ty, Type::Struct) {
                return Ok(());
            }
        }
        self.value(value, schema, Some(trail))
    }

    /// JSONSchemaProps or something else; upstream decodes these apart from the rest.
    fn union(&mut self, value: &mut Value, schema: SchemaRef<'_>) -> Walked {
        let item = schema.schema.node(schema.node.item);
        let was_quiet = std::mem::replace(&mut self.quiet, true);
        let walked = match (schema.node.ty, &mut *value) {
            (_, Value::Object(object)) => self.structure(object, item, None),
            (Type::SchemaOrArray, Value::Array(items)) => {
                items.iter_mut().try_for_each(|inner| self.value(inner, item, None))
            }
            (Type::SchemaOrStrings, Value::Array(_)) | (Type::SchemaOrBool, Value::Bool(_)) => Ok(()),
            (Type::SchemaOrBool, _) => {
                Err(DecodeError { message: "boolean or JSON schema expected".to_owned() })
            }
            _ => {
                *value = Value::Null;
                Ok(())
            }
        };
        self.quiet = was_quiet;
        walked
    }

    /// Notes an unknown field; says that it does not stay.
    fn unknown(&mut self, key: &str, way: Way<'_, '_>) -> bool {
        if !self.quiet && self.findings.unknown.len() < MAX_FINDINGS {
            let path = Trail { parent: way, step: Step::Key(key) }.to_string();
            if !self.findings.unknown.contains(&path) {
                self.findings.unknown.push(path);
            }
        }
        false
    }
}

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Custom resources: `null` goes where it is not allowed and a default stands ready.
fn keeps_no_null(schema: SchemaRef<'_>) -> bool {
    !schema.nullable() && schema.default().is_some()
}

/// What Go writes for a field that was never set.
fn zero(field: FieldRef<'_>) -> Value {
    if field.field.pointer { Value::Null } else { zero_of(field.schema().node.ty) }
}

fn zero_of(ty: Type) -> Value {
    match ty {
        Type::Bool => Value::Bool(false),
        Type::Int32 | Type::Int64 | Type::Float | Type::IntOrString => Value::Int(0),
        Type::String => Value::str(""),
        Type::Quantity => Value::str("0"),
        Type::Duration => Value::str("0s"),
        Type::Struct => Value::object(),
        _ => Value::Null,
    }
}

fn mismatch(value: &Value, go: &str, way: Way<'_, '_>) -> DecodeError {
    let what = match value {
        // A number of the wrong size or kind is quoted; one where no number belongs is not.
        Value::Int(n) if matches!(go, "int32" | "int64") => format!("number {n}"),
        Value::Float(n) if matches!(go, "int32" | "int64") && n.abs() >= i64::MAX as f64 => {
            format!("number {n:.0}")
        }
        Value::Float(n) if matches!(go, "int32" | "int64") => format!("number {n:?}"),
        other => other.type_name().to_owned(),
    };
    let (structure, fields) = way.map(Trail::go_context).unwrap_or_default();
    let ty = reflect_name(go, structure);
    let message = match structure.rsplit('.').next() {
        Some(name) if !name.is_empty() => {
            format!(
                "json: cannot unmarshal {what} into Go struct field {name}.{} of type {ty}",
                fields.join(".")
            )
        }
        _ => format!("json: cannot unmarshal {what} into Go value of type {ty}"),
    };
    DecodeError { message }
}

/// Lists of resources know nothing finer than thousandths. The canonical text shows by its suffix where there is more.
fn whole_thousandths(value: &mut Value) {
    let finer = |text: &str| text.ends_with(['n', 'u']) || text.contains("e-");
    let text = value.as_str().filter(|text| finer(text) || text.contains('.'));
    if let Some(rounded) = text.and_then(Quantity::without_micros) {
        *value = Value::from(rounded);
    }
}

/// Strings and numbers become quantities in canonical form.
fn quantity(value: &mut Value) -> Walked {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Int(n) => Str::from(n.to_string()),
        Value::Float(n) => Str::from(n.to_string()),
        _ => return Err(DecodeError { message: crate::quantity::ParseError::FORMAT.to_string() }),
    };
    let trimmed = text.trim();
    let canonical = Quantity::canonical(trimmed).map_err(|e| DecodeError { message: e.to_string() })?;
    let unchanged = canonical.is_none() && trimmed.len() == text.len();
    if !unchanged || !matches!(value, Value::String(_)) {
        *value = Value::from(canonical.unwrap_or_else(|| trimmed.to_owned()));
    }
    Ok(())
}

/// `None` where the text is canonical already, `null` for Go's zero time.
fn time(text: &str, ty: Type) -> Result<Option<Value>, DecodeError> {
    let parsed = Time::parse(text).map_err(|e| DecodeError { message: e.to_string() })?;
    if parsed == Time::GO_ZERO {
        return Ok(Some(Value::Null));
    }
    let canonical_len =
        if ty == Type::Time { "2006-01-02T15:04:05Z" } else { "2006-01-02T15:04:05.000000Z" }.len();
    if text.len() == canonical_len && text.ends_with('Z') {
        return Ok(None);
    }
    let canonical = if ty == Type::Time { parsed.to_seconds_text() } else { parsed.to_micros_text() };
    Ok((canonical != text).then(|| Value::from(canonical)))
}

/// Checks base64; `None` where the text is canonical already.
fn bytes(text: &str) -> Result<Option<Str>, DecodeError> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
    );
    if STANDARD.decode(text).is_ok() {
        return Ok(None);
    }
    let compact: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    match LENIENT.decode(&compact) {
        Ok(decoded) => Ok(Some(Str::from(STANDARD.encode(decoded)))),
        Err(error) => {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _) => at,
                _ => compact.len() / 4 * 4,
            };
            Err(DecodeError { message: format!("illegal base64 data at input byte {at}") })
        }
    }
}

#[cfg(test)]
mod tests;
