//! Mounts on the host: bind, tmpfs, and removal of everything below a directory.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::error::{Context, Result};

/// What callers need of mounts; [`HostMounts`] does it, [`RecordingMounts`] writes it down.
pub trait Mounts: Send + Sync {
    /// Binds `source` (with what is mounted below it when `recursive`) on `target`.
    fn bind(&self, source: &Path, target: &Path, recursive: bool, read_only: bool) -> Result<()>;
    /// Mounts an empty tmpfs; `size` 0 leaves the kernel's default of half the memory.
    fn tmpfs(&self, target: &Path, size_bytes: u64, mode: u32) -> Result<()>;
    /// Unmounts `target` once, lazily; not being a mount is fine.
    fn unmount(&self, target: &Path) -> Result<()>;
    /// Unmounts everything mounted on or below `dir`, deepest first.
    fn unmount_below(&self, dir: &Path) -> Result<()>;
    /// The mount points on or below `dir`, in the order they were mounted.
    fn mounts_below(&self, dir: &Path) -> Result<Vec<PathBuf>>;
}

/// The kernel's mounts, in the mount namespace of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostMounts;

impl Mounts for HostMounts {
    fn bind(&self, source: &Path, target: &Path, recursive: bool, read_only: bool) -> Result<()> {
        let deep = if recursive { MsFlags::MS_REC } else { MsFlags::empty() };
        let what = || format!("bind {} on {}", source.display(), target.display());
        mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | deep, None::<&str>).doing(what)?;
        if !read_only {
            return Ok(());
        }
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, target, None::<&str>, flags, None::<&str>).doing(what)
    }

    fn tmpfs(&self, target: &Path, size_bytes: u64, mode: u32) -> Result<()> {
        let size = if size_bytes > 0 { format!(",size={size_bytes}") } else { String::new() };
        let data = format!("mode={mode:o}{size}");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(data.as_str()))
            .doing(|| format!("mount tmpfs on {}", target.display()))
    }

    fn unmount(&self, target: &Path) -> Result<()> {
        match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno).doing(|| format!("unmount {}", target.display())),
        }
    }

    fn unmount_below(&self, dir: &Path) -> Result<()> {
        let mut mounted = self.mounts_below(dir)?;
        mounted.reverse();
        mounted.iter().try_for_each(|target| self.unmount(target))
    }

    fn mounts_below(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        let table = fs::read("/proc/self/mountinfo").doing(|| "read mountinfo".into())?;
        let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
        Ok(mount_points(&table).filter(|point| point.starts_with(&dir)).collect())
    }
}

/// Whether `path` is the root of a mount.
pub fn is_mount_point(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Ok(own), Some(parent)) = (fs::symlink_metadata(path), path.parent()) else { return false };
    fs::symlink_metadata(parent).is_ok_and(|up| up.dev() != own.dev() || up.ino() == own.ino())
}

fn mount_points(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    table.split(|b| *b == b'\n').filter_map(|line| {
        let field = line.split(|b| *b == b' ').nth(4)?;
        Some(PathBuf::from(OsString::from_vec(unescape(field))))
    })
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let value = octal.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        (rest, _) = match value {
            Some(byte) => (&tail[3..], out.push(byte)),
            None => (tail, out.push(*first)),
        };
    }
    out
}

/// A fake that remembers what was asked and what would be mounted.
#[derive(Debug, Default)]
pub struct RecordingMounts {
    /// One line for each call, in order.
    pub calls: Mutex<Vec<String>>,
    mounted: Mutex<Vec<PathBuf>>,
}

impl RecordingMounts {
    fn note(&self, call: String, mounted: Option<&Path>) {
        if let Ok(mut calls) = self.calls.lock() {
            calls.push(call);
        }
        if let (Ok(mut all), Some(path)) = (self.mounted.lock(), mounted) {
            all.push(path.to_owned());
        }
    }
}

impl Mounts for RecordingMounts {
    fn bind(&self, source: &Path, target: &Path, recursive: bool, read_only: bool) -> Result<()> {
        let how = format!("{}{}", if recursive { " rec" } else { "" }, if read_only { " ro" } else { "" });
        self.note(format!("bind {} on {}{how}", source.display(), target.display()), Some(target));
        Ok(())
    }

    fn tmpfs(&self, target: &Path, size_bytes: u64, mode: u32) -> Result<()> {
        self.note(format!("tmpfs {size_bytes} {mode:o} on {}", target.display()), Some(target));
        Ok(())
    }

    fn unmount(&self, target: &Path) -> Result<()> {
        self.note(format!("unmount {}", target.display()), None);
        if let Ok(mut all) = self.mounted.lock() {
            all.retain(|point| point != target);
        }
        Ok(())
    }

    fn unmount_below(&self, dir: &Path) -> Result<()> {
        let mut points = self.mounts_below(dir)?;
        points.reverse();
        points.iter().try_for_each(|point| self.unmount(point))
    }

    fn mounts_below(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        let all = self.mounted.lock().map(|all| all.clone()).unwrap_or_default();
        Ok(all.into_iter().filter(|point| point.starts_with(dir)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_give_unescaped_points() {
        let table =
            b"36 35 98:0 / /mnt\\040one rw - ext3 /dev/root rw\n37 36 98:0 / /mnt/a\\134b rw - ext3 x rw\n";
        let points: Vec<_> = mount_points(table).collect();
        assert_eq!(points, [PathBuf::from("/mnt one"), PathBuf::from("/mnt/a\\b")]);
    }

    #[test]
    fn the_fake_unmounts_deepest_first() {
        let fake = RecordingMounts::default();
        fake.tmpfs(Path::new("/a"), 0, 0o755).unwrap();
        fake.bind(Path::new("/x"), Path::new("/a/b"), true, false).unwrap();
        fake.unmount_below(Path::new("/a")).unwrap();
        let calls = fake.calls.lock().unwrap();
        assert_eq!(calls[2..], ["unmount /a/b", "unmount /a"]);
    }

    #[test]
    fn everything_below_a_directory_is_unmounted() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("passed over: needs root");
        }
        let dir = std::env::temp_dir().join(format!("corten-sys-mounts-{}", std::process::id()));
        let (inner, bound) = (dir.join("a b/inner"), dir.join("bound"));
        fs::create_dir_all(dir.join("a b")).unwrap();
        fs::create_dir_all(&bound).unwrap();
        HostMounts.tmpfs(&dir.join("a b"), 1 << 20, 0o755).unwrap();
        fs::create_dir(&inner).unwrap();
        HostMounts.tmpfs(&inner, 0, 0o1777).unwrap();
        fs::write(inner.join("f"), "inside").unwrap();
        HostMounts.bind(&dir.join("a b"), &bound, true, true).unwrap();
        assert_eq!(fs::read_to_string(bound.join("inner/f")).unwrap(), "inside");
        assert!(fs::write(bound.join("f"), "").is_err(), "read-only");
        assert!(is_mount_point(&bound));
        HostMounts.unmount_below(&dir).unwrap();
        assert!(HostMounts.mounts_below(&dir).unwrap().is_empty());
        fs::remove_dir_all(&dir).unwrap();
    }
}
