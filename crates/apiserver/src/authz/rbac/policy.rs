//! All roles and bindings of the cluster as they stand now, by what they are looked up by.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;

use serde::Deserialize;

use super::rule::{Rule, list};
use crate::authz::Attributes;
use crate::user::{ACCOUNT_PREFIX, User};

/// Which of the four kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    ClusterRoles,
    ClusterRoleBindings,
    Roles,
    RoleBindings,
}

impl Table {
    pub const ALL: [Table; 4] =
        [Table::ClusterRoles, Table::ClusterRoleBindings, Table::Roles, Table::RoleBindings];

    /// Plural, also the place where the objects rest.
    pub fn plural(self) -> &'static str {
        match self {
            Table::ClusterRoles => "clusterroles",
            Table::ClusterRoleBindings => "clusterrolebindings",
            Table::Roles => "roles",
            Table::RoleBindings => "rolebindings",
        }
    }
}

/// The index. Names of what lives in a namespace are `NAMESPACE/NAME`.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    cluster_roles: HashMap<String, Vec<Rule>>,
    roles: HashMap<String, Vec<Rule>>,
    cluster_bindings: Bindings,
    /// By namespace.
    bindings: HashMap<String, Bindings>,
}

/// Bindings of one scope, by name and by whom they are for.
#[derive(Debug, Default)]
struct Bindings {
    all: BTreeMap<String, Binding>,
    users: HashMap<String, BTreeSet<String>>,
    groups: HashMap<String, BTreeSet<String>>,
}

#[derive(Debug)]
struct Binding {
    /// `ClusterRole` or `Role`.
    role_kind: String,
    role: String,
    subjects: Vec<Subject>,
}

#[derive(Debug)]
struct Subject {
    /// A group, or (also for service accounts) a user.
    is_group: bool,
    name: String,
    /// `ServiceAccount "builder/ns"`
    described: String,
}

#[derive(Deserialize)]
struct StoredRole {
    #[serde(default, deserialize_with = "list")]
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct StoredBinding {
    #[serde(rename = "roleRef")]
    role: RoleRef,
    #[serde(default, deserialize_with = "list")]
    subjects: Vec<StoredSubject>,
}

#[derive(Deserialize)]
struct RoleRef {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct StoredSubject {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
}

impl StoredSubject {
    /// Whom it means in a binding of that namespace; `None`: nobody.
    fn read(self, namespace: &str) -> Option<Subject> {
        let StoredSubject { kind, name, namespace: own } = self;
        match kind.as_str() {
            "User" | "Group" => {
                Some(Subject { is_group: kind == "Group", described: format!("{kind} {name:?}"), name })
            }
            "ServiceAccount" => {
                let namespace = if own.is_empty() { namespace } else { &own };
                let described = format!("{kind} {:?}", format!("{name}/{namespace}"));
                let name = format!("{ACCOUNT_PREFIX}{namespace}:{name}");
                (!namespace.is_empty()).then_some(Subject { is_group: false, name, described })
            }
            _ => None,
        }
    }
}

impl Subject {
    fn is(&self, user: &User) -> bool {
        if self.is_group { user.is_in(&self.name) } else { user.name == self.name }
    }
}

impl Bindings {
    fn set(&mut self, name: &str, binding: Option<Binding>) {
        if let Some(old) = self.all.remove(name) {
            for subject in &old.subjects {
                let index = if subject.is_group { &mut self.groups } else { &mut self.users };
                if let Some(names) = index.get_mut(&subject.name) {
                    names.remove(name);
                    if names.is_empty() {
                        index.remove(&subject.name);
                    }
                }
            }
        }
        let Some(binding) = binding else { return };
        for subject in &binding.subjects {
            let index = if subject.is_group { &mut self.groups } else { &mut self.users };
            index.entry(subject.name.clone()).or_default().insert(name.to_owned());
        }
        self.all.insert(name.to_owned(), binding);
    }

    /// Those for the user, each once, by name.
    fn of<'a>(&'a self, user: &User) -> BTreeMap<&'a str, &'a Binding> {
        let groups = user.groups.iter().filter_map(|g| self.groups.get(g));
        let names = self.users.get(&user.name).into_iter().chain(groups).flatten();
        names.filter_map(|name| Some((name.as_str(), self.all.get(name)?))).collect()
    }
}

/// A rule that applies to somebody, and why.
pub(crate) struct Granted<'a> {
    pub rule: &'a Rule,
    namespace: &'a str,
    binding_name: &'a str,
    binding: &'a Binding,
}

