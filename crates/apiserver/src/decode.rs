//! From request bytes to a tree of the kind's storage version: parsed, typed, strict as asked, defaulted, converted.

use bytes::Bytes;
use corten_api::field::{Error, Path};
use corten_api::kind::Version;
use corten_api::schema::{self, DecodeError, Mode, SchemaRef};
use corten_api::{Kind, Result, Status, Value};

use crate::call::Call;
use crate::media::Format;

/// What happens to fields that the kind does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// Dropped silently.
    Ignore,
    /// Dropped with a `Warning` header.
    Warn,
    /// 400.
    Strict,
}

impl Strictness {
    /// Reads `fieldValidation`; `Warn` where it is missing.
    ///
    /// Errors: 422.
    pub fn of_call(call: &Call) -> Result<Self> {
        match call.query.str("fieldValidation") {
            "" | "Warn" => Ok(Strictness::Warn),
            "Ignore" => Ok(Strictness::Ignore),
            "Strict" => Ok(Strictness::Strict),
            other => {
                let path = Path::root("fieldValidation");
                let error = Error::not_supported(&path, other, &["Ignore", "Warn", "Strict"]);
                Err(Status::invalid("meta.k8s.io", call.options_kind(), "", &[error]))
            }
        }
    }

    /// Deals with the findings. `refuse` makes the answer to strict clients of what was found.
    pub fn judge(
        self,
        call: &Call,
        findings: Vec<String>,
        refuse: impl FnOnce(String) -> Box<Status>,
    ) -> Result<()> {
        if findings.is_empty() {
            return Ok(());
        }
        match self {
            Strictness::Ignore => {}
            Strictness::Warn => findings.into_iter().for_each(|f| call.warn(f)),
            Strictness::Strict => {
                return Err(refuse(format!("strict decoding error: {}", findings.join(", "))));
            }
        }
        Ok(())
    }
}

/// Parses JSON of our own making.
pub(crate) fn json(text: Bytes) -> Result<Value, corten_api::json::SyntaxError> {
    corten_api::json::parse(&text)
}

/// A parsed body and what was given twice in it.
pub(crate) struct Parsed {
    pub value: Value,
    pub findings: Vec<String>,
    /// A body of JSON with the paths that it repeats: upstream's findings of all sorts stand in the order of its text.
    repeats: Option<(Bytes, Vec<String>)>,
}

impl Parsed {
    /// A tree, and what was found before it was made.
    pub fn new(value: Value, findings: Vec<String>) -> Self {
        Parsed { value, findings, repeats: None }
    }

    /// The tree brought into the schema's form, and all findings.
    ///
    /// Errors: a value that the schema cannot hold.
    fn conform(
        self,
        schema: Option<SchemaRef<'static>>,
        mode: Mode,
    ) -> Result<(Value, Vec<String>), DecodeError> {
        let Parsed { mut value, mut findings, repeats } = self;
        let Some(schema) = schema else { return Ok((value, findings)) };
        let found = schema::conform(&mut value, schema, mode)?;
        match repeats.filter(|_| schema.is_built_in()) {
            Some((body, repeated)) => findings = corten_api::json::in_order(&body, &repeated, &found.unknown),
            None => findings.extend(found.messages()),
        }
        Ok((value, findings))
    }
}

