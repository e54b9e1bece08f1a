//! One authorised request for a resource, with everything that its verb needs to know.

use std::sync::{Arc, Mutex};

use corten_api::kind::{Scope, Version};
use corten_api::kinds::Snapshot;
use corten_api::{GroupResource, Kind, Result, Status, Value};

use crate::ApiServer;
use crate::config::Clock;
use crate::media::Answer;
use crate::query::Query;
use crate::request::RequestInfo;
use crate::stored::Head;
use crate::user::User;

/// Most warnings of one answer (upstream bounds their bytes; the effect is the same).
const MAX_WARNINGS: usize = 64;

/// Sentences for the `Warning` header; they go with the answer also where it is an error.
pub(crate) type Warnings = Arc<Mutex<Vec<String>>>;

/// The request.
pub(crate) struct Call {
    /// Who asks.
    pub user: Arc<User>,
    /// What is asked. For kinds without namespace `info.namespace` is empty.
    pub info: RequestInfo,
    /// Parameters.
    pub query: Query,
    /// `Content-Type`.
    pub content_type: String,
    /// `User-Agent`, the default field manager.
    pub user_agent: String,
    /// How to answer.
    pub answer: Answer,
    /// Does the client take gzip?
    pub gzip: bool,
    /// The table of kinds as it was when the request came.
    pub kinds: Arc<Snapshot>,
    /// The kind in the path.
    pub kind: Arc<Kind>,
    /// The time.
    pub clock: Clock,
    /// Sentences for the `Warning` header.
    pub warnings: Warnings,
}

/// Between the version of a request and the version at rest.
#[derive(Clone, Copy)]
pub(crate) struct Edge<'a> {
    /// The kind in the path.
    pub kind: &'a Kind,
    /// The version in the path.
    pub version: &'a Version,
    /// The kind that the objects rest as.
    pub storage_kind: &'a Kind,
    /// The version that they rest in.
    pub storage: &'a Version,
}

impl Call {
    /// A request of the server's own, for another object than the client's.
    ///
    /// Errors: 404 for a kind that is not served.
    pub fn internal(
        server: &ApiServer,
        resource: (&str, &str),
        namespace: &str,
        name: &str,
        subresource: &str,
    ) -> Result<Call> {
        let (group, plural) = resource;
        let kinds = server.kinds().snapshot();
        let kind = kinds.group_resource(group, plural).cloned().ok_or_else(Status::no_route)?;
        let info = RequestInfo {
            is_resource: true,
            verb: "update",
            group: group.to_owned(),
            version: kind.storage_version().name.to_string(),
            namespace: namespace.to_owned(),
            resource: plural.to_owned(),
            subresource: subresource.to_owned(),
            name: name.to_owned(),
            has_name: true,
            ..RequestInfo::default()
        };
        Ok(Call {
            user: Arc::new(User::apiserver()),
            info,
            query: Query::default(),
            content_type: String::new(),
            user_agent: "kube-apiserver".to_owned(),
            answer: Answer::default(),
            gzip: false,
            kinds,
            kind,
            clock: server.config().clock.clone(),
            warnings: Warnings::default(),
        })
    }

    /// The version in the path.
    pub fn version(&self) -> &Version {
        self.kind.served(&self.info.version).unwrap_or_else(|| self.kind.storage_version())
    }

