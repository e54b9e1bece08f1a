//! One upstream server: a question over UDP from a fresh port, over TCP when the answer was cut, and whether it is well.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::cache::Question;
use crate::wire::message::Answer;
use crate::wire::{Malformed, Name, query, rtype};

/// How long a server may take for one answer.
const ATTEMPT: Duration = Duration::from_secs(2);
/// So many failures one after the other, and others are asked first.
const MAX_FAILURES: u32 = 2;
/// A server that fails is asked again after so long, then after twice that, …
const FIRST_PROBE: Duration = Duration::from_millis(500);
/// … up to this.
const LAST_PROBE: Duration = Duration::from_secs(8);
/// Datagrams that answer something else, which one question endures.
const MAX_STRAYS: usize = 16;
/// Last label of the name that comes back when a server forwards to us.
pub const LOOP_LABEL: &[u8] = b"corten-dns-loop";

/// Why a server gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// It did not answer in time.
    #[error("no answer in time")]
    Timeout,
    /// The network said no.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// What it said is no answer to the question.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// One server.
#[derive(Debug)]
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    failures: AtomicU32,
    probing: AtomicBool,
    looped: AtomicBool,
    /// What we ask it once, to see whether the question comes back to us; 0 = not yet.
    token: AtomicU64,
}

impl Upstream {
    /// A server that is taken to be well.
    pub fn new(address: SocketAddr) -> Arc<Upstream> {
        Arc::new(Upstream {
            address,
            failures: AtomicU32::new(0),
            probing: AtomicBool::new(false),
            looped: AtomicBool::new(false),
            token: AtomicU64::new(0),
        })
    }

    /// Is it well, as far as we know?
    pub fn is_well(&self) -> bool {
        self.failures.load(Ordering::Relaxed) < MAX_FAILURES
    }

    /// Does it forward to us?
    pub fn is_looped(&self) -> bool {
        self.looped.load(Ordering::Relaxed)
    }

    /// A question with our own token has come in: is it the one that this server was asked?
    pub fn came_back(&self, token: u64) -> bool {
        let ours = token != 0 && self.token.load(Ordering::Relaxed) == token;
        if ours && !self.looped.swap(true, Ordering::Relaxed) {
            tracing::warn!(server = %self.address, "this DNS server forwards to the cluster's DNS: it is not asked any more");
        }
        ours
    }

    /// Asks, and counts how it went. The first time also looks for a loop; after failures a task asks until it is well.
    pub async fn ask(
        self: &Arc<Self>,
        question: &Question,
        stop: &CancellationToken,
    ) -> Result<Answer, ExchangeError> {
        self.look_for_loop();
        let outcome = exchange(self.address, question).await;
        match &outcome {
            Ok(_) => self.failures.store(0, Ordering::Relaxed),
            Err(error) => {
                tracing::debug!(server = %self.address, name = %question.name, %error, "DNS server failed");
                self.failures.fetch_add(1, Ordering::Relaxed);
                self.probe_until_well(stop);
            }
        }
        outcome
    }

    fn look_for_loop(self: &Arc<Self>) {
        let token = rand::random::<u64>().max(1);
        if self.token.compare_exchange(0, token, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let Some(name) = Name::from_text(&format!("{token:016x}.{}", LOOP_LABEL.escape_ascii())) else {
            return;
        };
        let question = Question { name, qtype: rtype::HINFO, dnssec_ok: false, checking_disabled: false };
        let address = self.address;
        // The answer does not matter: when there is a loop, the question comes in at our own door.
        tokio::spawn(async move { exchange(address, &question).await.is_ok() });
    }

    fn probe_until_well(self: &Arc<Self>, stop: &CancellationToken) {
        if self.is_well() || self.probing.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::warn!(server = %self.address, "DNS server does not answer; others are asked first");
        let (me, stop) = (self.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = me.probe() => {}
            }
            me.probing.store(false, Ordering::Release);
        });
    }

    async fn probe(&self) {
        let root =
            Question { name: Name::default(), qtype: rtype::NS, dnssec_ok: false, checking_disabled: false };
        let mut pause = FIRST_PROBE;
        loop {
            tokio::time::sleep(pause).await;
            if self.is_well() || exchange(self.address, &root).await.is_ok() {
                self.failures.store(0, Ordering::Relaxed);
                tracing::info!(server = %self.address, "DNS server answers again");
                return;
            }
            pause = (pause * 2).min(LAST_PROBE);
        }
    }
}

/// The token in a question that a server was asked to find loops.
pub fn loop_token(name: &Name) -> Option<u64> {
    if name.labels() != 2 || name.label(1) != LOOP_LABEL {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(name.label(0)).ok()?, 16).ok()
}

/// Asks once over UDP, then over TCP when the answer was cut.
async fn exchange(server: SocketAddr, question: &Question) -> Result<Answer, ExchangeError> {
    let over_udp = timeout(ATTEMPT, udp(server, question)).await.map_err(|_| ExchangeError::Timeout)??;
    if !over_udp.is_truncated() {
        return Ok(over_udp);
    }
    timeout(ATTEMPT, tcp(server, question)).await.map_err(|_| ExchangeError::Timeout)?
}

fn message(question: &Question) -> (u16, Vec<u8>) {
    let id = rand::random();
    let Question { name, qtype, dnssec_ok, checking_disabled } = question;
    (id, query::build(id, name, *qtype, *dnssec_ok, *checking_disabled))
}

/// A socket of its own for each question: the kernel chooses its port at random, and only the server can reach it.
async fn udp(server: SocketAddr, question: &Question) -> Result<Answer, ExchangeError> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let (id, message) = message(question);
    socket.send(&message).await?;
    let mut buffer = vec![0; 4096];
    for _ in 0..MAX_STRAYS {
        let length = socket.recv(&mut buffer).await?;
        if let Ok(answer) = Answer::read(buffer[..length].to_vec(), id, &question.name, question.qtype) {
            return Ok(answer);
        }
    }
    Err(Malformed.into())
}

async fn tcp(server: SocketAddr, question: &Question) -> Result<Answer, ExchangeError> {
    let mut stream = TcpStream::connect(server).await?;
    let (id, message) = message(question);
    let mut framed = (message.len() as u16).to_be_bytes().to_vec();
    framed.extend(message);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(Answer::read(answer, id, &question.name, question.qtype)?)
}
