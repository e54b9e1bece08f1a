//! The rules that many kinds share: names, label parts, keys, ports, addresses. Each returns upstream's messages, none when all is well.
//!
//! Checks are written by hand instead of as regular expressions: they run on every write of every object.

use std::net::IpAddr;

use crate::field::{Error, Path, Quoted};

/// What is wrong, in upstream's words; empty for nothing.
pub type Messages = Vec<String>;

/// Adds one `Invalid` error a message.
pub fn invalid_each(errors: &mut Vec<Error>, path: &Path<'_>, bad: impl Quoted, messages: Messages) {
    errors.extend(messages.iter().map(|message| Error::invalid(path, &bad, message)));
}

/// Upstream's form of "this must match": what is wanted, examples, and the pattern.
pub fn pattern(message: &str, pattern: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{pattern}')");
    }
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{pattern}')", examples.join(" or "))
}

/// `must be no more than N bytes`
pub fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// The same in the words of older rules.
fn too_many_characters(max: usize) -> String {
    format!("must be no more than {max} characters")
}

/// `must be between LOW and HIGH, inclusive`
pub fn between(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// Upstream's message for a negative number.
pub const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

const LABEL_PATTERN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_PATTERN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
     '-' or '.', and must start and end with an alphanumeric character";
const LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
     and must start and end with an alphanumeric character";
const DNS1035_MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with \
     an alphabetic character, and end with an alphanumeric character";
const QUALIFIED_MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
     an alphanumeric character";
const QUALIFIED_PATTERN: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_EXAMPLES: &[&str] = &["MyName", "my.name", "123-abc"];
const LABEL_VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', \
     '_' or '.', and must start and end with an alphanumeric character";
const CONFIG_KEY_MESSAGE: &str =
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
const SUBDOMAIN_MAX: usize = 253;
const LABEL_MAX: usize = 63;

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn is_label(value: &str) -> bool {
    let bytes = value.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => {
            lower_alnum(first) && lower_alnum(last) && bytes.iter().all(|&b| lower_alnum(b) || b == b'-')
        }
        _ => false,
    }
}

fn is_subdomain(value: &str) -> bool {
    value.split('.').all(is_label)
}

/// A lowercase RFC 1123 subdomain of at most 253 bytes: the name of most objects.
pub fn dns_subdomain(value: &str) -> Messages {
    let mut messages = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        messages.push(too_many_characters(SUBDOMAIN_MAX));
    }
    if !is_subdomain(value) {
        messages.push(pattern(SUBDOMAIN_MESSAGE, SUBDOMAIN_PATTERN, &["example.com"]));
    }
    messages
}

/// The same in any case, as newer rules word it.
pub fn caseless_subdomain(value: &str) -> Messages {
    let mut messages = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        messages.push(too_long(SUBDOMAIN_MAX));
    } else if !is_subdomain(&value.to_lowercase()) {
        let message = "an RFC 1123 subdomain must consist of alphanumeric characters, '-' or '.', and must start and end \
                       with an alphanumeric character";
        messages.push(pattern(message, SUBDOMAIN_PATTERN, &["Example.com"]));
    }
    messages
}

/// The same with underscores: DNS search paths.
pub fn dns_subdomain_with_underscore(value: &str) -> Messages {
    let mut messages = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        messages.push(too_many_characters(SUBDOMAIN_MAX));
    }
    let is_part = |part: &str| {
        let part = part.strip_prefix('_').unwrap_or(part);
        is_label(&part.replace('_', "-"))
    };
    if !value.split('.').all(is_part) {
        let label = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
        let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or \
             '.', and must start and end with an alphanumeric character";
        messages.push(pattern(message, &format!("{label}(\\.{label})*"), &["example.com"]));
    }
    messages
}

/// A lowercase RFC 1123 label of at most 63 bytes: namespaces, containers, volumes.
pub fn dns_label(value: &str) -> Messages {
    let mut messages = Vec::new();
    if value.len() > LABEL_MAX {
        messages.push(too_many_characters(LABEL_MAX));
    }
    if !is_label(value) {
        messages.push(if is_subdomain(value) {
            "must not contain dots".to_owned()
        } else {
            pattern(LABEL_MESSAGE, LABEL_PATTERN, &["my-name", "123-abc"])
        });
    }
    messages
}

/// A DNS-1035 label of at most 63 bytes: it starts with a letter.
pub fn dns1035_label(value: &str) -> Messages {
    let mut messages = Vec::new();
    if value.len() > LABEL_MAX {
        messages.push(too_many_characters(LABEL_MAX));
    }
    if !is_label(value) || !value.starts_with(|c: char| c.is_ascii_lowercase()) {
        messages.push(pattern(DNS1035_MESSAGE, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]));
    }
    messages
}

