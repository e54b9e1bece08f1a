//! The `proxy` subresource of pods, services and nodes: the request goes on as it came, and what is answered works for a
//! client that sees the target below the proxy's path.

use std::io::Write;

use bytes::Bytes;
use corten_api::{Result, Status};
use flate2::Compression;
use flate2::write::{GzDecoder, GzEncoder};
use futures::stream::try_unfold;
use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, LOCATION, UPGRADE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;

use super::links::{Rewriter, Way};
use super::pass;
use super::target::Target;
use crate::ApiServer;
use crate::audit::Remote;
use crate::body::{Body, BoxError, empty, stream};
use crate::call::Call;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
/// What a target allows to pages of others is not what this server allows.
const CORS: [&str; 4] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
];

/// Passes on what is asked of a proxy.
pub(super) async fn proxy(
    server: &ApiServer,
    call: &Call,
    target: Target,
    mut request: Request<Body>,
) -> Result<Response<Body>> {
    if let Some(slash) = slash(call, &request) {
        let moved = Response::builder().status(StatusCode::MOVED_PERMANENTLY).header(LOCATION, slash);
        return moved.body(empty()).map_err(Status::internal);
    }
    let full = request.uri().path();
    let prefix = full.strip_suffix(call.info.tail.as_str()).unwrap_or(full).to_owned();
    let way = Way { prefix, target: target.authority(), asked: asked(&request) };
    let path = path(call);
    introduce(&mut request, &way, &path)?;
    let path = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut response = pass(server, target, &path, request, true).await?;
    for name in CORS {
        response.headers_mut().remove(name);
    }
    Ok(lead(response, way))
}

/// Relative links need the slash at the end, so who reads without it is sent there. Other methods go on: their bodies
/// would be lost on the way.
fn slash(call: &Call, request: &Request<Body>) -> Option<String> {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if !call.info.tail.is_empty() || !reads || request.headers().contains_key(UPGRADE) {
        return None;
    }
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    Some(format!("{}/{query}", request.uri().path()))
}

/// The path as the client wrote it.
fn path(call: &Call) -> String {
    if call.info.tail.is_empty() { "/".to_owned() } else { call.info.tail.clone() }
}

/// The host that the client asked: HTTP/2 has it in the address.
fn asked(request: &Request<Body>) -> String {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    host.or(request.uri().authority().map(|authority| authority.as_str())).unwrap_or_default().to_owned()
}

/// Tells the target who asks for what: the host stays the one that the client asked.
fn introduce(request: &mut Request<Body>, way: &Way, path: &str) -> Result<()> {
    let value = |text: &str| HeaderValue::from_str(text).map_err(Status::internal);
    let from = request.extensions().get::<Remote>().map(|remote| remote.0.to_string());
    let headers = request.headers_mut();
    let before = headers.get_all(FORWARDED_FOR).iter().filter_map(|header| header.to_str().ok());
    let all = before.map(str::to_owned).chain(from).collect::<Vec<_>>().join(", ");
    if !all.is_empty() {
        headers.insert(FORWARDED_FOR, value(&all)?);
    }
    headers.insert(FORWARDED_URI, value(&format!("{}{path}", way.prefix))?);
    let host = if way.asked.is_empty() { &way.target } else { &way.asked };
    headers.insert(HOST, value(host)?);
    Ok(())
}

/// Leads redirects and the links of HTML through the proxy.
fn lead(mut response: Response<Body>, way: Way) -> Response<Body> {
    if let Some(location) = response.headers().get(LOCATION) {
        let through = location.to_str().ok().and_then(|location| way.through(location));
        if let Some(value) = through.and_then(|location| HeaderValue::from_str(&location).ok()) {
            response.headers_mut().insert(LOCATION, value);
        }
        return response;
    }
    if response.body().is_end_stream() {
        return response;
    }
    let Some(page) = Page::of(response.headers(), way) else { return response };
    response.headers_mut().remove(CONTENT_LENGTH);
    response.map(|body| rewritten(body, page))
}

/// HTML on its way. Of the encodings only gzip is opened, the one that servers choose; pages in others pass as they are.
enum Page {
    Plain(Rewriter<Vec<u8>>),
    /// Never more than a piece of the text is unpacked: what it becomes is packed at once.
    Gzip(Box<GzDecoder<Rewriter<GzEncoder<Vec<u8>>>>>),
}

