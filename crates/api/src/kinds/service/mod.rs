//! Services. Addresses and node ports are the API server's to allocate; what their fields mean to each other stands here.

mod change;
mod families;

pub use families::init_families;

use super::endpoints::endpoint_ip;
use super::look::{
    Errors, Zero, given, int, int_or_zero, internal, items, items_mut, one_of, one_of_given, port_or_name,
    same, set_empty, set_missing, text,
};
use super::row::NO_HOOKS;
use crate::field::{self, Error, Path};
use crate::kind::{Context, Hooks};
use crate::kinds::warn;
use crate::rules::{self, invalid_each};
use crate::{Value, meta};

const AFFINITY_SECONDS: i64 = 10_800;
const AFFINITY_MAX_SECONDS: i64 = 86_400;
/// No load balancer may lead here: it is the kubelets' own.
const KUBELET_PORT: i64 = 10_250;
const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
pub(super) const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

pub(super) const SERVICE: Hooks = Hooks {
    default: Some(default_service),
    prepare_create: Some(|service, _| families::follow(service.object_at_mut(&["spec"]), None)),
    prepare_update: Some(|service, old, cx| {
        if cx.subresource.is_empty() {
            change::update(service, old);
        }
    }),
    validate: Some(validate_service),
    warnings: Some(warnings),
    name_rule: Some(rules::name_is_label),
    selectable_value: Some(|service, path| match path {
        "spec.clusterIP" | "spec.type" => Some(
            service.at(&path.split('.').collect::<Vec<_>>()).and_then(Value::as_str).unwrap_or("").to_owned(),
        ),
        _ => None,
    }),
    ..NO_HOOKS
};

/// Fields that mean nothing without a cluster address.
fn warnings(service: &Value, _old: Option<&Value>) -> Vec<String> {
    let (mut warnings, empty, root) = (Vec::new(), Value::Null, Path::root("spec"));
    if service.at(&["metadata", "annotations", TOPOLOGY_HINTS]).is_some() {
        warnings
            .push(format!("annotation {TOPOLOGY_HINTS} is deprecated, please use {TOPOLOGY_MODE} instead"));
    }
    let spec = service.get("spec").unwrap_or(&empty);
    let addresses = |warnings: &mut Vec<String>, field: &'static str| {
        let list = root.child(field);
        for (i, ip) in items(spec, field).iter().enumerate() {
            warn::address(warnings, ip.as_str().unwrap_or_default(), &list.index(i));
        }
    };
    let first = items(spec, "clusterIPs").first().and_then(Value::as_str).unwrap_or_default();
    if !matches!(first, "" | "None") {
        addresses(&mut warnings, "clusterIPs");
    }
    let headless = text(spec, "type") == "ClusterIP" && is_headless(spec);
    let (external, outside) = (text(spec, "type") == "ExternalName", !items(spec, "externalIPs").is_empty());
    let balancer = text(spec, "loadBalancerIP");
    if headless && !balancer.is_empty() {
        warnings.push("spec.loadBalancerIP is ignored for headless services".to_owned());
    }
    if headless && outside {
        warnings.push("spec.externalIPs is ignored for headless services".to_owned());
    }
    if headless && text(spec, "sessionAffinity") != "None" {
        warnings.push("spec.SessionAffinity is ignored for headless services".to_owned());
    }
    addresses(&mut warnings, "externalIPs");
    if outside && !headless && !external {
        let message = "spec.externalIPs is deprecated and may no longer be implemented in some clusters";
        warnings.push(message.to_owned());
    }
    if !balancer.is_empty() {
        warn::address(&mut warnings, balancer, &root.child("loadBalancerIP"));
    }
    let list = root.child("loadBalancerSourceRanges");
    for (i, range) in items(spec, "loadBalancerSourceRanges").iter().enumerate() {
        warn::block(&mut warnings, range.as_str().unwrap_or_default(), &list.index(i));
    }
    if external && outside {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !external && !text(spec, "externalName").is_empty() {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if text(spec, "trafficDistribution") == "PreferClose" {
        let message = "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"";
        warnings.push(message.to_owned());
    }
    warnings
}

/// Is the type one that has cluster addresses?
fn needs_cluster_ip(spec: &Value) -> bool {
    matches!(text(spec, "type"), "ClusterIP" | "NodePort" | "LoadBalancer")
}

/// Does a load balancer have to ask each node whether it has endpoints of its own? `spec` is the Service's.
pub fn needs_health_port(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

fn same_list(a: &Value, b: &Value, field: &str) -> bool {
    items(a, field) == items(b, field)
}

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
    } else if text(spec, "type") == "ExternalName" {
        spec.object_at_mut(&[]).remove("internalTrafficPolicy");
    }
    if text(spec, "type") == "LoadBalancer" {
        set_missing(spec, "allocateLoadBalancerNodePorts", true);
        let balancer = service.get_mut("status").and_then(|status| status.get_mut("loadBalancer"));
        for ingress in balancer.into_iter().flat_map(|balancer| items_mut(balancer, "ingress")) {
            if !text(ingress, "ip").is_empty() {
                set_missing(ingress, "ipMode", Value::str("VIP"));
            }
        }
    }
}

