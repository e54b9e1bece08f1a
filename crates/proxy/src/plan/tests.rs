//! What upstream's rules make of services and slices: one row a rule.

use serde_json::{Value, json};

use super::*;
use crate::ruleset::{At, Family, Frontend, FrontendKind, Protocol, Route, ServicePort};
use crate::testing::{here, planned, service, slice};
use corten_client::k8s_openapi::api::discovery::v1::EndpointSlice;

fn http() -> Value {
    json!({"name": "", "port": 8080, "protocol": "TCP"})
}

/// A spec of type ClusterIP with one port, and `more` over it.
fn spec(more: Value) -> Value {
    let mut spec = json!({
        "type": "ClusterIP", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": [{"port": 80}],
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

/// An endpoint from `10.9.0.N WORD…`: `@node`, `!` not ready, `~` terminating and serving, `x` terminating and not serving,
/// `zone=…`, `node=…` hints.
fn endpoint(text: &str) -> Value {
    let mut words = text.split_whitespace();
    let mut object = json!({"addresses": [words.next().unwrap_or_default()]});
    let conditions =
        |ready, serving, terminating| json!({"ready": ready, "serving": serving, "terminating": terminating});
    for word in words {
        match word {
            "!" => object["conditions"] = conditions(false, false, false),
            "~" => object["conditions"] = conditions(false, true, true),
            "x" => object["conditions"] = conditions(false, false, true),
            _ => match word.split_once('=') {
                Some(("zone", zone)) => object["hints"]["forZones"] = json!([{"name": zone}]),
                Some((_, node)) => object["hints"]["forNodes"] = json!([{"name": node}]),
                None => object["nodeName"] = json!(word.trim_start_matches('@')),
            },
        }
    }
    object
}

fn endpoints(of: &[&str]) -> Value {
    of.iter().map(|text| endpoint(text)).collect()
}

fn web(endpoints_: &[&str]) -> EndpointSlice {
    slice("web", "web-1", http(), endpoints(endpoints_))
}

/// The only port of the plan.
fn one(more: Value, endpoints: &[&str]) -> ServicePort {
    let rules = planned(&[service("web", spec(more))], &[web(endpoints)]);
    assert_eq!(rules.ports.len(), 1, "{rules:?}");
    (**rules.ports.values().next().unwrap()).clone()
}

fn last(endpoints: &[crate::Endpoint]) -> Vec<String> {
    endpoints.iter().map(|e| e.address.to_string().rsplit('.').next().unwrap().to_owned()).collect()
}

#[test]
fn readiness_termination_and_hints_choose_the_endpoints() {
    let local = json!({"type": "NodePort", "externalTrafficPolicy": "Local", "ports": [{"port": 80, "nodePort": 30080}]});
    for (name, endpoints, cluster, locals) in [
        (
            "ready ones",
            &["10.9.0.1 @here", "10.9.0.2 @there", "10.9.0.3 @here !"][..],
            &["1", "2"][..],
            &["1"][..],
        ),
        (
            "none ready: those that leave and serve",
            &["10.9.0.1 @here ~", "10.9.0.2 @there ~", "10.9.0.3 x"],
            &["1", "2"],
            &["1"],
        ),
        (
            "one ready elsewhere: locally those that leave",
            &["10.9.0.1 @here ~", "10.9.0.2 @there"],
            &["2"],
            &["1"],
        ),
        (
            "a leaving one is not used beside a ready one",
            &["10.9.0.1 @here", "10.9.0.2 @here ~"],
            &["1"],
            &["1"],
        ),
        ("not ready and not leaving: nobody", &["10.9.0.1 @here !"], &[], &[]),
        ("zone hints", &["10.9.0.1 zone=z1", "10.9.0.2 zone=z2"], &["1"], &[]),
        ("a hint is missing: all", &["10.9.0.1 zone=z1", "10.9.0.2"], &["1", "2"], &[]),
        (
            "a hint is missing where it does not count",
            &["10.9.0.1 zone=z1", "10.9.0.2 zone=z2", "10.9.0.3 !"],
            &["1"],
            &[],
        ),
        ("no hint for our zone: all", &["10.9.0.1 zone=z2", "10.9.0.2 zone=z3"], &["1", "2"], &[]),
        (
            "node hints before zone hints",
            &["10.9.0.1 zone=z1 node=here", "10.9.0.2 zone=z1 node=there"],
            &["1"],
            &[],
        ),
        (
            "no node hint for us: zone hints",
            &["10.9.0.1 zone=z1 node=a", "10.9.0.2 zone=z2 node=b"],
            &["1"],
            &[],
        ),
        ("hints do not bind policy Local", &["10.9.0.1 @here zone=z2", "10.9.0.2 zone=z1"], &["2"], &["1"]),
    ] {
        let port = one(local.clone(), endpoints);
        assert_eq!((last(&port.cluster), last(&port.local)), (owned(cluster), owned(locals)), "{name}");
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

#[test]
fn policies_and_endpoints_decide_the_routes() {
    use Route::{Cluster, Drop, Local, Reject, Split};
    let node_port = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    for (name, internal, external, endpoints, routes) in [
        ("cluster", "Cluster", "Cluster", &["10.9.0.1 @there"][..], [Cluster, Cluster]),
        ("internal local", "Local", "Cluster", &["10.9.0.1 @here"], [Local, Cluster]),
        ("internal local, none here", "Local", "Cluster", &["10.9.0.1 @there"], [Drop, Cluster]),
        ("external local", "Cluster", "Local", &["10.9.0.1 @here"], [Cluster, Split]),
        ("external local, none here", "Cluster", "Local", &["10.9.0.1 @there"], [Cluster, Split]),
        ("both local", "Local", "Local", &["10.9.0.1 @there"], [Drop, Split]),
        ("none anywhere", "Cluster", "Cluster", &[], [Reject, Reject]),
        ("none anywhere, local", "Local", "Local", &["10.9.0.1 @here !"], [Reject, Reject]),
        ("leaving ones elsewhere", "Local", "Cluster", &["10.9.0.1 @there ~"], [Drop, Cluster]),
    ] {
        let mut more = node_port.clone();
        more["internalTrafficPolicy"] = json!(internal);
        more["externalTrafficPolicy"] = json!(external);
        let port = one(more, endpoints);
        let got: Vec<_> = port.frontends.iter().map(|f| f.route).collect();
        assert_eq!(got, routes, "{name}");
    }
}

#[test]
fn unused_lists_of_endpoints_are_empty() {
    let port = one(json!({"internalTrafficPolicy": "Local"}), &["10.9.0.1 @here", "10.9.0.2 @there"]);
    assert_eq!((last(&port.cluster), last(&port.local)), (vec![], owned(&["1"])));
    let port = one(json!({"externalTrafficPolicy": "Local"}), &["10.9.0.1 @here"]);
    assert!(port.local.is_empty(), "a cluster IP alone has no external policy");
}

#[test]
fn what_is_not_ours_is_left_out() {
    let with_label = |label: &str| {
        let mut service = service("web", spec(json!({})));
        service.metadata.labels = Some([(label.to_owned(), "x".to_owned())].into());
        service
    };
    for (name, service) in [
        ("headless", service("web", spec(json!({"clusterIP": "None", "clusterIPs": ["None"]})))),
        ("without address", service("web", spec(json!({"clusterIP": "", "clusterIPs": []})))),
        ("external name", service("web", spec(json!({"type": "ExternalName"})))),
        ("another proxy's", with_label("service.kubernetes.io/service-proxy-name")),
        ("labelled headless", with_label("service.kubernetes.io/headless")),
    ] {
        assert!(planned(&[service], &[web(&["10.9.0.1"])]).ports.is_empty(), "{name}");
    }
}

#[test]
fn every_kind_of_frontend() {
    let mut service = service(
        "web",
        spec(json!({
            "type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 30080}], "externalIPs": ["192.0.2.1", "2001:db8::1"],
            "loadBalancerSourceRanges": [" 10.0.0.0/8 ", "2001:db8::/32", "192.0.2.9/24"],
        })),
    );
    service.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [
        {"ip": "192.0.2.2"}, {"ip": "192.0.2.3", "ipMode": "Proxy"}, {"ip": "192.0.2.4", "ipMode": "VIP"},
        {"ip": "2001:db8::2"}, {"hostname": "example.org"}, {"ip": "192.0.2.2"},
    ]}}))
    .unwrap();
    let rules = planned(&[service], &[web(&["10.9.0.1"])]);
    let port = rules.ports.values().next().unwrap();
    let got: Vec<_> =
        port.frontends.iter().map(|f| (f.kind, f.at.address.map(|a| a.to_string()), f.at.port)).collect();
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        got,
        [
            (FrontendKind::ClusterIp, some("10.96.0.7"), 80),
            (FrontendKind::LoadBalancerIp, some("192.0.2.2"), 80),
            (FrontendKind::LoadBalancerIp, some("192.0.2.4"), 80),
            (FrontendKind::ExternalIp, some("192.0.2.1"), 80),
            (FrontendKind::NodePort, None, 30080),
        ]
    );
    let ranges: Vec<_> = port.source_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["10.0.0.0/8", "192.0.2.0/24"]);
}

