//! How long pods take to start and to stop: from sending the create to the event that says the container runs; from sending the delete
//! to the event that says the pod is gone, and to the end of its last process.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use http::Method;
use serde::Deserialize;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use crate::{
    args::PodOptions,
    http::{Connection, Lines},
    objects::running_pod,
    podprocesses::PodProcesses,
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

/// Pods that were started and stopped.
pub struct Series {
    pub start: Row,
    pub stop: Row,
    /// From the delete to the end of the last process, where these can be seen.
    pub ended: Option<Row>,
}

impl Series {
    /// The rows of a table.
    pub fn rows(self) -> Vec<Row> {
        [Some(self.start), Some(self.stop), self.ended].into_iter().flatten().collect()
    }
}

/// Measures one by one, then all at once.
pub async fn run(session: &Session, options: &PodOptions) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (count, together) in [(options.one_by_one, false), (options.burst, true)] {
        if count > 0 {
            rows.extend(series(session, options, count, together).await?.rows());
        }
    }
    Ok(rows)
}

/// Starts and stops so many pods, one after the other or all together.
pub async fn series(session: &Session, options: &PodOptions, count: u32, together: bool) -> Result<Series> {
    let mut pods = Pods::open(session, options).await?;
    let name = if together { format!("{count} at once") } else { "one by one".to_owned() };
    let names: Vec<String> =
        (0..count).map(|n| format!("start-{}-{n:03}", if together { "b" } else { "a" })).collect();
    let width = if together { names.len() } else { 1 };
    let (mut started, mut stopped, mut ended) = (Outcome::default(), Outcome::default(), Outcome::default());
    let (before, begun) = (session.usage(), Instant::now());
    let mut starting = Duration::ZERO;
    for group in names.chunks(width.max(1)) {
        let begun = Instant::now();
        let uids = pods.start(group, &mut started).await;
        starting += begun.elapsed();
        let processes =
            options.cgroup_root.as_ref().map(|root| uids.iter().map(|uid| PodProcesses::of(root, uid)));
        let processes = processes.into_iter().flatten().collect();
        pods.stop(group, &mut stopped, processes, &mut ended).await;
    }
    let elapsed = begun.elapsed();
    let cost = session.usage().zip(before).map(|(after, before)| after - before);
    let stopping = elapsed - starting;
    Ok(Series {
        // The CPU time cannot be split between starting and stopping; it stands with the start.
        start: Row::many(format!("pod start, {name}"), started, starting, cost),
        stop: Row::many(format!("pod stop, {name}: gone from the API"), stopped, stopping, None),
        ended: options
            .cgroup_root
            .is_some()
            .then(|| Row::many(format!("pod stop, {name}: processes ended"), ended, stopping, None)),
    })
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

    /// Starts pods and waits until they run; the uids of those that were made.
    async fn start(&mut self, names: &[String], outcome: &mut Outcome) -> Vec<String> {
        let (mut waiting, mut uids) = (HashMap::new(), Vec::new());
        for name in names {
            let body = Some(running_pod(name, &self.image, &self.command));
            let begun = Instant::now();
            match self.ask(Method::POST, &self.session.path("pods"), body).await {
                Ok(made) => {
                    uids.extend(uid(&made));
                    waiting.insert(name.clone(), begun);
                }
                Err(error) => outcome.add(Err(error)),
            }
        }
        self.hear(waiting, outcome, |what| match what {
            Seen::Running => Heard::Done,
            Seen::Failed(why) => Heard::Never(why),
            Seen::Gone => Heard::Never("the pod is gone".to_owned()),
        })
        .await;
        uids
    }

    /// Deletes pods and waits until they are gone and their processes have ended.
    async fn stop(
        &mut self,
        names: &[String],
        outcome: &mut Outcome,
        processes: Vec<PodProcesses>,
        ended: &mut Outcome,
    ) {
        let mut waiting = HashMap::new();
        let mut ends = JoinSet::new();
        let mut processes = processes.into_iter();
        for name in names {
            let begun = Instant::now();
            if let Some(processes) = processes.next() {
                ends.spawn(async move {
                    processes.ended().await?;
                    Ok(begun.elapsed())
                });
            }
            match self.ask(Method::DELETE, &format!("{}/{name}", self.session.path("pods")), None).await {
                Ok(_) => _ = waiting.insert(name.clone(), begun),
                Err(error) => outcome.add(Err(error)),
            }
        }
        // Its containers end on the way, which is no failure here.
        self.hear(waiting, outcome, |what| match what {
            Seen::Gone => Heard::Done,
            _ => Heard::NotYet,
        })
        .await;
        while let Some(end) = ends.join_next().await {
            ended.add(end.unwrap_or_else(|error| Err(error.into())));
        }
    }

    async fn ask(&mut self, method: Method, path: &str, body: Option<bytes::Bytes>) -> Result<bytes::Bytes> {
        self.connection.send(method, path, body).await?.ok()
    }

    /// Waits until all have been seen so, have failed, or time is up.
    async fn hear(
        &mut self,
        mut waiting: HashMap<String, Instant>,
        outcome: &mut Outcome,
        meaning: impl Fn(Seen) -> Heard,
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
            if !waiting.contains_key(&name) {
                continue;
            }
            let heard = match meaning(what) {
                Heard::NotYet => continue,
                Heard::Done => Ok(()),
                Heard::Never(why) => Err(anyhow::anyhow!(why)),
            };
            if let Some(begun) = waiting.remove(&name) {
                outcome.add(heard.map(|()| at.saturating_duration_since(begun)));
            }
        }
    }
}

/// What a sight means to who waits for something.
enum Heard {
    NotYet,
    Done,
    Never(String),
}

fn uid(pod: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Made {
        metadata: Uid,
    }
    #[derive(Deserialize)]
    struct Uid {
        #[serde(default)]
        uid: String,
    }
    serde_json::from_slice::<Made>(pod).ok().map(|made| made.metadata.uid)
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
