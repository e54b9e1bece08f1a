//! Server-side apply: who owns which field, and merging by it.
//!
//! Every write goes through here once its object is made: [`track_update`] for create, update and patch, [`apply_patch`] for
//! apply. Upstream calls it right after decoding and defaulting and *before* mutating admission: what admission adds is
//! owned by nobody.
//!
//! ```
//! use corten_api::{Value, apply, json, schema};
//! let parse = |text: &str| json::parse(&bytes::Bytes::from(text.to_owned())).expect("JSON");
//! let target = apply::Target::new(schema::for_kind("", "v1", "ConfigMap"), "v1", "ConfigMap");
//! let manager = apply::Manager { name: "me", subresource: "", time: "2026-01-01T00:00:00Z" };
//! let patch = parse(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"a":"1"}}"#);
//! let made = apply::apply_patch(None, &patch, &target, &manager, false).expect("no conflict");
//! let entry = &made.items_at(&["metadata", "managedFields"])[0];
//! assert_eq!(json::to_string(entry.get("fieldsV1").expect("set")), r#"{"f:data":{"f:a":{}}}"#);
//! ```

mod compare;
mod conflict;
mod fields;
mod last_applied;
mod managed;
mod merge;
mod node;
mod path;
mod remove;
mod scale;
mod set;
mod update;
mod validate;
mod walk;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod props;
#[cfg(test)]
mod tests;

pub use last_applied::LAST_APPLIED;
pub use managed::MAX_UPDATERS;
pub use path::PathElement;
pub use scale::{parent_entries, scale_entries};
pub use set::Set;

use crate::field::{self, Path};
use crate::schema::SchemaRef;
use crate::{Result, Status, Str, Value};
use managed::{Identity, Managed, Operation};
use node::Typed;
use update::{Changes, Refusal};

/// The longest name of a manager, in bytes.
pub const MAX_MANAGER_LEN: usize = 128;

/// The longest subresource in a managedFields entry, in bytes.
const MAX_SUBRESOURCE_LEN: usize = 256;

/// Who writes, and when.
#[derive(Clone, Copy, Debug)]
pub struct Manager<'a> {
    /// See [`manager_name`].
    pub name: &'a str,
    /// Subresource of the request, `""` for the object itself.
    pub subresource: &'a str,
    /// RFC 3339 with seconds.
    pub time: &'a str,
}

/// The object in another version of the API with the schema it has there; `None` when that version is not served.
pub type Convert<'a> = &'a dyn Fn(&Value, &str) -> Option<(Value, Option<SchemaRef<'a>>)>;

/// What is written.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The schema in the request's version; `None` for custom resources without one (everything merges, lists are atomic).
    pub schema: Option<SchemaRef<'a>>,
    /// The request's version: `apps/v1`. Objects come in it and go in it.
    pub api_version: &'a str,
    /// `Deployment`
    pub kind: &'a str,
    /// Paths that this write cannot set and so does not own: `status` on the object itself, `spec` through `/status`.
    pub reset_fields: &'a [&'a [&'a str]],
    /// How to reach other versions. Needed only where managers wrote in another version than the request's.
    pub convert: Convert<'a>,
}

/// [`Target::reset_fields`] of a write to the object itself, for kinds with a status subresource.
pub const RESET_STATUS: &[&[&str]] = &[&["status"]];

/// [`Target::reset_fields`] of a write through `/status`.
pub const RESET_SPEC: &[&[&str]] = &[&["spec"]];

impl<'a> Target<'a> {
    /// A target of which only one version exists and all fields are owned.
    pub fn new(schema: Option<SchemaRef<'a>>, api_version: &'a str, kind: &'a str) -> Self {
        Target { schema, api_version, kind, reset_fields: &[], convert: &|_, _| None }
    }

    fn node(&self) -> Typed<'a> {
        self.schema.map_or(Typed::Deduced, Typed::Schema)
    }

    fn convert(&self, object: &Value, from: &str, to: &str) -> Option<(Value, Typed<'a>)> {
        if from == to && to == self.api_version {
            return Some((object.clone(), self.node()));
        }
        let (object, schema) = (self.convert)(object, to)?;
        Some((object, schema.map_or(Typed::Deduced, Typed::Schema)))
    }

    /// `default/web; apps/v1, Kind=Deployment`
    fn describe(&self, object: &Value) -> String {
        let (namespace, name) =
            (object.str_at(&["metadata", "namespace"]), object.str_at(&["metadata", "name"]));
        format!("{namespace}/{name}; {}", gvk(self.api_version, self.kind))
    }
}

/// `apps/v1, Kind=Deployment`; the core group leaves its slash.
fn gvk(api_version: &str, kind: &str) -> String {
    let slash = if api_version.contains('/') { "" } else { "/" };
    format!("{slash}{api_version}, Kind={kind}")
}

