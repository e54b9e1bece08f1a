//! The two ways to an API server: HTTPS with a kubeconfig, or straight into the pipeline of the same process.

use std::path::Path;

use futures::future::BoxFuture;
use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use kube::config::{Config, KubeConfigOptions};
use tower::{BoxError, Service};

use crate::kubeconfig;
use crate::link::Link;

/// A client over a tower service that enters the request pipeline after the network; the service carries the identity.
pub fn in_process<S, B>(service: S) -> Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Client::new(service, "default")
}

/// A client from a kubeconfig file and its current context.
pub fn over_https(kubeconfig: &Path) -> BoxFuture<'_, Result<Client, kube::Error>> {
    Box::pin(async move {
        let file = kubeconfig::read(kubeconfig)?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .map_err(|e| kube::Error::Service(Box::new(e)))?;
        Ok(Link::open(config)?.client())
    })
}
