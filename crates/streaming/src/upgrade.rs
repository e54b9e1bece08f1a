//! Agrees with a client on a protocol, from headers alone.

use http::header::{CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Protocols that a SPDY client offers and the one that was chosen.
const STREAM_VERSION: &str = "x-stream-protocol-version";
/// Told to a client with which nothing could be agreed.
const ACCEPTED_VERSIONS: &str = "x-accepted-stream-protocol-versions";
/// The only SPDY that Kubernetes speaks.
const SPDY: &str = "SPDY/3.1";

/// How the bytes of a remote command travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RemoteCommand {
    /// Messages that begin with a channel.
    WebSocket {
        /// Text messages in base64 instead of binary ones.
        base64: bool,
        /// From version 4 on the outcome is a `Status`.
        status: bool,
        /// From version 5 on the client can close stdin.
        close: bool,
    },
    /// SPDY streams.
    Spdy {
        /// From version 4 on the outcome is a `Status`.
        status: bool,
        /// From version 3 on a terminal has a resize stream.
        resize: bool,
    },
}

/// How the bytes of a port-forward travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PortForward {
    /// Two channels a port.
    WebSocket {
        /// Text messages in base64 instead of binary ones.
        base64: bool,
    },
    /// SPDY inside binary messages.
    Tunnel,
    /// SPDY on the connection itself.
    Spdy,
}

const fn websocket(base64: bool, status: bool, close: bool) -> RemoteCommand {
    RemoteCommand::WebSocket { base64, status, close }
}

const REMOTE_COMMAND_WEBSOCKET: &[(&str, RemoteCommand)] = &[
    ("v5.channel.k8s.io", websocket(false, true, true)),
    ("v4.channel.k8s.io", websocket(false, true, false)),
    ("v4.base64.channel.k8s.io", websocket(true, true, false)),
    ("v3.channel.k8s.io", websocket(false, false, false)),
    ("v2.channel.k8s.io", websocket(false, false, false)),
    ("channel.k8s.io", websocket(false, false, false)),
    ("base64.channel.k8s.io", websocket(true, false, false)),
    ("", websocket(false, false, false)),
];

const REMOTE_COMMAND_SPDY: &[(&str, RemoteCommand)] = &[
    ("v5.channel.k8s.io", RemoteCommand::Spdy { status: true, resize: true }),
    ("v4.channel.k8s.io", RemoteCommand::Spdy { status: true, resize: true }),
    ("v3.channel.k8s.io", RemoteCommand::Spdy { status: false, resize: true }),
    ("v2.channel.k8s.io", RemoteCommand::Spdy { status: false, resize: false }),
    ("channel.k8s.io", RemoteCommand::Spdy { status: false, resize: false }),
];

const PORT_FORWARD_WEBSOCKET: &[(&str, PortForward)] = &[
    ("SPDY/3.1+portforward.k8s.io", PortForward::Tunnel),
    ("v4.channel.k8s.io", PortForward::WebSocket { base64: false }),
    ("v4.base64.channel.k8s.io", PortForward::WebSocket { base64: true }),
    ("", PortForward::WebSocket { base64: false }),
];

const PORT_FORWARD_SPDY: &[(&str, PortForward)] = &[("portforward.k8s.io", PortForward::Spdy)];

/// For a download: whether its messages are text in base64.
const DOWNLOAD_WEBSOCKET: &[(&str, bool)] =
    &[("", false), ("binary.k8s.io", false), ("base64.binary.k8s.io", true)];

/// True when the request asks to leave HTTP (for SPDY or WebSocket): proxies pass such a request on and then
/// only copy bytes.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE)
        && tokens(headers, CONNECTION.as_str()).any(|token| token.eq_ignore_ascii_case("upgrade"))
}

/// True when the request asks to leave HTTP for a WebSocket.
pub fn is_websocket(headers: &HeaderMap) -> bool {
    is_upgrade(headers) && wanted(headers).eq_ignore_ascii_case("websocket")
}

fn wanted(headers: &HeaderMap) -> &str {
    headers.get(UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The comma-separated items of all headers called `name`.
fn tokens<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

/// A refusal or the answer that switches protocols, with what was agreed.
pub(crate) type Agreed<P> = Result<(Response<()>, P), Box<Response<String>>>;

/// For exec and attach.
pub(crate) fn remote_command(headers: &HeaderMap) -> Agreed<RemoteCommand> {
    agree(headers, REMOTE_COMMAND_WEBSOCKET, REMOTE_COMMAND_SPDY)
}

/// For port-forward.
pub(crate) fn port_forward(headers: &HeaderMap) -> Agreed<PortForward> {
    agree(headers, PORT_FORWARD_WEBSOCKET, PORT_FORWARD_SPDY)
}

/// For a download.
pub(crate) fn download(headers: &HeaderMap) -> Agreed<bool> {
    agree_websocket(headers, DOWNLOAD_WEBSOCKET)
}

fn agree<P: Copy>(headers: &HeaderMap, websocket: &[(&str, P)], spdy: &[(&str, P)]) -> Agreed<P> {
    if is_websocket(headers) {
        agree_websocket(headers, websocket)
    } else if is_upgrade(headers) && wanted(headers).eq_ignore_ascii_case(SPDY) {
        agree_spdy(headers, spdy)
    } else {
        Err(refuse(
            StatusCode::BAD_REQUEST,
            "unable to upgrade: request is not an upgrade to SPDY/3.1 or websocket",
        ))
    }
}

/// The first protocol of the client's list that is known here.
fn choose<'a, P: Copy>(offered: &[&'a str], known: &[(&str, P)]) -> Option<(&'a str, P)> {
    offered.iter().find_map(|offer| known.iter().find(|(name, _)| name == offer).map(|(_, p)| (*offer, *p)))
}

