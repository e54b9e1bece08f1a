//! Image volumes: the file system of an image, mounted read-only into a container that runs another one.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use k8s_cri::v1::{ContainerConfig, Mount};

use crate::error::{Result, RuntimeError};
use crate::files;
use crate::image::ImageStore;

/// Where they are mounted, in the container's directory: one directory each, by its place in the list of mounts.
const DIR: &str = "image-volumes";

/// The configuration with plain read-only mounts in place of images, which it mounts on the host.
pub(crate) fn mount_all<'a>(
    images: &ImageStore,
    dir: &Path,
    config: &'a ContainerConfig,
) -> Result<Cow<'a, ContainerConfig>> {
    if config.mounts.iter().all(|mount| mount.image.is_none()) {
        return Ok(Cow::Borrowed(config));
    }
    let mut plain = config.clone();
    for (index, mount) in plain.mounts.iter_mut().enumerate().filter(|(_, mount)| mount.image.is_some()) {
        let source = mount_one(images, &dir.join(DIR).join(index.to_string()), mount)?;
        (mount.image, mount.readonly) = (None, true);
        mount.host_path = source.to_string_lossy().into_owned();
    }
    Ok(Cow::Owned(plain))
}

fn mount_one(images: &ImageStore, dir: &Path, mount: &Mount) -> Result<PathBuf> {
    let name = mount.image.as_ref().map_or("", |image| image.image.as_str());
    let missing = || RuntimeError::NotFound(format!("failed to resolve image {name:?}: not found"));
    let image = images.resolve(name)?.ok_or_else(missing)?;
    std::fs::create_dir_all(dir).map_err(files::failed(format!("create {}", dir.display())))?;
    Ok(images.mount_rootfs(&image, dir)?)
}

/// Unmounts what [`mount_all`] has mounted for the container in `dir`. Idempotent.
pub(crate) fn unmount_all(images: &ImageStore, dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir.join(DIR)).into_iter().flatten().flatten() {
        images.unmount_rootfs(&entry.path())?;
    }
    Ok(())
}
