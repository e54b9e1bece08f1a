//! Webhook configurations: who is asked, about what, and how.

use super::look::{Errors, at_mut, given, int, items, items_mut, one_of_given, set_missing, text};
use super::row::NO_HOOKS;
use crate::field::{self, Error, Path};
use crate::kind::{Context, Hooks};
use crate::rules::{self, invalid_each};
use crate::{Object, Value, meta};

const OPERATIONS: &[&str] = &["*", "CREATE", "UPDATE", "DELETE", "CONNECT"];
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];
const CONDITIONS_MAX: usize = 64;

pub(super) const MUTATING: Hooks = Hooks {
    default: Some(|c| items_mut(c, "webhooks").for_each(|hook| default_hook(hook, true))),
    validate: Some(|object, _, _| validate_all(object, true)),
    ..NO_HOOKS
};
pub(super) const VALIDATING: Hooks = Hooks {
    default: Some(|c| items_mut(c, "webhooks").for_each(|hook| default_hook(hook, false))),
    validate: Some(validate_validating),
    ..NO_HOOKS
};

fn validate_validating(object: &Value, _old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    validate_all(object, false)
}

fn default_hook(hook: &mut Value, mutating: bool) {
    set_missing(hook, "failurePolicy", Value::str("Fail"));
    set_missing(hook, "matchPolicy", Value::str("Equivalent"));
    set_missing(hook, "namespaceSelector", Object::default());
    set_missing(hook, "objectSelector", Object::default());
    set_missing(hook, "timeoutSeconds", 10);
    if mutating {
        set_missing(hook, "reinvocationPolicy", Value::str("Never"));
    }
    items_mut(hook, "rules").for_each(|rule| set_missing(rule, "scope", Value::str("*")));
    if let Some(service) = at_mut(hook, &["clientConfig", "service"]) {
        set_missing(service, "port", 443);
    }
}

fn validate_all(object: &Value, mutating: bool) -> Vec<field::Error> {
    let (mut errors, list) = (Vec::new(), Path::root("webhooks"));
    let hooks = items(object, "webhooks");
    for (i, hook) in hooks.iter().enumerate() {
        let path = list.index(i);
        validate_hook(&mut errors, hook, mutating, &path);
        let name = text(hook, "name");
        if !name.is_empty() && hooks[..i].iter().any(|other| text(other, "name") == name) {
            errors.push(Error::duplicate(&path.child("name"), name));
        }
    }
    errors
}

fn validate_hook(errors: &mut Errors, hook: &Value, mutating: bool, path: &Path<'_>) {
    let name = text(hook, "name");
    qualified(errors, name, &path.child("name"));
    let list = path.child("rules");
    for (i, one) in items(hook, "rules").iter().enumerate() {
        rule(errors, one, &list.index(i));
    }
    one_of_given(errors, hook, "failurePolicy", &["Fail", "Ignore"], path);
    one_of_given(errors, hook, "matchPolicy", &["Equivalent", "Exact"], path);
    match given(hook, "sideEffects").and_then(Value::as_str) {
        None => {
            errors.push(Error::required(&path.child("sideEffects"), "must specify one of None, NoneOnDryRun"))
        }
        Some("None" | "NoneOnDryRun") => {}
        Some(other) => {
            let known = &["None", "NoneOnDryRun"];
            errors.push(Error::not_supported(&path.child("sideEffects"), other, known));
        }
    }
    if let Some(seconds) = int(hook, "timeoutSeconds").filter(|s| !(1..=30).contains(s)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.push(Error::invalid(&path.child("timeoutSeconds"), seconds, detail));
    }
    for field in ["namespaceSelector", "objectSelector"] {
        meta::label_selector(errors, given(hook, field), &path.child(field));
    }
    client_config(errors, hook.get("clientConfig").unwrap_or(&Value::Null), &path.child("clientConfig"));
    review_versions(errors, items(hook, "admissionReviewVersions"), &path.child("admissionReviewVersions"));
    conditions(errors, items(hook, "matchConditions"), &path.child("matchConditions"));
    if mutating {
        one_of_given(errors, hook, "reinvocationPolicy", &["IfNeeded", "Never"], path);
    }
}

/// A DNS subdomain of three parts at least.
fn qualified(errors: &mut Errors, name: &str, path: &Path<'_>) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    let wrong = rules::dns_subdomain(name);
    if !wrong.is_empty() {
        invalid_each(errors, path, name, wrong);
    } else if name.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        errors.push(Error::invalid(path, name, detail));
    }
}

