//! Service account tokens of pods: asked for once, renewed before they end.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use corten_client::Api;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use kube::Client;
use kube::api::PostParams;

use crate::backoff::add;
use crate::pod::spec;

/// Lifetime of a token for which the projection names none, in seconds.
const DEFAULT_LIFETIME: i64 = 3600;
/// A token is renewed at the latest at this age.
const OLDEST: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone)]
struct Token {
    text: String,
    renew_at: Timestamp,
}

/// Tokens of one pod, by audience and path.
#[derive(Default)]
pub struct Tokens {
    known: Mutex<BTreeMap<(String, String), Token>>,
}

impl Tokens {
    /// A token that is good for a while yet. When renewal fails the old one serves on.
    pub async fn get(
        &self,
        client: &Client,
        pod: &Pod,
        wanted: &ServiceAccountTokenProjection,
        now: Timestamp,
    ) -> Result<String, String> {
        let key = (wanted.audience.clone().unwrap_or_default(), wanted.path.clone());
        let known = self.lock().get(&key).cloned();
        if let Some(token) = known.as_ref().filter(|token| token.renew_at > now) {
            return Ok(token.text.clone());
        }
        match request(client, pod, wanted, now).await {
            Ok(token) => {
                self.lock().insert(key, token.clone());
                Ok(token.text)
            }
            Err(error) => known.map(|token| token.text).ok_or_else(|| error.to_string()),
        }
    }

    /// When the next token has to be renewed.
    pub fn renew_at(&self) -> Option<Timestamp> {
        self.lock().values().map(|token| token.renew_at).min()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, String), Token>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn request(
    client: &Client,
    pod: &Pod,
    wanted: &ServiceAccountTokenProjection,
    now: Timestamp,
) -> Result<Token, kube::Error> {
    let account =
        pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), spec::namespace(pod));
    let bound = BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
    };
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: wanted.audience.clone().filter(|audience| !audience.is_empty()).map(|one| vec![one]),
            bound_object_ref: Some(bound),
            expiration_seconds: Some(wanted.expiration_seconds.unwrap_or(DEFAULT_LIFETIME)),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let json = api.create_subresource("token", account, &PostParams::default(), &request).await?;
    let answer: TokenRequest = serde_json::from_slice(&json).map_err(kube::Error::SerdeError)?;
    let status = answer.status.unwrap_or_default();
    let expires = status.expiration_timestamp.map_or(now, |at| at.0);
    Ok(Token { text: status.token.unwrap_or_default(), renew_at: renewal(now, expires) })
}

/// After four fifths of the lifetime, or a day.
fn renewal(now: Timestamp, expires: Timestamp) -> Timestamp {
    let lifetime = Duration::try_from(expires.duration_since(now)).unwrap_or_default();
    add(now, (lifetime * 4 / 5).min(OLDEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(renewal(at(0), at(3600)), at(2880));
        assert_eq!(renewal(at(0), at(365 * 86_400)), at(86_400));
        assert_eq!(renewal(at(10), at(0)), at(10));
    }
}
