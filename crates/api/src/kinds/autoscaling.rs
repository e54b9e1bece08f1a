//! Horizontal pod autoscalers: stored as v2; v1 is another shape of the same facts, what it cannot say goes into annotations.

use super::look::{Errors, at_mut, given, int, items, one_of_given, quantity, set_missing, text};
use super::row::NO_HOOKS;
use crate::field::{self, Error, Path};
use crate::kind::{Context, Conversion, Hooks};
use crate::rules::{self, invalid_each};
use crate::{Object, Value, json};

const CPU_PERCENT: i64 = 80;
const WINDOW_MAX_SECONDS: i64 = 3600;
const PERIOD_MAX_SECONDS: i64 = 1800;
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";

pub(super) const HOOKS: Hooks = Hooks { default: Some(default), validate: Some(validate), ..NO_HOOKS };

/// v1 to v2 and back.
pub(super) const V1: Conversion = Conversion { to_storage: v1_to_v2, from_storage: v2_to_v1 };

fn default(autoscaler: &mut Value) {
    let is_v2 = !text(autoscaler, "apiVersion").ends_with("/v1");
    autoscaler.object_at_mut(&["spec"]);
    let Some(spec) = autoscaler.get_mut("spec") else { return };
    set_missing(spec, "minReplicas", 1);
    if is_v2 {
        default_v2(spec);
    }
}

fn default_v2(spec: &mut Value) {
    if items(spec, "metrics").is_empty() {
        spec.object_at_mut(&[]).set("metrics", vec![cpu_utilization(CPU_PERCENT)]);
    }
    if given(spec, "behavior").is_some() {
        for (field, window, policies) in [
            ("scaleUp", Some(0), vec![policy("Pods", 4), policy("Percent", 100)]),
            ("scaleDown", None, vec![policy("Percent", 100)]),
        ] {
            spec.object_at_mut(&["behavior", field]);
            let Some(rules) = at_mut(spec, &["behavior", field]) else { continue };
            set_missing(rules, "selectPolicy", Value::str("Max"));
            if let Some(seconds) = window {
                set_missing(rules, "stabilizationWindowSeconds", seconds);
            }
            set_missing(rules, "policies", policies);
        }
    }
}

fn policy(kind: &'static str, value: i64) -> Value {
    let mut policy = Object::default();
    policy.set("type", Value::str(kind));
    policy.set("value", value);
    policy.set("periodSeconds", 15);
    policy.into()
}

fn cpu_utilization(percent: i64) -> Value {
    let mut target = Object::default();
    target.set("type", Value::str("Utilization"));
    target.set("averageUtilization", percent);
    let mut resource = Object::default();
    resource.set("name", Value::str("cpu"));
    resource.set("target", target);
    let mut metric = Object::default();
    metric.set("type", Value::str("Resource"));
    metric.set("resource", resource);
    metric.into()
}

fn is_cpu_utilization(metric: &Value) -> bool {
    text(metric, "type") == "Resource"
        && metric.str_at(&["resource", "name"]) == "cpu"
        && metric.at(&["resource", "target", "averageUtilization"]).is_some()
}

fn annotation(autoscaler: &mut Value, key: &'static str) -> Option<Value> {
    let annotations = at_mut(autoscaler, &["metadata", "annotations"])?.as_object_mut()?;
    let text = annotations.remove(key)?;
    json::parse(&bytes::Bytes::copy_from_slice(text.as_str()?.as_bytes())).ok()
}

fn annotate(autoscaler: &mut Value, key: &'static str, value: &Value) {
    autoscaler.object_at_mut(&["metadata", "annotations"]).set(key, json::to_string(value));
}

