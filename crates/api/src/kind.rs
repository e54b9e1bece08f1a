//! The kind table: one row a kind, built in or from a CRD. Routes, discovery, OpenAPI, columns, RBAC names derive from it.

use std::borrow::Cow;
use std::sync::Arc;

use crate::field;
use crate::{GroupResource, Status, Value, json};

/// Text that is `const` in built-in rows and owned in rows made from a CRD.
pub type Text = Cow<'static, str>;

/// Does the kind live in a namespace?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `/api/v1/nodes/NAME`
    Cluster,
    /// `/api/v1/namespaces/NS/pods/NAME`
    Namespaced,
}

/// One version under which a kind is served.
#[derive(Clone, Debug)]
pub struct Version {
    /// `v1`, `v2beta1` …
    pub name: Text,
    /// Listed in discovery and routed.
    pub served: bool,
    /// Objects rest in this version; exactly one per kind.
    pub storage: bool,
    /// Key into the field table: `io.k8s.api.core.v1.Pod`. Empty for CRDs, which bring their own schema.
    pub message: Text,
    /// The schema of a CRD's version as its author wrote it (`openAPIV3Schema`), for OpenAPI documents.
    pub open_api: Option<Arc<Value>>,
    /// Between this version and the storage version, where more differs than `apiVersion`.
    pub convert: Option<Conversion>,
}

/// How a version of another shape becomes the storage version and back. The engine sets `apiVersion` and `kind` itself.
#[derive(Clone, Copy, Debug)]
pub struct Conversion {
    /// From this version to the storage version, after this version's defaults.
    pub to_storage: fn(&mut Value),
    /// From the storage version to this version.
    pub from_storage: fn(&mut Value),
}

/// A verb of the resource itself, as discovery lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// POST on the collection.
    Create,
    /// DELETE on one object.
    Delete,
    /// DELETE on the collection.
    DeleteCollection,
    /// GET on one object.
    Get,
    /// GET on the collection.
    List,
    /// PATCH.
    Patch,
    /// PUT.
    Update,
    /// GET with `watch=true`.
    Watch,
}

impl Verb {
    /// All of them in discovery's (alphabetical) order: what almost every kind has.
    pub const ALL: &'static [Verb] = &[
        Verb::Create,
        Verb::Delete,
        Verb::DeleteCollection,
        Verb::Get,
        Verb::List,
        Verb::Patch,
        Verb::Update,
        Verb::Watch,
    ];
    /// Kinds that only answer a POST (reviews, token requests).
    pub const CREATE_ONLY: &'static [Verb] = &[Verb::Create];

    /// The word in discovery and RBAC.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Patch => "patch",
            Verb::Update => "update",
            Verb::Watch => "watch",
        }
    }
}

/// What stands behind `/NAME/SUBRESOURCE`.
#[derive(Clone, Debug, PartialEq)]
pub enum Subresource {
    /// Only `.status` changes; everything else keeps its stored value.
    Status,
    /// `autoscaling/v1 Scale` (or the kind's own) mapped to paths of the object.
    Scale {
        /// Path of the wanted replicas, e.g. `["spec", "replicas"]`.
        spec_replicas: &'static [&'static str],
        /// Path of the counted replicas.
        status_replicas: &'static [&'static str],
        /// Path of the selector: a map, a LabelSelector or a string. Empty for none.
        selector: &'static [&'static str],
    },
    /// The whole object is written under other rules (`pods/ephemeralcontainers`, `pods/resize`, `namespaces/finalize`,
    /// `certificatesigningrequests/approval`).
    Object {
        /// Path segment.
        name: &'static str,
        /// Verbs as discovery lists them.
        verbs: &'static [&'static str],
    },
    /// A POST of another kind with its own code in the API server (`pods/binding`, `pods/eviction`, `serviceaccounts/token`).
    Action {
        /// Path segment.
        name: &'static str,
        /// Group, version and kind of the body, as discovery lists them.
        body: (&'static str, &'static str, &'static str),
    },
    /// Passed on to a node or to the object's own address (`log`, `exec`, `attach`, `portforward`, `proxy`).
    Connect {
        /// Path segment.
        name: &'static str,
        /// Kind in discovery (`PodExecOptions` …; the parent's own kind for `log`).
        kind: &'static str,
        /// Verbs as discovery lists them.
        verbs: &'static [&'static str],
    },
}

