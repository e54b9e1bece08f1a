//! From a request to its flow schema: schemas in the order of their precedence, the first that fits.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use corten_api::Value;
use http::HeaderValue;

use crate::request::RequestInfo;
use crate::user::User;

/// The level of requests that nothing else takes.
const CATCH_ALL: &str = "catch-all";

/// What a request was taken for.
#[derive(Debug, Default)]
pub(crate) struct Matched {
    /// The flow schema.
    pub schema: String,
    /// The priority level.
    pub level: Arc<str>,
    /// Needs no seat.
    pub exempt: bool,
    by: By,
    /// For the answer's headers.
    pub schema_uid: Option<HeaderValue>,
    /// For the answer's headers.
    pub level_uid: Option<HeaderValue>,
}

/// What tells the flows of one schema apart.
#[derive(Clone, Copy, Debug, Default)]
enum By {
    #[default]
    Nothing,
    User,
    Namespace,
}

impl Matched {
    /// A number for the request's flow; requests of one flow share a hand of queues.
    pub fn flow(&self, user: &User, info: &RequestInfo) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.schema.hash(&mut hasher);
        self.distinguisher(user, info).hash(&mut hasher);
        hasher.finish()
    }

    /// What tells the request's flow from others of the schema.
    pub fn distinguisher<'a>(&self, user: &'a User, info: &'a RequestInfo) -> &'a str {
        match self.by {
            By::Nothing => "",
            By::User => &user.name,
            By::Namespace => &info.namespace,
        }
    }
}

/// A priority level as its object says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Level {
    pub name: Arc<str>,
    pub exempt: bool,
    pub shares: u64,
    /// Of a hundred.
    pub lendable: u64,
    /// Of a hundred; `None` without bound.
    pub borrowing: Option<u64>,
    /// Queues, hand, length; `None` refuses what finds no seat.
    pub queuing: Option<Queuing>,
    uid: Option<HeaderValue>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Queuing {
    pub queues: usize,
    pub hand: usize,
    pub length: usize,
}

#[derive(Debug)]
struct Schema {
    precedence: i64,
    policies: Vec<Policy>,
    matched: Arc<Matched>,
}

#[derive(Debug)]
struct Policy {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

#[derive(Debug)]
enum Subject {
    User(String),
    Group(String),
    /// Namespace and name; `*` for all of the namespace.
    Account(String, String),
}

#[derive(Debug)]
struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster: bool,
}

#[derive(Debug)]
struct PathRule {
    verbs: Vec<String>,
    urls: Vec<String>,
}

/// All schemas and levels.
#[derive(Debug, Default)]
pub(super) struct Rules {
    schemas: Vec<Schema>,
    spoken_of: SpokenOf,
    levels: Vec<Level>,
    fallback: Arc<Matched>,
}

/// Which schemas speak of whom: a bit each, for the first of them. Every request is put into a level, and most schemas are about
/// somebody else.
#[derive(Debug, Default)]
struct SpokenOf {
    everybody: u128,
    users: HashMap<String, u128>,
    groups: HashMap<String, u128>,
    /// Service accounts, by their namespaces.
    accounts: HashMap<String, u128>,
}

/// So many schemas have a bit; those behind them are always looked at.
const WITH_BIT: usize = u128::BITS as usize;

impl SpokenOf {
    fn new(schemas: &[Schema]) -> Self {
        let mut found = SpokenOf::default();
        for (at, schema) in schemas.iter().take(WITH_BIT).enumerate() {
            for subject in schema.policies.iter().flat_map(|policy| &policy.subjects) {
                let bits = match subject {
                    Subject::User(name) | Subject::Group(name) if name == "*" => &mut found.everybody,
                    Subject::User(name) => found.users.entry(name.clone()).or_default(),
                    Subject::Group(name) => found.groups.entry(name.clone()).or_default(),
                    Subject::Account(namespace, _) => found.accounts.entry(namespace.clone()).or_default(),
                };
                *bits |= 1 << at;
            }
        }
        found
    }

    /// The schemas that speak of the user.
    fn of(&self, user: &User) -> u128 {
        let bits = |map: &HashMap<String, u128>, name: &str| map.get(name).copied().unwrap_or(0);
        let mut found = self.everybody | bits(&self.users, &user.name);
        for group in &user.groups {
            found |= bits(&self.groups, group);
        }
        match user.account() {
            Some((namespace, _)) if !self.accounts.is_empty() => found | bits(&self.accounts, namespace),
            _ => found,
        }
    }
}

