//! The gRPC health check (`grpc.health.v1.Health/Check`), spoken over plain HTTP/2 as two tiny messages.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;

/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 4096;
/// `ServingStatus::SERVING`.
const SERVING: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks once; only SERVING is fine.
pub async fn check(ip: &str, port: u16, service: &str, timeout: Duration) -> Result<(), String> {
    match tokio::time::timeout(timeout, ask(ip, port, service)).await {
        Ok(Ok(SERVING)) => Ok(()),
        Ok(Ok(_)) => Err("service unhealthy (responded with \"NOT_SERVING\")".to_owned()),
        Ok(Err(error)) => Err(format!("error: health rpc probe failed: {error}")),
        Err(_) => Err(format!(
            "timeout: failed to connect service \"{ip}:{port}\" within {}s: context deadline exceeded",
            timeout.as_secs()
        )),
    }
}

async fn ask(ip: &str, port: u16, service: &str) -> Result<i32, String> {
    let stream = TcpStream::connect((ip, port)).await.map_err(|error| error.to_string())?;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let answer = async {
        let request = http::Request::post(format!("http://{ip}:{port}/grpc.health.v1.Health/Check"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(frame(service)))
            .map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let (head, body) = answer.into_parts();
        let collected = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        let code = trailers.get("grpc-status").or_else(|| head.headers.get("grpc-status"));
        match code.and_then(|code| code.to_str().ok()) {
            None | Some("0") => unframe(&collected.to_bytes()),
            Some(code) => Err(format!("rpc error: code = {code}")),
        }
    }
    .await;
    connection.abort();
    answer
}

fn frame(service: &str) -> Bytes {
    let message = HealthCheckRequest { service: service.to_owned() }.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0u8][..], &length.to_be_bytes(), &message].concat().into()
}

fn unframe(answer: &[u8]) -> Result<i32, String> {
    let message = answer.get(5..).ok_or("short answer")?;
    HealthCheckResponse::decode(message).map(|answer| answer.status).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames() {
        assert_eq!(frame("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(unframe(&[0, 0, 0, 0, 2, 8, 1]), Ok(SERVING));
        assert!(unframe(&[0]).is_err());
    }
}
