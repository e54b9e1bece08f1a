//! The shell of the resource quota controller.

use std::sync::Arc;
use std::time::Duration;

use corten_client::Api;
use corten_client::{Change, Key};
use k8s_openapi::api::core::v1::{Pod, ResourceQuota, ResourceQuotaStatus};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;

use super::plan::{Observed, keep_higher, used};
use crate::answer::gone_is_fine;
use crate::cluster::Cluster;
use crate::pods;
use crate::shell::Shell;

/// Where nothing else asks for it, everything is counted anew after this time (upstream's): what failed writes were charged.
const RESYNC: Duration = Duration::from_secs(300);

/// A quota to look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Look {
    key: Key,
    /// May the count be lower than what the quota says? The API server charges a quota before it stores what was charged:
    /// whoever counts between the two finds too little, and must not give it back.
    lowers: bool,
}

/// Recounts until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    let shell = Shell::open(cluster, cluster.clone());
    let (queue, me) = (shell.queue(), cluster.clone());
    cluster.census.on_change(move |_, namespace, came| {
        looks(&me, Some(namespace), !came).into_iter().for_each(|look| queue.add(look));
    });
    shell
        .wakes(&cluster.quotas, |_, change| woken_by_quota(change))
        .wakes(&cluster.pods, woken_by_pod)
        .wakes(&cluster.services, |me, c| looks(me, c.object().metadata.namespace.as_deref(), !is_new(c)))
        .wakes(&cluster.claims, |me, c| looks(me, c.object().metadata.namespace.as_deref(), !is_new(c)))
        .run(cluster.config.workers, |me, look| async move { recount(&me, look).await })
        .await;
}

fn looks(cluster: &Cluster, namespace: Option<&str>, lowers: bool) -> Vec<Look> {
    let quotas = cluster.quotas.list_namespace(namespace.unwrap_or_default());
    quotas.iter().map(|quota| Look { key: Key::of(&**quota), lowers }).collect()
}

fn is_new<K>(change: &Change<K>) -> bool {
    matches!(change, Change::Added(_))
}

/// What is charged to a quota is no reason to count.
fn woken_by_quota(change: &Change<ResourceQuota>) -> Option<Look> {
    let charged = matches!(change, Change::Updated { old, new } if old.spec == new.spec);
    (!charged).then(|| Look { key: Key::of(&**change.object()), lowers: true })
}

/// What a pod uses changes when it comes, ends, goes, or is resized.
fn woken_by_pod(cluster: &Arc<Cluster>, change: &Change<Pod>) -> Vec<Look> {
    match change {
        Change::Updated { old, new } if !uses_change(old, new) => Vec::new(),
        _ => looks(cluster, change.object().metadata.namespace.as_deref(), !is_new(change)),
    }
}

/// A binding must not be among it: pods are bound while others are charged that are not stored yet.
fn uses_change(old: &Pod, new: &Pod) -> bool {
    let ends = |pod: &Pod| {
        (matches!(pods::phase(pod), "Succeeded" | "Failed"), pod.metadata.deletion_timestamp.is_some())
    };
    ends(old) != ends(new) || amounts(old) != amounts(new)
}

/// What of a spec is counted and may change.
fn amounts(pod: &Pod) -> Option<impl PartialEq> {
    pod.spec.as_ref().map(|s| (&s.containers, &s.init_containers, &s.resources, s.active_deadline_seconds))
}

async fn recount(cluster: &Cluster, Look { key, lowers }: Look) -> Result<Option<Duration>, kube::Error> {
    let Some(quota) = cluster.quotas.get(&key) else { return Ok(None) };
    let hard = quota.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
    let count = |resource: &str| cluster.census.count(resource, &key.namespace);
    let mut used = used(
        &quota,
        &Observed {
            pods: &cluster.pods.list_namespace(&key.namespace),
            services: &cluster.services.list_namespace(&key.namespace),
            claims: &cluster.claims.list_namespace(&key.namespace),
            count: &count,
            now: Timestamp::now(),
        },
    );
    let known = quota.status.as_ref().and_then(|status| status.used.as_ref());
    if let Some(known) = known.filter(|_| !lowers) {
        keep_higher(&mut used, known);
    }
    let again = lowers.then_some(RESYNC);
    let status = ResourceQuotaStatus { hard: Some(hard), used: Some(used) };
    if quota.status.as_ref() == Some(&status) {
        return Ok(again);
    }
    let updated = ResourceQuota { status: Some(status), ..(*quota).clone() };
    let api: Api<ResourceQuota> = Api::namespaced(cluster.client.clone(), &key.namespace);
    gone_is_fine(api.replace_status(&key.name, &PostParams::default(), &updated).await).map(|()| again)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    #[test]
    fn a_binding_changes_no_use() {
        let pod = |spec: Value, phase: &str| -> Pod {
            from_value(json!({ "metadata": {}, "spec": spec, "status": { "phase": phase } })).unwrap()
        };
        let asking = |cpu: &str| json!({ "containers": [{ "name": "a", "resources": { "requests": { "cpu": cpu } } }] });
        let mut bound = asking("1");
        bound["nodeName"] = json!("n");
        let mut dated = asking("1");
        dated["activeDeadlineSeconds"] = json!(5);
        let old = pod(asking("1"), "Pending");
        for (new, changes) in [
            (pod(bound, "Pending"), false),
            (pod(asking("1"), "Running"), false),
            (pod(asking("1"), "Failed"), true),
            (pod(asking("2"), "Pending"), true),
            (pod(dated, "Pending"), true),
        ] {
            assert_eq!(uses_change(&old, &new), changes, "{new:?}");
        }
    }
}
