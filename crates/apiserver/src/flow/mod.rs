//! Priority and fairness: which requests run at once, which wait, and for whom. Flow schemas put a request into a priority level
//! (`rules.rs`), a level has seats and queues (`seats.rs`), and both are objects that every server makes at its start (`objects.rs`).
//!
//! Unlike upstream, seats are lent and borrowed at the moment they are asked for, not by a loop every ten seconds.

mod dump;
mod objects;
mod rules;
mod seats;
mod status;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use corten_api::{Result, Status, Value};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::HeaderValue;
use tokio::sync::Mutex;

use crate::ApiServer;
use crate::metrics::Metrics;
use crate::request::RequestInfo;
use crate::user::User;

pub(crate) use objects::wanted;
pub(crate) use rules::Matched;
use rules::Rules;
pub(crate) use seats::Figures;
use seats::{Asked, Seat, Seats, TIMED_OUT, Verdict};

/// The API group of both kinds.
pub(crate) const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// A request waits at most so long for its seat: a quarter of the default request timeout, as upstream.
const WAIT_MAX: Duration = Duration::from_secs(15);
/// Clients that were refused are told to come back after so many seconds.
const RETRY_AFTER_SECONDS: u32 = 1;
/// The names of the flow schemas and priority levels that cannot be taken away.
const MANDATORY: [&str; 2] = ["exempt", "catch-all"];

/// What a request was taken for; filled in on its way, told in the headers of the answer.
pub(crate) type Mark = OnceLock<Arc<Matched>>;

/// All priority and fairness of one server.
pub(crate) struct Flow {
    rules: RwLock<Arc<Rules>>,
    seats: Seats,
    exempt: Exempt,
    /// Held from reading the objects until they are in use, so that what was read first is not used last.
    reading: Mutex<()>,
}

impl Flow {
    /// The built-in objects, until those of the store are read.
    pub fn new(seats: usize) -> Self {
        let (rules, exempt) = (RwLock::default(), Exempt::default());
        let flow = Flow { rules, seats: Seats::new(seats), exempt, reading: Mutex::default() };
        flow.replace(&built_in("FlowSchema"), &built_in("PriorityLevelConfiguration"));
        flow
    }

    /// Takes other objects into use. Requests that run keep their seats, those that wait keep their places.
    pub fn replace(&self, schemas: &[Value], levels: &[Value]) {
        let rules = Arc::new(Rules::new(schemas, levels));
        self.seats.configure(rules.levels());
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    /// The flow schema and priority level of a request.
    pub fn classify(&self, user: &User, info: &RequestInfo) -> Arc<Matched> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).find(user, info)
    }

    /// Waits for a seat. `now_ms` is told to those who look.
    ///
    /// Errors: 429 where the queue is full, the level does not queue, or the wait took too long.
    pub async fn seat(
        &self,
        matched: &Arc<Matched>,
        user: &Arc<User>,
        info: &RequestInfo,
        metrics: &Metrics,
        now_ms: i64,
    ) -> Result<Held> {
        if matched.exempt {
            return Ok(self.exempt.enter());
        }
        let asked = Asked {
            matched: matched.clone(),
            user: user.clone(),
            verb: info.verb,
            path: info.path.clone(),
            arrived_ms: now_ms,
        };
        match self.seats.ask(&matched.level, matched.flow(user, info), Arc::new(asked)) {
            Verdict::Seated(seat) => Ok(seat.into()),
            Verdict::Refused(why) => {
                self.seats.refused(&matched.level, why);
                metrics.dropped();
                Err(too_many())
            }
            Verdict::Waits(waiting) => match tokio::time::timeout(WAIT_MAX, waiting).await {
                Ok(Ok(seat)) => Ok(seat.into()),
                _ => {
                    self.seats.refused(&matched.level, TIMED_OUT);
                    metrics.dropped();
                    Err(too_many())
                }
            },
        }
    }

    /// What the levels do now.
    pub fn figures(&self) -> Vec<Figures> {
        self.seats.figures()
    }
}

/// What a request holds while it runs: a seat of its level, or, where it needs none, its part in a count.
#[derive(Debug)]
pub(crate) struct Held {
    _seat: Option<Seat>,
    exempt: Option<Arc<Counts>>,
}

/// Requests that need no seat: how many run, and how many there were.
#[derive(Debug, Default)]
struct Exempt(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    running: AtomicU64,
    all: AtomicU64,
}

impl From<Seat> for Held {
    fn from(seat: Seat) -> Self {
        Held { _seat: Some(seat), exempt: None }
    }
}

impl Exempt {
    fn enter(&self) -> Held {
        self.0.running.fetch_add(1, Ordering::Relaxed);
        self.0.all.fetch_add(1, Ordering::Relaxed);
        Held { _seat: None, exempt: Some(self.0.clone()) }
    }

    fn counts(&self) -> (u64, u64) {
        (self.0.running.load(Ordering::Relaxed), self.0.all.load(Ordering::Relaxed))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(counts) = &self.exempt {
            counts.running.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn too_many() -> Box<Status> {
    Status::too_many_requests("Too many requests, please try again later.", RETRY_AFTER_SECONDS)
}

fn built_in(kind: &str) -> Vec<Value> {
    let tree = |object: &serde_json::Value| corten_api::json::parse(&object.to_string().into()).ok();
    wanted().iter().filter(|w| w.object["kind"] == kind).filter_map(|w| tree(&w.object)).collect()
}

/// Adds the objects that are in force even where they are not in the store, as upstream.
fn with_mandatory(kind: &str, mut objects: Vec<Value>) -> Vec<Value> {
    let name = |object: &Value| object.str_at(&["metadata", "name"]).to_owned();
    let there: Vec<String> = objects.iter().map(name).collect();
    let missing = |object: &Value| MANDATORY.contains(&&*name(object)) && !there.contains(&name(object));
    objects.extend(built_in(kind).into_iter().filter(missing));
    objects
}

impl ApiServer {
    /// Reads the objects anew. Called after the start and after each write to one of them.
    ///
    /// Errors: the store cannot be read.
    pub(crate) async fn reload_flow(&self) -> Result<()> {
        let _order = self.flow().reading.lock().await;
        let mut read = Vec::new();
        for (plural, kind) in
            [("flowschemas", "FlowSchema"), ("prioritylevelconfigurations", "PriorityLevelConfiguration")]
        {
            let entries = self.list_group(GROUP, plural, "").await?;
            let objects = entries.iter().map(|entry| self.tree(entry)).collect::<Result<Vec<Value>>>()?;
            read.push(with_mandatory(kind, objects));
        }
        self.flow().replace(&read[0], &read[1]);
        Ok(())
    }

    /// After a write to one of the objects: they take effect before it is answered, and conditions say what became of them.
    pub(crate) fn flow_changed(&self) -> BoxFuture<'_, Result<()>> {
        async {
            self.judge_flow().await?;
            self.reload_flow().await
        }
        .boxed()
    }
}

/// Puts the ids of what a request was taken for into its answer.
pub(crate) fn tell(mark: &Mark, headers: &mut http::HeaderMap) {
    let Some(matched) = mark.get() else { return };
    let mut put = |name: &'static str, value: &Option<HeaderValue>| {
        if let Some(value) = value {
            headers.insert(http::HeaderName::from_static(name), value.clone());
        }
    };
    put("x-kubernetes-pf-flowschema-uid", &matched.schema_uid);
    put("x-kubernetes-pf-prioritylevel-uid", &matched.level_uid);
}