fn v1_to_v2(autoscaler: &mut Value) {
    let mut metrics: Vec<Value> = match annotation(autoscaler, METRICS) {
        Some(Value::Array(list)) => list.into_iter().map(|m| metric_to_v2(m, "target")).collect(),
        _ => Vec::new(),
    };
    let current = match annotation(autoscaler, CURRENT_METRICS) {
        Some(Value::Array(list)) => list.into_iter().map(|m| metric_to_v2(m, "current")).collect(),
        _ => Vec::new(),
    };
    let (behavior, conditions) = (annotation(autoscaler, BEHAVIOR), annotation(autoscaler, CONDITIONS));
    let spec = autoscaler.object_at_mut(&["spec"]);
    if let Some(percent) = spec.remove("targetCPUUtilizationPercentage").and_then(|p| p.as_i64()) {
        metrics.insert(0, cpu_utilization(percent));
    }
    if !metrics.is_empty() {
        spec.set("metrics", metrics);
    }
    if let Some(behavior) = behavior {
        spec.set("behavior", behavior);
    }
    if let Some(spec) = autoscaler.get_mut("spec") {
        default_v2(spec);
    }
    if let Some(status) = at_mut(autoscaler, &["status"]).and_then(Value::as_object_mut) {
        status.remove("currentCPUUtilizationPercentage");
        if !current.is_empty() {
            status.set("currentMetrics", Value::Array(current));
        }
        if let Some(conditions) = conditions {
            status.set("conditions", conditions);
        }
    }
}

fn v2_to_v1(autoscaler: &mut Value) {
    let spec = autoscaler.object_at_mut(&["spec"]);
    let metrics = spec.remove("metrics");
    let behavior = spec.remove("behavior");
    let metrics = metrics.as_ref().and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let cpu = metrics.iter().find(|m| is_cpu_utilization(m));
    if let Some(percent) = cpu.and_then(|m| m.at(&["resource", "target", "averageUtilization"])) {
        spec.set("targetCPUUtilizationPercentage", percent.clone());
    }
    let others: Vec<Value> =
        metrics.iter().filter(|m| !is_cpu_utilization(m)).map(|m| metric_to_v1(m, "target")).collect();
    let status = at_mut(autoscaler, &["status"]).and_then(Value::as_object_mut);
    let (current, conditions) =
        status.map_or((None, None), |status| (status.remove("currentMetrics"), status.remove("conditions")));
    let current = current.as_ref().and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let cpu = current.iter().find(|m| m.str_at(&["resource", "name"]) == "cpu");
    if let Some(percent) = cpu.and_then(|m| m.at(&["resource", "current", "averageUtilization"])).cloned() {
        autoscaler.object_at_mut(&["status"]).set("currentCPUUtilizationPercentage", percent);
    }
    // Of what v1 always writes, v2 leaves this out where it is zero.
    if let Some(status) = at_mut(autoscaler, &["status"]) {
        set_missing(status, "currentReplicas", 0);
    }
    if !others.is_empty() {
        annotate(autoscaler, METRICS, &others.into());
    }
    if !current.is_empty() {
        let current: Vec<Value> = current.iter().map(|m| metric_to_v1(m, "current")).collect();
        annotate(autoscaler, CURRENT_METRICS, &current.into());
    }
    if let Some(behavior) = behavior.filter(|b| !b.is_null()) {
        annotate(autoscaler, BEHAVIOR, &behavior);
    }
    if let Some(conditions) = conditions.filter(|c| !c.is_null()) {
        annotate(autoscaler, CONDITIONS, &conditions);
    }
}

/// The field below which a metric of that type stands.
fn source_of(metric: &Value) -> Option<&'static str> {
    match text(metric, "type") {
        "Object" => Some("object"),
        "Pods" => Some("pods"),
        "Resource" => Some("resource"),
        "ContainerResource" => Some("containerResource"),
        "External" => Some("external"),
        _ => None,
    }
}

/// v1's flat names of the parts of a target or of a current value.
fn flat(source: &str, side: &str, part: &str) -> &'static str {
    match (source, side, part) {
        ("object", _, "averageValue") => "averageValue",
        (_, "target", "value") => "targetValue",
        (_, "target", "averageValue") => "targetAverageValue",
        (_, "target", _) => "targetAverageUtilization",
        (_, _, "value") => "currentValue",
        (_, _, "averageValue") => "currentAverageValue",
        _ => "currentAverageUtilization",
    }
}

const PARTS: &[&str] = &["value", "averageValue", "averageUtilization"];

