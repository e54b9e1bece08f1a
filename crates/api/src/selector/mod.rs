//! Label and field selectors: parsed once, matched against labels or fields, printed in canonical form.

mod fields;
mod parse;

use std::fmt;

pub use fields::{FieldRequirement, FieldSelector, escape_value};

use crate::field::{Error, Path};
use crate::{Object, Str, Value, rules};

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `key=value`
    Equals,
    /// `key==value`: the same.
    DoubleEquals,
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
    /// What it is compared with; sorted and each once when parsed from text.
    pub values: Vec<Str>,
}

/// A selector that cannot be, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorError(String);

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SelectorError {}

impl From<Vec<Error>> for SelectorError {
    /// One error as it is, several in brackets: upstream's aggregate.
    fn from(errors: Vec<Error>) -> Self {
        let texts: Vec<String> = errors.iter().map(Error::to_string).collect();
        match texts.as_slice() {
            [one] => SelectorError(one.clone()),
            _ => SelectorError(format!("[{}]", texts.join(", "))),
        }
    }
}

impl Requirement {
    /// A requirement that keeps the rules of its operator, of label keys and of label values.
    pub fn new(key: Str, operator: Operator, values: Vec<Str>) -> Result<Requirement, SelectorError> {
        let mut errors = Vec::new();
        let values_path = Path::root("values");
        let all = || Value::Array(values.iter().cloned().map(Value::String).collect());
        rules::invalid_each(
            &mut errors,
            &Path::root("key"),
            key.as_str(),
            joined(rules::qualified_name(&key)),
        );
        let wrong_count = match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                "for 'in', 'notin' operators, values set can't be empty"
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                "exact-match compatibility requires one single value"
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                "values set must be empty for exists and does not exist"
            }
            Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
                "for 'Gt', 'Lt' operators, exactly one value is required"
            }
            _ => "",
        };
        if !wrong_count.is_empty() {
            errors.push(Error::invalid(&values_path, all(), wrong_count));
        }
        for (i, value) in values.iter().enumerate() {
            let path = values_path.index(i);
            let number = matches!(operator, Operator::GreaterThan | Operator::LessThan);
            if number && value.parse::<i64>().is_err() {
                let rule = "for 'Gt', 'Lt' operators, the value must be an integer";
                errors.push(Error::invalid(&path, value.as_str(), rule));
            }
            let messages = joined(rules::label_value(value));
            rules::invalid_each(&mut errors, &path.key(&key), value.as_str(), messages);
        }
        if errors.is_empty() { Ok(Requirement { key, operator, values }) } else { Err(errors.into()) }
    }

    fn matches(&self, label: Option<&str>) -> bool {
        let has = |label: &str| self.values.iter().any(|v| v == label);
        match self.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In => label.is_some_and(has),
            Operator::NotEquals | Operator::NotIn => !label.is_some_and(has),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan => self.compare(label).is_some_and(|(label, bound)| label > bound),
            Operator::LessThan => self.compare(label).is_some_and(|(label, bound)| label < bound),
        }
    }

    /// The label and the bound as numbers; labels that are none never match.
    fn compare(&self, label: Option<&str>) -> Option<(i64, i64)> {
        Some((label?.parse().ok()?, self.values.first()?.parse().ok()?))
    }
}

/// Upstream puts all rules that a label breaks into one error.
fn joined(messages: Vec<String>) -> Vec<String> {
    if messages.is_empty() { messages } else { vec![messages.join("; ")] }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted: Vec<&str> = self.values.iter().map(Str::as_str).collect();
        sorted.sort_unstable();
        let (key, values) = (&self.key, sorted.join(","));
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

/// All conditions of a label selector; none match everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    nothing: bool,
    requirements: Vec<Requirement>,
}

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
        parse::requirements(text).map(Self::of)
    }

    /// The selector of a `metav1.LabelSelector`: `null` matches nothing, `{}` everything.
    pub fn from_object(selector: &Value) -> Result<Self, SelectorError> {
        if selector.is_null() {
            return Ok(Self::nothing());
        }
        let mut requirements = Vec::new();
        for (key, value) in
            selector.get("matchLabels").and_then(Value::as_object).into_iter().flat_map(Object::iter)
        {
            let value = value.as_str().unwrap_or_default();
            requirements.push(Requirement::new(key.clone(), Operator::Equals, vec![Str::from(value)])?);
        }
        for expression in selector.items_at(&["matchExpressions"]) {
            let operator = match expression.str_at(&["operator"]) {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError(format!("{other:?} is not a valid label selector operator")));
                }
            };
            let values =
                expression.items_at(&["values"]).iter().filter_map(Value::as_str).map(Str::from).collect();
            requirements.push(Requirement::new(expression.str_at(&["key"]).into(), operator, values)?);
        }
        Ok(Self::of(requirements))
    }

    /// The selector of a plain map (ReplicationController, Service): every label must be equal, an empty map matches
    /// everything. Values are not checked, as upstream's `SelectorFromSet`.
    pub fn from_map(labels: &Object) -> Self {
        let equals = |(key, value): (&Str, &Value)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.as_str().unwrap_or_default().into()],
        };
        Self::of(labels.iter().map(equals).collect())
    }

    fn of(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        LabelSelector { nothing: false, requirements }
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

    /// Do the labels of this object fit?
    pub fn matches_object(&self, object: &Value) -> bool {
        match object.at(&["metadata", "labels"]).and_then(Value::as_object) {
            Some(labels) => self.matches(labels),
            None => self.matches_with(|_| None),
        }
    }

    /// Do the labels that `label` looks up fit?
    pub fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(label(&r.key)))
    }
}

impl fmt::Display for LabelSelector {
    /// Canonical, sorted by key; reads back as the same selector (one that matches nothing has no text).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.requirements.iter().map(Requirement::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

#[cfg(test)]
mod tests;
