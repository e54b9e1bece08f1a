//! Who may do what. In this stage fixed rows in the form of upstream's bootstrap roles; RBAC objects will add rows.

mod node;
mod rows;

use corten_api::{GroupResource, Result, Status};

use crate::ApiServer;
use crate::request::RequestInfo;
use crate::user::{MASTERS, User};

pub use rows::{Rule, rules_of};

/// What is asked of the authoriser.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `get`, `list`, …
    pub verb: String,
    /// Namespace, `""` for none or all.
    pub namespace: String,
    /// API group.
    pub group: String,
    /// Plural resource.
    pub resource: String,
    /// Subresource, `""` for none.
    pub subresource: String,
    /// Object name, `""` for none or all.
    pub name: String,
    /// Path of a request that is about no resource.
    pub path: Option<String>,
    /// Value of `spec.nodeName=` in the field selector, if any.
    pub selected_node: Option<String>,
}

impl Attributes {
    /// Of a request.
    pub fn of(info: &RequestInfo, field_selector: &str) -> Self {
        let selected_node = field_selector.split(',').find_map(|t| t.trim().strip_prefix("spec.nodeName="));
        Attributes {
            verb: info.verb.to_owned(),
            namespace: info.namespace.clone(),
            group: info.group.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            name: info.name.clone(),
            path: (!info.is_resource).then(|| info.path.clone()),
            selected_node: selected_node.map(|n| n.trim_start_matches('=').to_owned()),
        }
    }

    /// `pods/log`, as rules name it.
    pub fn full_resource(&self) -> String {
        match self.subresource.as_str() {
            "" => self.resource.clone(),
            sub => format!("{}/{sub}", self.resource),
        }
    }

    /// `reason` is what the node authoriser has against it, `""` for nothing that a rule would not say.
    fn denied(&self, user: &User, reason: &str) -> Box<Status> {
        let none = GroupResource { group: "", resource: "" };
        let Some(path) = &self.path else {
            let place = match self.namespace.as_str() {
                "" => "at the cluster scope".to_owned(),
                ns => format!("in the namespace \"{ns}\""),
            };
            let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            let why = format!(
                "User \"{}\" cannot {} resource \"{}\" in API group \"{}\" {place}{reason}",
                user.name,
                self.verb,
                self.full_resource(),
                self.group
            );
            let of = GroupResource { group: &self.group, resource: &self.resource };
            return Status::forbidden(of, &self.name, &why);
        };
        let mut status = Status::forbidden(none, "", "");
        status.message = format!("forbidden: User \"{}\" cannot {} path \"{path}\"", user.name, self.verb);
        status
    }
}

impl ApiServer {
    /// Lets the request through or not.
    ///
    /// Errors: 403 in upstream's words.
    pub(crate) async fn authorise(&self, user: &User, attributes: &Attributes) -> Result<()> {
        self.decide(user, attributes).await.map_err(|reason| attributes.denied(user, &reason))
    }

    /// The decision alone, as access reviews want it.
    pub(crate) async fn is_allowed(&self, user: &User, attributes: &Attributes) -> bool {
        self.decide(user, attributes).await.is_ok()
    }

    async fn decide(&self, user: &User, attributes: &Attributes) -> Result<(), String> {
        if user.is_in(MASTERS) || rules_of(user).any(|rule| rule.allows(attributes)) {
            return Ok(());
        }
        match user.node_name() {
            Some(node) => self.node_may(node, attributes).await,
            None => Err(String::new()),
        }
    }
}
