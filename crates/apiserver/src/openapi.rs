//! `/openapi/v2` and `/openapi/v3`: documents derived from the kind table, made when first asked for.

use corten_api::openapi::Document;
use corten_api::{Result, Status};
use http::Response;

use crate::body::{self, Body};
use crate::query::Query;
use crate::{ApiServer, VERSION};

/// Media types of the documents as JSON; gnostic's protobuf is not served, clients fall back.
const JSON_TYPES: &[&str] = &["*/*", "application/*", "application/json"];
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
