//! One listening port on the node: what is accepted here is copied to an endpoint and back.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use corten_sys::datagrams;
use ipnet::IpNet;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::balance::{Balancer, Pool};
use crate::ruleset::{Endpoint, Family, Protocol, Route};

/// How long each attempt to reach an endpoint may take; after the last the client is let down.
const CONNECT_TIMEOUTS: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];
/// Connections under way through this process; further ones are closed at once.
pub(super) const CONNECTION_LIMIT: usize = 16_384;
/// UDP clients of one listener; datagrams of further ones are dropped.
const UDP_CLIENT_LIMIT: usize = 4096;
/// A UDP client that is silent for so long, in both directions, is forgotten.
const UDP_IDLE: Duration = Duration::from_secs(30);
/// The largest UDP datagram.
const DATAGRAM_BYTES: usize = 64 << 10;
/// After a failed `accept` (out of descriptors, mostly) the next one waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all connections of a listener have in common.
#[derive(Clone)]
pub(super) struct Desk {
    pub balancer: Arc<Mutex<Balancer>>,
    pub route: Route,
    pub cluster_cidrs: Arc<Vec<IpNet>>,
    pub connections: Arc<Semaphore>,
}

impl Desk {
    fn pool(&self, client: IpAddr, local: IpAddr) -> Pool {
        match self.route {
            Route::Local => Pool::Local,
            // What this host sends itself is led to its loopback address.
            Route::Split if !local.is_loopback() && !self.is_pod(client) => Pool::Local,
            _ => Pool::Cluster,
        }
    }

    fn is_pod(&self, client: IpAddr) -> bool {
        self.cluster_cidrs.iter().any(|range| range.contains(&client))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Balancer) -> T) -> T {
        work(&mut self.balancer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn candidates(&self, client: IpAddr, local: IpAddr) -> Vec<Endpoint> {
        let pool = self.pool(client, local);
        self.with(|balancer| balancer.pick(client, pool, Instant::now()))
    }

    fn settled(&self, client: IpAddr, endpoint: Endpoint) {
        self.with(|balancer| balancer.remember(client, endpoint, Instant::now()));
    }
}

/// Accepts until it is dropped. Connections live on after that.
pub(super) struct Listener {
    /// Where packets are redirected to.
    pub port: u16,
    task: AbortHandle,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener {
    /// Starts on a port that the kernel chooses, on all addresses: a redirect goes to the address of the interface.
    pub(super) async fn start(protocol: Protocol, family: Family, desk: Desk) -> io::Result<Self> {
        let any: IpAddr = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        match protocol {
            Protocol::Tcp => {
                let listener = TcpListener::bind((any, 0)).await?;
                let port = listener.local_addr()?.port();
                Ok(Self { port, task: tokio::spawn(accept(listener, desk)).abort_handle() })
            }
            Protocol::Udp => {
                let socket = UdpSocket::bind((any, 0)).await?;
                datagrams::tell_local_address(&socket, any.is_ipv4())?;
                let port = socket.local_addr()?.port();
                Ok(Self { port, task: tokio::spawn(relay(Arc::new(socket), desk)).abort_handle() })
            }
            Protocol::Sctp => Err(io::Error::new(io::ErrorKind::Unsupported, "SCTP in mode userspace")),
        }
    }
}

async fn accept(listener: TcpListener, desk: Desk) {
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection to a service could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = desk.connections.clone().try_acquire_owned() else {
            tracing::warn!(%client, "too many connections through the proxy: closed");
            continue;
        };
        let desk = desk.clone();
        tokio::spawn(async move {
            serve(stream, client, &desk).await;
            drop(permit);
        });
    }
}

async fn serve(mut stream: TcpStream, client: SocketAddr, desk: &Desk) {
    let Ok(local) = stream.local_addr() else { return };
    match reach(client.ip(), local.ip(), desk).await {
        Some(mut server) => {
            let _ = stream.set_nodelay(true);
            let _ = server.set_nodelay(true);
            // An error on either side ends both, as it would without a proxy.
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
        }
        None => tracing::debug!(%client, "no endpoint of the service could be reached"),
    }
}

async fn reach(client: IpAddr, local: IpAddr, desk: &Desk) -> Option<TcpStream> {
    let candidates = desk.candidates(client, local);
    for (endpoint, timeout) in candidates.iter().cycle().zip(CONNECT_TIMEOUTS) {
        let connect = TcpStream::connect((endpoint.address, endpoint.port));
        if let Ok(Ok(server)) = tokio::time::timeout(timeout, connect).await {
            desk.settled(client, *endpoint);
            return Some(server);
        }
    }
    None
}

/// A UDP client: who, and which of our addresses it asked.
type Flow = (SocketAddr, IpAddr);

struct Session {
    server: Arc<UdpSocket>,
    endpoint: Endpoint,
    answers: AbortHandle,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.answers.abort();
    }
}

async fn relay(socket: Arc<UdpSocket>, desk: Desk) {
    let mut sessions: HashMap<Flow, Session> = HashMap::new();
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        let received =
            socket.async_io(Interest::READABLE, || datagrams::receive(&*socket, &mut buffer)).await;
        // An ICMP error of an earlier answer shows up here.
        let Ok((length, client, local)) = received else { continue };
        let flow = (client, local);
        let lives = |s: &Session| !s.answers.is_finished() && desk.with(|b| b.serves(s.endpoint.address));
        if !sessions.get(&flow).is_some_and(lives) {
            sessions.remove(&flow);
            if sessions.len() >= UDP_CLIENT_LIMIT {
                sessions.retain(|_, session| !session.answers.is_finished());
            }
            if sessions.len() >= UDP_CLIENT_LIMIT {
                continue;
            }
            let Some(session) = open(&socket, flow, &desk).await else { continue };
            sessions.insert(flow, session);
        }
        if let Some(session) = sessions.get(&flow) {
            let _ = session.server.send(&buffer[..length]).await;
        }
    }
}

async fn open(socket: &Arc<UdpSocket>, flow: Flow, desk: &Desk) -> Option<Session> {
    let (client, local) = flow;
    let endpoint = *desk.candidates(client.ip(), local).first()?;
    let any: IpAddr = match endpoint.address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let server = UdpSocket::bind((any, 0)).await.ok()?;
    server.connect((endpoint.address, endpoint.port)).await.ok()?;
    desk.settled(client.ip(), endpoint);
    let server = Arc::new(server);
    let answers = tokio::spawn(answer(socket.clone(), server.clone(), flow)).abort_handle();
    Some(Session { server, endpoint, answers })
}

/// Carries answers back until the endpoint has been silent for long, or is not there.
async fn answer(socket: Arc<UdpSocket>, server: Arc<UdpSocket>, (client, local): Flow) {
    let mut buffer = vec![0; DATAGRAM_BYTES];
    while let Ok(Ok(length)) = tokio::time::timeout(UDP_IDLE, server.recv(&mut buffer)).await {
        let send = || datagrams::send(&*socket, &buffer[..length], local, client);
        if socket.async_io(Interest::WRITABLE, send).await.is_err() {
            return;
        }
    }
}
