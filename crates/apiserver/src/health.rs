//! Everything that is no resource: discovery, OpenAPI, version, health, metrics, the list of paths.

use std::sync::atomic::Ordering;

use corten_api::{Object, Result, Status, Value, discovery};
use http::header::IF_NONE_MATCH;
use http::request::Parts;
use http::{Method, Response, StatusCode};

use crate::body::{self, Body};
use crate::media::{self, Answer};
use crate::query::Query;
use crate::request::RequestInfo;
use crate::{ApiServer, VERSION, encode, metrics, pipeline};

/// Answers a GET or HEAD of a path.
///
/// Errors: 404, 405.
pub(crate) async fn serve_path(
    server: &ApiServer,
    head: &Parts,
    info: &RequestInfo,
    query: &Query,
) -> Result<Response<Body>> {
    let answer = read_path(server, head, info, query).await?;
    let is_refused = head.method == Method::HEAD && !takes_head(&info.path, &pipeline::accept(&head.headers));
    if is_refused { Err(Status::no_method()) } else { Ok(answer) }
}

/// Upstream has routes for GET alone where it describes the API; all else answers HEAD too.
fn takes_head(path: &str, accept: &str) -> bool {
    match path.trim_matches('/') {
        "api" | "apis" => wants_aggregated(accept),
        path => {
            !matches!(path.split('/').next(), Some("api" | "apis" | "version" | ".well-known" | "openid"))
        }
    }
}

async fn read_path(
    server: &ApiServer,
    head: &Parts,
    info: &RequestInfo,
    query: &Query,
) -> Result<Response<Body>> {
    let (path, accept) = (info.path.as_str(), pipeline::accept(&head.headers));
    let (accept, known_tag) = (accept.as_str(), pipeline::header(&head.headers, &IF_NONE_MATCH));
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    if !pipeline::is_read(&head.method) {
        return Err(if known(&segments) { Status::no_method() } else { Status::no_path() });
    }
    let kinds = server.kinds().snapshot();
    match segments.as_slice() {
        [] => encode::document(media::negotiate(accept, false).unwrap_or_default(), &paths(server)),
        ["api"] | ["apis"] => {
            let legacy = segments == ["api"];
            if wants_aggregated(accept) {
                return aggregated(&discovery::aggregated(&kinds, legacy), known_tag);
            }
            let address = server.public_address().to_string();
            let value =
                if legacy { discovery::api_versions(&address) } else { discovery::group_list(&kinds) };
            if legacy { document(accept, &value) } else { plain_document(accept, &value) }
        }
        ["api", version] => {
            let list = discovery::resource_list(&kinds, "", version).ok_or_else(Status::no_route)?;
            document(accept, &list)
        }
        ["apis", group] => {
            plain_document(accept, &discovery::group(&kinds, group).ok_or_else(Status::no_path)?)
        }
        ["apis", group, version] => {
            let is_group = discovery::group(&kinds, group).is_some();
            let none = || if is_group { Status::no_route() } else { Status::no_path() };
            let list = discovery::resource_list(&kinds, group, version).ok_or_else(none)?;
            document(accept, &list)
        }
        ["version"] => {
            // Written as JSON alone.
            let other = |_| Status::no_representation(&["application/json"]);
            media::negotiate(accept, true).map_err(other)?;
            encode::document(media::Answer::default(), &version())
        }
        ["metrics"] => text("text/plain; version=0.0.4; charset=utf-8", metrics::text(server)),
        ["openapi", rest @ ..] => crate::openapi::serve(server, rest, accept, known_tag, query),
        [".well-known", "openid-configuration"] => {
            for_others("application/json", &openid_configuration(server))
        }
        ["openid", "v1", "jwks"] => for_others("application/jwk-set+json", &key_set(server)),
        [probe @ ("healthz" | "livez" | "readyz"), check @ ..] => health(server, probe, check, query).await,
        _ => Err(Status::no_path()),
    }
}

