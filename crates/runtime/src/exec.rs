//! Processes run in a container beside its main one; the shim's side is `shim::exec`.
//!
//! Nothing of it is written to a disk: people need exec most when theirs is full.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use corten_sys::{fds, sockets};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;

use crate::container::SPEC_FILE;
use crate::error::{Result, RuntimeError};
use crate::files;
use crate::node::{Node, blocking};
use crate::registry::{Container, Phase};
use crate::shim::wire::Kind;
use crate::shim::{Exited, Report};
use crate::shim_client;
use crate::spec;
use crate::terminal::Terminal;

/// Output of one ExecSync, for each stream; what is more is dropped. The limit of other CRI runtimes.
const MAX_OUTPUT: usize = 16 << 20;
/// How long a process may take to start.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long output is still read after the end: something left in the background may hold the pipes.
pub(crate) const DRAIN_PATIENCE: Duration = Duration::from_secs(1);
/// Longest report line of a shim.
const MAX_REPORT: usize = 64 * 1024;

/// A process's streams.
pub(crate) enum Streams {
    /// Three pipes.
    Pipes { stdin: pipe::Sender, stdout: pipe::Receiver, stderr: pipe::Receiver },
    /// One terminal.
    Terminal(Terminal),
}

/// A process that runs. Dropping it kills the process.
pub(crate) struct Running {
    pub streams: Streams,
    control: tokio::net::UnixStream,
}

/// The end of a process's control connection.
pub(crate) struct Ending(tokio::net::UnixStream);

impl Running {
    /// Separates the streams from the wait for the end.
    pub(crate) fn split(self) -> (Streams, Ending) {
        (self.streams, Ending(self.control))
    }
}

impl Ending {
    /// Waits for the end and returns the exit code.
    pub(crate) async fn exit_code(&mut self) -> Result<i32> {
        match shim_client::read_frame(&mut self.0).await {
            Ok(Some((Kind::Done, body))) => {
                let exited: Exited =
                    serde_json::from_slice(&body).map_err(|e| RuntimeError::Other(e.to_string()))?;
                Ok(exited.code)
            }
            _ => Err(RuntimeError::Other("the process's shim went away".into())),
        }
    }
}

/// Starts `command` in a running container.
pub(crate) async fn start(
    node: &Arc<Node>,
    container: &Arc<Container>,
    command: &[String],
    terminal: bool,
) -> Result<Running> {
    if container.phase() != Phase::Running {
        return Err(RuntimeError::Precondition(format!("container {:?} is not running", container.id)));
    }
    if command.is_empty() {
        return Err(RuntimeError::Invalid("no command specified".into()));
    }
    let (node, container, command) = (node.clone(), container.clone(), command.to_vec());
    let (ends, control) = blocking(move || spawn(&node, &container, &command, terminal)).await?;
    let failed = |e: std::io::Error| RuntimeError::Other(format!("exec streams: {e}"));
    let streams = match ends {
        Ends::Terminal(fd) => Streams::Terminal(Terminal::new(fd).map_err(failed)?),
        Ends::Pipes([stdin, stdout, stderr]) => Streams::Pipes {
            stdin: pipe::Sender::from_owned_fd(stdin).map_err(failed)?,
            stdout: pipe::Receiver::from_owned_fd(stdout).map_err(failed)?,
            stderr: pipe::Receiver::from_owned_fd(stderr).map_err(failed)?,
        },
    };
    Ok(Running { streams, control: shim_client::adopt(control)? })
}

enum Ends {
    Pipes([OwnedFd; 3]),
    Terminal(OwnedFd),
}

