//! Patches and field managers: the seam to `corten_api::patch` and `corten_api::apply`.

use corten_api::apply::{self, Convert, Manager, Target};
use corten_api::field::{Error, Path};
use corten_api::schema::{self, SchemaRef};
use corten_api::{Result, Status, Value, patch, time};

use crate::call::{Call, Edge};
use crate::candidate::{Live, Make, Patch};
use crate::decode::{self, Parsed};
use crate::media::PatchType;
use crate::meta;

/// Checks the parameters that only patches have.
///
/// Errors: 422.
pub(crate) fn check_options(call: &Call, kind: PatchType) -> Result<()> {
    let mut errors = Vec::new();
    if kind == PatchType::Apply && call.query.str("fieldManager").is_empty() {
        errors.push(Error::required(&Path::root("fieldManager"), "is required for apply patch"));
    }
    if kind != PatchType::Apply && call.query.get("force").is_some() {
        errors.push(Error::forbidden(&Path::root("force"), "may not be specified for non-apply patch"));
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid("meta.k8s.io", "PatchOptions", "", &errors)),
    }
}

/// Applies a JSON, merge or strategic patch to an object in the request's version.
///
/// Errors: 400, 413, 415, 422.
pub(crate) fn change(call: &Call, wanted: &Patch, object: &mut Value) -> Result<()> {
    match decode::schema_of(&call.kind, call.version()) {
        Some(schema) => change_with(schema, wanted, object),
        None if wanted.kind == PatchType::Strategic => Err(Status::unsupported_media_type(&[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/apply-patch+yaml",
        ])),
        None => plain(wanted, object),
    }
}

/// The same for an object of any built-in schema.
fn change_with(schema: SchemaRef<'static>, wanted: &Patch, object: &mut Value) -> Result<()> {
    match wanted.kind {
        PatchType::Strategic => Ok(patch::strategic::apply(object, wanted.value.clone(), schema)?),
        _ => plain(wanted, object),
    }
}

fn plain(wanted: &Patch, object: &mut Value) -> Result<()> {
    match wanted.kind {
        PatchType::Json => patch::json::apply(object, &wanted.value)?,
        PatchType::Merge => patch::merge::apply(object, wanted.value.clone())?,
        _ => {
            return Err(Status::unsupported_media_type(&[
                "application/json-patch+json",
                "application/merge-patch+json",
            ]));
        }
    }
    Ok(())
}

/// Server-side apply: the candidate with its managers, in the version at rest.
///
/// Errors: 400, 409 for fields of other managers, 500 for a patch that does not fit the schema.
pub(crate) fn apply(call: &Call, wanted: &Patch, live: Option<&Live>) -> Result<Value> {
    let edge = call.edge();
    let live = live.map(|l| edge.out(l.tree.clone()));
    let api_version = call.api_version();
    let convert = |object: &Value, to: &str| convert(&edge, object, to);
    let target = target(&edge, &api_version, &call.info.subresource, &convert);
    let made = applied(call, wanted, live.as_ref(), &target)?;
    decode::typed(call, wanted.strictness, made, not_strict)
}

/// The same for any target, before types are looked at.
fn applied(call: &Call, wanted: &Patch, live: Option<&Value>, target: &Target<'_>) -> Result<Parsed> {
    let now = time::rfc3339((call.clock)());
    let manager =
        Manager { name: call.query.str("fieldManager"), subresource: &call.info.subresource, time: &now };
    let mut patch = wanted.value.clone();
    let namespace = patch.str_at(&["metadata", "namespace"]).to_owned();
    meta::agree_on_name(&mut patch, &call.info.name)?;
    meta::agree_on_namespace(&mut patch, call)?;
    let made = apply::apply_patch(live, &patch, target, &manager, call.query.flag("force"));
    let made = made.map_err(|mut refused| {
        // Upstream names the object by what the client wrote of it.
        if namespace.is_empty() && !call.info.namespace.is_empty() {
            let (full, told) = (format!("({}/", call.info.namespace), "(/");
            refused.message = refused.message.replacen(&full, told, 1);
        }
        refused
    })?;
    Ok(Parsed::new(made, wanted.findings.clone()))
}

fn not_strict(error: String) -> Box<Status> {
    Status::bad_request(format!("error strict decoding YAML: {error}"))
}

