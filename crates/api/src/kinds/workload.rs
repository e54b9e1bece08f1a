//! Controllers of pods that should run for ever: replication controllers, replica sets, deployments, daemon sets.

use super::look::{
    Errors, IMMUTABLE, Zero, given, int, int_or_zero, internal, is_empty_map, not_negative, same, set_empty,
    set_missing, text,
};
use super::pod;
use super::row::NO_HOOKS;
use crate::field::{self, Error, Path};
use crate::kind::{Context, Hooks};
use crate::rules::{self, invalid_each};
use crate::{Object, Value, meta};

const REVISIONS_KEPT: i64 = 10;
const PROGRESS_SECONDS: i64 = 600;
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
const MORE_THAN_REPLICAS: &str = "cannot be greater than status.replicas";

pub(super) const REPLICATION_CONTROLLER: Hooks = Hooks {
    default: Some(default_replication_controller),
    validate: Some(validate_replication_controller),
    warnings: Some(pod::warnings::of_owner),
    selectable_value: Some(replicas_or_zero),
    ..NO_HOOKS
};

pub(super) const REPLICA_SET: Hooks = Hooks {
    default: Some(default_replica_set),
    validate: Some(validate_replica_set),
    warnings: Some(pod::warnings::of_owner),
    selectable_value: Some(replicas_or_zero),
    ..NO_HOOKS
};

pub(super) const DEPLOYMENT: Hooks = Hooks {
    default: Some(default_deployment),
    validate: Some(validate_deployment),
    warnings: Some(pod::warnings::of_owner),
    ..NO_HOOKS
};

pub(super) const DAEMON_SET: Hooks = Hooks {
    default: Some(default_daemon_set),
    prepare_create: Some(prepare_daemon_set),
    prepare_update: Some(update_daemon_set),
    validate: Some(validate_daemon_set),
    // Its name is no warning's matter: nothing old is compared, but something old is there.
    warnings: Some(|set, old| pod::warnings::of_owner(set, old.or(Some(&Value::Null)))),
    ..NO_HOOKS
};

pub(super) const POD_TEMPLATE: Hooks = Hooks {
    default: Some(|o| pod::defaults::template(o, "template")),
    validate: Some(validate_pod_template),
    warnings: Some(pod::warnings::of_template),
    ..NO_HOOKS
};

fn spec_mut(object: &mut Value) -> Option<&mut Value> {
    object.object_at_mut(&["spec"]);
    object.get_mut("spec")
}

fn spec_of(object: &Value) -> &Value {
    static NONE: Value = Value::Null;
    object.get("spec").unwrap_or(&NONE)
}

fn replicas_or_zero(object: &Value, path: &str) -> Option<String> {
    let replicas = || object.at(&["status", "replicas"]).and_then(Value::as_i64).unwrap_or(0);
    (path == "status.replicas").then(|| replicas().to_string())
}

/// Selector and labels that are not given are the template's labels.
fn default_replication_controller(object: &mut Value) {
    let labels = object.at(&["spec", "template", "metadata", "labels"]).filter(|l| !l.is_null()).cloned();
    if let Some(labels) = labels {
        if is_empty_map(object.at(&["spec", "selector"])) {
            object.object_at_mut(&["spec"]).set("selector", labels.clone());
        }
        if is_empty_map(object.at(&["metadata", "labels"])) {
            object.object_at_mut(&["metadata"]).set("labels", labels);
        }
    }
    let Some(spec) = spec_mut(object) else { return };
    set_missing(spec, "replicas", 1);
    pod::defaults::template(spec, "template");
}

fn default_replica_set(object: &mut Value) {
    let Some(spec) = spec_mut(object) else { return };
    set_missing(spec, "replicas", 1);
    pod::defaults::template(spec, "template");
}

fn default_deployment(object: &mut Value) {
    let Some(spec) = spec_mut(object) else { return };
    set_missing(spec, "replicas", 1);
    set_missing(spec, "strategy", Object::default());
    if let Some(strategy) = spec.get_mut("strategy") {
        set_empty(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate" {
            set_missing(strategy, "rollingUpdate", Object::default());
            if let Some(rolling) = strategy.get_mut("rollingUpdate") {
                set_missing(rolling, "maxUnavailable", Value::str("25%"));
                set_missing(rolling, "maxSurge", Value::str("25%"));
            }
        }
    }
    set_missing(spec, "revisionHistoryLimit", REVISIONS_KEPT);
    set_missing(spec, "progressDeadlineSeconds", PROGRESS_SECONDS);
    pod::defaults::template(spec, "template");
}

