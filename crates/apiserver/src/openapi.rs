//! `/openapi/v2` and `/openapi/v3`: documents derived from the kind table, made when first asked for.

use corten_api::openapi::Document;
use corten_api::{Result, Status};
use http::Response;

use crate::body::{self, Body};
use crate::query::Query;
use crate::{ApiServer, VERSION};

const JSON: &str = "application/json";
/// Media types of the documents as JSON.
const JSON_TYPES: &[&str] = &["*/*", "application/*", JSON];
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
    let (kinds, documents) = (server.kinds().snapshot(), server.documents());
    if path == ["v2"] && prefers_protobuf(accept) {
        return answer(documents.v2_protobuf(&kinds, VERSION), PROTOBUF_ANSWER, "");
    }
    if !takes_json(accept) {
        return Err(Status::not_acceptable(&["application/json"]));
    }
    match path {
        ["v2"] => answer(documents.v2(&kinds, VERSION), JSON, ""),
        ["v3"] => answer(documents.v3_index(&kinds, VERSION), JSON, ""),
        ["v3", key @ ..] => {
            let document = documents.v3(&kinds, VERSION, &key.join("/")).ok_or_else(Status::no_route)?;
            answer(document, JSON, query.get("hash").unwrap_or_default())
        }
        _ => Err(Status::no_route()),
    }
}

fn media_types(accept: &str) -> impl Iterator<Item = &str> {
    accept.split(',').map(|clause| clause.split(';').next().unwrap_or_default().trim())
}

fn takes_json(accept: &str) -> bool {
    accept.trim().is_empty() || media_types(accept).any(|media| JSON_TYPES.contains(&media))
}

/// Does the client name gnostic's protobuf before any form of JSON?
fn prefers_protobuf(accept: &str) -> bool {
    let known = |media: &&str| *media == PROTOBUF || *media == PROTOBUF_ANSWER || JSON_TYPES.contains(media);
    media_types(accept).find(known).is_some_and(|media| !JSON_TYPES.contains(&media))
}

fn answer(document: Document, content_type: &'static str, asked_hash: &str) -> Result<Response<Body>> {
    let mut response = Response::builder()
        .header("content-type", content_type)
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
    fn who_gets_protobuf() {
        let cases = [
            ("", false),
            ("application/json", false),
            (PROTOBUF, true),
            (PROTOBUF_ANSWER, true),
            ("application/com.github.proto-openapi.spec.v2@v1.0+protobuf, application/json;q=0.5", true),
            ("application/json, application/com.github.proto-openapi.spec.v2@v1.0+protobuf", false),
            ("*/*", false),
        ];
        for (accept, wanted) in cases {
            assert_eq!(prefers_protobuf(accept), wanted, "{accept}");
        }
    }
}
