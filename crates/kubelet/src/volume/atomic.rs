//! Upstream's atomic writer: readers of a volume see all files of one moment or all files of the next.
//!
//! ```text
//! ..2026_01_02_03_04_05.000000001/key   the files
//! ..data -> ..2026_01_02_03_04_05.000000001   swapped by rename
//! key -> ..data/key                     what containers open
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// One file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Content.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner, where it is not root.
    pub uid: Option<u32>,
}

/// All files of a volume by their path in it.
pub type Payload = BTreeMap<String, File>;

/// Makes `dir` show exactly `payload`; answers whether anything changed. `prepare` sees the new directory
/// before anybody else does (ownership).
pub fn write(
    dir: &Path,
    payload: &Payload,
    now: Timestamp,
    prepare: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<bool> {
    check(payload)?;
    let old = match fs::read_link(dir.join(DATA)) {
        Ok(target) => Some(dir.join(target)),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(old) = &old
        && shows(old, payload)
    {
        link_names(dir, payload)?;
        return Ok(false);
    }
    let new = fresh_directory(dir, now)?;
    write_files(&new, payload)?;
    prepare(&new)?;
    swap(dir, &new)?;
    link_names(dir, payload)?;
    if let Some(old) = old {
        fs::remove_dir_all(old)?;
    }
    Ok(true)
}

fn check(payload: &Payload) -> io::Result<()> {
    let good = |path: &String| {
        let first = Path::new(path).components().next();
        let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        plain && first.is_some_and(|part| !part.as_os_str().to_string_lossy().starts_with(".."))
    };
    match payload.keys().find(|path| !good(path)) {
        Some(bad) => Err(io::Error::new(ErrorKind::InvalidInput, format!("invalid path: {bad}"))),
        None => Ok(()),
    }
}

fn fresh_directory(dir: &Path, now: Timestamp) -> io::Result<PathBuf> {
    let stamp = now.strftime("..%Y_%m_%d_%H_%M_%S");
    for attempt in 0..1000u32 {
        let nanos = now.subsec_nanosecond().unsigned_abs().wrapping_add(attempt);
        let path = dir.join(format!("{stamp}.{nanos:09}"));
        match fs::create_dir(&path) {
            Ok(()) => {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
                return Ok(path);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(ErrorKind::AlreadyExists, "no free name for the new version of a volume"))
}

fn write_files(dir: &Path, payload: &Payload) -> io::Result<()> {
    for (path, file) in payload {
        let target = dir.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&target, &file.data)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(file.mode & 0o7777))?;
        if let Some(uid) = file.uid {
            chown(&target, Some(uid), None)?;
        }
    }
    Ok(())
}

fn swap(dir: &Path, new: &Path) -> io::Result<()> {
    let staged = dir.join(NEW_DATA);
    match fs::remove_file(&staged) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    symlink(new.file_name().unwrap_or_default(), &staged)?;
    fs::rename(staged, dir.join(DATA))
}

fn shows(dir: &Path, payload: &Payload) -> bool {
    let mut found = BTreeSet::new();
    if collect(dir, dir, &mut found).is_err() || !found.iter().eq(payload.keys()) {
        return false;
    }
    payload.iter().all(|(path, file)| fs::read(dir.join(path)).is_ok_and(|data| data == file.data))
}

fn collect(root: &Path, dir: &Path, found: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(root, &entry.path(), found)?;
        } else if let Ok(path) = entry.path().strip_prefix(root) {
            found.insert(path.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

fn link_names(dir: &Path, payload: &Payload) -> io::Result<()> {
    let top = |path: &String| path.split('/').next().unwrap_or_default().to_owned();
    let wanted: BTreeSet<String> = payload.keys().map(top).collect();
    for name in &wanted {
        match symlink(Path::new(DATA).join(name), dir.join(name)) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(&name) && entry.file_type()?.is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |data: &str| File { data: data.into(), mode: 0o640, uid: None };
        files.iter().map(|(path, data)| ((*path).to_owned(), file(data))).collect()
    }

    fn update(dir: &Path, files: &[(&str, &str)]) -> bool {
        write(dir, &payload(files), Timestamp::from_second(1_700_000_000).unwrap(), |_| Ok(())).unwrap()
    }

    #[test]
    fn versions_follow_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).ok();
        assert!(update(dir.path(), &[("a", "1"), ("sub/b", "2")]));
        assert_eq!((read("a").as_deref(), read("sub/b").as_deref()), (Some("1"), Some("2")));
        assert_eq!(fs::read_link(dir.path().join("a")).unwrap(), Path::new("..data/a"));
        assert_eq!(fs::metadata(dir.path().join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(!update(dir.path(), &[("a", "1"), ("sub/b", "2")]), "the same again changes nothing");
        assert!(update(dir.path(), &[("a", "3"), ("c", "4")]));
        assert_eq!((read("a").as_deref(), read("sub/b"), read("c").as_deref()), (Some("3"), None, Some("4")));
        let versions = fs::read_dir(dir.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("..2"));
        assert_eq!(versions.count(), 1, "old versions go");
    }

    #[test]
    fn nothing_escapes() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "..x", "a/../../x", ""] {
            let written = write(dir.path(), &payload(&[(path, "")]), Timestamp::UNIX_EPOCH, |_| Ok(()));
            assert!(written.is_err(), "{path}");
        }
    }
}
