//! The shell of the resource quota controller.

use std::sync::Arc;
use std::time::Duration;

use corten_client::Api;
use corten_client::{Change, Key};
use k8s_openapi::api::core::v1::{Pod, ResourceQuota, ResourceQuotaStatus};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;

use super::plan::{Observed, used};
use crate::answer::gone_is_fine;
use crate::cluster::Cluster;
use crate::pods;
use crate::shell::Shell;

/// Recounts until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    let shell = Shell::open(cluster, cluster.clone());
    let (queue, me) = (shell.queue(), cluster.clone());
    cluster.census.on_change(move |_, namespace| {
        quotas_of(&me, Some(namespace)).into_iter().for_each(|key| queue.add(key));
    });
    shell
        .each(&cluster.quotas)
        .wakes(&cluster.pods, woken_by_pod)
        .wakes(&cluster.services, |me, c| quotas_of(me, c.object().metadata.namespace.as_deref()))
        .wakes(&cluster.claims, |me, c| quotas_of(me, c.object().metadata.namespace.as_deref()))
        .run(cluster.config.workers, |me, key| async move { recount(&me, key).await })
        .await;
}

fn quotas_of(cluster: &Cluster, namespace: Option<&str>) -> Vec<Key> {
    let quotas = cluster.quotas.list_namespace(namespace.unwrap_or_default());
    quotas.iter().map(|quota| Key::of(&**quota)).collect()
}

/// What a pod uses changes when it comes, ends, goes, or is resized.
fn woken_by_pod(cluster: &Arc<Cluster>, change: &Change<Pod>) -> Vec<Key> {
    let ended = |pod: &Pod| matches!(pods::phase(pod), "Succeeded" | "Failed");
    if let Change::Updated { old, new } = change
        && (ended(old), &old.spec, old.metadata.deletion_timestamp.is_some())
            == (ended(new), &new.spec, new.metadata.deletion_timestamp.is_some())
    {
        return Vec::new();
    }
    quotas_of(cluster, change.object().metadata.namespace.as_deref())
}

async fn recount(cluster: &Cluster, key: Key) -> Result<Option<Duration>, kube::Error> {
    let Some(quota) = cluster.quotas.get(&key) else { return Ok(None) };
    let hard = quota.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
    let count = |resource: &str| cluster.census.count(resource, &key.namespace);
    let used = used(
        &quota,
        &Observed {
            pods: &cluster.pods.list_namespace(&key.namespace),
            services: &cluster.services.list_namespace(&key.namespace),
            claims: &cluster.claims.list_namespace(&key.namespace),
            count: &count,
            now: Timestamp::now(),
        },
    );
    let status = ResourceQuotaStatus { hard: Some(hard), used: Some(used) };
    if quota.status.as_ref() == Some(&status) {
        return Ok(None);
    }
    let updated = ResourceQuota { status: Some(status), ..(*quota).clone() };
    let api: Api<ResourceQuota> = Api::namespaced(cluster.client.clone(), &key.namespace);
    gone_is_fine(api.replace_status(&key.name, &PostParams::default(), &updated).await).map(|()| None)
}
