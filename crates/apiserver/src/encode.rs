//! Answers: stored bytes with the resource version spliced in where the client takes JSON, trees for everything else.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use corten_api::{Object, Result, Status, Str, Value, json};
use corten_store::Entry;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{Response, StatusCode};

use crate::body::{self, Body};
use crate::call::Call;
use crate::media::{Answer, Format, Shape};
use crate::read::Page;
use crate::stored::{self, Head};
use crate::subresources::is_built_in;
use crate::watch::{frame, frame_value};

/// Answers above this are compressed where the client takes it (upstream's bound).
const GZIP_MIN_BYTES: usize = 128 * 1024;
/// A list leaves the server in pieces of about this size.
const PIECE_BYTES: usize = 64 * 1024;
/// About what a watch event has around the object.
const FRAME_BYTES: usize = 128;

/// Answers with an object as it rests.
pub(crate) fn object(call: &Call, code: u16, bytes: &[u8], revision: u64) -> Result<Response<Body>> {
    let answer = call.answer;
    let api_version = call.api_version();
    let raw = answer.format == Format::Json && answer.shape == Shape::Object && !answer.pretty;
    match call.edge().head(&api_version, &call.kind.kind) {
        Some(head) if raw => respond(call, code, stored::to_json(bytes, revision, head)),
        _ => tree(call, code, stored::tree(bytes, revision)?),
    }
}

/// What a tree of the version at rest is shown as: in the request's version, but tables render what rests.
fn edged(call: &Call, tree: Value) -> Value {
    match call.answer.shape {
        Shape::Table(_) => tree,
        _ => call.edge().out(tree),
    }
}

/// Answers with an object, in the view that the client wants.
fn tree(call: &Call, code: u16, object: Value) -> Result<Response<Body>> {
    let object = edged(call, object);
    let shown = match call.answer.shape {
        Shape::Object => object,
        Shape::Partial => partial(object),
        Shape::PartialList => return Err(other_number(call)),
        Shape::Table(version) => {
            let metadata = table_metadata(&object);
            table(call, version, &[object], metadata, true)?
        }
    };
    respond(call, code, to_bytes(call.answer, &shown)?)
}

/// Answers with any other value (reviews, scales, statuses of success).
pub(crate) fn value(call: &Call, code: u16, value: &Value) -> Result<Response<Body>> {
    let answer = Answer { shape: Shape::Object, ..call.answer };
    respond(call, code, to_bytes(answer, value)?)
}

/// Answers with an error.
pub(crate) fn status(answer: Answer, status: &Status) -> Response<Body> {
    if status.is_no_path() {
        return no_path(status);
    }
    let bytes = to_bytes(answer, &status.to_value()).unwrap_or_else(|_| status.to_json());
    let mut response = Response::new(body::full(bytes));
    *response.status_mut() = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    if let Ok(content_type) = answer.format.content_type().parse() {
        headers.insert("content-type", content_type);
    }
    if let Some(seconds) = status.retry_after_seconds {
        headers.insert("retry-after", seconds.into());
    }
    response
}

/// 404 in plain text.
fn no_path(status: &Status) -> Response<Body> {
    let mut response = Response::new(body::full(format!("{}\n", status.message)));
    *response.status_mut() = StatusCode::NOT_FOUND;
    for (name, value) in
        [("content-type", "text/plain; charset=utf-8"), ("x-content-type-options", "nosniff")]
    {
        response.headers_mut().insert(name, http::HeaderValue::from_static(value));
    }
    response
}

/// Any document as JSON (or another form the client prefers), outside of resources.
pub(crate) fn document(answer: Answer, value: &Value) -> Result<Response<Body>> {
    Response::builder()
        .header("content-type", answer.format.content_type())
        .body(body::full(to_bytes(answer, value)?))
        .map_err(Status::internal)
}

