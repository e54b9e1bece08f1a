//! A container's last words: its termination message file, or the end of its log.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::logs::parse;
use crate::pod::observed::Container;

/// Longest message (upstream's limit), in bytes.
const MAX_MESSAGE: u64 = 4096;
/// Longest message from the log, in bytes.
const MAX_LOG_BYTES: usize = 2048;
/// Most lines from the log.
const MAX_LOG_LINES: usize = 80;

/// The message of an ended container; empty when there is none.
pub fn message(container: &Container) -> String {
    let Some(source) = &container.termination else { return String::new() };
    let written = if source.file.is_empty() { String::new() } else { head(Path::new(&source.file)) };
    if !written.is_empty() || !source.fallback_to_logs || container.exit_code == 0 {
        return written;
    }
    log_end(Path::new(&container.log_path))
}

fn head(path: &Path) -> String {
    let mut data = Vec::new();
    match File::open(path).and_then(|file| file.take(MAX_MESSAGE).read_to_end(&mut data)) {
        Ok(_) => String::from_utf8_lossy(&data).into_owned(),
        Err(error) => format!("Error on reading termination log {}: {error}", path.display()),
    }
}

/// The end of a log, within both limits.
pub fn log_end(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        // each line carries some fifty bytes of its own
        let window = (MAX_LOG_BYTES + MAX_LOG_LINES * 64) as u64;
        file.seek(SeekFrom::Start(length.saturating_sub(window)))?;
        let mut data = Vec::new();
        file.take(window).read_to_end(&mut data)?;
        Ok(data)
    };
    let Ok(data) = read() else { return String::new() };
    let lines: Vec<_> = data.split(|byte| *byte == b'\n').filter_map(parse::parse).collect();
    let mut text = Vec::new();
    for line in &lines[lines.len().saturating_sub(MAX_LOG_LINES)..] {
        text.extend_from_slice(line.text);
        if line.complete {
            text.push(b'\n');
        }
    }
    String::from_utf8_lossy(&text[text.len().saturating_sub(MAX_LOG_BYTES)..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        let lines: String = (0..100).map(|n| format!("2020-01-01T00:00:00Z stdout F line {n}\n")).collect();
        std::fs::write(&log, lines).unwrap();
        let end = log_end(&log);
        assert_eq!(end.lines().count(), 80);
        assert!(end.starts_with("line 20\n") && end.ends_with("line 99\n"));
        assert_eq!(log_end(&dir.path().join("none")), "");
        std::fs::write(&log, "2020-01-01T00:00:00Z stdout P DONE\n").unwrap();
        assert_eq!(log_end(&log), "DONE", "a line without an end gets none");
    }
}
