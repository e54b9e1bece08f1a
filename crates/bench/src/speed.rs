//! What an API server costs: the same work for a fresh Corten and, where its programs are at hand, a fresh etcd with kube-apiserver, several
//! times over, side by side.

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    args::{Load, Speed, WatchLoad},
    figure::{Figure, Part, at_least, at_most, grouped, told},
    load::{self, Task},
    objects::Kind,
    process::usage,
    profile::Profiler,
    report::{Latencies, Row},
    server::{Programs, Server},
    session::Session,
    watch,
};

/// Clients that write at once.
const WRITERS: u32 = 64;
/// Clients that read at once.
const READERS: u32 = 16;
/// Lists of each kind.
const LISTS: u32 = 10;
/// Pods that one client makes, one after the other.
const SINGLE: u32 = 500;
/// Updates that are watched.
const UPDATES: u32 = 1000;
/// Who watches.
const WATCHERS: u32 = 100;
/// Who updates.
const UPDATERS: u32 = 16;
/// Writes that are synced to learn what a sync takes.
const SYNCS: usize = 200;
/// Size of such a write.
const SYNCED_BYTES: usize = 4096;

/// What is measured, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Start,
    Idle,
    CreatePods,
    CreateMaps,
    CreateOne,
    Get,
    List,
    Watch,
    Memory,
}

const WORKS: [Work; 9] = [
    Work::Start,
    Work::Idle,
    Work::CreatePods,
    Work::CreateMaps,
    Work::CreateOne,
    Work::Get,
    Work::List,
    Work::Watch,
    Work::Memory,
];

impl Work {
    /// Its line before anything is measured. A single create may take `sync_ms` longer than the rest of its work.
    fn figure(self, args: &Speed, sync_ms: f64) -> Figure {
        let pods = grouped(&args.pods.to_string());
        let updates = grouped(&UPDATES.min(args.pods).to_string());
        let per_1000 = |limit| at_most(limit, " s CPU/1,000", 2);
        let (work, recorded, parts): (String, &str, Vec<Part>) = match self {
            Self::Start => ("cold start to /readyz".into(), "6.5 s", vec![at_most(0.2, " s", 2)]),
            Self::Idle => {
                ("idle memory, API server + store (PSS)".into(), "327 + 50 MB", vec![at_most(30.0, " MB", 1)])
            }
            Self::CreatePods => (
                format!("pod create, {WRITERS} clients"),
                "442/s · 4.0 s CPU/1,000",
                vec![at_least(4400.0, "/s", 0), per_1000(0.4)],
            ),
            Self::CreateMaps => (
                format!("config map create, {WRITERS} clients"),
                "806/s · 2.1 s CPU/1,000",
                vec![at_least(8000.0, "/s", 0), per_1000(0.2)],
            ),
            Self::CreateOne => (
                format!("pod create, 1 client, p50 (one disk sync: {sync_ms:.2} ms)"),
                "6.1 ms",
                vec![at_most(1.0 + sync_ms, " ms", 2)],
            ),
            Self::Get => (
                format!("GET one pod, {READERS} clients"),
                "585/s · 1.6 s CPU/1,000",
                vec![at_least(10_000.0, "/s", 0), per_1000(0.1)],
            ),
            Self::List => (
                format!("LIST {pods} pods: size · p50 consistent · p50 resourceVersion=0 · CPU of each"),
                "29 MB · 707 ms · 360 ms · 0.95 s · 0.38 s",
                vec![
                    told(" MB", 1),
                    at_most(70.0, " ms", 0),
                    at_most(70.0, " ms", 0),
                    at_most(0.06, " s", 3),
                    at_most(0.06, " s", 3),
                ],
            ),
            Self::Watch => (
                format!("{updates} updates seen by {WATCHERS} watchers, {UPDATERS} writers: done in · CPU"),
                "5.1 s · 7.2 s",
                vec![at_most(0.5, " s", 2), at_most(0.7, " s", 2)],
            ),
            Self::Memory => (
                format!("memory holding {pods} pods, after ten lists (PSS)"),
                "960 + 145 MB",
                vec![at_most(90.0, " MB", 1)],
            ),
        };
        Figure { recorded: recorded.into(), ours: Vec::new(), ..Figure::ours(work, parts, Vec::new()) }
    }
}

/// Measures both servers in turn, so that what else the machine does falls on both.
pub async fn run(args: &Speed) -> Result<Vec<Figure>> {
    let sync_ms = sync_ms(&std::env::temp_dir()).context("how long a disk sync takes")?;
    let mut figures: Vec<Figure> = WORKS.iter().map(|work| work.figure(args, sync_ms)).collect();
    let corten = Programs::Corten(args.corten.clone());
    for number in 1..=args.rounds {
        if let Some(dir) = &args.upstream {
            eprintln!("    API server, round {number} of {}, upstream", args.rounds);
            let values = round(&Programs::Upstream(dir.clone()), args, &Profiler::off()).await?;
            figures.iter_mut().zip(values).for_each(|(figure, values)| figure.upstream.push(values));
        }
        eprintln!("    API server, round {number} of {}", args.rounds);
        let values = round(&corten, args, &Profiler::off()).await?;
        figures.iter_mut().zip(values).for_each(|(figure, values)| figure.ours.push(values));
    }
    if let Some(dir) = &args.profile {
        // A round of its own: who looks on slows the work down.
        eprintln!("    API server, profiled into {}", dir.display());
        round(&corten, args, &Profiler::into(dir)?).await?;
    }
    Ok(figures)
}

