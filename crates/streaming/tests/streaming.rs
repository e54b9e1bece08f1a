//! The streaming server against clients written here: WebSocket through a library, SPDY by hand.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use corten_streaming::spdy::{ControlFrame, FrameHeader, HeaderBlocks, flags};
use corten_streaming::{
    ByteStream, Session, StreamBackend, StreamError, StreamRequest, StreamServer, StreamServerConfig,
};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const TIMEOUT: Duration = Duration::from_secs(60);

/// Does what the first word of a command says.
#[derive(Default)]
struct Fake {
    cancelled: Arc<Notify>,
}

struct NotifyOnDrop(Arc<Notify>);

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[async_trait]
impl StreamBackend for Fake {
    async fn exec(
        &self,
        container_id: &str,
        command: &[String],
        session: Session,
    ) -> Result<i32, StreamError> {
        let Session { stdin, mut stdout, mut stderr, tty, mut resize } = session;
        match command[0].as_str() {
            "cat" => {
                tokio::io::copy(&mut stdin.unwrap(), &mut stdout.unwrap()).await.unwrap();
                Ok(0)
            }
            "both" => {
                stdout.as_mut().unwrap().write_all(b"to stdout").await.unwrap();
                if let Some(stderr) = &mut stderr {
                    stderr.write_all(b"to stderr").await.unwrap();
                }
                Ok(command[1].parse().unwrap())
            }
            "flood" => {
                let piece = vec![b'x'; 1 << 20];
                for _ in 0..4 {
                    stdout.as_mut().unwrap().write_all(&piece).await.unwrap();
                }
                Ok(0)
            }
            "size" => {
                assert!(tty && stderr.is_none());
                let size = resize.recv().await.unwrap();
                let text = format!("{}x{}", size.width, size.height);
                stdout.unwrap().write_all(text.as_bytes()).await.unwrap();
                Ok(0)
            }
            "hang" => {
                let _guard = NotifyOnDrop(Arc::clone(&self.cancelled));
                stdout.as_mut().unwrap().write_all(b"hanging").await.unwrap();
                std::future::pending().await
            }
            other => Err(StreamError(format!("{other} in {container_id}: no such file"))),
        }
    }

    async fn attach(&self, container_id: &str, session: Session) -> Result<(), StreamError> {
        session.stdout.unwrap().write_all(container_id.as_bytes()).await.unwrap();
        Ok(())
    }

    /// Port 1 refuses, port 2 says something and closes, all others echo until the end of input and then
    /// say goodbye.
    async fn port_forward(&self, _sandbox: &str, port: u16) -> Result<Box<dyn ByteStream>, StreamError> {
        if port == 1 {
            return Err(StreamError("connection refused".into()));
        }
        let (near, far) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(far);
            if port != 2 {
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            }
            let _ = writer.write_all(format!("bye {port}").as_bytes()).await;
            let _ = writer.shutdown().await;
        });
        Ok(Box::new(near))
    }
}

async fn server() -> (StreamServer, Arc<Notify>) {
    let fake = Fake::default();
    let cancelled = Arc::clone(&fake.cancelled);
    // Long for a busy machine, and short enough for the cases in which streams never come.
    let config = StreamServerConfig {
        stream_creation_timeout: Duration::from_secs(4),
        ..StreamServerConfig::default()
    };
    (StreamServer::start(Arc::new(fake), config).await.unwrap(), cancelled)
}

/// One that does not wait for streams.
async fn impatient() -> StreamServer {
    let config = StreamServerConfig {
        stream_creation_timeout: Duration::from_millis(200),
        ..StreamServerConfig::default()
    };
    StreamServer::start(Arc::new(Fake::default()), config).await.unwrap()
}

fn exec(command: &[&str], stdin: bool, tty: bool) -> StreamRequest {
    StreamRequest::Exec {
        container_id: "c1".into(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        stdin,
        stdout: true,
        stderr: !tty,
        tty,
    }
}

/// (address, path)
fn split_url(url: &str) -> (String, String) {
    let rest = url.strip_prefix("http://").unwrap();
    let (address, path) = rest.split_once('/').unwrap();
    (address.to_owned(), format!("/{path}"))
}

/// Sends an upgrade request by hand; returns the connection and the response's head.
async fn http_upgrade(url: &str, headers: &[(&str, &str)]) -> (TcpStream, String) {
    let (address, path) = split_url(url);
    let mut connection = TcpStream::connect(&address).await.unwrap();
    let mut request = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    connection.write_all(format!("{request}Content-Length: 0\r\n\r\n").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.unwrap());
    }
    (connection, String::from_utf8(head).unwrap())
}

