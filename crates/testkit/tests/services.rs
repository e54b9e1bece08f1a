//! Services, section by section of the user's document: pods come and go, a service stays.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use corten_testkit::{
    Cluster, NODE, Namespace, Options, cluster, eventually, free_port, http_get, is_ready, within,
};
use serde_json::{Value, json};

/// Answers that must all be right before something counts as working.
const SAMPLES: usize = 20;

/// What takes a second; on a busy machine it may take much more.
const LONG: Duration = Duration::from_secs(150);

fn service(name: &str, spec: Value) -> String {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}).to_string()
}

/// A deployment of test servers that listen at `port`, which they call `web`.
fn deployment(name: &str, app: &str, port: u16, replicas: u32) -> String {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": app, "of": name}},
            "template": {
                "metadata": {"labels": {"app": app, "of": name}},
                "spec": {
                    "terminationGracePeriodSeconds": 10,
                    "containers": [{
                        "name": "c", "image": "corten.local/testserver:1",
                        "args": ["serve", "--port", port.to_string(), "--term-delay", "2"],
                        "ports": [{"name": "web", "containerPort": port}],
                        "readinessProbe": {
                            "httpGet": {"path": "/readyz", "port": port}, "periodSeconds": 1, "timeoutSeconds": 20,
                        },
                    }],
                },
            },
        },
    })
    .to_string()
}

fn rolled_out(ns: &Namespace<'_>, name: &str) {
    let status = ns.kubectl(&["rollout", "status", name, "--timeout=180s"]);
    assert!(status.success(), "{status}\n{}", ns.describe(name));
}

fn field(ns: &Namespace<'_>, what: &str, path: &str) -> String {
    ns.kubectl(&["get", what, "-o", &format!("jsonpath={{{path}}}")]).ok().to_owned()
}

fn virtual_ip(ns: &Namespace<'_>, name: &str) -> String {
    field(ns, &format!("svc/{name}"), ".spec.clusterIP")
}

/// Who answers there, asked until each of `count` has.
fn answering(address: &str, count: usize) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    eventually(&format!("{count} pods answer at {address}"), || {
        names.extend(http_get(address, "/").map(|name| name.trim().to_owned()));
        (names.len() >= count).then_some(())
    });
    names
}

/// Addresses of a service's slices that are ready, with their ports.
fn ready_endpoints(ns: &Namespace<'_>, name: &str) -> BTreeSet<(String, u64)> {
    let slices = ns.kubectl(&[
        "get",
        "endpointslices",
        "-l",
        &format!("kubernetes.io/service-name={name}"),
        "-o",
        "json",
    ]);
    let slices = slices.json();
    let mut all = BTreeSet::new();
    for slice in slices["items"].as_array().into_iter().flatten() {
        let ports: Vec<u64> =
            slice["ports"].as_array().into_iter().flatten().filter_map(|p| p["port"].as_u64()).collect();
        let endpoints = slice["endpoints"].as_array().into_iter().flatten();
        for endpoint in endpoints.filter(|e| e["conditions"]["ready"] != json!(false)) {
            let ip = endpoint["addresses"][0].as_str().unwrap();
            all.extend(ports.iter().map(|port| (ip.to_owned(), *port)));
        }
    }
    all
}

#[test]
fn my_service_leads_from_port_80_to_9376() {
    let ns = cluster().namespace("my-service");
    ns.create_from(&service(
        "my-service",
        json!({"selector": {"app": "MyApp"}, "ports": [{"protocol": "TCP", "port": 80, "targetPort": 9376}]}),
    ));
    ns.create_from(&deployment("web", "MyApp", 9376, 2));
    rolled_out(&ns, "deployment/web");
    let names = answering(&format!("{}:80", virtual_ip(&ns, "my-service")), 2);
    assert!(names.iter().all(|name| name.starts_with("web-")), "{names:?}");
    eventually("both in the older form, which another controller writes", || {
        let path = "jsonpath={.subsets[0].addresses[*].ip}";
        let endpoints = ns.kubectl(&["get", "endpoints", "my-service", "-o", path]);
        (endpoints.stdout.split(' ').count() == 2).then_some(())
    });
    ns.kubectl(&["describe", "svc", "my-service"]).says(":9376").ok();
    ns.kubectl(&["scale", "deployment/web", "--replicas=0"]).ok();
    eventually("nobody stands behind the service", || {
        ready_endpoints(&ns, "my-service").is_empty().then_some(())
    });
    ns.kubectl(&["delete", "svc", "my-service"]).ok();
    eventually("a service takes its endpoints along", || {
        ns.kubectl(&["get", "endpoints,endpointslices", "-o", "name"]).ok().is_empty().then_some(())
    });
}

