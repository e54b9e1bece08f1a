//! The addresses that load balancers are given. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Neighbouring addresses of one family: `192.0.2.0/28` (without the network's own and the broadcast address),
/// `192.0.2.10-192.0.2.20`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    first: IpAddr,
    last: IpAddr,
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

fn address(number: u128, v6: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if !v6 => Ipv4Addr::from(number).into(),
        _ => Ipv6Addr::from(number).into(),
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ip = |t: &str| t.trim().parse::<IpAddr>().map_err(|_| format!("{text}: {t} is no IP address"));
        if let Some((network, prefix)) = text.split_once('/') {
            let prefix = prefix.parse().map_err(|_| format!("{text}: {prefix} is no prefix length"))?;
            return Self::of_network(ip(network)?, prefix)
                .ok_or_else(|| format!("{text}: prefix is too long"));
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (ip(first)?, ip(last)?);
        if first.is_ipv6() != last.is_ipv6() || number(first) > number(last) {
            return Err(format!("{text}: want FIRST-LAST, in this order"));
        }
        Ok(Span { first, last })
    }
}

impl Span {
    fn of_network(ip: IpAddr, prefix: u32) -> Option<Self> {
        let v6 = ip.is_ipv6();
        let host_bits = (if v6 { 128u32 } else { 32 }).checked_sub(prefix)?;
        let hosts = 1u128.checked_shl(host_bits).map_or(u128::MAX, |n| n - 1);
        let (first, last) = (number(ip) & !hosts, (number(ip) & !hosts) | hosts);
        // Some clients take the ends of a network for what they are in a network of its own.
        let inner = u128::from(host_bits > 1);
        Some(Span { first: address(first + inner, v6), last: address(last - inner, v6) })
    }

    fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv6() == self.first.is_ipv6() && (number(self.first)..=number(self.last)).contains(&number(ip))
    }
}

/// All configured addresses. Empty: load balancers get the nodes' addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool(pub Vec<Span>);

impl Pool {
    /// Nothing configured?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Is the address one of ours?
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|span| span.contains(ip))
    }

    /// The first address of a family for which `taken` does not hold. Asks no more often than there are taken addresses.
    pub fn free(&self, v6: bool, taken: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let spans = self.0.iter().filter(|span| span.first.is_ipv6() == v6);
        let mut all = spans.flat_map(|s| (number(s.first)..=number(s.last)).map(|n| address(n, v6)));
        all.find(|ip| !taken(*ip))
    }

    /// Has it addresses of a family at all?
    pub fn has_family(&self, v6: bool) -> bool {
        self.0.iter().any(|span| span.first.is_ipv6() == v6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read() {
        let table = [
            ("192.0.2.0/30", "192.0.2.1", "192.0.2.2"),
            ("192.0.2.7/32", "192.0.2.7", "192.0.2.7"),
            ("192.0.2.6/31", "192.0.2.6", "192.0.2.7"),
            ("192.0.2.10-192.0.2.20", "192.0.2.10", "192.0.2.20"),
            ("fd00::/126", "fd00::1", "fd00::2"),
        ];
        for (text, first, last) in table {
            let span = Span { first: first.parse().unwrap(), last: last.parse().unwrap() };
            assert_eq!(text.parse(), Ok(span), "{text}");
        }
        for bad in ["", "x", "192.0.2.0/33", "192.0.2.0/x", "192.0.2.9-192.0.2.1", "192.0.2.9-fd00::1"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
        assert!("::/0".parse::<Span>().is_ok() && "0.0.0.0/0".parse::<Span>().is_ok());
    }

    #[test]
    fn the_first_free_address_is_given() {
        let pool = Pool(vec!["192.0.2.1-192.0.2.2".parse().unwrap(), "198.51.100.9".parse().unwrap()]);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(pool.free(false, |_| false), Some(ip("192.0.2.1")));
        assert_eq!(pool.free(false, |i| i.to_string().starts_with("192")), Some(ip("198.51.100.9")));
        assert_eq!((pool.free(false, |_| true), pool.free(true, |_| false)), (None, None));
        assert!(pool.contains(ip("192.0.2.2")) && !pool.contains(ip("192.0.2.3")));
    }
}
