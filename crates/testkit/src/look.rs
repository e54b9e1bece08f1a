//! What tests read from objects and servers again and again.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde_json::Value;

/// How long a server may take to let somebody in: who is not there says nothing.
const CONNECT: Duration = Duration::from_secs(5);
/// How long one that is there may take for an answer: longer than a busy machine forgets a process.
const ANSWER: Duration = Duration::from_secs(30);

/// `status.phase`
pub fn phase(pod: &Value) -> &str {
    pod["status"]["phase"].as_str().unwrap_or_default()
}

/// Whether the pod's condition Ready holds and nobody is deleting it.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.filter(|c| c["type"] == "Ready").any(|c| c["status"] == "True");
    ready && pod["metadata"]["deletionTimestamp"].is_null()
}

/// The state of one container (`running`, `waiting`, `terminated`), of the first where none is named.
pub fn state<'a>(pod: &'a Value, container: &str) -> &'a Value {
    let all = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    let mut named = all.filter(|status| container.is_empty() || status["name"] == container);
    named.next().map_or(&Value::Null, |status| &status["state"])
}

/// Why the first container waits.
pub fn waiting_reason(pod: &Value) -> &str {
    state(pod, "")["waiting"]["reason"].as_str().unwrap_or_default()
}

/// Restarts of all containers together.
pub fn restarts(pod: &Value) -> u64 {
    let all = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    all.filter_map(|status| status["restartCount"].as_u64()).sum()
}

/// The body that a server answers with, whatever its status; `None` when there is no answer.
pub fn http_get(address: &str, path: &str) -> Option<String> {
    let socket = address.to_socket_addrs().ok()?.next()?;
    let mut stream = TcpStream::connect_timeout(&socket, CONNECT).ok()?;
    stream.set_read_timeout(Some(ANSWER)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}
