//! Manifests and configurations, of OCI and of Docker, as far as running an image needs them.

use std::collections::BTreeMap;

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use super::ImageError;
use super::reference::Digest;

/// Most layers of one image; overlayfs stops at 500, Docker at 127.
pub(super) const MAX_LAYERS: usize = 127;

/// What a registry is asked for.
pub(super) const ACCEPTED: &[&str] = &[
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Points at a blob.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What it runs on, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Free notes; names of images in an import.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// An operating system and processor, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Platform {
    /// `linux`, …
    pub os: String,
    /// `amd64`, …
    pub architecture: String,
    /// `v8`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// A manifest or an index of manifests.
#[derive(Debug, Clone)]
pub(super) enum Manifest {
    /// One image.
    Image {
        /// The configuration.
        config: Descriptor,
        /// The layers, lowest first.
        layers: Vec<Descriptor>,
    },
    /// Several, for different platforms or with different names.
    Index(Vec<Descriptor>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyManifest {
    schema_version: Option<u32>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

impl Manifest {
    /// Reads either kind.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let any: AnyManifest = serde_json::from_slice(bytes)
            .map_err(|error| ImageError::Invalid(format!("manifest is not valid: {error}")))?;
        match any {
            AnyManifest { manifests: Some(manifests), .. } => Ok(Self::Index(manifests)),
            AnyManifest { config: Some(config), layers: Some(layers), .. } if layers.len() <= MAX_LAYERS => {
                Ok(Self::Image { config, layers })
            }
            AnyManifest { config: Some(_), layers: Some(layers), .. } => {
                Err(ImageError::Invalid(format!("image has {} layers, more than {MAX_LAYERS}", layers.len())))
            }
            AnyManifest { schema_version: Some(1), .. } => {
                Err(ImageError::Invalid("manifest schema version 1 is not supported".into()))
            }
            _ => Err(ImageError::Invalid("document is neither an image manifest nor an index".into())),
        }
    }
}

/// This machine, as images name it.
pub(super) fn host_platform() -> Platform {
    let (architecture, variant) = match std::env::consts::ARCH {
        "x86_64" => ("amd64", None),
        "aarch64" => ("arm64", Some("v8")),
        "arm" => ("arm", Some("v7")),
        "powerpc64" => ("ppc64le", None),
        other => (other, None),
    };
    Platform { os: "linux".into(), architecture: architecture.into(), variant: variant.map(str::to_owned) }
}

/// The entry of an index that runs here; the same variant is best, then any. An entry that names no
/// platform is taken when it is the only one.
pub(super) fn choose<'a>(manifests: &'a [Descriptor], host: &Platform) -> Result<&'a Descriptor, ImageError> {
    let fits = |descriptor: &&Descriptor| {
        let platform = descriptor.platform.as_ref();
        platform.is_some_and(|p| p.os == host.os && p.architecture == host.architecture)
    };
    let same_variant = |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| p.variant == host.variant);
    let alone = || match manifests {
        [only] if only.platform.is_none() => Some(only),
        _ => None,
    };
    manifests
        .iter()
        .filter(fits)
        .find(same_variant)
        .or_else(|| manifests.iter().find(fits))
        .or_else(alone)
        .ok_or_else(|| {
            let Platform { os, architecture, .. } = host;
            ImageError::NotFound(format!("no match for platform in manifest: {os}/{architecture}: not found"))
        })
}

/// Reads an image configuration. Docker writes `null` where OCI leaves fields out.
pub(super) fn parse_config(bytes: &[u8]) -> Result<ImageConfiguration, ImageError> {
    let invalid =
        |error: serde_json::Error| ImageError::Invalid(format!("image configuration is not valid: {error}"));
    let mut value: serde_json::Value = serde_json::from_slice(bytes).map_err(invalid)?;
    drop_nulls(&mut value);
    serde_json::from_value(value).map_err(invalid)
}

fn drop_nulls(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(digit: char, platform: Option<(&str, &str, Option<&str>)>) -> Descriptor {
        Descriptor {
            media_type: String::new(),
            digest: format!("sha256:{}", digit.to_string().repeat(64)).try_into().unwrap(),
            size: 1,
            platform: platform.map(|(os, architecture, variant)| Platform {
                os: os.into(),
                architecture: architecture.into(),
                variant: variant.map(str::to_owned),
            }),
            annotations: None,
        }
    }

    #[test]
    fn the_entry_for_this_machine_is_chosen() {
        let host = Platform { os: "linux".into(), architecture: "arm64".into(), variant: Some("v8".into()) };
        let amd = entry('1', Some(("linux", "amd64", None)));
        let plain = entry('2', Some(("linux", "arm64", None)));
        let v8 = entry('3', Some(("linux", "arm64", Some("v8"))));
        let attestation = entry('4', Some(("unknown", "unknown", None)));
        let nameless = entry('5', None);
        let pick = |list: &[&Descriptor]| {
            let list: Vec<_> = list.iter().map(|d| (*d).clone()).collect();
            choose(&list, &host).map(|d| d.digest.hex().chars().next().unwrap()).ok()
        };
        assert_eq!(pick(&[&amd, &plain, &v8]), Some('3'));
        assert_eq!(pick(&[&amd, &plain, &attestation]), Some('2'));
        assert_eq!(pick(&[&nameless]), Some('5'));
        assert_eq!(pick(&[&amd, &nameless]), None);
        assert_eq!(pick(&[]), None);
    }

    #[test]
    fn manifests_of_all_kinds() {
        let blob = json!({"mediaType": "x", "size": 3, "digest": format!("sha256:{}", "a".repeat(64))});
        let kind = |value: serde_json::Value| match Manifest::parse(value.to_string().as_bytes()) {
            Ok(Manifest::Image { .. }) => "image".to_owned(),
            Ok(Manifest::Index(_)) => "index".to_owned(),
            Err(error) => error.to_string(),
        };
        assert_eq!(kind(json!({"config": blob, "layers": [blob]})), "image");
        assert_eq!(kind(json!({"manifests": [blob]})), "index");
        assert!(kind(json!({"schemaVersion": 1, "fsLayers": []})).contains("version 1"));
        assert!(kind(json!({"config": blob, "layers": vec![blob.clone(); 128]})).contains("more than 127"));
        assert!(kind(json!({"config": {"digest": "md5:1", "size": 1}, "layers": []})).contains("digest"));
        assert!(kind(json!([1])).contains("not valid"));
    }

    #[test]
    fn a_docker_configuration_with_nulls_is_read() {
        let config = json!({
            "architecture": "amd64", "os": "linux", "created": null,
            "config": {"Cmd": ["sh"], "Entrypoint": null, "ExposedPorts": null, "Volumes": null, "Labels": null, "OnBuild": null},
            "rootfs": {"type": "layers", "diff_ids": []}, "history": null
        });
        let config = parse_config(config.to_string().as_bytes()).unwrap();
        assert_eq!(config.config().as_ref().unwrap().cmd().as_ref().unwrap(), &["sh"]);
        assert!(parse_config(b"{}").is_err());
    }
}
