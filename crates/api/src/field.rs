//! Where in an object something is wrong, and what: upstream's `field.Path` and `field.Error`.

use std::fmt;

/// A path like `spec.containers[0].env[name]`, built from the root on the stack of the walk that needs it.
///
/// ```
/// use corten_api::field::Path;
/// let spec = Path::root("spec");
/// let containers = spec.child("containers");
/// assert_eq!(containers.index(0).child("image").to_string(), "spec.containers[0].image");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// The first field of a path.
    pub const fn root(field: &'a str) -> Self {
        Path { parent: None, step: Step::Field(field) }
    }

    /// `self.field`
    pub const fn child(&'a self, field: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Field(field) }
    }

    /// `self[index]`
    pub const fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    /// `self[key]`
    pub const fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Key(key) }
    }

    /// What the path goes on from.
    pub const fn parent(&self) -> Option<&'a Path<'a>> {
        self.parent
    }

    fn is_object(&self) -> bool {
        self.parent.is_none() && matches!(self.step, Step::Field(""))
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A root without a name is the object itself: left out before a field, "[]" alone.
        let parent = self.parent.filter(|parent| !parent.is_object());
        if let Some(parent) = parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Field("") if self.is_object() => f.write_str("[]"),
            Step::Field("") => Ok(()),
            Step::Field(name) if parent.is_some() => write!(f, ".{name}"),
            Step::Field(name) => f.write_str(name),
            Step::Index(i) => write!(f, "[{i}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// What kind of mistake; each has upstream's cause reason and its own beginning of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    /// `FieldValueRequired`: "Required value"
    Required,
    /// `FieldValueInvalid`: "Invalid value"
    Invalid,
    /// `FieldValueDuplicate`: "Duplicate value"
    Duplicate,
    /// `FieldValueNotSupported`: "Unsupported value"
    NotSupported,
    /// `FieldValueForbidden`: "Forbidden"
    Forbidden,
    /// `FieldValueTooLong`: "Too long"
    TooLong,
    /// `FieldValueTooMany`: "Too many"
    TooMany,
    /// `FieldValueNotFound`: "Not found"
    NotFound,
    /// `FieldValueTypeInvalid`: "Invalid value"
    TypeInvalid,
    /// `InternalError`: "Internal error"
    Internal,
}

impl ErrorType {
    /// The `reason` of the cause in a Status.
    pub fn reason(self) -> &'static str {
        match self {
            ErrorType::Required => "FieldValueRequired",
            ErrorType::Invalid => "FieldValueInvalid",
            ErrorType::Duplicate => "FieldValueDuplicate",
            ErrorType::NotSupported => "FieldValueNotSupported",
            ErrorType::Forbidden => "FieldValueForbidden",
            ErrorType::TooLong => "FieldValueTooLong",
            ErrorType::TooMany => "FieldValueTooMany",
            ErrorType::NotFound => "FieldValueNotFound",
            ErrorType::TypeInvalid => "FieldValueTypeInvalid",
            ErrorType::Internal => "InternalError",
        }
    }
}

/// One mistake: where, what, and the whole message after the path (`Invalid value: "x": must be …`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What kind of mistake.
    pub kind: ErrorType,
    /// The path, written out.
    pub field: String,
    /// Upstream's error body: type, bad value, detail.
    pub body: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body)
    }
}

impl Error {
    fn new(kind: ErrorType, path: &Path<'_>, body: String) -> Self {
        Error { kind, field: path.to_string(), body }
    }

    /// A value must be given. An empty detail leaves only "Required value".
    pub fn required(path: &Path<'_>, detail: impl AsRef<str>) -> Self {
        Self::new(ErrorType::Required, path, with_detail("Required value", detail.as_ref()))
    }

    /// The value breaks a rule. `bad` prints as Go's `%#v` would for its type: see [`Quoted`].
    pub fn invalid(path: &Path<'_>, bad: impl Quoted, detail: impl AsRef<str>) -> Self {
        Self::new(
            ErrorType::Invalid,
            path,
            with_detail(&format!("Invalid value: {}", bad.quoted()), detail.as_ref()),
        )
    }

