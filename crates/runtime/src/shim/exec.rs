//! One process in a running container beside its main one: `kubectl exec`, probes, hooks.
//!
//! Standard input is a socket to the agent. Over it comes first what is to run, as a file in memory; without a terminal
//! then the process's three streams, while with one the shim sends back the terminal's master side. Then frames: a [`Report`] line,
//! later `Done` with the exit code. When the agent asks (`Signal`) or goes away, the process is killed.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::Context;
use corten_sys::{process, signals, sockets};
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::executor::{ProgramExecutor, user_words};
use super::wire::{self, Kind};
use super::{Exited, LIBCONTAINER_DIR, Report, ShimConfig, Started};
use crate::files;

/// What is to run: an OCI process object, of which only the terminal flag matters here.
#[derive(serde::Deserialize)]
struct Process {
    #[serde(default)]
    terminal: bool,
}

pub(super) fn exec(dir: &Path) -> anyhow::Result<()> {
    process::leave_session();
    let agent = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let kept = super::trace::keep_errors()?;
    let config = super::load_config(dir)?;
    match start(dir, &config, &agent) {
        Ok((pid, terminal)) => {
            super::silence(&[0, 1, 2])?;
            send(&agent, &Report::Started(Started { pid, at_ns: super::now_ns() }))?;
            if let Some(terminal) = terminal {
                sockets::send_descriptor(&agent, &terminal)?;
            }
            wait(pid, &agent)
        }
        Err(error) => {
            let text = user_words(&super::explain(error.as_ref()));
            let first = kept.text().lines().next().unwrap_or_default().to_owned();
            let why = if text.starts_with("exec: ") || first.is_empty() {
                text
            } else {
                format!("{text}: {first}")
            };
            send(&agent, &Report::Failed(why))?;
            Err(error)
        }
    }
}

fn start(dir: &Path, config: &ShimConfig, agent: &UnixStream) -> anyhow::Result<(i32, Option<OwnedFd>)> {
    nix::unistd::setgroups(&[]).context("drop groups")?;
    let file = sockets::receive_descriptor(agent)?;
    let process_file = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let process: Process = files::read_json(&process_file)?;
    let executor = ProgramExecutor {
        seccomp: config.seccomp.clone(),
        final_capabilities: config.final_capabilities.clone(),
    };
    let base = ContainerBuilder::new(config.id.clone(), SyscallType::default())
        .with_root_path(dir.join(LIBCONTAINER_DIR))?
        .with_executor(executor);
    if process.terminal {
        return start_with_terminal(dir, process_file, base);
    }
    let stdin = sockets::receive_descriptor(agent)?;
    let stdout = sockets::receive_descriptor(agent)?;
    let stderr = sockets::receive_descriptor(agent)?;
    let base = base.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr);
    let pid = base.as_tenant().with_detach(true).with_process(Some(process_file)).build()?;
    Ok((pid.as_raw(), None))
}

fn start_with_terminal(
    dir: &Path,
    process_file: PathBuf,
    base: ContainerBuilder,
) -> anyhow::Result<(i32, Option<OwnedFd>)> {
    let console = dir.join(format!("exec-{}.console", std::process::id()));
    let listener = sockets::listen(&console)?;
    let base = base.with_console_socket(Some(console.clone()));
    let built = base.as_tenant().with_detach(true).with_process(Some(process_file)).build();
    let _ = std::fs::remove_file(&console);
    let pid = built?;
    let (stream, _) = listener.accept().context("accept console")?;
    Ok((pid.as_raw(), Some(sockets::receive_descriptor(&stream)?)))
}

fn send(mut agent: &UnixStream, report: &Report) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    Ok(agent.write_all(&line)?)
}

/// Until the process has ended: listen to the agent and to SIGCHLD.
fn wait(pid: i32, mut agent: &UnixStream) -> anyhow::Result<()> {
    let children = signals::signal_descriptor(&[Signal::SIGCHLD])?;
    let mut listening = true;
    loop {
        while let Some(ended) = process::reap_any(false)? {
            if ended.pid == pid {
                let exited = Exited {
                    code: ended.code,
                    signal: ended.signal,
                    at_ns: super::now_ns(),
                    oom: false,
                    reason: None,
                    message: String::new(),
                };
                return Ok(agent.write_all(&wire::frame(Kind::Done, &serde_json::to_vec(&exited)?))?);
            }
        }
        let interest = if listening { PollFlags::POLLIN } else { PollFlags::empty() };
        let mut polled =
            [PollFd::new(children.as_fd(), PollFlags::POLLIN), PollFd::new(agent.as_fd(), interest)];
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if listening && polled[1].any() == Some(true) {
            // A frame or the end of the connection: both mean that nobody wants the process any more.
            listening = false;
            let _ = agent.read(&mut [0; 64]);
            let _ = process::kill(pid, nix::libc::SIGKILL);
        }
        while children.read_signal()?.is_some() {}
    }
}
