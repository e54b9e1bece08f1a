//! Kinds that are special only by a few defaults, a few rules or the rule for their names.

use super::look::{
    Errors, at_mut, given, int_or_zero, is_true, items, items_mut, required, set_missing, text,
};
use super::row::NO_HOOKS;
use crate::field::{self, Error, Path};
use crate::kind::{Context, Hooks};
use crate::rules::{self, invalid_each};
use crate::{Object, Value, meta};

/// Bounds of an API service's places in discovery.
const GROUP_PRIORITY_MAX: i64 = 20_000;
const VERSION_PRIORITY_MAX: i64 = 1000;

pub(super) const API_SERVICE: Hooks = Hooks {
    default: Some(|service| {
        if let Some(reference) = at_mut(service, &["spec", "service"]) {
            set_missing(reference, "port", 443);
        }
    }),
    validate: Some(validate_api_service),
    name_rule: Some(rules::path_segment),
    ..NO_HOOKS
};

fn validate_api_service(service: &Value, _old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let (mut errors, empty, path) = (Vec::new(), Value::Null, Path::root("spec"));
    if cx.subresource == "status" {
        return errors;
    }
    let spec = service.get("spec").unwrap_or(&empty);
    let (group, version) = (text(spec, "group"), text(spec, "version"));
    let (name, wanted) = (service.str_at(&["metadata", "name"]), format!("{version}.{group}"));
    if name != wanted {
        let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
        errors.push(Error::invalid(&Path::root("metadata").child("name"), name, detail));
    }
    if group.is_empty() && version != "v1" {
        let detail = "only v1 may have an empty group and it better be legacy kube";
        errors.push(Error::required(&path.child("group"), detail));
    }
    if !group.is_empty() {
        invalid_each(&mut errors, &path.child("group"), group, rules::dns_subdomain(group));
    }
    invalid_each(&mut errors, &path.child("version"), version, rules::dns1035_label(version));
    for (field, most) in
        [("groupPriorityMinimum", GROUP_PRIORITY_MAX), ("versionPriority", VERSION_PRIORITY_MAX)]
    {
        let priority = int_or_zero(spec, field);
        if !(1..=most).contains(&priority) {
            let detail = format!("must be positive and less than {most}");
            errors.push(Error::invalid(&path.child(field), priority, detail));
        }
    }
    reached_by(&mut errors, spec, &path);
    errors
}

/// How the service behind a group is reached, and what a group served here cannot have.
fn reached_by(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let (insecure, bundle) = (is_true(spec, "insecureSkipTLSVerify"), text(spec, "caBundle"));
    let at = path.child("insecureSkipTLSVerify");
    let Some(service) = given(spec, "service") else {
        if !bundle.is_empty() {
            let (shown, detail) =
                (format!("{} bytes", bundle.len() / 4 * 3), "local APIServices may not have a caBundle");
            errors.push(Error::invalid(&path.child("caBundle"), shown, detail));
        }
        if insecure {
            errors.push(Error::invalid(&at, true, "local APIServices may not have insecureSkipTLSVerify"));
        }
        return;
    };
    required(errors, service, "namespace", &path.child("service"));
    required(errors, service, "name", &path.child("service"));
    if insecure && !bundle.is_empty() {
        errors.push(Error::invalid(&at, true, "may not be true if caBundle is present"));
    }
}

fn match_resources(of: &mut Value) {
    set_missing(of, "matchPolicy", Value::str("Equivalent"));
    set_missing(of, "namespaceSelector", Object::default());
    set_missing(of, "objectSelector", Object::default());
}

fn constraints(of: &mut Value) {
    match_resources(of);
    for list in ["resourceRules", "excludeResourceRules"] {
        items_mut(of, list).for_each(|rule| set_missing(rule, "scope", Value::str("*")));
    }
}

