//! Requests from many clients at once: create, update, get, list.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::{sync::Barrier, task::JoinSet};

use crate::{
    args::Load,
    http::Connection,
    objects::{Kind, restamp},
    process::Usage,
    report::{Outcome, Row},
    session::Session,
};

/// Tries of one update that others get in between.
const UPDATE_TRIES: usize = 4;

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    Create,
    Update,
    Get,
    /// All objects; `cached` = any version will do (resourceVersion=0).
    List {
        cached: bool,
    },
}

impl Task {
    fn writes(self) -> bool {
        matches!(self, Self::Create | Self::Update)
    }

    fn name(self, kind: Kind) -> String {
        let verb = match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Get => "get",
            Self::List { cached: false } => "list",
            Self::List { cached: true } => "list rv=0",
        };
        format!("{verb} {}", kind.plural())
    }
}

/// Makes `load.objects` objects that are not measured.
pub async fn prepare(session: &Session, load: &Load) -> Result<()> {
    let made = run(session, &Load { count: load.objects, ..load.clone() }, Task::Create).await?;
    if made.errors() > 0 {
        bail!("cannot prepare the objects: {}", crate::report::table(&[made]));
    }
    Ok(())
}

/// Runs one task on all clients and measures it.
pub async fn run(session: &Session, load: &Load, task: Task) -> Result<Row> {
    let Measured { outcome, elapsed, begun: _, before } = measure(session, load, task).await?;
    let cost = session.usage().zip(before).map(|(after, before)| after - before);
    Ok(Row::many(task.name(load.kind), outcome, elapsed, cost))
}

/// Requests, and the moment from which they count: when every client was connected and had what it needs.
pub struct Measured {
    pub outcome: Outcome,
    pub elapsed: Duration,
    pub begun: Instant,
    pub before: Option<Usage>,
}

/// Runs one task on all clients.
pub async fn measure(session: &Session, load: &Load, task: Task) -> Result<Measured> {
    let total = if task == Task::Create { load.count } else { load.objects };
    // A writer has objects of its own, readers share them all.
    let writers = if task.writes() { total } else { u32::MAX };
    let clients = load.clients.min(load.count).min(writers);
    let barrier = Arc::new(Barrier::new(clients as usize + 1));
    let mut workers = JoinSet::new();
    for number in 0..clients {
        let objects = if task.writes() {
            (number..total).step_by(clients as usize).collect()
        } else {
            (0..total).cycle().skip((number * (total / clients)) as usize).take(total as usize).collect()
        };
        let worker = Worker::new(session, load.kind, task, objects);
        let share = load.count / clients + u32::from(number < load.count % clients);
        workers.spawn(worker.work(barrier.clone(), share));
    }
    // Everybody is connected and has what it needs; then the clock starts.
    barrier.wait().await;
    let (before, begun) = (session.usage(), Instant::now());
    barrier.wait().await;
    let mut outcome = Outcome::default();
    while let Some(part) = workers.join_next().await {
        outcome.merge(part??);
    }
    Ok(Measured { outcome, elapsed: begun.elapsed(), begun, before })
}

/// One client with objects of its own.
struct Worker {
    session: Session,
    kind: Kind,
    task: Task,
    objects: Vec<u32>,
    /// The newest version of its objects, as the server sent it.
    bodies: HashMap<u32, Bytes>,
    /// Size of the lists that were read.
    bytes: usize,
}

impl Worker {
    fn new(session: &Session, kind: Kind, task: Task, objects: Vec<u32>) -> Self {
        Self { session: session.clone(), kind, task, objects, bodies: HashMap::new(), bytes: 0 }
    }

    async fn work(mut self, start: Arc<Barrier>, count: u32) -> Result<Outcome> {
        let ready = self.prepare().await;
        // Also when it failed, or the others would wait for ever.
        start.wait().await;
        start.wait().await;
        let mut connection = ready?;
        let mut outcome = Outcome::default();
        for turn in 0..count as usize {
            let object = self.objects[turn % self.objects.len()];
            outcome.add(self.step(&mut connection, object).await);
        }
        outcome.bytes = self.bytes;
        Ok(outcome)
    }

    async fn prepare(&mut self) -> Result<Connection> {
        let mut connection = self.session.endpoint.connect().await?;
        if self.task == Task::Update {
            for object in self.objects.clone() {
                self.refresh(&mut connection, object).await?;
            }
        }
        Ok(connection)
    }

    /// One measured request.
    async fn step(&mut self, connection: &mut Connection, object: u32) -> Result<Duration> {
        let collection = self.session.path(self.kind.plural());
        let body = (self.task == Task::Create).then(|| self.kind.body(object));
        let begun = Instant::now();
        match self.task {
            Task::Create => connection.send(Method::POST, &collection, body).await?.ok(),
            Task::Get => connection.send(Method::GET, &self.path(object), None).await?.ok(),
            Task::List { cached } => {
                let path = if cached { format!("{collection}?resourceVersion=0") } else { collection };
                self.bytes += connection.measure(&path).await?;
                Ok(Bytes::new())
            }
            Task::Update => self.update(connection, object).await,
        }?;
        Ok(begun.elapsed())
    }

    async fn update(&mut self, connection: &mut Connection, object: u32) -> Result<Bytes> {
        for _ in 0..UPDATE_TRIES {
            let current = self.bodies.get(&object).context("object was read before")?;
            let changed = restamp(current, self.session.now()).context("object has no stamp")?;
            let answer = connection.send(Method::PUT, &self.path(object), Some(changed)).await?;
            if answer.status == StatusCode::CONFLICT {
                self.refresh(connection, object).await?;
                continue;
            }
            let body = answer.ok()?;
            self.bodies.insert(object, body.clone());
            return Ok(body);
        }
        bail!("changed by others {UPDATE_TRIES} times in a row")
    }

    async fn refresh(&mut self, connection: &mut Connection, object: u32) -> Result<()> {
        let body = connection.send(Method::GET, &self.path(object), None).await?.ok()?;
        self.bodies.insert(object, body);
        Ok(())
    }

    fn path(&self, object: u32) -> String {
        format!("{}/{}", self.session.path(self.kind.plural()), self.kind.name(object))
    }
}
