//! Starts a cluster in a scratch directory and measures how long it takes and what it costs when idle.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use http::Method;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{
    args::Up,
    http::{Connection, Endpoint},
    kubeconfig,
    process::usage,
    report::Row,
};

/// Between two tries to reach a server that is starting.
pub const TRY_AGAIN: Duration = Duration::from_millis(2);

/// A cluster that has not stopped this long after SIGTERM is killed.
const STOP_WAIT: Duration = Duration::from_secs(30);

/// How much of a failed cluster's log is shown.
const LOG_TAIL_LINES: usize = 20;

#[derive(Deserialize)]
struct Nodes {
    items: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Default, Deserialize)]
struct NodeStatus {
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

/// A running cluster; stopped by [`Cluster::stop`], asked to stop when dropped.
pub struct Cluster {
    child: Child,
    /// Holds the log and, unless told otherwise, the data.
    scratch: TempDir,
    data: PathBuf,
    begun: Instant,
}

impl Cluster {
    /// Starts the command and returns with the time it took to be ready.
    pub async fn start(args: &Up) -> Result<(Self, Vec<Row>)> {
        let scratch = tempfile::Builder::new().prefix("corten-bench-").tempdir()?;
        let data = args.data.clone().unwrap_or_else(|| scratch.path().join("data"));
        let log = File::create(scratch.path().join("bench.log"))?;
        let command = command_line(&args.cluster, &data);
        let (program, arguments) = command.split_first().context("which cluster? the command is missing")?;
        let begun = Instant::now();
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let mut cluster = Self { child, scratch, data, begun };
        let rows = match tokio::time::timeout(args.ready_within(), cluster.ready()).await {
            Ok(Ok(rows)) => rows,
            Ok(Err(error)) => return Err(error.context(cluster.log_tail())),
            Err(_) => bail!("no node was ready within {} s\n{}", args.ready_secs, cluster.log_tail()),
        };
        if let Some(setup) = &args.setup {
            cluster.set_up(setup).await?;
        }
        Ok((cluster, rows))
    }

    /// The server's process.
    pub fn pid(&self) -> Result<u32> {
        self.child.id().context("the cluster has ended")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data.join("kubeconfig")
    }

    async fn ready(&mut self) -> Result<Vec<Row>> {
        let mut connection = self.readyz().await?;
        let api = Row::once("start to /readyz ok", self.begun.elapsed());
        while !node_ready(&mut connection).await? {
            tokio::time::sleep(TRY_AGAIN).await;
        }
        Ok(vec![api, Row::once("start to node Ready", self.begun.elapsed())])
    }

    async fn readyz(&mut self) -> Result<Connection> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the cluster has ended: {status}");
            }
            if let Ok(connection) = try_readyz(&self.kubeconfig()).await {
                return Ok(connection);
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }

    async fn set_up(&self, command: &str) -> Result<()> {
        let status = Command::new("sh")
            .args(["-c", command])
            .env("BENCH_DATA_DIR", &self.data)
            .env("KUBECONFIG", self.kubeconfig())
            .status()
            .await?;
        if !status.success() {
            bail!("the set-up command failed: {status}");
        }
        Ok(())
    }

    /// Memory and CPU of the cluster when nobody asks anything of it.
    pub async fn idle(&self, args: &Up) -> Result<Row> {
        tokio::time::sleep(Duration::from_secs(args.settle_secs)).await;
        let pid = self.pid()?;
        let (before, begun) = (usage(&[pid]), Instant::now());
        tokio::time::sleep(Duration::from_secs(args.idle_secs)).await;
        let after = usage(&[pid]);
        let (cost, elapsed) = (after - before, begun.elapsed());
        let percent = 100.0 * cost.core_share(elapsed);
        let seconds = elapsed.as_secs();
        let note = format!("{percent:.2} % of a core over {seconds} s, {} process(es)", after.processes);
        Ok(Row::remark("idle", cost, note))
    }

    /// Ends the cluster as an operator would; how long that took.
    pub async fn stop(mut self) -> Result<Row> {
        let begun = Instant::now();
        self.terminate();
        let ended = tokio::time::timeout(STOP_WAIT, self.child.wait()).await;
        ended.with_context(|| format!("the cluster did not stop\n{}", self.log_tail()))??;
        Ok(Row::once("SIGTERM to end", begun.elapsed()))
    }

    fn terminate(&self) {
        // None = it was waited for, the number may mean another process by now.
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It fails only when the process has ended.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }

    fn log_tail(&self) -> String {
        log_tail(&self.scratch.path().join("bench.log"))
    }
}

/// The end of a log, for those who want to know why.
pub fn log_tail(path: &Path) -> String {
    let log = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.terminate();
    }
}

/// A connection to a server that says it is ready; an error when there is no server yet.
pub async fn try_readyz(path: &Path) -> Result<Connection> {
    // The file may be there before it is whole.
    let mut connection = Endpoint::new(&kubeconfig::read(path, None)?)?.connect().await?;
    // On one connection: handshakes would slow down a server that is busy with starting.
    while !connection.send(Method::GET, "/readyz", None).await?.status.is_success() {
        tokio::time::sleep(TRY_AGAIN).await;
    }
    Ok(connection)
}

async fn node_ready(connection: &mut Connection) -> Result<bool> {
    let nodes = connection.send(Method::GET, "/api/v1/nodes", None).await?.ok()?;
    let nodes: Nodes = serde_json::from_slice(&nodes)?;
    let ready = |condition: &Condition| condition.kind == "Ready" && condition.status == "True";
    Ok(nodes.items.iter().any(|node| node.status.conditions.iter().any(ready)))
}

fn command_line(command: &[String], data: &Path) -> Vec<String> {
    const PLACE: &str = "{data}";
    let data = data.to_string_lossy();
    let mut line: Vec<String> = command.iter().map(|word| word.replace(PLACE, &data)).collect();
    if !command.iter().any(|word| word.contains(PLACE)) {
        line.extend(["--data-dir".to_owned(), data.into_owned()]);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scratch_directory_is_put_into_the_command() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let cases = [
            ("corten up --name b", "corten up --name b --data-dir /s"),
            ("x --root={data}/etc -v", "x --root=/s/etc -v"),
        ];
        for (command, expected) in cases {
            assert_eq!(command_line(&words(command), Path::new("/s")), words(expected));
        }
    }
}
