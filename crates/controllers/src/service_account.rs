//! Every namespace has a service account `default` and a config map with the CA, so that pods can talk to the API.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use corten_client::Api;
use corten_client::Key;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;

use crate::answer::ignore;
use crate::cluster::Cluster;
use crate::shell::Shell;

const ACCOUNT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";
const ROOT_CA_NOTE: (&str, &str) = (
    "kubernetes.io/description",
    "The CA that signed the certificate of this cluster's API server, for clients inside the cluster.",
);

/// Keeps both in every namespace until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    Shell::open(cluster, cluster.clone())
        .wakes(&cluster.namespaces, |_, change| change.object().metadata.name.clone())
        .wakes(&cluster.service_accounts, |_, change| change.object().metadata.namespace.clone())
        .wakes(&cluster.root_cas, |_, change| change.object().metadata.namespace.clone())
        .run(cluster.config.workers, |me, namespace| async move { provide(&me, namespace).await })
        .await;
}

async fn provide(cluster: &Cluster, namespace: String) -> Result<Option<Duration>, kube::Error> {
    let Some(object) = cluster.namespaces.get(&Key::new("", &*namespace)) else { return Ok(None) };
    if object.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    if cluster.service_accounts.get(&Key::new(&*namespace, ACCOUNT)).is_none() {
        let metadata = named(&namespace, ACCOUNT);
        let account = ServiceAccount { metadata, ..ServiceAccount::default() };
        ignore(
            Api::<ServiceAccount>::namespaced(cluster.client.clone(), &namespace)
                .create(&PostParams::default(), &account)
                .await,
            AS_GOOD,
        )?;
    }
    provide_root_ca(cluster, &namespace).await?;
    Ok(None)
}

async fn provide_root_ca(cluster: &Cluster, namespace: &str) -> Result<(), kube::Error> {
    let data = BTreeMap::from([("ca.crt".to_owned(), cluster.config.root_ca.clone())]);
    let api: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), namespace);
    match cluster.root_cas.get(&Key::new(namespace, ROOT_CA)) {
        Some(found) if found.data.as_ref() == Some(&data) => Ok(()),
        Some(found) => {
            let mended = ConfigMap { data: Some(data), ..(*found).clone() };
            api.replace(ROOT_CA, &PostParams::default(), &mended).await.map(drop)
        }
        None => {
            let mut metadata = named(namespace, ROOT_CA);
            metadata.annotations = Some([(ROOT_CA_NOTE.0.to_owned(), ROOT_CA_NOTE.1.to_owned())].into());
            let map = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
            ignore(api.create(&PostParams::default(), &map).await, AS_GOOD)
        }
    }
}

fn named(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() }
}

/// It is there already, or the namespace is going.
const AS_GOOD: &[u16] = &[403, 404, 409];
