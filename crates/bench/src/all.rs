//! Runs what the command line asks for, and cleans up whatever happens.

use anyhow::{Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    args::{All, Args, Command, Figures, Load, Section, Target, Up, WatchLoad},
    cluster,
    figure::{self, Figure},
    load::{self, Task},
    objects::Kind,
    podstart,
    report::{Row, json_lines, table},
    services,
    session::Session,
    speed,
    up::Cluster,
    watch,
};

/// Lists are read by few clients: each answer has megabytes.
const LIST_CLIENTS: u32 = 4;

/// Heads the speed table.
const SPEED: &str = "work (2 KB pods, 1 KB config maps, HTTPS, keep-alive, JSON)";

/// The entry point: runs and prints.
pub async fn run(args: Args) -> Result<()> {
    let mut found = Found::default();
    // What is dropped by an interruption ends what it has started.
    let result = tokio::select! {
        result = measure(args.command, &mut found) => result,
        interrupted = interruption() => interrupted,
    };
    let Found { rows, sections } = found;
    // What was measured before a failure is still worth seeing.
    if !rows.is_empty() {
        print!("{}", if args.json { json_lines(&rows) } else { table(&rows) });
    }
    for (title, figures) in &sections {
        println!("\n{}", figure::table(title, figures).trim_end());
    }
    result?;
    match rows.iter().map(Row::errors).sum::<usize>() {
        0 => Ok(()),
        errors => bail!("{errors} requests failed"),
    }
}

/// What was measured up to now.
#[derive(Default)]
struct Found {
    rows: Vec<Row>,
    sections: Vec<(&'static str, Vec<Figure>)>,
}

async fn interruption() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    bail!(
        "interrupted; a server that was running before may keep the namespace corten-bench-{}",
        std::process::id()
    )
}

async fn measure(command: Command, found: &mut Found) -> Result<()> {
    let rows = &mut found.rows;
    match command {
        Command::Speed(args) => {
            found.sections.push((SPEED, speed::run(&args).await?));
            Ok(())
        }
        Command::Create(load) => one(&load.target.clone(), Step::Load(load, vec![Task::Create]), rows).await,
        Command::Update(load) => one(&load.target.clone(), prepared(load, vec![Task::Update]), rows).await,
        Command::Get(load) => one(&load.target.clone(), prepared(load, vec![Task::Get]), rows).await,
        Command::List(load) => one(&load.target.clone(), prepared(load, LISTS.to_vec()), rows).await,
        Command::Watch(args) => one(&args.load.target.clone(), Step::Watch(args), rows).await,
        Command::PodStart(args) => {
            let session = Session::open(&args.target).await?;
            let result = podstart::run(&session, &args.pods).await;
            close(session, result.map(|found| rows.extend(found))).await
        }
        Command::Figures(args) => figures(&args, found).await,
        Command::Dns(_) | Command::Proxy(_) => bail!("these run before there are threads"),
        Command::Up(args) => with_cluster(&args, rows, async |_, _| Ok(())).await,
        Command::All(args) if args.up.cluster.is_empty() => all(&args, &args.target, rows).await,
        Command::All(args) => {
            with_cluster(&args.up, rows, async |cluster, rows| {
                let kubeconfig = Some(cluster.kubeconfig());
                let target = Target { kubeconfig, server_pids: vec![cluster.pid()?], ..Target::default() };
                all(&args, &target, rows).await
            })
            .await
        }
    }
}

