//! A connection served: one task reads frames into the pipes of streams, one writes what they send.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, DuplexStream};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::frame::{ControlFrame, FrameError, FrameHeader, HeaderBlocks, flags};
use crate::backend::{ByteReader, ByteWriter};
use crate::queue::{QUEUE, QueueWriter};

/// Streams open at once; a port-forward has two for each connection.
const MAX_STREAMS: usize = 1024;
/// Bytes of one stream that wait for their reader before the whole connection waits.
const STREAM_BUFFER: usize = 256 << 10;
/// Acknowledge after so many bytes: half of SPDY's initial window.
const ACKNOWLEDGE: u32 = 32 << 10;
/// New streams that wait to be looked at.
const NEW_STREAMS: usize = 16;
/// How long a client may take to hang up after everything was sent.
const LINGER: Duration = Duration::from_secs(5);
/// SPDY's number for "try again elsewhere".
const REFUSED_STREAM: u32 = 3;
/// SPDY's number for a broken protocol.
const PROTOCOL_ERROR: u32 = 1;

/// A stream that the client opened, already accepted.
pub struct SpdyStream {
    /// Its number.
    pub id: u32,
    /// Its headers, names in lower case.
    pub headers: HashMap<String, String>,
    /// What the client sends; ends with its half-close.
    pub reader: ByteReader,
    /// What the client receives; shutdown or drop is a half-close.
    pub writer: ByteWriter,
}

/// New streams, in the order of opening; ends with the connection.
pub struct Streams(mpsc::Receiver<SpdyStream>);

impl Streams {
    /// The next stream, or `None` when the client is gone.
    pub async fn next(&mut self) -> Option<SpdyStream> {
        self.0.recv().await
    }
}

/// The server's side of a connection. Dropping it cuts the connection.
pub struct SpdyConnection {
    out: mpsc::Sender<Out>,
    reading: AbortOnDropHandle<()>,
    writing: AbortOnDropHandle<()>,
}

enum Out {
    Data(u32, Bytes),
    Fin(u32),
    Control(ControlFrame),
    Close,
}

impl SpdyConnection {
    /// Serves `io`, which must just have been upgraded.
    pub fn serve<T: AsyncRead + AsyncWrite + Send + 'static>(io: T) -> (Self, Streams) {
        let (read, write) = tokio::io::split(io);
        let (out, queue) = mpsc::channel(QUEUE);
        let (opened, streams) = mpsc::channel(NEW_STREAMS);
        let reader = Reader {
            io: BufReader::with_capacity(64 << 10, read),
            blocks: HeaderBlocks::new(),
            streams: HashMap::new(),
            last_stream: 0,
            unacknowledged: 0,
            opened,
            out: out.clone(),
        };
        let reading = tokio::spawn(async move {
            if let Err(error) = reader.run().await {
                tracing::debug!(%error, "SPDY connection ended");
            }
        });
        let writing = tokio::spawn(async move {
            if let Err(error) = write_frames(write, queue).await {
                tracing::debug!(%error, "SPDY connection cannot be written");
            }
        });
        let connection =
            Self { out, reading: AbortOnDropHandle::new(reading), writing: AbortOnDropHandle::new(writing) };
        (connection, Streams(streams))
    }

    /// Ends a stream both ways because the client used it wrongly.
    pub async fn reset(&self, stream: u32) {
        let status = PROTOCOL_ERROR;
        let _ = self.out.send(Out::Control(ControlFrame::RstStream { stream, status })).await;
    }

    /// Ends when the client has hung up.
    pub async fn closed(&mut self) {
        let _ = (&mut self.reading).await;
    }

    /// Sends what is queued, then gives the client a moment to hang up first: cutting the connection with
    /// bytes unread would destroy what is still on its way.
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

/// The receiving half of a stream.
struct Inbound {
    /// `None` once the client has half-closed it, or nobody reads.
    pipe: Option<DuplexStream>,
    unacknowledged: u32,
    reset: Arc<AtomicBool>,
}

struct Reader<T> {
    io: BufReader<T>,
    blocks: HeaderBlocks,
    streams: HashMap<u32, Inbound>,
    last_stream: u32,
    unacknowledged: u32,
    opened: mpsc::Sender<SpdyStream>,
    out: mpsc::Sender<Out>,
}

fn invalid(error: FrameError) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, error)
}

impl<T: AsyncRead + Unpin> Reader<T> {
    async fn run(mut self) -> std::io::Result<()> {
        let mut header = [0; 8];
        loop {
            match self.io.read_exact(&mut header).await {
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                result => result?,
            };
            match FrameHeader::parse(header).map_err(invalid)? {
                FrameHeader::Data { stream, flags, length } => {
                    self.data(stream, length).await?;
                    if flags & flags::FIN != 0 {
                        self.half_closed(stream);
                    }
                }
                FrameHeader::Control { kind, flags, length } => {
                    let mut body = vec![0; length];
                    self.io.read_exact(&mut body).await?;
                    let frame = self.blocks.parse(kind, flags, &body).map_err(invalid)?;
                    self.control(frame).await;
                }
            }
        }
    }

