//! What an update of a Service means for the values that the server allocated: a client that leaves them out keeps them, a
//! change of type gives up what only the old type had.

use crate::Value;
use crate::kinds::look::{int_or_zero, is_true, items, items_mut, same, text};

use super::{families, is_external, needs_cluster_ip, needs_health_port, same_list};

pub(super) fn update(service: &mut Value, old: &Value) {
    let empty = Value::Null;
    let old = old.get("spec").unwrap_or(&empty);
    service.object_at_mut(&["spec"]);
    let Some(spec) = service.get_mut("spec") else { return };
    keep_allocated(spec, old);
    families::follow(spec.object_at_mut(&[]), Some(old));
    drop_what_the_type_lost(spec, old);
}

fn needs_node_ports(spec: &Value) -> bool {
    let declined = spec.get("allocateLoadBalancerNodePorts").is_some_and(|v| !v.is_null())
        && !is_true(spec, "allocateLoadBalancerNodePorts");
    text(spec, "type") == "NodePort" || (text(spec, "type") == "LoadBalancer" && !declined)
}

fn keep_allocated(spec: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && needs_cluster_ip(spec) && text(spec, "clusterIP").is_empty() {
        let address = text(old, "clusterIP");
        if !address.is_empty() {
            spec.object_at_mut(&[]).set("clusterIP", address);
        }
    }
    if needs_node_ports(old) && needs_node_ports(spec) {
        keep_node_ports(spec, old);
    }
    if needs_health_port(old) && needs_health_port(spec) && int_or_zero(spec, "healthCheckNodePort") == 0 {
        let port = int_or_zero(old, "healthCheckNodePort");
        if port != 0 {
            spec.object_at_mut(&[]).set("healthCheckNodePort", port);
        }
    }
}

/// Ports are recognised by their names; a number that another port claims now is not given twice.
fn keep_node_ports(spec: &mut Value, old: &Value) {
    let claimed: Vec<i64> = items(spec, "ports").iter().map(|port| int_or_zero(port, "nodePort")).collect();
    let before: Vec<(String, i64)> = items(old, "ports")
        .iter()
        .map(|port| (text(port, "name").to_owned(), int_or_zero(port, "nodePort")))
        .collect();
    for port in items_mut(spec, "ports").filter(|port| int_or_zero(port, "nodePort") == 0) {
        // Of ports with one name the last counts, as in a map.
        let number =
            before.iter().rev().find(|(name, _)| name == text(port, "name")).map(|(_, number)| *number);
        if let Some(number) = number.filter(|n| *n != 0 && !claimed.contains(n)) {
            port.object_at_mut(&[]).set("nodePort", number);
        }
    }
}

/// Only what the client did not change goes silently; what it changed is for validation to refuse.
fn drop_what_the_type_lost(spec: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && !needs_cluster_ip(spec) {
        if same_list(spec, old, "clusterIPs") {
            remove(spec, "clusterIP");
            remove(spec, "clusterIPs");
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            drop_if_same(spec, old, field);
        }
    }
    let numbers = |spec: &Value| -> Vec<i64> {
        let mut numbers: Vec<i64> = items(spec, "ports").iter().map(|p| int_or_zero(p, "nodePort")).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    };
    if needs_node_ports(old) && !needs_node_ports(spec) && numbers(spec) == numbers(old) {
        items_mut(spec, "ports").for_each(|port| remove(port, "nodePort"));
    }
    if needs_health_port(old) && !needs_health_port(spec) {
        drop_if_same(spec, old, "healthCheckNodePort");
    }
    if text(old, "type") == "LoadBalancer" && text(spec, "type") != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            drop_if_same(spec, old, field);
        }
    }
    if is_external(old) && !is_external(spec) {
        drop_if_same(spec, old, "externalTrafficPolicy");
    }
}

fn remove(value: &mut Value, field: &str) {
    if let Some(fields) = value.as_object_mut() {
        fields.remove(field);
    }
}

fn drop_if_same(spec: &mut Value, old: &Value, field: &str) {
    if same(spec.get(field), old.get(field)) {
        remove(spec, field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::tree;

    #[test]
    fn changes_of_type() {
        let cases = [
            (
                "{type: NodePort, externalTrafficPolicy: Cluster, ports: [{port: 80, nodePort: 30000}]}",
                "{type: ClusterIP, externalTrafficPolicy: Cluster, ports: [{port: 80, nodePort: 30000}]}",
                "{type: ClusterIP, ports: [{port: 80}]}",
            ),
            (
                "{type: NodePort, ports: [{port: 80, nodePort: 30000}]}",
                "{type: ClusterIP, ports: [{port: 80, nodePort: 30001}]}",
                "{type: ClusterIP, ports: [{port: 80, nodePort: 30001}]}",
            ),
            (
                "{type: ClusterIP, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack}",
                "{type: ExternalName, externalName: a.b, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ipFamilies: [IPv4], \
                 ipFamilyPolicy: SingleStack}",
                "{type: ExternalName, externalName: a.b}",
            ),
            (
                "{type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 31000, allocateLoadBalancerNodePorts: true, \
                 loadBalancerClass: a/b, ports: [{port: 1, nodePort: 30000}]}",
                "{type: NodePort, externalTrafficPolicy: Local, healthCheckNodePort: 31000, allocateLoadBalancerNodePorts: true, \
                 loadBalancerClass: a/b, ports: [{port: 1}]}",
                "{type: NodePort, externalTrafficPolicy: Local, ports: [{port: 1, nodePort: 30000}]}",
            ),
            (
                "{type: LoadBalancer, allocateLoadBalancerNodePorts: true, ports: [{port: 1, nodePort: 30000}]}",
                "{type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 1, nodePort: 30000}]}",
                "{type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 1}]}",
            ),
        ];
        for (old, new, wanted) in cases {
            let (old, mut service) = (tree(&format!("{{spec: {old}}}")), tree(&format!("{{spec: {new}}}")));
            update(&mut service, &old);
            assert_eq!(service.get("spec"), Some(&tree(wanted)), "{new}");
        }
    }

    #[test]
    fn what_clients_leave_out_stays() {
        let old = tree(
            "{spec: {type: NodePort, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ports: [{name: a, port: 1, nodePort: 30001}, \
             {name: b, port: 2, nodePort: 30002}]}}",
        );
        let mut service = tree(
            "{spec: {type: NodePort, ports: [{name: b, port: 3}, {name: a, port: 1, nodePort: 30002}]}}",
        );
        update(&mut service, &old);
        let wanted = "{type: NodePort, ports: [{name: b, port: 3}, {name: a, port: 1, nodePort: 30002}], clusterIP: 10.0.0.1, \
                      clusterIPs: [10.0.0.1]}";
        assert_eq!(service.get("spec"), Some(&tree(wanted)), "30002 went to another port");
    }
}