fn respond(call: &Call, code: u16, bytes: Vec<u8>) -> Result<Response<Body>> {
    let builder = Response::builder().status(code).header("content-type", call.answer.format.content_type());
    if call.gzip && bytes.len() >= GZIP_MIN_BYTES {
        let zipped = gzip(&bytes).map_err(Status::internal)?;
        let builder = builder.header("content-encoding", "gzip").header("vary", "Accept-Encoding");
        return builder.body(body::full(zipped)).map_err(Status::internal);
    }
    builder.body(body::full(bytes)).map_err(Status::internal)
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// A value in the client's form.
pub(crate) fn to_bytes(answer: Answer, value: &Value) -> Result<Vec<u8>> {
    match answer.format {
        Format::Json if answer.pretty => Ok(pretty(value)),
        Format::Json => {
            let mut bytes = json::to_vec(value);
            bytes.push(b'\n');
            Ok(bytes)
        }
        Format::Yaml => Ok(corten_api::yaml::to_string(value).into_bytes()),
        Format::Cbor => Ok(corten_api::cbor::encode(value)),
        Format::Protobuf => corten_api::protobuf::encode(value).map_err(Status::internal),
    }
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    indented(value, 0, &mut out);
    out.push(b'\n');
    out
}

/// Two spaces a level, as Go indents. Depth is bounded by the parser.
fn indented(value: &Value, depth: usize, out: &mut Vec<u8>) {
    let newline = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + 2 * depth, b' ');
    };
    match value {
        Value::Array(items) if !items.is_empty() => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                newline(out, depth + 1);
                indented(item, depth + 1, out);
            }
            newline(out, depth);
            out.push(b']');
        }
        Value::Object(fields) if !fields.is_empty() => {
            out.push(b'{');
            for (i, (key, item)) in fields.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                newline(out, depth + 1);
                json::write(&Value::String(key.clone()), out);
                out.extend_from_slice(b": ");
                indented(item, depth + 1, out);
            }
            newline(out, depth);
            out.push(b'}');
        }
        other => json::write(other, out),
    }
}

fn partial(object: Value) -> Value {
    let mut shown = Object::default();
    shown.set("kind", Value::str("PartialObjectMetadata"));
    shown.set("apiVersion", Value::str("meta.k8s.io/v1"));
    shown.set("metadata", object.get("metadata").cloned().unwrap_or_default());
    shown.into()
}

fn table(call: &Call, version: &str, objects: &[Value], metadata: Object, head: bool) -> Result<Value> {
    crate::table::render(call, version, objects, metadata, head, (call.clock)())
}

/// Answers with a page of a list.
pub(crate) fn list(call: &Arc<Call>, page: Page) -> Result<Response<Body>> {
    let answer = call.answer;
    let raw = answer.format == Format::Json && !answer.pretty;
    match answer.shape {
        Shape::Object if raw && call.edge().head("", "").is_some() => raw_list(call.clone(), page),
        _ => tree_list(call, page),
    }
}

fn list_metadata(page: &Page) -> Object {
    let mut metadata = Object::default();
    metadata.set("resourceVersion", page.revision.to_string());
    if let Some(next) = &page.next {
        metadata.set("continue", next.as_str());
    }
    if let Some(remaining) = page.remaining {
        metadata.set("remainingItemCount", i64::try_from(remaining).unwrap_or(i64::MAX));
    }
    metadata
}

/// The list as copies of stored bytes, made piece by piece while the client reads.
fn raw_list(call: Arc<Call>, page: Page) -> Result<Response<Body>> {
    let mut opening = Vec::with_capacity(256);
    opening.extend_from_slice(b"{\"kind\":");
    json::write(&Value::from(call.kind.list_kind.as_ref()), &mut opening);
    opening.extend_from_slice(b",\"apiVersion\":");
    json::write(&Value::from(call.api_version()), &mut opening);
    opening.extend_from_slice(b",\"metadata\":");
    json::write(&list_metadata(&page).into(), &mut opening);
    opening.extend_from_slice(b",\"items\":[");
    let size: usize = page.entries.iter().map(|e| e.value.len()).sum();
    let gzip = call.gzip && size >= GZIP_MIN_BYTES;
    let builder = Response::builder().header("content-type", "application/json");
    let builder = match gzip {
        true => builder.header("content-encoding", "gzip").header("vary", "Accept-Encoding"),
        false => builder,
    };
    let mut pieces =
        Pieces { opening: Some(opening), first: true, entries: page.entries.into_iter(), closed: false };
    if size <= PIECE_BYTES {
        let whole: Vec<u8> = pieces.flatten().collect();
        return builder.body(body::full(whole)).map_err(Status::internal);
    }
    let body = if gzip {
        let mut zip = Some(GzEncoder::new(Vec::new(), Compression::fast()));
        let zipped = std::iter::from_fn(move || zip_next(&mut pieces, &mut zip));
        body::stream(futures::stream::iter(zipped.map(|p| p.map(Bytes::from).map_err(Into::into))))
    } else {
        body::stream(futures::stream::iter(pieces.map(|p| Ok(Bytes::from(p)))))
    };
    builder.body(body).map_err(Status::internal)
}

