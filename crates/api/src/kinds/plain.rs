//! Kinds that are special only by a few defaults or by the rule for their names.

use super::look::{at_mut, items, items_mut, set_empty, set_missing, set_zero, text};
use super::row::NO_HOOKS;
use crate::kind::Hooks;
use crate::rules;
use crate::{Object, Value};

const RBAC: &str = "rbac.authorization.k8s.io";

/// Role bindings: references without a group mean RBAC's own.
pub(super) const ROLE_BINDING: Hooks = Hooks {
    default: Some(|binding| {
        if let Some(role) = at_mut(binding, &["roleRef"]) {
            set_empty(role, "apiGroup", RBAC);
        }
        for subject in items_mut(binding, "subjects") {
            if matches!(text(subject, "kind"), "User" | "Group") {
                set_empty(subject, "apiGroup", RBAC);
            }
        }
    }),
    ..ROLE
};

/// Roles may be called anything that fits a path: `system:node`.
pub(super) const ROLE: Hooks = Hooks { name_rule: Some(rules::path_segment), ..NO_HOOKS };

pub(super) const CSI_DRIVER: Hooks = Hooks {
    default: Some(|driver| {
        driver.object_at_mut(&["spec"]);
        let Some(spec) = driver.get_mut("spec") else { return };
        set_missing(spec, "attachRequired", true);
        for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
            set_missing(spec, field, false);
        }
        set_missing(spec, "fsGroupPolicy", Value::str("ReadWriteOnceWithFSType"));
        if items(spec, "volumeLifecycleModes").is_empty() {
            spec.object_at_mut(&[]).set("volumeLifecycleModes", vec![Value::str("Persistent")]);
        }
    }),
    ..NO_HOOKS
};

fn webhook(hook: &mut Value, mutating: bool) {
    set_missing(hook, "failurePolicy", Value::str("Fail"));
    match_resources(hook);
    set_missing(hook, "timeoutSeconds", 10);
    if mutating {
        set_missing(hook, "reinvocationPolicy", Value::str("Never"));
    }
    items_mut(hook, "rules").for_each(|rule| set_missing(rule, "scope", Value::str("*")));
    if let Some(service) = at_mut(hook, &["clientConfig", "service"]) {
        set_missing(service, "port", 443);
    }
}

fn match_resources(of: &mut Value) {
    set_missing(of, "matchPolicy", Value::str("Equivalent"));
    set_missing(of, "namespaceSelector", Object::default());
    set_missing(of, "objectSelector", Object::default());
}

pub(super) const MUTATING_WEBHOOK: Hooks =
    Hooks { default: Some(|c| items_mut(c, "webhooks").for_each(|hook| webhook(hook, true))), ..NO_HOOKS };
pub(super) const VALIDATING_WEBHOOK: Hooks =
    Hooks { default: Some(|c| items_mut(c, "webhooks").for_each(|hook| webhook(hook, false))), ..NO_HOOKS };

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
    ..NO_HOOKS
};

pub(super) const POLICY_BINDING: Hooks = Hooks {
    default: Some(|binding| {
        if let Some(matched) = at_mut(binding, &["spec", "matchResources"]) {
            constraints(matched);
        }
    }),
    ..NO_HOOKS
};

pub(super) const FLOW_SCHEMA: Hooks = Hooks {
    default: Some(|schema| {
        if let Some(spec) = at_mut(schema, &["spec"]) {
            set_zero(spec, "matchingPrecedence", 1000);
        }
    }),
    name_rule: Some(rules::name_is_subdomain),
    ..NO_HOOKS
};

pub(super) const PRIORITY_LEVEL: Hooks = Hooks {
    default: Some(|level| {
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
    }),
    ..NO_HOOKS
};

pub(super) const CUSTOM_RESOURCE_DEFINITION: Hooks = Hooks { default: Some(default_crd), ..NO_HOOKS };

