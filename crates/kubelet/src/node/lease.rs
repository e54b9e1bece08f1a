//! The heartbeat: a Lease in kube-node-lease, renewed every ten seconds.
//!
//! A renewal has a deadline of its own (upstream: the heartbeat client's, ten seconds); the client then takes a fresh connection. The
//! first one that works again after a gap brings the node's status with it, at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use corten_client::Api;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::host::Host;

/// Namespace of all node leases.
const NAMESPACE: &str = "kube-node-lease";
/// How long a lease is good for, in seconds.
const DURATION_SECONDS: i32 = 40;
/// One renewal takes at most this.
const DEADLINE: Duration = Duration::from_secs(10);
/// Pause after a renewal failed.
const RETRY: Duration = Duration::from_secs(1);

/// Renews the lease until the kubelet stops.
pub async fn run(host: Arc<Host>, node: Node) {
    let api: Api<Lease> = Api::namespaced(host.config.client.clone(), NAMESPACE);
    let mut failed = false;
    loop {
        let renewal = tokio::time::timeout(DEADLINE, renew(&api, &host.config.node_name, &node)).await;
        let error = match renewal {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {DEADLINE:?}")),
        };
        if failed && error.is_none() {
            host.status_due.store(true, Ordering::Relaxed);
            host.node_changed.notify_one();
        }
        failed = error.is_some();
        let pause = if failed { RETRY } else { host.config.lease_renewal };
        if let Some(error) = error {
            tracing::warn!(error, "node lease was not renewed");
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = host.stop.cancelled() => return,
        }
    }
}

async fn renew(api: &Api<Lease>, name: &str, node: &Node) -> Result<(), kube::Error> {
    let now = MicroTime(Timestamp::now());
    let patch =
        json!({"spec": {"renewTime": now, "holderIdentity": name, "leaseDurationSeconds": DURATION_SECONDS}});
    match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            api.create(&PostParams::default(), &new_lease(name, node, now)).await.map(drop)
        }
        Err(error) => Err(error),
    }
}

fn new_lease(name: &str, node: &Node, now: MicroTime) -> Lease {
    let owner = node.metadata.uid.clone().map(|uid| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.to_owned(),
        uid,
        ..OwnerReference::default()
    });
    Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.to_owned()),
            lease_duration_seconds: Some(DURATION_SECONDS),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    }
}
