//! Reading a container's log, over rotated files and the current one, and following it by inotify until the
//! container has ended.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::parse;
use super::rotate;

/// Bytes read at a time.
const CHUNK: usize = 64 << 10;
/// Longest line that is kept together, in bytes; the runtime splits at 16 KiB.
const MAX_LINE: usize = 1 << 20;

/// What of a log is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Go on until the container ends.
    pub follow: bool,
    /// Only so many lines from the end.
    pub tail_lines: Option<u64>,
    /// Only what was written from then on.
    pub since: Option<Timestamp>,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
    /// Standard output is wanted.
    pub stdout: bool,
    /// Standard error is wanted.
    pub stderr: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            follow: false,
            tail_lines: None,
            since: None,
            timestamps: false,
            limit_bytes: None,
            stdout: true,
            stderr: true,
        }
    }
}

/// Turns raw log lines into what a client sees. Pure.
pub struct Formatter {
    options: Options,
    left: u64,
    rest: Vec<u8>,
    line_open: bool,
}

impl Formatter {
    /// A formatter at the beginning of a log.
    pub fn new(options: Options) -> Self {
        let left = options.limit_bytes.unwrap_or(u64::MAX);
        Self { options, left, rest: Vec::new(), line_open: false }
    }

    /// Whether the limit of bytes is used up.
    pub fn is_full(&self) -> bool {
        self.left == 0
    }

    /// Takes in file content; answers text for the client.
    pub fn push(&mut self, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(data.len());
        let mut data = data;
        while let Some(at) = data.iter().position(|byte| *byte == b'\n') {
            let (line, after) = data.split_at(at + 1);
            data = after;
            if self.rest.is_empty() {
                self.line(line, &mut out);
            } else {
                let mut whole = std::mem::take(&mut self.rest);
                whole.extend_from_slice(line);
                self.line(&whole, &mut out);
            }
        }
        if self.rest.len() + data.len() <= MAX_LINE {
            self.rest.extend_from_slice(data);
        }
        if let Ok(left) = usize::try_from(self.left) {
            out.truncate(left);
        }
        self.left -= out.len() as u64;
        out
    }

    fn line(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        let Some(line) = parse::parse(raw) else { return };
        let wanted = if line.stream == "stderr" { self.options.stderr } else { self.options.stdout };
        if !wanted || self.options.since.is_some_and(|since| line.at < since) {
            return;
        }
        if self.options.timestamps && !self.line_open {
            out.extend_from_slice(line.stamp.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        self.line_open = !line.complete;
        if line.complete {
            out.push(b'\n');
        }
    }
}

/// Where the last `lines` lines of the files begin: index of the file, offset in it.
fn tail_start(files: &[PathBuf], lines: u64) -> io::Result<(usize, u64)> {
    let mut missing = lines;
    for (index, path) in files.iter().enumerate().rev() {
        let mut file = File::open(path)?;
        let mut end = file.metadata()?.len();
        // the line feed that ends the last line begins no line
        let mut skip_last = true;
        while end > 0 {
            let begin = end.saturating_sub(CHUNK as u64);
            file.seek(SeekFrom::Start(begin))?;
            let mut chunk = vec![0; usize::try_from(end - begin).unwrap_or(CHUNK)];
            file.read_exact(&mut chunk)?;
            for at in (0..chunk.len()).rev().filter(|at| chunk[*at] == b'\n') {
                let offset = begin + at as u64 + 1;
                if std::mem::take(&mut skip_last) {
                    continue;
                }
                missing = missing.saturating_sub(1);
                if missing == 0 {
                    return Ok((index, offset));
                }
            }
            end = begin;
        }
        if !skip_last {
            missing = missing.saturating_sub(1);
            if missing == 0 {
                return Ok((index, 0));
            }
        }
    }
    Ok((0, 0))
}

fn watch(log: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let events = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
    inotify.add_watch(log.parent().unwrap_or(Path::new("/")), events)?;
    #[expect(deprecated, reason = "an OwnedFd is as safe as the new, unsafe constructor asks for")]
    AsyncFd::new(OwnedFd::from(inotify))
}

async fn changed(watch: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut ready = watch.readable().await?;
    // what the events say does not matter: the file itself is looked at
    let mut events = [0; 4096];
    while nix::unistd::read(watch.get_ref(), &mut events).is_ok_and(|length| length > 0) {}
    ready.clear_ready();
    Ok(())
}

/// Streams a log into `sink` until its end, the limit, or the client's leaving. `ended` resolves when the
/// container no longer writes.
pub async fn stream(
    log: &Path,
    options: Options,
    sink: mpsc::Sender<Bytes>,
    ended: impl Future<Output = ()>,
) -> io::Result<()> {
    if options.tail_lines == Some(0) && !options.follow {
        return Ok(());
    }
    let watch = if options.follow { Some(watch(log)?) } else { None };
    let mut formatter = Formatter::new(options.clone());
    let files = rotate::files(log);
    let start = match options.tail_lines {
        Some(0) => (files.len() - 1, fs::metadata(log)?.len()),
        Some(lines) => tail_start(&files, lines)?,
        None => (0, 0),
    };
    let mut file = File::open(log)?;
    for (index, path) in files.iter().enumerate().skip(start.0) {
        file = File::open(path)?;
        if index == start.0 {
            file.seek(SeekFrom::Start(start.1))?;
        }
        if !copy(&mut file, &mut formatter, &sink).await? {
            return Ok(());
        }
    }
    let Some(watch) = watch else { return Ok(()) };
    tokio::pin!(ended);
    let mut over = false;
    loop {
        if !copy(&mut file, &mut formatter, &sink).await? {
            return Ok(());
        }
        if let Some(next) = successor(&file, log) {
            // what came between the last look and the renaming
            copy(&mut file, &mut formatter, &sink).await?;
            file = next;
            continue;
        }
        if over {
            return Ok(());
        }
        tokio::select! {
            result = changed(&watch) => result?,
            () = &mut ended => over = true,
            () = sink.closed() => return Ok(()),
        }
    }
}

/// Copies what is there; false when the client wants no more.
async fn copy(file: &mut File, formatter: &mut Formatter, sink: &mpsc::Sender<Bytes>) -> io::Result<bool> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            return Ok(true);
        }
        let text = formatter.push(&buffer[..length]);
        if !text.is_empty() && sink.send(text.into()).await.is_err() || formatter.is_full() {
            return Ok(false);
        }
    }
}

