//! Persistent volumes, claims and storage classes.

use super::look::{
    Errors, fixed, given, items, one_of_given, quantity, required, same, set_empty, set_missing, text,
};
use super::pod;
use super::pod::affinity::node_selector;
use super::row::NO_HOOKS;
use crate::field::{self, Error, Path};
use crate::kind::{Context, Hooks};
use crate::rules::{self, invalid_each};
use crate::{Value, meta};

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const PARAMETERS_MAX: usize = 512;
const PARAMETERS_MAX_BYTES: usize = 256 * 1024;
const RECLAIM: &[&str] = &["Delete", "Recycle", "Retain"];
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];
/// Fields of a volume's spec that are no source.
const NOT_A_SOURCE: &[&str] = &[
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

pub(super) const CLAIM: Hooks = Hooks {
    default: Some(default_claim),
    prepare_create: Some(|claim, _| pending(claim)),
    validate: Some(validate_claim),
    warnings: Some(|claim, _| {
        let mut warnings = Vec::new();
        super::warn::claim_spec(
            &mut warnings,
            claim.get("spec").unwrap_or(&Value::Null),
            &Path::root("spec"),
        );
        warnings
    }),
    ..NO_HOOKS
};

pub(super) const VOLUME: Hooks = Hooks {
    default: Some(default_volume),
    prepare_create: Some(|volume, cx| {
        pending(volume);
        let now = crate::time::rfc3339(cx.now_ms);
        volume.object_at_mut(&["status"]).set("lastPhaseTransitionTime", now);
    }),
    warnings: Some(|volume, _| volume_warnings(volume)),
    validate: Some(validate_volume),
    ..NO_HOOKS
};

pub(super) const CLASS: Hooks =
    Hooks { default: Some(default_class), validate: Some(validate_class), ..NO_HOOKS };

/// Of a volume whose driver left the tree, or that is to be recycled.
fn volume_warnings(volume: &Value) -> Vec<String> {
    const GONE: &[(&str, &str, &str)] = &[
        ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
        ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
        ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ];
    let spec = volume.get("spec").unwrap_or(&Value::Null);
    let mut warnings = Vec::new();
    if text(spec, "persistentVolumeReclaimPolicy") == "Recycle" {
        warnings.push(
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to \
             use dynamic provisioning."
                .to_owned(),
        );
    }
    for (_, shown, message) in GONE.iter().filter(|(kind, ..)| given(spec, kind).is_some()) {
        warnings.push(format!("spec.{shown}: {message}"));
    }
    warnings
}

fn pending(object: &mut Value) {
    object.object_at_mut(&["status"]).set("phase", Value::str("Pending"));
}

/// Defaults of a claim, also of a stateful set's template.
pub(super) fn default_claim(claim: &mut Value) {
    claim.object_at_mut(&["status"]);
    claim.object_at_mut(&["spec"]);
    if let Some(status) = claim.get_mut("status") {
        set_empty(status, "phase", "Pending");
    }
    if let Some(spec) = claim.get_mut("spec") {
        set_missing(spec, "volumeMode", Value::str("Filesystem"));
        mirror_data_source(spec);
    }
}

/// `dataSource` and `dataSourceRef` say the same. A reference into another namespace goes: its feature is off by default.
fn mirror_data_source(spec: &mut Value) {
    if !spec.str_at(&["dataSourceRef", "namespace"]).is_empty() {
        spec.object_at_mut(&[]).remove("dataSourceRef");
        return;
    }
    let (source, reference) = (given(spec, "dataSource").cloned(), given(spec, "dataSourceRef").cloned());
    let spec = spec.object_at_mut(&[]);
    match (source, reference) {
        (Some(source), None) => spec.set("dataSourceRef", source),
        (None, Some(reference)) if reference.str_at(&["namespace"]).is_empty() => {
            spec.set("dataSource", reference)
        }
        _ => {}
    }
}

fn default_volume(volume: &mut Value) {
    volume.object_at_mut(&["status"]);
    volume.object_at_mut(&["spec"]);
    if let Some(status) = volume.get_mut("status") {
        set_empty(status, "phase", "Pending");
    }
    let Some(spec) = volume.get_mut("spec") else { return };
    set_empty(spec, "persistentVolumeReclaimPolicy", "Retain");
    set_missing(spec, "volumeMode", Value::str("Filesystem"));
    if let Some(host) = super::look::at_mut(spec, &["hostPath"]) {
        set_missing(host, "type", Value::str(""));
    }
}

fn default_class(class: &mut Value) {
    set_missing(class, "reclaimPolicy", Value::str("Delete"));
    set_missing(class, "volumeBindingMode", Value::str("Immediate"));
}

fn validate_claim(claim: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let (empty, path) = (Value::Null, Path::root("spec"));
    if cx.subresource == "status" {
        return errors;
    }
    let spec = claim.get("spec").unwrap_or(&empty);
    claim_spec(&mut errors, spec, &path);
    if let Some(old) = old {
        claim_stays(&mut errors, claim, old, &path);
    }
    errors
}

/// Of a claim only the size and the attributes class may change, and those once it is bound.
fn claim_stays(errors: &mut Errors, claim: &Value, old: &Value, path: &Path<'_>) {
    let bound = claim.str_at(&["status", "phase"]) == "Bound";
    let unbound_before = old.str_at(&["spec", "volumeName"]).is_empty();
    let unclassed_before = old.at(&["spec", "storageClassName"]).is_none();
    let masked = |object: &Value| {
        let mut spec = object.get("spec").cloned().unwrap_or_default();
        let fields = spec.object_at_mut(&[]);
        if bound {
            fields.remove("volumeAttributesClassName");
        }
        if unbound_before {
            fields.remove("volumeName");
        }
        if unclassed_before {
            fields.remove("storageClassName");
        }
        if bound && spec.at(&["resources", "requests"]).is_some() {
            spec.object_at_mut(&["resources", "requests"]).remove("storage");
        }
        spec
    };
    if !same(Some(&masked(claim)), Some(&masked(old))) {
        let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound \
                      claims";
        errors.push(Error::forbidden(path, detail));
    }
    const SIZE: &[&str] = &["spec", "resources", "requests", "storage"];
    let size = quantity(claim.at(SIZE));
    if size < quantity(old.at(SIZE)) && size <= quantity(old.at(&["status", "capacity", "storage"])) {
        let requests = path.child("resources");
        let requests = requests.child("requests");
        errors
            .push(Error::forbidden(&requests.child("storage"), "field can not be less than status.capacity"));
    }
}

/// The rules of a claim's spec, also of an ephemeral volume's template.
pub(crate) fn claim_spec(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    access_modes(errors, spec, "at least 1 access mode is required", path);
    meta::label_selector(errors, given(spec, "selector"), &path.child("selector"));
    let amount_path = path.child("resources");
    match spec.at(&["resources", "requests", "storage"]) {
        None => errors.push(Error::required(&amount_path.key("storage"), "")),
        Some(amount) if quantity(Some(amount)).sign() <= 0 => {
            let bad = quantity(Some(amount)).to_string();
            errors.push(Error::invalid(&amount_path.key("storage"), bad, "must be greater than zero"));
        }
        Some(_) => {}
    }
    class(errors, spec, "storageClassName", path);
    one_of_given(errors, spec, "volumeMode", VOLUME_MODES, path);
    let (source, reference) = (given(spec, "dataSource"), given(spec, "dataSourceRef"));
    for (field, source) in [("dataSource", source), ("dataSourceRef", reference)] {
        if let Some(source) = source {
            data_source(errors, source, &path.child(field));
        }
    }
    let differ =
        |(a, b): (&Value, &Value)| ["apiGroup", "kind", "name"].iter().any(|part| a.get(part) != b.get(part));
    if source.zip(reference).is_some_and(differ) {
        // Upstream shows the path itself, of which nothing is public.
        errors.push(Error::invalid(path, Value::object(), "must match dataSourceRef"));
    }
    class(errors, spec, "volumeAttributesClassName", path);
}

fn class(errors: &mut Errors, spec: &Value, field: &'static str, path: &Path<'_>) {
    let class = text(spec, field);
    if !class.is_empty() {
        invalid_each(errors, &path.child(field), class, rules::dns_subdomain(class));
    }
}

fn data_source(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    required(errors, source, "name", path);
    required(errors, source, "kind", path);
    let (group, kind) = (text(source, "apiGroup"), text(source, "kind"));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.push(Error::invalid(path, kind, detail));
    }
    if !group.is_empty() {
        invalid_each(errors, &path.child("apiGroup"), group, rules::dns_subdomain(group));
    }
}