#[test]
fn an_external_ip_does_not_slip_past_source_ranges() {
    let more = json!({"type": "LoadBalancer", "externalIPs": ["192.0.2.2"], "loadBalancerSourceRanges": ["10.0.0.0/8"]});
    let mut service = service("web", spec(more));
    service.status =
        serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}]}})).unwrap();
    let rules = planned(&[service], &[]);
    let kinds: Vec<_> = rules.ports.values().flat_map(|p| p.frontends.iter().map(|f| f.kind)).collect();
    assert_eq!(kinds, [FrontendKind::ClusterIp, FrontendKind::LoadBalancerIp]);
}

#[test]
fn affinity_has_its_time() {
    let timeout = |seconds: i32| json!({"clientIP": {"timeoutSeconds": seconds}});
    for (affinity, config, want) in [
        ("None", timeout(60), None),
        ("ClientIP", timeout(60), Some(60)),
        ("ClientIP", json!({}), Some(10_800)),
        ("ClientIP", timeout(-1), Some(10_800)),
    ] {
        let port = one(json!({"sessionAffinity": affinity, "sessionAffinityConfig": config}), &["10.9.0.1"]);
        assert_eq!(port.affinity_s, want, "{affinity} {config}");
    }
}

#[test]
fn ports_are_matched_by_name_and_protocol() {
    let ports = json!([
        {"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53},
        {"name": "odd", "port": 1, "protocol": "DCCP"}, {"name": "sctp", "port": 5, "protocol": "SCTP"},
    ]);
    let service = service("web", spec(json!({"ports": ports})));
    // Pods name the port "http" differently: two slices, two numbers.
    let slices = [
        slice("web", "a", json!({"name": "http", "port": 8080}), endpoints(&["10.9.0.1"])),
        slice("web", "b", json!({"name": "http", "port": 9090}), endpoints(&["10.9.0.2"])),
        slice("web", "c", json!({"name": "dns", "port": 53, "protocol": "UDP"}), endpoints(&["10.9.0.3"])),
        slice("web", "d", json!({"name": "dns", "port": 53, "protocol": "TCP"}), endpoints(&["10.9.0.4"])),
        slice("web", "e", json!({"name": "http"}), endpoints(&["10.9.0.5"])),
        slice("other", "f", json!({"name": "http", "port": 1}), endpoints(&["10.9.0.6"])),
    ];
    let rules = planned(&[service], &slices);
    let got: Vec<_> = rules
        .ports
        .iter()
        .map(|(name, port)| {
            let to: Vec<_> = port.cluster.iter().map(|e| format!("{}:{}", e.address, e.port)).collect();
            format!("{name} → {}", to.join(" "))
        })
        .collect();
    expect_test::expect![[r#"
        [
            "ns/web/udp/dns → 10.9.0.3:53",
            "ns/web/tcp/dns-tcp → ",
            "ns/web/tcp/http → 10.9.0.1:8080 10.9.0.2:9090",
            "ns/web/sctp/sctp → ",
        ]
    "#]]
    .assert_debug_eq(&got);
}

#[test]
fn an_endpoint_in_two_slices_counts_once_and_at_its_best() {
    for (name, first, second, want) in [
        ("twice the same", "10.9.0.1 @there", "10.9.0.1 @there", (1, false)),
        ("local wins", "10.9.0.1 @there", "10.9.0.1 @here", (1, true)),
        ("local stays", "10.9.0.1 @here", "10.9.0.1 @there", (1, true)),
        ("ready wins", "10.9.0.1 @there !", "10.9.0.1 @there", (1, false)),
    ] {
        let slices =
            [slice("web", "a", http(), endpoints(&[first])), slice("web", "b", http(), endpoints(&[second]))];
        let rules = planned(&[service("web", spec(json!({})))], &slices);
        let port = rules.ports.values().next().unwrap();
        assert_eq!((port.cluster.len(), port.cluster[0].is_local), want, "{name}");
    }
}

#[test]
fn only_the_first_address_of_an_endpoint_and_only_slices_of_addresses_count() {
    let mut slices = [web(&["10.9.0.1"]), web(&["10.9.0.2"]), web(&["10.9.0.3"])];
    slices[0].endpoints.as_mut().unwrap()[0].addresses.push("10.9.0.9".into());
    slices[1].address_type = "FQDN".into();
    slices[2].endpoints.as_mut().unwrap()[0].addresses.clear();
    let rules = planned(&[service("web", spec(json!({})))], &slices);
    assert_eq!(last(&rules.ports.values().next().unwrap().cluster), ["1"]);
}

#[test]
fn two_families_are_two_ports() {
    let service = service("web", spec(json!({"clusterIPs": ["10.96.0.7", "fd00::7"]})));
    let mut six = slice("web", "six", http(), json!([{"addresses": ["fd00:9::1"]}]));
    six.address_type = "IPv6".into();
    let rules = planned(&[service], &[web(&["10.9.0.1"]), six]);
    let got: Vec<_> = rules
        .ports
        .iter()
        .map(|(name, port)| {
            (name.family, port.frontends[0].at.address.unwrap().to_string(), port.cluster.len())
        })
        .collect();
    assert_eq!(got, [(Family::V4, "10.96.0.7".into(), 1), (Family::V6, "fd00::7".into(), 1)]);
}

#[test]
fn flows_live_on_at_all_that_serve() {
    let port =
        one(json!({}), &["10.9.0.1 zone=z1", "10.9.0.2 zone=z2", "10.9.0.3 ~", "10.9.0.4 x", "10.9.0.5 !"]);
    let serving: Vec<_> = port.serving.iter().map(ToString::to_string).collect();
    assert_eq!(serving, ["10.9.0.1", "10.9.0.2", "10.9.0.3"]);
}

#[test]
fn load_balancers_with_policy_local_have_a_health_check() {
    let full =
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000});
    for (name, change, endpoints, want) in [
        ("two local ones", json!({}), &["10.9.0.1 @here", "10.9.0.2 @here", "10.9.0.3 @there"][..], Some(2)),
        ("not ready", json!({}), &["10.9.0.1 @here !"], Some(0)),
        ("leaving", json!({}), &["10.9.0.1 @here ~"], Some(0)),
        ("policy Cluster", json!({"externalTrafficPolicy": "Cluster"}), &["10.9.0.1 @here"], None),
        ("node port", json!({"type": "NodePort"}), &["10.9.0.1 @here"], None),
        ("no port", json!({"healthCheckNodePort": 0}), &["10.9.0.1 @here"], None),
    ] {
        let mut more = full.clone();
        more.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let rules = planned(&[service("web", spec(more))], &[web(endpoints)]);
        assert_eq!(rules.health_checks.get(&32000).map(|c| c.local_endpoints), want, "{name}");
    }
}

#[test]
fn a_health_check_counts_a_pod_of_two_families_once() {
    let more = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000,
        "clusterIPs": ["10.96.0.7", "fd00::7"]});
    let mut six = slice("web", "six", http(), endpoints(&["fd00:9::1 @here"]));
    six.address_type = "IPv6".into();
    let rules = planned(&[service("web", spec(more))], &[web(&["10.9.0.1 @here"]), six]);
    assert_eq!(rules.health_checks[&32000].local_endpoints, 1);
}

