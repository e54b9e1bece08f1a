//! kube-rs as operators use it: typed and dynamic objects, a `Controller`, leases for one leader.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use corten_testkit::{Namespace, cluster};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchParams};
use kube::core::{ObjectMeta, WatchEvent};
use kube::discovery::{Discovery, Scope, verbs};
use kube::runtime::controller::Action;
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{Controller, WatchStreamExt, watcher};
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde_json::json;

/// How long a case may wait altogether. Only failures use it up.
const PATIENCE: Duration = Duration::from_secs(180);

/// Runs a case with a client of the cluster's admin.
fn with_client<F: Future<Output = ()>>(ns: &Namespace<'_>, case: impl FnOnce(Client, String) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let file = kube::config::Kubeconfig::read_from(ns.cluster.kubeconfig()).unwrap();
        let config = Config::from_custom_kubeconfig(file, &Default::default()).await.unwrap();
        let client = Client::try_from(config).unwrap();
        tokio::time::timeout(PATIENCE, case(client, ns.name.clone())).await.expect("the case ends");
    });
}

fn config_map(name: &str, label: &str) -> ConfigMap {
    let labels = BTreeMap::from([("l".to_owned(), label.to_owned())]);
    let metadata = ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() };
    ConfigMap { metadata, ..ConfigMap::default() }
}

#[test]
fn typed_objects() {
    let ns = cluster().namespace("kube-typed");
    with_client(&ns, |client, name| async move {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), &name);
        let made = api.create(&PostParams::default(), &config_map("c", "1")).await.unwrap();
        let again = api.create(&PostParams::default(), &config_map("c", "1")).await;
        assert!(matches!(&again, Err(kube::Error::Api(status)) if status.is_already_exists()), "{again:?}");
        let strategies: [(Patch<serde_json::Value>, &str); 4] = [
            (Patch::Merge(json!({"data": {"k": "merge"}})), "merge"),
            (Patch::Strategic(json!({"data": {"k": "strategic"}})), "strategic"),
            (
                Patch::Json(
                    serde_json::from_value(json!([{"op": "replace", "path": "/data/k", "value": "json"}]))
                        .unwrap(),
                ),
                "json",
            ),
            (Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "apply"}})), "apply"),
        ];
        for (patch, expected) in strategies {
            let params = match &patch {
                Patch::Apply(_) => PatchParams::apply("kube").force(),
                _ => PatchParams::default(),
            };
            let patched = api.patch("c", &params, &patch).await.unwrap();
            assert_eq!(patched.data.unwrap()["k"], expected);
        }
        let stale = api.replace("c", &PostParams::default(), &made).await;
        assert!(matches!(&stale, Err(kube::Error::Api(status)) if status.is_conflict()), "{stale:?}");
        for number in 0..5 {
            api.create(&PostParams::default(), &config_map(&format!("page-{number}"), "2")).await.unwrap();
        }
        let params = ListParams::default().labels("l=2").limit(2);
        let first = api.list(&params).await.unwrap();
        let rest = api
            .list(&params.clone().limit(10).continue_token(first.metadata.continue_.as_ref().unwrap()))
            .await
            .unwrap();
        assert_eq!((first.items.len(), first.metadata.remaining_item_count, rest.items.len()), (2, None, 3));
        let meta = api.list_metadata(&ListParams::default().fields("metadata.name=c")).await.unwrap();
        assert_eq!(meta.items[0].name_any(), "c");
        let mut events = api.watch(&WatchParams::default().labels("l=1"), "0").await.unwrap().boxed();
        let told = events.try_next().await.unwrap();
        assert!(matches!(&told, Some(WatchEvent::Added(object)) if object.name_any() == "c"), "{told:?}");
        api.delete("c", &DeleteParams::default()).await.unwrap();
        assert!(api.get_opt("c").await.unwrap().is_none());
    });
}

#[test]
fn scale_and_status() {
    let ns = cluster().namespace("kube-scale");
    with_client(&ns, |client, name| async move {
        let api: Api<Deployment> = Api::namespaced(client, &name);
        let made = json!({"metadata": {"name": "d"}, "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "busybox:1.35"}]}}}});
        api.create(&PostParams::default(), &serde_json::from_value(made).unwrap()).await.unwrap();
        let scaled = api
            .patch_scale("d", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 1}})))
            .await
            .unwrap();
        assert_eq!(scaled.spec.unwrap().replicas, Some(1));
        assert_eq!(api.get("d").await.unwrap().spec.replicas, Some(1));
        let status = json!({"status": {"conditions": [{"type": "Ours", "status": "True"}]}});
        let patched =
            api.patch_status("d", &PatchParams::default(), &Patch::Strategic(status)).await.unwrap();
        assert!(
            patched
                .status
                .unwrap()
                .conditions
                .unwrap()
                .iter()
                .any(|condition| condition.type_.as_deref() == Some("Ours"))
        );
        api.delete("d", &DeleteParams::foreground()).await.unwrap();
    });
}