fn default_crd(crd: &mut Value) {
    crd.object_at_mut(&["spec", "names"]);
    let kind = crd.str_at(&["spec", "names", "kind"]).to_owned();
    if let Some(names) = at_mut(crd, &["spec", "names"]) {
        if text(names, "singular").is_empty() && !kind.is_empty() {
            names.object_at_mut(&[]).set("singular", kind.to_lowercase());
        }
        if text(names, "listKind").is_empty() && !kind.is_empty() {
            names.object_at_mut(&[]).set("listKind", format!("{kind}List"));
        }
    }
    if crd.at(&["spec", "conversion"]).is_none_or(Value::is_null) {
        crd.object_at_mut(&["spec", "conversion"]).set("strategy", Value::str("None"));
    }
    let versions = crd.items_at(&["spec", "versions"]);
    let stored = versions.iter().find(|v| v.get("storage").and_then(Value::as_bool) == Some(true));
    let stored = stored.map(|v| text(v, "name").to_owned());
    if let Some(name) = stored.filter(|_| crd.items_at(&["status", "storedVersions"]).is_empty()) {
        crd.object_at_mut(&["status"]).set("storedVersions", vec![Value::from(name)]);
    }
}

pub(super) const API_SERVICE: Hooks = Hooks {
    default: Some(|service| {
        if let Some(reference) = at_mut(service, &["spec", "service"]) {
            set_missing(reference, "port", 443);
        }
    }),
    ..NO_HOOKS
};

/// Requests of a claim (or claim template) for devices: one of each, exactly.
fn device_requests(spec: &mut Value) {
    let exact = |request: &mut Value| {
        set_empty(request, "allocationMode", "ExactCount");
        if text(request, "allocationMode") == "ExactCount" {
            set_zero(request, "count", 1);
        }
    };
    let Some(devices) = at_mut(spec, &["devices"]) else { return };
    for request in items_mut(devices, "requests") {
        if let Some(exactly) = at_mut(request, &["exactly"]) {
            exact(exactly);
        }
        items_mut(request, "firstAvailable").for_each(exact);
    }
}

pub(super) const RESOURCE_CLAIM: Hooks = Hooks {
    default: Some(|claim| {
        if let Some(spec) = at_mut(claim, &["spec"]) {
            device_requests(spec);
        }
    }),
    ..NO_HOOKS
};

pub(super) const RESOURCE_CLAIM_TEMPLATE: Hooks = Hooks {
    default: Some(|template| {
        if let Some(spec) = at_mut(template, &["spec", "spec"]) {
            device_requests(spec);
        }
    }),
    ..NO_HOOKS
};

/// Names that only must fit a path (certificate requests, trust bundles `signer:name`, addresses).
pub(super) const PATH_NAMED: Hooks = Hooks { name_rule: Some(rules::path_segment), ..NO_HOOKS };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{defaulted, tree};

    #[test]
    fn defaults() {
        let cases = [
            (
                RBAC,
                "ClusterRoleBinding",
                "{roleRef: {kind: ClusterRole, name: r}, subjects: [{kind: User, name: u}, {kind: ServiceAccount, name: s}]}",
                "{roleRef: {kind: ClusterRole, name: r, apiGroup: rbac.authorization.k8s.io}, subjects: [{kind: User, \
                 name: u, apiGroup: rbac.authorization.k8s.io}, {kind: ServiceAccount, name: s}]}",
            ),
            (
                "networking.k8s.io",
                "NetworkPolicy",
                "{spec: {egress: [{ports: [{port: 53}]}]}}",
                "{spec: {egress: [{ports: [{port: 53, protocol: TCP}]}], policyTypes: [Ingress, Egress]}}",
            ),
            (
                "apiextensions.k8s.io",
                "CustomResourceDefinition",
                "{spec: {names: {kind: Widget}, versions: [{name: v1, storage: true}]}}",
                "{spec: {names: {kind: Widget, singular: widget, listKind: WidgetList}, versions: [{name: v1, storage: true}], \
                 conversion: {strategy: None}}, status: {storedVersions: [v1]}}",
            ),
        ];
        for (group, kind, given, wanted) in cases {
            assert_eq!(defaulted(group, kind, given), tree(wanted), "{kind}");
        }
    }
}
