//! WebSocket connections: channels for remote commands and port-forwards, or plain bytes for a tunnel.
//!
//! Every message starts with its channel, a byte (in the base64 protocols a digit). From version 5 on the
//! client says with channel 255 that it closes the channel named by the next byte.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Buf, Bytes};
use futures::stream::{SplitSink, SplitStream};
use futures::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};
use tokio_util::task::AbortOnDropHandle;

use crate::backend::{ByteReader, ByteWriter};
use crate::queue::{MAX_PIECE, QUEUE, QueueWriter};

/// Longest message that is taken from a client.
const MAX_MESSAGE: usize = 16 << 20;
/// Bytes of one channel that wait for their reader before the whole connection waits.
const CHANNEL_BUFFER: usize = 256 << 10;
/// Bytes that may wait inside the library before writing waits.
const MAX_WRITE_BUFFER: usize = 1 << 20;
/// How long a client may take to answer a close.
pub(crate) const LINGER: Duration = Duration::from_secs(5);
/// The channel on which clients close channels.
const CLOSE_CHANNEL: u8 = 255;

/// A WebSocket over an upgraded connection.
pub(crate) async fn start<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> WebSocketStream<T> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .max_write_buffer_size(MAX_WRITE_BUFFER)
        .write_buffer_size(0);
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// A connection of channels. Dropping it cuts the connection.
pub(crate) struct Channels {
    out: mpsc::Sender<Out>,
    reading: AbortOnDropHandle<()>,
    writing: AbortOnDropHandle<()>,
}

enum Out {
    Data(u8, Bytes),
    Close,
}

/// How messages look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Format {
    /// Text in base64 instead of bytes.
    pub base64: bool,
    /// Channel 255 closes channels.
    pub close: bool,
}

impl Channels {
    /// Serves `io`. `readable` are the channels that the client may write; their readers come back in order.
    pub async fn serve<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        io: T,
        format: Format,
        readable: &[u8],
    ) -> (Self, Vec<ByteReader>) {
        let (sink, stream) = start(io).await.split();
        let (out, queue) = mpsc::channel(QUEUE);
        let mut pipes: Vec<Option<DuplexStream>> = Vec::new();
        let mut readers: Vec<ByteReader> = Vec::new();
        for channel in readable {
            let (near, far) = tokio::io::duplex(CHANNEL_BUFFER);
            let index = usize::from(*channel);
            pipes.resize_with(pipes.len().max(index + 1), || None);
            pipes[index] = Some(near);
            readers.push(Box::pin(far));
        }
        let reading = tokio::spawn(read_messages(stream, format, pipes));
        let writing = tokio::spawn(async move {
            if let Err(error) = write_messages(sink, queue, format).await {
                tracing::debug!(%error, "websocket cannot be written");
            }
        });
        let channels =
            Self { out, reading: AbortOnDropHandle::new(reading), writing: AbortOnDropHandle::new(writing) };
        (channels, readers)
    }

    /// Writes to a channel. Channels have no end of their own.
    pub fn writer(&self, channel: u8) -> ByteWriter {
        let piece = move |bytes| Out::Data(channel, bytes);
        Box::pin(QueueWriter::new(self.out.clone(), piece, None, Arc::new(AtomicBool::new(false))))
    }

    /// Sends one message, empty ones too.
    pub async fn send(&self, channel: u8, bytes: impl Into<Bytes>) {
        let _ = self.out.send(Out::Data(channel, bytes.into())).await;
    }

    /// Ends when the client has hung up.
    pub async fn closed(&mut self) {
        let _ = (&mut self.reading).await;
    }

    /// Sends what is queued and a normal close, and waits a moment for the client's.
    pub async fn close(mut self) {
        if self.out.send(Out::Close).await.is_ok() {
            let _ = tokio::time::timeout(LINGER, async {
                let _ = (&mut self.writing).await;
                let _ = (&mut self.reading).await;
            })
            .await;
        }
    }
}

async fn read_messages<T: AsyncRead + AsyncWrite + Unpin>(
    mut stream: SplitStream<WebSocketStream<T>>,
    format: Format,
    mut pipes: Vec<Option<DuplexStream>>,
) {
    while let Some(message) = stream.next().await {
        let message = match message {
            Ok(Message::Binary(bytes)) => bytes,
            Ok(Message::Text(text)) => Bytes::from(text),
            Ok(_) => continue,
            Err(error) => {
                tracing::debug!(%error, "websocket ended");
                return;
            }
        };
        if !deliver(&message, format, &mut pipes).await {
            return;
        }
    }
}

