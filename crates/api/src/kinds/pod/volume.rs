//! Validation of volumes and of their mounts.

use super::container::is_privileged;
use super::env::downward_file;
use super::spec::Scope;
use crate::field::{Error, Path};
use crate::kinds::look::{Errors, given, int, is_true, items, one_of, quantity, required, text};
use crate::rules::{self, invalid_each};
use crate::{Value, meta};

const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const ONE_SOURCE: &str = "may not specify more than 1 volume type";
const TOKEN_MIN_SECONDS: i64 = 600;
const TOKEN_MAX_SECONDS: i64 = 1 << 32;
const CERTIFICATE_MIN_SECONDS: i64 = 3600;
const KEY_TYPES: &[&str] = &["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

type SourceRule = fn(&mut Errors, &Value, &Path<'_>);

/// Every kind of volume in upstream's order, with its rules.
const SOURCES: &[(&str, SourceRule)] = &[
    ("emptyDir", empty_dir),
    ("hostPath", host_path),
    ("gitRepo", git_repo),
    ("gcePersistentDisk", |e, s, p| required(e, s, "pdName", p)),
    ("awsElasticBlockStore", |e, s, p| required(e, s, "volumeID", p)),
    ("secret", secret),
    ("nfs", nfs),
    ("iscsi", iscsi),
    ("glusterfs", |e, s, p| {
        required(e, s, "endpoints", p);
        required(e, s, "path", p);
    }),
    ("flocker", |_, _, _| {}),
    ("persistentVolumeClaim", |e, s, p| required(e, s, "claimName", p)),
    ("rbd", |e, s, p| {
        if items(s, "monitors").is_empty() {
            e.push(Error::required(&p.child("monitors"), ""));
        }
        required(e, s, "image", p);
    }),
    ("cinder", |e, s, p| required(e, s, "volumeID", p)),
    ("cephfs", |e, s, p| {
        if items(s, "monitors").is_empty() {
            e.push(Error::required(&p.child("monitors"), ""));
        }
    }),
    ("quobyte", |e, s, p| required(e, s, "volume", p)),
    ("downwardAPI", downward_api),
    ("fc", |_, _, _| {}),
    ("flexVolume", |e, s, p| required(e, s, "driver", p)),
    ("configMap", config_map),
    ("azureFile", |e, s, p| {
        required(e, s, "secretName", p);
        required(e, s, "shareName", p);
    }),
    ("vsphereVolume", |e, s, p| required(e, s, "volumePath", p)),
    ("photonPersistentDisk", |e, s, p| required(e, s, "pdID", p)),
    ("portworxVolume", |e, s, p| required(e, s, "volumeID", p)),
    ("azureDisk", |e, s, p| {
        required(e, s, "diskName", p);
        required(e, s, "diskURI", p);
    }),
    ("storageos", |_, _, _| {}),
    ("projected", projected),
    ("scaleIO", |e, s, p| {
        for field in ["gateway", "system", "volumeName"] {
            required(e, s, field, p);
        }
    }),
    ("csi", csi),
    ("ephemeral", ephemeral),
];

/// `spec.volumes`; those without mistakes go into the scope.
pub(super) fn validate<'a>(
    errors: &mut Errors,
    volumes: &'a [Value],
    scope: &mut Scope<'a>,
    path: &Path<'_>,
) {
    for (i, volume) in volumes.iter().enumerate() {
        let (path, before) = (path.index(i), errors.len());
        let name = text(volume, "name");
        source(errors, volume, scope, &path);
        if name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        } else {
            invalid_each(errors, &path.child("name"), name, rules::dns_label(name));
        }
        if scope.volumes.contains_key(name) {
            errors.push(Error::duplicate(&path.child("name"), name));
        }
        if errors.len() == before {
            scope.volumes.insert(name, volume);
        }
        claim_of_ephemeral(errors, volume, volumes, scope, &path);
    }
}

