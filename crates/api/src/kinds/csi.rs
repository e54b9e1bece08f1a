//! What storage drivers tell the cluster: drivers, their nodes, attachments, capacities, classes of attributes.

use super::look::{
    Errors, IMMUTABLE, Zero, compare_quantities, entries, given, immutable, int, internal, items, items_mut,
    same, set_missing, text,
};
use super::row::NO_HOOKS;
use crate::field::{self, Error, Path};
use crate::kind::{Context, Hooks};
use crate::rules::{self, invalid_each};
use crate::{Value, meta};

/// A driver's name has at most so many bytes.
const DRIVER_NAME_MAX: usize = 63;
/// So has a driver's id of a node.
const NODE_ID_MAX: usize = 256;
/// Tokens live at least so long, in seconds.
const TOKEN_MIN_SECONDS: i64 = 600;
const TOKEN_MAX_SECONDS: i64 = 1 << 32;
/// Drivers are asked for what a node can take no more often than this.
const UPDATE_PERIOD_MIN_SECONDS: i64 = 10;
/// Parameters of a class: so many, and so many bytes.
const PARAMETERS_MAX: usize = 512;
const PARAMETERS_MAX_BYTES: usize = 256 * 1024;

pub(super) const DRIVER: Hooks = Hooks {
    default: Some(default_driver),
    validate: Some(validate_driver),
    warnings: Some(driver_warnings),
    // Upstream counts the changes of a driver from 0.
    prepare_create: Some(|driver, _| {
        driver.object_at_mut(&["metadata"]).remove("generation");
    }),
    ..NO_HOOKS
};
pub(super) const NODE: Hooks = Hooks { validate: Some(validate_node), ..NO_HOOKS };
pub(super) const CAPACITY: Hooks = Hooks { validate: Some(validate_capacity), ..NO_HOOKS };
pub(super) const ATTACHMENT: Hooks = Hooks { validate: Some(validate_attachment), ..NO_HOOKS };
pub(super) const ATTRIBUTES: Hooks = Hooks { validate: Some(validate_attributes), ..NO_HOOKS };

fn default_driver(driver: &mut Value) {
    driver.object_at_mut(&["spec"]);
    let Some(spec) = driver.get_mut("spec") else { return };
    set_missing(spec, "attachRequired", true);
    for field in [
        "podInfoOnMount",
        "storageCapacity",
        "requiresRepublish",
        "seLinuxMount",
        "preventPodSchedulingIfMissing",
    ] {
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
pub(super) fn driver_name(errors: &mut Errors, name: &str, path: &Path<'_>) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
        return;
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
            errors.push(Error::not_supported(&list, mode, &["Persistent", "Ephemeral"]));
        }
    }
    const POLICIES: &[&str] = &["File", "None", "ReadWriteOnceWithFSType"];
    super::look::one_of_given(&mut errors, spec, "fsGroupPolicy", POLICIES, &path);
    token_requests(&mut errors, items(spec, "tokenRequests"), &path.child("tokenRequests"));
    let seconds = int(spec, "nodeAllocatableUpdatePeriodSeconds").filter(|s| *s < UPDATE_PERIOD_MIN_SECONDS);
    if let Some(seconds) = seconds {
        let (at, detail) =
            (path.child("nodeAllocatableUpdatePeriodSeconds"), "must be greater than or equal to 10 seconds");
        errors.push(Error::invalid(&at, seconds, detail));
    }
    if let Some(in_secrets) = given(spec, "serviceAccountTokenInSecrets")
        && items(spec, "tokenRequests").is_empty()
    {
        let detail = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        errors.push(Error::invalid(&path.child("serviceAccountTokenInSecrets"), in_secrets.clone(), detail));
    }
    if let Some(old) = old {
        let before = old.get("spec").unwrap_or(&empty);
        // Upstream's own name for the field here.
        if !same(spec.get("attachRequired"), before.get("attachRequired")) {
            let now = spec.get("attachRequired").cloned().unwrap_or_default();
            errors.push(Error::invalid(&path.child("attachedRequired"), now, IMMUTABLE));
        }
        immutable(&mut errors, spec, before, "volumeLifecycleModes", &path);
    }
    errors
}