impl Subresource {
    /// The path segment.
    pub fn name(&self) -> &'static str {
        match self {
            Subresource::Status => "status",
            Subresource::Scale { .. } => "scale",
            Subresource::Object { name, .. }
            | Subresource::Action { name, .. }
            | Subresource::Connect { name, .. } => name,
        }
    }
}

/// One column of `kubectl get`.
#[derive(Clone, Debug)]
pub struct Column {
    /// Heading as the API gives it, e.g. `Ready` (kubectl prints it in capitals).
    pub name: Text,
    /// OpenAPI type: `string`, `integer`, `date` …
    pub kind: Text,
    /// OpenAPI format: `name` marks the name column.
    pub format: Text,
    /// One sentence.
    pub description: Text,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
    /// Where the cell comes from.
    pub cell: Cell,
}

/// Where a cell comes from.
#[derive(Clone, Debug)]
pub enum Cell {
    /// The text at a path of field names; `""` where there is none.
    Text(&'static [&'static str]),
    /// The text at a path, or the text given where there is none (`<none>`, `<unset>`).
    TextOr(&'static [&'static str], &'static str),
    /// The integer at a path; 0 where there is none.
    Int(&'static [&'static str]),
    /// The boolean at a path, or the one given.
    Bool(&'static [&'static str], bool),
    /// How many items or fields the value at a path has.
    Count(&'static [&'static str]),
    /// The time since the RFC 3339 time at a path: `5m`, `<unknown>` where there is none.
    Age(&'static [&'static str]),
    /// Computed from the object; `now_ms` is Unix time.
    Compute(fn(object: &Value, now_ms: i64) -> Value),
    /// A JSONPath (columns of CRDs); dates become ages. Missing becomes null.
    JsonPath(String),
}

/// What a hook may know beside the object.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// API group of the request, `""` for core: two kinds may share how they rest.
    pub group: &'a str,
    /// Version of the API in which the request came.
    pub version: &'a str,
    /// Subresource of the request, `""` for the object itself.
    pub subresource: &'a str,
    /// Unix time in milliseconds.
    pub now_ms: i64,
}

/// How a graceful deletion goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grace {
    /// Remove at once.
    Immediate,
    /// Mark and wait so many seconds for someone to delete with 0.
    Seconds(i64),
}

