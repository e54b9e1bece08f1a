//! Persistent volumes, claims and storage classes: defaults and basic rules.

use super::look::{Errors, given, is_empty_map, items, quantity, text};
use crate::Value;
use crate::field::{Error, Path};
use crate::{meta, rules};

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// The rules of a claim's spec (also of an ephemeral volume's and a stateful set's template).
pub(crate) fn claim_spec(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    access_modes(errors, spec, path);
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
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        rules::invalid_each(errors, &path.child("storageClassName"), class, rules::dns_subdomain(class));
    }
    super::look::one_of_given(errors, spec, "volumeMode", &["Block", "Filesystem"], path);
    let _ = is_empty_map(None);
}

fn access_modes(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let (modes, path) = (items(spec, "accessModes"), path.child("accessModes"));
    if modes.is_empty() {
        errors.push(Error::required(&path, "at least 1 access mode is required"));
    }
    let known = |mode: &&Value| mode.as_str().is_some_and(|m| ACCESS_MODES.contains(&m));
    for mode in modes.iter().filter(|mode| !known(mode)) {
        errors.push(Error::not_supported(&path, mode.as_str().unwrap_or_default(), ACCESS_MODES));
    }
    if modes.len() > 1 && modes.iter().any(|m| m.as_str() == Some("ReadWriteOncePod")) {
        errors.push(Error::forbidden(&path, "may not use ReadWriteOncePod with other access modes"));
    }
}
