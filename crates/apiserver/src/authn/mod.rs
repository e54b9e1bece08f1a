//! Who asks: client certificate, static token, bootstrap token, service account token, or nobody.

mod bootstrap;
mod impersonation;
mod jwks;
mod keys;
pub mod token;
mod x509;

use std::sync::Arc;

use corten_api::{Result, Status};
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::ApiServer;
use crate::user::User;

pub(crate) use x509::{ClientCerts, Shown};

/// How a request reached the server.
#[derive(Clone, Debug)]
pub enum Peer {
    /// Over a connection; the user of its client certificate, if it showed one.
    Network(Option<Arc<User>>),
    /// Over a connection, with a client certificate that is not ours or not valid now.
    Stranger,
    /// From a component in this process, already known.
    InProcess(Arc<User>),
}

/// Paths that need no identity, as upstream opens them.
const PUBLIC: [&str; 5] = ["/healthz", "/livez", "/readyz", "/version", "/version/"];

/// May anybody read this path?
pub fn is_public(path: &str) -> bool {
    PUBLIC.contains(&path) || ["/healthz/", "/livez/", "/readyz/"].iter().any(|p| path.starts_with(p))
}

impl ApiServer {
    /// Finds out who asks. A token or a certificate that is there but wrong is an error even where nobody would do.
    ///
    /// Errors: 401.
    pub(crate) async fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        path: &str,
    ) -> Result<Arc<User>> {
        match peer {
            Peer::InProcess(user) => return Ok(user.clone()),
            Peer::Network(Some(user)) => return Ok(user.clone()),
            Peer::Network(None) | Peer::Stranger => {}
        }
        let nobody = matches!(peer, Peer::Network(None));
        match bearer(headers) {
            Some(token) => self.authenticate_token(token).await.ok_or_else(Status::unauthorized),
            None if nobody && (self.config().anonymous || is_public(path)) => Ok(Arc::new(User::anonymous())),
            None => Err(Status::unauthorized()),
        }
    }

    /// The user of a bearer token: static tokens first, then bootstrap tokens, then service accounts.
    pub(crate) async fn authenticate_token(&self, token: &str) -> Option<Arc<User>> {
        let fixed = self.config().static_tokens.iter().find(|(t, _)| constant_time_eq(t, token));
        if let Some((_, user)) = fixed {
            return Some(Arc::new(user.clone()));
        }
        if let Some(user) = self.authenticate_bootstrap_token(token).await {
            return Some(Arc::new(user));
        }
        let review = self.review_account_token(token, &[]).await.ok()?;
        Some(Arc::new(review.user))
    }
}

fn constant_time_eq(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
}

/// The bearer token of a request. WebSocket clients in browsers cannot set headers and use a subprotocol instead.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
