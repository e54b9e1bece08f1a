//! One row a built-in kind of Kubernetes 1.37: everything generally available (beta groups are off by default upstream).

use super::row::{Row, RowVersion, cluster, namespaced, review};
use super::{
    autoscaling, batch, certificate, columns, config, crd, csi, devices, endpoints, event, flow, limit_range,
    migration, namespace, networking, node, plain, pod, quota, rbac, service, storage, trust, webhook,
    workload,
};
use crate::kind::{Subresource, Verb};

const NO_COLLECTION_DELETE: &[Verb] =
    &[Verb::Create, Verb::Delete, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch];
const READ: &[Verb] = &[Verb::Get, Verb::List];
const PROXY_VERBS: &[&str] = &["create", "delete", "get", "patch", "update"];
const STREAM_VERBS: &[&str] = &["create", "get"];
const WRITE_VERBS: &[&str] = &["get", "patch", "update"];

const fn scale(selector: &'static [&'static str]) -> Subresource {
    Subresource::Scale {
        spec_replicas: &["spec", "replicas"],
        status_replicas: &["status", "replicas"],
        selector,
    }
}

const SCALE_AND_STATUS: &[Subresource] = &[scale(&["spec", "selector"]), Subresource::Status];

const POD_SUBRESOURCES: &[Subresource] = &[
    Subresource::Connect { name: "attach", kind: "PodAttachOptions", verbs: STREAM_VERBS },
    Subresource::Action { name: "binding", body: ("", "v1", "Binding") },
    Subresource::Object { name: "ephemeralcontainers", verbs: WRITE_VERBS },
    Subresource::Action { name: "eviction", body: ("policy", "v1", "Eviction") },
    Subresource::Connect { name: "exec", kind: "PodExecOptions", verbs: STREAM_VERBS },
    Subresource::Connect { name: "log", kind: "Pod", verbs: &["get"] },
    Subresource::Connect { name: "portforward", kind: "PodPortForwardOptions", verbs: STREAM_VERBS },
    Subresource::Connect { name: "proxy", kind: "PodProxyOptions", verbs: PROXY_VERBS },
    Subresource::Object { name: "resize", verbs: WRITE_VERBS },
    Subresource::Status,
];
const NODE_SUBRESOURCES: &[Subresource] = &[
    Subresource::Connect { name: "proxy", kind: "NodeProxyOptions", verbs: PROXY_VERBS },
    Subresource::Status,
];
const SERVICE_SUBRESOURCES: &[Subresource] = &[
    Subresource::Connect { name: "proxy", kind: "ServiceProxyOptions", verbs: PROXY_VERBS },
    Subresource::Status,
];
const NAMESPACE_SUBRESOURCES: &[Subresource] =
    &[Subresource::Object { name: "finalize", verbs: &["update"] }, Subresource::Status];
const TOKEN: &[Subresource] =
    &[Subresource::Action { name: "token", body: ("authentication.k8s.io", "v1", "TokenRequest") }];
const APPROVAL: &[Subresource] =
    &[Subresource::Object { name: "approval", verbs: WRITE_VERBS }, Subresource::Status];

const HPA_VERSIONS: &[RowVersion] = &[
    RowVersion { name: "v2", storage: true, convert: None },
    RowVersion { name: "v1", storage: false, convert: Some(autoscaling::V1) },
];
const EVENT_VERSIONS: &[RowVersion] =
    &[RowVersion { name: "v1", storage: true, convert: Some(event::CONVERSION) }];

const POD_FIELDS: &[&str] = &[
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.podIPs",
    "status.nominatedNodeName",
];
const CORE_EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];
const EVENT_FIELDS: &[&str] = &[
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingController",
    "type",
];

const APIREGISTRATION: &str = "apiregistration.k8s.io";
const APPS: &str = "apps";
const EVENTS: &str = "events.k8s.io";
const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";
const AUTOSCALING: &str = "autoscaling";
const BATCH: &str = "batch";
const CERTIFICATES: &str = "certificates.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const POLICY: &str = "policy";
const RBAC: &str = "rbac.authorization.k8s.io";
const STORAGE: &str = "storage.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";
const APIEXTENSIONS: &str = "apiextensions.k8s.io";
const SCHEDULING: &str = "scheduling.k8s.io";
const COORDINATION: &str = "coordination.k8s.io";
const NODE: &str = "node.k8s.io";
const DISCOVERY: &str = "discovery.k8s.io";
const RESOURCE: &str = "resource.k8s.io";
const FLOWCONTROL: &str = "flowcontrol.apiserver.k8s.io";
const MIGRATION: &str = "storagemigration.k8s.io";