fn metric_to_v1(metric: &Value, side: &'static str) -> Value {
    let Some(source) = source_of(metric) else { return metric.clone() };
    let mut old = Object::default();
    let new = metric.get(source).cloned().unwrap_or_default();
    for field in ["name", "container"] {
        if let Some(value) = new.get(field) {
            old.set(field, value.clone());
        }
    }
    if let Some(object) = new.get("describedObject") {
        old.set("target", object.clone());
    }
    if let Some(name) = new.at(&["metric", "name"]) {
        old.set("metricName", name.clone());
    }
    if let Some(selector) = new.at(&["metric", "selector"]) {
        old.set(if source == "external" { "metricSelector" } else { "selector" }, selector.clone());
    }
    for part in PARTS {
        if let Some(value) = new.at(&[side, part]) {
            old.set(flat(source, side, part), value.clone());
        }
    }
    let mut converted = Object::default();
    converted.set("type", text(metric, "type"));
    converted.set(source, old);
    converted.into()
}

fn metric_to_v2(metric: Value, side: &'static str) -> Value {
    let Some(source) = source_of(&metric) else { return metric };
    let old = metric.get(source).cloned().unwrap_or_default();
    let mut new = Object::default();
    for field in ["name", "container"] {
        if let Some(value) = old.get(field) {
            new.set(field, value.clone());
        }
    }
    if let Some(object) = old.get("target").filter(|_| source == "object") {
        new.set("describedObject", object.clone());
    }
    if let Some(name) = old.get("metricName") {
        let mut identifier = Object::default();
        identifier.set("name", name.clone());
        if let Some(selector) = old.get("selector").or_else(|| old.get("metricSelector")) {
            identifier.set("selector", selector.clone());
        }
        new.set("metric", identifier);
    }
    let mut amounts = Object::default();
    for part in PARTS {
        if let Some(value) = old.get(flat(source, side, part)) {
            amounts.set(part, value.clone());
        }
    }
    if side == "target" {
        let kind = match () {
            () if amounts.contains_key("averageUtilization") => "Utilization",
            () if amounts.contains_key("averageValue") => "AverageValue",
            () => "Value",
        };
        amounts.set("type", Value::str(kind));
    }
    new.set(side, amounts);
    let mut converted = Object::default();
    converted.set("type", text(&metric, "type"));
    converted.set(source, new);
    converted.into()
}

fn validate(autoscaler: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    if cx.subresource == "status" {
        return errors;
    }
    let (empty, path) = (Value::Null, Path::root("spec"));
    let spec = autoscaler.get("spec").unwrap_or(&empty);
    let (min, max) = (int(spec, "minReplicas"), int(spec, "maxReplicas").unwrap_or(0));
    if min.is_some_and(|min| max < min) {
        let detail = "must be greater than or equal to `minReplicas`";
        errors.push(Error::invalid(&path.child("maxReplicas"), max, detail));
    }
    let scaled = spec.get("scaleTargetRef").unwrap_or(&empty);
    let before = old.and_then(|old| old.at(&["spec", "scaleTargetRef"]));
    let stays =
        before.is_some_and(|b| ["apiVersion", "kind"].iter().all(|part| text(b, part) == text(scaled, part)));
    let version = match text(scaled, "kind") {
        _ if stays => Version::Any,
        "ReplicationController" => Version::Parsed,
        _ => Version::WithGroup,
    };
    target(&mut errors, scaled, version, &path.child("scaleTargetRef"));
    let list = path.child("metrics");
    for (i, one) in items(spec, "metrics").iter().enumerate() {
        metric(&mut errors, one, &list.index(i));
    }
    let counts = |one: &Value| matches!(text(one, "type"), "Object" | "External");
    if min == Some(0) && !items(spec, "metrics").iter().any(counts) {
        let detail =
            "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.push(Error::forbidden(&list, detail));
    }
    if let Some(behavior) = given(spec, "behavior") {
        let path = path.child("behavior");
        for side in ["scaleUp", "scaleDown"] {
            if let Some(rules) = given(behavior, side) {
                scaling_rules(&mut errors, rules, &path.child(side));
            }
        }
    }
    // Upstream tells what it declares, not programs, last.
    if let Some(min) = min.filter(|min| *min < 0) {
        errors.push(Error::invalid(&path.child("minReplicas"), min, rules::NOT_NEGATIVE));
    }
    match max {
        0 => errors.push(Error::required(&path.child("maxReplicas"), "")),
        max if max < 0 => {
            let detail = "must be greater than or equal to 1";
            errors.push(Error::invalid(&path.child("maxReplicas"), max, detail));
        }
        _ => {}
    }
    errors
}

