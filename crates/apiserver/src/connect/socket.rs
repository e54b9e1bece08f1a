//! Logs over a WebSocket: the kubelet is asked for a body as ever, the client gets its pieces as messages.

use corten_api::{Result, Status};
use corten_streaming::Download;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::ApiServer;
use crate::body::{Body, empty};

/// A WebSocket that a client has asked for.
pub(super) struct Socket {
    head: Response<()>,
    download: Download,
    client: OnUpgrade,
}

impl Socket {
    /// Takes the wish for a WebSocket out of a request, which becomes a plain one.
    ///
    /// Errors: 400 for a handshake with which nothing can be agreed.
    pub(super) fn take(request: &mut Request<Body>) -> Result<Option<Self>> {
        if !corten_streaming::is_websocket(request.headers()) {
            return Ok(None);
        }
        let agreed = Download::agree(request.headers());
        let (head, download) = agreed.map_err(|refusal| Status::bad_request(refusal.into_body()))?;
        let client = request.extensions_mut().remove::<OnUpgrade>();
        let client = client.ok_or_else(|| Status::bad_request("this connection cannot be upgraded"))?;
        let of_the_handshake = [
            CONNECTION,
            UPGRADE,
            SEC_WEBSOCKET_EXTENSIONS,
            SEC_WEBSOCKET_KEY,
            SEC_WEBSOCKET_PROTOCOL,
            SEC_WEBSOCKET_VERSION,
        ];
        for name in of_the_handshake {
            request.headers_mut().remove(name);
        }
        Ok(Some(Self { head, download, client }))
    }

    /// The answer that switches protocols; the body of `answer` follows as messages, until the client or the
    /// server ends.
    pub(super) fn serve(self, server: &ApiServer, answer: Response<Body>) -> Response<Body> {
        let Self { head, download, client } = self;
        let ending = server.ending().clone();
        tokio::spawn(async move {
            let client = match client.await {
                Ok(client) => client,
                Err(error) => return tracing::debug!(%error, "an upgrade did not come about"),
            };
            tokio::select! {
                () = download.send(TokioIo::new(client), answer.into_body().into_data_stream()) => {}
                () = ending.cancelled() => {}
            }
        });
        head.map(|()| empty())
    }
}
