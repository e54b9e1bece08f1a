//! Requests that are passed on: to a node's kubelet (log, exec, attach, portforward, node proxy) or to a pod or service.

mod link;
mod links;
mod proxy;
mod socket;
mod target;

use std::sync::Arc;

use corten_api::{Result, Status, Value};
use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use crate::ApiServer;
use crate::body::{Body, boxed, empty};
use crate::call::Call;
use crate::request::RequestInfo;

pub(crate) use link::Kubelets;
use proxy::proxy;
use socket::Socket;
use target::Target;

/// Of a kubelet's error text so much is passed on.
const MAX_ERROR_BYTES: usize = 4096;
/// Headers of one hop, and those that carry the client's identity: they go no further.
const STOP: [&str; 8] = [
    "connection",
    "upgrade",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "authorization",
];

/// Is the request passed on?
pub(crate) fn is_connect(info: &RequestInfo) -> bool {
    matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy" | "log")
}

/// Passes the request on and the answer back.
pub(crate) async fn serve(
    server: &ApiServer,
    call: &Arc<Call>,
    request: Request<Body>,
) -> Result<Response<Body>> {
    let name = call.info.name.as_str();
    match (call.kind.plural.as_ref(), call.info.subresource.as_str()) {
        ("pods", "log") => {
            let mut request = request;
            let socket = Socket::take(&mut request)?;
            let answer = log(server, call, request).await?;
            Ok(match socket {
                Some(socket) => socket.serve(server, answer),
                None => answer,
            })
        }
        ("pods", "exec" | "attach" | "portforward") => {
            let pod = pod(server, call, name).await?;
            let (node, path) = target::stream(call, &pod)?;
            let target = kubelet(server, &node).await?;
            pass(server, target, &path, request, false).await
        }
        ("pods", "proxy") => {
            let (scheme, name, port) = target::split(name);
            let pod = pod(server, call, name).await?;
            let target = target::of_pod(&pod, scheme, port)?;
            proxy(server, call, target, request).await
        }
        ("services", "proxy") => {
            let target = target::of_service(server, call).await?;
            proxy(server, call, target, request).await
        }
        ("nodes", "proxy") => {
            let (_, name, _) = target::split(name);
            let target = kubelet(server, name).await?;
            proxy(server, call, target, request).await
        }
        _ => Err(Status::no_route()),
    }
}

async fn pod(server: &ApiServer, call: &Call, name: &str) -> Result<Value> {
    let found = server.read_internal("pods", &call.info.namespace, name).await?;
    found.ok_or_else(|| Status::not_found(call.resource(), name))
}

/// The kubelet of a node.
async fn kubelet(server: &ApiServer, node: &str) -> Result<Target> {
    if server.kubelets().is_none() {
        return Err(Status::unavailable("this server has no certificate for kubelets"));
    }
    let found = server.read_internal("nodes", "", node).await?;
    let of = corten_api::GroupResource { group: "", resource: "nodes" };
    target::of_node(&found.ok_or_else(|| Status::not_found(of, node))?)
}

async fn log(server: &ApiServer, call: &Call, request: Request<Body>) -> Result<Response<Body>> {
    let pod = pod(server, call, &call.info.name).await?;
    let node = pod.str_at(&["spec", "nodeName"]).to_owned();
    let container = target::container(call, &pod)?;
    if node.is_empty() {
        return Response::builder()
            .header("content-type", "text/plain")
            .body(empty())
            .map_err(Status::internal);
    }
    let path = target::log_path(call, &container)?;
    let target = kubelet(server, &node).await?;
    pass(server, target, &path, request, false).await
}

/// Sends the request to the target. A `plain` one names its host itself, and its answer comes back as it is; of a kubelet's
/// errors a Status is made.
async fn pass(
    server: &ApiServer,
    target: Target,
    path: &str,
    mut request: Request<Body>,
    plain: bool,
) -> Result<Response<Body>> {
    let client = request.extensions_mut().remove::<hyper::upgrade::OnUpgrade>();
    let upgrade = request.headers().get(UPGRADE).cloned();
    let (parts, body) = request.into_parts();
    let mut out = Request::new(body);
    *out.method_mut() = parts.method;
    *out.uri_mut() = path.parse().map_err(|e| Status::bad_request(format!("bad path to pass on: {e}")))?;
    *out.headers_mut() = forwarded(&parts.headers, upgrade.as_ref());
    if !plain {
        let host = HeaderValue::from_str(&target.authority()).map_err(Status::internal)?;
        out.headers_mut().insert(HOST, host);
    }
    let mut response = link::send(server, &target, out).await.map_err(|error| match plain {
        true => Status::unavailable(format!("error trying to reach service: {error}")),
        false => Status::internal(format!("error dialing backend: {error}")),
    })?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let client = client.ok_or_else(|| Status::bad_request("this connection cannot be upgraded"))?;
        let backend = hyper::upgrade::on(&mut response);
        tunnel(server, client, backend);
        return Ok(response.map(|_| empty()));
    }
    if plain || response.status().is_success() {
        let mut response = response.map(boxed);
        drop_hop_headers(response.headers_mut());
        return Ok(response);
    }
    Err(error_of(response).await)
}

fn forwarded(headers: &HeaderMap, upgrade: Option<&HeaderValue>) -> HeaderMap {
    let mut out = HeaderMap::new();
    for (name, value) in headers {
        if !STOP.contains(&name.as_str()) && !name.as_str().starts_with("impersonate-") {
            out.append(name.clone(), value.clone());
        }
    }
    if let Some(upgrade) = upgrade {
        out.insert(UPGRADE, upgrade.clone());
        out.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    out
}

fn drop_hop_headers(headers: &mut HeaderMap) {
    for name in ["connection", "keep-alive", "transfer-encoding", "upgrade"] {
        headers.remove(HeaderName::from_static(name));
    }
}

/// Joins the two upgraded connections until one of them, or the server, ends.
fn tunnel(server: &ApiServer, client: hyper::upgrade::OnUpgrade, backend: hyper::upgrade::OnUpgrade) {
    let ending = server.ending().clone();
    tokio::spawn(async move {
        let (client, backend) = match futures::future::try_join(client, backend).await {
            Ok(both) => both,
            Err(error) => return tracing::debug!(%error, "an upgrade did not come about"),
        };
        tokio::select! {
            ended = corten_streaming::tunnel(TokioIo::new(client), TokioIo::new(backend)) => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a tunnel broke");
                }
            }
            () = ending.cancelled() => {}
        }
    });
}

/// What a kubelet's refusal means to the client.
async fn error_of(response: Response<Incoming>) -> Box<Status> {
    let code = response.status().as_u16();
    let mut text = Vec::new();
    let mut body = response.into_body();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            text.extend_from_slice(&data);
        }
        if text.len() >= MAX_ERROR_BYTES {
            break;
        }
    }
    text.truncate(MAX_ERROR_BYTES);
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    let reason = match code {
        400 => "BadRequest",
        401 | 403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    Status::new(code, reason, if text.is_empty() { format!("the kubelet answered {code}") } else { text })
}
