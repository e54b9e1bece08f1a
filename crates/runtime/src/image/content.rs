//! Blobs by digest. A blob appears under its name only when its bytes were seen to match.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::ImageError;
use super::reference::Digest;

/// Largest blob that is taken in, in bytes.
pub(super) const MAX_BLOB: u64 = 64 << 30;
/// Largest manifest or configuration, in bytes.
pub(super) const MAX_DOCUMENT: u64 = 8 << 20;
/// Bytes moved at once.
const CHUNK: usize = 128 << 10;

/// The directories that hold content.
#[derive(Debug, Clone)]
pub(super) struct Content {
    dir: PathBuf,
}

impl Content {
    /// Makes the directories below `dir`.
    pub fn open(dir: &Path) -> Result<Self, ImageError> {
        for part in ["blobs/sha256", "layers", "leases", "tmp"] {
            let path = dir.join(part);
            std::fs::create_dir_all(&path).map_err(ImageError::io(format!("make {}", path.display())))?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// The store's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a blob is or would be.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    /// Where unpacked layers are.
    pub fn layers(&self) -> PathBuf {
        self.dir.join("layers")
    }

    /// A fresh path for a draft.
    pub fn draft(&self) -> PathBuf {
        self.dir.join("tmp").join(uuid::Uuid::new_v4().to_string())
    }

    /// Size of the blob, if it is here.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        std::fs::metadata(self.blob(digest)).ok().map(|metadata| metadata.len())
    }

    /// A whole manifest or configuration.
    pub fn read_document(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let path = self.blob(digest);
        let file = File::open(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                ImageError::NotFound(format!("content digest {digest}: not found"))
            }
            _ => ImageError::io(format!("open {}", path.display()))(error),
        })?;
        let mut bytes = Vec::new();
        file.take(MAX_DOCUMENT + 1)
            .read_to_end(&mut bytes)
            .map_err(ImageError::io(format!("read {}", path.display())))?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(ImageError::Invalid(format!(
                "document {digest} is larger than {MAX_DOCUMENT} bytes"
            )));
        }
        Ok(bytes)
    }

    /// Stores all of `reader`; with `expected`, only if it has that digest.
    pub fn ingest(
        &self,
        mut reader: impl Read,
        expected: Option<&Digest>,
    ) -> Result<(Digest, u64), ImageError> {
        let mut blob = self.begin()?;
        let mut chunk = vec![0; CHUNK];
        loop {
            match reader.read(&mut chunk) {
                Ok(0) => return blob.finish(expected),
                Ok(length) => blob.write(&chunk[..length])?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ImageError::Invalid(format!("read image content: {error}"))),
            }
        }
    }

    /// Starts a blob that is written piece by piece.
    pub fn begin(&self) -> Result<BlobDraft, ImageError> {
        let path = self.draft();
        let file = File::create_new(&path).map_err(ImageError::io(format!("make {}", path.display())))?;
        Ok(BlobDraft { content: self.clone(), path, file, hash: Sha256::new(), size: 0, published: false })
    }

    /// Makes everything written so far durable, before the index says that it is there.
    pub fn sync(&self) -> Result<(), ImageError> {
        let dir = File::open(&self.dir).map_err(ImageError::io(format!("open {}", self.dir.display())))?;
        nix::unistd::syncfs(&dir)
            .map_err(|errno| ImageError::io(format!("sync {}", self.dir.display()))(errno.into()))
    }
}

/// A blob being written; its draft is removed unless it is finished.
pub(super) struct BlobDraft {
    content: Content,
    path: PathBuf,
    file: File,
    hash: Sha256,
    size: u64,
    published: bool,
}

impl BlobDraft {
    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.size += bytes.len() as u64;
        if self.size > MAX_BLOB {
            return Err(ImageError::Invalid(format!("blob is larger than {MAX_BLOB} bytes")));
        }
        self.hash.update(bytes);
        self.file.write_all(bytes).map_err(ImageError::io(format!("write {}", self.path.display())))
    }

    /// Publishes the blob under its digest, which must be `expected` when given.
    pub fn finish(mut self, expected: Option<&Digest>) -> Result<(Digest, u64), ImageError> {
        let digest = Digest::of(std::mem::take(&mut self.hash).finalize());
        if let Some(expected) = expected.filter(|expected| **expected != digest) {
            return Err(ImageError::Invalid(format!(
                "content does not match its digest: want {expected}, got {digest}"
            )));
        }
        let target = self.content.blob(&digest);
        std::fs::rename(&self.path, &target)
            .map_err(ImageError::io(format!("publish {}", target.display())))?;
        self.published = true;
        Ok((digest, self.size))
    }
}

impl Drop for BlobDraft {
    fn drop(&mut self) {
        if !self.published {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_matching_content_is_published() {
        let dir = tempfile::tempdir().unwrap();
        let content = Content::open(dir.path()).unwrap();
        let (digest, size) = content.ingest(&b"hello"[..], None).unwrap();
        assert_eq!(
            (digest.hex(), size),
            ("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", 5)
        );
        assert_eq!(content.read_document(&digest).unwrap(), b"hello");
        let error = content.ingest(&b"other"[..], Some(&digest)).unwrap_err();
        assert!(error.to_string().contains("does not match its digest"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
        assert_eq!(content.size(&digest), Some(5));
    }
}
