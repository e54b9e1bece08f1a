//! Limits on what a namespace may use, on what may go away, and who goes first: resource quotas, disruption budgets, priority classes, leases.

use super::look::{
    Errors, IMMUTABLE, Zero, entries, given, int, internal, items, one_of, one_of_given, same, set_missing,
    text,
};
use super::pod::container::{resource_name_basic, resource_value};
use super::row::NO_HOOKS;
use super::workload::int_or_percent;
use crate::field::{self, Error, Path};
use crate::kind::{Context, Hooks};
use crate::rules::{self, invalid_each};
use crate::{Value, meta};

/// Priorities above this are for the system's own classes.
const USER_PRIORITY_MAX: i64 = 1_000_000_000;

/// What a quota can limit beside counts (`count/…`) and resources with a domain.
const QUOTA_RESOURCES: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

pub(super) const RESOURCE_QUOTA: Hooks = Hooks { validate: Some(validate_quota), ..NO_HOOKS };
pub(super) const DISRUPTION_BUDGET: Hooks =
    Hooks { validate: Some(validate_budget), name_rule: Some(rules::path_segment), ..NO_HOOKS };
pub(super) const PRIORITY_CLASS: Hooks = Hooks {
    default: Some(|class| set_missing(class, "preemptionPolicy", Value::str("PreemptLowerPriority"))),
    validate: Some(validate_priority),
    ..NO_HOOKS
};
pub(super) const RUNTIME_CLASS: Hooks = Hooks { validate: Some(validate_runtime), ..NO_HOOKS };
pub(super) const LEASE: Hooks = Hooks {
    prepare_create: Some(|lease, _| drop_election(lease, None)),
    prepare_update: Some(|lease, old, _| drop_election(lease, Some(old))),
    validate: Some(validate_lease),
    ..NO_HOOKS
};

/// Fields of coordinated elections, which are off upstream, stay only where they are already.
fn drop_election(lease: &mut Value, old: Option<&Value>) {
    let Some(spec) = lease.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for field in ["strategy", "preferredHolder"] {
        if old.and_then(|old| old.at(&["spec", field])).is_none() {
            spec.remove(field);
        }
    }
}

fn validate_quota(quota: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let (empty, spec, status) = (Value::Null, Path::root("spec"), Path::root("status"));
    let mut amounts = |of: &Value, list: &str, path: &Path<'_>| {
        for (name, amount) in entries(of, list) {
            resource_name_basic(&mut errors, name, &path.key(name));
            let huge = |name: &str| name.strip_prefix("requests.").unwrap_or(name).starts_with("hugepages-");
            if !name.contains('/') && !QUOTA_RESOURCES.contains(&name.as_str()) && !huge(name) {
                let detail = "must be a standard resource for quota";
                errors.push(Error::invalid(&path.key(name), name.as_str(), detail));
            }
            resource_value(&mut errors, name, amount, &path.key(name));
        }
    };
    if cx.subresource == "status" {
        let of = quota.get("status").unwrap_or(&empty);
        amounts(of, "hard", &status.child("hard"));
        amounts(of, "used", &status.child("used"));
        return errors;
    }
    amounts(quota.get("spec").unwrap_or(&empty), "hard", &spec.child("hard"));
    scopes(&mut errors, quota, &spec);
    if let Some(old) = old.filter(|old| !same(old.at(&["spec", "scopes"]), quota.at(&["spec", "scopes"]))) {
        let _ = old;
        let bad = quota.at(&["spec", "scopes"]).cloned().unwrap_or_default();
        errors.push(Error::invalid(&spec.child("scopes"), bad, IMMUTABLE));
    }
    errors
}

const COMPUTE: &[&str] = &["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
/// Only what is there or not can be said of pods that ask for no resources.
const ONLY_EXISTS: &str = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
     ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or \
     ResourceQuotaScopeCrossNamespacePodAffinity";

/// Can a quota with this scope limit the resource?
fn scope_covers(scope: &str, resource: &str) -> bool {
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        scope if SCOPES.contains(&scope) => resource == "pods" || COMPUTE.contains(&resource),
        _ => true,
    }
}

