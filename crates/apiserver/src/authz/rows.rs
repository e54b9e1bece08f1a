//! The fixed rows: which user or group may do what, in the form of RBAC rules.

use super::Attributes;
use crate::user::{AUTHENTICATED, NODES, UNAUTHENTICATED, User};

/// One permission. `*` stands for all; in URLs a trailing `*` for any rest.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Verbs.
    pub verbs: &'static [&'static str],
    /// API groups.
    pub groups: &'static [&'static str],
    /// Resources, with subresource after a slash.
    pub resources: &'static [&'static str],
    /// Namespaces; empty for all.
    pub namespaces: &'static [&'static str],
    /// Names; empty for all.
    pub names: &'static [&'static str],
    /// Paths that are no resources.
    pub urls: &'static [&'static str],
}

impl Rule {
    /// Does the rule cover the request?
    pub fn allows(&self, a: &Attributes) -> bool {
        if !has(self.verbs, &a.verb) {
            return false;
        }
        match &a.path {
            Some(path) => self.urls.iter().any(|url| covers(url, path)),
            None => {
                has(self.groups, &a.group)
                    && has(self.resources, &a.full_resource())
                    && (self.names.is_empty() || self.names.contains(&a.name.as_str()))
                    && (self.namespaces.is_empty() || self.namespaces.contains(&a.namespace.as_str()))
            }
        }
    }
}

fn has(list: &[&str], word: &str) -> bool {
    list.iter().any(|w| *w == "*" || *w == word)
}

fn covers(url: &str, path: &str) -> bool {
    match url.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => url == path,
    }
}

/// Whom a row is for.
enum Subject {
    User(&'static str),
    Group(&'static str),
}

struct Row {
    subject: Subject,
    rules: &'static [Rule],
}

const NONE: Rule = Rule { verbs: &[], groups: &[], resources: &[], namespaces: &[], names: &[], urls: &[] };

const fn on(
    groups: &'static [&'static str],
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
) -> Rule {
    Rule { verbs, groups, resources, ..NONE }
}

const fn urls(urls: &'static [&'static str]) -> Rule {
    Rule { verbs: &["get", "head"], urls, ..NONE }
}

const READ: &[&str] = &["get", "list", "watch"];
const LEASE: &[&str] = &["create", "get", "list", "update", "patch", "watch"];
const EVENT: &[&str] = &["create", "patch", "update"];
const EVENTS: Rule = on(&["", "events.k8s.io"], &["events"], EVENT);

/// How the cluster is laid out, for nodes that join.
const LAYOUT: Rule = Rule { namespaces: &["kube-public"], ..on(&[""], &["configmaps"], &["get"]) };
/// Those who join with a token.
const BOOTSTRAPPERS: &str = "system:bootstrappers";

