//! One rule of a role: what it allows, and whether rules of one person cover rules that the person wants to give.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::authz::Attributes;

/// `PolicyRule`. `*` stands for all; in URLs a trailing `*` for any rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// What may be done.
    #[serde(deserialize_with = "list")]
    pub verbs: Vec<String>,
    /// API groups.
    #[serde(rename = "apiGroups", deserialize_with = "list")]
    pub groups: Vec<String>,
    /// Resources, with subresource after a slash; `*/scale` for that of all.
    #[serde(deserialize_with = "list")]
    pub resources: Vec<String>,
    /// Names; empty for all.
    #[serde(rename = "resourceNames", deserialize_with = "list")]
    pub names: Vec<String>,
    /// Paths that are no resources.
    #[serde(rename = "nonResourceURLs", deserialize_with = "list")]
    pub urls: Vec<String>,
}

/// A missing list may be written `null`.
pub(super) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Rule {
    /// All of everything, as `cluster-admin` has it.
    pub fn full_authority() -> [Rule; 2] {
        let all = || vec!["*".to_owned()];
        let things = Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() };
        [things, Rule { verbs: all(), urls: all(), ..Rule::default() }]
    }

    /// Does the rule allow the request?
    pub fn allows(&self, a: &Attributes) -> bool {
        if !has(&self.verbs, &a.verb) {
            return false;
        }
        match &a.path {
            Some(path) => self.urls.iter().any(|url| covers_url(url, path)),
            None => {
                has(&self.groups, &a.group)
                    && has_resource(&self.resources, &a.resource, &a.subresource)
                    && (self.names.is_empty() || self.names.contains(&a.name))
            }
        }
    }

    /// Covers a rule of one verb and one thing, as [`Rule::parts`] makes them.
    fn covers(&self, part: &Rule) -> bool {
        let names = self.names.is_empty()
            || (!part.names.is_empty() && part.names.iter().all(|n| self.names.contains(n)));
        let resource = |full: &String| {
            let (resource, subresource) = full.split_once('/').unwrap_or((full, ""));
            has_resource(&self.resources, resource, subresource)
        };
        names
            && part.verbs.iter().all(|v| has(&self.verbs, v))
            && part.groups.iter().all(|g| has(&self.groups, g))
            && part.resources.iter().all(resource)
            && part.urls.iter().all(|path| self.urls.iter().any(|url| covers_url(url, path)))
    }

    /// The rule as rules of one verb for one thing each.
    fn parts(&self) -> Vec<Rule> {
        let one = |text: &String| vec![text.clone()];
        let mut parts = Vec::new();
        for (group, resource) in self.groups.iter().flat_map(|g| self.resources.iter().map(move |r| (g, r))) {
            for verb in &self.verbs {
                let part = Rule {
                    verbs: one(verb),
                    groups: one(group),
                    resources: one(resource),
                    ..Rule::default()
                };
                match self.names.is_empty() {
                    true => parts.push(part),
                    false => parts.extend(self.names.iter().map(|n| Rule { names: one(n), ..part.clone() })),
                }
            }
        }
        for url in &self.urls {
            let part = |verb| Rule { verbs: one(verb), urls: one(url), ..Rule::default() };
            parts.extend(self.verbs.iter().map(part));
        }
        parts
    }

    /// Upstream's short form: `{APIGroups:["apps"], Resources:["deployments"], Verbs:["get" "list"]}`.
    fn describe(&self) -> String {
        let fields = [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.urls),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ];
        let given = fields.into_iter().filter(|(_, list)| !list.is_empty());
        let given: Vec<_> = given.map(|(name, list)| format!("{name}:{}", quoted(list))).collect();
        format!("{{{}}}", given.join(", "))
    }
}

/// A list as Go's `%q` prints it.
pub(super) fn quoted(list: &[String]) -> String {
    let words: Vec<_> = list.iter().map(|word| format!("{word:?}")).collect();
    format!("[{}]", words.join(" "))
}

fn has(list: &[String], word: &str) -> bool {
    list.iter().any(|w| w == "*" || w == word)
}

fn has_resource(list: &[String], resource: &str, subresource: &str) -> bool {
    list.iter().any(|entry| match entry.split_once('/') {
        None => entry == "*" || (entry == resource && subresource.is_empty()),
        Some((of, sub)) => !subresource.is_empty() && sub == subresource && (of == "*" || of == resource),
    })
}

fn covers_url(url: &str, path: &str) -> bool {
    url == path || (url.ends_with('*') && path.starts_with(url.trim_end_matches('*')))
}

/// What of `wanted` the rules in `held` do not cover, one verb and one thing a rule.
pub fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let parts = wanted.iter().flat_map(Rule::parts);
    parts.filter(|part| !held.iter().any(|rule| rule.covers(part))).collect()
}

