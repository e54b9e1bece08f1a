use serde_json::{Value, json};

use super::*;

const NODE: &str = "n1";

/// `ns/name` with an address that ends in `last`; port `http` is 8000 + last.
fn pod(path: &str, last: u8, labels: Value) -> Arc<Pod> {
    let (namespace, name) = path.split_once('/').unwrap();
    let pod = json!({
        "metadata": { "namespace": namespace, "name": name, "labels": labels },
        "spec": { "nodeName": NODE, "containers": [{
            "name": "c", "ports": [{ "name": "http", "containerPort": 8000 + u16::from(last) }]
        }] },
        "status": { "phase": "Running", "podIP": format!("10.1.0.{last}") },
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn changed(pod: &Pod, change: impl FnOnce(&mut Pod)) -> Arc<Pod> {
    let mut pod = pod.clone();
    change(&mut pod);
    Arc::new(pod)
}

fn policy(path: &str, spec: Value) -> Arc<NetworkPolicy> {
    let (namespace, name) = path.split_once('/').unwrap();
    let policy = json!({ "metadata": { "namespace": namespace, "name": name }, "spec": spec });
    Arc::new(serde_json::from_value(policy).unwrap())
}

/// web, db and other of namespace x; web of namespace y.
fn pods() -> Vec<Arc<Pod>> {
    vec![
        pod("x/web", 1, json!({ "app": "web" })),
        pod("x/db", 2, json!({ "app": "db" })),
        pod("x/other", 3, json!({})),
        pod("y/web", 4, json!({ "app": "web" })),
    ]
}

fn firewall(policies: &[Arc<NetworkPolicy>], pods: &[Arc<Pod>]) -> Firewall {
    let namespaces: Vec<Arc<Namespace>> = ["x", "y", "kube-system"]
        .iter()
        .map(
            |name| json!({ "metadata": { "name": name, "labels": { "kubernetes.io/metadata.name": name } } }),
        )
        .map(|namespace| Arc::new(serde_json::from_value(namespace).unwrap()))
        .collect();
    let dns = [IpAddr::from([10, 96, 0, 10])];
    plan(&View { policies, pods, namespaces: &namespaces, node: NODE, dns: &dns, given: None })
}

/// Does the first packet of a connection pass? What the kernel does with the rules, in short.
fn passes(firewall: &Firewall, from: IpAddr, to: IpAddr, protocol: Protocol, port: u16) -> bool {
    [(Direction::Egress, from, to), (Direction::Ingress, to, from)].into_iter().all(
        |(direction, pod, remote)| {
            let Some(policies) = firewall.pods.get(&(direction, pod)) else { return true };
            let allowed = policies.iter().flat_map(|name| &firewall.policies[&(direction, name.clone())]);
            allowed.into_iter().any(|allow| {
                let remote = match &allow.remote {
                    Remote::Any => true,
                    Remote::Set(name) => firewall.addresses[name].contains(&remote),
                    Remote::Block { cidr, except } => {
                        cidr.contains(&remote) && !except.iter().any(|net| net.contains(&remote))
                    }
                };
                remote
                    && match &allow.ports {
                        Ports::Any => true,
                        Ports::Protocol(wanted) => *wanted == protocol,
                        Ports::Range(wanted, first, last) => {
                            *wanted == protocol && (*first..=*last).contains(&port)
                        }
                        Ports::Set(name) => firewall.endpoints[name].contains(&(to, protocol, port)),
                    }
            })
        },
    )
}

/// Pods that reach `10.1.0.{to}` on TCP `port`, by the ends of their addresses; 9 is somebody outside.
fn reach(firewall: &Firewall, to: u8, port: u16) -> Vec<u8> {
    let address = |last| IpAddr::from([10, 1, 0, last]);
    let others = [1, 2, 3, 4, 9].into_iter().filter(|from| *from != to);
    others.filter(|from| passes(firewall, address(*from), address(to), Protocol::Tcp, port)).collect()
}

#[test]
fn who_reaches_the_database() {
    let to_db =
        |ingress: Value| json!({ "podSelector": { "matchLabels": { "app": "db" } }, "ingress": ingress });
    let web = json!({ "matchLabels": { "app": "web" } });
    let namespace_y = json!({ "matchLabels": { "kubernetes.io/metadata.name": "y" } });
    let table: Vec<(&str, Vec<Value>, Vec<u8>)> = vec![
        ("no policy", vec![], vec![1, 3, 4, 9]),
        ("default deny", vec![json!({ "podSelector": {} })], vec![]),
        ("an empty list of rules", vec![to_db(json!([]))], vec![]),
        ("one empty rule allows all", vec![to_db(json!([{}]))], vec![1, 3, 4, 9]),
        ("pods of the same namespace", vec![to_db(json!([{ "from": [{ "podSelector": web }] }]))], vec![1]),
        ("all of the same namespace", vec![to_db(json!([{ "from": [{ "podSelector": {} }] }]))], vec![1, 3]),
        ("a namespace", vec![to_db(json!([{ "from": [{ "namespaceSelector": namespace_y }] }]))], vec![4]),
        ("all namespaces", vec![to_db(json!([{ "from": [{ "namespaceSelector": {} }] }]))], vec![1, 3, 4]),
        (
            "pods of namespaces",
            vec![to_db(json!([{ "from": [{ "namespaceSelector": {}, "podSelector": web }] }]))],
            vec![1, 4],
        ),
        (
            "a block with an exception",
            vec![to_db(
                json!([{ "from": [{ "ipBlock": { "cidr": "10.1.0.0/24", "except": ["10.1.0.4/32"] } }] }]),
            )],
            vec![1, 3, 9],
        ),
        (
            "an expression",
            vec![to_db(json!([{ "from": [{ "podSelector": { "matchExpressions": [
            { "key": "app", "operator": "DoesNotExist" }] } }] }]))],
            vec![3],
        ),
        ("the right port", vec![to_db(json!([{ "ports": [{ "port": 5432 }] }]))], vec![1, 3, 4, 9]),
        ("a wrong port", vec![to_db(json!([{ "ports": [{ "port": 80 }] }]))], vec![]),
        (
            "a wrong protocol",
            vec![to_db(json!([{ "ports": [{ "port": 5432, "protocol": "UDP" }] }]))],
            vec![],
        ),
        ("a range", vec![to_db(json!([{ "ports": [{ "port": 5000, "endPort": 6000 }] }]))], vec![1, 3, 4, 9]),
        ("a protocol", vec![to_db(json!([{ "ports": [{ "protocol": "TCP" }] }]))], vec![1, 3, 4, 9]),
        (
            "two policies add up",
            vec![
                json!({ "podSelector": {} }),
                to_db(json!([{ "from": [{ "podSelector": web }] }])),
                to_db(json!([{ "from": [{ "namespaceSelector": namespace_y }] }])),
            ],
            vec![1, 4],
        ),
        (
            "egress of the others counts, too",
            vec![json!({ "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Egress"],
                "egress": [{ "to": [{ "podSelector": { "matchLabels": { "app": "x" } } }] }] })],
            vec![3, 4, 9],
        ),
        (
            "only egress isolates no ingress",
            vec![json!({ "podSelector": { "matchLabels": { "app": "db" } }, "policyTypes": ["Egress"] })],
            vec![1, 3, 4, 9],
        ),
    ];
    for (case, specs, expected) in table {
        let policies: Vec<_> =
            specs.into_iter().enumerate().map(|(i, spec)| policy(&format!("x/p{i}"), spec)).collect();
        assert_eq!(reach(&firewall(&policies, &pods()), 2, 5432), expected, "{case}");
    }
}

#[test]
fn ports_by_name_are_those_of_the_destination() {
    let named = json!([{ "ports": [{ "port": "http" }] }]);
    let ingress = firewall(&[policy("x/p", json!({ "podSelector": {}, "ingress": named }))], &pods());
    assert_eq!((reach(&ingress, 2, 8002), reach(&ingress, 2, 8001)), (vec![1, 3, 4, 9], vec![]));
    let egress = json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": [
        { "to": [{ "namespaceSelector": {} }], "ports": [{ "port": "http" }] }] });
    let egress = firewall(&[policy("x/p", egress)], &pods());
    assert_eq!((reach(&egress, 2, 8002), reach(&egress, 2, 8001)), (vec![1, 3, 4, 9], vec![4, 9]));
    assert_eq!(reach(&egress, 4, 8004), [1, 2, 3, 9]);
}