    /// Passes a data frame on piece by piece: clients make them up to 16 MiB long.
    async fn data(&mut self, stream: u32, length: usize) -> std::io::Result<()> {
        let mut rest = length;
        while rest > 0 {
            let piece = tokio::io::AsyncBufReadExt::fill_buf(&mut self.io).await?;
            if piece.is_empty() {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let length = piece.len().min(rest);
            if let Some(inbound) = self.streams.get_mut(&stream)
                && let Some(pipe) = &mut inbound.pipe
                && pipe.write_all(&piece[..length]).await.is_err()
            {
                inbound.pipe = None;
            }
            tokio::io::AsyncBufReadExt::consume(&mut self.io, length);
            rest -= length;
        }
        self.acknowledge(stream, length as u32).await;
        Ok(())
    }

    async fn acknowledge(&mut self, stream: u32, length: u32) {
        self.unacknowledged += length;
        if self.unacknowledged >= ACKNOWLEDGE {
            let delta = std::mem::take(&mut self.unacknowledged);
            self.send(ControlFrame::WindowUpdate { stream: 0, delta }).await;
        }
        let Some(inbound) = self.streams.get_mut(&stream) else { return };
        inbound.unacknowledged += length;
        if inbound.unacknowledged >= ACKNOWLEDGE {
            let delta = std::mem::take(&mut inbound.unacknowledged);
            self.send(ControlFrame::WindowUpdate { stream, delta }).await;
        }
    }

    async fn send(&mut self, frame: ControlFrame) {
        // A dead writer means that the connection is at its end; reading finds out by itself.
        let _ = self.out.send(Out::Control(frame)).await;
    }

    fn half_closed(&mut self, stream: u32) {
        if let Some(inbound) = self.streams.get_mut(&stream) {
            inbound.pipe = None;
        }
    }

    async fn control(&mut self, frame: ControlFrame) {
        match frame {
            ControlFrame::SynStream { stream, headers, fin } => self.open(stream, headers, fin).await,
            ControlFrame::RstStream { stream, .. } => {
                if let Some(inbound) = self.streams.remove(&stream) {
                    inbound.reset.store(true, Ordering::Relaxed);
                }
            }
            // Odd numbers are the client's pings, even ones would answer ours.
            ControlFrame::Ping(id) if id % 2 == 1 => self.send(ControlFrame::Ping(id)).await,
            ControlFrame::Headers { stream, fin: true, .. } => self.half_closed(stream),
            _ => {}
        }
    }

    async fn open(&mut self, stream: u32, headers: Vec<(String, String)>, fin: bool) {
        if stream.is_multiple_of(2) || stream <= self.last_stream {
            return self.send(ControlFrame::RstStream { stream, status: PROTOCOL_ERROR }).await;
        }
        self.last_stream = stream;
        self.streams.retain(|_, inbound| inbound.pipe.is_some() || Arc::strong_count(&inbound.reset) > 1);
        if self.streams.len() >= MAX_STREAMS {
            return self.send(ControlFrame::RstStream { stream, status: REFUSED_STREAM }).await;
        }
        self.send(ControlFrame::SynReply { stream, headers: Vec::new(), fin: false }).await;
        let (near, far) = tokio::io::duplex(STREAM_BUFFER);
        let reset = Arc::new(AtomicBool::new(false));
        let writer = QueueWriter::new(
            self.out.clone(),
            move |bytes| Out::Data(stream, bytes),
            Some(Out::Fin(stream)),
            Arc::clone(&reset),
        );
        let pipe = (!fin).then_some(near);
        self.streams.insert(stream, Inbound { pipe, unacknowledged: 0, reset });
        let headers = headers.into_iter().collect();
        let opened = SpdyStream { id: stream, headers, reader: Box::pin(far), writer: Box::pin(writer) };
        // Nobody wants streams any more: the connection is about to be closed.
        let _ = self.opened.send(opened).await;
    }
}

async fn write_frames<T: AsyncWrite + Unpin>(
    mut io: T,
    mut queue: mpsc::Receiver<Out>,
) -> std::io::Result<()> {
    let mut blocks = HeaderBlocks::new();
    let mut bytes = BytesMut::new();
    while let Some(first) = queue.recv().await {
        let mut next = Some(first);
        let mut closing = false;
        while let Some(out) = next.take() {
            match out {
                Out::Data(stream, piece) => {
                    FrameHeader::put_data(&mut bytes, stream, 0, piece.len());
                    bytes.extend_from_slice(&piece);
                }
                Out::Fin(stream) => FrameHeader::put_data(&mut bytes, stream, flags::FIN, 0),
                Out::Control(frame) => blocks.put(&mut bytes, &frame).map_err(invalid)?,
                Out::Close => closing = true,
            }
            // What is waiting goes out in one write.
            if !closing && bytes.len() < 64 << 10 {
                next = queue.try_recv().ok();
            }
        }
        io.write_all(&bytes).await?;
        bytes.clear();
        if closing {
            break;
        }
        io.flush().await?;
    }
    io.shutdown().await
}