async fn websocket(url: &str, protocol: &str) -> WebSocketStream<TcpStream> {
    let (address, path) = split_url(url);
    let connection = TcpStream::connect(&address).await.unwrap();
    let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
    if !protocol.is_empty() {
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    }
    let (socket, response) = tokio_tungstenite::client_async(request, connection).await.unwrap();
    let agreed = response.headers().get("sec-websocket-protocol").map(|v| v.to_str().unwrap());
    assert_eq!(agreed.unwrap_or_default(), protocol);
    socket
}

/// All that arrives until the close, by channel, and whether the close was a normal one.
async fn drain(socket: &mut WebSocketStream<TcpStream>) -> (BTreeMap<u8, Vec<u8>>, bool) {
    let mut channels: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    loop {
        match tokio::time::timeout(TIMEOUT, socket.next()).await.unwrap() {
            Some(Ok(Message::Binary(bytes))) => channels.entry(bytes[0]).or_default().extend(&bytes[1..]),
            Some(Ok(Message::Text(text))) => {
                channels.entry(text.as_bytes()[0] - b'0').or_default().extend(text.as_bytes()[1..].iter());
            }
            Some(Ok(Message::Close(frame))) => {
                return (channels, frame.is_some_and(|frame| u16::from(frame.code) == 1000));
            }
            Some(Ok(_)) => {}
            other => panic!("unexpected end: {other:?}"),
        }
    }
}

fn status(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[tokio::test]
async fn websocket_exec_passes_output_and_exit_codes() {
    let (server, _) = server().await;
    for (code, reason) in [(0, Value::Null), (7, json!("NonZeroExitCode"))] {
        let url = server.register(exec(&["both", &code.to_string()], false, false)).unwrap();
        let (channels, normal) = drain(&mut websocket(&url, "v5.channel.k8s.io").await).await;
        assert!(normal);
        assert_eq!((&channels[&1][..], &channels[&2][..]), (&b"to stdout"[..], &b"to stderr"[..]));
        let status = status(&channels[&3]);
        assert_eq!(status["reason"], reason);
        if code != 0 {
            assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "7"}));
        }
    }
    let url = server.register(exec(&["nope"], false, false)).unwrap();
    let (channels, _) = drain(&mut websocket(&url, "v4.channel.k8s.io").await).await;
    let message = "Internal error occurred: error executing command in container: nope in c1: no such file";
    assert_eq!(status(&channels[&3])["message"], message);
    let url = server.register(exec(&["nope"], false, false)).unwrap();
    let (channels, _) = drain(&mut websocket(&url, "").await).await;
    assert_eq!(String::from_utf8_lossy(&channels[&3]), message, "before version 4 only the text");
}

