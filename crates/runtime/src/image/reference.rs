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
    parse(name).map_err(|why| invalid(&why))
}

const HUB: &str = "docker.io";
const HUB_LEGACY: &str = "index.docker.io";
const MALFORMED: &str = "invalid reference format";

/// Names are read by hand: `oci_client`'s own parser is one large regular expression, whose matching state takes 6 MB a
/// thread and stays there.
fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.is_empty() {
        return Err("repository name must have at least one component");
    }
    let (rest, digest) = match text.rsplit_once('@') {
        Some((rest, digest)) => (rest, Some(checked_digest(digest)?)),
        None => (text, None),
    };
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    let (registry, repository) = split_registry(name)?;
    if repository.len() > 255 {
        return Err("repository name must not be more than 255 characters");
    }
    if !tag.is_none_or(is_tag) || !repository.split('/').all(is_path_component) {
        return Err(MALFORMED);
    }
    let owned = str::to_owned;
    Ok(match (tag, digest) {
        (Some(tag), Some(digest)) => {
            Reference::with_tag_and_digest(registry, repository, owned(tag), owned(digest))
        }
        (None, Some(digest)) => Reference::with_digest(registry, repository, owned(digest)),
        (tag, None) => Reference::with_tag(registry, repository, owned(tag.unwrap_or("latest"))),
    })
}

/// The first component is a registry when it has a dot, a port or an upper-case letter, or is `localhost`; Docker Hub is the
/// default.
fn split_registry(name: &str) -> Result<(String, String), &'static str> {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if is_host(first) => (first, rest),
        _ => (HUB, name),
    };
    if !is_registry(registry) {
        return Err(MALFORMED);
    }
    let registry = if registry == HUB_LEGACY { HUB } else { registry };
    let official = registry == HUB && !repository.contains('/');
    let repository = if official { format!("library/{repository}") } else { repository.to_owned() };
    Ok((registry.to_owned(), repository))
}

fn is_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_registry(text: &str) -> bool {
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(label) && port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
}

/// Lower-case letters and digits, joined by one dot, one or two underscores, or any number of dashes.
fn is_path_component(text: &str) -> bool {
    let alnum = |b: char| b.is_ascii_lowercase() || b.is_ascii_digit();
    let joins = |join: &str| matches!(join, "" | "." | "_" | "__") || join.bytes().all(|b| b == b'-');
    text.starts_with(alnum) && text.ends_with(alnum) && text.split(alnum).all(joins)
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
        && !text.starts_with(['.', '-'])
}

fn checked_digest(text: &str) -> Result<&str, &'static str> {
    let (algorithm, digits) = text.split_once(':').ok_or(MALFORMED)?;
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err("unsupported digest algorithm"),
    };
    if digits.len() != length {
        return Err("invalid checksum digest length");
    }
    if digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(text)
    } else {
        Err("invalid checksum digest format")
    }
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
            ("test.com:5000", "docker.io/library/test.com:5000"),
            ("sub-dom1.foo.com/bar/baz_x/q__u--u.x:V_1.2-x", "sub-dom1.foo.com/bar/baz_x/q__u--u.x:V_1.2-x"),
            ("foo_bar.com:8080", "docker.io/library/foo_bar.com:8080"),
            ("a___b", ""),
            ("a..b", ""),
            ("a/", ""),
            ("/a", ""),
            ("a//b", ""),
            ("a:-x", ""),
            ("a:b:c", ""),
            ("host.:80/a", ""),
            ("host.io:x/a", ""),
            ("a@b", ""),
            ("a@md5:00", ""),
            ("ghcr.io/Org/app", ""),
            ("nginx:", ""),
            ("", ""),
            ("UPPER", ""),
            ("UPPER/case", "UPPER/case:latest"),
            ("UPPER/Case", ""),
            ("UP_PER/case", ""),
            ("upper/Case", ""),
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