fn words(of: &Value, field: &str) -> Vec<String> {
    of.items_at(&[field]).iter().filter_map(|w| w.as_str().map(str::to_owned)).collect()
}

fn uid(object: &Value) -> Option<HeaderValue> {
    let uid = object.str_at(&["metadata", "uid"]);
    HeaderValue::from_str(uid).ok().filter(|_| !uid.is_empty())
}

fn number(of: &Value, path: &[&str]) -> Option<u64> {
    of.at(path).and_then(Value::as_i64).and_then(|n| u64::try_from(n).ok())
}

fn size(of: &Value, path: &[&str], default: u64) -> usize {
    usize::try_from(number(of, path).unwrap_or(default)).unwrap_or(usize::MAX)
}

impl Level {
    fn new(object: &Value) -> Self {
        let exempt = object.str_at(&["spec", "type"]) == "Exempt";
        let part = if exempt { "exempt" } else { "limited" };
        let response = object.at(&["spec", part, "limitResponse"]).cloned().unwrap_or_default();
        let queuing = (response.str_at(&["type"]) == "Queue").then(|| Queuing {
            queues: size(&response, &["queuing", "queues"], 64).max(1),
            hand: size(&response, &["queuing", "handSize"], 8).max(1),
            length: size(&response, &["queuing", "queueLengthLimit"], 50),
        });
        Level {
            name: object.str_at(&["metadata", "name"]).into(),
            exempt,
            shares: number(object, &["spec", part, "nominalConcurrencyShares"]).unwrap_or(if exempt {
                0
            } else {
                30
            }),
            lendable: number(object, &["spec", part, "lendablePercent"]).unwrap_or(0).min(100),
            borrowing: number(object, &["spec", part, "borrowingLimitPercent"]),
            queuing,
            uid: uid(object),
        }
    }
}

impl Rules {
    /// From the objects. A schema whose level is missing takes no requests, as upstream.
    pub fn new(schemas: &[Value], levels: &[Value]) -> Self {
        let mut levels: Vec<Level> = levels.iter().map(Level::new).collect();
        if !levels.iter().any(|level| &*level.name == CATCH_ALL) {
            levels.push(Level { name: CATCH_ALL.into(), queuing: None, ..Level::new(&Value::Null) });
        }
        let mut schemas: Vec<Schema> =
            schemas.iter().filter_map(|schema| Schema::new(schema, &levels)).collect();
        schemas.sort_by(|a, b| (a.precedence, &a.matched.schema).cmp(&(b.precedence, &b.matched.schema)));
        let fallback =
            Matched { schema: CATCH_ALL.into(), level: CATCH_ALL.into(), by: By::User, ..Matched::default() };
        let spoken_of = SpokenOf::new(&schemas);
        Rules { schemas, spoken_of, levels, fallback: Arc::new(fallback) }
    }

    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// The first schema that fits.
    pub fn find(&self, user: &User, info: &RequestInfo) -> Arc<Matched> {
        let bits = self.spoken_of.of(user);
        let mut candidates =
            self.schemas.iter().enumerate().filter(|(at, _)| *at >= WITH_BIT || bits >> at & 1 == 1);
        let found = candidates.find(|(_, schema)| schema.policies.iter().any(|p| p.fits(user, info)));
        found.map_or_else(|| self.fallback.clone(), |(_, schema)| schema.matched.clone())
    }
}

impl Schema {
    fn new(object: &Value, levels: &[Level]) -> Option<Self> {
        let name = object.str_at(&["spec", "priorityLevelConfiguration", "name"]);
        let level = levels.iter().find(|level| &*level.name == name)?;
        let by = match object.str_at(&["spec", "distinguisherMethod", "type"]) {
            "ByUser" => By::User,
            "ByNamespace" => By::Namespace,
            _ => By::Nothing,
        };
        let matched = Matched {
            schema: object.str_at(&["metadata", "name"]).to_owned(),
            level: level.name.clone(),
            exempt: level.exempt,
            by,
            schema_uid: uid(object),
            level_uid: level.uid.clone(),
        };
        Some(Schema {
            precedence: object.at(&["spec", "matchingPrecedence"]).and_then(Value::as_i64).unwrap_or(1000),
            policies: object.items_at(&["spec", "rules"]).iter().map(Policy::new).collect(),
            matched: Arc::new(matched),
        })
    }
}

