//! The socket to netfilter. The kernel works a request off inside the system call that sends it, so answers are there when the
//! call returns: nothing here waits.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::sockopt::{RcvBufForce, SndBuf, SndBufForce};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, getsockopt,
    recv, send, setsockopt, socket,
};

use super::wire::{self, Message, messages};
use crate::error::{Context, Error, Result};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_CAPPED`, `NLM_F_ACK_TLVS`, `NLMSGERR_ATTR_MSG`.
const CAPPED: u16 = 0x100;
const ACK_TLVS: u16 = 0x200;
const ERROR_TEXT: u16 = 1;
/// One answer of a dump is at most so long (`NLMSG_GOODSIZE` and the buffer's own hint).
const RECEIVE: usize = 64 * 1024;
/// Room for the errors of one batch.
const RECEIVE_QUEUE: usize = 1024 * 1024;
/// A request that was given up has left no more datagrams than fit the queue, and the rest of a dump.
const MOST_LEFT_OVER: usize = 1 << 16;
/// More than this is no batch any more but a mistake.
const LARGEST_BATCH: usize = 512 * 1024 * 1024;

/// A socket to the netfilter of one network namespace.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// Opens one in the calling thread's network namespace.
    pub fn open() -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkNetFilter;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)
            .doing(|| "open a netfilter socket".into())?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).doing(|| "bind a netfilter socket".into())?;
        let socket = Socket { fd };
        socket.option(libc::NETLINK_CAP_ACK)?;
        socket.option(libc::NETLINK_EXT_ACK)?;
        // Not allowed in a user namespace: then the system's limit must do.
        let _ = setsockopt(&socket.fd, RcvBufForce, &RECEIVE_QUEUE);
        Ok(socket)
    }

    /// The number by which the kernel knows this socket; it signs what the socket changes.
    pub fn port(&self) -> Result<u32> {
        let address: NetlinkAddr =
            getsockname(self.fd.as_raw_fd()).doing(|| "the address of a netfilter socket".into())?;
        Ok(address.pid())
    }

    fn option(&self, name: libc::c_int) -> Result<()> {
        let on: libc::c_int = 1;
        // SAFETY: the pointer is to a living int and the length is its size.
        let outcome = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_NETLINK,
                name,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if outcome < 0 { Err(Error::last(format!("netlink option {name}"))) } else { Ok(()) }
    }

    /// Sends messages of which the last asks for an acknowledgement, and returns the first error that came back.
    pub(super) fn transact(&self, bytes: &[u8], name: impl Fn(u32) -> String) -> Result<()> {
        self.make_room(bytes.len())?;
        self.send(bytes)?;
        let (mut first, mut acknowledged) = (None, false);
        self.receive_all(|message| {
            if message.kind == NLMSG_ERROR {
                match read_error(&message) {
                    None => acknowledged = true,
                    Some((sequence, errno, text)) if first.is_none() => first = Some((sequence, errno, text)),
                    Some(_) => {}
                }
            }
        })?;
        match first {
            Some((sequence, errno, text)) => {
                let what =
                    if text.is_empty() { name(sequence) } else { format!("{} ({text})", name(sequence)) };
                Err(Error { what, source: std::io::Error::from_raw_os_error(errno) })
            }
            None if acknowledged => Ok(()),
            None => Err(Error { what: "netfilter".into(), source: std::io::Error::other("no answer came") }),
        }
    }

    /// Sends a dump request and hands each part of the answer to `each`: everything behind `nlmsghdr`.
    pub(super) fn dump(&self, bytes: &[u8], what: &str, mut each: impl FnMut(&[u8])) -> Result<()> {
        self.send(bytes)?;
        let (mut is_done, mut failure) = (false, None);
        while !is_done {
            let got = self.receive_all(|message| match message.kind {
                NLMSG_DONE => is_done = true,
                NLMSG_ERROR => {
                    is_done = true;
                    failure = read_error(&message).map(|(_, errno, _)| errno);
                }
                _ => each(message.body),
            })?;
            if got == 0 && !is_done {
                return Err(Error {
                    what: what.into(),
                    source: std::io::Error::other("the answer broke off"),
                });
            }
        }
        match failure {
            Some(errno) => Err(Error { what: what.into(), source: std::io::Error::from_raw_os_error(errno) }),
            None => Ok(()),
        }
    }

    /// Sends a request that has one answer, and hands it to `each`: everything behind `nlmsghdr`.
    pub(super) fn ask(&self, bytes: &[u8], what: &str, mut each: impl FnMut(&[u8])) -> Result<()> {
        self.send(bytes)?;
        let mut failure = None;
        self.receive_all(|message| match message.kind {
            NLMSG_ERROR => failure = read_error(&message).map(|(_, errno, _)| errno).or(failure),
            _ => each(message.body),
        })?;
        match failure {
            Some(errno) => Err(Error { what: what.into(), source: std::io::Error::from_raw_os_error(errno) }),
            None => Ok(()),
        }
    }

    /// A batch is one datagram: the send buffer must hold all of it.
    fn make_room(&self, length: usize) -> Result<()> {
        if length > LARGEST_BATCH {
            return Err(Error { what: "netfilter batch".into(), source: Errno::EMSGSIZE.into() });
        }
        let wanted = length + 4096;
        if getsockopt(&self.fd, SndBuf).unwrap_or(0) >= wanted {
            return Ok(());
        }
        // The kernel doubles what it is told, for its own book-keeping.
        if setsockopt(&self.fd, SndBufForce, &wanted).is_err() {
            setsockopt(&self.fd, SndBuf, &wanted).doing(|| format!("a send buffer of {wanted} bytes"))?;
        }
        Ok(())
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        self.drain();
        let sent = send(self.fd.as_raw_fd(), bytes, MsgFlags::empty())
            .doing(|| format!("send {} bytes to netfilter", bytes.len()))?;
        debug_assert_eq!(sent, bytes.len(), "a datagram goes whole or not at all");
        Ok(())
    }

    /// Throws away what an earlier request that ended in the middle (`ENOBUFS`) has left: it would be taken for the answer to the
    /// next one. A dump goes on while it is read, and ends with it.
    fn drain(&self) {
        let mut byte = [0; 1];
        for _ in 0..MOST_LEFT_OVER {
            match recv(self.fd.as_raw_fd(), &mut byte, MsgFlags::empty()) {
                Ok(_) | Err(Errno::EINTR | Errno::ENOBUFS) => {}
                Err(_) => return,
            }
        }
    }

    /// Reads until nothing waits any more; returns how many datagrams there were.
    fn receive_all(&self, mut each: impl FnMut(Message<'_>)) -> Result<usize> {
        let mut buffer = vec![0; RECEIVE];
        let mut count = 0;
        loop {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => messages(&buffer[..length]).for_each(&mut each),
                Err(Errno::EAGAIN) => return Ok(count),
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno).doing(|| "read from netfilter".into()),
            }
            count += 1;
        }
    }
}

/// Sequence number of the request, errno and text; none for an acknowledgement.
fn read_error(message: &Message<'_>) -> Option<(u32, i32, String)> {
    let code = wire::u32_at(message.body, 0)?.cast_signed();
    if code == 0 {
        return None;
    }
    let original = wire::u32_at(message.body, 4).unwrap_or(0) as usize;
    let skip = if message.flags & CAPPED == 0 { 4 + original.max(wire::HEADER) } else { 4 + wire::HEADER };
    let text = message.body.get(skip..).filter(|_| message.flags & ACK_TLVS != 0);
    let text = text.and_then(|t| wire::find(t, ERROR_TEXT)).unwrap_or_default();
    let text = String::from_utf8_lossy(text).trim_end_matches('\0').to_owned();
    Some((message.sequence, code.saturating_neg(), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks for the number of the last change of nftables, as root.
    fn request(sequence: u32) -> Vec<u8> {
        const GET_GENERATION: u16 = 10 << 8 | 16;
        let mut writer = wire::Writer::default();
        let open = writer.message(GET_GENERATION, wire::REQUEST, sequence, 0, 0);
        writer.end_message(open);
        writer.bytes
    }

    #[test]
    fn what_an_earlier_request_has_left_is_no_answer_to_the_next() {
        let socket = Socket::open().unwrap();
        // One whose answer nobody read.
        send(socket.fd.as_raw_fd(), &request(1), MsgFlags::empty()).unwrap();
        let mut answers = 0;
        socket.ask(&request(2), "ask for the generation", |_| answers += 1).unwrap();
        assert_eq!(answers, 1);
    }
}
