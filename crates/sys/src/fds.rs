//! File descriptors that cross an `execve` or a `fork`.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;

use crate::error::{Context, Error, Result};

/// Takes over a descriptor that the process was started with, named by its number.
/// Fails when no such descriptor is open. Each number may be taken once.
pub fn take_inherited(number: RawFd) -> Result<OwnedFd> {
    // SAFETY: F_GETFD only asks whether the descriptor is open.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(Error::last(format!("inherited descriptor {number}")));
    }
    // SAFETY: it is open, and the caller names a descriptor handed over by exec, which no Rust value owns yet.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Says whether `fd` is closed by the next `execve`.
pub fn set_close_on_exec(fd: impl AsFd, close: bool) -> Result<()> {
    let flags = if close { FdFlag::FD_CLOEXEC } else { FdFlag::empty() };
    fcntl(fd, FcntlArg::F_SETFD(flags)).doing(|| "set close-on-exec".into()).map(drop)
}

/// Makes reads and writes return instead of waiting.
pub fn set_nonblocking(fd: impl AsFd, on: bool) -> Result<()> {
    let old = fcntl(&fd, FcntlArg::F_GETFL).doing(|| "get descriptor flags".into())?;
    let mut flags = OFlag::from_bits_retain(old);
    flags.set(OFlag::O_NONBLOCK, on);
    fcntl(&fd, FcntlArg::F_SETFL(flags)).doing(|| "set descriptor flags".into()).map(drop)
}

/// Makes `number` (0, 1 or 2) refer to what `fd` refers to.
pub fn replace_stdio(fd: impl AsFd, number: RawFd) -> Result<()> {
    // SAFETY: dup2 on two valid numbers; the standard streams are never owned by a Rust value.
    match unsafe { libc::dup2(fd.as_fd().as_raw_fd(), number) } {
        -1 => Err(Error::last(format!("replace descriptor {number}"))),
        _ => Ok(()),
    }
}

/// A pipe (read end, write end), both closed on exec.
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC).doing(|| "make pipe".into())
}