fn access_modes(errors: &mut Errors, spec: &Value, missing: &str, path: &Path<'_>) {
    let (modes, path) = (items(spec, "accessModes"), path.child("accessModes"));
    if modes.is_empty() {
        errors.push(Error::required(&path, missing));
    }
    let known = |mode: &&Value| mode.as_str().is_some_and(|m| ACCESS_MODES.contains(&m));
    for mode in modes.iter().filter(|mode| !known(mode)) {
        errors.push(Error::not_supported(&path, mode.as_str().unwrap_or_default(), ACCESS_MODES));
    }
    if modes.len() > 1 && modes.iter().any(|m| m.as_str() == Some("ReadWriteOncePod")) {
        errors.push(Error::forbidden(&path, "may not use ReadWriteOncePod with other access modes"));
    }
}

/// `storage`, and nothing else.
fn capacity(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let all = super::look::entries(spec, "capacity");
    let count = all.count();
    if count == 0 {
        errors.push(Error::required(path, ""));
    }
    if count != 1 || spec.at(&["capacity", "storage"]).is_none() {
        let shown = given(spec, "capacity").cloned().unwrap_or_default();
        errors.push(Error::not_supported(path, shown, &["storage"]));
    }
    for (name, amount) in super::look::entries(spec, "capacity") {
        let value = quantity(Some(amount));
        if value.sign() < 0 {
            errors.push(Error::invalid(&path.key(name), value.value(), "must be a valid resource quantity"));
        }
        if value.sign() <= 0 {
            let shown = amount.as_str().unwrap_or_default();
            errors.push(Error::invalid(&path.key(name), shown, "must be greater than zero"));
        }
    }
}

