//! First life of a shim: create and start the container, report, become `watch`.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use corten_sys::{fds, process, sockets};
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;

use super::executor::{ProgramExecutor, user_words};
use super::{
    CONFIG_FILE, EXIT_FILE, Exited, LIBCONTAINER_DIR, Report, SOCKET_FILE, STARTED_FILE, ShimConfig, Started,
};
use crate::files;

/// Exit code of a container that could not be started, as runc and containerd have it.
const START_ERROR_CODE: i32 = 128;

/// What `watch` takes over.
struct Streams {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
}

pub(super) fn run(dir: &Path) -> anyhow::Result<()> {
    process::leave_session();
    let kept = super::trace::keep_errors()?;
    let config = super::load_config(dir)?;
    let listener = sockets::listen(&dir.join(SOCKET_FILE))?;
    match start(dir, &config) {
        Ok((started, streams)) => {
            files::write_json(&dir.join(STARTED_FILE), &started)?;
            report(&Report::Started(started));
            become_watch(dir, started, &listener, streams)
        }
        Err(error) => {
            let why = describe(&error, &kept.text());
            let _ = std::fs::remove_file(dir.join(SOCKET_FILE));
            let exited = Exited {
                code: START_ERROR_CODE,
                signal: 0,
                at_ns: super::now_ns(),
                oom: false,
                reason: Some("StartError".into()),
                message: why.clone(),
            };
            files::write_json(&dir.join(EXIT_FILE), &exited)?;
            report(&Report::Failed(why));
            Err(error)
        }
    }
}

fn start(dir: &Path, config: &ShimConfig) -> anyhow::Result<(Started, Streams)> {
    // Supplementary groups that the spec does not name must not be inherited from whoever started us.
    nix::unistd::setgroups(&[]).context("drop groups")?;
    let oci = dir.join(LIBCONTAINER_DIR);
    std::fs::create_dir_all(&oci).with_context(|| format!("create {}", oci.display()))?;
    let executor = ProgramExecutor {
        seccomp: config.seccomp.clone(),
        final_capabilities: config.final_capabilities.clone(),
    };
    let base = ContainerBuilder::new(config.id.clone(), SyscallType::default())
        .with_root_path(&oci)?
        .with_executor(executor);
    let (base, streams, console) = if config.tty { terminal(dir, base)? } else { pipes(config, base)? };
    let mut container = base.as_init(dir).with_systemd(false).with_detach(true).build()?;
    let terminal = console.map(|console| receive_terminal(dir, &console)).transpose()?;
    container.start()?;
    let pid = container.pid().context("container without a pid")?.as_raw();
    let streams = Streams { terminal, ..streams };
    Ok((Started { pid, at_ns: super::now_ns() }, streams))
}

type Prepared = (ContainerBuilder, Streams, Option<UnixListener>);

fn pipes(config: &ShimConfig, base: ContainerBuilder) -> anyhow::Result<Prepared> {
    let (out_read, out_write) = fds::pipe()?;
    let (err_read, err_write) = fds::pipe()?;
    let (child_stdin, stdin) = match config.stdin {
        true => fds::pipe().map(|(read, write)| (read, Some(write)))?,
        false => (OwnedFd::from(OpenOptions::new().read(true).open("/dev/null")?), None),
    };
    let base = base.with_stdin(child_stdin).with_stdout(out_write).with_stderr(err_write);
    let streams = Streams { stdin, stdout: Some(out_read), stderr: Some(err_read), terminal: None };
    Ok((base, streams, None))
}

fn terminal(dir: &Path, base: ContainerBuilder) -> anyhow::Result<Prepared> {
    let path = dir.join("console.sock");
    let listener = sockets::listen(&path)?;
    let streams = Streams { stdin: None, stdout: None, stderr: None, terminal: None };
    Ok((base.with_console_socket(Some(path)), streams, Some(listener)))
}

fn receive_terminal(dir: &Path, console: &UnixListener) -> anyhow::Result<OwnedFd> {
    let (stream, _) = console.accept().context("accept console")?;
    let _ = std::fs::remove_file(dir.join("console.sock"));
    Ok(sockets::receive_descriptor(&stream)?)
}

/// One line on stdout, which the agent reads; when it is gone there is no one to tell.
pub(super) fn report(report: &Report) {
    let mut out = std::io::stdout();
    if let Ok(mut line) = serde_json::to_vec(report) {
        line.push(b'\n');
        let _ = out.write_all(&line).and_then(|()| out.flush());
    }
}

fn describe(error: &anyhow::Error, kept: &str) -> String {
    let text = user_words(&super::explain(error.as_ref()));
    if text.starts_with("exec: ") {
        return text;
    }
    // The first error logged is the cause; later ones come from the levels above it.
    match kept.lines().next() {
        Some(cause) if !text.contains(cause) => format!("{text}: {cause}"),
        _ => text,
    }
}

/// Replaces this process by `shim watch`; on success it does not return.
fn become_watch(
    dir: &Path,
    started: Started,
    listener: &UnixListener,
    streams: Streams,
) -> anyhow::Result<()> {
    super::silence(&[0, 1, 2])?;
    let mut handed = vec![format!("listener={}", listener.as_raw_fd())];
    fds::set_close_on_exec(listener, false)?;
    let all = [
        ("stdin", &streams.stdin),
        ("stdout", &streams.stdout),
        ("stderr", &streams.stderr),
        ("terminal", &streams.terminal),
    ];
    for (name, stream) in all {
        if let Some(fd) = stream {
            fds::set_close_on_exec(fd, false)?;
            handed.push(format!("{name}={}", fd.as_raw_fd()));
        }
    }
    let own = std::env::args_os().take_while(|word| word != "run").skip(1);
    let error = Command::new("/proc/self/exe")
        .args(own)
        .arg("watch")
        .arg(dir)
        .arg(format!("pid={}", started.pid))
        .arg(format!("started={}", started.at_ns))
        .args(handed)
        .env_clear()
        .exec();
    Err(error).with_context(|| format!("become watcher of {}", dir.join(CONFIG_FILE).display()))
}
