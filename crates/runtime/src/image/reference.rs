//! Names of images: normalised as Docker does (`nginx` is `docker.io/library/nginx:latest`), and digests.

use std::fmt;

use oci_client::Reference;
use serde::{Deserialize, Serialize};

use super::ImageError;

/// Shortest abbreviation of an image id that is looked up.
const MIN_ID_PREFIX: usize = 4;
/// Longest name; the distribution rules allow 255 for the repository and 128 for the tag.
const MAX_NAME: usize = 512;

/// `sha256:` and 64 lower-case hex digits: safe as a file name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Digest(String);

impl Digest {
    /// From the bytes of a finished hash.
    pub fn of(hash: impl AsRef<[u8]>) -> Self {
        Self(format!("sha256:{}", hex::encode(hash)))
    }

    /// The hex digits alone.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// With the algorithm in front.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Digest {
    type Error = ImageError;

    fn try_from(text: String) -> Result<Self, ImageError> {
        match text.strip_prefix("sha256:") {
            Some(digits) if digits.len() == 64 && is_lower_hex(digits) => Ok(Self(text)),
            _ => Err(ImageError::Invalid(format!(
                "unsupported digest {text:?}: want sha256 and 64 hex digits"
            ))),
        }
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Parses and completes a name. Errors are worded as the kubelet expects for InvalidImageName.
pub(super) fn normalise(name: &str) -> Result<Reference, ImageError> {
    let invalid =
        |why: &dyn fmt::Display| ImageError::Invalid(format!("failed to parse reference {name:?}: {why}"));
    if name.len() > MAX_NAME {
        return Err(invalid(&"name is too long"));
    }
    if name.len() == 64 && is_lower_hex(name) {
        return Err(invalid(&"name cannot be 64 hex digits"));
    }
    name.parse::<Reference>().map_err(|error| invalid(&error))
}

/// `registry/repository`, with Docker Hub spelled out.
pub(super) fn repository(reference: &Reference) -> String {
    format!("{}/{}", reference.registry(), reference.repository())
}

/// `registry/repository:tag`, or `None` when only a digest is named.
pub(super) fn tagged(reference: &Reference) -> Option<String> {
    reference.tag().map(|tag| format!("{}:{tag}", repository(reference)))
}

/// `registry/repository@sha256:…`.
pub(super) fn digested(reference: &Reference, manifest: &Digest) -> String {
    format!("{}@{manifest}", repository(reference))
}

/// The name to say in messages: with the tag, else with the digest.
pub(super) fn display(reference: &Reference) -> String {
    match (reference.digest(), tagged(reference)) {
        (Some(digest), _) => format!("{}@{digest}", repository(reference)),
        (None, Some(tag)) => tag,
        (None, None) => repository(reference),
    }
}

/// The hex digits when `name` can only or also be an image id, whole or abbreviated.
pub(super) fn id_prefix(name: &str) -> Option<&str> {
    let digits = name.strip_prefix("sha256:").unwrap_or(name);
    let fits = (MIN_ID_PREFIX..=64).contains(&digits.len()) && is_lower_hex(digits);
    fits.then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_docker_does() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let cases = [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.25", "docker.io/library/nginx:1.25"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/library/nginx", "docker.io/library/nginx:latest"),
            ("user/app", "docker.io/user/app:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1"),
            ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest"),
            ("ghcr.io/Org/app", ""),
            ("nginx:", ""),
            ("", ""),
            ("UPPER", ""),
            ("a b", ""),
            ("-x", ""),
        ];
        for (name, want) in cases {
            let got = normalise(name).map(|reference| display(&reference)).unwrap_or_default();
            assert_eq!(got, want, "{name:?}");
        }
        let both = normalise(&format!("nginx:1@{digest}")).unwrap();
        assert_eq!(display(&both), format!("docker.io/library/nginx@{digest}"));
        assert_eq!(tagged(&both).unwrap(), "docker.io/library/nginx:1");
        assert_eq!(tagged(&normalise(&format!("nginx@{digest}")).unwrap()), None);
        assert!(normalise(&"a".repeat(64)).is_err());
        assert!(normalise(&"a".repeat(600)).is_err());
        assert!(normalise("nginx@sha256:12").is_err());
    }

    #[test]
    fn ids_and_digests() {
        assert_eq!(id_prefix("sha256:abcd"), Some("abcd"));
        assert_eq!(id_prefix("abcd12"), Some("abcd12"));
        assert_eq!(id_prefix("abc"), None);
        assert_eq!(id_prefix("nginx"), None);
        assert!(Digest::try_from(format!("sha256:{}", "A".repeat(64))).is_err());
        assert!(Digest::try_from("sha256:../../etc".to_owned()).is_err());
        assert!(Digest::try_from(format!("sha512:{}", "a".repeat(128))).is_err());
    }
}
