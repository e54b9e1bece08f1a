//! Limit ranges: what one container, pod or claim of a namespace may ask for.

use super::look::{Errors, entries, is_empty_map, items_mut, quantity, text};
use super::pod::container;
use super::row::NO_HOOKS;
use crate::field::{self, Error, Path};
use crate::kind::{Context, Hooks};
use crate::quantity::{Format, Quantity};
use crate::rules::{self, invalid_each};
use crate::{Str, Value};

const TYPES: &[&str] = &["Container", "PersistentVolumeClaim", "Pod"];

pub(super) const LIMIT_RANGE: Hooks = Hooks { default: Some(default), validate: Some(validate), ..NO_HOOKS };

/// Fills `to` with what it lacks of `from`.
fn fill(item: &mut Value, to: &'static str, from: &str) {
    let Some(amounts) = item.get(from).and_then(Value::as_object).cloned() else { return };
    let target = item.object_at_mut(&[to]);
    for (name, amount) in amounts {
        if !target.contains_key(&name) {
            target.push_unchecked(name, amount);
        }
    }
}

fn default(range: &mut Value) {
    for item in range.get_mut("spec").into_iter().flat_map(|spec| items_mut(spec, "limits")) {
        if text(item, "type") == "Container" {
            fill(item, "default", "max");
            fill(item, "defaultRequest", "default");
            fill(item, "defaultRequest", "min");
        }
    }
}

fn validate(range: &Value, _old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let spec = Path::root("spec");
    let list = spec.child("limits");
    let limits = range.items_at(&["spec", "limits"]);
    for (i, item) in limits.iter().enumerate() {
        let (path, kind) = (list.index(i), text(item, "type"));
        limit_type(&mut errors, kind, &path.child("type"));
        if limits[..i].iter().any(|l| text(l, "type") == kind) {
            errors.push(Error::duplicate(&path.child("type"), kind));
        }
        let names = names(&mut errors, item, kind, &path);
        for name in names {
            amounts(&mut errors, item, kind, &name, &path);
        }
    }
    errors
}

fn limit_type(errors: &mut Errors, kind: &str, path: &Path<'_>) {
    let wrong = rules::qualified_name(kind);
    if wrong.is_empty() && !kind.contains('/') && !TYPES.contains(&kind) {
        errors.push(Error::invalid(path, kind, "must be a standard limit type or fully qualified"));
    }
    invalid_each(errors, path, kind, wrong);
}

/// Checks the names of all resources, and tells them.
fn names(errors: &mut Errors, item: &Value, kind: &str, path: &Path<'_>) -> Vec<Str> {
    let mut all: Vec<Str> = Vec::new();
    for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        let list = path.child(field);
        let of_pod = kind == "Pod" && field.starts_with("default");
        if of_pod && !is_empty_map(item.get(field)) {
            errors.push(Error::forbidden(&list, "may not be specified when `type` is 'Pod'"));
        }
        let says = |side: &str| item.at(&[side, "storage"]).is_some();
        if field == "maxLimitRequestRatio" && kind == "PersistentVolumeClaim" && !says("min") && !says("max")
        {
            let detail = "either minimum or maximum storage value is required, but neither was provided";
            errors.push(Error::required(&path.child("limits"), detail));
        }
        for (name, _) in entries(item, field).filter(|_| !of_pod) {
            if matches!(kind, "Pod" | "Container") {
                container::resource_name(errors, name, &list.key(name));
            } else {
                container::resource_name_basic(errors, name, &list.key(name));
            }
            if !all.contains(name) {
                all.push(name.clone());
            }
        }
    }
    all
}

