//! The last step of pull and import: unpack the layers that are new, then say that the image exists.

use std::collections::BTreeSet;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::ImageError;
use super::content::Content;
use super::index::{Index, LayerUsage, Record};
use super::manifest::{Manifest, parse_config};
use super::reference::Digest;
use super::unpack::unpack;

/// Hex digits of a chain id that name an unpacked layer: short, because the names of all layers must fit on
/// the one page of overlayfs's mount options; 96 bits do not collide by accident or by patience.
const LAYER_NAME: usize = 24;

/// An image whose blobs are all here.
pub(super) struct Candidate {
    /// Its manifest (never an index).
    pub manifest: Digest,
    /// Tags to give it.
    pub names: BTreeSet<String>,
    /// Repository digests to give it.
    pub repo_digests: BTreeSet<String>,
    /// From an archive.
    pub imported: bool,
}

/// An image ready for the index.
pub(super) struct Unpacked {
    /// Its id.
    pub id: Digest,
    /// What the index will say.
    pub record: Record,
    /// Layers that were unpacked just now.
    pub fresh: Vec<(String, LayerUsage)>,
}

impl Unpacked {
    /// Writes it down.
    pub fn publish(self, index: &mut Index) {
        index.layers.extend(self.fresh);
        index.put(self.id, self.record);
    }
}

/// Unpacks what is not unpacked yet and checks every layer against the configuration. Blocking, CPU-bound.
pub(super) fn unpack_image(content: &Content, candidate: Candidate) -> Result<Unpacked, ImageError> {
    let bytes = content.read_document(&candidate.manifest)?;
    let Manifest::Image { config, layers } = Manifest::parse(&bytes)? else {
        return Err(ImageError::Invalid(format!("{} is an index, not an image", candidate.manifest)));
    };
    let config_bytes = content.read_document(&config.digest)?;
    let diff_ids = diff_ids(&config_bytes)?;
    if diff_ids.len() != layers.len() {
        let (named, present) = (diff_ids.len(), layers.len());
        return Err(ImageError::Invalid(format!("configuration names {named} layers, manifest {present}")));
    }
    let blobs: Vec<Digest> = layers.into_iter().map(|layer| layer.digest).collect();
    let mut size = (bytes.len() + config_bytes.len()) as u64;
    for blob in &blobs {
        size += content.size(blob).ok_or_else(|| ImageError::NotFound(format!("layer {blob}: not found")))?;
    }
    let (names, fresh) = unpack_chain(content, &blobs, &diff_ids)?;
    let record = Record {
        manifest: candidate.manifest,
        names: candidate.names,
        repo_digests: candidate.repo_digests,
        imported: candidate.imported,
        size,
        blobs,
        layers: names,
    };
    Ok(Unpacked { id: config.digest, record, fresh })
}

fn diff_ids(config: &[u8]) -> Result<Vec<Digest>, ImageError> {
    parse_config(config)?.rootfs().diff_ids().iter().map(|text| Digest::try_from(text.clone())).collect()
}

type Chain = (Vec<String>, Vec<(String, LayerUsage)>);

fn unpack_chain(content: &Content, blobs: &[Digest], diff_ids: &[Digest]) -> Result<Chain, ImageError> {
    let mut names: Vec<String> = Vec::new();
    let mut fresh = Vec::new();
    let mut chain: Option<Digest> = None;
    for (blob, diff_id) in blobs.iter().zip(diff_ids) {
        let id = chain_id(chain.as_ref(), diff_id);
        let name = id.hex()[..LAYER_NAME].to_owned();
        let lower: Vec<PathBuf> = names.iter().rev().map(|name| content.layers().join(name)).collect();
        if let Some(usage) = unpack_layer(content, blob, diff_id, &name, &lower)? {
            fresh.push((name.clone(), usage));
        }
        names.push(name);
        chain = Some(id);
    }
    Ok((names, fresh))
}

/// Names a layer together with all that is below it, as the OCI image rules define it.
fn chain_id(below: Option<&Digest>, diff_id: &Digest) -> Digest {
    match below {
        None => diff_id.clone(),
        Some(below) => Digest::of(Sha256::digest(format!("{below} {diff_id}"))),
    }
}

fn unpack_layer(
    content: &Content,
    blob: &Digest,
    diff_id: &Digest,
    name: &str,
    lower: &[PathBuf],
) -> Result<Option<LayerUsage>, ImageError> {
    let target = content.layers().join(name);
    if target.is_dir() {
        return Ok(None);
    }
    let draft = content.draft();
    std::fs::create_dir(&draft).map_err(ImageError::io(format!("make {}", draft.display())))?;
    let result = unpack(&content.blob(blob), &draft, lower).and_then(|unpacked| {
        if unpacked.diff_id != *diff_id {
            let got = unpacked.diff_id;
            return Err(ImageError::Invalid(format!("layer {blob}: want diff id {diff_id}, got {got}")));
        }
        Ok(unpacked.usage)
    });
    let published = result.and_then(|usage| match std::fs::rename(&draft, &target) {
        Ok(()) => Ok(Some(usage)),
        // Somebody else was faster.
        Err(_) if target.is_dir() => Ok(None),
        Err(error) => Err(ImageError::io(format!("publish {}", target.display()))(error)),
    });
    if !matches!(published, Ok(Some(_))) {
        let _ = std::fs::remove_dir_all(&draft);
    }
    published.map_err(|error| error.during(&format!("failed to extract layer {blob}")))
}
