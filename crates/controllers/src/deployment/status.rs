//! The status of a deployment: counts over its replica sets, and the conditions Available, Progressing, ReplicaFailure.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::plan::{Bounds, available};

/// Adds up the status and works out the conditions.
pub fn status(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    new: Option<&Arc<ReplicaSet>>,
    now: Timestamp,
) -> DeploymentStatus {
    let sum = |of: fn(&ReplicaSet) -> i32| sets.iter().map(|s| of(s)).sum::<i32>();
    let replicas = sum(|s| s.status.as_ref().map_or(0, |st| st.replicas));
    let available = sum(available);
    let before = deployment.status.clone().unwrap_or_default();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(replicas),
        updated_replicas: some(new.and_then(|s| s.status.as_ref()).map_or(0, |s| s.replicas)),
        ready_replicas: some(sum(|s| s.status.as_ref().and_then(|st| st.ready_replicas).unwrap_or_default())),
        available_replicas: some(available),
        unavailable_replicas: some(
            (replicas - available).max(deployment.spec.replicas.unwrap_or(1) - available).max(0),
        ),
        terminating_replicas: Some(sum(|s| {
            s.status.as_ref().and_then(|st| st.terminating_replicas).unwrap_or_default()
        })),
        collision_count: before.collision_count,
        conditions: before.conditions.clone(),
    };
    set(&mut status, availability(deployment, available), now);
    progress(&mut status, &before, deployment, new, now);
    failure(&mut status, sets, now);
    status
}

fn some(count: i32) -> Option<i32> {
    Some(count).filter(|c| *c != 0)
}

struct Condition {
    kind: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
}

fn availability(deployment: &Deployment, available: i32) -> Condition {
    let enough = available >= Bounds::of(deployment).fewest_available();
    let (status, reason, message) = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    Condition { kind: "Available", status, reason, message: message.to_owned() }
}

/// Is everything as the deployment asks?
pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    let [updated, all, available] =
        [status.updated_replicas, status.replicas, status.available_replicas].map(Option::unwrap_or_default);
    updated == wanted && all == wanted && available == wanted
}

fn made_progress(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let old = |s: &DeploymentStatus| s.replicas.unwrap_or_default() - s.updated_replicas.unwrap_or_default();
    after.updated_replicas > before.updated_replicas
        || old(after) < old(before)
        || after.ready_replicas > before.ready_replicas
        || after.available_replicas > before.available_replicas
}

fn progress(
    status: &mut DeploymentStatus,
    before: &DeploymentStatus,
    deployment: &Deployment,
    new: Option<&Arc<ReplicaSet>>,
    now: Timestamp,
) {
    let Some(deadline) = deployment.spec.progress_deadline_seconds.filter(|d| *d != i32::MAX) else { return };
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    let subject = match new.and_then(|s| s.metadata.name.as_deref()) {
        Some(set) => format!("ReplicaSet \"{set}\""),
        None => format!("Deployment \"{name}\""),
    };
    let current = find(before, "Progressing").cloned();
    let reason_now = current.as_ref().and_then(|c| c.reason.as_deref()).unwrap_or_default();
    if deployment.spec.paused == Some(true) {
        return pause(status, reason_now, now);
    }
    if is_complete(deployment, status) && new.is_some() {
        let message = format!("{subject} has successfully progressed.");
        return set(
            status,
            Condition { kind: "Progressing", status: "True", reason: "NewReplicaSetAvailable", message },
            now,
        );
    }
    if made_progress(before, status) || current.is_none() || reason_now == "DeploymentPaused" {
        let message = format!("{subject} is progressing.");
        let moved = Condition { kind: "Progressing", status: "True", reason: "ReplicaSetUpdated", message };
        set(status, moved, now);
        touch(status, now);
        return;
    }
    let over = current
        .as_ref()
        .and_then(|c| c.last_update_time.as_ref())
        .is_some_and(|t| now.as_second() - t.0.as_second() >= i64::from(deadline));
    // A finished rollout that lost a pod is no rollout that stands still.
    if over && reason_now != "NewReplicaSetAvailable" {
        let message = format!("{subject} has timed out progressing.");
        set(
            status,
            Condition { kind: "Progressing", status: "False", reason: "ProgressDeadlineExceeded", message },
            now,
        );
    }
}

fn pause(status: &mut DeploymentStatus, reason_now: &str, now: Timestamp) {
    if reason_now != "ProgressDeadlineExceeded" {
        let message = "Deployment is paused".to_owned();
        set(
            status,
            Condition { kind: "Progressing", status: "Unknown", reason: "DeploymentPaused", message },
            now,
        );
    }
}