fn scopes(errors: &mut Errors, quota: &Value, path: &Path<'_>) {
    let (list, all) = (path.child("scopes"), quota.items_at(&["spec", "scopes"]));
    let names: Vec<&str> = all.iter().map(|scope| scope.as_str().unwrap_or_default()).collect();
    let hard = || entries(quota.get("spec").unwrap_or(&Value::Null), "hard").map(|(name, _)| name.as_str());
    let uncovered = |scope: &str| {
        hard().filter(|name| QUOTA_RESOURCES.contains(name) && !scope_covers(scope, name)).count()
    };
    let bad = || Value::from(all.to_vec());
    for name in &names {
        if !SCOPES.contains(name) {
            errors.push(Error::invalid(&list, bad(), "unsupported scope"));
        }
        for _ in 0..uncovered(name) {
            errors.push(Error::invalid(&list, bad(), "unsupported scope applied to resource"));
        }
    }
    conflicts(errors, &names, &bad(), &list);
    let Some(selector) = quota.at(&["spec", "scopeSelector"]) else { return };
    let at = path.child("scopeSelector");
    let expressions = at.child("matchExpressions");
    for one in items(selector, "matchExpressions") {
        let detail = "unsupported scope applied to resource";
        let wrong = || Error::invalid(&expressions, selector_shown(selector), detail);
        let times = uncovered(text(one, "scopeName"));
        scope_requirement(errors, one, &expressions, std::iter::repeat_with(wrong).take(times));
    }
    let selected: Vec<&str> =
        items(selector, "matchExpressions").iter().map(|one| text(one, "scopeName")).collect();
    conflicts(errors, &selected, &bad(), &list);
}

fn conflicts(errors: &mut Errors, names: &[&str], bad: &Value, path: &Path<'_>) {
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if names.contains(&one) && names.contains(&other) {
            errors.push(Error::invalid(path, bad, "conflicting scopes"));
        }
    }
}

fn selector_shown(selector: &Value) -> Value {
    const ONE: &[(&str, &str, Zero)] = &[
        ("scopeName", "ScopeName", Zero::Text),
        ("operator", "Operator", Zero::Text),
        ("values", "Values", Zero::Null),
    ];
    let mut shown = Value::object();
    let all: Vec<Value> = items(selector, "matchExpressions").iter().map(|one| internal(one, ONE)).collect();
    shown.object_at_mut(&[]).set("MatchExpressions", all);
    shown
}