pub(super) const ADMISSION_POLICY: Hooks = Hooks {
    default: Some(|policy| {
        let Some(spec) = policy.get_mut("spec").filter(|s| !s.is_null()) else { return };
        set_missing(spec, "failurePolicy", Value::str("Fail"));
        if let Some(matched) = at_mut(spec, &["matchConstraints"]) {
            constraints(matched);
        }
    }),
    validate: Some(validate_policy),
    ..NO_HOOKS
};

/// What a policy must say before any expression in it is looked at.
fn validate_policy(policy: &Value, _old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let (mut errors, empty, path) = (Vec::new(), Value::Null, Path::root("spec"));
    if cx.subresource == "status" {
        return errors;
    }
    let spec = policy.get("spec").unwrap_or(&empty);
    super::look::one_of_given(&mut errors, spec, "failurePolicy", &["Fail", "Ignore"], &path);
    let at = path.child("matchConstraints");
    match given(spec, "matchConstraints") {
        None => errors.push(Error::required(&at, "")),
        Some(matched) => {
            match_constraints(&mut errors, matched, &at);
            if items(matched, "resourceRules").is_empty() {
                errors.push(Error::required(&at.child("resourceRules"), ""));
            }
        }
    }
    if text(policy, "kind") == "MutatingAdmissionPolicy" {
        if items(spec, "mutations").is_empty() {
            errors
                .push(Error::required(&path.child("mutations"), "mutations must contain at least one item"));
        }
    } else if items(spec, "validations").is_empty() && items(spec, "auditAnnotations").is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        errors.push(Error::required(&path.child("validations"), detail));
        errors.push(Error::required(&path.child("auditAnnotations"), detail));
    }
    let list = path.child("validations");
    for (i, validation) in items(spec, "validations").iter().enumerate() {
        if text(validation, "expression").trim().is_empty() {
            let detail = "expression is not specified";
            errors.push(Error::required(&list.index(i).child("expression"), detail));
        }
    }
    errors
}

fn match_constraints(errors: &mut Errors, matched: &Value, path: &Path<'_>) {
    super::look::one_of_given(errors, matched, "matchPolicy", &["Equivalent", "Exact"], path);
    for selector in ["namespaceSelector", "objectSelector"] {
        meta::label_selector(errors, given(matched, selector), &path.child(selector));
    }
}

pub(super) const POLICY_BINDING: Hooks = Hooks {
    default: Some(|binding| {
        if let Some(matched) = at_mut(binding, &["spec", "matchResources"]) {
            constraints(matched);
        }
    }),
    validate: Some(validate_binding),
    ..NO_HOOKS
};

fn validate_binding(binding: &Value, _old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let (mut errors, empty, path) = (Vec::new(), Value::Null, Path::root("spec"));
    let spec = binding.get("spec").unwrap_or(&empty);
    match text(spec, "policyName") {
        "" => errors.push(Error::required(&path.child("policyName"), "")),
        name => invalid_each(&mut errors, &path.child("policyName"), name, rules::dns_subdomain(name)),
    }
    if let Some(matched) = given(spec, "matchResources") {
        match_constraints(&mut errors, matched, &path.child("matchResources"));
    }
    if text(binding, "kind") == "ValidatingAdmissionPolicyBinding" {
        validation_actions(&mut errors, spec, &path.child("validationActions"));
    }
    errors
}

fn validation_actions(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let actions = items(spec, "validationActions");
    let has = |word: &str| actions.iter().any(|action| action.as_str() == Some(word));
    if actions.is_empty() {
        errors.push(Error::required(path, ""));
    }
    for (i, action) in actions.iter().enumerate() {
        let word = action.as_str().unwrap_or_default();
        if !["Audit", "Deny", "Warn"].contains(&word) {
            errors.push(Error::not_supported(&path.index(i), word, &["Audit", "Deny", "Warn"]));
        }
        if actions[..i].contains(action) {
            errors.push(Error::duplicate(&path.index(i), word));
        }
    }
    if has("Deny") && has("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API \
                      response and headers serves no purpose)";
        let shown = spec.get("validationActions").cloned().unwrap_or_default();
        errors.push(Error::invalid(path, shown, detail));
    }
}
