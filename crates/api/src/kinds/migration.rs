//! Rewriting all objects of a resource in the version that they rest in now.

use super::look::{Errors, IMMUTABLE, same, text};
use super::row::NO_HOOKS;
use crate::Value;
use crate::field::{self, Error, Path};
use crate::kind::{Context, Hooks};
use crate::rules;

pub(super) const HOOKS: Hooks = Hooks { validate: Some(validate), ..NO_HOOKS };

fn validate(migration: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let (mut errors, path) = (Vec::new(), Path::root("spec"));
    if let Some(old) = old.filter(|_| cx.subresource == "status") {
        status(&mut errors, migration, old);
        return errors;
    }
    let path = path.child("resource");
    let (group, resource) = (
        migration.str_at(&["spec", "resource", "group"]),
        migration.str_at(&["spec", "resource", "resource"]),
    );
    let joined = |errors: &mut Errors, field: &str, word: &str, messages: rules::Messages| {
        if !messages.is_empty() {
            errors.push(Error::invalid(&path.child(field), word, messages.join(",")));
        }
    };
    match resource {
        "" => errors.push(Error::required(&path.child("resource"), "resource is required to be set")),
        word => joined(&mut errors, "resource", word, rules::dns1035_label(word)),
    }
    if !group.is_empty() {
        joined(&mut errors, "group", group, rules::dns_subdomain(group));
    }
    if old.is_some_and(|old| !same(old.get("spec"), migration.get("spec"))) {
        let mut shown = Value::object();
        let of = migration.at(&["spec", "resource"]).cloned().unwrap_or_default();
        shown.object_at_mut(&[]).set("Resource", of);
        errors.push(Error::invalid(&Path::root("spec"), shown, IMMUTABLE));
    }
    errors
}

fn is_true(migration: &Value, kind: &str) -> bool {
    let conditions = migration.items_at(&["status", "conditions"]);
    conditions.iter().find(|c| text(c, "type") == kind).is_some_and(|c| text(c, "status") == "True")
}

fn status(errors: &mut Errors, migration: &Value, old: &Value) {
    let (path, list) = (Path::root("status"), migration.items_at(&["status", "conditions"]));
    let version = migration.str_at(&["status", "resourceVersion"]);
    let before = old.str_at(&["status", "resourceVersion"]);
    if let Some(why) = version_error(version) {
        errors.push(Error::invalid(&path.child("resourceVersion"), version, why));
    }
    let at = path.child("conditions");
    super::conditions::validate(errors, list, &at);
    if !before.is_empty() && before != version {
        errors.push(Error::invalid(&path.child("resourceVersion"), version, IMMUTABLE));
    }
    let mut wrong = |is: bool, what: &str| {
        if is {
            errors.push(Error::invalid(&at, Value::from(list.to_vec()), what));
        }
    };
    let (done, failed) = (is_true(migration, "Succeeded"), is_true(migration, "Failed"));
    let both = "Both success and failed conditions cannot be true at the same time";
    wrong(done && failed, both);
    let undone = "Success condition cannot be set to false once it is true";
    wrong(is_true(old, "Succeeded") && !done, undone);
    let healed = "Failed condition cannot be set to false once it is true";
    wrong(is_true(old, "Failed") && !failed, healed);
}

/// Resource versions that can be compared are whole numbers without leading zeros.
fn version_error(version: &str) -> Option<String> {
    let digits = version.bytes().all(|b| b.is_ascii_digit());
    if version.is_empty() || (digits && !version.starts_with('0')) {
        return None;
    }
    Some(format!("resource version is not well formed: {version}"))
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{create_errors, update_errors};

    const GROUP: &str = "storagemigration.k8s.io";
    const KIND: &str = "StorageVersionMigration";

    #[test]
    fn what_is_migrated() {
        assert_eq!(
            create_errors(GROUP, KIND, "{spec: {resource: {group: apps, resource: a}}}"),
            Vec::<String>::new()
        );
        assert_eq!(
            create_errors(GROUP, KIND, "{spec: {}}"),
            ["spec.resource.resource: Required value: resource is required to be set"]
        );
        let changed = update_errors(
            GROUP,
            KIND,
            "{spec: {resource: {resource: a}}}",
            "{spec: {resource: {resource: b}}}",
        );
        assert_eq!(changed, ["spec: Invalid value: {\"Resource\":{\"resource\":\"b\"}}: field is immutable"]);
    }
}
