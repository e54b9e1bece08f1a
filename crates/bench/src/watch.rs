//! Watch fan-out: many watchers see every update of some writers; how late?

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use http::Method;
use serde::Deserialize;
use tokio::task::JoinSet;

use crate::{
    args::WatchLoad,
    http::{Connection, Lines},
    load::{self, Measured, Task},
    objects::stamp,
    report::{Latencies, Outcome, Row},
    session::Session,
};

/// How long events may still arrive after the last write was answered.
const DRAIN: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct List {
    metadata: ListMeta,
}

#[derive(Deserialize)]
struct ListMeta {
    #[serde(rename = "resourceVersion")]
    resource_version: String,
}

/// The version from which a watch sees everything that happens from now on.
pub async fn current_version(connection: &mut Connection, collection: &str) -> Result<String> {
    let list = connection.send(Method::GET, &format!("{collection}?limit=1"), None).await?.ok()?;
    Ok(serde_json::from_slice::<List>(&list)?.metadata.resource_version)
}

/// Opens a watch.
pub async fn open(session: &Session, collection: &str, version: &str) -> Result<(Connection, Lines)> {
    let mut connection = session.endpoint.connect().await?;
    let path = format!("{collection}?watch=1&timeoutSeconds=3600&resourceVersion={version}");
    let lines = Lines::new(connection.stream(&path).await?);
    Ok((connection, lines))
}

/// Measures the updates and their events; the objects must be there.
pub async fn run(session: &Session, args: &WatchLoad) -> Result<Vec<Row>> {
    let collection = session.path(args.load.kind.plural());
    let version = current_version(&mut session.endpoint.connect().await?, &collection).await?;
    let mut watchers = JoinSet::new();
    let mut seen = Vec::new();
    for _ in 0..args.watchers {
        let watch = open(session, &collection, &version).await.context("cannot watch")?;
        let latencies = Arc::new(Mutex::new(Latencies::default()));
        seen.push(latencies.clone());
        watchers.spawn(follow(session.clone(), watch, latencies, args.load.count as usize));
    }
    let Measured { outcome, elapsed, begun, before } =
        load::measure(session, &args.load, Task::Update).await?;
    let spent = || session.usage().zip(before).map(|(after, before)| after - before);
    let updates =
        Row::many(format!("update {} (watched)", args.load.kind.plural()), outcome, elapsed, spent());
    // Watchers that are not done by then have lost events; they are counted below.
    let _ = tokio::time::timeout(DRAIN, async { while watchers.join_next().await.is_some() {} }).await;
    let elapsed = begun.elapsed();
    watchers.abort_all();
    let cost = spent();
    let outcome = collect(&seen, args.load.count as usize);
    let name = format!("events to {} watchers", args.watchers);
    Ok(vec![updates, Row::many(name, outcome, elapsed, cost)])
}

async fn follow(
    session: Session,
    (_connection, mut lines): (Connection, Lines),
    latencies: Arc<Mutex<Latencies>>,
    expected: usize,
) -> Result<()> {
    let (mut open, mut near) = (true, 0);
    while open && latencies.lock().unwrap_or_else(PoisonError::into_inner).len() < expected {
        let each = |line: &[u8]| {
            // Objects that nobody has updated yet carry a zero.
            if let Some(at) = stamp(line, &mut near).filter(|at| !at.is_zero()) {
                let late = session.now().saturating_sub(at);
                latencies.lock().unwrap_or_else(PoisonError::into_inner).add(late);
            }
        };
        open = lines.next(each).await?;
    }
    Ok(())
}

fn collect(seen: &[Arc<Mutex<Latencies>>], expected: usize) -> Outcome {
    let mut outcome = Outcome::default();
    for latencies in seen {
        let latencies = std::mem::take(&mut *latencies.lock().unwrap_or_else(PoisonError::into_inner));
        outcome.errors += expected.saturating_sub(latencies.len());
        outcome.latencies.extend(latencies);
    }
    outcome.first_error = (outcome.errors > 0).then(|| "events did not arrive".to_owned());
    outcome
}