/// A volume may not name the claim that another, ephemeral volume of the pod will make.
fn claim_of_ephemeral(
    errors: &mut Errors,
    volume: &Value,
    all: &[Value],
    scope: &Scope<'_>,
    path: &Path<'_>,
) {
    let claim = volume.str_at(&["persistentVolumeClaim", "claimName"]);
    let made = |other: &Value| {
        given(other, "ephemeral").is_some() && claim == format!("{}-{}", scope.pod_name, text(other, "name"))
    };
    if !scope.pod_name.is_empty() && !claim.is_empty() && all.iter().any(made) {
        let path = path.child("persistentVolumeClaim");
        let detail = "must not reference a PVC that gets created for an ephemeral volume";
        errors.push(Error::invalid(&path.child("claimName"), claim, detail));
    }
}

fn source(errors: &mut Errors, volume: &Value, scope: &Scope<'_>, path: &Path<'_>) {
    let mut seen = false;
    for &(kind, rule) in SOURCES {
        let Some(source) = given(volume, kind) else { continue };
        if seen {
            errors.push(Error::forbidden(&path.child(kind), ONE_SOURCE));
            continue;
        }
        seen = true;
        rule(errors, source, &path.child(kind));
        if kind == "ephemeral" && !scope.pod_name.is_empty() && !text(volume, "name").is_empty() {
            let claim = format!("{}-{}", scope.pod_name, text(volume, "name"));
            for message in rules::dns_subdomain(&claim) {
                let detail = format!("PVC name \"{claim}\": {message}");
                errors.push(Error::invalid(&path.child("name"), text(volume, "name"), detail));
            }
        }
    }
    if let Some(image) = given(volume, "image") {
        if seen {
            errors.push(Error::forbidden(&path.child("image"), ONE_SOURCE));
        } else {
            seen = true;
            image_source(errors, image, scope, &path.child("image"));
        }
    }
    if !seen {
        errors.push(Error::required(path, "must specify a volume type"));
    }
}

fn image_source(errors: &mut Errors, image: &Value, scope: &Scope<'_>, path: &Path<'_>) {
    if scope.is_pod {
        required(errors, image, "reference", path);
    }
    one_of(
        errors,
        text(image, "pullPolicy"),
        &["Always", "IfNotPresent", "Never"],
        &path.child("pullPolicy"),
    );
}

fn empty_dir(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    if quantity(source.get("sizeLimit")).sign() < 0 {
        let detail = "SizeLimit field must be a valid resource quantity";
        errors.push(Error::forbidden(&path.child("sizeLimit"), detail));
    }
}

fn host_path(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    let host = text(source, "path");
    if host.is_empty() {
        errors.push(Error::required(&path.child("path"), ""));
        return;
    }
    no_backsteps(errors, host, &path.child("path"));
    let kind = text(source, "type");
    if !HOST_PATH_TYPES.contains(&kind) {
        errors.push(Error::not_supported(&path.child("type"), kind, HOST_PATH_TYPES));
    }
}

fn git_repo(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    required(errors, source, "repository", path);
    descending_path(errors, text(source, "directory"), &path.child("directory"));
}

fn nfs(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    required(errors, source, "server", path);
    required(errors, source, "path", path);
    if !text(source, "path").starts_with('/') {
        errors.push(Error::invalid(&path.child("path"), text(source, "path"), "must be an absolute path"));
    }
}

fn iscsi(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    required(errors, source, "targetPortal", path);
    required(errors, source, "iqn", path);
    let lun = int(source, "lun").unwrap_or(0);
    if !(0..=255).contains(&lun) {
        errors.push(Error::invalid(&path.child("lun"), lun, rules::between(0, 255)));
    }
}

fn secret(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    required(errors, source, "secretName", path);
    file_mode(errors, source, "defaultMode", path);
    keys_to_paths(errors, source, path, &mut Vec::new(), None);
}

fn config_map(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    required(errors, source, "name", path);
    file_mode(errors, source, "defaultMode", path);
    keys_to_paths(errors, source, path, &mut Vec::new(), None);
}

fn downward_api(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    file_mode(errors, source, "defaultMode", path);
    for file in items(source, "items") {
        downward_file(errors, file, path);
    }
}

fn csi(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    csi_driver_name(errors, text(source, "driver"), &path.child("driver"));
    if let Some(secret) = given(source, "nodePublishSecretRef") {
        let path_of = path.child("nodePublishSecretRef");
        match text(secret, "name") {
            "" => errors.push(Error::required(&path_of.child("name"), "")),
            name => invalid_each(errors, &path.child("name"), name, rules::dns_subdomain(name)),
        }
    }
}