fn rule(errors: &mut Errors, rule: &Value, path: &Path<'_>) {
    let operations = items(rule, "operations");
    let list = path.child("operations");
    if operations.is_empty() {
        errors.push(Error::required(&list, ""));
    }
    alone(errors, operations, "*", "if '*' is present, must not specify other operations", &list);
    for (i, operation) in operations.iter().enumerate() {
        let operation = operation.as_str().unwrap_or_default();
        if !OPERATIONS.contains(&operation) {
            errors.push(Error::not_supported(&list.index(i), operation, OPERATIONS));
        }
    }
    for (field, what) in [("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        let (list, values) = (path.child(field), items(rule, field));
        if values.is_empty() {
            errors.push(Error::required(&list, ""));
        }
        alone(errors, values, "*", &format!("if '*' is present, must not specify other {what}"), &list);
        for (i, value) in values.iter().enumerate() {
            if field == "apiVersions" && value.as_str() == Some("") {
                errors.push(Error::required(&list.index(i), ""));
            }
        }
    }
    resources(errors, items(rule, "resources"), &path.child("resources"));
    one_of_given(errors, rule, "scope", &["*", "Cluster", "Namespaced"], path);
}

fn alone(errors: &mut Errors, values: &[Value], star: &str, detail: &str, list: &Path<'_>) {
    if values.len() > 1 && values.iter().any(|v| v.as_str() == Some(star)) {
        errors.push(Error::invalid(list, Value::from(values.to_vec()), detail));
    }
}

fn resources(errors: &mut Errors, resources: &[Value], list: &Path<'_>) {
    if resources.is_empty() {
        errors.push(Error::required(list, ""));
    }
    let names: Vec<&str> = resources.iter().map(|r| r.as_str().unwrap_or_default()).collect();
    for (i, name) in names.iter().enumerate() {
        let path = list.index(i);
        if name.is_empty() {
            errors.push(Error::required(&path, ""));
            continue;
        }
        let (resource, sub) = name.split_once('/').map_or((*name, None), |(r, s)| (r, Some(s)));
        let seen = |wanted: String| names[..i].contains(&wanted.as_str());
        if sub.is_some() && seen(format!("{resource}/*")) {
            let detail = format!("if '{resource}/*' is present, must not specify {name}");
            errors.push(Error::invalid(&path, *name, detail));
        }
        if let Some(sub) = sub.filter(|sub| seen(format!("*/{sub}"))) {
            let detail = format!("if '*/{sub}' is present, must not specify {name}");
            errors.push(Error::invalid(&path, *name, detail));
        }
    }
    if names.len() > 1 && names.contains(&"*/*") {
        let detail = "if '*/*' is present, must not specify other resources";
        errors.push(Error::invalid(list, Value::from(resources.to_vec()), detail));
    }
    if names.contains(&"*") && names.iter().any(|name| *name != "*" && !name.contains('/')) {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.push(Error::invalid(list, Value::from(resources.to_vec()), detail));
    }
}

/// Where a webhook is: a URL or a Service, not both.
pub(super) fn client_config(errors: &mut Errors, config: &Value, path: &Path<'_>) {
    match (given(config, "url").and_then(Value::as_str), given(config, "service")) {
        (Some(url), None) => url_rules(errors, url, &path.child("url")),
        (None, Some(service)) => service_rules(errors, service, &path.child("service")),
        _ => errors.push(Error::required(path, "exactly one of url or service is required")),
    }
}

fn url_rules(errors: &mut Errors, url: &str, path: &Path<'_>) {
    const FORM: &str = "; desired format: https://host[/path]";
    let mut wrong = |detail: &str| errors.push(Error::invalid(path, url, format!("{detail}{FORM}")));
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if scheme != "https" {
        wrong("'https' is the only allowed URL scheme");
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() || scheme.is_empty() {
        wrong("host must be specified");
    }
    if authority.contains('@') {
        wrong("user information is not permitted in the URL");
    }
    if url.contains('#') {
        wrong("fragments are not permitted in the URL");
    }
    if url.contains('?') {
        wrong("query parameters are not permitted in the URL");
    }
}

fn service_rules(errors: &mut Errors, service: &Value, path: &Path<'_>) {
    for (field, detail) in
        [("name", "service name is required"), ("namespace", "service namespace is required")]
    {
        if text(service, field).is_empty() {
            errors.push(Error::required(&path.child(field), detail));
        }
    }
    if let Some(port) = int(service, "port").filter(|port| !rules::port_number(*port).is_empty()) {
        let detail = "port is not valid: must be between 1 and 65535, inclusive";
        errors.push(Error::invalid(&path.child("port"), port, detail));
    }
    let Some(url_path) = given(service, "path").and_then(Value::as_str) else { return };
    let field = path.child("path");
    if url_path == "/" || url_path.is_empty() {
        return;
    }
    if url_path == "//" {
        errors.push(Error::invalid(&field, url_path, "segment[0] may not be empty"));
        return;
    }
    let Some(inner) = url_path.strip_prefix('/') else {
        errors.push(Error::invalid(&field, url_path, "must start with a '/'"));
        return;
    };
    let parts: Vec<&str> = inner.strip_suffix('/').unwrap_or(inner).split('/').collect();
    for (i, part) in parts.iter().enumerate() {
        if part.is_empty() {
            errors.push(Error::invalid(&field, url_path, format!("segment[{i}] may not be empty")));
            continue;
        }
        for message in rules::dns_subdomain(part) {
            errors.push(Error::invalid(&field, url_path, format!("segment[{i}]: {message}")));
        }
    }
}

fn review_versions(errors: &mut Errors, versions: &[Value], list: &Path<'_>) {
    if versions.is_empty() {
        let detail = format!("must specify one of {}", REVIEW_VERSIONS.join(", "));
        errors.push(Error::required(list, detail));
        return;
    }
    let names: Vec<&str> = versions.iter().map(|v| v.as_str().unwrap_or_default()).collect();
    for (i, name) in names.iter().enumerate() {
        if names[..i].contains(name) {
            errors.push(Error::invalid(&list.index(i), *name, "duplicate version"));
            continue;
        }
        invalid_each(errors, &list.index(i), *name, rules::dns1035_label(name));
    }
    if !names.iter().any(|name| REVIEW_VERSIONS.contains(name)) {
        let detail = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        errors.push(Error::invalid(list, Value::from(versions.to_vec()), detail));
    }
}

fn conditions(errors: &mut Errors, conditions: &[Value], list: &Path<'_>) {
    if conditions.len() > CONDITIONS_MAX {
        errors.push(Error::too_many(list, conditions.len(), CONDITIONS_MAX));
    }
    for (i, condition) in conditions.iter().enumerate() {
        let (path, name) = (list.index(i), text(condition, "name"));
        if text(condition, "expression").trim().is_empty() {
            errors.push(Error::required(&path.child("expression"), ""));
        }
        match name {
            "" => errors.push(Error::required(&path.child("name"), "")),
            name => {
                invalid_each(errors, &path.child("name"), name, rules::qualified_name(name));
                if conditions[..i].iter().any(|other| text(other, "name") == name) {
                    errors.push(Error::duplicate(&path.child("name"), name));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::create_errors;

    const GROUP: &str = "admissionregistration.k8s.io";

    #[test]
    fn webhooks() {
        let good = "{webhooks: [{name: a.example.com, sideEffects: None, admissionReviewVersions: [v1], clientConfig: {service: {name: \
                    s, namespace: d, path: /x}}, rules: [{operations: [CREATE], apiGroups: [''], apiVersions: [v1], resources: [pods]}]}]}";
        assert_eq!(create_errors(GROUP, "ValidatingWebhookConfiguration", good), Vec::<String>::new());
        let cases: &[(&str, &[&str])] = &[
            (
                "{webhooks: [{name: short, timeoutSeconds: 31, clientConfig: {}, admissionReviewVersions: [v9]}]}",
                &[
                    "webhooks[0].name: Invalid value: \"short\": should be a domain with at least three segments separated by dots",
                    "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
                    "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
                    "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
                    "webhooks[0].admissionReviewVersions: Invalid value: [\"v9\"]: must include at least one of v1, v1beta1",
                ],
            ),
            (
                "{webhooks: [{name: a.b.c, sideEffects: Some, admissionReviewVersions: [v1], reinvocationPolicy: Twice, clientConfig: \
                 {url: 'http://x/y?z'}, rules: [{operations: ['*', GET], apiGroups: ['*', a], resources: ['*', pods]}]}]}",
                &[
                    "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"GET\"]: if '*' is present, must not specify other operations",
                    "webhooks[0].rules[0].operations[1]: Unsupported value: \"GET\": supported values: \"*\", \"CREATE\", \"UPDATE\", \
                     \"DELETE\", \"CONNECT\"",
                    "webhooks[0].rules[0].apiGroups: Invalid value: [\"*\",\"a\"]: if '*' is present, must not specify other API groups",
                    "webhooks[0].rules[0].apiVersions: Required value",
                    "webhooks[0].rules[0].resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other \
                     resources without subresources",
                    "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
                    "webhooks[0].clientConfig.url: Invalid value: \"http://x/y?z\": 'https' is the only allowed URL scheme; desired \
                     format: https://host[/path]",
                    "webhooks[0].clientConfig.url: Invalid value: \"http://x/y?z\": query parameters are not permitted in the URL; \
                     desired format: https://host[/path]",
                    "webhooks[0].reinvocationPolicy: Unsupported value: \"Twice\": supported values: \"IfNeeded\", \"Never\"",
                ],
            ),
        ];
        for (yaml, wanted) in cases {
            assert_eq!(create_errors(GROUP, "MutatingWebhookConfiguration", yaml), *wanted, "{yaml}");
        }
    }
}