/// Upstream names the list and not which of its items is wrong.
fn scope_requirement(
    errors: &mut Errors,
    one: &Value,
    path: &Path<'_>,
    uncovered: impl Iterator<Item = field::Error>,
) {
    let (scope, operator) = (text(one, "scopeName"), text(one, "operator"));
    let (values, list) = (items(one, "values"), path.child("values"));
    if !SCOPES.contains(&scope) {
        errors.push(Error::invalid(&path.child("scopeName"), scope, "unsupported scope"));
    }
    errors.extend(uncovered);
    let by_value = matches!(scope, "PriorityClass" | "VolumeAttributesClass");
    if SCOPES.contains(&scope) && !by_value && operator != "Exists" {
        errors.push(Error::invalid(&path.child("operator"), operator, ONLY_EXISTS));
    }
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
            errors.push(Error::required(&list, detail));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
            errors.push(Error::invalid(&list, Value::from(values.to_vec()), detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.push(Error::invalid(&path.child("operator"), other, "not a valid selector operator")),
    }
}

fn validate_budget(budget: &Value, _old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    if cx.subresource == "status" {
        return errors;
    }
    let (empty, path) = (Value::Null, Path::root("spec"));
    let spec = budget.get("spec").unwrap_or(&empty);
    let (available, unavailable) = (given(spec, "minAvailable"), given(spec, "maxUnavailable"));
    if available.is_some() && unavailable.is_some() {
        let detail = "minAvailable and maxUnavailable cannot be both set";
        const SPEC: &[(&str, &str, Zero)] = &[
            ("minAvailable", "MinAvailable", Zero::Null),
            ("selector", "Selector", Zero::Null),
            ("maxUnavailable", "MaxUnavailable", Zero::Null),
            ("unhealthyPodEvictionPolicy", "UnhealthyPodEvictionPolicy", Zero::Null),
        ];
        errors.push(Error::invalid(&path, internal(spec, SPEC), detail));
    }
    int_or_percent(&mut errors, available, &path.child("minAvailable"));
    int_or_percent(&mut errors, unavailable, &path.child("maxUnavailable"));
    meta::label_selector(&mut errors, given(spec, "selector"), &path.child("selector"));
    let policies = &["AlwaysAllow", "IfHealthyBudget"];
    one_of_given(&mut errors, spec, "unhealthyPodEvictionPolicy", policies, &path);
    errors
}

fn validate_priority(class: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let (name, value) = (class.str_at(&["metadata", "name"]), int(class, "value").unwrap_or(0));
    if let Some(old) = old {
        for field in ["value", "preemptionPolicy"] {
            if !same(class.get(field), old.get(field)) {
                errors.push(Error::forbidden(&Path::root(field), "may not be changed in an update."));
            }
        }
        return errors;
    }
    let is_system = matches!(name, "system-node-critical" | "system-cluster-critical");
    if name.starts_with("system-") && !is_system {
        let path = Path::root("metadata");
        let detail = "priority class names with 'system-' prefix are reserved for system use only. error: ";
        let detail = format!("{detail}{name} is not a known system priority class");
        errors.push(Error::forbidden(&path.child("name"), detail));
    } else if value > USER_PRIORITY_MAX && !is_system {
        let detail = format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}");
        errors.push(Error::forbidden(&Path::root("value"), detail));
    }
    let policy = Path::root("preemptionPolicy");
    one_of(&mut errors, text(class, "preemptionPolicy"), &["PreemptLowerPriority", "Never"], &policy);
    errors
}

fn validate_runtime(class: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let (mut errors, path, handler) = (Vec::new(), Path::root("handler"), text(class, "handler"));
    if old.is_some_and(|old| text(old, "handler") != handler) {
        errors.push(Error::invalid(&path, Value::Null, IMMUTABLE));
    }
    invalid_each(&mut errors, &path, handler, rules::dns_label(handler));
    if let Some(overhead) = given(class, "overhead") {
        let root = Path::root("overhead");
        let list = root.child("podFixed");
        for (name, amount) in entries(overhead, "podFixed") {
            invalid_each(&mut errors, &list.key(name), name.as_str(), rules::qualified_name(name));
            resource_value(&mut errors, name, amount, &list.key(name));
        }
    }
    if let Some(scheduling) = given(class, "scheduling") {
        let root = Path::root("scheduling");
        meta::labels(&mut errors, scheduling.get("nodeSelector"), &root.child("nodeSelector"));
        let list = super::look::items(scheduling, "tolerations");
        super::pod::affinity::tolerations(&mut errors, list, &root.child("tolerations"));
    }
    errors
}