const ROWS: &[Row] = &[
    Row {
        subject: Subject::Group(UNAUTHENTICATED),
        rules: &[urls(&[
            "/healthz",
            "/healthz/*",
            "/livez",
            "/livez/*",
            "/readyz",
            "/readyz/*",
            "/version",
            "/version/",
        ])],
    },
    Row {
        subject: Subject::Group(AUTHENTICATED),
        rules: &[
            urls(&[
                "/api",
                "/api/*",
                "/apis",
                "/apis/*",
                "/healthz",
                "/healthz/*",
                "/livez",
                "/livez/*",
                "/openapi",
                "/openapi/*",
                "/readyz",
                "/readyz/*",
                "/version",
                "/version/",
            ]),
            on(
                &["authorization.k8s.io"],
                &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
                &["create"],
            ),
            on(&["authentication.k8s.io"], &["selfsubjectreviews"], &["create"]),
        ],
    },
    Row {
        subject: Subject::Group("system:serviceaccounts"),
        rules: &[urls(&[
            "/.well-known/openid-configuration",
            "/.well-known/openid-configuration/",
            "/openid/v1/jwks",
            "/openid/v1/jwks/",
        ])],
    },
    Row {
        subject: Subject::User("system:kube-scheduler"),
        rules: &[
            EVENTS,
            on(&["coordination.k8s.io"], &["leases"], LEASE),
            on(&[""], &["nodes", "namespaces", "replicationcontrollers", "services"], READ),
            on(&[""], &["pods"], &["delete", "get", "list", "watch"]),
            on(&[""], &["bindings", "pods/binding"], &["create"]),
            on(&[""], &["pods/status"], &["patch", "update"]),
            on(
                &[""],
                &["persistentvolumes", "persistentvolumeclaims"],
                &["get", "list", "watch", "update", "patch"],
            ),
            on(&["apps"], &["replicasets", "statefulsets"], READ),
            on(&["policy"], &["poddisruptionbudgets"], READ),
            on(
                &["storage.k8s.io"],
                &["storageclasses", "csinodes", "csidrivers", "csistoragecapacities", "volumeattachments"],
                READ,
            ),
            on(&["resource.k8s.io"], &["*"], READ),
            on(&["resource.k8s.io"], &["resourceclaims", "resourceclaims/status"], &["patch", "update"]),
            on(&["scheduling.k8s.io"], &["*"], READ),
            on(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
            on(&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"]),
        ],
    },
    Row {
        // One identity stands in for upstream's forty controller accounts, whose rules together reach every kind
        // (garbage collection and namespace removal alone need that).
        subject: Subject::User("system:kube-controller-manager"),
        rules: &[on(
            &["*"],
            &["*"],
            &["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"],
        )],
    },
    Row {
        subject: Subject::User("system:kube-proxy"),
        rules: &[
            EVENTS,
            on(&[""], &["endpoints", "services"], &["list", "watch"]),
            on(&[""], &["nodes"], READ),
            on(&["discovery.k8s.io"], &["endpointslices"], &["list", "watch"]),
            on(&["networking.k8s.io"], &["servicecidrs"], &["list", "watch"]),
        ],
    },
    Row {
        // The nodes' pod network: ways to other nodes, network policies. Upstream's network plugins have such rights.
        subject: Subject::User("system:corten-network"),
        rules: &[
            on(&[""], &["nodes", "pods", "namespaces"], &["list", "watch"]),
            on(&["networking.k8s.io"], &["networkpolicies"], &["list", "watch"]),
        ],
    },
    Row {
        subject: Subject::User("system:kube-dns"),
        rules: &[
            on(&[""], &["endpoints", "services", "namespaces", "pods", "nodes"], READ),
            on(&["discovery.k8s.io"], &["endpointslices"], READ),
            // Its own Service, where there is none.
            Rule { namespaces: &["kube-system"], ..on(&[""], &["services"], &["create"]) },
        ],
    },
    Row {
        subject: Subject::Group(BOOTSTRAPPERS),
        rules: &[
            on(
                &["certificates.k8s.io"],
                &["certificatesigningrequests"],
                &["create", "get", "list", "watch"],
            ),
            LAYOUT,
        ],
    },
    Row {
        // What depends on the node's own name or its pods is in `node.rs`.
        subject: Subject::Group(NODES),
        rules: &[
            EVENTS,
            on(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
            on(
                &["authorization.k8s.io"],
                &["localsubjectaccessreviews", "subjectaccessreviews"],
                &["create"],
            ),
            on(
                &["certificates.k8s.io"],
                &["certificatesigningrequests"],
                &["create", "get", "list", "watch"],
            ),
            on(&[""], &["services", "namespaces"], READ),
            LAYOUT,
            on(&["discovery.k8s.io"], &["endpointslices"], READ),
            on(&["node.k8s.io"], &["runtimeclasses"], READ),
            on(&["storage.k8s.io"], &["csidrivers", "volumeattachments", "storageclasses"], READ),
            on(&[""], &["persistentvolumes"], &["get"]),
            on(&["resource.k8s.io"], &["resourceclaims"], &["get"]),
        ],
    },
];

/// All rules of a user.
pub fn rules_of(user: &User) -> impl Iterator<Item = &'static Rule> {
    let rows = ROWS.iter().filter(|row| match row.subject {
        Subject::User(name) => user.name == name,
        Subject::Group(group) => user.is_in(group),
    });
    rows.flat_map(|row| row.rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(user: &User, verb: &str, group: &str, resource: &str) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let a = Attributes {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            ..Attributes::default()
        };
        rules_of(user).any(|r| r.allows(&a))
    }

    #[test]
    fn who_may_what() {
        let scheduler = User::new("system:kube-scheduler", [""; 0]);
        assert!(may(&scheduler, "create", "", "pods/binding"));
        assert!(may(&scheduler, "list", "", "nodes"));
        assert!(!may(&scheduler, "update", "", "nodes"));
        assert!(!may(&scheduler, "get", "", "secrets"));
        let account = User::service_account("a", "b", "c");
        assert!(!may(&account, "get", "", "pods"));
        assert!(may(&account, "create", "authorization.k8s.io", "selfsubjectaccessreviews"));
        let path = |p: &str| Attributes { verb: "get".into(), path: Some(p.into()), ..Attributes::default() };
        assert!(rules_of(&account).any(|r| r.allows(&path("/apis/apps/v1"))));
        assert!(!rules_of(&account).any(|r| r.allows(&path("/metrics"))));
        assert!(rules_of(&User::anonymous()).any(|r| r.allows(&path("/version"))));
        assert!(!rules_of(&User::anonymous()).any(|r| r.allows(&path("/api"))));
    }
}
