//! What a claim may ask for.

use super::{
    LIST_MAX, at_most, configuration, duplicate_keys, duplicates, fully_qualified, selectors, tolerations,
};
use crate::Value;
use crate::field::{Error, Path};
use crate::kinds::look::{Errors, given, int_or_zero, items, required_by, text};
use crate::rules::{self, invalid_each};

const ALTERNATIVES_MAX: usize = 8;
const NO_SUCH_REQUEST: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// The spec of a claim or of a template's claim.
pub(super) fn validate(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let (empty, path) = (Value::Null, path.child("devices"));
    let devices = spec.get("devices").unwrap_or(&empty);
    let (list, wanted) = (path.child("requests"), items(devices, "requests"));
    if at_most(errors, wanted, LIST_MAX, &list) {
        for (i, one) in wanted.iter().enumerate() {
            request(errors, one, &list.index(i));
        }
        duplicate_keys(errors, wanted, "name", &list);
    }
    let (list, constraints) = (path.child("constraints"), items(devices, "constraints"));
    if at_most(errors, constraints, LIST_MAX, &list) {
        for (i, one) in constraints.iter().enumerate() {
            constraint(errors, one, devices, &list.index(i));
        }
    }
    let (list, configs) = (path.child("config"), items(devices, "config"));
    if at_most(errors, configs, LIST_MAX, &list) {
        for (i, config) in configs.iter().enumerate() {
            request_names(errors, config, devices, &list.index(i));
            configuration(errors, config, false, &list.index(i));
        }
    }
}

fn request(errors: &mut Errors, request: &Value, path: &Path<'_>) {
    let (name, alternatives) = (text(request, "name"), items(request, "firstAvailable"));
    invalid_each(errors, &path.child("name"), name, rules::dns_label(name));
    match (alternatives.is_empty(), given(request, "exactly")) {
        (true, None) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required";
            errors.push(Error::required(path, detail));
        }
        (false, Some(_)) => {
            let detail =
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.push(Error::invalid(path, Value::Null, detail));
        }
        (true, Some(exactly)) => exact(errors, exactly, &path.child("exactly")),
        (false, None) => {
            let list = path.child("firstAvailable");
            if at_most(errors, alternatives, ALTERNATIVES_MAX, &list) {
                for (i, one) in alternatives.iter().enumerate() {
                    let path = list.index(i);
                    let name = text(one, "name");
                    invalid_each(errors, &path.child("name"), name, rules::dns_label(name));
                    exact(errors, one, &path);
                }
                duplicate_keys(errors, alternatives, "name", &list);
            }
        }
    }
}

fn exact(errors: &mut Errors, wanted: &Value, path: &Path<'_>) {
    required_by(errors, wanted, "deviceClassName", path, rules::dns_subdomain);
    selectors(errors, wanted, path);
    let (count, at) = (int_or_zero(wanted, "count"), path.child("count"));
    match text(wanted, "allocationMode") {
        "All" if count != 0 => {
            errors.push(Error::invalid(&at, count, "must not be specified when allocationMode is 'All'"));
        }
        "ExactCount" if count <= 0 => errors.push(Error::invalid(&at, count, "must be greater than zero")),
        "All" | "ExactCount" => {}
        mode => {
            errors.push(Error::not_supported(&path.child("allocationMode"), mode, &["All", "ExactCount"]));
        }
    }
    super::at_most(errors, items(wanted, "tolerations"), 16, &path.child("tolerations"));
    tolerations(errors, wanted, path);
}

fn constraint(errors: &mut Errors, constraint: &Value, devices: &Value, path: &Path<'_>) {
    request_names(errors, constraint, devices, path);
    for field in ["matchAttribute", "distinctAttribute"] {
        if let Some(name) = given(constraint, field).and_then(Value::as_str) {
            fully_qualified(errors, name, &path.child(field));
            return;
        }
    }
    let detail =
        r#"exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set"#;
    errors.push(Error::required(path, detail));
}

/// `requests` of a constraint or a configuration: each is one of the claim's, and named once.
pub(super) fn request_names(errors: &mut Errors, of: &Value, devices: &Value, path: &Path<'_>) {
    let (list, names) = (path.child("requests"), items(of, "requests"));
    if !at_most(errors, names, LIST_MAX, &list) {
        return;
    }
    for (i, name) in names.iter().enumerate() {
        request_name(errors, name.as_str().unwrap_or_default(), devices, &list.index(i));
    }
    duplicates(errors, names, &list);
}

/// `request` or `request/subrequest`
pub(super) fn request_name(errors: &mut Errors, name: &str, devices: &Value, path: &Path<'_>) {
    let parts: Vec<&str> = name.split('/').collect();
    if parts.len() > 2 {
        errors.push(Error::invalid(path, name, NO_SUCH_REQUEST));
        return;
    }
    for part in &parts {
        invalid_each(errors, path, *part, rules::dns_label(part));
    }
    let named = |list: &[Value], name: &str| list.iter().any(|one| text(one, "name") == name);
    let requests = items(devices, "requests");
    let there = match parts[..] {
        [request, alternative] => requests
            .iter()
            .any(|r| text(r, "name") == request && named(items(r, "firstAvailable"), alternative)),
        _ => named(requests, name),
    };
    if !there {
        errors.push(Error::invalid(path, name, NO_SUCH_REQUEST));
    }
}
