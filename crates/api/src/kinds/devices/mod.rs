//! Devices for pods: what drivers offer (slices, classes), what is wanted of it (claims, templates), and what is given.

mod claim;
mod slice;
mod status;

use super::csi::{caseless_driver_name, driver_name};
use super::look::{Errors, at_mut, given, items, items_mut, set_empty, set_zero, text};
use super::row::NO_HOOKS;
use crate::field::{self, Error, Path};
use crate::kind::{Context, Hooks};
use crate::rules::{self, invalid_each};
use crate::{Value, json};

/// The most of everything that these kinds count, and the longest of what they measure in bytes.
pub(super) const LIST_MAX: usize = 32;
const SELECTORS_MAX: usize = 32;
const CONDITIONS_MAX: usize = 4;
const EXPRESSION_MAX_BYTES: usize = 10 * 1024;
const PARAMETERS_MAX_BYTES: usize = 10 * 1024;
const POOL_NAME_MAX_BYTES: usize = 253;
const IDENTIFIER_MAX_BYTES: usize = 32;
const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];
const TOLERATION_OPERATORS: &[&str] = &["Equal", "Exists"];

pub(super) const CLASS: Hooks = Hooks { validate: Some(validate_class), ..NO_HOOKS };
pub(super) const CLAIM: Hooks = Hooks {
    default: Some(|claim| {
        if let Some(spec) = at_mut(claim, &["spec"]) {
            device_requests(spec);
        }
        allocated_tolerations(claim);
    }),
    validate: Some(validate_claim),
    ..NO_HOOKS
};
pub(super) const TEMPLATE: Hooks = Hooks {
    default: Some(|template| {
        if let Some(spec) = at_mut(template, &["spec", "spec"]) {
            device_requests(spec);
        }
    }),
    validate: Some(validate_template),
    ..NO_HOOKS
};
pub(super) const SLICE: Hooks = Hooks {
    prepare_create: Some(slice::prepare),
    prepare_update: Some(|slice, _, cx| slice::prepare(slice, cx)),
    validate: Some(slice::validate),
    warnings: Some(slice::warnings),
    ..NO_HOOKS
};
pub(super) const TAINT_RULE: Hooks = Hooks {
    prepare_create: Some(|rule, cx| {
        if let Some(taint) = at_mut(rule, &["spec", "taint"]) {
            date_taint(taint, cx);
        }
    }),
    prepare_update: Some(new_effect),
    validate: Some(validate_taint_rule),
    ..NO_HOOKS
};

/// Requests of a claim (or claim template) for devices: one of each, exactly.
fn device_requests(spec: &mut Value) {
    let exact = |request: &mut Value| {
        set_empty(request, "allocationMode", "ExactCount");
        if text(request, "allocationMode") == "ExactCount" {
            set_zero(request, "count", 1);
        }
        items_mut(request, "tolerations").for_each(|t| set_empty(t, "operator", "Equal"));
    };
    let Some(devices) = at_mut(spec, &["devices"]) else { return };
    for request in items_mut(devices, "requests") {
        if let Some(exactly) = at_mut(request, &["exactly"]) {
            exact(exactly);
        }
        items_mut(request, "firstAvailable").for_each(exact);
    }
}

fn allocated_tolerations(claim: &mut Value) {
    let Some(devices) = at_mut(claim, &["status", "allocation", "devices"]) else { return };
    for result in items_mut(devices, "results") {
        items_mut(result, "tolerations").for_each(|t| set_empty(t, "operator", "Equal"));
    }
}

/// A taint is in force from now on, unless it says since when.
fn date_taint(taint: &mut Value, cx: &Context<'_>) {
    super::look::set_missing(taint, "timeAdded", crate::time::rfc3339(cx.now_ms));
}

/// A taint of another effect begins anew, unless the time came with it.
fn new_effect(rule: &mut Value, old: &Value, cx: &Context<'_>) {
    let of = |rule: &Value, field: &str| rule.at(&["spec", "taint", field]).cloned().unwrap_or_default();
    if cx.subresource.is_empty()
        && of(rule, "effect") != of(old, "effect")
        && of(rule, "timeAdded") == of(old, "timeAdded")
    {
        let now = crate::time::rfc3339(cx.now_ms);
        rule.object_at_mut(&["spec", "taint"]).set("timeAdded", now);
    }
}