const SOURCES: &[&str] = &["object", "external", "pods", "resource", "containerResource"];

fn metric(errors: &mut Errors, metric: &Value, path: &Path<'_>) {
    const KNOWN: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
    let kind = text(metric, "type");
    if kind.is_empty() {
        errors.push(Error::required(&path.child("type"), "must specify a metric source type"));
    }
    let Some(expected) = source_of(metric) else {
        // Told before and after the sources are looked at.
        errors.push(Error::not_supported(&path.child("type"), kind, KNOWN));
        let present = SOURCES.iter().filter(|source| given(metric, source).is_some());
        if let Some(first) = present.clone().next() {
            source(errors, metric.get(first).unwrap_or(&Value::Null), first, &path.child(first));
        }
        errors.push(Error::not_supported(&path.child("type"), kind, KNOWN));
        if present.clone().count() != 1 {
            for other in present {
                errors
                    .push(Error::forbidden(&path.child(other), "must populate the given metric source only"));
            }
        }
        return;
    };
    let present: Vec<&'static str> =
        SOURCES.iter().copied().filter(|source| given(metric, source).is_some()).collect();
    // Of several only the first is looked at: which one was meant is not known.
    if let Some(first) = present.first() {
        source(errors, metric.get(first).unwrap_or(&Value::Null), first, &path.child(first));
    }
    if !present.contains(&expected) {
        let detail = "must populate information for the given metric source";
        errors.push(Error::required(&path.child(expected), detail));
    }
    if present.len() != 1 {
        for other in present.iter().filter(|source| **source != expected) {
            errors.push(Error::forbidden(&path.child(other), "must populate the given metric source only"));
        }
    }
}

fn source(errors: &mut Errors, source: &Value, kind: &str, path: &Path<'_>) {
    let (empty, target_path) = (Value::Null, path.child("target"));
    let wanted = source.get("target").unwrap_or(&empty);
    if kind == "object" {
        let described = source.get("describedObject").unwrap_or(&empty);
        target(errors, described, Version::Parsed, &path.child("describedObject"));
    }
    if matches!(kind, "resource" | "containerResource") {
        match text(source, "name") {
            "" => errors.push(Error::required(&path.child("name"), "must specify a resource name")),
            name if kind == "containerResource" => {
                super::pod::container::resource_name(errors, name, &path.child("name"));
            }
            _ => {}
        }
        match text(source, "container") {
            _ if kind != "containerResource" => {}
            "" => errors.push(Error::required(&path.child("container"), "must specify a container")),
            name => invalid_each(errors, &path.child("container"), name, rules::dns_label(name)),
        }
    } else {
        identifier(errors, source.get("metric").unwrap_or(&empty), &path.child("metric"));
    }
    amounts(errors, wanted, &target_path);
    let (value, average) = (given(wanted, "value"), given(wanted, "averageValue"));
    let percent = int(wanted, "averageUtilization");
    match kind {
        "pods" if average.is_none() => {
            let detail = "must specify a positive target averageValue";
            errors.push(Error::required(&target_path.child("averageValue"), detail));
        }
        "pods" => {}
        "resource" | "containerResource" => match (percent, average) {
            (None, None) => {
                let detail = "must set either a target raw value or a target utilization";
                errors.push(Error::required(&target_path.child("averageUtilization"), detail));
            }
            (Some(_), Some(_)) => {
                let detail = "may not set both a target raw value and a target utilization";
                errors.push(Error::forbidden(&target_path.child("averageValue"), detail));
            }
            _ => {}
        },
        _ if value.is_none() && average.is_none() => {
            let detail = match kind {
                "object" => "must set either a target value or averageValue",
                _ => "must set either a target value for metric or a per-pod target",
            };
            errors.push(Error::required(&target_path.child("averageValue"), detail));
        }
        "external" if value.is_some() && average.is_some() => {
            let detail = "may not set both a target value for metric and a per-pod target";
            errors.push(Error::forbidden(&target_path.child("value"), detail));
        }
        _ => {}
    }
}

