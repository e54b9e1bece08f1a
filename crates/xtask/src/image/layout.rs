//! Images as an OCI image layout in one tar file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::Result;
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, Header};

use super::layer::Layer;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Images carry no time of their own: the same inputs make the same image.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// A name, layers, and what runs by default.
pub struct Image {
    name: String,
    layers: Vec<Layer>,
    config: serde_json::Map<String, Value>,
}

impl Image {
    /// An image of this full name (`registry/repository:tag`), lowest layer first.
    pub fn new(name: &str, layers: &[&Layer]) -> Self {
        let layers = layers.iter().map(|layer| (*layer).clone()).collect();
        let image = Self { name: name.to_owned(), layers, config: serde_json::Map::new() };
        image.env("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    }

    /// What runs when the pod names no `command`.
    pub fn entrypoint(self, words: &[&str]) -> Self {
        self.set("Entrypoint", json!(words))
    }

    /// Its arguments when the pod names no `args`.
    pub fn command(self, words: &[&str]) -> Self {
        self.set("Cmd", json!(words))
    }

    /// What asks it to end, where that is not SIGTERM.
    pub fn stop_signal(self, signal: &str) -> Self {
        self.set("StopSignal", json!(signal))
    }

    /// A port that it is known to serve.
    pub fn port(self, port: &str) -> Self {
        self.set("ExposedPorts", json!({ port: {} }))
    }

    /// One more variable, `NAME=VALUE`.
    pub fn env(mut self, pair: &str) -> Self {
        let list = self.config.entry("Env").or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(json!(pair));
        }
        self
    }

    fn set(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.to_owned(), value);
        self
    }
}

/// The names of the images.
pub fn names(images: &[Image]) -> Vec<&str> {
    images.iter().map(|image| image.name.as_str()).collect()
}

/// Writes them into one file; layers that they share are in it once.
pub fn write(images: &[Image], path: &Path) -> Result<()> {
    let mut blobs = Blobs::default();
    let manifests = images.iter().map(|image| blobs.image(image)).collect::<Result<Vec<_>>>()?;
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
    let mut archive = Builder::new(File::create(path)?);
    append(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    append(&mut archive, "index.json", index.to_string().as_bytes())?;
    for (digest, bytes) in &blobs.0 {
        append(&mut archive, &format!("blobs/sha256/{digest}"), bytes)?;
    }
    archive.into_inner()?.sync_all()?;
    Ok(())
}

fn append(archive: &mut Builder<File>, path: &str, bytes: &[u8]) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    Ok(archive.append_data(&mut header, path, bytes)?)
}

/// Content by digest.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    fn image(&mut self, image: &Image) -> Result<Value> {
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for layer in &image.layers {
            let tar = layer.to_tar()?;
            diff_ids.push(format!("sha256:{}", hex::encode(Sha256::digest(&tar))));
            layers.push(self.put(LAYER, gzip(&tar)?));
        }
        let config = json!({
            "created": CREATED,
            "architecture": architecture(),
            "os": "linux",
            "config": image.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = self.put(CONFIG, config.to_string().into_bytes());
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        let mut descriptor = self.put(MANIFEST, manifest.to_string().into_bytes());
        let tag = image.name.rsplit(':').next();
        descriptor["annotations"] =
            json!({ "io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": tag });
        Ok(descriptor)
    }

    fn put(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = hex::encode(Sha256::digest(&bytes));
        let descriptor =
            json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len() });
        self.0.insert(digest, bytes);
        descriptor
    }
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// This machine's architecture by its name in OCI documents.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
