//! Pod start latency: from sending the create to the event that says the container runs.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use http::Method;
use serde::Deserialize;
use tokio::{sync::mpsc, time::timeout};

use crate::{
    args::PodOptions,
    http::{Connection, Lines},
    objects::running_pod,
    report::{Outcome, Row},
    session::Session,
    watch,
};

/// A pod that takes longer has failed to start, or to go.
const POD_WAIT: Duration = Duration::from_secs(60);

/// Events that wait for the measuring loop.
const EVENTS: usize = 1024;

/// What a watch event says about a pod.
#[derive(Debug)]
enum Seen {
    Running,
    Gone,
    Failed(String),
}

struct Sight {
    name: String,
    what: Seen,
    at: Instant,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: Pod,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Meta,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Meta {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    phase: String,
    #[serde(default)]
    container_statuses: Vec<ContainerStatus>,
}

#[derive(Deserialize)]
struct ContainerStatus {
    #[serde(default)]
    state: State,
}

#[derive(Default, Deserialize)]
struct State {
    running: Option<serde_json::Value>,
    waiting: Option<Waiting>,
}

#[derive(Deserialize)]
struct Waiting {
    #[serde(default)]
    reason: String,
}

/// What an event line says; `None` when it is of no interest.
fn sight(line: &[u8]) -> Option<(String, Seen)> {
    let Event { kind, object: Pod { metadata, status } } = serde_json::from_slice(line).ok()?;
    let states = || status.container_statuses.iter().map(|container| &container.state);
    let hopeless =
        |reason: &&str| matches!(*reason, "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull");
    let waiting = states().filter_map(|state| Some(&*state.waiting.as_ref()?.reason)).find(hopeless);
    let what = if kind == "DELETED" {
        Seen::Gone
    } else if matches!(&*status.phase, "Failed" | "Succeeded") {
        Seen::Failed(format!("pod {} has {}", metadata.name, status.phase.to_lowercase()))
    } else if let Some(reason) = waiting {
        Seen::Failed(format!("pod {}: {reason}", metadata.name))
    } else if status.container_statuses.is_empty() || states().any(|state| state.running.is_none()) {
        return None;
    } else {
        Seen::Running
    };
    Some((metadata.name, what))
}

/// Measures one by one, then all at once.
pub async fn run(session: &Session, options: &PodOptions) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, count, together) in
        [("one by one", options.one_by_one, false), ("at once", options.burst, true)]
    {
        if count > 0 {
            rows.extend(series(session, options, name, count, together).await?);
        }
    }
    Ok(rows)
}

async fn series(
    session: &Session,
    options: &PodOptions,
    name: &str,
    count: u32,
    together: bool,
) -> Result<[Row; 2]> {
    let mut pods = Pods::open(session, options).await?;
    let names: Vec<String> =
        (0..count).map(|n| format!("start-{}-{n:03}", if together { "b" } else { "a" })).collect();
    let width = if together { names.len() } else { 1 };
    let (mut started, mut stopped) = (Outcome::default(), Outcome::default());
    let (before, begun) = (session.usage(), Instant::now());
    let mut starting = Duration::ZERO;
    for group in names.chunks(width) {
        let begun = Instant::now();
        pods.start(group, &mut started).await;
        starting += begun.elapsed();
        pods.stop(group, &mut stopped).await;
    }
    let elapsed = begun.elapsed();
    let cost = session.usage().zip(before).map(|(after, before)| after - before);
    // The CPU time cannot be split between starting and stopping; it stands with the start.
    let start = Row::many(format!("pod start, {name}"), started, starting, cost);
    Ok([start, Row::many(format!("pod stop, {name}"), stopped, elapsed - starting, None)])
}

/// Pods and what is heard of them.
struct Pods {
    session: Session,
    connection: Connection,
    image: String,
    command: Vec<String>,
    sights: mpsc::Receiver<Sight>,
}

impl Pods {
    async fn open(session: &Session, options: &PodOptions) -> Result<Self> {
        let mut connection = session.endpoint.connect().await?;
        let collection = session.path("pods");
        let version = watch::current_version(&mut connection, &collection).await?;
        let (sender, sights) = mpsc::channel(EVENTS);
        tokio::spawn(look(watch::open(session, &collection, &version).await?, sender));
        let command = options.pod_command.split_whitespace().map(str::to_owned).collect();
        Ok(Self { session: session.clone(), connection, image: options.image.clone(), command, sights })
    }

