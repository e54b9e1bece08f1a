//! Services, endpoints and endpoint slices. Addresses and node ports are the API server's to allocate.

use super::look::{
    Errors, given, int, int_or_zero, items, items_mut, one_of, one_of_given, port_or_name, required_by,
    set_empty, set_missing, text,
};
use super::row::NO_HOOKS;
use crate::field::{self, Error, Path};
use crate::kind::{Context, Hooks};
use crate::rules::{self, invalid_each};
use crate::{Object, Value, meta};

const AFFINITY_SECONDS: i64 = 10_800;
const AFFINITY_MAX_SECONDS: i64 = 86_400;
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const SLICE_PORTS_MAX: usize = 20_000;

pub(super) const SERVICE: Hooks = Hooks {
    default: Some(default_service),
    prepare_create: Some(|service, _| mirror_cluster_ip(service)),
    prepare_update: Some(update_service),
    validate: Some(validate_service),
    name_rule: Some(rules::name_is_label),
    selectable_value: Some(|service, path| match path {
        "spec.clusterIP" | "spec.type" => Some(
            service.at(&path.split('.').collect::<Vec<_>>()).and_then(Value::as_str).unwrap_or("").to_owned(),
        ),
        _ => None,
    }),
    ..NO_HOOKS
};

pub(super) const ENDPOINTS: Hooks =
    Hooks { default: Some(default_endpoints), validate: Some(validate_endpoints), ..NO_HOOKS };

pub(super) const ENDPOINT_SLICE: Hooks =
    Hooks { default: Some(default_slice), validate: Some(validate_slice), ..NO_HOOKS };

/// Can clients outside the cluster reach it?
fn is_external(spec: &Value) -> bool {
    let kind = text(spec, "type");
    matches!(kind, "LoadBalancer" | "NodePort")
        || (kind == "ClusterIP" && !items(spec, "externalIPs").is_empty())
}

fn is_headless(spec: &Value) -> bool {
    items(spec, "clusterIPs").first().and_then(Value::as_str).unwrap_or(text(spec, "clusterIP")) == "None"
}

fn default_service(service: &mut Value) {
    service.object_at_mut(&["spec"]);
    let Some(spec) = service.get_mut("spec") else { return };
    set_empty(spec, "sessionAffinity", "None");
    match text(spec, "sessionAffinity") {
        "None" => drop(spec.object_at_mut(&[]).remove("sessionAffinityConfig")),
        "ClientIP" if spec.at(&["sessionAffinityConfig", "clientIP", "timeoutSeconds"]).is_none() => {
            spec.object_at_mut(&["sessionAffinityConfig", "clientIP"])
                .set("timeoutSeconds", AFFINITY_SECONDS);
        }
        _ => {}
    }
    set_empty(spec, "type", "ClusterIP");
    for port in items_mut(spec, "ports") {
        set_empty(port, "protocol", "TCP");
        let unset = match port.get("targetPort") {
            None | Some(Value::Null | Value::Int(0)) => true,
            Some(target) => target.as_str() == Some(""),
        };
        if unset {
            let own = int_or_zero(port, "port");
            port.object_at_mut(&[]).set("targetPort", own);
        }
    }
    if is_external(spec) {
        set_empty(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(text(spec, "type"), "ClusterIP" | "NodePort" | "LoadBalancer") {
        set_missing(spec, "internalTrafficPolicy", Value::str("Cluster"));
    }
    if text(spec, "type") == "LoadBalancer" {
        set_missing(spec, "allocateLoadBalancerNodePorts", true);
    }
}

/// `clusterIP` is the first of `clusterIPs`, whichever of the two was given.
fn mirror_cluster_ip(service: &mut Value) {
    let one = service.str_at(&["spec", "clusterIP"]).to_owned();
    let first = service.items_at(&["spec", "clusterIPs"]).first().cloned();
    let spec = service.object_at_mut(&["spec"]);
    match first {
        None if !one.is_empty() => spec.set("clusterIPs", vec![Value::from(one)]),
        Some(first) if one.is_empty() => spec.set("clusterIP", first),
        _ => {}
    }
}

fn update_service(service: &mut Value, old: &Value, cx: &Context<'_>) {
    if cx.subresource == "status" {
        return;
    }
    // One of the pair changed: the other follows.
    let (now, before) =
        (service.str_at(&["spec", "clusterIP"]).to_owned(), old.str_at(&["spec", "clusterIP"]));
    let same_list = service.items_at(&["spec", "clusterIPs"]) == old.items_at(&["spec", "clusterIPs"]);
    if now != before && same_list {
        let spec = service.object_at_mut(&["spec"]);
        match now.is_empty() {
            true => drop(spec.remove("clusterIPs")),
            false => spec.set("clusterIPs", vec![Value::from(now)]),
        }
    }
    drop_what_the_type_lost(service, old);
    mirror_cluster_ip(service);
}

/// A service of another type gives up what only its old type had, unless the client changed it too.
fn drop_what_the_type_lost(service: &mut Value, old: &Value) {
    let (now, before) =
        (service.str_at(&["spec", "type"]).to_owned(), old.str_at(&["spec", "type"]).to_owned());
    if now == before {
        return;
    }
    let unchanged = |service: &Value, field: &str| service.at(&["spec", field]) == old.at(&["spec", field]);
    if now == "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            if unchanged(service, field) {
                service.object_at_mut(&["spec"]).remove(field);
            }
        }
    }
    if !matches!(&*now, "NodePort" | "LoadBalancer") {
        let taken: Vec<i64> =
            old.items_at(&["spec", "ports"]).iter().filter_map(|p| int(p, "nodePort")).collect();
        for port in service.get_mut("spec").into_iter().flat_map(|spec| items_mut(spec, "ports")) {
            if int(port, "nodePort").is_some_and(|n| taken.contains(&n)) {
                port.object_at_mut(&[]).remove("nodePort");
            }
        }
        let external = service.get("spec").is_some_and(is_external);
        if !external && unchanged(service, "externalTrafficPolicy") {
            service.object_at_mut(&["spec"]).remove("externalTrafficPolicy");
        }
    }
    if now != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass", "healthCheckNodePort"] {
            if unchanged(service, field) {
                service.object_at_mut(&["spec"]).remove(field);
            }
        }
    }
}

