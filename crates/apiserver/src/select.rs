//! Label and field selectors against stored bytes.

use corten_api::selector::{FieldSelector, LabelSelector};
use corten_api::{Result, Status};

use crate::call::Call;
use crate::{peek, stored};

/// Both selectors of a list, watch or deletecollection.
pub(crate) struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
    /// Every field can be compared as text at its path in the bytes.
    plain: bool,
}

impl Selection {
    /// Reads `labelSelector` and `fieldSelector`.
    ///
    /// Errors: 400 for bad syntax and for fields that the kind does not select by.
    pub fn of_call(call: &Call) -> Result<Self> {
        let labels = match call.query.str("labelSelector") {
            "" => LabelSelector::everything(),
            text => LabelSelector::parse(text).map_err(|e| Status::bad_request(e.to_string()))?,
        };
        let mut fields = match call.query.str("fieldSelector") {
            "" => FieldSelector::default(),
            text => FieldSelector::parse(text).map_err(|e| Status::bad_request(e.to_string()))?,
        };
        if call.info.has_name {
            // The old `/watch/…/NAME` paths.
            let field = "metadata.name".into();
            fields.requirements.push(corten_api::selector::FieldRequirement {
                field,
                value: call.info.name.clone(),
                negated: false,
            });
        }
        if let Some(bad) = fields.requirements.iter().find(|r| !call.kind.is_selectable(&r.field)) {
            return Err(Status::bad_request(not_selectable(call, &bad.field)));
        }
        let plain = call.kind.hooks.selectable_value.is_none() && call.edge().head("", "").is_some();
        Ok(Selection { labels, fields, plain })
    }

    /// No condition at all?
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.requirements.is_empty()
    }

    /// The only name that can match, if one is named.
    pub fn name(&self) -> Option<&str> {
        let named = self.fields.requirements.iter().find(|r| r.field == "metadata.name" && !r.negated);
        named.map(|r| r.value.as_str()).filter(|n| !n.is_empty() && !n.contains('/'))
    }

    /// Does a stored object fit?
    ///
    /// Errors: 500 when the bytes are no object.
    pub fn matches(&self, call: &Call, object: &[u8]) -> Result<bool> {
        Ok(self.labels_match(object) && self.fields_match(call, object)?)
    }

    fn labels_match(&self, object: &[u8]) -> bool {
        if self.labels.is_everything() {
            return true;
        }
        let labels: Vec<_> = peek::strings(object, &["metadata", "labels"]).collect();
        self.labels.matches_with(|key| labels.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_ref()))
    }

    fn fields_match(&self, call: &Call, object: &[u8]) -> Result<bool> {
        let wanted = &self.fields.requirements;
        if wanted.is_empty() {
            return Ok(true);
        }
        let simple = |field: &str| self.plain || field.starts_with("metadata.");
        if wanted.iter().all(|r| simple(&r.field)) {
            return Ok(wanted.iter().all(|r| (text_at(object, &r.field) == r.value) != r.negated));
        }
        let tree = call.edge().out(stored::tree(object, 0)?);
        Ok(wanted.iter().all(|r| (call.kind.selectable_value(&tree, &r.field) == r.value) != r.negated))
    }
}

/// Each of upstream's kinds that can be selected by more than metadata has words of its own.
fn not_selectable(call: &Call, field: &str) -> String {
    let kind = &call.kind;
    match (kind.group.as_ref(), kind.kind.as_ref()) {
        ("batch", "Job") => format!("field label \"{field}\" not supported for Job"),
        ("resource.k8s.io", "ResourceSlice") => {
            format!("field label not supported for {}, Kind=ResourceSlice: {field}", call.api_version())
        }
        _ if kind.selectable_fields.is_empty()
            && corten_api::kinds::builtin_kind(&kind.group, &kind.kind).is_some() =>
        {
            let known = "is not a known field selector: only \"metadata.name\", \"metadata.namespace\"";
            format!("\"{field}\" {known}")
        }
        _ => format!("field label not supported: {field}"),
    }
}

fn text_at<'a>(object: &'a [u8], path: &str) -> std::borrow::Cow<'a, str> {
    let path: Vec<&str> = path.split('.').collect();
    match peek::text(object, &path) {
        text if text == "null" => "".into(),
        text => text,
    }
}