/// One fresh server and all work on it: the numbers in the order of [`WORKS`].
async fn round(programs: &Programs, args: &Speed, profiler: &Profiler) -> Result<Vec<Vec<f64>>> {
    let server = Server::start(programs).await?;
    let start = server.started_in.as_secs_f64();
    tokio::time::sleep(Duration::from_secs(args.api_settle_secs)).await;
    let idle = memory_mb(&server);
    let session = Session::open(&server.target("bench")).await?;
    let others = Session::open(&server.target("others")).await?;
    let round = Round { session: &session, pods: args.pods, profiler: profiler.of(server.pids()) };

    let pods = round.load("create-pods", &session, Kind::Pods, WRITERS, args.pods, Task::Create).await?;
    let (bytes, consistent) = round.list(false).await?;
    let memory = memory_mb(&server);
    let (_, cached) = round.list(true).await?;
    let get = round.load("get", &session, Kind::Pods, READERS, args.pods, Task::Get).await?;
    let one = round.load("create-one", &others, Kind::Pods, 1, SINGLE, Task::Create).await?;
    let maps =
        round.load("create-maps", &session, Kind::Configmaps, WRITERS, args.pods, Task::Create).await?;
    let watched = round.watch().await?;
    server.stop().await?;

    let each = |row: &Row| row.cpu_ms_each().unwrap_or_default() / 1000.0;
    let value = |work: &Work| match work {
        Work::Start => vec![start],
        Work::Idle => vec![idle],
        Work::CreatePods => rate_and_cost(&pods),
        Work::CreateMaps => rate_and_cost(&maps),
        Work::CreateOne => vec![one.at_most_ms(50)],
        Work::Get => rate_and_cost(&get),
        Work::List => vec![
            bytes as f64 / 1e6,
            consistent.at_most_ms(50),
            cached.at_most_ms(50),
            each(&consistent),
            each(&cached),
        ],
        Work::Watch => vec![watched.elapsed().as_secs_f64(), watched.usage().cpu_secs],
        Work::Memory => vec![memory],
    };
    Ok(WORKS.iter().map(value).collect())
}

/// In a second, and the CPU seconds of a thousand.
fn rate_and_cost(row: &Row) -> Vec<f64> {
    vec![row.rate().unwrap_or_default(), row.cpu_ms_each().unwrap_or_default()]
}

fn memory_mb(server: &Server) -> f64 {
    usage(&server.pids()).pss_kb as f64 / 1024.0
}

/// Where the work goes.
struct Round<'a> {
    session: &'a Session,
    pods: u32,
    profiler: Profiler,
}

impl Round<'_> {
    async fn load(
        &self,
        name: &str,
        session: &Session,
        kind: Kind,
        clients: u32,
        count: u32,
        task: Task,
    ) -> Result<Row> {
        let load = Load { kind, clients, count, objects: count, ..Load::default() };
        let running = self.profiler.start(name).await?;
        let row = load::run(session, &load, task).await?.sound()?;
        running.finish().await?;
        Ok(row)
    }

    /// Lists by one client; the size of an answer, and the requests.
    async fn list(&self, cached: bool) -> Result<(usize, Row)> {
        let name = if cached { "list-cached" } else { "list" };
        let load = Load { kind: Kind::Pods, clients: 1, count: LISTS, objects: self.pods, ..Load::default() };
        let running = self.profiler.start(name).await?;
        let row = load::run(self.session, &load, Task::List { cached }).await?.sound()?;
        running.finish().await?;
        let path = self.session.path("pods");
        // Not one list more than the table says before memory is looked at.
        let bytes = if cached { 0 } else { row.bytes_each() };
        ensure!(cached || bytes > 0, "{path}: an empty list");
        Ok((bytes, row))
    }

    /// Config maps that are there are updated; the row of the events.
    async fn watch(&self) -> Result<Row> {
        let updates = UPDATES.min(self.pods);
        let load = Load {
            kind: Kind::Configmaps,
            clients: UPDATERS,
            count: updates,
            objects: updates,
            ..Load::default()
        };
        let running = self.profiler.start("watch").await?;
        let rows = watch::run(self.session, &WatchLoad { load, watchers: WATCHERS }).await?;
        running.finish().await?;
        let events = rows.into_iter().map(Row::sound).next_back();
        events.context("the watchers' row")?
    }
}

/// The median of what it takes this disk to write a little and be sure of it.
fn sync_ms(dir: &Path) -> Result<f64> {
    let mut file: File = tempfile::tempfile_in(dir)?;
    let block = [7; SYNCED_BYTES];
    let mut latencies = Latencies::default();
    // As a store's log does it once the file has its length.
    file.write_all(&vec![0; SYNCED_BYTES * SYNCS])?;
    file.sync_all()?;
    file.seek(SeekFrom::Start(0))?;
    for _ in 0..SYNCS {
        let begun = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        latencies.add(begun.elapsed());
    }
    latencies.sort();
    latencies.percentile_ms(50).context("no sync")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_work_has_a_number_for_each_of_its_parts_as_recorded() {
        let args = Speed { pods: 5000, ..Speed::default() };
        for work in WORKS {
            let figure = work.figure(&args, 0.3);
            let recorded = figure.recorded.split(" · ").count();
            assert_eq!(recorded, figure.parts.len(), "{}", figure.work);
        }
        assert_eq!(Work::CreateOne.figure(&args, 0.3).parts[0], at_most(1.3, " ms", 2));
    }

    #[test]
    fn a_sync_takes_time() {
        assert!(sync_ms(&std::env::temp_dir()).unwrap() >= 0.0);
    }
}
