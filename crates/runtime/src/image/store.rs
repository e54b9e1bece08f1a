//! The image store: the one handle behind which locks, index, content and mounts work together.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::image::ImageConfiguration;

use super::commit::{Candidate, unpack_image};
use super::content::Content;
use super::index::{Index, IndexFile, Record};
use super::locks::{Adding, Keyed};
use super::manifest::parse_config;
use super::pull::{Pull, blocking, is_loopback};
use super::reference::{Digest, digested, display, id_prefix, normalise, tagged};
use super::{ImageError, collect, import, mount};

/// Pulls that run at once; more wait.
const PARALLEL_PULLS: usize = 6;

/// Where images live and which registries may be spoken to without TLS.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Directory of the store (`node/images`), absolute.
    pub dir: PathBuf,
    /// `host` or `host:port` of registries reached by plain HTTP; loopback ones always are.
    pub insecure_registries: Vec<String>,
}

/// Credentials for one pull; all empty is anonymous.
#[derive(Clone, Default)]
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
    /// `repository@sha256:…` of what was pulled; for an import, of the manifest in the archive.
    pub repo_digests: Vec<String>,
    /// The kubelet's clean-up must leave it alone: it came from an archive, may be nowhere else, and still has a name.
    pub pinned: bool,
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
///
/// Methods marked blocking touch the disk or wait for file locks: call them from `spawn_blocking` when the
/// wait matters.
#[derive(Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

struct Inner {
    config: StoreConfig,
    content: Content,
    index: IndexFile,
    /// Parsed configurations of images in the index.
    configs: Mutex<HashMap<Digest, Arc<ImageConfiguration>>>,
    blob_locks: Keyed,
    unpack_locks: Keyed,
    pulls: tokio::sync::Semaphore,
}

