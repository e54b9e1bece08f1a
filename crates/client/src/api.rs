//! Objects of one kind at an API server: `kube::Api` for the kinds of [`Object`], as thin as it can be, since all of it exists once a kind.

use std::marker::PhantomData;

use bytes::Bytes;
use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, ListParams, ObjectList, Patch, PatchParams, PostParams};
use kube::core::request::{Error as BuildError, Request};
use kube::core::{Resource, TypeMeta};
use kube::{Client, Error};
use serde::Serialize;

use crate::Object;
use crate::request::{Wanted, ask, list};

/// The objects of a kind, in one namespace or in all. Methods answer as `kube::Api`'s of the same name.
pub struct Api<K> {
    client: Client,
    request: Request,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Api<K> {
    fn clone(&self) -> Self {
        Api { client: self.client.clone(), request: self.request.clone(), kind: PhantomData }
    }
}

impl<K: Object> Api<K> {
    /// Objects in all namespaces, or without one.
    pub fn all(client: Client) -> Self {
        Api { client, request: Request::new(K::url_path(&(), None)), kind: PhantomData }
    }

    /// Objects in one namespace.
    pub fn namespaced(client: Client, namespace: &str) -> Self
    where
        K: Resource<Scope = NamespaceResourceScope>,
    {
        Api { client, request: Request::new(K::url_path(&(), Some(namespace))), kind: PhantomData }
    }

    pub(crate) fn into_parts(self) -> (Client, Request) {
        (self.client, self.request)
    }

    async fn object(&self, wanted: Wanted) -> Result<K, Error> {
        let json = ask(&self.client, wanted).await?;
        K::from_json(&json).map_err(Error::SerdeError)
    }

    /// The object of that name.
    pub async fn get(&self, name: &str) -> Result<K, Error> {
        self.object(self.request.get(name, &kube::api::GetParams::default())).await
    }

    /// The same; `None` where there is none.
    pub async fn get_opt(&self, name: &str) -> Result<Option<K>, Error> {
        match self.get(name).await {
            Err(Error::Api(status)) if status.code == 404 => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// The objects that are chosen; one page of them where a limit is set.
    pub async fn list(&self, which: &ListParams) -> Result<ObjectList<K>, Error> {
        let json = ask(&self.client, self.request.list(which)).await?;
        let (metadata, items) = list(&json)?;
        let items =
            items.into_iter().map(K::from_json).collect::<Result<_, _>>().map_err(Error::SerdeError)?;
        Ok(ObjectList { types: TypeMeta::default(), metadata, items })
    }

    /// Makes an object.
    pub async fn create(&self, how: &PostParams, object: &K) -> Result<K, Error> {
        self.object(written(object).and_then(|json| self.request.create(how, json))).await
    }

    /// Replaces the object of that name.
    pub async fn replace(&self, name: &str, how: &PostParams, object: &K) -> Result<K, Error> {
        self.object(written(object).and_then(|json| self.request.replace(name, how, json))).await
    }

    /// Replaces its status.
    pub async fn replace_status(&self, name: &str, how: &PostParams, object: &K) -> Result<K, Error> {
        let json = written(object);
        self.object(json.and_then(|json| self.request.replace_subresource("status", name, how, json))).await
    }

    /// Changes the object of that name.
    pub async fn patch<P: Serialize>(
        &self,
        name: &str,
        how: &PatchParams,
        patch: &Patch<P>,
    ) -> Result<K, Error> {
        self.object(self.request.patch(name, how, patch)).await
    }

    /// Changes its status.
    pub async fn patch_status<P: Serialize>(
        &self,
        name: &str,
        how: &PatchParams,
        patch: &Patch<P>,
    ) -> Result<K, Error> {
        self.patch_subresource("status", name, how, patch).await
    }

    /// Changes a subresource and gives the object.
    pub async fn patch_subresource<P: Serialize>(
        &self,
        of: &str,
        name: &str,
        how: &PatchParams,
        patch: &Patch<P>,
    ) -> Result<K, Error> {
        self.object(self.request.patch_subresource(of, name, how, patch)).await
    }

    /// Removes the object of that name, or says that it should go.
    pub async fn delete(&self, name: &str, how: &DeleteParams) -> Result<(), Error> {
        ask(&self.client, self.request.delete(name, how)).await.map(drop)
    }

    /// Sends `what` to a subresource and gives what comes back, as JSON.
    pub async fn create_subresource(
        &self,
        of: &str,
        name: &str,
        how: &PostParams,
        what: &impl Serialize,
    ) -> Result<Bytes, Error> {
        let json = serde_json::to_vec(what).map_err(BuildError::SerializeBody);
        ask(&self.client, json.and_then(|json| self.request.create_subresource(of, name, how, json))).await
    }
}

fn written<K: Object>(object: &K) -> Result<Vec<u8>, BuildError> {
    object.to_json().map_err(BuildError::SerializeBody)
}