fn default_daemon_set(object: &mut Value) {
    let Some(spec) = spec_mut(object) else { return };
    set_missing(spec, "updateStrategy", Object::default());
    if let Some(strategy) = spec.get_mut("updateStrategy") {
        set_empty(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate" {
            set_missing(strategy, "rollingUpdate", Object::default());
            if let Some(rolling) = strategy.get_mut("rollingUpdate") {
                set_missing(rolling, "maxUnavailable", 1);
                set_missing(rolling, "maxSurge", 0);
            }
        }
    }
    set_missing(spec, "revisionHistoryLimit", REVISIONS_KEPT);
    pod::defaults::template(spec, "template");
}

/// The generation of the template, which `apps/v1` shows as an annotation only.
fn set_template_generation(object: &mut Value, generation: i64) {
    object.object_at_mut(&["metadata", "annotations"]).set(TEMPLATE_GENERATION, generation.to_string());
}

fn template_generation(object: &Value) -> i64 {
    let written = object.at(&["metadata", "annotations", TEMPLATE_GENERATION]).and_then(Value::as_str);
    written.and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn prepare_daemon_set(object: &mut Value, _cx: &Context<'_>) {
    let generation = template_generation(object).max(1);
    set_template_generation(object, generation);
}

fn update_daemon_set(object: &mut Value, old: &Value, cx: &Context<'_>) {
    if cx.subresource == "status" {
        return;
    }
    let changed = !same(object.at(&["spec", "template"]), old.at(&["spec", "template"]));
    set_template_generation(object, template_generation(old) + i64::from(changed));
}

fn validate_replication_controller(
    object: &Value,
    old: Option<&Value>,
    cx: &Context<'_>,
) -> Vec<field::Error> {
    let mut errors = Vec::new();
    if cx.subresource == "status" {
        status_counts(
            &mut errors,
            object,
            old,
            &["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas"],
        );
        return errors;
    }
    let (spec, path) = (spec_of(object), Path::root("spec"));
    not_negative(&mut errors, spec, "minReadySeconds", &path);
    if is_empty_map(spec.get("selector")) {
        errors.push(Error::required(&path.child("selector"), ""));
    }
    controlled_template(&mut errors, spec, &path.child("template"));
    // Upstream tells what it declares, not programs, last.
    match int(spec, "replicas") {
        None => errors.push(Error::required(&path.child("replicas"), "")),
        Some(_) => not_negative(&mut errors, spec, "replicas", &path),
    }
    errors
}

fn controlled_template(errors: &mut Errors, spec: &Value, template_path: &Path<'_>) {
    let Some(template) = given(spec, "template") else {
        errors.push(Error::required(template_path, ""));
        return;
    };
    let labels = template.at(&["metadata", "labels"]);
    let selected =
        super::look::entries(spec, "selector").all(|(key, v)| labels.and_then(|l| l.get(key)) == Some(v));
    if !selected {
        mismatch(errors, labels, template_path);
    }
    pod::template(errors, template, template_path);
    runs_for_ever(errors, template, "ReplicationController", template_path);
}

fn mismatch(errors: &mut Errors, labels: Option<&Value>, template: &Path<'_>) {
    let labels = labels.cloned().unwrap_or_default();
    let path = template.child("metadata");
    let detail = "`selector` does not match template `labels`";
    errors.push(Error::invalid(&path.child("labels"), labels, detail));
}

/// Pods of these controllers restart always and have no deadline.
pub(super) fn runs_for_ever(errors: &mut Errors, template: &Value, kind: &str, path: &Path<'_>) {
    let path = path.child("spec");
    let policy = template.str_at(&["spec", "restartPolicy"]);
    if policy != "Always" {
        errors.push(Error::not_supported(&path.child("restartPolicy"), policy, &["Always"]));
    }
    if template.at(&["spec", "activeDeadlineSeconds"]).is_some_and(|d| !d.is_null()) {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.push(Error::forbidden(&path.child("activeDeadlineSeconds"), detail));
    }
}

/// A label selector that must be there and select something.
pub(super) fn selector(errors: &mut Errors, spec: &Value, of: &str, path: &Path<'_>) {
    let path = path.child("selector");
    let Some(selector) = given(spec, "selector") else {
        errors.push(Error::required(&path, ""));
        return;
    };
    meta::label_selector(errors, Some(selector), &path);
    if meta::selector_is_empty(Some(selector)) {
        errors.push(Error::invalid(&path, selector.clone(), format!("empty selector is invalid for {of}")));
    }
}

/// The template of a replica set, deployment or stateful set: its labels match, its pods run for ever.
pub(super) fn selected_template(errors: &mut Errors, spec: &Value, kind: &str, owner: &Path<'_>) {
    let path = owner.child("template");
    let empty = Value::Null;
    let template = spec.get("template").unwrap_or(&empty);
    let labels = template.at(&["metadata", "labels"]);
    let selector = given(spec, "selector");
    // A selector that cannot be understood is told once more, and then nobody looks at the template.
    if let Some(broken) = selector.filter(|s| !meta::selector_is_sound(s)) {
        let detail = if kind == "StatefulSet" { "" } else { "invalid label selector" };
        errors.push(Error::invalid(&owner.child("selector"), broken.clone(), detail));
        if kind == "StatefulSet" {
            runs_for_ever(errors, template, kind, &path);
        }
        return;
    }
    // None selects nothing, an empty one everything.
    let matches = |s: &Value| meta::selector_is_empty(Some(s)) || meta::selector_matches(s, labels);
    if !selector.is_some_and(matches) {
        mismatch(errors, labels, &path);
    }
    pod::template(errors, template, &path);
    runs_for_ever(errors, template, kind, &path);
}

/// A label selector may not change.
pub(super) fn selector_stays(errors: &mut Errors, object: &Value, old: Option<&Value>) {
    let Some(old) = old else { return };
    let (now, before) = (object.at(&["spec", "selector"]), old.at(&["spec", "selector"]));
    if !same(now, before) {
        let path = Path::root("spec");
        errors.push(Error::invalid(&path.child("selector"), now.cloned().unwrap_or_default(), IMMUTABLE));
    }
}

fn validate_replica_set(object: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    if cx.subresource == "status" {
        status_counts(
            &mut errors,
            object,
            old,
            &["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas"],
        );
        return errors;
    }
    let (spec, path) = (spec_of(object), Path::root("spec"));
    not_negative(&mut errors, spec, "replicas", &path);
    not_negative(&mut errors, spec, "minReadySeconds", &path);
    selector(&mut errors, spec, "deployment", &path);
    selected_template(&mut errors, spec, "ReplicaSet", &path);
    selector_stays(&mut errors, object, old);
    errors
}

fn validate_deployment(object: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    if cx.subresource == "status" {
        status_counts(
            &mut errors,
            object,
            old,
            &["replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas"],
        );
        return errors;
    }
    let (spec, path) = (spec_of(object), Path::root("spec"));
    not_negative(&mut errors, spec, "replicas", &path);
    selector(&mut errors, spec, "deployment", &path);
    selected_template(&mut errors, spec, "ReplicaSet", &path);
    deployment_strategy(&mut errors, spec, &path.child("strategy"));
    not_negative(&mut errors, spec, "minReadySeconds", &path);
    not_negative(&mut errors, spec, "revisionHistoryLimit", &path);
    not_negative(&mut errors, spec, "progressDeadlineSeconds", &path);
    if let Some(seconds) =
        int(spec, "progressDeadlineSeconds").filter(|s| *s <= int_or_zero(spec, "minReadySeconds"))
    {
        let detail = "must be greater than minReadySeconds";
        errors.push(Error::invalid(&path.child("progressDeadlineSeconds"), seconds, detail));
    }
    selector_stays(&mut errors, object, old);
    errors
}

fn strategy_shown(strategy: &Value) -> Value {
    let mut shown =
        internal(strategy, &[("type", "Type", Zero::Text), ("rollingUpdate", "RollingUpdate", Zero::Null)]);
    if let Some(rolling) = given(strategy, "rollingUpdate") {
        let fields =
            [("maxUnavailable", "MaxUnavailable", Zero::Number), ("maxSurge", "MaxSurge", Zero::Number)];
        shown.object_at_mut(&[]).set("RollingUpdate", internal(rolling, &fields));
    }
    shown
}

fn deployment_strategy(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let empty = Value::Null;
    let strategy = spec.get("strategy").unwrap_or(&empty);
    let rolling = given(strategy, "rollingUpdate");
    match text(strategy, "type") {
        "Recreate" if rolling.is_some() => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(Error::forbidden(&path.child("rollingUpdate"), detail));
        }
        "Recreate" => {}
        "RollingUpdate" => {
            let path = path.child("rollingUpdate");
            match rolling {
                None => errors.push(Error::required(&path, "this should be defaulted and never be nil")),
                Some(rolling) => deployment_rolling(errors, rolling, &path),
            }
        }
        _ => {
            errors.push(Error::not_supported(path, strategy_shown(strategy), &["Recreate", "RollingUpdate"]))
        }
    }
}

