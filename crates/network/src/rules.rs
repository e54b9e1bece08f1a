//! The nftables rules of the pod network, as text, and the one place that runs `nft`.
//!
//! Host ports live in two maps, so that a pod with a hostPort changes elements and never a rule. All chains
//! have policy accept; nothing of other tables is touched.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::io::AsyncWriteExt;

use crate::addresses::Record;
use crate::types::NetworkError;

/// `nft` on a loaded machine takes milliseconds; more than this means that it hangs.
const NFT_TIMEOUT: Duration = Duration::from_secs(20);

/// The names and ranges that rules are written with.
#[derive(Debug, Clone)]
pub(crate) struct RuleNames {
    /// The table is `inet <cluster>`.
    pub cluster: String,
    /// The node's address among its pods.
    pub gateway: Ipv4Addr,
    /// This node's pods.
    pub pod_cidr: Ipv4Net,
    /// All pods.
    pub cluster_cidr: Ipv4Net,
}

/// One transaction that brings our chains and maps to exactly this state, whatever was there.
///
/// A pod with a host port is reached from the node's loopback, too, and can reach itself through the node: in both
/// cases it must see the node's address to answer there. `route_localnet` on its link, needed for that, would
/// also let the pod send to the node's loopback: the input chain drops just that.
pub(crate) fn base<'a>(names: &RuleNames, records: impl Iterator<Item = &'a Record>) -> String {
    let RuleNames { cluster, gateway, pod_cidr, cluster_cidr } = names;
    let mut text = definitions(cluster);
    let _ = write!(
        text,
        "add chain inet {cluster} hostports
add chain inet {cluster} hostport_prerouting {{ type nat hook prerouting priority -100; }}
add chain inet {cluster} hostport_output {{ type nat hook output priority -100; }}
add chain inet {cluster} pod_postrouting {{ type nat hook postrouting priority 100; }}
add chain inet {cluster} pod_input {{ type filter hook input priority 0; }}
flush chain inet {cluster} hostports
flush chain inet {cluster} hostport_prerouting
flush chain inet {cluster} hostport_output
flush chain inet {cluster} pod_postrouting
flush chain inet {cluster} pod_input
flush map inet {cluster} hostports
flush map inet {cluster} hostip_ports
flush set inet {cluster} hostport_pods
flush set inet {cluster} hostport_selves
flush set inet {cluster} hostport_links
add rule inet {cluster} hostports dnat ip to ip daddr . meta l4proto . th dport map @hostip_ports
add rule inet {cluster} hostports dnat ip to meta l4proto . th dport map @hostports
add rule inet {cluster} hostport_prerouting meta l4proto {{ tcp, udp, sctp }} fib daddr type local jump hostports
add rule inet {cluster} hostport_output meta l4proto {{ tcp, udp, sctp }} fib daddr type local jump hostports
add rule inet {cluster} pod_postrouting ip saddr {pod_cidr} ip daddr != {cluster_cidr} masquerade
add rule inet {cluster} pod_postrouting ct status dnat ip saddr 127.0.0.0/8 ip daddr . meta l4proto . th dport @hostport_pods snat ip to {gateway}
add rule inet {cluster} pod_postrouting ct status dnat ip saddr . ip daddr @hostport_selves snat ip to {gateway}
add rule inet {cluster} pod_input iifname @hostport_links ip daddr 127.0.0.0/8 ct state new drop
"
    );
    for record in records {
        text.push_str(&each_element(cluster, "add", record));
    }
    text
}

