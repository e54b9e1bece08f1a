//! A pod's resolver settings, host name and hosts file.

use std::net::IpAddr;

use k8s_cri::v1::DnsConfig;
use k8s_openapi::api::core::v1::Pod;

use crate::pod::spec;

/// Most name servers that a resolver uses.
const MAX_SERVERS: usize = 3;
/// Most search domains (upstream's limit).
const MAX_SEARCHES: usize = 32;
/// Longest host name that the kernel takes.
const MAX_HOSTNAME: usize = 63;

/// Reads resolv.conf.
pub fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => config.servers.extend(words.next()),
            Some("search") => config.searches = words.filter(|domain| domain != ".").collect(),
            Some("options") => config.options = words.collect(),
            _ => {}
        }
    }
    config
}

/// The resolver settings of a pod by its dnsPolicy and dnsConfig, on top of the node's own.
pub fn pod_dns(pod: &Pod, node: &DnsConfig, cluster_dns: &[IpAddr], domain: &str) -> DnsConfig {
    let spec = pod.spec.as_ref();
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !spec::host_network(pod),
        _ => false,
    };
    let mut dns = match policy {
        "None" => DnsConfig::default(),
        _ if cluster && !cluster_dns.is_empty() => cluster_first(pod, node, cluster_dns, domain),
        _ => node.clone(),
    };
    if let Some(own) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        append_new(&mut dns.servers, own.nameservers.iter().flatten());
        append_new(&mut dns.searches, own.searches.iter().flatten());
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            dns.options.retain(|known| known.split(':').next() != Some(name.as_str()));
            dns.options.push(match option.value.as_deref().filter(|value| !value.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name,
            });
        }
    }
    dns.servers.truncate(MAX_SERVERS);
    dns.searches.truncate(MAX_SEARCHES);
    dns
}

fn cluster_first(pod: &Pod, node: &DnsConfig, cluster_dns: &[IpAddr], domain: &str) -> DnsConfig {
    let mut searches = Vec::new();
    if !domain.is_empty() {
        searches.push(format!("{}.svc.{domain}", spec::namespace(pod)));
        searches.push(format!("svc.{domain}"));
        searches.push(domain.to_owned());
    }
    append_new(&mut searches, node.searches.iter());
    DnsConfig {
        servers: cluster_dns.iter().map(ToString::to_string).collect(),
        searches,
        options: vec!["ndots:5".to_owned()],
    }
}

fn append_new<'a>(list: &mut Vec<String>, more: impl Iterator<Item = &'a String>) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

/// A pod's host name and its domain (empty without a subdomain).
pub fn hostname_and_domain(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let spec = pod.spec.as_ref();
    if let Some(full) = spec.and_then(|spec| spec.hostname_override.clone()).filter(|name| !name.is_empty()) {
        return (full, String::new());
    }
    let own = spec.and_then(|spec| spec.hostname.clone()).filter(|name| !name.is_empty());
    let name = own.unwrap_or_else(|| truncated(spec::name(pod)));
    let sub = spec.and_then(|spec| spec.subdomain.as_deref()).filter(|sub| !sub.is_empty());
    let domain = sub.map(|sub| format!("{sub}.{}.svc.{cluster_domain}", spec::namespace(pod)));
    (name, domain.unwrap_or_default())
}

fn truncated(name: &str) -> String {
    let cut: String = name.chars().take(MAX_HOSTNAME).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// The name that the kernel gives the pod: the full one with `setHostnameAsFQDN`. An error's text goes into
/// the FailedCreatePodSandBox event.
pub fn kernel_hostname(pod: &Pod, cluster_domain: &str) -> Result<String, String> {
    let (name, domain) = hostname_and_domain(pod, cluster_domain);
    let full = pod.spec.as_ref().and_then(|spec| spec.set_hostname_as_fqdn) == Some(true);
    if !full || domain.is_empty() {
        return Ok(name);
    }
    let fqdn = format!("{name}.{domain}");
    if fqdn.len() > MAX_HOSTNAME + 1 {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long (64 characters is the max, {} characters requested)",
            fqdn.len()
        ));
    }
    Ok(fqdn)
}

