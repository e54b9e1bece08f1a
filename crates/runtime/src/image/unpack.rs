//! A layer's tar becomes a directory that overlayfs can stack.
//!
//! Paths in the archive are data from strangers. Every parent is resolved inside the layer's own directory,
//! following symlinks as a chroot would, in a tree that only this process writes; `..` in a name is refused.
//! Whiteouts become overlayfs's: a character device 0/0 for a removed entry, an extended attribute for a
//! directory that hides what is below.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;
use sha2::{Digest as _, Sha256};
use tar::{Entry, EntryType};

use super::ImageError;
use super::guard::Guarded;
use super::index::LayerUsage;
use super::reference::Digest;

/// Largest unpacked layer, in bytes of its tar.
const MAX_LAYER: u64 = 64 << 30;
/// Most entries of one layer.
const MAX_ENTRIES: u64 = 1_000_000;
/// Longest path in an archive, as in the kernel.
const MAX_PATH: usize = 4096;
/// Symlinks followed while resolving one path, as in the kernel.
const MAX_SYMLINKS: usize = 40;
/// Bytes moved at once.
const CHUNK: usize = 128 << 10;

const WHITEOUT: &str = ".wh.";
const WHITEOUT_META: &str = ".wh..wh.";
const WHITEOUT_OPAQUE: &str = ".wh..wh..opq";
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
const PAX_XATTR: &str = "SCHILY.xattr.";

/// What came out of a layer.
pub(super) struct Unpacked {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// What it takes on disk.
    pub usage: LayerUsage,
}

/// Unpacks `blob` (tar, plain or compressed with gzip or zstd) into the empty directory `root`. `lower` are
/// the layers below, highest first: parents that the archive leaves out get their attributes from there.
pub(super) fn unpack(blob: &Path, root: &Path, lower: &[PathBuf]) -> Result<Unpacked, ImageError> {
    let file = File::open(blob).map_err(ImageError::io(format!("open {}", blob.display())))?;
    let mut tar = Guarded::new(Hashing { inner: decompress(file)?, hash: Sha256::new(), count: 0 });
    let mut layer = Layer::new(root, lower);
    let mut archive = tar::Archive::new(&mut tar);
    let entries = archive.entries().map_err(damaged)?;
    for (count, entry) in (1..).zip(entries) {
        if count > MAX_ENTRIES {
            return Err(ImageError::Invalid(format!("layer has more than {MAX_ENTRIES} entries")));
        }
        layer.apply(entry.map_err(damaged)?)?;
    }
    // What follows the last entry counts for the digest too.
    std::io::copy(&mut tar, &mut std::io::sink()).map_err(damaged)?;
    layer.finish()?;
    Ok(Unpacked { diff_id: Digest::of(tar.into_inner().hash.finalize()), usage: layer.usage })
}

fn damaged(error: std::io::Error) -> ImageError {
    ImageError::Invalid(format!("layer archive is damaged: {error}"))
}

/// Reads gzip, zstd or plain data, told apart by their first bytes, since media types are often wrong.
pub(super) fn decompress(file: impl Read + 'static) -> Result<Box<dyn Read>, ImageError> {
    let mut buffered = BufReader::with_capacity(CHUNK, file);
    let start = std::io::BufRead::fill_buf(&mut buffered).map_err(damaged)?;
    Ok(if start.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(buffered))
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(zstd::stream::read::Decoder::with_buffer(buffered).map_err(damaged)?)
    } else {
        Box::new(buffered)
    })
}

/// Hashes what passes and stops bombs.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
    count: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.count += length as u64;
        if self.count > MAX_LAYER {
            return Err(std::io::Error::other(format!("larger than {MAX_LAYER} bytes")));
        }
        self.hash.update(&buffer[..length]);
        Ok(length)
    }
}

