//! Exec and attach: the streams that a client opened become a [`Session`], the end becomes a status.

use std::collections::HashMap;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::activity::{Activity, Watched};
use crate::backend::{ByteReader, ByteWriter, Session, StreamBackend, TerminalSize};
use crate::server::{StreamServerConfig, Wanted};
use crate::spdy::{SpdyConnection, SpdyStream, Streams};
use crate::status::Outcome;
use crate::upgrade::RemoteCommand;
use crate::websocket::{Channels, Format};

/// Channels of WebSocket connections, by their meaning.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Sizes that wait for the backend.
const SIZES: usize = 4;
/// Longest JSON text of one size.
const MAX_SIZE_TEXT: usize = 4096;

/// What is to be run.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// A command in a container.
    Exec { container_id: String, command: Vec<String> },
    /// A container's main process.
    Attach { container_id: String },
}

/// The streams of a client, whatever carries them.
struct Pipes {
    stdin: Option<ByteReader>,
    stdout: Option<ByteWriter>,
    stderr: Option<ByteWriter>,
    resize: Option<ByteReader>,
    error: ByteWriter,
    as_status: bool,
}

/// Serves one upgraded connection until the command or the client is done.
pub(crate) async fn serve<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    io: T,
    protocol: RemoteCommand,
    target: Target,
    wanted: Wanted,
    backend: &dyn StreamBackend,
    config: &StreamServerConfig,
) {
    let activity = Activity::new();
    let io = Watched::new(io, activity.clone());
    let session = async {
        match protocol {
            RemoteCommand::WebSocket { base64, status, close } => {
                over_websocket(io, Format { base64, close }, status, target, wanted, backend).await;
            }
            RemoteCommand::Spdy { status, resize } => {
                let resize = resize && wanted.tty;
                over_spdy(io, status, resize, target, wanted, backend, config.stream_creation_timeout).await;
            }
        }
    };
    tokio::select! {
        () = session => {}
        () = activity.idle(config.idle_timeout) => tracing::debug!("closing idle remote command"),
    }
}

async fn over_websocket<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    io: T,
    format: Format,
    as_status: bool,
    target: Target,
    wanted: Wanted,
    backend: &dyn StreamBackend,
) {
    let readable: &[u8] = if wanted.stdin { &[RESIZE, STDIN] } else { &[RESIZE] };
    let (mut channels, mut readers) = Channels::serve(io, format, readable).await;
    // Tells clients that wait for a first message that the connection stands.
    let first = if wanted.stdout {
        STDOUT
    } else if wanted.stderr {
        STDERR
    } else {
        ERROR
    };
    channels.send(first, "").await;
    let pipes = Pipes {
        stdin: if wanted.stdin { readers.pop() } else { None },
        stdout: wanted.stdout.then(|| channels.writer(STDOUT)),
        stderr: wanted.stderr.then(|| channels.writer(STDERR)),
        resize: readers.pop(),
        error: channels.writer(ERROR),
        as_status,
    };
    tokio::select! {
        () = run(pipes, target, wanted.tty, backend) => channels.close().await,
        () = channels.closed() => {}
    }
}

async fn over_spdy<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    io: T,
    as_status: bool,
    resize: bool,
    target: Target,
    wanted: Wanted,
    backend: &dyn StreamBackend,
    timeout: Duration,
) {
    let (mut connection, mut streams) = SpdyConnection::serve(io);
    let mut names = vec!["error"];
    for (name, wanted) in
        [("stdin", wanted.stdin), ("stdout", wanted.stdout), ("stderr", wanted.stderr), ("resize", resize)]
    {
        names.extend(wanted.then_some(name));
    }
    let opened = tokio::time::timeout(timeout, collect_streams(&connection, &mut streams, &names)).await;
    let Ok(Some(mut opened)) = opened else {
        tracing::debug!("client did not open the streams that it asked for");
        return;
    };
    let mut take = |name: &str| opened.remove(name).map(|stream| (stream.reader, stream.writer));
    let Some((error_reader, error)) = take("error") else { return };
    // The unused directions stay open: closing them could be taken for the end of the stream.
    let (stdin, stdin_writer) = take("stdin").unzip();
    let (stdout_reader, stdout) = take("stdout").unzip();
    let (stderr_reader, stderr) = take("stderr").unzip();
    let (resize, resize_writer) = take("resize").unzip();
    let pipes = Pipes { stdin, stdout, stderr, resize, error, as_status };
    let done = tokio::select! {
        () = run(pipes, target, wanted.tty, backend) => true,
        () = connection.closed() => false,
    };
    drop((error_reader, stdin_writer, stdout_reader, stderr_reader, resize_writer));
    if done {
        connection.close().await;
    }
}

