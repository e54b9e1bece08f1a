//! Second life of a shim: carry output to the log and to attached clients, stdin the other way, and write
//! down how the container ended. One thread, one `poll`, no allocation that grows without a bound.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use corten_sys::cgroups::{Cgroups, HostCgroups};
use corten_sys::{fds, process, signals, tty};
use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use super::log::{Log, Stream};
use super::wire::{self, Kind};
use super::{EXIT_FILE, Exited, SOCKET_FILE, ShimConfig, Started};
use crate::files;

/// Clients connected at once; further ones are turned away.
const MAX_CLIENTS: usize = 64;
/// Output waiting for one client before the container's output is no longer read.
const CLIENT_BUFFER: usize = 256 * 1024;
/// Input waiting for the container before clients are no longer read.
const STDIN_BUFFER: usize = 64 * 1024;
/// A client that takes nothing for this long is cut off: it must not stop the container's log for ever.
const CLIENT_STALL: Duration = Duration::from_secs(10);
/// How long output is still read after the end, in case something else holds the pipes open.
const DRAIN: Duration = Duration::from_secs(2);
/// How long clients may take the last output and the news of the end.
const FAREWELL: Duration = Duration::from_secs(2);
const CHUNK: usize = 32 * 1024;
/// The kernel kills agents before shims, and containers before both.
const OOM_SCORE_ADJ: i32 = -998;

pub(super) fn watch(dir: &Path, words: &[&str]) -> anyhow::Result<()> {
    let _ = process::set_oom_score_adj(OOM_SCORE_ADJ);
    let mut watcher = Watcher::take_over(dir, words)?;
    while !watcher.step()? {}
    Ok(())
}

struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    attached: bool,
    waiting_since: Option<Instant>,
    gone: bool,
}

struct Watcher {
    dir: PathBuf,
    config: ShimConfig,
    started: Started,
    children: SignalFd,
    listener: UnixListener,
    log: Log,
    stdin: Option<OwnedFd>,
    stdin_buffer: Vec<u8>,
    stdin_ending: bool,
    /// Descriptors that carry the container's output; `None` once at their end.
    outputs: [(Stream, Option<OwnedFd>); 2],
    terminal: bool,
    clients: Vec<Client>,
    ended: Option<(process::Ended, i64, Instant)>,
    told: Option<Instant>,
}

/// What `poll` said something about.
#[derive(Clone, Copy)]
enum Source {
    Children,
    Listener,
    Stdin,
    Output(usize),
    Client(usize),
}

impl Watcher {
    fn take_over(dir: &Path, words: &[&str]) -> anyhow::Result<Self> {
        let value = |name: &str| words.iter().find_map(|w| w.strip_prefix(name)?.strip_prefix('='));
        let number = |name: &str| value(name).and_then(|v| v.parse::<i64>().ok());
        let take = |name: &str| match number(name) {
            Some(fd) => {
                let fd = fds::take_inherited(fd as i32)?;
                fds::set_close_on_exec(&fd, true)?;
                fds::set_nonblocking(&fd, true)?;
                Ok(Some(fd))
            }
            None => corten_sys::Result::Ok(None),
        };
        let config = super::load_config(dir)?;
        let listener = UnixListener::from(take("listener")?.context("no listener")?);
        let terminal = take("terminal")?;
        let stdin = match &terminal {
            Some(terminal) if config.stdin => Some(terminal.try_clone()?),
            _ => take("stdin")?,
        };
        let is_terminal = terminal.is_some();
        let stdout = if is_terminal { terminal } else { take("stdout")? };
        let log = Log::open(config.log_path.clone()).or_else(|_| Log::open(None))?;
        Ok(Self {
            dir: dir.to_owned(),
            started: Started {
                pid: number("pid").context("no pid")? as i32,
                at_ns: number("started").unwrap_or_default(),
            },
            children: signals::signal_descriptor(&[Signal::SIGCHLD])?,
            listener,
            log,
            stdin,
            stdin_buffer: Vec::new(),
            stdin_ending: false,
            outputs: [(Stream::Stdout, stdout), (Stream::Stderr, take("stderr")?)],
            terminal: is_terminal,
            clients: Vec::new(),
            ended: None,
            told: None,
            config,
        })
    }

    /// One round: wait for something, handle it. True when all is done.
    fn step(&mut self) -> anyhow::Result<bool> {
        self.reap()?;
        if self.finished()? {
            return Ok(true);
        }
        for (source, flags) in self.wait()? {
            match source {
                Source::Children => while self.children.read_signal()?.is_some() {},
                Source::Listener => self.accept(),
                Source::Stdin => self.write_stdin(),
                Source::Output(index) => self.read_output(index),
                Source::Client(index) => self.serve(index, flags),
            }
        }
        self.drop_gone();
        Ok(false)
    }