/// Parses a body by its form.
///
/// Errors: 400.
pub(crate) fn parse(format: Format, body: &Bytes) -> Result<Parsed> {
    match format {
        Format::Json => {
            let strict = corten_api::json::parse_strict(body).map_err(|e| {
                Status::bad_request(format!("couldn't get version/kind; json parse error: {e}"))
            })?;
            let findings: Vec<String> = strict.messages().collect();
            let repeats = (!findings.is_empty()).then(|| (body.clone(), strict.duplicates));
            Ok(Parsed { value: strict.value, findings, repeats })
        }
        Format::Yaml => {
            let document = corten_api::yaml::parse(body)
                .map_err(|e| Status::bad_request(format!("error converting YAML to JSON: {e}")))?;
            Ok(Parsed::new(document.value, document.duplicates))
        }
        Format::Protobuf => {
            let value = corten_api::protobuf::decode(body).map_err(|e| Status::bad_request(e.to_string()))?;
            Ok(Parsed::new(value, Vec::new()))
        }
        Format::Cbor => {
            let value = corten_api::cbor::decode(body).map_err(|e| Status::bad_request(e.to_string()))?;
            Ok(Parsed::new(value, Vec::new()))
        }
    }
}

/// The body of a create or update: an object of the call's kind, in the version at rest.
///
/// Errors: 400, 415, 422.
pub(crate) fn object(call: &Call, body: &Bytes) -> Result<Value> {
    let strictness = Strictness::of_call(call)?;
    let parsed = recognised(call, body, &call.api_version(), &call.kind.kind)?;
    let (version, kind) = (call.info.version.as_str(), call.kind.kind.as_ref());
    typed(call, strictness, parsed, |error| schema::cannot_handle(version, kind, kind, error))
}

/// The second half of decoding, for trees that patches made too: types, unknown fields, defaults, storage version. Empty lists
/// stay until owners are known.
pub(crate) fn typed(
    call: &Call,
    strictness: Strictness,
    parsed: Parsed,
    refuse: impl FnOnce(String) -> Box<Status>,
) -> Result<Value> {
    let of = (call.info.version.as_str(), call.kind.kind.as_ref());
    let (mut value, findings) = parsed
        .conform(schema_of(&call.kind, call.version()), Mode::OWNED)
        .map_err(|e| schema::cannot_handle(of.0, of.1, of.1, e))?;
    strictness.judge(call, findings, refuse)?;
    if let Some(default) = call.kind.hooks.default {
        default(&mut value);
    }
    Ok(call.edge().rest(value))
}

/// The schema of a kind's version.
pub(crate) fn schema_of(kind: &Kind, version: &Version) -> Option<SchemaRef<'static>> {
    schema::message(&version.message).or_else(|| schema::for_kind(&kind.group, &version.name, &kind.kind))
}

/// A body of another kind than the resource's: `DeleteOptions`, `Scale`, `Binding`, reviews.
///
/// Errors: 400, 415.
pub(crate) fn other(call: &Call, body: &Bytes, of: (&str, &str, &str)) -> Result<Value> {
    let (group, version, kind) = of;
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let strictness = Strictness::of_call(call)?;
    let parsed = recognised(call, body, &api_version, kind)?;
    other_typed(call, strictness, parsed, of, |error| schema::cannot_handle(version, kind, kind, error))
}

/// The second half of [`other`], for trees that patches made too: types and unknown fields.
pub(crate) fn other_typed(
    call: &Call,
    strictness: Strictness,
    parsed: Parsed,
    (group, version, kind): (&str, &str, &str),
    refuse: impl FnOnce(String) -> Box<Status>,
) -> Result<Value> {
    let (value, findings) = parsed
        .conform(schema::for_kind(group, version, kind), Mode::REQUEST)
        .map_err(|e| schema::cannot_handle(version, kind, kind, e))?;
    strictness.judge(call, findings, refuse)?;
    Ok(value)
}

/// A parsed body that is of the kind, or says nothing of its kind.
fn recognised(call: &Call, body: &Bytes, api_version: &str, kind: &str) -> Result<Parsed> {
    let unknown = |why: &str| {
        let why = why.strip_prefix("error converting YAML to JSON: ").unwrap_or(why);
        let shown = summary(body);
        let text = format!("the object provided is unrecognized (must be of type {kind}): {why} ({shown})");
        Status::bad_request(text)
    };
    let format = Format::of_body(&call.content_type)?;
    let mut parsed = parse(format, body).map_err(|status| unknown(&status.message))?;
    let named = names_kind(&mut parsed.value, api_version, kind).map_err(|why| unknown(&why))?;
    if named != (api_version, kind) {
        let (named_version, named_kind) = (named.0.to_owned(), named.1.to_owned());
        return Err(another_kind(call, (&named_version, &named_kind), (api_version, kind), unknown));
    }
    Ok(parsed)
}

