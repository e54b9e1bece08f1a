//! Deployments: a replica set per version of the template, and a rollout from the old ones to the new one that keeps within
//! `maxSurge` and `maxUnavailable` at every moment.

pub mod hash;
pub mod plan;
mod run;
pub mod status;

pub use run::run;

/// The label that keeps the pods of a deployment's replica sets apart.
pub const HASH_LABEL: &str = "pod-template-hash";
/// Counts the versions of a deployment.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier numbers of a version that was rolled back to.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// How many pods the deployment wanted when the replica set was last scaled.
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// How many pods all its replica sets might have had together then.
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";
