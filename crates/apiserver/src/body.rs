//! The one body type of the server: whatever comes in becomes it at the door, whatever goes out is it.

use std::convert::Infallible;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use corten_api::{Result, Status};
use futures::{Stream, StreamExt};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};

/// Any error that ends a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Request and response bodies inside the server.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Largest request body: upstream's limit for one request.
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;

/// Of a body that is too large so much more is read and thrown away, for so long: a client that is still sending when the
/// answer comes may not read it (curl takes the end of its HTTP/2 stream for an error).
const MAX_DRAINED_BYTES: usize = 5 * MAX_BODY_BYTES;
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// A body that is all there.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// No body.
pub fn empty() -> Body {
    full(Bytes::new())
}

/// A body of any other type, boxed.
pub fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// A body made of chunks as they come.
pub fn stream<S>(chunks: S) -> Body
where
    S: Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
{
    StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data))).boxed_unsync()
}

/// Reads a whole request body.
///
/// Errors: 413 when it is larger than [`MAX_BODY_BYTES`], 400 when the client breaks off.
pub async fn read_all(mut body: Body) -> Result<Bytes> {
    if body_hint(&body) > MAX_BODY_BYTES as u64 {
        return Err(too_large(body).await);
    }
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Status::bad_request(format!("reading the request body: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        match (&first, rest.is_empty()) {
            (None, true) => first = Some(data),
            (Some(one), true) => {
                rest.extend_from_slice(one);
                rest.extend_from_slice(&data);
            }
            _ => rest.extend_from_slice(&data),
        }
        if rest.len().max(first.as_ref().map_or(0, Bytes::len)) > MAX_BODY_BYTES {
            return Err(too_large(body).await);
        }
    }
    Ok(if rest.is_empty() { first.unwrap_or_default() } else { rest.freeze() })
}

fn body_hint(body: &Body) -> u64 {
    http_body::Body::size_hint(body).lower()
}

async fn too_large(mut body: Body) -> Box<Status> {
    let drained = async {
        let mut left = MAX_DRAINED_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            let Some(rest) = left.checked_sub(bytes) else { return };
            left = rest;
        }
    };
    // Whether it came to its end or not, the answer is the same.
    let _ = tokio::time::timeout(DRAIN_TIME, drained).await;
    Status::too_large(format!("Request entity too large: limit is {MAX_BODY_BYTES}"))
}
