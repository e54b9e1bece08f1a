//! What a driver offers on a node (or on many).

use super::{
    at_most, binding_conditions, driver_name, duplicate_keys, is_given, pool_name, qualified, shown, taint,
};
use crate::field::{self, Error, Path};
use crate::kind::Context;
use crate::kinds::look::{
    Errors, entries, given, immutable, int_or_zero, is_true, items, items_mut, quantity, same, text,
};
use crate::kinds::pod::affinity::node_selector;
use crate::rules::{self, invalid_each};
use crate::{Object, Value};

const DEVICES_MAX: usize = 128;
/// With taints, counters or attributes that are lists.
const ELABORATE_DEVICES_MAX: usize = 64;
const COUNTER_SETS_MAX: usize = 8;
const COUNTERS_MAX: usize = 32;
const CONSUMED_SETS_MAX: usize = 2;
const PROPERTIES_MAX: usize = 32;
const TAINTS_MAX: usize = 16;
const VALUE_MAX_BYTES: usize = 64;
const CHOICES_MAX: usize = 10;
const ATTRIBUTE_TYPES: &[&str] = &["int", "bool", "string", "version"];
const ALL_TYPES: &str = "`int`, `bool`, `string`, `version`, `ints`, `bools`, `strings`, `versions`";
const NODE_FIELDS: &[&str] = &["nodeName", "nodeSelector", "allNodes"];

/// Fields of features that are off are not kept.
pub(super) fn prepare(slice: &mut Value, cx: &Context<'_>) {
    let Some(spec) = slice.get_mut("spec") else { return };
    let drop = |of: &mut Value, fields: &[&str]| {
        if let Some(of) = of.as_object_mut() {
            of.retain(|key, _| !fields.contains(&key));
        }
    };
    drop(spec, &["partitionTypeAttribute", "skipNodeOperations"]);
    for device in items_mut(spec, "devices") {
        drop(device, &["nodeAllocatableResources"]);
        items_mut(device, "taints").for_each(|taint| super::date_taint(taint, cx));
        for consumed in items_mut(device, "consumesCounters") {
            drop(consumed, &["compatibilityGroups"]);
        }
        let Some(Value::Object(attributes)) = device.get_mut("attributes") else { continue };
        for (_, attribute) in attributes.iter_mut() {
            drop(attribute, &["bools", "ints", "strings", "versions"]);
        }
    }
}

/// Names of drivers are lower case by custom.
pub(super) fn warnings(slice: &Value, _old: Option<&Value>) -> Vec<String> {
    let driver = slice.str_at(&["spec", "driver"]);
    if driver == driver.to_lowercase() {
        return Vec::new();
    }
    vec![format!("spec.driver: driver names should be lowercase; {driver:?} contains uppercase characters")]
}

/// A slice, new or changed.
pub(super) fn validate(slice: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let (mut errors, empty, path) = (Vec::new(), Value::Null, Path::root("spec"));
    let (spec, none) = (slice.get("spec").unwrap_or(&empty), Value::object());
    let before = old.map(|old| old.get("spec").unwrap_or(&empty));
    driver_name(&mut errors, text(spec, "driver"), &path.child("driver"));
    let (pool, at) = (given(spec, "pool").unwrap_or(&none), path.child("pool"));
    pool_name(&mut errors, text(pool, "name"), &at.child("name"));
    let count = int_or_zero(pool, "resourceSliceCount");
    if count <= 0 {
        errors.push(Error::invalid(&at.child("resourceSliceCount"), count, "must be greater than zero"));
    }
    let generation = int_or_zero(pool, "generation");
    if generation < 0 {
        let detail = "must be greater than or equal to zero";
        errors.push(Error::invalid(&at.child("generation"), generation, detail));
    }
    if let Some(before) = before {
        let old_pool = before.get("pool").unwrap_or(&empty);
        immutable(&mut errors, pool, old_pool, "name", &at);
        immutable(&mut errors, spec, before, "driver", &path);
        immutable(&mut errors, spec, before, "nodeName", &path);
    }
    where_it_is(&mut errors, spec, &path);
    if spec.get("sharedCounters").is_some_and(|c| !c.is_null()) && is_given(spec, "devices") {
        let detail = "only one of `sharedCounters` or `devices` is allowed";
        errors.push(Error::invalid(&path, "", detail));
    }
    devices(&mut errors, spec, before, &path);
    counter_sets(&mut errors, spec, &path);
    errors
}

