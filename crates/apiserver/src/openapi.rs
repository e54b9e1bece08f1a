//! `/openapi/v2` and `/openapi/v3`: documents derived from the kind table, made when first asked for.

use corten_api::openapi::Document;
use corten_api::{Result, Status};
use http::Response;

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
    let hash = query.get("hash").unwrap_or_default();
    match path {
        ["v2"] if V2.is_preferred(accept) => answer(documents.v2_protobuf(&kinds, VERSION), V2.answered, ""),
        // As upstream, whatever the client would rather take.
        ["v3"] => answer(documents.v3_index(&kinds, VERSION), PLAIN, ""),
        ["v3", key @ ..] if V3.is_preferred(accept) => {
            let document = documents.v3_protobuf(&kinds, VERSION, &key.join("/"));
            answer(document.ok_or_else(Status::no_route)?, V3.answered, hash)
        }
        _ if !takes_json(accept) => Err(Status::not_acceptable(&["application/json"])),
        ["v2"] => answer(documents.v2(&kinds, VERSION), JSON, ""),
        ["v3", key @ ..] => {
            let document = documents.v3(&kinds, VERSION, &key.join("/"));
            answer(document.ok_or_else(Status::no_route)?, JSON, hash)
        }
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
}
