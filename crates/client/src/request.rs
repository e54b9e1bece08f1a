//! One request to an API server, of whatever kind: bytes there, bytes back, refusals as errors.

use bytes::Bytes;
use futures::future::BoxFuture;
use http::Response;
use http_body_util::BodyExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::client::Body;
use kube::core::Status;
use kube::core::request::Error as BuildError;
use kube::{Client, Error};
use serde::de::Error as _;

use crate::spans;

/// A request that can be sent, or why not.
pub(crate) type Wanted = Result<http::Request<Vec<u8>>, BuildError>;

/// Sends a request and reads the whole answer. Errors: no connection; the server's refusal ([`Error::Api`]).
pub(crate) fn ask(client: &Client, wanted: Wanted) -> BoxFuture<'static, Result<Bytes, Error>> {
    let client = client.clone();
    Box::pin(async move { Ok(opened(&client, wanted).await?.into_body().collect().await?.to_bytes()) })
}

/// Sends a request and gives the answer as soon as it begins.
pub(crate) fn open(client: &Client, wanted: Wanted) -> BoxFuture<'static, Result<Response<Body>, Error>> {
    let client = client.clone();
    Box::pin(async move { opened(&client, wanted).await })
}

async fn opened(client: &Client, wanted: Wanted) -> Result<Response<Body>, Error> {
    let request = wanted.map_err(Error::BuildRequest)?;
    let answer = client.send(request.map(Body::from)).await?;
    let code = answer.status();
    if !(code.is_client_error() || code.is_server_error()) {
        return Ok(answer);
    }
    let body = answer.into_body().collect().await?.to_bytes();
    Err(Error::Api(Box::new(refusal(&body, code.as_u16()))))
}

fn refusal(body: &[u8], code: u16) -> Status {
    serde_json::from_slice(body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(body);
        Status::failure(text.trim(), "Failed to parse error data").with_code(code)
    })
}

/// A list's own data, and its items unread.
pub(crate) fn list(json: &[u8]) -> Result<(ListMeta, Vec<&[u8]>), Error> {
    let broken = || Error::SerdeError(serde_json::Error::custom("this is not a list"));
    let (mut meta, mut items) = (ListMeta::default(), Vec::new());
    for (name, value) in spans::members(json).ok_or_else(broken)? {
        match name {
            b"metadata" => meta = serde_json::from_slice(value).map_err(Error::SerdeError)?,
            b"items" => items = spans::elements(value).ok_or_else(broken)?,
            _ => {}
        }
    }
    Ok((meta, items))
}