/// min ≤ defaultRequest ≤ default ≤ max of one resource, and the ratio between limit and request.
fn amounts(errors: &mut Errors, item: &Value, kind: &str, name: &Str, path: &Path<'_>) {
    let given =
        |field: &str| item.at(&[field, name]).filter(|_| kind != "Pod" || !field.starts_with("default"));
    /// The smaller, the larger, at which of the fields, whose amount is shown, in which words.
    const ORDER: &[(&str, &str, &str, bool, &str)] = &[
        ("min", "max", "min", false, "min value {} is greater than max value {}"),
        (
            "min",
            "defaultRequest",
            "defaultRequest",
            true,
            "min value {} is greater than default request value {}",
        ),
        (
            "defaultRequest",
            "max",
            "defaultRequest",
            false,
            "default request value {} is greater than max value {}",
        ),
        (
            "defaultRequest",
            "default",
            "defaultRequest",
            false,
            "default request value {} is greater than default limit value {}",
        ),
        ("min", "default", "default", false, "min value {} is greater than default value {}"),
        ("default", "max", "default", true, "default value {} is greater than max value {}"),
    ];
    for (low, high, at, shows_high, words) in ORDER {
        let (Some(low), Some(high)) = (given(low), given(high)) else { continue };
        if quantity(Some(low)) > quantity(Some(high)) {
            let (low, high) = (plain(low), plain(high));
            let detail = words.replacen("{}", &low, 1).replacen("{}", &high, 1);
            let bad = if *shows_high { &high } else { &low };
            errors.push(Error::invalid(&path.child(at).key(name), bad.as_str(), detail));
        }
    }
    ratio(errors, item, name, path);
    if let (Some(limit), Some(request)) = (given("default"), given("defaultRequest"))
        && !container::may_overcommit(name)
        && quantity(Some(limit)) != quantity(Some(request))
    {
        let (limit, request) = (plain(limit), plain(request));
        let detail = format!("default value {limit} must equal to defaultRequest value {request} in {name}");
        errors.push(Error::invalid(&path.child("defaultRequest").key(name), request, detail));
    }
}

fn ratio(errors: &mut Errors, item: &Value, name: &Str, path: &Path<'_>) {
    let Some(shown) = item.at(&["maxLimitRequestRatio", name]) else { return };
    let (ratio, shown) = (quantity(Some(shown)), plain(shown));
    let list = path.child("maxLimitRequestRatio");
    if ratio < Quantity::from_value(1, Format::DecimalSI) {
        let detail = format!("ratio {shown} is less than 1");
        errors.push(Error::invalid(&list.key(name), shown.as_str(), detail));
    }
    let (Some(min), Some(max)) = (item.at(&["min", name]), item.at(&["max", name])) else { return };
    let (min, max) = (quantity(Some(min)).milli() as f64, quantity(Some(max)).milli() as f64);
    let most = max / min;
    if ratio.milli() as f64 / 1000.0 > most {
        let detail = format!("ratio {shown} is greater than max/min = {}", go_float(most));
        errors.push(Error::invalid(&list.key(name), shown, detail));
    }
}

/// As Go's `%f` prints it.
fn go_float(n: f64) -> String {
    match n {
        n if n.is_nan() => "NaN".to_owned(),
        n if n.is_infinite() => if n > 0.0 { "+Inf" } else { "-Inf" }.to_owned(),
        n => format!("{n:.6}"),
    }
}

fn plain(amount: &Value) -> String {
    amount.as_str().map_or_else(|| quantity(Some(amount)).to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::create_errors;

    #[test]
    fn broken_ranges() {
        let cases: &[(&str, &[&str])] = &[
            ("{type: Container, max: {cpu: '2'}, min: {cpu: '1'}, maxLimitRequestRatio: {cpu: '2'}}", &[]),
            (
                "{type: Container, max: {cpu: '2'}, min: {cpu: '1'}, maxLimitRequestRatio: {cpu: '3'}}",
                &[
                    "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is greater than max/min = 2.000000",
                ],
            ),
            (
                "{type: Container, max: {cpu: '1'}, default: {cpu: '2'}, defaultRequest: {cpu: '1'}}",
                &[
                    "spec.limits[0].default[cpu]: Invalid value: \"1\": default value 2 is greater than max value 1",
                ],
            ),
            (
                "{type: Other, max: {cpu: '1'}}",
                &[
                    "spec.limits[0].type: Invalid value: \"Other\": must be a standard limit type or fully qualified",
                ],
            ),
            ("{type: example.com/other, max: {cpu: '1'}}", &[]),
        ];
        for (item, wanted) in cases {
            let range = format!("{{spec: {{limits: [{item}]}}}}");
            assert_eq!(create_errors("", "LimitRange", &range), *wanted, "{item}");
        }
    }
}
