//! Images from tar files: OCI layouts and what `docker save` writes, read in one pass.
//!
//! Every file that may be content goes straight into the content store under its own digest; only then the
//! small documents are looked at. What turns out to be of no use is collected later.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use oci_client::Reference;
use serde::Deserialize;
use serde_json::json;
use tar::EntryType;

use super::ImageError;
use super::commit::Candidate;
use super::content::{Content, MAX_DOCUMENT};
use super::guard::Guarded;
use super::manifest::{Descriptor, Manifest, choose, host_platform};
use super::reference::{Digest, digested, normalise, repository, tagged};
use super::unpack::decompress;

/// Most files in an archive of images.
const MAX_FILES: usize = 100_000;
/// Most links that lead from one name to content.
const MAX_LINKS: usize = 8;
/// Deepest nesting of indexes.
const MAX_DEPTH: usize = 4;
/// Where containerd notes the full name.
const NAME_ANNOTATION: &str = "io.containerd.image.name";
/// Where OCI notes the name, or only the tag.
const REF_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// Reads the archive into `content` and says which images it holds. `name` replaces their names.
pub(super) fn read_archive(
    content: &Content,
    tar: &Path,
    name: Option<&str>,
) -> Result<Vec<Candidate>, ImageError> {
    let archive = Archive::read(content, tar)?;
    let found = archive.images(content)?;
    if found.is_empty() {
        return Err(ImageError::Invalid("archive holds no image for this platform".into()));
    }
    let Some(name) = name else {
        return found.into_iter().map(|found| found.into_candidate(content)).collect();
    };
    let reference = normalise(name)?;
    let manifests: BTreeSet<_> = found.iter().map(|found| found.manifest.clone()).collect();
    if manifests.len() > 1 {
        let count = manifests.len();
        return Err(ImageError::Invalid(format!(
            "archive holds {count} images, a name can be given to one only"
        )));
    }
    manifests
        .into_iter()
        .map(|manifest| Found { manifest, names: vec![reference.clone()] }.into_candidate(content))
        .collect()
}

/// An image of the archive.
struct Found {
    manifest: Digest,
    names: Vec<Reference>,
}

impl Found {
    /// An image without a name is known by its id only: the index wants something that keeps it.
    fn into_candidate(self, content: &Content) -> Result<Candidate, ImageError> {
        let mut names: BTreeSet<String> = self.names.iter().filter_map(tagged).collect();
        let mut repo_digests: BTreeSet<String> =
            self.names.iter().map(|name| digested(name, &self.manifest)).collect();
        if self.names.is_empty() {
            let bytes = content.read_document(&self.manifest)?;
            if let Manifest::Image { config, .. } = Manifest::parse(&bytes)? {
                tracing::info!(id = %config.digest, "imported image has no name");
            }
            repo_digests.insert(format!("import@{}", self.manifest));
        }
        names.retain(|name| !name.is_empty());
        Ok(Candidate { manifest: self.manifest, names, repo_digests, imported: true })
    }
}

/// What one pass over the archive found.
#[derive(Default)]
struct Archive {
    blobs: BTreeMap<String, (Digest, u64)>,
    links: BTreeMap<String, String>,
    index: Option<Vec<u8>>,
    docker: Option<Vec<u8>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Archive {
    fn read(content: &Content, tar: &Path) -> Result<Self, ImageError> {
        let file = File::open(tar).map_err(ImageError::io(format!("open {}", tar.display())))?;
        let mut found = Self::default();
        let mut archive = tar::Archive::new(Guarded::new(decompress(file)?));
        let damaged = |error: std::io::Error| {
            ImageError::Invalid(format!("{} is not a readable image archive: {error}", tar.display()))
        };
        for (count, entry) in archive.entries().map_err(damaged)?.enumerate() {
            if count >= MAX_FILES {
                return Err(ImageError::Invalid(format!("archive has more than {MAX_FILES} files")));
            }
            found.take(content, entry.map_err(damaged)?)?;
        }
        if found.index.is_none() && found.docker.is_none() {
            let tar = tar.display();
            return Err(ImageError::Invalid(format!(
                "{tar} is neither an OCI layout nor made by docker save"
            )));
        }
        Ok(found)
    }

    fn take<R: Read>(&mut self, content: &Content, mut entry: tar::Entry<'_, R>) -> Result<(), ImageError> {
        let path = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
        match entry.header().entry_type() {
            EntryType::Symlink | EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default();
                let target = String::from_utf8_lossy(&target).into_owned();
                let absolute = entry.header().entry_type() == EntryType::Link;
                self.links.insert(path.clone(), if absolute { target } else { beside(&path, &target) });
            }
            EntryType::Regular | EntryType::Continuous => match path.as_str() {
                "index.json" => self.index = Some(small(&mut entry)?),
                "manifest.json" => self.docker = Some(small(&mut entry)?),
                _ if is_content(&path) => {
                    let expected = path.strip_prefix("blobs/sha256/").map(|hex| format!("sha256:{hex}"));
                    let expected = expected.map(Digest::try_from).transpose()?;
                    let blob = content.ingest(&mut entry, expected.as_ref())?;
                    self.blobs.insert(path, blob);
                }
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }

    /// OCI is preferred, since it keeps the manifest's own digest, unless only docker knows the names.
    fn images(&self, content: &Content) -> Result<Vec<Found>, ImageError> {
        let oci = self.index.as_deref().map(|index| oci_images(content, index)).transpose()?;
        match (oci, &self.docker) {
            (Some(found), None) => Ok(found),
            (Some(found), Some(_))
                if !found.is_empty() && found.iter().all(|found| !found.names.is_empty()) =>
            {
                Ok(found)
            }
            (_, Some(docker)) => self.docker_images(content, docker),
            (None, None) => Ok(Vec::new()),
        }
    }

    fn docker_images(&self, content: &Content, bytes: &[u8]) -> Result<Vec<Found>, ImageError> {
        let images: Vec<DockerImage> = serde_json::from_slice(bytes)
            .map_err(|error| ImageError::Invalid(format!("manifest.json is not valid: {error}")))?;
        images.iter().map(|image| self.docker_image(content, image)).collect()
    }

    /// Docker's own format has no manifest that a registry would know: one is made.
    fn docker_image(&self, content: &Content, image: &DockerImage) -> Result<Found, ImageError> {
        let describe = |name: &str, media_type: &str| {
            let (digest, size) = self.content_of(name)?;
            Ok(json!({"mediaType": media_type, "digest": digest, "size": size}))
        };
        let config = describe(&image.config, "application/vnd.oci.image.config.v1+json")?;
        let layers = image
            .layers
            .iter()
            .map(|layer| describe(layer, "application/vnd.oci.image.layer.v1.tar"))
            .collect::<Result<Vec<_>, ImageError>>()?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": layers,
        });
        let (manifest, _) = content.ingest(manifest.to_string().as_bytes(), None)?;
        let tags = image.repo_tags.as_deref().unwrap_or_default();
        Ok(Found { manifest, names: tags.iter().map(|tag| normalise(tag)).collect::<Result<_, _>>()? })
    }