fn known(segments: &[&str]) -> bool {
    matches!(
        segments.first(),
        Some(
            &("api" | "apis" | "version" | "openapi" | "openid" | "healthz" | "livez" | "readyz" | "metrics")
        )
    )
}

fn document(accept: &str, value: &Value) -> Result<Response<Body>> {
    encode::document(media::negotiate(accept, false)?, value)
}

/// The same for documents of the aggregator, which negotiates by itself.
fn plain_document(accept: &str, value: &Value) -> Result<Response<Body>> {
    document(accept, value)
        .map_err(|e| if e.code == 406 { Status::not_acceptable(media::ACCEPTED) } else { e })
}

/// Does the client prefer the aggregated form of discovery?
fn wants_aggregated(accept: &str) -> bool {
    accept.split(',').any(|clause| {
        let clause = clause.replace(' ', "");
        clause.starts_with("application/json")
            && clause.contains("g=apidiscovery.k8s.io")
            && clause.contains("v=v2")
            && !clause.contains("v=v2beta1")
            && clause.contains("as=APIGroupDiscoveryList")
    })
}

/// The document under its hash, or 304 to a client that has it. As upstream, `If-None-Match` must be this one tag.
fn aggregated(value: &Value, known_tag: &str) -> Result<Response<Body>> {
    let bytes = encode::to_bytes(Answer::default(), value)?;
    let hash = ring::digest::digest(&ring::digest::SHA512, &bytes);
    let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    let tag = format!("\"{hash}\"");
    let response =
        Response::builder().header("etag", &tag).header("vary", "Accept").header("cache-control", "public");
    if known_tag == tag {
        return response.status(StatusCode::NOT_MODIFIED).body(body::empty()).map_err(Status::internal);
    }
    let content_type = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    response.header("content-type", content_type).body(body::full(bytes)).map_err(Status::internal)
}

fn text(content_type: &'static str, text: String) -> Result<Response<Body>> {
    Response::builder()
        .header("content-type", content_type)
        .header("x-content-type-options", "nosniff")
        .body(body::full(text))
        .map_err(Status::internal)
}

fn paths(server: &ApiServer) -> Value {
    let mut paths = discovery::paths(&server.kinds().snapshot());
    let more = [
        "/.well-known/openid-configuration",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ];
    paths.extend(more.map(str::to_owned));
    paths.sort();
    let mut object = Object::default();
    object.set("paths", paths.into_iter().map(Value::from).collect::<Vec<_>>());
    object.into()
}

fn version() -> Value {
    let mut version = Object::default();
    for (key, value) in [
        ("major", "1"),
        ("minor", "37"),
        ("emulationMajor", "1"),
        ("emulationMinor", "37"),
        ("minCompatibilityMajor", "1"),
        ("minCompatibilityMinor", "36"),
        ("gitVersion", VERSION),
        ("gitCommit", ""),
        ("gitTreeState", "clean"),
        ("buildDate", "1970-01-01T00:00:00Z"),
        ("goVersion", "rust"),
        ("compiler", "rustc"),
        ("platform", "linux/amd64"),
    ] {
        version.set(key, Value::str(value));
    }
    version.into()
}

/// What other services read to check our tokens (OpenID Connect Discovery); they may keep it for an hour.
fn for_others(content_type: &'static str, value: &Value) -> Result<Response<Body>> {
    let mut response = text(content_type, corten_api::json::to_string(value))?;
    let age = http::HeaderValue::from_static("public, max-age=3600");
    response.headers_mut().insert(http::header::CACHE_CONTROL, age);
    Ok(response)
}