/// One of four ways to say which nodes have the devices.
fn where_it_is(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let mut set = Vec::new();
    if let Some(name) = given(spec, "nodeName").and_then(Value::as_str) {
        let at = path.child("nodeName");
        if name.is_empty() {
            errors.push(Error::invalid(&at, "", "must be either unset or set to a non-empty string"));
        } else {
            set.push("`nodeName`");
            invalid_each(errors, &at, name, rules::dns_subdomain(name));
        }
    }
    if let Some(selector) = given(spec, "nodeSelector") {
        let at = path.child("nodeSelector");
        set.push("`nodeSelector`");
        node_selector(errors, selector, &at);
        if items(selector, "nodeSelectorTerms").len() != 1 {
            let terms = shown(selector, "nodeSelectorTerms");
            let detail = "must have exactly one node selector term";
            errors.push(Error::invalid(&at.child("nodeSelectorTerms"), terms, detail));
        }
    }
    for (field, name) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")]
    {
        match given(spec, field).and_then(Value::as_bool) {
            Some(true) => set.push(name),
            Some(false) => {
                let detail = "must be either unset or set to true";
                errors.push(Error::invalid(&path.child(field), false, detail));
            }
            None => {}
        }
    }
    const ONE: &str =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match set.len() {
        0 => errors.push(Error::required(path, ONE)),
        1 => {}
        _ => {
            let detail = format!("{ONE}, but multiple fields are set");
            errors.push(Error::invalid(path, format!("{{{}}}", set.join(", ")), detail));
        }
    }
}

fn devices(errors: &mut Errors, spec: &Value, before: Option<&Value>, path: &Path<'_>) {
    let (list, devices) = (path.child("devices"), items(spec, "devices"));
    let elaborate =
        |device: &Value| !items(device, "taints").is_empty() || !items(device, "consumesCounters").is_empty();
    let most = if devices.iter().any(elaborate) { ELABORATE_DEVICES_MAX } else { DEVICES_MAX };
    if !at_most(errors, devices, most, &list) {
        return;
    }
    let each = is_true(spec, "perDeviceNodeSelection");
    for (i, one) in devices.iter().enumerate() {
        let was =
            before.and_then(|b| items(b, "devices").iter().find(|d| text(d, "name") == text(one, "name")));
        device(errors, one, was, each, &list.index(i));
    }
    for (i, one) in devices.iter().enumerate() {
        if devices[..i].iter().any(|other| text(other, "name") == text(one, "name")) {
            errors.push(Error::duplicate(&list.index(i), text(one, "name")));
        }
    }
}

fn device(errors: &mut Errors, device: &Value, was: Option<&Value>, own_nodes: bool, path: &Path<'_>) {
    let name = text(device, "name");
    invalid_each(errors, &path.child("name"), name, rules::dns_label(name));
    let properties = entries(device, "attributes").count() + entries(device, "capacity").count();
    if properties > PROPERTIES_MAX {
        let detail =
            format!("the total number of attributes and capacities must not exceed {PROPERTIES_MAX}");
        errors.push(Error::invalid(path, properties as i64, detail));
    }
    let at = path.child("attributes");
    for (key, value) in entries(device, "attributes") {
        qualified(errors, key, &at);
        attribute(errors, value, &at.key(key));
    }
    let kept = |field: &str| was.is_some_and(|was| same(was.get(field), device.get(field)));
    if !kept("capacity") {
        let at = path.child("capacity");
        for (key, value) in entries(device, "capacity") {
            qualified(errors, key, &at);
            capacity(errors, value, is_true(device, "allowMultipleAllocations"), &at.key(key));
        }
    }
    let (at, taints) = (path.child("taints"), items(device, "taints"));
    if !kept("taints") && at_most(errors, taints, TAINTS_MAX, &at) {
        taints.iter().enumerate().for_each(|(i, one)| taint(errors, one, None, &at.index(i)));
    }
    let (at, consumed) = (path.child("consumesCounters"), items(device, "consumesCounters"));
    if at_most(errors, consumed, CONSUMED_SETS_MAX, &at) {
        for (i, one) in consumed.iter().enumerate() {
            counters(errors, one, "counterSet", &at.index(i));
        }
        duplicate_keys(errors, consumed, "counterSet", &at);
    }
    own_place(errors, device, own_nodes, path);
    binding_conditions(errors, device, path);
}