/// Table, maps and set; adding them again changes nothing.
fn definitions(cluster: &str) -> String {
    format!(
        "add table inet {cluster}
add map inet {cluster} hostports {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
add map inet {cluster} hostip_ports {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
add set inet {cluster} hostport_pods {{ type ipv4_addr . inet_proto . inet_service; }}
add set inet {cluster} hostport_selves {{ type ipv4_addr . ipv4_addr; }}
add set inet {cluster} hostport_links {{ type ifname; }}
"
    )
}

/// Commands that open the host ports of one pod; empty when it has none.
pub(crate) fn open_ports(cluster: &str, record: &Record) -> String {
    if record.ports.is_empty() {
        return String::new();
    }
    definitions(cluster) + &each_element(cluster, "add", record)
}

/// Commands that close them, open or not: adding an element first makes its deletion safe.
pub(crate) fn close_ports(cluster: &str, record: &Record) -> String {
    if record.ports.is_empty() {
        return String::new();
    }
    let add = each_element(cluster, "add", record);
    definitions(cluster) + &add + &each_element(cluster, "delete", record)
}

fn each_element(cluster: &str, verb: &str, record: &Record) -> String {
    let mut text = String::new();
    let mut targets = BTreeSet::new();
    for port in &record.ports {
        let protocol = port.protocol.name();
        let target = format!("{} . {}", record.address, port.container_port);
        let (map, key) = match port.host_ip {
            Some(ip) => ("hostip_ports", format!("{ip} . {protocol} . {}", port.host_port)),
            None => ("hostports", format!("{protocol} . {}", port.host_port)),
        };
        let _ = writeln!(text, "{verb} element inet {cluster} {map} {{ {key} : {target} }}");
        targets.insert(format!("{} . {protocol} . {}", record.address, port.container_port));
    }
    for target in targets {
        let _ = writeln!(text, "{verb} element inet {cluster} hostport_pods {{ {target} }}");
    }
    if !record.ports.is_empty() {
        let (address, link) = (record.address, &record.link);
        let _ = writeln!(text, "{verb} element inet {cluster} hostport_selves {{ {address} . {address} }}");
        let _ = writeln!(text, "{verb} element inet {cluster} hostport_links {{ \"{link}\" }}");
    }
    text
}

/// Commands that remove the table, there or not.
pub(crate) fn removal(cluster: &str) -> String {
    format!("add table inet {cluster}\ndelete table inet {cluster}\n")
}

/// Feeds `commands` to `nft -f -`: all or nothing.
pub(crate) async fn apply(commands: &str) -> Result<(), NetworkError> {
    if commands.is_empty() {
        return Ok(());
    }
    let failed = |error: std::io::Error| NetworkError::Nft(format!("cannot run nft: {error}"));
    let mut child = tokio::process::Command::new("nft")
        .args(["-f", "-"])
        .env("PATH", search_path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A broken pipe only means that nft gave up early; its message says why.
        let _ = stdin.write_all(commands.as_bytes()).await;
    }
    let output = tokio::time::timeout(NFT_TIMEOUT, child.wait_with_output())
        .await
        .map_err(|_| NetworkError::Nft(format!("nft did not finish in {NFT_TIMEOUT:?}")))?
        .map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(NetworkError::Nft(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Administrative directories are missing from the PATH of many services.
fn search_path() -> String {
    format!("{}:/usr/sbin:/sbin:/usr/bin:/bin", std::env::var("PATH").unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{PortMapping, Protocol};

    fn record(ports: Vec<PortMapping>) -> Record {
        Record {
            sandbox_id: "s".into(),
            address: "10.1.0.5".parse().unwrap(),
            link: "v".into(),
            ports,
            routed: true,
        }
    }

    #[test]
    fn pods_without_host_ports_cost_no_rule() {
        assert_eq!(open_ports("c", &record(vec![])), "");
        assert_eq!(close_ports("c", &record(vec![])), "");
    }

    #[test]
    fn one_element_a_port_and_one_target() {
        let port = |host_port, host_ip: Option<&str>| PortMapping {
            protocol: Protocol::Udp,
            host_port,
            container_port: 53,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        };
        let text = each_element("c", "add", &record(vec![port(5353, None), port(53, Some("10.0.0.1"))]));
        expect_test::expect![[r#"
            add element inet c hostports { udp . 5353 : 10.1.0.5 . 53 }
            add element inet c hostip_ports { 10.0.0.1 . udp . 53 : 10.1.0.5 . 53 }
            add element inet c hostport_pods { 10.1.0.5 . udp . 53 }
            add element inet c hostport_selves { 10.1.0.5 . 10.1.0.5 }
            add element inet c hostport_links { "v" }
        "#]]
        .assert_eq(&text);
    }
}