/// Waits until the client has opened all streams; others and repeated ones are reset.
async fn collect_streams(
    connection: &SpdyConnection,
    streams: &mut Streams,
    names: &[&str],
) -> Option<HashMap<String, SpdyStream>> {
    let mut opened = HashMap::new();
    while opened.len() < names.len() {
        let stream = streams.next().await?;
        let kind = stream.headers.get("streamtype").cloned().unwrap_or_default();
        if names.contains(&kind.as_str()) && !opened.contains_key(&kind) {
            opened.insert(kind, stream);
        } else {
            connection.reset(stream.id).await;
        }
    }
    Some(opened)
}

async fn run(pipes: Pipes, target: Target, tty: bool, backend: &dyn StreamBackend) {
    let (sizes, resize) = mpsc::channel(SIZES);
    let pump = |reader| AbortOnDropHandle::new(tokio::spawn(pump_sizes(reader, sizes)));
    let _pump = pipes.resize.map(pump);
    let Pipes { stdin, stdout, stderr, mut error, as_status, .. } = Pipes { resize: None, ..pipes };
    let session = Session { stdin, stdout, stderr, tty, resize };
    let outcome = match target {
        Target::Exec { container_id, command } => {
            let result = backend.exec(&container_id, &command, session).await;
            Outcome::of_exec(&command, result)
        }
        Target::Attach { container_id } => Outcome::of_attach(backend.attach(&container_id, session).await),
    };
    // Fails only when the client is gone, which is noticed elsewhere.
    let _ = error.write_all(&outcome.message(as_status)).await;
    let _ = error.shutdown().await;
}

/// Reads `{"Width":80,"Height":24}` again and again.
async fn pump_sizes(mut reader: ByteReader, sizes: mpsc::Sender<TerminalSize>) {
    let mut text = Vec::new();
    let mut piece = [0; 1024];
    loop {
        match reader.read(&mut piece).await {
            Ok(length @ 1..) => text.extend_from_slice(&piece[..length]),
            _ => return,
        }
        let Some(found) = parse_sizes(&mut text) else { return };
        for size in found {
            if sizes.send(size).await.is_err() {
                return;
            }
        }
    }
}

/// Takes all complete sizes from the front of `text`; `None` when it is nonsense.
fn parse_sizes(text: &mut Vec<u8>) -> Option<Vec<TerminalSize>> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Size {
        width: u16,
        height: u16,
    }
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<Size>();
    let mut found = Vec::new();
    let mut nonsense = false;
    loop {
        match values.next() {
            Some(Ok(Size { width, height })) => found.push(TerminalSize { width, height }),
            Some(Err(error)) => {
                nonsense = !error.is_eof();
                break;
            }
            None => break,
        }
    }
    let used = values.byte_offset();
    text.drain(..used);
    (!nonsense && text.len() <= MAX_SIZE_TEXT).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_in_pieces() {
        let cases: &[(&str, Option<&[(u16, u16)]>, &str)] = &[
            ("", Some(&[]), ""),
            (r#"{"Width":80,"Height":24}"#, Some(&[(80, 24)]), ""),
            (
                "{\"Width\":80,\"Height\":24}\n{\"Width\":1,\"Height\":2}\n{\"Wid",
                Some(&[(80, 24), (1, 2)]),
                "{\"Wid",
            ),
            (r#"{"Width":-1,"Height":2}"#, None, ""),
            ("[]", None, ""),
            ("x", None, ""),
        ];
        for (input, want, rest) in cases {
            let mut text = input.as_bytes().to_vec();
            let found = parse_sizes(&mut text);
            let found =
                found.map(|list| list.iter().map(|size| (size.width, size.height)).collect::<Vec<_>>());
            assert_eq!(found.as_deref(), *want, "{input}");
            if want.is_some() {
                assert_eq!(String::from_utf8(text).unwrap().trim(), *rest, "{input}");
            }
        }
        assert_eq!(parse_sizes(&mut vec![b' '; MAX_SIZE_TEXT * 2]), Some(vec![]));
    }
}
