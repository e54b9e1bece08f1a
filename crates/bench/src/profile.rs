//! Where a server's CPU time goes while it works: `perf` (Debian: linux-perf) looks on, and says so in a file for each piece of work.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::{Child, Command};

/// Looks in a second; odd, so that it does not beat with timers.
const HERTZ: &str = "997";

/// perf is attached after so long; it does not say when.
const ATTACH: Duration = Duration::from_millis(300);

/// What is left out of the report, in percent.
const LEAST_PERCENT: &str = "0.3";

/// Looks on, or does not.
#[derive(Clone, Debug)]
pub struct Profiler {
    dir: Option<PathBuf>,
    pids: Vec<u32>,
}

/// A profile being taken.
pub struct Running(Option<(Child, PathBuf)>);

impl Profiler {
    /// One that does nothing.
    pub fn off() -> Self {
        Self { dir: None, pids: Vec::new() }
    }

    /// One that writes `NAME.data` for perf and `NAME.txt` for people.
    pub fn into(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(Self { dir: Some(dir.to_owned()), pids: Vec::new() })
    }

    /// The same for these processes.
    pub fn of(&self, pids: Vec<u32>) -> Self {
        Self { dir: self.dir.clone(), pids }
    }

    /// Begins to look.
    pub async fn start(&self, name: &str) -> Result<Running> {
        let Some(dir) = &self.dir else { return Ok(Running(None)) };
        let data = dir.join(format!("{name}.data"));
        let pids = self.pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let perf = Command::new("perf")
            .args(["record", "--quiet", "-g", "-F", HERTZ, "-p", &pids, "-o"])
            .arg(&data)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("perf (Debian has it in linux-perf)")?;
        tokio::time::sleep(ATTACH).await;
        Ok(Running(Some((perf, data))))
    }
}

impl Running {
    /// Ends looking and writes what was seen.
    pub async fn finish(self) -> Result<()> {
        let Some((mut perf, data)) = self.0 else { return Ok(()) };
        let pid = i32::try_from(perf.id().context("perf has ended")?)?;
        kill(Pid::from_raw(pid), Signal::SIGINT)?;
        perf.wait().await?;
        let report = File::create(data.with_extension("txt"))?;
        let status = Command::new("perf")
            .args([
                "report",
                "--stdio",
                "--no-children",
                "-g",
                "none",
                "--percent-limit",
                LEAST_PERCENT,
                "-i",
            ])
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(report)
            .stderr(Stdio::null())
            .status()
            .await?;
        ensure!(status.success(), "perf report {}: {status}", data.display());
        Ok(())
    }
}
