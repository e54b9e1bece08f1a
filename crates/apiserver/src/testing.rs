//! An API server in this process over a store in a temporary directory, for tests here and in other rooms.

use std::sync::Arc;

use corten_store::{Embedded, Options};
use http::Request;
use http_body_util::BodyExt;
use serde_json::Value as Json;

use crate::authn::Peer;
use crate::body::full;
use crate::user::{MASTERS, User};
use crate::{ApiServer, Config};

/// A running server; the directory goes when it is dropped.
pub struct TestServer {
    /// The server.
    pub api: ApiServer,
    _dir: tempfile::TempDir,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub code: u16,
    /// Headers.
    pub headers: http::HeaderMap,
    /// The body.
    pub text: String,
}

impl Answer {
    /// The body as JSON, `null` when it is none.
    pub fn json(&self) -> Json {
        serde_json::from_str(&self.text).unwrap_or(Json::Null)
    }
}

impl TestServer {
    /// Starts one with defaults and its bootstrap objects.
    pub async fn start() -> TestServer {
        Self::start_with(|_| {}).await
    }

    /// Starts one with a changed configuration.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> TestServer {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Embedded::open(Options::new(dir.path())).expect("a new store opens");
        let mut config = Config::new(Arc::new(store));
        // An address for documentation; nothing connects to it.
        config.advertise_address = Some(std::net::Ipv4Addr::new(192, 0, 2, 1).into());
        change(&mut config);
        let api = ApiServer::new(config).expect("the test configuration is good");
        api.bootstrap().await.expect("a new store can be filled");
        TestServer { api, _dir: dir }
    }

    /// Asks as a cluster admin.
    pub async fn ask(&self, method: &str, path: &str, body: impl Into<String>) -> Answer {
        self.ask_as(User::new("kubernetes-admin", [MASTERS]), method, path, &[], body).await
    }

    /// Asks with headers, as a cluster admin.
    pub async fn ask_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<String>,
    ) -> Answer {
        self.ask_as(User::new("kubernetes-admin", [MASTERS]), method, path, headers, body).await
    }

    /// Asks as anybody.
    pub async fn ask_as(
        &self,
        user: User,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<String>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(full(body.into())).expect("test requests are well-formed");
        let response = self.api.handle(request, Peer::InProcess(user.into())).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        Answer {
            code: parts.status.as_u16(),
            headers: parts.headers,
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }
    }
}
