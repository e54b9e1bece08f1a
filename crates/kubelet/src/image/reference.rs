//! Image names: what is one, which registry it means, whether it has a tag.

/// Longest repository name.
const MAX_NAME: usize = 255;
/// Digits of an image id, which is no name.
const ID_DIGITS: usize = 64;

/// The parts of an image name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Registry host with its port (`docker.io` where none is named).
    pub registry: String,
    /// Path in the registry.
    pub repository: String,
    /// Tag.
    pub tag: Option<String>,
    /// Digest.
    pub digest: Option<String>,
}

/// Takes an image name apart. Errors are upstream's words for InvalidImageName.
pub fn parse(image: &str) -> Result<Reference, String> {
    if image.is_empty() {
        return Err("couldn't parse image name \"\": invalid reference format".to_owned());
    }
    let fail = |why: &str| Err(format!("couldn't parse image name \"{image}\": {why}"));
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    if digest.is_some_and(|digest| !valid_digest(digest)) {
        return fail("invalid reference format");
    }
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if tag.is_some_and(|tag| !valid_tag(tag)) {
        return fail("invalid reference format");
    }
    if image.len() == ID_DIGITS && image.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return fail(&format!(
            "invalid repository name ({image}), cannot specify 64-byte hexadecimal strings"
        ));
    }
    let (registry, repository) = split_registry(name);
    if repository.chars().any(|c| c.is_ascii_uppercase()) {
        return fail(&format!("invalid reference format: repository name ({repository}) must be lowercase"));
    }
    if !valid_host(&registry) || !repository.split('/').all(valid_component) {
        return fail("invalid reference format");
    }
    if repository.len() > MAX_NAME {
        return fail("repository name must not be more than 255 characters");
    }
    Ok(Reference { registry, repository, tag: tag.map(str::to_owned), digest: digest.map(str::to_owned) })
}

fn split_registry(name: &str) -> (String, String) {
    match name.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" || has_upper(host) => {
            (host.to_owned(), rest.to_owned())
        }
        Some(_) => ("docker.io".to_owned(), name.to_owned()),
        None => ("docker.io".to_owned(), format!("library/{name}")),
    }
}

fn has_upper(host: &str) -> bool {
    host.chars().any(|c| c.is_ascii_uppercase())
}

/// Labels of letters, digits and inner dashes, joined by dots; perhaps a port.
fn valid_host(text: &str) -> bool {
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
fn valid_component(part: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let joins = |join: &str| matches!(join, "" | "." | "_" | "__") || join.bytes().all(|b| b == b'-');
    part.starts_with(word) && part.ends_with(word) && part.split(word).all(joins)
}

fn valid_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= 128
        && tag.chars().next().is_some_and(word)
        && tag.chars().all(|c| word(c) || matches!(c, '.' | '-'))
}

fn valid_digest(digest: &str) -> bool {
    let Some((algorithm, hash)) = digest.split_once(':') else { return false };
    !algorithm.is_empty() && hash.len() >= 32 && hash.chars().all(|c| c.is_ascii_hexdigit())
}

/// The name to ask the runtime for: `:latest` where there is neither tag nor digest.
pub fn with_default_tag(image: &str) -> Result<String, String> {
    let reference = parse(image)?;
    let complete = reference.tag.is_some() || reference.digest.is_some();
    Ok(if complete { image.to_owned() } else { format!("{image}:latest") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (image, registry, repository, tag) in [
            ("nginx", "docker.io", "library/nginx", None),
            ("nginx:1.2", "docker.io", "library/nginx", Some("1.2")),
            ("user/app", "docker.io", "user/app", None),
            ("localhost/app:v1", "localhost", "app", Some("v1")),
            ("127.0.0.1:5000/a/b", "127.0.0.1:5000", "a/b", None),
            ("reg.example:5000/a/b:t", "reg.example:5000", "a/b", Some("t")),
            ("UPPER/case", "UPPER", "case", None),
        ] {
            let found = parse(image).unwrap();
            let parts = (found.registry.as_str(), found.repository.as_str(), found.tag.as_deref());
            assert_eq!(parts, (registry, repository, tag), "{image}");
        }
        assert_eq!(parse(&format!("nginx@{digest}")).unwrap().digest, Some(digest));
        assert_eq!(with_default_tag("a").unwrap(), "a:latest");
        assert_eq!(with_default_tag("a:b").unwrap(), "a:b");
    }

    #[test]
    fn bad_names() {
        let id = "0".repeat(64);
        for image in [
            "",
            "Nginx",
            "a:",
            "a b",
            "a@sha256:1",
            "-a",
            "a//b",
            "a:b:c",
            "UP_PER/case",
            "a..b",
            "a/Case",
            "h.:80/a",
            &id,
        ] {
            assert!(parse(image).is_err(), "{image}");
        }
        assert_eq!(
            parse("NGINX").unwrap_err(),
            "couldn't parse image name \"NGINX\": invalid reference format: repository name (library/NGINX) must be lowercase"
        );
    }
}
