//! Who asks.

/// An authenticated identity, as TokenReview and SelfSubjectReview show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Unique name, e.g. `system:kube-scheduler`.
    pub name: String,
    /// Stable id, may be empty.
    pub uid: String,
    /// Groups, `system:authenticated` included.
    pub groups: Vec<String>,
    /// What the authenticator knows beside, by key.
    pub extra: Vec<(String, Vec<String>)>,
}

/// Everybody who proved who they are is in this group.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Everybody else.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The name of everybody else.
pub const ANONYMOUS: &str = "system:anonymous";
/// Members may do anything.
pub const MASTERS: &str = "system:masters";
/// The group of kubelets.
pub const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";
pub(crate) const ACCOUNT_PREFIX: &str = "system:serviceaccount:";

impl User {
    /// An authenticated user: `system:authenticated` is added to the groups.
    pub fn new(name: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        if !groups.iter().any(|g| g == AUTHENTICATED) {
            groups.push(AUTHENTICATED.into());
        }
        User { name: name.into(), groups, ..User::default() }
    }

    /// Nobody in particular.
    pub fn anonymous() -> Self {
        User { name: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED.into()], ..User::default() }
    }

    /// The API server itself.
    pub fn apiserver() -> Self {
        User::new("system:apiserver", [MASTERS])
    }

    /// The user that a service account is.
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        let mut user = User::new(format!("{ACCOUNT_PREFIX}{namespace}:{name}"), groups);
        user.uid = uid.to_owned();
        user
    }

    /// Is the user in the group?
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node's name, if this is a kubelet.
    pub fn node_name(&self) -> Option<&str> {
        self.is_in(NODES).then(|| self.name.strip_prefix(NODE_PREFIX)).flatten().filter(|n| !n.is_empty())
    }

    /// Namespace and name, if this is a service account.
    pub fn account(&self) -> Option<(&str, &str)> {
        self.name.strip_prefix(ACCOUNT_PREFIX)?.split_once(':')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_who() {
        assert_eq!(User::new("system:node:n1", [NODES]).node_name(), Some("n1"));
        assert_eq!(User::new("system:node:n1", ["x"]).node_name(), None);
        assert_eq!(User::new("system:node:", [NODES]).node_name(), None);
        assert_eq!(User::service_account("ns", "sa", "u").account(), Some(("ns", "sa")));
        assert!(User::new("a", ["b"]).is_in(AUTHENTICATED));
        assert!(!User::anonymous().is_in(AUTHENTICATED));
    }
}
