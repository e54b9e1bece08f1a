//! What is written down about requests: `audit.k8s.io/v1` events, as much of each as the policy says.

mod log;
mod policy;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use corten_api::{Object, Result, Status, Value, json, time};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::BodyExt;

use crate::ApiServer;
use crate::authz::Attributes;
use crate::body::{Body, full, read_all};
use crate::config::Clock;
use crate::decode;
use crate::media::Format;
use crate::pipeline::header;
use crate::request::RequestInfo;
use crate::reviews::user_info;
use crate::user::User;
use log::Log;
use policy::{Level, Policy, Stage, Verdict};

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// What the audit log should be.
#[derive(Clone, Debug)]
pub struct AuditConfig {
    /// `audit.k8s.io/v1` Policy, YAML or JSON.
    pub policy: String,
    /// Where events go; `-` is standard output.
    pub log: PathBuf,
    /// A new file is begun where the next event would make this one larger.
    pub max_bytes: u64,
    /// Most old files kept; 0 keeps all.
    pub max_files: usize,
    /// Age at which old files go; zero keeps them.
    pub max_age: Duration,
}

/// The address that a connection came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remote(pub IpAddr);

/// Policy and log.
pub(crate) struct Audit {
    policy: Policy,
    log: Log,
    clock: Clock,
}

impl Audit {
    /// Reads the policy and opens the log.
    ///
    /// Errors: text for the operator.
    pub fn open(config: &AuditConfig, clock: Clock) -> Result<Self, String> {
        let policy = Policy::read(&config.policy).map_err(|e| format!("audit policy: {e}"))?;
        let log =
            Log::open(config.clone()).map_err(|e| format!("audit log {}: {e}", config.log.display()))?;
        Ok(Audit { policy, log, clock })
    }
}

/// What is noted of one request. Its end is written when it is dropped, whatever ended the request.
pub(crate) struct Trail {
    audit: Arc<Audit>,
    verdict: Verdict,
    notes: Mutex<Notes>,
}

struct Notes {
    id: String,
    received: String,
    /// The fields that are known from the start.
    head: Object,
    impersonated: Option<Object>,
    sent: Option<Value>,
    status: Option<Object>,
    answered: Option<Value>,
    annotations: Object,
}

impl ApiServer {
    /// Begins to note, where the policy wants anything of this request.
    pub(crate) fn trail(&self, request: &Request<Body>, info: &RequestInfo, user: &User) -> Option<Trail> {
        let audit = self.audit()?;
        let verdict = audit.policy.judge(user, &Attributes::of(info, ""));
        if verdict.level == Level::None {
            return None;
        }
        let sent_id = header(request.headers(), &AUDIT_ID);
        let id = if sent_id.is_empty() { uuid::Uuid::new_v4().to_string() } else { sent_id.to_owned() };
        let notes = Notes {
            id,
            received: time::rfc3339_micro((audit.clock)()),
            head: head(request, info, user),
            impersonated: None,
            sent: None,
            status: None,
            answered: None,
            annotations: Object::default(),
        };
        let trail = Trail { audit: audit.clone(), verdict, notes: Mutex::new(notes) };
        trail.write(Stage::RequestReceived);
        Some(trail)
    }
}

fn head(request: &Request<Body>, info: &RequestInfo, user: &User) -> Object {
    let mut head = Object::default();
    let uri = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
    head.set("requestURI", uri);
    head.set("verb", info.verb);
    head.set("user", user_info(user));
    let addresses: Vec<Value> = source_ips(request).into_iter().map(Value::from).collect();
    if !addresses.is_empty() {
        head.set("sourceIPs", addresses);
    }
    let agent = header(request.headers(), &USER_AGENT);
    if !agent.is_empty() {
        head.set("userAgent", agent);
    }
    if info.is_resource {
        head.set("objectRef", object_ref(info));
    }
    head
}

fn source_ips(request: &Request<Body>) -> Vec<String> {
    let forwarded = header(request.headers(), &HeaderName::from_static("x-forwarded-for"));
    let mut all: Vec<String> =
        forwarded.split(',').filter_map(|a| Some(a.trim().parse::<IpAddr>().ok()?.to_string())).collect();
    let real = header(request.headers(), &HeaderName::from_static("x-real-ip"));
    if let Ok(real) = real.parse::<IpAddr>() {
        let real = real.to_string();
        if !all.contains(&real) {
            all.push(real);
        }
    }
    let from = request.extensions().get::<Remote>().map(|from| from.0.to_string());
    all.extend(from.filter(|from| all.last() != Some(from)).into_iter().collect::<Vec<_>>());
    all
}

fn object_ref(info: &RequestInfo) -> Object {
    let fields = [
        ("resource", &info.resource),
        ("namespace", &info.namespace),
        ("name", &info.name),
        ("apiGroup", &info.group),
        ("apiVersion", &info.version),
        ("subresource", &info.subresource),
    ];
    let given = fields.into_iter().filter(|(_, text)| !text.is_empty());
    given.map(|(name, text)| (name.into(), Value::from(text.as_str()))).collect()
}

