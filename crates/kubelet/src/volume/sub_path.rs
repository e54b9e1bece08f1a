//! subPath: a place inside a volume that must stay inside, whatever links a container has put there.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

/// The real path of `sub` in `volume`; made as a directory where nothing is. Errors name the subPath.
pub fn resolve(volume: &Path, sub: &str) -> Result<PathBuf, String> {
    let wanted = Path::new(sub);
    if wanted.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(format!("subPath \"{sub}\" must not leave the volume"));
    }
    let root = fs::canonicalize(volume).map_err(|error| format!("{}: {error}", volume.display()))?;
    let mut at = root.clone();
    for part in wanted.components() {
        let next = at.join(part);
        at = match fs::canonicalize(&next) {
            Ok(real) => real,
            Err(error) if error.kind() == ErrorKind::NotFound && fs::symlink_metadata(&next).is_err() => {
                make(&next)
                    .map_err(|error| format!("failed to create subPath directory for \"{sub}\": {error}"))?;
                next
            }
            Err(error) => return Err(format!("subPath \"{sub}\": {error}")),
        };
        if !at.starts_with(&root) {
            return Err(format!("subPath \"{sub}\" is outside of the volume"));
        }
    }
    Ok(at)
}

fn make(dir: &Path) -> std::io::Result<()> {
    fs::create_dir(dir)?;
    let parent = dir.parent().map(fs::metadata).transpose()?;
    let mode = parent.map_or(0o750, |parent| parent.permissions().mode() & 0o7777);
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn stays_inside() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        fs::create_dir(&volume).unwrap();
        fs::write(volume.join("file"), "").unwrap();
        symlink("/etc", volume.join("out")).unwrap();
        symlink("file", volume.join("in")).unwrap();
        let real = fs::canonicalize(&volume).unwrap();
        assert_eq!(resolve(&volume, "new/deep").unwrap(), real.join("new/deep"));
        assert_eq!(resolve(&volume, "in").unwrap(), real.join("file"));
        for bad in ["out", "out/passwd", "../x", "/etc"] {
            assert!(resolve(&volume, bad).is_err(), "{bad}");
        }
    }
}
