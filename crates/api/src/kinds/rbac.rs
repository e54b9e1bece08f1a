//! Roles and their bindings. Whether somebody may give what a role gives is the authoriser's to say, not validation's.

use super::look::{
    Errors, Zero, at_mut, given, internal, items, items_mut, one_of_given, same, set_empty, text,
};
use super::row::NO_HOOKS;
use crate::field::{self, Error, Path};
use crate::kind::{Context, Hooks};
use crate::rules::{self, invalid_each};
use crate::{Value, meta};

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) const ROLE: Hooks = Hooks { validate: Some(validate_role), ..NAMED };
pub(super) const CLUSTER_ROLE: Hooks = Hooks { validate: Some(validate_cluster_role), ..NAMED };
pub(super) const ROLE_BINDING: Hooks =
    Hooks { default: Some(default_binding), validate: Some(validate_role_binding), ..NAMED };
pub(super) const CLUSTER_ROLE_BINDING: Hooks =
    Hooks { default: Some(default_binding), validate: Some(validate_cluster_role_binding), ..NAMED };

/// Roles may be called anything that fits a path: `system:node`.
const NAMED: Hooks = Hooks { name_rule: Some(rules::path_segment), ..NO_HOOKS };

/// References without a group mean RBAC's own.
fn default_binding(binding: &mut Value) {
    if let Some(role) = at_mut(binding, &["roleRef"]) {
        set_empty(role, "apiGroup", GROUP);
    }
    for subject in items_mut(binding, "subjects") {
        if matches!(text(subject, "kind"), "User" | "Group") {
            set_empty(subject, "apiGroup", GROUP);
        }
    }
}

fn validate_role(role: &Value, _old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    policy_rules(&mut errors, role, true);
    errors
}

fn validate_cluster_role(role: &Value, _old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    policy_rules(&mut errors, role, false);
    if let Some(aggregation) = given(role, "aggregationRule") {
        let root = Path::root("aggregationRule");
        let list = root.child("clusterRoleSelectors");
        let selectors = items(aggregation, "clusterRoleSelectors");
        if selectors.is_empty() {
            let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.push(Error::required(&list, detail));
        }
        for (i, selector) in selectors.iter().enumerate() {
            let path = list.index(i);
            let before = errors.len();
            meta::label_selector(&mut errors, Some(selector), &path);
            if errors.len() > before {
                errors.push(Error::invalid(&path, Value::Null, "invalid label selector."));
            }
        }
    }
    errors
}

fn policy_rules(errors: &mut Errors, role: &Value, namespaced: bool) {
    let list = Path::root("rules");
    for (i, rule) in items(role, "rules").iter().enumerate() {
        policy_rule(errors, rule, namespaced, &list.index(i));
    }
}

fn policy_rule(errors: &mut Errors, rule: &Value, namespaced: bool, path: &Path<'_>) {
    let has = |field: &str| !items(rule, field).is_empty();
    if !has("verbs") {
        errors.push(Error::required(&path.child("verbs"), ""));
    }
    if has("nonResourceURLs") {
        let (field, urls) =
            (path.child("nonResourceURLs"), Value::from(items(rule, "nonResourceURLs").to_vec()));
        if namespaced {
            let detail = "namespaced rules cannot apply to non-resource URLs";
            errors.push(Error::invalid(&field, urls.clone(), detail));
        }
        if has("apiGroups") || has("resources") || has("resourceNames") {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(Error::invalid(&field, urls, detail));
        }
        return;
    }
    if !has("apiGroups") {
        let detail = "resource rules must supply at least one api group";
        errors.push(Error::required(&path.child("apiGroups"), detail));
    }
    if !has("resources") {
        let detail = "resource rules must supply at least one resource";
        errors.push(Error::required(&path.child("resources"), detail));
    }
}

fn validate_role_binding(binding: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    validate_binding(binding, old, true)
}

fn validate_cluster_role_binding(
    binding: &Value,
    old: Option<&Value>,
    _cx: &Context<'_>,
) -> Vec<field::Error> {
    validate_binding(binding, old, false)
}

