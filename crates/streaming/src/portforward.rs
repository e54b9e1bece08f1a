//! Port-forward: pairs of streams become connections to ports of a sandbox.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use crate::activity::{Activity, Watched};
use crate::backend::{ByteReader, ByteWriter, StreamBackend};
use crate::server::StreamServerConfig;
use crate::spdy::{SpdyConnection, SpdyStream};
use crate::upgrade::PortForward;
use crate::websocket::{Channels, Format, Tunnel};

/// Half-open pairs that may wait for their other stream.
const MAX_WAITING: usize = 256;
/// Most ports of one WebSocket connection: two channels each, and channels are bytes.
const MAX_PORTS: usize = 64;

/// Serves one upgraded connection until the client is done. `ports` matter only for WebSocket channels.
pub(crate) async fn serve<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    io: T,
    protocol: PortForward,
    sandbox_id: &str,
    ports: &[u16],
    backend: &dyn StreamBackend,
    config: &StreamServerConfig,
) {
    let activity = Activity::new();
    let io = Watched::new(io, activity.clone());
    let timeout = config.stream_creation_timeout;
    let session = async {
        match protocol {
            PortForward::Spdy => over_spdy(io, sandbox_id, backend, timeout).await,
            PortForward::Tunnel => over_spdy(Tunnel::new(io).await, sandbox_id, backend, timeout).await,
            PortForward::WebSocket { base64 } => over_websocket(io, base64, sandbox_id, ports, backend).await,
        }
    };
    tokio::select! {
        () = session => {}
        () = activity.idle(config.idle_timeout) => tracing::debug!("closing idle port-forward"),
    }
}

/// One connection to a port: where its bytes come from and go to.
struct Forward {
    port: u16,
    reader: ByteReader,
    writer: ByteWriter,
    error: ByteWriter,
}