impl Policy {
    fn new(rule: &Value) -> Self {
        let resource = |r: &Value| ResourceRule {
            verbs: words(r, "verbs"),
            groups: words(r, "apiGroups"),
            resources: words(r, "resources"),
            namespaces: words(r, "namespaces"),
            cluster: r.get("clusterScope").and_then(Value::as_bool) == Some(true),
        };
        let path = |r: &Value| PathRule { verbs: words(r, "verbs"), urls: words(r, "nonResourceURLs") };
        Policy {
            subjects: rule.items_at(&["subjects"]).iter().filter_map(Subject::new).collect(),
            resources: rule.items_at(&["resourceRules"]).iter().map(resource).collect(),
            paths: rule.items_at(&["nonResourceRules"]).iter().map(path).collect(),
        }
    }

    fn fits(&self, user: &User, info: &RequestInfo) -> bool {
        self.subjects.iter().any(|subject| subject.is(user))
            && match info.is_resource {
                true => self.resources.iter().any(|rule| rule.fits(info)),
                false => self.paths.iter().any(|rule| rule.fits(info)),
            }
    }
}

impl Subject {
    fn new(subject: &Value) -> Option<Self> {
        let name = |of: &str| subject.str_at(&[of, "name"]).to_owned();
        Some(match subject.str_at(&["kind"]) {
            "User" => Subject::User(name("user")),
            "Group" => Subject::Group(name("group")),
            "ServiceAccount" => {
                let namespace = subject.str_at(&["serviceAccount", "namespace"]);
                Subject::Account(namespace.to_owned(), name("serviceAccount"))
            }
            _ => return None,
        })
    }

    fn is(&self, user: &User) -> bool {
        match self {
            Subject::User(name) => name == "*" || *name == user.name,
            Subject::Group(name) => name == "*" || user.is_in(name),
            Subject::Account(namespace, name) => user
                .account()
                .is_some_and(|(of, account)| of == namespace && (name == "*" || name == account)),
        }
    }
}

fn names(list: &[String], word: &str) -> bool {
    list.iter().any(|given| given == "*" || given == word)
}

impl ResourceRule {
    fn fits(&self, info: &RequestInfo) -> bool {
        let whole = |given: &String| match given.split_once('/') {
            Some((resource, subresource)) => resource == info.resource && subresource == info.subresource,
            None => info.subresource.is_empty() && *given == info.resource,
        };
        names(&self.verbs, info.verb)
            && names(&self.groups, &info.group)
            && self.resources.iter().any(|given| given == "*" || whole(given))
            && match info.namespace.is_empty() {
                true => self.cluster,
                false => names(&self.namespaces, &info.namespace),
            }
    }
}

impl PathRule {
    fn fits(&self, info: &RequestInfo) -> bool {
        let under = |url: &String| match url.strip_suffix('*') {
            Some(prefix) => info.path.starts_with(prefix),
            None => info.path.trim_end_matches('/') == url.trim_end_matches('/'),
        };
        names(&self.verbs, info.verb) && self.urls.iter().any(under)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Flow;
    use super::*;
    use crate::query::Query;

    #[test]
    fn requests_find_their_schema() {
        let flow = Flow::new(600);
        let account = User::service_account("kube-system", "x", "");
        let own = User::service_account("shop", "x", "");
        let node = User::new("system:node:a", ["system:nodes"]);
        let manager = User::new("system:kube-controller-manager", [""; 0]);
        let cases = [
            (User::apiserver(), "GET", "/api/v1/nodes", "exempt", "exempt"),
            (User::anonymous(), "GET", "/readyz", "probes", "exempt"),
            (User::anonymous(), "GET", "/version", "global-default", "global-default"),
            (
                manager.clone(),
                "PUT",
                "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/a",
                "system-leader-election",
                "leader-election",
            ),
            (manager, "GET", "/api/v1/pods", "kube-controller-manager", "workload-high"),
            (node.clone(), "PATCH", "/api/v1/nodes/a/status", "system-node-high", "node-high"),
            (node, "GET", "/api/v1/namespaces/x/pods/a", "system-nodes", "system"),
            (account, "GET", "/api/v1/pods", "kube-system-service-accounts", "workload-high"),
            (own, "GET", "/api/v1/pods", "service-accounts", "workload-low"),
            (User::new("me", [""; 0]), "GET", "/api/v1/pods", "global-default", "global-default"),
            (User { name: "odd".into(), ..User::default() }, "GET", "/x", "catch-all", "catch-all"),
        ];
        for (user, method, path, schema, level) in cases {
            let info = RequestInfo::new(&method.parse().unwrap(), path, &Query::default());
            let found = flow.classify(&user, &info);
            assert_eq!((found.schema.as_str(), &*found.level), (schema, level), "{} {path}", user.name);
        }
    }
}
