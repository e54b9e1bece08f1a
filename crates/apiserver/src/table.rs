//! The Table view: cells come from the object as it rests, `corten_api::table` renders them.

use corten_api::table::{self, Include};
use corten_api::{Object, Result, Status, Value};

use crate::call::Call;

/// A table of objects in the version at rest. `head` says whether the columns are named (watches name them once).
pub(crate) fn render(
    call: &Call,
    version: &str,
    objects: &[Value],
    metadata: Object,
    head: bool,
    now_ms: i64,
) -> Result<Value> {
    let include = include(call)?;
    let kind = call.edge().storage_kind;
    let mut table = table::render(kind, objects, include, now_ms, Some(metadata.into()));
    let fields = table.object_at_mut(&[]);
    fields.set("apiVersion", version);
    if !head {
        fields.set("columnDefinitions", Value::Null);
    }
    Ok(table)
}

fn include(call: &Call) -> Result<Include> {
    let wanted = call.query.str("includeObject");
    Include::parse(wanted).ok_or_else(|| {
        Status::bad_request(format!(
            "unrecognized includeObject value: \"{wanted}\" (must be one of None, Metadata, Object)"
        ))
    })
}