/// `*.` and a subdomain.
pub fn wildcard_dns_subdomain(value: &str) -> Messages {
    let mut messages = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        messages.push(too_many_characters(SUBDOMAIN_MAX));
    }
    if !value.strip_prefix("*.").is_some_and(is_subdomain) {
        let message = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must \
             consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
        messages.push(pattern(message, &format!(r"\*\.{SUBDOMAIN_PATTERN}"), &["*.example.com"]));
    }
    messages
}

/// A name that may stand in a URL path: no `/`, no `%`, not `.` or `..`.
pub fn path_segment(value: &str, is_prefix: bool) -> Messages {
    if !is_prefix && (value == "." || value == "..") {
        return vec![format!("may not be '{value}'")];
    }
    ["/", "%"]
        .iter()
        .filter(|bad| value.contains(**bad))
        .map(|bad| format!("may not contain '{bad}'"))
        .collect()
}

/// What stands for a generateName in name checks: its trailing dash will be followed by a suffix.
fn masked(name: &str, is_prefix: bool) -> std::borrow::Cow<'_, str> {
    match name.strip_suffix('-') {
        Some(rest) if is_prefix && !rest.is_empty() => {
            let end = rest.char_indices().next_back().map_or(0, |(at, _)| at);
            format!("{}a", &rest[..end]).into()
        }
        _ => name.into(),
    }
}

/// Name rule: DNS subdomain (the default).
pub fn name_is_subdomain(name: &str, is_prefix: bool) -> Messages {
    dns_subdomain(&masked(name, is_prefix))
}

/// Name rule: DNS label.
pub fn name_is_label(name: &str, is_prefix: bool) -> Messages {
    dns_label(&masked(name, is_prefix))
}

/// Name rule: DNS-1035 label.
pub fn name_is_dns1035_label(name: &str, is_prefix: bool) -> Messages {
    dns1035_label(&masked(name, is_prefix))
}

fn is_qualified_part(value: &str) -> bool {
    let bytes = value.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            first.is_ascii_alphanumeric()
                && last.is_ascii_alphanumeric()
                && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        }
        _ => false,
    }
}