/// A layer being unpacked.
struct Layer<'a> {
    root: &'a Path,
    lower: &'a [PathBuf],
    usage: LayerUsage,
    /// The last parent and what it resolved to: neighbours in an archive share it.
    last_parent: Option<(PathBuf, PathBuf)>,
    /// Directories get their times at the end, since filling them changes it.
    directory_times: Vec<(PathBuf, u64)>,
    chunk: Vec<u8>,
}

impl<'a> Layer<'a> {
    fn new(root: &'a Path, lower: &'a [PathBuf]) -> Self {
        let chunk = vec![0; CHUNK];
        Self {
            root,
            lower,
            usage: LayerUsage::default(),
            last_parent: None,
            directory_times: Vec::new(),
            chunk,
        }
    }

    fn apply<R: Read>(&mut self, mut entry: Entry<'_, R>) -> Result<(), ImageError> {
        let path = clean(&entry.path_bytes())?;
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            return self.apply_root(&mut entry);
        };
        let parent = self.parent(path.parent().unwrap_or(Path::new("")))?;
        if let Some(text) = name.to_str().filter(|text| text.starts_with(WHITEOUT)) {
            return self.white_out(&parent, text);
        }
        let target = parent.join(&name);
        let hides_lower = self.make_room(&target, kind)?;
        match kind {
            EntryType::Directory => self.make_directory(&target, hides_lower)?,
            EntryType::Link => return self.hard_link(&entry, &target),
            EntryType::Symlink => self.make_symlink(&entry, &target)?,
            EntryType::Char | EntryType::Block | EntryType::Fifo => self.make_node(&entry, kind, &target)?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.make_file(&mut entry, &target)?;
            }
            other => {
                tracing::debug!(?other, path = %path.display(), "skipping archive entry of unknown type");
                return Ok(());
            }
        }
        self.set_attributes(&mut entry, &target, kind)
    }

    /// The entry for the top directory only carries attributes.
    fn apply_root<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), ImageError> {
        if entry.header().entry_type() != EntryType::Directory {
            return Ok(());
        }
        let root = self.root.to_owned();
        self.set_attributes(entry, &root, EntryType::Directory)
    }

    fn parent(&mut self, path: &Path) -> Result<PathBuf, ImageError> {
        if let Some((_, resolved)) = self.last_parent.as_ref().filter(|(known, _)| known == path) {
            return Ok(resolved.clone());
        }
        let resolved = self.root.join(self.resolve(path)?);
        self.last_parent = Some((path.to_owned(), resolved.clone()));
        Ok(resolved)
    }

    /// The real place of directory `path` below the root; what is missing is made.
    fn resolve(&mut self, path: &Path) -> Result<PathBuf, ImageError> {
        let mut todo = parts(path);
        let mut done = PathBuf::new();
        let mut symlinks = 0;
        while let Some(part) = todo.pop_front() {
            if part == ".." {
                done.pop();
                continue;
            }
            let here = self.root.join(&done).join(&part);
            match look(&here)? {
                None => {
                    self.make_missing_directory(&done.join(&part))?;
                    done.push(part);
                }
                Some(found) if found.is_dir() => done.push(part),
                Some(found) if found.is_symlink() && symlinks < MAX_SYMLINKS => {
                    symlinks += 1;
                    follow(&here, &mut done, &mut todo)?;
                }
                Some(_) => {
                    let path = path.display();
                    return Err(ImageError::Invalid(format!(
                        "layer archive: {path}: {part:?} is not a directory"
                    )));
                }
            }
        }
        Ok(done)
    }

    /// A directory that the archive does not mention keeps the looks it has in the layers below.
    fn make_missing_directory(&mut self, path: &Path) -> Result<(), ImageError> {
        let target = self.root.join(path);
        std::fs::create_dir(&target).map_err(making(&target))?;
        self.usage.inodes += 1;
        let below = self.lower.iter().find_map(|layer| std::fs::symlink_metadata(layer.join(path)).ok());
        if let Some(model) = below.filter(Metadata::is_dir) {
            std::os::unix::fs::lchown(&target, Some(model.uid()), Some(model.gid()))
                .map_err(making(&target))?;
            set_mode(&target, model.mode())?;
            self.directory_times.push((target, u64::try_from(model.mtime()).unwrap_or(0)));
        } else {
            set_mode(&target, 0o755)?;
        }
        Ok(())
    }

    fn white_out(&mut self, parent: &Path, name: &str) -> Result<(), ImageError> {
        if name == WHITEOUT_OPAQUE {
            return make_opaque(parent);
        }
        let removed = &name[WHITEOUT.len()..];
        if name.starts_with(WHITEOUT_META) || removed.is_empty() || removed == "." || removed == ".." {
            return Ok(());
        }
        let target = parent.join(removed);
        match look(&target)? {
            // Whiteouts are about the layers below: what this layer itself brought stays.
            Some(found) if found.is_dir() => make_opaque(&target),
            Some(_) => Ok(()),
            None => {
                self.usage.inodes += 1;
                mknod(&target, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0))
                    .map_err(|errno| making(&target)(errno.into()))
            }
        }
    }

    /// Removes what is at `target`, unless a directory meets a directory. True when a whiteout was there:
    /// a directory in its place must go on hiding what is below.
    fn make_room(&mut self, target: &Path, kind: EntryType) -> Result<bool, ImageError> {
        let Some(found) = look(target)? else { return Ok(false) };
        if found.is_dir() {
            if kind != EntryType::Directory {
                std::fs::remove_dir_all(target).map_err(making(target))?;
                self.directory_times.retain(|(path, _)| !path.starts_with(target));
                self.last_parent = None;
            }
            return Ok(false);
        }
        std::fs::remove_file(target).map_err(making(target))?;
        self.last_parent = None;
        Ok(found.file_type().is_char_device() && found.rdev() == 0)
    }

    fn make_directory(&mut self, target: &Path, hides_lower: bool) -> Result<(), ImageError> {
        if look(target)?.is_none() {
            std::fs::create_dir(target).map_err(making(target))?;
            self.usage.inodes += 1;
        }
        if hides_lower { make_opaque(target) } else { Ok(()) }
    }

    fn make_file<R: Read>(&mut self, entry: &mut Entry<'_, R>, target: &Path) -> Result<(), ImageError> {
        let mut file =
            OpenOptions::new().write(true).create_new(true).open(target).map_err(making(target))?;
        self.usage.inodes += 1;
        loop {
            let length = match entry.read(&mut self.chunk) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(damaged(error)),
            };
            file.write_all(&self.chunk[..length]).map_err(making(target))?;
            self.usage.bytes += length as u64;
        }
    }

    fn make_symlink<R: Read>(&mut self, entry: &Entry<'_, R>, target: &Path) -> Result<(), ImageError> {
        let points_to = link_name(entry)?;
        self.usage.inodes += 1;
        std::os::unix::fs::symlink(OsStr::from_bytes(&points_to), target).map_err(making(target))
    }

    fn make_node<R: Read>(
        &mut self,
        entry: &Entry<'_, R>,
        kind: EntryType,
        target: &Path,
    ) -> Result<(), ImageError> {
        let flag = match kind {
            EntryType::Char => SFlag::S_IFCHR,
            EntryType::Block => SFlag::S_IFBLK,
            _ => SFlag::S_IFIFO,
        };
        let number = |part: std::io::Result<Option<u32>>| {
            part.map_err(damaged).map(|part| u64::from(part.unwrap_or(0)))
        };
        let device = if kind == EntryType::Fifo {
            0
        } else {
            makedev(number(entry.header().device_major())?, number(entry.header().device_minor())?)
        };
        self.usage.inodes += 1;
        mknod(target, flag, Mode::empty(), device).map_err(|errno| making(target)(errno.into()))
    }

    /// A link to a file of this layer shares it; to a file of a layer below, it becomes a copy, as writing
    /// through overlayfs would make it.
    fn hard_link<R: Read>(&mut self, entry: &Entry<'_, R>, target: &Path) -> Result<(), ImageError> {
        let path = clean(&link_name(entry)?)?;
        let missing =
            || ImageError::Invalid(format!("layer archive: hard link to missing {}", path.display()));
        let name = path.file_name().ok_or_else(missing)?.to_owned();
        let inside = self.parent(path.parent().unwrap_or(Path::new("")))?.join(&name);
        match look(&inside)? {
            Some(found) if found.is_dir() => Err(missing()),
            Some(found) if !is_whiteout(&found) => {
                std::fs::hard_link(&inside, target).map_err(making(target))
            }
            _ => {
                let below =
                    self.lower.iter().find_map(|layer| lookup_below(layer, &path)).ok_or_else(missing)?;
                self.copy_up(&below, target)
            }
        }
    }

    fn copy_up(&mut self, below: &Path, target: &Path) -> Result<(), ImageError> {
        let from = std::fs::symlink_metadata(below).map_err(making(target))?;
        self.usage.bytes += std::fs::copy(below, target).map_err(making(target))?;
        self.usage.inodes += 1;
        std::os::unix::fs::lchown(target, Some(from.uid()), Some(from.gid())).map_err(making(target))?;
        set_mode(target, from.mode())?;
        for name in xattr::list(below).map_err(making(target))? {
            if let Some(value) = xattr::get(below, &name).map_err(making(target))? {
                xattr::set(target, &name, &value).map_err(making(target))?;
            }
        }
        set_time(target, u64::try_from(from.mtime()).unwrap_or(0))
    }

    fn set_attributes<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        target: &Path,
        kind: EntryType,
    ) -> Result<(), ImageError> {
        let header = entry.header();
        let id = |value: u64| {
            let refuse = |_| ImageError::Invalid(format!("layer archive: owner {value} is too large"));
            u32::try_from(value).map_err(refuse)
        };
        let old = header.as_old();
        let uid = id(number(&old.uid, header.uid())?)?;
        let gid = id(number(&old.gid, header.gid())?)?;
        let mode = number(&old.mode, header.mode())?;
        let mtime = header.mtime().unwrap_or(0);
        std::os::unix::fs::lchown(target, Some(uid), Some(gid)).map_err(making(target))?;
        if kind != EntryType::Symlink {
            set_mode(target, mode)?;
        }
        set_xattrs(entry, target)?;
        if kind == EntryType::Directory {
            self.directory_times.push((target.to_owned(), mtime));
            return Ok(());
        }
        set_time(target, mtime)
    }

    fn finish(&mut self) -> Result<(), ImageError> {
        // Deepest first, so that nothing touches a directory after it got its time.
        for (path, mtime) in self.directory_times.drain(..).rev() {
            set_time(&path, mtime)?;
        }
        Ok(())
    }
}