fn identifier(errors: &mut Errors, metric: &Value, path: &Path<'_>) {
    match text(metric, "name") {
        "" => errors.push(Error::required(&path.child("name"), "must specify a metric name")),
        name => invalid_each(errors, &path.child("name"), name, rules::path_segment(name, false)),
    }
}

fn amounts(errors: &mut Errors, target: &Value, path: &Path<'_>) {
    if text(target, "type").is_empty() {
        errors.push(Error::required(&path.child("type"), "must specify a metric target type"));
    }
    match text(target, "type") {
        "Utilization" | "Value" | "AverageValue" => {}
        other => {
            let detail = "must be either Utilization, Value, or AverageValue";
            errors.push(Error::invalid(&path.child("type"), other, detail));
        }
    }
    for field in ["value", "averageValue"] {
        if let Some(amount) = given(target, field).filter(|amount| quantity(Some(amount)).sign() != 1) {
            errors.push(Error::invalid(&path.child(field), amount.clone(), "must be positive"));
        }
    }
    if let Some(percent) = int(target, "averageUtilization").filter(|n| *n < 1) {
        errors.push(Error::invalid(&path.child("averageUtilization"), percent, "must be greater than 0"));
    }
}

fn scaling_rules(errors: &mut Errors, behavior: &Value, path: &Path<'_>) {
    if let Some(window) = int(behavior, "stabilizationWindowSeconds") {
        let path = path.child("stabilizationWindowSeconds");
        if window < 0 {
            errors.push(Error::invalid(&path, window, "must be greater than or equal to zero"));
        }
        if window > WINDOW_MAX_SECONDS {
            let detail = format!("must be less than or equal to {WINDOW_MAX_SECONDS}");
            errors.push(Error::invalid(&path, window, detail));
        }
    }
    one_of_given(errors, behavior, "selectPolicy", &["Disabled", "Max", "Min"], path);
    let (policies, list) = (items(behavior, "policies"), path.child("policies"));
    if policies.is_empty() {
        errors.push(Error::required(&list, "must specify at least one Policy"));
    }
    for (i, policy) in policies.iter().enumerate() {
        let path = list.index(i);
        let kind = text(policy, "type");
        if !matches!(kind, "Pods" | "Percent") {
            errors.push(Error::not_supported(&path.child("type"), kind, &["Percent", "Pods"]));
        }
        for field in ["value", "periodSeconds"] {
            if let Some(n) = Some(int(policy, field).unwrap_or(0)).filter(|n| *n <= 0) {
                errors.push(Error::invalid(&path.child(field), n, "must be greater than zero"));
            }
        }
        if let Some(period) = int(policy, "periodSeconds").filter(|n| *n > PERIOD_MAX_SECONDS) {
            let detail = format!("must be less than or equal to {PERIOD_MAX_SECONDS}");
            errors.push(Error::invalid(&path.child("periodSeconds"), period, detail));
        }
    }
    if let Some(tolerance) = given(behavior, "tolerance").filter(|t| quantity(Some(t)).sign() < 0) {
        errors.push(Error::invalid(&path.child("tolerance"), tolerance.clone(), rules::NOT_NEGATIVE));
    }
}

/// What is asked of the version of an object that is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    /// It stood there before.
    Any,
    /// `version` or `group/version`.
    Parsed,
    /// `group/version`
    WithGroup,
}