/// Puts a message into its channel's pipe; what goes nowhere is dropped, as upstream does. False when the
/// message breaks the protocol.
async fn deliver(message: &[u8], format: Format, pipes: &mut [Option<DuplexStream>]) -> bool {
    let Some((first, data)) = message.split_first() else { return true };
    if format.close && *first == CLOSE_CHANNEL {
        if let Some(pipe) = data.first().and_then(|channel| pipes.get_mut(usize::from(*channel))) {
            *pipe = None;
        }
        return true;
    }
    let channel = if format.base64 { first.wrapping_sub(b'0') } else { *first };
    let Some(slot) = pipes.get_mut(usize::from(channel)) else { return true };
    let Some(pipe) = slot else { return true };
    let decoded;
    let bytes = if format.base64 {
        let Ok(bytes) = BASE64.decode(data) else { return false };
        decoded = bytes;
        &decoded[..]
    } else {
        data
    };
    if pipe.write_all(bytes).await.is_err() {
        *slot = None;
    }
    true
}

fn encode(channel: u8, bytes: &[u8], base64: bool) -> Message {
    if base64 {
        let mut text = String::from(char::from(b'0' + channel));
        BASE64.encode_string(bytes, &mut text);
        return Message::text(text);
    }
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(channel);
    message.extend_from_slice(bytes);
    Message::binary(message)
}

/// The message that ends a connection in order.
pub(crate) fn normal_close() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

async fn write_messages<T: AsyncRead + AsyncWrite + Unpin>(
    mut sink: SplitSink<WebSocketStream<T>, Message>,
    mut queue: mpsc::Receiver<Out>,
    format: Format,
) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    while let Some(out) = queue.recv().await {
        match out {
            Out::Data(channel, bytes) => sink.send(encode(channel, &bytes, format.base64)).await?,
            Out::Close => break,
        }
    }
    sink.send(normal_close()).await
}

/// The bytes inside binary messages, as one stream: a tunnel for another protocol.
pub(crate) struct Tunnel<T> {
    socket: WebSocketStream<T>,
    pending: Bytes,
    closing: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Tunnel<T> {
    /// Over an upgraded connection.
    pub async fn new(io: T) -> Self {
        Self { socket: start(io).await, pending: Bytes::new(), closing: false }
    }
}

fn failed(error: tokio_tungstenite::tungstenite::Error) -> io::Error {
    match error {
        tokio_tungstenite::tungstenite::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.pending.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(Message::Binary(bytes))) => self.pending = bytes,
                Some(Ok(Message::Text(_))) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "text in a tunnel")));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(failed(error))),
            }
        }
        let length = self.pending.len().min(buffer.remaining());
        buffer.put_slice(&self.pending[..length]);
        self.pending.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(failed)?;
        let length = bytes.len().min(MAX_PIECE);
        let message = Message::binary(bytes[..length].to_vec());
        Pin::new(&mut self.socket).start_send(message).map_err(failed)?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(failed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing {
            ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(failed)?;
            self.closing = true;
            Pin::new(&mut self.socket).start_send(normal_close()).map_err(failed)?;
        }
        Pin::new(&mut self.socket).poll_flush(cx).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn messages_reach_their_channels() {
        let raw = Format { base64: false, close: true };
        let old = Format { base64: false, close: false };
        let text = Format { base64: true, close: false };
        // (format, messages, what channel 0 receives, whether it is closed, whether all was well)
        let cases: &[(Format, &[&[u8]], &[u8], bool, bool)] = &[
            (raw, &[b"\0ab", b"\0c", b""], b"abc", false, true),
            (raw, &[b"\0ab", b"\xff\0", b"\0late"], b"ab", true, true),
            (old, &[b"\xff\0", b"\0x"], b"x", false, true),
            (raw, &[b"\x01x", b"\x09y", b"\xff", b"\xff\x07", b"\0z"], b"z", false, true),
            (text, &[b"0Zm9v", b"0"], b"foo", false, true),
            (text, &[b"0!!"], b"", false, false),
        ];
        for (format, messages, want, closed, well) in cases {
            let (near, mut far) = tokio::io::duplex(1024);
            let mut pipes = vec![Some(near), None];
            let mut all_well = true;
            for message in *messages {
                all_well &= deliver(message, *format, &mut pipes).await;
            }
            assert_eq!((pipes[0].is_none(), all_well), (*closed, *well), "{messages:?}");
            drop(pipes);
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, *want, "{messages:?}");
        }
    }

    #[test]
    fn messages_as_bytes() {
        assert_eq!(encode(1, b"\n", false), Message::binary(&b"\x01\n"[..]));
        assert_eq!(encode(1, b"\n", true), Message::text("1Cg=="));
        assert_eq!(encode(3, b"", false), Message::binary(&b"\x03"[..]));
    }
}
