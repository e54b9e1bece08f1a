//! Service account tokens: signed here, checked here, bound to objects that must still exist.

use std::collections::HashMap;
use std::sync::Mutex;

use corten_api::{Result, Status, Value, time};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::jwks::PublicKey;
use super::keys::Private;
use crate::ApiServer;
use crate::user::User;

/// How many verified tokens are remembered (signatures cost far more than a look-up).
const VERIFIED_TOKENS: usize = 4096;

/// A token outlives what it is bound to by this time (upstream's leeway for clocks).
const LEEWAY_MS: i64 = 60_000;

/// Keys and names of the token authority.
#[derive(Clone, Debug, Default)]
pub struct ServiceAccountKeys {
    /// `iss` of new tokens, e.g. `https://kubernetes.default.svc.cluster.local`.
    pub issuer: String,
    /// Other issuers whose tokens are accepted.
    pub accepted_issuers: Vec<String>,
    /// Audiences that this server accepts; the first is given to tokens that ask for none.
    pub audiences: Vec<String>,
    /// PKCS#8 or PKCS#1/SEC1 PEM, RSA (RS256), P-256 (ES256) or P-384 (ES384).
    pub signing_key_pem: Vec<u8>,
    /// PEM files of public keys, certificates or private keys whose signatures are accepted; a file may hold several.
    pub verifying_keys_pem: Vec<Vec<u8>>,
}

/// An object that a token names.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Ref {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// The `kubernetes.io` claim.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Bound {
    /// Namespace of account, pod and secret.
    pub namespace: String,
    /// The node the pod is on, or the bound node.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<Ref>,
    /// The bound pod.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<Ref>,
    /// The bound secret.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub secret: Option<Ref>,
    /// The account.
    pub serviceaccount: Ref,
    /// When the kubelet should have renewed it (seconds since 1970).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub warnafter: Option<i64>,
}

/// All claims.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Claims {
    /// Who may accept it.
    pub aud: Vec<String>,
    /// Until when, in seconds since 1970.
    pub exp: i64,
    /// Since when.
    pub iat: i64,
    /// Who made it.
    pub iss: String,
    /// Its own id.
    pub jti: String,
    /// What it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Bound,
    /// Not before.
    pub nbf: i64,
    /// `system:serviceaccount:NAMESPACE:NAME`
    pub sub: String,
}

/// A token that holds.
#[derive(Clone, Debug)]
pub struct Reviewed {
    /// Whose it is.
    pub user: User,
    /// Which of the asked audiences it is for.
    pub audiences: Vec<String>,
}

struct Signer {
    header: Header,
    key: EncodingKey,
}

/// Signs and checks; made once from the configured keys.
pub struct Authority {
    keys: ServiceAccountKeys,
    signer: Option<Signer>,
    verifiers: Vec<(Algorithm, DecodingKey)>,
    published: Vec<PublicKey>,
    verified: Mutex<HashMap<String, Claims>>,
}

impl Authority {
    /// Reads the keys.
    ///
    /// Errors: text for the operator when a PEM is no usable key.
    pub fn new(keys: ServiceAccountKeys) -> Result<Self, String> {
        let signer = (!keys.signing_key_pem.is_empty()).then(|| signer(&keys.signing_key_pem)).transpose()?;
        let read: Vec<_> =
            keys.verifying_keys_pem.iter().map(|pem| PublicKey::read(pem)).collect::<Result<_, _>>()?;
        let published: Vec<_> = read.into_iter().flatten().collect();
        let verifiers = published.iter().filter_map(PublicKey::verifier).collect();
        let mut authority = Authority { keys, signer, verifiers, published, verified: Mutex::default() };
        authority.name_signing_key();
        Ok(authority)
    }

    /// Tokens name the published key that they can be checked with: the one that a token of ours agrees with.
    fn name_signing_key(&mut self) {
        let Ok(token) = self.sign(&Claims::default()) else { return };
        let fits = |(algorithm, key): (Algorithm, DecodingKey)| decode(&token, algorithm, &key).is_some();
        let found = self.published.iter().find(|key| key.verifier().is_some_and(fits));
        let id = found.map(|key| key.id.clone());
        if let Some(signer) = &mut self.signer {
            signer.header.kid = id;
        }
    }

    /// The keys that others may check our tokens with.
    pub fn published(&self) -> &[PublicKey] {
        &self.published
    }

    /// The issuer's name.
    pub fn issuer(&self) -> &str {
        &self.keys.issuer
    }

    /// The audiences this server accepts.
    pub fn audiences(&self) -> &[String] {
        &self.keys.audiences
    }

