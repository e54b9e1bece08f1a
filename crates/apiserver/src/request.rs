//! What a method and a path mean: verb, resource, namespace, name, subresource. Upstream's RequestInfo.

use http::Method;

use crate::query::{Query, decode};

/// The parsed request line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Does the path name a resource (rather than `/healthz`, `/apis`, …)?
    pub is_resource: bool,
    /// The decoded path.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for other paths the method in lower case.
    pub verb: &'static str,
    /// API group, `""` for core.
    pub group: String,
    /// Version in that group.
    pub version: String,
    /// Namespace, `""` for none.
    pub namespace: String,
    /// Plural resource name.
    pub resource: String,
    /// Subresource, `""` for none.
    pub subresource: String,
    /// Name of the object, `""` for none. For list and watch: the name a field selector asks for.
    pub name: String,
    /// Does the path itself name an object?
    pub has_name: bool,
    /// The path behind the subresource, undecoded, with its leading slash; only proxies use it.
    pub tail: String,
}

const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    /// Reads the request line.
    pub fn new(method: &Method, raw_path: &str, query: &Query) -> Self {
        let mut info =
            RequestInfo { path: decode(raw_path, false), verb: plain_verb(method), ..Default::default() };
        let segments: Vec<&str> = raw_path.split('/').filter(|s| !s.is_empty()).collect();
        let rest = match segments.as_slice() {
            ["api", version, rest @ ..] => {
                info.version = decode(version, false);
                rest
            }
            ["apis", group, version, rest @ ..] => {
                info.group = decode(group, false);
                info.version = decode(version, false);
                rest
            }
            _ => return info,
        };
        let legacy_watch = rest.len() > 1 && rest[0] == "watch";
        let rest = if legacy_watch { &rest[1..] } else { rest };
        if rest.is_empty() {
            return info;
        }
        info.is_resource = true;
        info.read_resource(rest);
        info.verb = resource_verb(method, &info, legacy_watch, query);
        info.name_from_selector(query);
        info
    }

    fn read_resource(&mut self, segments: &[&str]) {
        let mut segments = segments;
        if segments[0] == "namespaces" && segments.len() > 1 {
            self.namespace = decode(segments[1], false);
            if segments.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&segments[2]) {
                segments = &segments[2..];
            }
        }
        self.resource = decode(segments[0], false);
        if let Some(name) = segments.get(1) {
            self.name = decode(name, false);
            self.has_name = true;
        }
        if let Some(subresource) = segments.get(2) {
            self.subresource = decode(subresource, false);
        }
        for segment in segments.iter().skip(3) {
            self.tail.push('/');
            self.tail.push_str(segment);
        }
        if self.has_trailing_slash(segments.len()) {
            self.tail.push('/');
        }
    }

    fn has_trailing_slash(&self, segments: usize) -> bool {
        segments > 2 && self.path.ends_with('/')
    }

    fn name_from_selector(&mut self, query: &Query) {
        let selects = ["list", "watch", "deletecollection"].contains(&self.verb) && !self.has_name;
        if !selects {
            return;
        }
        let wanted = query.str("fieldSelector").split(',').find_map(|term| {
            let value = term.trim().strip_prefix("metadata.name=")?;
            Some(value.strip_prefix('=').unwrap_or(value))
        });
        self.name = wanted.unwrap_or_default().to_owned();
    }

    /// Does the request stay open (watch, log, exec …)? Such requests have no time limit and no in-flight slot.
    pub fn long_running(&self) -> bool {
        self.verb == "watch"
            || (!self.is_resource && self.path.starts_with("/debug/pprof/"))
            || matches!(self.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy" | "log")
    }

    /// Does it only read?
    pub fn read_only(&self) -> bool {
        matches!(self.verb, "get" | "list" | "watch" | "head" | "options")
    }

    /// `pods/log`, as rules name it.
    pub fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

fn plain_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::HEAD => "head",
        Method::OPTIONS => "options",
        _ => "",
    }
}

fn resource_verb(method: &Method, info: &RequestInfo, legacy_watch: bool, query: &Query) -> &'static str {
    match *method {
        Method::GET | Method::HEAD if legacy_watch => "watch",
        Method::GET | Method::HEAD if info.has_name && !info.subresource.is_empty() => "get",
        Method::GET | Method::HEAD if info.has_name => "get",
        Method::GET | Method::HEAD if query.flag("watch") => "watch",
        Method::GET | Method::HEAD => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if info.has_name => "delete",
        Method::DELETE => "deletecollection",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(method: Method, uri: &str) -> String {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let i = RequestInfo::new(&method, path, &Query::parse(Some(query)));
        if !i.is_resource {
            return format!("{} {}", i.verb, i.path);
        }
        format!(
            "{} g={} v={} ns={} {} name={} tail={}",
            i.verb,
            i.group,
            i.version,
            i.namespace,
            i.full_resource(),
            i.name,
            i.tail
        )
    }

    #[test]
    fn upstream_table() {
        let get = |uri| line(Method::GET, uri);
        assert_eq!(get("/api/v1/namespaces"), "list g= v=v1 ns= namespaces name= tail=");
        assert_eq!(get("/api/v1/namespaces/other"), "get g= v=v1 ns=other namespaces name=other tail=");
        assert_eq!(get("/api/v1/namespaces/other/pods"), "list g= v=v1 ns=other pods name= tail=");
        assert_eq!(get("/api/v1/namespaces/other/pods?watch=1"), "watch g= v=v1 ns=other pods name= tail=");
        assert_eq!(
            get("/api/v1/namespaces/other/pods/foo/log"),
            "get g= v=v1 ns=other pods/log name=foo tail="
        );
        assert_eq!(
            line(Method::PUT, "/api/v1/namespaces/other/finalize"),
            "update g= v=v1 ns=other namespaces/finalize name=other tail="
        );
        assert_eq!(
            line(Method::DELETE, "/apis/apps/v1/namespaces/a/deployments"),
            "deletecollection g=apps v=v1 ns=a deployments name= tail="
        );
        assert_eq!(
            line(Method::POST, "/apis/apps/v1/namespaces/a/deployments/d/scale"),
            "create g=apps v=v1 ns=a deployments/scale name=d tail="
        );
        assert_eq!(
            get("/api/v1/namespaces/a/pods/p/proxy/x%2Fy/z/"),
            "get g= v=v1 ns=a pods/proxy name=p tail=/x%2Fy/z/"
        );
        assert_eq!(get("/api/v1/watch/pods"), "watch g= v=v1 ns= pods name= tail=");
        assert_eq!(get("/api/v1/pods?fieldSelector=metadata.name%3Dx"), "list g= v=v1 ns= pods name=x tail=");
        assert_eq!(get("/apis/apps"), "get /apis/apps");
        assert_eq!(get("/apis/apps/v1"), "get /apis/apps/v1");
        assert_eq!(get("/healthz"), "get /healthz");
    }
}