impl Forward {
    async fn run(mut self, sandbox_id: &str, backend: &dyn StreamBackend) {
        let port = self.port;
        let result = match backend.port_forward(sandbox_id, port).await {
            Ok(connection) => self.copy(connection).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(cause) = result {
            tracing::debug!(sandbox_id, port, cause, "port-forward failed");
            let message = format!("error forwarding port {port} to pod {sandbox_id}: {cause}");
            let _ = self.error.write_all(message.as_bytes()).await;
        }
        let _ = self.writer.shutdown().await;
        let _ = self.error.shutdown().await;
    }

    /// Each direction's end is passed on; done when the port has said all and the client, too, or one of
    /// them is gone.
    async fn copy(&mut self, connection: Box<dyn crate::backend::ByteStream>) -> std::io::Result<()> {
        let (mut from_port, mut to_port) = tokio::io::split(connection);
        let inward = async {
            tokio::io::copy(&mut self.reader, &mut to_port).await?;
            to_port.shutdown().await
        };
        let outward = async {
            tokio::io::copy(&mut from_port, &mut self.writer).await?;
            self.writer.shutdown().await
        };
        // A port that has closed reads nothing more: waiting for the client would keep the pair for ever.
        tokio::pin!(inward, outward);
        tokio::select! {
            result = &mut outward => result,
            result = &mut inward => match result {
                Ok(()) => outward.await,
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => outward.await,
                Err(error) => Err(error),
            },
        }
    }
}

/// The first stream of a pair, waiting for the second.
struct Waiting {
    since: Instant,
    stream: SpdyStream,
    is_data: bool,
}

async fn over_spdy<T: AsyncRead + AsyncWrite + Send + 'static>(
    io: T,
    sandbox_id: &str,
    backend: &dyn StreamBackend,
    timeout: Duration,
) {
    let (connection, mut streams) = SpdyConnection::serve(io);
    let mut waiting: HashMap<String, Waiting> = HashMap::new();
    let mut running = FuturesUnordered::new();
    loop {
        let oldest = waiting.values().map(|pair| pair.since + timeout).min();
        tokio::select! {
            stream = streams.next() => match stream {
                Some(stream) => match pair_up(&mut waiting, stream) {
                    Ok(Some(forward)) => running.push(forward.run(sandbox_id, backend)),
                    Ok(None) => {}
                    Err(refused) => connection.reset(refused).await,
                },
                None => return,
            },
            Some(()) = running.next(), if !running.is_empty() => {}
            () = sleep_until(oldest) => {
                let now = Instant::now();
                let late = waiting.extract_if(|_, pair| pair.since + timeout <= now);
                for (_, pair) in late.collect::<Vec<_>>() {
                    connection.reset(pair.stream.id).await;
                }
            }
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Finds the other stream of the same request. `Err` names a stream that fits nothing.
fn pair_up(waiting: &mut HashMap<String, Waiting>, stream: SpdyStream) -> Result<Option<Forward>, u32> {
    let id = stream.id;
    let header = |name: &str| stream.headers.get(name).map(String::as_str);
    let is_data = match header("streamtype") {
        Some("data") => true,
        Some("error") => false,
        _ => return Err(id),
    };
    let port: u16 = header("port").and_then(|text| text.parse().ok()).filter(|port| *port > 0).ok_or(id)?;
    // Clients older than request ids open the error stream just before the data stream.
    let request = match header("requestid") {
        Some(request) => request.to_owned(),
        None if is_data => format!("stream {}", id.saturating_sub(2)),
        None => format!("stream {id}"),
    };
    match waiting.remove(&request) {
        None if waiting.len() < MAX_WAITING => {
            waiting.insert(request, Waiting { since: Instant::now(), stream, is_data });
            Ok(None)
        }
        None => Err(id),
        Some(first) if first.is_data == is_data => {
            waiting.insert(request, first);
            Err(id)
        }
        Some(first) => {
            let (data, error) = if is_data { (stream, first.stream) } else { (first.stream, stream) };
            Ok(Some(Forward { port, reader: data.reader, writer: data.writer, error: error.writer }))
        }
    }
}

async fn over_websocket<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    io: T,
    base64: bool,
    sandbox_id: &str,
    ports: &[u16],
    backend: &dyn StreamBackend,
) {
    let ports = &ports[..ports.len().min(MAX_PORTS)];
    let data_channels: Vec<u8> = (0u8..).step_by(2).take(ports.len()).collect();
    let (mut channels, readers) = Channels::serve(io, Format { base64, close: false }, &data_channels).await;
    let mut running = FuturesUnordered::new();
    for ((data, reader), port) in data_channels.into_iter().zip(readers).zip(ports) {
        let error = data + 1;
        for channel in [data, error] {
            channels.send(channel, port.to_le_bytes().to_vec()).await;
        }
        let (writer, error) = (channels.writer(data), channels.writer(error));
        running.push(Forward { port: *port, reader, writer, error }.run(sandbox_id, backend));
    }
    let all_done = async { while running.next().await.is_some() {} };
    let done = tokio::select! {
        () = all_done => true,
        () = channels.closed() => false,
    };
    drop(running);
    if done {
        channels.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(id: u32, headers: &[(&str, &str)]) -> SpdyStream {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        SpdyStream { id, headers, reader: Box::pin(tokio::io::empty()), writer: Box::pin(tokio::io::sink()) }
    }

    #[test]
    fn streams_find_their_other_half() {
        let mut waiting = HashMap::new();
        let mut add = |id, kind, port, request: Option<&str>| {
            let mut headers = vec![("streamtype", kind), ("port", port)];
            headers.extend(request.map(|request| ("requestid", request)));
            pair_up(&mut waiting, stream(id, &headers)).map(|pair| pair.map(|pair| pair.port))
        };
        assert_eq!(add(1, "error", "80", Some("0")), Ok(None));
        assert_eq!(add(3, "error", "81", Some("1")), Ok(None));
        assert_eq!(add(5, "error", "80", Some("0")), Err(5), "twice");
        assert_eq!(add(7, "data", "80", Some("0")), Ok(Some(80)));
        assert_eq!(add(9, "data", "81", Some("1")), Ok(Some(81)));
        assert_eq!(add(11, "data", "82", Some("2")), Ok(None));
        assert_eq!(add(13, "error", "82", Some("2")), Ok(Some(82)), "the other order");
        assert_eq!(add(15, "error", "83", None), Ok(None));
        assert_eq!(add(17, "data", "83", None), Ok(Some(83)), "without request ids");
        assert_eq!(add(19, "data", "0", Some("3")), Err(19));
        assert_eq!(add(21, "data", "65536", Some("3")), Err(21));
        assert_eq!(add(23, "other", "80", Some("3")), Err(23));
    }
}
