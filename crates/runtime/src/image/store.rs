//! The image store: what is here, and root file systems made from it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::ImageConfiguration;

use super::ImageError;

/// Where images live and which registries may be spoken to without TLS.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Directory of the store (`node/images`).
    pub dir: PathBuf,
    /// `host` or `host:port` of registries reached by plain HTTP; loopback ones always are.
    pub insecure_registries: Vec<String>,
}

/// Credentials for one pull; all empty is anonymous.
#[derive(Debug, Clone, Default)]
pub struct PullAuth {
    /// User name for basic authentication.
    pub username: String,
    /// Password for basic authentication.
    pub password: String,
    /// Bearer token to present as it is.
    pub token: String,
}

/// One image that is present.
#[derive(Debug, Clone)]
pub struct Image {
    /// `sha256:…` of the image configuration: CRI's image id.
    pub id: String,
    /// Normalised tags, such as `docker.io/library/nginx:latest`.
    pub references: Vec<String>,
    /// `repository@sha256:…` of the manifest.
    pub repo_digests: Vec<String>,
    /// The image configuration.
    pub config: Arc<ImageConfiguration>,
    /// Size in bytes of what was transferred: configuration, manifest and compressed layers.
    pub size: u64,
    /// Unpacked layers, lowest first.
    pub layers: Vec<PathBuf>,
}

/// Use of the file system that holds images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsUsage {
    /// Bytes on disk.
    pub used_bytes: u64,
    /// Inodes in use.
    pub inodes_used: u64,
}

/// Cheap, cloneable handle on the image store.
#[derive(Clone)]
pub struct ImageStore {
    config: Arc<StoreConfig>,
}

impl ImageStore {
    /// Opens (and makes) the store.
    pub fn open(config: StoreConfig) -> Result<Self, ImageError> {
        Ok(Self { config: Arc::new(config) })
    }

    /// Directory of the store.
    pub fn dir(&self) -> &Path {
        &self.config.dir
    }

    /// Finds an image by id (with or without `sha256:`, also abbreviated), tag or repository digest.
    /// Short names are normalised as Docker does.
    pub fn resolve(&self, _name: &str) -> Result<Option<Image>, ImageError> {
        Ok(None)
    }

    /// All images, ordered by id.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        Ok(Vec::new())
    }

    /// Pulls `reference` unless its content is here already; returns the image.
    pub async fn pull(&self, reference: &str, _auth: &PullAuth) -> Result<Image, ImageError> {
        Err(ImageError::Unavailable(format!(
            "failed to pull and unpack image {reference:?}: not implemented"
        )))
    }

    /// Imports all images of a tar file (OCI layout or docker-save, also compressed with gzip or zstd).
    /// `name` replaces the names in the file (then it must hold exactly one image). Blocking.
    pub fn import(&self, _tar: &Path, _name: Option<&str>) -> Result<Vec<Image>, ImageError> {
        Err(ImageError::Invalid("import is not implemented".into()))
    }

    /// Removes a tag, a repository digest, or with an id all names of the image; collects what nothing
    /// refers to any more. Removing what is not there succeeds, as CRI wants. Blocking.
    pub fn remove(&self, _name: &str) -> Result<(), ImageError> {
        Ok(())
    }

    /// Mounts the image's root file system with a writable layer in `container_dir` and returns its path
    /// (`container_dir/rootfs`). The layers stay until `unmount_rootfs`, even when the image is removed.
    /// Idempotent. Blocking, about 1 ms.
    pub fn mount_rootfs(&self, _image: &Image, _container_dir: &Path) -> Result<PathBuf, ImageError> {
        Err(ImageError::Invalid("mount is not implemented".into()))
    }

    /// Unmounts the root file system and removes the writable layer. Idempotent. Blocking.
    pub fn unmount_rootfs(&self, _container_dir: &Path) -> Result<(), ImageError> {
        Ok(())
    }

    /// What the store uses on disk. Blocking: walks the store, results are cached for a minute.
    pub fn usage(&self) -> Result<FsUsage, ImageError> {
        Ok(FsUsage { used_bytes: 0, inodes_used: 0 })
    }
}