impl Page {
    fn of(headers: &HeaderMap, way: Way) -> Option<Page> {
        let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default());
        let kind = text(CONTENT_TYPE)?.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("text/html") {
            return None;
        }
        match text(CONTENT_ENCODING).unwrap_or_default() {
            "" => Some(Page::Plain(Rewriter::new(Vec::new(), way))),
            "gzip" => {
                let packed = GzEncoder::new(Vec::new(), Compression::fast());
                Some(Page::Gzip(Box::new(GzDecoder::new(Rewriter::new(packed, way)))))
            }
            _ => None,
        }
    }

    /// Takes a piece of the answer and gives what is ready of the page.
    fn write(&mut self, piece: &[u8]) -> std::io::Result<Bytes> {
        let ready = match self {
            Page::Plain(page) => {
                page.write_all(piece)?;
                page.out()
            }
            Page::Gzip(page) => {
                page.write_all(piece)?;
                page.flush()?;
                page.get_mut().out().get_mut()
            }
        };
        Ok(std::mem::take(ready).into())
    }

    fn finish(self) -> std::io::Result<Bytes> {
        let rest = match self {
            Page::Plain(page) => page.finish()?,
            Page::Gzip(page) => page.finish()?.finish()?.finish()?,
        };
        Ok(rest.into())
    }
}

fn rewritten(body: Body, page: Page) -> Body {
    let pieces = try_unfold(Some((body, page)), |state| async move {
        let Some((mut body, mut page)) = state else { return Ok(None) };
        match body.frame().await {
            Some(frame) => {
                let piece = frame?.into_data().unwrap_or_default();
                let ready = page.write(&piece)?;
                Ok::<_, BoxError>(Some((ready, Some((body, page)))))
            }
            None => Ok(Some((page.finish()?, None))),
        }
    });
    stream(pieces)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::body::full;

    fn way() -> Way {
        Way { prefix: "/P".into(), target: "10.0.0.1:80".into(), asked: "x".into() }
    }

    async fn led(headers: &[(HeaderName, &str)], body: Vec<u8>) -> (HeaderMap, Vec<u8>) {
        let mut response = Response::new(full(body));
        for (name, value) in headers {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        let (parts, body) = lead(response, way()).into_parts();
        (parts.headers, body.collect().await.unwrap().to_bytes().to_vec())
    }

    const PAGE: &str = r#"<a href="/rewriteme">test</a>"#;

    #[tokio::test]
    async fn pages_are_rewritten_and_nothing_else() {
        let html = (CONTENT_TYPE, "text/html; charset=utf-8");
        let length = (CONTENT_LENGTH, "29");
        let (headers, page) = led(&[html.clone(), length.clone()], PAGE.into()).await;
        assert_eq!(String::from_utf8(page).unwrap(), r#"<a href="/P/rewriteme">test</a>"#);
        assert!(!headers.contains_key(CONTENT_LENGTH));
        for headers in [
            vec![(CONTENT_TYPE, "text/plain"), length.clone()],
            vec![(CONTENT_ENCODING, "br"), html.clone(), length],
        ] {
            let (answered, page) = led(&headers, PAGE.into()).await;
            assert_eq!((page.as_slice(), answered.len()), (PAGE.as_bytes(), headers.len()));
        }
        let (headers, _) = led(&[(LOCATION, "http://10.0.0.1:80/a")], Vec::new()).await;
        assert_eq!(headers[LOCATION], "/P/a");
    }

    #[tokio::test]
    async fn packed_pages_stay_packed() {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(PAGE.as_bytes()).unwrap();
        let headers = [(CONTENT_TYPE, "text/html"), (CONTENT_ENCODING, "gzip")];
        let (answered, page) = led(&headers, packed.finish().unwrap()).await;
        assert_eq!(answered[CONTENT_ENCODING], "gzip");
        let mut text = String::new();
        flate2::read::GzDecoder::new(&*page).read_to_string(&mut text).unwrap();
        assert_eq!(text, r#"<a href="/P/rewriteme">test</a>"#);
        // What is cut off is an error, not a shorter page.
        let cut = Response::builder().header(CONTENT_TYPE, "text/html").header(CONTENT_ENCODING, "gzip");
        let cut = lead(cut.body(full(&b"\x1f\x8b\x08"[..])).unwrap(), way());
        assert!(cut.into_body().collect().await.is_err());
    }
}
