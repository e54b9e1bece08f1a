//! Which requests are written down, and how much of them: `audit.k8s.io/v1` Policy.

use serde::{Deserialize, Deserializer};

use crate::authz::Attributes;
use crate::user::User;

/// How much is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) enum Level {
    /// Nothing.
    #[default]
    None,
    /// Who asked what.
    Metadata,
    /// The same and what was sent.
    Request,
    /// The same and what was answered.
    RequestResponse,
}

/// When something is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Stage {
    /// Before anything was done.
    RequestReceived,
    /// The head of a long answer has been sent.
    ResponseStarted,
    /// All has been sent.
    ResponseComplete,
    /// The handler panicked.
    Panic,
}

/// What a request's rule says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub level: Level,
    pub omit_stages: Vec<Stage>,
    pub omit_managed_fields: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Policy {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
    #[serde(default, deserialize_with = "list")]
    rules: Vec<Rule>,
    #[serde(default, deserialize_with = "list")]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    level: Level,
    #[serde(default, deserialize_with = "list")]
    users: Vec<String>,
    #[serde(default, deserialize_with = "list")]
    user_groups: Vec<String>,
    #[serde(default, deserialize_with = "list")]
    verbs: Vec<String>,
    #[serde(default, deserialize_with = "list")]
    resources: Vec<Resources>,
    #[serde(default, deserialize_with = "list")]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs", deserialize_with = "list")]
    urls: Vec<String>,
    #[serde(default, deserialize_with = "list")]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default, deserialize_with = "list")]
    resources: Vec<String>,
    #[serde(default, deserialize_with = "list")]
    resource_names: Vec<String>,
}

fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Policy {
    /// Reads YAML or JSON.
    ///
    /// Errors: text for the operator.
    pub fn read(text: &str) -> Result<Self, String> {
        let document = corten_api::yaml::parse(text.as_bytes()).map_err(|e| e.to_string())?;
        let json = corten_api::json::to_string(&document.value);
        let policy: Policy = serde_json::from_str(&json).map_err(|e| e.to_string())?;
        if policy.kind != "Policy" || policy.api_version != "audit.k8s.io/v1" {
            return Err(format!(
                "want kind Policy of audit.k8s.io/v1, found {} of {}",
                policy.kind, policy.api_version
            ));
        }
        match policy.rules.is_empty() {
            true => Err("loaded illegal policy with 0 rules".to_owned()),
            false => Ok(policy),
        }
    }

    /// What the first rule that fits says; nothing is written where none does.
    pub fn judge(&self, user: &User, a: &Attributes) -> Verdict {
        let Some(rule) = self.rules.iter().find(|rule| rule.fits(user, a)) else { return Verdict::default() };
        let omit_stages = self.omit_stages.iter().chain(&rule.omit_stages).copied().collect();
        let omit_managed_fields = rule.omit_managed_fields.unwrap_or(self.omit_managed_fields);
        Verdict { level: rule.level, omit_stages, omit_managed_fields }
    }
}

fn any_or(list: &[String], word: &str) -> bool {
    list.is_empty() || list.iter().any(|w| w == word)
}

impl Rule {
    fn fits(&self, user: &User, a: &Attributes) -> bool {
        any_or(&self.users, &user.name)
            && (self.user_groups.is_empty() || self.user_groups.iter().any(|g| user.is_in(g)))
            && any_or(&self.verbs, &a.verb)
            && self.fits_target(a)
    }

    fn fits_target(&self, a: &Attributes) -> bool {
        let about_resources = !self.namespaces.is_empty() || !self.resources.is_empty();
        match &a.path {
            Some(_) if about_resources => false,
            Some(path) => self.urls.is_empty() || self.urls.iter().any(|url| covers(url, path)),
            None if about_resources => {
                any_or(&self.namespaces, &a.namespace)
                    && (self.resources.is_empty() || self.resources.iter().any(|r| r.fit(a)))
            }
            None => self.urls.is_empty(),
        }
    }
}

fn covers(url: &str, path: &str) -> bool {
    url == path || (url.ends_with('*') && path.starts_with(url.trim_end_matches('*')))
}

impl Resources {
    fn fit(&self, a: &Attributes) -> bool {
        if self.group != a.group && self.group != "*" {
            return false;
        }
        let full = a.full_resource();
        let fits = |entry: &String| match entry.split_once('/') {
            _ if entry == "*" || *entry == full => true,
            Some(("*", sub)) => !sub.is_empty() && sub == a.subresource,
            Some((of, "*")) => of == a.resource,
            _ => false,
        };
        self.resources.is_empty()
            || (any_or(&self.resource_names, &a.name) && self.resources.iter().any(fits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: ["system:kube-proxy"]
  verbs: [watch]
- level: RequestResponse
  omitManagedFields: true
  resources: [{group: "", resources: [pods]}]
- level: Metadata
  resources: [{group: "", resources: ["pods/log", "*/status", "nodes/*"]}]
- level: Request
  namespaces: [kube-system]
  resources: [{group: "", resources: [configmaps], resourceNames: [a]}]
- level: None
  userGroups: ["system:authenticated"]
  nonResourceURLs: ["/api*", "/version"]
- level: Metadata
  omitStages: [ResponseStarted]
"#;

    #[test]
    fn the_first_rule_that_fits() {
        let policy = Policy::read(POLICY).unwrap();
        let level = |user: &str, verb: &str, namespace: &str, full: &str, name: &str| {
            let (resource, subresource) = full.split_once('/').unwrap_or((full, ""));
            let path = (full.is_empty()).then(|| name.to_owned());
            let a = Attributes {
                verb: verb.into(),
                namespace: namespace.into(),
                resource: resource.into(),
                subresource: subresource.into(),
                name: name.into(),
                path,
                ..Attributes::default()
            };
            policy.judge(&User::new(user, [""; 0]), &a).level
        };
        assert_eq!(level("system:kube-proxy", "watch", "", "services", ""), Level::None);
        assert_eq!(level("system:kube-proxy", "list", "", "services", ""), Level::Metadata);
        assert_eq!(level("bob", "get", "x", "pods", "p"), Level::RequestResponse);
        assert_eq!(level("bob", "get", "x", "pods/log", "p"), Level::Metadata);
        assert_eq!(level("bob", "get", "kube-system", "configmaps", "a"), Level::Request);
        assert_eq!(level("bob", "get", "", "", "/api/v1"), Level::None);
        assert_eq!(level("bob", "get", "", "", "/metrics"), Level::Metadata);
    }

    #[test]
    fn stages_of_policy_and_rule_add_up() {
        let policy = Policy::read(POLICY).unwrap();
        let found = policy
            .judge(&User::anonymous(), &Attributes { path: Some("/x".into()), ..Attributes::default() });
        assert_eq!(found.omit_stages, [Stage::RequestReceived, Stage::ResponseStarted]);
        let pods = Attributes { resource: "pods".into(), ..Attributes::default() };
        assert!(policy.judge(&User::anonymous(), &pods).omit_managed_fields);
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        assert!(Policy::read("kind: Policy\napiVersion: audit.k8s.io/v1\n").unwrap_err().contains("0 rules"));
        assert!(Policy::read("kind: Pod\napiVersion: v1\n").is_err());
        assert!(Policy::read("kind: Policy\napiVersion: audit.k8s.io/v1\nrules: [{level: Some}]").is_err());
    }
}