    /// From and to the version at rest.
    pub fn edge(&self) -> Edge<'_> {
        let (storage_kind, storage) = self.kinds.storage(&self.kind);
        Edge { kind: &self.kind, version: self.version(), storage_kind, storage }
    }

    /// Group and resource for error messages.
    pub fn resource(&self) -> GroupResource<'_> {
        self.kind.resource()
    }

    /// `apps/v1`
    pub fn api_version(&self) -> String {
        self.kind.api_version(&self.info.version)
    }

    /// Where all objects of the kind rest.
    pub fn prefix(&self) -> String {
        prefix(&self.kind)
    }

    /// Where the objects that the path speaks of rest.
    pub fn collection(&self) -> String {
        match self.info.namespace.as_str() {
            "" => self.prefix(),
            ns => format!("{}{ns}/", self.prefix()),
        }
    }

    /// Where the object of a name in the request's namespace rests.
    pub fn key(&self, name: &str) -> String {
        key(&self.kind, &self.info.namespace, name)
    }

    /// 404 for the object in the path.
    pub fn not_found(&self) -> Box<Status> {
        Status::not_found(self.resource(), &self.info.name)
    }

    /// Says something in the `Warning` header.
    pub fn warn(&self, sentence: impl Into<String>) {
        let sentence = sentence.into();
        let Ok(mut warnings) = self.warnings.lock() else { return };
        if warnings.len() < MAX_WARNINGS && !warnings.contains(&sentence) {
            warnings.push(sentence);
        }
    }

    /// Is it a dry run?
    ///
    /// Errors: 400 for any other value than `All`.
    pub fn dry_run(&self) -> Result<bool> {
        let values: Vec<&str> = self.query.all("dryRun").collect();
        if values.iter().all(|v| *v == "All") {
            return Ok(!values.is_empty());
        }
        let path = corten_api::field::Path::root("dryRun");
        let shown = Value::from(values.into_iter().map(Value::from).collect::<Vec<_>>());
        let error = corten_api::field::Error::not_supported(&path, shown, &["All"]);
        Err(Status::invalid("meta.k8s.io", self.options_kind(), "", &[error]))
    }

    /// What the parameters of the request are to upstream, as errors about them say.
    pub fn options_kind(&self) -> &'static str {
        match self.info.verb {
            "update" => "UpdateOptions",
            "patch" => "PatchOptions",
            "delete" | "deletecollection" => "DeleteOptions",
            _ => "CreateOptions",
        }
    }
}

impl Edge<'_> {
    /// Is the request in the version at rest?
    pub fn same(&self) -> bool {
        std::ptr::eq(self.kind, self.storage_kind) && self.version.name == self.storage.name
    }

    /// How stored bytes can be sent without decoding; `None` when the versions have different shapes.
    pub fn head<'h>(&self, api_version: &'h str, kind: &'h str) -> Option<Head<'h>> {
        match (self.same(), self.version.convert) {
            (true, _) => Some(Head::Own),
            (false, None) => Some(Head::As { api_version, kind }),
            (false, Some(_)) => None,
        }
    }

    /// From the version at rest to the request's.
    pub fn out(&self, mut object: Value) -> Value {
        if self.same() {
            return object;
        }
        if let Some(conversion) = self.version.convert {
            (conversion.from_storage)(&mut object);
        }
        name_version(&mut object, self.kind, self.version);
        object
    }

    /// From the request's version to the one at rest.
    pub fn rest(&self, mut object: Value) -> Value {
        if self.same() {
            return object;
        }
        if let Some(conversion) = self.version.convert {
            (conversion.to_storage)(&mut object);
        }
        name_version(&mut object, self.storage_kind, self.storage);
        object
    }
}

/// Sets `apiVersion` and `kind`.
pub(crate) fn name_version(object: &mut Value, kind: &Kind, version: &Version) {
    let fields = object.object_at_mut(&[]);
    fields.set("apiVersion", kind.api_version(&version.name));
    fields.set("kind", kind.kind.as_ref());
}

/// Where the objects of a kind rest.
pub(crate) fn prefix(kind: &Kind) -> String {
    format!("/registry/{}/", kind.storage_prefix)
}

/// Where one object rests.
pub(crate) fn key(kind: &Kind, namespace: &str, name: &str) -> String {
    match kind.scope {
        Scope::Namespaced => format!("/registry/{}/{namespace}/{name}", kind.storage_prefix),
        Scope::Cluster => format!("/registry/{}/{name}", kind.storage_prefix),
    }
}
