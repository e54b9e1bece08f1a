//! Patches and field managers: the seam to `corten_api::patch` and `corten_api::apply`.

use corten_api::field::{Error, Path};
use corten_api::schema::SchemaRef;
use corten_api::{Result, Status, Value, patch};

use crate::call::Call;
use crate::candidate::{Live, Make, Patch};
use crate::decode;
use crate::media::PatchType;

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
pub(crate) fn change_with(schema: SchemaRef<'static>, wanted: &Patch, object: &mut Value) -> Result<()> {
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

/// Server-side apply: the candidate, in the version at rest.
pub(crate) fn apply(call: &Call, patch: &Patch, live: Option<&Live>) -> Result<Value> {
    let _ = (call, patch, live);
    Err(Status::internal("apply is not served yet"))
}

/// Keeps `metadata.managedFields` of everything but apply.
pub(crate) fn track(
    call: &Call,
    make: &Make,
    object: &mut Value,
    old: Option<&Value>,
    now_ms: i64,
) -> Result<()> {
    let _ = (call, make, now_ms);
    let kept = old.and_then(|o| o.at(&["metadata", "managedFields"])).cloned();
    let fields = crate::meta::metadata(object);
    fields.remove("managedFields");
    if let Some(kept) = kept {
        fields.set("managedFields", kept);
    }
    Ok(())
}
