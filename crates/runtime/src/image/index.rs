//! What images exist: one small JSON file, replaced as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::ImageError;
use super::locks::Changing;
use super::reference::Digest;

/// All that the store knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    /// Images by id, the digest of their configuration.
    pub images: BTreeMap<Digest, Record>,
    /// Disk use of unpacked layers, by directory name.
    pub layers: BTreeMap<String, LayerUsage>,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Digest of the manifest.
    pub manifest: Digest,
    /// Normalised tags.
    pub names: BTreeSet<String>,
    /// `repository@digest`.
    pub repo_digests: BTreeSet<String>,
    /// Came from an archive: nobody can pull it again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub imported: bool,
    /// Bytes transferred for it.
    pub size: u64,
    /// Layer blobs, lowest first.
    pub blobs: Vec<Digest>,
    /// Names of unpacked layers, lowest first.
    pub layers: Vec<String>,
}

/// What one unpacked layer takes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerUsage {
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

impl Index {
    /// Adds or completes an image; its tags leave whatever image had them before.
    pub fn put(&mut self, id: Digest, record: Record) {
        for (other, known) in &mut self.images {
            if *other != id {
                known.names.retain(|name| !record.names.contains(name));
            }
        }
        self.images.retain(|_, known| !known.names.is_empty() || !known.repo_digests.is_empty());
        match self.images.get_mut(&id) {
            Some(known) => {
                known.names.extend(record.names);
                known.repo_digests.extend(record.repo_digests);
                known.manifest = record.manifest;
                known.imported |= record.imported;
            }
            None => {
                self.images.insert(id, record);
            }
        }
    }

    /// The image that has this tag.
    pub fn by_name(&self, name: &str) -> Option<(&Digest, &Record)> {
        self.images.iter().find(|(_, record)| record.names.contains(name))
    }

    /// The image that has this `repository@digest`.
    pub fn by_repo_digest(&self, name: &str) -> Option<(&Digest, &Record)> {
        self.images.iter().find(|(_, record)| record.repo_digests.contains(name))
    }

    /// The only image whose id begins with `prefix`.
    pub fn by_id_prefix(&self, prefix: &str) -> Option<(&Digest, &Record)> {
        let mut matches = self.images.iter().filter(|(id, _)| id.hex().starts_with(prefix));
        matches.next().filter(|_| matches.next().is_none())
    }
}

/// Tells one state of the file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    inode: u64,
    size: u64,
    changed_ns: i128,
}

impl Identity {
    fn of(path: &Path) -> Result<Option<Self>, ImageError> {
        match std::fs::metadata(path) {
            Ok(m) => Ok(Some(Self {
                inode: m.ino(),
                size: m.size(),
                changed_ns: i128::from(m.ctime()) * 1_000_000_000 + i128::from(m.ctime_nsec()),
            })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ImageError::io(format!("look at {}", path.display()))(error)),
        }
    }
}

/// The index on disk, with the last reading kept as long as the file is the same.
pub(super) struct IndexFile {
    path: PathBuf,
    seen: Mutex<(Option<Identity>, Arc<Index>)>,
}

impl IndexFile {
    /// The index of the store in `dir`.
    pub fn new(dir: &Path) -> Self {
        Self { path: dir.join("index.json"), seen: Mutex::default() }
    }

    /// The present state; costs one `stat` when nothing changed.
    pub fn read(&self) -> Result<Arc<Index>, ImageError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = Identity::of(&self.path)?;
        if seen.0 != identity {
            let index = if identity.is_some() { self.parse()? } else { Index::default() };
            *seen = (identity, Arc::new(index));
        }
        Ok(Arc::clone(&seen.1))
    }

    fn parse(&self) -> Result<Index, ImageError> {
        let name = self.path.display();
        let bytes = std::fs::read(&self.path).map_err(ImageError::io(format!("read {name}")))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| ImageError::Invalid(format!("{name} is damaged: {error}")))
    }

    /// Changes the index under its lock; durable when this returns. Blocking.
    pub fn change<T>(
        &self,
        change: impl FnOnce(&mut Index) -> Result<T, ImageError>,
    ) -> Result<T, ImageError> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let _lock = Changing::begin(dir)?;
        let before = self.read()?;
        let mut index = (*before).clone();
        let result = change(&mut index)?;
        if index != *before {
            self.replace(dir, &index)?;
        }
        Ok(result)
    }

    fn replace(&self, dir: &Path, index: &Index) -> Result<(), ImageError> {
        let draft = self.path.with_extension("json.tmp");
        let write = || {
            let bytes = serde_json::to_vec_pretty(index)?;
            let mut file = File::create(&draft)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&draft, &self.path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(ImageError::io(format!("write {}", self.path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(digit: char) -> Digest {
        format!("sha256:{}", digit.to_string().repeat(64)).try_into().unwrap()
    }

    fn record(names: &[&str], repo_digests: &[&str]) -> Record {
        let set = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
        Record {
            manifest: digest('f'),
            names: set(names),
            repo_digests: set(repo_digests),
            imported: false,
            size: 1,
            blobs: vec![],
            layers: vec![],
        }
    }

    #[test]
    fn a_tag_moves_and_an_image_without_any_name_goes() {
        let mut index = Index::default();
        index.put(digest('1'), record(&["a:1", "a:2"], &[]));
        index.put(digest('2'), record(&["a:1"], &["a@x"]));
        assert_eq!(index.by_name("a:1").unwrap().0, &digest('2'));
        assert_eq!(index.by_name("a:2").unwrap().0, &digest('1'));
        index.put(digest('3'), record(&["a:1", "a:2"], &[]));
        assert!(!index.images.contains_key(&digest('1')), "nothing names it any more");
        assert_eq!(index.by_repo_digest("a@x").unwrap().0, &digest('2'));
        assert_eq!(index.by_id_prefix("22").unwrap().0, &digest('2'));
        assert_eq!(index.by_id_prefix(""), None);
    }

    #[test]
    fn an_image_stays_imported_when_it_is_pulled_too() {
        let mut index = Index::default();
        index.put(digest('1'), Record { imported: true, ..record(&["a:1"], &[]) });
        index.put(digest('1'), record(&["b:1"], &["b@x"]));
        assert!(index.by_name("b:1").unwrap().1.imported);
    }

    #[test]
    fn changes_by_another_handle_are_noticed_and_damage_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (IndexFile::new(dir.path()), IndexFile::new(dir.path()));
        assert!(one.read().unwrap().images.is_empty());
        two.change(|index| {
            index.put(digest('1'), record(&["a:1"], &[]));
            Ok(())
        })
        .unwrap();
        assert_eq!(one.read().unwrap().images.len(), 1);
        std::fs::write(dir.path().join("index.json"), "{").unwrap();
        assert!(one.read().unwrap_err().to_string().contains("damaged"));
    }
}
