//! Exec, attach and port-forward as a client sees them: the URL that CRI hands out, over WebSocket.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
#![allow(clippy::large_futures, reason = "tests have stack enough")]

mod harness;

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use harness::Cluster;
use k8s_cri::v1 as cri;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
const PATIENCE: Duration = Duration::from_secs(120);

struct Remote {
    socket: WebSocketStream<TcpStream>,
    seen: [Vec<u8>; 4],
}

impl Remote {
    async fn open(url: &str, protocol: &str) -> Self {
        let mut request = url.replacen("http://", "ws://", 1).into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol.parse().unwrap());
        let host = request.uri().authority().unwrap().to_string();
        let stream = TcpStream::connect(host).await.unwrap();
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        Self { socket, seen: Default::default() }
    }

    async fn send(&mut self, channel: u8, bytes: &[u8]) {
        self.socket.send(Message::binary([&[channel], bytes].concat())).await.unwrap();
    }

    /// Reads one message; false at the end of the connection.
    async fn read(&mut self) -> bool {
        match tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("nothing comes") {
            Some(Ok(Message::Binary(bytes))) => {
                if let Some((channel, data)) = bytes.split_first() {
                    self.seen[usize::from(*channel)].extend(data);
                }
                true
            }
            Some(Ok(Message::Close(_)) | Err(_)) | None => false,
            Some(Ok(_)) => true,
        }
    }

    /// Reads until `words` have come on `channel`.
    async fn expect(&mut self, channel: u8, words: &str) {
        while !self.text(channel).contains(words) {
            assert!(self.read().await, "ended without {words:?}: {:?}", self.text(channel));
        }
    }

    async fn drain(&mut self) {
        while self.read().await {}
    }

    fn text(&self, channel: u8) -> String {
        String::from_utf8_lossy(&self.seen[usize::from(channel)]).into_owned()
    }
}

async fn exec(cluster: &mut Cluster, id: &str, command: &[&str], tty: bool) -> Remote {
    let request = cri::ExecRequest {
        container_id: id.into(),
        cmd: command.iter().map(|w| w.to_string()).collect(),
        tty,
        stdin: true,
        stdout: true,
        stderr: !tty,
    };
    let url = cluster.cri.exec(request).await.unwrap().into_inner().url;
    Remote::open(&url, "v5.channel.k8s.io").await
}

