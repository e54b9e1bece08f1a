//! Columns of all kinds but the pod: headings, order and cell text that people and scripts know from `kubectl get`.

use crate::kind::{Cell, Column};
use crate::table::{AGE, NAME, age, column, count};
use crate::time::{human_duration, parse_ms};
use crate::{Object, Value};

const NONE: &str = "<none>";
const UNSET: &str = "<unset>";
/// Lists in a cell stop after so many items.
const LISTED_MAX: usize = 3;

const fn text(name: &'static str, path: &'static [&'static str]) -> Column {
    column(name, "string", 0, Cell::Text(path))
}
const fn text_or(name: &'static str, path: &'static [&'static str], missing: &'static str) -> Column {
    column(name, "string", 0, Cell::TextOr(path, missing))
}
const fn int(name: &'static str, path: &'static [&'static str]) -> Column {
    column(name, "integer", 0, Cell::Int(path))
}
const fn count_of(name: &'static str, path: &'static [&'static str]) -> Column {
    column(name, "integer", 0, Cell::Count(path))
}
const fn computed(name: &'static str, compute: fn(&Value, i64) -> Value) -> Column {
    column(name, "string", 0, Cell::Compute(compute))
}
const fn wide(name: &'static str, compute: fn(&Value, i64) -> Value) -> Column {
    column(name, "string", 1, Cell::Compute(compute))
}

const CONTAINERS: Column = wide("Containers", |o, _| containers(o, "name"));
const IMAGES: Column = wide("Images", |o, _| containers(o, "image"));
const SELECTOR: Column = wide("Selector", |o, _| format_selector(o.at(&["spec", "selector"])).into());

pub(super) const REPLICATION_CONTROLLER: &[Column] = &[
    NAME,
    int("Desired", &["spec", "replicas"]),
    int("Current", &["status", "replicas"]),
    int("Ready", &["status", "readyReplicas"]),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", |o, _| format_labels(o.at(&["spec", "selector"])).into()),
];

pub(super) const REPLICA_SET: &[Column] = &[
    NAME,
    int("Desired", &["spec", "replicas"]),
    int("Current", &["status", "replicas"]),
    int("Ready", &["status", "readyReplicas"]),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const DEPLOYMENT: &[Column] = &[
    NAME,
    computed("Ready", ready_of_desired),
    column("Up-to-date", "string", 0, Cell::Int(&["status", "updatedReplicas"])),
    column("Available", "string", 0, Cell::Int(&["status", "availableReplicas"])),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const STATEFUL_SET: &[Column] =
    &[NAME, computed("Ready", ready_of_desired), AGE, CONTAINERS, IMAGES];

pub(super) const DAEMON_SET: &[Column] = &[
    NAME,
    int("Desired", &["status", "desiredNumberScheduled"]),
    int("Current", &["status", "currentNumberScheduled"]),
    int("Ready", &["status", "numberReady"]),
    int("Up-to-date", &["status", "updatedNumberScheduled"]),
    int("Available", &["status", "numberAvailable"]),
    computed("Node Selector", |o, _| {
        format_labels(o.at(&["spec", "template", "spec", "nodeSelector"])).into()
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const JOB: &[Column] = &[
    NAME,
    computed("Status", job_status),
    computed("Completions", job_completions),
    computed("Duration", job_duration),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const CRON_JOB: &[Column] = &[
    NAME,
    text("Schedule", &["spec", "schedule"]),
    text_or("Timezone", &["spec", "timeZone"], NONE),
    column("Suspend", "boolean", 0, Cell::Compute(|o, _| bool_text(o.at(&["spec", "suspend"])).into())),
    count_of("Active", &["status", "active"]),
    computed("Last Schedule", |o, now| match o.str_at(&["status", "lastScheduleTime"]) {
        "" => NONE.into(),
        time => age(time, now).into(),
    }),
    AGE,
    wide("Containers", |o, _| join(o.items_at(CRON_CONTAINERS), "name")),
    wide("Images", |o, _| join(o.items_at(CRON_CONTAINERS), "image")),
    wide("Selector", |o, _| format_selector(o.at(&["spec", "jobTemplate", "spec", "selector"])).into()),
];
const CRON_CONTAINERS: &[&str] = &["spec", "jobTemplate", "spec", "template", "spec", "containers"];

pub(super) const POD_TEMPLATE: &[Column] = &[
    NAME,
    computed("Containers", |o, _| join(o.items_at(&["template", "spec", "containers"]), "name")),
    computed("Images", |o, _| join(o.items_at(&["template", "spec", "containers"]), "image")),
    computed("Pod Labels", |o, _| format_labels(o.at(&["template", "metadata", "labels"])).into()),
];

pub(super) const POD_DISRUPTION_BUDGET: &[Column] = &[
    NAME,
    text_or("Min Available", &["spec", "minAvailable"], "N/A"),
    text_or("Max Unavailable", &["spec", "maxUnavailable"], "N/A"),
    int("Allowed Disruptions", &["status", "disruptionsAllowed"]),
    AGE,
];

pub(super) const HORIZONTAL_POD_AUTOSCALER: &[Column] = &[
    NAME,
    computed("Reference", |o, _| {
        let target = |field| o.str_at(&["spec", "scaleTargetRef", field]);
        format!("{}/{}", target("kind"), target("name")).into()
    }),
    computed("Targets", |o, _| hpa_metrics(o).into()),
    text_or("MinPods", &["spec", "minReplicas"], UNSET),
    column("MaxPods", "string", 0, Cell::Int(&["spec", "maxReplicas"])),
    column("Replicas", "string", 0, Cell::Int(&["status", "currentReplicas"])),
    AGE,
];

pub(super) const SERVICE: &[Column] = &[
    NAME,
    text("Type", &["spec", "type"]),
    computed("Cluster-IP", |o, _| {
        match o.items_at(&["spec", "clusterIPs"]).first().and_then(Value::as_str) {
            Some(ip) => ip.into(),
            None => NONE.into(),
        }
    }),
    computed("External-IP", |o, _| service_external_ip(o).into()),
    computed("Port(s)", |o, _| service_ports(o).into()),
    AGE,
    wide("Selector", |o, _| format_labels(o.at(&["spec", "selector"])).into()),
];

pub(super) const INGRESS: &[Column] = &[
    NAME,
    text_or("Class", &["spec", "ingressClassName"], NONE),
    computed("Hosts", |o, _| ingress_hosts(o).into()),
    computed("Address", |o, _| load_balancer(o).into()),
    computed(
        "Ports",
        |o, _| if o.items_at(&["spec", "tls"]).is_empty() { "80".into() } else { "80, 443".into() },
    ),
    AGE,
];

pub(super) const INGRESS_CLASS: &[Column] = &[
    NAME,
    text("Controller", &["spec", "controller"]),
    computed("Parameters", |o, _| ingress_parameters(o).into()),
    AGE,
];

pub(super) const NETWORK_POLICY: &[Column] =
    &[NAME, computed("Pod-Selector", |o, _| format_selector(o.at(&["spec", "podSelector"])).into()), AGE];

pub(super) const SERVICE_CIDR: &[Column] =
    &[NAME, computed("CIDRs", |o, _| strings(o.items_at(&["spec", "cidrs"])).join(",").into()), AGE];

pub(super) const IP_ADDRESS: &[Column] = &[NAME, computed("ParentRef", |o, _| parent_ref(o).into()), AGE];

pub(super) const ENDPOINTS: &[Column] = &[NAME, computed("Endpoints", |o, _| endpoints(o).into()), AGE];

pub(super) const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    text("AddressType", &["addressType"]),
    computed("Ports", |o, _| slice_ports(o).into()),
    computed("Endpoints", |o, _| {
        let all =
            o.items_at(&["endpoints"]).iter().flat_map(|e| strings(e.items_at(&["addresses"]))).collect();
        listed(all).into()
    }),
    AGE,
];

pub(super) const NODE: &[Column] = &[
    NAME,
    computed("Status", |o, _| node_status(o).into()),
    computed("Roles", |o, _| node_roles(o).into()),
    AGE,
    text("Version", &["status", "nodeInfo", "kubeletVersion"]),
    wide("Internal-IP", |o, _| node_address(o, "InternalIP").into()),
    wide("External-IP", |o, _| node_address(o, "ExternalIP").into()),
    wide("OS-Image", |o, _| node_info(o, "osImage").into()),
    wide("Kernel-Version", |o, _| node_info(o, "kernelVersion").into()),
    wide("Container-Runtime", |o, _| node_info(o, "containerRuntimeVersion").into()),
];

pub(super) const EVENT: &[Column] = &[
    computed("Last Seen", |o, now| event_last_seen(o, now).into()),
    text("Type", &["type"]),
    text("Reason", &["reason"]),
    computed("Object", |o, _| event_object(o).into()),
    wide("Subobject", |o, _| event_ref(o).map_or("", |r| r.str_at(&["fieldPath"])).into()),
    wide("Source", |o, _| event_source(o).into()),
    computed("Message", |o, _| first_of(o, &["message", "note"]).trim().into()),
    wide("First Seen", |o, now| event_first_seen(o, now).into()),
    column("Count", "string", 1, Cell::Compute(|o, _| event_count(o).into())),
    Column { priority: 1, ..NAME },
];

pub(super) const NAMESPACE: &[Column] = &[NAME, text("Status", &["status", "phase"]), AGE];
pub(super) const SECRET: &[Column] =
    &[NAME, text("Type", &["type"]), column("Data", "string", 0, Cell::Count(&["data"])), AGE];
pub(super) const CONFIG_MAP: &[Column] = &[
    NAME,
    column(
        "Data",
        "string",
        0,
        Cell::Compute(|o, _| (count(o.get("data")) + count(o.get("binaryData"))).into()),
    ),
    AGE,
];
pub(super) const SERVICE_ACCOUNT: &[Column] =
    &[NAME, column("Secrets", "string", 0, Cell::Count(&["secrets"])), AGE];

pub(super) const PERSISTENT_VOLUME: &[Column] = &[
    NAME,
    text_or("Capacity", &["spec", "capacity", "storage"], "0"),
    computed("Access Modes", |o, _| access_modes(o.items_at(&["spec", "accessModes"])).into()),
    text("Reclaim Policy", &["spec", "persistentVolumeReclaimPolicy"]),
    computed("Status", |o, _| phase(o).into()),
    computed("Claim", |o, _| match o.at(&["spec", "claimRef"]) {
        Some(claim) => format!("{}/{}", claim.str_at(&["namespace"]), claim.str_at(&["name"])).into(),
        None => "".into(),
    }),
    text("StorageClass", &["spec", "storageClassName"]),
    text_or("VolumeAttributesClass", &["spec", "volumeAttributesClassName"], UNSET),
    text("Reason", &["status", "reason"]),
    AGE,
    column("VolumeMode", "string", 1, Cell::TextOr(&["spec", "volumeMode"], UNSET)),
];

pub(super) const PERSISTENT_VOLUME_CLAIM: &[Column] = &[
    NAME,
    computed("Status", |o, _| phase(o).into()),
    text("Volume", &["spec", "volumeName"]),
    computed("Capacity", |o, _| match o.str_at(&["spec", "volumeName"]) {
        "" => "".into(),
        _ => o.at(&["status", "capacity", "storage"]).and_then(Value::as_str).unwrap_or("0").into(),
    }),
    computed("Access Modes", |o, _| match o.str_at(&["spec", "volumeName"]) {
        "" => "".into(),
        _ => access_modes(o.items_at(&["status", "accessModes"])).into(),
    }),
    text("StorageClass", &["spec", "storageClassName"]),
    text_or("VolumeAttributesClass", &["spec", "volumeAttributesClassName"], UNSET),
    AGE,
    column("VolumeMode", "string", 1, Cell::TextOr(&["spec", "volumeMode"], UNSET)),
];

pub(super) const COMPONENT_STATUS: &[Column] = &[
    NAME,
    computed("Status", |o, _| match condition(o.items_at(&["conditions"]), "Healthy") {
        None => "Unknown".into(),
        Some("True") => "Healthy".into(),
        Some(_) => "Unhealthy".into(),
    }),
    text("Message", &["message"]),
    text("Error", &["error"]),
];

pub(super) const ROLE_BINDING: &[Column] = &[
    NAME,
    computed("Role", |o, _| {
        format!("{}/{}", o.str_at(&["roleRef", "kind"]), o.str_at(&["roleRef", "name"])).into()
    }),
    AGE,
    wide("Users", |o, _| subjects(o, "User").into()),
    wide("Groups", |o, _| subjects(o, "Group").into()),
    wide("ServiceAccounts", |o, _| subjects(o, "ServiceAccount").into()),
];

pub(super) const CERTIFICATE_SIGNING_REQUEST: &[Column] = &[
    NAME,
    AGE,
    text_or("SignerName", &["spec", "signerName"], NONE),
    text("Requestor", &["spec", "username"]),
    computed("RequestedDuration", |o, _| {
        match o.at(&["spec", "expirationSeconds"]).and_then(Value::as_i64) {
            Some(seconds) => human_duration(seconds.saturating_mul(1000)).into(),
            None => NONE.into(),
        }
    }),
    computed("Condition", |o, _| csr_status(o).into()),
];

pub(super) const CLUSTER_TRUST_BUNDLE: &[Column] =
    &[NAME, text_or("SignerName", &["spec", "signerName"], NONE)];

pub(super) const POD_CERTIFICATE_REQUEST: &[Column] = &[
    NAME,
    text("PodName", &["spec", "podName"]),
    text("ServiceAccountName", &["spec", "serviceAccountName"]),
    text("NodeName", &["spec", "nodeName"]),
    text("SignerName", &["spec", "signerName"]),
    computed("State", |o, _| {
        let known = o.items_at(&["status", "conditions"]).iter().map(|c| c.str_at(&["type"]));
        known.filter(|t| matches!(*t, "Issued" | "Denied" | "Failed")).last().unwrap_or("Pending").into()
    }),
];

pub(super) const LEASE: &[Column] = &[NAME, text("Holder", &["spec", "holderIdentity"]), AGE];

pub(super) const STORAGE_CLASS: &[Column] = &[
    Column {
        cell: Cell::Compute(|o, _| {
            let name = o.str_at(&["metadata", "name"]);
            let annotation =
                |key| o.at(&["metadata", "annotations", key]).and_then(Value::as_str) == Some("true");
            let default = annotation("storageclass.kubernetes.io/is-default-class")
                || annotation("storageclass.beta.kubernetes.io/is-default-class");
            if default { format!("{name} (default)").into() } else { name.into() }
        }),
        ..NAME
    },
    text("Provisioner", &["provisioner"]),
    text_or("ReclaimPolicy", &["reclaimPolicy"], "Delete"),
    text_or("VolumeBindingMode", &["volumeBindingMode"], "Immediate"),
    column("AllowVolumeExpansion", "string", 0, Cell::Bool(&["allowVolumeExpansion"], false)),
    AGE,
];

pub(super) const VOLUME_ATTRIBUTES_CLASS: &[Column] = &[NAME, text("DriverName", &["driverName"]), AGE];

pub(super) const VOLUME_ATTACHMENT: &[Column] = &[
    NAME,
    text("Attacher", &["spec", "attacher"]),
    text("PV", &["spec", "source", "persistentVolumeName"]),
    text("Node", &["spec", "nodeName"]),
    column("Attached", "boolean", 0, Cell::Bool(&["status", "attached"], false)),
    AGE,
];

pub(super) const CSI_NODE: &[Column] = &[NAME, count_of("Drivers", &["spec", "drivers"]), AGE];

pub(super) const CSI_DRIVER: &[Column] = &[
    NAME,
    column("AttachRequired", "boolean", 0, Cell::Bool(&["spec", "attachRequired"], true)),
    column("PodInfoOnMount", "boolean", 0, Cell::Bool(&["spec", "podInfoOnMount"], false)),
    column("StorageCapacity", "boolean", 0, Cell::Bool(&["spec", "storageCapacity"], false)),
    computed("TokenRequests", |o, _| match o.at(&["spec", "tokenRequests"]).and_then(Value::as_array) {
        Some(requests) => join(requests, "audience"),
        None => UNSET.into(),
    }),
    column("RequiresRepublish", "boolean", 0, Cell::Bool(&["spec", "requiresRepublish"], false)),
    computed("Modes", |o, _| {
        or_none(strings(o.items_at(&["spec", "volumeLifecycleModes"])).join(",")).into()
    }),
    AGE,
];

pub(super) const CSI_STORAGE_CAPACITY: &[Column] =
    &[NAME, text("StorageClassName", &["storageClassName"]), text_or("Capacity", &["capacity"], UNSET)];

pub(super) const CONTROLLER_REVISION: &[Column] = &[
    NAME,
    computed("Controller", |o, _| controller_name(o).into()),
    column("Revision", "string", 0, Cell::Int(&["revision"])),
    AGE,
];

pub(super) const RESOURCE_QUOTA: &[Column] = &[
    NAME,
    computed("Request", |o, _| quota(o, false).into()),
    computed("Limit", |o, _| quota(o, true).into()),
    AGE,
];

pub(super) const PRIORITY_CLASS: &[Column] = &[
    NAME,
    int("Value", &["value"]),
    column("Global-Default", "boolean", 0, Cell::Bool(&["globalDefault"], false)),
    AGE,
    text("PreemptionPolicy", &["preemptionPolicy"]),
];

pub(super) const RUNTIME_CLASS: &[Column] = &[NAME, text("Handler", &["handler"]), AGE];
pub(super) const WEBHOOKS: &[Column] = &[NAME, count_of("Webhooks", &["webhooks"]), AGE];

pub(super) const VALIDATING_POLICY: &[Column] =
    &[NAME, count_of("Validations", &["spec", "validations"]), PARAM_KIND, AGE];
pub(super) const MUTATING_POLICY: &[Column] =
    &[NAME, count_of("Mutations", &["spec", "mutations"]), PARAM_KIND, AGE];
const PARAM_KIND: Column = computed("ParamKind", |o, _| match o.at(&["spec", "paramKind"]) {
    Some(kind) => format!("{}/{}", kind.str_at(&["apiVersion"]), kind.str_at(&["kind"])).into(),
    None => UNSET.into(),
});

pub(super) const POLICY_BINDING: &[Column] = &[
    NAME,
    text("PolicyName", &["spec", "policyName"]),
    computed("ParamRef", |o, _| param_ref(o.at(&["spec", "paramRef"])).into()),
    AGE,
];

pub(super) const FLOW_SCHEMA: &[Column] = &[
    NAME,
    text("PriorityLevel", &["spec", "priorityLevelConfiguration", "name"]),
    column("MatchingPrecedence", "string", 0, Cell::Int(&["spec", "matchingPrecedence"])),
    text_or("DistinguisherMethod", &["spec", "distinguisherMethod", "type"], NONE),
    AGE,
    computed("MissingPL", |o, _| {
        condition(o.items_at(&["status", "conditions"]), "Dangling").unwrap_or("?").into()
    }),
];

pub(super) const PRIORITY_LEVEL: &[Column] = &[
    NAME,
    text("Type", &["spec", "type"]),
    text_or("NominalConcurrencyShares", &["spec", "limited", "nominalConcurrencyShares"], NONE),
    text_or("Queues", &["spec", "limited", "limitResponse", "queuing", "queues"], NONE),
    text_or("HandSize", &["spec", "limited", "limitResponse", "queuing", "handSize"], NONE),
    text_or("QueueLengthLimit", &["spec", "limited", "limitResponse", "queuing", "queueLengthLimit"], NONE),
    AGE,
];

pub(super) const NAME_AND_AGE: &[Column] = &[NAME, AGE];

pub(super) const RESOURCE_CLAIM: &[Column] = &[NAME, computed("State", |o, _| claim_state(o).into()), AGE];

pub(super) const RESOURCE_SLICE: &[Column] = &[
    NAME,
    text("Node", &["spec", "nodeName"]),
    text("Driver", &["spec", "driver"]),
    text("Pool", &["spec", "pool", "name"]),
    AGE,
];

pub(super) const DEVICE_TAINT_RULE: &[Column] = &[
    NAME,
    text("Key", &["spec", "taint", "key"]),
    text("Value", &["spec", "taint", "value"]),
    text("Effect", &["spec", "taint", "effect"]),
    computed("TimeAdded", |o, now| match o.str_at(&["spec", "taint", "timeAdded"]) {
        "" => "".into(),
        time => age(time, now).into(),
    }),
    AGE,
];

pub(super) const STORAGE_VERSION_MIGRATION: &[Column] = &[
    NAME,
    computed("Resource", |o, _| {
        let part = |field| o.str_at(&["spec", "resource", field]);
        format!("{}.{}.{}", part("resource"), part("version"), part("group")).into()
    }),
];

pub(super) const API_SERVICE: &[Column] = &[
    NAME,
    computed("Service", |o, _| match o.at(&["spec", "service"]) {
        Some(service) => format!("{}/{}", service.str_at(&["namespace"]), service.str_at(&["name"])).into(),
        None => "Local".into(),
    }),
    computed("Available", |o, _| api_service_available(o).into()),
    AGE,
];

fn api_service_available(object: &Value) -> String {
    let found =
        object.items_at(&["status", "conditions"]).iter().find(|c| c.str_at(&["type"]) == "Available");
    match found.map(|c| (c.str_at(&["status"]), c.str_at(&["reason"]))) {
        None => "Unknown".to_owned(),
        Some(("True", _)) => "True".to_owned(),
        Some((status, reason)) => format!("{status} ({reason})"),
    }
}

fn strings(items: &[Value]) -> Vec<String> {
    items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn join(items: &[Value], field: &str) -> Value {
    items.iter().map(|item| item.str_at(&[field])).collect::<Vec<_>>().join(",").into()
}

fn containers(object: &Value, field: &str) -> Value {
    join(object.items_at(&["spec", "template", "spec", "containers"]), field)
}

fn or_none(text: String) -> String {
    if text.is_empty() { NONE.to_owned() } else { text }
}

/// The first of these fields that is not empty.
pub(super) fn first_of<'a>(object: &'a Value, fields: &[&str]) -> &'a str {
    fields.iter().map(|f| object.str_at(&[f])).find(|s| !s.is_empty()).unwrap_or_default()
}

fn bool_text(value: Option<&Value>) -> &'static str {
    match value.and_then(Value::as_bool) {
        Some(true) => "True",
        Some(false) => "False",
        None => UNSET,
    }
}

/// The status of the condition of that type.
pub(super) fn condition<'a>(conditions: &'a [Value], wanted: &str) -> Option<&'a str> {
    conditions.iter().find(|c| c.str_at(&["type"]) == wanted).map(|c| c.str_at(&["status"]))
}

fn ready_of_desired(object: &Value, _now_ms: i64) -> Value {
    let number = |path: &[&str]| object.at(path).and_then(Value::as_i64).unwrap_or(0);
    format!("{}/{}", number(&["status", "readyReplicas"]), number(&["spec", "replicas"])).into()
}

/// `a=b,c=d`, sorted; `<none>` for none.
pub(super) fn format_labels(labels: Option<&Value>) -> String {
    let mut pairs: Vec<String> = labels
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Object::iter)
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.sort();
    or_none(pairs.join(","))
}

/// A label selector in the query form (`a=b,c in (d,e)`), sorted by key; `<none>` for an empty one.
pub(super) fn format_selector(selector: Option<&Value>) -> String {
    let Some(selector) = selector else { return NONE.to_owned() };
    let mut parts: Vec<(String, String)> = Vec::new();
    for (key, value) in
        selector.get("matchLabels").and_then(Value::as_object).into_iter().flat_map(Object::iter)
    {
        parts.push((key.to_string(), format!("{key}={}", value.as_str().unwrap_or_default())));
    }
    for requirement in selector.items_at(&["matchExpressions"]) {
        let key = requirement.str_at(&["key"]);
        let mut values = strings(requirement.items_at(&["values"]));
        values.sort();
        let text = match requirement.str_at(&["operator"]) {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        };
        parts.push((key.to_owned(), text));
    }
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    or_none(parts.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(","))
}

fn listed(all: Vec<String>) -> String {
    if all.is_empty() {
        return UNSET.to_owned();
    }
    list_with_more(&all)
}

fn list_with_more(all: &[String]) -> String {
    let shown = all.iter().take(LISTED_MAX).cloned().collect::<Vec<_>>().join(",");
    match all.len().saturating_sub(LISTED_MAX) {
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}

fn job_status(object: &Value, _now_ms: i64) -> Value {
    let conditions = object.items_at(&["status", "conditions"]);
    let has = |wanted| condition(conditions, wanted) == Some("True");
    let deleting = object.at(&["metadata", "deletionTimestamp"]).is_some();
    let status = match () {
        () if has("Complete") => "Complete",
        () if has("Failed") => "Failed",
        () if deleting => "Terminating",
        () if has("Suspended") => "Suspended",
        () if has("FailureTarget") => "FailureTarget",
        () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    };
    status.into()
}

fn job_completions(object: &Value, _now_ms: i64) -> Value {
    let number = |path: &[&str]| object.at(path).and_then(Value::as_i64);
    let succeeded = number(&["status", "succeeded"]).unwrap_or(0);
    match (number(&["spec", "completions"]), number(&["spec", "parallelism"]).unwrap_or(0)) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}").into(),
        (None, parallel) if parallel > 1 => format!("{succeeded}/1 of {parallel}").into(),
        (None, _) => format!("{succeeded}/1").into(),
    }
}

fn job_duration(object: &Value, now_ms: i64) -> Value {
    let time = |field| parse_ms(object.str_at(&["status", field]));
    match time("startTime") {
        None => "".into(),
        Some(start) => human_duration(time("completionTime").unwrap_or(now_ms) - start).into(),
    }
}

fn service_external_ip(object: &Value) -> String {
    let mut external = strings(object.items_at(&["spec", "externalIPs"]));
    match object.str_at(&["spec", "type"]) {
        "ClusterIP" | "NodePort" => or_none(external.join(",")),
        "LoadBalancer" => {
            let balanced = load_balancer(object);
            if !balanced.is_empty() {
                external.insert(0, balanced);
            }
            if external.is_empty() { "<pending>".to_owned() } else { external.join(",") }
        }
        "ExternalName" => object.str_at(&["spec", "externalName"]).to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn load_balancer(object: &Value) -> String {
    let ingress = object.items_at(&["status", "loadBalancer", "ingress"]);
    let mut all: Vec<&str> =
        ingress.iter().map(|i| first_of(i, &["ip", "hostname"])).filter(|s| !s.is_empty()).collect();
    all.sort_unstable();
    all.dedup();
    all.join(",")
}

fn service_ports(object: &Value) -> String {
    let ports = object.items_at(&["spec", "ports"]).iter().map(|port| {
        let number = |field| port.get(field).and_then(Value::as_i64).unwrap_or(0);
        let protocol = port.str_at(&["protocol"]);
        match number("nodePort") {
            0 => format!("{}/{protocol}", number("port")),
            node_port => format!("{}:{node_port}/{protocol}", number("port")),
        }
    });
    or_none(ports.collect::<Vec<_>>().join(","))
}

fn ingress_hosts(object: &Value) -> String {
    let rules = object.items_at(&["spec", "rules"]);
    let hosts: Vec<String> =
        rules.iter().map(|r| r.str_at(&["host"]).to_owned()).filter(|h| !h.is_empty()).collect();
    if hosts.is_empty() {
        return "*".to_owned();
    }
    match rules.len().saturating_sub(LISTED_MAX) {
        more if hosts.len() > LISTED_MAX => format!("{} + {more} more...", hosts[..LISTED_MAX].join(",")),
        _ => hosts.join(","),
    }
}

fn ingress_parameters(object: &Value) -> String {
    let Some(parameters) = object.at(&["spec", "parameters"]) else { return NONE.to_owned() };
    let (kind, name) = (parameters.str_at(&["kind"]), parameters.str_at(&["name"]));
    match parameters.get("apiGroup").and_then(Value::as_str) {
        Some(group) => format!("{kind}.{group}/{name}"),
        None => format!("{kind}/{name}"),
    }
}

fn parent_ref(object: &Value) -> String {
    let Some(parent) = object.at(&["spec", "parentRef"]) else { return NONE.to_owned() };
    let mut text = parent.str_at(&["resource"]).to_owned();
    if !parent.str_at(&["group"]).is_empty() {
        text = format!("{text}.{}", parent.str_at(&["group"]));
    }
    for field in ["namespace", "name"] {
        if field == "name" || !parent.str_at(&[field]).is_empty() {
            text = format!("{text}/{}", parent.str_at(&[field]));
        }
    }
    text.to_lowercase()
}

fn endpoints(object: &Value) -> String {
    let subsets = object.items_at(&["subsets"]);
    if subsets.is_empty() {
        return NONE.to_owned();
    }
    let mut all = Vec::new();
    for subset in subsets {
        let addresses = subset.items_at(&["addresses"]);
        let ips = || addresses.iter().map(|a| a.str_at(&["ip"]));
        let ports = subset.items_at(&["ports"]);
        if ports.is_empty() {
            all.extend(ips().map(str::to_owned));
        }
        for port in ports.iter().map(|p| p.get("port").and_then(Value::as_i64).unwrap_or(0)) {
            all.extend(
                ips().map(
                    |ip| if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") },
                ),
            );
        }
    }
    list_with_more(&all)
}

fn slice_ports(object: &Value) -> String {
    let ports =
        object.items_at(&["ports"]).iter().map(|port| match port.get("port").and_then(Value::as_i64) {
            Some(number) => number.to_string(),
            None => port.get("name").and_then(Value::as_str).unwrap_or("*").to_owned(),
        });
    listed(ports.collect())
}

fn node_status(object: &Value) -> String {
    let mut status = match condition(object.items_at(&["status", "conditions"]), "Ready") {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if object.at(&["spec", "unschedulable"]).and_then(Value::as_bool) == Some(true) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_roles(object: &Value) -> String {
    let labels = object.at(&["metadata", "labels"]).and_then(Value::as_object);
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in labels.into_iter().flat_map(Object::iter) {
        match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => roles.push(role),
            None if key == "kubernetes.io/role" => roles.extend(value.as_str().filter(|v| !v.is_empty())),
            _ => {}
        }
    }
    roles.sort_unstable();
    roles.dedup();
    or_none(roles.join(","))
}

fn node_address<'a>(object: &'a Value, wanted: &str) -> &'a str {
    let addresses = object.items_at(&["status", "addresses"]);
    addresses.iter().find(|a| a.str_at(&["type"]) == wanted).map_or(NONE, |a| a.str_at(&["address"]))
}

fn node_info<'a>(object: &'a Value, field: &str) -> &'a str {
    match object.str_at(&["status", "nodeInfo", field]) {
        "" => "<unknown>",
        text => text,
    }
}

/// The object an event is about, in the words of core or of events.k8s.io.
fn event_ref(object: &Value) -> Option<&Value> {
    object.get("involvedObject").or_else(|| object.get("regarding"))
}

fn event_object(object: &Value) -> String {
    let about = event_ref(object);
    let part = |field: &str| about.map_or("", |a| a.str_at(&[field]));
    let kind = part("kind").to_lowercase();
    if part("name").is_empty() { kind } else { format!("{kind}/{}", part("name")) }
}

fn event_source(object: &Value) -> String {
    let source = object.get("source").or_else(|| object.get("deprecatedSource"));
    let part = |field: &str| source.map_or("", |s| s.str_at(&[field]));
    let or = |a: &str, b: &str| if a.is_empty() { b.to_owned() } else { a.to_owned() };
    let component = or(part("component"), first_of(object, &["reportingComponent", "reportingController"]));
    let host = or(part("host"), object.str_at(&["reportingInstance"]));
    if host.is_empty() { component } else { format!("{component}, {host}") }
}

fn event_first_seen(object: &Value, now_ms: i64) -> String {
    age(first_of(object, &["firstTimestamp", "deprecatedFirstTimestamp", "eventTime"]), now_ms)
}

fn event_last_seen(object: &Value, now_ms: i64) -> String {
    if let Some(series) = object.get("series").filter(|s| !s.is_null()) {
        return age(series.str_at(&["lastObservedTime"]), now_ms);
    }
    match first_of(object, &["lastTimestamp", "deprecatedLastTimestamp"]) {
        "" => event_first_seen(object, now_ms),
        time => age(time, now_ms),
    }
}

fn event_count(object: &Value) -> i64 {
    let series = object.at(&["series", "count"]).and_then(Value::as_i64);
    let count = || object.get("count").or_else(|| object.get("deprecatedCount")).and_then(Value::as_i64);
    series.unwrap_or_else(|| count().filter(|n| *n != 0).unwrap_or(1))
}

fn phase(object: &Value) -> &str {
    match object.at(&["metadata", "deletionTimestamp"]) {
        Some(_) => "Terminating",
        None => object.str_at(&["status", "phase"]),
    }
}

fn access_modes(modes: &[Value]) -> String {
    let known = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |mode: &str| modes.iter().any(|m| m.as_str() == Some(mode));
    known.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

fn subjects(object: &Value, kind: &str) -> String {
    let all = object.items_at(&["subjects"]).iter().filter(|s| s.str_at(&["kind"]) == kind).map(|subject| {
        let name = subject.str_at(&["name"]);
        match (kind, subject.str_at(&["namespace"])) {
            ("ServiceAccount", namespace) if !namespace.is_empty() => format!("{namespace}/{name}"),
            _ => name.to_owned(),
        }
    });
    all.collect::<Vec<_>>().join(", ")
}

fn csr_status(object: &Value) -> String {
    let has = |wanted| condition(object.items_at(&["status", "conditions"]), wanted).is_some();
    let mut status = match () {
        () if has("Denied") => "Denied",
        () if has("Approved") => "Approved",
        () => "Pending",
    }
    .to_owned();
    if has("Failed") {
        status.push_str(",Failed");
    }
    if !object.str_at(&["status", "certificate"]).is_empty() {
        status.push_str(",Issued");
    }
    status
}

fn controller_name(object: &Value) -> String {
    let owners = object.items_at(&["metadata", "ownerReferences"]);
    let Some(owner) = owners.iter().find(|o| o.get("controller").and_then(Value::as_bool) == Some(true))
    else {
        return NONE.to_owned();
    };
    let kind = owner.str_at(&["kind"]).to_lowercase();
    match owner.str_at(&["apiVersion"]).split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{}", owner.str_at(&["name"])),
        None => format!("{kind}/{}", owner.str_at(&["name"])),
    }
}

fn quota(object: &Value, limits: bool) -> String {
    let hard = object.at(&["status", "hard"]).and_then(Value::as_object);
    let used = |name: &str| object.at(&["status", "used", name]).and_then(Value::as_str).unwrap_or("0");
    let mut lines: Vec<String> = hard
        .into_iter()
        .flat_map(Object::iter)
        .filter(|(name, _)| name.starts_with("limits.") == limits)
        .map(|(name, hard)| format!("{name}: {}/{}", used(name), hard.as_str().unwrap_or("0")))
        .collect();
    lines.sort();
    lines.join(", ")
}

fn param_ref(param: Option<&Value>) -> String {
    let Some(param) = param else { return UNSET.to_owned() };
    match (param.str_at(&["name"]), param.str_at(&["namespace"])) {
        ("", _) => format_selector(param.get("selector")),
        (name, "") => format!("*/{name}"),
        (name, namespace) => format!("{namespace}/{name}"),
    }
}

fn claim_state(object: &Value) -> String {
    let deleted = object.at(&["metadata", "deletionTimestamp"]).is_some();
    let allocated = object.at(&["status", "allocation"]).is_some();
    let mut states = Vec::new();
    states.extend(deleted.then_some("deleted"));
    states.extend((!allocated && !deleted).then_some("pending"));
    states.extend(allocated.then_some("allocated"));
    states
        .extend((allocated && !object.items_at(&["status", "reservedFor"]).is_empty()).then_some("reserved"));
    states.join(",")
}

/// Metrics of an autoscaler: two at most, `current/target` each.
fn hpa_metrics(object: &Value) -> String {
    let specs = object.items_at(&["spec", "metrics"]);
    let current = object.items_at(&["status", "currentMetrics"]);
    let all: Vec<String> =
        specs.iter().enumerate().map(|(i, spec)| hpa_metric(spec, current.get(i))).collect();
    match all.len() {
        0 => NONE.to_owned(),
        1 | 2 => all.join(", "),
        n => format!("{} + {} more...", all[..2].join(", "), n - 2),
    }
}

fn hpa_metric(spec: &Value, status: Option<&Value>) -> String {
    let (source, named) = match spec.str_at(&["type"]) {
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".to_owned(),
    };
    let target = |field| spec.at(&[source, "target", field]).and_then(Value::as_str);
    let now = |field| status.and_then(|s| s.at(&[source, "current", field])).and_then(Value::as_str);
    let unknown = "<unknown>";
    if named {
        let name = spec.str_at(&[source, "name"]);
        if let Some(wanted) = target("averageValue") {
            return format!("{name}: {}/{wanted}", now("averageValue").unwrap_or(unknown));
        }
        let percent = |value: Option<&Value>, missing: &str| match value.and_then(Value::as_i64) {
            Some(n) => format!("{n}%"),
            None => missing.to_owned(),
        };
        let current = status.and_then(|s| s.at(&[source, "current", "averageUtilization"]));
        let wanted = spec.at(&[source, "target", "averageUtilization"]);
        return format!("cpu: {}/{}", percent(current, unknown), percent(wanted, "<auto>"))
            .replacen("cpu", name, 1);
    }
    match (source, target("averageValue")) {
        ("pods", wanted) => format!("{}/{}", now("averageValue").unwrap_or(unknown), wanted.unwrap_or("0")),
        (_, Some(wanted)) => format!("{}/{wanted} (avg)", now("averageValue").unwrap_or(unknown)),
        (_, None) => format!("{}/{}", now("value").unwrap_or(unknown), target("value").unwrap_or("0")),
    }
}