/// Tokens in volume attributes end up in logs.
fn driver_warnings(driver: &Value, _old: Option<&Value>) -> Vec<String> {
    let unset = driver.at(&["spec", "serviceAccountTokenInSecrets"]).is_none_or(Value::is_null);
    if driver.items_at(&["spec", "tokenRequests"]).is_empty() || !unset {
        return Vec::new();
    }
    let text = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent \
                possible logging of tokens in volume attributes";
    vec![text.to_owned()]
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

fn validate_node(node: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let (mut errors, spec) = (Vec::new(), Path::root("spec"));
    let (drivers, list) = (node.items_at(&["spec", "drivers"]), spec.child("drivers"));
    for before in old.map_or(&[][..], |old| old.items_at(&["spec", "drivers"])) {
        let now = drivers.iter().find(|now| text(now, "name") == text(before, "name"));
        if let Some(now) = now.filter(|now| node_driver(now) != node_driver(before)) {
            errors.push(Error::invalid(&list, node_driver(now), IMMUTABLE));
        }
    }
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
        topology_keys(&mut errors, items(driver, "topologyKeys"), &path);
        if drivers[..i].iter().any(|other| text(other, "name") == name) {
            errors.push(Error::duplicate(&path.child("name"), name));
        }
    }
    errors
}

/// What must stay of a node's driver, as upstream prints it.
fn node_driver(driver: &Value) -> Value {
    const GO: &[(&str, &str, Zero)] = &[
        ("name", "Name", Zero::Text),
        ("nodeID", "NodeID", Zero::Text),
        ("topologyKeys", "TopologyKeys", Zero::Null),
    ];
    let mut shown = internal(driver, GO);
    // Upstream compares what can be allocated, too, but lets it change.
    shown.object_at_mut(&[]).set("Allocatable", Value::Null);
    shown
}

fn topology_keys(errors: &mut Errors, keys: &[Value], path: &Path<'_>) {
    for (i, key) in keys.iter().enumerate() {
        let key = key.as_str().unwrap_or_default();
        if key.is_empty() {
            errors.push(Error::required(path, ""));
        }
        if keys[..i].iter().any(|other| other.as_str() == Some(key)) {
            errors.push(Error::duplicate(path, key));
        }
        invalid_each(errors, path, key, rules::qualified_name(key));
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
            errors.push(Error::invalid(&path, Value::Null, IMMUTABLE));
        }
        Some(_) => {}
        None => new_attachment(&mut errors, spec, &path),
    }
    errors
}

fn new_attachment(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    caseless_driver_name(errors, text(spec, "attacher"), &path.child("attacher"));
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
        (None, Some(volume)) => inline_volume(errors, volume, &at.child("inlineVolumeSpec")),
        (Some(name), None) => {
            let name = name.as_str().unwrap_or_default();
            invalid_each(errors, &at.child("persistentVolumeName"), name, rules::dns_subdomain(name));
        }
    }
    let node = text(spec, "nodeName");
    invalid_each(errors, &path.child("nodeName"), node, rules::dns_subdomain(node));
}

/// What of a volume has no meaning without a volume object.
fn inline_volume(errors: &mut Errors, volume: &Value, path: &Path<'_>) {
    let policy = text(volume, "persistentVolumeReclaimPolicy");
    if !matches!(policy, "" | "Retain") {
        let detail = "may only be Retain in the context of inline volumes";
        errors.push(Error::forbidden(&path.child("persistentVolumeReclaimPolicy"), detail));
    }
    if !text(volume, "storageClassName").is_empty() {
        let detail = "may not be specified in the context of inline volumes";
        errors.push(Error::forbidden(&path.child("storageClassName"), detail));
    }
    if !same(volume.get("capacity"), None) {
        let detail = "may not be specified in the context of inline volumes";
        errors.push(Error::forbidden(&path.child("capacity"), detail));
    }
    if given(volume, "volumeMode").is_some_and(|mode| mode.as_str() != Some("Filesystem")) {
        let detail = "may not specify volumeMode other than Filesystem in the context of inline volumes";
        errors.push(Error::forbidden(&path.child("volumeMode"), detail));
    }
    const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    for mode in items(volume, "accessModes").iter().filter_map(Value::as_str) {
        if !MODES.contains(&mode) {
            errors.push(Error::not_supported(&path.child("accessModes"), mode, MODES));
        }
    }
}

/// The same name in the words of rules that upstream generates.
pub(super) fn caseless_driver_name(errors: &mut Errors, name: &str, path: &Path<'_>) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    invalid_each(errors, path, name, rules::caseless_subdomain(name));
    if name.len() > DRIVER_NAME_MAX {
        let mut error = Error::too_long(path, DRIVER_NAME_MAX);
        error.body = format!("Too long: may not be more than {DRIVER_NAME_MAX} characters");
        errors.push(error);
    }
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
                      seLinuxMount: false, preventPodSchedulingIfMissing: false, fsGroupPolicy: ReadWriteOnceWithFSType, \
                      volumeLifecycleModes: [Persistent]}}";
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
                    "spec.drivers[0]: Duplicate value: \"a\"",
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
