//! Roles and bindings that every cluster has. Read from tables; what is missing is made and what was taken away is given back at every
//! start, unless the object says `rbac.authorization.kubernetes.io/autoupdate: "false"`. What was added by others stays.

use std::sync::LazyLock;

use corten_api::{Object, Result, Status, Value};
use corten_store::{Entry, StoreError, Txn};
use futures::future::try_join_all;

use super::rule::{Rule, missing};
use super::{GROUP, Table};
use crate::ApiServer;
use crate::read::store_error;
use crate::{meta, stored};

const TABLES: [&str; 2] = [include_str!("upstream.tsv"), include_str!("corten.tsv")];
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const LABEL: (&str, &str) = ("kubernetes.io/bootstrapping", "rbac-defaults");
/// Objects written together; a transaction holds more.
const BATCH: usize = 100;
/// Tries against another server that does the same.
const MAX_TRIES: usize = 5;

/// An object as the tables have it.
pub(crate) struct Wanted {
    table: Table,
    /// `NAME` or `NAMESPACE/NAME`
    name: String,
    object: Value,
    rules: Vec<Rule>,
}

/// What a kubelet may do where no pod or node of its own is asked about: the rules of `system:node`.
pub(crate) static NODE_RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let roles = read(TABLES[0]);
    roles
        .into_iter()
        .find(|w| w.table == Table::ClusterRoles && w.name == "system:node")
        .map_or_else(Vec::new, |w| w.rules)
});

/// All objects of the tables.
pub(crate) fn wanted() -> Vec<Wanted> {
    TABLES.into_iter().flat_map(read).collect()
}

fn read(table: &str) -> Vec<Wanted> {
    let mut all: Vec<Wanted> = Vec::new();
    for line in table.lines().filter(|l| !l.starts_with('#')) {
        let fields: Vec<&str> = line.split('\t').collect();
        match (rule(&fields), head(&fields)) {
            (Some(rule), _) => all.last_mut().into_iter().for_each(|w| w.rules.push(rule.clone())),
            (None, Some(wanted)) => all.push(wanted),
            (None, None) => {}
        }
    }
    for wanted in &mut all {
        if matches!(wanted.table, Table::Roles | Table::ClusterRoles) && !wanted.rules.is_empty() {
            let rules: Vec<Value> = wanted.rules.iter().map(rule_value).collect();
            wanted.object.object_at_mut(&[]).set("rules", rules);
        }
    }
    all
}

fn words(text: &str) -> Vec<String> {
    text.split(',').map(|w| if w == "core" { String::new() } else { w.to_owned() }).collect()
}

fn rule(fields: &[&str]) -> Option<Rule> {
    match fields {
        ["rule", verbs, groups, resources, names @ ..] => Some(Rule {
            verbs: words(verbs),
            groups: words(groups),
            resources: words(resources),
            names: names.iter().flat_map(|n| words(n)).collect(),
            urls: Vec::new(),
        }),
        ["url", verbs, urls] => Some(Rule { verbs: words(verbs), urls: words(urls), ..Rule::default() }),
        _ => None,
    }
}

fn head(fields: &[&str]) -> Option<Wanted> {
    let (&kind, rest) = fields.split_first()?;
    let (&name, more) = rest.split_first()?;
    let table = match kind {
        "ClusterRole" => Table::ClusterRoles,
        "ClusterRoleBinding" => Table::ClusterRoleBindings,
        "Role" => Table::Roles,
        "RoleBinding" => Table::RoleBindings,
        _ => return None,
    };
    let mut object = Value::object();
    let root = object.object_at_mut(&[]);
    root.set("kind", kind);
    root.set("apiVersion", format!("{GROUP}/v1"));
    root.set("metadata", metadata(name, more));
    match table {
        Table::ClusterRoles => gather(root, more),
        Table::Roles => {}
        _ => bind(root, more),
    }
    Some(Wanted { table, name: name.to_owned(), object, rules: Vec::new() })
}

fn one(key: &str, value: &str) -> Object {
    let mut object = Object::default();
    object.insert(key, value);
    object
}

fn metadata(name: &str, more: &[&str]) -> Object {
    let mut metadata = Object::default();
    match name.split_once('/') {
        Some((namespace, name)) => {
            metadata.set("name", name);
            metadata.set("namespace", namespace);
        }
        None => metadata.set("name", name),
    }
    let mut labels = one(LABEL.0, LABEL.1);
    for role in more.iter().filter_map(|m| m.strip_prefix("to=")) {
        labels.insert(format!("{GROUP}/aggregate-to-{role}").as_str(), "true");
    }
    metadata.set("labels", labels);
    metadata.set("annotations", one(AUTO_UPDATE, "true"));
    metadata
}