/// Every built-in kind, groups in discovery's order, resources of a group by name.
#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    namespaced("", "Binding", "bindings").verbs(Verb::CREATE_ONLY),
    cluster("", "ComponentStatus", "componentstatuses").columns(columns::COMPONENT_STATUS).short(&["cs"]).verbs(READ),
    namespaced("", "ConfigMap", "configmaps").hooks(config::CONFIG_MAP).columns(columns::CONFIG_MAP).short(&["cm"]),
    namespaced("", "Endpoints", "endpoints").hooks(endpoints::ENDPOINTS).columns(columns::ENDPOINTS).short(&["ep"]).prefix("services/endpoints").create_on_update(),
    namespaced("", "Event", "events").hooks(event::HOOKS).columns(columns::EVENT).short(&["ev"]).selectable(CORE_EVENT_FIELDS).create_on_update(),
    namespaced("", "LimitRange", "limitranges").hooks(limit_range::LIMIT_RANGE).short(&["limits"]).create_on_update(),
    cluster("", "Namespace", "namespaces").hooks(namespace::HOOKS).columns(columns::NAMESPACE).short(&["ns"]).verbs(NO_COLLECTION_DELETE)
        .subresources(NAMESPACE_SUBRESOURCES).selectable(&["status.phase"]),
    cluster("", "Node", "nodes").hooks(node::HOOKS).columns(columns::NODE).short(&["no"]).subresources(NODE_SUBRESOURCES).keeps_status().prefix("minions")
        .selectable(&["spec.unschedulable"]),
    namespaced("", "PersistentVolumeClaim", "persistentvolumeclaims").hooks(storage::CLAIM).columns(columns::PERSISTENT_VOLUME_CLAIM).short(&["pvc"]).status(),
    cluster("", "PersistentVolume", "persistentvolumes").hooks(storage::VOLUME).columns(columns::PERSISTENT_VOLUME).short(&["pv"]).status(),
    namespaced("", "Pod", "pods").columns(pod::COLUMNS).hooks(pod::HOOKS).short(&["po"]).all().subresources(POD_SUBRESOURCES).selectable(POD_FIELDS).generation(),
    namespaced("", "PodTemplate", "podtemplates").hooks(workload::POD_TEMPLATE).columns(columns::POD_TEMPLATE).generation().create_on_update(),
    namespaced("", "ReplicationController", "replicationcontrollers").hooks(workload::REPLICATION_CONTROLLER).columns(columns::REPLICATION_CONTROLLER).short(&["rc"]).all().prefix("controllers")
        .subresources(SCALE_AND_STATUS).selectable(&["status.replicas"]).generation(),
    namespaced("", "ResourceQuota", "resourcequotas").hooks(quota::RESOURCE_QUOTA).columns(columns::RESOURCE_QUOTA).short(&["quota"]).status(),
    namespaced("", "Secret", "secrets").hooks(config::SECRET).columns(columns::SECRET).selectable(&["type"]),
    namespaced("", "ServiceAccount", "serviceaccounts").hooks(config::SERVICE_ACCOUNT).columns(columns::SERVICE_ACCOUNT).short(&["sa"]).subresources(TOKEN),
    namespaced("", "Service", "services").hooks(service::SERVICE).columns(columns::SERVICE).short(&["svc"]).all().subresources(SERVICE_SUBRESOURCES)
        .prefix("services/specs").selectable(&["spec.clusterIP", "spec.type"]).create_on_update(),

    cluster(APIREGISTRATION, "APIService", "apiservices").hooks(plain::API_SERVICE).columns(columns::API_SERVICE).extension().status().prefix("apiregistration.k8s.io/apiservices")
        .conditional(),

    namespaced(APPS, "ControllerRevision", "controllerrevisions").hooks(config::CONTROLLER_REVISION).columns(columns::CONTROLLER_REVISION),
    namespaced(APPS, "DaemonSet", "daemonsets").hooks(workload::DAEMON_SET).columns(columns::DAEMON_SET).short(&["ds"]).all().status().generation(),
    namespaced(APPS, "Deployment", "deployments").hooks(workload::DEPLOYMENT).columns(columns::DEPLOYMENT).short(&["deploy"]).all().subresources(SCALE_AND_STATUS).generation(),
    namespaced(APPS, "ReplicaSet", "replicasets").hooks(workload::REPLICA_SET).columns(columns::REPLICA_SET).short(&["rs"]).all().subresources(SCALE_AND_STATUS)
        .generation(),
    namespaced(APPS, "StatefulSet", "statefulsets").hooks(batch::STATEFUL_SET).columns(columns::STATEFUL_SET).short(&["sts"]).all().subresources(SCALE_AND_STATUS).generation(),

    namespaced(EVENTS, "Event", "events").hooks(event::STRICT).columns(columns::EVENT).short(&["ev"]).selectable(EVENT_FIELDS).create_on_update()
        .stored_as("", "events").versions(EVENT_VERSIONS),

    review(AUTHENTICATION, "SelfSubjectReview", "selfsubjectreviews"),
    review(AUTHENTICATION, "TokenReview", "tokenreviews"),

    namespaced(AUTHORIZATION, "LocalSubjectAccessReview", "localsubjectaccessreviews").verbs(Verb::CREATE_ONLY),
    review(AUTHORIZATION, "SelfSubjectAccessReview", "selfsubjectaccessreviews"),
    review(AUTHORIZATION, "SelfSubjectRulesReview", "selfsubjectrulesreviews"),
    review(AUTHORIZATION, "SubjectAccessReview", "subjectaccessreviews"),

    namespaced(AUTOSCALING, "HorizontalPodAutoscaler", "horizontalpodautoscalers").hooks(autoscaling::HOOKS).columns(columns::HORIZONTAL_POD_AUTOSCALER).short(&["hpa"]).all().status().generation()
        .versions(HPA_VERSIONS),

    namespaced(BATCH, "CronJob", "cronjobs").hooks(batch::CRON_JOB).columns(columns::CRON_JOB).short(&["cj"]).all().status().generation(),
    namespaced(BATCH, "Job", "jobs").hooks(batch::JOB).columns(columns::JOB).all().status().selectable(&["status.successful"]).generation(),

    cluster(CERTIFICATES, "CertificateSigningRequest", "certificatesigningrequests").hooks(certificate::SIGNING_REQUEST).columns(columns::CERTIFICATE_SIGNING_REQUEST).short(&["csr"])
        .subresources(APPROVAL).selectable(&["spec.signerName"]),
    cluster(CERTIFICATES, "ClusterTrustBundle", "clustertrustbundles").hooks(trust::BUNDLE).columns(columns::CLUSTER_TRUST_BUNDLE).selectable(&["spec.signerName"]).conditional(),
    namespaced(CERTIFICATES, "PodCertificateRequest", "podcertificaterequests").hooks(trust::REQUEST).columns(columns::POD_CERTIFICATE_REQUEST).status()
        .selectable(&["spec.signerName", "spec.podName", "spec.nodeName"]).conditional(),

    cluster(NETWORKING, "IngressClass", "ingressclasses").hooks(networking::INGRESS_CLASS).columns(columns::INGRESS_CLASS).generation(),
    namespaced(NETWORKING, "Ingress", "ingresses").hooks(networking::INGRESS).columns(columns::INGRESS).short(&["ing"]).status().prefix("ingress").generation(),
    cluster(NETWORKING, "IPAddress", "ipaddresses").hooks(networking::IP_ADDRESS).columns(columns::IP_ADDRESS).short(&["ip"]),
    namespaced(NETWORKING, "NetworkPolicy", "networkpolicies").hooks(networking::NETWORK_POLICY).columns(columns::NETWORK_POLICY).short(&["netpol"]).generation(),
    cluster(NETWORKING, "ServiceCIDR", "servicecidrs").hooks(networking::SERVICE_CIDR).columns(columns::SERVICE_CIDR).status(),

    namespaced(POLICY, "PodDisruptionBudget", "poddisruptionbudgets").hooks(quota::DISRUPTION_BUDGET).columns(columns::POD_DISRUPTION_BUDGET).short(&["pdb"]).status().generation().conditional(),

    cluster(RBAC, "ClusterRoleBinding", "clusterrolebindings").hooks(rbac::CLUSTER_ROLE_BINDING).columns(columns::ROLE_BINDING).create_on_update(),
    cluster(RBAC, "ClusterRole", "clusterroles").hooks(rbac::CLUSTER_ROLE).create_on_update(),
    namespaced(RBAC, "RoleBinding", "rolebindings").hooks(rbac::ROLE_BINDING).columns(columns::ROLE_BINDING).create_on_update(),
    namespaced(RBAC, "Role", "roles").hooks(rbac::ROLE).create_on_update(),

    cluster(STORAGE, "CSIDriver", "csidrivers").hooks(csi::DRIVER).columns(columns::CSI_DRIVER).generation().conditional(),
    cluster(STORAGE, "CSINode", "csinodes").hooks(csi::NODE).columns(columns::CSI_NODE).status().conditional(),
    namespaced(STORAGE, "CSIStorageCapacity", "csistoragecapacities").hooks(csi::CAPACITY).columns(columns::CSI_STORAGE_CAPACITY).conditional(),
    cluster(STORAGE, "StorageClass", "storageclasses").hooks(storage::CLASS).columns(columns::STORAGE_CLASS).short(&["sc"]),
    cluster(STORAGE, "VolumeAttachment", "volumeattachments").hooks(csi::ATTACHMENT).columns(columns::VOLUME_ATTACHMENT).status().conditional(),
    cluster(STORAGE, "VolumeAttributesClass", "volumeattributesclasses").hooks(csi::ATTRIBUTES).columns(columns::VOLUME_ATTRIBUTES_CLASS).short(&["vac"]),

    cluster(ADMISSION, "MutatingAdmissionPolicy", "mutatingadmissionpolicies").hooks(plain::ADMISSION_POLICY).columns(columns::MUTATING_POLICY).extension().generation().conditional(),
    cluster(ADMISSION, "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings").hooks(plain::POLICY_BINDING).columns(columns::POLICY_BINDING).extension().generation()
        .conditional(),
    cluster(ADMISSION, "MutatingWebhookConfiguration", "mutatingwebhookconfigurations").hooks(webhook::MUTATING).columns(columns::WEBHOOKS).extension().generation()
        .conditional(),
    cluster(ADMISSION, "ValidatingAdmissionPolicy", "validatingadmissionpolicies").hooks(plain::ADMISSION_POLICY).columns(columns::VALIDATING_POLICY).extension().status().generation()
        .conditional(),
    cluster(ADMISSION, "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings").hooks(plain::POLICY_BINDING).columns(columns::POLICY_BINDING).extension().generation()
        .conditional(),
    cluster(ADMISSION, "ValidatingWebhookConfiguration", "validatingwebhookconfigurations").hooks(webhook::VALIDATING).columns(columns::WEBHOOKS).extension().generation()
        .conditional(),

    cluster(APIEXTENSIONS, "CustomResourceDefinition", "customresourcedefinitions").hooks(crd::HOOKS).short(&["crd", "crds"]).extension()
        .status().prefix("apiextensions.k8s.io/customresourcedefinitions").generation().conditional(),

    cluster(SCHEDULING, "PriorityClass", "priorityclasses").hooks(quota::PRIORITY_CLASS).columns(columns::PRIORITY_CLASS).short(&["pc"]).generation(),

    namespaced(COORDINATION, "Lease", "leases").hooks(quota::LEASE).columns(columns::LEASE).create_on_update().conditional(),

    cluster(NODE, "RuntimeClass", "runtimeclasses").hooks(quota::RUNTIME_CLASS).columns(columns::RUNTIME_CLASS).conditional(),

    namespaced(DISCOVERY, "EndpointSlice", "endpointslices").hooks(endpoints::ENDPOINT_SLICE).columns(columns::ENDPOINT_SLICE).generation(),

    cluster(RESOURCE, "DeviceClass", "deviceclasses").hooks(devices::CLASS).columns(columns::NAME_AND_AGE).generation(),
    cluster(RESOURCE, "DeviceTaintRule", "devicetaintrules").hooks(devices::TAINT_RULE).columns(columns::DEVICE_TAINT_RULE).status().generation().conditional(),
    namespaced(RESOURCE, "ResourceClaim", "resourceclaims").hooks(devices::CLAIM).columns(columns::RESOURCE_CLAIM).status(),
    namespaced(RESOURCE, "ResourceClaimTemplate", "resourceclaimtemplates").hooks(devices::TEMPLATE).columns(columns::NAME_AND_AGE),
    cluster(RESOURCE, "ResourceSlice", "resourceslices").hooks(devices::SLICE).columns(columns::RESOURCE_SLICE).selectable(&["spec.nodeName", "spec.driver", "spec.pool.name"]).generation(),

    cluster(FLOWCONTROL, "FlowSchema", "flowschemas").hooks(flow::FLOW_SCHEMA).columns(columns::FLOW_SCHEMA).status().generation(),
    cluster(FLOWCONTROL, "PriorityLevelConfiguration", "prioritylevelconfigurations").hooks(flow::PRIORITY_LEVEL).columns(columns::PRIORITY_LEVEL).status().generation(),

    cluster(MIGRATION, "StorageVersionMigration", "storageversionmigrations").hooks(migration::HOOKS).columns(columns::STORAGE_VERSION_MIGRATION).status().conditional(),
];
