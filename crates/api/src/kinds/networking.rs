//! Network policies, ingresses and their classes; service ranges and the record of their addresses.

use super::look::{
    Errors, at_mut, given, immutable, int, items, items_mut, one_of_given, required, set_missing, text,
};
use super::row::NO_HOOKS;
use crate::field::{self, Error, Path};
use crate::kind::{Context, Hooks};
use crate::rules::{self, invalid_each};
use crate::{Value, meta};

const CONTROLLER_MAX_BYTES: usize = 250;
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

pub(super) const NETWORK_POLICY: Hooks =
    Hooks { default: Some(default_policy), validate: Some(validate_policy), ..NO_HOOKS };

pub(super) const INGRESS: Hooks = Hooks { validate: Some(validate_ingress), ..NO_HOOKS };

pub(super) const INGRESS_CLASS: Hooks = Hooks {
    default: Some(|class| {
        if let Some(parameters) = at_mut(class, &["spec", "parameters"]) {
            set_missing(parameters, "scope", Value::str("Cluster"));
        }
    }),
    validate: Some(validate_class),
    ..NO_HOOKS
};

pub(super) const IP_ADDRESS: Hooks =
    Hooks { name_rule: Some(|name, _| address_name(name)), validate: Some(validate_address), ..NO_HOOKS };

pub(super) const SERVICE_CIDR: Hooks = Hooks { validate: Some(validate_range), ..NO_HOOKS };

fn default_policy(policy: &mut Value) {
    let Some(spec) = policy.get_mut("spec").filter(|s| !s.is_null()) else { return };
    if items(spec, "policyTypes").is_empty() {
        let mut types = vec![Value::str("Ingress")];
        if !items(spec, "egress").is_empty() {
            types.push(Value::str("Egress"));
        }
        spec.object_at_mut(&[]).set("policyTypes", types);
    }
    for direction in ["ingress", "egress"] {
        for rule in items_mut(spec, direction) {
            items_mut(rule, "ports").for_each(|port| set_missing(port, "protocol", Value::str("TCP")));
        }
    }
}

fn validate_policy(policy: &Value, _old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    const TYPES: &[&str] = &["Ingress", "Egress"];
    let mut errors = Vec::new();
    let (empty, path) = (Value::Null, Path::root("spec"));
    let spec = policy.get("spec").unwrap_or(&empty);
    meta::label_selector(&mut errors, given(spec, "podSelector"), &path.child("podSelector"));
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let list = path.child(direction);
        for (i, rule) in items(spec, direction).iter().enumerate() {
            let path = list.index(i);
            let ports = path.child("ports");
            for (i, port) in items(rule, "ports").iter().enumerate() {
                policy_port(&mut errors, port, &ports.index(i));
            }
            let list = path.child(peers);
            for (i, peer) in items(rule, peers).iter().enumerate() {
                policy_peer(&mut errors, peer, &list.index(i));
            }
        }
    }
    let (types, list) = (items(spec, "policyTypes"), path.child("policyTypes"));
    if types.len() > TYPES.len() {
        let detail = "may not specify more than two policyTypes";
        errors.push(Error::invalid(&list, Value::from(types.to_vec()), detail));
        return errors;
    }
    for (i, kind) in types.iter().enumerate() {
        let kind = kind.as_str().unwrap_or_default();
        if !TYPES.contains(&kind) {
            errors.push(Error::not_supported(&list.index(i), kind, TYPES));
        }
    }
    errors
}

fn policy_port(errors: &mut Errors, port: &Value, path: &Path<'_>) {
    one_of_given(errors, port, "protocol", &["TCP", "UDP", "SCTP"], path);
    let (last, last_path) = (int(port, "endPort"), path.child("endPort"));
    match given(port, "port") {
        Some(Value::String(name)) => {
            if let Some(last) = last {
                let detail = "may not be specified when `port` is non-numeric";
                errors.push(Error::invalid(&last_path, last, detail));
            }
            invalid_each(errors, &path.child("port"), name.as_str(), rules::port_name(name));
        }
        Some(first) => {
            let first = first.as_i64().unwrap_or(0);
            invalid_each(errors, &path.child("port"), first, rules::port_number(first));
            if let Some(last) = last {
                if last < first {
                    errors.push(Error::invalid(&last_path, last, "must be greater than or equal to `port`"));
                }
                invalid_each(errors, &last_path, last, rules::port_number(last));
            }
        }
        None => {
            if let Some(last) = last {
                let detail = "may not be specified when `port` is not specified";
                errors.push(Error::invalid(&last_path, last, detail));
            }
        }
    }
}