fn validate_class(class: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let (mut errors, empty, path) = (Vec::new(), Value::Null, Path::root("spec"));
    let spec = class.get("spec").unwrap_or(&empty);
    let kept =
        |field: &str| old.is_some_and(|old| super::look::same(spec.get(field), old.at(&["spec", field])));
    if !kept("selectors") {
        selectors(&mut errors, spec, &path);
    }
    let list = path.child("config");
    if at_most(&mut errors, items(spec, "config"), LIST_MAX, &list) {
        for (i, config) in items(spec, "config").iter().enumerate() {
            configuration(&mut errors, config, kept("config"), &list.index(i));
        }
    }
    let at = path.child("extendedResourceName");
    if let Some(name) = given(spec, "extendedResourceName").and_then(Value::as_str) {
        extended_resource(&mut errors, name, &at);
    }
    errors
}

/// The name of a resource that is not Kubernetes' own.
fn extended_resource(errors: &mut Errors, name: &str, path: &Path<'_>) {
    if !name.contains('/') {
        let detail = "a name must be a domain-prefixed path, such as 'example.com/my-prop'";
        errors.push(Error::invalid(path, name, detail));
    } else if name.contains("kubernetes.io/") {
        errors.push(Error::invalid(path, name, "must not have \"kubernetes.io/\" domain"));
    } else if name.starts_with("requests.") {
        errors.push(Error::invalid(path, name, "must not have \"requests.\" prefix"));
    } else {
        invalid_each(errors, path, name, rules::qualified_name(name));
    }
}

fn validate_claim(claim: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let (mut errors, empty, path) = (Vec::new(), Value::Null, Path::root("spec"));
    let spec = claim.get("spec").unwrap_or(&empty);
    match old {
        Some(old) if cx.subresource == "status" => status::validate(&mut errors, claim, old),
        Some(old) => super::look::fixed(&mut errors, claim, old, "spec", &Path::root("")),
        None => claim::validate(&mut errors, spec, &path),
    }
    errors
}

fn validate_template(template: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let (mut errors, empty, path) = (Vec::new(), Value::Null, Path::root("spec"));
    let spec = template.get("spec").unwrap_or(&empty);
    let metadata = path.child("metadata");
    let meta = spec.get("metadata").unwrap_or(&empty);
    for (key, _) in super::look::entries(spec, "metadata").filter(|(key, value)| {
        !matches!(key.as_str(), "labels" | "annotations") && !super::look::same(Some(value), None)
    }) {
        let shown = if key == "uid" { "uID" } else { key.as_str() };
        errors.push(Error::forbidden(&metadata.child(shown), "cannot be set"));
    }
    crate::meta::annotations(&mut errors, meta.get("annotations"), &metadata.child("annotations"));
    crate::meta::labels(&mut errors, meta.get("labels"), &metadata.child("labels"));
    claim::validate(&mut errors, spec.get("spec").unwrap_or(&empty), &path.child("spec"));
    if let Some(old) = old {
        super::look::immutable(&mut errors, template, old, "spec", &Path::root(""));
    }
    errors
}

fn validate_taint_rule(rule: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    const MOST: usize = 8;
    let (mut errors, empty, path) = (Vec::new(), Value::Null, Path::root("spec"));
    if cx.subresource == "status" {
        let status = Path::root("status");
        let (at, list) = (status.child("conditions"), rule.items_at(&["status", "conditions"]));
        super::conditions::validate(&mut errors, list, &at);
        at_most(&mut errors, list, MOST, &at);
        return errors;
    }
    let spec = rule.get("spec").unwrap_or(&empty);
    if let Some(selector) = given(spec, "deviceSelector") {
        let path = path.child("deviceSelector");
        if let Some(name) = given(selector, "driver").and_then(Value::as_str) {
            driver_name(&mut errors, name, &path.child("driver"));
        }
        if let Some(name) = given(selector, "pool").and_then(Value::as_str) {
            pool_name(&mut errors, name, &path.child("pool"));
        }
        if let Some(name) = given(selector, "device").and_then(Value::as_str) {
            invalid_each(&mut errors, &path.child("device"), name, rules::dns_label(name));
        }
    }
    let before = old.map(|old| old.str_at(&["spec", "taint", "effect"]));
    let none = Value::object();
    taint(&mut errors, given(spec, "taint").unwrap_or(&none), before, &path.child("taint"));
    errors
}

/// Are there no more items than allowed? Otherwise that alone is said of the list.
fn at_most(errors: &mut Errors, list: &[Value], most: usize, path: &Path<'_>) -> bool {
    if list.len() > most {
        errors.push(Error::too_many(path, list.len(), most));
    }
    list.len() <= most
}

