//! What Services hold, and what is still free: addresses of the ranges, node ports.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;
use rand::Rng;

/// One thing that a Service can hold; all Services together hold it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Held {
    Address(IpAddr),
    Port(u16),
}

/// Larger ranges are treated as if they had this many addresses (upstream's bound for IPv6).
const MAX_ADDRESSES: u32 = 1 << 20;
/// The place (counted from the first address) that clusters give their DNS service. It is never given to one that does not ask.
const DNS_PLACE: u32 = 9;

/// A range of addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    net: IpNet,
}

impl Addresses {
    pub fn new(net: IpNet) -> Self {
        Addresses { net: net.trunc() }
    }

    /// `IPv4` or `IPv6`
    pub fn family(&self) -> &'static str {
        if self.net.addr().is_ipv4() { "IPv4" } else { "IPv6" }
    }

    /// May a Service have the address? The network's own address and IPv4's broadcast address are nobody's.
    ///
    /// Errors: upstream's words.
    pub fn check(&self, address: IpAddr) -> Result<(), String> {
        if !self.net.contains(&address) {
            return Err("the provided network does not match the current range".into());
        }
        let broadcast = self.net.addr().is_ipv4() && address == self.net.broadcast();
        if address == self.net.network() || broadcast {
            return Err(format!(
                "the provided IP ({address}) is not in the valid range. The range of valid IPs is {}",
                self.net
            ));
        }
        Ok(())
    }

    fn size(&self) -> u32 {
        let bits = u32::from(self.net.max_prefix_len() - self.net.prefix_len()).min(MAX_ADDRESSES.ilog2());
        let not_usable = if self.net.addr().is_ipv4() { 2 } else { 1 };
        (1u32 << bits).saturating_sub(not_usable)
    }

    fn at(&self, place: u32) -> IpAddr {
        match self.net.network() {
            IpAddr::V4(first) => Ipv4Addr::from(u32::from(first).saturating_add(place + 1)).into(),
            IpAddr::V6(first) => {
                Ipv6Addr::from(u128::from(first).saturating_add(u128::from(place) + 1)).into()
            }
        }
    }

    /// A free address.
    pub fn any(&self, taken: &HashSet<Held>) -> Option<IpAddr> {
        let size = self.size();
        let free = |place: u32| place != DNS_PLACE && !taken.contains(&Held::Address(self.at(place)));
        pick(size, address_band(size), free).map(|place| self.at(place))
    }
}

/// A free node port.
pub(super) fn any_port(range: &RangeInclusive<u16>, taken: &HashSet<Held>) -> Option<u16> {
    let (first, size) = (*range.start(), u32::from(*range.end() - *range.start()) + 1);
    let at = |place: u32| first.saturating_add(u16::try_from(place).unwrap_or(u16::MAX));
    pick(size, port_band(size), |place| !taken.contains(&Held::Port(at(place)))).map(at)
}

/// The lower part of a range is left to those who choose for themselves: a sixteenth, at least 16, at most 256.
fn address_band(size: u32) -> u32 {
    if size <= 16 { 0 } else { (size / 16).clamp(16, 256) }
}

/// The same of node ports: a thirty-second, at least 16, at most 128.
fn port_band(size: u32) -> u32 {
    if size <= 16 { 0 } else { (size / 32).clamp(16, 128) }
}

/// A free place: random in the upper part, then the next free one after it, then the lower part.
fn pick(size: u32, band: u32, is_free: impl Fn(u32) -> bool) -> Option<u32> {
    let upper = size.saturating_sub(band);
    if upper > 0 {
        let start = rand::rng().random_range(0..upper);
        let mut places = (0..upper).map(|i| band + (start + i) % upper);
        if let Some(found) = places.find(|place| is_free(*place)) {
            return Some(found);
        }
    }
    (0..band.min(size)).find(|place| is_free(*place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_all_and_no_more() {
        let mut taken = HashSet::new();
        for _ in 0..254 {
            let at = pick(254, address_band(254), |at| !taken.contains(&at)).unwrap();
            assert!(at < 254 && taken.insert(at));
        }
        assert_eq!(pick(254, 16, |at| !taken.contains(&at)), None);
        assert_eq!(pick(0, 0, |_| true), None);
    }

    #[test]
    fn bands() {
        let addresses: Vec<u32> = [14, 62, 254, 65_534].map(address_band).into();
        assert_eq!(addresses, [0, 16, 16, 256]);
        assert_eq!([16, 100, 2768, 60_000].map(port_band), [0, 16, 86, 128]);
    }

    #[test]
    fn the_upper_part_goes_first_and_dns_keeps_its_place() {
        let range = Addresses::new("10.0.0.0/26".parse().unwrap());
        let mut taken = HashSet::new();
        let given: Vec<IpAddr> = std::iter::from_fn(|| {
            let address = range.any(&taken)?;
            taken.insert(Held::Address(address));
            Some(address)
        })
        .collect();
        let last = |ip: &IpAddr| ip.to_string().rsplit('.').next().unwrap().parse::<u32>().unwrap();
        assert!(given[..46].iter().all(|ip| last(ip) > 16));
        assert!(given[46..].iter().all(|ip| last(ip) <= 16));
        assert_eq!(given.len(), 61, "62 less the tenth");
        assert!(!given.contains(&"10.0.0.10".parse().unwrap()));
        assert!(range.check("10.0.0.10".parse().unwrap()).is_ok());
    }

    #[test]
    fn what_is_in_a_range() {
        let range = Addresses::new("10.96.0.0/16".parse().unwrap());
        let cases = [
            ("10.96.0.1", ""),
            ("10.96.255.254", ""),
            ("10.97.0.1", "does not match the current range"),
            ("10.96.0.0", "is not in the valid range. The range of valid IPs is 10.96.0.0/16"),
            ("10.96.255.255", "is not in the valid range"),
        ];
        for (address, why) in cases {
            let refused = range.check(address.parse().unwrap()).err().unwrap_or_default();
            assert!(refused.contains(why) && refused.is_empty() == why.is_empty(), "{address}: {refused}");
        }
        let six = Addresses::new("fd00:1::/108".parse().unwrap());
        assert_eq!((six.family(), six.size()), ("IPv6", (1 << 20) - 1));
        assert_eq!(six.at(0), "fd00:1::1".parse::<IpAddr>().unwrap());
    }
}
