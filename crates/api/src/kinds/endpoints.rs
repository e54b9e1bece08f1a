//! Endpoints and endpoint slices: the addresses behind a Service.

use super::look::{
    Errors, given, int_or_zero, items, items_mut, one_of, required_by, set_empty, set_missing, text,
};
use super::row::NO_HOOKS;
use super::service::PROTOCOLS;
use crate::field::{self, Error, Path};
use crate::kind::{Context, Hooks};
use crate::rules::{self, invalid_each};
use crate::{Value, meta};

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const SLICE_PORTS_MAX: usize = 20_000;
const HINTS_MAX: usize = 8;
const TOPOLOGY_MAX: usize = 16;

pub(super) const ENDPOINTS: Hooks = Hooks {
    default: Some(default_endpoints),
    validate: Some(validate_endpoints),
    warnings: Some(|endpoints, _| endpoints_warnings(endpoints)),
    ..NO_HOOKS
};

/// Of addresses that people wrote in another way than the controller would.
fn endpoints_warnings(endpoints: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let by = endpoints.at(&["metadata", "labels", "endpoints.kubernetes.io/managed-by"]);
    if by.and_then(Value::as_str) == Some("endpoint-controller") {
        return warnings;
    }
    let list = Path::root("subsets");
    for (i, subset) in items(endpoints, "subsets").iter().enumerate() {
        let path = list.index(i);
        for field in ["addresses", "notReadyAddresses"] {
            let list = path.child(field);
            for (j, address) in items(subset, field).iter().enumerate() {
                super::warn::address(&mut warnings, text(address, "ip"), &list.index(j).child("ip"));
            }
        }
    }
    warnings
}

pub(super) const ENDPOINT_SLICE: Hooks = Hooks {
    default: Some(default_slice),
    prepare_create: Some(|slice, _| drop_topology(slice, None)),
    prepare_update: Some(|slice, old, _| drop_topology(slice, Some(old))),
    validate: Some(validate_slice),
    warnings: Some(slice_warnings),
    ..NO_HOOKS
};

/// The API server's own Service: on a single machine it may listen on the loopback address only.
fn is_own_service(object: &Value) -> bool {
    object.str_at(&["metadata", "namespace"]) == "default"
        && object.str_at(&["metadata", "name"]) == "kubernetes"
}

/// An address that traffic may be sent to. Loopback is for the API server itself (`own`).
pub(super) fn endpoint_ip(errors: &mut Errors, address: &str, own: bool, path: &Path<'_>) {
    invalid_each(errors, path, address, rules::ip_address(address));
    in_range(errors, address, own, path);
}

/// Addresses that mean another thing on every machine are no endpoints.
fn in_range(errors: &mut Errors, address: &str, own: bool, path: &Path<'_>) {
    let Some(ip) = super::warn::sloppy(address) else { return };
    let v4 = |of: fn(&std::net::Ipv4Addr) -> bool| matches!(&ip, std::net::IpAddr::V4(ip) if of(ip));
    let v6 =
        |mask: u16, start: u16| matches!(&ip, std::net::IpAddr::V6(ip) if ip.segments()[0] & mask == start);
    let unspecified = format!("may not be unspecified ({address})");
    let checks = [
        (ip.is_unspecified(), unspecified.as_str()),
        (ip.is_loopback() && !own, "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (
            v4(std::net::Ipv4Addr::is_link_local) || v6(0xffc0, 0xfe80),
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        ),
        (
            v4(|ip| ip.octets()[..3] == [224, 0, 0]) || v6(0xff0f, 0xff02),
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        ),
    ];
    for (_, detail) in checks.iter().filter(|(wrong, _)| *wrong) {
        errors.push(Error::invalid(path, address, detail));
    }
}

fn default_endpoints(endpoints: &mut Value) {
    for subset in items_mut(endpoints, "subsets") {
        for port in items_mut(subset, "ports") {
            set_empty(port, "protocol", "TCP");
        }
    }
}