/// `web` and `other` want the same external IP and port; `other` is older.
fn rivals() -> [Service; 2] {
    let with_age = |name, ip: &str, day: &str| {
        let more = json!({"clusterIP": ip, "clusterIPs": [ip], "externalIPs": ["192.0.2.1"]});
        let mut service = service(name, spec(more));
        service.metadata.creation_timestamp =
            serde_json::from_value(json!(format!("2026-01-{day}T00:00:00Z"))).unwrap();
        service
    };
    [with_age("web", "10.96.0.7", "02"), with_age("other", "10.96.0.8", "01")]
}

fn holders(rules: &Ruleset) -> Vec<&str> {
    let has = |f: &Frontend| f.kind == FrontendKind::ExternalIp;
    rules
        .ports
        .iter()
        .filter(|(_, port)| port.frontends.iter().any(has))
        .map(|(name, _)| name.service.as_str())
        .collect()
}

#[test]
fn one_address_has_one_owner_and_the_next_takes_over() {
    let [web, other] = rivals();
    for order in [[&web, &other], [&other, &web]] {
        assert_eq!(holders(&plan(order, [], &here())), ["other"]);
    }
    let mut planner = Planner::new(here());
    let (web_key, other_key) = (Key::new("ns", "web"), Key::new("ns", "other"));
    planner.set(&web_key, Some(&web), &[]);
    planner.set(&other_key, Some(&other), &[]);
    assert_eq!(planner.take_change().ports.len(), 2);
    planner.set(&other_key, None, &[]);
    assert_eq!(holders(planner.rules()), ["web"]);
    let changed: Vec<_> =
        planner.take_change().ports.into_iter().map(|p| (p.name.service, p.new.is_some())).collect();
    assert_eq!(changed, [("other".to_owned(), false), ("web".to_owned(), true)]);
}

