//! The loop that keeps the node's rules as the network policies say.

use std::sync::Arc;

use corten_client::{Change, Informer};
use corten_network::PodNetwork;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use tokio::sync::Notify;

use crate::plan::{View, member, plan};
use crate::{Me, RETRY};

/// Enforces policies for ever; `changed` has them looked at again.
pub(crate) async fn enforce(
    network: &PodNetwork,
    policies: &Informer<NetworkPolicy>,
    selected: impl FnOnce() -> (Informer<Pod>, Informer<Namespace>),
    me: &Me,
    changed: &Arc<Notify>,
) {
    let wake = changed.clone();
    policies.on_change(move |_| wake.notify_one());
    policies.synced().await;
    if policies.list().is_empty() {
        // What an earlier process may have left.
        apply(network, &View { node: &me.node, dns: &me.dns, ..View::default() }).await;
    }
    while policies.list().is_empty() {
        changed.notified().await;
    }
    let (pods, namespaces) = selected();
    wake_on_pods(&pods, changed);
    let wake = changed.clone();
    namespaces.on_change(move |change| {
        if !matches!(change, Change::Updated { old, new } if old.metadata.labels == new.metadata.labels) {
            wake.notify_one();
        }
    });
    tokio::join!(pods.synced(), namespaces.synced());
    loop {
        let (policies, pods, namespaces) = (policies.list(), pods.list(), namespaces.list());
        let view =
            View { policies: &policies, pods: &pods, namespaces: &namespaces, node: &me.node, dns: &me.dns };
        let done = apply(network, &view).await;
        tokio::select! {
            () = changed.notified() => {}
            () = tokio::time::sleep(RETRY), if !done => {}
        }
    }
}

/// Most changes of pods are of their status and concern no policy.
fn wake_on_pods(pods: &Informer<Pod>, changed: &Arc<Notify>) {
    let wake = changed.clone();
    pods.on_change(move |change| {
        let concerns = match change {
            Change::Updated { old, new } => member(old) != member(new),
            Change::Added(pod) | Change::Deleted(pod) => member(pod).is_some(),
        };
        if concerns {
            wake.notify_one();
        }
    });
}

async fn apply(network: &PodNetwork, view: &View<'_>) -> bool {
    let done = network.set_firewall(plan(view)).await;
    if let Err(error) = &done {
        tracing::warn!(%error, "network policies are not enforced, trying again");
    }
    done.is_ok()
}
