//! The one error type of the API: `metav1.Status`, made where the rule is broken.

use crate::field;
use crate::{Object, Value, json};

/// A group and resource (or kind) as error messages name it: `deployments.apps`, `pods`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupResource<'a> {
    /// API group, `""` for core.
    pub group: &'a str,
    /// Plural resource name, or a kind where the message names kinds.
    pub resource: &'a str,
}

impl std::fmt::Display for GroupResource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.resource)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

/// One cause of an `Invalid` status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable, e.g. `FieldValueRequired`.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Path of the field, may be empty.
    pub field: String,
}

/// What went wrong, with HTTP code, reason and message as upstream words them.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// Reason, e.g. `NotFound`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// Name of the object, may be empty.
    pub name: String,
    /// Group of the object's kind.
    pub group: String,
    /// Kind or resource in the details.
    pub kind: String,
    /// UID of the object, may be empty.
    pub uid: String,
    /// Causes, one per broken rule.
    pub causes: Vec<Cause>,
    /// When to try again.
    pub retry_after_seconds: Option<u32>,
    /// How a list that can no longer be continued as it was may go on, newer than it began; may be empty.
    pub continue_token: String,
    /// Says nothing about an object, but has details all the same: how upstream answers where no handler was found.
    pub of_routing: bool,
}

/// What is said of paths that are not there.
const PAGE_NOT_FOUND: &str = "404 page not found";

/// The result of everything that answers a client.
pub type Result<T, E = Box<Status>> = std::result::Result<T, E>;

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