fn validate_service(service: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let (empty, path) = (Value::Null, Path::root("spec"));
    let spec = service.get("spec").unwrap_or(&empty);
    if cx.subresource == "status" {
        balancer_status(&mut errors, service, spec);
        return errors;
    }
    if let Some(old) = old.map(|old| old.get("spec").unwrap_or(&empty)) {
        families::stays(&mut errors, spec, old, &path);
        balancer_stays(&mut errors, spec, old, &path);
    }
    let (kind, headless) = (text(spec, "type"), is_headless(spec));
    if items(spec, "ports").is_empty() && !headless && kind != "ExternalName" {
        errors.push(Error::required(&path.child("ports"), ""));
    }
    if kind == "LoadBalancer" {
        not_the_kubelet(&mut errors, spec, &path.child("ports"));
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
    families::related(&mut errors, spec, &path);
    for (i, ip) in items(spec, "externalIPs").iter().enumerate() {
        let ip = ip.as_str().unwrap_or_default();
        endpoint_ip(&mut errors, ip, false, &path.child("externalIPs").index(i));
    }
    let kinds = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    one_of(&mut errors, kind, kinds, &path.child("type"));
    node_ports(&mut errors, spec, &path.child("ports"));
    load_balancer(&mut errors, service, spec, &path);
    traffic(&mut errors, spec, &path);
    errors
}

fn not_the_kubelet(errors: &mut Errors, spec: &Value, list: &Path<'_>) {
    for (i, _) in
        items(spec, "ports").iter().enumerate().filter(|(_, p)| int(p, "port") == Some(KUBELET_PORT))
    {
        let detail = format!("may not expose port {KUBELET_PORT} externally since it is used by kubelet");
        errors.push(Error::invalid(&list.index(i), KUBELET_PORT, detail));
    }
}

/// What a load balancer was made with stays.
fn balancer_stays(errors: &mut Errors, new: &Value, old: &Value, path: &Path<'_>) {
    let balanced = |spec: &Value| text(spec, "type") == "LoadBalancer";
    if balanced(new) && balanced(old) && !same(new.get("loadBalancerClass"), old.get("loadBalancerClass")) {
        let bad = new.get("loadBalancerClass").cloned().unwrap_or_default();
        errors.push(Error::invalid(&path.child("loadBalancerClass"), bad, "may not change once set"));
    }
    let port = |spec: &Value| int_or_zero(spec, "healthCheckNodePort");
    if needs_health_port(new) && needs_health_port(old) && port(new) != port(old) {
        errors.push(Error::forbidden(&path.child("healthCheckNodePort"), "field is immutable"));
    }
}

fn balancer_status(errors: &mut Errors, service: &Value, spec: &Value) {
    let (root, ingress) = (Path::root("status"), service.items_at(&["status", "loadBalancer", "ingress"]));
    let balancer = root.child("loadBalancer");
    let list = balancer.child("ingress");
    if !ingress.is_empty() && text(spec, "type") != "LoadBalancer" {
        errors.push(Error::forbidden(&list, "may only be used when `spec.type` is 'LoadBalancer'"));
        return;
    }
    for (i, one) in ingress.iter().enumerate() {
        ingress_point(errors, one, &list.index(i));
    }
}

fn ingress_point(errors: &mut Errors, one: &Value, path: &Path<'_>) {
    let (address, host, mode) = (text(one, "ip"), text(one, "hostname"), given(one, "ipMode"));
    if !address.is_empty() {
        invalid_each(errors, &path.child("ip"), address, rules::ip_address(address));
    }
    match mode.and_then(Value::as_str) {
        None if !address.is_empty() => {
            errors.push(Error::required(&path.child("ipMode"), "must be specified when `ip` is set"));
        }
        Some(_) if address.is_empty() => {
            errors.push(Error::forbidden(&path.child("ipMode"), "may not be specified when `ip` is not set"));
        }
        Some(mode) if !matches!(mode, "Proxy" | "VIP") => {
            errors.push(Error::not_supported(&path.child("ipMode"), mode, &["Proxy", "VIP"]));
        }
        _ => {}
    }
    if host.is_empty() {
        return;
    }
    invalid_each(errors, &path.child("hostname"), host, rules::dns_subdomain(host));
    if host.parse::<std::net::IpAddr>().is_ok() {
        let detail = "must be a DNS name, not an IP address";
        errors.push(Error::invalid(&path.child("hostname"), host, detail));
    }
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
            const PORT: &[(&str, &str, Zero)] = &[
                ("", "Name", Zero::Text),
                ("protocol", "Protocol", Zero::Text),
                ("", "AppProtocol", Zero::Null),
                ("port", "Port", Zero::Number),
                ("", "TargetPort", Zero::Number),
                ("", "NodePort", Zero::Number),
            ];
            errors.push(Error::duplicate(&path, internal(port, PORT)));
        }
    }
}