fn validate_service(service: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let (empty, path) = (Value::Null, Path::root("spec"));
    if cx.subresource == "status" {
        return errors;
    }
    let spec = service.get("spec").unwrap_or(&empty);
    if let Some(old) = old {
        cluster_ip_stays(&mut errors, spec, old.get("spec").unwrap_or(&empty), &path);
    }
    let (kind, headless) = (text(spec, "type"), is_headless(spec));
    if items(spec, "ports").is_empty() && !headless && kind != "ExternalName" {
        errors.push(Error::required(&path.child("ports"), ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.push(Error::invalid(&path.child("clusterIPs").index(0), "None", detail));
        }
        "ExternalName" => external_name(&mut errors, spec, &path),
        _ => {}
    }
    ports(&mut errors, spec, &path.child("ports"));
    meta::labels(&mut errors, spec.get("selector"), &path.child("selector"));
    affinity(&mut errors, spec, &path);
    cluster_ips(&mut errors, spec, &path);
    for (i, ip) in items(spec, "externalIPs").iter().enumerate() {
        let ip = ip.as_str().unwrap_or_default();
        endpoint_ip(&mut errors, ip, false, &path.child("externalIPs").index(i));
    }
    let kinds = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    one_of(&mut errors, kind, kinds, &path.child("type"));
    node_ports(&mut errors, spec, &path.child("ports"));
    load_balancer(&mut errors, spec, &path);
    traffic(&mut errors, spec, &path);
    errors
}

fn external_name(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if !super::look::same(spec.get(field), None) {
            errors.push(Error::forbidden(&path.child(field), "may not be set for ExternalName services"));
        }
    }
    let name = text(spec, "externalName");
    match name.strip_suffix('.').unwrap_or(name) {
        "" => errors.push(Error::required(&path.child("externalName"), "")),
        name => invalid_each(errors, &path.child("externalName"), name, rules::dns_subdomain(name)),
    }
}