/// A label key, annotation key (lowercased), resource name, condition type, finalizer: `[prefix/]name`.
pub fn qualified_name(value: &str) -> Messages {
    let mut messages = Vec::new();
    let mut parts = value.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                messages.push("prefix part must be non-empty".to_owned());
            } else {
                messages.extend(dns_subdomain(prefix).into_iter().map(|m| format!("prefix part {m}")));
            }
            name
        }
        _ => {
            let wanted = pattern(QUALIFIED_MESSAGE, QUALIFIED_PATTERN, QUALIFIED_EXAMPLES);
            return vec![format!(
                "a valid label key {wanted} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        messages.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        messages.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !is_qualified_part(name) {
        messages
            .push(format!("name part {}", pattern(QUALIFIED_MESSAGE, QUALIFIED_PATTERN, QUALIFIED_EXAMPLES)));
    }
    messages
}

/// A label's value.
pub fn label_value(value: &str) -> Messages {
    let mut messages = Vec::new();
    if value.len() > LABEL_MAX {
        messages.push(too_long(LABEL_MAX));
    }
    if !value.is_empty() && !is_qualified_part(value) {
        let wanted = format!("({QUALIFIED_PATTERN})?");
        messages.push(pattern(LABEL_VALUE_MESSAGE, &wanted, &["MyValue", "my_value", "12345"]));
    }
    messages
}

/// 1–65535.
pub fn port_number(port: i64) -> Messages {
    if (1..=65535).contains(&port) { Vec::new() } else { vec![between(1, 65535)] }
}

/// The name of a port: at most 15 bytes of lower case letters, digits and single hyphens, one letter at least.
pub fn port_name(name: &str) -> Messages {
    let mut messages = Vec::new();
    if name.len() > 15 {
        messages.push(too_many_characters(15));
    }
    if name.is_empty() || !name.bytes().all(|b| lower_alnum(b) || b == b'-') {
        messages.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        messages.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        messages.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        messages.push("must not begin or end with a hyphen".to_owned());
    }
    messages
}

fn parent_directory(value: &str) -> Option<String> {
    match value {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        v if v.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// A key of a ConfigMap or Secret.
pub fn config_key(value: &str) -> Messages {
    let mut messages = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        messages.push(too_many_characters(SUBDOMAIN_MAX));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if value.is_empty() || !value.bytes().all(plain) {
        messages.push(pattern(CONFIG_KEY_MESSAGE, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    messages.extend(parent_directory(value));
    messages
}

/// The name of an environment variable: any printable ASCII but `=`.
pub fn env_name(value: &str) -> Messages {
    let mut messages = Vec::new();
    if value.is_empty() {
        messages.push("environment variable name must be non-empty".to_owned());
    }
    if !value.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
        let message = "a valid environment variable name must consist only of printable ASCII characters other than '='";
        messages.push(message.to_owned());
    }
    messages
}

/// A C identifier.
pub fn c_identifier(value: &str) -> Messages {
    let head = value.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if head && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Vec::new();
    }
    let message = "a valid C identifier must start with alphabetic character or '_', followed by a string of \
                   alphanumeric characters or '_'";
    vec![pattern(message, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"])]
}

/// The name of an HTTP header.
pub fn http_header_name(value: &str) -> Messages {
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    let message = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![pattern(message, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// `N%`
pub fn percent(value: &str) -> Messages {
    let digits = value.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    let message = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![pattern(message, "[0-9]+%", &["1%", "93%"])]
}

/// An IPv4 or IPv6 address as new objects must write it: no leading zeros, no IPv4 inside IPv6.
pub fn ip_address(value: &str) -> Messages {
    match value.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => {
            vec!["must not be an IPv4-mapped IPv6 address".to_owned()]
        }
        Ok(_) => Vec::new(),
        Err(_) if has_only_leading_zeros_wrong(value) => vec!["must not have leading 0s".to_owned()],
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

fn has_only_leading_zeros_wrong(value: &str) -> bool {
    let octets: Vec<Option<u8>> = value
        .split('.')
        .map(|part| match part.trim_start_matches('0') {
            "" if !part.is_empty() => Some(0),
            digits => digits.parse().ok(),
        })
        .collect();
    octets.len() == 4 && octets.iter().all(Option::is_some)
}

/// `address/bits`
pub fn cidr(value: &str) -> Messages {
    let wrong = || vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()];
    let Some((address, bits)) = value.split_once('/') else { return wrong() };
    let (Ok(ip), Ok(bits)) = (address.parse::<IpAddr>(), bits.parse::<u32>()) else { return wrong() };
    let (raw, width) = match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)), 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    };
    if bits > width {
        return wrong();
    }
    let host_bits = width - bits;
    let host = if host_bits >= 128 { raw } else { raw & ((1u128 << host_bits) - 1) };
    if host == 0 { Vec::new() } else { vec!["must not have bits set beyond the prefix length".to_owned()] }
}

/// `address/bits`, host bits and all: the address of an interface.
pub fn interface_address(value: &str) -> Messages {
    let wrong =
        || vec!["must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)".to_owned()];
    let Some((address, bits)) = value.split_once('/') else { return wrong() };
    let (Ok(ip), Ok(bits)) = (address.parse::<IpAddr>(), bits.parse::<u32>()) else { return wrong() };
    let most = if ip.is_ipv4() { 32 } else { 128 };
    if bits > most { wrong() } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        type Rule = fn(&str) -> Messages;
        let cases: &[(Rule, &str, usize)] = &[
            (dns_subdomain, "a", 0),
            (dns_subdomain, "a.b-c.9", 0),
            (dns_subdomain, "a..b", 1),
            (dns_subdomain, "-a", 1),
            (dns_subdomain, "A", 1),
            (dns_subdomain, "", 1),
            (dns_label, "a.b", 1),
            (dns_label, "my-name", 0),
            (dns1035_label, "9a", 1),
            (qualified_name, "example.com/My_Name.x", 0),
            (qualified_name, "a/b/c", 1),
            (qualified_name, "/b", 1),
            (qualified_name, "a/", 2),
            (label_value, "", 0),
            (label_value, "a_b", 0),
            (label_value, "a b", 1),
            (port_name, "http", 0),
            (port_name, "a--b", 1),
            (port_name, "80", 1),
            (config_key, "..x", 1),
            (config_key, "a b", 1),
            (env_name, "A=B", 1),
            (env_name, "a b", 0),
            (percent, "25%", 0),
            (percent, "25", 1),
            (ip_address, "10.0.0.1", 0),
            (ip_address, "::ffff:10.0.0.1", 1),
            (cidr, "10.0.0.0/8", 0),
            (cidr, "10.0.0.1/8", 1),
            (cidr, "::/0", 0),
            (cidr, "10.0.0.0/33", 1),
        ];
        for (rule, value, wrong) in cases {
            assert_eq!(rule(value).len(), *wrong, "{value:?}: {:?}", rule(value));
        }
    }

    #[test]
    fn messages_in_full() {
        assert_eq!(
            dns_subdomain("Bad_Name"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
              start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(
            dns_label("A"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
              end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(ip_address("010.0.0.1"), ["must not have leading 0s"]);
        assert_eq!(port_number(0), ["must be between 1 and 65535, inclusive"]);
    }

    #[test]
    fn generated_names_may_end_in_a_dash() {
        assert!(name_is_subdomain("web-", true).is_empty());
        assert!(name_is_subdomain("web.-", true).is_empty());
        assert!(!name_is_subdomain("web-", false).is_empty());
        assert!(!name_is_label("-", true).is_empty());
    }
}