#[test]
fn only_living_pods_of_this_node_on_their_own_network_are_chosen() {
    let deny = [policy("x/deny", json!({ "podSelector": {} }))];
    let web = &pods()[0];
    let table: [(&str, fn(&mut Pod)); 4] = [
        ("elsewhere", |pod| pod.spec.as_mut().unwrap().node_name = Some("n2".into())),
        ("host network", |pod| pod.spec.as_mut().unwrap().host_network = Some(true)),
        ("over", |pod| pod.status.as_mut().unwrap().phase = Some("Succeeded".into())),
        ("no address", |pod| pod.status.as_mut().unwrap().pod_ip = None),
    ];
    assert!(!firewall(&deny, std::slice::from_ref(web)).is_empty());
    for (case, change) in table {
        let firewall = firewall(&deny, &[changed(web, change)]);
        assert!(firewall.is_empty() && firewall.policies.is_empty(), "{case}");
    }
}

#[test]
fn the_nodes_dns_counts_as_the_pods_that_people_name() {
    let spec = json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": [{
        "to": [{
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "kube-system" } },
            "podSelector": { "matchLabels": { "k8s-app": "kube-dns" } },
        }],
        "ports": [{ "port": 53, "protocol": "UDP" }],
    }] });
    let firewall = firewall(&[policy("x/dns", spec)], &pods());
    let (web, dns) = (IpAddr::from([10, 1, 0, 1]), IpAddr::from([10, 96, 0, 10]));
    assert!(passes(&firewall, web, dns, Protocol::Udp, 53));
    assert!(!passes(&firewall, web, dns, Protocol::Tcp, 53));
    assert!(!passes(&firewall, web, IpAddr::from([10, 1, 0, 2]), Protocol::Udp, 53));
}