/// The name of a CSI driver: a subdomain of at most 63 bytes in any case.
pub(crate) fn csi_driver_name(errors: &mut Errors, name: &str, path: &Path<'_>) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
    }
    if name.len() > 63 {
        errors.push(Error::too_long(path, 63));
    }
    invalid_each(errors, path, name, rules::dns_subdomain(&name.to_lowercase()));
}

fn ephemeral(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    let path = path.child("volumeClaimTemplate");
    let Some(template) = given(source, "volumeClaimTemplate") else {
        errors.push(Error::required(&path, ""));
        return;
    };
    let (metadata, at) = (template.get("metadata"), path.child("metadata"));
    let part = |field: &str| metadata.and_then(|m| m.get(field));
    meta::annotations(errors, part("annotations"), &at.child("annotations"));
    meta::labels(errors, part("labels"), &at.child("labels"));
    let spec = template.get("spec").unwrap_or(&Value::Null);
    crate::kinds::storage::claim_spec(errors, spec, &path.child("spec"));
}

/// A file mode between 0 and 0777.
pub(super) fn file_mode(errors: &mut Errors, value: &Value, field: &'static str, path: &Path<'_>) {
    if let Some(mode) = int(value, field).filter(|mode| !(0..=0o777).contains(mode)) {
        errors.push(Error::invalid(&path.child(field), mode, FILE_MODE));
    }
}

/// `items` of a secret or config map. `projected` names the source and the path of the volume: there, paths must differ.
fn keys_to_paths<'a>(
    errors: &mut Errors,
    source: &'a Value,
    path: &Path<'_>,
    taken: &mut Vec<&'a str>,
    projected: Option<(&str, &Path<'_>)>,
) {
    let list = path.child("items");
    for (i, item) in items(source, "items").iter().enumerate() {
        let path = list.index(i);
        required(errors, item, "key", &path);
        required(errors, item, "path", &path);
        let target = text(item, "path");
        local_path(errors, target, &path.child("path"));
        file_mode(errors, item, "mode", &path);
        if let Some((name, volume)) = projected.filter(|_| !target.is_empty()) {
            distinct(errors, target, taken, name, volume);
        }
    }
}

fn distinct<'a>(
    errors: &mut Errors,
    target: &'a str,
    taken: &mut Vec<&'a str>,
    bad: &str,
    volume: &Path<'_>,
) {
    if taken.contains(&target) {
        errors.push(Error::invalid(volume, bad, "conflicting duplicate paths"));
    } else {
        taken.push(target);
    }
}

fn projected(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    file_mode(errors, source, "defaultMode", path);
    let list = path.child("sources");
    let mut taken: Vec<&str> = Vec::new();
    for (i, source) in items(source, "sources").iter().enumerate() {
        let at = list.index(i);
        let kinds = [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ];
        for kind in kinds {
            if let Some(part) = given(source, kind) {
                projection(errors, kind, part, &at.child(kind), path, &mut taken);
            }
        }
        if kinds.iter().filter(|kind| given(source, kind).is_some()).count() > 1 {
            errors.push(Error::forbidden(&at, "may not specify more than 1 volume type per source"));
        }
    }
}

fn projection<'a>(
    errors: &mut Errors,
    kind: &str,
    source: &'a Value,
    path: &Path<'_>,
    volume: &Path<'_>,
    taken: &mut Vec<&'a str>,
) {
    match kind {
        "secret" | "configMap" => {
            required(errors, source, "name", path);
            keys_to_paths(errors, source, path, taken, Some((text(source, "name"), volume)));
        }
        "downwardAPI" => {
            for file in items(source, "items") {
                downward_file(errors, file, path);
                let target = text(file, "path");
                if !target.is_empty() {
                    distinct(errors, target, taken, target, volume);
                }
            }
        }
        "serviceAccountToken" => token(errors, source, path, volume),
        "clusterTrustBundle" => trust_bundle(errors, source, path, volume, taken),
        _ => certificate(errors, source, path, volume, taken),
    }
}

