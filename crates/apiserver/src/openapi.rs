//! `/openapi/v2` and `/openapi/v3`: documents derived from the kind table, made when first asked for.

use corten_api::{Result, Status};
use http::Response;

use crate::ApiServer;
use crate::body::Body;
use crate::query::Query;

/// Answers `/openapi/…`.
///
/// Errors: 404.
pub(crate) fn serve(
    server: &ApiServer,
    path: &[&str],
    accept: &str,
    query: &Query,
) -> Result<Response<Body>> {
    let _ = (server, path, accept, query);
    Err(Status::no_route())
}
