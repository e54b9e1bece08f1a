//! Flow schemas and priority levels: whose requests wait in which queue, and how many run at once.

use super::look::{
    Errors, Zero, at_mut, given, int, int_or_zero, internal, is_true, items, same, set_missing, set_zero,
    text,
};
use super::row::NO_HOOKS;
use crate::field::{self, Error, Path};
use crate::kind::{Context, Hooks};
use crate::rules::{self, invalid_each};
use crate::{Object, Value};

/// The two schemas and levels that every server has keep what they say.
const MANDATORY: [&str; 2] = ["exempt", "catch-all"];
const PRECEDENCE_MAX: i64 = 10_000;
const QUEUES_MAX: i64 = 10_000_000;
/// Dealing a hand of queues may take so many bits of a hash.
const HASH_BITS_MAX: u32 = 60;
const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

pub(super) const FLOW_SCHEMA: Hooks = Hooks {
    default: Some(|schema| {
        if let Some(spec) = at_mut(schema, &["spec"]) {
            set_zero(spec, "matchingPrecedence", 1000);
        }
    }),
    validate: Some(validate_schema),
    name_rule: Some(rules::name_is_subdomain),
    ..NO_HOOKS
};

pub(super) const PRIORITY_LEVEL: Hooks =
    Hooks { default: Some(default_level), validate: Some(validate_level), ..NO_HOOKS };

fn default_level(level: &mut Value) {
    if level.str_at(&["spec", "type"]) == "Exempt" {
        level.object_at_mut(&["spec", "exempt"]);
    }
    if let Some(exempt) = at_mut(level, &["spec", "exempt"]) {
        set_missing(exempt, "nominalConcurrencyShares", 0);
        set_missing(exempt, "lendablePercent", 0);
    }
    let Some(limited) = at_mut(level, &["spec", "limited"]) else { return };
    set_missing(limited, "nominalConcurrencyShares", 30);
    set_missing(limited, "lendablePercent", 0);
    if let Some(queuing) = at_mut(limited, &["limitResponse", "queuing"]) {
        set_zero(queuing, "handSize", 8);
        set_zero(queuing, "queues", 64);
        set_zero(queuing, "queueLengthLimit", 50);
    }
}

fn validate_schema(schema: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let (mut errors, empty, path) = (Vec::new(), Value::Null, Path::root("spec"));
    if cx.subresource != "status" {
        let spec = schema.get("spec").unwrap_or(&empty);
        schema_spec(&mut errors, spec, schema.str_at(&["metadata", "name"]), &path);
        keeps_fixed_spec(&mut errors, schema, old, &path);
    }
    conditions(&mut errors, schema);
    errors
}

/// The specs of the mandatory objects cannot change once the server has made them.
fn keeps_fixed_spec(errors: &mut Errors, new: &Value, old: Option<&Value>, path: &Path<'_>) {
    let name = new.str_at(&["metadata", "name"]);
    let Some(old) = old.filter(|_| MANDATORY.contains(&name)) else { return };
    let (mut before, mut now) = (spec_of(old), spec_of(new));
    if name == "exempt" {
        // How much the exempt level lends and is given is the one thing that its owners may tune.
        for spec in [&mut before, &mut now] {
            spec.object_at_mut(&[]).remove("exempt");
        }
    }
    if !same(Some(&before), Some(&now)) {
        let shown = new.get("spec").cloned().unwrap_or_default();
        errors.push(Error::invalid(path, shown, format!("spec of '{name}' must equal the fixed value")));
    }
}

fn spec_of(object: &Value) -> Value {
    object.get("spec").filter(|s| !s.is_null()).cloned().unwrap_or_else(|| Object::default().into())
}

