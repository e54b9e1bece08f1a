//! `/openapi/v2` and `/openapi/v3`: documents derived from the kind table, made when first asked for.

use corten_api::openapi::Document;
use corten_api::{Result, Status};
use http::response::Builder;
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};

use crate::body::{self, Body};
use crate::query::Query;
use crate::{ApiServer, VERSION};

const JSON: &str = "application/json";
/// What upstream calls the index of version 3, which is JSON.
const PLAIN: &str = "text/plain; charset=utf-8";
/// Media types of the documents as JSON.
const JSON_TYPES: &[&str] = &["*/*", "application/*", JSON];
/// Gnostic's protobuf of one version: what clients ask for, and what it is called in answers (`@` may not stand there).
struct Protobuf {
    asked: &'static str,
    answered: &'static str,
}

const V2: Protobuf = Protobuf {
    asked: "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    answered: "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
};
const V3: Protobuf = Protobuf {
    asked: "application/com.github.proto-openapi.spec.v3@v1.0+protobuf",
    answered: "application/com.github.proto-openapi.spec.v3.v1.0+protobuf",
};
/// A document that was asked for by its hash stays true…
const CACHE: &str = "public, immutable";
/// …for this time, a year.
const LASTS: SignedDuration = SignedDuration::from_hours(365 * 24);

/// Answers `/openapi/…`. `known` is the request's `If-None-Match`.
///
/// Errors: 404, 406 where the client takes protobuf only.
pub(crate) fn serve(
    server: &ApiServer,
    path: &[&str],
    accept: &str,
    known: &str,
    query: &Query,
) -> Result<Response<Body>> {
    let (kinds, documents) = (server.kinds().snapshot(), server.documents());
    let answer = |document: Document, content_type| respond(document, content_type, known);
    let by_hash = |document: Option<Document>, content_type, key: &[&str]| {
        let document = document.ok_or_else(Status::no_route)?;
        match query.get("hash").filter(|hash| !hash.is_empty()) {
            None => respond(document, content_type, known),
            Some(hash) if hash == document.hash => lasting(respond(document, content_type, known)?, server),
            Some(_) => moved(&document, content_type, &key.join("/")),
        }
    };
    match path {
        ["v2"] if V2.is_preferred(accept) => answer(documents.v2_protobuf(&kinds, VERSION), V2.answered),
        // As upstream, whatever the client would rather take.
        ["v3"] => answer(documents.v3_index(&kinds, VERSION), PLAIN),
        ["v3", key @ ..] if V3.is_preferred(accept) => {
            by_hash(documents.v3_protobuf(&kinds, VERSION, &key.join("/")), V3.answered, key)
        }
        _ if !takes_json(accept) => Err(Status::not_acceptable(&["application/json"])),
        ["v2"] => answer(documents.v2(&kinds, VERSION), JSON),
        ["v3", key @ ..] => by_hash(documents.v3(&kinds, VERSION, &key.join("/")), JSON, key),
        _ => Err(Status::no_path()),
    }
}

fn media_types(accept: &str) -> impl Iterator<Item = &str> {
    accept.split(',').map(|clause| clause.split(';').next().unwrap_or_default().trim())
}

fn takes_json(accept: &str) -> bool {
    accept.trim().is_empty() || media_types(accept).any(|media| JSON_TYPES.contains(&media))
}

impl Protobuf {
    /// Does the client name it before any form of JSON?
    fn is_preferred(&self, accept: &str) -> bool {
        let own = |media: &str| media == self.asked || media == self.answered;
        media_types(accept).find(|media| own(media) || JSON_TYPES.contains(media)).is_some_and(own)
    }
}

/// The document, or 304 to a client that has it.
fn respond(document: Document, content_type: &'static str, known: &str) -> Result<Response<Body>> {
    let response = tagged(&document);
    if is_known(known, &tag(&document)) {
        return response.status(StatusCode::NOT_MODIFIED).body(body::empty()).map_err(Status::internal);
    }
    response.header("content-type", content_type).body(body::full(document.body)).map_err(Status::internal)
}

/// Leads who asked by another hash to the document of today.
fn moved(document: &Document, content_type: &'static str, key: &str) -> Result<Response<Body>> {
    tagged(document)
        .status(StatusCode::MOVED_PERMANENTLY)
        .header("content-type", content_type)
        .header("location", format!("/openapi/v3/{key}?hash={}", document.hash))
        .body(body::empty())
        .map_err(Status::internal)
}

/// Says that nobody need ask for this again.
fn lasting(mut response: Response<Body>, server: &ApiServer) -> Result<Response<Body>> {
    let now = Timestamp::from_millisecond(server.now_ms()).map_err(Status::internal)?;
    let until = now.checked_add(LASTS).map_err(Status::internal)?;
    let until = until.strftime("%a, %d %b %Y %H:%M:%S UTC").to_string();
    let headers = response.headers_mut();
    headers.insert("cache-control", http::HeaderValue::from_static(CACHE));
    headers.insert("expires", until.parse().map_err(Status::internal)?);
    Ok(response)
}

fn tagged(document: &Document) -> Builder {
    Response::builder().header("vary", "Accept").header("etag", tag(document))
}

fn tag(document: &Document) -> String {
    format!("\"{}\"", document.hash)
}

/// Does `If-None-Match` hold this tag? Weak ones count too (RFC 9110, 13.1.2).
fn is_known(known: &str, tag: &str) -> bool {
    let mut tags = known.split(',').map(str::trim);
    tags.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gets_protobuf() {
        let cases = [
            ("", false),
            ("application/json", false),
            (V2.asked, true),
            (V2.answered, true),
            (V3.asked, false),
            ("application/com.github.proto-openapi.spec.v2@v1.0+protobuf, application/json;q=0.5", true),
            ("application/json, application/com.github.proto-openapi.spec.v2@v1.0+protobuf", false),
            ("*/*", false),
        ];
        for (accept, wanted) in cases {
            assert_eq!(V2.is_preferred(accept), wanted, "{accept}");
        }
        assert!(V3.is_preferred(V3.asked) && !V3.is_preferred(V2.asked));
    }
    #[test]
    fn what_a_client_has() {
        let cases = [
            ("", false),
            ("\"A\"", true),
            ("W/\"A\"", true),
            ("\"B\", \"A\"", true),
            ("*", true),
            ("A", false),
            ("\"AA\"", false),
        ];
        for (known, wanted) in cases {
            assert_eq!(is_known(known, "\"A\""), wanted, "{known}");
        }
    }
}
