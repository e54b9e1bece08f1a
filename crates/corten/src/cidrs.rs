//! The ranges of a cluster as flags and configuration tell them: one range, or with a comma one of each family.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// One range, or one of each family; the first one's family is the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cidrs {
    first: IpNet,
    second: Option<IpNet>,
}

impl Cidrs {
    /// All, in their order.
    pub fn all(&self) -> impl Iterator<Item = IpNet> {
        [Some(self.first), self.second].into_iter().flatten()
    }

    /// The IPv4 range.
    pub fn v4(&self) -> Option<Ipv4Net> {
        self.all().find_map(|net| if let IpNet::V4(net) = net { Some(net) } else { None })
    }

    /// The IPv6 range.
    pub fn v6(&self) -> Option<Ipv6Net> {
        self.all().find_map(|net| if let IpNet::V6(net) = net { Some(net) } else { None })
    }

    /// IPv6 is the default.
    pub fn prefers_v6(&self) -> bool {
        self.first.addr().is_ipv6()
    }

    /// Without IPv6; `None` when nothing is left.
    pub fn without_v6(&self) -> Option<Cidrs> {
        self.v4().map(|net| Cidrs { first: net.into(), second: None })
    }

    /// The `place`th address of each range, counted from the network's own.
    pub fn nth(&self, place: u8) -> impl Iterator<Item = IpAddr> {
        self.all().filter_map(move |net| nth(net, place))
    }
}

fn nth(net: IpNet, place: u8) -> Option<IpAddr> {
    let address: IpAddr = match net.network() {
        IpAddr::V4(first) => Ipv4Addr::from(u32::from(first).checked_add(place.into())?).into(),
        IpAddr::V6(first) => Ipv6Addr::from(u128::from(first).checked_add(place.into())?).into(),
    };
    let usable = net.contains(&address) && (net.addr().is_ipv6() || address != net.broadcast());
    usable.then_some(address)
}

impl FromStr for Cidrs {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let read = |part: &str| -> Result<IpNet> {
            let net: IpNet = part.trim().parse().with_context(|| format!("{part:?} is no CIDR"))?;
            Ok(net.trunc())
        };
        let mut parts = text.split(',');
        let first = read(parts.next().unwrap_or_default())?;
        let second = parts.next().map(read).transpose()?;
        if parts.next().is_some() || second.is_some_and(|net| net.addr().is_ipv4() == first.addr().is_ipv4())
        {
            bail!("want one CIDR, or one of each family with a comma");
        }
        Ok(Cidrs { first, second })
    }
}

impl fmt::Display for Cidrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(f)?;
        self.second.map_or(Ok(()), |net| write!(f, ",{net}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_or_one_of_each_family() {
        let cases = [
            ("10.96.0.0/16", Some(("10.96.0.0/16", "10.96.0.10"))),
            ("10.96.3.1/16", Some(("10.96.0.0/16", "10.96.0.10"))),
            ("10.0.0.0/16,fd00::/112", Some(("10.0.0.0/16,fd00::/112", "10.0.0.10 fd00::a"))),
            ("fd00::/112, 10.0.0.0/16", Some(("fd00::/112,10.0.0.0/16", "fd00::a 10.0.0.10"))),
            ("fd00::/112", Some(("fd00::/112", "fd00::a"))),
            ("10.0.0.0/29", Some(("10.0.0.0/29", ""))),
            ("10.0.0.0/16,10.1.0.0/16", None),
            ("10.0.0.0/16,fd00::/112,fd01::/112", None),
            ("10.0.0.0", None),
            ("", None),
        ];
        for (text, wanted) in cases {
            let read = text.parse::<Cidrs>().ok();
            let tenth = |cidrs: &Cidrs| cidrs.nth(10).map(|ip| ip.to_string()).collect::<Vec<_>>().join(" ");
            let told = read.map(|cidrs| (cidrs.to_string(), tenth(&cidrs)));
            assert_eq!(told, wanted.map(|(a, b)| (a.to_owned(), b.to_owned())), "{text}");
        }
    }

    #[test]
    fn families_of_both_orders() {
        for text in ["10.0.0.0/16,fd00::/112", "fd00::/112,10.0.0.0/16"] {
            let cidrs: Cidrs = text.parse().unwrap();
            assert_eq!(cidrs.v4().unwrap().to_string(), "10.0.0.0/16");
            assert_eq!(cidrs.v6().unwrap().to_string(), "fd00::/112");
            assert_eq!(cidrs.prefers_v6(), text.starts_with("fd"));
            assert_eq!(cidrs.without_v6().unwrap().to_string(), "10.0.0.0/16");
        }
        assert_eq!("fd00::/112".parse::<Cidrs>().unwrap().without_v6(), None);
    }
}