fn openid_configuration(server: &ApiServer) -> Value {
    let (authority, address) = (server.authority(), server.public_address());
    let mut algorithms: Vec<&str> = authority.published().iter().map(|key| key.algorithm).collect();
    algorithms.sort_unstable();
    algorithms.dedup();
    let mut object = Object::default();
    object.set("issuer", authority.issuer());
    object.set("jwks_uri", format!("https://{address}/openid/v1/jwks"));
    object.set("response_types_supported", vec![Value::str("id_token")]);
    object.set("subject_types_supported", vec![Value::str("public")]);
    let algorithms: Vec<Value> = algorithms.into_iter().map(Value::str).collect();
    object.set("id_token_signing_alg_values_supported", algorithms);
    object.into()
}

fn key_set(server: &ApiServer) -> Value {
    let keys: Vec<Value> = server.authority().published().iter().map(|key| key.jwk()).collect();
    let mut object = Object::default();
    object.set("keys", keys);
    object.into()
}

/// One named check.
async fn check(server: &ApiServer, name: &str) -> Result<(), String> {
    match name {
        "ping" | "log" => Ok(()),
        "etcd" | "etcd-readiness" => {
            server.config().store.current_revision().await.map(drop).map_err(|e| e.to_string())
        }
        name if name.starts_with("poststarthook/") => match server.bootstrapped().load(Ordering::Acquire) {
            true => Ok(()),
            false => Err("not finished".into()),
        },
        "shutdown" => match server.ends() {
            true => Err("process is shutting down".into()),
            false => Ok(()),
        },
        _ => Err("no such check".into()),
    }
}

/// Upstream's names, in its order, of what a start makes; here they stand behind one fact: the objects of every cluster are
/// there.
macro_rules! with_hooks {
    ([$($before:literal),*] [$($after:literal),*]) => {
        &[
            $($before,)*
            "poststarthook/priority-and-fairness-config-consumer",
            "poststarthook/start-system-namespaces-controller",
            "poststarthook/rbac/bootstrap-roles",
            "poststarthook/scheduling/bootstrap-system-priority-classes",
            "poststarthook/priority-and-fairness-config-producer",
            "poststarthook/bootstrap-controller",
            "poststarthook/start-kubernetes-service-cidr-controller",
            $($after,)*
        ]
    };
}

fn checks(probe: &str) -> &'static [&'static str] {
    match probe {
        "readyz" => with_hooks!(["ping", "log", "etcd", "etcd-readiness"]["shutdown"]),
        _ => with_hooks!(["ping", "log", "etcd"] []),
    }
}

async fn health(server: &ApiServer, probe: &str, path: &[&str], query: &Query) -> Result<Response<Body>> {
    let wanted = path.join("/");
    if !wanted.is_empty() && !checks(probe).contains(&wanted.as_str()) {
        return Err(Status::no_path());
    }
    let excluded: Vec<&str> = query.all("exclude").flat_map(|names| names.split(',')).collect();
    let (mut lines, mut failed) = (String::new(), Vec::new());
    let unknown: Vec<String> = excluded
        .iter()
        .filter(|name| !checks(probe).contains(name))
        .map(|name| format!("{name:?}"))
        .collect();
    for name in checks(probe).iter().filter(|n| wanted.is_empty() || **n == wanted) {
        if excluded.contains(name) {
            lines += &format!("[+]{name} excluded: ok\n");
            continue;
        }
        match check(server, name).await {
            Ok(()) => lines += &format!("[+]{name} ok\n"),
            Err(why) => {
                tracing::debug!(check = name, why, "health check failed");
                lines += &format!("[-]{name} failed: reason withheld\n");
                failed.push(*name);
            }
        }
    }
    if !unknown.is_empty() {
        let names = unknown.join(",");
        lines += &format!("warn: some health checks cannot be excluded: no matches for {names}\n");
    }
    if !failed.is_empty() {
        let mut response = text("text/plain; charset=utf-8", format!("{lines}{probe} check failed\n"))?;
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        return Ok(response);
    }
    let answer =
        if query.get("verbose").is_some() { format!("{lines}{probe} check passed\n") } else { "ok".into() };
    text("text/plain; charset=utf-8", answer)
}