/// One section after the other; each leaves the machine to the next.
async fn figures(args: &Figures, found: &mut Found) -> Result<()> {
    let wanted = |section| args.sections.contains(&section);
    let mut result = Ok(());
    if wanted(Section::Api) {
        // A section that fails does not take the others with it; the first error is told at the end.
        match speed::run(&args.speed).await {
            Ok(figures) => found.sections.push((SPEED, figures)),
            Err(error) => result = Err(error),
        }
    }
    if wanted(Section::Services) {
        match services::run().await {
            Ok(figures) => found.sections.push(("services", figures)),
            Err(error) => result = result.and(Err(error)),
        }
    }
    if wanted(Section::Cluster) {
        let mut figures = Vec::new();
        let measured = cluster::run(args, &mut figures).await;
        found.sections.push(("a cluster with one node", figures));
        result = result.and(measured);
    }
    let failed = |figures: &[Figure]| figures.iter().any(|figure| figure.failed);
    match found.sections.iter().find(|(_, figures)| failed(figures)) {
        Some((title, _)) => result.and(Err(anyhow::anyhow!("some of the work failed: {title}"))),
        None => result,
    }
}

const LISTS: [Task; 2] = [Task::List { cached: false }, Task::List { cached: true }];

enum Step {
    Load(Load, Vec<Task>),
    /// With objects made before.
    Prepared(Load, Vec<Task>),
    Watch(WatchLoad),
}

fn prepared(load: Load, tasks: Vec<Task>) -> Step {
    Step::Prepared(load, tasks)
}

async fn one(target: &Target, step: Step, rows: &mut Vec<Row>) -> Result<()> {
    let session = Session::open(target).await?;
    let result = steps(&session, vec![step], rows).await;
    close(session, result).await
}

async fn steps(session: &Session, steps: Vec<Step>, rows: &mut Vec<Row>) -> Result<()> {
    for step in steps {
        match step {
            Step::Load(load, tasks) => tasks_of(session, &load, &tasks, rows).await?,
            Step::Prepared(load, tasks) => {
                load::prepare(session, &load).await?;
                tasks_of(session, &load, &tasks, rows).await?;
            }
            Step::Watch(args) => {
                load::prepare(session, &args.load).await?;
                rows.extend(watch::run(session, &args).await?);
            }
        }
    }
    Ok(())
}

async fn tasks_of(session: &Session, load: &Load, tasks: &[Task], rows: &mut Vec<Row>) -> Result<()> {
    for task in tasks {
        rows.push(load::run(session, load, *task).await?);
    }
    Ok(())
}

async fn all(args: &All, target: &Target, rows: &mut Vec<Row>) -> Result<()> {
    let session = Session::open(target).await?;
    let result = everything(&session, args, rows).await;
    close(session, result).await
}

async fn everything(session: &Session, args: &All, rows: &mut Vec<Row>) -> Result<()> {
    let (pods, maps) = (args.load(Kind::Pods, args.count), args.load(Kind::Configmaps, args.count));
    let lists = Load { clients: LIST_CLIENTS.min(args.clients), ..args.load(Kind::Pods, args.lists) };
    // Pods are started first, while the server holds nothing else.
    if let Some(options) = args.pods() {
        rows.extend(podstart::run(session, &options).await?);
    }
    steps(
        session,
        vec![
            Step::Load(pods, vec![Task::Create, Task::Get, Task::Update]),
            Step::Load(lists, LISTS.to_vec()),
            Step::Load(maps.clone(), vec![Task::Create, Task::Update]),
        ],
        rows,
    )
    .await?;
    rows.extend(watch::run(session, &WatchLoad { load: maps, watchers: args.watchers }).await?);
    Ok(())
}

async fn with_cluster(
    args: &Up,
    rows: &mut Vec<Row>,
    work: impl AsyncFnOnce(&Cluster, &mut Vec<Row>) -> Result<()>,
) -> Result<()> {
    let (cluster, ready) = Cluster::start(args).await?;
    rows.extend(ready);
    rows.push(cluster.idle(args).await?);
    let result = work(&cluster, rows).await;
    let stopped = cluster.stop().await;
    result?;
    rows.push(stopped?);
    Ok(())
}