fn ports(errors: &mut Errors, spec: &Value, list: &Path<'_>) {
    let ports = items(spec, "ports");
    let mut names: Vec<&str> = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let (path, name) = (list.index(i), text(port, "name"));
        if name.is_empty() && ports.len() > 1 {
            errors.push(Error::required(&path.child("name"), ""));
        } else if !name.is_empty() {
            invalid_each(errors, &path.child("name"), name, rules::dns_label(name));
            if names.contains(&name) {
                errors.push(Error::duplicate(&path.child("name"), name));
            }
            names.push(name);
        }
        let number = int_or_zero(port, "port");
        invalid_each(errors, &path.child("port"), number, rules::port_number(number));
        one_of(errors, text(port, "protocol"), PROTOCOLS, &path.child("protocol"));
        port_or_name(errors, port.get("targetPort"), &path.child("targetPort"));
        if let Some(protocol) = given(port, "appProtocol").and_then(Value::as_str) {
            invalid_each(errors, &path.child("appProtocol"), protocol, rules::qualified_name(protocol));
        }
    }
}

fn affinity(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let affinity = text(spec, "sessionAffinity");
    one_of(errors, affinity, &["ClientIP", "None"], &path.child("sessionAffinity"));
    let config = path.child("sessionAffinityConfig");
    if affinity == "ClientIP" {
        let client = config.child("clientIP");
        let path = client.child("timeoutSeconds");
        match spec.at(&["sessionAffinityConfig", "clientIP", "timeoutSeconds"]).and_then(Value::as_i64) {
            None => errors.push(Error::required(&path, "when session affinity type is ClientIP")),
            Some(seconds) if !(1..=AFFINITY_MAX_SECONDS).contains(&seconds) => {
                let detail = format!("must be greater than 0 and less than {AFFINITY_MAX_SECONDS}");
                errors.push(Error::invalid(&path, seconds, detail));
            }
            Some(_) => {}
        }
    } else if affinity == "None" && given(spec, "sessionAffinityConfig").is_some() {
        errors.push(Error::forbidden(&config, "must not be set when session affinity is None"));
    }
}

fn cluster_ips(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let (all, list) = (items(spec, "clusterIPs"), path.child("clusterIPs"));
    let one = text(spec, "clusterIP");
    if let Some(first) = all.first().and_then(Value::as_str).filter(|first| *first != one) {
        errors.push(Error::invalid(&list.index(0), first, "first value must match `clusterIP`"));
    }
    if all.len() > 2 {
        errors.push(Error::invalid(&list, Value::from(all.to_vec()), "may only hold up to 2 values"));
    }
    for (i, ip) in all.iter().enumerate() {
        let ip = ip.as_str().unwrap_or_default();
        if ip == "None" && all.len() > 1 {
            let detail = "'None' must be the first and only value";
            errors.push(Error::invalid(&list, Value::from(all.to_vec()), detail));
        } else if ip != "None" {
            invalid_each(errors, &list.index(i), ip, rules::ip_address(ip));
        }
    }
    let policies = &["PreferDualStack", "RequireDualStack", "SingleStack"];
    one_of_given(errors, spec, "ipFamilyPolicy", policies, path);
    for (i, family) in items(spec, "ipFamilies").iter().enumerate() {
        let family = family.as_str().unwrap_or_default();
        if !matches!(family, "IPv4" | "IPv6") {
            errors.push(Error::not_supported(&path.child("ipFamilies").index(i), family, &["IPv4", "IPv6"]));
        }
    }
}

/// The address of a service that keeps its kind may not change.
fn cluster_ip_stays(errors: &mut Errors, new: &Value, old: &Value, path: &Path<'_>) {
    let external = |spec: &Value| text(spec, "type") == "ExternalName";
    let (now, before) = (text(new, "clusterIP"), text(old, "clusterIP"));
    if external(new) || external(old) || before.is_empty() || now == before {
        return;
    }
    let first = items(new, "clusterIPs").first().and_then(Value::as_str).unwrap_or(now);
    let (detail, path) = ("may not change once set", path.child("clusterIPs"));
    errors.push(Error::invalid(&path.index(0), first, detail));
}

fn node_ports(errors: &mut Errors, spec: &Value, list: &Path<'_>) {
    let ports = items(spec, "ports");
    let key = |port: &Value, field: &str| (text(port, "protocol").to_owned(), int_or_zero(port, field));
    for (i, port) in ports.iter().enumerate() {
        let path = list.index(i);
        let node_port = int_or_zero(port, "nodePort");
        if node_port != 0 {
            if text(spec, "type") == "ClusterIP" {
                let detail = "may not be used when `type` is 'ClusterIP'";
                errors.push(Error::forbidden(&path.child("nodePort"), detail));
            }
            if ports[..i].iter().any(|p| key(p, "nodePort") == key(port, "nodePort")) {
                errors.push(Error::duplicate(&path.child("nodePort"), node_port));
            }
        }
        if ports[..i].iter().any(|p| key(p, "port") == key(port, "port")) {
            let mut bad = Object::default();
            bad.set("protocol", text(port, "protocol"));
            bad.set("port", int_or_zero(port, "port"));
            errors.push(Error::duplicate(&path, Value::Object(bad)));
        }
    }
}

