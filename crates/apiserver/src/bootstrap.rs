//! What every cluster has from the start, made through the same pipeline as everything else.

use std::sync::atomic::Ordering;

use corten_api::{Result, Status};
use futures::future::BoxFuture;
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value as Json, json};

use crate::ApiServer;
use crate::authn::Peer;
use crate::body::{Body, full};
use crate::user::User;

const NAMESPACES: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "default"];

/// An object, and whether what it says is kept up to date or only made once.
pub(crate) struct Wanted {
    pub(crate) collection: String,
    pub(crate) object: Json,
    pub(crate) keep: bool,
}

impl ApiServer {
    /// Makes the server ready: what Services hold is read from the store, and the objects of every cluster are made where
    /// they are missing.
    ///
    /// Errors: the store cannot be read or written.
    pub fn bootstrap(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            for entry in self.list_raw("services", "").await? {
                self.allocator().restore(&self.tree(&entry)?);
            }
            for wanted in self.wanted_objects() {
                self.ensure(&wanted).await?;
            }
            self.bootstrap_roles().await?;
            // Together they are one or two commits of the store.
            let flow = crate::flow::wanted();
            futures::future::join_all(flow.iter().map(|wanted| self.ensure(wanted)))
                .await
                .into_iter()
                .collect::<Result<Vec<bool>>>()?;
            self.flow_changed().await?;
            self.bootstrapped().store(true, Ordering::Release);
            Ok(())
        })
    }

    fn wanted_objects(&self) -> Vec<Wanted> {
        let mut all: Vec<Wanted> = NAMESPACES.iter().map(|name| namespace(name)).collect();
        all.push(priority_class("system-node-critical", 2_000_001_000));
        all.push(priority_class("system-cluster-critical", 2_000_000_000));
        all.push(self.service_ranges());
        all.extend(self.kubernetes_objects());
        all
    }

    /// The ranges that the server was started with, as an object (upstream's default ServiceCIDR).
    fn service_ranges(&self) -> Wanted {
        let cidrs: Vec<String> = self.config().service_cidrs.iter().map(ToString::to_string).collect();
        let object = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": cidrs}
        });
        // A second range may be added; others than those of the first start are refused, and that is told in the log.
        Wanted { collection: "/apis/networking.k8s.io/v1/servicecidrs".into(), object, keep: true }
    }

    /// Makes an object where it is missing, and puts right what has drifted where it is to be kept.
    /// `false`: a rule of the API or another object is in the way.
    pub(crate) async fn ensure(&self, wanted: &Wanted) -> Result<bool> {
        let name = wanted.object["metadata"]["name"].as_str().unwrap_or_default();
        // What is kept current is there after the first start. Asking for it anew would fail on what it holds already (its
        // own address is taken) before the name is found to be taken.
        let (code, text) = match wanted.keep {
            true => {
                let path = format!("{}/{name}", wanted.collection);
                self.ask("PATCH", &path, "application/merge-patch+json", &wanted.object).await
            }
            false => (404, String::new()),
        };
        let (code, text) = match code {
            404 => self.ask("POST", &wanted.collection, "application/json", &wanted.object).await,
            _ => (code, text),
        };
        match code {
            200 | 201 | 409 => Ok(true),
            // A rule that our own object breaks must not keep the cluster from starting.
            400..=499 => {
                tracing::warn!(name, code, text, "an object of every cluster was refused");
                Ok(false)
            }
            _ => Err(Status::internal(format!("{name} could not be made: {text}"))),
        }
    }

    pub(crate) async fn ask(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        object: &Json,
    ) -> (u16, String) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type)
            .header("user-agent", "kube-apiserver")
            .body(full(object.to_string()));
        let request: Request<Body> = match request {
            Ok(request) => request,
            Err(error) => return (500, error.to_string()),
        };
        let response = self.handle(request, Peer::InProcess(User::apiserver().into())).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        (code, String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn namespace(name: &str) -> Wanted {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    Wanted { collection: "/api/v1/namespaces".into(), object, keep: false }
}

fn priority_class(name: &str, value: i64) -> Wanted {
    let object = json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value,
        "description": "For pods that the cluster cannot do without."
    });
    Wanted { collection: "/apis/scheduling.k8s.io/v1/priorityclasses".into(), object, keep: false }
}
