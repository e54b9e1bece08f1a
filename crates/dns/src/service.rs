//! The Service `kube-dns`: how the cluster's DNS is found through the API.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use corten_client::Api;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::PostParams;
use kube::{Client, Error};
use tokio_util::sync::CancellationToken;

/// Where it stands.
const NAMESPACE: &str = "kube-system";
/// What everybody looks for, whichever server answers.
const NAME: &str = "kube-dns";
/// A proxy other than the one named here leaves the Service alone: its address is on the node itself.
const PROXY_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// The port of DNS.
const PORT: i32 = 53;
/// Between two attempts; the API server may not be there yet.
const RETRY: Duration = Duration::from_secs(2);

/// Creates the Service with these addresses (one, or one of each family) where there is none, trying until it is there or `stop`. One that exists is
/// left as it is.
pub fn ensure_service(client: Client, addresses: &[IpAddr], stop: CancellationToken) -> BoxFuture<'_, ()> {
    Box::pin(keep_trying(client, addresses, stop))
}

async fn keep_trying(client: Client, addresses: &[IpAddr], stop: CancellationToken) {
    let api: Api<Service> = Api::namespaced(client, NAMESPACE);
    loop {
        match create(&api, addresses).await {
            Ok(()) => return,
            Err(error) => tracing::debug!(%error, "Service kube-dns"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

async fn create(api: &Api<Service>, addresses: &[IpAddr]) -> Result<(), Error> {
    let Some(address) = addresses.first() else { return Ok(()) };
    if let Some(found) = api.get_opt(NAME).await? {
        let has = found.spec.and_then(|spec| spec.cluster_ip).unwrap_or_default();
        if has != address.to_string() {
            tracing::warn!(%address, has, "Service kube-system/kube-dns has another address than the cluster's DNS");
        }
        return Ok(());
    }
    match api.create(&PostParams::default(), &service(addresses)).await {
        Err(Error::Api(status)) if status.code == 409 => Ok(()),
        Err(Error::Api(status)) if status.code == 422 => {
            tracing::warn!(%address, why = status.message, "Service kube-system/kube-dns cannot have its address");
            Ok(())
        }
        other => other.map(drop),
    }
}

fn service(addresses: &[IpAddr]) -> Service {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let is_dual = texts.len() > 1;
    let labels = [
        ("k8s-app", "kube-dns"),
        ("kubernetes.io/cluster-service", "true"),
        ("kubernetes.io/name", "KubeDNS"),
        (PROXY_LABEL, "corten-dns"),
    ];
    let port = |name: &str, protocol: &str| ServicePort {
        name: Some(name.to_owned()),
        port: PORT,
        protocol: Some(protocol.to_owned()),
        target_port: Some(IntOrString::Int(PORT)),
        ..ServicePort::default()
    };
    Service {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            labels: Some(BTreeMap::from(labels.map(|(key, value)| (key.to_owned(), value.to_owned())))),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            cluster_ip: texts.first().cloned(),
            ip_family_policy: is_dual.then(|| "PreferDualStack".to_owned()),
            cluster_ips: is_dual.then_some(texts),
            ports: Some(vec![port("dns", "UDP"), port("dns-tcp", "TCP")]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
