//! Signal dispositions and masks, as a program expects to find them.

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::{Context, Result};

/// Gives every signal its default action and unblocks all: the state a fresh program may rely on.
/// Rust ignores SIGPIPE at start-up and an ignored signal survives `execve`.
pub fn restore_defaults() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator().filter(|s| !matches!(s, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default action runs none of our code.
        let _ = unsafe { sigaction(signal, &default) };
    }
    let _ = SigSet::all().thread_unblock();
}

/// Blocks `signals` for this thread and returns a non-blocking descriptor that tells of them.
pub fn signal_descriptor(signals: &[Signal]) -> Result<SignalFd> {
    let mask: SigSet = signals.iter().copied().collect();
    mask.thread_block().doing(|| format!("block {signals:?}"))?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .doing(|| format!("signalfd for {signals:?}"))
}