/// The pod's /etc/hosts; `node_hosts` is the node's own file, for pods on its network.
pub fn hosts_file(pod: &Pod, ips: &[String], cluster_domain: &str, node_hosts: Option<&str>) -> String {
    let mut text = String::from("# Kubernetes-managed hosts file");
    match node_hosts {
        Some(own) => {
            text.push_str(" (host network).\n");
            text.push_str(own);
            if !own.ends_with('\n') {
                text.push('\n');
            }
        }
        None => text.push_str(
            ".\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
             fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        ),
    }
    if node_hosts.is_none() {
        let (name, domain) = hostname_and_domain(pod, cluster_domain);
        let names = if domain.is_empty() { name } else { format!("{name}.{domain}\t{name}") };
        text.extend(ips.iter().map(|ip| format!("{ip}\t{names}\n")));
    }
    let aliases = pod.spec.as_ref().and_then(|spec| spec.host_aliases.as_ref());
    if let Some(aliases) = aliases.filter(|aliases| !aliases.is_empty()) {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
            text.push_str(&format!("{}\t{names}\n", alias.ip));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec})).unwrap()
    }

    fn node() -> DnsConfig {
        parse_resolv_conf("# c\nnameserver 1.1.1.1\nsearch corp.example .\noptions edns0\n")
    }

    #[test]
    fn policies() {
        let dns: Vec<IpAddr> = vec!["10.96.0.10".parse().unwrap()];
        for (spec, servers, searches, options) in [
            (json!({}), "10.96.0.10", "n.svc.cl svc.cl cl corp.example", "ndots:5"),
            (json!({"dnsPolicy": "Default"}), "1.1.1.1", "corp.example", "edns0"),
            (json!({"hostNetwork": true}), "1.1.1.1", "corp.example", "edns0"),
            (
                json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
                "10.96.0.10",
                "n.svc.cl svc.cl cl corp.example",
                "ndots:5",
            ),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"], "searches": ["x"],
                    "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
                "9.9.9.9",
                "x",
                "ndots:2 edns0",
            ),
            (
                json!({"dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}}),
                "10.96.0.10",
                "n.svc.cl svc.cl cl corp.example",
                "ndots:2",
            ),
        ] {
            let made = pod_dns(&pod(spec.clone()), &node(), &dns, "cl");
            let found = (made.servers.join(" "), made.searches.join(" "), made.options.join(" "));
            assert_eq!(found, (servers.to_owned(), searches.to_owned(), options.to_owned()), "{spec}");
        }
    }

    #[test]
    fn names() {
        assert_eq!(kernel_hostname(&pod(json!({})), "cl").unwrap(), "p");
        assert_eq!(kernel_hostname(&pod(json!({"hostname": "h", "subdomain": "s"})), "cl").unwrap(), "h");
        let full = pod(json!({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true}));
        assert_eq!(kernel_hostname(&full, "cl").unwrap(), "h.s.n.svc.cl");
        let long = pod(json!({"hostname": "h".repeat(60), "subdomain": "s", "setHostnameAsFQDN": true}));
        assert!(kernel_hostname(&long, "cl").is_err());
    }

    #[test]
    fn hosts() {
        let pod = pod(json!({"hostname": "h", "subdomain": "s",
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}));
        let text = hosts_file(&pod, &["10.0.0.2".into()], "cl", None);
        assert!(text.contains("127.0.0.1\tlocalhost\n"));
        assert!(text.contains("10.0.0.2\th.s.n.svc.cl\th\n"), "{text}");
        assert!(text.ends_with("# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"));
        let own = hosts_file(&pod, &[], "cl", Some("127.0.0.1 node"));
        assert!(own.contains("(host network).\n127.0.0.1 node\n"));
    }
}