#[tokio::test]
async fn websocket_stdin_is_closed_by_channel_255() {
    let (server, _) = server().await;
    let url = server.register(exec(&["cat"], true, false)).unwrap();
    let mut socket = websocket(&url, "v5.channel.k8s.io").await;
    for message in [&b"\0hello "[..], b"\0world", b"\xff\0"] {
        socket.send(Message::binary(message.to_vec())).await.unwrap();
    }
    let (channels, normal) = drain(&mut socket).await;
    assert!(normal);
    assert_eq!(channels[&1], b"hello world");
    assert_eq!(status(&channels[&3])["status"], "Success");

    let url = server.register(exec(&["size"], false, true)).unwrap();
    let mut socket = websocket(&url, "v4.base64.channel.k8s.io").await;
    socket.send(Message::text("4eyJXaWR0aCI6ODAsIkhlaWdodCI6MjR9")).await.unwrap();
    let (channels, _) = drain(&mut socket).await;
    assert_eq!(channels[&1], b"ODB4MjQ=", "80x24");
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_the_command() {
    let (server, cancelled) = server().await;
    let url = server.register(exec(&["hang"], true, false)).unwrap();
    let mut socket = websocket(&url, "v5.channel.k8s.io").await;
    while socket.next().await.unwrap().unwrap() != Message::binary(&b"\x01hanging"[..]) {}
    drop(socket);
    tokio::time::timeout(TIMEOUT, cancelled.notified()).await.unwrap();

    let url = server.register(exec(&["hang"], false, false)).unwrap();
    let mut client = spdy(&url, "v4.channel.k8s.io").await;
    client.open_types(&["error", "stdout", "stderr"]).await;
    while client.received.get(&3).is_none_or(Vec::is_empty) {
        assert!(client.step().await);
    }
    drop(client);
    tokio::time::timeout(TIMEOUT, cancelled.notified()).await.unwrap();
}

/// A SPDY client over any connection.
struct Client<T> {
    io: T,
    out: HeaderBlocks,
    blocks: HeaderBlocks,
    received: BTreeMap<u32, Vec<u8>>,
    finished: Vec<u32>,
    reset: Vec<u32>,
    replied: Vec<u32>,
    pinged: Vec<u32>,
    acknowledged: u64,
    next: u32,
}

async fn spdy(url: &str, protocol: &str) -> Client<TcpStream> {
    let headers =
        [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", protocol)];
    let (io, head) = http_upgrade(url, &headers).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(
        head.to_lowercase().contains(&format!("x-stream-protocol-version: {}", protocol.to_lowercase())),
        "{head}"
    );
    Client::new(io)
}

impl<T: AsyncRead + AsyncWrite + Unpin> Client<T> {
    fn new(io: T) -> Self {
        Self {
            io,
            out: HeaderBlocks::new(),
            blocks: HeaderBlocks::new(),
            received: BTreeMap::new(),
            finished: vec![],
            reset: vec![],
            replied: vec![],
            pinged: vec![],
            acknowledged: 0,
            next: 1,
        }
    }

    async fn control(&mut self, frame: ControlFrame) {
        let mut bytes = BytesMut::new();
        self.out.put(&mut bytes, &frame).unwrap();
        self.io.write_all(&bytes).await.unwrap();
        self.io.flush().await.unwrap();
    }

    async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let stream = self.next;
        self.next += 2;
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.control(ControlFrame::SynStream { stream, headers, fin: false }).await;
        stream
    }

    async fn open_types(&mut self, types: &[&str]) {
        for kind in types {
            self.open(&[("streamType", kind)]).await;
        }
    }

    async fn data(&mut self, stream: u32, data: &[u8], fin: bool) {
        let mut bytes = BytesMut::new();
        FrameHeader::put_data(&mut bytes, stream, if fin { flags::FIN } else { 0 }, data.len());
        bytes.extend_from_slice(data);
        self.io.write_all(&bytes).await.unwrap();
        self.io.flush().await.unwrap();
    }

    /// Takes one frame; false at the end.
    async fn step(&mut self) -> bool {
        let mut header = [0; 8];
        let read = tokio::time::timeout(TIMEOUT, self.io.read_exact(&mut header)).await.unwrap();
        if read.is_err() {
            return false;
        }
        match FrameHeader::parse(header).unwrap() {
            FrameHeader::Data { stream, flags, length } => {
                let mut data = vec![0; length];
                self.io.read_exact(&mut data).await.unwrap();
                assert!(!self.finished.contains(&stream), "data after the end of {stream}");
                self.received.entry(stream).or_default().extend(data);
                if flags & flags::FIN != 0 {
                    self.finished.push(stream);
                }
            }
            FrameHeader::Control { kind, flags, length } => {
                let mut body = vec![0; length];
                self.io.read_exact(&mut body).await.unwrap();
                match self.blocks.parse(kind, flags, &body).unwrap() {
                    ControlFrame::SynReply { stream, .. } => self.replied.push(stream),
                    ControlFrame::RstStream { stream, .. } => self.reset.push(stream),
                    ControlFrame::Ping(id) => self.pinged.push(id),
                    ControlFrame::WindowUpdate { stream: 0, delta } => self.acknowledged += u64::from(delta),
                    _ => {}
                }
            }
        }
        true
    }

    async fn drain(&mut self) {
        while self.step().await {}
    }

    async fn until_finished(&mut self, stream: u32) -> String {
        while !self.finished.contains(&stream) {
            assert!(self.step().await, "ended early");
        }
        String::from_utf8(self.received[&stream].clone()).unwrap()
    }
}

#[tokio::test]
async fn spdy_exec_passes_streams_and_exit_codes() {
    let (server, _) = server().await;
    let url = server.register(exec(&["cat"], true, false)).unwrap();
    let mut client = spdy(&url, "v4.channel.k8s.io").await;
    client.open_types(&["error", "stdin", "stdout", "stderr"]).await;
    client.control(ControlFrame::Ping(1)).await;
    client.data(3, b"hello ", false).await;
    let long = vec![b'y'; 300_000];
    client.data(3, &long, true).await;
    client.drain().await;
    assert_eq!(client.received[&5].len(), 6 + long.len());
    assert!(client.received[&5].starts_with(b"hello y"));
    assert_eq!(status(&client.received[&1])["status"], "Success");
    assert_eq!((client.replied, client.pinged), (vec![1, 3, 5, 7], vec![1]));
    client.finished.sort_unstable();
    assert_eq!(client.finished, [1, 3, 5, 7], "every stream is half-closed");
    assert!(client.acknowledged >= 260_000, "peers that count windows go on: {}", client.acknowledged);

    let url = server.register(exec(&["both", "3"], false, false)).unwrap();
    let mut client = spdy(&url, "v3.channel.k8s.io").await;
    client.open_types(&["error", "stdout", "stderr"]).await;
    client.drain().await;
    assert_eq!((&client.received[&3][..], &client.received[&5][..]), (&b"to stdout"[..], &b"to stderr"[..]));
    assert!(String::from_utf8_lossy(&client.received[&1]).ends_with("exit code 3"));
}

#[tokio::test]
async fn spdy_terminal_attach_and_much_output() {
    let (server, _) = server().await;
    let url = server.register(exec(&["size"], false, true)).unwrap();
    let mut client = spdy(&url, "v4.channel.k8s.io").await;
    client.open_types(&["error", "stdout", "resize"]).await;
    client.data(5, b"{\"Width\":12", false).await;
    client.data(5, b"0,\"Height\":40}\n", false).await;
    client.drain().await;
    assert_eq!(client.received[&3], b"120x40");

    let attach = StreamRequest::Attach {
        container_id: "main".into(),
        stdin: false,
        stdout: true,
        stderr: true,
        tty: true,
    };
    let mut client = spdy(&server.register(attach).unwrap(), "v2.channel.k8s.io").await;
    client.open_types(&["stdout", "error"]).await;
    client.drain().await;
    assert_eq!((&client.received[&1][..], &client.received[&3][..]), (&b"main"[..], &b""[..]));

    let url = server.register(exec(&["flood"], false, true)).unwrap();
    let mut client = spdy(&url, "v4.channel.k8s.io").await;
    client.open_types(&["error", "stdout", "resize"]).await;
    client.drain().await;
    assert_eq!(client.received[&3].len(), 4 << 20, "without a single window update from the client");
}

#[tokio::test]
async fn spdy_clients_that_break_the_rules() {
    let (server, _) = server().await;
    let url = server.register(exec(&["both", "0"], false, false)).unwrap();
    let mut client = spdy(&url, "v4.channel.k8s.io").await;
    client.open_types(&["error", "error", "banana", "stdout", "stderr"]).await;
    client.drain().await;
    assert_eq!(client.reset, [3, 5]);
    assert_eq!(client.received[&7], b"to stdout");

    let impatient = impatient().await;
    let url = impatient.register(exec(&["both", "0"], false, false)).unwrap();
    let mut client = spdy(&url, "v4.channel.k8s.io").await;
    // The server may have gone before they are written.
    client.open_types(&["error"]).await;
    client.drain().await;
    assert!(client.received.is_empty(), "cut off when the streams do not come");

    let url = server.register(exec(&["both", "0"], false, false)).unwrap();
    let mut client = spdy(&url, "v4.channel.k8s.io").await;
    client.io.write_all(b"\x80\x02GET / HTTP/1.1\r\n\r\n").await.unwrap();
    client.drain().await;
}

async fn forward<T: AsyncRead + AsyncWrite + Unpin>(client: &mut Client<T>) {
    let mut pair = async |request: &str, port: &str| {
        let headers = [("streamType", "error"), ("port", port), ("requestID", request)];
        let error = client.open(&headers).await;
        let data = client.open(&[("streamType", "data"), headers[1], headers[2]]).await;
        (error, data)
    };
    let (a_error, a) = pair("0", "80").await;
    let (b_error, b) = pair("1", "1").await;
    let (_, c) = pair("2", "2").await;
    let (_, d) = pair("3", "8080").await;
    client.data(a, b"ping", false).await;
    client.data(d, b"one two", true).await;
    assert_eq!(client.until_finished(d).await, "one twobye 8080", "the client's end is passed on");
    assert_eq!(client.until_finished(c).await, "bye 2", "the port's end is passed on");
    assert_eq!(client.until_finished(b_error).await, "error forwarding port 1 to pod s1: connection refused");
    client.until_finished(b).await;
    client.data(a, b" pong", true).await;
    assert_eq!(client.until_finished(a).await, "ping pongbye 80");
    assert_eq!(client.until_finished(a_error).await, "");
    let alone = client.open(&[("streamType", "data"), ("port", "80"), ("requestID", "9")]).await;
    let odd = client.open(&[("streamType", "data"), ("port", "x"), ("requestID", "10")]).await;
    while !client.reset.contains(&alone) || !client.reset.contains(&odd) {
        assert!(client.step().await);
    }
}

#[tokio::test]
async fn ports_are_forwarded_over_spdy() {
    let (server, _) = server().await;
    let url = server.register(StreamRequest::PortForward { sandbox_id: "s1".into(), ports: vec![] }).unwrap();
    forward(&mut spdy(&url, "portforward.k8s.io").await).await;
}

#[tokio::test]
async fn ports_are_forwarded_over_spdy_inside_a_websocket() {
    let (server, _) = server().await;
    let url = server.register(StreamRequest::PortForward { sandbox_id: "s1".into(), ports: vec![] }).unwrap();
    let socket = websocket(&url, "SPDY/3.1+portforward.k8s.io").await;
    let (near, far) = tokio::io::duplex(64 << 10);
    let (mut sink, mut stream) = socket.split();
    let (mut from_client, mut to_client) = tokio::io::split(far);
    let outward = tokio::spawn(async move {
        let mut piece = vec![0; 7];
        while let Ok(length @ 1..) = from_client.read(&mut piece).await {
            sink.send(Message::binary(piece[..length].to_vec())).await.unwrap();
        }
    });
    let inward = tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Binary(bytes) = message {
                to_client.write_all(&bytes).await.unwrap();
            }
        }
    });
    forward(&mut Client::new(near)).await;
    outward.await.unwrap();
    inward.abort();
}