fn load_balancer(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let is_balanced = text(spec, "type") == "LoadBalancer";
    let ranges = items(spec, "loadBalancerSourceRanges");
    let list = path.child("LoadBalancerSourceRanges");
    let only = "may only be used when `type` is 'LoadBalancer'";
    if !ranges.is_empty() && !is_balanced {
        errors.push(Error::forbidden(&list, only));
    }
    for (i, range) in ranges.iter().enumerate() {
        let range = range.as_str().unwrap_or_default().trim();
        invalid_each(errors, &list.index(i), range, rules::cidr(range));
    }
    if given(spec, "allocateLoadBalancerNodePorts").is_some() && !is_balanced {
        errors.push(Error::forbidden(&path.child("allocateLoadBalancerNodePorts"), only));
    }
    if let Some(class) = given(spec, "loadBalancerClass").and_then(Value::as_str) {
        match is_balanced {
            true => {
                invalid_each(errors, &path.child("loadBalancerClass"), class, rules::qualified_name(class))
            }
            false => errors.push(Error::forbidden(&path.child("loadBalancerClass"), only)),
        }
    }
}

fn traffic(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let policy = text(spec, "externalTrafficPolicy");
    let policy_path = path.child("externalTrafficPolicy");
    if is_external(spec) {
        one_of(errors, policy, &["Cluster", "Local"], &policy_path);
    } else if !policy.is_empty() {
        errors.push(Error::invalid(
            &policy_path,
            policy,
            "may only be set for externally-accessible services",
        ));
    }
    let health = int_or_zero(spec, "healthCheckNodePort");
    if health != 0 && !(text(spec, "type") == "LoadBalancer" && policy == "Local") {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(Error::invalid(&path.child("healthCheckNodePort"), health, detail));
    }
    one_of_given(errors, spec, "internalTrafficPolicy", &["Cluster", "Local"], path);
    let spread = &["PreferClose", "PreferSameZone", "PreferSameNode"];
    one_of_given(errors, spec, "trafficDistribution", spread, path);
}

/// The API server's own Service: on a single machine it may listen on the loopback address only.
fn is_own_service(object: &Value) -> bool {
    object.str_at(&["metadata", "namespace"]) == "default"
        && object.str_at(&["metadata", "name"]) == "kubernetes"
}

/// An address that traffic may be sent to. Loopback is for the API server itself (`own`).
fn endpoint_ip(errors: &mut Errors, address: &str, own: bool, path: &Path<'_>) {
    let wrong = rules::ip_address(address);
    let Ok(ip) = address.parse::<std::net::IpAddr>() else {
        return invalid_each(errors, path, address, wrong);
    };
    let v4 = |of: fn(&std::net::Ipv4Addr) -> bool| matches!(&ip, std::net::IpAddr::V4(ip) if of(ip));
    let checks = [
        (ip.is_unspecified(), "may not be unspecified (0.0.0.0 or ::)"),
        (ip.is_loopback() && !own, "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (
            v4(std::net::Ipv4Addr::is_link_local),
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        ),
        (
            v4(|ip| ip.octets()[..3] == [224, 0, 0]),
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        ),
    ];
    invalid_each(errors, path, address, wrong);
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
                endpoint_ip(&mut errors, text(address, "ip"), own, &path.child("ip"));
                let host = text(address, "hostname");
                if !host.is_empty() {
                    invalid_each(&mut errors, &path.child("hostname"), host, rules::dns_label(host));
                }
                if let Some(node) = given(address, "nodeName").and_then(Value::as_str) {
                    invalid_each(&mut errors, &path.child("nodeName"), node, rules::dns_subdomain(node));
                }
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
        }
    }
    errors
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
        errors.push(Error::invalid(&Path::root("addressType"), kind, super::look::IMMUTABLE));
    }
    errors
}

