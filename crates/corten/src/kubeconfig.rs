//! The kubeconfig that a user points `kubectl` at.

use std::path::Path;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::pki::{self, Pair};

/// Writes a kubeconfig with everything in it (no paths), readable by its owner only. JSON is YAML, and `kubectl config`
/// rewrites it in its own style as soon as it changes something.
pub fn write(
    path: &Path,
    cluster: &str,
    server: &str,
    ca_pem: &str,
    user: &str,
    client: &Pair,
) -> Result<()> {
    let (cert, key) = client.read()?;
    let encode = |text: &str| STANDARD.encode(text);
    let context = format!("{user}@{cluster}");
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": cluster, "cluster": { "server": server, "certificate-authority-data": encode(ca_pem) } }],
        "users": [{ "name": user, "user": { "client-certificate-data": encode(&cert), "client-key-data": encode(&key) } }],
        "contexts": [{ "name": context, "context": { "cluster": cluster, "user": user } }],
        "current-context": context,
    });
    pki::write(path, format!("{config:#}\n").as_bytes(), 0o600)
}
