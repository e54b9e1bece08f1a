//! What this machine says about itself.

use std::net::{IpAddr, UdpSocket};

use anyhow::{Context, Result};

use crate::cidrs::Cidrs;

/// The host's name, as a node may be called.
pub fn name() -> Result<String> {
    let name = nix::unistd::gethostname().context("cannot read the host's name")?;
    Ok(name.to_string_lossy().to_lowercase())
}

/// The address from which packets to the outside would go. Nothing is sent: connecting a UDP socket only asks for the route.
pub fn address_of_default_route() -> IpAddr {
    address_towards(IpAddr::from([203, 0, 113, 1]))
}

/// The node's addresses: those `given`, or `first` and, where pods have both families, that of the other family's default route.
/// The pods' default family goes first.
pub fn addresses(given: Vec<IpAddr>, pods: &Cidrs, first: impl FnOnce() -> IpAddr) -> Vec<IpAddr> {
    if !given.is_empty() {
        return given;
    }
    let mut all = vec![first()];
    if pods.all().count() > 1 {
        let six = all[0].is_ipv6();
        let elsewhere: IpAddr =
            if six { [203, 0, 113, 1].into() } else { [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into() };
        let other = address_towards(elsewhere);
        if other.is_ipv6() != six && !other.is_loopback() {
            all.push(other);
        }
        all.sort_by_key(|ip| ip.is_ipv6() != pods.prefers_v6());
    }
    all
}

/// Whether this kernel has IPv6 and it is not disabled.
pub fn has_ipv6() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6").is_ok_and(|text| text.trim() == "0")
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
