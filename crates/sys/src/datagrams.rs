//! Datagrams with both addresses: a server on all addresses must answer from the one it was asked at.

use std::io::{IoSlice, IoSliceMut, Result};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};

/// Has the kernel tell the local address of every datagram; `is_v4` is the socket's family.
pub fn tell_local_address(socket: &impl AsFd, is_v4: bool) -> Result<()> {
    match is_v4 {
        true => setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?,
        false => setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?,
    }
    Ok(())
}

/// Receives a datagram: its length, who sent it and to which of our addresses. Does not wait on a non-blocking socket.
pub fn receive(socket: &impl AsRawFd, buffer: &mut [u8]) -> Result<(usize, SocketAddr, IpAddr)> {
    let mut space = nix::cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo);
    let mut data = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut data, Some(&mut space), MsgFlags::empty())?;
    let peer = message.address.as_ref().and_then(address_of).ok_or(Errno::EAFNOSUPPORT)?;
    let local = message.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(IpAddr::from(u32::from_be(info.ipi_addr.s_addr).to_be_bytes()))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr)),
        _ => None,
    });
    Ok((message.bytes, peer, local.ok_or(Errno::EPROTO)?))
}

/// Sends a datagram from one of our addresses.
pub fn send(socket: &impl AsRawFd, bytes: &[u8], from: IpAddr, to: SocketAddr) -> Result<()> {
    let data = [IoSlice::new(bytes)];
    let to = SockaddrStorage::from(to);
    let fd = socket.as_raw_fd();
    match from {
        IpAddr::V4(v4) => {
            let spec = libc::in_addr { s_addr: u32::from_ne_bytes(v4.octets()) };
            let any = libc::in_addr { s_addr: 0 };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: spec, ipi_addr: any };
            sendmsg(fd, &data, &[ControlMessage::Ipv4PacketInfo(&info)], MsgFlags::empty(), Some(&to))?
        }
        IpAddr::V6(v6) => {
            let address = libc::in6_addr { s6_addr: v6.octets() };
            let info = libc::in6_pktinfo { ipi6_addr: address, ipi6_ifindex: 0 };
            sendmsg(fd, &data, &[ControlMessage::Ipv6PacketInfo(&info)], MsgFlags::empty(), Some(&to))?
        }
    };
    Ok(())
}

fn address_of(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|v4| SocketAddr::V4(SocketAddrV4::from(*v4)));
    v4.or_else(|| storage.as_sockaddr_in6().map(|v6| SocketAddr::V6(SocketAddrV6::from(*v6))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn the_answer_comes_from_the_address_that_was_asked() {
        let server = UdpSocket::bind("0.0.0.0:0").unwrap();
        tell_local_address(&server, true).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(("127.7.7.7", server.local_addr().unwrap().port())).unwrap();
        client.send(b"question").unwrap();
        let mut buffer = [0; 64];
        let (length, peer, local) = receive(&server, &mut buffer).unwrap();
        assert_eq!((&buffer[..length], peer), (&b"question"[..], client.local_addr().unwrap()));
        assert_eq!(local, IpAddr::from([127, 7, 7, 7]));
        send(&server, b"answer", local, peer).unwrap();
        // A connected socket hears its peer only.
        let length = client.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"answer");
    }
}
