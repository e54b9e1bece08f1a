//! The kinds that components know by type, each with its one reader and its one writer of JSON.
//!
//! A reader is tens of kilobytes of program, and a compiler that meets `K: DeserializeOwned` in five crates makes five. Here each is made
//! once, in this crate; whatever is generic over kinds asks for [`Object`] and calls it.

use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::api::autoscaling::v2 as autoscaling;
use k8s_openapi::api::batch::v1 as batch;
use k8s_openapi::api::certificates::v1 as certificates;
use k8s_openapi::api::coordination::v1 as coordination;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::api::policy::v1 as policy;
use k8s_openapi::api::rbac::v1 as rbac;
use kube::Resource;

/// An object of a kind that is known by type.
pub trait Object: Resource<DynamicType = ()> + Clone + Send + Sync + 'static {
    /// Reads one object.
    fn from_json(json: &[u8]) -> serde_json::Result<Self>;

    /// Writes one object.
    fn to_json(&self) -> serde_json::Result<Vec<u8>>;
}

macro_rules! objects {
    ($($kind:ty),* $(,)?) => {$(
        impl Object for $kind {
            fn from_json(json: &[u8]) -> serde_json::Result<Self> {
                serde_json::from_slice(json)
            }

            fn to_json(&self) -> serde_json::Result<Vec<u8>> {
                serde_json::to_vec(self)
            }
        }
    )*};
}

objects! {
    apps::ControllerRevision,
    apps::DaemonSet,
    apps::Deployment,
    apps::ReplicaSet,
    apps::StatefulSet,
    autoscaling::HorizontalPodAutoscaler,
    batch::CronJob,
    batch::Job,
    certificates::CertificateSigningRequest,
    certificates::ClusterTrustBundle,
    coordination::Lease,
    core::ConfigMap,
    core::Endpoints,
    core::Event,
    core::Namespace,
    core::Node,
    core::PersistentVolumeClaim,
    core::Pod,
    core::ReplicationController,
    core::ResourceQuota,
    core::Secret,
    core::Service,
    core::ServiceAccount,
    discovery::EndpointSlice,
    networking::IPAddress,
    networking::NetworkPolicy,
    networking::ServiceCIDR,
    policy::PodDisruptionBudget,
    rbac::ClusterRole,
}
