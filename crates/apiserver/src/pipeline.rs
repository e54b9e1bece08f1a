//! From the door to the verb: every request, from the network or from this process, walks down this file.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use corten_api::kind::{Scope, Verb};
use corten_api::kinds::KindTable;
use corten_api::{Result, Status};
use futures::FutureExt;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT,
};
use http::{Method, Request, Response};
use http_body::Body as _;
use tokio::sync::watch as watch_value;
use tokio_util::sync::CancellationToken;

use crate::allocate::Allocator;
use crate::audit::{Audit, Trail};
use crate::authn::Peer;
use crate::authn::token::Authority;
use crate::authz::Attributes;
use crate::authz::rbac::Rbac;
use crate::body::{self, Body};
use crate::call::{Call, Warnings};
use crate::config::Config;
use crate::connect::Kubelets;
use crate::flow::{self, Flow, Held, Mark};
use crate::frames::Frames;
use crate::media::{self, Answer};
use crate::metrics::{Labels, Metrics};
use crate::query::Query;
use crate::request::RequestInfo;
use crate::user::User;
use crate::{connect, debug, delete, encode, health, read, reviews, subresources, watch, write};

/// Kinds that upstream would rather not see used any more, and what it says to those who do.
const DEPRECATED: &[(&str, &str, &str)] = &[
    ("", "componentstatuses", "v1 ComponentStatus is deprecated in v1.19+"),
    ("", "endpoints", "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
];

/// The server; clones share everything.
#[derive(Clone)]
pub struct ApiServer(Arc<Inner>);

struct Inner {
    config: Config,
    kinds: KindTable,
    /// OpenAPI documents made so far.
    documents: corten_api::openapi::Documents,
    authority: Authority,
    allocator: Allocator,
    kubelets: Option<Kubelets>,
    metrics: Metrics,
    rbac: Rbac,
    audit: Option<Arc<Audit>>,
    /// What watchers were told last.
    frames: Frames,
    flow: Flow,
    in_flight: [AtomicUsize; 2],
    /// It was asked to end: it answers, but is not ready for more.
    ends: AtomicBool,
    /// Cancelled when watches and streams must end.
    ending: CancellationToken,
    leases: crate::write::EventLease,
    bootstrapped: AtomicBool,
    /// What stands behind the `kubernetes` Service.
    advertised: watch_value::Sender<Option<SocketAddr>>,
}

impl ApiServer {
    /// A server over its store. It answers at once; [`ApiServer::bootstrap`] makes it ready.
    ///
    /// Errors: text for the operator when a key or certificate is unusable.
    pub fn new(config: Config) -> Result<ApiServer, String> {
        let authority = Authority::new(config.service_account.clone())?;
        let kubelets = config.kubelet_client.as_ref().map(Kubelets::new).transpose()?;
        let audit =
            config.audit.as_ref().map(|audit| Audit::open(audit, config.clock.clone())).transpose()?;
        let inner = Inner {
            kinds: KindTable::default(),
            documents: corten_api::openapi::Documents::default(),
            authority,
            allocator: Allocator::new(config.service_cidrs.clone(), config.node_ports.clone()),
            kubelets,
            metrics: Metrics::default(),
            rbac: Rbac::default(),
            audit: audit.map(Arc::new),
            frames: Frames::default(),
            flow: Flow::new(config.limits.reads_in_flight + config.limits.writes_in_flight),
            in_flight: Default::default(),
            ends: AtomicBool::new(false),
            ending: CancellationToken::new(),
            leases: crate::write::EventLease::default(),
            bootstrapped: false.into(),
            advertised: watch_value::Sender::new(
                config.advertise_address.map(|ip| SocketAddr::new(ip, config.advertise_port)),
            ),
            config,
        };
        Ok(ApiServer(Arc::new(inner)))
    }

    /// What it was started with.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// OpenAPI documents, made when first asked for.
    pub(crate) fn documents(&self) -> &corten_api::openapi::Documents {
        &self.0.documents
    }

    /// The kinds it serves.
    pub fn kinds(&self) -> &KindTable {
        &self.0.kinds
    }

    /// Ends all watches and streams; clients will look for another server.
    pub fn end_watches(&self) {
        self.0.ending.cancel();
    }

    /// From now on `/readyz` says that this server goes.
    pub(crate) fn stop_being_ready(&self) {
        self.0.ends.store(true, Ordering::Release);
    }

    /// Was it asked to end?
    pub(crate) fn ends(&self) -> bool {
        self.0.ends.load(Ordering::Acquire) || self.ending().is_cancelled()
    }

    pub(crate) fn ending(&self) -> &CancellationToken {
        &self.0.ending
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.0.authority
    }

    pub(crate) fn allocator(&self) -> &Allocator {
        &self.0.allocator
    }

    pub(crate) fn kubelets(&self) -> Option<&Kubelets> {
        self.0.kubelets.as_ref()
    }

    pub(crate) fn flow(&self) -> &Flow {
        &self.0.flow
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(crate) fn audit(&self) -> Option<&Arc<Audit>> {
        self.0.audit.as_ref()
    }

    pub(crate) fn rbac(&self) -> &Rbac {
        &self.0.rbac
    }

    pub(crate) fn frames(&self) -> &Frames {
        &self.0.frames
    }

    pub(crate) fn event_lease(&self) -> &crate::write::EventLease {
        &self.0.leases
    }

    /// The address behind the `kubernetes` Service, once known; see [`ApiServer::advertise`].
    pub fn advertised(&self) -> Option<SocketAddr> {
        *self.0.advertised.borrow()
    }

    pub(crate) fn advertised_value(&self) -> &watch_value::Sender<Option<SocketAddr>> {
        &self.0.advertised
    }

    pub(crate) fn bootstrapped(&self) -> &AtomicBool {
        &self.0.bootstrapped
    }

    /// Unix time in milliseconds.
    pub(crate) fn now_ms(&self) -> i64 {
        (self.0.config.clock)()
    }

    /// Answers one request. Never fails and never panics: what goes wrong becomes a `Status`.
    pub async fn handle(&self, request: Request<Body>, peer: Peer) -> Response<Body> {
        let started = Instant::now();
        let query = Query::parse(request.uri().query());
        let info = RequestInfo::new(request.method(), request.uri().path(), &query);
        let errors = error_answer(request.headers());
        let labels = Labels::new(&info, &self.kinds().snapshot());
        let lasts = LongRunning::of(&info);
        let is_head = request.method() == Method::HEAD;
        let notes = Notes::default();
        let outcome =
            AssertUnwindSafe(Box::pin(self.in_time(request, peer, info, query, &notes))).catch_unwind().await;
        let mut response = match outcome {
            Ok(Ok(response)) => response,
            Ok(Err(status)) => encode::status(errors, &status),
            Err(panic) => {
                tracing::error!(message = panic_text(&*panic), "a request handler panicked");
                encode::status(errors, &Status::internal("the server met an unexpected condition"))
            }
        };
        self.metrics().observe(labels, response.status().as_u16(), started.elapsed());
        flow::tell(&notes.mark, response.headers_mut());
        tell_warnings(&notes.warnings, response.headers_mut());
        let cache = (HeaderName::from_static("cache-control"), HeaderValue::from_static("no-cache, private"));
        response.headers_mut().entry(cache.0).or_insert(cache.1);
        if let Some(lasts) = lasts {
            response.extensions_mut().insert(lasts);
        }
        if is_head { without_body(response) } else { response }
    }

    async fn in_time(
        &self,
        request: Request<Body>,
        peer: Peer,
        info: RequestInfo,
        query: Query,
        notes: &Notes,
    ) -> Result<Response<Body>> {
        if info.long_running() {
            return self.admit(request, peer, info, query, notes).await;
        }
        let most = self.config().limits.request_timeout;
        let asked = query.duration("timeout").map_err(|why| {
            Status::bad_request(format!("invalid timeout specified in the request URL - {why}"))
        })?;
        let limit = asked.filter(|asked| !asked.is_zero()).map_or(most, |asked| asked.min(most));
        match tokio::time::timeout(limit, self.admit(request, peer, info, query, notes)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Status::timeout("request did not complete within the allotted timeout")),
        }
    }

    /// Authenticate, impersonate, find a seat, authorise; then the verb.
    async fn admit(
        &self,
        request: Request<Body>,
        peer: Peer,
        info: RequestInfo,
        query: Query,
        notes: &Notes,
    ) -> Result<Response<Body>> {
        let user = self.authenticate(request.headers(), &peer, &info.path).await?;
        let Some(trail) = self.trail(&request, &info, &user) else {
            return self.admit_user(request, user, info, query, notes, None).await;
        };
        let outcome =
            Box::pin(self.admit_user(request, user, info.clone(), query, notes, Some(&trail))).await;
        trail.answered(outcome, &info).await
    }

    /// The same for a user who is known.
    async fn admit_user(
        &self,
        request: Request<Body>,
        user: Arc<User>,
        mut info: RequestInfo,
        query: Query,
        notes: &Notes,
        trail: Option<&Trail>,
    ) -> Result<Response<Body>> {
        let asking = user.clone();
        let user = self.impersonate(user, request.headers()).await?;
        let kinds = self.kinds().snapshot();
        let kind = kinds.resource(&info.group, &info.version, &info.resource).cloned();
        let _place = self.place(&info, &user, &notes.mark).await?;
        let decision = self.authorise(&user, &Attributes::of(&info, query.str("fieldSelector"))).await;
        if let Some(trail) = trail {
            if !Arc::ptr_eq(&asking, &user) {
                trail.impersonated(&user);
            }
            trail.decided(decision.is_ok(), decision.as_deref().unwrap_or_default());
        }
        decision?;
        let request = match trail {
            Some(trail) => trail.sent(request, &info).await?,
            None => request,
        };
        if !info.is_resource {
            if info.path.starts_with("/debug") {
                return debug::serve(self, request, &info, &query).await;
            }
            let (head, _) = request.into_parts();
            return health::serve_path(self, &head, &info, &query).await;
        }
        let kind = kind.ok_or_else(Status::no_route)?;
        // As upstream: resources have no HEAD, only what is passed on to others may.
        if request.method() == Method::HEAD && (!connect::is_connect(&info) || info.subresource == "log") {
            return Err(Status::no_method());
        }
        let answer = answer(request.headers(), &query, &info)?;
        if kind.scope == Scope::Cluster {
            // The path of a namespace names it as the place, too. Nothing else of the cluster is in one: whoever may do
            // something in a namespace may not do it to what is outside.
            let is_itself = info.resource == "namespaces" && info.has_name && info.name == info.namespace;
            if !info.namespace.is_empty() && !is_itself {
                return Err(Status::no_route());
            }
            info.namespace.clear();
        }
        let call = Call {
            user,
            content_type: header(request.headers(), &CONTENT_TYPE).to_owned(),
            user_agent: header(request.headers(), &USER_AGENT).to_owned(),
            gzip: header(request.headers(), &ACCEPT_ENCODING)
                .split(',')
                .any(|e| e.trim().starts_with("gzip")),
            info,
            query,
            answer,
            kinds,
            kind,
            clock: self.config().clock.clone(),
            warnings: notes.warnings.clone(),
        };
        self.serve_resource(call, request).await
    }

    async fn serve_resource(&self, call: Call, request: Request<Body>) -> Result<Response<Body>> {
        check_segments(&call.info)?;
        if let Some((.., sentence)) = DEPRECATED
            .iter()
            .find(|(group, plural, _)| call.kind.group == *group && call.kind.plural == *plural)
        {
            call.warn(*sentence);
        }
        let call = Arc::new(call);
        if !call.info.subresource.is_empty() {
            return Box::pin(subresources::serve(self, call, request)).await;
        }
        let verb = verb_of(&call)?;
        if reviews::is_review(&call) {
            return Box::pin(reviews::serve(self, &call, request)).await;
        }
        let namespaced = call.kind.scope == Scope::Namespaced;
        if namespaced && call.info.namespace.is_empty() && !matches!(verb, Verb::List | Verb::Watch) {
            return Err(if call.info.has_name { Status::no_route() } else { Status::no_method() });
        }
        let response = match verb {
            Verb::Get => read::get(self, &call).await,
            Verb::List => read::list(self, call.clone()).await,
            Verb::Watch => watch::watch(self, call.clone()).await,
            Verb::Create => Box::pin(write::create(self, &call, request)).await,
            Verb::Update => Box::pin(write::update(self, &call, request)).await,
            Verb::Patch => Box::pin(write::patch(self, &call, request)).await,
            Verb::Delete => Box::pin(delete::delete(self, &call, request)).await,
            Verb::DeleteCollection => Box::pin(delete::collection(self, &call, request)).await,
        }?;
        // At the start all of them are made together and looked at once.
        let started = self.bootstrapped().load(Ordering::Acquire);
        if call.kind.group == flow::GROUP && !call.info.read_only() && started {
            self.flow_changed().await?;
        }
        Ok(response)
    }

    /// A seat in the request's priority level. Watches and streams need none.
    async fn place(&self, info: &RequestInfo, user: &Arc<User>, mark: &Mark) -> Result<Option<Place<'_>>> {
        let matched = self.flow().classify(user, info);
        let matched = mark.get_or_init(|| matched);
        if info.long_running() {
            return Ok(None);
        }
        let held = self.flow().seat(matched, user, info, self.metrics(), self.now_ms()).await?;
        let counter = &self.0.in_flight[usize::from(!info.read_only())];
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(Some(Place { _held: held, counter }))
    }

    /// How many requests that read and that write run now.
    pub(crate) fn in_flight(&self) -> (usize, usize) {
        let [reads, writes] = &self.0.in_flight;
        (reads.load(Ordering::Relaxed), writes.load(Ordering::Relaxed))
    }
}