impl ImageStore {
    /// Opens (and makes) the store; removes what a crash left behind. Blocking.
    pub fn open(config: StoreConfig) -> Result<Self, ImageError> {
        let content = Content::open(&config.dir)?;
        let index = IndexFile::new(&config.dir);
        collect::collect(&content, &index)?;
        let inner = Inner {
            config,
            content,
            index,
            configs: Mutex::default(),
            blob_locks: Keyed::default(),
            unpack_locks: Keyed::default(),
            pulls: tokio::sync::Semaphore::new(PARALLEL_PULLS),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Directory of the store.
    pub fn dir(&self) -> &Path {
        &self.inner.config.dir
    }

    /// Finds an image by id (with or without `sha256:`, also abbreviated), tag or repository digest.
    /// Short names are normalised as Docker does. Costs one `stat` when nothing changed.
    pub fn resolve(&self, name: &str) -> Result<Option<Image>, ImageError> {
        let index = self.inner.index.read()?;
        find(&index, name).map(|(id, record)| self.image(id, record)).transpose()
    }

    /// All images, ordered by id.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let index = self.inner.index.read()?;
        index.images.iter().map(|(id, record)| self.image(id, record)).collect()
    }

    /// Pulls `reference`: asks the registry what it stands for, fetches and unpacks what is not here yet.
    pub async fn pull(&self, reference: &str, auth: &PullAuth) -> Result<Image, ImageError> {
        let parsed = normalise(reference)?;
        let named = display(&parsed);
        let pulled = Box::pin(self.pull_reference(&parsed, auth)).await;
        pulled.map_err(|error| error.during(&format!("failed to pull and unpack image {named:?}")))
    }

    async fn pull_reference(
        &self,
        reference: &oci_client::Reference,
        auth: &PullAuth,
    ) -> Result<Image, ImageError> {
        let _turn = self.inner.pulls.acquire().await;
        let dir = self.inner.config.dir.clone();
        let _adding = blocking(move || Adding::begin(&dir)).await?;
        let registry = reference.registry();
        let plain =
            is_loopback(registry) || self.inner.config.insecure_registries.iter().any(|r| r == registry);
        let pull = Pull::new(&self.inner.content, &self.inner.blob_locks, reference, auth, plain)?;
        let candidate = pull.fetch().await?;
        // The same image pulled twice at once is unpacked once.
        let _one_at_a_time = self.inner.unpack_locks.lock(candidate.manifest.as_str()).await;
        let store = self.clone();
        blocking(move || store.commit(candidate)).await
    }

    /// Imports all images of a tar file (OCI layout or docker-save, also compressed with gzip or zstd).
    /// `name` replaces the names in the file (then it must hold exactly one image). All images of the file
    /// appear, or none. Blocking. Works on the same directory beside a running runtime, which notices.
    pub fn import(&self, tar: &Path, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
        let _adding = Adding::begin(self.dir())?;
        let content = &self.inner.content;
        let mut unpacked = Vec::new();
        for candidate in import::read_archive(content, tar, name)? {
            let label = import::label(&candidate);
            let image = unpack_image(content, candidate);
            unpacked.push(image.map_err(|error| error.during(&format!("failed to import {label}")))?);
        }
        content.sync()?;
        let ids: Vec<Digest> = unpacked.iter().map(|image| image.id.clone()).collect();
        self.inner.index.change(|index| {
            unpacked.into_iter().for_each(|image| image.publish(index));
            Ok(())
        })?;
        let index = self.inner.index.read()?;
        ids.iter().filter_map(|id| index.images.get(id).map(|record| self.image(id, record))).collect()
    }

    fn commit(&self, candidate: Candidate) -> Result<Image, ImageError> {
        let unpacked = unpack_image(&self.inner.content, candidate)?;
        if !unpacked.fresh.is_empty() || !self.inner.index.read()?.images.contains_key(&unpacked.id) {
            self.inner.content.sync()?;
        }
        let id = unpacked.id.clone();
        let record = self.inner.index.change(|index| {
            unpacked.publish(index);
            Ok(index.images.get(&id).cloned())
        })?;
        let record = record.ok_or_else(|| ImageError::NotFound(format!("image {id} has no name")))?;
        self.image(&id, &record)
    }

    /// Removes the tag or repository digest; when no tag is left, or `name` is an id, the whole image.
    /// Collects what nothing refers to any more; layers under running containers stay until these go.
    /// Removing what is not there succeeds, as CRI wants. Blocking.
    pub fn remove(&self, name: &str) -> Result<(), ImageError> {
        let removed = self.inner.index.change(|index| Ok(remove_name(index, name)))?;
        if removed {
            collect::collect(&self.inner.content, &self.inner.index)?;
        }
        Ok(())
    }

    /// Removes content that no image and no container refers to, unless something is being pulled or
    /// imported just now. Blocking.
    pub fn collect(&self) -> Result<(), ImageError> {
        collect::collect(&self.inner.content, &self.inner.index)
    }

    /// Mounts the image's root file system with a writable layer in `container_dir` (absolute; made when
    /// missing) and returns its path, `container_dir/rootfs`. The layers stay until `unmount_rootfs`, even
    /// when the image is removed. Idempotent. Blocking, about 1 ms.
    pub fn mount_rootfs(&self, image: &Image, container_dir: &Path) -> Result<PathBuf, ImageError> {
        let names = image.layers.iter().filter_map(|layer| layer.file_name()?.to_str().map(str::to_owned));
        mount::mount_rootfs(&self.inner.content, &names.collect::<Vec<_>>(), container_dir)
    }

    /// Unmounts the root file system and removes the writable layer. Idempotent. Blocking.
    pub fn unmount_rootfs(&self, container_dir: &Path) -> Result<(), ImageError> {
        mount::unmount_rootfs(&self.inner.content, container_dir)
    }

    /// What images take on disk: blobs and unpacked layers, not the writable layers of containers.
    pub fn usage(&self) -> Result<FsUsage, ImageError> {
        let dir = self.dir().join("blobs/sha256");
        let mut usage = FsUsage { used_bytes: 0, inodes_used: 0 };
        let mut count = || {
            for entry in std::fs::read_dir(&dir)? {
                usage.used_bytes += entry?.metadata()?.len();
                usage.inodes_used += 1;
            }
            Ok(())
        };
        count().map_err(ImageError::io(format!("list {}", dir.display())))?;
        for layer in self.inner.index.read()?.layers.values() {
            usage.used_bytes += layer.bytes;
            usage.inodes_used += layer.inodes;
        }
        Ok(usage)
    }

    fn image(&self, id: &Digest, record: &Record) -> Result<Image, ImageError> {
        let layers = self.inner.content.layers();
        Ok(Image {
            id: id.to_string(),
            references: record.names.iter().cloned().collect(),
            repo_digests: record.repo_digests.iter().cloned().collect(),
            pinned: record.imported && !record.names.is_empty(),
            config: self.configuration(id)?,
            size: record.size,
            layers: record.layers.iter().map(|name| layers.join(name)).collect(),
        })
    }

    fn configuration(&self, id: &Digest) -> Result<Arc<ImageConfiguration>, ImageError> {
        let lock = || self.inner.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = lock().get(id) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(parse_config(&self.inner.content.read_document(id)?)?);
        let index = self.inner.index.read()?;
        let mut configs = lock();
        configs.retain(|known, _| index.images.contains_key(known));
        configs.insert(id.clone(), Arc::clone(&config));
        Ok(config)
    }
}

/// A tag or repository digest first; what could be an abbreviated id may also be a repository's name.
fn find<'a>(index: &'a Index, name: &str) -> Option<(&'a Digest, &'a Record)> {
    let by_reference = || {
        let reference = normalise(name).ok()?;
        match reference.digest() {
            Some(digest) => {
                let digest = Digest::try_from(digest.to_owned()).ok()?;
                let wanted = digested(&reference, &digest);
                let by_manifest = |(_, record): &(&Digest, &Record)| {
                    let repository = wanted.split('@').next().unwrap_or_default();
                    let named = |name: &String| name.starts_with(repository);
                    record.manifest == digest && record.repo_digests.iter().any(named)
                };
                index.by_repo_digest(&wanted).or_else(|| index.images.iter().find(by_manifest))
            }
            None => index.by_name(&tagged(&reference)?),
        }
    };
    by_reference().or_else(|| index.by_id_prefix(id_prefix(name)?))
}

fn remove_name(index: &mut Index, name: &str) -> bool {
    let Some((id, record)) = find(index, name) else { return false };
    let (id, mut record) = (id.clone(), record.clone());
    let reference = normalise(name).ok();
    let tag = reference.as_ref().filter(|r| r.digest().is_none()).and_then(tagged);
    if tag.is_some_and(|tag| record.names.remove(&tag)) && !record.names.is_empty() {
        index.images.insert(id, record);
    } else {
        index.images.remove(&id);
    }
    true
}