fn making(path: &Path) -> impl FnOnce(std::io::Error) -> ImageError {
    ImageError::io(format!("unpack {}", path.display()))
}

/// A numeric field of a header; blank is zero, as other readers have it.
fn number<T: Default>(field: &[u8], parsed: std::io::Result<T>) -> Result<T, ImageError> {
    match parsed {
        Err(_) if field.iter().all(|byte| matches!(byte, 0 | b' ')) => Ok(T::default()),
        parsed => parsed.map_err(damaged),
    }
}

fn look(path: &Path) -> Result<Option<Metadata>, ImageError> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(making(path)(error)),
    }
}

fn is_whiteout(found: &Metadata) -> bool {
    found.file_type().is_char_device() && found.rdev() == 0
}

fn make_opaque(directory: &Path) -> Result<(), ImageError> {
    xattr::set(directory, OPAQUE_XATTR, b"y").map_err(making(directory))
}

fn link_name<R: Read>(entry: &Entry<'_, R>) -> Result<Vec<u8>, ImageError> {
    let name = entry.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default();
    if name.is_empty() || name.len() > MAX_PATH || name.contains(&0) {
        return Err(ImageError::Invalid("layer archive: link without a usable target".into()));
    }
    Ok(name)
}

/// A path of an archive without leading `/` and `./`; empty for the top directory.
fn clean(bytes: &[u8]) -> Result<PathBuf, ImageError> {
    let path = Path::new(OsStr::from_bytes(bytes));
    let refuse = |why: &str| ImageError::Invalid(format!("layer archive: path {path:?} {why}"));
    if bytes.len() > MAX_PATH {
        return Err(refuse("is too long"));
    }
    if bytes.contains(&0) {
        return Err(refuse("has a NUL"));
    }
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => cleaned.push(part),
            Component::ParentDir => return Err(refuse("leaves the layer")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(cleaned)
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(part) => Some(part.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

/// Puts a symlink's target in front of what is still to walk.
fn follow(link: &Path, done: &mut PathBuf, todo: &mut VecDeque<OsString>) -> Result<(), ImageError> {
    let target = std::fs::read_link(link).map_err(making(link))?;
    if target.is_absolute() {
        *done = PathBuf::new();
    }
    for part in parts(&target).into_iter().rev() {
        todo.push_front(part);
    }
    Ok(())
}

/// The regular file at `path` in a layer below, resolved inside it.
fn lookup_below(layer: &Path, path: &Path) -> Option<PathBuf> {
    let mut todo = parts(path);
    let mut done = PathBuf::new();
    let mut symlinks = 0;
    while let Some(part) = todo.pop_front() {
        if part == ".." {
            done.pop();
            continue;
        }
        let here = layer.join(&done).join(&part);
        let found = std::fs::symlink_metadata(&here).ok()?;
        if found.is_symlink() && !todo.is_empty() {
            symlinks += 1;
            if symlinks > MAX_SYMLINKS {
                return None;
            }
            follow(&here, &mut done, &mut todo).ok()?;
        } else {
            done.push(part);
        }
    }
    let found = layer.join(done);
    std::fs::symlink_metadata(&found).ok().filter(Metadata::is_file).map(|_| found)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), ImageError> {
    std::fs::set_permissions(path, Permissions::from_mode(mode & 0o7777)).map_err(making(path))
}

fn set_time(path: &Path, mtime: u64) -> Result<(), ImageError> {
    let time = TimeSpec::new(i64::try_from(mtime).unwrap_or(i64::MAX), 0);
    utimensat(AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink)
        .map_err(|errno| making(path)(errno.into()))
}

/// Attributes that the file system does not know are dropped, as container runtimes do; others are errors,
/// since losing file capabilities silently would break programs.
fn set_xattrs<R: Read>(entry: &mut Entry<'_, R>, target: &Path) -> Result<(), ImageError> {
    let Some(extensions) = entry.pax_extensions().map_err(damaged)? else { return Ok(()) };
    for extension in extensions {
        let extension = extension.map_err(damaged)?;
        let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix(PAX_XATTR)) else { continue };
        // Marks of overlayfs are for this module alone to set.
        if name.starts_with("trusted.overlay.") || name.starts_with("user.overlay.") {
            continue;
        }
        match xattr::set(target, name, extension.value_bytes()) {
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EOPNOTSUPP as i32) => {}
            result => result.map_err(making(target))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Item<'a> {
        Dir(&'a str, u32),
        File(&'a str, &'a str),
        Link(&'a str, &'a str),
        Symlink(&'a str, &'a str),
        Node(&'a str, EntryType),
        Xattr(&'a str, &'a str, &'a str),
    }
    use Item::*;

    fn tar_of(items: &[Item<'_>]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for item in items {
            let mut header = tar::Header::new_ustar();
            let (path, kind, mode, content, link) = match item {
                Dir(path, mode) => (path, EntryType::Directory, *mode, "", ""),
                File(path, content) => (path, EntryType::Regular, 0o644, *content, ""),
                Link(path, to) => (path, EntryType::Link, 0o644, "", *to),
                Symlink(path, to) => (path, EntryType::Symlink, 0o777, "", *to),
                Node(path, kind) => (path, *kind, 0o600, "", ""),
                Xattr(path, name, value) => {
                    let key = format!("{PAX_XATTR}{name}");
                    builder.append_pax_extensions([(key.as_str(), value.as_bytes())]).unwrap();
                    (path, EntryType::Regular, 0o755, "", "")
                }
            };
            // The crate's own setters refuse the paths that must be tested.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_uid(7);
            header.set_gid(8);
            header.set_mtime(1_600_000_000);
            header.set_size(content.len() as u64);
            if matches!(kind, EntryType::Char | EntryType::Block) {
                header.set_device_major(1).unwrap();
                header.set_device_minor(3).unwrap();
            }
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn unpack_items(
        dir: &Path,
        name: &str,
        items: &[Item<'_>],
        lower: &[PathBuf],
    ) -> Result<PathBuf, String> {
        let blob = dir.join(format!("{name}.tar"));
        std::fs::write(&blob, tar_of(items)).unwrap();
        let root = dir.join(name);
        std::fs::create_dir(&root).unwrap();
        unpack(&blob, &root, lower).map(|_| root).map_err(|error| error.to_string())
    }

    #[test]
    fn files_links_nodes_and_attributes() {
        let dir = tempfile::tempdir().unwrap();
        let root = unpack_items(
            dir.path(),
            "a",
            &[
                Dir("./", 0o755),
                Dir("etc/", 0o750),
                File("./etc/motd", "hello"),
                Link("etc/motd2", "etc/motd"),
                Symlink("etc/away", "/../../outside"),
                Node("dev/null", EntryType::Char),
                Node("dev/pipe", EntryType::Fifo),
                Xattr("etc/tagged", "user.color", "blue"),
                File("/abs", "x"),
                File("etc/motd3", "old"),
                File("etc/motd3", "new"),
                Dir("etc/turns", 0o755),
                File("etc/turns/inside", ""),
                File("etc/turns", "file"),
            ],
            &[],
        )
        .unwrap();
        let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
        let stat = |path: &str| std::fs::symlink_metadata(root.join(path)).unwrap();
        assert_eq!(
            (read("etc/motd"), read("etc/motd3"), read("etc/turns"), read("abs")),
            ("hello".into(), "new".into(), "file".into(), "x".into())
        );
        assert_eq!(stat("etc/motd").ino(), stat("etc/motd2").ino());
        assert_eq!((stat("etc").mode() & 0o7777, stat("etc").uid(), stat("etc").gid()), (0o750, 7, 8));
        assert_eq!((stat("etc").mtime(), stat("etc/motd").mtime()), (1_600_000_000, 1_600_000_000));
        assert_eq!(stat("dev/null").rdev(), makedev(1, 3));
        assert!(stat("dev/pipe").file_type().is_fifo());
        assert_eq!(xattr::get(root.join("etc/tagged"), "user.color").unwrap().unwrap(), b"blue");
    }

    #[test]
    fn nothing_leaves_the_layer() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        let dotdot = unpack_items(dir.path(), "a", &[File("../evil", "x")], &[]).unwrap_err();
        assert!(dotdot.contains("leaves the layer"), "{dotdot}");
        unpack_items(dir.path(), "b", &[Link("leak", "../secret")], &[]).unwrap_err();
        let inside = unpack_items(
            dir.path(),
            "c",
            &[Symlink("up", "../.."), Symlink("root", "/"), File("up/f", "1"), File("root/g", "2")],
            &[],
        )
        .unwrap();
        assert!(inside.join("f").exists() && inside.join("g").exists());
        let around = [Symlink("x", "y"), Symlink("y", "x"), File("x/f", "")];
        unpack_items(dir.path(), "d", &around, &[]).unwrap_err();
        unpack_items(dir.path(), "e", &[File("f", ""), File("f/g", "")], &[]).unwrap_err();
        let mut names: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.retain(|name| !name.to_string_lossy().ends_with(".tar"));
        names.sort();
        assert_eq!(names, ["a", "b", "c", "d", "e", "secret"]);
    }

    #[test]
    fn whiteouts_become_overlayfs_ones() {
        let dir = tempfile::tempdir().unwrap();
        let root = unpack_items(
            dir.path(),
            "a",
            &[
                File("etc/.wh.gone", ""),
                File("etc/.wh..wh..opq", ""),
                File("etc/.wh..wh.plnk", ""),
                File("etc/.wh.back", ""),
                Dir("etc/back", 0o755),
                File("etc/kept", "k"),
                File("etc/.wh.kept", ""),
                File("etc/.wh.", ""),
                File("etc/.wh...", ""),
            ],
            &[],
        )
        .unwrap();
        let gone = std::fs::symlink_metadata(root.join("etc/gone")).unwrap();
        assert!(is_whiteout(&gone));
        let opaque = |path: &str| xattr::get(root.join(path), OPAQUE_XATTR).unwrap();
        assert_eq!(opaque("etc").unwrap(), b"y");
        assert_eq!(opaque("etc/back").unwrap(), b"y", "what was below stays hidden");
        assert!(std::fs::symlink_metadata(root.join("etc/kept")).unwrap().is_file());
        assert_eq!(std::fs::read_dir(root.join("etc")).unwrap().count(), 3);
    }

    #[test]
    fn parents_and_link_targets_come_from_below() {
        let dir = tempfile::tempdir().unwrap();
        let below = unpack_items(
            dir.path(),
            "a",
            &[
                Dir("tmp", 0o1777),
                Symlink("lib", "usr/lib"),
                File("usr/lib/so", "elf"),
                Xattr("bin/tool", "user.color", "red"),
            ],
            &[],
        )
        .unwrap();
        let lower = [below];
        let above = unpack_items(
            dir.path(),
            "b",
            &[File("tmp/x", ""), Link("so2", "lib/so"), Link("tool2", "bin/tool")],
            &lower,
        )
        .unwrap();
        assert_eq!(std::fs::metadata(above.join("tmp")).unwrap().mode() & 0o7777, 0o1777);
        assert_eq!(std::fs::read_to_string(above.join("so2")).unwrap(), "elf");
        assert_eq!(xattr::get(above.join("tool2"), "user.color").unwrap().unwrap(), b"red");
        let missing = unpack_items(dir.path(), "c", &[Link("x", "nowhere")], &lower).unwrap_err();
        assert!(missing.contains("missing"), "{missing}");
    }

    #[test]
    fn compression_is_told_by_content_and_does_not_change_the_digest() {
        let dir = tempfile::tempdir().unwrap();
        let plain = tar_of(&[File("f", "content")]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let forms = [plain.clone(), gzip.finish().unwrap(), zstd::encode_all(&plain[..], 1).unwrap()];
        for (number, form) in forms.iter().enumerate() {
            let blob = dir.path().join(format!("{number}.blob"));
            std::fs::write(&blob, form).unwrap();
            let root = dir.path().join(number.to_string());
            std::fs::create_dir(&root).unwrap();
            let unpacked = unpack(&blob, &root, &[]).unwrap();
            assert_eq!(unpacked.diff_id, Digest::of(Sha256::digest(&plain)));
            assert_eq!(unpacked.usage, LayerUsage { bytes: 7, inodes: 1 });
        }
        let blob = dir.path().join("bad");
        std::fs::write(&blob, &forms[1][..forms[1].len() / 2]).unwrap();
        let root = dir.path().join("badroot");
        std::fs::create_dir(&root).unwrap();
        assert!(unpack(&blob, &root, &[]).is_err());
    }
}
