//! Root file systems: overlayfs over an image's layers, with a lease that keeps the layers.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::ImageError;
use super::content::Content;
use super::locks::Adding;

/// The kernel takes one page of mount options.
const MAX_OPTIONS: usize = 4095;
/// overlayfs wants a lower directory even for an image without layers.
const EMPTY_LAYER: &str = "empty";

/// Says which layers a container stands on.
#[derive(Serialize, Deserialize)]
struct Lease {
    container_dir: PathBuf,
    layers: Vec<String>,
}

/// Mounts `layers` (names, lowest first) at `container_dir/rootfs`. Idempotent.
pub(super) fn mount_rootfs(
    content: &Content,
    layers: &[String],
    container_dir: &Path,
) -> Result<PathBuf, ImageError> {
    let rootfs = container_dir.join("rootfs");
    if is_mounted(&rootfs) {
        return Ok(rootfs);
    }
    let _lock = Adding::begin(content.dir())?;
    for part in ["rootfs", "upper", "work"] {
        let path = container_dir.join(part);
        std::fs::create_dir_all(&path).map_err(ImageError::io(format!("make {}", path.display())))?;
    }
    write_lease(content, layers, container_dir)?;
    let mut names: Vec<&str> = layers.iter().rev().map(String::as_str).collect();
    if names.is_empty() {
        let empty = content.layers().join(EMPTY_LAYER);
        std::fs::create_dir_all(&empty).map_err(ImageError::io(format!("make {}", empty.display())))?;
        names.push(EMPTY_LAYER);
    }
    if let Some(missing) = names.iter().find(|name| !content.layers().join(name).is_dir()) {
        return Err(ImageError::NotFound(format!("layer {missing} of the image is gone")));
    }
    copy_root_attributes(&content.layers().join(names[0]), &container_dir.join("upper"))?;
    let options = options(&names, container_dir)?;
    mount_in(&content.layers(), &rootfs, options)?;
    Ok(rootfs)
}

/// The upper directory's own attributes are what `/` of the container shows.
fn copy_root_attributes(model: &Path, upper: &Path) -> Result<(), ImageError> {
    let copy = || {
        let from = std::fs::metadata(model)?;
        std::os::unix::fs::lchown(upper, Some(from.uid()), Some(from.gid()))?;
        std::fs::set_permissions(upper, from.permissions())
    };
    copy().map_err(ImageError::io(format!("prepare {}", upper.display())))
}

fn options(names: &[&str], container_dir: &Path) -> Result<String, ImageError> {
    let path = |part: &str| escape(&container_dir.join(part));
    let options = format!(
        "index=off,lowerdir={},upperdir={},workdir={}",
        names.join(":"),
        path("upper")?,
        path("work")?
    );
    if options.len() > MAX_OPTIONS {
        let layers = names.len();
        return Err(ImageError::Invalid(format!("mount options for {layers} layers do not fit on a page")));
    }
    Ok(options)
}

/// Commas, colons and backslashes have a meaning in overlayfs's options.
fn escape(path: &Path) -> Result<String, ImageError> {
    let text = path.to_str().filter(|_| path.is_absolute());
    let text =
        text.ok_or_else(|| ImageError::Invalid(format!("path {path:?} must be absolute and UTF-8")))?;
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '\\' | ',' | ':') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    Ok(escaped)
}

/// Mounts from a thread with a working directory of its own, so that layers can be named relative to
/// `layers` and more of them fit on the page.
fn mount_in(layers: &Path, rootfs: &Path, options: String) -> Result<(), ImageError> {
    let (layers, target) = (layers.to_owned(), rootfs.to_owned());
    let thread = std::thread::Builder::new().name("mount".into()).spawn(move || -> std::io::Result<()> {
        unshare(CloneFlags::CLONE_FS)?;
        std::env::set_current_dir(&layers)?;
        mount(Some("overlay"), &target, Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
        Ok(())
    });
    let failed = || ImageError::io(format!("mount {}", rootfs.display()));
    let joined = thread.map_err(failed())?.join();
    joined.unwrap_or_else(|_| Err(std::io::Error::other("mount thread panicked"))).map_err(failed())
}

/// Unmounts and removes the writable layer and the lease. Idempotent.
pub(super) fn unmount_rootfs(content: &Content, container_dir: &Path) -> Result<(), ImageError> {
    let rootfs = container_dir.join("rootfs");
    if is_mounted(&rootfs) {
        // Detached: a process that still has it open does not keep the container from going.
        umount2(&rootfs, MntFlags::MNT_DETACH)
            .map_err(|errno| ImageError::io(format!("unmount {}", rootfs.display()))(errno.into()))?;
    }
    for part in ["rootfs", "upper", "work"] {
        let path = container_dir.join(part);
        remove(&path, |path| std::fs::remove_dir_all(path))?;
    }
    remove(&lease_path(content, container_dir), |path| std::fs::remove_file(path))
}

fn remove(path: &Path, how: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<(), ImageError> {
    match how(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(ImageError::io(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// A mount point is on another device than its parent; overlayfs always has one of its own.
fn is_mounted(rootfs: &Path) -> bool {
    let device = |path: &Path| std::fs::symlink_metadata(path).map(|metadata| metadata.dev()).ok();
    let parent = rootfs.parent().and_then(device);
    device(rootfs).is_some_and(|own| Some(own) != parent)
}

fn lease_path(content: &Content, container_dir: &Path) -> PathBuf {
    let hash = hex::encode(Sha256::digest(container_dir.as_os_str().as_encoded_bytes()));
    content.dir().join("leases").join(&hash[..32])
}

fn write_lease(content: &Content, layers: &[String], container_dir: &Path) -> Result<(), ImageError> {
    let path = lease_path(content, container_dir);
    let draft = content.draft();
    let lease = Lease { container_dir: container_dir.to_owned(), layers: layers.to_vec() };
    let write =
        || std::fs::write(&draft, serde_json::to_vec(&lease)?).and_then(|()| std::fs::rename(&draft, &path));
    write().map_err(ImageError::io(format!("write {}", path.display())))
}

/// Layers that containers stand on. The lease of a container whose directory is gone is removed; one that
/// cannot be read is the trace of a power loss, which no mount outlives.
pub(super) fn leased_layers(content: &Content) -> Result<BTreeSet<String>, ImageError> {
    let dir = content.dir().join("leases");
    let listed = std::fs::read_dir(&dir).map_err(ImageError::io(format!("list {}", dir.display())))?;
    let mut layers = BTreeSet::from([EMPTY_LAYER.to_owned()]);
    for entry in listed {
        let path = entry.map_err(ImageError::io(format!("list {}", dir.display())))?.path();
        let lease = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Lease>(&bytes).ok());
        match lease.filter(|lease| lease.container_dir.exists()) {
            Some(lease) => layers.extend(lease.layers),
            None => remove(&path, |path| std::fs::remove_file(path))?,
        }
    }
    Ok(layers)
}
