//! Registry credentials: docker config JSON from Secrets, and which entry of it an image may use.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_cri::v1::AuthConfig;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Map, Value};

use super::reference;

/// Names that all mean Docker Hub.
const HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// One entry of a docker config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    host: String,
    path: String,
    username: String,
    password: String,
}

/// Entries of an image pull Secret (`.dockerconfigjson`, or the older `.dockercfg`). What cannot be read is
/// left out, as upstream does.
pub fn entries(secret: &Secret) -> Vec<Entry> {
    let data = |key: &str| -> Option<Map<String, Value>> {
        let bytes = &secret.data.as_ref()?.get(key)?.0;
        serde_json::from_slice(bytes).ok()
    };
    let auths = match data(".dockerconfigjson") {
        Some(mut config) => match config.remove("auths") {
            Some(Value::Object(auths)) => auths,
            _ => Map::new(),
        },
        None => data(".dockercfg").unwrap_or_default(),
    };
    auths.iter().filter_map(|(server, auth)| entry(server, auth)).collect()
}

fn entry(server: &str, auth: &Value) -> Option<Entry> {
    let (username, password) = credentials(auth)?;
    let bare = server.trim_start_matches("https://").trim_start_matches("http://");
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let path = path.trim_end_matches('/');
    let path = if matches!(path, "v1" | "v2") { "" } else { path };
    Some(Entry { host: canonical(host).to_owned(), path: path.to_owned(), username, password })
}

fn credentials(auth: &Value) -> Option<(String, String)> {
    let text = |name: &str| auth.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let (Some(username), Some(password)) = (text("username"), text("password")) {
        return Some((username.to_owned(), password.to_owned()));
    }
    let decoded = STANDARD.decode(text("auth")?.trim_end_matches('\0')).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (username, password) = decoded.split_once(':')?;
    Some((username.to_owned(), password.trim_end_matches('\0').to_owned()))
}

fn canonical(host: &str) -> &str {
    if HUB.contains(&host) { "docker.io" } else { host }
}

/// The credentials that may be used for `image`, the most specific path first.
pub fn matching(entries: &[Entry], image: &str) -> Vec<AuthConfig> {
    let Ok(image) = reference::parse(image) else { return Vec::new() };
    let registry = canonical(&image.registry);
    let fits = |entry: &&Entry| {
        let path = &entry.path;
        let below = image
            .repository
            .strip_prefix(path.as_str())
            .is_some_and(|rest| path.is_empty() || rest.is_empty() || rest.starts_with('/'));
        host_matches(&entry.host, registry) && below
    };
    let mut found: Vec<&Entry> = entries.iter().filter(fits).collect();
    found.sort_by_key(|entry| std::cmp::Reverse(entry.path.len()));
    found
        .into_iter()
        .map(|entry| AuthConfig {
            username: entry.username.clone(),
            password: entry.password.clone(),
            server_address: registry.to_owned(),
            ..Default::default()
        })
        .collect()
}

/// Whether a host of a config (labels may be `*` patterns) is the image's registry; ports must be equal.
fn host_matches(pattern: &str, registry: &str) -> bool {
    let (pattern_host, pattern_port) = pattern.split_once(':').unwrap_or((pattern, ""));
    let (host, port) = registry.split_once(':').unwrap_or((registry, ""));
    let (patterns, labels): (Vec<&str>, Vec<&str>) =
        (pattern_host.split('.').collect(), host.split('.').collect());
    pattern_port == port
        && patterns.len() == labels.len()
        && patterns.iter().zip(&labels).all(|(pattern, label)| glob(pattern, label))
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => {
            let Some(rest) = text.strip_prefix(before) else { return false };
            (0..=rest.len()).any(|at| rest.is_char_boundary(at) && glob(after, &rest[at..]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use serde_json::json;

    fn secret(config: Value) -> Secret {
        let data = [(".dockerconfigjson".to_owned(), ByteString(config.to_string().into_bytes()))];
        Secret { data: Some(data.into()), ..Secret::default() }
    }

    #[test]
    fn matches() {
        let auth = |user: &str| json!({"auth": STANDARD.encode(format!("{user}:pw:x"))});
        let entries = entries(&secret(json!({"auths": {
            "https://index.docker.io/v1/": auth("hub"),
            "127.0.0.1:5000": {"username": "local", "password": "p"},
            "reg.example/team": auth("team"),
            "reg.example": auth("all"),
            "*.wild.example": auth("wild"),
            "broken": {"auth": "???"}
        }})));
        for (image, users) in [
            ("nginx", vec!["hub"]),
            ("docker.io/library/nginx:1", vec!["hub"]),
            ("127.0.0.1:5000/a", vec!["local"]),
            ("127.0.0.1:5001/a", vec![]),
            ("reg.example/team/app", vec!["team", "all"]),
            ("reg.example/teams/app", vec!["all"]),
            ("x.wild.example/a", vec!["wild"]),
            ("x.y.wild.example/a", vec![]),
        ] {
            let found: Vec<String> = matching(&entries, image).into_iter().map(|a| a.username).collect();
            assert_eq!(found, users, "{image}");
        }
        assert_eq!(matching(&entries, "nginx")[0].password, "pw:x");
    }
}