fn sources(spec: &Value) -> Vec<(&str, &Value)> {
    let fields = spec.as_object().into_iter().flat_map(crate::Object::iter);
    fields.map(|(k, v)| (k.as_str(), v)).filter(|(k, v)| !NOT_A_SOURCE.contains(k) && !v.is_null()).collect()
}

fn validate_volume(volume: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let (empty, path) = (Value::Null, Path::root("spec"));
    if cx.subresource == "status" {
        return errors;
    }
    let spec = volume.get("spec").unwrap_or(&empty);
    access_modes(&mut errors, spec, "", &path);
    capacity(&mut errors, spec, &path.child("capacity"));
    let policy = text(spec, "persistentVolumeReclaimPolicy");
    if !policy.is_empty() && !RECLAIM.contains(&policy) {
        errors.push(Error::not_supported(&path.child("persistentVolumeReclaimPolicy"), policy, RECLAIM));
    }
    if let Some(affinity) = given(spec, "nodeAffinity") {
        let path = path.child("nodeAffinity");
        match given(affinity, "required") {
            Some(required) => node_selector(&mut errors, required, &path.child("required")),
            None => {
                let detail = "must specify required node constraints";
                errors.push(Error::required(&path.child("required"), detail));
            }
        }
    }
    if policy == "Recycle" && spec.str_at(&["hostPath", "path"]) == "/" {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(Error::forbidden(&path.child("persistentVolumeReclaimPolicy"), detail));
    }
    volume_source(&mut errors, spec, &path);
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        invalid_each(&mut errors, &path.child("storageClassName"), class, rules::dns_subdomain(class));
    }
    one_of_given(&mut errors, spec, "volumeMode", VOLUME_MODES, &path);
    if let Some(class) = given(spec, "volumeAttributesClassName").and_then(Value::as_str) {
        let at = path.child("volumeAttributesClassName");
        if class.is_empty() {
            errors.push(Error::required(&at, "an empty string is disallowed"));
        } else {
            invalid_each(&mut errors, &at, class, rules::dns_subdomain(class));
        }
        if given(spec, "csi").is_none() {
            let detail = "has to be specified when using volumeAttributesClassName";
            errors.push(Error::required(&path.child("csi"), detail));
        }
    }
    if let Some(old) = old.and_then(|old| old.get("spec")) {
        volume_stays(&mut errors, spec, old);
    }
    errors
}

/// What a volume is does not change, nor from where it can be reached once that is said.
fn volume_stays(errors: &mut Errors, spec: &Value, old: &Value) {
    if !same_sources(spec, old) {
        let detail = "spec.persistentvolumesource is immutable after creation";
        errors.push(Error::forbidden(&Path::root("spec").child("persistentvolumesource"), detail));
    }
    let changed = |field: &str| !same(spec.get(field), old.get(field));
    for field in ["volumeMode", "nodeAffinity"] {
        if changed(field) && (field == "volumeMode" || given(old, field).is_some()) {
            let now = spec.get(field).cloned().unwrap_or_default();
            errors.push(Error::invalid(&Path::root(field), now, super::look::IMMUTABLE));
        }
    }
}

/// A path without steps back.
fn no_steps_back(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    if text(source, "path").split('/').any(|part| part == "..") {
        errors.push(Error::invalid(&path.child("path"), text(source, "path"), "must not contain '..'"));
    }
}

fn same_sources(new: &Value, old: &Value) -> bool {
    let (new, old) = (sources(new), sources(old));
    new.len() == old.len()
        && new.iter().all(|(k, v)| old.iter().any(|(o, w)| k == o && same(Some(v), Some(w))))
}

/// Every source in upstream's order.
const SOURCES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