/// A view of an object that is written as if it were one (`Scale`): group, version and kind, and `apiVersion`.
pub(crate) type View = ((&'static str, &'static str, &'static str), &'static str);

/// A patch of any kind to a view, whose managers are those of what it shows. The result carries its managers.
///
/// Errors: as [`apply`] and [`change`].
pub(crate) fn change_view(
    call: &Call,
    wanted: &Patch,
    old: &Value,
    (of, api_version): View,
) -> Result<Value> {
    let schema = schema::for_kind(of.0, of.1, of.2)
        .ok_or_else(|| Status::internal(format!("{} has no schema", of.2)))?;
    if wanted.kind == PatchType::Apply {
        let made = applied(call, wanted, Some(old), &Target::new(Some(schema), api_version, of.2))?;
        return decode::other_typed(call, wanted.strictness, made, of, not_strict);
    }
    let mut value = old.clone();
    change_with(schema, wanted, &mut value)?;
    let made = Parsed::new(value, wanted.findings.clone());
    let mut new = decode::other_typed(call, wanted.strictness, made, of, |error| wanted.refused(error))?;
    track_view(call, old, &mut new, (of, api_version));
    Ok(new)
}

/// Brings the managers of a view up to date that was replaced or patched.
pub(crate) fn track_view(call: &Call, old: &Value, new: &mut Value, (of, api_version): View) {
    let (name, now) = (manager_of(call), time::rfc3339((call.clock)()));
    let manager = Manager { name: &name, subresource: &call.info.subresource, time: &now };
    let target = Target::new(schema::for_kind(of.0, of.1, of.2), api_version, of.2);
    apply::track_update(Some(old), new, &target, &manager);
}

fn manager_of(call: &Call) -> String {
    apply::manager_name(call.query.str("fieldManager"), &call.user_agent)
}

/// Brings `metadata.managedFields` up to date, before admission: what admission adds belongs to nobody. Apply has done it,
/// and so has a write through `/scale`, whose managers are those of the scale.
pub(crate) fn track(call: &Call, make: &Make, object: &mut Value, old: Option<&Value>, now_ms: i64) {
    let applied = matches!(make, Make::Patch(Patch { kind: PatchType::Apply, .. }));
    if applied || call.info.subresource == "scale" {
        return;
    }
    let edge = call.edge();
    let (api_version, now) = (call.api_version(), time::rfc3339(now_ms));
    let name = manager_of(call);
    let manager = Manager { name: &name, subresource: &call.info.subresource, time: &now };
    let convert = |object: &Value, to: &str| convert(&edge, object, to);
    let target = target(&edge, &api_version, &call.info.subresource, &convert);
    if edge.same() {
        return apply::track_update(old, object, &target, &manager);
    }
    let mut shown = edge.out(object.clone());
    let old = old.map(|o| edge.out(o.clone()));
    apply::track_update(old.as_ref(), &mut shown, &target, &manager);
    let managers = shown.object_at_mut(&["metadata"]).remove("managedFields");
    let fields = meta::metadata(object);
    match managers {
        Some(managers) => fields.set("managedFields", managers),
        None => {
            fields.remove("managedFields");
        }
    }
}

/// What was told apart for its owners rests the same: an empty list that Go writes in any case is null.
pub(crate) fn settle(call: &Call, object: &mut Value, old: Option<&Value>) {
    let edge = call.edge();
    let Some(schema) = decode::schema_of(edge.storage_kind, edge.storage) else { return };
    if let (true, Some(old)) = (schema::settle(object, schema), old) {
        apply::keep_times(old, object);
    }
}

fn target<'a>(edge: &Edge<'a>, api_version: &'a str, subresource: &str, convert: Convert<'a>) -> Target<'a> {
    let reset_fields = match subresource {
        "" if meta::has_status(edge.kind) => apply::RESET_STATUS,
        "status" => apply::RESET_SPEC,
        _ => &[],
    };
    let schema = decode::schema_of(edge.kind, edge.version);
    Target { schema, api_version, kind: &edge.kind.kind, reset_fields, convert }
}

/// The object (in the version that it names, the edge's where it names none) in another version that the kind serves.
fn convert<'a>(edge: &Edge<'a>, object: &Value, to: &str) -> Option<(Value, Option<SchemaRef<'a>>)> {
    let served =
        |name: &str| edge.kind.versions.iter().find(|v| v.served && edge.kind.api_version(&v.name) == name);
    let version = served(to)?;
    let from = Edge { version: served(object.str_at(&["apiVersion"])).unwrap_or(edge.version), ..*edge };
    let other = Edge { version, ..*edge };
    Some((other.out(from.rest(object.clone())), decode::schema_of(edge.kind, version)))
}
