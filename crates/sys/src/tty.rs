//! Terminals: window size, and what a pseudo terminal needs beyond read and write.

use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

use crate::error::{Error, Result};

/// Sets the window size of a terminal; the processes in its foreground get SIGWINCH.
pub fn set_window_size(terminal: impl AsFd, columns: u16, rows: u16) -> Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize, which outlives the call.
    match unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &size) } {
        0 => Ok(()),
        _ => Err(Error::last("set window size")),
    }
}