fn volume_source(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let mut seen = false;
    for &kind in SOURCES {
        let Some(source) = given(spec, kind) else { continue };
        let (many, own) = pod::volume::spelled(kind);
        // A flexVolume may stand beside anything else.
        if seen && kind != "flexVolume" {
            errors.push(Error::forbidden(&path.child(many), "may not specify more than 1 volume type"));
            continue;
        }
        seen = true;
        let at = path.child(own);
        match (kind, pod::drivers::rule(kind)) {
            ("hostPath", _) => pod::volume::host_path(errors, source, &at),
            ("local", _) => local(errors, spec, source, path),
            ("csi", _) => csi_source(errors, source, &at),
            (_, Some(rule)) => rule(errors, source, pod::drivers::Place::Persistent, &at),
            _ => {}
        }
    }
    if !seen {
        errors.push(Error::required(path, "must specify a volume type"));
    }
}

fn local(errors: &mut Errors, spec: &Value, source: &Value, path: &Path<'_>) {
    let at = path.child("local");
    match text(source, "path") {
        "" => errors.push(Error::required(&at.child("path"), "")),
        _ => no_steps_back(errors, source, &at),
    }
    if spec.at(&["nodeAffinity", "required"]).is_none() {
        errors.push(Error::required(&path.child("nodeAffinity"), "Local volume requires node affinity"));
    }
}

fn csi_source(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    pod::volume::csi_driver_name(errors, text(source, "driver"), &path.child("driver"));
    required(errors, source, "volumeHandle", path);
    let secrets = [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ];
    for field in secrets {
        let Some(secret) = given(source, field) else { continue };
        let path = path.child(field);
        super::look::required_by(errors, secret, "name", &path, rules::dns_subdomain);
        super::look::required_by(errors, secret, "namespace", &path, rules::dns_label);
    }
}

/// What a provisioner is told: a few hundred entries, each under a name.
fn parameters(errors: &mut Errors, class: &Value) {
    let path = Path::root("parameters");
    let mut bytes = 0;
    let given = || super::look::entries(class, "parameters");
    if given().count() > PARAMETERS_MAX {
        errors.push(Error::too_long(&path, PARAMETERS_MAX));
        return;
    }
    for (name, value) in given() {
        if name.is_empty() {
            errors.push(Error::invalid(&path, name.as_str(), "field can not be empty."));
        }
        bytes += name.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > PARAMETERS_MAX_BYTES {
        errors.push(Error::too_long(&path, PARAMETERS_MAX_BYTES));
    }
}

fn validate_class(class: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let root = Path::root("provisioner");
    let provisioner = text(class, "provisioner");
    if provisioner.is_empty() {
        errors.push(Error::required(&root, ""));
    } else {
        let wrong = rules::qualified_name(&provisioner.to_lowercase());
        invalid_each(&mut errors, &root, provisioner, wrong);
    }
    parameters(&mut errors, class);
    let policy = text(class, "reclaimPolicy");
    if !matches!(policy, "Delete" | "Retain") {
        errors.push(Error::not_supported(&Path::root("reclaimPolicy"), policy, &["Delete", "Retain"]));
    }
    let mode = text(class, "volumeBindingMode");
    let modes = &["Immediate", "WaitForFirstConsumer"];
    if !modes.contains(&mode) {
        errors.push(Error::not_supported(&Path::root("volumeBindingMode"), mode, modes));
    }
    let Some(old) = old else { return errors };
    for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
        fixed(&mut errors, class, old, field, &Path::root(""));
    }
    errors
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{create_errors, defaulted, tree, update_errors};

    #[test]
    fn claims() {
        let claim = "{spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}";
        assert_eq!(create_errors("", "PersistentVolumeClaim", claim), Vec::<String>::new());
        assert_eq!(
            defaulted("", "PersistentVolumeClaim", claim).get("status"),
            Some(&tree("{phase: Pending}"))
        );
        assert_eq!(
            create_errors("", "PersistentVolumeClaim", "{spec: {}}"),
            [
                "spec.accessModes: Required value: at least 1 access mode is required",
                "spec.resources[storage]: Required value",
            ]
        );
        assert_eq!(
            update_errors("", "PersistentVolumeClaim", claim, &claim.replace("1Gi", "2Gi")),
            [
                "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName \
              for bound claims"
            ]
        );
    }

    #[test]
    fn volumes_and_classes() {
        assert_eq!(
            create_errors(
                "",
                "PersistentVolume",
                "{spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, hostPath: {path: /x}}}"
            ),
            Vec::<String>::new()
        );
        assert_eq!(
            create_errors(
                "",
                "PersistentVolume",
                "{spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}}}"
            ),
            ["spec: Required value: must specify a volume type"]
        );
        assert_eq!(
            create_errors("storage.k8s.io", "StorageClass", "{reclaimPolicy: Recycle, parameters: {'': x}}"),
            [
                "provisioner: Required value",
                "parameters: Invalid value: \"\": field can not be empty.",
                "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
            ]
        );
        assert_eq!(
            update_errors("storage.k8s.io", "StorageClass", "{provisioner: a/b}", "{provisioner: a/c}"),
            ["provisioner: Invalid value: null: field is immutable"]
        );
    }
}
