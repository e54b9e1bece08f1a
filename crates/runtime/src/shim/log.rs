//! The container's log file in CRI's format: `<time> <stream> <F|P> <text>`, one line a write of the program.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use jiff::Timestamp;

/// A longer line is split in parts marked `P`, the last one `F` when the line has an end; the same limit as
/// containerd's.
const MAX_LINE: usize = 16 * 1024;

/// Which of the program's streams a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output, and everything of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Cuts one stream's bytes into lines; keeps what has no end yet.
#[derive(Debug, Default)]
struct Lines {
    open: Vec<u8>,
}

impl Lines {
    fn push(&mut self, bytes: &[u8], stream: Stream, now: Timestamp, out: &mut Vec<u8>) {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            self.open.extend(piece);
            while self.open.len() > MAX_LINE && self.open[..MAX_LINE].last() != Some(&b'\n') {
                let rest = self.open.split_off(MAX_LINE);
                if rest == b"\n" {
                    self.open.push(b'\n');
                    break;
                }
                write_line(out, now, stream, 'P', &self.open);
                self.open = rest;
            }
            if self.open.last() == Some(&b'\n') {
                self.open.pop();
                write_line(out, now, stream, 'F', &self.open);
                self.open.clear();
            }
        }
    }

    /// What has no line end is a part of a line, as containerd's: who reads the log adds none.
    fn finish(&mut self, stream: Stream, now: Timestamp, out: &mut Vec<u8>) {
        if !self.open.is_empty() {
            write_line(out, now, stream, 'P', &self.open);
            self.open = Vec::new();
        }
    }
}

fn write_line(out: &mut Vec<u8>, now: Timestamp, stream: Stream, tag: char, text: &[u8]) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{now:.9} {} {tag} ", stream.name());
    out.extend(text);
    out.push(b'\n');
}

/// The log file; without a path everything is dropped.
#[derive(Debug, Default)]
pub(crate) struct Log {
    path: Option<PathBuf>,
    file: Option<File>,
    stdout: Lines,
    stderr: Lines,
    batch: Vec<u8>,
}

impl Log {
    /// Opens (appends to) the file at `path`.
    pub(crate) fn open(path: Option<PathBuf>) -> io::Result<Self> {
        let mut log = Self { path, ..Self::default() };
        log.reopen()?;
        Ok(log)
    }

    /// Opens the file anew, after the old one was renamed away.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        if let Some(path) = &self.path {
            self.file = Some(OpenOptions::new().create(true).append(true).mode(0o640).open(path)?);
        }
        Ok(())
    }

    /// Takes bytes of one stream; whole lines go to the file at once. A full disk loses lines, not the container.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) {
        let lines = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        lines.push(bytes, stream, now, &mut self.batch);
        self.flush();
    }

    /// Writes what was left without a line end.
    pub(crate) fn finish(&mut self, now: Timestamp) {
        self.stdout.finish(Stream::Stdout, now, &mut self.batch);
        self.stderr.finish(Stream::Stderr, now, &mut self.batch);
        self.flush();
    }

    fn flush(&mut self) {
        if let Some(file) = &mut self.file {
            let _ = file.write_all(&self.batch);
        }
        self.batch.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(chunks: &[&[u8]]) -> String {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        for chunk in chunks {
            lines.push(chunk, Stream::Stdout, Timestamp::UNIX_EPOCH, &mut out);
        }
        lines.finish(Stream::Stdout, Timestamp::UNIX_EPOCH, &mut out);
        String::from_utf8(out).unwrap().replace("1970-01-01T00:00:00.000000000Z stdout ", "")
    }

    #[test]
    fn lines_are_cut_where_the_program_cut_them() {
        for (chunks, want) in [
            (&[&b"a\nb\n"[..]][..], "F a\nF b\n"),
            (&[b"a", b"b\nc"], "F ab\nP c\n"),
            (&[b"\n\n"], "F \nF \n"),
            (&[], ""),
        ] {
            assert_eq!(logged(chunks), want, "{chunks:?}");
        }
    }

    #[test]
    fn long_lines_come_in_parts() {
        let long = "x".repeat(MAX_LINE);
        let exact = format!("{long}\n");
        assert_eq!(logged(&[exact.as_bytes()]), format!("F {long}\n"), "just fits");
        let more = format!("{long}yy\nz\n");
        assert_eq!(logged(&[more.as_bytes()]), format!("P {long}\nF yy\nF z\n"));
        let twice = format!("{long}{long}\n");
        assert_eq!(
            logged(&[&twice.as_bytes()[..100], &twice.as_bytes()[100..]]),
            format!("P {long}\nF {long}\n")
        );
    }

    #[test]
    fn a_reopened_log_goes_on_in_a_new_file() {
        let dir = std::env::temp_dir().join(format!("corten-log-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("0.log");
        let mut log = Log::open(Some(path.clone())).unwrap();
        log.write(Stream::Stderr, b"one\ntw", Timestamp::UNIX_EPOCH);
        std::fs::rename(&path, dir.join("old")).unwrap();
        log.reopen().unwrap();
        log.write(Stream::Stderr, b"o\n", Timestamp::UNIX_EPOCH);
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        assert_eq!(read("old"), "1970-01-01T00:00:00.000000000Z stderr F one\n");
        assert_eq!(read("0.log"), "1970-01-01T00:00:00.000000000Z stderr F two\n");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
