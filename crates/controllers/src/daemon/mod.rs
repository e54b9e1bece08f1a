//! Daemon sets: one pod on every node that fits, replaced node by node when the template changes.

mod backoff;
pub mod plan;
mod run;

pub use run::run;

/// The label that says which version of the template a pod or a revision is of.
pub const HASH_LABEL: &str = "controller-revision-hash";
/// The template's generation, for pods of old.
pub const GENERATION_LABEL: &str = "pod-template-generation";
