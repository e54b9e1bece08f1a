//! The part of a kubeconfig that says where the server is and who we are: certificates or a token.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;

/// A context, with everything it names read in.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// `https://host:port`
    pub server: String,
    /// The name in the server's certificate when it is not the host.
    pub server_name: Option<String>,
    /// PEM certificates to trust.
    pub ca: Option<Vec<u8>>,
    /// PEM certificate and key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    pub token: Option<String>,
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "current-context", default)]
    current_context: String,
    #[serde(default)]
    contexts: Vec<Named>,
    #[serde(default)]
    clusters: Vec<Named>,
    #[serde(default)]
    users: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    #[serde(default)]
    context: ContextBody,
    #[serde(default)]
    cluster: ClusterBody,
    #[serde(default)]
    user: UserBody,
}

#[derive(Clone, Default, Deserialize)]
struct ContextBody {
    #[serde(default)]
    cluster: String,
    #[serde(default)]
    user: String,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ClusterBody {
    #[serde(default)]
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    tls_server_name: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct UserBody {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
}

/// Reads a kubeconfig; `context` overrides its current one.
pub fn read(path: &Path, context: Option<&str>) -> Result<Credentials> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    parse(&text, context, dir).with_context(|| format!("in {}", path.display()))
}

fn parse(text: &str, context: Option<&str>, dir: &Path) -> Result<Credentials> {
    let file: File = serde_saphyr::from_str(text)?;
    let name = context.unwrap_or(&file.current_context);
    let context = &find(&file.contexts, "context", name)?.context;
    let cluster = &find(&file.clusters, "cluster", &context.cluster)?.cluster;
    let user = &find(&file.users, "user", &context.user)?.user;
    if cluster.insecure_skip_tls_verify {
        bail!("insecure-skip-tls-verify is not supported, name the certificate authority");
    }
    let certificate = bytes(&user.client_certificate_data, &user.client_certificate, dir)?;
    let key = bytes(&user.client_key_data, &user.client_key, dir)?;
    let token_file =
        user.token_file.as_ref().map(|path| std::fs::read_to_string(dir.join(path))).transpose()?;
    Ok(Credentials {
        server: cluster.server.clone(),
        server_name: cluster.tls_server_name.clone(),
        ca: bytes(&cluster.certificate_authority_data, &cluster.certificate_authority, dir)?,
        identity: certificate.zip(key),
        token: user.token.clone().or(token_file.map(|token| token.trim().to_owned())),
    })
}

fn find<'a>(list: &'a [Named], what: &str, name: &str) -> Result<&'a Named> {
    list.iter().find(|named| named.name == name).with_context(|| format!("there is no {what} {name:?}"))
}

/// Inline data (base64) before a file, as kubectl does.
fn bytes(data: &Option<String>, path: &Option<PathBuf>, dir: &Path) -> Result<Option<Vec<u8>>> {
    match (data, path) {
        (Some(data), _) => Ok(Some(STANDARD.decode(data.trim())?)),
        (None, Some(path)) => {
            let path = dir.join(path);
            Ok(Some(std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?))
        }
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "
apiVersion: v1
kind: Config
current-context: a
contexts:
- {name: a, context: {cluster: one, user: certs}}
- {name: b, context: {cluster: one, user: token, namespace: x}}
clusters:
- {name: one, cluster: {server: 'https://127.0.0.1:6443', certificate-authority-data: Q0E=}}
users:
- {name: certs, user: {client-certificate-data: QQ==, client-key-data: Qg==}}
- {name: token, user: {token: secret}}
";

    #[test]
    fn a_context_names_server_and_identity() {
        let current = parse(TWO, None, Path::new(".")).unwrap();
        assert_eq!(current.server, "https://127.0.0.1:6443");
        assert_eq!(current.ca.as_deref(), Some(&b"CA"[..]));
        assert_eq!(current.identity, Some((b"A".to_vec(), b"B".to_vec())));
        let other = parse(TWO, Some("b"), Path::new(".")).unwrap();
        assert_eq!((other.token.as_deref(), other.identity), (Some("secret"), None));
        assert!(parse(TWO, Some("c"), Path::new(".")).unwrap_err().to_string().contains("no context \"c\""));
    }
}
