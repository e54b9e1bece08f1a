//! exec, attach and port-forward: the runtime hands out a URL of its streaming server, and the client's
//! upgraded connection is joined to it byte for byte.

use http::header::HOST;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_cri::v1::{AttachRequest, ExecRequest};
use tokio::net::TcpStream;

use super::query::Query;
use super::{Body, Context, text};
use crate::cri::CriError;
use crate::pod::observed::{Container, Observed, State};
use crate::pod::spec;

type Answer = Result<Response<Body>, Response<Body>>;

fn merged(answer: Answer) -> Response<Body> {
    answer.unwrap_or_else(|refusal| refusal)
}

fn runtime_error(error: &CriError) -> Response<Body> {
    text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// What the runtime has of the pod.
async fn observed(context: &Context, namespace: &str, pod: &str) -> Result<Observed, Response<Body>> {
    let found = context.manager.find(namespace, pod);
    let found = found.ok_or_else(|| text(StatusCode::NOT_FOUND, "pod does not exist"))?;
    Observed::load(&context.host.cri, spec::uid(&found)).await.map_err(|error| runtime_error(&error))
}

async fn running(
    context: &Context,
    (namespace, pod, container): (&str, &str, &str),
) -> Result<Container, Response<Body>> {
    let observed = observed(context, namespace, pod).await?;
    let found = observed.latest(container).filter(|c| c.state == State::Running).cloned();
    let missing = || text(StatusCode::NOT_FOUND, format!("container not found (\"{container}\")"));
    found.ok_or_else(missing)
}

/// Runs a command in a container.
pub async fn exec(
    context: &Context,
    whose: (&str, &str, &str),
    query: &Query,
    request: Request<Incoming>,
) -> Response<Body> {
    let run = async {
        let container = running(context, whose).await?;
        let tty = query.flag("tty");
        let wanted = ExecRequest {
            container_id: container.id,
            cmd: query.all("command"),
            tty,
            stdin: query.flag("input") || query.flag("stdin"),
            stdout: query.flag("output") || query.flag("stdout"),
            stderr: (query.flag("error") || query.flag("stderr")) && !tty,
        };
        let url = context.host.cri.exec(wanted).await.map_err(|error| runtime_error(&error))?;
        join(&url, request).await
    };
    merged(run.await)
}

/// Connects to a container's main process.
pub async fn attach(
    context: &Context,
    whose: (&str, &str, &str),
    query: &Query,
    request: Request<Incoming>,
) -> Response<Body> {
    let run = async {
        let container = running(context, whose).await?;
        let pod = context.manager.find(whose.0, whose.1);
        let tty = pod
            .as_ref()
            .and_then(|pod| spec::container(pod, whose.2))
            .is_some_and(|(_, c)| c.tty == Some(true));
        let wanted = AttachRequest {
            container_id: container.id,
            stdin: query.flag("input") || query.flag("stdin"),
            tty,
            stdout: query.flag("output") || query.flag("stdout"),
            stderr: (query.flag("error") || query.flag("stderr")) && !tty,
        };
        let url = context.host.cri.attach(wanted).await.map_err(|error| runtime_error(&error))?;
        join(&url, request).await
    };
    merged(run.await)
}

/// Connects to ports of a pod.
pub async fn port_forward(
    context: &Context,
    (namespace, pod): (&str, &str),
    query: &Query,
    request: Request<Incoming>,
) -> Response<Body> {
    let run = async {
        let observed = observed(context, namespace, pod).await?;
        let missing = || text(StatusCode::NOT_FOUND, "pod has no running sandbox");
        let sandbox = observed.ready_sandbox().ok_or_else(missing)?;
        let listed = query.all("port").join(",");
        let ports = listed.split(',').filter_map(|port| port.trim().parse().ok()).collect();
        let url =
            context.host.cri.port_forward(&sandbox.id, ports).await.map_err(|error| runtime_error(&error))?;
        join(&url, request).await
    };
    merged(run.await)
}

/// Sends the client's request on to `url`; when both sides switch protocols, copies between them.
async fn join(url: &str, mut request: Request<Incoming>) -> Answer {
    let failed =
        |error: &dyn std::fmt::Display| text(StatusCode::BAD_GATEWAY, format!("streaming server: {error}"));
    let url: Uri = url.parse().map_err(|error: http::uri::InvalidUri| failed(&error))?;
    let authority = url.authority().map(ToString::to_string).unwrap_or_default();
    let stream = TcpStream::connect(&authority).await.map_err(|error| failed(&error))?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    tokio::spawn(connection.with_upgrades());
    let client = hyper::upgrade::on(&mut request);
    let onward = rewritten(&url, &authority, request).map_err(|error| failed(&error))?;
    let mut answer = sender.send_request(onward).await.map_err(|error| failed(&error))?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let backend = hyper::upgrade::on(&mut answer);
        tokio::spawn(async move {
            let (Ok(client), Ok(backend)) = tokio::join!(client, backend) else { return };
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            let _ = tokio::io::copy_bidirectional(&mut client, &mut backend).await;
            drop(sender);
        });
    }
    Ok(answer.map(|body| body.map_err(std::io::Error::other).boxed()))
}

fn rewritten(
    url: &Uri,
    authority: &str,
    request: Request<Incoming>,
) -> Result<Request<Incoming>, http::Error> {
    let (head, body) = request.into_parts();
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut onward = Request::builder().method(head.method).uri(path);
    if let Some(headers) = onward.headers_mut() {
        *headers = head.headers;
        headers.insert(HOST, http::HeaderValue::from_str(authority)?);
    }
    onward.body(body)
}