fn policy_peer(errors: &mut Errors, peer: &Value, path: &Path<'_>) {
    let mut peers = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if let Some(selector) = given(peer, field) {
            peers += 1;
            meta::label_selector(errors, Some(selector), &path.child(field));
        }
    }
    let block = given(peer, "ipBlock");
    if let Some(block) = block {
        peers += 1;
        ip_block(errors, block, &path.child("ipBlock"));
    }
    if peers == 0 {
        errors.push(Error::required(path, "must specify a peer"));
    } else if peers > 1 && block.is_some() {
        errors.push(Error::forbidden(path, "may not specify both ipBlock and another peer"));
    }
}

fn ip_block(errors: &mut Errors, block: &Value, path: &Path<'_>) {
    let whole = text(block, "cidr");
    if whole.is_empty() {
        errors.push(Error::required(&path.child("cidr"), ""));
        return;
    }
    invalid_each(errors, &path.child("cidr"), whole, rules::cidr(whole));
    let Some(whole) = parsed(whole) else { return };
    let list = path.child("except");
    for (i, except) in items(block, "except").iter().enumerate() {
        let except = except.as_str().unwrap_or_default();
        invalid_each(errors, &list.index(i), except, rules::cidr(except));
        let Some(part) = parsed(except) else { continue };
        let inside = whole.is_v4 == part.is_v4
            && part.bits > whole.bits
            && whole.prefix() == (Range { bits: whole.bits, ..part }).prefix();
        if !inside {
            errors.push(Error::invalid(&list.index(i), except, "must be a strict subset of `cidr`"));
        }
    }
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy)]
struct Range {
    is_v4: bool,
    address: u128,
    bits: u32,
}

impl Range {
    fn prefix(self) -> u128 {
        let width = if self.is_v4 { 32 } else { 128 };
        self.address.checked_shr(width - self.bits.min(width)).unwrap_or(0)
    }
}

fn parsed(cidr: &str) -> Option<Range> {
    let (address, bits) = cidr.split_once('/')?;
    let (is_v4, address) = match address.parse().ok()? {
        std::net::IpAddr::V4(ip) => (true, u128::from(u32::from(ip))),
        std::net::IpAddr::V6(ip) => (false, u128::from(ip)),
    };
    let bits = bits.parse().ok().filter(|bits| *bits <= if is_v4 { 32 } else { 128 })?;
    Some(Range { is_v4, address, bits })
}

fn validate_ingress(ingress: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    if cx.subresource == "status" {
        ingress_status(&mut errors, ingress);
        return errors;
    }
    let (empty, path) = (Value::Null, Path::root("spec"));
    let spec = ingress.get("spec").unwrap_or(&empty);
    let (rules, backend) = (items(spec, "rules"), given(spec, "defaultBackend"));
    if rules.is_empty() && backend.is_none() {
        let bad = spec.get("rules").cloned().unwrap_or_default();
        errors.push(Error::invalid(&path, bad, "either `defaultBackend` or `rules` must be specified"));
    }
    if let Some(one) = backend {
        self::backend(&mut errors, one, &path.child("defaultBackend"));
    }
    let list = path.child("rules");
    for (i, rule) in rules.iter().enumerate() {
        ingress_rule(&mut errors, rule, &list.index(i));
    }
    let list = path.child("tls");
    for (i, tls) in items(spec, "tls").iter().enumerate() {
        ingress_tls(&mut errors, tls, &list.index(i));
    }
    if let Some(class) = given(spec, "ingressClassName").and_then(Value::as_str) {
        invalid_each(&mut errors, &path.child("ingressClassName"), class, rules::dns_subdomain(class));
        let annotation = ingress.at(&["metadata", "annotations", CLASS_ANNOTATION]).and_then(Value::as_str);
        if let Some(other) = annotation.filter(|other| old.is_none() && *other != class) {
            let root = Path::root("annotations");
            let detail = "must match `ingressClassName` when both are specified";
            errors.push(Error::invalid(&root.child(CLASS_ANNOTATION), other, detail));
        }
    }
    errors
}

