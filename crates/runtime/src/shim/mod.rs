//! The shim: one small single-threaded process for each container, its parent and the keeper of its output.
//!
//! It lives in its own session, so that neither the end nor the restart of the agent reaches it. All it
//! shares with the agent are files in the container's directory and a socket there:
//!
//! ```text
//! shim.json     what to run and where to log, written by the agent before the start
//! shim.sock     attach, resize, signals, log rotation; see `wire`
//! started.json  pid and time, written once the container runs
//! exit.json     how it ended (or why it never started); the last thing a shim does
//! ```
//!
//! `run` calls libcontainer, reports to the agent and re-executes itself as `watch`, which drops all that
//! libcontainer has left in memory: same process, so the container stays its child.

mod exec;
mod executor;
mod log;
mod pause;
mod run;
mod trace;
mod watch;
pub(crate) mod wire;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use crate::files;
use crate::seccomp::Filters;

/// Names of the files in a container's directory.
pub(crate) const CONFIG_FILE: &str = "shim.json";
pub(crate) const SOCKET_FILE: &str = "shim.sock";
pub(crate) const STARTED_FILE: &str = "started.json";
pub(crate) const EXIT_FILE: &str = "exit.json";
/// Where libcontainer keeps its own state.
pub(crate) const LIBCONTAINER_DIR: &str = "oci";

/// What the agent tells the shim of a container.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ShimConfig {
    /// The container's id.
    pub id: String,
    /// Where CRI-format lines go; `None` throws output away.
    pub log_path: Option<PathBuf>,
    /// Whether the container gets a terminal.
    pub tty: bool,
    /// Whether stdin stays open for attach; otherwise it is /dev/null.
    pub stdin: bool,
    /// Whether stdin closes when the first attached client leaves.
    pub stdin_once: bool,
    /// The container's control group.
    pub cgroup: String,
    /// Whether the end of the main process leaves others behind (shared or host pid namespace).
    pub kill_group_at_exit: bool,
    /// System call filters, installed just before the program starts.
    pub seccomp: Option<Filters>,
    /// Capabilities that the program ends up with, when `seccomp` wanted more for its own installation.
    pub final_capabilities: Option<Vec<String>>,
}

/// A container that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Started {
    /// Its main process, in the host's numbering.
    pub pid: i32,
    /// When, in nanoseconds since 1970.
    pub at_ns: i64,
}

/// A container that has ended or could not start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exited {
    /// Exit code; 128 + signal after a signal.
    pub code: i32,
    /// The signal that ended it, or 0.
    #[serde(default)]
    pub signal: i32,
    /// When, in nanoseconds since 1970.
    pub at_ns: i64,
    /// Whether the out-of-memory killer struck in its control group.
    #[serde(default)]
    pub oom: bool,
    /// CRI reason where it is not derived from the code (`StartError`, `Unknown`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// More words for `reason`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// The first line a shim sends to whoever started it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The process runs.
    Started(Started),
    /// It does not, and why.
    Failed(String),
}

/// Entry of the hidden subcommand `shim`; `args` are the words after it. Must be called before any thread
/// exists: libcontainer forks without exec.
pub fn shim_main(args: &[String]) -> ExitCode {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["run", dir] => run::run(Path::new(dir)),
        ["watch", dir, rest @ ..] => watch::watch(Path::new(dir), rest),
        ["exec", dir] => exec::exec(Path::new(dir)),
        ["pause"] => pause::pause(),
        _ => Err(anyhow::anyhow!("unknown shim command {args:?}")),
    };
    if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

pub(crate) fn now_ns() -> i64 {
    // Fits until the year 2262.
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

fn load_config(dir: &Path) -> anyhow::Result<ShimConfig> {
    Ok(files::read_json(&dir.join(CONFIG_FILE))?)
}

/// Closes the way back to the agent: what holds its pipes would keep them open for the container's life.
fn silence(streams: &[i32]) -> anyhow::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for number in streams {
        corten_sys::fds::replace_stdio(&null, *number)?;
    }
    Ok(())
}

/// The error with its causes, in one line; libcontainer repeats itself from level to level.
fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = next.source();
    }
    text
}
