//! The file that events go to, one JSON object a line. A full file is put aside under the time at which that happened.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::AuditConfig;

/// Takes lines from all requests.
pub(super) struct Log {
    config: AuditConfig,
    /// `None` for standard output.
    open: Mutex<Option<Open>>,
}

struct Open {
    file: File,
    bytes: u64,
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Open { file, bytes })
    }
}

impl Log {
    /// Opens the file, which may be there already.
    pub fn open(config: AuditConfig) -> io::Result<Self> {
        let open = match config.log.as_os_str() == "-" {
            true => None,
            false => {
                if let Some(dir) = config.log.parent() {
                    fs::create_dir_all(dir)?;
                }
                Some(Open::at(&config.log)?)
            }
        };
        Ok(Log { config, open: Mutex::new(open) })
    }

    /// Writes a line. What cannot be written is lost, and the server's own log says so.
    pub fn write(&self, mut line: Vec<u8>, now: SystemTime) {
        line.push(b'\n');
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = match open.as_mut() {
            None => io::stdout().write_all(&line),
            Some(file) => self.append(file, &line, now),
        };
        if let Err(error) = outcome {
            tracing::error!(%error, log = %self.config.log.display(), "audit event lost");
        }
    }

    fn append(&self, open: &mut Open, line: &[u8], now: SystemTime) -> io::Result<()> {
        let length = line.len() as u64;
        if open.bytes > 0 && open.bytes + length > self.config.max_bytes {
            let aside = self.aside(now);
            fs::rename(&self.config.log, aside)?;
            *open = Open::at(&self.config.log)?;
            if let Err(error) = self.prune(now) {
                tracing::warn!(%error, "old audit logs stay");
            }
        }
        open.file.write_all(line)?;
        open.bytes += length;
        Ok(())
    }

    /// `audit-2026-11-22T20-41-00.000.log`
    fn aside(&self, now: SystemTime) -> PathBuf {
        let ms = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let time = corten_api::time::rfc3339_micro(i64::try_from(ms).unwrap_or(i64::MAX));
        let time = time.get(..23).unwrap_or(&time).replace(':', "-");
        let (stem, ending) = self.names();
        self.config.log.with_file_name(format!("{stem}-{time}{ending}"))
    }

    fn names(&self) -> (String, String) {
        let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let ending = text(self.config.log.extension());
        let ending = if ending.is_empty() { ending } else { format!(".{ending}") };
        (text(self.config.log.file_stem()), ending)
    }

    /// Removes old files that are too many or too old.
    fn prune(&self, now: SystemTime) -> io::Result<()> {
        let (stem, ending) = self.names();
        let dir = self.config.log.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut old: Vec<PathBuf> = fs::read_dir(dir)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let between = name.strip_prefix(&format!("{stem}-")).and_then(|n| n.strip_suffix(&ending));
                between.is_some_and(is_time)
            })
            .collect();
        old.sort();
        let keep = if self.config.max_files == 0 { old.len() } else { self.config.max_files };
        let surplus = old.len().saturating_sub(keep);
        for (i, path) in old.iter().enumerate() {
            if i < surplus || self.is_too_old(path, now) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn is_too_old(&self, path: &Path, now: SystemTime) -> bool {
        let written = fs::metadata(path).and_then(|m| m.modified());
        let age = written.ok().and_then(|t| now.duration_since(t).ok()).unwrap_or_default();
        self.config.max_age > Duration::ZERO && age > self.config.max_age
    }
}

/// Is it what [`Log::aside`] puts into a name? Other logs may begin and end as ours (`audit-other.log`).
fn is_time(text: &str) -> bool {
    const FORM: &str = "0000-00-00T00-00-00.000";
    let fits = |(c, form): (char, char)| if form == '0' { c.is_ascii_digit() } else { c == form };
    text.len() == FORM.len() && text.chars().zip(FORM.chars()).all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn full_files_are_put_aside_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let config = AuditConfig {
            policy: String::new(),
            log: dir.path().join("logs/audit.log"),
            max_bytes: 10,
            max_files: 2,
            max_age: Duration::ZERO,
        };
        let log = Log::open(config.clone()).unwrap();
        let others = dir.path().join("logs/audit-others.log");
        fs::write(&others, "").unwrap();
        let at = |s: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        for s in 0..5 {
            log.write(format!("line-{s}").into_bytes(), at(s));
        }
        let logs = dir.path().join("logs");
        fs::remove_file(&others).unwrap();
        assert_eq!(
            files(&logs),
            ["audit-1970-01-01T00-00-03.000.log", "audit-1970-01-01T00-00-04.000.log", "audit.log"]
        );
        assert_eq!(fs::read_to_string(&config.log).unwrap(), "line-4\n");
        // A new life writes on.
        drop(log);
        Log::open(AuditConfig { max_bytes: 100, ..config.clone() }).unwrap().write(b"x".to_vec(), at(9));
        assert_eq!(fs::read_to_string(&config.log).unwrap(), "line-4\nx\n");
    }
}