fn spawn(
    node: &Node,
    container: &Container,
    command: &[String],
    terminal: bool,
) -> Result<(Ends, UnixStream)> {
    let document: serde_json::Value = files::read_json(&container.dir.join(SPEC_FILE))?;
    let failed = |e: std::io::Error| RuntimeError::Other(format!("start exec shim: {e}"));
    let process = in_memory(&spec::exec_process(&document, command, terminal)).map_err(failed)?;
    let (control, theirs) = UnixStream::pair().map_err(failed)?;
    let mut shim = shim_client::shim_command(&node.config.shim_command)?;
    shim.arg("exec").arg(&container.dir);
    shim.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
    let mut shim = tokio::process::Command::from(shim);
    let mut child = shim.spawn().map_err(failed)?;
    // The command keeps the shim's end of the connection open; its end must be seen when the shim dies.
    drop(shim);
    // Reaped in the background, so that it does not stay a zombie.
    tokio::spawn(async move { child.wait().await });
    control.set_read_timeout(Some(START_PATIENCE)).map_err(failed)?;
    sockets::send_descriptor(&control, &process)?;
    let pipes = if terminal { None } else { Some(send_pipes(&control)?) };
    match read_report(&control)? {
        Report::Started(_) => {}
        Report::Failed(why) => {
            return Err(RuntimeError::Start(format!(
                "failed to exec in container: OCI runtime exec failed: unable to start container process: {why}"
            )));
        }
    }
    let ends = match pipes {
        Some(pipes) => Ends::Pipes(pipes),
        None => Ends::Terminal(sockets::receive_descriptor(&control)?),
    };
    control.set_read_timeout(None).map_err(failed)?;
    Ok((ends, control))
}

/// A file without a place on any disk.
fn in_memory(process: &serde_json::Value) -> std::io::Result<File> {
    let memory = nix::sys::memfd::memfd_create("process.json", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
    let mut file = File::from(memory);
    file.write_all(&serde_json::to_vec(process)?)?;
    Ok(file)
}

/// Makes the process's three pipes, hands over its ends and keeps ours.
fn send_pipes(control: &UnixStream) -> Result<[OwnedFd; 3]> {
    let (stdin_theirs, stdin) = fds::pipe()?;
    let (stdout, stdout_theirs) = fds::pipe()?;
    let (stderr, stderr_theirs) = fds::pipe()?;
    for theirs in [&stdin_theirs, &stdout_theirs, &stderr_theirs] {
        sockets::send_descriptor(control, theirs)?;
    }
    Ok([stdin, stdout, stderr])
}

/// Reads one line and not a byte more: what follows may carry a descriptor.
fn read_report(mut control: &UnixStream) -> Result<Report> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < MAX_REPORT {
        match control.read(&mut byte) {
            Ok(1) if byte[0] != b'\n' => line.push(byte[0]),
            Ok(1) => break,
            Ok(_) => return Err(RuntimeError::Other("the exec shim ended without a report".into())),
            Err(e) => return Err(RuntimeError::Timeout(format!("the exec shim did not report: {e}"))),
        }
    }
    serde_json::from_slice(&line).map_err(|e| RuntimeError::Other(format!("report of the exec shim: {e}")))
}

/// What ExecSync returns.
pub(crate) struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
}

/// Runs a command to its end; `limit` zero means no limit. The process is killed when time is up.
pub(crate) async fn sync(
    node: &Arc<Node>,
    container: &Arc<Container>,
    command: &[String],
    limit: Duration,
) -> Result<Output> {
    let run = async {
        let (streams, mut ending) = start(node, container, command, false).await?.split();
        let Streams::Pipes { stdin, mut stdout, mut stderr } = streams else {
            return Err(RuntimeError::Other("exec without pipes".into()));
        };
        drop(stdin);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit_code = {
            let read = async { tokio::join!(collect(&mut stdout, &mut out), collect(&mut stderr, &mut err)) };
            let mut read = std::pin::pin!(read);
            tokio::select! {
                _ = &mut read => ending.exit_code().await?,
                code = ending.exit_code() => {
                    let code = code?;
                    let _ = tokio::time::timeout(DRAIN_PATIENCE, read).await;
                    code
                }
            }
        };
        Ok(Output { stdout: out, stderr: err, exit_code })
    };
    if limit.is_zero() {
        return run.await;
    }
    match tokio::time::timeout(limit, run).await {
        Ok(done) => done,
        Err(_) => Err(RuntimeError::Timeout(format!(
            "failed to exec in container: timeout {}s exceeded: context deadline exceeded",
            limit.as_secs()
        ))),
    }
}

/// Reads to the end, keeping the first [`MAX_OUTPUT`] bytes.
async fn collect(from: &mut (impl AsyncRead + Unpin), into: &mut Vec<u8>) {
    let mut buffer = vec![0; 8192];
    loop {
        match from.read(&mut buffer).await {
            Ok(count) if count > 0 => {
                let room = MAX_OUTPUT - into.len();
                into.extend(&buffer[..count.min(room)]);
            }
            _ => return,
        }
    }
}