fn validate_endpoints(endpoints: &Value, _old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let (list, own) = (Path::root("subsets"), is_own_service(endpoints));
    for (i, subset) in items(endpoints, "subsets").iter().enumerate() {
        let path = list.index(i);
        let (ready, waiting) = (items(subset, "addresses"), items(subset, "notReadyAddresses"));
        if ready.is_empty() && waiting.is_empty() {
            errors.push(Error::required(&path, "must specify `addresses` or `notReadyAddresses`"));
        }
        for (field, addresses) in [("addresses", ready), ("notReadyAddresses", waiting)] {
            for (j, address) in addresses.iter().enumerate() {
                let path = path.child(field);
                let path = path.index(j);
                let (ip, ip_path) = (text(address, "ip"), path.child("ip"));
                invalid_each(&mut errors, &ip_path, ip, rules::ip_address(ip));
                let host = text(address, "hostname");
                if !host.is_empty() {
                    invalid_each(&mut errors, &path.child("hostname"), host, rules::dns_label(host));
                }
                if let Some(node) = given(address, "nodeName").and_then(Value::as_str) {
                    invalid_each(&mut errors, &path.child("nodeName"), node, rules::dns_subdomain(node));
                }
                if super::warn::sloppy(ip).is_none() {
                    errors.push(Error::invalid(&ip_path, ip, "must be a valid IP address"));
                }
                in_range(&mut errors, ip, own, &ip_path);
            }
        }
        let ports = items(subset, "ports");
        for (j, port) in ports.iter().enumerate() {
            let path = path.child("ports");
            let path = path.index(j);
            if ports.len() > 1 || !text(port, "name").is_empty() {
                required_by(&mut errors, port, "name", &path, rules::dns_label);
            }
            let number = int_or_zero(port, "port");
            invalid_each(&mut errors, &path.child("port"), number, rules::port_number(number));
            one_of(&mut errors, text(port, "protocol"), PROTOCOLS, &path.child("protocol"));
            app_protocol(&mut errors, port, &path);
        }
    }
    errors
}

fn app_protocol(errors: &mut Errors, port: &Value, path: &Path<'_>) {
    if let Some(protocol) = given(port, "appProtocol").and_then(Value::as_str) {
        invalid_each(errors, &path.child("appProtocol"), protocol, rules::qualified_name(protocol));
    }
}

/// Zones, nodes and the like that a proxy should prefer.
fn hints(errors: &mut Errors, hints: &Value, path: &Path<'_>) {
    for field in ["forZones", "forNodes"] {
        let (list, all) = (path.child(field), items(hints, field));
        if all.len() > HINTS_MAX {
            errors.push(Error::too_many(&list, all.len(), HINTS_MAX));
            continue;
        }
        for (i, hint) in all.iter().enumerate() {
            let (path, name) = (list.index(i), text(hint, "name"));
            if all[..i].iter().any(|other| text(other, "name") == name) {
                errors.push(Error::duplicate(&path.child("name"), name));
            }
            let wrong =
                if field == "forNodes" { rules::dns_subdomain(name) } else { rules::label_value(name) };
            invalid_each(errors, &path.child("name"), name, wrong);
        }
    }
}

fn default_slice(slice: &mut Value) {
    for port in items_mut(slice, "ports") {
        set_missing(port, "name", Value::str(""));
        set_missing(port, "protocol", Value::str("TCP"));
    }
}

fn validate_slice(slice: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let (kind, own) = (text(slice, "addressType"), is_own_service(slice));
    one_of(&mut errors, kind, &["FQDN", "IPv4", "IPv6"], &Path::root("addressType"));
    let endpoints = items(slice, "endpoints");
    if endpoints.len() > ENDPOINTS_MAX {
        errors.push(Error::too_many(&Path::root("endpoints"), endpoints.len(), ENDPOINTS_MAX));
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let list = Path::root("endpoints");
        slice_endpoint(&mut errors, endpoint, (kind, own), &list.index(i));
    }
    slice_ports(&mut errors, items(slice, "ports"), &Path::root("ports"));
    if old.is_some_and(|old| text(old, "addressType") != kind) {
        errors.push(Error::invalid(&Path::root("addressType"), Value::Null, super::look::IMMUTABLE));
    }
    errors
}

