//! A byte writer whose bytes become messages of a shared connection.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

/// Most bytes of one message: small enough that streams of one connection take turns.
pub(crate) const MAX_PIECE: usize = 32 << 10;
/// Messages that wait for the connection before writers wait; with `MAX_PIECE` a bound of half a megabyte.
pub(crate) const QUEUE: usize = 16;

/// Writes pieces into the queue of a connection's write loop.
pub(crate) struct QueueWriter<T: Send + 'static> {
    queue: PollSender<T>,
    piece: Box<dyn Fn(Bytes) -> T + Send>,
    end: Option<T>,
    closed: Arc<AtomicBool>,
}

impl<T: Send + 'static> QueueWriter<T> {
    /// `piece` wraps bytes, `end` is sent on shutdown; writing fails once `closed` is set.
    pub fn new(
        queue: mpsc::Sender<T>,
        piece: impl Fn(Bytes) -> T + Send + 'static,
        end: Option<T>,
        closed: Arc<AtomicBool>,
    ) -> Self {
        Self { queue: PollSender::new(queue), piece: Box::new(piece), end, closed }
    }
}

impl<T: Send + 'static> Drop for QueueWriter<T> {
    /// A writer that is only dropped ends its stream, too.
    fn drop(&mut self) {
        let (Some(end), Some(queue)) = (self.end.take(), self.queue.get_ref()) else { return };
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        let queue = queue.clone();
        if let Err(mpsc::error::TrySendError::Full(end)) = queue.try_send(end)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { queue.send(end).await });
        }
    }
}

fn broken() -> std::io::Error {
    std::io::ErrorKind::BrokenPipe.into()
}

impl<T: Send + Unpin + 'static> AsyncWrite for QueueWriter<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if self.closed.load(Ordering::Relaxed) {
            return Poll::Ready(Err(broken()));
        }
        ready!(self.queue.poll_reserve(cx)).map_err(|_| broken())?;
        let length = bytes.len().min(MAX_PIECE);
        let message = (self.piece)(Bytes::copy_from_slice(&bytes[..length]));
        self.queue.send_item(message).map_err(|_| broken())?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.end.is_some() && !self.closed.load(Ordering::Relaxed) {
            ready!(self.queue.poll_reserve(cx)).map_err(|_| broken())?;
            if let Some(end) = self.end.take() {
                self.queue.send_item(end).map_err(|_| broken())?;
            }
        }
        Poll::Ready(Ok(()))
    }
}