/// Where the device itself is, if the slice says that each says so.
fn own_place(errors: &mut Errors, device: &Value, own_nodes: bool, path: &Path<'_>) {
    if !own_nodes {
        if NODE_FIELDS.iter().any(|field| is_given(device, field)) {
            let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to \
                          true in the ResourceSlice spec";
            errors.push(Error::invalid(path, Value::Null, detail));
        }
        return;
    }
    let mut set = Vec::new();
    if let Some(name) = given(device, "nodeName").and_then(Value::as_str) {
        let at = path.child("nodeName");
        if name.is_empty() {
            errors.push(Error::invalid(&at, "", "must not be empty"));
        } else {
            set.push("`nodeName`");
            invalid_each(errors, &at, name, rules::dns_subdomain(name));
        }
    }
    if let Some(selector) = given(device, "nodeSelector") {
        set.push("`nodeSelector`");
        node_selector(errors, selector, &path.child("nodeSelector"));
    }
    match given(device, "allNodes").and_then(Value::as_bool) {
        Some(true) => set.push("`allNodes`"),
        Some(false) => {
            errors.push(Error::invalid(
                &path.child("allNodes"),
                false,
                "must be either unset or set to true",
            ));
        }
        None => {}
    }
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is \
                       set to true in the ResourceSlice spec";
    match set.len() {
        0 => errors.push(Error::required(path, ONE)),
        1 => {}
        _ => errors.push(Error::invalid(path, format!("{{{}}}", set.join(", ")), ONE)),
    }
}

fn attribute(errors: &mut Errors, attribute: &Value, path: &Path<'_>) {
    let long = |errors: &mut Errors, text: &str, at: &Path<'_>| {
        if text.len() > VALUE_MAX_BYTES {
            errors.push(Error::too_long(at, VALUE_MAX_BYTES));
        }
    };
    if let Some(text) = given(attribute, "string").and_then(Value::as_str) {
        long(errors, text, &path.child("string"));
    }
    if let Some(text) = given(attribute, "version").and_then(Value::as_str) {
        let at = path.child("version");
        if !is_semantic_version(text) {
            let detail = "must be a string compatible with semver.org spec 2.0.0";
            errors.push(Error::invalid(&at, text, detail));
        }
        long(errors, text, &at);
    }
    let set: Vec<&str> = ATTRIBUTE_TYPES.iter().copied().filter(|field| is_given(attribute, field)).collect();
    match set.len() {
        1 => {}
        0 => errors.push(Error::invalid(path, "", format!("must specify one of: {ALL_TYPES}"))),
        _ => {
            let shown = format!("{{{}}}", set.join(", "));
            errors.push(Error::invalid(path, shown, format!("must specify exactly one of: {ALL_TYPES}")));
        }
    }
}

/// `1.2.3-alpha.1+build`
fn is_semantic_version(text: &str) -> bool {
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let number = |part: &str| digits(part) && (part == "0" || !part.starts_with('0'));
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let numbers: Vec<&str> = core.split('.').collect();
    numbers.len() == 3
        && numbers.iter().all(|part| number(part))
        && pre.is_none_or(|pre| pre.split('.').all(|part| word(part) && (!digits(part) || number(part))))
        && build.is_none_or(|build| build.split('.').all(word))
}

fn capacity(errors: &mut Errors, capacity: &Value, shared: bool, path: &Path<'_>) {
    let at = path.child("requestPolicy");
    match given(capacity, "requestPolicy") {
        None => {}
        Some(_) if !shared => {
            errors.push(Error::forbidden(&at, "allowMultipleAllocations must be true"));
        }
        Some(policy) => request_policy(errors, policy, capacity.get("value"), &at),
    }
}

fn request_policy(errors: &mut Errors, policy: &Value, all: Option<&Value>, path: &Path<'_>) {
    let (choices, range) = (items(policy, "validValues"), given(policy, "validRange"));
    if !choices.is_empty() && range.is_some() {
        let detail = r#"exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time"#;
        errors.push(Error::forbidden(path, detail));
        return;
    }
    let field = if choices.is_empty() { "validRange" } else { "validValues" };
    if choices.is_empty() && range.is_none() {
        return;
    }
    let Some(default) = given(policy, "default") else {
        let detail = format!("required when {field} is defined");
        errors.push(Error::required(&path.child("default"), detail));
        return;
    };
    match range {
        Some(range) => valid_range(errors, range, default, all, &path.child(field)),
        None => valid_values(errors, choices, default, all, &path.child(field)),
    }
}

