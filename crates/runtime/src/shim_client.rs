//! The agent's side of a shim: starting one, and talking to it over its socket.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use corten_sys::sockets;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::error::{Result, RuntimeError};
use crate::shim::wire::{self, Kind};
use crate::shim::{Report, SOCKET_FILE, Started};

/// How long a container may take from the shim's start to its own; image file systems can be slow.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// How long a shim may take to answer; it does nothing slow.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// A command line that starts a shim.
pub(crate) fn shim_command(words: &[String]) -> Result<std::process::Command> {
    let (program, arguments) =
        words.split_first().ok_or_else(|| RuntimeError::Other("no shim command".into()))?;
    let mut command = std::process::Command::new(program);
    command.args(arguments).env_clear();
    Ok(command)
}

/// Starts a container's shim and returns once its program runs.
pub(crate) async fn start(words: &[String], dir: &Path) -> Result<(Started, Child)> {
    let mut command = shim_command(words)?;
    command.arg("run").arg(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child =
        Command::from(command).spawn().map_err(|e| RuntimeError::Other(format!("start shim: {e}")))?;
    let stdout = child.stdout.take().ok_or_else(|| RuntimeError::Other("shim without stdout".into()))?;
    let mut line = String::new();
    let read = tokio::time::timeout(START_PATIENCE, BufReader::new(stdout).read_line(&mut line)).await;
    match (read, serde_json::from_str(&line)) {
        (Ok(Ok(_)), Ok(Report::Started(started))) => Ok((started, child)),
        (Ok(Ok(_)), Ok(Report::Failed(why))) => {
            let _ = child.wait().await;
            Err(RuntimeError::Start(why))
        }
        (Err(_), _) => {
            let _ = child.kill().await;
            Err(RuntimeError::Timeout("the container's shim did not report in time".into()))
        }
        _ => {
            let ended = child.wait().await.map(|s| s.to_string()).unwrap_or_default();
            Err(RuntimeError::Start(format!("the container's shim ended without a report ({ended})")))
        }
    }
}

/// Connects to the shim of the container in `dir`.
pub(crate) fn connect(dir: &Path) -> Result<UnixStream> {
    let stream = sockets::connect(&dir.join(SOCKET_FILE))?;
    adopt(stream)
}

/// Makes a connection one of the reactor's.
pub(crate) fn adopt(stream: std::os::unix::net::UnixStream) -> Result<UnixStream> {
    let made = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
    made.map_err(|e| RuntimeError::Other(format!("shim connection: {e}")))
}

/// Reads one frame; `None` at the end of the connection.
pub(crate) async fn read_frame(
    stream: &mut (impl AsyncReadExt + Unpin),
) -> std::io::Result<Option<(Kind, Vec<u8>)>> {
    let mut head = [0; wire::HEADER];
    match stream.read_exact(&mut head).await {
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let (kind, length) = wire::header(head)?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some((kind, body)))
}

/// Sends one request that is answered by `Fine` or `Error`.
pub(crate) async fn ask(dir: &Path, kind: Kind, body: &[u8]) -> Result<()> {
    let mut stream = connect(dir)?;
    let exchange = async {
        stream.write_all(&wire::frame(kind, body)).await?;
        read_frame(&mut stream).await
    };
    match tokio::time::timeout(ANSWER_PATIENCE, exchange).await {
        Ok(Ok(Some((Kind::Fine, _)))) => Ok(()),
        Ok(Ok(Some((_, why)))) => Err(RuntimeError::Other(String::from_utf8_lossy(&why).into_owned())),
        Ok(Ok(None)) => Err(RuntimeError::Precondition("the container has just ended".into())),
        Ok(Err(e)) => Err(RuntimeError::Other(format!("ask shim: {e}"))),
        Err(_) => Err(RuntimeError::Timeout("the container's shim does not answer".into())),
    }
}