struct Pieces {
    opening: Option<Vec<u8>>,
    first: bool,
    entries: std::vec::IntoIter<Arc<Entry>>,
    closed: bool,
}

impl Iterator for Pieces {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if self.closed {
            return None;
        }
        let mut out = self.opening.take().unwrap_or_default();
        for entry in self.entries.by_ref() {
            if !std::mem::take(&mut self.first) {
                out.push(b',');
            }
            stored::write(&entry.value, entry.mod_revision, Head::Bare, &mut out);
            if out.len() >= PIECE_BYTES {
                return Some(out);
            }
        }
        self.closed = true;
        out.extend_from_slice(b"]}\n");
        Some(out)
    }
}

fn zip_next(pieces: &mut Pieces, zip: &mut Option<GzEncoder<Vec<u8>>>) -> Option<std::io::Result<Vec<u8>>> {
    loop {
        let mut encoder = zip.take()?;
        let Some(piece) = pieces.next() else { return Some(encoder.finish()) };
        if let Err(error) = encoder.write_all(&piece) {
            return Some(Err(error));
        }
        let ready = std::mem::take(encoder.get_mut());
        *zip = Some(encoder);
        if !ready.is_empty() {
            return Some(Ok(ready));
        }
    }
}

/// 406: the metadata of one object was asked for where there is a list, or that of a list where there is one object. Upstream names
/// its own type, in the package that is called as the group begins.
fn other_number(call: &Call) -> Box<Status> {
    let (asked, is, kind, custom) = match call.answer.shape {
        Shape::PartialList => ("PartialObjectMetadataList", "not a list", &call.kind.kind, "Unstructured"),
        _ => ("PartialObjectMetadata", "a list", &call.kind.list_kind, "UnstructuredList"),
    };
    let what = match call.kind.group.split('.').next().unwrap_or_default() {
        _ if !is_built_in(&call.kind.group) => format!("unstructured.{custom}"),
        "" | "events" => format!("core.{kind}"),
        "internal" => format!("apiserverinternal.{kind}"),
        first => format!("{first}.{kind}"),
    };
    let message = format!("you requested {asked}, but the requested object is {is} (*{what})");
    Status::new(406, "NotAcceptable", message)
}

fn tree_list(call: &Call, page: Page) -> Result<Response<Body>> {
    let metadata = list_metadata(&page);
    let trees = page.entries.iter().map(|e| Ok(edged(call, stored::tree(&e.value, e.mod_revision)?)));
    let trees: Vec<Value> = trees.collect::<Result<_>>()?;
    let (kind, api_version, items) = match call.answer.shape {
        Shape::Table(version) => {
            let table = table(call, version, &trees, metadata, true)?;
            return respond(call, 200, to_bytes(call.answer, &table)?);
        }
        Shape::Object => (call.kind.list_kind.as_ref(), call.api_version(), trees),
        Shape::Partial => return Err(other_number(call)),
        Shape::PartialList => {
            let items = trees.into_iter().map(partial).collect();
            ("PartialObjectMetadataList", "meta.k8s.io/v1".to_owned(), items)
        }
    };
    let mut list = Object::default();
    list.set("kind", kind);
    list.set("apiVersion", api_version);
    list.set("metadata", metadata);
    list.set("items", items);
    respond(call, 200, to_bytes(call.answer, &list.into())?)
}

