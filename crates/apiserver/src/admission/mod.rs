//! Built-in admission: rows in upstream's order. Mutating rows change the candidate, validating rows only refuse it.
//! Webhooks and policies will be two more rows that read their rules from the store.

mod certificates;
mod ingress;
mod lifecycle;
mod limits;
mod node;
mod pods;
mod priority;
mod quota;
mod runtime_class;
mod service_account;

use corten_api::{Result, Status, Value};
use futures::future::BoxFuture;

pub use node::nodes_may_label;

use crate::ApiServer;
use crate::call::Call;

/// What happens to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// It is new.
    Create,
    /// It changes.
    Update,
    /// It is to go.
    Delete,
}

/// What admission may look at beside the object.
pub(crate) struct Attributes<'a> {
    /// For look-ups.
    pub server: &'a ApiServer,
    /// The request.
    pub call: &'a Call,
    /// What happens.
    pub operation: Operation,
    /// The stored object, if there is one.
    pub old: Option<&'a Value>,
}

impl Attributes<'_> {
    /// Is the request about this core resource and subresource?
    fn is(&self, resource: &str, subresource: &str) -> bool {
        self.call.kind.group.is_empty()
            && self.call.kind.plural == resource
            && self.call.info.subresource == subresource
    }

    /// 403 in the form of upstream's plugins.
    fn forbidden(&self, object: &Value, why: &str) -> Box<Status> {
        let name = match object.str_at(&["metadata", "name"]) {
            "" => object.str_at(&["metadata", "generateName"]),
            name => name,
        };
        Status::forbidden(self.call.resource(), name, why)
    }
}

type Mutate = for<'a> fn(&'a Attributes<'a>, &'a mut Value) -> BoxFuture<'a, Result<()>>;
type Validate = for<'a> fn(&'a Attributes<'a>, &'a Value) -> BoxFuture<'a, Result<()>>;

/// One row.
struct Plugin {
    /// Upstream's name.
    name: &'static str,
    /// Is the request any of its business? Cheap, so that most rows cost a comparison.
    wants: fn(&Attributes<'_>) -> bool,
    mutate: Option<Mutate>,
    validate: Option<Validate>,
}

const PLUGINS: &[Plugin] = &[
    Plugin {
        name: "NamespaceLifecycle",
        wants: lifecycle::wants,
        mutate: Some(lifecycle::mutate),
        validate: Some(lifecycle::validate),
    },
    Plugin {
        name: "LimitRanger",
        wants: limits::wants,
        mutate: Some(limits::mutate),
        validate: Some(limits::validate),
    },
    Plugin {
        name: "ServiceAccount",
        wants: service_account::wants,
        mutate: Some(service_account::mutate),
        validate: None,
    },
    Plugin {
        name: "CertificateRequestor",
        wants: certificates::wants,
        mutate: Some(certificates::mutate),
        validate: None,
    },
    Plugin { name: "NodeRestriction", wants: node::restricted, mutate: None, validate: Some(node::validate) },
    Plugin { name: "TaintNodesByCondition", wants: node::is_new, mutate: Some(node::taint), validate: None },
    Plugin { name: "Priority", wants: priority::wants, mutate: Some(priority::mutate), validate: None },
    Plugin {
        name: "DefaultTolerationSeconds",
        wants: pods::wants,
        mutate: Some(pods::tolerations),
        validate: None,
    },
    Plugin {
        name: "RuntimeClass",
        wants: runtime_class::wants,
        mutate: Some(runtime_class::mutate),
        validate: None,
    },
    Plugin {
        name: "CertificateApproval",
        wants: certificates::wants_approval,
        mutate: None,
        validate: Some(certificates::approve),
    },
    Plugin {
        name: "CertificateSigning",
        wants: certificates::wants_signature,
        mutate: None,
        validate: Some(certificates::issue),
    },
    Plugin {
        name: "CertificateSubjectRestriction",
        wants: certificates::is_new,
        mutate: None,
        validate: Some(certificates::subject),
    },
    Plugin {
        name: "DefaultIngressClass",
        wants: ingress::wants,
        mutate: Some(ingress::mutate),
        validate: None,
    },
    // Last: what is charged should be stored.
    Plugin { name: "ResourceQuota", wants: quota::wants, mutate: None, validate: Some(quota::validate) },
];

/// The names that upstream's flags know: plugins here, plugins whose work is done elsewhere here, and plugins that are missing.
pub const ADMISSION_PLUGINS: [&str; 39] = [
    "AlwaysAdmit",
    "AlwaysDeny",
    "AlwaysPullImages",
    "CertificateApproval",
    "CertificateSigning",
    "CertificateSubjectRestriction",
    "ClusterTrustBundleAttest",
    "DefaultIngressClass",
    "DefaultStorageClass",
    "DefaultTolerationSeconds",
    "DenyServiceExternalIPs",
    "EventRateLimit",
    "ExtendedResourceToleration",
    "ImagePolicyWebhook",
    "LimitPodHardAntiAffinityTopology",
    "LimitRanger",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionWebhook",
    "NamespaceAutoProvision",
    "NamespaceExists",
    "NamespaceLifecycle",
    "NodeDeclaredFeatureValidator",
    "NodeRestriction",
    "OwnerReferencesPermissionEnforcement",
    "PersistentVolumeClaimResize",
    "PodGroupProtection",
    "PodNodeSelector",
    "PodResizeValidator",
    "PodSecurity",
    "PodTolerationRestriction",
    "PodTopologyLabels",
    "Priority",
    "ResourceQuota",
    "RuntimeClass",
    "ServiceAccount",
    "StorageObjectInUseProtection",
    "TaintNodesByCondition",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionWebhook",
];

impl Plugin {
    fn acts(&self, attributes: &Attributes<'_>) -> bool {
        let disabled = &attributes.server.config().disabled_admission;
        (self.wants)(attributes) && !disabled.iter().any(|name| name == self.name)
    }
}

/// Runs the mutating rows in order.
///
/// Errors: the first refusal.
pub(crate) async fn mutate(attributes: &Attributes<'_>, object: &mut Value) -> Result<()> {
    for plugin in PLUGINS {
        let Some(mutate) = plugin.mutate else { continue };
        if plugin.acts(attributes) {
            tracing::trace!(plugin = plugin.name, "mutating admission");
            mutate(attributes, object).await?;
        }
    }
    Ok(())
}

/// Runs the validating rows in order. For a deletion `object` is the stored object.
///
/// Errors: the first refusal.
pub(crate) async fn validate(attributes: &Attributes<'_>, object: &Value) -> Result<()> {
    for plugin in PLUGINS {
        let Some(validate) = plugin.validate else { continue };
        if plugin.acts(attributes) {
            tracing::trace!(plugin = plugin.name, "validating admission");
            validate(attributes, object).await?;
        }
    }
    Ok(())
}