fn validate_lease(lease: &Value, _old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let (empty, path) = (Value::Null, Path::root("spec"));
    let spec = lease.get("spec").unwrap_or(&empty);
    if let Some(seconds) = int(spec, "leaseDurationSeconds").filter(|s| *s <= 0) {
        errors.push(Error::invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0"));
    }
    if let Some(moves) = int(spec, "leaseTransitions").filter(|n| *n < 0) {
        let detail = "must be greater than or equal to 0";
        errors.push(Error::invalid(&path.child("leaseTransitions"), moves, detail));
    }
    // An empty holder is how client-go's leaders give their lease back.
    let text = |field| given(spec, field).and_then(Value::as_str);
    if text("preferredHolder").is_some_and(|holder| !holder.is_empty())
        && text("strategy").unwrap_or_default().is_empty()
    {
        let detail = "may only be specified if `strategy` is defined";
        errors.push(Error::forbidden(&path.child("preferredHolder"), detail));
    }
    errors
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{create_errors, defaulted, tree, update_errors};

    #[test]
    fn limit_ranges() {
        let range = defaulted(
            "",
            "LimitRange",
            "{spec: {limits: [{type: Container, max: {cpu: '2'}, min: {memory: 1Mi}}]}}",
        );
        let wanted = "[{type: Container, max: {cpu: '2'}, min: {memory: 1Mi}, default: {cpu: '2'}, \
                      defaultRequest: {cpu: '2', memory: 1Mi}}]";
        assert_eq!(range.at(&["spec", "limits"]), Some(&tree(wanted)));
        assert_eq!(
            create_errors(
                "",
                "LimitRange",
                "{spec: {limits: [{type: Pod, min: {cpu: '3'}, max: {cpu: '2'}}]}}"
            ),
            ["spec.limits[0].min[cpu]: Invalid value: \"3\": min value 3 is greater than max value 2"]
        );
    }

    #[test]
    fn quotas() {
        let cases: &[(&str, &[&str])] = &[
            (
                "{spec: {hard: {pods: 1, count/jobs.batch: 2, requests.nvidia.com/gpu: 1}, scopes: [BestEffort]}}",
                &[],
            ),
            (
                "{spec: {hard: {apples: 1}}}",
                &[
                    "spec.hard[apples]: Invalid value: \"apples\": must be a standard resource type or fully qualified",
                    "spec.hard[apples]: Invalid value: \"apples\": must be a standard resource for quota",
                ],
            ),
            (
                "{spec: {hard: {secrets: 1}, scopes: [BestEffort]}}",
                &["spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource"],
            ),
            (
                "{spec: {hard: {pods: '-1'}}}",
                &["spec.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0"],
            ),
            (
                "{spec: {scopes: [Terminating, NotTerminating]}}",
                &["spec.scopes: Invalid value: [\"Terminating\",\"NotTerminating\"]: conflicting scopes"],
            ),
            (
                "{spec: {scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: In}]}}}",
                &[
                    "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' \
                     or 'NotIn' for scope selector",
                ],
            ),
        ];
        for (yaml, wanted) in cases {
            assert_eq!(create_errors("", "ResourceQuota", yaml), *wanted, "{yaml}");
        }
        assert_eq!(
            create_errors("", "LimitRange", "{spec: {limits: [{type: PersistentVolumeClaim}]}}"),
            [
                "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided"
            ]
        );
    }

    #[test]
    fn classes_and_budgets() {
        assert_eq!(
            update_errors("scheduling.k8s.io", "PriorityClass", "{value: 1}", "{value: 2}"),
            ["value: Forbidden: may not be changed in an update."]
        );
        assert_eq!(
            update_errors("node.k8s.io", "RuntimeClass", "{handler: runc}", "{handler: Kata}"),
            [
                "handler: Invalid value: null: field is immutable",
                "handler: Invalid value: \"Kata\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or \
                 '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation \
                 is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            ]
        );
        assert_eq!(
            create_errors("policy", "PodDisruptionBudget", "{spec: {minAvailable: 50}}"),
            Vec::<String>::new()
        );
        assert_eq!(
            create_errors("coordination.k8s.io", "Lease", "{spec: {leaseDurationSeconds: 0}}"),
            ["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"]
        );
        assert_eq!(
            update_errors(
                "coordination.k8s.io",
                "Lease",
                "{spec: {holderIdentity: a}}",
                "{spec: {holderIdentity: ''}}"
            ),
            Vec::<String>::new()
        );
        assert_eq!(
            create_errors("coordination.k8s.io", "Lease", "{spec: {preferredHolder: a}}"),
            ["spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined"]
        );
    }
}