impl Status {
    /// A status of any code and reason, without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Box<Self> {
        Box::new(Status {
            code,
            reason,
            message: message.into(),
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds: None,
            continue_token: String::new(),
            of_routing: false,
        })
    }

    fn about(mut self: Box<Self>, of: GroupResource<'_>, name: &str) -> Box<Self> {
        self.name = name.to_owned();
        self.group = of.group.to_owned();
        self.kind = of.resource.to_owned();
        self
    }

    /// 404: the object is not there.
    pub fn not_found(of: GroupResource<'_>, name: &str) -> Box<Self> {
        Self::new(404, "NotFound", format!("{of} \"{name}\" not found")).about(of, name)
    }

    /// 404: no such resource in the API.
    pub fn no_route() -> Box<Self> {
        Self::routing(404, "NotFound", "the server could not find the requested resource")
    }

    /// 404: no such path. It is answered as plain text, since nobody knows whether an API was meant.
    pub fn no_path() -> Box<Self> {
        Self::new(404, "NotFound", PAGE_NOT_FOUND)
    }

    /// Is it [`Status::no_path`]?
    pub fn is_no_path(&self) -> bool {
        self.code == 404 && self.message == PAGE_NOT_FOUND
    }

    /// 405: the resource has no such method.
    pub fn no_method() -> Box<Self> {
        let message = "the server does not allow this method on the requested resource";
        Self::routing(405, "MethodNotAllowed", message)
    }

    /// 406 before anybody looks at the request: none of the media types can be written.
    pub fn no_representation(available: &[&str]) -> Box<Self> {
        let message = format!("406: Not Acceptable\n\nAvailable representations: {}", available.join(", "));
        Self::routing(406, "NotAcceptable", message)
    }

    /// 415 before anybody looks at the request: no patch is of that type.
    pub fn no_such_patch() -> Box<Self> {
        Self::routing(415, "UnsupportedMediaType", "415: Unsupported Media Type")
    }

    fn routing(code: u16, reason: &'static str, message: impl Into<String>) -> Box<Self> {
        let mut status = Self::new(code, reason, message);
        status.of_routing = true;
        status
    }

    /// 409: a create met an object of that name.
    pub fn already_exists(of: GroupResource<'_>, name: &str) -> Box<Self> {
        Self::new(409, "AlreadyExists", format!("{of} \"{name}\" already exists")).about(of, name)
    }

    /// 409: a precondition or resource version did not hold.
    pub fn conflict(of: GroupResource<'_>, name: &str, why: &str) -> Box<Self> {
        let message = format!("Operation cannot be fulfilled on {of} \"{name}\": {why}");
        Self::new(409, "Conflict", message).about(of, name)
    }

    /// 409 with upstream's words for a stale resource version.
    pub fn modified(of: GroupResource<'_>, name: &str) -> Box<Self> {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(of, name, why)
    }

    /// 422: the object breaks rules; what is wrong twice in the same words is told once. `kind` is the kind, not the resource.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[field::Error]) -> Box<Self> {
        let mut seen = std::collections::HashSet::new();
        let distinct: Vec<&field::Error> =
            errors.iter().filter(|e| seen.insert((e.field.as_str(), e.body.as_str()))).collect();
        let all = match distinct.as_slice() {
            [one] => one.to_string(),
            many => format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        };
        let of = GroupResource { group, resource: kind };
        let mut status =
            Self::new(422, "Invalid", format!("{of} {} is invalid: {all}", field::Quoted::quoted(name)))
                .about(of, name);
        status.causes = distinct
            .iter()
            .map(|e| Cause {
                reason: e.kind.reason().into(),
                message: e.body.clone(),
                field: e.field.clone(),
            })
            .collect();
        status
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Box<Self> {
        Self::new(400, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> Box<Self> {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403 with the whole sentence given.
    pub fn forbidden(of: GroupResource<'_>, name: &str, why: &str) -> Box<Self> {
        let message = if name.is_empty() {
            format!("{of} is forbidden: {why}")
        } else {
            format!("{of} \"{name}\" is forbidden: {why}")
        };
        Self::new(403, "Forbidden", message).about(of, name)
    }

    /// 405.
    pub fn method_not_allowed(of: GroupResource<'_>, action: &str) -> Box<Self> {
        let message = format!("{action} is not supported on resources of kind \"{of}\"");
        Self::new(405, "MethodNotAllowed", message).about(of, "")
    }

    /// 406.
    pub fn not_acceptable(accepted: &[&str]) -> Box<Self> {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(406, "NotAcceptable", message)
    }

    /// 415.
    pub fn unsupported_media_type(accepted: &[&str]) -> Box<Self> {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 410: the resource version or continue token is too old.
    pub fn expired(message: impl Into<String>) -> Box<Self> {
        Self::new(410, "Expired", message)
    }

    /// 413.
    pub fn too_large(message: impl Into<String>) -> Box<Self> {
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 429: try again later.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Box<Self> {
        let mut status = Self::new(429, "TooManyRequests", message);
        status.retry_after_seconds = Some(retry_after_seconds);
        status
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Box<Self> {
        let text = message.to_string();
        let mut status = Self::new(500, "InternalError", format!("Internal error occurred: {text}"));
        status.causes = vec![Cause { reason: String::new(), message: text, field: String::new() }];
        status
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Box<Self> {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// 504.
    pub fn timeout(message: impl AsRef<str>) -> Box<Self> {
        Self::new(504, "Timeout", format!("Timeout: {}", message.as_ref()))
    }

    /// The object on the wire.
    pub fn to_value(&self) -> Value {
        let mut object = Object::default();
        object.set("kind", Value::str("Status"));
        object.set("apiVersion", Value::str("v1"));
        let mut metadata = Object::default();
        if !self.continue_token.is_empty() {
            metadata.set("continue", self.continue_token.as_str());
        }
        object.set("metadata", metadata);
        object.set("status", Value::str("Failure"));
        object.set("message", self.message.as_str());
        if !self.reason.is_empty() {
            object.set("reason", Value::str(self.reason));
        }
        let details = self.details();
        if !details.is_empty() || self.of_routing {
            object.set("details", details);
        }
        object.set("code", i64::from(self.code));
        object.into()
    }

    fn details(&self) -> Object {
        let mut details = Object::default();
        for (key, text) in
            [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)]
        {
            if !text.is_empty() {
                details.set(key, text.as_str());
            }
        }
        if !self.causes.is_empty() {
            details.set("causes", self.causes.iter().map(Cause::to_value).collect::<Vec<_>>());
        }
        if let Some(seconds) = self.retry_after_seconds {
            details.set("retryAfterSeconds", i64::from(seconds));
        }
        details
    }

    /// The object as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        json::to_vec(&self.to_value())
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut cause = Object::default();
        for (key, text) in [("reason", &self.reason), ("message", &self.message), ("field", &self.field)] {
            if !text.is_empty() {
                cause.set(key, text.as_str());
            }
        }
        cause.into()
    }
}