fn deployment_rolling(errors: &mut Errors, rolling: &Value, path: &Path<'_>) {
    let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
    int_or_percent(errors, unavailable, &path.child("maxUnavailable"));
    int_or_percent(errors, surge, &path.child("maxSurge"));
    if is_zero(unavailable) && is_zero(surge) {
        let bad = unavailable.cloned().unwrap_or_default();
        let detail = "may not be 0 when `maxSurge` is 0";
        errors.push(Error::invalid(&path.child("maxUnavailable"), bad, detail));
    }
    at_most_whole(errors, unavailable, &path.child("maxUnavailable"));
}

/// A number that is not negative, or `N%`.
pub(super) fn int_or_percent(errors: &mut Errors, value: Option<&Value>, path: &Path<'_>) {
    match value {
        Some(Value::String(percent)) => invalid_each(errors, path, percent, rules::percent(percent)),
        Some(Value::Int(n)) if *n < 0 => errors.push(Error::invalid(path, *n, rules::NOT_NEGATIVE)),
        _ => {}
    }
}

fn percent_of(value: Option<&Value>) -> Option<i64> {
    value.and_then(Value::as_str)?.strip_suffix('%')?.parse().ok()
}

/// Nothing, or nothing of it?
pub(super) fn is_zero(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Int(n)) => *n == 0,
        value => percent_of(value).unwrap_or(0) == 0,
    }
}