/// Cleans up after success and failure alike; the first error counts.
async fn close(session: Session, result: Result<()>) -> Result<()> {
    let closed = session.close().await;
    result.and(closed)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::fake::Fake;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn all_measurements_run_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (fake, kubeconfig) = Fake::start(dir.path()).await;
        let me = std::process::id().to_string();
        let line = ["corten-bench", "all", "--kubeconfig", kubeconfig.to_str().unwrap(), "--server-pid", &me];
        let numbers =
            "--count 40 --lists 6 --clients 4 --watchers 5 --image x --one-by-one 3 --burst 4".split(' ');
        let args = Args::try_parse_from(line.into_iter().chain(numbers)).unwrap();
        let mut found = Found::default();
        measure(args.command, &mut found).await.unwrap();
        let rows = found.rows;
        let table = table(&rows);
        let counts: Vec<usize> = rows.iter().map(Row::count).collect();
        assert_eq!(counts, [3, 3, 4, 4, 40, 40, 40, 6, 6, 40, 40, 40, 200], "{table}");
        assert_eq!(rows.iter().map(Row::errors).sum::<usize>(), 0, "{table}");
        assert_eq!(fake.paths(), Vec::<String>::new());
        assert_eq!(fake.requests("POST pods"), 47);
        assert_eq!(fake.requests("PUT configmaps"), 80);
    }

    #[tokio::test]
    async fn a_failing_server_is_counted_and_cleaned_up() {
        let dir = tempfile::tempdir().unwrap();
        let (fake, kubeconfig) = Fake::start(dir.path()).await;
        let target = Target { kubeconfig: Some(kubeconfig), ..Target::default() };
        let load = Load { target: target.clone(), kind: Kind::Configmaps, clients: 2, count: 5, objects: 5 };
        let mut rows = Vec::new();
        // The second creation finds every name taken.
        let step = Step::Load(load, vec![Task::Create, Task::Create]);
        one(&target, step, &mut rows).await.unwrap();
        assert_eq!(rows.iter().map(|row| (row.count(), row.errors())).collect::<Vec<_>>(), [(5, 0), (0, 5)]);
        assert!(
            table(&rows).contains("first error: 409 Conflict: {\"message\":\"exists\"}"),
            "{}",
            table(&rows)
        );
        assert_eq!(fake.paths(), Vec::<String>::new());
    }

    /// The test's own program is the cluster: started once more, it finds the scratch directory as its last argument.
    #[tokio::test]
    async fn a_cluster_is_started_measured_and_stopped() {
        const NAME: &str = "all::tests::a_cluster_is_started_measured_and_stopped";
        let last = std::env::args().next_back().unwrap();
        if let Some(data) = last.strip_prefix("scratch=") {
            std::fs::create_dir(data).unwrap();
            let _server = Fake::start(data.as_ref()).await;
            return std::future::pending().await;
        }
        let me = std::env::current_exe().unwrap();
        let cluster = ["--", me.to_str().unwrap(), "--exact", NAME, "--nocapture", "scratch={data}"];
        let line =
            "corten-bench all --idle-secs 1 --settle-secs 0 --count 8 --lists 2 --watchers 2".split(' ');
        let args = Args::try_parse_from(line.chain(cluster)).unwrap();
        let mut found = Found::default();
        measure(args.command, &mut found).await.unwrap();
        let rows = found.rows;
        let table = table(&rows);
        let counts: Vec<usize> = rows.iter().map(Row::count).collect();
        assert_eq!(counts, [1, 1, 0, 8, 8, 8, 2, 2, 8, 8, 8, 16, 1], "{table}");
        assert!(table.contains("of a core over 1 s, 1 process(es)"), "{table}");
    }

    #[tokio::test]
    async fn a_cluster_that_ends_early_shows_its_log() {
        let line = ["corten-bench", "up", "--", "sh", "-c", "echo why not {data}; exit 3"];
        let args = Args::try_parse_from(line).unwrap();
        let error = measure(args.command, &mut Found::default()).await.unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("why not") && text.contains("exit status: 3"), "{text}");
    }
}
