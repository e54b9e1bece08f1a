//! What this machine says about itself.

use std::net::{IpAddr, UdpSocket};

use anyhow::{Context, Result};

/// The host's name, as a node may be called.
pub fn name() -> Result<String> {
    let name = nix::unistd::gethostname().context("cannot read the host's name")?;
    Ok(name.to_string_lossy().to_lowercase())
}

/// The address from which packets to the outside would go. Nothing is sent: connecting a UDP socket only asks for the route.
pub fn address_of_default_route() -> IpAddr {
    address_towards(IpAddr::from([203, 0, 113, 1]))
}

/// The address from which packets to `other` would go; loopback where no route leads there.
pub fn address_towards(other: IpAddr) -> IpAddr {
    let any = if other.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let ask = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind(any)?;
        socket.connect((other, 9))?;
        Ok(socket.local_addr()?.ip())
    };
    ask().unwrap_or(IpAddr::from([127, 0, 0, 1]))
}