fn agree_websocket<P: Copy>(headers: &HeaderMap, known: &[(&str, P)]) -> Agreed<P> {
    let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
    let version = headers.get("sec-websocket-version").map(HeaderValue::as_bytes);
    let (Some(key), Some(b"13")) = (key, version) else {
        return Err(refuse(StatusCode::BAD_REQUEST, "websocket handshake needs version 13 and a key"));
    };
    let mut offered: Vec<&str> = tokens(headers, SEC_WEBSOCKET_PROTOCOL.as_str()).collect();
    if offered.is_empty() {
        offered.push("");
    }
    let Some((name, protocol)) = choose(&offered, known) else {
        return Err(refuse(
            StatusCode::FORBIDDEN,
            format!("requested protocol(s) are not supported: {offered:?}"),
        ));
    };
    let mut response = switching("websocket");
    insert(&mut response, "sec-websocket-accept", &derive_accept_key(key));
    if !name.is_empty() {
        insert(&mut response, SEC_WEBSOCKET_PROTOCOL.as_str(), name);
    }
    Ok((response, protocol))
}

fn agree_spdy<P: Copy>(headers: &HeaderMap, known: &[(&str, P)]) -> Agreed<P> {
    let offered: Vec<&str> = tokens(headers, STREAM_VERSION).collect();
    if let Some((name, protocol)) = choose(&offered, known) {
        let mut response = switching(SPDY);
        insert(&mut response, STREAM_VERSION, name);
        return Ok((response, protocol));
    }
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    let mut response = refuse(
        StatusCode::FORBIDDEN,
        format!(
            "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {names:?}"
        ),
    );
    for name in names {
        response.headers_mut().append(ACCEPTED_VERSIONS, header(name));
    }
    Err(response)
}

fn switching(protocol: &str) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    insert(&mut response, CONNECTION.as_str(), "Upgrade");
    insert(&mut response, UPGRADE.as_str(), protocol);
    response
}

fn insert<B>(response: &mut Response<B>, name: &'static str, value: &str) {
    response.headers_mut().insert(http::HeaderName::from_static(name), header(value));
}

/// All values here are constants, base64, or were header values before.
fn header(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or_else(|_| HeaderValue::from_static("invalid"))
}

/// A plain refusal.
pub(crate) fn refuse(status: StatusCode, message: impl Into<String>) -> Box<Response<String>> {
    let mut response = Response::new(message.into() + "\n");
    *response.status_mut() = status;
    Box::new(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (http::HeaderName::from_static(name), header(value))).collect()
    }

    fn websocket_headers(protocols: &str) -> HeaderMap {
        let mut map = headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
        ]);
        if !protocols.is_empty() {
            map.insert(SEC_WEBSOCKET_PROTOCOL, header(protocols));
        }
        map
    }

    #[test]
    fn websocket_protocols_are_chosen_in_the_clients_order() {
        let chosen = |offer: &str| match remote_command(&websocket_headers(offer)) {
            Ok((response, protocol)) => {
                let name = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
                (response.status().as_u16(), name.map(|v| v.to_str().unwrap().to_owned()), Some(protocol))
            }
            Err(response) => (response.status().as_u16(), None, None),
        };
        let v5 = websocket(false, true, true);
        assert_eq!(chosen("v5.channel.k8s.io"), (101, Some("v5.channel.k8s.io".into()), Some(v5)));
        assert_eq!(
            chosen("nope, v4.base64.channel.k8s.io, v5.channel.k8s.io").2,
            Some(websocket(true, true, false))
        );
        assert_eq!(chosen(""), (101, None, Some(websocket(false, false, false))));
        assert_eq!(chosen("nope"), (403, None, None));
        let (response, _) = remote_command(&websocket_headers("")).unwrap();
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let tunnel = port_forward(&websocket_headers("SPDY/3.1+portforward.k8s.io")).unwrap().1;
        assert_eq!(tunnel, PortForward::Tunnel);
    }

    #[test]
    fn spdy_protocols_and_refusals() {
        let base = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
        let mut offer = headers(&base);
        for name in ["v9.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io"] {
            offer.append(STREAM_VERSION, header(name));
        }
        let (response, protocol) = remote_command(&offer).unwrap();
        assert_eq!(response.headers()[STREAM_VERSION], "v4.channel.k8s.io");
        assert_eq!(protocol, RemoteCommand::Spdy { status: true, resize: true });
        let refused = port_forward(&offer).unwrap_err();
        assert_eq!(
            (refused.status().as_u16(), &refused.headers()[ACCEPTED_VERSIONS]),
            (403, &header("portforward.k8s.io"))
        );
        assert_eq!(remote_command(&headers(&base)).unwrap_err().status(), 403);
        assert_eq!(remote_command(&HeaderMap::new()).unwrap_err().status(), 400);
        assert_eq!(remote_command(&headers(&[("upgrade", "SPDY/3.1")])).unwrap_err().status(), 400);
        let no_key = headers(&[("connection", "upgrade"), ("upgrade", "websocket")]);
        assert_eq!(remote_command(&no_key).unwrap_err().status(), 400);
    }
}
