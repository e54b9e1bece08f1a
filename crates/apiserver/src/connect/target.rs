//! Where a passed-on request goes: kubelets by their node's status, pods by their IP, services by their endpoints; and
//! how upstream's parameters look on the kubelet's side.

use corten_api::{GroupResource, Result, Status, Value};
use rand::seq::IndexedRandom;

use crate::ApiServer;
use crate::call::Call;
use crate::query::encode;

/// An address to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// IP or host name.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// How.
    pub scheme: Scheme,
}

/// How to talk to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// TLS with the server's kubelet certificate.
    Kubelet,
    /// Plain HTTP.
    Http,
    /// TLS without a client certificate.
    Https,
}

impl Target {
    /// `host:port`
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// `[scheme:]name[:port]`
pub(super) fn split(name: &str) -> (&str, &str, &str) {
    match name.split(':').collect::<Vec<_>>().as_slice() {
        [name] => ("", name, ""),
        [name, port] => ("", name, port),
        [scheme, name, port] => (scheme, name, port),
        _ => ("", name, ""),
    }
}

/// The kubelet of a node: its internal address and the port it reports.
pub(super) fn of_node(node: &Value) -> Result<Target> {
    let addresses = node.items_at(&["status", "addresses"]);
    let by_kind = |kind: &str| addresses.iter().find(|a| a.str_at(&["type"]) == kind);
    let address = ["InternalIP", "Hostname", "InternalDNS", "ExternalIP"].into_iter().find_map(by_kind);
    let name = node.str_at(&["metadata", "name"]);
    let address = address.ok_or_else(|| {
        Status::internal(format!("no preferred addresses found; known addresses: [] of node {name}"))
    })?;
    let port = node.at(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"]).and_then(Value::as_i64);
    let port = port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0).unwrap_or(10250);
    Ok(Target { host: address.str_at(&["address"]).to_owned(), port, scheme: Scheme::Kubelet })
}

/// A pod's own port: the one named, or its first, or 80.
pub(super) fn of_pod(pod: &Value, scheme: &str, port: &str) -> Result<Target> {
    let ip = pod.str_at(&["status", "podIP"]);
    if ip.is_empty() {
        return Err(Status::bad_request("address not allowed"));
    }
    let mut ports = pod.items_at(&["spec", "containers"]).iter().flat_map(|c| c.items_at(&["ports"]));
    let number = match (port, port.parse::<u16>()) {
        ("", _) => ports.next().and_then(|p| p.get("containerPort")).and_then(Value::as_i64).unwrap_or(80),
        (_, Ok(number)) => number.into(),
        (name, Err(_)) => ports
            .find(|p| p.str_at(&["name"]) == name)
            .and_then(|p| p.get("containerPort"))
            .and_then(Value::as_i64)
            .ok_or_else(|| Status::bad_request(format!("pod has no port {name:?}")))?,
    };
    let port = u16::try_from(number).map_err(Status::internal)?;
    Ok(Target { host: ip.to_owned(), port, scheme: scheme_of(scheme)? })
}

fn scheme_of(scheme: &str) -> Result<Scheme> {
    match scheme {
        "" | "http" => Ok(Scheme::Http),
        "https" => Ok(Scheme::Https),
        other => Err(Status::bad_request(format!("invalid scheme {other:?}"))),
    }
}

/// An endpoint behind a service.
pub(super) async fn of_service(server: &ApiServer, call: &Call) -> Result<Target> {
    let (scheme, name, port) = split(&call.info.name);
    let namespace = call.info.namespace.as_str();
    let of = GroupResource { group: "", resource: "services" };
    let service = server.read_internal("services", namespace, name).await?;
    let service = service.ok_or_else(|| Status::not_found(of, name))?;
    let port_name = service_port(&service, port)
        .ok_or_else(|| match port.parse::<u16>() {
            Ok(number) => format!("no service port {number} found for service {name:?}"),
            Err(_) => format!("no endpoints available for service {name:?}"),
        })
        .map_err(Status::unavailable)?;
    let mut ready: Vec<(String, u16)> = Vec::new();
    for entry in server.list_group("discovery.k8s.io", "endpointslices", namespace).await? {
        let slice = server.tree(&entry)?;
        if slice.str_at(&["metadata", "labels", "kubernetes.io/service-name"]) != name {
            continue;
        }
        let port = slice.items_at(&["ports"]).iter().find(|p| p.str_at(&["name"]) == port_name);
        let port =
            port.and_then(|p| p.get("port")).and_then(Value::as_i64).and_then(|p| u16::try_from(p).ok());
        let Some(port) = port else { continue };
        let takes = |e: &&Value| e.at(&["conditions", "ready"]).and_then(Value::as_bool) != Some(false);
        let addresses = slice.items_at(&["endpoints"]).iter().filter(takes);
        let addresses = addresses.filter_map(|e| e.items_at(&["addresses"]).first().and_then(Value::as_str));
        ready.extend(addresses.map(|host| (host.to_owned(), port)));
    }
    if let Some((host, port)) = ready.choose(&mut rand::rng()).cloned() {
        return Ok(Target { host, port, scheme: scheme_of(scheme)? });
    }
    Err(Status::unavailable(format!("no endpoints available for service \"{name}\"")))
}

/// The name of the service's port that is meant by a name or number; a single port needs none.
fn service_port(service: &Value, wanted: &str) -> Option<String> {
    let ports = service.items_at(&["spec", "ports"]);
    let found = match wanted {
        "" if ports.len() == 1 => ports.first(),
        "" => ports.iter().find(|p| p.str_at(&["name"]).is_empty()),
        text => ports.iter().find(|p| {
            p.str_at(&["name"]) == text
                || p.get("port").and_then(Value::as_i64).is_some_and(|n| n.to_string() == text)
        }),
    };
    found.map(|p| p.str_at(&["name"]).to_owned())
}

/// The container that the request means: the one named, or the only one.
///
/// Errors: 400 in upstream's words.
pub(super) fn container(call: &Call, pod: &Value) -> Result<String> {
    let wanted = call.query.str("container");
    let names = |list: &str| -> Vec<&str> {
        pod.items_at(&["spec", list]).iter().map(|c| c.str_at(&["name"])).collect()
    };
    let (containers, init, ephemeral) =
        (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let name = call.info.name.as_str();
    if !wanted.is_empty() {
        let known = [&containers, &init, &ephemeral].iter().any(|list| list.contains(&wanted));
        return match known {
            true => Ok(wanted.to_owned()),
            false => Err(Status::bad_request(format!("container {wanted} is not valid for pod {name}"))),
        };
    }
    if let [only] = containers.as_slice() {
        return Ok((*only).to_owned());
    }
    let list = containers.join(" ");
    let more = match init.is_empty() {
        true => String::new(),
        false => format!(" or one of the init containers: [{}]", init.join(" ")),
    };
    Err(Status::bad_request(format!(
        "a container name must be specified for pod {name}, choose one of: [{list}]{more}"
    )))
}

/// Node and kubelet path of exec, attach and portforward.
pub(super) fn stream(call: &Call, pod: &Value) -> Result<(String, String)> {
    let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
    let node = pod.str_at(&["spec", "nodeName"]);
    let container = match call.info.subresource.as_str() {
        "portforward" => String::new(),
        _ => container(call, pod)?,
    };
    if node.is_empty() {
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let path = match call.info.subresource.as_str() {
        "exec" => format!("/exec/{namespace}/{name}/{container}{}", stream_query(call)),
        "attach" => format!("/attach/{namespace}/{name}/{container}{}", stream_query(call)),
        _ => {
            format!("/portForward/{namespace}/{name}{}", query(call.query.all("ports").map(|p| ("port", p))))
        }
    };
    Ok((node.to_owned(), path))
}

fn stream_query(call: &Call) -> String {
    let streams = [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];
    let wanted =
        streams.into_iter().filter(|(ours, _)| call.query.flag(ours)).map(|(_, theirs)| (theirs, "1"));
    query(wanted.chain(call.query.all("command").map(|c| ("command", c))))
}

fn query<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let pairs: Vec<String> = pairs.map(|(k, v)| format!("{k}={}", encode(v))).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

/// The kubelet's path of a log request.
///
/// Errors: 422 for parameters that contradict each other.
pub(super) fn log_path(call: &Call, container: &str) -> Result<String> {
    use corten_api::field::{Error, Path};
    let q = &call.query;
    if q.get("sinceSeconds").is_some() && q.get("sinceTime").is_some() {
        let error = Error::forbidden(
            &Path::root("sinceSeconds"),
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        );
        return Err(Status::invalid("", "PodLogOptions", &call.info.name, &[error]));
    }
    for field in ["tailLines", "sinceSeconds", "limitBytes"] {
        let least = if field == "tailLines" { 0 } else { 1 };
        let value = q.int(field).map_err(|t| Status::bad_request(format!("{field}: invalid value {t:?}")))?;
        if let Some(bad) = value.filter(|v| *v < least) {
            let why =
                if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
            let error = Error::invalid(&Path::root(field), bad, why);
            return Err(Status::invalid("", "PodLogOptions", &call.info.name, &[error]));
        }
    }
    let flags = ["follow", "previous", "timestamps"].into_iter().filter(|f| q.flag(f)).map(|f| (f, "true"));
    let values = ["sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream"];
    let values = values.into_iter().filter_map(|f| q.get(f).filter(|v| !v.is_empty()).map(|v| (f, v)));
    let (namespace, name) = (&call.info.namespace, &call.info.name);
    Ok(format!("/containerLogs/{namespace}/{name}/{container}{}", query(flags.chain(values))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &'static str) -> Value {
        crate::decode::json(text.into()).unwrap()
    }

    #[test]
    fn names_with_scheme_and_port() {
        assert_eq!(split("a"), ("", "a", ""));
        assert_eq!(split("a:80"), ("", "a", "80"));
        assert_eq!(split("https:a:443"), ("https", "a", "443"));
    }

    #[test]
    fn where_kubelets_are() {
        let node = json(
            r#"{"status":{"addresses":[{"type":"Hostname","address":"n"},{"type":"InternalIP","address":"10.0.0.1"}],
            "daemonEndpoints":{"kubeletEndpoint":{"Port":1234}}}}"#,
        );
        assert_eq!(of_node(&node).unwrap().authority(), "10.0.0.1:1234");
        assert!(of_node(&json("{}")).is_err());
    }

    #[test]
    fn ports_of_pods_and_services() {
        let pod = json(
            r#"{"status":{"podIP":"10.1.1.1"},"spec":{"containers":[{"ports":[{"name":"web","containerPort":8080}]}]}}"#,
        );
        assert_eq!(of_pod(&pod, "", "").unwrap().port, 8080);
        assert_eq!(of_pod(&pod, "", "web").unwrap().port, 8080);
        assert_eq!(of_pod(&pod, "https", "9").unwrap().scheme, Scheme::Https);
        assert!(of_pod(&pod, "", "nope").is_err());
        let service = json(r#"{"spec":{"ports":[{"name":"a","port":1},{"name":"b","port":2}]}}"#);
        assert_eq!(service_port(&service, "2").as_deref(), Some("b"));
        assert_eq!(service_port(&service, ""), None);
    }
}
