//! Files of one volume that would lie over each other.

use crate::Value;
use crate::field::Quoted;
use crate::kinds::look::{given, items, text};

/// A file and where it comes from (nothing where the volume has one source).
#[derive(Clone, PartialEq)]
struct File {
    path: String,
    source: String,
}

impl File {
    fn shown(&self) -> String {
        let path = self.path.quoted();
        if self.source.is_empty() { path } else { format!("{path} ({})", self.source) }
    }
}

/// One warning for each pair in each volume.
pub(super) fn overlaps(warnings: &mut Vec<String>, volumes: &[Value]) {
    for volume in volumes {
        let name = text(volume, "name").quoted();
        let kinds = [("configMap", "name", "ConfigMap"), ("secret", "secretName", "Secret")];
        for (kind, key, shown) in kinds {
            if let Some(source) = given(volume, kind) {
                let of = format!("{shown} {}", text(source, key).quoted());
                warn(warnings, &name, &of, files(source, ""));
            }
        }
        if let Some(source) = given(volume, "downwardAPI") {
            warn(warnings, &name, "DownwardAPI", files(source, ""));
        }
        let Some(projected) = given(volume, "projected") else { continue };
        let mut all = Vec::new();
        for source in items(projected, "sources") {
            if source.as_object().is_none_or(|s| s.iter().all(|(_, v)| v.is_null())) {
                warnings.push(format!("volume {name} (Projected) has no sources provided"));
            }
            all.extend(projection(source));
        }
        warn(warnings, &name, "Projected", all);
    }
}

fn files(source: &Value, of: &str) -> Vec<File> {
    let file = |item: &Value| File { path: text(item, "path").to_owned(), source: of.to_owned() };
    items(source, "items").iter().map(file).collect()
}

fn projection(source: &Value) -> Vec<File> {
    let one = |path: &str, source: String| vec![File { path: path.to_owned(), source }];
    for (kind, shown) in [("configMap", "ConfigMap"), ("secret", "Secret")] {
        if let Some(part) = given(source, kind).filter(|part| given(part, "items").is_some()) {
            return files(part, &format!("{shown} {}", text(part, "name").quoted()));
        }
    }
    if let Some(part) = given(source, "downwardAPI").filter(|part| given(part, "items").is_some()) {
        return files(part, "DownwardAPI");
    }
    if let Some(part) = given(source, "serviceAccountToken") {
        return one(text(part, "path"), "ServiceAccountToken".to_owned());
    }
    if let Some(part) = given(source, "clusterTrustBundle") {
        let name = given(part, "name").or_else(|| given(part, "signerName")).and_then(Value::as_str);
        return one(text(part, "path"), format!("ClusterTrustBundle {}", name.unwrap_or_default().quoted()));
    }
    let Some(part) = given(source, "podCertificate") else { return Vec::new() };
    let kinds = [
        ("certificateChainPath", "PodCertificate chain"),
        ("keyPath", "PodCertificate key"),
        ("credentialBundlePath", "PodCertificate credential bundle"),
    ];
    let paths = kinds.into_iter().filter(|(field, _)| !text(part, field).is_empty());
    paths.flat_map(|(field, shown)| one(text(part, field), shown.to_owned())).collect()
}

fn warn(warnings: &mut Vec<String>, volume: &str, of: &str, files: Vec<File>) {
    let mut before: Vec<File> = Vec::new();
    for mut file in files {
        file.path.truncate(file.path.trim_end_matches('/').len());
        for other in before.iter().filter(|other| collide(other, &file)) {
            let (file, other) = (file.shown(), other.shown());
            warnings.push(format!("volume {volume} ({of}): overlapping paths: {file} with {other}"));
        }
        before.push(file);
    }
}

fn collide(a: &File, b: &File) -> bool {
    let below = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    !a.path.is_empty() && !b.path.is_empty() && (below(&a.path, &b.path) || below(&b.path, &a.path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::tree;

    #[test]
    fn pairs() {
        let volumes = tree(
            "[{name: v, configMap: {name: c, items: [{path: a}, {path: a/b}, {path: ab}]}}, {name: p, projected: {sources: [\
             {secret: {name: s, items: [{path: x}]}}, {serviceAccountToken: {path: x}}, {}]}}]",
        );
        let mut warnings = Vec::new();
        overlaps(&mut warnings, volumes.as_array().unwrap());
        assert_eq!(
            warnings,
            [
                "volume \"v\" (ConfigMap \"c\"): overlapping paths: \"a/b\" with \"a\"",
                "volume \"p\" (Projected) has no sources provided",
                "volume \"p\" (Projected): overlapping paths: \"x\" (ServiceAccountToken) with \"x\" (Secret \"s\")",
            ]
        );
    }
}
