//! Warnings that several kinds share: addresses written in a way that will be refused one day, and bytes that are no whole ones.

use std::net::IpAddr;

use super::look::{entries, given, quantity};
use crate::Value;
use crate::field::{Path, Quoted};

/// Of an address that is valid by the old rules.
pub(crate) fn address(warnings: &mut Vec<String>, value: &str, path: &Path<'_>) {
    let quoted = value.quoted();
    match (value.parse::<IpAddr>(), sloppy(value)) {
        (Ok(IpAddr::V6(ip)), _) if ip.to_ipv4_mapped().is_none() => {
            let canonical = ip.to_string();
            if canonical != value {
                let wanted = canonical.quoted();
                warnings.push(format!(
                    "{path}: IPv6 address {quoted} should be in RFC 5952 canonical format ({wanted})"
                ));
            }
        }
        (Ok(IpAddr::V4(_)), _) | (_, None) => {}
        (_, Some(ip)) => {
            let wanted = ip.to_string().quoted();
            warnings.push(format!("{path}: non-standard IP address {quoted} is invalid: use {wanted}"));
        }
    }
}

/// Of a block of addresses that is valid by the old rules.
pub(crate) fn block(warnings: &mut Vec<String>, value: &str, path: &Path<'_>) {
    let Some((written, bits)) = value.split_once('/') else { return };
    let (Some(ip), Ok(bits)) = (sloppy(written), bits.parse::<u32>()) else { return };
    let (net, width) = masked(ip, bits);
    let (quoted, network) = (value.quoted(), format!("{net}/{bits}").quoted());
    let before = warnings.len();
    if net != ip {
        let single = format!("{ip}/{width}").quoted();
        warnings.push(format!(
            "{path}: CIDR value {quoted} is ambiguous in this context (should be {network} or {single}?)"
        ));
    }
    match written.parse::<IpAddr>() {
        Ok(IpAddr::V6(plain)) if plain.to_ipv4_mapped().is_none() => {
            let canonical = format!("{plain}/{bits}");
            if warnings.len() == before && canonical != value {
                let wanted = canonical.quoted();
                warnings.push(format!(
                    "{path}: IPv6 CIDR value {quoted} should be in RFC 5952 canonical format ({wanted})"
                ));
            }
        }
        Ok(IpAddr::V4(_)) => {}
        _ => warnings.push(format!("{path}: non-standard CIDR value {quoted} is invalid: use {network}")),
    }
}

/// An address as Go's older parser reads it: leading zeros mean nothing, IPv4 inside IPv6 is IPv4.
pub(crate) fn sloppy(value: &str) -> Option<IpAddr> {
    match value.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) => Some(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4)),
        Ok(ip) => Some(ip),
        Err(_) => {
            let parts: Vec<&str> = value.split('.').map(without_zeros).collect();
            parts.join(".").parse().ok()
        }
    }
}

fn without_zeros(part: &str) -> &str {
    match part.trim_start_matches('0') {
        "" if !part.is_empty() => "0",
        digits => digits,
    }
}

fn masked(ip: IpAddr, bits: u32) -> (IpAddr, u32) {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32u32.saturating_sub(bits)).unwrap_or(0);
            (IpAddr::V4((u32::from(ip) & mask).into()), 32)
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128u32.saturating_sub(bits)).unwrap_or(0);
            (IpAddr::V6((u128::from(ip) & mask).into()), 128)
        }
    }
}

/// Of an amount that is counted in bytes, where it is not a whole number of them.
pub(crate) fn bytes(warnings: &mut Vec<String>, amount: &Value, path: &Path<'_>) {
    if quantity(Some(amount)).has_thousandths() {
        let shown = amount.as_str().unwrap_or_default().quoted();
        warnings.push(format!("{path}: fractional byte value {shown} is invalid, must be an integer"));
    }
}

/// Of a claim's spec.
pub(crate) fn claim_spec(warnings: &mut Vec<String>, spec: &Value, path: &Path<'_>) {
    let resources = path.child("resources");
    for side in ["requests", "limits"] {
        let Some(amounts) = given(spec, "resources") else { continue };
        for (name, amount) in entries(amounts, side).filter(|(name, _)| name.as_str() == "storage") {
            bytes(warnings, amount, &resources.child(side).key(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let cases = [
            ("10.0.0.1", ""),
            ("fe80::1", ""),
            ("010.0.0.1", "a: non-standard IP address \"010.0.0.1\" is invalid: use \"10.0.0.1\""),
            ("::ffff:1.2.3.4", "a: non-standard IP address \"::ffff:1.2.3.4\" is invalid: use \"1.2.3.4\""),
            ("FE80::1", "a: IPv6 address \"FE80::1\" should be in RFC 5952 canonical format (\"fe80::1\")"),
            ("nonsense", ""),
        ];
        for (value, wanted) in cases {
            let mut warnings = Vec::new();
            address(&mut warnings, value, &Path::root("a"));
            assert_eq!(warnings.join("|"), wanted, "{value}");
        }
    }

    #[test]
    fn blocks() {
        let cases = [
            ("10.0.0.0/8", ""),
            (
                "10.1.2.3/8",
                "a: CIDR value \"10.1.2.3/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \"10.1.2.3/32\"?)",
            ),
            ("010.0.0.0/8", "a: non-standard CIDR value \"010.0.0.0/8\" is invalid: use \"10.0.0.0/8\""),
            (
                "FE80::/64",
                "a: IPv6 CIDR value \"FE80::/64\" should be in RFC 5952 canonical format (\"fe80::/64\")",
            ),
        ];
        for (value, wanted) in cases {
            let mut warnings = Vec::new();
            block(&mut warnings, value, &Path::root("a"));
            assert_eq!(warnings.join("|"), wanted, "{value}");
        }
    }
}