impl Manager<'_> {
    fn identity(&self, operation: Operation, target: &Target<'_>) -> Identity {
        Identity {
            name: Str::from(if self.name.is_empty() { "unknown" } else { self.name }),
            operation,
            api_version: Str::from(target.api_version),
            subresource: Str::from(self.subresource),
        }
    }
}

/// The manager's name: the request's `fieldManager`, else what stands before the first `/` of the user agent.
pub fn manager_name(field_manager: &str, user_agent: &str) -> String {
    if !field_manager.is_empty() {
        return field_manager.to_owned();
    }
    let product = user_agent.split('/').next().unwrap_or_default();
    let mut name = String::new();
    for c in product.chars().filter(|c| !c.is_control()) {
        if name.len() + c.len_utf8() > MAX_MANAGER_LEN {
            break;
        }
        name.push(c);
    }
    name
}

/// Brings `metadata.managedFields` up to date on create, update and patch. `live` is the object before, if there was one.
///
/// Never fails: where the live or the given managers cannot be read or compared, those of the live object stay.
pub fn track_update(live: Option<&Value>, new: &mut Value, target: &Target<'_>, manager: &Manager<'_>) {
    let given = managed::take_entries(new);
    let stored = live.map_or(&[][..], managed::entries);
    let entries = match updated(live, new, given.as_ref(), stored, target, manager) {
        Ok(entries) => entries,
        Err(_) => stored.to_vec(),
    };
    managed::put_entries(new, entries);
}

fn updated(
    live: Option<&Value>,
    new: &Value,
    given: Option<&Value>,
    stored: &[Value],
    target: &Target<'_>,
    manager: &Manager<'_>,
) -> Result<Vec<Value>, String> {
    let given = given.filter(|_| manager.subresource.is_empty());
    let mut managed = match given_managers(given, stored) {
        Given::Reset => Some(Managed::default()),
        Given::Managers(managed) => Some(managed),
        Given::Nothing => None,
    };
    let untracked = managed.as_ref().map_or(stored.is_empty(), |managed| managed.owners.is_empty());
    if untracked && live.is_some_and(|live| !live.str_at(&["metadata", "uid"]).is_empty()) {
        return Ok(Vec::new());
    }
    let nothing = Value::object();
    let reset = Set::of_fields(target.reset_fields);
    let changes = Changes::new(target, &reset, live.unwrap_or(&nothing), new)?;
    if managed.is_none() && changes.is_empty() {
        return Ok(stored.to_vec());
    }
    let mut managed = managed.take().unwrap_or_else(|| Managed::read(stored).unwrap_or_default());
    update::reconcile(&mut managed, target);
    update::update(&mut managed, changes, manager.identity(Operation::Update, target), manager.time)?;
    managed.cap_updaters();
    Ok(managed.write())
}

/// Gives the managers of `old` back to an update that changed nothing but their times, so that there is nothing to write.
pub fn keep_times(old: &Value, new: &mut Value) {
    let timeless = |object: &Value| {
        let mut entries = managed::entries(object).to_vec();
        entries.iter_mut().filter_map(Value::as_object_mut).for_each(|entry| drop(entry.remove("time")));
        entries
    };
    const OWNED: &[&str] = &["annotations", "finalizers", "labels", "ownerReferences"];
    let metadata = OWNED.iter().all(|field| old.at(&["metadata", field]) == new.at(&["metadata", field]));
    let covers = |a: &Value, b: &Value| {
        let mut fields = a.as_object().into_iter().flat_map(|fields| fields.iter());
        fields.all(|(name, value)| name == "metadata" || b.get(name) == Some(value))
    };
    if metadata && covers(old, new) && covers(new, old) && timeless(old) == timeless(new) {
        managed::put_entries(new, managed::entries(old).to_vec());
    }
}

/// What a client says about managers in an update.
enum Given {
    /// Nothing, or nothing new, or nothing that can be read: those of the live object count.
    Nothing,
    Reset,
    Managers(Managed),
}

fn given_managers(given: Option<&Value>, stored: &[Value]) -> Given {
    let Some(given) = given else { return Given::Nothing };
    if managed::asks_for_reset(given) {
        return Given::Reset;
    }
    match given.as_array() {
        Some(entries) if entries.as_slice() != stored => match Managed::read(entries) {
            Ok(managed) if !managed.owners.is_empty() => Given::Managers(managed),
            _ => Given::Nothing,
        },
        _ => Given::Nothing,
    }
}