/// The first bytes of a body for an error: as they are where they may be JSON, otherwise in hexadecimal.
fn summary(body: &[u8]) -> String {
    const SHOWN_BYTES: usize = 30;
    let head = &body[..body.len().min(SHOWN_BYTES)];
    let dots = if body.len() > SHOWN_BYTES { " ..." } else { "" };
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{dots}", String::from_utf8_lossy(head)),
        Some(_) => format!("{}{dots}", head.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}

/// Fills in `apiVersion` and `kind` where they are missing, and tells what is there then.
fn names_kind<'a>(
    value: &'a mut Value,
    api_version: &str,
    kind: &str,
) -> std::result::Result<(&'a str, &'a str), String> {
    const WHERE: &str = "couldn't get version/kind; json parse error: json: cannot unmarshal";
    if value.is_null() {
        *value = Value::object();
    }
    let type_name = value.type_name();
    let Some(fields) = value.as_object_mut() else {
        return Err(format!(
            "{WHERE} {type_name} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
        ));
    };
    for (name, wanted) in [("apiVersion", api_version), ("kind", kind)] {
        match fields.get(name).unwrap_or(&Value::Null) {
            Value::Null => fields.set(name, wanted),
            Value::String(text) if text.is_empty() => fields.set(name, wanted),
            Value::String(_) => {}
            other => {
                let found = other.type_name();
                return Err(format!("{WHERE} {found} into Go struct field .{name} of type string"));
            }
        }
    }
    Ok((value.str_at(&["apiVersion"]), value.str_at(&["kind"])))
}

/// 400 for an object of another kind or version than the resource has.
fn another_kind(
    call: &Call,
    (named_version, named): (&str, &str),
    (api_version, kind): (&str, &str),
    unknown: impl Fn(&str) -> Box<Status>,
) -> Box<Status> {
    if named_version.matches('/').count() > 1 {
        return unknown(&format!("unexpected GroupVersion string: {named_version}"));
    }
    let (group, version) = named_version.rsplit_once('/').unwrap_or(("", named_version));
    let own_group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let is_there = |kind: &str| call.kinds.kind(group, version, kind).is_some();
    let known = is_there(named)
        || named.strip_suffix("List").is_some_and(|item| item.is_empty() || is_there(item))
        || schema::for_kind(group, version, named).is_some();
    let custom = corten_api::kinds::builtin_kind(&call.kind.group, &call.kind.kind).is_none();
    if custom || (known && (group, named) == (own_group, kind)) {
        return Status::bad_request(format!(
            "the API version in the data ({named_version}) does not match the expected API version ({api_version})"
        ));
    }
    let why = if known {
        let package = match own_group.split('.').next() {
            None | Some("" | "events") => "core",
            Some(first) => first,
        };
        format!("converting ({version}.{named}) to ({package}.{kind}): unknown conversion")
    } else {
        format!(
            "no kind \"{named}\" is registered for version \"{named_version}\" in scheme \"pkg/runtime/scheme.go:111\""
        )
    };
    schema::cannot_handle(version, named, kind, why)
}

#[cfg(test)]
mod tests {
    #[test]
    fn summaries_are_short() {
        assert_eq!(super::summary(b""), "<empty>");
        assert_eq!(super::summary(b"{\"a\":1}"), "{\"a\":1}");
        assert_eq!(super::summary(b"truee"), "7472756565");
        assert_eq!(super::summary(&[b'{'; 31]), format!("{} ...", "{".repeat(30)));
    }
}
