//! Servers that say who they are and whom they saw, and the one question that clients ask them.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

/// How long an answer may take on a loaded, emulated machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest answer.
const ANSWER_LIMIT: usize = 256;

/// The protocol of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A connection per question.
    Tcp,
    /// A socket per question.
    Udp,
}

/// What became of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Somebody answered.
    Answer {
        /// The server's name.
        who: String,
        /// The client's address as the server saw it.
        source: IpAddr,
    },
    /// The kernel or the proxy said no at once.
    Refused,
    /// Nothing came back in time.
    Silent,
    /// The sender's own kernel did not let the packet out: dropped and rejected datagrams look alike there.
    Forbidden,
}

/// Starts servers called `name` on `address` in the calling thread's network namespace. They live as long
/// as the process.
pub fn serve(name: &'static str, address: SocketAddr) {
    let listener = TcpListener::bind(address).expect("bind TCP");
    spawn(move || {
        for stream in listener.incoming().flatten() {
            spawn(move || drop(converse(name, stream)));
        }
    });
    let socket = UdpSocket::bind(address).expect("bind UDP");
    spawn(move || {
        let mut question = [0; ANSWER_LIMIT];
        loop {
            // An ICMP error of an earlier answer shows up here; it is nothing to this server.
            if let Ok((_, peer)) = socket.recv_from(&mut question) {
                let _ = socket.send_to(answer(name, peer).as_bytes(), peer);
            }
        }
    });
}

fn spawn(work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(64 << 10).spawn(work).expect("a thread");
}

/// One answer a line, until the client goes.
fn converse(name: &str, stream: TcpStream) -> std::io::Result<()> {
    let peer = stream.peer_addr()?;
    let mut writer = stream.try_clone()?;
    for line in BufReader::new(stream).lines() {
        line?;
        writer.write_all(answer(name, peer).as_bytes())?;
    }
    Ok(())
}

fn answer(name: &str, peer: SocketAddr) -> String {
    format!("{name} {}\n", peer.ip())
}

/// Asks once from the calling thread's network namespace; silence is what lasts for `silence`.
pub fn ask(transport: Transport, to: SocketAddr, silence: Duration) -> Outcome {
    let asked = match transport {
        Transport::Tcp => Talk::open(to, silence).and_then(|mut talk| talk.ask()),
        Transport::Udp => ask_udp(to, silence),
    };
    match asked {
        Ok(outcome) => outcome,
        Err(error) => match error.kind() {
            ErrorKind::PermissionDenied => Outcome::Forbidden,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Outcome::Silent,
            ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable => Outcome::Refused,
            _ => panic!("asking {to}: {error}"),
        },
    }
}

fn ask_udp(to: SocketAddr, silence: Duration) -> std::io::Result<Outcome> {
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(silence))?;
    socket.send(b"?\n")?;
    let mut buffer = [0; ANSWER_LIMIT];
    let length = socket.recv(&mut buffer)?;
    Ok(understand(&String::from_utf8_lossy(&buffer[..length])))
}

/// A connection that stays open for more questions.
pub struct Talk {
    reader: BufReader<TcpStream>,
}

impl Talk {
    /// Connects; fails with `TimedOut` after `silence`.
    pub fn open(to: SocketAddr, silence: Duration) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, silence)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// One more question on the same connection.
    pub fn ask(&mut self) -> std::io::Result<Outcome> {
        self.reader.get_mut().write_all(b"?\n")?;
        let mut line = String::new();
        match self.reader.read_line(&mut line)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(understand(&line)),
        }
    }
}

fn understand(answer: &str) -> Outcome {
    let (who, source) = answer.trim_end().split_once(' ').expect("NAME ADDRESS");
    Outcome::Answer { who: who.into(), source: source.parse().expect("an address") }
}
