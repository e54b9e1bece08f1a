//! Writing slices, the same for those of services and those that mirror Endpoints.

use corten_client::Api;
use corten_client::Key;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{DeleteParams, PostParams, Preconditions};

use super::packing::Changes;
use crate::answer;
use crate::expect::Written;

/// Why slices were not written: what was tried, and the API's answer.
#[derive(Debug, thiserror::Error)]
#[error("failed to {what}: {error}")]
pub struct Failed {
    /// `create EndpointSlice for Service ns/name` and the like.
    pub what: String,
    /// The answer.
    #[source]
    pub error: kube::Error,
}

/// Creates, updates, then deletes: an endpoint that moves is for a moment in two slices, never in none. `whom` is like
/// `Service ns/name`.
pub async fn carry_out(
    client: &Client,
    written: &Written,
    key: &Key,
    whom: &str,
    changes: Changes,
) -> Result<(), Failed> {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), &key.namespace);
    let failed = |what: String| move |error| Failed { what, error };
    for slice in &changes.create {
        match api.create(&PostParams::default(), slice).await {
            Ok(made) => written.wrote(key, &made.metadata),
            Err(error) if answer::is_namespace_ending(&error) => return Ok(()),
            Err(error) => return Err(failed(format!("create EndpointSlice for {whom}"))(error)),
        }
    }
    for slice in &changes.update {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        let answer = api.replace(name, &PostParams::default(), slice).await;
        let made = answer.map_err(failed(format!("update {name} EndpointSlice for {whom}")))?;
        written.wrote(key, &made.metadata);
    }
    for slice in &changes.delete {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        let exactly = Preconditions { uid: slice.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(exactly), ..DeleteParams::default() };
        answer::changed_is_fine(api.delete(name, &params).await)
            .map_err(failed(format!("delete {name} EndpointSlice for {whom}")))?;
        written.deleted(key, &slice.metadata);
    }
    Ok(())
}
