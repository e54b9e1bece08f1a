//! Events: one kind at rest, two shapes at the edge (core and events.k8s.io).

use super::look::{Errors, Zero, given, internal, required, same, text};
use super::row::NO_HOOKS;
use crate::field::{self, Error, Path};
use crate::kind::{Context, Conversion, Hooks};
use crate::rules::{self, invalid_each};
use crate::{Object, Value};

const WORD_MAX_BYTES: usize = 128;
const MESSAGE_MAX_BYTES: usize = 1024;

/// Core's names and those of events.k8s.io.
const NAMES: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Of both groups: their events rest as core's, which are hardly checked for compatibility's sake.
pub(super) const HOOKS: Hooks = Hooks {
    validate: Some(validate),
    selectable_value: Some(selectable_value),
    name_rule: Some(rules::path_segment),
    ..NO_HOOKS
};

/// The same in events.k8s.io, which asks for more.
pub(super) const STRICT: Hooks = Hooks { validate: Some(validate_strict), ..HOOKS };

/// The fields of a reference to an object, in JSON and in Go.
const REFERENCE: &[(&str, &str, Zero)] = &[
    ("kind", "Kind", Zero::Text),
    ("namespace", "Namespace", Zero::Text),
    ("name", "Name", Zero::Text),
    ("uid", "UID", Zero::Text),
    ("apiVersion", "APIVersion", Zero::Text),
    ("resourceVersion", "ResourceVersion", Zero::Text),
    ("fieldPath", "FieldPath", Zero::Text),
];

/// events.k8s.io to core and back.
pub(super) const CONVERSION: Conversion = Conversion {
    to_storage: |event| rename(event, |(core, other)| (other, core)),
    from_storage: |event| rename(event, |(core, other)| (core, other)),
};

fn rename(event: &mut Value, direction: fn((&'static str, &'static str)) -> (&'static str, &'static str)) {
    let Some(event) = event.as_object_mut() else { return };
    for names in NAMES {
        let (from, to) = direction(*names);
        if let Some(value) = event.remove(from) {
            event.set(to, value);
        }
    }
    // Go writes these structs even when they are empty.
    let (_, regarding) = direction(("involvedObject", "regarding"));
    if regarding == "involvedObject" {
        for field in ["involvedObject", "source"] {
            if event.get(field).is_none() {
                event.set(field, Object::default());
            }
        }
    }
}

fn validate(event: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let namespace = event.str_at(&["metadata", "namespace"]);
    let about = event.str_at(&["involvedObject", "namespace"]);
    let is_new = given(event, "eventTime").is_some();
    let agrees = match about {
        "" if is_new => matches!(namespace, "default" | "kube-system"),
        "" => matches!(namespace, "" | "default"),
        about => is_new || about == namespace,
    };
    if !agrees {
        let path = Path::root("involvedObject");
        errors.push(Error::invalid(&path.child("namespace"), about, "does not match event.namespace"));
    }
    if is_new {
        let is_core = cx.group.is_empty();
        new_event(&mut errors, event, if is_core { "reportingComponent" } else { "reportingController" });
    }
    if !cx.group.is_empty() && old.is_none() {
        let name = event.str_at(&["metadata", "name"]);
        let path = Path::root("metadata");
        invalid_each(&mut errors, &path.child("name"), name, rules::name_is_subdomain(name, false));
    }
    errors
}

fn validate_strict(event: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = validate(event, old, cx);
    if let Some(old) = old {
        if !same(event.get("series"), old.get("series")) {
            series(&mut errors, event);
        }
        unchanged(&mut errors, event, old);
        return errors;
    }
    series(&mut errors, event);
    if given(event, "eventTime").is_none() {
        errors.push(Error::required(&Path::root("eventTime"), ""));
    }
    let kind = text(event, "type");
    if !["Normal", "Warning"].contains(&kind) {
        errors.push(Error::invalid(&Path::root("type"), "", format!("has invalid value: {kind}")));
    }
    for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
        if !same(event.get(field), None) && event.get(field).and_then(Value::as_i64) != Some(0) {
            errors.push(Error::invalid(&Path::root(field), "", "needs to be unset"));
        }
    }
    errors
}

fn series(errors: &mut Errors, event: &Value) {
    let Some(series) = given(event, "series") else { return };
    if super::look::int_or_zero(series, "count") < 2 {
        errors.push(Error::invalid(&Path::root("series.count"), "", "should be at least 2"));
    }
    if text(series, "lastObservedTime").is_empty() {
        errors.push(Error::required(&Path::root("series.lastObservedTime"), ""));
    }
}