    async fn start(&mut self, names: &[String], outcome: &mut Outcome) {
        let mut waiting = HashMap::new();
        for name in names {
            let body = Some(running_pod(name, &self.image, &self.command));
            let begun = Instant::now();
            match self.ask(Method::POST, &self.session.path("pods"), body).await {
                Ok(()) => _ = waiting.insert(name.clone(), begun),
                Err(error) => outcome.add(Err(error)),
            }
        }
        self.hear(waiting, outcome, |what| matches!(what, Seen::Running)).await;
    }

    async fn stop(&mut self, names: &[String], outcome: &mut Outcome) {
        let mut waiting = HashMap::new();
        for name in names {
            let begun = Instant::now();
            match self.ask(Method::DELETE, &format!("{}/{name}", self.session.path("pods")), None).await {
                Ok(()) => _ = waiting.insert(name.clone(), begun),
                Err(error) => outcome.add(Err(error)),
            }
        }
        self.hear(waiting, outcome, |what| matches!(what, Seen::Gone)).await;
    }

    async fn ask(&mut self, method: Method, path: &str, body: Option<bytes::Bytes>) -> Result<()> {
        self.connection.send(method, path, body).await?.ok().map(drop)
    }

    /// Waits until all have been seen so, have failed, or time is up.
    async fn hear(
        &mut self,
        mut waiting: HashMap<String, Instant>,
        outcome: &mut Outcome,
        wanted: impl Fn(&Seen) -> bool,
    ) {
        while !waiting.is_empty() {
            let heard = match timeout(POD_WAIT, self.sights.recv()).await {
                Ok(Some(sight)) => Ok(sight),
                Ok(None) => Err("the watch ended"),
                Err(_) => Err("nothing heard of the pod for a minute"),
            };
            let Sight { name, what, at } = match heard {
                Ok(sight) => sight,
                Err(why) => {
                    return waiting
                        .drain()
                        .for_each(|(name, _)| outcome.add(Err(anyhow::anyhow!("{name}: {why}"))));
                }
            };
            let done = wanted(&what);
            if let Seen::Failed(why) = what {
                if waiting.remove(&name).is_some() {
                    outcome.add(Err(anyhow::anyhow!(why)));
                }
            } else if let Some(begun) = waiting.remove(&name).filter(|_| done) {
                outcome.add(Ok(at - begun));
            }
        }
    }
}

async fn look((_connection, mut lines): (Connection, Lines), sights: mpsc::Sender<Sight>) -> Result<()> {
    loop {
        let mut found = Vec::new();
        let open = lines.next(|line| found.extend(sight(line))).await?;
        let at = Instant::now();
        for (name, what) in found {
            sights.send(Sight { name, what, at }).await.context("nobody listens")?;
        }
        if !open {
            bail!("the watch ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_tell_when_a_pod_runs_fails_or_is_gone() {
        let event = |kind: &str, status: &str| {
            format!(r#"{{"type":"{kind}","object":{{"metadata":{{"name":"p"}},"status":{status}}}}}"#)
        };
        let cases = [
            (event("ADDED", "{}"), ""),
            (event("MODIFIED", r#"{"phase":"Pending","containerStatuses":[{"state":{"waiting":{}}}]}"#), ""),
            (
                event(
                    "MODIFIED",
                    r#"{"containerStatuses":[{"state":{"waiting":{"reason":"ErrImagePull"}}}]}"#,
                ),
                "failed",
            ),
            (
                event("MODIFIED", r#"{"phase":"Running","containerStatuses":[{"state":{"running":{}}}]}"#),
                "running",
            ),
            (event("MODIFIED", r#"{"containerStatuses":[{"state":{"running":{}}},{"state":{}}]}"#), ""),
            (event("MODIFIED", r#"{"phase":"Failed"}"#), "failed"),
            (event("DELETED", r#"{"phase":"Running"}"#), "gone"),
            ("garbage".to_owned(), ""),
        ];
        for (line, expected) in cases {
            let found = match sight(line.as_bytes()) {
                None => "",
                Some((_, Seen::Running)) => "running",
                Some((_, Seen::Gone)) => "gone",
                Some((_, Seen::Failed(_))) => "failed",
            };
            assert_eq!(found, expected, "{line}");
        }
    }
}
