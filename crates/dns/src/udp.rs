//! UDP: a thread of its own for each socket, so that answers do not wait for what else the process does.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use tokio::runtime::Handle;

use crate::responder::{Outcome, Responder, Transport};
use crate::wire::MAX_UDP;

/// Longer queries are cut, and then malformed.
const MAX_QUERY: usize = 4096;
/// What the kernel keeps for us while we answer: some ten thousand queries.
const RECEIVE_BUFFER: usize = 4 << 20;
/// The threads' stacks: a query takes a few kilobytes.
const STACK: usize = 256 << 10;

/// Opens a socket. An address that is not on this host yet is taken all the same; `shared` lets several sockets have it.
pub fn open(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Datagram, flags, None)?;
    if address.is_ipv4() {
        setsockopt(&fd, sockopt::IpFreebind, &true)?;
    }
    if shared {
        setsockopt(&fd, sockopt::ReusePort, &true)?;
    }
    // The kernel takes what its own limit allows.
    setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(UdpSocket::from(fd))
}

/// As [`open`], a listening TCP socket.
pub fn open_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if address.is_ipv4() {
        setsockopt(&fd, sockopt::IpFreebind, &true)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    let backlog = nix::sys::socket::Backlog::new(128)?;
    nix::sys::socket::listen(&fd, backlog)?;
    Ok(std::net::TcpListener::from(fd))
}

/// Ends the threads.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<EventFd>);

impl Stopper {
    /// Nothing stopped yet.
    pub fn new() -> io::Result<Stopper> {
        Ok(Stopper(Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?)))
    }

    /// All threads that wait for it end.
    pub fn stop(&self) {
        // Fails only when the counter is full: stopped already.
        let _ = self.0.write(1);
    }
}

/// Stops when it is dropped, so that threads end even when nobody waits for their end.
#[derive(Debug)]
pub struct StopOnDrop(pub Stopper);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Answers on `socket` until stopped. Questions for other servers go to tasks on `handle`.
pub fn serve(
    socket: UdpSocket,
    responder: Arc<Responder>,
    handle: Handle,
    stopper: Stopper,
) -> io::Result<std::thread::JoinHandle<io::Result<()>>> {
    let worker = Worker { socket: Arc::new(socket), responder, handle };
    let builder = std::thread::Builder::new().name("dns".to_owned()).stack_size(STACK);
    builder.spawn(move || worker.run(&stopper))
}

struct Worker {
    socket: Arc<UdpSocket>,
    responder: Arc<Responder>,
    handle: Handle,
}

impl Worker {
    fn run(&self, stopper: &Stopper) -> io::Result<()> {
        let (mut query, mut reply) = (vec![0; MAX_QUERY], Vec::with_capacity(MAX_UDP));
        loop {
            match self.socket.recv_from(&mut query) {
                Ok((length, client)) => self.answer(&query[..length], client, &mut reply),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !wait(&self.socket, stopper)? {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // An earlier answer did not reach its client.
                Err(error) => tracing::debug!(%error, "UDP receive"),
            }
        }
    }

    fn answer(&self, message: &[u8], client: SocketAddr, reply: &mut Vec<u8>) {
        match self.responder.respond(message, Transport::Udp, reply) {
            Outcome::Ignore => {}
            Outcome::Reply => send(&self.socket, reply, client),
            Outcome::Forward(job) => {
                let (socket, responder) = (self.socket.clone(), self.responder.clone());
                self.handle.spawn(async move {
                    let mut reply = Vec::with_capacity(MAX_UDP);
                    responder.finish(job, &mut reply).await;
                    send(&socket, &reply, client);
                });
            }
        }
    }
}

/// An answer that cannot be sent is lost, as on any network: the client asks again.
fn send(socket: &UdpSocket, reply: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(reply, client) {
        tracing::debug!(%client, %error, "UDP send");
    }
}

/// Waits for a query; `false` when stopped.
fn wait(socket: &UdpSocket, stopper: &Stopper) -> io::Result<bool> {
    let mut fds =
        [PollFd::new(socket.as_fd(), PollFlags::POLLIN), PollFd::new(stopper.0.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) => Ok(!fds[1].revents().is_some_and(|events| events.contains(PollFlags::POLLIN))),
        Err(Errno::EINTR) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}
