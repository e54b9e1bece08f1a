//! Removes content that nothing refers to: no image in the index, no container.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use super::ImageError;
use super::content::Content;
use super::index::{Index, IndexFile};
use super::locks::Collecting;
use super::mount;

/// Collects unless somebody is adding content just now; the next collection finds the rest. Blocking.
pub(super) fn collect(content: &Content, index: &IndexFile) -> Result<(), ImageError> {
    let Some(_lock) = Collecting::try_begin(content.dir())? else { return Ok(()) };
    let known = index.read()?;
    let leased = mount::leased_layers(content)?;
    let (blobs, layers) = wanted(&known, leased);
    empty(&content.dir().join("tmp"))?;
    for name in unwanted(&content.dir().join("blobs/sha256"), &blobs)? {
        let path = content.dir().join("blobs/sha256").join(name);
        std::fs::remove_file(&path).map_err(ImageError::io(format!("remove {}", path.display())))?;
    }
    for name in unwanted(&content.layers(), &layers)? {
        // Renamed first: a crash in the middle leaves a draft, never half a layer.
        let (path, draft) = (content.layers().join(name), content.draft());
        std::fs::rename(&path, &draft)
            .and_then(|()| std::fs::remove_dir_all(&draft))
            .map_err(ImageError::io(format!("remove {}", path.display())))?;
    }
    if known.layers.keys().all(|name| layers.contains(name)) {
        return Ok(());
    }
    index.change(|index| {
        index.layers.retain(|name, _| layers.contains(name));
        Ok(())
    })
}

fn wanted(index: &Index, leased: BTreeSet<String>) -> (BTreeSet<String>, BTreeSet<String>) {
    let mut blobs = BTreeSet::new();
    let mut layers = leased;
    for (id, record) in &index.images {
        blobs.insert(id.hex().to_owned());
        blobs.insert(record.manifest.hex().to_owned());
        blobs.extend(record.blobs.iter().map(|blob| blob.hex().to_owned()));
        layers.extend(record.layers.iter().cloned());
    }
    (blobs, layers)
}

fn names(dir: &Path) -> Result<Vec<OsString>, ImageError> {
    let read = || -> std::io::Result<Vec<OsString>> {
        std::fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
    };
    read().map_err(ImageError::io(format!("list {}", dir.display())))
}

fn unwanted(dir: &Path, wanted: &BTreeSet<String>) -> Result<Vec<OsString>, ImageError> {
    let mut names = names(dir)?;
    names.retain(|name| !name.to_str().is_some_and(|name| wanted.contains(name)));
    Ok(names)
}

fn empty(dir: &Path) -> Result<(), ImageError> {
    for name in names(dir)? {
        let path = dir.join(name);
        let is_dir = std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        let removed = if is_dir { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(ImageError::io(format!("remove {}", path.display())))?;
    }
    Ok(())
}