/// See [`Hooks::validate`].
pub type Validate = fn(object: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error>;
/// See [`Hooks::warnings`].
pub type Warnings = fn(object: &Value, old: Option<&Value>) -> Vec<String>;
/// See [`Hooks::graceful_delete`].
pub type GracefulDelete = fn(object: &mut Value, asked: Option<i64>) -> Result<Grace, Box<Status>>;

/// Everything that makes a kind special. All on trees, all pure; the engine owns the order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hooks {
    /// Defaults that the field table does not declare; runs on decoding in the version of the request.
    pub default: Option<fn(object: &mut Value)>,
    /// Before create (and before validation): upstream's `PrepareForCreate` beyond the engine's own (status reset, generation 1).
    pub prepare_create: Option<fn(object: &mut Value, cx: &Context<'_>)>,
    /// Before update: upstream's `PrepareForUpdate` beyond the engine's own (status kept, generation + 1 on spec change).
    pub prepare_update: Option<fn(object: &mut Value, old: &Value, cx: &Context<'_>)>,
    /// All broken rules of the object (and of the change, where `old` is given). Metadata is the engine's.
    pub validate: Option<Validate>,
    /// Warnings for the `Warning` header.
    pub warnings: Option<Warnings>,
    /// What a delete with the asked-for grace (None: not given) means for this object now.
    pub graceful_delete: Option<GracefulDelete>,
    /// What upstream calls `NamespaceScoped` name rules: returns the rule's message when the name is bad. Default: DNS subdomain.
    pub name_rule: Option<fn(name: &str, is_prefix: bool) -> Vec<String>>,
    /// `conditions` of the row in a Table (a pod that is done).
    pub row_conditions: Option<fn(object: &Value) -> Option<Value>>,
    /// Values of selectable fields that are not simply the text at their path (`None`: they are).
    pub selectable_value: Option<fn(object: &Value, path: &str) -> Option<String>>,
}

/// One kind.
#[derive(Clone, Debug)]
pub struct Kind {
    /// API group, `""` for core.
    pub group: Text,
    /// `Pod`
    pub kind: Text,
    /// `pods`
    pub plural: Text,
    /// `pod`
    pub singular: Text,
    /// `PodList`
    pub list_kind: Text,
    /// Where objects rest: `pods` in `/registry/pods/NAMESPACE/NAME`. Two kinds with the same prefix share their objects
    /// (`Event` of core and of events.k8s.io): the one with [`Kind::stored_as`] converts.
    pub storage_prefix: Text,
    /// Group and plural of the kind in whose storage version the objects rest, where that is another kind.
    pub stored_as: Option<(Text, Text)>,
    /// `po`
    pub short_names: Cow<'static, [Text]>,
    /// `all`
    pub categories: Cow<'static, [Text]>,
    /// Namespaced or not.
    pub scope: Scope,
    /// Versions in order of preference.
    pub versions: Cow<'static, [Version]>,
    /// Verbs in discovery's order.
    pub verbs: Cow<'static, [Verb]>,
    /// Subresources.
    pub subresources: Cow<'static, [Subresource]>,
    /// Columns, name included; empty means Name and Created At.
    pub columns: Cow<'static, [Column]>,
    /// Paths that field selectors may name beside `metadata.name` and `metadata.namespace`.
    pub selectable_fields: Cow<'static, [Text]>,
    /// Does `metadata.generation` count changes (of anything but metadata and status)?
    pub has_generation: bool,
    /// Does a create keep the status it brings (nodes register themselves with it)? Otherwise the engine takes it away
    /// before `prepare_create`, where the kind has a status subresource.
    pub keeps_status_on_create: bool,
    /// May a PUT to a missing name create it (upstream's AllowCreateOnUpdate)?
    pub create_on_update: bool,
    /// May an update leave the resource version out (upstream's AllowUnconditionalUpdate)?
    pub unconditional_update: bool,
    /// Where the kind is special.
    pub hooks: Hooks,
}

impl Kind {
    /// The version in which objects rest.
    pub fn storage_version(&self) -> &Version {
        self.versions.iter().find(|v| v.storage).unwrap_or(&self.versions[0])
    }

    /// `v1` for core, `group/version` otherwise.
    pub fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }

    /// The subresource of that path segment.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name() == name)
    }

    /// The version of that name, if it is served.
    pub fn served(&self, version: &str) -> Option<&Version> {
        self.versions.iter().find(|v| v.served && v.name == version)
    }

    /// Group and resource as error messages name them.
    pub fn resource(&self) -> GroupResource<'_> {
        GroupResource { group: &self.group, resource: &self.plural }
    }

    /// May a field selector name that path?
    pub fn is_selectable(&self, path: &str) -> bool {
        match path {
            "metadata.name" => true,
            "metadata.namespace" => self.scope == Scope::Namespaced,
            _ => self.selectable_fields.iter().any(|f| f == path),
        }
    }

    /// The text that a field selector compares: the hook's, or the value at the path (missing: `""`; numbers and booleans printed).
    pub fn selectable_value(&self, object: &Value, path: &str) -> String {
        if let Some(text) = self.hooks.selectable_value.and_then(|f| f(object, path)) {
            return text;
        }
        match path.split('.').try_fold(object, |value, key| value.get(key)) {
            Some(Value::String(s)) => s.to_string(),
            None | Some(Value::Null) => String::new(),
            Some(other) => json::to_string(other),
        }
    }

    /// Is the resource's verb served?
    pub fn has_verb(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }
}