fn gather(role: &mut Object, more: &[&str]) {
    let from = more.iter().filter_map(|m| m.strip_prefix("from="));
    let selectors: Vec<Value> = from
        .map(|of| {
            let mut selector = Object::default();
            selector.set("matchLabels", one(&format!("{GROUP}/aggregate-to-{of}"), "true"));
            selector.into()
        })
        .collect();
    if !selectors.is_empty() {
        let mut aggregation = Object::default();
        aggregation.set("clusterRoleSelectors", selectors);
        role.set("aggregationRule", aggregation);
    }
}

fn bind(binding: &mut Object, more: &[&str]) {
    let Some((role, subjects)) = more.split_first() else { return };
    let (kind, name) = role.split_once('/').unwrap_or(("ClusterRole", role));
    let mut reference = Object::default();
    reference.set("apiGroup", GROUP);
    reference.set("kind", kind);
    reference.set("name", name);
    binding.set("roleRef", reference);
    let subjects: Vec<Value> = subjects.iter().filter_map(|s| s.split_once(':')).map(subject).collect();
    if !subjects.is_empty() {
        binding.set("subjects", subjects);
    }
}

fn subject((kind, name): (&str, &str)) -> Value {
    let mut subject = Object::default();
    subject.set("kind", kind);
    match name.split_once('/').filter(|_| kind == "ServiceAccount") {
        Some((namespace, name)) => {
            subject.set("name", name);
            subject.set("namespace", namespace);
        }
        None => {
            subject.set("apiGroup", GROUP);
            subject.set("name", name);
        }
    }
    subject.into()
}

fn rule_value(rule: &Rule) -> Value {
    let list = |words: &[String]| words.iter().map(|w| Value::from(w.as_str())).collect::<Vec<_>>();
    let mut value = Object::default();
    let fields = [
        ("verbs", &rule.verbs),
        ("apiGroups", &rule.groups),
        ("resources", &rule.resources),
        ("resourceNames", &rule.names),
        ("nonResourceURLs", &rule.urls),
    ];
    for (name, words) in fields.into_iter().filter(|(_, words)| !words.is_empty()) {
        value.set(name, list(words));
    }
    value.into()
}

/// The rules in a role's tree.
pub(super) fn rules_of(role: &Value) -> Vec<Rule> {
    let list = |rule: &Value, field: &str| -> Vec<String> {
        rule.items_at(&[field]).iter().filter_map(|w| w.as_str().map(str::to_owned)).collect()
    };
    let read = |rule: &Value| Rule {
        verbs: list(rule, "verbs"),
        groups: list(rule, "apiGroups"),
        resources: list(rule, "resources"),
        names: list(rule, "resourceNames"),
        urls: list(rule, "nonResourceURLs"),
    };
    role.items_at(&["rules"]).iter().map(read).collect()
}

impl Wanted {
    /// What the object that is there should become; `None`: it is right, or not ours to change.
    fn reconciled(&self, found: &Value) -> Option<Value> {
        if found.str_at(&["metadata", "annotations", AUTO_UPDATE]) == "false" {
            return None;
        }
        let role = |v: &Value| {
            (v.str_at(&["roleRef", "kind"]).to_owned(), v.str_at(&["roleRef", "name"]).to_owned())
        };
        if role(found) != role(&self.object) {
            return Some(self.object.clone());
        }
        let mut object = found.clone();
        for field in ["labels", "annotations"] {
            self.keep_words(&mut object, field);
        }
        self.keep_items(&mut object, &[], "subjects");
        self.keep_items(&mut object, &["aggregationRule"], "clusterRoleSelectors");
        let lost = missing(&rules_of(found), &self.rules);
        push_all(object.object_at_mut(&[]), "rules", lost.iter().map(rule_value).collect());
        (object != *found).then_some(object)
    }

    fn keep_words(&self, object: &mut Value, field: &'static str) {
        let words = self.object.at(&["metadata", field]).and_then(Value::as_object);
        for (key, value) in words.into_iter().flat_map(Object::iter) {
            if object.at(&["metadata", field, key.as_str()]).is_none() {
                object.object_at_mut(&["metadata", field]).insert(key.clone(), value.clone());
            }
        }
    }

    fn keep_items(&self, object: &mut Value, within: &[&'static str], list: &'static str) {
        let path: Vec<&str> = within.iter().copied().chain([list]).collect();
        let there = object.items_at(&path);
        let lost: Vec<Value> =
            self.object.items_at(&path).iter().filter(|i| !there.contains(i)).cloned().collect();
        if !lost.is_empty() {
            push_all(object.object_at_mut(within), list, lost);
        }
    }
}

fn push_all(object: &mut Object, field: &'static str, items: Vec<Value>) {
    if items.is_empty() {
        return;
    }
    let list = object.entry(field);
    match list.as_array_mut() {
        Some(list) => list.extend(items),
        None => *list = items.into(),
    }
}

impl ApiServer {
    /// Makes the tables true: a few transactions at the first start, none where all is right.
    ///
    /// Errors: the store cannot be read or written.
    pub(crate) async fn bootstrap_roles(&self) -> Result<()> {
        let wanted = wanted();
        for _ in 0..MAX_TRIES {
            let changes = self.changes(&wanted).await?;
            let txns = changes.chunks(BATCH).map(|batch| {
                let txn = batch.iter().fold(Txn::default(), |txn, (key, bytes, revision)| {
                    txn.expect(key.as_str(), *revision).put(key.as_str(), bytes.clone())
                });
                self.config().store.txn(txn)
            });
            match try_join_all(txns).await {
                Ok(_) => return Ok(()),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(store_error(error)),
            }
        }
        Err(Status::internal("the roles of every cluster are changed by others all the time"))
    }

