//! Who may do what: the authorisers of the configuration are asked in their order, and the first that allows settles it. Members of
//! `system:masters` may do everything in every mode.

mod mode;
mod node;
pub(crate) mod rbac;
#[cfg(test)]
mod tests;

use corten_api::{GroupResource, Result, Status};

use crate::ApiServer;
use crate::authz::rbac::{Policy, Rule};
use crate::request::RequestInfo;
use crate::user::{MASTERS, User};

pub use mode::{DEFAULT_MODES, Mode};

/// Paths that need no permission, as upstream's `--authorization-always-allow-paths` has them.
const ALWAYS_ALLOWED: [&str; 3] = ["/healthz", "/readyz", "/livez"];

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

    /// `reason` is what the authorisers have against it, `""` for nothing that a rule would not say.
    fn denied(&self, user: &User, reason: &str) -> Box<Status> {
        let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        let Some(path) = &self.path else {
            let place = match self.namespace.as_str() {
                "" => "at the cluster scope".to_owned(),
                ns => format!("in the namespace \"{ns}\""),
            };
            let why = format!(
                "User \"{}\" cannot {} resource \"{}\" in API group \"{}\" {place}",
                user.name,
                self.verb,
                self.full_resource(),
                self.group
            );
            let of = GroupResource { group: &self.group, resource: &self.resource };
            return Status::forbidden(of, &self.name, &format!("{}{because}", sanitised(&why)));
        };
        let mut status = Status::forbidden(GroupResource { group: "", resource: "" }, "", "");
        let why = format!("User \"{}\" cannot {} path \"{path}\"", user.name, self.verb);
        status.message = format!("forbidden: {}{because}", sanitised(&why));
        status
    }
}

/// What a client sent must not come back as HTML.
fn sanitised(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// What somebody may do, as far as the authorisers can list it.
pub(crate) struct Rules {
    pub rules: Vec<Rule>,
    /// An authoriser cannot list its own.
    pub incomplete: bool,
    pub error: String,
}

impl ApiServer {
    /// Lets the request through or not; with the reason for yes.
    ///
    /// Errors: 403 in upstream's words.
    pub(crate) async fn authorise(&self, user: &User, attributes: &Attributes) -> Result<String> {
        if attributes.path.as_deref().is_some_and(|path| ALWAYS_ALLOWED.contains(&path)) {
            return Ok(String::new());
        }
        self.decide(user, attributes).await.map_err(|reason| attributes.denied(user, &reason))
    }

    /// The decision alone, with its reason.
    pub(crate) async fn decide(&self, user: &User, attributes: &Attributes) -> Result<String, String> {
        if user.is_in(MASTERS) {
            return Ok(String::new());
        }
        let mut reasons = Vec::new();
        for mode in &self.config().authorization {
            match self.decide_by(*mode, user, attributes).await {
                Ok(reason) => return Ok(reason),
                Err(reason) if reason.is_empty() => {}
                Err(reason) => reasons.push(format!("{}: {reason}", mode.name().to_lowercase())),
            }
        }
        Err(reasons.join("\n"))
    }

    async fn decide_by(&self, mode: Mode, user: &User, a: &Attributes) -> Result<String, String> {
        match mode {
            Mode::AlwaysAllow => Ok(String::new()),
            Mode::AlwaysDeny => Err("Everything is forbidden.".to_owned()),
            Mode::Node => match user.node_name() {
                Some(node) => self.node_may(node, a).await.map(|()| String::new()),
                None => Err(String::new()),
            },
            Mode::Rbac => {
                self.policy(|p| p.decide(user, a)).await.unwrap_or_else(|status| Err(status.message))
            }
        }
    }

    /// Asks the roles and bindings as they stand now.
    ///
    /// Errors: the store cannot be read.
    pub(crate) async fn policy<T>(&self, question: impl Fn(&Policy) -> T) -> Result<T> {
        self.rbac().ask(self.config().store.as_ref(), question).await
    }

    /// What the user may do in the namespace.
    pub(crate) async fn rules_for(&self, user: &User, namespace: &str) -> Result<Rules> {
        let mut found = Rules { rules: Vec::new(), incomplete: false, error: String::new() };
        let mut errors = Vec::new();
        for mode in &self.config().authorization {
            match mode {
                Mode::AlwaysAllow => found.rules.extend(Rule::full_authority()),
                Mode::AlwaysDeny => {}
                Mode::Node => {
                    if user.node_name().is_some() {
                        found.incomplete = true;
                        errors.push("node authorizer does not support user rule resolution".to_owned());
                    }
                }
                Mode::Rbac => {
                    let (rules, error) = self.policy(|p| p.rules_for(user, namespace)).await?;
                    found.rules.extend(rules);
                    errors.extend(error);
                }
            }
        }
        found.error = match errors.as_slice() {
            [one] => one.clone(),
            [] => String::new(),
            many => format!("[{}]", many.join(", ")),
        };
        Ok(found)
    }
}