#[test]
fn a_cluster_ip_cannot_be_taken_by_an_external_ip() {
    let mut thief = service(
        "a-thief",
        spec(json!({"clusterIP": "10.96.0.9", "clusterIPs": [], "externalIPs": ["10.96.0.7"]})),
    );
    thief.metadata.creation_timestamp = serde_json::from_value(json!("2020-01-01T00:00:00Z")).unwrap();
    let rules = planned(&[thief, service("web", spec(json!({})))], &[]);
    let at = At { address: Some([10, 96, 0, 7].into()), protocol: Protocol::Tcp, port: 80 };
    let owner = rules.ports.iter().find(|(_, port)| port.frontends.iter().any(|f| f.at == at));
    assert_eq!(owner.unwrap().0.service, "web");
}

#[test]
fn one_changed_endpoint_among_thousands_changes_one_port() {
    const MANY: u32 = 2_000;
    let ip = |n: u32| format!("10.96.{}.{}", n / 250, n % 250 + 1);
    let of = |n: u32| service(&format!("s{n}"), spec(json!({"clusterIP": ip(n), "clusterIPs": [ip(n)]})));
    let slice_of = |n: u32, all: &[&str]| slice(&format!("s{n}"), &format!("s{n}-1"), http(), endpoints(all));
    let mut planner = Planner::new(here());
    for n in 0..MANY {
        planner.set(&Key::new("ns", format!("s{n}")), Some(&of(n)), &[&slice_of(n, &["10.9.0.1"])]);
    }
    assert_eq!(planner.take_change().ports.len(), MANY as usize);
    let before = planner.rules().clone();
    planner.set(&Key::new("ns", "s7"), Some(&of(7)), &[&slice_of(7, &["10.9.0.1", "10.9.0.2"])]);
    planner.set(&Key::new("ns", "s8"), Some(&of(8)), &[&slice_of(8, &["10.9.0.1"])]);
    let change = planner.take_change();
    assert_eq!(change.ports.len(), 1);
    assert_eq!(change, crate::Change::between(&before, planner.rules()));
    assert!(planner.take_change().is_empty());
    let all: Vec<Service> = (0..MANY).map(of).collect();
    let slices: Vec<EndpointSlice> = (0..MANY)
        .map(|n| if n == 7 { slice_of(7, &["10.9.0.1", "10.9.0.2"]) } else { slice_of(n, &["10.9.0.1"]) })
        .collect();
    assert_eq!(*planner.rules(), planned(&all, &slices), "step by step as at once");
}

#[test]
fn nonsense_is_no_reason_to_panic() {
    for more in [
        json!({"ports": [{"port": -1}, {"port": 0}, {"port": 70000}]}),
        json!({"clusterIP": "x", "clusterIPs": ["x", "10.96.0.300"]}),
        json!({"ports": null}),
    ] {
        assert!(planned(&[service("web", spec(more))], &[web(&["x", "", "10.9.0.1"])]).ports.is_empty());
    }
    let port = one(json!({"externalIPs": ["x"], "loadBalancerSourceRanges": ["y"]}), &["x", "10.9.0.1"]);
    assert_eq!((port.frontends.len(), port.source_ranges.len(), port.cluster.len()), (1, 0, 1));
}