    /// The value breaks a rule, and is too large (or too secret) to be shown.
    pub fn invalid_unshown(path: &Path<'_>, detail: impl AsRef<str>) -> Self {
        Self::new(ErrorType::Invalid, path, with_detail("Invalid value", detail.as_ref()))
    }

    /// The value has the wrong type.
    pub fn type_invalid(path: &Path<'_>, bad: impl Quoted, detail: impl AsRef<str>) -> Self {
        let body = with_detail(&format!("Invalid value: {}", bad.quoted()), detail.as_ref());
        Self::new(ErrorType::TypeInvalid, path, body)
    }

    /// The value is there twice.
    pub fn duplicate(path: &Path<'_>, bad: impl Quoted) -> Self {
        Self::new(ErrorType::Duplicate, path, format!("Duplicate value: {}", bad.quoted()))
    }

    /// The value is none of those supported (listed sorted by the caller, as upstream does).
    pub fn not_supported(path: &Path<'_>, bad: impl Quoted, supported: &[&str]) -> Self {
        let list: Vec<String> = supported.iter().map(|s| s.quoted()).collect();
        let detail =
            if list.is_empty() { String::new() } else { format!("supported values: {}", list.join(", ")) };
        Self::new(
            ErrorType::NotSupported,
            path,
            with_detail(&format!("Unsupported value: {}", bad.quoted()), &detail),
        )
    }

    /// The field may not be set (so).
    pub fn forbidden(path: &Path<'_>, detail: impl AsRef<str>) -> Self {
        Self::new(ErrorType::Forbidden, path, with_detail("Forbidden", detail.as_ref()))
    }

    /// More than `max` bytes.
    pub fn too_long(path: &Path<'_>, max: usize) -> Self {
        Self::new(ErrorType::TooLong, path, format!("Too long: may not be more than {max} bytes"))
    }

    /// More than `max` items.
    pub fn too_many(path: &Path<'_>, actual: usize, max: usize) -> Self {
        Self::new(ErrorType::TooMany, path, format!("Too many: {actual}: must have at most {max} items"))
    }

    /// Something that the value names is not there.
    pub fn not_found(path: &Path<'_>, bad: impl Quoted) -> Self {
        Self::new(ErrorType::NotFound, path, format!("Not found: {}", bad.quoted()))
    }

    /// Our own fault.
    pub fn internal(path: &Path<'_>, detail: impl AsRef<str>) -> Self {
        Self::new(ErrorType::Internal, path, with_detail("Internal error", detail.as_ref()))
    }
}

fn with_detail(head: &str, detail: &str) -> String {
    if detail.is_empty() { head.to_owned() } else { format!("{head}: {detail}") }
}

/// How upstream prints a bad value: strings quoted, numbers and booleans plain, everything else as JSON.
pub trait Quoted {
    /// The printed value.
    fn quoted(&self) -> String;
}

impl Quoted for str {
    fn quoted(&self) -> String {
        let mut out = String::with_capacity(self.len() + 2);
        out.push('"');
        for c in self.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                c if c.is_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
                c => out.push(c),
            }
        }
        out.push('"');
        out
    }
}

impl<T: Quoted + ?Sized> Quoted for &T {
    fn quoted(&self) -> String {
        (**self).quoted()
    }
}

impl Quoted for String {
    fn quoted(&self) -> String {
        self.as_str().quoted()
    }
}

impl Quoted for crate::Str {
    fn quoted(&self) -> String {
        self.as_str().quoted()
    }
}

impl Quoted for i64 {
    fn quoted(&self) -> String {
        self.to_string()
    }
}

impl Quoted for bool {
    fn quoted(&self) -> String {
        self.to_string()
    }
}

impl Quoted for crate::Value {
    fn quoted(&self) -> String {
        match self {
            crate::Value::String(s) => s.quoted(),
            other => crate::json::to_string(other),
        }
    }
}
