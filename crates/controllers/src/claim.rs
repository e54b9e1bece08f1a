//! Adopting and releasing: which of the objects that a selector matches belong to which controller.

use std::sync::Arc;

use corten_client::{Api, Object};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams};
use kube::{Client, Resource};
use serde_json::json;

use corten_client::selector;

/// Objects sorted by what must be done about them.
#[derive(Debug)]
pub struct Claims<K> {
    /// Ours and matching.
    pub owned: Vec<Arc<K>>,
    /// Nobody's and matching: to be adopted.
    pub adoptable: Vec<Arc<K>>,
    /// Ours, but matching no more: to be released.
    pub released: Vec<Arc<K>>,
}

/// The reference to the controller of an object.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|r| r.controller == Some(true))
}

/// Sorts `objects` for the controller `owner`. A controller that is being deleted adopts nothing.
pub fn claim<K: Resource>(owner: &ObjectMeta, by: &LabelSelector, objects: Vec<Arc<K>>) -> Claims<K> {
    let mut claims = Claims { owned: Vec::new(), adoptable: Vec::new(), released: Vec::new() };
    let owner_ends = owner.deletion_timestamp.is_some();
    for object in objects {
        let meta = object.meta();
        let matching = selector::matches(by, meta.labels.as_ref());
        let ends = meta.deletion_timestamp.is_some();
        match controller_of(meta) {
            Some(reference) if Some(&reference.uid) != owner.uid.as_ref() => {}
            Some(_) if matching => claims.owned.push(object),
            Some(_) if !owner_ends => claims.released.push(object),
            None if matching && !owner_ends && !ends => claims.adoptable.push(object),
            _ => {}
        }
    }
    claims
}

/// The reference by which a controller owns what it makes.
pub fn reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    let meta = owner.meta();
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Carries claims out: adopts, releases, and gives all that are owned now. The owner must exist with this UID still, which is
/// asked of the API itself before the first adoption.
pub async fn carry_out<O, K>(
    client: &Client,
    owner: &O,
    claims: Claims<K>,
) -> Result<Vec<Arc<K>>, kube::Error>
where
    O: Resource<Scope = k8s_openapi::NamespaceResourceScope> + Object,
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope> + Object,
{
    carry_out_with(client, owner, claims, None).await
}

/// The same where what is adopted gets a finalizer too, and loses it when it is released.
pub async fn carry_out_with<O, K>(
    client: &Client,
    owner: &O,
    claims: Claims<K>,
    finalizer: Option<&str>,
) -> Result<Vec<Arc<K>>, kube::Error>
where
    O: Resource<Scope = k8s_openapi::NamespaceResourceScope> + Object,
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope> + Object,
{
    let namespace = owner.meta().namespace.clone().unwrap_or_default();
    let mut owned = claims.owned;
    let objects: Api<K> = Api::namespaced(client.clone(), &namespace);
    for object in claims.released {
        release(&objects, owner.meta(), object.meta(), finalizer).await?;
    }
    if claims.adoptable.is_empty() {
        return Ok(owned);
    }
    let owners: Api<O> = Api::namespaced(client.clone(), &namespace);
    let name = owner.meta().name.as_deref().unwrap_or_default();
    let fresh = owners.get_opt(name).await?;
    let still_there =
        fresh.is_some_and(|o| o.meta().uid == owner.meta().uid && o.meta().deletion_timestamp.is_none());
    if !still_there {
        return Ok(owned);
    }
    for object in claims.adoptable {
        if adopt(&objects, reference(owner), object.meta(), finalizer).await? {
            owned.push(object);
        }
    }
    Ok(owned)
}

async fn adopt<K>(
    api: &Api<K>,
    reference: OwnerReference,
    object: &ObjectMeta,
    finalizer: Option<&str>,
) -> Result<bool, kube::Error>
where
    K: Object,
{
    let mut meta = json!({ "uid": object.uid, "ownerReferences": [reference] });
    if let Some(finalizer) = finalizer {
        meta["finalizers"] = json!([finalizer]);
    }
    patched(api, object, &json!({ "metadata": meta })).await
}

async fn release<K>(
    api: &Api<K>,
    owner: &ObjectMeta,
    object: &ObjectMeta,
    finalizer: Option<&str>,
) -> Result<bool, kube::Error>
where
    K: Object,
{
    let gone = json!({ "$patch": "delete", "uid": owner.uid });
    let mut meta = json!({ "uid": object.uid, "ownerReferences": [gone] });
    if let Some(finalizer) = finalizer {
        meta["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
    }
    patched(api, object, &json!({ "metadata": meta })).await
}

/// False where the object is gone or another one by now: then there is nothing to claim.
async fn patched<K>(api: &Api<K>, object: &ObjectMeta, patch: &serde_json::Value) -> Result<bool, kube::Error>
where
    K: Object,
{
    let name = object.name.as_deref().unwrap_or_default();
    match api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use std::collections::BTreeMap;

    fn pod(name: &str, app: &str, owner: Option<&str>) -> Arc<Pod> {
        let references = owner.map(|uid| {
            vec![json!({ "apiVersion": "v1", "kind": "X", "name": "x", "uid": uid, "controller": true })]
        });
        let meta = json!({ "name": name, "labels": { "app": app }, "ownerReferences": references });
        Arc::new(serde_json::from_value(json!({ "metadata": meta })).unwrap())
    }

    #[test]
    fn own_free_and_foreign_pods() {
        let owner = ObjectMeta { uid: Some("me".into()), ..ObjectMeta::default() };
        let by = selector::of_labels(&BTreeMap::from([("app".to_owned(), "x".to_owned())]));
        let pods = vec![
            pod("mine", "x", Some("me")),
            pod("free", "x", None),
            pod("foreign", "x", Some("other")),
            pod("relabelled", "y", Some("me")),
            pod("unrelated", "y", None),
        ];
        let claims = claim(&owner, &by, pods);
        let names =
            |list: &[Arc<Pod>]| list.iter().map(|p| p.metadata.name.clone().unwrap()).collect::<Vec<_>>();
        assert_eq!(names(&claims.owned), ["mine"]);
        assert_eq!(names(&claims.adoptable), ["free"]);
        assert_eq!(names(&claims.released), ["relabelled"]);
    }
}