fn load_balancer(errors: &mut Errors, service: &Value, spec: &Value, path: &Path<'_>) {
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
    if ranges.is_empty() {
        annotated_ranges(errors, service, is_balanced);
    }
    let allocates = path.child("allocateLoadBalancerNodePorts");
    match (given(spec, "allocateLoadBalancerNodePorts"), is_balanced) {
        (Some(_), false) => errors.push(Error::forbidden(&allocates, only)),
        (None, true) => errors.push(Error::required(&allocates, "")),
        _ => {}
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

/// The ranges as the annotation from before the field gave them, comma-separated.
fn annotated_ranges(errors: &mut Errors, service: &Value, is_balanced: bool) {
    let text = service.str_at(&["metadata", "annotations", SOURCE_RANGES]);
    let root = Path::root("metadata");
    let annotations = root.child("annotations");
    let path = annotations.key(SOURCE_RANGES);
    if service.at(&["metadata", "annotations", SOURCE_RANGES]).is_none() {
        return;
    }
    if !is_balanced {
        errors.push(Error::forbidden(&path, "may only be used when `type` is 'LoadBalancer'"));
    }
    let ranges = text.trim().split(',').map(str::trim).filter(|_| !text.trim().is_empty());
    if ranges.into_iter().any(|range| !rules::cidr(range).is_empty()) {
        let detail = "must be a comma separated list of CIDRs e.g. 192.168.0.0/16,10.0.0.0/8";
        errors.push(Error::invalid(&path, text, detail));
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
    let health_path = path.child("healthCheckNodePort");
    match (health, needs_health_port(spec)) {
        (0, true) => errors.push(Error::required(&health_path, "")),
        (0, false) => {}
        (_, true) => invalid_each(errors, &health_path, health, rules::port_number(health)),
        (_, false) => {
            let detail =
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.push(Error::invalid(&health_path, health, detail));
        }
    }
    let internal = path.child("internalTrafficPolicy");
    if needs_cluster_ip(spec) && given(spec, "internalTrafficPolicy").is_none() {
        errors.push(Error::required(&internal, ""));
    }
    one_of_given(errors, spec, "internalTrafficPolicy", &["Cluster", "Local"], path);
    let spread = &["PreferClose", "PreferSameZone", "PreferSameNode"];
    one_of_given(errors, spec, "trafficDistribution", spread, path);
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{create_errors, defaulted, tree, update_errors};

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
            ("{spec: {clusterIP: None, clusterIPs: [None]}}", &[]),
            ("{spec: {clusterIP: None}}", &["spec.clusterIPs: Required value"]),
            (
                "{spec: {type: LoadBalancer, ports: [{port: 10250}]}}",
                &[
                    "spec.ports[0]: Invalid value: 10250: may not expose port 10250 externally since it is used by kubelet",
                ],
            ),
            (
                "{spec: {type: LoadBalancer, ports: [{port: 1}], externalTrafficPolicy: Local}}",
                &["spec.healthCheckNodePort: Required value"],
            ),
            (
                "{metadata: {annotations: {service.beta.kubernetes.io/load-balancer-source-ranges: '10.0.0.0/8, x'}}, spec: {type: \
                 LoadBalancer, ports: [{port: 1}]}}",
                &[
                    "metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: Invalid value: \"10.0.0.0/8, x\": \
                     must be a comma separated list of CIDRs e.g. 192.168.0.0/16,10.0.0.0/8",
                ],
            ),
            (
                "{spec: {type: ExternalName, externalName: 'x.', ports: [{port: 1}], clusterIPs: [10.0.0.1]}}",
                &["spec.clusterIPs: Forbidden: may not be set for ExternalName services"],
            ),
            (
                "{spec: {ports: [{port: 0, protocol: X, targetPort: A_B, appProtocol: '-'}], externalIPs: [127.0.0.1]}}",
                &[
                    "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                    "spec.ports[0].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                    "spec.ports[0].targetPort: Invalid value: \"A_B\": must contain only alpha-numeric characters (a-z, 0-9), and \
                     hyphens (-)",
                    "spec.ports[0].targetPort: Invalid value: \"A_B\": must contain at least one letter (a-z)",
                    "spec.ports[0].appProtocol: Invalid value: \"-\": name part must consist of alphanumeric characters, '-', '_' or \
                     '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex \
                     used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                    "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                ],
            ),
            (
                "{spec: {ports: [{port: 80}, {port: 80}]}}",
                &[
                    "spec.ports[0].name: Required value",
                    "spec.ports[1].name: Required value",
                    "spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":80,\"TargetPort\":0,\"NodePort\":0}",
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
                "{spec: {clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ports: [{port: 80}]}}",
                "{spec: {clusterIP: 10.0.0.2, clusterIPs: [10.0.0.2], ports: [{port: 80}]}}"
            ),
            ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]
        );
        assert_eq!(
            update_errors(
                "",
                "Service",
                "{spec: {type: LoadBalancer, loadBalancerClass: a/b, ports: [{port: 80}]}}",
                "{spec: {type: LoadBalancer, loadBalancerClass: a/c, ports: [{port: 80}]}}"
            ),
            ["spec.loadBalancerClass: Invalid value: \"a/c\": may not change once set"]
        );
    }
}