#[tokio::test]
async fn ports_are_forwarded_over_websocket_channels() {
    let (server, _) = server().await;
    let url =
        server.register(StreamRequest::PortForward { sandbox_id: "s1".into(), ports: vec![2, 1] }).unwrap();
    let (channels, normal) = drain(&mut websocket(&url, "v4.channel.k8s.io").await).await;
    assert!(normal);
    assert_eq!(channels[&0], b"\x02\0bye 2");
    assert_eq!(channels[&1], b"\x02\0");
    assert_eq!(channels[&2], b"\x01\0");
    assert_eq!(channels[&3], b"\x01\0error forwarding port 1 to pod s1: connection refused");
}

#[tokio::test]
async fn urls_work_once_for_their_purpose_and_for_upgrades_only() {
    let (server, _) = server().await;
    let upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "SPDY/3.1"),
        ("X-Stream-Protocol-Version", "v4.channel.k8s.io"),
    ];
    let code = async |url: &str, headers: &[(&str, &str)]| {
        let (_, head) = http_upgrade(url, headers).await;
        head.split(' ').nth(1).unwrap().to_owned()
    };
    let url = server.register(exec(&["both", "0"], false, false)).unwrap();
    assert_eq!(code(&url.replace("/exec/", "/attach/"), &upgrade).await, "404");
    assert_eq!(code(&url, &upgrade).await, "404", "trying the wrong door used it up");
    let url = server.register(exec(&["both", "0"], false, false)).unwrap();
    assert_eq!(code(&url, &upgrade).await, "101");
    assert_eq!(code(&url, &upgrade).await, "404");
    let url = server.register(exec(&["both", "0"], false, false)).unwrap();
    assert_eq!(code(&url, &[]).await, "400");
    let url = server.register(exec(&["both", "0"], false, false)).unwrap();
    assert_eq!(code(&url, &[upgrade[0], upgrade[1], ("X-Stream-Protocol-Version", "v9")]).await, "403");
    let base = url.rsplit_once('/').unwrap().0;
    assert_eq!(code(&format!("{base}/"), &upgrade).await, "404");
    assert_eq!(code(base, &upgrade).await, "404");

    for _ in 0..1000 {
        if server.register(exec(&["x"], false, false)).is_err() {
            break;
        }
    }
    assert!(server.register(exec(&["x"], false, false)).is_err(), "waiting URLs are bounded");
}

#[tokio::test]
async fn silence_ends_a_session_and_time_ends_a_url() {
    let fake = Fake::default();
    let cancelled = Arc::clone(&fake.cancelled);
    let config = StreamServerConfig {
        token_ttl: Duration::ZERO,
        idle_timeout: Some(Duration::from_millis(50)),
        ..StreamServerConfig::default()
    };
    let quick = StreamServer::start(Arc::new(fake), config.clone()).await.unwrap();
    let url = quick.register(exec(&["hang"], false, false)).unwrap();
    let (_, head) = http_upgrade(&url, &[("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")]).await;
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");

    let fake = Fake { cancelled: Arc::clone(&cancelled) };
    let config = StreamServerConfig { token_ttl: TIMEOUT, ..config };
    let server = StreamServer::start(Arc::new(fake), config).await.unwrap();
    let url = server.register(exec(&["hang"], true, false)).unwrap();
    let _socket = websocket(&url, "v5.channel.k8s.io").await;
    tokio::time::timeout(TIMEOUT, cancelled.notified()).await.unwrap();
}