fn schema_spec(errors: &mut Errors, spec: &Value, name: &str, path: &Path<'_>) {
    let (precedence, at) = (int_or_zero(spec, "matchingPrecedence"), path.child("matchingPrecedence"));
    if precedence <= 0 {
        errors.push(Error::invalid(&at, precedence, "must be a positive value"));
    }
    if precedence > PRECEDENCE_MAX {
        errors.push(Error::invalid(&at, precedence, format!("must not be greater than {PRECEDENCE_MAX}")));
    }
    if precedence == 1 && name != "exempt" {
        let detail = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.push(Error::invalid(&at, precedence, detail));
    }
    if let Some(method) = given(spec, "distinguisherMethod")
        && !["ByNamespace", "ByUser"].contains(&text(method, "type"))
    {
        let at = path.child("distinguisherMethod");
        let shown = internal(method, &[("type", "Type", Zero::Text)]);
        errors.push(Error::not_supported(&at.child("type"), shown, &["ByNamespace", "ByUser"]));
    }
    let level = spec.str_at(&["priorityLevelConfiguration", "name"]);
    let at = path.child("priorityLevelConfiguration");
    match level {
        "" => errors.push(Error::required(&at.child("name"), "must reference a priority level")),
        level => invalid_each(errors, &at.child("name"), level, rules::dns_subdomain(level)),
    }
    let list = path.child("rules");
    for (i, rule) in items(spec, "rules").iter().enumerate() {
        policy(errors, rule, &list.index(i));
    }
}

fn policy(errors: &mut Errors, rule: &Value, path: &Path<'_>) {
    let at = path.child("subjects");
    if items(rule, "subjects").is_empty() {
        errors.push(Error::required(&at, "subjects must contain at least one value"));
    }
    for (i, of) in items(rule, "subjects").iter().enumerate() {
        subject(errors, of, &at.index(i));
    }
    let (resources, paths) = (items(rule, "resourceRules"), items(rule, "nonResourceRules"));
    if resources.is_empty() && paths.is_empty() {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(Error::required(path, detail));
    }
    let at = path.child("resourceRules");
    for (i, rule) in resources.iter().enumerate() {
        resource_rule(errors, rule, &at.index(i));
    }
    let at = path.child("nonResourceRules");
    for (i, rule) in paths.iter().enumerate() {
        path_rule(errors, rule, &at.index(i));
    }
}

fn subject(errors: &mut Errors, of: &Value, path: &Path<'_>) {
    const KINDS: [(&str, &str); 3] =
        [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = text(of, "kind");
    let Some((_, own)) = KINDS.iter().find(|(name, _)| *name == kind) else {
        errors.push(Error::not_supported(&path.child("kind"), kind, &["Group", "ServiceAccount", "User"]));
        return;
    };
    let at = path.child(own);
    match given(of, own) {
        None => errors.push(Error::required(&at, format!("{own} is required when subject kind is '{kind}'"))),
        Some(named) if kind == "ServiceAccount" => account(errors, named, &at),
        Some(named) if text(named, "name").is_empty() => errors.push(Error::required(&at.child("name"), "")),
        Some(_) => {}
    }
    for (other, field) in KINDS.iter().filter(|(name, _)| *name != kind) {
        if given(of, field).is_some() {
            let detail = format!("{field} is forbidden when subject kind is not '{other}'");
            errors.push(Error::forbidden(&path.child(field), detail));
        }
    }
}

fn account(errors: &mut Errors, account: &Value, path: &Path<'_>) {
    match text(account, "name") {
        "" => errors.push(Error::required(&path.child("name"), "")),
        "*" => {}
        name => invalid_each(errors, &path.child("name"), name, rules::dns_subdomain(name)),
    }
    let at = path.child("namespace");
    match text(account, "namespace") {
        "" => errors.push(Error::required(&at, "must specify namespace for service account")),
        namespace => invalid_each(errors, &at, namespace, rules::dns_label(namespace)),
    }
}

fn words<'a>(rule: &'a Value, field: &str) -> Vec<&'a str> {
    items(rule, field).iter().filter_map(Value::as_str).collect()
}