impl Granted<'_> {
    /// Upstream's words for where the rule comes from.
    pub fn source(&self, user: &User) -> String {
        let Binding { role_kind, role, subjects } = self.binding;
        let (kind, name) = match self.namespace {
            "" => ("ClusterRoleBinding", self.binding_name.to_owned()),
            ns => ("RoleBinding", format!("{}/{ns}", self.binding_name)),
        };
        let subject = subjects.iter().find(|s| s.is(user)).map_or("", |s| &s.described);
        format!("{kind} {name:?} of {role_kind} {role:?} to {subject}")
    }
}

impl Policy {
    /// Takes over an object as it rests (`None`: it is gone). What is no such object counts as none.
    pub fn set(&mut self, table: Table, key: &str, stored: Option<&[u8]>) {
        match table {
            Table::ClusterRoles => set_role(&mut self.cluster_roles, key, stored),
            Table::Roles => set_role(&mut self.roles, key, stored),
            Table::ClusterRoleBindings => self.cluster_bindings.set(key, stored.and_then(|b| binding(b, ""))),
            Table::RoleBindings => {
                let Some((namespace, name)) = key.split_once('/') else { return };
                let of = self.bindings.entry(namespace.to_owned()).or_default();
                of.set(name, stored.and_then(|b| binding(b, namespace)));
                if of.all.is_empty() {
                    self.bindings.remove(namespace);
                }
            }
        }
    }

    /// The rules of a role as a binding in `namespace` (`""` for none) names it; `None` where it is not there.
    pub fn rules_of_role(&self, kind: &str, name: &str, namespace: &str) -> Option<&[Rule]> {
        let found = match kind {
            "ClusterRole" => self.cluster_roles.get(name),
            "Role" => self.roles.get(&format!("{namespace}/{name}")),
            _ => None,
        };
        found.map(Vec::as_slice)
    }

