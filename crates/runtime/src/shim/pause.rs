//! The one process that a shared pid namespace needs: its first, which reaps orphans and does nothing else.

use std::io::Write;

use corten_sys::{process, signals};
use nix::sys::signal::Signal;

/// Makes a pid namespace with a sleeping first process and prints that process's pid.
pub(super) fn pause() -> anyhow::Result<()> {
    process::leave_session();
    process::unshare_pid_namespace()?;
    let pid = process::fork_single(sleep)?;
    let mut out = std::io::stdout();
    writeln!(out, "{pid}")?;
    Ok(out.flush()?)
}

fn sleep() -> i32 {
    if super::silence(&[0, 1, 2]).is_err() {
        return 1;
    }
    // Only SIGKILL from outside ends it: as first process, unhandled signals do not reach it.
    let mask: nix::sys::signal::SigSet = [Signal::SIGCHLD].into_iter().collect();
    signals::restore_defaults();
    let _ = mask.thread_block();
    loop {
        while let Ok(Some(_)) = process::reap_any(false) {}
        let _ = mask.wait();
    }
}
