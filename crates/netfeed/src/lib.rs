//! What the pod network of one node is told of the cluster: the other nodes, and the network policies of its pods.
//!
//! [`peers`] and [`plan`] are pure; around them stand two loops that wake on watches (and on links that come up) and hand the whole
//! wanted state to [`PodNetwork`], which changes only what differs. The network itself knows no Kubernetes.

mod fresh;
mod peers;
mod plan;
mod policies;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use corten_client::Informer;
use corten_network::PodNetwork;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::fresh::Fresh;

pub use plan::{View, plan};

/// After a refusal of the kernel the same is tried again so much later.
const RETRY: Duration = Duration::from_secs(5);

/// What is watched.
pub struct Seen {
    /// All nodes.
    pub nodes: Informer<Node>,
    /// All network policies.
    pub policies: Informer<NetworkPolicy>,
    /// Opens the watches of all pods and all namespaces; asked for at the first network policy, because without one nobody
    /// on a node needs to know the cluster's pods.
    pub selected: Box<dyn FnOnce() -> (Informer<Pod>, Informer<Namespace>) + Send>,
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Me {
    /// This node's name.
    pub node: String,
    /// Addresses of a cluster DNS that has no pods. To policies they are pods of `kube-system` with the label `k8s-app: kube-dns`, as
    /// which people allow DNS everywhere.
    pub dns: Vec<IpAddr>,
}

/// Feeds `network` until `stop`.
pub fn run(network: PodNetwork, seen: Seen, me: Me, stop: CancellationToken) -> BoxFuture<'static, ()> {
    Box::pin(feed(network, seen, me, stop))
}

async fn feed(network: PodNetwork, seen: Seen, me: Me, stop: CancellationToken) {
    let Seen { nodes, policies, selected } = seen;
    let changed = Arc::new(Notify::new());
    let fresh = Fresh::new(changed.clone());
    network.set_guard(Arc::new(fresh.clone()));
    let work = async {
        tokio::join!(
            peers::follow(&network, &nodes, &me.node),
            policies::enforce(&network, &policies, selected, &me, &changed, &fresh),
            repair(&network, &changed),
        )
    };
    tokio::select! {
        _ = work => {}
        () = stop.cancelled() => {}
    }
}

/// Puts tables back that somebody removes, and has `policies` written anew then.
async fn repair(network: &PodNetwork, policies: &Notify) {
    let mut changes = match network.table_changes() {
        Ok(changes) => changes,
        Err(error) => {
            return tracing::warn!(%error, "rules that somebody removes stay away until the next start");
        }
    };
    loop {
        if let Err(error) = changes.next().await {
            return tracing::warn!(%error, "rules that somebody removes stay away until the next start");
        }
        loop {
            match network.repair_tables().await {
                Ok(false) => {}
                Ok(true) => {
                    tracing::warn!("somebody removed rules of the pod network, they are written anew");
                    policies.notify_one();
                }
                Err(error) => {
                    tracing::warn!(%error, "rules of the pod network are missing, trying again");
                    // What is written next time may be all of it: policies too.
                    policies.notify_one();
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
            break;
        }
    }
}