fn target(errors: &mut Errors, target: &Value, version: Version, path: &Path<'_>) {
    for field in ["kind", "name"] {
        match text(target, field) {
            "" => errors.push(Error::required(&path.child(field), "")),
            word => invalid_each(errors, &path.child(field), word, rules::path_segment(word, false)),
        }
    }
    let written = text(target, "apiVersion");
    let wrong = match (version, written.matches('/').count()) {
        (Version::Any, _) => return,
        (_, n) if n > 1 => format!("unexpected GroupVersion string: {written}"),
        (Version::WithGroup, _) if written.split_once('/').is_none_or(|(group, _)| group.is_empty()) => {
            "apiVersion must specify API group".to_owned()
        }
        _ => return,
    };
    errors.push(Error::invalid(&path.child("apiVersion"), written, wrong));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{create_errors, tree};

    #[test]
    fn broken_autoscalers() {
        let cases = [
            (
                "{spec: {maxReplicas: 2, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: d}}}",
                vec![],
            ),
            ("{spec: {maxReplicas: 2, scaleTargetRef: {kind: ReplicationController, name: d}}}", vec![]),
            (
                "{spec: {minReplicas: 0, scaleTargetRef: {kind: Deployment, name: d}}}",
                vec![
                    "spec.scaleTargetRef.apiVersion: Invalid value: \"\": apiVersion must specify API group",
                    "spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas",
                    "spec.maxReplicas: Required value",
                ],
            ),
            (
                "{spec: {minReplicas: 3, maxReplicas: 2, scaleTargetRef: {apiVersion: a/b, kind: Deployment}}}",
                vec![
                    "spec.maxReplicas: Invalid value: 2: must be greater than or equal to `minReplicas`",
                    "spec.scaleTargetRef.name: Required value",
                ],
            ),
            (
                "{spec: {maxReplicas: 2, scaleTargetRef: {apiVersion: a/b, kind: D, name: d}, metrics: [{type: Resource, resource: {name: cpu, target: \
                 {type: Utilization, averageUtilization: 0}}}, {type: Pods, resource: {name: cpu, target: {type: Value}}}, {type: \
                 External, external: {metric: {name: q}, target: {type: Often, value: '-1'}}}]}}",
                vec![
                    "spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0",
                    "spec.metrics[1].resource.target.averageUtilization: Required value: must set either a target raw value or a \
                     target utilization",
                    "spec.metrics[1].pods: Required value: must populate information for the given metric source",
                    "spec.metrics[2].external.target.type: Invalid value: \"Often\": must be either Utilization, Value, or AverageValue",
                    "spec.metrics[2].external.target.value: Invalid value: \"-1\": must be positive",
                ],
            ),
            (
                "{spec: {maxReplicas: 2, scaleTargetRef: {apiVersion: a/b, kind: D, name: d}, behavior: {scaleUp: {stabilizationWindowSeconds: 3601, \
                 selectPolicy: Most, policies: [{type: Nodes, value: 0, periodSeconds: 1801}]}}}}",
                vec![
                    "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
                    "spec.behavior.scaleUp.selectPolicy: Unsupported value: \"Most\": supported values: \"Disabled\", \"Max\", \"Min\"",
                    "spec.behavior.scaleUp.policies[0].type: Unsupported value: \"Nodes\": supported values: \"Percent\", \"Pods\"",
                    "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
                    "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
                ],
            ),
        ];
        for (yaml, wanted) in cases {
            assert_eq!(create_errors("autoscaling", "HorizontalPodAutoscaler", yaml), wanted, "{yaml}");
        }
    }

    #[test]
    fn v1_and_v2_say_the_same() {
        let v1 = tree(
            "{apiVersion: autoscaling/v1, spec: {minReplicas: 1, maxReplicas: 3, targetCPUUtilizationPercentage: 60, \
             scaleTargetRef: {kind: Deployment, name: d}}}",
        );
        let mut object = v1.clone();
        v1_to_v2(&mut object);
        let wanted =
            "[{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 60}}}]";
        assert_eq!(object.at(&["spec", "metrics"]), Some(&tree(wanted)));
        v2_to_v1(&mut object);
        assert_eq!(object, v1);
    }

    #[test]
    fn what_v1_cannot_say_survives() {
        let v2 = tree(
            "{spec: {maxReplicas: 3, metrics: [{type: Pods, pods: {metric: {name: q}, target: {type: AverageValue, \
             averageValue: '5'}}}], behavior: {scaleUp: {selectPolicy: Min, stabilizationWindowSeconds: 0, policies: \
             [{type: Pods, value: 1, periodSeconds: 5}]}, scaleDown: {selectPolicy: Max, policies: [{type: Percent, \
             value: 100, periodSeconds: 15}]}}}}",
        );
        let mut object = v2.clone();
        v2_to_v1(&mut object);
        assert!(object.at(&["metadata", "annotations", METRICS]).is_some());
        v1_to_v2(&mut object);
        assert_eq!(object.get("spec"), v2.get("spec"));
    }
}