    /// Every rule for the user in the namespace (`""`: cluster-wide ones alone), and what could not be found.
    pub fn visit<'a>(
        &'a self,
        user: &User,
        namespace: &'a str,
        see: &mut dyn FnMut(Result<Granted<'a>, String>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let local = self.bindings.get(namespace);
        for (namespace, bindings) in [("", Some(&self.cluster_bindings)), (namespace, local)] {
            for (binding_name, binding) in bindings.into_iter().flat_map(|b| b.of(user)) {
                let (kind, role) = (binding.role_kind.as_str(), binding.role.as_str());
                let Some(rules) = self.rules_of_role(kind, role, namespace) else {
                    let kind = kind.to_lowercase();
                    see(Err(format!("{kind}.rbac.authorization.k8s.io {role:?} not found")))?;
                    continue;
                };
                for rule in rules {
                    see(Ok(Granted { rule, namespace, binding_name, binding }))?;
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// May the user do it? With the reason for yes, or what is said where rules were missing.
    pub fn decide(&self, user: &User, a: &Attributes) -> Result<String, String> {
        let (mut allowed, mut errors) = (None, Vec::new());
        let _ = self.visit(user, &a.namespace, &mut |found| {
            match found {
                Ok(granted) if granted.rule.allows(a) => {
                    allowed = Some(format!("RBAC: allowed by {}", granted.source(user)));
                    return ControlFlow::Break(());
                }
                Ok(_) => {}
                Err(error) => errors.push(error),
            }
            ControlFlow::Continue(())
        });
        allowed.ok_or_else(|| match errors.is_empty() {
            true => String::new(),
            false => format!("RBAC: {}", aggregate(errors)),
        })
    }

    /// All rules of the user, and what could not be found.
    pub fn rules_for(&self, user: &User, namespace: &str) -> (Vec<Rule>, Option<String>) {
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        let _ = self.visit(user, namespace, &mut |found| {
            match found {
                Ok(granted) => rules.push(granted.rule.clone()),
                Err(error) => errors.push(error),
            }
            ControlFlow::Continue(())
        });
        (rules, (!errors.is_empty()).then(|| aggregate(errors)))
    }
}

/// Several errors in one sentence, as upstream joins them.
fn aggregate(errors: Vec<String>) -> String {
    let mut seen: Vec<String> = Vec::new();
    for error in errors {
        if !seen.contains(&error) {
            seen.push(error);
        }
    }
    if let [one] = seen.as_slice() { one.clone() } else { format!("[{}]", seen.join(", ")) }
}

fn set_role(roles: &mut HashMap<String, Vec<Rule>>, key: &str, stored: Option<&[u8]>) {
    match stored.and_then(|bytes| serde_json::from_slice::<StoredRole>(bytes).ok()) {
        Some(role) => roles.insert(key.to_owned(), role.rules),
        None => roles.remove(key),
    };
}

fn binding(stored: &[u8], namespace: &str) -> Option<Binding> {
    let StoredBinding { role, subjects } = serde_json::from_slice(stored).ok()?;
    let subjects = subjects.into_iter().filter_map(|s| s.read(namespace)).collect();
    Some(Binding { role_kind: role.kind, role: role.name, subjects })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        let mut policy = Policy::default();
        let mut set = |table, key: &str, text: &str| policy.set(table, key, Some(text.as_bytes()));
        set(
            Table::ClusterRoles,
            "view",
            r#"{"rules":[{"verbs":["get","list"],"apiGroups":[""],"resources":["pods"]}]}"#,
        );
        set(Table::ClusterRoles, "empty", r#"{"rules":null}"#);
        set(
            Table::Roles,
            "a/own",
            r#"{"rules":[{"verbs":["*"],"apiGroups":[""],"resources":["configmaps"]}]}"#,
        );
        set(
            Table::ClusterRoleBindings,
            "all",
            r#"{"roleRef":{"kind":"ClusterRole","name":"view"},"subjects":[{"kind":"Group","name":"devs"}]}"#,
        );
        set(
            Table::ClusterRoleBindings,
            "lost",
            r#"{"roleRef":{"kind":"ClusterRole","name":"gone"},"subjects":[{"kind":"User","name":"eve"}]}"#,
        );
        set(
            Table::RoleBindings,
            "a/own",
            r#"{"roleRef":{"kind":"Role","name":"own"},"subjects":[{"kind":"ServiceAccount","name":"robot"},{"kind":"User","name":"bob"}]}"#,
        );
        set(
            Table::RoleBindings,
            "b/view",
            r#"{"roleRef":{"kind":"ClusterRole","name":"view"},"subjects":[{"kind":"ServiceAccount","name":"robot","namespace":"a"}]}"#,
        );
        policy
    }

    fn ask(
        policy: &Policy,
        user: &User,
        verb: &str,
        namespace: &str,
        resource: &str,
    ) -> Result<String, String> {
        let a = Attributes {
            verb: verb.into(),
            namespace: namespace.into(),
            resource: resource.into(),
            ..Attributes::default()
        };
        policy.decide(user, &a)
    }

    #[test]
    fn who_may_what_and_why() {
        let policy = policy();
        let (dev, bob, eve) =
            (User::new("ann", ["devs"]), User::new("bob", [""; 0]), User::new("eve", [""; 0]));
        let robot = User::service_account("a", "robot", "");
        let yes = |text: &str| Ok(format!("RBAC: allowed by {text}"));
        let no = || Err(String::new());
        let of_devs = r#"ClusterRoleBinding "all" of ClusterRole "view" to Group "devs""#;
        assert_eq!(ask(&policy, &dev, "get", "x", "pods"), yes(of_devs));
        assert_eq!(ask(&policy, &dev, "list", "", "pods"), yes(of_devs));
        assert_eq!(ask(&policy, &dev, "delete", "x", "pods"), no());
        let own = r#"RoleBinding "own/a" of Role "own" to User "bob""#;
        assert_eq!(ask(&policy, &bob, "delete", "a", "configmaps"), yes(own));
        assert_eq!(ask(&policy, &bob, "delete", "b", "configmaps"), no());
        assert_eq!(ask(&policy, &bob, "delete", "", "configmaps"), no());
        let account = r#"RoleBinding "own/a" of Role "own" to ServiceAccount "robot/a""#;
        assert_eq!(ask(&policy, &robot, "get", "a", "configmaps"), yes(account));
        let elsewhere = r#"RoleBinding "view/b" of ClusterRole "view" to ServiceAccount "robot/a""#;
        assert_eq!(ask(&policy, &robot, "get", "b", "pods"), yes(elsewhere));
        let lost = r#"RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found"#;
        assert_eq!(ask(&policy, &eve, "get", "b", "pods"), Err(lost.to_owned()));
    }

    #[test]
    fn what_is_taken_away_is_gone() {
        let mut policy = policy();
        let dev = User::new("ann", ["devs"]);
        policy.set(Table::ClusterRoleBindings, "all", None);
        assert_eq!(ask(&policy, &dev, "get", "x", "pods"), Err(String::new()));
        let bob = User::new("bob", [""; 0]);
        policy.set(
            Table::RoleBindings,
            "a/own",
            Some(br#"{"roleRef":{"kind":"Role","name":"own"},"subjects":null}"#),
        );
        assert!(ask(&policy, &bob, "get", "a", "configmaps").is_err());
        assert_eq!(policy.rules_for(&bob, "a"), (Vec::new(), None));
        policy.set(Table::RoleBindings, "a/own", None);
        policy.set(Table::RoleBindings, "b/view", None);
        assert!(policy.bindings.is_empty() && policy.cluster_bindings.groups.is_empty());
    }
}