/// The rules in upstream's short form, verbs of the same thing together, sorted, one a line.
pub fn describe(rules: &[Rule]) -> String {
    let mut verbs: BTreeMap<(&[String], &[String], &[String]), Rule> = BTreeMap::new();
    let mut lines = Vec::new();
    for rule in rules {
        if rule.groups.len() != 1 || rule.resources.len() != 1 {
            lines.push(rule.describe());
            continue;
        }
        let compact = verbs.entry((&rule.groups, &rule.resources, &rule.names)).or_insert_with(|| {
            let mut empty = rule.clone();
            empty.verbs.clear();
            empty
        });
        compact.verbs.extend(rule.verbs.iter().cloned());
    }
    lines.extend(verbs.values().map(Rule::describe));
    lines.sort();
    lines.dedup();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(',').filter(|w| !w.is_empty()).map(|w| w.replace("core", "")).collect()
    }

    /// `VERBS GROUPS RESOURCES [NAMES]` or `VERBS /PATH,…`
    fn rule(text: &str) -> Rule {
        let fields: Vec<&str> = text.split(' ').collect();
        let at = |i: usize| fields.get(i).map_or_else(Vec::new, |f| words(f));
        match fields[1].starts_with('/') || fields[1] == "url*" {
            true => Rule { verbs: at(0), urls: words(&fields[1].replace("url*", "*")), ..Rule::default() },
            false => Rule { verbs: at(0), groups: at(1), resources: at(2), names: at(3), ..Rule::default() },
        }
    }

    fn asks(text: &str) -> Attributes {
        let fields: Vec<&str> = text.split(' ').collect();
        let verb = fields[0].to_owned();
        if fields[1].starts_with('/') {
            return Attributes { verb, path: Some(fields[1].into()), ..Attributes::default() };
        }
        let (resource, subresource) = fields[2].split_once('/').unwrap_or((fields[2], ""));
        Attributes {
            verb,
            group: fields[1].replace("core", ""),
            resource: resource.into(),
            subresource: subresource.into(),
            name: fields.get(3).copied().unwrap_or_default().into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn allows() {
        let cases = [
            ("get core pods", "get core pods", true),
            ("get core pods", "get core pods/log", false),
            ("get core pods/log", "get core pods/log p", true),
            ("* * *", "delete apps deployments/scale d", true),
            ("* * *", "get /metrics", false),
            ("get * */scale", "get apps deployments/scale d", true),
            ("get * */scale", "get apps deployments d", false),
            ("get core pods/*", "get core pods/log p", false),
            ("get core pods a,b", "get core pods b", true),
            ("get core pods a,b", "get core pods c", false),
            ("list core pods a", "list core pods", false),
            ("get /healthz,/livez/*", "get /livez/ping", true),
            ("get /healthz,/livez/*", "get /livez", false),
            ("get /healthz", "get core healthz", false),
            ("* url*", "post /x", true),
        ];
        for (given, asked, wanted) in cases {
            assert_eq!(rule(given).allows(&asks(asked)), wanted, "{given} | {asked}");
        }
    }

    #[test]
    fn who_holds_what() {
        let cases: &[(&[&str], &str, &str)] = &[
            (&["get,list core pods"], "get core pods", ""),
            (
                &["get core pods"],
                "get,delete,watch core pods",
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete" "watch"]}"#,
            ),
            (
                &["get core pods", "get apps deployments"],
                "get core,apps pods,deployments",
                "{APIGroups:[\"\"], Resources:[\"deployments\"], Verbs:[\"get\"]}\n{APIGroups:[\"apps\"], Resources:[\"pods\"], Verbs:[\"get\"]}",
            ),
            (&["* * *"], "get core pods a", ""),
            (&["get core pods a"], "get core pods", r#"{APIGroups:[""], Resources:["pods"], Verbs:["get"]}"#),
            (
                &["get core pods a"],
                "get core pods a,b",
                r#"{APIGroups:[""], Resources:["pods"], ResourceNames:["b"], Verbs:["get"]}"#,
            ),
            (&["get * */scale"], "get apps deployments/scale", ""),
            (&["get core pods"], "get core *", r#"{APIGroups:[""], Resources:["*"], Verbs:["get"]}"#),
            (&["get /api/*"], "get /api/v1,/apis", r#"{NonResourceURLs:["/apis"], Verbs:["get"]}"#),
            (&[], "* * *", r#"{APIGroups:["*"], Resources:["*"], Verbs:["*"]}"#),
        ];
        for (held, wanted, lines) in cases {
            let held: Vec<Rule> = held.iter().map(|r| rule(r)).collect();
            assert_eq!(describe(&missing(&held, &[rule(wanted)])), *lines, "{wanted}");
        }
        let [things, paths] = Rule::full_authority();
        assert!(missing(&[rule("* * *"), rule("* url*")], &[things, paths]).is_empty());
    }
}