fn token(errors: &mut Errors, source: &Value, path: &Path<'_>, volume: &Path<'_>) {
    let seconds = int(source, "expirationSeconds").unwrap_or(0);
    let seconds_path = path.child("expirationSeconds");
    if seconds < TOKEN_MIN_SECONDS {
        errors.push(Error::invalid(
            &seconds_path,
            seconds,
            "may not specify a duration less than 10 minutes",
        ));
    }
    if seconds > TOKEN_MAX_SECONDS {
        errors.push(Error::invalid(
            &seconds_path,
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        ));
    }
    match text(source, "path") {
        "" => errors.push(Error::required(&volume.child("path"), "")),
        target => local_path(errors, target, &volume.child("path")),
    }
}

fn trust_bundle<'a>(
    errors: &mut Errors,
    source: &'a Value,
    path: &Path<'_>,
    volume: &Path<'_>,
    taken: &mut Vec<&'a str>,
) {
    match (given(source, "name").is_some(), given(source, "signerName").is_some()) {
        (true, true) => {
            errors.push(Error::invalid(path, source.clone(), "only one of name and signerName may be used"));
        }
        (true, false) => {
            if text(source, "name").is_empty() {
                errors.push(Error::required(&path.child("name"), "must be a valid object name"));
            }
            if let Some(selector) = given(source, "labelSelector") {
                let detail = "labelSelector must be unset if name is specified";
                errors.push(Error::invalid(&path.child("labelSelector"), selector.clone(), detail));
            }
        }
        (false, true) => {
            if text(source, "signerName").is_empty() {
                errors.push(Error::required(&path.child("signerName"), "must be a valid signer name"));
            }
            meta::label_selector(errors, given(source, "labelSelector"), &path.child("labelSelector"));
        }
        (false, false) => errors.push(Error::required(path, "either name or signerName must be specified")),
    }
    required(errors, source, "path", path);
    let target = text(source, "path");
    local_path(errors, target, &path.child("path"));
    distinct(errors, target, taken, target, volume);
}

fn certificate<'a>(
    errors: &mut Errors,
    source: &'a Value,
    path: &Path<'_>,
    volume: &Path<'_>,
    taken: &mut Vec<&'a str>,
) {
    let kind = text(source, "keyType");
    if !KEY_TYPES.contains(&kind) {
        errors.push(Error::not_supported(&path.child("keyType"), kind, KEY_TYPES));
    }
    if let Some(seconds) = int(source, "maxExpirationSeconds").filter(|s| *s < CERTIFICATE_MIN_SECONDS) {
        let detail = format!("if provided, maxExpirationSeconds must be >= {CERTIFICATE_MIN_SECONDS}");
        errors.push(Error::invalid(&path.child("maxExpirationSeconds"), seconds, detail));
    }
    let mut targets = 0;
    for field in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
        let target = text(source, field);
        if !target.is_empty() {
            targets += 1;
            local_path(errors, target, &path.child(field));
            distinct(errors, target, taken, target, volume);
        }
    }
    if targets == 0 {
        let detail = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        errors.push(Error::required(path, detail));
    }
}

/// A path may not climb.
pub(super) fn no_backsteps(errors: &mut Errors, target: &str, path: &Path<'_>) {
    if target.split('/').any(|part| part == "..") {
        errors.push(Error::invalid(path, target, "must not contain '..'"));
    }
}

/// A path that stays below where it starts.
pub(super) fn descending_path(errors: &mut Errors, target: &str, path: &Path<'_>) {
    if target.starts_with('/') {
        errors.push(Error::invalid(path, target, "must be a relative path"));
    }
    no_backsteps(errors, target, path);
}

/// A descending path outside the names that volumes keep for themselves (`..data`).
pub(super) fn local_path(errors: &mut Errors, target: &str, path: &Path<'_>) {
    descending_path(errors, target, path);
    if target.starts_with("..") && !target.starts_with("../") {
        errors.push(Error::invalid(path, target, "must not start with '..'"));
    }
}

