//! Kubeconfigs: the one that a user points `kubectl` at, and those of parts that run alone.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::args::KubeconfigArgs;
use crate::layout::Layout;
use crate::pki::{self, Identity, Pair, Pki};

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
    pki::write(path, text(cluster, server, ca_pem, user, client)?.as_bytes(), 0o600)
}

fn text(cluster: &str, server: &str, ca_pem: &str, user: &str, client: &Pair) -> Result<String> {
    let (cert, key) = client.read()?;
    let encode = |text: &str| pki::base64(text);
    let context = format!("{user}@{cluster}");
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": cluster, "cluster": { "server": server, "certificate-authority-data": encode(ca_pem) } }],
        "users": [{ "name": user, "user": { "client-certificate-data": encode(&cert), "client-key-data": encode(&key) } }],
        "contexts": [{ "name": context, "context": { "cluster": cluster, "user": user } }],
        "current-context": context,
    });
    Ok(format!("{config:#}\n"))
}

/// `corten kubeconfig`: the admin's as it is, or one for another user of the same server.
pub fn print(args: &KubeconfigArgs) -> Result<()> {
    let layout = Layout::new(&args.cluster.data_dir())?;
    let path = layout.kubeconfig();
    let admin =
        std::fs::read_to_string(&path).with_context(|| format!("no kubeconfig at {}", path.display()))?;
    let Some(user) = &args.user else {
        print!("{admin}");
        return Ok(());
    };
    let group = args.group.as_deref().unwrap_or_default();
    let file = file_of(user, group)?;
    let pki = Pki::open(&layout.pki())?;
    let client = pki.client(&Identity { file: &file, user, group })?;
    let server = server_of(&admin).with_context(|| format!("{} names no server", path.display()))?;
    print!("{}", text(&args.cluster.name, &server, pki.ca_pem(), user, &client)?);
    Ok(())
}

/// The file of the certificate of a user in a group. Parts of the cluster have their own names; nobody may come near those.
fn file_of(user: &str, group: &str) -> Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '@');
    if user.is_empty() || !user.chars().chain(group.chars()).all(plain) {
        bail!("--user {user} --group {group}: letters, digits and -_.:@ only");
    }
    Ok(format!("user-{user}+{group}"))
}

fn server_of(kubeconfig: &str) -> Option<String> {
    let config: Value = serde_json::from_str(kubeconfig).ok()?;
    Some(config.pointer("/clusters/0/cluster/server")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_and_group_has_its_file() {
        assert_eq!(file_of("system:kube-scheduler", "").unwrap(), "user-system:kube-scheduler+");
        assert_ne!(file_of("jane", "dev").unwrap(), file_of("jane", "ops").unwrap());
        for (user, group) in [("", ""), ("../ca", ""), ("jane", "a/b"), ("a+b", "")] {
            assert!(file_of(user, group).is_err(), "{user} {group}");
        }
    }
}