fn ingress_status(errors: &mut Errors, ingress: &Value) {
    let root = Path::root("status");
    let balancer = root.child("loadBalancer");
    let list = balancer.child("ingress");
    for (i, one) in ingress.items_at(&["status", "loadBalancer", "ingress"]).iter().enumerate() {
        let (path, address, host) = (list.index(i), text(one, "ip"), text(one, "hostname"));
        if !address.is_empty() {
            invalid_each(errors, &path.child("ip"), address, rules::ip_address(address));
        }
        if !host.is_empty() {
            invalid_each(errors, &path.child("hostname"), host, rules::dns_subdomain(host));
            no_address(errors, host, &path.child("hostname"));
        }
    }
}

fn no_address(errors: &mut Errors, host: &str, path: &Path<'_>) {
    if host.parse::<std::net::IpAddr>().is_ok() {
        errors.push(Error::invalid(path, host, "must be a DNS name, not an IP address"));
    }
}

fn host_name(errors: &mut Errors, host: &str, path: &Path<'_>) {
    let rule = if host.contains('*') { rules::wildcard_dns_subdomain } else { rules::dns_subdomain };
    invalid_each(errors, path, host, rule(host));
}

fn ingress_rule(errors: &mut Errors, rule: &Value, path: &Path<'_>) {
    let host = text(rule, "host");
    if !host.is_empty() {
        no_address(errors, host, &path.child("host"));
        host_name(errors, host, &path.child("host"));
    }
    let Some(http) = given(rule, "http") else { return };
    let path = path.child("http");
    let list = path.child("paths");
    if items(http, "paths").is_empty() {
        errors.push(Error::required(&list, ""));
    }
    for (i, one) in items(http, "paths").iter().enumerate() {
        ingress_path(errors, one, &list.index(i));
    }
}

fn ingress_path(errors: &mut Errors, one: &Value, path: &Path<'_>) {
    let (given_path, field) = (text(one, "path"), path.child("path"));
    let relative = !given_path.starts_with('/');
    let absolute = || Error::invalid(&field, given_path, "must be an absolute path");
    match given(one, "pathType").and_then(Value::as_str) {
        None => {
            errors.push(Error::required(&path.child("pathType"), "pathType must be specified"));
            return;
        }
        Some("Exact" | "Prefix") => {
            if relative {
                errors.push(absolute());
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|part| given_path.contains(**part))
            {
                errors.push(Error::invalid(&field, given_path, format!("must not contain '{part}'")));
            }
            for end in ["/..", "/."].iter().filter(|end| given_path.ends_with(**end)) {
                errors.push(Error::invalid(&field, given_path, format!("cannot end with '{end}'")));
            }
        }
        Some("ImplementationSpecific") => {
            if relative && !given_path.is_empty() {
                errors.push(absolute());
            }
        }
        Some(other) => {
            let known = &["Exact", "ImplementationSpecific", "Prefix"];
            errors.push(Error::not_supported(&path.child("pathType"), other, known));
        }
    }
    let empty = Value::Null;
    backend(errors, one.get("backend").unwrap_or(&empty), &path.child("backend"));
}

fn backend(errors: &mut Errors, backend: &Value, path: &Path<'_>) {
    match (given(backend, "resource"), given(backend, "service")) {
        (Some(_), Some(_)) => {
            errors.push(Error::invalid(path, "", "cannot set both resource and service backends"));
        }
        (Some(resource), None) => typed_reference(errors, resource, &path.child("resource")),
        (None, Some(service)) => service_backend(errors, service, path),
        (None, None) => {
            errors.push(Error::invalid(path, "", "resource or service backend is required"));
        }
    }
}

fn service_backend(errors: &mut Errors, service: &Value, path: &Path<'_>) {
    let of_service = path.child("service");
    match text(service, "name") {
        "" => errors.push(Error::required(&of_service.child("name"), "")),
        name => invalid_each(errors, &of_service.child("name"), name, rules::dns_label(name)),
    }
    let port = of_service.child("port");
    let number = service.at(&["port", "number"]).and_then(Value::as_i64).unwrap_or(0);
    match (service.str_at(&["port", "name"]), number) {
        ("", 0) => errors.push(Error::required(path, "port name or number is required")),
        ("", number) => invalid_each(errors, &port.child("number"), number, rules::port_number(number)),
        (name, 0) => invalid_each(errors, &port.child("name"), name, rules::port_name(name)),
        _ => errors.push(Error::invalid(path, "", "cannot set both port name & port number")),
    }
}

