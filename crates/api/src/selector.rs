//! Label and field selectors: parsed once, matched against labels or fields, printed in canonical form.

use std::fmt;

use crate::{Object, Str, Value};

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `key=value`, `key==value`
    Equals,
    /// `key!=value`: also matches objects without the key.
    NotEquals,
    /// `key in (a,b)`
    In,
    /// `key notin (a,b)`: also matches objects without the key.
    NotIn,
    /// `key`
    Exists,
    /// `!key`
    DoesNotExist,
    /// `key>1`
    GreaterThan,
    /// `key<1`
    LessThan,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Label name.
    pub key: Str,
    /// Comparison.
    pub operator: Operator,
    /// Sorted, each once.
    pub values: Vec<Str>,
}

/// All conditions of a label selector; none match everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    nothing: bool,
    requirements: Vec<Requirement>,
}

/// A selector that cannot be, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorError(pub(crate) String);

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SelectorError {}

impl LabelSelector {
    /// Matches every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches no object.
    pub fn nothing() -> Self {
        LabelSelector { nothing: true, requirements: Vec::new() }
    }

    /// The selector of a `labelSelector` parameter: `app=web,tier in (a,b),!canary`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Err(SelectorError(format!("unable to parse requirement: {text}")))
    }

    /// The selector of a `metav1.LabelSelector`: `null` matches nothing, `{}` everything.
    pub fn from_object(selector: &Value) -> Result<Self, SelectorError> {
        let _ = selector;
        Ok(Self::nothing())
    }

    /// The selector of a plain map (ReplicationController, Service): all labels must be equal; an empty map matches everything.
    pub fn from_map(labels: &Value) -> Self {
        let _ = labels;
        Self::nothing()
    }

    /// Does it match everything?
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// The conditions, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Do these labels fit?
    pub fn matches(&self, labels: &Object) -> bool {
        self.matches_with(|key| labels.get(key).and_then(Value::as_str))
    }

    /// Do the labels that `label` looks up fit?
    pub fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        let _ = label;
        false
    }
}

/// One condition on one field; fields know only `=` and `!=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    /// Path, e.g. `spec.nodeName`.
    pub field: String,
    /// Wanted or unwanted value.
    pub value: String,
    /// `!=`
    pub negated: bool,
}

/// All conditions of a field selector; none match everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// The conditions in the order given.
    pub requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// The selector of a `fieldSelector` parameter: `metadata.name=a,status.phase!=Running`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Err(SelectorError(format!("invalid selector: '{text}'; can't understand '{text}'")))
    }

    /// Do the fields that `field` looks up fit? A missing field counts as `""`.
    pub fn matches_with<'a>(&self, field: impl Fn(&str) -> &'a str) -> bool {
        self.requirements.iter().all(|r| (field(&r.field) == r.value) != r.negated)
    }
}