/// How one watch writes its events.
pub(crate) struct EventForm {
    call: Arc<Call>,
    api_version: Str,
    shared: Option<Str>,
    /// Tables name their columns only in the first event.
    table_head: bool,
}

impl EventForm {
    /// For a call's answer.
    pub fn new(call: Arc<Call>) -> Self {
        let api_version = Str::from(call.api_version());
        let Answer { format, shape, .. } = call.answer;
        let stored = format == Format::Json && shape == Shape::Object && call.edge().head("", "").is_some();
        EventForm { shared: stored.then(|| api_version.clone()), api_version, call, table_head: true }
    }

    /// The name of the form, where every watch of that name writes the same bytes for the same event.
    pub fn shared(&self) -> Option<&Str> {
        self.shared.as_ref()
    }

    /// Appends an event about a stored object.
    pub fn event(&mut self, what: &str, bytes: &[u8], revision: u64, out: &mut Vec<u8>) -> Result<()> {
        let answer = self.call.answer;
        let head = self.call.edge().head(&self.api_version, &self.call.kind.kind);
        match (answer.format, answer.shape, head) {
            (Format::Json, Shape::Object, Some(head)) => {
                out.reserve(bytes.len() + FRAME_BYTES);
                frame(what, out, |out| stored::write(bytes, revision, head, out));
                Ok(())
            }
            _ => {
                let tree = edged(&self.call, stored::tree(bytes, revision)?);
                self.tree_event(what, tree, out)
            }
        }
    }

    fn tree_event(&mut self, what: &str, tree: Value, out: &mut Vec<u8>) -> Result<()> {
        let shown = match self.call.answer.shape {
            Shape::Object => tree,
            Shape::Partial | Shape::PartialList => partial(tree),
            Shape::Table(version) => {
                let head = std::mem::take(&mut self.table_head);
                let metadata = table_metadata(&tree);
                table(&self.call, version, &[tree], metadata, head)?
            }
        };
        self.write(what, &shown, out)
    }

    fn write(&self, what: &str, shown: &Value, out: &mut Vec<u8>) -> Result<()> {
        match self.call.answer.format {
            Format::Protobuf => {
                let object = corten_api::protobuf::encode(shown).map_err(Status::internal)?;
                corten_api::protobuf::watch_frame(what, &object, out);
                Ok(())
            }
            Format::Cbor => {
                let mut event = Object::default();
                event.set("type", what);
                event.set("object", shown.clone());
                out.extend_from_slice(&corten_api::cbor::encode(&event.into()));
                Ok(())
            }
            _ => {
                frame_value(what, shown, out);
                Ok(())
            }
        }
    }

    /// Appends a bookmark: an object of the kind with a resource version and nothing else.
    pub fn bookmark(&mut self, revision: u64, initial_end: bool, out: &mut Vec<u8>) {
        let mut metadata = Object::default();
        metadata.set("resourceVersion", revision.to_string());
        metadata.set("creationTimestamp", Value::Null);
        if initial_end {
            let mut annotations = Object::default();
            annotations.set("k8s.io/initial-events-end", "true");
            metadata.set("annotations", annotations);
        }
        let mut object = Object::default();
        object.set("kind", self.call.kind.kind.as_ref());
        object.set("apiVersion", self.api_version.clone());
        object.set("metadata", metadata);
        if let Err(status) = self.tree_event("BOOKMARK", object.into(), out) {
            tracing::warn!(%status, "a bookmark could not be written");
        }
    }

    /// Appends the ERROR event that ends a watch. Watches that meet a compacted past are told 410.
    pub fn error(&self, status: &Status, out: &mut Vec<u8>) {
        if self.write("ERROR", &status.to_value(), out).is_err() {
            frame_value("ERROR", &status.to_value(), out);
        }
    }
}

fn table_metadata(tree: &Value) -> Object {
    let mut metadata = Object::default();
    metadata.set("resourceVersion", tree.str_at(&["metadata", "resourceVersion"]));
    metadata
}
