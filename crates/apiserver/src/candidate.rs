//! How create, update and patch make the object that they want; everything after that is the same for all of them.

use bytes::Bytes;
use corten_api::field::{Error, Path};
use corten_api::{Result, Status, Value};
use corten_store::Entry;

use crate::call::Call;
use crate::decode::{self, Parsed, Strictness};
use crate::media::{Format, PatchType};
use crate::stored;

/// The stored object that a write starts from.
pub(crate) struct Live {
    /// As it rests.
    pub entry: std::sync::Arc<Entry>,
    /// Its tree, resource version included.
    pub tree: Value,
}

impl Live {
    /// Decodes an entry.
    pub fn new(entry: std::sync::Arc<Entry>) -> Result<Self> {
        let tree = stored::tree(&entry.value, entry.mod_revision)?;
        Ok(Live { entry, tree })
    }
}

/// An edit made by the server for a subresource: changes the tree of the version at rest.
pub(crate) type Edit = Box<dyn Fn(&mut Value) -> Result<()> + Send + Sync>;

/// The wanted change.
pub(crate) enum Make {
    /// POST: this object, which must not be there yet.
    Create(Value),
    /// PUT: this object.
    Replace(Value),
    /// PATCH.
    Patch(Patch),
    /// What a subresource does.
    Edit(Edit),
}

impl Make {
    /// The candidate, in the version at rest.
    ///
    /// Errors: 404 where the object must be there, 400, 422.
    /// On the last try the object itself is handed out, not a copy.
    pub fn candidate(&mut self, call: &Call, live: Option<&Live>, last_try: bool) -> Result<Value> {
        match (self, live) {
            (Make::Create(object) | Make::Replace(object), _) if last_try => Ok(std::mem::take(object)),
            (Make::Create(object) | Make::Replace(object), _) => Ok(object.clone()),
            (Make::Patch(patch), live) => patch.candidate(call, live),
            (Make::Edit(edit), Some(live)) => {
                let mut object = live.tree.clone();
                edit(&mut object)?;
                Ok(object)
            }
            (Make::Edit(_), None) => Err(call.not_found()),
        }
    }
}

/// A patch, parsed once.
pub(crate) struct Patch {
    pub kind: PatchType,
    pub value: Value,
    pub strictness: Strictness,
    pub findings: Vec<String>,
}

impl Patch {
    /// Reads the body.
    ///
    /// Errors: 400, 415, 422.
    pub fn parse(call: &Call, body: &Bytes) -> Result<Self> {
        let (kind, format) = PatchType::of_body(&call.content_type)?;
        let strictness = Strictness::of_call(call)?;
        let Parsed { value, findings, .. } = decode::parse(format, body).map_err(|mut status| {
            status.message = match format {
                Format::Json => "invalid JSON patch".to_owned(),
                _ => format!("error decoding patch: {}", status.message),
            };
            status
        })?;
        if kind == PatchType::Json && value.as_array().is_none() {
            return Err(Status::bad_request(format!(
                "error decoding patch: json: cannot unmarshal {} into Go value of type []handlers.jsonPatchOp",
                value.type_name()
            )));
        }
        if kind != PatchType::Json && value.as_object().is_none() {
            let what = match kind {
                PatchType::Strategic => "",
                PatchType::Apply => "error decoding patch: error unmarshaling JSON: while decoding JSON: ",
                _ => "error decoding patch: ",
            };
            return Err(Status::bad_request(format!(
                "{what}json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
                value.type_name()
            )));
        }
        Ok(Patch { kind, value, strictness, findings })
    }

    /// 422 for a patch that brings unknown fields or names one twice.
    pub fn refused(&self, error: String) -> Box<Status> {
        let text = corten_api::json::to_string(&self.value);
        let error = Error::invalid(&Path::root("patch"), text.as_str(), error);
        Status::invalid("", "", "", &[error])
    }

    fn candidate(&self, call: &Call, live: Option<&Live>) -> Result<Value> {
        if self.kind == PatchType::Apply {
            return crate::patching::apply(call, self, live);
        }
        let live = live.ok_or_else(|| call.not_found())?;
        let mut value = call.edge().out(live.tree.clone());
        crate::patching::change(call, self, &mut value)?;
        let parsed = Parsed::new(value, self.findings.clone());
        decode::typed(call, self.strictness, parsed, |error| self.refused(error))
    }
}
