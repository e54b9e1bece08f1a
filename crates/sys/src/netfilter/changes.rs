//! What others do to nftables. The kernel tells every change of a network namespace; a filter in the kernel keeps out what came
//! through a socket of our own, so that a listener that writes thousands of elements itself hears nothing of them.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

use super::Socket;
use super::nft::SUBSYSTEM;
use super::wire::{FULL_HEADER, HEADER, find, messages};
use crate::error::{Context, Error, Result};

/// The multicast group of nftables (`NFNLGRP_NFTABLES`), as a bit of a netlink address.
const GROUP: u32 = 1 << (7 - 1);
/// Where the sender's port stands in `nlmsghdr`.
const SENDER: u32 = 12;
const RECEIVE: usize = 64 * 1024;

/// One thing that somebody changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// `NFPROTO_*` of its table: 1 inet, 2 IPv4, 10 IPv6.
    pub family: u8,
    /// Its table.
    pub table: String,
    /// The chain, where it is a chain or a rule.
    pub chain: Option<String>,
    /// Taken away, or new.
    pub is_gone: bool,
    /// The netlink port of who did it: the process id, of programs with one socket.
    pub sender: u32,
}

/// What [`Changes::take`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// One that concerns.
    pub is_concerned: bool,
    /// The kernel had to drop some.
    pub is_lost: bool,
}

impl Taken {
    /// There was one, or may have been.
    pub fn any(self) -> bool {
        self.is_concerned || self.is_lost
    }
}

/// A listener in the network namespace of the thread that opened it. Readable when somebody changed something.
#[derive(Debug)]
pub struct Changes {
    fd: OwnedFd,
}

impl Changes {
    /// Listens to everybody but `own`.
    pub fn open(own: Option<&Socket>) -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)
            .doing(|| "open a netfilter socket".into())?;
        let changes = Changes { fd };
        if let Some(own) = own {
            changes.keep_out(own.port()?)?;
        }
        bind(changes.fd.as_raw_fd(), &NetlinkAddr::new(0, GROUP))
            .doing(|| "listen to changes of nftables".into())?;
        Ok(changes)
    }

    /// A classic BPF program: messages of that sender end before they take room in our queue.
    fn keep_out(&self, port: u32) -> Result<()> {
        const LOAD_WORD: u16 = 0x20;
        const JUMP_IF_EQUAL: u16 = 0x15;
        const RETURN: u16 = 0x06;
        let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
        // The machine reads words as if they were big-endian; netlink's are this host's.
        let port = u32::from_be_bytes(port.to_ne_bytes());
        let mut program = [
            step(LOAD_WORD, 0, 0, SENDER),
            step(JUMP_IF_EQUAL, 1, 0, port),
            step(RETURN, 0, 0, u32::MAX),
            step(RETURN, 0, 0, 0),
        ];
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: the kernel copies the program, which lives until the call is over, by the length in the structure.
        let outcome = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const filter).cast(),
                size_of::<libc::sock_fprog>() as libc::socklen_t,
            )
        };
        if outcome < 0 { Err(Error::last("filter changes of nftables")) } else { Ok(()) }
    }

    /// Reads all that waits, and says whether `concerns` says so of one change.
    pub fn take(&self, mut concerns: impl FnMut(&Changed) -> bool) -> Result<Taken> {
        let mut buffer = vec![0; RECEIVE];
        let mut taken = Taken::default();
        loop {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => {
                    let all = messages(&buffer[..length])
                        .filter_map(|message| read(message.kind, message.sender, message.body));
                    for changed in all {
                        taken.is_concerned = taken.is_concerned || concerns(&changed);
                    }
                }
                Err(Errno::ENOBUFS) => taken.is_lost = true,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(taken),
                Err(errno) => return Err(errno).doing(|| "read changes of nftables".into()),
            }
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Changes {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// None for what is no table, chain, rule, set or element.
fn read(kind: u16, sender: u32, body: &[u8]) -> Option<Changed> {
    if kind >> 8 != SUBSYSTEM {
        return None;
    }
    let (name, is_gone) = match kind & 0xff {
        0 => (None, false),
        2 => (None, true),
        3 => (Some(3), false),
        5 => (Some(3), true),
        6 => (Some(2), false),
        8 => (Some(2), true),
        9 | 12 => (None, false),
        11 | 14 => (None, true),
        _ => return None,
    };
    let family = *body.first()?;
    let attributes = body.get(FULL_HEADER - HEADER..)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
    let table = text(find(attributes, 1)?);
    let chain = name.and_then(|kind| find(attributes, kind)).map(text);
    Some(Changed { family, table, chain, is_gone, sender })
}

#[cfg(test)]
mod tests {
    use super::super::wire::Writer;
    use super::*;

    #[test]
    fn changes_are_read() {
        let message = |kind: u16, attributes: &[(u16, &str)]| {
            let mut writer = Writer::default();
            let open = writer.message(kind, 0, 0, 2, 0);
            attributes.iter().for_each(|(kind, text)| writer.name(*kind, text));
            writer.end_message(open);
            writer.bytes[HEADER..].to_vec()
        };
        let changed = |chain: Option<&str>, is_gone| Changed {
            family: 2,
            table: "t".into(),
            chain: chain.map(str::to_owned),
            is_gone,
            sender: 9,
        };
        let nft = SUBSYSTEM << 8;
        for (kind, attributes, expected) in [
            (nft | 2, &[(1, "t")][..], Some(changed(None, true))),
            (nft | 5, &[(1, "t"), (3, "c")], Some(changed(Some("c"), true))),
            (nft | 6, &[(1, "t"), (2, "c")], Some(changed(Some("c"), false))),
            (nft | 14, &[(1, "t"), (2, "set")], Some(changed(None, true))),
            (nft | 15, &[(1, "t")], None),
            (2, &[(1, "t")], None),
            (nft | 2, &[], None),
        ] {
            assert_eq!(read(kind, 9, &message(kind, attributes)), expected, "{kind:#x}");
        }
        assert_eq!(read(nft | 2, 9, &[]), None);
    }
}
