//! Validation of volumes and of their mounts.

use super::container::is_privileged;
use super::drivers::{self, Place};
use super::env::downward_file;
use super::spec::Scope;
use crate::field::{Error, Path};
use crate::kinds::look::{
    Errors, Zero, entries, given, int, internal, is_true, items, one_of, quantity, required, same, text,
};
use crate::rules::{self, invalid_each};
use crate::{Value, meta};

const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const ONE_SOURCE: &str = "may not specify more than 1 volume type";
const TOKEN_MIN_SECONDS: i64 = 600;
const TOKEN_MAX_SECONDS: i64 = 1 << 32;
const CERTIFICATE_MIN_SECONDS: i64 = 3600;
/// 91 days.
const CERTIFICATE_MAX_SECONDS: i64 = 7_862_400;
const CERTIFICATE_MAX_SECONDS_OF_KUBERNETES: i64 = 86_400;
const KEY_TYPES: &[&str] = &["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

type SourceRule = fn(&mut Errors, &Value, &Path<'_>);

/// Every kind of volume in upstream's order, with its rules.
const SOURCES: &[(&str, SourceRule)] = &[
    ("emptyDir", empty_dir),
    ("hostPath", host_path),
    ("gitRepo", git_repo),
    ("gcePersistentDisk", driver),
    ("awsElasticBlockStore", driver),
    ("secret", secret),
    ("nfs", driver),
    ("iscsi", driver),
    ("glusterfs", driver),
    ("flocker", driver),
    ("persistentVolumeClaim", |e, s, p| required(e, s, "claimName", p)),
    ("rbd", driver),
    ("cinder", driver),
    ("cephfs", driver),
    ("quobyte", driver),
    ("downwardAPI", downward_api),
    ("fc", driver),
    ("flexVolume", driver),
    ("configMap", config_map),
    ("azureFile", driver),
    ("vsphereVolume", driver),
    ("photonPersistentDisk", driver),
    ("portworxVolume", driver),
    ("azureDisk", driver),
    ("storageos", driver),
    ("projected", projected),
    ("scaleIO", driver),
    ("csi", csi),
    ("ephemeral", ephemeral),
];

/// Marks a row whose rules stand in the table of drivers.
fn driver(_: &mut Errors, _: &Value, _: &Path<'_>) {}

/// How upstream spells the kind in its errors: as one too many, and where its own fields are wrong.
pub(crate) fn spelled(kind: &str) -> (&str, &str) {
    match kind {
        "gcePersistentDisk" => (kind, "persistentDisk"),
        "cephfs" => ("cephFS", kind),
        "downwardAPI" => ("downwarAPI", kind),
        kind => (kind, kind),
    }
}

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
            errors.push(Error::forbidden(&path.child(spelled(kind).0), ONE_SOURCE));
        } else {
            seen = true;
            let at = path.child(spelled(kind).1);
            match drivers::rule(kind) {
                Some(rule) => rule(errors, source, Place::Pod, &at),
                None => rule(errors, source, &at),
            }
        }
        if kind == "iscsi" {
            initiator_and_name(errors, volume, source, path);
        }
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

const INITIATOR_NAME_MAX_BYTES: usize = 64;

/// With an initiator's name of its own, a volume's name becomes part of the name of an interface.
fn initiator_and_name(errors: &mut Errors, volume: &Value, source: &Value, path: &Path<'_>) {
    let name = text(volume, "name");
    let bytes = name.len() + 1 + text(source, "targetPortal").len();
    if given(source, "initiatorName").is_some() && bytes > INITIATOR_NAME_MAX_BYTES {
        let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is \
                      specified.";
        errors.push(Error::invalid(&path.child("name"), name, detail));
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

/// `hostPath`: a path without steps back, and a known kind of file.
pub(crate) fn host_path(errors: &mut Errors, source: &Value, path: &Path<'_>) {
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
        return;
    }
    if name.len() > 63 {
        errors.push(Error::too_long(path, 63));
    }
    invalid_each(errors, path, name, rules::dns_subdomain(&name.to_lowercase()));
}

/// Metadata that a claim made for a pod cannot bring, and upstream's spelling of it.
const NOT_IN_TEMPLATE: &[(&str, &str)] = &[
    ("name", "name"),
    ("generateName", "generateName"),
    ("namespace", "namespace"),
    ("uid", "uID"),
    ("resourceVersion", "resourceVersion"),
    ("generation", "generation"),
    ("deletionGracePeriodSeconds", "deletionGracePeriodSeconds"),
    ("ownerReferences", "ownerReferences"),
    ("finalizers", "finalizers"),
];

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
    for (field, shown) in NOT_IN_TEMPLATE {
        let is_set = |value: &Value| {
            !matches!(value, Value::Int(0)) && !same(Some(value), None) && value.as_str() != Some("")
        };
        if metadata.and_then(|m| m.get(field)).is_some_and(is_set) {
            errors.push(Error::forbidden(&at.child(shown), "cannot be set"));
        }
    }
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

const TRUST_BUNDLE: &[(&str, &str, Zero)] = &[
    ("name", "Name", Zero::Null),
    ("signerName", "SignerName", Zero::Null),
    ("labelSelector", "LabelSelector", Zero::Null),
    ("optional", "Optional", Zero::Null),
    ("path", "Path", Zero::Text),
    ("user", "User", Zero::Null),
];

/// Bundles of a signer are named after it.
fn trust_bundle_name(name: &str) -> rules::Messages {
    match name.rsplit_once(':') {
        None => rules::dns_subdomain(name),
        Some((signer, own)) => {
            let signer = signer.replace(':', "/");
            match name.strip_prefix(&format!("{}:", signer.replace('/', ":"))) {
                Some(_) if !signer.is_empty() => rules::dns_subdomain(own),
                _ => {
                    vec!["ClusterTrustBundle without signer name must not have \":\" in its name".to_owned()]
                }
            }
        }
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
            let shown = internal(source, TRUST_BUNDLE);
            errors.push(Error::invalid(path, shown, "only one of name and signerName may be used"));
        }
        (true, false) => {
            if text(source, "name").is_empty() {
                errors.push(Error::required(&path.child("name"), "must be a valid object name"));
            }
            let name = text(source, "name");
            for message in trust_bundle_name(name) {
                let detail = format!("not a valid clustertrustbundlename: {message}");
                errors.push(Error::invalid(&path.child("name"), name, detail));
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
            signer(errors, source, path);
            meta::label_selector(errors, given(source, "labelSelector"), &path.child("labelSelector"));
        }
        (false, false) => errors.push(Error::required(path, "either name or signerName must be specified")),
    }
    required(errors, source, "path", path);
    let target = text(source, "path");
    local_path(errors, target, &path.child("path"));
    distinct(errors, target, taken, target, volume);
}

fn signer(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    let path = path.child("signerName");
    match text(source, "signerName") {
        "" => errors.push(Error::required(&path, "")),
        name => crate::kinds::certificate::signer(errors, name, &path),
    }
}

/// Keys of a signer's annotations name their domain: `acme.io/foo`.
fn user_annotations(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    for (key, _) in entries(source, "userAnnotations") {
        let key = key.as_str().to_lowercase();
        let Some((domain, name)) = key.split_once('/').filter(|(d, n)| !d.is_empty() && !n.is_empty()) else {
            let detail = "must be a domain-prefixed key (such as \"acme.io/foo\")";
            errors.push(Error::invalid(path, key, detail));
            continue;
        };
        invalid_each(errors, path, domain, rules::dns_subdomain(domain));
        if !rules::qualified_name(name).is_empty() {
            invalid_each(errors, path, name, rules::qualified_name(name));
        }
    }
}

fn certificate<'a>(
    errors: &mut Errors,
    source: &'a Value,
    path: &Path<'_>,
    volume: &Path<'_>,
    taken: &mut Vec<&'a str>,
) {
    signer(errors, source, path);
    user_annotations(errors, source, &path.child("userAnnotations"));
    let kind = text(source, "keyType");
    if !KEY_TYPES.contains(&kind) {
        errors.push(Error::not_supported(&path.child("keyType"), kind, KEY_TYPES));
    }
    if let Some(seconds) = int(source, "maxExpirationSeconds") {
        let at = path.child("maxExpirationSeconds");
        let own = text(source, "signerName").split('/').next().unwrap_or_default();
        let most = if own == "kubernetes.io" || own.ends_with(".kubernetes.io") {
            CERTIFICATE_MAX_SECONDS_OF_KUBERNETES
        } else {
            CERTIFICATE_MAX_SECONDS
        };
        if seconds < CERTIFICATE_MIN_SECONDS {
            let detail = format!("if provided, maxExpirationSeconds must be >= {CERTIFICATE_MIN_SECONDS}");
            errors.push(Error::invalid(&at, seconds, detail));
        }
        if seconds > most {
            let detail = format!("if provided, maxExpirationSeconds must be <= {most}");
            errors.push(Error::invalid(&at, seconds, detail));
        }
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