/// A list that names something, or everything with a single `*`. `true`: names that are still to be looked at.
fn list_or_star(errors: &mut Errors, rule: &Value, field: &str, say: (&str, &str), path: &Path<'_>) -> bool {
    let (given, at) = (words(rule, field), path.child(field));
    if given.is_empty() {
        errors.push(Error::required(&at, say.0));
    } else if given.contains(&"*") && given.len() > 1 {
        let shown = rule.get(field).cloned().unwrap_or_default();
        let detail = format!("if '*' is present, must not specify other {}", say.1);
        errors.push(Error::invalid(&at, shown, detail));
    }
    !given.is_empty() && !given.contains(&"*")
}

fn verbs(errors: &mut Errors, rule: &Value, path: &Path<'_>) {
    let say = ("verbs must contain at least one value", "verbs");
    if list_or_star(errors, rule, "verbs", say, path)
        && !words(rule, "verbs").iter().all(|verb| VERBS.contains(verb))
    {
        let shown = rule.get("verbs").cloned().unwrap_or_default();
        errors.push(Error::not_supported(&path.child("verbs"), shown, VERBS));
    }
}

fn resource_rule(errors: &mut Errors, rule: &Value, path: &Path<'_>) {
    verbs(errors, rule, path);
    let say = ("resource rules must supply at least one api group", "api groups");
    list_or_star(errors, rule, "apiGroups", say, path);
    let say = ("resource rules must supply at least one resource", "resources");
    list_or_star(errors, rule, "resources", say, path);
    if is_true(rule, "clusterScope") && items(rule, "namespaces").is_empty() {
        return;
    }
    let required = "resource rules that are not cluster scoped must supply at least one namespace";
    if list_or_star(errors, rule, "namespaces", (required, "namespaces"), path) {
        let at = path.child("namespaces");
        for (i, namespace) in words(rule, "namespaces").into_iter().enumerate() {
            for message in rules::dns_label(namespace) {
                let detail = format!("each member of this list must be '*' or a DNS-1123 label; {message}");
                errors.push(Error::invalid(&at.index(i), namespace, detail));
            }
        }
    }
}

fn path_rule(errors: &mut Errors, rule: &Value, path: &Path<'_>) {
    verbs(errors, rule, path);
    let say = ("nonResourceURLs must contain at least one value", "non-resource URLs");
    if list_or_star(errors, rule, "nonResourceURLs", say, path) {
        let at = path.child("nonResourceURLs");
        for (i, url) in words(rule, "nonResourceURLs").into_iter().enumerate() {
            if let Some(detail) = wrong_url(url) {
                errors.push(Error::invalid(&at.index(i), url, detail));
            }
        }
    }
}

fn wrong_url(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || (stars == 1 && !url.ends_with("/*")) => {
            Some("wildcard can only do suffix matching")
        }
        _ => None,
    }
}

fn conditions(errors: &mut Errors, object: &Value) {
    let (status, list) = (Path::root("status"), object.items_at(&["status", "conditions"]));
    let path = status.child("conditions");
    for (i, condition) in list.iter().enumerate() {
        let (kind, at) = (text(condition, "type"), path.index(i));
        if list[..i].iter().any(|other| text(other, "type") == kind) {
            errors.push(Error::duplicate(&at.child("type"), kind));
        }
        if kind.is_empty() {
            errors.push(Error::required(&at.child("type"), "must not be empty"));
        }
    }
}

fn validate_level(level: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let (mut errors, empty, path) = (Vec::new(), Value::Null, Path::root("spec"));
    if cx.subresource != "status" {
        let spec = level.get("spec").unwrap_or(&empty);
        level_spec(&mut errors, spec, level.str_at(&["metadata", "name"]), &path);
        keeps_fixed_spec(&mut errors, level, old, &path);
    }
    conditions(&mut errors, level);
    errors
}