/// The first failure of a replica set is the deployment's.
fn failure(status: &mut DeploymentStatus, sets: &[Arc<ReplicaSet>], now: Timestamp) {
    let conditions = sets.iter().filter_map(|s| s.status.as_ref()?.conditions.as_ref()).flatten();
    let failed = conditions.into_iter().find(|c| c.type_.as_deref() == Some("ReplicaFailure"));
    match failed {
        Some(condition) => {
            let message = condition.message.clone().unwrap_or_default();
            set(
                status,
                Condition { kind: "ReplicaFailure", status: "True", reason: "FailedCreate", message },
                now,
            );
        }
        None => {
            if let Some(conditions) = &mut status.conditions {
                conditions.retain(|c| c.type_.as_deref() != Some("ReplicaFailure"));
            }
        }
    }
}

fn find<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|c| c.type_.as_deref() == Some(kind))
}

/// Sets a condition; times only move when something changed.
fn set(status: &mut DeploymentStatus, next: Condition, now: Timestamp) {
    let before = find(status, next.kind).cloned();
    let text = |s: &str| Some(s.to_owned());
    let same_status = before.as_ref().is_some_and(|b| b.status.as_deref() == Some(next.status));
    let same = same_status
        && before
            .as_ref()
            .is_some_and(|b| b.reason.as_deref() == Some(next.reason) && b.message == text(&next.message));
    if same {
        return;
    }
    let transition = before.as_ref().filter(|_| same_status).and_then(|b| b.last_transition_time.clone());
    let condition = DeploymentCondition {
        type_: text(next.kind),
        status: text(next.status),
        reason: text(next.reason),
        message: Some(next.message),
        last_transition_time: transition.or(Some(Time(now))),
        last_update_time: Some(Time(now)),
    };
    let conditions = status.conditions.get_or_insert_default();
    match conditions.iter_mut().find(|c| c.type_ == condition.type_) {
        Some(slot) => *slot = condition,
        None => conditions.push(condition),
    }
}

/// Progress was made: the deadline runs anew.
fn touch(status: &mut DeploymentStatus, now: Timestamp) {
    let progressing =
        status.conditions.iter_mut().flatten().find(|c| c.type_.as_deref() == Some("Progressing"));
    if let Some(condition) = progressing {
        condition.last_update_time = Some(Time(now));
    }
}

/// When to look again whether the deadline has passed.
pub fn deadline_in(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let deadline = deployment.spec.progress_deadline_seconds.filter(|d| *d != i32::MAX)?;
    let progressing = find(status, "Progressing")?;
    if is_complete(deployment, status)
        || progressing.status.as_deref() != Some("True")
        || deployment.spec.paused == Some(true)
    {
        return None;
    }
    let until = progressing.last_update_time.as_ref()?.0.as_second() + i64::from(deadline) - now.as_second();
    Some(Duration::from_secs(u64::try_from(until).unwrap_or_default() + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::plan::tests::set as replica_set;
    use serde_json::json;

    fn deployment() -> Deployment {
        let spec = json!({ "replicas": 2, "progressDeadlineSeconds": 60, "selector": {}, "template": {} });
        serde_json::from_value(json!({ "metadata": { "name": "d", "generation": 3 }, "spec": spec })).unwrap()
    }

    fn reason(status: &DeploymentStatus, kind: &str) -> String {
        find(status, kind).and_then(|c| c.reason.clone()).unwrap_or_default()
    }

    #[test]
    fn from_first_pod_to_complete_or_to_the_deadline() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let mut deployment = deployment();
        let look = |d: &Deployment, available: i32, now: i64| {
            let set = replica_set("d-1", 2, available);
            status(d, std::slice::from_ref(&set), Some(&set), at(now))
        };
        let first = look(&deployment, 0, 0);
        assert_eq!(reason(&first, "Progressing"), "ReplicaSetUpdated");
        assert_eq!(reason(&first, "Available"), "MinimumReplicasUnavailable");
        assert_eq!(deadline_in(&deployment, &first, at(0)), Some(Duration::from_secs(61)));
        deployment.status = Some(first);
        assert_eq!(reason(&look(&deployment, 0, 61), "Progressing"), "ProgressDeadlineExceeded");
        let done = look(&deployment, 2, 61);
        assert_eq!(reason(&done, "Progressing"), "NewReplicaSetAvailable");
        assert_eq!(reason(&done, "Available"), "MinimumReplicasAvailable");
        assert!(is_complete(&deployment, &done));
        deployment.status = Some(done);
        assert_eq!(reason(&look(&deployment, 1, 500), "Progressing"), "NewReplicaSetAvailable");
    }
}
