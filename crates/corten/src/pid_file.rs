//! One cluster, one process: a locked file with its process id.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use corten_sys::process::PidFd;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// A process that has just been killed may hold the lock for a moment: so long it may take.
const DYING: Duration = Duration::from_secs(1);

/// Held while the cluster runs; the kernel lets go of the lock however the process ends.
#[derive(Debug)]
pub struct PidFile {
    _lock: Flock<File>,
}

impl PidFile {
    /// Takes the lock and writes our process id.
    pub fn take(path: &Path) -> Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        // Whether one stays, the lock tells; this only lets a dying one go first.
        let _ = stays(path);
        let file = open(path)?;
        let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => {
                bail!("the cluster is running already ({} is locked)", path.display())
            }
            Err((_, errno)) => return Err(errno).with_context(|| format!("cannot lock {}", path.display())),
        };
        // Written over what is there, then cut: a full disk is no reason not to start.
        let pid = std::process::id().to_string();
        lock.write_all(pid.as_bytes())?;
        lock.set_len(pid.len() as u64)?;
        Ok(PidFile { _lock: lock })
    }
}

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    options.open(path).with_context(|| format!("cannot open {}", path.display()))
}

/// The process id of the running cluster, if one runs.
pub fn running(path: &Path) -> Result<Option<i32>> {
    if !path.exists() {
        return Ok(None);
    }
    let mut file = match Flock::lock(open(path)?, FlockArg::LockSharedNonblock) {
        Ok(_) => return Ok(None),
        Err((file, Errno::EWOULDBLOCK)) => file,
        Err((_, errno)) => return Err(errno).with_context(|| format!("cannot lock {}", path.display())),
    };
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(Some(text.trim().parse().with_context(|| format!("{} holds no process id", path.display()))?))
}

/// Like [`running`], but a process that has just been killed counts as gone: it holds the lock until the last of its threads has
/// ended. A cluster that lives is known after a moment only.
pub fn stays(path: &Path) -> Result<Option<i32>> {
    if let Some(process) = running(path)?.and_then(|pid| PidFd::open(pid).ok()) {
        crate::down::wait(&process, DYING)?;
    }
    running(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/pid");
        assert_eq!(running(&path).unwrap(), None);
        let held = PidFile::take(&path).unwrap();
        assert_eq!(running(&path).unwrap(), Some(std::process::id() as i32));
        assert!(PidFile::take(&path).unwrap_err().to_string().contains("running already"));
        drop(held);
        assert_eq!(running(&path).unwrap(), None);
        std::fs::write(&path, "12345678901234567890").unwrap();
        let held = PidFile::take(&path).unwrap();
        assert_eq!(running(&path).unwrap(), Some(std::process::id() as i32));
        drop(held);
    }
}
