//! A download over a WebSocket: a log as messages, for clients that cannot read a body as it comes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::{SinkExt, Stream, StreamExt};
use http::{HeaderMap, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::upgrade;
use crate::websocket::{LINGER, normal_close, start};

/// What was agreed on with a client.
#[derive(Debug, Clone, Copy)]
pub struct Download {
    /// Text messages in base64 instead of binary ones.
    base64: bool,
}

impl Download {
    /// Agrees on one of upstream's protocols (none, `binary.k8s.io`, `base64.binary.k8s.io`): the answer that switches
    /// to it, or a refusal.
    pub fn agree(headers: &HeaderMap) -> Result<(Response<()>, Self), Box<Response<String>>> {
        upgrade::download(headers).map(|(answer, base64)| (answer, Self { base64 }))
    }

    /// Sends an empty message, as upstream does, then each chunk as one, then a normal close. Ends early when
    /// the client hangs up or the chunks break off.
    pub async fn send<T, S, E>(self, io: T, mut chunks: S)
    where
        T: AsyncRead + AsyncWrite + Unpin,
        S: Stream<Item = Result<Bytes, E>> + Unpin,
    {
        let (mut sink, mut incoming) = start(io).await.split();
        let mut hung_up = std::pin::pin!(async { while let Some(Ok(_)) = incoming.next().await {} });
        let sending = async {
            sink.send(self.message(Bytes::new())).await?;
            while let Some(Ok(chunk)) = chunks.next().await {
                sink.send(self.message(chunk)).await?;
            }
            sink.send(normal_close()).await
        };
        tokio::select! {
            sent = sending => match sent {
                Ok(()) => drop(tokio::time::timeout(LINGER, &mut hung_up).await),
                Err(error) => tracing::debug!(%error, "a download's websocket cannot be written"),
            },
            () = &mut hung_up => {}
        }
    }

    fn message(self, bytes: Bytes) -> Message {
        if self.base64 { Message::text(BASE64.encode(&bytes)) } else { Message::binary(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    #[tokio::test]
    async fn chunks_become_messages() {
        let binary = |text: &'static str| Message::binary(text.as_bytes());
        for (base64, expected) in [
            (false, [binary(""), binary("one\n"), binary("two")]),
            (true, [Message::text(""), Message::text("b25lCg=="), Message::text("dHdv")]),
        ] {
            let (near, far) = tokio::io::duplex(1024);
            let chunks = ["one\n", "two"].map(|text| Ok::<_, std::io::Error>(Bytes::from(text)));
            let sending = tokio::spawn(Download { base64 }.send(near, futures::stream::iter(chunks)));
            let mut client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
            for message in expected {
                assert_eq!(client.next().await.unwrap().unwrap(), message);
            }
            assert!(matches!(client.next().await, Some(Ok(Message::Close(_)))));
            drop(client);
            sending.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_client_that_hangs_up_ends_it() {
        let (near, far) = tokio::io::duplex(1024);
        let endless = futures::stream::pending::<Result<Bytes, std::io::Error>>();
        let sending = tokio::spawn(Download { base64: false }.send(near, endless));
        drop(far);
        sending.await.unwrap();
    }
}