/// No more than 100%.
pub(super) fn at_most_whole(errors: &mut Errors, value: Option<&Value>, path: &Path<'_>) {
    if percent_of(value).is_some_and(|percent| percent > 100) {
        let bad = value.cloned().unwrap_or_default();
        errors.push(Error::invalid(path, bad, "must not be greater than 100%"));
    }
}

fn validate_daemon_set(object: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    if cx.subresource == "status" {
        daemon_set_status(&mut errors, object, old);
        return errors;
    }
    let (spec, path, empty) = (spec_of(object), Path::root("spec"), Value::Null);
    let template = spec.get("template").unwrap_or(&empty);
    let (labels, template_path) = (template.at(&["metadata", "labels"]), path.child("template"));
    let selector = given(spec, "selector");
    meta::label_selector(&mut errors, selector, &path.child("selector"));
    match selector {
        None => mismatch(&mut errors, labels, &template_path),
        Some(s) if meta::selector_is_empty(Some(s)) => {
            errors.push(Error::invalid(
                &path.child("selector"),
                s.clone(),
                "empty selector is invalid for daemonset",
            ));
        }
        Some(s) if meta::selector_is_sound(s) && !meta::selector_matches(s, labels) => {
            mismatch(&mut errors, labels, &template_path)
        }
        Some(_) => {}
    }
    pod::template(&mut errors, template, &template_path);
    runs_for_ever(&mut errors, template, "DaemonSet", &template_path);
    not_negative(&mut errors, spec, "minReadySeconds", &path);
    daemon_set_strategy(&mut errors, spec, &path.child("updateStrategy"));
    not_negative(&mut errors, spec, "revisionHistoryLimit", &path);
    selector_stays(&mut errors, object, old);
    errors
}

fn daemon_set_strategy(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let empty = Value::Null;
    let strategy = spec.get("updateStrategy").unwrap_or(&empty);
    match text(strategy, "type") {
        "OnDelete" => {}
        "RollingUpdate" => {
            let path = path.child("rollingUpdate");
            match given(strategy, "rollingUpdate") {
                None => errors.push(Error::required(&path, "")),
                Some(rolling) => daemon_set_rolling(errors, rolling, &path),
            }
        }
        _ => {
            errors.push(Error::not_supported(path, strategy_shown(strategy), &["RollingUpdate", "OnDelete"]))
        }
    }
}