fn valid_values(
    errors: &mut Errors,
    choices: &[Value],
    default: &Value,
    all: Option<&Value>,
    path: &Path<'_>,
) {
    let number = |value: &Value| quantity(Some(value));
    let text = |value: &Value| number(value).to_string();
    for (i, pair) in choices.windows(2).enumerate().filter(|(_, pair)| number(&pair[0]) > number(&pair[1])) {
        let detail = "values must be sorted in ascending order";
        errors.push(Error::invalid(&path.index(i + 1), text(&pair[1]), detail));
    }
    let mut is_choice = false;
    if at_most(errors, choices, CHOICES_MAX, path) {
        for (i, choice) in choices.iter().enumerate() {
            if number(choice) > quantity(all) {
                let detail = format!("option is larger than capacity value: {}", quantity(all));
                errors.push(Error::invalid(&path.index(i), text(choice), detail));
            }
            is_choice |= number(choice) == number(default);
            if choices[..i].iter().any(|other| number(other) == number(choice)) {
                errors.push(Error::duplicate(&path.index(i), text(choice)));
            }
        }
    }
    if !is_choice {
        let detail = "default value is not valid according to the requestPolicy";
        errors.push(Error::invalid(path, text(default), detail));
    }
}

fn valid_range(errors: &mut Errors, range: &Value, default: &Value, all: Option<&Value>, path: &Path<'_>) {
    let number = |value: &Value| quantity(Some(value));
    let (default, all) = (number(default), quantity(all));
    let Some(min) = given(range, "min").map(number) else {
        errors.push(Error::required(&path.child("min"), "required when validRange is defined"));
        return;
    };
    let mut wrong = |is: bool, field: &str, value: String, detail: String| {
        if is {
            errors.push(Error::invalid(&path.child(field), value, detail));
        }
    };
    wrong(min > all, "min", min.to_string(), format!("min is larger than capacity value: {all}"));
    wrong(default < min, "default", default.to_string(), format!("default is less than min: {min}"));
    let max = given(range, "max").map(number);
    if let Some(max) = max {
        wrong(min > max, "max", min.to_string(), format!("min is larger than max: {max}"));
        wrong(max > all, "max", max.to_string(), format!("max is larger than capacity value: {all}"));
        wrong(default > max, "default", default.to_string(), format!("default is more than max: {max}"));
    }
    let Some(step) = given(range, "step").map(number) else { return };
    if step.sign() <= 0 {
        wrong(true, "step", step.to_string(), "must be greater than zero".to_owned());
        return;
    }
    let first = crate::quantity::Quantity::from_value(min.value().saturating_add(step.value()), min.format());
    let detail = format!("one step {first} is larger than capacity value: {all}");
    wrong(first > all, "step", step.to_string(), detail);
    for value in [Some(default), max].into_iter().flatten() {
        let off = (value.milli() - min.milli()).checked_rem(step.milli()).unwrap_or(0) != 0;
        let detail = format!("value is not a multiple of a given step ({step}) from ({min})");
        wrong(off, "step", value.to_string(), detail);
    }
}

fn counter_sets(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let (list, sets) = (path.child("sharedCounters"), items(spec, "sharedCounters"));
    if at_most(errors, sets, COUNTER_SETS_MAX, &list) {
        sets.iter().enumerate().for_each(|(i, set)| counters(errors, set, "name", &list.index(i)));
        duplicate_keys(errors, sets, "name", &list);
    }
}

/// A set of counters, or what of one is used.
fn counters(errors: &mut Errors, set: &Value, name: &'static str, path: &Path<'_>) {
    crate::kinds::look::required_by(errors, set, name, path, rules::dns_label);
    let (at, counters) = (path.child("counters"), given(set, "counters").and_then(Value::as_object));
    match counters.map_or(0, Object::len) {
        0 => errors.push(Error::required(&at, "")),
        n if n > COUNTERS_MAX => errors.push(Error::too_many(&at, n, COUNTERS_MAX)),
        _ => {
            for (key, _) in entries(set, "counters") {
                invalid_each(errors, &at, key, rules::dns_label(key));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn versions() {
        for (text, good) in [
            ("1.2.3", true),
            ("0.0.0-a.1+b", true),
            ("1.2", false),
            ("01.2.3", false),
            ("1.2.3-01", false),
            ("1.2.3-", false),
            ("1.2.3+a-b", true),
            ("v1.2.3", false),
        ] {
            assert_eq!(super::is_semantic_version(text), good, "{text}");
        }
    }
}