#[test]
fn a_name_of_a_port_is_another_number_in_each_pod() {
    let ns = cluster().namespace("named");
    ns.create_from(&service(
        "named",
        json!({"selector": {"app": "n"}, "ports": [{"port": 80, "targetPort": "web"}]}),
    ));
    ns.create_from(&deployment("old", "n", 8080, 1));
    ns.create_from(&deployment("new", "n", 9090, 1));
    rolled_out(&ns, "deployment/old");
    rolled_out(&ns, "deployment/new");
    let names = answering(&format!("{}:80", virtual_ip(&ns, "named")), 2);
    assert_eq!(names.len(), 2);
    let ports: BTreeSet<u64> = ready_endpoints(&ns, "named").into_iter().map(|(_, port)| port).collect();
    assert_eq!(ports, BTreeSet::from([8080, 9090]));
}

#[test]
fn services_without_selector_lead_where_people_say() {
    let ns = cluster().namespace("by-hand");
    ns.create_from(&deployment("web", "w", 8080, 1));
    rolled_out(&ns, "deployment/web");
    let pod = field(&ns, "pods", ".items[0].status.podIP");
    // In files Endpoints often stand before their service.
    ns.create_from(
        &json!({
            "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "old-way"},
            "subsets": [{"addresses": [{"ip": pod}], "ports": [{"port": 8080}]}],
        })
        .to_string(),
    );
    for name in ["old-way", "new-way"] {
        ns.create_from(&service(name, json!({"ports": [{"port": 80, "targetPort": 8080}]})));
    }
    ns.create_from(
        &json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "new-way-1", "labels": {"kubernetes.io/service-name": "new-way"}},
            "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [pod]}],
        })
        .to_string(),
    );
    for name in ["old-way", "new-way"] {
        answering(&format!("{}:80", virtual_ip(&ns, name)), 1);
    }
    let by = field(
        &ns,
        "endpointslices",
        r".items[?(@.metadata.labels.kubernetes\.io/service-name=='old-way')].metadata.labels.endpointslice\.kubernetes\.io/managed-by",
    );
    assert_eq!(by, "endpointslicemirroring-controller.k8s.io");
    ns.kubectl(&["delete", "endpoints", "old-way"]).ok();
    eventually("the mirror follows", || ready_endpoints(&ns, "old-way").is_empty().then_some(()));
}

#[test]
fn headless_services_name_their_pods_only() {
    let ns = cluster().namespace("headless");
    ns.create_from(&service(
        "db",
        json!({"clusterIP": "None", "selector": {"app": "db"}, "ports": [{"port": 8080}]}),
    ));
    let mut set: Value = serde_json::from_str(&deployment("db", "db", 8080, 2)).unwrap();
    set["kind"] = json!("StatefulSet");
    set["spec"]["serviceName"] = json!("db");
    ns.create_from(&set.to_string());
    rolled_out(&ns, "statefulset/db");
    let slice = eventually("both pods by name", || {
        let slices = ns.kubectl(&["get", "endpointslices", "-o", "json"]).json();
        let slice = slices["items"][0].clone();
        let named = slice["endpoints"].as_array().into_iter().flatten().filter(|e| e["hostname"].is_string());
        (named.count() == 2).then_some(slice)
    });
    assert_eq!(slice["metadata"]["labels"]["service.kubernetes.io/headless"], "");
    assert_eq!(slice["endpoints"][0]["nodeName"], NODE);
    ns.kubectl(&["get", "svc", "db"]).says("None").ok();
}

