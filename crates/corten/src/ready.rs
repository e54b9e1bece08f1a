//! When a node is Ready: by proof of this life, not by what an earlier one left in the store.

use std::sync::Arc;

use corten_client::Api;
use corten_client::Informer;
use corten_client::watcher;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Namespace of the leases of nodes.
const LEASES: &str = "kube-node-lease";

/// Waits until the node's condition Ready is True and was said by a kubelet that lives since `since`.
///
/// The kubelet sends its status before it takes its lease: a lease renewed since then vouches for any status that is read
/// after it. Renewal times have microseconds, unlike the times of conditions.
pub async fn node_is_ready(client: Client, name: &str, since: Timestamp, stop: &CancellationToken) {
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let leases = Api::<Lease>::namespaced(client.clone(), LEASES);
    seen(leases, only.clone(), stop, |lease| is_renewed(lease, since)).await;
    seen(Api::<Node>::all(client), only, stop, is_ready).await;
}

/// The same for the node itself, which may not watch leases: Ready must have been said in this life, to the second.
pub async fn node_says_ready(client: Client, name: &str, since: Timestamp, stop: &CancellationToken) {
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    seen(Api::<Node>::all(client), only, stop, |node| was_ready(node, since.as_second())).await;
}

/// Waits until one of the objects is as wanted.
async fn seen<K>(api: Api<K>, only: watcher::Config, stop: &CancellationToken, wanted: impl Fn(&K) -> bool)
where
    K: corten_client::Object,
{
    let done = stop.child_token();
    let _ended = done.clone().drop_guard();
    let objects = Informer::start(api, only, done);
    let changed = Arc::new(Notify::new());
    let wake = changed.clone();
    objects.on_change(move |_| wake.notify_one());
    while !objects.list().iter().any(|object| wanted(object)) {
        changed.notified().await;
    }
}

fn is_renewed(lease: &Lease, since: Timestamp) -> bool {
    lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref()).is_some_and(|at| at.0 >= since)
}

fn is_ready(node: &Node) -> bool {
    was_ready(node, i64::MIN)
}

/// Was the node Ready when its kubelet spoke last, in this second or later?
fn was_ready(node: &Node, second: i64) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let spoke = |at: Option<i64>| second == i64::MIN || at.is_some_and(|at| at >= second);
    conditions.into_iter().any(|c| {
        let at = c.last_heartbeat_time.as_ref().map(|at| at.0.as_second());
        c.type_ == "Ready" && c.status == "True" && spoke(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    #[test]
    fn a_lease_of_an_earlier_life_proves_nothing() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let lease = |renewed: Option<&str>| {
            let renew_time = renewed.map(|text| MicroTime(at(text)));
            Lease { spec: Some(LeaseSpec { renew_time, ..LeaseSpec::default() }), ..Lease::default() }
        };
        let since = at("2026-01-01T00:00:10.5Z");
        for (renewed, proves) in [
            (None, false),
            (Some("2026-01-01T00:00:10.4Z"), false),
            (Some("2026-01-01T00:00:10.5Z"), true),
            (Some("2026-01-01T00:00:11Z"), true),
        ] {
            assert_eq!(is_renewed(&lease(renewed), since), proves, "{renewed:?}");
        }
    }
}
