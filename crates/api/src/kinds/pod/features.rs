//! Fields of pods that 1.37 knows but whose features are off by default: a server drops them from what it is given.

use crate::Value;
use crate::kinds::look::{at_mut, items_mut};

const SPEC: &[&str] = &["evictionResponders", "schedulingGroup"];
const PROBES: &[&[&str]] = &[
    &["livenessProbe"],
    &["readinessProbe"],
    &["startupProbe"],
    &["lifecycle", "postStart"],
    &["lifecycle", "preStop"],
];
/// Parts of a projected volume that say for whom their files are.
const PROJECTIONS: &[&str] =
    &["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];

/// Drops them from a pod's spec (also from that of a template).
pub(super) fn drop_disabled(spec: &mut Value) {
    SPEC.iter().for_each(|field| drop_field(spec, field));
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        items_mut(spec, list).for_each(container);
    }
    for volume in items_mut(spec, "volumes") {
        if let Some(empty) = at_mut(volume, &["emptyDir"]) {
            drop_field(empty, "mode");
        }
        for kind in ["secret", "configMap", "downwardAPI"] {
            if let Some(source) = at_mut(volume, &[kind]) {
                users(source);
            }
        }
        if let Some(projected) = at_mut(volume, &["projected"]) {
            drop_field(projected, "defaultUser");
            for source in items_mut(projected, "sources") {
                for kind in PROJECTIONS {
                    if let Some(part) = at_mut(source, &[kind]) {
                        users(part);
                    }
                }
            }
        }
    }
}

fn container(container: &mut Value) {
    if let Some(lifecycle) = at_mut(container, &["lifecycle"]) {
        drop_field(lifecycle, "stopSignal");
    }
    for place in PROBES {
        let Some(handler) = at_mut(container, place) else { continue };
        for (kind, field) in [("httpGet", "protocol"), ("grpc", "mode")] {
            if let Some(action) = at_mut(handler, &[kind]) {
                drop_field(action, field);
            }
        }
    }
    items_mut(container, "volumeMounts").for_each(|mount| drop_field(mount, "bindMountOptions"));
}

fn users(source: &mut Value) {
    drop_field(source, "defaultUser");
    drop_field(source, "user");
    items_mut(source, "items").for_each(|file| drop_field(file, "user"));
}

/// Takes a field away.
pub(crate) fn drop_field(value: &mut Value, field: &str) {
    if let Some(object) = value.as_object_mut() {
        object.remove(field);
    }
}