fn slice_endpoint(errors: &mut Errors, endpoint: &Value, (kind, own): (&str, bool), path: &Path<'_>) {
    let (addresses, list) = (items(endpoint, "addresses"), path.child("addresses"));
    if addresses.is_empty() {
        errors.push(Error::required(&list, "must contain at least 1 address"));
    } else if addresses.len() > ADDRESSES_MAX {
        errors.push(Error::too_many(&list, addresses.len(), ADDRESSES_MAX));
    }
    for (i, address) in addresses.iter().enumerate() {
        let address = address.as_str().unwrap_or_default();
        match kind {
            "FQDN" => invalid_each(errors, &list.index(i), address, rules::dns_subdomain(address)),
            "IPv4" if address.contains(':') => {
                errors.push(Error::invalid(&list.index(i), address, "must be an IPv4 address"));
            }
            "IPv6" if !address.contains(':') => {
                errors.push(Error::invalid(&list.index(i), address, "must be an IPv6 address"));
            }
            _ => endpoint_ip(errors, address, own, &list.index(i)),
        }
    }
    if let Some(node) = given(endpoint, "nodeName").and_then(Value::as_str) {
        invalid_each(errors, &path.child("nodeName"), node, rules::dns_subdomain(node));
    }
    if let Some(host) = given(endpoint, "hostname").and_then(Value::as_str) {
        invalid_each(errors, &path.child("hostname"), host, rules::dns_label(host));
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
        one_of(errors, text(port, "protocol"), PROTOCOLS, &path.child("protocol"));
        if let Some(protocol) = given(port, "appProtocol").and_then(Value::as_str) {
            invalid_each(errors, &path.child("appProtocol"), protocol, rules::qualified_name(protocol));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{CONTEXT, create_errors, defaulted, tree, update_errors};

    #[test]
    fn defaults() {
        let service = defaulted("", "Service", "{spec: {ports: [{port: 80}]}}");
        let wanted = "{spec: {ports: [{port: 80, protocol: TCP, targetPort: 80}], sessionAffinity: None, type: ClusterIP, \
                      internalTrafficPolicy: Cluster}}";
        assert_eq!(service, tree(wanted));
        let service = defaulted("", "Service", "{spec: {type: NodePort, sessionAffinity: ClientIP}}");
        assert_eq!(service.str_at(&["spec", "externalTrafficPolicy"]), "Cluster");
        let seconds = service.at(&["spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"]);
        assert_eq!(seconds, Some(&tree("10800")));
    }

    #[test]
    fn broken_services() {
        let cases: &[(&str, &[&str])] = &[
            ("{spec: {ports: [{port: 80}]}}", &[]),
            ("{spec: {}}", &["spec.ports: Required value"]),
            ("{spec: {clusterIP: None}}", &[]),
            (
                "{spec: {ports: [{port: 80}, {port: 80}]}}",
                &[
                    "spec.ports[0].name: Required value",
                    "spec.ports[1].name: Required value",
                    "spec.ports[1]: Duplicate value: {\"protocol\":\"TCP\",\"port\":80}",
                ],
            ),
            (
                "{spec: {ports: [{port: 80, nodePort: 30000}]}}",
                &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
            ),
            ("{spec: {type: ExternalName}}", &["spec.externalName: Required value"]),
            (
                "{spec: {type: Magic, ports: [{port: 80}]}}",
                &[
                    "spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \"ExternalName\", \
                   \"LoadBalancer\", \"NodePort\"",
                ],
            ),
        ];
        for (yaml, wanted) in cases {
            assert_eq!(create_errors("", "Service", yaml), *wanted, "{yaml}");
        }
        assert_eq!(
            update_errors(
                "",
                "Service",
                "{spec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}}",
                "{spec: {clusterIP: 10.0.0.2, ports: [{port: 80}]}}"
            ),
            ["spec.clusterIPs[0]: Invalid value: \"10.0.0.2\": may not change once set"]
        );
    }

    #[test]
    fn a_change_of_type_drops_node_ports() {
        let old = tree(
            "{spec: {type: NodePort, externalTrafficPolicy: Cluster, ports: [{port: 80, nodePort: 30000}]}}",
        );
        let mut new = tree(
            "{spec: {type: ClusterIP, externalTrafficPolicy: Cluster, ports: [{port: 80, nodePort: 30000}]}}",
        );
        update_service(&mut new, &old, &CONTEXT);
        assert_eq!(new, tree("{spec: {type: ClusterIP, ports: [{port: 80}]}}"));
    }

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
