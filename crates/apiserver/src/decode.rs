//! From request bytes to a tree of the kind's storage version: parsed, typed, strict as asked, defaulted, converted.

use bytes::Bytes;
use corten_api::field::{Error, Path};
use corten_api::kind::Version;
use corten_api::schema::{self, Mode, SchemaRef};
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
                Err(Status::invalid("meta.k8s.io", "CreateOptions", "", &[error]))
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
            let findings = strict.messages().collect();
            Ok(Parsed { value: strict.value, findings })
        }
        Format::Yaml => {
            let document = corten_api::yaml::parse(body)
                .map_err(|e| Status::bad_request(format!("error converting YAML to JSON: {e}")))?;
            Ok(Parsed { value: document.value, findings: document.duplicates })
        }
        Format::Protobuf => {
            let value = corten_api::protobuf::decode(body).map_err(|e| Status::bad_request(e.to_string()))?;
            Ok(Parsed { value, findings: Vec::new() })
        }
        Format::Cbor => {
            let value = corten_api::cbor::decode(body).map_err(|e| Status::bad_request(e.to_string()))?;
            Ok(Parsed { value, findings: Vec::new() })
        }
    }
}

/// The body of a create or update: an object of the call's kind, in the version at rest.
///
/// Errors: 400, 415, 422.
pub(crate) fn object(call: &Call, body: &Bytes) -> Result<Value> {
    let strictness = Strictness::of_call(call)?;
    let mut parsed = parse(Format::of_body(&call.content_type)?, body)?;
    expect_kind(&mut parsed.value, &call.api_version(), &call.kind.kind)?;
    let (version, kind) = (call.info.version.as_str(), call.kind.kind.as_ref());
    typed(call, strictness, parsed, |error| schema::cannot_handle(version, kind, kind, error))
}

/// The second half of decoding, for trees that patches made too: types, unknown fields, defaults, storage version.
pub(crate) fn typed(
    call: &Call,
    strictness: Strictness,
    parsed: Parsed,
    refuse: impl FnOnce(String) -> Box<Status>,
) -> Result<Value> {
    let Parsed { mut value, mut findings } = parsed;
    let of = (call.info.version.as_str(), call.kind.kind.as_ref());
    if let Some(schema) = schema_of(&call.kind, call.version()) {
        let found = schema::conform(&mut value, schema, Mode::REQUEST)
            .map_err(|e| schema::cannot_handle(of.0, of.1, of.1, e))?;
        findings.extend(found.messages());
    }
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
    let mut parsed = parse(Format::of_body(&call.content_type)?, body)?;
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    expect_kind(&mut parsed.value, &api_version, kind)?;
    if let Some(schema) = schema::for_kind(group, version, kind) {
        let found = schema::conform(&mut parsed.value, schema, Mode::REQUEST)
            .map_err(|e| schema::cannot_handle(version, kind, kind, e))?;
        parsed.findings.extend(found.messages());
    }
    Strictness::of_call(call)?
        .judge(call, parsed.findings, |error| schema::cannot_handle(version, kind, kind, error))?;
    Ok(parsed.value)
}

/// Fills in `apiVersion` and `kind` where they are missing and refuses others.
fn expect_kind(value: &mut Value, api_version: &str, kind: &str) -> Result<()> {
    let type_name = value.type_name();
    let Some(fields) = value.as_object_mut() else {
        return Err(Status::bad_request(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {type_name} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
        )));
    };
    for (name, wanted) in [("apiVersion", api_version), ("kind", kind)] {
        let found = fields.get(name).cloned().unwrap_or_default();
        match &found {
            Value::Null => fields.set(name, wanted),
            Value::String(text) if text.is_empty() => fields.set(name, wanted),
            Value::String(text) if *text == wanted => {}
            Value::String(text) if name == "apiVersion" => {
                return Err(Status::bad_request(format!(
                    "the API version in the data ({text}) does not match the expected API version ({wanted})"
                )));
            }
            Value::String(text) => {
                let version = api_version.rsplit('/').next().unwrap_or_default();
                let why =
                    format!("converting ({version}.{text}) to ({version}.{wanted}): unknown conversion");
                return Err(schema::cannot_handle(version, text, wanted, why));
            }
            other => {
                return Err(Status::bad_request(format!(
                    "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go struct field .{name} of type string",
                    other.type_name()
                )));
            }
        }
    }
    Ok(())
}
