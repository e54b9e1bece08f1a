//! What storage drivers tell the cluster: drivers, their nodes, attachments, capacities, classes of attributes.

use super::look::{
    Errors, IMMUTABLE, compare_quantities, entries, given, immutable, int, items, items_mut, same,
    set_missing, text,
};
use super::row::NO_HOOKS;
use crate::field::{self, Error, Path};
use crate::kind::{Context, Hooks};
use crate::rules::{self, invalid_each};
use crate::{Value, meta};

/// A driver's name has at most so many bytes.
const DRIVER_NAME_MAX: usize = 63;
/// So has a driver's id of a node.
const NODE_ID_MAX: usize = 192;
/// Tokens live at least so long, in seconds.
const TOKEN_MIN_SECONDS: i64 = 600;
const TOKEN_MAX_SECONDS: i64 = 1 << 32;
/// Parameters of a class: so many, and so many bytes.
const PARAMETERS_MAX: usize = 512;
const PARAMETERS_MAX_BYTES: usize = 256 * 1024;

pub(super) const DRIVER: Hooks =
    Hooks { default: Some(default_driver), validate: Some(validate_driver), ..NO_HOOKS };
pub(super) const NODE: Hooks = Hooks { validate: Some(validate_node), ..NO_HOOKS };
pub(super) const CAPACITY: Hooks = Hooks { validate: Some(validate_capacity), ..NO_HOOKS };
pub(super) const ATTACHMENT: Hooks = Hooks { validate: Some(validate_attachment), ..NO_HOOKS };
pub(super) const ATTRIBUTES: Hooks = Hooks { validate: Some(validate_attributes), ..NO_HOOKS };

fn default_driver(driver: &mut Value) {
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
    items_mut(spec, "tokenRequests").for_each(|request| {
        request.object_at_mut(&[]).entry("audience");
        if request.get("audience").is_none_or(Value::is_null) {
            request.object_at_mut(&[]).set("audience", "");
        }
    });
}

/// A driver's name: there, short, and a subdomain once it is in lower case.
fn driver_name(errors: &mut Errors, name: &str, path: &Path<'_>) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
    }
    if name.len() > DRIVER_NAME_MAX {
        errors.push(Error::too_long(path, DRIVER_NAME_MAX));
    }
    invalid_each(errors, path, name, rules::dns_subdomain(&name.to_lowercase()));
}

fn validate_driver(driver: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let (mut errors, empty, path) = (Vec::new(), Value::Null, Path::root("spec"));
    let (spec, metadata) = (driver.get("spec").unwrap_or(&empty), Path::root("metadata"));
    if old.is_none() {
        driver_name(&mut errors, driver.str_at(&["metadata", "name"]), &metadata.child("name"));
    }
    let list = path.child("volumeLifecycleModes");
    for mode in items(spec, "volumeLifecycleModes").iter().filter_map(Value::as_str) {
        if !["Ephemeral", "Persistent"].contains(&mode) {
            errors.push(Error::not_supported(&list, mode, &["Ephemeral", "Persistent"]));
        }
    }
    const POLICIES: &[&str] = &["File", "None", "ReadWriteOnceWithFSType"];
    super::look::one_of_given(&mut errors, spec, "fsGroupPolicy", POLICIES, &path);
    token_requests(&mut errors, items(spec, "tokenRequests"), &path.child("tokenRequests"));
    if let Some(old) = old {
        let before = old.get("spec").unwrap_or(&empty);
        immutable(&mut errors, spec, before, "attachRequired", &path);
        immutable(&mut errors, spec, before, "volumeLifecycleModes", &path);
    }
    errors
}