fn slice_endpoint(errors: &mut Errors, endpoint: &Value, (kind, own): (&str, bool), path: &Path<'_>) {
    let (addresses, list) = (items(endpoint, "addresses"), path.child("addresses"));
    if addresses.is_empty() {
        errors.push(Error::required(&list, ""));
    } else if addresses.len() > ADDRESSES_MAX {
        errors.push(Error::too_many(&list, addresses.len(), ADDRESSES_MAX));
    }
    for (i, address) in addresses.iter().enumerate() {
        let address = address.as_str().unwrap_or_default();
        match kind {
            "FQDN" => qualified_domain(errors, address, &list.index(i)),
            "IPv4" if address.contains(':') => {
                errors.push(Error::invalid(&list.index(i), address, "must be an IPv4 address"));
            }
            "IPv6" if address.parse::<std::net::Ipv4Addr>().is_ok() => {
                errors.push(Error::invalid(&list, address, "must be an IPv6 address"));
            }
            kind if !["IPv4", "IPv6"].contains(&kind) => {}
            _ => endpoint_ip(errors, address, own, &list.index(i)),
        }
    }
    if let Some(node) = given(endpoint, "nodeName").and_then(Value::as_str) {
        invalid_each(errors, &path.child("nodeName"), node, rules::dns_subdomain(node));
    }
    let topology = path.child("deprecatedTopology");
    meta::labels(errors, endpoint.get("deprecatedTopology"), &topology);
    let entries = endpoint.get("deprecatedTopology").and_then(Value::as_object).map_or(0, crate::Object::len);
    if entries > TOPOLOGY_MAX {
        errors.push(Error::too_many(&topology, entries, TOPOLOGY_MAX));
    }
    if let Some(host) = given(endpoint, "hostname").and_then(Value::as_str) {
        invalid_each(errors, &path.child("hostname"), host, rules::dns_label(host));
    }
    if let Some(of) = given(endpoint, "hints") {
        hints(errors, of, &path.child("hints"));
    }
}

fn slice_ports(errors: &mut Errors, ports: &[Value], list: &Path<'_>) {
    if ports.len() > SLICE_PORTS_MAX {
        errors.push(Error::too_many(list, ports.len(), SLICE_PORTS_MAX));
    }
    for (i, port) in ports.iter().enumerate() {
        let (path, name) = (list.index(i), text(port, "name"));
        if !name.is_empty() {
            invalid_each(errors, &path.child("name"), name, rules::dns_label(name));
        }
        if ports[..i].iter().any(|p| text(p, "name") == name) {
            errors.push(Error::duplicate(&path.child("name"), name));
        }
        let protocol = text(port, "protocol");
        if !PROTOCOLS.contains(&protocol) {
            errors.push(Error::not_supported(&path.child("protocol"), protocol, PROTOCOLS));
        }
        app_protocol(errors, port, &path);
    }
}

/// A domain of two parts at least.
fn qualified_domain(errors: &mut Errors, name: &str, path: &Path<'_>) {
    let messages = rules::dns_subdomain(name);
    if name.is_empty() {
        errors.push(Error::required(path, ""));
    } else if messages.is_empty() && !name.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(Error::invalid(path, name, detail));
    } else {
        invalid_each(errors, path, name, messages);
    }
}

/// The topology of before is kept as long as nothing else changes.
fn drop_topology(slice: &mut Value, old: Option<&Value>) {
    if old.is_some_and(|old| super::look::same(old.get("endpoints"), slice.get("endpoints"))) {
        return;
    }
    for endpoint in items_mut(slice, "endpoints").filter_map(Value::as_object_mut) {
        endpoint.remove("deprecatedTopology");
    }
}

fn slice_warnings(slice: &Value, old: Option<&Value>) -> Vec<String> {
    let deprecated = old.is_none() && text(slice, "addressType") == "FQDN";
    deprecated.then(|| "spec.addressType: FQDN endpoints are deprecated".to_owned()).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{create_errors, defaulted, tree};

    #[test]
    fn the_api_server_may_be_on_loopback() {
        let yaml =
            "{metadata: {namespace: default, name: kubernetes}, subsets: [{addresses: [{ip: 127.0.0.1}]}]}";
        assert_eq!(create_errors("", "Endpoints", yaml), Vec::<String>::new());
        assert_eq!(create_errors("", "Endpoints", &yaml.replace("kubernetes", "other")).len(), 1);
    }

    #[test]
    fn slices() {
        let slice = defaulted("discovery.k8s.io", "EndpointSlice", "{ports: [{port: 80}]}");
        assert_eq!(slice, tree("{ports: [{port: 80, name: '', protocol: TCP}]}"));
        assert_eq!(
            create_errors(
                "discovery.k8s.io",
                "EndpointSlice",
                "{addressType: IPv4, endpoints: [{addresses: [127.0.0.1]}]}"
            ),
            [
                "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, \
              ::1/128)"
            ]
        );
    }
}
