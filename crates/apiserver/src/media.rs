//! Which form the answer takes (Accept) and which the body has (Content-Type).

use corten_api::{Result, Status};

/// A serialisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
    /// `application/cbor`
    Cbor,
}

/// What is shown of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// All of it.
    Object,
    /// `meta.k8s.io` Table of that version.
    Table(&'static str),
    /// Its metadata.
    Partial,
    /// The metadata of a list's items.
    PartialList,
}

/// How to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Serialisation.
    pub format: Format,
    /// View.
    pub shape: Shape,
    /// Indented JSON.
    pub pretty: bool,
}

/// What the server can write, in the order upstream lists it in errors.
pub const ACCEPTED: &[&str] =
    &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
/// The same where answers may be streams.
pub const STREAMED: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
impl Format {
    /// The `Content-Type` of answers.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Yaml => "application/yaml",
            Format::Protobuf => "application/vnd.kubernetes.protobuf",
            Format::Cbor => "application/cbor",
        }
    }

    /// The `Content-Type` of watches.
    pub fn stream_type(self) -> &'static str {
        match self {
            Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            Format::Cbor => "application/cbor-seq",
            other => other.content_type(),
        }
    }

    fn of(media_type: &str) -> Option<Format> {
        match media_type {
            "application/json" | "text/json" => Some(Format::Json),
            "application/yaml" | "text/yaml" | "application/x-yaml" => Some(Format::Yaml),
            "application/vnd.kubernetes.protobuf" => Some(Format::Protobuf),
            "application/cbor" | "application/cbor-seq" => Some(Format::Cbor),
            _ => None,
        }
    }

    /// The body's form. An empty header means JSON.
    ///
    /// Errors: 415.
    pub fn of_body(content_type: &str) -> Result<Format> {
        let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if media_type.is_empty() {
            return Ok(Format::Json);
        }
        Format::of(&media_type).ok_or_else(|| Status::unsupported_media_type(ACCEPTED))
    }
}

impl Default for Answer {
    fn default() -> Self {
        Answer { format: Format::Json, shape: Shape::Object, pretty: false }
    }
}

/// Reads an `Accept` header. `views` says whether tables and partial metadata are on offer.
///
/// Errors: 406.
pub fn negotiate(accept: &str, views: bool) -> Result<Answer> {
    if accept.trim().is_empty() {
        return Ok(Answer::default());
    }
    let mut clauses: Vec<(f32, &str)> = accept.split(',').map(|c| (quality(c), c.trim())).collect();
    clauses.sort_by(|a, b| b.0.total_cmp(&a.0));
    // Upstream takes what has a quality of 0, too, when there is nothing else.
    let mut found = clauses.iter().filter_map(|(_, clause)| read(clause, views));
    found.next().ok_or_else(|| match clauses.iter().any(|(_, clause)| is_written(clause)) {
        true => Status::not_acceptable(ACCEPTED),
        false => Status::no_representation(ACCEPTED),
    })
}

/// Is the media type of a clause one of ours, whatever its parameters?
fn is_written(clause: &str) -> bool {
    let media_type = clause.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type == "*/*" || Format::of(&media_type).is_some()
}

fn quality(clause: &str) -> f32 {
    let q = clause.split(';').skip(1).find_map(|p| p.trim().strip_prefix("q="));
    q.map_or(1.0, |q| q.trim().parse().unwrap_or(0.0))
}

fn read(clause: &str, views: bool) -> Option<Answer> {
    let mut parts = clause.split(';').map(str::trim);
    let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
    let format = match media_type.as_str() {
        "*/*" | "application/*" => Format::Json,
        other => Format::of(other)?,
    };
    let mut answer = Answer { format, ..Answer::default() };
    let (mut view, mut group, mut version) = ("", "", "");
    for (key, value) in parts.filter_map(|p| p.split_once('=')) {
        match key.trim() {
            "as" => view = value.trim(),
            "g" => group = value.trim(),
            "v" => version = value.trim(),
            "pretty" => answer.pretty = value.trim() == "1",
            _ => {}
        }
    }
    answer.shape = shape(view, group, version, views)?;
    // Tables have no protobuf form.
    let tabular = matches!(answer.shape, Shape::Table(_));
    (!(tabular && format == Format::Protobuf)).then_some(answer)
}

fn shape(view: &str, group: &str, version: &str, views: bool) -> Option<Shape> {
    match (view, group, version) {
        ("", ..) => Some(Shape::Object),
        _ if !views => None,
        ("Table", "meta.k8s.io", "v1") => Some(Shape::Table("meta.k8s.io/v1")),
        ("Table", "meta.k8s.io", "v1beta1") => Some(Shape::Table("meta.k8s.io/v1beta1")),
        ("PartialObjectMetadata", "meta.k8s.io", "v1") => Some(Shape::Partial),
        ("PartialObjectMetadataList", "meta.k8s.io", "v1") => Some(Shape::PartialList),
        _ => None,
    }
}

/// The kinds of patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' merge that knows list keys.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl PatchType {
    /// From the `Content-Type`: what the patch does and how it is written.
    ///
    /// Errors: 415.
    pub fn of_body(content_type: &str) -> Result<(PatchType, Format)> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Ok((PatchType::Json, Format::Json)),
            "application/merge-patch+json" => Ok((PatchType::Merge, Format::Json)),
            "application/strategic-merge-patch+json" => Ok((PatchType::Strategic, Format::Json)),
            "application/apply-patch+yaml" => Ok((PatchType::Apply, Format::Yaml)),
            "application/apply-patch+cbor" => Ok((PatchType::Apply, Format::Cbor)),
            _ => Err(Status::no_such_patch()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(negotiate(kubectl, true).unwrap().shape, Shape::Table("meta.k8s.io/v1"));
        assert_eq!(negotiate(kubectl, false).unwrap().shape, Shape::Object);
        let proto = "application/vnd.kubernetes.protobuf, */*";
        assert_eq!(negotiate(proto, true).unwrap().format, Format::Protobuf);
        assert_eq!(negotiate("", true).unwrap().format, Format::Json);
        let q = "application/json;q=0.5, application/yaml;q=0.9";
        assert_eq!(negotiate(q, true).unwrap().format, Format::Yaml);
        let weak = "application/xml;q=0.9,application/json;q=0.8";
        assert_eq!(negotiate(weak, true).unwrap().format, Format::Json);
        assert_eq!(negotiate("text/html", true).unwrap_err().code, 406);
    }

    #[test]
    fn bodies() {
        assert_eq!(Format::of_body("application/json; charset=utf-8").unwrap(), Format::Json);
        assert_eq!(Format::of_body("").unwrap(), Format::Json);
        assert_eq!(Format::of_body("text/plain").unwrap_err().code, 415);
        assert_eq!(PatchType::of_body("application/json").unwrap_err().code, 415);
        let cbor = PatchType::of_body("application/apply-patch+cbor").unwrap();
        assert_eq!(cbor, (PatchType::Apply, Format::Cbor));
    }
}