    /// Keys, their new values and the revisions that they must still have.
    async fn changes(&self, wanted: &[Wanted]) -> Result<Vec<(String, Vec<u8>, u64)>> {
        let mut found: std::collections::HashMap<String, std::sync::Arc<Entry>> =
            std::collections::HashMap::new();
        for table in Table::ALL {
            let entries = self.list_group(GROUP, table.plural(), "").await?;
            found.extend(entries.into_iter().map(|e| (e.key.to_string(), e)));
        }
        let mut changes = Vec::new();
        for one in wanted {
            let key = format!("/registry/{}/{}", one.table.plural(), one.name);
            let entry = found.get(&key);
            let object = match entry {
                None => Some(one.object.clone()),
                Some(entry) => one.reconciled(&self.tree(entry)?),
            };
            let Some(mut object) = object else { continue };
            if object.str_at(&["metadata", "uid"]).is_empty() {
                self.new_metadata(one.table, &mut object)?;
            }
            changes.push((key, stored::encode(&object), entry.map_or(0, |e| e.mod_revision)));
        }
        Ok(changes)
    }

    fn new_metadata(&self, table: Table, object: &mut Value) -> Result<()> {
        let kinds = self.kinds().snapshot();
        let kind = kinds.group_resource(GROUP, table.plural()).ok_or_else(Status::no_route)?;
        meta::new_object(object, kind, self.now_ms());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str) -> Wanted {
        wanted().into_iter().find(|w| w.name == name && w.table == Table::ClusterRoles).unwrap()
    }

    fn text(value: &Value) -> String {
        corten_api::json::to_string(value)
    }

    #[test]
    fn the_tables_are_whole() {
        let all = wanted();
        let count = |table| all.iter().filter(|w| w.table == table).count();
        assert!(count(Table::ClusterRoles) > 70 && count(Table::ClusterRoleBindings) > 50);
        for table in TABLES {
            let lines =
                table.lines().filter(|l| !l.starts_with('#')).map(|l| l.split('\t').collect::<Vec<_>>());
            for fields in lines {
                assert!(rule(&fields).is_some() || head(&fields).is_some(), "{fields:?}");
            }
        }
        // Every binding names a role of the tables.
        for binding in all.iter().filter(|w| w.object.get("roleRef").is_some()) {
            let role = binding.object.str_at(&["roleRef", "name"]);
            assert!(all.iter().any(|w| w.name.rsplit('/').next() == Some(role)), "{role}");
        }
        assert!(!NODE_RULES.is_empty());
    }

    #[test]
    fn objects_of_the_tables() {
        assert_eq!(
            text(&role("view").object),
            r#"{"kind":"ClusterRole","apiVersion":"rbac.authorization.k8s.io/v1","metadata":{"name":"view","labels":{"kubernetes.io/bootstrapping":"rbac-defaults","rbac.authorization.k8s.io/aggregate-to-edit":"true"},"annotations":{"rbac.authorization.kubernetes.io/autoupdate":"true"}},"aggregationRule":{"clusterRoleSelectors":[{"matchLabels":{"rbac.authorization.k8s.io/aggregate-to-view":"true"}}]}}"#
        );
        let admin = role("cluster-admin");
        assert_eq!(rules_of(&admin.object), Rule::full_authority());
    }

    #[test]
    fn what_was_taken_away_comes_back_and_what_was_added_stays() {
        let wanted = role("system:discovery");
        assert_eq!(wanted.reconciled(&wanted.object), None);
        let mut found = wanted.object.clone();
        found.object_at_mut(&["metadata", "labels"]).insert("mine", "x");
        assert_eq!(wanted.reconciled(&found), None);
        found.object_at_mut(&[]).set("rules", Vec::<Value>::new());
        let whole = wanted.reconciled(&found).unwrap();
        assert!(missing(&rules_of(&whole), &wanted.rules).is_empty());
        assert_eq!(whole.str_at(&["metadata", "labels", "mine"]), "x");
        found.object_at_mut(&["metadata", "annotations"]).insert(AUTO_UPDATE, "false");
        assert_eq!(wanted.reconciled(&found), None);
    }
}