/// Goes with an answer that has no end of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LongRunning {
    /// Events, which clients should take as they come.
    Watch,
    /// What containers and services say.
    Stream,
}

impl LongRunning {
    fn of(info: &RequestInfo) -> Option<Self> {
        let what = if info.verb == "watch" { LongRunning::Watch } else { LongRunning::Stream };
        info.long_running().then_some(what)
    }
}

/// A request that runs: its seat, and its part in the count.
struct Place<'a> {
    _held: Held,
    counter: &'a AtomicUsize,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What becomes known of a request on its way and stands in the headers of its answer, be that an error or not.
#[derive(Default)]
struct Notes {
    mark: Mark,
    warnings: Warnings,
}

/// The verb, if the kind has it.
fn verb_of(call: &Call) -> Result<Verb> {
    if call.kind.verbs == Verb::CREATE_ONLY && call.info.has_name {
        return Err(Status::no_route());
    }
    let verb = match call.info.verb {
        "get" => Verb::Get,
        "list" => Verb::List,
        "watch" => Verb::Watch,
        "create" if !call.info.has_name => Verb::Create,
        "update" if call.info.has_name => Verb::Update,
        "patch" if call.info.has_name => Verb::Patch,
        "delete" => Verb::Delete,
        "deletecollection" => Verb::DeleteCollection,
        _ => return Err(Status::no_method()),
    };
    if call.kind.has_verb(verb) { Ok(verb) } else { Err(Status::no_method()) }
}

