//! The shell around the rules: approves, signs, and forgets requests that are done.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use corten_client::Api;
use corten_client::watcher;
use corten_client::{Informer, Key, WorkQueue};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use super::plan::{Authority, Requestor, Signer, Wanted};
use crate::answer::ignore;
use crate::cluster::Cluster;

/// Requests that are done are kept so long (upstream's cleaner), those that nobody decides a day.
const KEPT_DONE: SignedDuration = SignedDuration::from_hours(1);
const KEPT_PENDING: SignedDuration = SignedDuration::from_hours(24);

struct Certificates {
    cluster: Arc<Cluster>,
    authority: Authority,
    requests: Informer<CertificateSigningRequest>,
}

/// Approves and signs until the cluster's stop; without a CA nobody can.
pub async fn run(cluster: &Arc<Cluster>) {
    let Some((cert, key)) = &cluster.config.signing_ca else { return };
    let authority = match Authority::new(cert, key, cluster.config.signing_life) {
        Ok(authority) => authority,
        Err(error) => return tracing::warn!(error, "certificate signing requests stay unsigned"),
    };
    let requests =
        Informer::start(Api::all(cluster.client.clone()), watcher::Config::default(), cluster.stop.clone());
    let queue: WorkQueue<String> = WorkQueue::new();
    let adds = queue.clone();
    requests.on_change(move |change: &corten_client::Change<CertificateSigningRequest>| {
        adds.add(change.object().metadata.name.clone().unwrap_or_default());
    });
    let (adds, open) = (queue.clone(), requests.clone());
    // A name may have become free.
    cluster.nodes.on_change(move |_| {
        let open = open.list().into_iter().filter(|request| is_open(request));
        open.for_each(|request| adds.add(request.metadata.name.clone().unwrap_or_default()));
    });
    let me = Arc::new(Certificates { cluster: cluster.clone(), authority, requests });
    let reconcile = move |name| {
        let me = me.clone();
        async move { me.look_at(name).await }
    };
    queue.run(1, cluster.stop.clone(), reconcile).await;
}

impl Certificates {
    async fn look_at(&self, name: String) -> Result<Option<Duration>, kube::Error> {
        let Some(request) = self.requests.get(&Key::new("", &*name)) else { return Ok(None) };
        let api: Api<CertificateSigningRequest> = Api::all(self.cluster.client.clone());
        let made = request.metadata.creation_timestamp.as_ref().map_or_else(Timestamp::now, |at| at.0);
        let kept = if is_open(&request) { KEPT_PENDING } else { KEPT_DONE };
        let left = kept - Timestamp::now().duration_since(made);
        let Ok(left) = Duration::try_from(left) else {
            ignore(api.delete(&name, &DeleteParams::default()).await, &[404])?;
            return Ok(None);
        };
        if let Some((subresource, patch)) = self.next_step(&request) {
            let patch = Patch::Merge(patch);
            let params = PatchParams::default();
            let outcome = match subresource {
                "approval" => api.patch_subresource("approval", &name, &params, &patch).await,
                _ => api.patch_status(&name, &params, &patch).await,
            };
            ignore(outcome, &[404])?;
        }
        Ok(Some(left))
    }

    /// The next thing to write about a request, and where.
    fn next_step(&self, request: &CertificateSigningRequest) -> Option<(&'static str, serde_json::Value)> {
        let spec = &request.spec;
        let signer = Signer::named(&spec.signer_name)?;
        if !is_open(request) {
            return None;
        }
        let usages = spec.usages.clone().unwrap_or_default();
        let checked = Wanted::parse(&spec.request.0)
            .and_then(|wanted| wanted.is_permitted(signer, &usages).map(|()| wanted));
        let wanted = match checked {
            Ok(wanted) => wanted,
            Err(why) if has(request, "Approved") => {
                return Some(("status", self.condition(request, "Failed", "SignerValidationFailure", &why)));
            }
            Err(_) => return None,
        };
        if !has(request, "Approved") {
            let groups = spec.groups.clone().unwrap_or_default();
            let by = Requestor { user: spec.username.as_deref().unwrap_or_default(), groups: &groups };
            let of_another = |node: &str, address| self.is_of_another(node, address);
            let trusted = wanted.is_trusted(signer, &by, of_another, |node| self.is_ready(node));
            let why = "Approved for a node that joined with a token or renews what it is.";
            return trusted.then(|| ("approval", self.condition(request, "Approved", "AutoApproved", why)));
        }
        let life = spec.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let signed = self.authority.sign(&wanted, signer, life.map(Duration::from_secs), SystemTime::now());
        Some((
            "status",
            match signed {
                Ok(pem) => json!({"status": {"certificate": STANDARD.encode(pem)}}),
                Err(why) => self.condition(request, "Failed", "SignerValidationFailure", &why),
            },
        ))
    }

    fn condition(
        &self,
        request: &CertificateSigningRequest,
        kind: &str,
        reason: &str,
        message: &str,
    ) -> serde_json::Value {
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let known = request.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let mut conditions: Vec<serde_json::Value> = known.iter().map(|condition| json!(condition)).collect();
        conditions.push(json!({"type": kind, "status": "True", "reason": reason, "message": message,
            "lastUpdateTime": now, "lastTransitionTime": now}));
        json!({"metadata": {"resourceVersion": request.metadata.resource_version},
            "status": {"conditions": conditions}})
    }

    /// Is there a node of this name that works?
    fn is_ready(&self, node: &str) -> bool {
        let node = self.cluster.nodes.get(&Key::new("", node));
        let status = node.as_ref().and_then(|node| node.status.as_ref());
        let conditions = status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    }

    /// Does a node of another name have the address?
    fn is_of_another(&self, node: &str, address: IpAddr) -> bool {
        let text = address.to_string();
        self.cluster.nodes.list().iter().any(|other| {
            let addresses = other.status.iter().flat_map(|status| status.addresses.iter().flatten());
            other.metadata.name.as_deref() != Some(node) && addresses.into_iter().any(|a| a.address == text)
        })
    }
}

/// Neither signed nor refused.
fn is_open(request: &CertificateSigningRequest) -> bool {
    let signed = request.status.as_ref().is_some_and(|status| status.certificate.is_some());
    !signed && !has(request, "Denied") && !has(request, "Failed")
}

fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = request.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == kind)
}
