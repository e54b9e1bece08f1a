//! Where an HTTP probe goes on to: redirects on the same host are followed, others end the probe, as upstream.

use http::Uri;

use super::check::HttpTarget;

/// Redirects that one probe follows at most.
pub const MAX_REDIRECTS: usize = 10;

/// Whether an answer of this status sends its reader to its Location.
pub fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// The place that `location` names, seen from `from`; `None` when it is no place for HTTP.
pub fn follow(from: &HttpTarget, location: &str) -> Option<HttpTarget> {
    let location = location.split('#').next().unwrap_or_default();
    let scheme = if from.tls { "https" } else { "http" };
    let whole = match location {
        "" => return Some(from.clone()),
        _ if location.starts_with("//") => format!("{scheme}:{location}"),
        _ if location.contains("://") && !location.starts_with(['/', '?']) => location.to_owned(),
        _ => return Some(HttpTarget { path: joined(&from.path, location), ..from.clone() }),
    };
    let uri: Uri = whole.parse().ok()?;
    let tls = match uri.scheme_str()? {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Some(HttpTarget { tls, host, port, path: path.to_owned(), headers: from.headers.clone() })
}

/// A path of the same server: absolute, a query of the same path, or relative to its directory.
fn joined(path: &str, location: &str) -> String {
    let plain = path.split('?').next().unwrap_or("/");
    if location.starts_with('/') {
        return location.to_owned();
    }
    if location.starts_with('?') {
        return format!("{plain}{location}");
    }
    let dir = plain.rfind('/').map_or("", |slash| &plain[..slash]);
    format!("{dir}/{location}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let from = HttpTarget {
            tls: false,
            host: "10.0.0.2".into(),
            port: 8080,
            path: "/a/b?x=1".into(),
            headers: vec![],
        };
        for (location, expected) in [
            ("/ok", Some("http://10.0.0.2:8080/ok")),
            ("/ok?u=http://x/", Some("http://10.0.0.2:8080/ok?u=http://x/")),
            ("ok#part", Some("http://10.0.0.2:8080/a/ok")),
            ("?y", Some("http://10.0.0.2:8080/a/b?y")),
            ("", Some("http://10.0.0.2:8080/a/b?x=1")),
            ("//10.0.0.2/ok", Some("http://10.0.0.2:80/ok")),
            ("https://[fd00::1]", Some("https://[fd00::1]:443/")),
            ("http://0.0.0.0:90/x", Some("http://0.0.0.0:90/x")),
            ("ftp://10.0.0.2/", None),
            ("http://a b/", None),
        ] {
            let found = follow(&from, location).map(|target| target.url());
            assert_eq!(found.as_deref(), expected, "{location}");
        }
    }
}
