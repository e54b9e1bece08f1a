//! The loop that keeps the node's rules as the network policies say.

use std::sync::Arc;

use corten_client::{Change, Informer, Key};
use corten_network::PodNetwork;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use tokio::sync::Notify;

use crate::fresh::{Concerned, Fresh, uids};
use crate::plan::{View, chooses, member, plan};
use crate::{Me, RETRY};

/// Enforces policies for ever; `changed` has them looked at again.
pub(crate) async fn enforce(
    network: &PodNetwork,
    policies: &Informer<NetworkPolicy>,
    selected: impl FnOnce() -> (Informer<Pod>, Informer<Namespace>),
    me: &Me,
    changed: &Arc<Notify>,
    fresh: &Fresh,
) {
    let wake = changed.clone();
    policies.on_change(move |_| wake.notify_one());
    policies.synced().await;
    if policies.list().is_empty() {
        // What an earlier process may have left.
        apply(network, &View { node: &me.node, dns: &me.dns, ..View::default() }).await;
        fresh.let_all_go();
    }
    while policies.list().is_empty() {
        changed.notified().await;
    }
    fresh.hold();
    let (pods, namespaces) = selected();
    wake_on_pods(&pods, changed, fresh);
    let wake = changed.clone();
    namespaces.on_change(move |change| {
        if !matches!(change, Change::Updated { old, new } if old.metadata.labels == new.metadata.labels) {
            wake.notify_one();
        }
    });
    tokio::join!(pods.synced(), namespaces.synced());
    fresh.enforce(concerned(policies, &pods));
    loop {
        let given = fresh.addresses();
        let (policies, pods, namespaces) = (policies.list(), pods.list(), namespaces.list());
        let view = View {
            policies: &policies,
            pods: &pods,
            namespaces: &namespaces,
            node: &me.node,
            dns: &me.dns,
            given: Some(&given),
        };
        let done = apply(network, &view).await;
        if done {
            fresh.settle(&pods, &given);
        }
        tokio::select! {
            () = changed.notified() => {}
            () = tokio::time::sleep(RETRY), if !done => {}
        }
    }
}

/// Only a pod that some policy chooses has to wait, and one that is not known yet where its namespace has policies.
fn concerned(policies: &Informer<NetworkPolicy>, pods: &Informer<Pod>) -> Concerned {
    let (policies, pods) = (policies.clone(), pods.clone());
    Arc::new(move |pod| {
        let own = policies.list_namespace(&pod.namespace);
        if own.is_empty() {
            return false;
        }
        let known = pods.get(&Key::new(&pod.namespace, &pod.name));
        let Some(known) = known.filter(|known| uids(known).any(|uid| uid == pod.uid)) else { return true };
        let labels = known.metadata.labels.as_ref();
        own.iter().filter_map(|policy| policy.spec.as_ref()).any(|spec| chooses(spec, labels))
    })
}

/// Most changes of pods are of their status and concern no policy.
fn wake_on_pods(pods: &Informer<Pod>, changed: &Arc<Notify>, fresh: &Fresh) {
    let (wake, fresh) = (changed.clone(), fresh.clone());
    pods.on_change(move |change| {
        let concerns = match change {
            Change::Updated { old, new } => member(old, None) != member(new, None) || fresh.concerns(new),
            Change::Added(pod) => member(pod, None).is_some() || fresh.concerns(pod),
            Change::Deleted(pod) => {
                fresh.forget(pod);
                member(pod, None).is_some()
            }
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