/// One or more subdomains with slashes between them.
fn pool_name(errors: &mut Errors, name: &str, path: &Path<'_>) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    if name.len() > POOL_NAME_MAX_BYTES {
        errors.push(Error::too_long(path, POOL_NAME_MAX_BYTES));
    }
    for part in name.split('/') {
        invalid_each(errors, path, part, rules::dns_subdomain(part));
    }
}

fn selectors(errors: &mut Errors, of: &Value, path: &Path<'_>) {
    let (list, selectors) = (path.child("selectors"), items(of, "selectors"));
    if !at_most(errors, selectors, SELECTORS_MAX, &list) {
        return;
    }
    for (i, selector) in selectors.iter().enumerate() {
        let path = list.index(i);
        let at = path.child("cel");
        match given(selector, "cel") {
            None => errors.push(Error::required(&at, "")),
            Some(cel) if text(cel, "expression").len() > EXPRESSION_MAX_BYTES => {
                errors.push(Error::too_long(&at.child("expression"), EXPRESSION_MAX_BYTES));
            }
            Some(_) => {}
        }
    }
}

/// What is passed to a driver as it is: a JSON object that is not too long.
fn configuration(errors: &mut Errors, config: &Value, stored: bool, path: &Path<'_>) {
    let at = path.child("opaque");
    let Some(opaque) = given(config, "opaque") else {
        errors.push(Error::required(&at, ""));
        return;
    };
    caseless_driver_name(errors, text(opaque, "driver"), &at.child("driver"));
    raw_object(errors, opaque.get("parameters"), stored, &at.child("parameters"));
}

fn raw_object(errors: &mut Errors, raw: Option<&Value>, stored: bool, path: &Path<'_>) {
    match raw {
        None | Some(Value::Null) => errors.push(Error::required(path, "")),
        Some(value) if !stored && json::to_string(value).len() > PARAMETERS_MAX_BYTES => {
            errors.push(Error::too_long(path, PARAMETERS_MAX_BYTES));
        }
        Some(Value::Object(_)) => {}
        Some(_) => errors.push(Error::invalid(path, "<value omitted>", "must be a valid JSON object")),
    }
}