/// The file that has taken the place of the one that is being read.
fn successor(file: &File, log: &Path) -> Option<File> {
    let next = File::open(log).ok()?;
    let same = file.metadata().ok()?.ino() == next.metadata().ok()?.ino();
    (!same).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LOG: &str = "2020-01-01T00:00:00Z stdout F one\n\
                       2020-01-01T00:00:01Z stderr F two\n\
                       2020-01-01T00:00:02Z stdout P thr\n\
                       2020-01-01T00:00:02Z stdout F ee\n\
                       broken\n\
                       2020-01-01T00:00:03Z stdout F four\n";

    async fn read(log: &Path, options: Options) -> String {
        let (sink, mut source) = mpsc::channel(100);
        stream(log, options, sink, std::future::pending()).await.unwrap();
        let mut text = Vec::new();
        while let Some(part) = source.recv().await {
            text.extend_from_slice(&part);
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn choices() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        fs::write(&log, LOG).unwrap();
        let all = Options::default();
        for (options, expected) in [
            (all.clone(), "one\ntwo\nthree\nfour\n"),
            (Options { tail_lines: Some(1), ..all.clone() }, "four\n"),
            (Options { tail_lines: Some(0), ..all.clone() }, ""),
            (Options { tail_lines: Some(100), ..all.clone() }, "one\ntwo\nthree\nfour\n"),
            (Options { stdout: false, ..all.clone() }, "two\n"),
            (Options { limit_bytes: Some(5), ..all.clone() }, "one\nt"),
            (
                Options { since: Some("2020-01-01T00:00:02Z".parse().unwrap()), ..all.clone() },
                "three\nfour\n",
            ),
            (
                Options { timestamps: true, tail_lines: Some(4), ..all.clone() },
                "2020-01-01T00:00:02Z three\n2020-01-01T00:00:03Z four\n",
            ),
        ] {
            assert_eq!(read(&log, options.clone()).await, expected, "{options:?}");
        }
    }

    #[tokio::test]
    async fn rotated_files_count() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        fs::write(dir.path().join("0.log.20200101-000000"), "2020-01-01T00:00:00Z stdout F old\n").unwrap();
        fs::write(&log, "2020-01-01T00:00:01Z stdout F new\n").unwrap();
        assert_eq!(read(&log, Options::default()).await, "old\nnew\n");
        assert_eq!(read(&log, Options { tail_lines: Some(2), ..Options::default() }).await, "old\nnew\n");
        assert_eq!(read(&log, Options { tail_lines: Some(1), ..Options::default() }).await, "new\n");
    }

    #[tokio::test]
    async fn following_survives_rotation_and_ends_with_the_container() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        let append = |text: &str| {
            let mut file = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
            writeln!(file, "2020-01-01T00:00:00Z stdout F {text}").unwrap();
        };
        append("one");
        let (sink, mut source) = mpsc::channel(100);
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let path = log.clone();
        let task = tokio::spawn(async move {
            let options = Options { follow: true, ..Options::default() };
            stream(&path, options, sink, async { drop(ended.await) }).await
        });
        assert_eq!(source.recv().await.unwrap(), "one\n");
        append("two");
        assert_eq!(source.recv().await.unwrap(), "two\n");
        fs::rename(&log, dir.path().join("0.log.20200101-000000")).unwrap();
        append("three");
        assert_eq!(source.recv().await.unwrap(), "three\n");
        append("four");
        end.send(()).unwrap();
        assert_eq!(source.recv().await.unwrap(), "four\n");
        assert_eq!(source.recv().await, None);
        task.await.unwrap().unwrap();
    }
}
