//! Deletes bootstrap tokens that have run out: nodes cannot join with them any more, and nobody should wonder why.

use std::sync::Arc;
use std::time::Duration;

use corten_client::Api;
use corten_client::watcher;
use corten_client::{Informer, Key};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Preconditions};

use crate::answer::ignore;
use crate::cluster::Cluster;
use crate::shell::Shell;

/// Where tokens are.
const NAMESPACE: &str = "kube-system";
/// Their type, as a field selector.
const TOKENS: &str = "type=bootstrap.kubernetes.io/token";

struct Cleaner {
    tokens: Informer<Secret>,
    api: Api<Secret>,
}

/// Watches tokens until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    let api: Api<Secret> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let only = watcher::Config::default().fields(TOKENS);
    let tokens = Informer::start(api.clone(), only, cluster.stop.clone());
    let cleaner = Cleaner { tokens: tokens.clone(), api };
    Shell::open(cluster, cleaner)
        .wakes(&tokens, |_, change| Some(Key::of(&**change.object())))
        .run(1, Cleaner::look_at)
        .await;
}

impl Cleaner {
    async fn look_at(self: Arc<Self>, key: Key) -> Result<Option<Duration>, kube::Error> {
        let Some(token) = self.tokens.get(&key) else { return Ok(None) };
        match left(&token, Timestamp::now()) {
            None => Ok(None),
            Some(Duration::ZERO) => {
                // One that was made longer meanwhile stays.
                let preconditions = Preconditions {
                    uid: token.metadata.uid.clone(),
                    resource_version: token.metadata.resource_version.clone(),
                };
                let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                ignore(self.api.delete(&key.name, &params).await, &[404, 409])?;
                tracing::info!(token = key.name, "a bootstrap token has run out");
                Ok(None)
            }
            Some(left) => Ok(Some(left)),
        }
    }
}

/// How long the token is still good for; `None`: for ever. One whose end cannot be read is at its end.
fn left(token: &Secret, now: Timestamp) -> Option<Duration> {
    let until = &token.data.as_ref()?.get("expiration")?.0;
    if until.is_empty() {
        return None;
    }
    let until = std::str::from_utf8(until).ok().and_then(|text| text.parse::<Timestamp>().ok());
    let left = until.map(|until| Duration::try_from(until.duration_since(now)).unwrap_or_default());
    Some(left.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn what_is_left_of_a_token() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (until, expected) in [
            (None, None),
            (Some(""), None),
            (Some("2026-01-01T00:01:00Z"), Some(Duration::from_secs(60))),
            (Some("2026-01-01T01:00:30+01:00"), Some(Duration::from_secs(30))),
            (Some("2026-01-01T00:00:00Z"), Some(Duration::ZERO)),
            (Some("2025-01-01T00:00:00Z"), Some(Duration::ZERO)),
            (Some("soon"), Some(Duration::ZERO)),
        ] {
            let mut token = Secret::default();
            let data = until.map(|text| ("expiration".to_owned(), ByteString(text.as_bytes().to_vec())));
            token.data = Some(data.into_iter().collect());
            assert_eq!(left(&token, now), expected, "{until:?}");
        }
    }
}