/// Applies `patch` to the live object, or makes the object. The result carries its managers; defaults are the caller's.
///
/// Errors: 400 for a patch of another kind or with managers of its own, 409 with a cause for each field that somebody else
/// owns and the patch wants otherwise (unless `force`), 500 (as upstream) where the patch does not fit the schema.
pub fn apply_patch(
    live: Option<&Value>,
    patch: &Value,
    target: &Target<'_>,
    manager: &Manager<'_>,
    force: bool,
) -> Result<Value> {
    check_kind(patch, target)?;
    let stored = live.map_or(&[][..], managed::entries);
    let mut managed =
        Managed::read(stored).map_err(|why| plain(format!("failed to decode managed fields: {why}")))?;
    if patch.at(&["metadata", "managedFields"]).is_some_and(|given| !given.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let nothing = Value::object();
    let before = live.unwrap_or(&nothing);
    let typed = |what, object, why| {
        format!("failed to create typed {what} object ({}): {why}", target.describe(object))
    };
    validate::validate(patch, target.node(), false).map_err(|why| plain(typed("patch", patch, why)))?;
    validate::validate(before, target.node(), true).map_err(|why| plain(typed("live", before, why)))?;
    if managed.owners.is_empty() && live.is_some() {
        own_what_was_there(&mut managed, before, target, manager).map_err(plain)?;
    }
    let mut object = merged(&mut managed, before, patch, target, manager, force)?;
    managed::take_entries(&mut object);
    managed::put_entries(&mut object, managed.write());
    last_applied::refresh(&mut object, patch, manager);
    Ok(object)
}

fn merged(
    managed: &mut Managed,
    live: &Value,
    patch: &Value,
    target: &Target<'_>,
    manager: &Manager<'_>,
    force: bool,
) -> Result<Value> {
    let again = last_applied::may_spare(manager).then(|| managed.clone());
    match update::apply(managed, live, patch, target, manager, force) {
        Ok(object) => Ok(object.unwrap_or_else(|| live.clone())),
        Err(Refusal::Failed(why)) => Err(plain(why)),
        Err(Refusal::Conflicts(conflicts)) => {
            let conflicts = last_applied::still_conflicting(conflicts, live, target, manager);
            match again.filter(|_| conflicts.is_empty()) {
                Some(again) => {
                    *managed = again;
                    merged(managed, live, patch, target, manager, true)
                }
                None => Err(conflict::status(&conflicts)),
            }
        }
    }
}

/// The first apply to an object that nobody tracked: what is there belongs to a manager of that name.
fn own_what_was_there(
    managed: &mut Managed,
    live: &Value,
    target: &Target<'_>,
    manager: &Manager<'_>,
) -> Result<(), String> {
    let nothing = Value::object();
    let reset = Set::of_fields(target.reset_fields);
    let changes = Changes::new(target, &reset, &nothing, live)?;
    let before = Manager { name: "before-first-apply", ..*manager };
    update::update(managed, changes, before.identity(Operation::Update, target), manager.time)
}

fn check_kind(patch: &Value, target: &Target<'_>) -> Result<()> {
    let (version, kind) = (patch.str_at(&["apiVersion"]), patch.str_at(&["kind"]));
    if version == target.api_version && kind == target.kind {
        return Ok(());
    }
    Err(Status::bad_request(format!("invalid object type: {}", gvk(version, kind))))
}

/// 500 without a reason, as upstream answers errors that are no Status of their own.
fn plain(message: String) -> Box<Status> {
    Status::new(500, "", message)
}

/// The rules for `metadata.managedFields` of an object that is about to be stored.
pub fn validate_managed_fields(entries: &Value, path: &Path<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    for (at, entry) in entries.as_array().map_or(&[][..], Vec::as_slice).iter().enumerate() {
        let path = path.index(at);
        let operation = entry.str_at(&["operation"]);
        if !matches!(operation, "Apply" | "Update") {
            errors.push(field::Error::invalid(
                &path.child("operation"),
                operation,
                "must be `Apply` or `Update`",
            ));
        }
        let fields_type = entry.str_at(&["fieldsType"]);
        if !matches!(fields_type, "" | "FieldsV1") {
            errors.push(field::Error::invalid(&path.child("fieldsType"), fields_type, "must be `FieldsV1`"));
        }
        errors.extend(validate_manager(entry.str_at(&["manager"]), &path.child("manager")));
        if entry.str_at(&["subresource"]).len() > MAX_SUBRESOURCE_LEN {
            errors.push(field::Error::too_long(&path.child("subresource"), MAX_SUBRESOURCE_LEN));
        }
    }
    errors
}

/// The rules for a manager's name (also of the request's `fieldManager`).
pub fn validate_manager(name: &str, path: &Path<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    if name.len() > MAX_MANAGER_LEN {
        errors.push(field::Error::too_long(path, MAX_MANAGER_LEN));
    }
    for (at, c) in name.char_indices().filter(|(_, c)| c.is_control()) {
        let why = format!("invalid character U+{:04X} (at position {at})", c as u32);
        errors.push(field::Error::invalid(path, name, why));
    }
    errors
}
