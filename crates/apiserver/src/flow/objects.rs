//! The flow schemas and priority levels that every server has from the start, as upstream's.

use serde_json::{Value as Json, json};

use crate::bootstrap::Wanted;
use crate::user::{AUTHENTICATED, MASTERS, NODES, UNAUTHENTICATED};

const ALL: &str = "*";
const SYSTEM: &str = "kube-system";
const MANAGER: &str = "system:kube-controller-manager";
const SCHEDULER: &str = "system:kube-scheduler";
const ACCOUNTS: &str = "system:serviceaccounts";

/// Name, shares, part of them that is lent, queues · hand · length.
type LevelRow = (&'static str, u32, u32, Option<(u32, u32, u32)>);

const LEVELS: &[LevelRow] = &[
    ("catch-all", 5, 0, None),
    ("global-default", 20, 50, Some((128, 6, 50))),
    ("leader-election", 10, 0, Some((16, 4, 50))),
    ("node-high", 40, 25, Some((64, 6, 50))),
    ("system", 30, 33, Some((64, 6, 50))),
    ("workload-high", 40, 50, Some((128, 6, 50))),
    ("workload-low", 100, 90, Some((128, 6, 50))),
];

/// Every object, levels first.
pub(crate) fn wanted() -> Vec<Wanted> {
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let mut all = vec![object("PriorityLevelConfiguration", "exempt", &exempt)];
    for (name, shares, lent, queuing) in LEVELS {
        let response = match queuing {
            None => json!({"type": "Reject"}),
            Some((queues, hand, length)) => {
                let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": length});
                json!({"type": "Queue", "queuing": queuing})
            }
        };
        let limited =
            json!({"nominalConcurrencyShares": shares, "lendablePercent": lent, "limitResponse": response});
        all.push(object("PriorityLevelConfiguration", name, &json!({"type": "Limited", "limited": limited})));
    }
    all.extend(schemas());
    all
}

fn schemas() -> Vec<Wanted> {
    let everybody = || vec![group(UNAUTHENTICATED), group(AUTHENTICATED)];
    let lead = ["get", "create", "update"];
    let leases = || resources(&lead, &["coordination.k8s.io"], &["leases"], &[ALL], false);
    let maps = || resources(&lead, &[""], &["endpoints", "configmaps"], &[ALL], false);
    let endpoint_makers =
        ["endpoint-controller", "endpointslice-controller", "endpointslicemirroring-controller"];
    let makers = [user(MANAGER)].into_iter().chain(endpoint_makers.map(account)).collect::<Vec<_>>();
    vec![
        schema("exempt", "exempt", 1, "", all_of(vec![group(MASTERS)])),
        schema(
            "probes",
            "exempt",
            2,
            "",
            json!([{"subjects": everybody(), "nonResourceRules":
            [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]}]),
        ),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            "ByUser",
            json!([{
            "subjects": [user(MANAGER), user(SCHEDULER), account(ALL)], "resourceRules": [leases()]}]),
        ),
        schema(
            "endpoint-controller",
            "workload-high",
            150,
            "ByUser",
            json!([{
            "subjects": makers, "resourceRules": [
                resources(&lead, &[""], &["endpoints"], &[ALL], false),
                resources(&lead, &["discovery.k8s.io"], &["endpointslices"], &[ALL], false)]}]),
        ),
        schema(
            "workload-leader-election",
            "leader-election",
            200,
            "ByUser",
            json!([{
            "subjects": [account(ALL)], "resourceRules": [maps(), leases()]}]),
        ),
        schema(
            "system-node-high",
            "node-high",
            400,
            "ByUser",
            json!([{"subjects": [group(NODES)], "resourceRules": [
            resources(&[ALL], &[""], &["nodes", "nodes/status"], &[ALL], true),
            resources(&[ALL], &["coordination.k8s.io"], &["leases"], &[ALL], false)]}]),
        ),
        schema("system-nodes", "system", 500, "ByUser", all_of(vec![group(NODES)])),
        schema("kube-controller-manager", "workload-high", 800, "ByNamespace", all_of(vec![user(MANAGER)])),
        schema("kube-scheduler", "workload-high", 800, "ByNamespace", all_of(vec![user(SCHEDULER)])),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            "ByNamespace",
            all_of(vec![account(ALL)]),
        ),
        schema("service-accounts", "workload-low", 9000, "ByUser", all_of(vec![group(ACCOUNTS)])),
        schema("global-default", "global-default", 9900, "ByUser", all_of(everybody())),
        schema("catch-all", "catch-all", 10_000, "ByUser", all_of(everybody())),
    ]
}

fn object(kind: &str, name: &str, spec: &Json) -> Wanted {
    let plural = if kind == "FlowSchema" { "flowschemas" } else { "prioritylevelconfigurations" };
    let object = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": kind,
        "metadata": {"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}}, "spec": spec
    });
    Wanted { collection: format!("/apis/{}/v1/{plural}", super::GROUP), object, keep: false }
}

fn schema(name: &str, level: &str, precedence: u32, by: &str, rules: Json) -> Wanted {
    let mut spec = json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": rules});
    if !by.is_empty() {
        spec["distinguisherMethod"] = json!({"type": by});
    }
    object("FlowSchema", name, &spec)
}

/// Whatever the subjects ask.
fn all_of(subjects: Vec<Json>) -> Json {
    let resources = resources(&[ALL], &[ALL], &[ALL], &[ALL], true);
    json!([{"subjects": subjects, "resourceRules": [resources],
        "nonResourceRules": [{"verbs": [ALL], "nonResourceURLs": [ALL]}]}])
}

fn resources(
    verbs: &[&str],
    groups: &[&str],
    resources: &[&str],
    namespaces: &[&str],
    cluster: bool,
) -> Json {
    let mut rule =
        json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "namespaces": namespaces});
    if cluster {
        rule["clusterScope"] = true.into();
    }
    rule
}

fn user(name: &str) -> Json {
    json!({"kind": "User", "user": {"name": name}})
}

fn group(name: &str) -> Json {
    json!({"kind": "Group", "group": {"name": name}})
}

fn account(name: &str) -> Json {
    json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": SYSTEM, "name": name}})
}