/// Only the series of an event goes on.
fn unchanged(errors: &mut Errors, event: &Value, old: &Value) {
    let mut fixed = |field: &'static str, at: &'static str| {
        let (now, before) = (event.get(field), old.get(field));
        if same(now, before) {
            return;
        }
        let shown = match (field, now) {
            ("involvedObject" | "related", now) => internal(now.unwrap_or(&Value::Null), REFERENCE),
            ("count", None) => Value::Int(0),
            ("firstTimestamp" | "lastTimestamp" | "eventTime", None) => Value::Null,
            (_, None) => Value::str(""),
            (_, Some(now)) => now.clone(),
        };
        errors.push(Error::invalid(&Path::root(at), shown, super::look::IMMUTABLE));
    };
    for field in [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "type",
        "eventTime",
        "action",
        "related",
    ] {
        fixed(field, field);
    }
    fixed("reportingComponent", "reportingController");
    fixed("reportingInstance", "reportingInstance");
}

/// What events.k8s.io asks for, and what core asks for once an event has an `eventTime`.
fn new_event(errors: &mut Errors, event: &Value, reporter: &'static str) {
    let root = Path::root("");
    let controller = text(event, "reportingComponent");
    let path = Path::root(reporter);
    if controller.is_empty() {
        errors.push(Error::required(&path, ""));
    }
    invalid_each(errors, &path, controller, rules::qualified_name(controller));
    for field in ["reportingInstance", "action", "reason"] {
        let word = text(event, field);
        if word.is_empty() {
            required(errors, event, field, &root);
            if let Some(last) = errors.last_mut() {
                last.field = field.to_owned();
            }
        } else if word.len() > WORD_MAX_BYTES {
            let detail = format!("can have at most {WORD_MAX_BYTES} characters");
            errors.push(Error::invalid(&Path::root(field), "", detail));
        }
    }
    if text(event, "message").len() > MESSAGE_MAX_BYTES {
        let detail = format!("can have at most {MESSAGE_MAX_BYTES} characters");
        errors.push(Error::invalid(&Path::root("message"), "", detail));
    }
}

fn selectable_value(event: &Value, path: &str) -> Option<String> {
    let source = || event.get("source").or_else(|| event.get("deprecatedSource"));
    if path == "source" {
        let component = source().map_or("", |s| text(s, "component"));
        let reporter = || super::columns::first_of(event, &["reportingComponent", "reportingController"]);
        return Some(if component.is_empty() { reporter().to_owned() } else { component.to_owned() });
    }
    // The stored shape is core's, whichever group was asked.
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    let (core, other) = NAMES.iter().find(|(core, other)| *core == first || *other == first)?;
    let value = event.get(core).or_else(|| event.get(other))?;
    let value = if rest.is_empty() { Some(value) } else { value.get(rest) };
    Some(value.and_then(Value::as_str).unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{create_errors, tree};

    #[test]
    fn both_shapes() {
        let core = tree(
            "{metadata: {name: e}, involvedObject: {kind: Pod, name: p}, reason: r, message: m, source: {component: c}, \
             firstTimestamp: '2024-01-01T00:00:00Z', count: 2, reportingComponent: c, type: Normal}",
        );
        let mut event = core.clone();
        (CONVERSION.from_storage)(&mut event);
        assert_eq!(event.at(&["regarding", "name"]), Some(&tree("p")));
        assert_eq!(event.str_at(&["note"]), "m");
        assert_eq!(event.str_at(&["reportingController"]), "c");
        assert_eq!(event.get("deprecatedCount"), Some(&tree("2")));
        for object in [&core, &event] {
            assert_eq!(selectable_value(object, "involvedObject.name").as_deref(), Some("p"));
            assert_eq!(selectable_value(object, "regarding.kind").as_deref(), Some("Pod"));
        }
        (CONVERSION.to_storage)(&mut event);
        assert_eq!(event, core);
    }

    #[test]
    fn broken_events() {
        assert_eq!(
            create_errors("", "Event", "{metadata: {namespace: a}, involvedObject: {namespace: b}}"),
            ["involvedObject.namespace: Invalid value: \"b\": does not match event.namespace"]
        );
        assert_eq!(
            create_errors(
                "",
                "Event",
                "{metadata: {namespace: a}, involvedObject: {namespace: a}, eventTime: x, reportingComponent: a.b/c, \
                 reportingInstance: i, action: act}"
            ),
            ["reason: Required value"]
        );
    }
}