fn ingress_tls(errors: &mut Errors, tls: &Value, path: &Path<'_>) {
    let hosts = path.child("hosts");
    for (i, host) in items(tls, "hosts").iter().enumerate() {
        host_name(errors, host.as_str().unwrap_or_default(), &hosts.index(i));
    }
    let secret = text(tls, "secretName");
    if !secret.is_empty() {
        invalid_each(errors, &path.child("secretName"), secret, rules::dns_subdomain(secret));
    }
}

/// A reference to an object by group, kind and name.
fn typed_reference(errors: &mut Errors, reference: &Value, path: &Path<'_>) {
    if let Some(group) = given(reference, "apiGroup").and_then(Value::as_str) {
        invalid_each(errors, &path.child("apiGroup"), group, rules::dns_subdomain(group));
    }
    for field in ["kind", "name"] {
        match text(reference, field) {
            "" => errors.push(Error::required(&path.child(field), "")),
            word => invalid_each(errors, &path.child(field), word, rules::path_segment(word, false)),
        }
    }
}

fn validate_class(class: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let (empty, path) = (Value::Null, Path::root("spec"));
    let spec = class.get("spec").unwrap_or(&empty);
    if let Some(old) = old {
        immutable(&mut errors, spec, old.get("spec").unwrap_or(&empty), "controller", &path);
    }
    let (controller, field) = (text(spec, "controller"), path.child("controller"));
    if controller.is_empty() {
        errors.push(Error::required(&field, ""));
    } else {
        if controller.len() > CONTROLLER_MAX_BYTES {
            errors.push(Error::too_long(&field, CONTROLLER_MAX_BYTES));
        }
        domain_prefixed_path(&mut errors, controller, &field);
    }
    if let Some(parameters) = given(spec, "parameters") {
        let path = path.child("parameters");
        typed_reference(&mut errors, parameters, &path);
        class_scope(&mut errors, parameters, &path);
    }
    errors
}

fn class_scope(errors: &mut Errors, parameters: &Value, path: &Path<'_>) {
    let (namespace, field) =
        (given(parameters, "namespace").and_then(Value::as_str), path.child("namespace"));
    match (given(parameters, "scope").and_then(Value::as_str), namespace) {
        (None, _) => errors.push(Error::required(&path.child("scope"), "")),
        (Some("Namespace"), None) => {
            errors.push(Error::required(&field, "`parameters.scope` is set to 'Namespace'"));
        }
        (Some("Namespace"), Some(name)) => invalid_each(errors, &field, name, rules::dns_label(name)),
        (Some("Cluster"), Some(_)) => {
            errors.push(Error::forbidden(&field, "`parameters.scope` is set to 'Cluster'"));
        }
        (Some("Cluster"), None) => {}
        (Some(other), _) => {
            errors.push(Error::not_supported(&path.child("scope"), other, &["Cluster", "Namespace"]));
        }
    }
}

/// `example.com/path`
pub(super) fn domain_prefixed_path(errors: &mut Errors, value: &str, path: &Path<'_>) {
    let Some((host, rest)) =
        value.split_once('/').filter(|(host, rest)| !host.is_empty() && !rest.is_empty())
    else {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        errors.push(Error::invalid(path, value, detail));
        return;
    };
    invalid_each(errors, path, host, rules::dns_subdomain(host));
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/%".contains(c);
    if !rest.chars().all(fits) {
        let detail = rules::pattern("Invalid path", "[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+", &[]);
        errors.push(Error::invalid(path, rest, detail));
    }
}

fn address_name(name: &str) -> Vec<String> {
    match name.parse::<std::net::IpAddr>() {
        Ok(ip) if ip.to_string() == name => Vec::new(),
        Ok(_) => vec!["must be in canonical form".to_owned()],
        Err(_) => rules::ip_address(name),
    }
}

fn validate_address(address: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let (empty, path) = (Value::Null, Path::root("spec"));
    let spec = address.get("spec").unwrap_or(&empty);
    if let Some(old) = old {
        super::look::fixed(&mut errors, spec, old.get("spec").unwrap_or(&empty), "parentRef", &path);
    }
    let parent_path = path.child("parentRef");
    let Some(parent) = given(spec, "parentRef") else {
        errors.push(Error::required(&parent_path, ""));
        return errors;
    };
    let group = text(parent, "group");
    if !group.is_empty() {
        invalid_each(&mut errors, &parent_path.child("group"), group, rules::dns_subdomain(group));
    }
    for field in ["resource", "name"] {
        required(&mut errors, parent, field, &parent_path);
    }
    for field in ["resource", "namespace", "name"] {
        let word = text(parent, field);
        invalid_each(&mut errors, &parent_path.child(field), word, rules::path_segment(word, false));
    }
    errors
}