async fn attach(cluster: &mut Cluster, id: &str, tty: bool) -> Remote {
    let request =
        cri::AttachRequest { container_id: id.into(), stdin: true, tty, stdout: true, stderr: !tty };
    let url = cluster.cri.attach(request).await.unwrap().into_inner().url;
    Remote::open(&url, "v5.channel.k8s.io").await
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_with_and_without_a_terminal() {
    let Some(mut cluster) = Cluster::start("exec").await else { return };
    let pod = cluster.run_pod("exec", |_| {}).await;
    let id = cluster.run(&pod, "main", &["sleep", "1000"], |_| {}).await.unwrap();

    let mut cat = exec(&mut cluster, &id, &["sh", "-c", "cat; echo oops >&2; exit 4"], false).await;
    let big = vec![b'x'; 1 << 20];
    for piece in big.chunks(30_000) {
        cat.send(STDIN, piece).await;
    }
    cat.send(CLOSE, &[STDIN]).await;
    cat.drain().await;
    assert_eq!(cat.seen[usize::from(STDOUT)].len(), big.len());
    assert_eq!(cat.text(STDERR), "oops\n");
    assert!(
        cat.text(ERROR).contains("\"ExitCode\"") && cat.text(ERROR).contains("\"4\""),
        "{}",
        cat.text(ERROR)
    );

    let mut shell = exec(&mut cluster, &id, &["sh"], true).await;
    shell.send(RESIZE, br#"{"Width":101,"Height":41}"#).await;
    shell.send(STDIN, b"echo sum-$((1+1)); tty\n").await;
    shell.expect(STDOUT, "sum-2\r\n").await;
    shell.expect(STDOUT, "/dev/pts/").await;
    shell.send(STDIN, b"stty size\n").await;
    shell.expect(STDOUT, "41 101\r\n").await;
    shell.send(STDIN, b"exit 5\n").await;
    shell.drain().await;
    assert!(shell.text(ERROR).contains("\"5\""), "{}", shell.text(ERROR));

    let mut missing = exec(&mut cluster, &id, &["no-such-command"], false).await;
    missing.drain().await;
    assert!(missing.text(ERROR).contains("executable file not found in $PATH"), "{}", missing.text(ERROR));

    // A client that goes away takes its process with it.
    let mut lonely = exec(&mut cluster, &id, &["sh", "-c", "echo here; exec sleep 4242"], false).await;
    lonely.expect(STDOUT, "here").await;
    drop(lonely);
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let seen = cluster.exec(&id, &["ps"], 10).await.unwrap();
        if !String::from_utf8_lossy(&seen.stdout).contains("sleep 4242") {
            break;
        }
        assert!(std::time::Instant::now() < until, "the process outlives its client");
    }
    cluster.remove_pod(&pod).await;
    cluster.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attached_clients_talk_to_the_main_process() {
    let Some(mut cluster) = Cluster::start("attach").await else { return };
    let pod = cluster.run_pod("attach", |_| {}).await;
    let script = "while read line; do echo got $line; done; echo over; sleep 0.2; exit 6";
    let plain = cluster.run(&pod, "plain", &["sh", "-c", script], |c| c.stdin = true).await.unwrap();
    let mut first = attach(&mut cluster, &plain, false).await;
    first.send(STDIN, b"one\n").await;
    first.expect(STDOUT, "got one\n").await;
    let mut second = attach(&mut cluster, &plain, false).await;
    second.send(STDIN, b"two\n").await;
    second.expect(STDOUT, "got two\n").await;
    first.expect(STDOUT, "got two\n").await;
    // Stdin stays open for others; who has no more to say is done.
    second.send(CLOSE, &[STDIN]).await;
    second.drain().await;
    drop((first, second));
    let mut third = attach(&mut cluster, &plain, false).await;
    third.send(STDIN, b"three\n").await;
    third.expect(STDOUT, "got three\n").await;
    cluster.stop(&plain, 0).await;
    third.drain().await;

    let once = cluster
        .run(&pod, "once", &["sh", "-c", script], |c| {
            c.stdin = true;
            c.stdin_once = true;
        })
        .await
        .unwrap();
    let mut only = attach(&mut cluster, &once, false).await;
    only.send(STDIN, b"last\n").await;
    only.send(CLOSE, &[STDIN]).await;
    only.expect(STDOUT, "got last\nover\n").await;
    assert_eq!(cluster.exited(&once).await.exit_code, 6);
    let log = std::fs::read_to_string(cluster.status(&once).await.log_path).unwrap();
    assert!(log.contains(" stdout F got last\n"), "{log}");

    let shell = cluster
        .run(&pod, "shell", &["sh"], |c| {
            c.stdin = true;
            c.tty = true;
        })
        .await
        .unwrap();
    let mut terminal = attach(&mut cluster, &shell, true).await;
    terminal.send(RESIZE, br#"{"Width":77,"Height":33}"#).await;
    terminal.send(STDIN, b"stty size; echo $TERM\n").await;
    terminal.expect(STDOUT, "33 77\r\nxterm\r\n").await;
    terminal.send(STDIN, b"exit 9\n").await;
    assert_eq!(cluster.exited(&shell).await.exit_code, 9);
    cluster.remove_pod(&pod).await;
    cluster.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_of_a_pod_can_be_reached() {
    let Some(mut cluster) = Cluster::start("ports").await else { return };
    let pod = cluster.run_pod("ports", |_| {}).await;
    let server = ["httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/etc"];
    let id = cluster.run(&pod, "server", &server, |_| {}).await.unwrap();
    let listening = "while ! grep -q ':1F90 ' /proc/net/tcp; do sleep 0.01; done";
    cluster.exec(&id, &["sh", "-c", listening], 20).await.unwrap();
    let request = cri::PortForwardRequest { pod_sandbox_id: pod.clone(), port: vec![8080] };
    let url = cluster.cri.port_forward(request).await.unwrap().into_inner().url;
    let mut remote = Remote::open(&url, "v4.channel.k8s.io").await;
    remote.send(0, b"GET /passwd HTTP/1.0\r\n\r\n").await;
    remote.expect(0, "root:x:0:0:").await;
    assert_eq!(remote.seen[0][..2], 8080u16.to_le_bytes(), "each channel begins with its port");
    cluster.remove_pod(&pod).await;
    cluster.assert_clean().await;
}