impl Trail {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request goes on as another user.
    pub fn impersonated(&self, user: &User) {
        self.notes().impersonated = Some(user_info(user));
    }

    /// The authoriser's word and its reason.
    pub fn decided(&self, allowed: bool, reason: &str) {
        let annotations = &mut self.notes().annotations;
        let word = if allowed { "allow" } else { "forbid" };
        annotations.insert("authorization.k8s.io/decision", word);
        annotations.insert("authorization.k8s.io/reason", reason);
    }

    /// Notes what was sent, where that is wanted, and gives the request back whole.
    ///
    /// Errors: 413, 400.
    pub async fn sent(&self, request: Request<Body>, info: &RequestInfo) -> Result<Request<Body>> {
        let wanted = self.verdict.level >= Level::Request && info.is_resource && !info.long_running();
        if !wanted || info.read_only() {
            return Ok(request);
        }
        let (parts, body) = request.into_parts();
        let bytes = read_all(body).await?;
        self.notes().sent = self.object(&parts.headers, &bytes);
        Ok(Request::from_parts(parts, full(bytes)))
    }

    /// Notes the answer. A long one keeps the trail until it ends.
    pub async fn answered(
        self,
        outcome: Result<Response<Body>>,
        info: &RequestInfo,
    ) -> Result<Response<Body>> {
        let mut response = match outcome {
            Ok(response) => response,
            Err(status) => {
                let shown = status.to_value();
                let mut notes = self.notes();
                notes.answered = (self.verdict.level >= Level::RequestResponse).then(|| shown.clone());
                notes.status = shown.as_object().cloned().map(status_alone);
                drop(notes);
                return Err(status);
            }
        };
        let id = self.notes().id.clone();
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(AUDIT_ID, id);
        }
        self.notes().status = Some(success(response.status().as_u16()));
        if info.long_running() {
            self.write(Stage::ResponseStarted);
            return Ok(response.map(|body| {
                let kept = body.map_frame(move |frame| {
                    let _kept = &self;
                    frame
                });
                kept.boxed_unsync()
            }));
        }
        if self.verdict.level < Level::RequestResponse || !info.is_resource {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.map_err(Status::internal)?.to_bytes();
        self.notes().answered = self.object(&parts.headers, &bytes);
        Ok(Response::from_parts(parts, full(bytes)))
    }

    /// The object in a body; what cannot be read is left out.
    fn object(&self, headers: &HeaderMap, body: &Bytes) -> Option<Value> {
        if body.is_empty() || headers.contains_key(CONTENT_ENCODING) {
            return None;
        }
        let kind = header(headers, &CONTENT_TYPE);
        let format = match kind {
            k if k.contains("protobuf") => Format::Protobuf,
            k if k.contains("cbor") => Format::Cbor,
            k if k.contains("yaml") => Format::Yaml,
            _ => Format::Json,
        };
        let mut object = decode::parse(format, body).ok()?.value;
        if self.verdict.omit_managed_fields {
            omit_managed_fields(&mut object);
        }
        Some(object)
    }

    fn write(&self, stage: Stage) {
        if self.verdict.omit_stages.contains(&stage) {
            return;
        }
        let line = json::to_string(&self.event(stage).into());
        self.audit.log.write(line.into_bytes(), SystemTime::now());
    }

    fn event(&self, stage: Stage) -> Object {
        let notes = self.notes();
        let mut event = Object::default();
        event.set("kind", "Event");
        event.set("apiVersion", "audit.k8s.io/v1");
        event.set("level", format!("{:?}", self.verdict.level));
        event.set("auditID", notes.id.as_str());
        event.set("stage", format!("{stage:?}"));
        for (key, value) in notes.head.iter() {
            event.insert(key.clone(), value.clone());
        }
        if stage != Stage::RequestReceived {
            let objects = [("impersonatedUser", &notes.impersonated), ("responseStatus", &notes.status)];
            for (name, object) in objects {
                object.iter().for_each(|object| event.set(name, object.clone()));
            }
            for (name, value) in [("requestObject", &notes.sent), ("responseObject", &notes.answered)] {
                value.iter().for_each(|value| event.set(name, value.clone()));
            }
        }
        event.set("requestReceivedTimestamp", notes.received.as_str());
        event.set("stageTimestamp", time::rfc3339_micro((self.audit.clock)()));
        if stage != Stage::RequestReceived && !notes.annotations.is_empty() {
            event.set("annotations", notes.annotations.clone());
        }
        event
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        self.write(if std::thread::panicking() { Stage::Panic } else { Stage::ResponseComplete });
    }
}

fn success(code: u16) -> Object {
    let mut status = Object::default();
    status.set("metadata", Value::object());
    status.set("code", i64::from(code));
    status
}

/// A Status without its own kind and version.
fn status_alone(mut status: Object) -> Object {
    status.remove("kind");
    status.remove("apiVersion");
    status
}

fn omit_managed_fields(object: &mut Value) {
    let strip = |object: &mut Value| {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    };
    strip(object);
    let items = object.get_mut("items").and_then(Value::as_array_mut);
    items.into_iter().flatten().for_each(strip);
}
