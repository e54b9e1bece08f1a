//! What an object costs a resource quota: counts of everything, compute resources of pods, storage of claims, ports of services;
//! and for which objects a quota with scopes counts at all.

use std::collections::{BTreeMap, BTreeSet};

use super::look::{entries, given, int, items, quantity, text};
use super::pod::{container, qos};
use crate::kind::Kind;
use crate::quantity::{Format, Quantity};
use crate::{Object, Str, Value};

/// Amounts by resource name.
pub type Usage = BTreeMap<String, Quantity>;

const COMPUTE: &[&str] = &["cpu", "memory", "ephemeral-storage"];
/// Kinds that had a name of their own before all objects could be counted.
const NAMED_COUNTS: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];
/// What every container must say where a quota counts it.
const EXPLICIT: &[&str] =
    &["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const CLASS_SUFFIX: &str = ".storageclass.storage.k8s.io/";

fn one() -> Quantity {
    Quantity::from_value(1, Format::DecimalSI)
}

fn add(usage: &mut Usage, name: impl Into<String>, amount: Quantity) {
    let slot = usage.entry(name.into()).or_default();
    *slot = *slot + amount;
}

/// What the object costs.
pub fn of(kind: &Kind, object: &Value) -> Usage {
    let mut usage = Usage::new();
    let count = match &*kind.group {
        "" => format!("count/{}", kind.plural),
        group => format!("count/{}.{group}", kind.plural),
    };
    add(&mut usage, count, one());
    if !kind.group.is_empty() {
        return usage;
    }
    let plural = &*kind.plural;
    let ended = plural == "pods" && matches!(object.str_at(&["status", "phase"]), "Failed" | "Succeeded");
    if NAMED_COUNTS.contains(&plural) && !ended {
        add(&mut usage, plural, one());
    }
    match plural {
        "pods" if !ended => pod(&mut usage, object),
        "services" => service(&mut usage, object),
        "persistentvolumeclaims" => claim(&mut usage, object),
        _ => {}
    }
    usage
}

/// What a change costs more than before; nothing that became less.
pub fn growth(new: &Usage, old: &Usage) -> Usage {
    let more = |(name, amount): (&String, &Quantity)| {
        let before = old.get(name).copied().unwrap_or_default();
        (*amount > before).then(|| (name.clone(), *amount - before))
    };
    new.iter().filter_map(more).collect()
}

fn service(usage: &mut Usage, service: &Value) {
    let ports = service.items_at(&["spec", "ports"]);
    let number = |n: usize| Quantity::from_value(i64::try_from(n).unwrap_or(i64::MAX), Format::DecimalSI);
    let declined =
        service.at(&["spec", "allocateLoadBalancerNodePorts"]).and_then(Value::as_bool) == Some(false);
    match service.str_at(&["spec", "type"]) {
        "NodePort" => add(usage, "services.nodeports", number(ports.len())),
        "LoadBalancer" => {
            add(usage, "services.loadbalancers", one());
            let has_port = |port: &&Value| int(port, "nodePort").is_some_and(|n| n != 0);
            let held = if declined { ports.iter().filter(has_port).count() } else { ports.len() };
            add(usage, "services.nodeports", number(held));
        }
        _ => {}
    }
}

fn claim(usage: &mut Usage, claim: &Value) {
    let size = quantity(claim.at(&["spec", "resources", "requests", "storage"]));
    add(usage, "requests.storage", size);
    let class = claim.str_at(&["spec", "storageClassName"]);
    if !class.is_empty() {
        add(usage, format!("{class}{CLASS_SUFFIX}persistentvolumeclaims"), one());
        add(usage, format!("{class}{CLASS_SUFFIX}requests.storage"), size);
    }
}

fn pod(usage: &mut Usage, pod: &Value) {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    for (name, amount) in pod_total(spec, "requests") {
        match name.as_str() {
            plain if COMPUTE.contains(&plain) || plain.starts_with("hugepages-") => {
                add(usage, plain, amount);
                add(usage, format!("requests.{plain}"), amount);
            }
            extended if !container::is_native(extended) => add(usage, format!("requests.{extended}"), amount),
            _ => {}
        }
    }
    for (name, amount) in pod_total(spec, "limits") {
        if COMPUTE.contains(&name.as_str()) {
            add(usage, format!("limits.{name}"), amount);
        }
    }
}

fn amounts(of: &Value, side: &str) -> Usage {
    let list = of.at(&["resources", side]).and_then(Value::as_object);
    list.into_iter()
        .flat_map(Object::iter)
        .map(|(k, v): (&Str, &Value)| (k.to_string(), quantity(Some(v))))
        .collect()
}

/// `requests` or `limits` of a whole pod: what it says of itself or its containers need, and what the pod itself costs.
pub fn pod_total(spec: &Value, side: &str) -> Usage {
    let mut running = containers_total(spec, side);
    // What a pod says of itself as a whole comes before the sum of its parts.
    running.extend(amounts(spec, side));
    for (name, amount) in entries(spec, "overhead") {
        let limited = running.contains_key(name.as_str());
        if side == "requests" || limited {
            add(&mut running, name.as_str(), quantity(Some(amount)));
        }
    }
    running
}

/// `requests` or `limits` of the containers together, or of the largest moment of the start. Init containers that go on running
/// (sidecars) count with the containers from their start on.
pub fn containers_total(spec: &Value, side: &str) -> Usage {
    let amounts = |of: &Value| amounts(of, side);
    let plus =
        |to: &mut Usage, more: &Usage| more.iter().for_each(|(name, amount)| add(to, name.as_str(), *amount));
    let most = |to: &mut Usage, other: Usage| {
        for (name, amount) in other {
            let slot = to.entry(name).or_default();
            *slot = (*slot).max(amount);
        }
    };
    let mut running = Usage::new();
    items(spec, "containers").iter().for_each(|c| plus(&mut running, &amounts(c)));
    let (mut sidecars, mut starting) = (Usage::new(), Usage::new());
    for init in items(spec, "initContainers") {
        let mut moment = amounts(init);
        if text(init, "restartPolicy") == "Always" {
            plus(&mut running, &moment);
            plus(&mut sidecars, &moment);
            moment = sidecars.clone();
        } else {
            plus(&mut moment, &sidecars);
        }
        most(&mut starting, moment);
    }
    most(&mut running, starting);
    running
}

/// What a pod must say, and does not, where a quota counts these resources: `limits.cpu for: a,b; …`.
pub fn unsaid(pod: &Value, counted: &BTreeSet<&str>) -> Option<String> {
    let spec = pod.get("spec")?;
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let required = || EXPLICIT.iter().filter(|name| counted.contains(**name));
    let of_pod = |side: &str, resource: &str| spec.at(&["resources", side, resource]).is_some();
    for container in items(spec, "containers").iter().chain(items(spec, "initContainers")) {
        for name in required() {
            let (side, resource) = match name.split_once('.') {
                Some((side, resource)) => (side, resource),
                None => ("requests", *name),
            };
            if container.at(&["resources", side, resource]).is_none() && !of_pod(side, resource) {
                missing.entry(name).or_default().insert(text(container, "name"));
            }
        }
    }
    let list = |(name, names): (&&str, &BTreeSet<&str>)| {
        format!("{name} for: {}", names.iter().copied().collect::<Vec<_>>().join(","))
    };
    (!missing.is_empty()).then(|| missing.iter().map(list).collect::<Vec<_>>().join("; "))
}

/// Does the quota count this object? Scopes speak of pods, and of claims by their attributes class.
pub fn counts(quota: &Value, kind: &Kind, object: &Value) -> bool {
    let spec = quota.get("spec").unwrap_or(&Value::Null);
    let of_pods = kind.group.is_empty() && kind.plural == "pods";
    let plain =
        items(spec, "scopes").iter().filter_map(Value::as_str).map(|scope| (scope, "Exists", &[][..]));
    let selected = spec.items_at(&["scopeSelector", "matchExpressions"]).iter();
    let selected = selected.map(|e| (text(e, "scopeName"), text(e, "operator"), items(e, "values")));
    plain.chain(selected).all(|(scope, operator, values)| match (scope, of_pods) {
        ("VolumeAttributesClass", _) => {
            let class = object.at(&["spec", "volumeAttributesClassName"]).and_then(Value::as_str);
            kind.plural == "persistentvolumeclaims" && compares(class, operator, values)
        }
        (scope, true) => pod_is_in(object, scope, operator, values),
        (_, false) => false,
    })
}

fn compares(value: Option<&str>, operator: &str, values: &[Value]) -> bool {
    let value = value.filter(|value| !value.is_empty());
    let listed = || value.is_some_and(|value| values.iter().any(|v| v.as_str() == Some(value)));
    match operator {
        "In" => listed(),
        "NotIn" => !listed(),
        "DoesNotExist" => value.is_none(),
        _ => value.is_some(),
    }
}

fn pod_is_in(pod: &Value, scope: &str, operator: &str, values: &[Value]) -> bool {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let best_effort = || qos::class(spec) == "BestEffort";
    let deadline = int(spec, "activeDeadlineSeconds").is_some_and(|n| n >= 0);
    match scope {
        "Terminating" => deadline,
        "NotTerminating" => !deadline,
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => {
            compares(given(spec, "priorityClassName").and_then(Value::as_str), operator, values)
        }
        "CrossNamespacePodAffinity" => names_other_namespaces(spec),
        _ => false,
    }
}

fn names_other_namespaces(spec: &Value) -> bool {
    let crosses =
        |term: &Value| !items(term, "namespaces").is_empty() || given(term, "namespaceSelector").is_some();
    ["podAffinity", "podAntiAffinity"].iter().any(|side| {
        let required = ["affinity", side, "requiredDuringSchedulingIgnoredDuringExecution"];
        let preferred = ["affinity", side, "preferredDuringSchedulingIgnoredDuringExecution"];
        spec.items_at(&required).iter().any(crosses)
            || spec.items_at(&preferred).iter().filter_map(|t| t.get("podAffinityTerm")).any(crosses)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::builtin_kind;
    use crate::kinds::testing::tree;

    fn text_of(usage: &Usage) -> String {
        usage.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn costs() {
        let cases = [
            ("apps", "Deployment", "{}", "count/deployments.apps=1"),
            ("", "ConfigMap", "{}", "configmaps=1,count/configmaps=1"),
            (
                "",
                "Service",
                "{spec: {type: LoadBalancer, ports: [{port: 1}, {port: 2}]}}",
                "count/services=1,services=1,services.loadbalancers=1,services.nodeports=2",
            ),
            (
                "",
                "PersistentVolumeClaim",
                "{spec: {storageClassName: fast, resources: {requests: {storage: 2Gi}}}}",
                "count/persistentvolumeclaims=1,fast.storageclass.storage.k8s.io/persistentvolumeclaims=1,\
                 fast.storageclass.storage.k8s.io/requests.storage=2Gi,persistentvolumeclaims=1,requests.storage=2Gi",
            ),
            (
                "",
                "Pod",
                "{spec: {containers: [{resources: {requests: {cpu: 100m, memory: 1Mi, x.y/gpu: 2}, limits: {cpu: 1}}}, {resources: \
                 {requests: {cpu: 200m}}}], initContainers: [{resources: {requests: {memory: 3Mi}}}], overhead: {cpu: 50m}}}",
                "count/pods=1,cpu=350m,limits.cpu=1050m,memory=3Mi,pods=1,requests.cpu=350m,requests.memory=3Mi,requests.x.y/gpu=2",
            ),
            ("", "Pod", "{spec: {containers: [{}]}, status: {phase: Failed}}", "count/pods=1"),
        ];
        for (group, kind, object, wanted) in cases {
            let kind = builtin_kind(group, kind).expect("built in");
            assert_eq!(text_of(&of(kind, &tree(object))), wanted, "{object}");
        }
    }

    #[test]
    fn scopes() {
        let pods = builtin_kind("", "Pod").expect("built in");
        let quota = |spec: &str| tree(&format!("{{spec: {spec}}}"));
        let plain = "{spec: {containers: [{name: c}]}}";
        let cases = [
            ("{}", plain, true),
            ("{scopes: [BestEffort]}", plain, true),
            ("{scopes: [NotBestEffort]}", plain, false),
            ("{scopes: [Terminating]}", "{spec: {activeDeadlineSeconds: 5}}", true),
            ("{scopes: [NotTerminating, BestEffort]}", plain, true),
            (
                "{scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: In, values: [high]}]}}",
                "{spec: {priorityClassName: high}}",
                true,
            ),
            (
                "{scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: DoesNotExist}]}}",
                "{spec: {priorityClassName: high}}",
                false,
            ),
        ];
        for (spec, pod, wanted) in cases {
            assert_eq!(counts(&quota(spec), pods, &tree(pod)), wanted, "{spec} {pod}");
        }
        let maps = builtin_kind("", "ConfigMap").expect("built in");
        assert!(!counts(&quota("{scopes: [BestEffort]}"), maps, &tree("{}")));
    }

    #[test]
    fn what_pods_must_say() {
        let pod = tree("{spec: {containers: [{name: b, resources: {limits: {cpu: 1}}}, {name: a}]}}");
        let counted = BTreeSet::from(["limits.cpu", "memory", "pods"]);
        assert_eq!(unsaid(&pod, &counted).as_deref(), Some("limits.cpu for: a; memory for: a,b"));
        assert_eq!(unsaid(&pod, &BTreeSet::from(["pods"])), None);
    }

    #[test]
    fn only_what_grows_costs() {
        let of = |text: &str| -> Usage {
            text.split(',')
                .filter_map(|p| p.split_once('='))
                .map(|(n, a)| (n.into(), Quantity::parse(a).expect(a)))
                .collect()
        };
        assert_eq!(text_of(&growth(&of("a=2,b=1,c=5"), &of("a=1,b=1,c=6"))), "a=1");
    }
}