fn level_spec(errors: &mut Errors, spec: &Value, name: &str, path: &Path<'_>) {
    let (kind, at) = (text(spec, "type"), path.child("type"));
    if (name == "exempt") != (kind == "Exempt") {
        errors.push(Error::invalid(&at, kind, "type must be 'Exempt' if and only if name is 'exempt'"));
    }
    let (limited, exempt) = (given(spec, "limited"), given(spec, "exempt"));
    match kind {
        "Exempt" => {
            if limited.is_some() {
                let detail = "must be nil if the type is not Limited";
                errors.push(Error::forbidden(&path.child("limited"), detail));
            }
            if let Some(exempt) = exempt {
                shares(errors, exempt, 0, &path.child("exempt"));
            }
        }
        "Limited" => {
            if exempt.is_some() {
                errors.push(Error::forbidden(&path.child("exempt"), "must be nil if the type is Limited"));
            }
            match limited {
                None => {
                    let detail = "";
                    errors.push(Error::required(&path.child("limited"), detail));
                }
                Some(limited) => limited_level(errors, limited, &path.child("limited")),
            }
        }
        kind => errors.push(Error::not_supported(&at, kind, &["Exempt", "Limited"])),
    }
}

/// Shares are not negative, what is lent is a part of a hundred.
fn shares(errors: &mut Errors, of: &Value, default: i64, path: &Path<'_>) {
    let shares = int(of, "nominalConcurrencyShares").unwrap_or(default);
    if shares < 0 {
        let detail = "must be a non-negative integer";
        errors.push(Error::invalid(&path.child("nominalConcurrencyShares"), shares, detail));
    }
    if let Some(lent) = int(of, "lendablePercent").filter(|lent| !(0..=100).contains(lent)) {
        let detail = "must be between 0 and 100, inclusive";
        errors.push(Error::invalid(&path.child("lendablePercent"), lent, detail));
    }
}

fn limited_level(errors: &mut Errors, limited: &Value, path: &Path<'_>) {
    shares(errors, limited, 30, path);
    if let Some(borrowed) = int(limited, "borrowingLimitPercent").filter(|borrowed| *borrowed < 0) {
        let detail = "if specified, must be a non-negative integer";
        errors.push(Error::invalid(&path.child("borrowingLimitPercent"), borrowed, detail));
    }
    let (empty, path) = (Value::Null, path.child("limitResponse"));
    let response = limited.get("limitResponse").unwrap_or(&empty);
    match (text(response, "type"), given(response, "queuing")) {
        ("Reject", None) => {}
        ("Reject", Some(_)) => {
            let detail = "must be nil if limited.limitResponse.type is not Limited";
            errors.push(Error::forbidden(&path.child("queuing"), detail));
        }
        ("Queue", None) => {
            let detail = "must not be empty if limited.limitResponse.type is Limited";
            errors.push(Error::required(&path.child("queuing"), detail));
        }
        ("Queue", Some(queuing)) => validate_queuing(errors, queuing, &path.child("queuing")),
        (kind, _) => errors.push(Error::not_supported(&path.child("type"), kind, &["Queue", "Reject"])),
    }
}

fn validate_queuing(errors: &mut Errors, queuing: &Value, path: &Path<'_>) {
    let number = |field: &str| int_or_zero(queuing, field);
    let (length, queues, hand) = (number("queueLengthLimit"), number("queues"), number("handSize"));
    if length <= 0 {
        errors.push(Error::invalid(&path.child("queueLengthLimit"), length, "must be positive"));
    }
    if queues <= 0 {
        errors.push(Error::invalid(&path.child("queues"), queues, "must be positive"));
    } else if queues > QUEUES_MAX {
        let detail = format!("must not be greater than {QUEUES_MAX}");
        errors.push(Error::invalid(&path.child("queues"), queues, detail));
    }
    let at = path.child("handSize");
    if hand <= 0 {
        errors.push(Error::invalid(&at, hand, "must be positive"));
    } else if hand > queues {
        let detail = format!("should not be greater than queues ({queues})");
        errors.push(Error::invalid(&at, hand, detail));
    } else if entropy_bits(queues, hand) > HASH_BITS_MAX {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS_MAX}"
        );
        errors.push(Error::invalid(&at, hand, detail));
    }
}

