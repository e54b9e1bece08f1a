//! Nobody gives what he does not hold: checks on writes of roles and bindings, with upstream's ways around them (the verbs
//! `escalate` and `bind`, and the group `system:masters`).

use corten_api::{GroupResource, Object, Result, Status, Value};

use super::rule::{Rule, describe, missing, quoted};
use super::{GROUP, Table, bootstrap};
use crate::ApiServer;
use crate::authz::Attributes;
use crate::call::Call;
use crate::user::MASTERS;

/// What the garbage collector changes; a change of nothing else is no grant.
const COLLECTORS: [&str; 4] = ["ownerReferences", "finalizers", "managedFields", "selfLink"];

impl ApiServer {
    /// Checks a role or binding that is about to be stored; other kinds pass.
    ///
    /// Errors: 403 with what is missing; 404 for a binding to a role that is not there.
    pub(crate) async fn check_escalation(
        &self,
        call: &Call,
        object: &Value,
        old: Option<&Value>,
    ) -> Result<()> {
        if call.kind.group != GROUP {
            return Ok(());
        }
        let Some(table) = Table::ALL.into_iter().find(|t| t.plural() == call.kind.plural) else {
            return Ok(());
        };
        if call.user.is_in(MASTERS) || old.is_some_and(|old| same_grant(object, old)) {
            return Ok(());
        }
        match table {
            Table::Roles | Table::ClusterRoles => self.check_role(call, object, old).await,
            Table::RoleBindings | Table::ClusterRoleBindings => self.check_binding(call, object).await,
        }
    }

    async fn check_role(&self, call: &Call, role: &Value, old: Option<&Value>) -> Result<()> {
        let escalate = Attributes {
            verb: "escalate".into(),
            namespace: call.info.namespace.clone(),
            group: GROUP.into(),
            resource: call.kind.plural.to_string(),
            name: call.info.name.clone(),
            ..Attributes::default()
        };
        if self.decide(&call.user, &escalate).await.is_ok() {
            return Ok(());
        }
        let name = role.str_at(&["metadata", "name"]);
        self.check_holds(call, name, &bootstrap::rules_of(role)).await?;
        if !gathers(role) && !old.is_some_and(gathers) {
            return Ok(());
        }
        let all = Rule::full_authority();
        let why = "must have cluster-admin privileges to use the aggregationRule";
        self.check_holds(call, name, &all).await.map_err(|_| Status::forbidden(call.resource(), name, why))
    }

    async fn check_binding(&self, call: &Call, binding: &Value) -> Result<()> {
        let role = |field: &str| binding.str_at(&["roleRef", field]).to_owned();
        let (kind, name, namespace) = (role("kind"), role("name"), call.info.namespace.clone());
        let resource = if kind == "Role" { "roles" } else { "clusterroles" };
        let bind = Attributes {
            verb: "bind".into(),
            namespace: namespace.clone(),
            group: role("apiGroup"),
            resource: resource.into(),
            name: name.clone(),
            ..Attributes::default()
        };
        if matches!(kind.as_str(), "Role" | "ClusterRole") && self.decide(&call.user, &bind).await.is_ok() {
            return Ok(());
        }
        let rules = self.policy(|p| p.rules_of_role(&kind, &name, &namespace).map(<[Rule]>::to_vec)).await?;
        let of = GroupResource { group: GROUP, resource };
        let rules = rules.ok_or_else(|| Status::not_found(of, &name))?;
        self.check_holds(call, binding.str_at(&["metadata", "name"]), &rules).await
    }

    /// Does the user hold all of this where the request is?
    async fn check_holds(&self, call: &Call, name: &str, wanted: &[Rule]) -> Result<()> {
        let user = &call.user;
        let (held, error) = self.policy(|p| p.rules_for(user, &call.info.namespace)).await?;
        let lacking = missing(&held, wanted);
        if lacking.is_empty() {
            return Ok(());
        }
        let mut why = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            quoted(&user.groups),
            describe(&lacking)
        );
        if let Some(error) = error {
            why += &format!("; resolution errors: [{error}]");
        }
        Err(Status::forbidden(call.resource(), name, &why))
    }
}

fn gathers(role: &Value) -> bool {
    !role.items_at(&["aggregationRule", "clusterRoleSelectors"]).is_empty()
}

fn same_grant(new: &Value, old: &Value) -> bool {
    let fields = |v: &Value| -> Object {
        let all = v.as_object().into_iter().flat_map(Object::iter).filter(|(k, _)| k.as_str() != "metadata");
        all.map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    let metadata = |v: &Value| -> Object {
        let all = v.get("metadata").and_then(Value::as_object).into_iter().flat_map(Object::iter);
        let all = all.filter(|(k, _)| !COLLECTORS.contains(&k.as_str()));
        all.map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    fields(new) == fields(old) && metadata(new) == metadata(old)
}