fn taint(errors: &mut Errors, taint: &Value, effect_before: Option<&str>, path: &Path<'_>) {
    let (key, value, effect) = (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
    invalid_each(errors, &path.child("key"), key, rules::qualified_name(key));
    invalid_each(errors, &path.child("value"), value, rules::label_value(value));
    if effect_before != Some(effect) {
        super::look::one_of(errors, effect, EFFECTS, &path.child("effect"));
    }
}

fn tolerations(errors: &mut Errors, of: &Value, path: &Path<'_>) {
    let list = path.child("tolerations");
    for (i, toleration) in items(of, "tolerations").iter().enumerate() {
        let path = list.index(i);
        let (key, value, effect) =
            (text(toleration, "key"), text(toleration, "value"), text(toleration, "effect"));
        if !key.is_empty() {
            invalid_each(errors, &path.child("key"), key, rules::qualified_name(key));
        }
        let at = path.child("value");
        match text(toleration, "operator") {
            "Exists" if !value.is_empty() => {
                errors.push(Error::invalid(&at, value, "must be empty for operator `Exists`"));
            }
            "Exists" => {}
            "Equal" => invalid_each(errors, &at, value, rules::label_value(value)),
            operator => super::look::one_of(errors, operator, TOLERATION_OPERATORS, &path.child("operator")),
        }
        if !effect.is_empty() {
            super::look::one_of(errors, effect, EFFECTS, &path.child("effect"));
        }
    }
}

/// Conditions that must come true before a device is used, and those that give it up: both or neither, none twice.
fn binding_conditions(errors: &mut Errors, of: &Value, path: &Path<'_>) {
    const WANTED: &str = "bindingConditions";
    const FAILED: &str = "bindingFailureConditions";
    let (wanted, failed) = (items(of, WANTED), items(of, FAILED));
    for (field, list) in [(WANTED, wanted), (FAILED, failed)] {
        let at = path.child(field);
        if at_most(errors, list, CONDITIONS_MAX, &at) {
            for (i, name) in list.iter().enumerate() {
                let name = name.as_str().unwrap_or_default();
                invalid_each(errors, &at.index(i), name, rules::qualified_name(name));
            }
        }
    }
    duplicates(errors, wanted, &path.child(WANTED));
    let at = path.child(FAILED);
    duplicates(errors, failed, &at);
    for (i, name) in failed.iter().enumerate().filter(|(_, name)| wanted.contains(name)) {
        let detail = "bindingFailureConditions must not overlap with bindingConditions";
        errors.push(Error::invalid(&at.index(i), name.clone(), detail));
    }
    if wanted.is_empty() && !failed.is_empty() {
        let detail = "bindingConditions are required to use bindingFailureConditions";
        errors.push(Error::invalid(&path.child(WANTED), shown(of, WANTED), detail));
    }
    if failed.is_empty() && !wanted.is_empty() {
        let detail = "bindingFailureConditions are required to use bindingConditions";
        errors.push(Error::invalid(&at, shown(of, FAILED), detail));
    }
}

fn shown(of: &Value, field: &str) -> Value {
    of.get(field).cloned().unwrap_or_default()
}

/// Every item that stood there before.
fn duplicates(errors: &mut Errors, list: &[Value], path: &Path<'_>) {
    for (i, item) in list.iter().enumerate().filter(|(i, item)| list[..*i].contains(item)) {
        errors.push(Error::duplicate(&path.index(i), item.clone()));
    }
}

/// Every item of which another before has the same text in a field.
fn duplicate_keys(errors: &mut Errors, list: &[Value], key: &str, path: &Path<'_>) {
    for (i, item) in list.iter().enumerate() {
        if list[..i].iter().any(|other| text(other, key) == text(item, key)) {
            errors.push(Error::duplicate(&path.index(i), item.clone()));
        }
    }
}

/// `name` or `domain/name`
fn qualified(errors: &mut Errors, name: &str, path: &Path<'_>) {
    let identifier = |errors: &mut Errors, id: &str| {
        if id.len() > IDENTIFIER_MAX_BYTES {
            errors.push(Error::too_long(path, IDENTIFIER_MAX_BYTES));
        }
        invalid_each(errors, path, id, rules::c_identifier(id));
    };
    let parts: Vec<&str> = name.split('/').collect();
    match parts[..] {
        [id] => identifier(errors, id),
        [domain, id] => {
            match domain {
                "" => errors.push(Error::invalid(path, "", "the domain must not be empty")),
                domain => driver_name(errors, domain, path),
            }
            match id {
                "" => errors.push(Error::invalid(path, "", "the name must not be empty")),
                id => identifier(errors, id),
            }
        }
        _ => {}
    }
}

/// `domain/name`
fn fully_qualified(errors: &mut Errors, name: &str, path: &Path<'_>) {
    qualified(errors, name, path);
    if !name.contains('/') {
        let detail = "a fully qualified name must be a domain and a name separated by a slash";
        errors.push(Error::invalid(path, name, detail));
    }
}

fn is_given(value: &Value, field: &str) -> bool {
    given(value, field).is_some()
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{create_errors, update_errors};

    const GROUP: &str = "resource.k8s.io";

    #[test]
    fn claims() {
        let cases: &[(&str, &[&str])] = &[
            ("{spec: {devices: {requests: [{name: r, exactly: {deviceClassName: c}}]}}}", &[]),
            ("{spec: {}}", &[]),
            (
                "{spec: {devices: {requests: [{name: r}], constraints: [{requests: [x], matchAttribute: a.b/c}], config: [{}]}}}",
                &[
                    "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
                    "spec.devices.constraints[0].requests[0]: Invalid value: \"x\": must be the name of a request in the claim \
                     or the name of a request and a subrequest separated by '/'",
                    "spec.devices.config[0].opaque: Required value",
                ],
            ),
        ];
        for (yaml, wanted) in cases {
            assert_eq!(create_errors(GROUP, "ResourceClaim", yaml), *wanted, "{yaml}");
        }
    }

    #[test]
    fn slices_stay_where_they_are() {
        let slice = |node: &str| {
            format!(
                "{{spec: {{driver: a.b, nodeName: node-{node}, pool: {{name: p, resourceSliceCount: 1}}}}}}"
            )
        };
        assert_eq!(create_errors(GROUP, "ResourceSlice", &slice("n")), Vec::<String>::new());
        assert_eq!(
            update_errors(GROUP, "ResourceSlice", &slice("n"), &slice("m")),
            ["spec.nodeName: Invalid value: \"node-m\": field is immutable"]
        );
    }
}
