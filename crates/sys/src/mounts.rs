//! Mounts on the host: overlay, bind, tmpfs, and removal of everything below a directory.

use std::ffi::{CString, OsString};
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::error::{Context, Error, Result};

/// mount(2) copies one page of options; a longer list of layers goes through the newer mount interface.
const MAX_MOUNT_DATA: usize = 4000;
/// The layers of one overlay that the kernel accepts.
pub const MAX_OVERLAY_LAYERS: usize = 500;

/// What callers need of mounts; [`HostMounts`] does it, [`RecordingMounts`] writes it down.
pub trait Mounts: Send + Sync {
    /// Mounts `lower` (topmost first) with a writable `upper` and its `work` directory on `target`.
    fn overlay(&self, lower: &[PathBuf], upper: &Path, work: &Path, target: &Path) -> Result<()>;
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
    fn overlay(&self, lower: &[PathBuf], upper: &Path, work: &Path, target: &Path) -> Result<()> {
        let what = || format!("mount overlay on {}", target.display());
        let data = overlay_options(lower, upper, work);
        if data.len() <= MAX_MOUNT_DATA {
            let flags = MsFlags::empty();
            return mount(Some("overlay"), target, Some("overlay"), flags, Some(data.as_os_str()))
                .doing(what);
        }
        overlay_by_fsconfig(lower, upper, work, target)
    }

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

/// Makes a mount and all below it shared with (`rshared`) or slave of (`rslave`) its peers.
pub fn set_propagation(target: &Path, shared: bool) -> Result<()> {
    let kind = if shared { MsFlags::MS_SHARED } else { MsFlags::MS_SLAVE };
    mount(None::<&str>, target, None::<&str>, kind | MsFlags::MS_REC, None::<&str>)
        .doing(|| format!("set propagation of {}", target.display()))
}

fn overlay_options(lower: &[PathBuf], upper: &Path, work: &Path) -> OsString {
    let mut data = b"lowerdir=".to_vec();
    for (index, layer) in lower.iter().enumerate() {
        if index > 0 {
            data.push(b':');
        }
        data.extend(escaped(layer));
    }
    for (name, path) in [(",upperdir=", upper), (",workdir=", work)] {
        data.extend(name.bytes());
        data.extend(escaped(path));
    }
    OsString::from_vec(data)
}

/// Overlay reads `:` and `,` as separators and takes a backslash as escape.
fn escaped(path: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in path.as_os_str().as_bytes().iter().copied() {
        if matches!(byte, b':' | b',' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out
}

const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;

fn overlay_by_fsconfig(lower: &[PathBuf], upper: &Path, work: &Path, target: &Path) -> Result<()> {
    let context = syscall_fd("fsopen overlay", |name| {
        // SAFETY: `name` is a NUL-terminated string that outlives the call.
        unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), 1) }
    })?;
    for layer in lower {
        fs_option(&context, c"lowerdir+", layer)?;
    }
    fs_option(&context, c"upperdir", upper)?;
    fs_option(&context, c"workdir", work)?;
    // SAFETY: the descriptor is open and FSCONFIG_CMD_CREATE takes no pointers.
    let created = unsafe {
        let none = std::ptr::null::<libc::c_char>();
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, none, none, 0)
    };
    if created < 0 {
        return Err(Error::last(format!("create overlay for {}", target.display())));
    }
    attach(&context, target)
}

fn attach(context: &OwnedFd, target: &Path) -> Result<()> {
    let mounted = syscall_fd("fsmount overlay", |_| {
        // SAFETY: no pointers; the descriptor is open.
        unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, 0) }
    })?;
    let path = c_path(target)?;
    // SAFETY: both strings are NUL-terminated and outlive the call.
    let moved = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mounted.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            path.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    if moved < 0 { Err(Error::last(format!("mount overlay on {}", target.display()))) } else { Ok(()) }
}

fn fs_option(context: &OwnedFd, key: &std::ffi::CStr, value: &Path) -> Result<()> {
    let text = c_path(value)?;
    // SAFETY: key and value are NUL-terminated and outlive the call.
    let set = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            FSCONFIG_SET_STRING,
            key.as_ptr(),
            text.as_ptr(),
            0,
        )
    };
    if set < 0 { Err(Error::last(format!("overlay option {}", value.display()))) } else { Ok(()) }
}

fn syscall_fd(what: &str, call: impl FnOnce(&std::ffi::CStr) -> libc::c_long) -> Result<OwnedFd> {
    match call(c"overlay") {
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        fd if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
        _ => Err(Error::last(what)),
    }
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidInput, e))
        .doing(|| format!("path {}", path.display()))
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
    fn overlay(&self, lower: &[PathBuf], _upper: &Path, _work: &Path, target: &Path) -> Result<()> {
        self.note(format!("overlay {} layers on {}", lower.len(), target.display()), Some(target));
        Ok(())
    }

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
    fn overlay_options_escape_separators() {
        let lower = [PathBuf::from("/l:1"), PathBuf::from("/l,2")];
        let data = overlay_options(&lower, Path::new("/u"), Path::new("/w"));
        assert_eq!(data, "lowerdir=/l\\:1:/l\\,2,upperdir=/u,workdir=/w");
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
    fn overlays_of_few_and_of_many_layers_can_be_mounted_and_removed() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("passed over: needs root");
        }
        let dir = std::env::temp_dir().join(format!("corten-sys-overlay-{}", std::process::id()));
        for count in [2, 90] {
            let layers: Vec<PathBuf> = (0..count)
                .map(|i| dir.join(format!("a-rather-long-layer-name-to-fill-the-page-{i}")))
                .collect();
            let own: Vec<PathBuf> = ["u", "w", "m"].iter().map(|n| dir.join(format!("{n}{count}"))).collect();
            for path in layers.iter().chain(&own) {
                fs::create_dir_all(path).unwrap();
            }
            fs::write(layers[1].join("f"), "below").unwrap();
            HostMounts.overlay(&layers, &own[0], &own[1], &own[2]).unwrap();
            assert_eq!(fs::read_to_string(own[2].join("f")).unwrap(), "below");
            assert!(is_mount_point(&own[2]));
        }
        HostMounts.unmount_below(&dir).unwrap();
        assert!(HostMounts.mounts_below(&dir).unwrap().is_empty());
        fs::remove_dir_all(&dir).unwrap();
    }
}
