//! Jobs: pods that shall end well so many times. Ended pods are counted exactly once, by a finalizer that they carry until the
//! job's status has counted them.

mod account;
mod failure;
mod indexes;
mod per_index;
mod plan;
mod run;
mod ttl;

pub use run::run;
pub use ttl::run as run_ttl;

/// Keeps a pod until its end is counted.
const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label of a pod of an indexed job.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Who keeps jobs, where `spec.managedBy` says something.
const MANAGED_BY: &str = "kubernetes.io/job-controller";

use k8s_openapi::api::batch::v1::{Job, JobStatus};

/// The job's condition of that type, when it holds.
fn condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a k8s_openapi::api::batch::v1::JobCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == "True")
}

/// What the job is on its way to: condition, reason, message.
fn target(status: &JobStatus) -> Option<(&'static str, String, String)> {
    let to = |kind| {
        let found = condition(status, kind)?;
        Some((kind, found.reason.clone().unwrap_or_default(), found.message.clone().unwrap_or_default()))
    };
    to("FailureTarget").or_else(|| to("SuccessCriteriaMet"))
}

/// When the job ended, well or not.
pub fn finished_at(job: &Job) -> Option<k8s_openapi::jiff::Timestamp> {
    let status = job.status.as_ref()?;
    let end = condition(status, "Complete").or_else(|| condition(status, "Failed"))?;
    Some(end.last_transition_time.as_ref().map_or(k8s_openapi::jiff::Timestamp::UNIX_EPOCH, |t| t.0))
}

/// Did the job end well?
pub fn is_complete(job: &Job) -> bool {
    job.status.as_ref().is_some_and(|s| condition(s, "Complete").is_some())
}
