//! Versions of a daemon set's template, kept as controller revisions. Pure.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::json;

use super::HASH_LABEL;
use crate::claim;
use crate::deployment::hash::hash;

/// The patch that brings a template back, as `kubectl rollout undo` applies it.
pub fn data(set: &DaemonSet) -> RawExtension {
    let mut template = serde_json::to_value(&set.spec.template).unwrap_or_default();
    template["$patch"] = json!("replace");
    RawExtension(json!({ "spec": { "template": template } }))
}

/// The revision of the present template.
pub fn present<'a>(
    set: &DaemonSet,
    revisions: &'a [Arc<ControllerRevision>],
) -> Option<&'a Arc<ControllerRevision>> {
    let data = data(set);
    revisions.iter().filter(|r| r.data == data).max_by_key(|r| r.revision)
}

/// The number after all that are there.
pub fn next_number(revisions: &[Arc<ControllerRevision>]) -> i64 {
    revisions.iter().filter_map(|r| r.revision).max().unwrap_or_default() + 1
}

/// A revision for the present template.
pub fn new(set: &DaemonSet, number: i64) -> ControllerRevision {
    let collisions = set.status.as_ref().and_then(|s| s.collision_count).unwrap_or_default();
    let hash = hash(&set.spec.template, collisions);
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let mut labels = set.spec.template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: set.metadata.annotations.clone(),
            owner_references: Some(vec![claim::reference(set)]),
            ..ObjectMeta::default()
        },
        data: data(set),
        revision: Some(number),
    }
}

/// The hash of a revision.
pub fn hash_of(revision: &ControllerRevision) -> &str {
    revision.metadata.labels.as_ref().and_then(|l| l.get(HASH_LABEL)).map(String::as_str).unwrap_or_default()
}

/// Revisions beyond the limit that no pod is of, oldest first.
pub fn surplus(
    limit: i32,
    revisions: &[Arc<ControllerRevision>],
    in_use: impl Fn(&str) -> bool,
) -> Vec<&Arc<ControllerRevision>> {
    let mut unused: Vec<_> = revisions.iter().filter(|r| !in_use(hash_of(r))).collect();
    unused.sort_by_key(|r| r.revision);
    let keep = usize::try_from(limit).unwrap_or_default();
    unused.truncate(unused.len().saturating_sub(keep));
    unused
}