    fn content_of(&self, name: &str) -> Result<(&Digest, u64), ImageError> {
        let mut name = name.trim_start_matches("./");
        for _ in 0..MAX_LINKS {
            if let Some((digest, size)) = self.blobs.get(name) {
                return Ok((digest, *size));
            }
            let Some(target) = self.links.get(name) else { break };
            name = target;
        }
        Err(ImageError::Invalid(format!("archive lacks {name:?}, which its manifest names")))
    }
}

fn is_content(path: &str) -> bool {
    path.starts_with("blobs/sha256/")
        || path.ends_with(".tar")
        || path.ends_with(".tar.gz")
        || path.ends_with(".json")
        || path.strip_prefix("sha256:").is_some()
}

fn small<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    let read = entry.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes);
    read.map_err(|error| ImageError::Invalid(format!("archive is damaged: {error}")))?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(ImageError::Invalid(format!("archive's manifest is larger than {MAX_DOCUMENT} bytes")));
    }
    Ok(bytes)
}

/// Where a symlink at `path` leads, by name alone: old `docker save` links equal layers this way.
fn beside(path: &str, target: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn oci_images(content: &Content, index: &[u8]) -> Result<Vec<Found>, ImageError> {
    let Manifest::Index(entries) = Manifest::parse(index)? else {
        return Err(ImageError::Invalid("index.json is not an index".into()));
    };
    let mut found: Vec<Found> = Vec::new();
    // An index whose entries have no names but platforms is one image for several platforms.
    let several =
        entries.len() > 1 && entries.iter().all(|entry| names_of(entry).is_ok_and(|names| names.is_empty()));
    if several && entries.iter().any(|entry| entry.platform.is_some()) {
        let manifest = descend(content, choose(&entries, &host_platform())?, 0)?;
        return Ok(manifest.map(|manifest| Found { manifest, names: vec![] }).into_iter().collect());
    }
    for entry in &entries {
        let Some(manifest) = descend(content, entry, 0)? else { continue };
        let names = names_of(entry)?;
        match found.iter_mut().find(|known| known.manifest == manifest) {
            Some(known) => known.names.extend(names),
            None => found.push(Found { manifest, names }),
        }
    }
    Ok(found)
}

/// The manifest for this machine behind a descriptor; `None` for what is no image, such as attestations.
fn descend(content: &Content, entry: &Descriptor, depth: usize) -> Result<Option<Digest>, ImageError> {
    let elsewhere = |platform: &super::manifest::Platform| platform.os == "unknown";
    if depth >= MAX_DEPTH || entry.platform.as_ref().is_some_and(elsewhere) {
        return Ok(None);
    }
    match Manifest::parse(&content.read_document(&entry.digest)?)? {
        Manifest::Image { .. } => Ok(Some(entry.digest.clone())),
        Manifest::Index(entries) => descend(content, choose(&entries, &host_platform())?, depth + 1),
    }
}

fn names_of(entry: &Descriptor) -> Result<Vec<Reference>, ImageError> {
    let note = |key| entry.annotations.as_ref().and_then(|notes| notes.get(key)).map(String::as_str);
    match (note(NAME_ANNOTATION), note(REF_ANNOTATION)) {
        (Some(name), _) => Ok(vec![normalise(name)?]),
        // A bare tag is no name: it would become docker.io/library/TAG.
        (None, Some(name)) if name.contains(['/', ':']) => Ok(vec![normalise(name)?]),
        _ => Ok(Vec::new()),
    }
}

/// For messages: the first name of a candidate.
pub(super) fn label(candidate: &Candidate) -> String {
    let first = candidate.names.first().or_else(|| candidate.repo_digests.first());
    first.cloned().unwrap_or_else(|| candidate.manifest.to_string())
}

/// `repository@digest` for a pulled image.
pub(super) fn pulled_digest(reference: &Reference, digest: &str) -> String {
    format!("{}@{digest}", repository(reference))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_beside_their_own_place() {
        assert_eq!(beside("abc/layer.tar", "../def/layer.tar"), "def/layer.tar");
        assert_eq!(beside("layer.tar", "../../x"), "x");
        assert_eq!(beside("a/b", "./c"), "a/c");
    }
}