fn token_requests(errors: &mut Errors, requests: &[Value], path: &Path<'_>) {
    for (i, request) in requests.iter().enumerate() {
        let (at, audience) = (path.index(i), text(request, "audience"));
        if requests[..i].iter().any(|other| text(other, "audience") == audience) {
            errors.push(Error::duplicate(&at.child("audience"), audience));
        }
        let Some(seconds) = int(request, "expirationSeconds") else { continue };
        let at = at.child("expirationSeconds");
        if seconds < TOKEN_MIN_SECONDS {
            errors.push(Error::invalid(&at, seconds, "may not specify a duration less than 10 minutes"));
        }
        if seconds > TOKEN_MAX_SECONDS {
            errors.push(Error::invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds"));
        }
    }
}

fn validate_node(node: &Value, _old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let (mut errors, spec) = (Vec::new(), Path::root("spec"));
    let (drivers, list) = (node.items_at(&["spec", "drivers"]), spec.child("drivers"));
    for (i, driver) in drivers.iter().enumerate() {
        let (path, name) = (list.index(i), text(driver, "name"));
        driver_name(&mut errors, name, &path.child("name"));
        let (id, at) = (text(driver, "nodeID"), path.child("nodeID"));
        if id.is_empty() {
            errors.push(Error::required(&at, ""));
        }
        if id.len() > NODE_ID_MAX {
            errors.push(Error::invalid(&at, id, format!("must be {NODE_ID_MAX} characters or less")));
        }
        if let Some(count) = driver.at(&["allocatable", "count"]).and_then(Value::as_i64).filter(|n| *n < 0) {
            let at = path.child("allocatable");
            errors.push(Error::invalid(&at.child("count"), count, rules::NOT_NEGATIVE));
        }
        topology_keys(&mut errors, items(driver, "topologyKeys"), &path.child("topologyKeys"));
        if drivers[..i].iter().any(|other| text(other, "name") == name) {
            errors.push(Error::duplicate(&path.child("name"), name));
        }
    }
    errors
}

fn topology_keys(errors: &mut Errors, keys: &[Value], path: &Path<'_>) {
    for (i, key) in keys.iter().enumerate() {
        let (at, key) = (path.index(i), key.as_str().unwrap_or_default());
        if keys[..i].iter().any(|other| other.as_str() == Some(key)) {
            errors.push(Error::duplicate(&at, key));
        }
        invalid_each(errors, &at, key, rules::qualified_name(key));
    }
}

fn validate_capacity(capacity: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let class = text(capacity, "storageClassName");
    invalid_each(&mut errors, &Path::root("storageClassName"), class, rules::dns_subdomain(class));
    for field in ["capacity", "maximumVolumeSize"] {
        let Some(size) = given(capacity, field) else { continue };
        if compare_quantities(Some(size), Some(&Value::Int(0))).is_lt() {
            let shown = super::look::quantity(Some(size)).to_string();
            errors.push(Error::invalid(&Path::root(field), shown, rules::NOT_NEGATIVE));
        }
    }
    meta::label_selector(&mut errors, given(capacity, "nodeTopology"), &Path::root("nodeTopology"));
    for field in ["nodeTopology", "storageClassName"] {
        if old.is_some_and(|old| !same(capacity.get(field), old.get(field))) {
            let now = capacity.get(field).cloned().unwrap_or_default();
            errors.push(Error::invalid(&Path::root(field), now, IMMUTABLE));
        }
    }
    errors
}

fn validate_attachment(attachment: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let (mut errors, empty, path) = (Vec::new(), Value::Null, Path::root("spec"));
    let spec = attachment.get("spec").unwrap_or(&empty);
    match old {
        Some(old) if cx.subresource != "status" && !same(attachment.get("spec"), old.get("spec")) => {
            errors.push(Error::invalid(&path, spec.clone(), IMMUTABLE));
        }
        Some(_) => {}
        None => new_attachment(&mut errors, spec, &path),
    }
    errors
}

fn new_attachment(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    driver_name(errors, text(spec, "attacher"), &path.child("attacher"));
    let (empty, at) = (Value::Null, path.child("source"));
    let source = spec.get("source").unwrap_or(&empty);
    let one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (given(source, "persistentVolumeName"), given(source, "inlineVolumeSpec")) {
        (None, None) => errors.push(Error::required(&at, one)),
        (Some(_), Some(_)) => errors.push(Error::forbidden(&at, one)),
        (Some(name), None) if name.as_str() == Some("") => {
            let detail = "must specify non empty persistentVolumeName";
            errors.push(Error::required(&at.child("persistentVolumeName"), detail));
        }
        _ => {}
    }
    let node = text(spec, "nodeName");
    invalid_each(errors, &path.child("nodeName"), node, rules::dns_subdomain(node));
}

fn validate_attributes(class: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    if let Some(old) = old {
        for field in ["driverName", "parameters"] {
            if !same(class.get(field), old.get(field)) {
                let detail = format!("updates to {field} are forbidden.");
                errors.push(Error::forbidden(&Path::root(field), detail));
            }
        }
        return errors;
    }
    let (name, path) = (text(class, "driverName"), Path::root("driverName"));
    match name {
        "" => errors.push(Error::required(&path, "")),
        name => invalid_each(&mut errors, &path, name, rules::qualified_name(&name.to_lowercase())),
    }
    parameters(&mut errors, class);
    errors
}

fn parameters(errors: &mut Errors, class: &Value) {
    let path = Path::root("parameters");
    let count = entries(class, "parameters").count();
    if count == 0 {
        errors.push(Error::required(&path, "must contain at least one key/value pair"));
    }
    if count > PARAMETERS_MAX {
        errors.push(Error::too_long(&path, PARAMETERS_MAX));
        return;
    }
    let mut bytes = 0;
    for (key, value) in entries(class, "parameters") {
        if key.is_empty() {
            errors.push(Error::invalid(&path, "", "field can not be empty."));
        }
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > PARAMETERS_MAX_BYTES {
        errors.push(Error::too_long(&path, PARAMETERS_MAX_BYTES));
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{create_errors, defaulted, tree, update_errors};

    const GROUP: &str = "storage.k8s.io";

    #[test]
    fn defaults() {
        let wanted = "{spec: {attachRequired: false, podInfoOnMount: false, storageCapacity: false, requiresRepublish: false, \
                      seLinuxMount: false, fsGroupPolicy: ReadWriteOnceWithFSType, volumeLifecycleModes: [Persistent]}}";
        assert_eq!(defaulted(GROUP, "CSIDriver", "{spec: {attachRequired: false}}"), tree(wanted));
    }

    #[test]
    fn refused() {
        let cases: &[(&str, &str, &[&str])] = &[
            (
                "CSIDriver",
                "{metadata: {name: d}, spec: {fsGroupPolicy: X, tokenRequests: [{audience: a}, {audience: a, expirationSeconds: 1}]}}",
                &[
                    "spec.fsGroupPolicy: Unsupported value: \"X\": supported values: \"File\", \"None\", \"ReadWriteOnceWithFSType\"",
                    "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
                    "spec.tokenRequests[1].expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
                ],
            ),
            (
                "CSINode",
                "{spec: {drivers: [{name: d, nodeID: node, topologyKeys: [a, a], allocatable: {count: -1}}]}}",
                &[
                    "spec.drivers[0].allocatable.count: Invalid value: -1: must be greater than or equal to 0",
                    "spec.drivers[0].topologyKeys[1]: Duplicate value: \"a\"",
                ],
            ),
            (
                "VolumeAttachment",
                "{spec: {attacher: a, nodeName: node, source: {}}}",
                &[
                    "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName",
                ],
            ),
            (
                "VolumeAttributesClass",
                "{}",
                &[
                    "driverName: Required value",
                    "parameters: Required value: must contain at least one key/value pair",
                ],
            ),
            (
                "CSIStorageCapacity",
                "{storageClassName: c, capacity: '-1'}",
                &["capacity: Invalid value: \"-1\": must be greater than or equal to 0"],
            ),
        ];
        for (kind, yaml, wanted) in cases {
            assert_eq!(create_errors(GROUP, kind, yaml), *wanted, "{yaml}");
        }
        let class = "{driverName: d, parameters: {a: b}}";
        assert_eq!(
            update_errors(GROUP, "VolumeAttributesClass", class, "{driverName: d, parameters: {a: c}}"),
            ["parameters: Forbidden: updates to parameters are forbidden."]
        );
    }
}