fn validate_range(range: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    if cx.subresource == "status" {
        return errors;
    }
    let path = Path::root("spec");
    let (list, cidrs) = (path.child("cidrs"), range.items_at(&["spec", "cidrs"]));
    if let Some(old) = old {
        let before = old.items_at(&["spec", "cidrs"]);
        let second_added = before.len() == 1 && cidrs.len() == 2;
        if !second_added && before.len() != cidrs.len() {
            let bad = range.at(&["spec", "cidrs"]).cloned().unwrap_or_default();
            errors.push(Error::invalid(&list, bad, super::look::IMMUTABLE));
            return errors;
        }
        for (i, (now, _)) in cidrs.iter().zip(before).enumerate().filter(|(_, (now, was))| now != was) {
            errors.push(Error::invalid(&list.index(i), now.clone(), super::look::IMMUTABLE));
        }
        if !second_added {
            return errors;
        }
    }
    if cidrs.is_empty() {
        errors.push(Error::required(&list, "at least one CIDR required"));
        return errors;
    }
    for (i, cidr) in cidrs.iter().enumerate() {
        let cidr = cidr.as_str().unwrap_or_default();
        invalid_each(&mut errors, &list.index(i), cidr, rules::cidr(cidr));
    }
    let families: Vec<bool> = cidrs.iter().map(|c| c.as_str().unwrap_or_default().contains(':')).collect();
    if families.len() > 2 {
        errors.push(Error::invalid(&list, Value::from(cidrs.to_vec()), "may only hold up to 2 values"));
    } else if let [first, second] = families.as_slice()
        && first == second
        && errors.is_empty()
    {
        let detail =
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/96";
        errors.push(Error::invalid(&list, Value::from(cidrs.to_vec()), detail));
    }
    errors
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{create_errors, update_errors};

    const GROUP: &str = "networking.k8s.io";

    #[test]
    fn policies() {
        let cases: &[(&str, &[&str])] = &[
            ("{spec: {podSelector: {}}}", &[]),
            (
                "{spec: {podSelector: {}, ingress: [{}], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]}}",
                &[],
            ),
            (
                "{spec: {podSelector: {}, ingress: [{from: [{}], ports: [{port: 0, endPort: 70000}, {port: a, endPort: 1}, {endPort: 1}, \
                 {protocol: ICMP}]}]}}",
                &[
                    "spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                    "spec.ingress[0].ports[0].endPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
                    "spec.ingress[0].ports[1].endPort: Invalid value: 1: may not be specified when `port` is non-numeric",
                    "spec.ingress[0].ports[2].endPort: Invalid value: 1: may not be specified when `port` is not specified",
                    "spec.ingress[0].ports[3].protocol: Unsupported value: \"ICMP\": supported values: \"TCP\", \"UDP\", \"SCTP\"",
                    "spec.ingress[0].from[0]: Required value: must specify a peer",
                ],
            ),
            (
                "{spec: {podSelector: {}, egress: [{to: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/16, except: [10.1.0.0/24, 10.0.0.0/16, \
                 'fd00::/64', x]}}, {ipBlock: {}}], ports: [{port: 80, endPort: 79}]}], policyTypes: [Both]}}",
                &[
                    "spec.egress[0].ports[0].endPort: Invalid value: 79: must be greater than or equal to `port`",
                    "spec.egress[0].to[0].ipBlock.except[0]: Invalid value: \"10.1.0.0/24\": must be a strict subset of `cidr`",
                    "spec.egress[0].to[0].ipBlock.except[1]: Invalid value: \"10.0.0.0/16\": must be a strict subset of `cidr`",
                    "spec.egress[0].to[0].ipBlock.except[2]: Invalid value: \"fd00::/64\": must be a strict subset of `cidr`",
                    "spec.egress[0].to[0].ipBlock.except[3]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or \
                     2001:db8::/64)",
                    "spec.egress[0].to[0]: Forbidden: may not specify both ipBlock and another peer",
                    "spec.egress[0].to[1].ipBlock.cidr: Required value",
                    "spec.policyTypes[0]: Unsupported value: \"Both\": supported values: \"Ingress\", \"Egress\"",
                ],
            ),
        ];
        for (yaml, wanted) in cases {
            assert_eq!(create_errors(GROUP, "NetworkPolicy", yaml), *wanted, "{yaml}");
        }
    }

    #[test]
    fn ingresses() {
        let cases: &[(&str, &[&str])] = &[
            ("{spec: {defaultBackend: {service: {name: a, port: {number: 80}}}}}", &[]),
            (
                "{spec: {rules: [{host: '*.example.com', http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: a, port: \
                 {name: http}}}}]}}], tls: [{hosts: [a.b], secretName: s}]}}",
                &[],
            ),
            (
                "{spec: {}}",
                &["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"],
            ),
            (
                "{spec: {defaultBackend: {}, rules: [{host: 10.0.0.1, http: {}}, {http: {paths: [{path: a//b/.., pathType: Exact, \
                 backend: {service: {port: {name: a, number: 1}}}}, {}, {pathType: Glob, backend: {resource: {}, service: {}}}]}}], \
                 ingressClassName: A}}",
                &[
                    "spec.defaultBackend: Invalid value: \"\": resource or service backend is required",
                    "spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address",
                    "spec.rules[0].http.paths: Required value",
                    "spec.rules[1].http.paths[0].path: Invalid value: \"a//b/..\": must be an absolute path",
                    "spec.rules[1].http.paths[0].path: Invalid value: \"a//b/..\": must not contain '//'",
                    "spec.rules[1].http.paths[0].path: Invalid value: \"a//b/..\": cannot end with '/..'",
                    "spec.rules[1].http.paths[0].backend.service.name: Required value",
                    "spec.rules[1].http.paths[0].backend: Invalid value: \"\": cannot set both port name & port number",
                    "spec.rules[1].http.paths[1].pathType: Required value: pathType must be specified",
                    "spec.rules[1].http.paths[2].pathType: Unsupported value: \"Glob\": supported values: \"Exact\", \
                     \"ImplementationSpecific\", \"Prefix\"",
                    "spec.rules[1].http.paths[2].backend: Invalid value: \"\": cannot set both resource and service backends",
                    "spec.ingressClassName: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case \
                     alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
                     'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                ],
            ),
            (
                "{metadata: {annotations: {kubernetes.io/ingress.class: a}}, spec: {ingressClassName: b, defaultBackend: {resource: \
                 {kind: Bucket, name: x}}}}",
                &[
                    "annotations.kubernetes.io/ingress.class: Invalid value: \"a\": must match `ingressClassName` when both are specified",
                ],
            ),
        ];
        for (yaml, wanted) in cases {
            assert_eq!(create_errors(GROUP, "Ingress", yaml), *wanted, "{yaml}");
        }
    }

    #[test]
    fn classes_and_ranges() {
        let cases: &[(&str, &str, &[&str])] = &[
            ("IngressClass", "{spec: {controller: a.b/c}}", &[]),
            ("IngressClass", "{spec: {}}", &["spec.controller: Required value"]),
            (
                "IngressClass",
                "{spec: {controller: a, parameters: {kind: K, name: one, namespace: x}}}",
                &[
                    "spec.controller: Invalid value: \"a\": must be a domain-prefixed path (such as \"acme.io/foo\")",
                    "spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'",
                ],
            ),
            ("IPAddress", "{spec: {}}", &["spec.parentRef: Required value"]),
            (
                "IPAddress",
                "{spec: {parentRef: {resource: services}}}",
                &["spec.parentRef.name: Required value"],
            ),
            ("ServiceCIDR", "{spec: {cidrs: [10.0.0.0/16, 'fd00::/112']}}", &[]),
            ("ServiceCIDR", "{spec: {}}", &["spec.cidrs: Required value: at least one CIDR required"]),
        ];
        for (kind, yaml, wanted) in cases {
            assert_eq!(create_errors(GROUP, kind, yaml), *wanted, "{yaml}");
        }
        assert_eq!(
            update_errors(
                GROUP,
                "IngressClass",
                "{spec: {controller: a.b/c}}",
                "{spec: {controller: a.b/d}}"
            ),
            ["spec.controller: Invalid value: \"a.b/d\": field is immutable"]
        );
    }
}
