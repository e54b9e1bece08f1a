//! Keeps what libcontainer logs as errors: its error values drop the cause on the way between processes.
//!
//! The init process logs, the shim reports: they share one file, a memfd that all forks inherit.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use nix::sys::memfd::{MFdFlags, memfd_create};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Only the first few errors explain; the rest are consequences.
const MAX_KEPT: u64 = 4 * 1024;

/// Reads what was kept.
pub(super) struct Kept(File);

struct Keeper(File);

/// Starts keeping errors. Only the first call in a process has an effect.
pub(super) fn keep_errors() -> std::io::Result<Kept> {
    let file = File::from(memfd_create(c"shim-errors", MFdFlags::MFD_CLOEXEC)?);
    let keeper = Keeper(file.try_clone()?);
    let _ = tracing::subscriber::set_global_default(keeper);
    Ok(Kept(file))
}

impl Kept {
    /// The kept errors, one a line.
    pub(super) fn text(mut self) -> String {
        let mut text = String::new();
        let _ = self.0.seek(SeekFrom::Start(0));
        let _ = self.0.take(MAX_KEPT).read_to_string(&mut text);
        text
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?} "),
            name => write!(self.0, "{name}={value:?} "),
        };
    }
}

impl Subscriber for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        let _ = (&self.0).write_all(format!("{}\n", line.0.trim_end()).as_bytes());
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _span: &Id, _values: &Record<'_>) {}
    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}
    fn enter(&self, _span: &Id) {}
    fn exit(&self, _span: &Id) {}
}
