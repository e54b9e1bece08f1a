//! Volumes that drivers outside of the node bring, named in pods and in persistent volumes: one row a kind with its rules.

use crate::Value;
use crate::field::{Error, Path};
use crate::kinds::look::{Errors, entries, given, int, int_or_zero, is_true, items, required, text};
use crate::rules::{self, invalid_each};

/// Where the volume is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a pod: secrets are those of its namespace.
    Pod,
    /// In a persistent volume: secrets name their namespace.
    Persistent,
}

type Rule = fn(&mut Errors, &Value, Place, &Path<'_>);

const REGISTRY: &str = "must be a host:port pair or multiple pairs separated by commas";
const TENANT_MAX_BYTES: usize = 64;
const CACHING: &[&str] = &["None", "ReadOnly", "ReadWrite"];
const DISK_KINDS: &[&str] = &["Dedicated", "Managed", "Shared"];
const MANAGED_DISK: &[&str] =
    &["/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"];
const BLOB_DISK: &[&str] = &["https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"];

/// The rules of a kind of volume, if it is one of those.
pub(crate) fn rule(kind: &str) -> Option<Rule> {
    let found: Rule = match kind {
        "gcePersistentDisk" => |e, s, _, p| {
            required(e, s, "pdName", p);
            partition(e, s, p);
        },
        "awsElasticBlockStore" => |e, s, _, p| {
            required(e, s, "volumeID", p);
            partition(e, s, p);
        },
        "nfs" => nfs,
        "iscsi" => iscsi,
        "glusterfs" => glusterfs,
        "flocker" => flocker,
        "rbd" => |e, s, _, p| {
            monitors(e, s, p);
            required(e, s, "image", p);
        },
        "cinder" => |e, s, place, p| {
            required(e, s, "volumeID", p);
            secret(e, s, place, p);
        },
        "cephfs" => |e, s, _, p| monitors(e, s, p),
        "quobyte" => quobyte,
        "fc" => fibre_channel,
        "flexVolume" => flex,
        "azureFile" => azure_file,
        "azureDisk" => azure_disk,
        "vsphereVolume" => |e, s, _, p| required(e, s, "volumePath", p),
        "photonPersistentDisk" => |e, s, _, p| required(e, s, "pdID", p),
        "portworxVolume" => |e, s, _, p| required(e, s, "volumeID", p),
        "scaleIO" => {
            |e, s, _, p| ["gateway", "system", "volumeName"].iter().for_each(|field| required(e, s, field, p))
        }
        "storageos" => storage_os,
        _ => return None,
    };
    Some(found)
}

fn partition(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    let number = int_or_zero(source, "partition");
    if !(0..=255).contains(&number) {
        errors.push(Error::invalid(&path.child("partition"), number, rules::between(1, 255)));
    }
}

fn monitors(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    if items(source, "monitors").is_empty() {
        errors.push(Error::required(&path.child("monitors"), ""));
    }
}

fn secret(errors: &mut Errors, source: &Value, place: Place, path: &Path<'_>) {
    let Some(secret) = given(source, "secretRef") else { return };
    let path = path.child("secretRef");
    required(errors, secret, "name", &path);
    if place == Place::Persistent {
        required(errors, secret, "namespace", &path);
    }
}

fn nfs(errors: &mut Errors, source: &Value, _: Place, path: &Path<'_>) {
    required(errors, source, "server", path);
    required(errors, source, "path", path);
    if !text(source, "path").starts_with('/') {
        errors.push(Error::invalid(&path.child("path"), text(source, "path"), "must be an absolute path"));
    }
}

fn iscsi(errors: &mut Errors, source: &Value, place: Place, path: &Path<'_>) {
    required(errors, source, "targetPortal", path);
    let start = match place {
        Place::Pod => "must be valid format starting with iqn, eui, or naa",
        Place::Persistent => "must be valid format",
    };
    match text(source, "iqn") {
        "" => errors.push(Error::required(&path.child("iqn"), "")),
        name => {
            errors.extend(wrong_initiator(name, start).map(|d| Error::invalid(&path.child("iqn"), name, d)))
        }
    }
    let lun = int_or_zero(source, "lun");
    if !(0..=255).contains(&lun) {
        errors.push(Error::invalid(&path.child("lun"), lun, rules::between(0, 255)));
    }
    let secret = given(source, "secretRef");
    if (is_true(source, "chapAuthDiscovery") || is_true(source, "chapAuthSession")) && secret.is_none() {
        errors.push(Error::required(&path.child("secretRef"), ""));
    }
    if let Some(secret) = secret.filter(|_| place == Place::Persistent) {
        required(errors, secret, "name", &path.child("secretRef"));
    }
    if let Some(name) = given(source, "initiatorName").and_then(Value::as_str) {
        let path = path.child("initiatorname");
        errors.extend(wrong_initiator(name, start).map(|d| Error::invalid(&path, name, d)));
    }
}

/// What is wrong with the name of an iSCSI initiator or target.
fn wrong_initiator(name: &str, start: &'static str) -> Option<&'static str> {
    let alnum = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_alphanumeric());
    // One character of any kind stands after the first three.
    let rest = |prefix: &str| name.strip_prefix(prefix).and_then(|r| r.get(1..)).unwrap_or_default();
    let fine = match name.get(..3) {
        Some("iqn") => is_iqn(name),
        Some("eui") => alnum(rest("eui"), 16),
        Some("naa") => alnum(rest("naa"), 32),
        _ => return Some(start),
    };
    (!fine).then_some("must be valid format")
}

/// `iqn.2001-04.com.example:storage`
fn is_iqn(name: &str) -> bool {
    let digits = |s: Option<&str>| s.is_some_and(|s| s.bytes().all(|b| b.is_ascii_digit()));
    let Some(rest) = name.strip_prefix("iqn.") else { return false };
    let dated = digits(rest.get(..4)) && rest.get(4..5) == Some("-") && digits(rest.get(5..7));
    let Some((authority, unit)) =
        rest.get(7..).and_then(|r| r.strip_prefix('.')).and_then(|r| r.split_once(':'))
    else {
        return false;
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    dated
        && !authority.is_empty()
        && authority.bytes().all(plain)
        && !unit.is_empty()
        && !unit.contains(|c: char| ",;*&$|".contains(c) || c.is_ascii_whitespace())
}

fn glusterfs(errors: &mut Errors, source: &Value, place: Place, path: &Path<'_>) {
    required(errors, source, "endpoints", path);
    required(errors, source, "path", path);
    let namespace = given(source, "endpointsNamespace").and_then(Value::as_str);
    if let Some(namespace) = namespace.filter(|_| place == Place::Persistent) {
        let path = path.child("endpointsNamespace");
        if namespace.is_empty() {
            let detail = "if the endpointnamespace is set, it must be a valid namespace name";
            errors.push(Error::invalid(&path, namespace, detail));
        } else {
            invalid_each(errors, &path, namespace, rules::dns_label(namespace));
        }
    }
}

fn flocker(errors: &mut Errors, source: &Value, _: Place, path: &Path<'_>) {
    let name = text(source, "datasetName");
    match (name.is_empty(), text(source, "datasetUUID").is_empty()) {
        (true, true) => {
            errors.push(Error::required(path, "one of datasetName and datasetUUID is required"));
        }
        (false, false) => {
            let detail = "datasetName and datasetUUID can not be specified simultaneously";
            errors.push(Error::invalid(path, "resource", detail));
        }
        _ => {}
    }
    if name.contains('/') {
        errors.push(Error::invalid(&path.child("datasetName"), name, "must not contain '/'"));
    }
}

fn quobyte(errors: &mut Errors, source: &Value, _: Place, path: &Path<'_>) {
    let registry = text(source, "registry");
    if registry.is_empty() {
        errors.push(Error::required(&path.child("registry"), REGISTRY));
    } else if text(source, "tenant").len() > TENANT_MAX_BYTES {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        errors.push(Error::required(&path.child("tenant"), detail));
    } else {
        for _ in registry.split(',').filter(|pair| !is_host_and_port(pair)) {
            errors.push(Error::invalid(&path.child("registry"), registry, REGISTRY));
        }
    }
    required(errors, source, "volume", path);
}

fn is_host_and_port(pair: &str) -> bool {
    match pair.strip_prefix('[') {
        Some(rest) => rest.split_once(']').is_some_and(|(_, port)| port.starts_with(':')),
        None => pair.matches(':').count() == 1,
    }
}

fn fibre_channel(errors: &mut Errors, source: &Value, _: Place, path: &Path<'_>) {
    let (names, ids) = (items(source, "targetWWNs"), items(source, "wwids"));
    let at = path.child("targetWWNs");
    if names.is_empty() && ids.is_empty() {
        errors.push(Error::required(&at, "must specify either targetWWNs or wwids, but not both"));
    }
    if names.is_empty() {
        return;
    }
    if !ids.is_empty() {
        let detail = "targetWWNs and wwids can not be specified simultaneously";
        errors.push(Error::invalid(&at, Value::from(names.to_vec()), detail));
    }
    match int(source, "lun") {
        None => {
            let detail = "lun is required if targetWWNs is specified";
            errors.push(Error::required(&path.child("lun"), detail));
        }
        Some(lun) if !(0..=255).contains(&lun) => {
            errors.push(Error::invalid(&path.child("lun"), lun, rules::between(0, 255)));
        }
        Some(_) => {}
    }
}

fn flex(errors: &mut Errors, source: &Value, _: Place, path: &Path<'_>) {
    required(errors, source, "driver", path);
    for (key, _) in entries(source, "options") {
        let namespace = key.as_str().split('/').next().unwrap_or_default();
        let namespace = format!(".{}", namespace.to_lowercase());
        if namespace.ends_with(".kubernetes.io") || namespace.ends_with(".k8s.io") {
            let detail = "kubernetes.io and k8s.io namespaces are reserved";
            errors.push(Error::invalid(&path.child("options").key(key), key.as_str(), detail));
        }
    }
}

fn azure_file(errors: &mut Errors, source: &Value, place: Place, path: &Path<'_>) {
    required(errors, source, "secretName", path);
    required(errors, source, "shareName", path);
    if place == Place::Persistent && given(source, "secretNamespace").and_then(Value::as_str) == Some("") {
        errors.push(Error::required(&path.child("secretNamespace"), ""));
    }
}

fn azure_disk(errors: &mut Errors, source: &Value, _: Place, path: &Path<'_>) {
    required(errors, source, "diskName", path);
    required(errors, source, "diskURI", path);
    let mut one_of = |field: &'static str, known: &[&str]| {
        let chosen = given(source, field).and_then(Value::as_str);
        if let Some(chosen) = chosen.filter(|c| !known.contains(c)) {
            errors.push(Error::not_supported(&path.child(field), chosen, known));
        }
    };
    one_of("cachingMode", CACHING);
    one_of("kind", DISK_KINDS);
    let Some(kind) = given(source, "kind").and_then(Value::as_str) else { return };
    let (start, known) =
        if kind == "Managed" { ("/subscriptions/", MANAGED_DISK) } else { ("https://", BLOB_DISK) };
    let uri = text(source, "diskURI");
    if !uri.starts_with(start) {
        errors.push(Error::not_supported(&path.child("diskURI"), uri, known));
    }
}

fn storage_os(errors: &mut Errors, source: &Value, place: Place, path: &Path<'_>) {
    required(errors, source, "volumeName", path);
    for field in ["volumeName", "volumeNamespace"] {
        let name = text(source, field);
        if !name.is_empty() {
            invalid_each(errors, &path.child(field), name, rules::dns_label(name));
        }
    }
    secret(errors, source, place, path);
}
