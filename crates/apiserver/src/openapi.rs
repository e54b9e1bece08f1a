//! `/openapi/v2` and `/openapi/v3`: documents derived from the kind table, made when first asked for.

use corten_api::openapi::Document;
use corten_api::{Result, Status};
use http::Response;

use crate::body::{self, Body};
use crate::query::Query;
use crate::{ApiServer, VERSION};

/// Media types of the documents as JSON.
const JSON_TYPES: &[&str] = &["*/*", "application/*", "application/json"];
/// What clients ask for when they want gnostic's protobuf, and what it is called in answers (`@` may not stand there).
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const PROTOBUF_ANSWER: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// How long a document that was asked for by its hash stays true.
const CACHE: &str = "public, max-age=31536000, immutable";

/// Answers `/openapi/…`.
///
/// Errors: 404, 406 where the client takes protobuf only.
pub(crate) fn serve(
    server: &ApiServer,
    path: &[&str],
    accept: &str,
    query: &Query,
) -> Result<Response<Body>> {
    if !takes_json(accept) {
        if path == ["v2"] && accept.contains(PROTOBUF) {
            return without_schemas();
        }
        return Err(Status::not_acceptable(&["application/json"]));
    }
    let (kinds, documents) = (server.kinds().snapshot(), server.documents());
    match path {
        ["v2"] => answer(documents.v2(&kinds, VERSION), ""),
        ["v3"] => answer(documents.v3_index(&kinds, VERSION), ""),
        ["v3", key @ ..] => {
            let document = documents.v3(&kinds, VERSION, &key.join("/")).ok_or_else(Status::no_route)?;
            answer(document, query.get("hash").unwrap_or_default())
        }
        _ => Err(Status::no_route()),
    }
}

/// The second version as protobuf: a valid document that describes no kind.
///
/// kubectl takes it for what the server cannot validate itself (lists, kinds that it does not know), leaves out what the
/// document does not describe, and goes on: each item of a list is validated by the server, and an unknown kind is
/// told as such. Without an answer it would stop at both.
fn without_schemas() -> Result<Response<Body>> {
    const SWAGGER: u8 = 1;
    const INFO: u8 = 2;
    const PATHS: u8 = 8;
    let info = [message(1, b"Kubernetes"), message(2, VERSION.as_bytes())].concat();
    let document = [message(SWAGGER, b"2.0"), message(INFO, &info), message(PATHS, b"")].concat();
    let response = Response::builder().header("content-type", PROTOBUF_ANSWER).header("vary", "Accept");
    response.body(body::full(document)).map_err(Status::internal)
}

/// One length-delimited field of a protobuf message; names and versions are far below the 128 bytes of a short length.
fn message(number: u8, content: &[u8]) -> Vec<u8> {
    const LENGTH_DELIMITED: u8 = 2;
    let content = &content[..content.len().min(127)];
    #[expect(clippy::cast_possible_truncation, reason = "at most 127")]
    let head = [number << 3 | LENGTH_DELIMITED, content.len() as u8];
    [head.as_slice(), content].concat()
}

fn takes_json(accept: &str) -> bool {
    let plain = |clause: &str| clause.split(';').next().unwrap_or_default().trim().to_owned();
    accept.trim().is_empty() || accept.split(',').any(|clause| JSON_TYPES.contains(&plain(clause).as_str()))
}

fn answer(document: Document, asked_hash: &str) -> Result<Response<Body>> {
    let mut response = Response::builder()
        .header("content-type", "application/json")
        .header("vary", "Accept")
        .header("etag", format!("\"{}\"", document.hash));
    if !asked_hash.is_empty() && asked_hash == document.hash {
        response = response.header("cache-control", CACHE);
    }
    response.body(body::full(document.body)).map_err(Status::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_protobuf() {
        assert_eq!(message(1, b"2.0"), [0x0a, 3, b'2', b'.', b'0']);
        assert_eq!(message(8, b""), [0x42, 0]);
        assert_eq!(message(2, &message(1, b"k")), [0x12, 3, 0x0a, 1, b'k']);
    }
}