fn validate_binding(binding: &Value, old: Option<&Value>, namespaced: bool) -> Vec<field::Error> {
    let (mut errors, empty, path) = (Vec::new(), Value::Null, Path::root("roleRef"));
    let role = binding.get("roleRef").unwrap_or(&empty);
    let group = text(role, "apiGroup");
    if group != GROUP {
        errors.push(Error::not_supported(&path.child("apiGroup"), group, &[GROUP]));
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&text(role, "kind")) {
        errors.push(Error::not_supported(&path.child("kind"), text(role, "kind"), kinds));
    }
    match text(role, "name") {
        "" => errors.push(Error::required(&path.child("name"), "")),
        name => invalid_each(&mut errors, &path.child("name"), name, rules::path_segment(name, false)),
    }
    let list = Path::root("subjects");
    for (i, one) in items(binding, "subjects").iter().enumerate() {
        subject(&mut errors, one, namespaced, &list.index(i));
    }
    if old.is_some_and(|old| !same(old.get("roleRef"), binding.get("roleRef"))) {
        const GO: &[(&str, &str, Zero)] = &[
            ("apiGroup", "APIGroup", Zero::Text),
            ("kind", "Kind", Zero::Text),
            ("name", "Name", Zero::Text),
        ];
        errors.push(Error::invalid(&path, internal(role, GO), super::look::IMMUTABLE));
    }
    errors
}

fn subject(errors: &mut Errors, subject: &Value, namespaced: bool, path: &Path<'_>) {
    let (kind, name, group) = (text(subject, "kind"), text(subject, "name"), text(subject, "apiGroup"));
    if name.is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    }
    match kind {
        "ServiceAccount" => {
            if !name.is_empty() {
                invalid_each(errors, &path.child("name"), name, rules::dns_subdomain(name));
            }
            if !group.is_empty() {
                errors.push(Error::not_supported(&path.child("apiGroup"), group, &[""]));
            }
            if !namespaced && text(subject, "namespace").is_empty() {
                errors.push(Error::required(&path.child("namespace"), ""));
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.push(Error::not_supported(&path.child("apiGroup"), group, &[GROUP]));
            }
        }
        _ => {
            let kinds = &["ServiceAccount", "User", "Group"];
            one_of_given(errors, subject, "kind", kinds, path);
            if kind.is_empty() && given(subject, "kind").is_none() {
                errors.push(Error::not_supported(&path.child("kind"), "", kinds));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::GROUP;
    use crate::kinds::testing::{create_errors, update_errors};

    #[test]
    fn roles() {
        let cases: &[(&str, &str, &[&str])] = &[
            ("Role", "{rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]}", &[]),
            ("Role", "{}", &[]),
            (
                "Role",
                "{rules: [{resources: [pods]}, {nonResourceURLs: [/x], verbs: [get], apiGroups: ['']}]}",
                &[
                    "rules[0].verbs: Required value",
                    "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                    "rules[1].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
                    "rules[1].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both regular resources and non-resource \
                     URLs",
                ],
            ),
            ("ClusterRole", "{rules: [{nonResourceURLs: [/x], verbs: [get]}]}", &[]),
            (
                "ClusterRole",
                "{aggregationRule: {}}",
                &[
                    "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if \
                     aggregationRule is non-nil",
                ],
            ),
        ];
        for (kind, yaml, wanted) in cases {
            assert_eq!(create_errors(GROUP, kind, yaml), *wanted, "{yaml}");
        }
    }

    #[test]
    fn bindings() {
        let role = "roleRef: {kind: ClusterRole, name: view}";
        let cases: &[(&str, String, &[&str])] = &[
            (
                "RoleBinding",
                format!("{{{role}, subjects: [{{kind: User, name: u}}, {{kind: ServiceAccount, name: s}}]}}"),
                &[],
            ),
            (
                "ClusterRoleBinding",
                format!(
                    "{{{role}, subjects: [{{kind: ServiceAccount, name: s}}, {{kind: Robot, name: r}}, {{kind: Group}}]}}"
                ),
                &[
                    "subjects[0].namespace: Required value",
                    "subjects[1].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
                    "subjects[2].name: Required value",
                ],
            ),
            (
                "ClusterRoleBinding",
                "{roleRef: {kind: Role, apiGroup: other}}".to_owned(),
                &[
                    "roleRef.apiGroup: Unsupported value: \"other\": supported values: \"rbac.authorization.k8s.io\"",
                    "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
                    "roleRef.name: Required value",
                ],
            ),
        ];
        for (kind, yaml, wanted) in cases {
            assert_eq!(create_errors(GROUP, kind, yaml), *wanted, "{yaml}");
        }
        let errors = update_errors(
            GROUP,
            "RoleBinding",
            &format!("{{{role}}}"),
            &format!("{{{}}}", role.replace("view", "edit")),
        );
        assert_eq!(
            errors,
            [
                "roleRef: Invalid value: {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\"ClusterRole\",\"Name\":\"edit\"}: \
                 field is immutable"
            ]
        );
    }
}