#[test]
fn objects_found_by_discovery() {
    let ns = cluster().namespace("kube-dynamic");
    with_client(&ns, |client, name| async move {
        for discovery in [
            Discovery::new(client.clone()).run().await,
            Discovery::new(client.clone()).run_aggregated().await,
        ] {
            let discovery = discovery.unwrap();
            let mut listed = 0;
            for (resource, capabilities) in discovery.groups().flat_map(|group| group.recommended_resources())
            {
                if !capabilities.supports_operation(verbs::LIST) {
                    continue;
                }
                let api: Api<DynamicObject> = match capabilities.scope {
                    Scope::Cluster => Api::all_with(client.clone(), &resource),
                    Scope::Namespaced => Api::namespaced_with(client.clone(), &name, &resource),
                };
                api.list(&ListParams::default())
                    .await
                    .unwrap_or_else(|error| panic!("{}: {error}", resource.plural));
                listed += 1;
            }
            assert!(listed > 40, "{listed}");
        }
        let resource = kube::api::ApiResource::erase::<ConfigMap>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(client, &name, &resource);
        let object = DynamicObject::new("dynamic", &resource).data(json!({"data": {"a": "1"}}));
        let applied =
            api.patch("dynamic", &PatchParams::apply("kube"), &Patch::Apply(&object)).await.unwrap();
        assert_eq!(applied.data["data"]["a"], "1");
    });
}

/// Lists first, then watches; and as one watch that begins with what there is.
#[test]
fn a_reflector_keeps_up() {
    let ns = cluster().namespace("kube-reflector");
    with_client(&ns, |client, name| async move {
        let api: Api<ConfigMap> = Api::namespaced(client, &name);
        for config in
            [watcher::Config::default().labels("l"), watcher::Config::default().labels("l").streaming_lists()]
        {
            let (reader, writer) = reflector::store();
            let stream = watcher(api.clone(), config).default_backoff().reflect(writer).applied_objects();
            let running = tokio::spawn(stream.for_each(|_| std::future::ready(())));
            reader.wait_until_ready().await.unwrap();
            api.create(&PostParams::default(), &config_map("r", "1")).await.unwrap();
            let reference = ObjectRef::new("r").within(&name);
            until(|| reader.get(&reference).is_some()).await;
            api.delete("r", &DeleteParams::default()).await.unwrap();
            until(|| reader.get(&reference).is_none()).await;
            running.abort();
        }
    });
}

async fn until(mut look: impl FnMut() -> bool) {
    while !look() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A controller that keeps a secret for each config map, and makes it again when somebody deletes it.
#[test]
fn a_controller_reconciles() {
    let ns = cluster().namespace("kube-controller");
    with_client(&ns, |client, name| async move {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &name);
        let secrets: Api<Secret> = Api::namespaced(client, &name);
        let controller = Controller::new(maps.clone(), watcher::Config::default().labels("l"))
            .owns(secrets.clone(), watcher::Config::default())
            .run(reconcile, |_, _, _| Action::requeue(Duration::from_secs(1)), Arc::new(secrets.clone()));
        let running = tokio::spawn(controller.for_each(|_| std::future::ready(())));
        let map = maps.create(&PostParams::default(), &config_map("owner", "1")).await.unwrap();
        let first = until_some(|| secrets.get_opt("owner")).await;
        assert_eq!(first.owner_references()[0].uid, map.uid().unwrap());
        secrets.delete("owner", &DeleteParams::default()).await.unwrap();
        let second = loop {
            let secret = until_some(|| secrets.get_opt("owner")).await;
            if secret.uid() != first.uid() {
                break secret;
            }
        };
        assert_ne!(first.uid(), second.uid());
        maps.delete("owner", &DeleteParams::background()).await.unwrap();
        while secrets.get_opt("owner").await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        running.abort();
    });
}

async fn until_some<T, F: Future<Output = kube::Result<Option<T>>>>(look: impl Fn() -> F) -> T {
    loop {
        if let Some(found) = look().await.unwrap() {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn reconcile(map: Arc<ConfigMap>, secrets: Arc<Api<Secret>>) -> Result<Action, kube::Error> {
    if map.metadata.deletion_timestamp.is_none() {
        let owner = map.controller_owner_ref(&()).expect("what was read has a name and a uid");
        let wanted = json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": map.name_any(), "ownerReferences": [owner]}, "stringData": {"a": "b"}});
        secrets
            .patch(&map.name_any(), &PatchParams::apply("reconciler").force(), &Patch::Apply(wanted))
            .await?;
    }
    Ok(Action::await_change())
}

/// kube-rs has no election of its own: those built on it race to write a lease, and the version that they read decides.
#[test]
fn one_candidate_gets_the_lease() {
    let ns = cluster().namespace("kube-lease");
    with_client(&ns, |client, name| async move {
        let api: Api<Lease> = Api::namespaced(client, &name);
        let lease = Lease {
            metadata: ObjectMeta { name: Some("leader".to_owned()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec { lease_duration_seconds: Some(15), ..LeaseSpec::default() }),
        };
        let read = api.create(&PostParams::default(), &lease).await.unwrap();
        let claims = (0..8).map(|number| {
            let (api, mut mine) = (api.clone(), read.clone());
            mine.spec.get_or_insert_default().holder_identity = Some(format!("candidate-{number}"));
            async move { api.replace("leader", &PostParams::default(), &mine).await }
        });
        let claims: Vec<_> = futures::future::join_all(claims).await;
        let won: Vec<_> = claims.iter().filter_map(|claim| claim.as_ref().ok()).collect();
        assert_eq!(won.len(), 1, "{claims:?}");
        let lost = claims
            .iter()
            .filter(|claim| matches!(claim, Err(kube::Error::Api(status)) if status.is_conflict()));
        assert_eq!(lost.count(), 7, "{claims:?}");
        let holder = api.get("leader").await.unwrap().spec.unwrap().holder_identity;
        assert_eq!(holder, won[0].spec.as_ref().unwrap().holder_identity);
    });
}
