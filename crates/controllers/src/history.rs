//! Versions of a pod template, kept as controller revisions: daemon sets and stateful sets have them. Pure.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, StatefulSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::json;

use kube::Resource;

use crate::claim;
use crate::deployment::hash::hash;

/// An object whose template has versions.
pub trait Versioned: Resource<DynamicType = ()> {
    /// The label of a revision that says its hash.
    const LABEL: &'static str;

    /// The present template.
    fn template(&self) -> &PodTemplateSpec;
    /// How often a hash was taken already.
    fn collisions(&self) -> i32;
}

impl Versioned for DaemonSet {
    const LABEL: &'static str = "controller-revision-hash";

    fn template(&self) -> &PodTemplateSpec {
        &self.spec.template
    }

    fn collisions(&self) -> i32 {
        self.status.as_ref().and_then(|s| s.collision_count).unwrap_or_default()
    }
}

impl Versioned for StatefulSet {
    const LABEL: &'static str = "controller.kubernetes.io/hash";

    fn template(&self) -> &PodTemplateSpec {
        &self.spec.template
    }

    fn collisions(&self) -> i32 {
        self.status.as_ref().and_then(|s| s.collision_count).unwrap_or_default()
    }
}

/// The patch that brings a template back, as `kubectl rollout undo` applies it.
pub fn data(set: &impl Versioned) -> RawExtension {
    let json = serde_json::to_vec(set.template()).unwrap_or_default();
    let mut template: serde_json::Value = serde_json::from_slice(&json).unwrap_or_default();
    template["$patch"] = json!("replace");
    RawExtension(json!({ "spec": { "template": template } }))
}

/// The revision of the present template.
pub fn present<'a>(
    set: &impl Versioned,
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
pub fn new<S: Versioned>(set: &S, number: i64) -> ControllerRevision {
    let hash = hash(set.template(), set.collisions());
    let meta = set.meta();
    let name = meta.name.as_deref().unwrap_or_default();
    let mut labels = set.template().metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    labels.insert(S::LABEL.to_owned(), hash.clone());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: meta.annotations.clone(),
            owner_references: Some(vec![claim::reference(set)]),
            ..ObjectMeta::default()
        },
        data: data(set),
        revision: Some(number),
    }
}

/// The hash of a revision.
pub fn hash_of<S: Versioned>(revision: &ControllerRevision) -> &str {
    revision.metadata.labels.as_ref().and_then(|l| l.get(S::LABEL)).map(String::as_str).unwrap_or_default()
}

/// Revisions beyond the limit that no pod is of, oldest first.
pub fn surplus(
    limit: i32,
    revisions: &[Arc<ControllerRevision>],
    in_use: impl Fn(&ControllerRevision) -> bool,
) -> Vec<&Arc<ControllerRevision>> {
    let mut unused: Vec<_> = revisions.iter().filter(|r| !in_use(r)).collect();
    unused.sort_by_key(|r| r.revision);
    let keep = usize::try_from(limit).unwrap_or_default();
    unused.truncate(unused.len().saturating_sub(keep));
    unused
}