/// How many bits dealing `hand` of `deck` cards takes: log2 of deck · (deck - 1) · …, rounded up.
fn entropy_bits(deck: i64, hand: i64) -> u32 {
    let mut bits = 0.0f64;
    for dealt in 0..hand.min(deck) {
        bits += ((deck - dealt) as f64).log2();
        if bits > f64::from(HASH_BITS_MAX) {
            break;
        }
    }
    bits.ceil() as u32
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{create_errors, defaulted, tree, update_errors};

    const GROUP: &str = "flowcontrol.apiserver.k8s.io";

    #[test]
    fn defaults() {
        let wanted = tree("{spec: {matchingPrecedence: 1000}}");
        assert_eq!(defaulted(GROUP, "FlowSchema", "{spec: {}}"), wanted);
        let wanted =
            tree("{spec: {type: Exempt, exempt: {nominalConcurrencyShares: 0, lendablePercent: 0}}}");
        assert_eq!(defaulted(GROUP, "PriorityLevelConfiguration", "{spec: {type: Exempt}}"), wanted);
    }

    #[test]
    fn schemas() {
        let cases: &[(&str, &[&str])] = &[
            (
                "{metadata: {name: a}, spec: {matchingPrecedence: 1, priorityLevelConfiguration: {}}}",
                &[
                    "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
                    "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
                ],
            ),
            (
                "{metadata: {name: a}, spec: {priorityLevelConfiguration: {name: x}, rules: [{subjects: [{kind: User, group: {name: g}}], \
                 nonResourceRules: [{verbs: ['*', get], nonResourceURLs: [/a*b]}]}]}}",
                &[
                    "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'",
                    "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
                    "spec.rules[0].nonResourceRules[0].verbs: Invalid value: [\"*\",\"get\"]: if '*' is present, must not specify other verbs",
                    "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"/a*b\": wildcard can only do suffix matching",
                ],
            ),
        ];
        for (yaml, wanted) in cases {
            assert_eq!(create_errors(GROUP, "FlowSchema", yaml), *wanted, "{yaml}");
        }
        let fixed = "{metadata: {name: catch-all}, spec: {matchingPrecedence: 10000, priorityLevelConfiguration: {name: catch-all}}}";
        let other = "{metadata: {name: catch-all}, spec: {matchingPrecedence: 9999, priorityLevelConfiguration: {name: catch-all}}}";
        assert_eq!(update_errors(GROUP, "FlowSchema", fixed, fixed), Vec::<String>::new());
        assert!(update_errors(GROUP, "FlowSchema", fixed, other)[0].contains("must equal the fixed value"));
    }

    #[test]
    fn levels() {
        let cases: &[(&str, &[&str])] = &[
            (
                "{metadata: {name: a}, spec: {type: Limited, limited: {limitResponse: {type: Queue, queuing: {queues: 4, handSize: 5}}}}}",
                &[
                    "spec.limited.limitResponse.queuing.handSize: Invalid value: 5: should not be greater than queues (4)",
                ],
            ),
            (
                "{metadata: {name: a}, spec: {type: Exempt}}",
                &[
                    "spec.type: Invalid value: \"Exempt\": type must be 'Exempt' if and only if name is 'exempt'",
                ],
            ),
            (
                "{metadata: {name: a}, spec: {type: Limited, limited: {lendablePercent: 101, limitResponse: {type: Drop}}}}",
                &[
                    "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
                    "spec.limited.limitResponse.type: Unsupported value: \"Drop\": supported values: \"Queue\", \"Reject\"",
                ],
            ),
            (
                "{metadata: {name: a}, spec: {type: Limited, limited: {limitResponse: {type: Queue, queuing: {queues: 1024, handSize: 7}}}}}",
                &[
                    "spec.limited.limitResponse.queuing.handSize: Invalid value: 7: required entropy bits of deckSize 1024 and \
                     handSize 7 should not be greater than 60",
                ],
            ),
        ];
        for (yaml, wanted) in cases {
            assert_eq!(create_errors(GROUP, "PriorityLevelConfiguration", yaml), *wanted, "{yaml}");
        }
    }
}
