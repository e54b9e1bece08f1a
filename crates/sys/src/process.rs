//! Processes: handles that cannot be confused by pid reuse, waiting, and the pieces of becoming a daemon.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

use crate::error::{Context, Error, Result};

/// A handle on one process; signals never reach a successor with the same number.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens the process `pid`; ESRCH when there is none.
    pub fn open(pid: i32) -> Result<Self> {
        // SAFETY: no pointers are passed.
        match unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } {
            // SAFETY: the kernel has just made this descriptor for us.
            fd if fd >= 0 => Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) })),
            _ => Err(Error::last(format!("open process {pid}"))),
        }
    }

    /// Sends a signal by number; an already dead process gives ESRCH.
    pub fn signal(&self, number: i32) -> Result<()> {
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: a null siginfo means "as kill(2)".
        match unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), number, none, 0) } {
            0 => Ok(()),
            _ => Err(Error::last(format!("send signal {number}"))),
        }
    }

    /// The descriptor, readable once the process has ended.
    pub fn as_descriptor(&self) -> &OwnedFd {
        &self.0
    }
}

/// How a child ended, as a shell would number it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The child.
    pub pid: i32,
    /// Exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// The signal, 0 when it exited by itself.
    pub signal: i32,
}

/// Reaps one ended child, if any: `Ok(None)` when children run but none has ended, ECHILD when there are none.
pub fn reap_any(block: bool) -> Result<Option<Ended>> {
    let flags = (!block).then_some(WaitPidFlag::WNOHANG);
    loop {
        match waitpid(Pid::from_raw(-1), flags) {
            Ok(WaitStatus::Exited(pid, code)) => {
                return Ok(Some(Ended { pid: pid.as_raw(), code, signal: 0 }));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                let signal = signal as i32;
                return Ok(Some(Ended { pid: pid.as_raw(), code: 128 + signal, signal }));
            }
            Ok(WaitStatus::StillAlive) => return Ok(None),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno).doing(|| "wait for children".into()),
        }
    }
}

/// Sends a signal (by number) to a process; only safe on pids that we have not reaped yet.
pub fn kill(pid: i32, number: i32) -> Result<()> {
    // SAFETY: no pointers are passed.
    match unsafe { libc::kill(pid, number) } {
        0 => Ok(()),
        _ => Err(Error::last(format!("send signal {number} to {pid}"))),
    }
}

/// Leaves the parent's session and terminal, so that signals to it do not reach us.
pub fn leave_session() {
    let _ = nix::unistd::setsid();
}

/// Sets the calling process's out-of-memory score adjustment (-1000 to 1000).
pub fn set_oom_score_adj(value: i32) -> Result<()> {
    std::fs::write("/proc/self/oom_score_adj", value.to_string())
        .doing(|| format!("set oom_score_adj {value}"))
}

/// Forks this single-threaded process; the child runs `child` and exits with its answer.
/// Refuses when other threads exist, for then the child could wait for their locks for ever.
pub fn fork_single(child: impl FnOnce() -> i32) -> Result<i32> {
    let threads = std::fs::read_dir("/proc/self/task").doing(|| "count threads".into())?.count();
    if threads != 1 {
        let source = std::io::Error::other(format!("{threads} threads"));
        return Err(Error { what: "fork".into(), source });
    }
    // SAFETY: single-threaded, checked above, so the child may run any code.
    match unsafe { nix::unistd::fork() }.doing(|| "fork".into())? {
        ForkResult::Parent { child } => Ok(child.as_raw()),
        ForkResult::Child => std::process::exit(child()),
    }
}

/// Makes the next fork of this process the first process of a new pid namespace.
pub fn unshare_pid_namespace() -> Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWPID).doing(|| "new pid namespace".into())
}

/// The signal's number for a name as images and users write it: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`.
pub fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = bare.strip_prefix("RTMIN") {
        let offset = if offset.is_empty() { Some(0) } else { offset.strip_prefix('+')?.parse().ok() };
        return offset.map(|o: i32| libc::SIGRTMIN() + o).filter(|n| *n <= 64);
    }
    format!("SIG{bare}").parse::<Signal>().ok().map(|s| s as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_any_name() {
        for (name, number) in [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("0", None),
            ("65", None),
            ("SIGRTMIN+3", Some(libc::SIGRTMIN() + 3)),
            ("SIGRTMIN", Some(libc::SIGRTMIN())),
            ("NOSUCH", None),
        ] {
            assert_eq!(signal_number(name), number, "{name}");
        }
    }

    #[test]
    fn a_handle_on_a_process_tells_of_its_end() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let handle = PidFd::open(child.id() as i32).unwrap();
        handle.signal(libc::SIGKILL).unwrap();
        child.wait().unwrap();
        assert!(handle.signal(0).unwrap_err().is_missing());
    }
}
