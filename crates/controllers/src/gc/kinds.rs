//! The kinds whose objects the collector watches. They come and go with custom resource definitions.

use std::sync::Arc;

use corten_client::kube::Client;
use kube::Discovery;
use kube::api::ApiResource;
use kube::discovery::{ApiGroup, Scope, verbs};
use tokio_util::sync::CancellationToken;

/// Kinds whose objects never own and are never owned in earnest; they come and go too often to be watched.
const IGNORED: &[&str] = &["Event"];
/// Each of these is named like the kind that it makes.
const DEFINITIONS: (&str, &str) = ("apiextensions.k8s.io", "customresourcedefinitions");
/// What makes kinds, group and resource: when one of these changes, it is looked which kinds there are now.
const MAKERS: [(&str, &str); 2] = [DEFINITIONS, ("apiregistration.k8s.io", "apiservices")];

/// A kind that is served.
#[derive(Debug)]
pub struct Resource {
    /// How to ask for it.
    pub api: ApiResource,
    /// Are its objects in namespaces?
    pub namespaced: bool,
    /// Ends its watch.
    pub stop: CancellationToken,
}

impl Resource {
    /// `pods`, `deployments.apps`.
    pub fn name(&self) -> String {
        match self.api.group.as_str() {
            "" => self.api.plural.clone(),
            group => format!("{}.{group}", self.api.plural),
        }
    }

    /// Do its objects make kinds?
    pub fn makes_kinds(&self) -> bool {
        MAKERS.contains(&(&*self.api.group, &*self.api.plural))
    }

    /// Do its objects have the names of the kinds that they make?
    pub fn defines_kinds(&self) -> bool {
        DEFINITIONS == (&*self.api.group, &*self.api.plural)
    }
}

/// All kinds that were ever watched, by number; one that comes again has its old number. As many as there were names.
#[derive(Debug, Default)]
pub struct Kinds {
    all: Vec<Arc<Resource>>,
}

impl Kinds {
    /// Takes over what is served now. Gives the numbers of those whose watch is to be started; a watch of a version that is not
    /// the best any more ends. What is not found stays: its server may only be away for a while.
    pub fn update(&mut self, found: Vec<Resource>) -> Vec<usize> {
        found.into_iter().filter_map(|resource| self.take(resource)).collect()
    }

    fn take(&mut self, resource: Resource) -> Option<usize> {
        let Some(index) = self.all.iter().position(|known| known.name() == resource.name()) else {
            self.all.push(Arc::new(resource));
            return Some(self.all.len() - 1);
        };
        let known = &mut self.all[index];
        let same = known.api.version == resource.api.version && known.api.kind == resource.api.kind;
        if same && !known.stop.is_cancelled() {
            return None;
        }
        known.stop.cancel();
        *known = Arc::new(resource);
        Some(index)
    }

    /// The kind of that number.
    pub fn get(&self, index: usize) -> Option<Arc<Resource>> {
        self.all.get(index).cloned()
    }

    /// The number of a kind that is watched.
    pub fn find(&self, group: &str, kind: &str) -> Option<usize> {
        self.all.iter().position(|r| !r.stop.is_cancelled() && r.api.group == group && r.api.kind == kind)
    }

    /// Ends the watch of the kind of that name; gives its number.
    pub fn end(&mut self, name: &str) -> Option<usize> {
        let index = self.all.iter().position(|known| known.name() == name)?;
        self.all[index].stop.cancel();
        Some(index)
    }
}

/// What is served and can be collected; the watches are to end with `stop`. A group whose server is away is left out: the others must
/// not wait for it.
pub async fn discover(client: &Client, stop: &CancellationToken) -> Result<Vec<Resource>, kube::Error> {
    match Discovery::new(client.clone()).run().await {
        Ok(all) => Ok(all.groups().flat_map(|group| resources(group, stop)).collect()),
        Err(error) => {
            tracing::debug!(%error, "some groups cannot be discovered");
            one_by_one(client, stop).await
        }
    }
}

async fn one_by_one(client: &Client, stop: &CancellationToken) -> Result<Vec<Resource>, kube::Error> {
    let groups = client.list_api_groups().await?.groups;
    let core = Discovery::new(client.clone()).filter(&[ApiGroup::CORE_GROUP]).run().await?;
    let mut found: Vec<Resource> = core.groups().flat_map(|group| resources(group, stop)).collect();
    for group in groups {
        match Discovery::new(client.clone()).filter(&[&group.name]).run().await {
            Ok(one) => found.extend(one.groups().flat_map(|group| resources(group, stop))),
            Err(error) => tracing::debug!(group = group.name, %error, "group cannot be discovered"),
        }
    }
    Ok(found)
}

fn resources(group: &ApiGroup, stop: &CancellationToken) -> Vec<Resource> {
    let mut found = Vec::new();
    for (api, can) in group.recommended_resources() {
        let all = [verbs::DELETE, verbs::LIST, verbs::WATCH].iter().all(|verb| can.supports_operation(verb));
        if all && !IGNORED.contains(&api.kind.as_str()) {
            let namespaced = can.scope == Scope::Namespaced;
            found.push(Resource { api, namespaced, stop: stop.child_token() });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(plural: &str, version: &str) -> Resource {
        let api = ApiResource {
            group: "example.com".into(),
            version: version.into(),
            api_version: format!("example.com/{version}"),
            kind: plural.to_uppercase(),
            plural: plural.into(),
        };
        Resource { api, namespaced: true, stop: CancellationToken::new() }
    }

    #[test]
    fn kinds_come_go_change_their_version_and_come_again() {
        let mut kinds = Kinds::default();
        assert_eq!(kinds.update(vec![resource("a", "v1"), resource("b", "v1")]), [0, 1]);
        assert!(kinds.update(vec![resource("b", "v1")]).is_empty(), "a may only be away");
        assert_eq!(kinds.find("example.com", "A"), Some(0));
        let old = kinds.get(1).unwrap();
        assert_eq!(kinds.update(vec![resource("a", "v1"), resource("b", "v2"), resource("c", "v1")]), [1, 2]);
        assert!(old.stop.is_cancelled() && !kinds.get(1).unwrap().stop.is_cancelled());
        assert_eq!(kinds.end("c.example.com"), Some(2));
        assert_eq!(kinds.find("example.com", "C"), None);
        assert_eq!(kinds.update(vec![resource("c", "v1")]), [2]);
        assert_eq!(kinds.find("example.com", "C"), Some(2));
        assert_eq!(kinds.end("never.example.com"), None);
    }
}
