//! Namespaces: their name label, their finalizer, their two phases.

use super::look::text;
use super::row::NO_HOOKS;
use crate::field::{self, Error, Path};
use crate::kind::{Context, Hooks};
use crate::rules::{self, invalid_each};
use crate::{Object, Value};

/// The finalizer in `spec.finalizers` that the namespace controller takes away when all content is gone.
pub const FINALIZER: &str = "kubernetes";
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub(super) const HOOKS: Hooks = Hooks {
    default: Some(default),
    prepare_create: Some(prepare_create),
    prepare_update: Some(prepare_update),
    validate: Some(validate),
    name_rule: Some(rules::name_is_label),
    selectable_value: Some(|object, path| {
        (path == "status.phase").then(|| object.str_at(&["status", "phase"]).to_owned())
    }),
    ..NO_HOOKS
};

fn default(namespace: &mut Value) {
    let name = namespace.str_at(&["metadata", "name"]).to_owned();
    if !name.is_empty() {
        namespace.object_at_mut(&["metadata", "labels"]).set(NAME_LABEL, name);
    }
    if namespace.str_at(&["status", "phase"]).is_empty() {
        namespace.object_at_mut(&["status"]).set("phase", Value::str("Active"));
    }
}

fn prepare_create(namespace: &mut Value, _cx: &Context<'_>) {
    let mut status = Object::default();
    status.set("phase", Value::str("Active"));
    namespace.object_at_mut(&[]).set("status", status);
    default(namespace);
    let finalizers = namespace.object_at_mut(&["spec"]).entry("finalizers");
    match finalizers {
        Value::Array(list) if list.iter().any(|f| f.as_str() == Some(FINALIZER)) => {}
        Value::Array(list) => list.push(Value::str(FINALIZER)),
        other => *other = vec![Value::str(FINALIZER)].into(),
    }
}

/// Only `namespaces/finalize` changes the finalizers.
fn prepare_update(namespace: &mut Value, old: &Value, cx: &Context<'_>) {
    match cx.subresource {
        "finalize" => {
            if let Some(status) = old.get("status") {
                namespace.object_at_mut(&[]).set("status", status.clone());
            }
        }
        "status" => {}
        _ => {
            let spec = namespace.object_at_mut(&["spec"]);
            match old.at(&["spec", "finalizers"]) {
                Some(finalizers) => spec.set("finalizers", finalizers.clone()),
                None => drop(spec.remove("finalizers")),
            }
        }
    }
}

fn validate(namespace: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    if cx.subresource == "status" {
        phase(&mut errors, namespace);
        return errors;
    }
    if old.is_some() && cx.subresource != "finalize" {
        return errors;
    }
    let path = Path::root("spec");
    let list = path.child("finalizers");
    for (i, name) in namespace.items_at(&["spec", "finalizers"]).iter().enumerate() {
        let name = name.as_str().unwrap_or_default();
        let path = if cx.subresource == "finalize" { list.index(i) } else { list };
        invalid_each(&mut errors, &path, name, rules::qualified_name(name));
        if !name.contains('/') && !matches!(name, FINALIZER | "orphan" | "foregroundDeletion") {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(Error::invalid(&path, name, detail));
        }
    }
    errors
}

fn phase(errors: &mut Vec<field::Error>, namespace: &Value) {
    let phase = namespace.get("status").map_or("", |status| text(status, "phase"));
    let deleting = namespace.at(&["metadata", "deletionTimestamp"]).is_some_and(|t| !t.is_null());
    let (wanted, detail) = if deleting {
        ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty")
    } else {
        ("Active", "may only be 'Active' if `deletionTimestamp` is empty")
    };
    if phase != wanted {
        let path = Path::root("status");
        errors.push(Error::invalid(&path.child("Phase"), phase, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{CONTEXT, defaulted, texts, tree};

    #[test]
    fn a_new_namespace() {
        let mut namespace = defaulted("", "Namespace", "{metadata: {name: ns}}");
        prepare_create(&mut namespace, &CONTEXT);
        let wanted = "{metadata: {name: ns, labels: {kubernetes.io/metadata.name: ns}}, status: {phase: Active}, \
                      spec: {finalizers: [kubernetes]}}";
        assert_eq!(namespace, tree(wanted));
    }

    #[test]
    fn updates_keep_the_finalizers() {
        let old = tree("{spec: {finalizers: [kubernetes]}}");
        let mut new = tree("{spec: {finalizers: []}}");
        prepare_update(&mut new, &old, &CONTEXT);
        assert_eq!(new, old);
        let mut finalized = tree("{spec: {finalizers: []}}");
        prepare_update(&mut finalized, &old, &Context { subresource: "finalize", ..CONTEXT });
        assert_eq!(finalized, tree("{spec: {finalizers: []}}"));
    }

    #[test]
    fn broken_finalizers_and_phases() {
        let bad = tree("{spec: {finalizers: [mine]}}");
        assert_eq!(
            texts(&validate(&bad, None, &CONTEXT)),
            [
                "spec.finalizers: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully \
              qualified"
            ]
        );
        let status = Context { subresource: "status", ..CONTEXT };
        assert_eq!(
            texts(&validate(&tree("{status: {phase: Terminating}}"), Some(&bad), &status)),
            [
                "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"
            ]
        );
    }
}
