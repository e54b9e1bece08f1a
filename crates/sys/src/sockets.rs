//! Unix sockets: descriptors passed along, and socket paths longer than the 108 bytes of `sockaddr_un`; TCP peers that are gone
//! without a word.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg, setsockopt, sockopt,
};
use nix::sys::stat::Mode;

use crate::error::{Context, Error, Result};

/// A quiet peer is asked after so many seconds whether it is there,
const ASK_AFTER_SECONDS: u32 = 30;
/// again after so many,
const ASK_AGAIN_SECONDS: u32 = 10;
/// and is gone after so many questions without an answer.
const QUESTIONS: u32 = 3;

/// A TCP connection ends a minute after its quiet peer went away without a word (cable, power). On a listening socket: every connection
/// that it accepts from then on.
///
/// No time is set for data that is not acknowledged (`TCP_USER_TIMEOUT`): it would also end connections whose reader only has
/// stopped for a while, as `kubectl logs -f | less` does.
pub fn ask_whether_peers_live(socket: &impl AsFd) -> Result<()> {
    let set = || {
        setsockopt(socket, sockopt::KeepAlive, &true)?;
        setsockopt(socket, sockopt::TcpKeepIdle, &ASK_AFTER_SECONDS)?;
        setsockopt(socket, sockopt::TcpKeepInterval, &ASK_AGAIN_SECONDS)?;
        setsockopt(socket, sockopt::TcpKeepCount, &QUESTIONS)
    };
    set().doing(|| "set TCP keep-alive".into())
}

/// Listens on `path`, however long it is; an old socket file there is replaced.
pub fn listen(path: &Path) -> Result<UnixListener> {
    let _ = std::fs::remove_file(path);
    short_path(path, |short| UnixListener::bind(short)).doing(|| format!("listen on {}", path.display()))
}

/// Connects to `path`, however long it is.
pub fn connect(path: &Path) -> Result<UnixStream> {
    short_path(path, |short| UnixStream::connect(short)).doing(|| format!("connect to {}", path.display()))
}

/// Sends one byte together with a descriptor.
pub fn send_descriptor(stream: &UnixStream, fd: impl AsFd) -> Result<()> {
    let fds = [fd.as_fd().as_raw_fd()];
    let data = [IoSlice::new(b"f")];
    let message = [ControlMessage::ScmRights(&fds)];
    sendmsg::<UnixAddr>(stream.as_raw_fd(), &data, &message, MsgFlags::MSG_NOSIGNAL, None)
        .doing(|| "send descriptor".into())
        .map(drop)
}

/// Receives one message with a descriptor, as sent by [`send_descriptor`] or by a console socket.
pub fn receive_descriptor(stream: &UnixStream) -> Result<OwnedFd> {
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut byte = [0u8; 64];
    let mut data = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(stream.as_raw_fd(), &mut data, Some(&mut space), flags)
        .doing(|| "receive descriptor".into())?;
    let mut control = message.cmsgs().doing(|| "read control message".into())?;
    let first = control.find_map(|m| match m {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    match first {
        // SAFETY: the kernel has just installed this descriptor for us.
        Some(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        None => Err(Error {
            what: "receive descriptor".into(),
            source: std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "no descriptor in the message"),
        }),
    }
}

/// Reaches the socket through its directory's descriptor, which keeps the name short.
fn short_path<T>(path: &Path, work: impl FnOnce(&Path) -> std::io::Result<T>) -> std::io::Result<T> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let handle = open(dir, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    work(&PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd())).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn accepted_connections_ask_whether_their_peer_lives() {
        use nix::sys::socket::getsockopt;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        ask_whether_peers_live(&listener).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(getsockopt(&accepted, sockopt::KeepAlive).unwrap());
        assert_eq!(getsockopt(&accepted, sockopt::TcpKeepIdle).unwrap(), ASK_AFTER_SECONDS);
        assert_eq!(getsockopt(&accepted, sockopt::TcpKeepCount).unwrap(), QUESTIONS);
    }

    #[test]
    fn long_paths_and_descriptors_pass() {
        let dir = std::env::temp_dir().join(format!("corten-{}-{}", "x".repeat(100), std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("a-socket-name.sock");
        let listener = listen(&path).unwrap();
        let client = connect(&path).unwrap();
        let (server, _) = listener.accept().unwrap();
        let (read, write) = crate::fds::pipe().unwrap();
        send_descriptor(&client, &write).unwrap();
        drop(write);
        let got = receive_descriptor(&server).unwrap();
        std::fs::File::from(got).write_all(b"through").unwrap();
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
