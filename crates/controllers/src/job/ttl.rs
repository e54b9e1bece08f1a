//! Removes jobs some time after their end, where they say how long.

use std::sync::Arc;
use std::time::Duration;

use corten_client::Api;
use corten_client::Key;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Preconditions};

use super::finished_at;
use crate::answer::changed_is_fine;
use crate::cluster::Cluster;
use crate::shell::Shell;

/// Removes until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    Shell::open(cluster, cluster.clone())
        .each(&cluster.jobs)
        .run(cluster.config.workers, |me, key| async move { look(&me, key).await })
        .await;
}

/// How long the job stays; `None`: for ever, or until it has ended.
fn left(job: &Job, now: Timestamp) -> Option<Duration> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let left = finished_at(job)?.as_second() + i64::from(ttl) - now.as_second();
    Some(Duration::from_secs(u64::try_from(left).unwrap_or_default()))
}

async fn look(cluster: &Cluster, key: Key) -> Result<Option<Duration>, kube::Error> {
    let Some(job) = cluster.jobs.get(&key).filter(|j| j.metadata.deletion_timestamp.is_none()) else {
        return Ok(None);
    };
    match left(&job, Timestamp::now()) {
        Some(left) if left.is_zero() => {}
        other => return Ok(other),
    }
    let api: Api<Job> = Api::namespaced(cluster.client.clone(), &key.namespace);
    // The time to live may have been changed just now.
    let Some(fresh) = api.get_opt(&key.name).await? else { return Ok(None) };
    if !left(&fresh, Timestamp::now()).is_some_and(|left| left.is_zero()) {
        return Ok(None);
    }
    let exactly =
        Preconditions { uid: fresh.metadata.uid, resource_version: fresh.metadata.resource_version };
    let params = DeleteParams { preconditions: Some(exactly), ..DeleteParams::foreground() };
    changed_is_fine(api.delete(&key.name, &params).await).map(|()| None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn jobs_stay_as_long_as_they_say() {
        let job = |ttl: Option<i32>, kind: &str| -> Job {
            let condition =
                json!({ "type": kind, "status": "True", "lastTransitionTime": "1970-01-01T00:01:40Z" });
            from_value(json!({ "spec": { "ttlSecondsAfterFinished": ttl, "template": {} },
                "status": { "conditions": [condition] } }))
            .unwrap()
        };
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(left(&job(Some(50), "Complete"), at(120)), seconds(30));
        assert_eq!(left(&job(Some(0), "Failed"), at(120)), seconds(0));
        assert_eq!(left(&job(None, "Complete"), at(120)), None);
        assert_eq!(left(&job(Some(50), "Suspended"), at(120)), None);
    }
}
