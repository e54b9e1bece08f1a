//! Kinds that are special only by a few defaults or by the rule for their names.

use super::look::{at_mut, items, items_mut, set_empty, set_missing, set_zero, text};
use super::row::NO_HOOKS;
use crate::kind::Hooks;
use crate::rules;
use crate::{Object, Value};

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
    use crate::kinds::testing::{defaulted, tree};

    #[test]
    fn defaults() {
        let cases = [
            (
                "storage.k8s.io",
                "CSIDriver",
                "{spec: {attachRequired: false}}",
                "{spec: {attachRequired: false, podInfoOnMount: false, storageCapacity: false, requiresRepublish: false, \
                 seLinuxMount: false, fsGroupPolicy: ReadWriteOnceWithFSType, volumeLifecycleModes: [Persistent]}}",
            ),
            (
                "flowcontrol.apiserver.k8s.io",
                "FlowSchema",
                "{spec: {}}",
                "{spec: {matchingPrecedence: 1000}}",
            ),
        ];
        for (group, kind, given, wanted) in cases {
            assert_eq!(defaulted(group, kind, given), tree(wanted), "{kind}");
        }
    }
}
