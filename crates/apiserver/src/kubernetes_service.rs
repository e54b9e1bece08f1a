//! The `kubernetes` Service: the first address of the service range leads to this server. Service, Endpoints and EndpointSlice
//! are kept true while the server runs, whoever changes or deletes them (upstream's reconciler of the same).
//!
//! At the end nothing is removed: a store has one server here, and upstream, too, refuses to take away the last address.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use corten_store::Watcher;
use futures::future::BoxFuture;
use futures::future::select_all;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::ApiServer;
use crate::bootstrap::Wanted;
use crate::call;

/// Name and namespace of all three objects.
const NAME: &str = "kubernetes";
const NAMESPACE: &str = "default";
/// Group, version and plural of each.
const KINDS: [(&str, &str, &str); 3] =
    [("", "v1", "services"), ("", "v1", "endpoints"), ("discovery.k8s.io", "v1", "endpointslices")];
/// A look after one of the objects was refused, or could not be watched. A Service that was just deleted holds its address a
/// moment longer.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

impl ApiServer {
    /// Says where pods reach this server. [`ApiServer::keep_kubernetes_service`] writes it down.
    pub fn advertise(&self, address: SocketAddr) {
        self.advertised_value().send_if_modified(|known| known.replace(address) != Some(address));
    }

    /// The advertised address; loopback before it is known.
    pub(crate) fn public_address(&self) -> SocketAddr {
        let local = || SocketAddr::from((Ipv4Addr::LOCALHOST, self.config().advertise_port));
        self.advertised().unwrap_or_else(local)
    }

    /// Keeps the three objects true until `stop`: after each change of theirs and of the address.
    pub fn keep_kubernetes_service(&self, stop: CancellationToken) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut address = self.advertised_value().subscribe();
            loop {
                address.mark_unchanged();
                // Watched before written: nothing falls between.
                let watchers = self.watch_kubernetes_objects().await;
                let mut settled = watchers.len() == KINDS.len();
                settled &= self.put_right().await;
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = address.changed() => {}
                    () = any_change(watchers) => {}
                    () = tokio::time::sleep(LOOK_AGAIN), if !settled => {}
                }
            }
        })
    }

    async fn put_right(&self) -> bool {
        let mut kept = true;
        for wanted in self.kubernetes_objects() {
            kept &= self.ensure(&wanted).await.unwrap_or_else(|error| {
                tracing::warn!(error = error.message, "the kubernetes Service is not kept");
                false
            });
        }
        kept
    }

    /// All three; without a known address the Service alone.
    pub(crate) fn kubernetes_objects(&self) -> Vec<Wanted> {
        let address = self.advertised();
        let behind = address.iter().flat_map(|address| [slice(*address), endpoints(*address)]);
        [self.kubernetes_service()].into_iter().chain(behind).collect()
    }

    fn kubernetes_service(&self) -> Wanted {
        let config = self.config();
        let cluster_ip = config.first_service_address().map(|ip| ip.to_string());
        let port = self.public_address().port();
        let object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": NAME, "namespace": NAMESPACE,
                "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {"type": "ClusterIP", "clusterIP": cluster_ip, "sessionAffinity": "None",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]}
        });
        Wanted { collection: "/api/v1/namespaces/default/services".into(), object, keep: true }
    }

    async fn watch_kubernetes_objects(&self) -> Vec<Watcher> {
        let kinds = self.kinds().snapshot();
        let mut watchers = Vec::new();
        for (group, version, plural) in KINDS {
            let Some(kind) = kinds.resource(group, version, plural) else { continue };
            let key = call::key(kind, NAMESPACE, NAME);
            match self.config().store.watch(&key, None).await {
                Ok(watcher) => watchers.push(watcher),
                Err(error) => tracing::debug!(%error, key, "not watched; looked at later"),
            }
        }
        watchers
    }
}

async fn any_change(mut watchers: Vec<Watcher>) {
    if watchers.is_empty() {
        return std::future::pending().await;
    }
    let changes = watchers.iter_mut().map(|watcher| watcher.next());
    // A watcher that broke is opened anew, but not in a circle.
    if select_all(changes).await.0.is_err() {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn slice(address: SocketAddr) -> Wanted {
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": NAME}},
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [address.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": address.port(), "protocol": "TCP"}]
    });
    let collection = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices".into();
    Wanted { collection, object, keep: true }
}

/// The old form of the same, which upstream keeps for old clients; its label keeps it from being mirrored into a second slice.
fn endpoints(address: SocketAddr) -> Wanted {
    let object = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": NAME, "namespace": NAMESPACE,
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": address.ip().to_string()}],
            "ports": [{"name": "https", "port": address.port(), "protocol": "TCP"}]}]
    });
    Wanted { collection: "/api/v1/namespaces/default/endpoints".into(), object, keep: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestServer;

    const SERVICE: &str = "/api/v1/namespaces/default/services/kubernetes";
    const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints/kubernetes";
    const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";

    /// Much longer than it takes.
    const PATIENCE: Duration = Duration::from_secs(120);

    /// Waits for the store's next change of one of the objects until the text is in the answer.
    async fn until(server: &TestServer, path: &str, wanted: impl Fn(&serde_json::Value) -> bool) {
        let looking = async {
            loop {
                let watchers = server.api.watch_kubernetes_objects().await;
                if wanted(&server.ask("GET", path, "").await.json()) {
                    return;
                }
                any_change(watchers).await;
            }
        };
        tokio::time::timeout(PATIENCE, looking).await.expect("it is put right");
    }

    #[tokio::test]
    async fn nothing_is_published_before_the_address_is_known() {
        let server = TestServer::start_with(|config| config.advertise_address = None).await;
        assert_eq!(server.ask("GET", SERVICE, "").await.code, 200);
        for path in [ENDPOINTS, SLICE] {
            assert_eq!(server.ask("GET", path, "").await.code, 404, "{path}");
        }
    }

    #[tokio::test]
    async fn what_others_do_to_it_is_put_right() {
        let server = TestServer::start().await;
        let stop = CancellationToken::new();
        let (api, end) = (server.api.clone(), stop.clone());
        let keeper = tokio::spawn(async move { api.keep_kubernetes_service(end).await });

        server.api.advertise("192.0.2.7:7443".parse().unwrap());
        until(&server, SLICE, |s| s["endpoints"][0]["addresses"][0] == "192.0.2.7").await;
        until(&server, SERVICE, |s| s["spec"]["ports"][0]["targetPort"] == 7443).await;
        until(&server, ENDPOINTS, |e| e["subsets"][0]["ports"][0]["port"] == 7443).await;
        for path in [SLICE, ENDPOINTS, SERVICE] {
            let before = server.ask("GET", path, "").await.json()["metadata"]["uid"].clone();
            assert_eq!(server.ask("DELETE", path, "").await.code, 200, "{path}");
            until(&server, path, |o| o["metadata"]["uid"].is_string() && o["metadata"]["uid"] != before)
                .await;
        }
        let mut wrong = server.ask("GET", SLICE, "").await.json();
        wrong["endpoints"][0]["addresses"][0] = "192.0.2.99".into();
        assert_eq!(server.ask("PUT", SLICE, wrong.to_string()).await.code, 200);
        until(&server, SLICE, |s| s["endpoints"][0]["addresses"][0] == "192.0.2.7").await;

        stop.cancel();
        keeper.await.unwrap();
    }
}