/// `volumeMounts` of a container.
pub(super) fn mounts(errors: &mut Errors, container: &Value, scope: &Scope<'_>, list: &Path<'_>) {
    let devices = items(container, "volumeDevices");
    let mut taken: Vec<&str> = Vec::new();
    for (i, mount) in items(container, "volumeMounts").iter().enumerate() {
        let path = list.index(i);
        let (name, target) = (text(mount, "name"), text(mount, "mountPath"));
        required(errors, mount, "name", &path);
        if !scope.volumes.contains_key(name) {
            errors.push(Error::not_found(&path.child("name"), name));
        }
        required(errors, mount, "mountPath", &path);
        if taken.contains(&target) {
            errors.push(Error::invalid(&path.child("mountPath"), target, "must be unique"));
        }
        taken.push(target);
        if devices.iter().any(|d| text(d, "name") == name) {
            errors.push(Error::invalid(&path.child("name"), name, "must not already exist in volumeDevices"));
        }
        if devices.iter().any(|d| text(d, "devicePath") == target) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.push(Error::invalid(&path.child("mountPath"), target, detail));
        }
        sub_paths(errors, mount, &path, list);
        propagation(errors, mount, container, list);
        recursive_read_only(errors, mount, &list.child("recursiveReadOnly"));
    }
}

fn sub_paths(errors: &mut Errors, mount: &Value, path: &Path<'_>, list: &Path<'_>) {
    let (plain, expanded) = (text(mount, "subPath"), text(mount, "subPathExpr"));
    descending_path(errors, plain, &list.child("subPath"));
    if !plain.is_empty() && !expanded.is_empty() {
        let detail = "subPathExpr and subPath are mutually exclusive";
        errors.push(Error::invalid(&path.child("subPathExpr"), expanded, detail));
    }
    descending_path(errors, expanded, &list.child("subPathExpr"));
}

fn propagation(errors: &mut Errors, mount: &Value, container: &Value, list: &Path<'_>) {
    let Some(mode) = given(mount, "mountPropagation").and_then(Value::as_str) else { return };
    let path = list.child("mountPropagation");
    let known = &["Bidirectional", "HostToContainer", "None"];
    if !known.contains(&mode) {
        errors.push(Error::not_supported(&path, mode, known));
    }
    if mode == "Bidirectional" && !is_privileged(container) {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(Error::forbidden(&path, detail));
    }
}

fn recursive_read_only(errors: &mut Errors, mount: &Value, path: &Path<'_>) {
    match given(mount, "recursiveReadOnly").and_then(Value::as_str) {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !is_true(mount, "readOnly") {
                errors.push(Error::forbidden(path, "may only be specified when readOnly is true"));
            }
            if !matches!(text(mount, "mountPropagation"), "" | "None") {
                let detail = "may only be specified when mountPropagation is None or not specified";
                errors.push(Error::forbidden(path, detail));
            }
        }
        Some(other) => errors.push(Error::not_supported(path, other, &["Disabled", "Enabled", "IfPossible"])),
    }
}

/// `volumeDevices` of a container.
pub(super) fn devices(errors: &mut Errors, container: &Value, scope: &Scope<'_>, list: &Path<'_>) {
    let mounts = items(container, "volumeMounts");
    let (mut names, mut paths): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for (i, device) in items(container, "volumeDevices").iter().enumerate() {
        let path = list.index(i);
        let (name, target) = (text(device, "name"), text(device, "devicePath"));
        let (name_path, target_path) = (path.child("name"), path.child("devicePath"));
        required(errors, device, "name", &path);
        if names.contains(&name) {
            errors.push(Error::invalid(&name_path, name, "must be unique"));
        }
        match scope.volumes.get(name) {
            None => errors.push(Error::not_found(&name_path, name)),
            Some(volume) => {
                let block = given(volume, "persistentVolumeClaim").or_else(|| given(volume, "ephemeral"));
                if block.is_none() {
                    let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                    errors.push(Error::invalid(&name_path, name, detail));
                }
            }
        }
        required(errors, device, "devicePath", &path);
        if paths.contains(&target) {
            errors.push(Error::invalid(&target_path, target, "must be unique"));
        }
        if target.split('/').any(|part| part == "..") {
            errors.push(Error::invalid(&target_path, target, "can not contain backsteps ('..')"));
        } else {
            paths.push(target);
        }
        if mounts.iter().any(|m| text(m, "name") == name) {
            errors.push(Error::invalid(&name_path, name, "must not already exist in volumeMounts"));
        }
        if mounts.iter().any(|m| text(m, "mountPath") == target) {
            let detail = "must not already exist as a path in volumeMounts";
            errors.push(Error::invalid(&target_path, target, detail));
        }
        if !name.is_empty() {
            names.push(name);
        }
    }
}