    /// Signs claims.
    ///
    /// Errors: 500 without a signing key.
    pub fn sign(&self, claims: &Claims) -> Result<String> {
        let signer =
            self.signer.as_ref().ok_or_else(|| Status::internal("no service account signing key"))?;
        jsonwebtoken::encode(&signer.header, claims, &signer.key).map_err(Status::internal)
    }

    /// Checks signature, issuer and time; not the audience, not the bound objects.
    pub fn verify(&self, token: &str, now: i64) -> Option<Claims> {
        let known = self.verified.lock().ok()?.get(token).cloned();
        let claims = match known {
            Some(claims) => claims,
            None => self.verify_signature(token)?,
        };
        let known = claims.iss == self.keys.issuer || self.keys.accepted_issuers.contains(&claims.iss);
        (known && claims.nbf <= now && now < claims.exp).then_some(claims)
    }

    fn verify_signature(&self, token: &str) -> Option<Claims> {
        let claims = self.verifiers.iter().find_map(|(algorithm, key)| decode(token, *algorithm, key))?;
        let mut verified = self.verified.lock().ok()?;
        if verified.len() >= VERIFIED_TOKENS {
            verified.clear();
        }
        verified.insert(token.to_owned(), claims.clone());
        Some(claims)
    }
}

/// The claims, if the key made the signature.
fn decode(token: &str, algorithm: Algorithm, key: &DecodingKey) -> Option<Claims> {
    let mut rules = Validation::new(algorithm);
    rules.validate_exp = false;
    rules.validate_aud = false;
    rules.required_spec_claims.clear();
    jsonwebtoken::decode::<Claims>(token, key, &rules).ok().map(|token| token.claims)
}

fn signer(pem: &[u8]) -> Result<Signer, String> {
    let key = Private::first(pem)
        .ok_or("service account signing key: no RSA, P-256 or P-384 private key in PEM form")?;
    let (algorithm, key) = key.signing();
    Ok(Signer { header: Header::new(algorithm), key })
}

impl ApiServer {
    /// Checks a token wholly: signature, time, audience, and that account and bound objects still are what they were.
    ///
    /// Errors: a sentence for TokenReview's `status.error`.
    pub(crate) async fn review_account_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Reviewed, String> {
        let claims = self
            .authority()
            .verify(token, self.now_ms() / 1000)
            .ok_or("[invalid bearer token, service account token has been invalidated]")?;
        let wanted = if audiences.is_empty() { self.authority().audiences() } else { audiences };
        let common: Vec<String> = wanted.iter().filter(|a| claims.aud.contains(a)).cloned().collect();
        if common.is_empty() {
            return Err(format!(
                "token audiences {:?} is invalid for the target audiences {wanted:?}",
                claims.aud
            ));
        }
        self.check_bound(&claims.kubernetes).await?;
        Ok(Reviewed { user: user_of(&claims), audiences: common })
    }

    async fn check_bound(&self, bound: &Bound) -> Result<(), String> {
        let ns = bound.namespace.as_str();
        let mut wanted = vec![("serviceaccounts", ns, &bound.serviceaccount)];
        wanted.extend(bound.pod.iter().map(|r| ("pods", ns, r)));
        wanted.extend(bound.secret.iter().map(|r| ("secrets", ns, r)));
        if bound.pod.is_none() {
            wanted.extend(bound.node.iter().map(|r| ("nodes", "", r)));
        }
        for (resource, namespace, object) in wanted {
            let found = self.read_internal(resource, namespace, &object.name).await;
            let live = found
                .map_err(|e| e.message)?
                .filter(|v: &Value| v.str_at(&["metadata", "uid"]) == object.uid && !self.has_gone(v));
            if live.is_none() {
                return Err(format!("{resource} {}/{} is not what the token was made for", ns, object.name));
            }
        }
        Ok(())
    }
}

impl ApiServer {
    /// Should the object be gone for some time? A finalizer may hold it for ever, but not what was given to it.
    fn has_gone(&self, object: &Value) -> bool {
        let ends = time::parse_ms(object.str_at(&["metadata", "deletionTimestamp"]));
        ends.is_some_and(|ends| ends < self.now_ms() - LEEWAY_MS)
    }
}

fn user_of(claims: &Claims) -> User {
    let bound = &claims.kubernetes;
    let account = &bound.serviceaccount;
    let mut user = User::service_account(&bound.namespace, &account.name, &account.uid);
    let mut add = |key: &str, value: &str| {
        user.extra.push((format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]));
    };
    add("credential-id", &format!("JTI={}", claims.jti));
    if let Some(pod) = &bound.pod {
        add("pod-name", &pod.name);
        add("pod-uid", &pod.uid);
    }
    if let Some(node) = &bound.node {
        add("node-name", &node.name);
        add("node-uid", &node.uid);
    }
    user
}