#[test]
fn node_ports_and_external_names() {
    let ns = cluster().namespace("types");
    ns.create_from(&deployment("web", "w", 8080, 1));
    ns.create_from(&service(
        "out",
        json!({"type": "NodePort", "selector": {"app": "w"}, "ports": [{"port": 80, "targetPort": 8080}]}),
    ));
    rolled_out(&ns, "deployment/web");
    let port = field(&ns, "svc/out", ".spec.ports[0].nodePort");
    let node = cluster().kubectl(&["get", "node", NODE, "-o", "jsonpath={.status.addresses[0].address}"]);
    answering(&format!("{}:{port}", node.ok()), 1);
    ns.create_from(&service(
        "far",
        json!({"type": "ExternalName", "externalName": "my.database.example.com"}),
    ));
    ns.kubectl(&["get", "svc", "far"]).says("my.database.example.com").ok();
    assert_eq!(virtual_ip(&ns, "far"), "");
    assert!(ready_endpoints(&ns, "far").is_empty());
}

#[test]
fn clients_with_affinity_stay_with_their_pod() {
    let ns = cluster().namespace("affinity");
    ns.create_from(&deployment("web", "w", 8080, 3));
    ns.create_from(&service("sticky", json!({"sessionAffinity": "ClientIP", "selector": {"app": "w"}, "ports": [{"port": 80, "targetPort": 8080}]})));
    ns.create_from(&service(
        "free",
        json!({"selector": {"app": "w"}, "ports": [{"port": 80, "targetPort": 8080}]}),
    ));
    rolled_out(&ns, "deployment/web");
    answering(&format!("{}:80", virtual_ip(&ns, "free")), 3);
    let address = format!("{}:80", virtual_ip(&ns, "sticky"));
    answering(&address, 1);
    let names: BTreeSet<_> = (0..SAMPLES).map(|_| http_get(&address, "/")).collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn containers_know_the_services_that_were_there_before_them() {
    let ns = cluster().namespace("discovery");
    ns.create_from(&service("redis-master", json!({"selector": {"app": "r"}, "ports": [{"port": 6379}]})));
    ns.create_from(&deployment("web", "w", 8080, 1));
    rolled_out(&ns, "deployment/web");
    let ip = virtual_ip(&ns, "redis-master");
    let pod = field(&ns, "pods", ".items[0].status.podIP");
    for (name, value) in [
        ("REDIS_MASTER_SERVICE_HOST", ip.clone()),
        ("REDIS_MASTER_SERVICE_PORT", "6379".to_owned()),
        ("REDIS_MASTER_PORT", format!("tcp://{ip}:6379")),
        ("REDIS_MASTER_PORT_6379_TCP_ADDR", ip.clone()),
    ] {
        let told = http_get(&format!("{pod}:8080"), &format!("/env?name={name}"));
        assert_eq!(told.as_deref().map(str::trim), Some(value.as_str()), "{name}");
    }
}

/// On a cluster of its own, whose load balancers have two addresses.
#[test]
fn load_balancers_get_addresses_of_the_pool() {
    let flags = vec!["--load-balancer-pool".to_owned(), "192.0.2.10-192.0.2.11".to_owned()];
    let own = Cluster::start(Options { beside_others: true, flags, ..Options::default() });
    let ns = own.namespace("balanced");
    ns.create_from(&deployment("web", "w", 8080, 1));
    rolled_out(&ns, "deployment/web");
    let balanced = |name: &str| {
        service(
            name,
            json!({"type": "LoadBalancer", "selector": {"app": "w"}, "ports": [{"port": 80, "targetPort": 8080}]}),
        )
    };
    let address = |name: &str| field(&ns, &format!("svc/{name}"), ".status.loadBalancer.ingress[0].ip");
    let gets = |name: &str, ip: &str| {
        eventually(&format!("{name} gets {ip}"), || (address(name) == ip).then_some(()));
    };
    ns.create_from(&balanced("one"));
    gets("one", "192.0.2.10");
    answering("192.0.2.10:80", 1);
    ns.create_from(&balanced("two"));
    gets("two", "192.0.2.11");
    ns.create_from(&balanced("three"));
    eventually("the third is told", || {
        ns.kubectl(&["describe", "svc", "three"])
            .stdout
            .contains("no address of the pool is free")
            .then_some(())
    });
    ns.kubectl(&["patch", "svc", "two", "-p", r#"{"spec":{"type":"ClusterIP"}}"#]).ok();
    gets("three", "192.0.2.11");
    eventually("nothing is left of the second's", || {
        (address("two").is_empty() && field(&ns, "svc/two", ".metadata.finalizers").is_empty()).then_some(())
    });
    ns.kubectl(&["delete", "svc", "three", "--timeout=180s"]).ok();
    let foreign =
        json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/other", "ports": [{"port": 81}]});
    ns.create_from(&service("foreign", foreign));
    ns.create_from(&balanced("four"));
    gets("four", "192.0.2.11");
    assert_eq!(address("foreign"), "", "somebody else's");
}

#[test]
fn a_rolling_update_under_load_loses_no_request() {
    let ns = cluster().namespace("load");
    // They serve on while they end, for as long as a busy machine may take to lead nobody there any more.
    let mut web: Value = serde_json::from_str(&deployment("web", "w", 8080, 3)).unwrap();
    let spec = &mut web["spec"]["template"]["spec"];
    spec["terminationGracePeriodSeconds"] = json!(60);
    spec["containers"][0]["args"] = json!(["serve", "--port", "8080", "--term-delay", "20"]);
    ns.create_from(&web.to_string());
    ns.create_from(&service(
        "web",
        json!({"selector": {"app": "w"}, "ports": [{"port": 80, "targetPort": 8080}]}),
    ));
    rolled_out(&ns, "deployment/web");
    let address = format!("{}:80", virtual_ip(&ns, "web"));
    let before = answering(&address, 3);
    let (over, asked, failed) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    asked.fetch_add(1, Ordering::Relaxed);
                    if http_get(&address, "/").is_none_or(|name| !name.starts_with("web-")) {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let image = ns.kubectl(&["set", "image", "deployment/web", "c=corten.local/testserver:2"]);
        let status = ns.kubectl(&["rollout", "status", "deployment/web", "--timeout=180s"]);
        over.store(true, Ordering::Relaxed);
        image.ok();
        status.ok();
    });
    // The last one of before ends when the rollout is done: it is led past a moment later.
    eventually("only new ones answer", || {
        let names: BTreeSet<_> = (0..SAMPLES).filter_map(|_| http_get(&address, "/")).collect();
        let mut names = names.iter().map(|name| name.trim());
        names.all(|name| !before.contains(name)).then_some(())
    });
    let after = answering(&address, 3);
    assert!(before.is_disjoint(&after), "{before:?} {after:?}");
    let (asked, failed) = (asked.into_inner(), failed.into_inner());
    assert!(asked > SAMPLES, "only {asked} requests");
    assert_eq!(failed, 0, "of {asked} requests");
}

/// The slice says that a pod is ready soon after the pod says it.
#[test]
fn a_ready_pod_answers_soon() {
    let ns = cluster().namespace("soon");
    ns.create_from(&service(
        "web",
        json!({"selector": {"app": "w"}, "ports": [{"port": 80, "targetPort": 8080}]}),
    ));
    let address = format!("{}:80", virtual_ip(&ns, "web"));
    ns.create_from(&deployment("web", "w", 8080, 1));
    ns.watch(&["pods"], "one ready pod", |pods| pods.values().any(is_ready));
    let start = Instant::now();
    eventually("the pod answers", || http_get(&address, "/"));
    println!("ready to first answer, kubectl's time included: {:?}", start.elapsed());
}

/// A port of the node has one holder: without a pool, load balancers share the node's addresses.
#[test]
fn without_a_pool_load_balancers_are_at_the_nodes() {
    let ns = cluster().namespace("at-nodes");
    let port = free_port();
    ns.create_from(&deployment("web", "w", 8080, 1));
    let balanced = |port: u16| json!({"type": "LoadBalancer", "selector": {"app": "w"}, "ports": [{"port": port, "targetPort": 8080}]});
    ns.create_from(&service("one", balanced(port)));
    rolled_out(&ns, "deployment/web");
    let node = cluster().kubectl(&["get", "node", NODE, "-o", "jsonpath={.status.addresses[0].address}"]);
    let path = ".status.loadBalancer.ingress[0].ip";
    eventually("the node's address", || (field(&ns, "svc/one", path) == node.ok()).then_some(()));
    answering(&format!("{}:{port}", node.ok()), 1);
    ns.create_from(&service("two", balanced(port)));
    eventually("the second is told", || {
        ns.kubectl(&["describe", "svc", "two"])
            .stdout
            .contains("of the nodes is held by service at-nodes/one")
            .then_some(())
    });
}

#[test]
fn addresses_are_objects_and_ranges_may_be_added() {
    let ns = cluster().namespace("addresses");
    let namespace = ns.name.clone();
    let ports = json!([{"port": 80, "targetPort": 9376}]);
    eventually("the cluster's own range is ready", || is_range_ready(&ns, "kubernetes"));
    let default = ns.kubectl(&["get", "servicecidr", "kubernetes", "-o", "json"]).json();
    ns.create_from(&service("one", json!({"ports": ports})));
    let ip = virtual_ip(&ns, "one");
    let own = default["spec"]["cidrs"][0].as_str().unwrap();
    assert_eq!(own.split('.').next(), ip.split('.').next(), "{own} {ip}");
    let parent = |ip: &str| {
        let object = ns.kubectl(&["get", "ipaddress", ip, "-o", "json"]);
        object.success().then(|| object.json()["spec"]["parentRef"].clone())
    };
    let of = |name: &str| json!({"resource": "services", "namespace": namespace, "name": name});
    within(LONG, "the address is an object", || parent(&ip).filter(|parent| *parent == of("one")));
    // Who takes it away by mistake gets another one.
    ns.kubectl(&["delete", "ipaddress", &ip]).ok();
    within(LONG, "the object is there again", || parent(&ip).filter(|parent| *parent == of("one")));
    ns.kubectl(&["delete", "svc", "one"]).ok();
    within(LONG, "it goes with its service", || parent(&ip).is_none().then_some(()));

    let more = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "more"}, "spec": {"cidrs": ["198.51.100.16/28"]}});
    let two =
        service("two", json!({"clusterIP": "198.51.100.21", "selector": {"app": "two"}, "ports": ports}));
    let refused = ns.kubectl_with(&["create", "-f", "-"], &two);
    assert!(refused.err().contains("the provided network does not match the current range"), "{refused}");
    ns.create_from(&more.to_string());
    within(LONG, "the range is ready", || is_range_ready(&ns, "more"));
    ns.create_from(&two);
    ns.create_from(&deployment("two", "two", 9376, 1));
    rolled_out(&ns, "deployment/two");
    answering("198.51.100.21:80", 1);
    within(LONG, "this address is an object, too", || parent("198.51.100.21").filter(|p| *p == of("two")));

    ns.kubectl(&["delete", "servicecidr", "more", "--wait=false"]).ok();
    within(LONG, "the range waits for its last address", || {
        let ready = field(&ns, "servicecidr/more", ".status.conditions[?(@.type=='Ready')].reason");
        (ready == "Terminating").then_some(())
    });
    ns.kubectl(&["delete", "svc", "two"]).ok();
    within(LONG, "the range goes", || (!ns.kubectl(&["get", "servicecidr", "more"]).success()).then_some(()));
}

fn is_range_ready(ns: &Namespace<'_>, name: &str) -> Option<()> {
    let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
    (ns.kubectl(&["get", "servicecidr", name, "-o", path]).stdout == "True").then_some(())
}