/// Names in paths must be path segments; a slash in one would reach other keys.
fn check_segments(info: &RequestInfo) -> Result<()> {
    for (what, text) in [("name", &info.name), ("namespace", &info.namespace)] {
        if text.contains(['/', '%', '\0']) || text == "." || text == ".." {
            return Err(Status::bad_request(format!("invalid {what} in the path: {text:?}")));
        }
    }
    Ok(())
}

pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

fn answer(headers: &HeaderMap, query: &Query, info: &RequestInfo) -> Result<Answer> {
    if connect::is_connect(info) {
        return Ok(Answer::default());
    }
    let views = matches!(
        info.verb,
        "get" | "list" | "watch" | "create" | "update" | "patch" | "delete" | "deletecollection"
    );
    // Reviews are questions, not things: upstream has no columns or metadata of them to show.
    let review = matches!(info.group.as_str(), "authentication.k8s.io" | "authorization.k8s.io");
    let many = matches!(info.verb, "list" | "watch");
    let mut answer = media::negotiate(&accept(headers), views && !review).map_err(|refused| {
        if many && refused.of_routing { Status::no_representation(media::STREAMED) } else { refused }
    })?;
    answer.pretty = answer.pretty || wants_pretty(headers, query);
    Ok(answer)
}

pub(crate) fn accept(headers: &HeaderMap) -> String {
    let values = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok());
    values.collect::<Vec<_>>().join(",")
}

