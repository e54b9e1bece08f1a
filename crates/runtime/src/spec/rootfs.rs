//! Looking into an image's root file system without ever leaving it: its symbolic links are its own.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use k8s_cri::v1::Mount;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, mkdirat};

/// Longest /etc/passwd or /etc/group that is read.
const MAX_FILE: u64 = 1 << 20;

/// The text of a file inside `root`; `None` when there is none.
pub(super) fn read(root: &Path, path: &str) -> io::Result<Option<String>> {
    let handle = match open_in(root, Path::new(path), OFlag::O_RDONLY | OFlag::O_NOCTTY | OFlag::O_NONBLOCK) {
        Ok(handle) => File::from(handle),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    if !handle.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    handle.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Makes `dir` exist as the container will see it: in a mounted directory when one covers it, else in `root`.
pub(super) fn ensure_dir(root: &Path, dir: &Path, mounts: &[Mount]) -> io::Result<()> {
    let covering = mounts.iter().filter(|m| dir.starts_with(&m.container_path) && !m.host_path.is_empty());
    match covering.max_by_key(|m| Path::new(&m.container_path).components().count()) {
        Some(mount) if mount.readonly || !Path::new(&mount.host_path).is_dir() => Ok(()),
        Some(mount) => {
            let inside = dir.strip_prefix(&mount.container_path).unwrap_or(Path::new(""));
            make_dirs(Path::new(&mount.host_path), inside)
        }
        None => make_dirs(root, dir),
    }
}

fn make_dirs(root: &Path, dir: &Path) -> io::Result<()> {
    let mut known = PathBuf::new();
    let mut parent = open_in(root, Path::new("."), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    for part in dir.components().filter(|c| matches!(c, Component::Normal(_))) {
        known.push(part);
        parent = match open_in(root, &known, OFlag::O_PATH | OFlag::O_DIRECTORY) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                mkdirat(&parent, part.as_os_str(), Mode::from_bits_truncate(0o755))?;
                open_in(root, &known, OFlag::O_PATH | OFlag::O_DIRECTORY)?
            }
            other => other?,
        };
    }
    Ok(())
}

fn open_in(root: &Path, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    let root = open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
    Ok(openat2(&root, path, how)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_inside_the_root_only() {
        let root = std::env::temp_dir().join(format!("corten-rootfs-{}", std::process::id()));
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::create_dir_all(root.join("real")).unwrap();
        fs::write(root.join("real/passwd"), "inside").unwrap();
        symlink("/real/passwd", root.join("etc/passwd")).unwrap();
        symlink("../../../../etc/hostname", root.join("etc/out")).unwrap();
        symlink("/real", root.join("link")).unwrap();
        assert_eq!(read(&root, "/etc/passwd").unwrap().as_deref(), Some("inside"));
        assert_eq!(read(&root, "/etc/out").unwrap(), None);
        assert_eq!(read(&root, "/etc").unwrap(), None);
        ensure_dir(&root, Path::new("/link/a/b"), &[]).unwrap();
        assert!(root.join("real/a/b").is_dir());
        let mount = Mount {
            container_path: "/data".into(),
            host_path: root.join("real").display().to_string(),
            ..Mount::default()
        };
        ensure_dir(&root, Path::new("/data/work"), &[mount]).unwrap();
        assert!(root.join("real/work").is_dir() && !root.join("data").exists());
        fs::remove_dir_all(&root).unwrap();
    }
}