    fn wait(&self) -> anyhow::Result<Vec<(Source, PollFlags)>> {
        let mut sources = vec![Source::Children, Source::Listener];
        let mut polled = vec![
            PollFd::new(self.children.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(stdin) = self.stdin.as_ref().filter(|_| !self.stdin_buffer.is_empty()) {
            sources.push(Source::Stdin);
            polled.push(PollFd::new(stdin.as_fd(), PollFlags::POLLOUT));
        }
        let stalled = self.clients.iter().any(|c| c.output.len() > CLIENT_BUFFER);
        for (index, (_, fd)) in self.outputs.iter().enumerate() {
            if let Some(fd) = fd.as_ref().filter(|_| !stalled) {
                sources.push(Source::Output(index));
                polled.push(PollFd::new(fd.as_fd(), PollFlags::POLLIN));
            }
        }
        for (index, client) in self.clients.iter().enumerate() {
            let mut interest = PollFlags::empty();
            interest.set(PollFlags::POLLIN, self.stdin_buffer.len() < STDIN_BUFFER);
            interest.set(PollFlags::POLLOUT, !client.output.is_empty());
            sources.push(Source::Client(index));
            polled.push(PollFd::new(client.stream.as_fd(), interest));
        }
        match poll(&mut polled, self.patience(stalled)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let answers = polled.iter().map(|p| p.revents().unwrap_or(PollFlags::empty()));
        Ok(sources.into_iter().zip(answers).filter(|(_, flags)| !flags.is_empty()).collect())
    }

    /// Timeouts exist only while something ends or a client stalls; an idle shim sleeps for ever.
    fn patience(&self, stalled: bool) -> PollTimeout {
        if self.ended.is_some() {
            return PollTimeout::from(50u8);
        }
        if stalled { PollTimeout::from(1000u16) } else { PollTimeout::NONE }
    }

    fn reap(&mut self) -> anyhow::Result<()> {
        loop {
            match process::reap_any(false) {
                Ok(Some(ended)) if ended.pid == self.started.pid => {
                    self.ended = Some((ended, super::now_ns(), Instant::now()));
                    if self.config.kill_group_at_exit {
                        let _ = HostCgroups::detect().and_then(|host| host.kill_all(&self.config.cgroup));
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                // No children at all: either the end has been seen, or it never was ours to see.
                Err(_) if self.ended.is_some() => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// After the end: output read to its end, record written, clients told. True when nothing is left to do.
    fn finished(&mut self) -> anyhow::Result<bool> {
        let Some((ended, at_ns, since)) = self.ended else { return Ok(false) };
        let drained = self.outputs.iter().all(|(_, fd)| fd.is_none()) || since.elapsed() > DRAIN;
        if !drained {
            return Ok(false);
        }
        match self.told {
            None => self.record(ended, at_ns).map(|()| false),
            Some(told) => {
                let served = self.clients.iter().all(|c| c.output.is_empty());
                Ok(served || told.elapsed() > FAREWELL)
            }
        }
    }

    fn record(&mut self, ended: process::Ended, at_ns: i64) -> anyhow::Result<()> {
        self.log.finish(Timestamp::now());
        let oom = HostCgroups::detect().and_then(|host| host.oom_kills(&self.config.cgroup)).unwrap_or(0) > 0;
        let exited = Exited {
            code: ended.code,
            signal: ended.signal,
            at_ns,
            oom,
            reason: None,
            message: String::new(),
        };
        // Without the record the agent reports the end as unknown; clients are told in any case.
        let _ = files::write_json(&self.dir.join(EXIT_FILE), &exited);
        let _ = std::fs::remove_file(self.dir.join(SOCKET_FILE));
        let news = wire::frame(Kind::Done, &serde_json::to_vec(&exited)?);
        for client in &mut self.clients {
            client.send(&news);
        }
        self.told = Some(Instant::now());
        Ok(())
    }

    fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else { return };
        if self.clients.len() >= MAX_CLIENTS || stream.set_nonblocking(true).is_err() {
            return;
        }
        self.clients.push(Client {
            stream,
            input: Vec::new(),
            output: Vec::new(),
            attached: false,
            waiting_since: None,
            gone: false,
        });
    }

    fn read_output(&mut self, index: usize) {
        let (stream, slot) = &mut self.outputs[index];
        let Some(fd) = slot else { return };
        let mut buffer = [0; CHUNK];
        match nix::unistd::read(&*fd, &mut buffer) {
            Ok(count) if count > 0 => {
                self.log.write(*stream, &buffer[..count], Timestamp::now());
                let kind = if *stream == Stream::Stdout { Kind::Stdout } else { Kind::Stderr };
                let bytes = wire::frame(kind, &buffer[..count]);
                self.clients.iter_mut().filter(|c| c.attached).for_each(|c| c.send(&bytes));
            }
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
            // A terminal without a process at its other end answers EIO, also between two processes.
            Err(nix::errno::Errno::EIO) if self.terminal && self.ended.is_none() => {
                std::thread::sleep(Duration::from_millis(10));
            }
            _ => *slot = None,
        }
    }

    fn write_stdin(&mut self) {
        let Some(stdin) = &self.stdin else { return };
        match nix::unistd::write(stdin, &self.stdin_buffer) {
            Ok(count) => drop(self.stdin_buffer.drain(..count)),
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
            Err(_) => self.stdin_buffer.clear(),
        }
        if self.stdin_buffer.is_empty() && self.stdin_ending {
            self.stdin = None;
        }
    }

    fn serve(&mut self, index: usize, flags: PollFlags) {
        if flags.contains(PollFlags::POLLOUT) {
            self.clients[index].flush();
        }
        if !flags.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            return;
        }
        let mut buffer = [0; CHUNK];
        match self.clients[index].stream.read(&mut buffer) {
            Ok(count) if count > 0 => self.clients[index].input.extend(&buffer[..count]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            _ => self.clients[index].gone = true,
        }
        loop {
            match wire::take(&mut self.clients[index].input) {
                Ok(Some((kind, body))) => self.obey(index, kind, &body),
                Ok(None) => return,
                Err(_) => return self.clients[index].gone = true,
            }
        }
    }

    fn obey(&mut self, index: usize, kind: Kind, body: &[u8]) {
        let answer = match kind {
            Kind::Watch => {
                Some(wire::frame(Kind::Watch, &serde_json::to_vec(&self.started).unwrap_or_default()))
            }
            Kind::Attach => {
                self.clients[index].attached = true;
                None
            }
            Kind::Stdin => {
                if self.stdin.is_some() && !self.stdin_ending {
                    self.stdin_buffer.extend(body);
                    self.write_stdin();
                }
                None
            }
            Kind::StdinEnd => {
                self.end_stdin();
                None
            }
            Kind::Resize => {
                self.resize(body);
                None
            }
            Kind::Reopen => Some(answer(self.log.reopen().map_err(|e| e.to_string()))),
            Kind::Signal => Some(answer(self.signal(body))),
            _ => None,
        };
        if let Some(answer) = answer {
            self.clients[index].send(&answer);
        }
    }

    /// Clients say so when their own input ends; only a container that takes stdin once hears of it.
    fn end_stdin(&mut self) {
        if !self.config.stdin_once {
            return;
        }
        self.stdin_ending = true;
        if self.stdin_buffer.is_empty() && !self.terminal {
            self.stdin = None;
        }
    }

    fn resize(&self, body: &[u8]) {
        if let ([a, b, c, d], Some(terminal), true) = (body, &self.outputs[0].1, self.terminal) {
            let _ =
                tty::set_window_size(terminal, u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
        }
    }

    fn signal(&self, body: &[u8]) -> Result<(), String> {
        let number = body.try_into().map(i32::from_be_bytes).map_err(|_| "bad signal".to_owned())?;
        match self.ended {
            // Its pid may belong to someone else by now.
            Some(_) => Ok(()),
            None => process::kill(self.started.pid, number).map_err(|e| e.to_string()),
        }
    }

    fn drop_gone(&mut self) {
        let left_attached = self.clients.iter().any(|c| c.gone && c.attached);
        self.clients.retain(|client| {
            let stalled = client.waiting_since.is_some_and(|since| since.elapsed() > CLIENT_STALL);
            !(client.gone || stalled && client.output.len() > CLIENT_BUFFER)
        });
        if left_attached && !self.clients.iter().any(|c| c.attached) {
            self.end_stdin();
        }
    }
}

fn answer(done: Result<(), String>) -> Vec<u8> {
    match done {
        Ok(()) => wire::frame(Kind::Fine, b""),
        Err(why) => wire::frame(Kind::Error, why.as_bytes()),
    }
}

impl Client {
    fn send(&mut self, bytes: &[u8]) {
        self.output.extend(bytes);
        self.flush();
    }

    fn flush(&mut self) {
        match self.stream.write(&self.output) {
            Ok(count) => {
                self.output.drain(..count);
                self.waiting_since = (!self.output.is_empty()).then(Instant::now);
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                self.waiting_since.get_or_insert_with(Instant::now);
            }
            Err(_) => self.gone = true,
        }
    }
}