#[test]
fn a_pod_that_comes_changes_sets_only() {
    let spec = json!({ "podSelector": { "matchLabels": { "app": "db" } }, "ingress": [
        { "from": [{ "podSelector": { "matchLabels": { "app": "web" } } }] }] });
    let policies = [policy("x/p", spec)];
    let (before, mut more) = (firewall(&policies, &pods()), pods());
    more.push(pod("x/web-2", 7, json!({ "app": "web" })));
    let after = firewall(&policies, &more);
    assert_eq!((&before.policies, &before.pods), (&after.policies, &after.pods));
    assert_eq!(after.addresses.values().next().unwrap().len(), 2);
}

#[test]
fn what_cannot_be_read_allows_nothing() {
    for block in [json!({ "cidr": "x" }), json!({ "cidr": "0.0.0.0/0", "except": ["y"] })] {
        let spec = json!({ "podSelector": {}, "ingress": [{ "from": [{ "ipBlock": block }] }] });
        assert_eq!(reach(&firewall(&[policy("x/p", spec)], &pods()), 2, 80), Vec::<u8>::new());
    }
}

#[test]
fn a_pod_that_was_just_given_its_address_is_guarded() {
    let fresh = changed(&pod("x/new", 9, json!({})), |pod| {
        pod.metadata.uid = Some("u".into());
        pod.status = Some(Default::default());
    });
    let deny = policy("x/deny", json!({ "podSelector": {} }));
    let given = BTreeMap::from([("u".to_owned(), vec![IpAddr::from([10, 1, 0, 9])])]);
    for (given, count) in [(None, 0), (Some(&given), 1)] {
        let view = View {
            policies: std::slice::from_ref(&deny),
            pods: std::slice::from_ref(&fresh),
            namespaces: &[],
            node: NODE,
            dns: &[],
            given,
        };
        assert_eq!(plan(&view).pods.len(), count);
    }
}
