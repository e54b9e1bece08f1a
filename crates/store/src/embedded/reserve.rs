//! Room kept for a full disk. Whoever runs out of space deletes things, and a deletion is a write like any other: without
//! something in hand a full store could not be emptied.
//!
//! ```text
//! plenty of space   the file `reserve` holds `goal` bytes, everybody may write
//! a write fails     urgent ones go on in what the file gives back, a slice at a time; all others are refused
//! space again       the file can be filled up: everybody may write
//! ```
//!
//! A slice at a time, because others on the same disk (logs, images) take what is free, too.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// A write-ahead log that has to be moved into the file first, and some hundreds of deletions of large objects.
const MOST_BYTES: u64 = 8 * 1024 * 1024;

/// Of a small disk no more than this part of it is kept.
const PART: u64 = 16;

/// What one failed write gives back.
const SLICE_BYTES: u64 = 256 * 1024;

/// Pause between two tries to fill the reserve up.
const REFILL_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Reserve {
    /// `None` where the file cannot be made: then a full disk refuses everything.
    file: Option<File>,
    goal: u64,
    held: u64,
    full: bool,
    next_refill: Duration,
}

impl Reserve {
    /// The reserve of the store in `dir`, filled as far as the disk lets it.
    pub fn open(dir: &Path) -> Self {
        let path = dir.join("reserve");
        let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = opened.inspect_err(|error| tracing::warn!(%error, "nothing is kept for a full disk")).ok();
        let held = file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |metadata| metadata.len());
        let mut reserve = Self { file, goal: goal(dir), held, full: false, next_refill: Duration::ZERO };
        reserve.fill();
        reserve
    }

    /// How large the write-ahead log may grow: moving it into the file takes as much room again, and may use half of this.
    pub fn log_bytes(&self) -> u64 {
        self.goal / 2
    }

    /// Whether only urgent writes are taken: the disk was full and still is.
    pub fn is_closed(&mut self, now: Duration) -> bool {
        if self.full && now >= self.next_refill {
            self.next_refill = now.saturating_add(REFILL_PAUSE);
            self.full = !(self.fill() && self.has_more());
            if !self.full {
                tracing::info!("the store's disk has room again");
            }
        }
        self.full
    }

    /// A write has found the disk full.
    pub fn close(&mut self) {
        if !self.full {
            tracing::warn!(
                "the store's disk is full: only deletions and the like are taken until there is room"
            );
        }
        self.full = true;
    }

    /// Gives a slice back to the disk; false when nothing is left.
    pub fn give(&mut self) -> bool {
        let Some(file) = self.file.as_ref().filter(|_| self.held > 0) else { return false };
        self.held = self.held.saturating_sub(SLICE_BYTES);
        file.set_len(self.held).is_ok()
    }

    /// Whether there is room beside the reserve.
    fn has_more(&self) -> bool {
        let (Some(file), Ok(from), Ok(more)) =
            (&self.file, i64::try_from(self.held), i64::try_from(SLICE_BYTES))
        else {
            return true;
        };
        let room = nix::fcntl::posix_fallocate(file, from, more).is_ok();
        let _ = file.set_len(self.held);
        room
    }

    /// Takes what is missing; false when the disk has no room for it.
    fn fill(&mut self) -> bool {
        let Some(file) = &self.file else { return true };
        if self.held >= self.goal {
            return true;
        }
        let (Ok(from), Ok(more)) = (i64::try_from(self.held), i64::try_from(self.goal - self.held)) else {
            return true;
        };
        let filled = nix::fcntl::posix_fallocate(file, from, more).is_ok();
        if filled {
            self.held = self.goal;
        } else {
            // What it got in part goes back at once.
            let _ = file.set_len(self.held);
        }
        filled
    }
}

fn goal(dir: &Path) -> u64 {
    let Ok(disk) = nix::sys::statvfs::statvfs(dir) else { return MOST_BYTES };
    // The types differ from one architecture to another.
    #[allow(clippy::useless_conversion)]
    let size = u64::from(disk.blocks()).saturating_mul(u64::from(disk.fragment_size()));
    (size / PART).min(MOST_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_is_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        let held = || std::fs::metadata(dir.path().join("reserve")).unwrap().len();
        let mut reserve = Reserve::open(dir.path());
        let goal = held();
        assert!(goal > 0 && !reserve.is_closed(Duration::ZERO));
        assert!(reserve.give());
        assert_eq!(held(), goal - SLICE_BYTES);
        reserve.close();
        assert!(!reserve.is_closed(Duration::ZERO), "there is room");
        assert_eq!(held(), goal);
        drop(reserve);
        assert_eq!(Reserve::open(dir.path()).held, goal, "it is found again");
    }
}