/// People's tools get indented JSON unless they say otherwise.
fn wants_pretty(headers: &HeaderMap, query: &Query) -> bool {
    let agent = header(headers, &USER_AGENT);
    query
        .flag_opt("pretty")
        .unwrap_or_else(|| ["curl", "Wget", "Mozilla/5.0"].iter().any(|a| agent.starts_with(a)))
}

fn error_answer(headers: &HeaderMap) -> Answer {
    let mut answer = media::negotiate(&accept(headers), true).unwrap_or_default();
    answer.shape = media::Shape::Object;
    answer
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("unknown")
}

/// Adds the `Warning` headers, with upstream's code 299.
fn tell_warnings(warnings: &Warnings, headers: &mut HeaderMap) {
    let Ok(warnings) = warnings.lock() else { return };
    for warning in warnings.iter() {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            headers.append("warning", value);
        }
    }
}

/// The answer to `HEAD`: what `GET` would say but its body. HTTP/2 would send that, and clients take it for a broken stream.
fn without_body(response: Response<Body>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact().filter(|length| *length > 0) {
        head.headers.entry(CONTENT_LENGTH).or_insert(length.into());
    }
    Response::from_parts(head, body::empty())
}

/// Is it a plain read by path (`GET` or `HEAD`)?
pub(crate) fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}
