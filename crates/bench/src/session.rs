//! One run against one server: a namespace of its own, made at the beginning and removed at the end.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::json;

use crate::{
    args::Target,
    http::{Connection, Endpoint},
    kubeconfig,
    process::{Usage, usage},
};

/// Pods need the namespace's default service account; where no controller makes it, none is needed either.
const SERVICE_ACCOUNT_WAIT: Duration = Duration::from_secs(3);

/// How long a namespace may take to go away.
const REMOVAL_WAIT: Duration = Duration::from_secs(90);

/// Between two looks at something that has no watch worth opening.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A server and our place in it.
#[derive(Clone)]
pub struct Session {
    pub endpoint: Arc<Endpoint>,
    pub namespace: String,
    server_pids: Vec<u32>,
    bare: bool,
    /// Origin of the times that objects carry.
    started: Instant,
}

impl Session {
    /// Connects and makes the namespace.
    pub async fn open(target: &Target) -> Result<Self> {
        let path = target.kubeconfig.as_deref().context("which server? --kubeconfig is missing")?;
        let endpoint = Endpoint::new(&kubeconfig::read(path, target.context.as_deref())?)?;
        let namespace = target.namespace.clone();
        let namespace = namespace.unwrap_or_else(|| format!("corten-bench-{}", std::process::id()));
        let server_pids = target.server_pids.clone();
        let session = Self { endpoint, namespace, server_pids, bare: target.bare, started: Instant::now() };
        session.make_namespace().await?;
        Ok(session)
    }

    /// Time since the run began.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// What the server's processes have used up to now; `None` when they are not known.
    pub fn usage(&self) -> Option<Usage> {
        (!self.server_pids.is_empty()).then(|| usage(&self.server_pids))
    }

    /// URL path of a resource in our namespace.
    pub fn path(&self, plural: &str) -> String {
        format!("/api/v1/namespaces/{}/{plural}", self.namespace)
    }

    async fn make_namespace(&self) -> Result<()> {
        let mut connection = self.endpoint.connect().await.context("cannot reach the server")?;
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}});
        let body = Some(Bytes::from(body.to_string()));
        connection
            .send(Method::POST, "/api/v1/namespaces", body)
            .await?
            .ok()
            .context("cannot make the namespace")?;
        if self.bare {
            let accounts = self.path("serviceaccounts");
            let account =
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
            let account = Some(Bytes::from(account.to_string()));
            connection.send(Method::POST, &accounts, account).await?.ok().context("service account")?;
            return Ok(());
        }
        let account = self.path("serviceaccounts/default");
        let made = |status: StatusCode| status.is_success();
        self.wait(&mut connection, &account, SERVICE_ACCOUNT_WAIT, made).await?;
        Ok(())
    }

    /// Removes everything this run has made.
    pub async fn close(self) -> Result<()> {
        let mut connection = self.endpoint.connect().await?;
        for plural in ["pods", "configmaps"] {
            let path = format!("{}?gracePeriodSeconds=0", self.path(plural));
            connection
                .send(Method::DELETE, &path, None)
                .await?
                .ok()
                .with_context(|| format!("cannot remove {plural}"))?;
        }
        let path = format!("/api/v1/namespaces/{}", self.namespace);
        connection.send(Method::DELETE, &path, None).await?.ok().context("cannot remove the namespace")?;
        if self.bare {
            // Without controllers nobody ends it.
            return Ok(());
        }
        let gone = |status: StatusCode| status == StatusCode::NOT_FOUND;
        if !self.wait(&mut connection, &path, REMOVAL_WAIT, gone).await? {
            eprintln!("namespace {} is still there, the server has been asked to remove it", self.namespace);
        }
        Ok(())
    }

    async fn wait(
        &self,
        connection: &mut Connection,
        path: &str,
        at_most: Duration,
        done: impl Fn(StatusCode) -> bool,
    ) -> Result<bool> {
        let begun = Instant::now();
        while begun.elapsed() < at_most {
            if done(connection.send(Method::GET, path, None).await?.status) {
                return Ok(true);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(false)
    }
}