fn daemon_set_rolling(errors: &mut Errors, rolling: &Value, path: &Path<'_>) {
    let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
    let (unavailable_path, surge_path) = (path.child("maxUnavailable"), path.child("maxSurge"));
    int_or_percent(errors, unavailable, &unavailable_path);
    int_or_percent(errors, surge, &surge_path);
    match (is_zero(unavailable), is_zero(surge)) {
        (false, false) => {
            let bad = surge.cloned().unwrap_or_default();
            errors.push(Error::invalid(&surge_path, bad, "may not be set when maxUnavailable is non-zero"));
        }
        (true, true) => errors.push(Error::required(&unavailable_path, "cannot be 0 when maxSurge is 0")),
        _ => {}
    }
    at_most_whole(errors, unavailable, &unavailable_path);
    at_most_whole(errors, surge, &surge_path);
}

fn daemon_set_status(errors: &mut Errors, object: &Value, old: Option<&Value>) {
    let (empty, path) = (Value::Null, Path::root("status"));
    let status = object.get("status").unwrap_or(&empty);
    for field in [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
    ] {
        not_negative(errors, status, field, &path);
    }
    collisions(errors, status, old, &path);
}

/// Counters of a status: none negative, none above the replicas, none below zero.
pub(super) fn status_counts(
    errors: &mut Errors,
    object: &Value,
    old: Option<&Value>,
    counters: &[&'static str],
) {
    let (empty, path) = (Value::Null, Path::root("status"));
    let status = object.get("status").unwrap_or(&empty);
    for field in counters.iter().chain(&["observedGeneration", "terminatingReplicas"]) {
        not_negative(errors, status, field, &path);
    }
    let replicas = int_or_zero(status, "replicas");
    let above = counters.iter().filter(|c| !matches!(**c, "replicas" | "unavailableReplicas"));
    for field in above.filter(|c| int_or_zero(status, c) > replicas) {
        errors.push(Error::invalid(&path.child(field), int_or_zero(status, field), MORE_THAN_REPLICAS));
    }
    let available = int_or_zero(status, "availableReplicas");
    if available > int_or_zero(status, "readyReplicas") {
        let detail = "cannot be greater than readyReplicas";
        errors.push(Error::invalid(&path.child("availableReplicas"), available, detail));
    }
    collisions(errors, status, old, &path);
}

fn collisions(errors: &mut Errors, status: &Value, old: Option<&Value>, path: &Path<'_>) {
    let (now, before) =
        (int_or_zero(status, "collisionCount"), old.and_then(|o| o.at(&["status", "collisionCount"])));
    if now < 0 {
        errors.push(Error::invalid(&path.child("collisionCount"), now, rules::NOT_NEGATIVE));
    } else if now < before.and_then(Value::as_i64).unwrap_or(0) {
        errors.push(Error::invalid(&path.child("collisionCount"), now, "cannot be decremented"));
    }
}

fn validate_pod_template(object: &Value, _old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let empty = Value::Null;
    pod::template(&mut errors, object.get("template").unwrap_or(&empty), &Path::root("template"));
    errors
}

#[cfg(test)]
mod tests {
    use crate::kind::Context;
    use crate::kinds::builtin_kind;
    use crate::kinds::testing::{CONTEXT, create_errors, defaulted, texts, tree, update_errors};

    const TEMPLATE: &str =
        "template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c, image: i}]}}";

    #[test]
    fn a_replication_controller_takes_selector_and_labels_from_its_template() {
        let rc = defaulted(
            "",
            "ReplicationController",
            &format!("{{metadata: {{name: m}}, spec: {{{TEMPLATE}}}}}"),
        );
        assert_eq!(rc.at(&["spec", "selector"]), Some(&tree("{app: a}")));
        assert_eq!(rc.at(&["metadata", "labels"]), Some(&tree("{app: a}")));
        assert_eq!(rc.at(&["spec", "replicas"]), Some(&tree("1")));
        assert_eq!(rc.at(&["spec", "template", "spec", "dnsPolicy"]), Some(&tree("ClusterFirst")));
        assert_eq!(rc.at(&["spec", "template", "spec", "enableServiceLinks"]), None);
    }

    #[test]
    fn defaults_of_deployments_and_daemon_sets() {
        let deployment = defaulted("apps", "Deployment", "{spec: {}}");
        let wanted = "{spec: {replicas: 1, strategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 25%, \
                      maxSurge: 25%}}, revisionHistoryLimit: 10, progressDeadlineSeconds: 600}}";
        assert_eq!(deployment, tree(wanted));
        let daemon_set = defaulted("apps", "DaemonSet", "{spec: {}}");
        let wanted = "{spec: {updateStrategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 1, maxSurge: 0}}, \
                      revisionHistoryLimit: 10}}";
        assert_eq!(daemon_set, tree(wanted));
        let recreate = defaulted("apps", "Deployment", "{spec: {strategy: {type: Recreate}}}");
        assert_eq!(recreate.at(&["spec", "strategy"]), Some(&tree("{type: Recreate}")));
    }

    #[test]
    fn broken_specs() {
        let cases: &[(&str, &str, String, &[&str])] = &[
            ("", "ReplicationController", TEMPLATE.into(), &[]),
            (
                "",
                "ReplicationController",
                format!("replicas: -1, selector: {{b: c}}, {TEMPLATE}"),
                &[
                    "spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not match template \
                     `labels`",
                    "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                ],
            ),
            ("", "ReplicationController", "selector: {a: b}".into(), &["spec.template: Required value"]),
            ("apps", "Deployment", format!("selector: {{matchLabels: {{app: a}}}}, {TEMPLATE}"), &[]),
            (
                "apps",
                "Deployment",
                format!("strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 0%}}}}, {TEMPLATE}"),
                &[
                    "spec.selector: Required value",
                    "spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not match template \
                     `labels`",
                    "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
                ],
            ),
            (
                "apps",
                "ReplicaSet",
                format!(
                    "selector: {{}}, {}",
                    TEMPLATE.replace("containers:", "restartPolicy: Never, containers:")
                ),
                &[
                    "spec.selector: Invalid value: {}: empty selector is invalid for deployment",
                    "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                ],
            ),
            (
                "apps",
                "Deployment",
                format!(
                    "selector: {{matchLabels: {{app: a}}}}, {}",
                    TEMPLATE.replace("image: i", "image: ''")
                ),
                &["spec.template.spec.containers[0].image: Required value"],
            ),
            (
                "apps",
                "DaemonSet",
                format!(
                    "selector: {{matchLabels: {{app: b}}}}, updateStrategy: {{rollingUpdate: {{maxSurge: 1}}}}, {TEMPLATE}"
                ),
                &[
                    "spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not match template \
                     `labels`",
                    "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is \
                     non-zero",
                ],
            ),
        ];
        for (group, kind, spec, wanted) in cases {
            let yaml = format!("{{metadata: {{name: w}}, spec: {{{spec}}}}}");
            assert_eq!(create_errors(group, kind, &yaml), *wanted, "{kind} {spec}");
        }
    }

    #[test]
    fn the_selector_stays() {
        let old = format!("{{spec: {{selector: {{matchLabels: {{app: a}}}}, {TEMPLATE}}}}}");
        let new = old.replace("app: a", "app: b");
        assert_eq!(
            update_errors("apps", "Deployment", &old, &new),
            ["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"b\"}}: field is immutable"]
        );
    }

    #[test]
    fn counters_of_a_status() {
        let validate =
            builtin_kind("apps", "ReplicaSet").expect("built in").hooks.validate.expect("validates");
        let cx = Context { subresource: "status", ..CONTEXT };
        let errors =
            validate(&tree("{status: {replicas: 1, readyReplicas: 2, availableReplicas: -1}}"), None, &cx);
        assert_eq!(
            texts(&errors),
            [
                "status.availableReplicas: Invalid value: -1: must be greater than or equal to 0",
                "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
            ]
        );
    }

    #[test]
    fn template_changes_of_daemon_sets_are_counted() {
        let hooks = &builtin_kind("apps", "DaemonSet").expect("built in").hooks;
        let mut first = tree("{spec: {template: {a: b}}}");
        hooks.prepare_create.expect("prepares")(&mut first, &CONTEXT);
        let mut second = tree("{spec: {template: {a: c}}}");
        hooks.prepare_update.expect("prepares")(&mut second, &first, &CONTEXT);
        let generation = second.at(&["metadata", "annotations", super::TEMPLATE_GENERATION]);
        assert_eq!(generation, Some(&tree("'2'")));
    }
}
