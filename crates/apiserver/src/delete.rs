//! DELETE: preconditions, propagation, grace and finalizers decide whether an object goes now or is only marked.

use std::sync::Arc;

use bytes::Bytes;
use corten_api::field::{Error, Path};
use corten_api::kind::{Grace, Scope, Subresource};
use corten_api::{Object, Result, Status, Value, time};
use corten_store::{Entry, StoreError, Txn};
use futures::future::BoxFuture;
use http::{Request, Response};

use crate::admission::{self, Operation};
use crate::body::{Body, read_all};
use crate::call::Call;
use crate::candidate::Live;
use crate::read::{ListOptions, store_error};
use crate::select::Selection;
use crate::{ApiServer, decode, encode, meta, stored};

/// Tries against others who change the object.
const MAX_TRIES: usize = 12;
/// A collection goes with so many deletions at once; the store commits them together.
const PARALLEL: usize = 32;
/// The last second that RFC 3339 can write. Nobody could read an object with a later time of deletion.
const LAST_SECOND: i64 = 253_402_300_799;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// Kinds whose DELETE answers with the object, not with a Status, when it is gone.
const RETURN_OBJECT: [&str; 7] = [
    "pods",
    "services",
    "serviceaccounts",
    "persistentvolumes",
    "persistentvolumeclaims",
    "podtemplates",
    "resourcequotas",
];

/// What happens to dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// `metav1.DeleteOptions` from body or parameters.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    /// Seconds; `None` for the kind's own.
    pub grace: Option<i64>,
    uid: Option<String>,
    resource_version: Option<String>,
    propagation: Option<Propagation>,
    /// `orphanDependents=false` was said.
    asked_for_cascade: bool,
    /// Change nothing.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// From the body, or from the parameters where there is none.
    ///
    /// Errors: 400, 422.
    pub fn read(call: &Call, body: &Bytes) -> Result<Self> {
        let dry_run = call.dry_run()?;
        if body.is_empty() {
            let query = &call.query;
            let grace = query.number("gracePeriodSeconds")?;
            let policy = query.str("propagationPolicy");
            let (propagation, asked_for_cascade) = propagation(policy, query.flag_opt("orphanDependents"))?;
            return Ok(DeleteOptions {
                grace,
                propagation,
                asked_for_cascade,
                dry_run,
                ..Default::default()
            });
        }
        Self::of_value(&options_body(call, body)?, dry_run)
    }

    /// From a `DeleteOptions` object.
    pub fn of_value(options: &Value, dry_run: bool) -> Result<Self> {
        let text = |path: &[&str]| options.at(path).and_then(Value::as_str).map(str::to_owned);
        let orphan = options.get("orphanDependents").and_then(Value::as_bool);
        let (propagation, asked_for_cascade) = propagation(options.str_at(&["propagationPolicy"]), orphan)?;
        let dry = options.items_at(&["dryRun"]).iter().any(|v| v.as_str() == Some("All"));
        Ok(DeleteOptions {
            grace: options.get("gracePeriodSeconds").and_then(Value::as_i64),
            uid: text(&["preconditions", "uid"]),
            resource_version: text(&["preconditions", "resourceVersion"]),
            propagation,
            asked_for_cascade,
            dry_run: dry_run || dry,
        })
    }

    /// Demands that the object still has this version, unless a version is demanded already.
    pub fn insist_on(&mut self, version: &str) -> bool {
        let free = self.resource_version.is_none();
        self.resource_version.get_or_insert_with(|| version.to_owned());
        free
    }

    /// Is it this object, and any version of it, that shall go?
    pub fn means_any_version_of(&self, object: &Value) -> bool {
        let uid = object.str_at(&["metadata", "uid"]);
        self.resource_version.is_none() && self.uid.as_deref().is_none_or(|wanted| wanted == uid)
    }

    fn check(&self, call: &Call, name: &str, live: &Live) -> Result<()> {
        let found = live.tree.str_at(&["metadata", "uid"]);
        if let Some(wanted) = self.uid.as_deref().filter(|w| *w != found) {
            let why =
                format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}");
            return Err(Status::conflict(call.resource(), name, &why));
        }
        let found = live.entry.mod_revision.to_string();
        if let Some(wanted) = self.resource_version.as_deref().filter(|w| *w != found) {
            let why = format!(
                "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {found}"
            );
            return Err(Status::conflict(call.resource(), name, &why));
        }
        Ok(())
    }
}

fn options_body(call: &Call, body: &Bytes) -> Result<Value> {
    let mut parsed = decode::parse(crate::media::Format::of_body(&call.content_type)?, body)?;
    let kind = parsed.value.str_at(&["kind"]).to_owned();
    if parsed.value.as_object().is_none() || !(kind.is_empty() || kind == "DeleteOptions") {
        let version = match parsed.value.str_at(&["apiVersion"]) {
            "" => "v1",
            version => version,
        };
        return Err(Status::bad_request(format!(
            "no kind \"{kind}\" is registered for version \"{version}\" in scheme \"pkg/runtime/scheme.go:111\""
        )));
    }
    if let Some(schema) = corten_api::schema::for_kind("", "v1", "DeleteOptions") {
        corten_api::schema::conform(&mut parsed.value, schema, corten_api::schema::Mode::REQUEST)
            .map_err(|e| corten_api::schema::cannot_handle("v1", "DeleteOptions", "DeleteOptions", e))?;
    }
    Ok(parsed.value)
}

fn propagation(policy: &str, orphan: Option<bool>) -> Result<(Option<Propagation>, bool)> {
    let path = Path::root("propagationPolicy");
    let known = match policy {
        "" => None,
        "Orphan" => Some(Propagation::Orphan),
        "Background" => Some(Propagation::Background),
        "Foreground" => Some(Propagation::Foreground),
        other => {
            let error = Error::not_supported(&path, other, &["Foreground", "Background", "Orphan", "nil"]);
            return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &[error]));
        }
    };
    if known.is_some() && orphan.is_some() {
        let error =
            Error::invalid(&path, policy, "orphanDependents and deletionPropagation cannot be both set");
        return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &[error]));
    }
    let from_orphan = orphan.map(|o| if o { Propagation::Orphan } else { Propagation::Background });
    Ok((known.or(from_orphan), orphan == Some(false)))
}

/// What a deletion came to.
pub(crate) enum Deleted {
    /// The object is gone; this is what it last was.
    Gone(Arc<Entry>),
    /// It is marked and waits for somebody.
    Marked(Bytes, u64),
}

/// DELETE on one object.
pub(crate) async fn delete(
    server: &ApiServer,
    call: &Call,
    request: Request<Body>,
) -> Result<Response<Body>> {
    let body = read_all(request.into_body()).await?;
    let options = DeleteOptions::read(call, &body)?;
    match remove(server, call, &call.info.name, &options).await? {
        Deleted::Marked(bytes, revision) => {
            let code = if options.asked_for_cascade { 202 } else { 200 };
            encode::object(call, code, &bytes, revision)
        }
        Deleted::Gone(entry)
            if call.kind.group.is_empty() && RETURN_OBJECT.contains(&call.kind.plural.as_ref()) =>
        {
            encode::object(call, 200, &entry.value, entry.mod_revision)
        }
        Deleted::Gone(entry) => encode::value(call, 200, &success(call, &entry)?),
    }
}

fn success(call: &Call, entry: &Entry) -> Result<Value> {
    let tree = stored::tree(&entry.value, entry.mod_revision)?;
    let mut details = Object::default();
    details.set("name", tree.str_at(&["metadata", "name"]));
    if !call.kind.group.is_empty() {
        details.set("group", call.kind.group.as_ref());
    }
    details.set("kind", call.kind.plural.as_ref());
    details.set("uid", tree.str_at(&["metadata", "uid"]));
    let mut status = Object::default();
    status.set("kind", Value::str("Status"));
    status.set("apiVersion", Value::str("v1"));
    status.set("metadata", Object::default());
    status.set("status", Value::str("Success"));
    status.set("details", details);
    Ok(status.into())
}

/// DELETE on a collection: everything that the selectors leave.
pub(crate) async fn collection(
    server: &ApiServer,
    call: &Arc<Call>,
    request: Request<Body>,
) -> Result<Response<Body>> {
    let body = read_all(request.into_body()).await?;
    let options = DeleteOptions::read(call, &body)?;
    let selection = Selection::of_call(call)?;
    let page = ListOptions::parse(call)?.read(server, call, &selection).await?;
    for some in page.entries.chunks(PARALLEL) {
        let mut removals: Vec<BoxFuture<'_, Result<()>>> = Vec::with_capacity(some.len());
        for entry in some {
            removals.push(Box::pin(one_of_many(server, call, entry, &options)));
        }
        futures::future::try_join_all(removals).await?;
    }
    // What was there before, as upstream answers.
    encode::list(call, page)
}

async fn one_of_many(server: &ApiServer, call: &Call, entry: &Entry, options: &DeleteOptions) -> Result<()> {
    // In a list over all namespaces each object names its own.
    let mut place = entry.key.rsplit('/');
    let (name, namespace) = (place.next().unwrap_or_default(), place.next().unwrap_or_default());
    let own;
    let call = match call.kind.scope == Scope::Namespaced && call.info.namespace.is_empty() {
        true => {
            own = Call::internal(server, (&call.kind.group, &call.kind.plural), namespace, name, "")?;
            &own
        }
        false => call,
    };
    match Box::pin(remove(server, call, name, options)).await {
        Err(status) if status.code != 404 => Err(status),
        _ => Ok(()),
    }
}

/// Deletes one object of the call's kind and namespace, or marks it.
///
/// Errors: 404, 409, 403 by admission.
pub(crate) async fn remove(
    server: &ApiServer,
    call: &Call,
    name: &str,
    options: &DeleteOptions,
) -> Result<Deleted> {
    let store = &server.config().store;
    let key = call.key(name);
    for _ in 0..MAX_TRIES {
        let entry = store.get(&key, None).await.map_err(store_error)?;
        let live = Live::new(entry.ok_or_else(|| Status::not_found(call.resource(), name))?)?;
        options.check(call, name, &live)?;
        let attributes =
            admission::Attributes { server, call, operation: Operation::Delete, old: Some(&live.tree) };
        admission::validate(&attributes, &live.tree).await?;
        let marked = mark(call, &live.tree, options, server.now_ms())?;
        let bytes = marked.as_ref().map(|tree| Bytes::from(stored::encode(tree)));
        if options.dry_run {
            let revision = live.entry.mod_revision;
            return Ok(bytes.map_or(Deleted::Gone(live.entry), |b| Deleted::Marked(b, revision)));
        }
        if bytes.as_ref().is_some_and(|b| *b == live.entry.value) {
            return Ok(Deleted::Marked(live.entry.value.clone(), live.entry.mod_revision));
        }
        let revision = live.entry.mod_revision;
        let txn = match &bytes {
            Some(bytes) => Txn::update(key.as_str(), bytes.clone(), revision),
            None => Txn::delete(key.as_str(), revision),
        };
        let txn = txn.urgent(true);
        let leaving = bytes.is_none().then(|| server.allocator().leave(call, &live.tree, server.now_ms()));
        let outcome = store.txn(txn).await;
        if let Some(leaving) = leaving {
            leaving.end(outcome.is_ok());
        }
        match outcome {
            Ok(done) => {
                return Ok(match bytes {
                    Some(bytes) => Deleted::Marked(bytes, done.revision),
                    None => Deleted::Gone(live.entry),
                });
            }
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(store_error(error)),
        }
    }
    Err(Status::modified(call.resource(), name))
}

/// The object as it must be kept for now; `None` when it can go at once.
fn mark(call: &Call, live: &Value, options: &DeleteOptions, now_ms: i64) -> Result<Option<Value>> {
    let kind = call.edge().storage_kind;
    let mut object = live.clone();
    propagate(&mut object, options.propagation);
    let mut asked = options.grace.map(|g| g.max(0));
    if options.grace.is_some_and(|g| g < 0) {
        // Negative means one second: the kubelet must still see it.
        asked = Some(1);
    }
    let grace = match kind.hooks.graceful_delete {
        Some(hook) => hook(&mut object, asked)?,
        None => Grace::Immediate,
    };
    let seconds = match grace {
        Grace::Immediate => 0,
        Grace::Seconds(seconds) => seconds.min(LAST_SECOND - now_ms.div_euclid(1000)).max(0),
    };
    if meta::is_deleting(live) {
        shorten(&mut object, seconds);
        let finished = seconds == 0 && !meta::has_finalizers(&object) && !waits(&object, grace);
        return Ok((!finished).then_some(object));
    }
    if seconds == 0 && !meta::has_finalizers(&object) {
        return Ok(None);
    }
    let generation = object.at(&["metadata", "generation"]).and_then(Value::as_i64);
    let fields = meta::metadata(&mut object);
    fields.set("deletionTimestamp", time::rfc3339(now_ms + seconds * 1000));
    fields.set("deletionGracePeriodSeconds", seconds);
    if let Some(generation) = generation.filter(|g| *g > 0) {
        fields.set("generation", generation + 1);
    }
    if kind.group.is_empty() && kind.kind == "Namespace" && has_status(call) {
        object.object_at_mut(&["status"]).set("phase", Value::str("Terminating"));
    }
    Ok(Some(object))
}

fn has_status(call: &Call) -> bool {
    call.edge().storage_kind.subresources.contains(&Subresource::Status)
}

/// A second delete may shorten the time that is left, never lengthen it.
fn shorten(object: &mut Value, seconds: i64) {
    let meta = meta::metadata(object);
    let before = meta.get("deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    if before == 0 || seconds >= before {
        return;
    }
    let end = meta.get("deletionTimestamp").and_then(Value::as_str).and_then(time::parse_ms);
    if let Some(end) = end {
        meta.set("deletionTimestamp", time::rfc3339(end - (before - seconds) * 1000));
    }
    meta.set("deletionGracePeriodSeconds", seconds);
}

/// Does a marked object still wait for its grace to end?
fn waits(object: &Value, grace: Grace) -> bool {
    let left = object.at(&["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(0);
    left > 0 && grace != Grace::Immediate
}

/// Sets or takes away the finalizers with which the garbage collector learns what to do with dependents.
fn propagate(object: &mut Value, wanted: Option<Propagation>) {
    let (add, drop): (Option<&str>, &[&str]) = match wanted {
        None => return,
        Some(Propagation::Orphan) => (Some(ORPHAN), &[FOREGROUND]),
        Some(Propagation::Foreground) => (Some(FOREGROUND), &[ORPHAN]),
        Some(Propagation::Background) => (None, &[ORPHAN, FOREGROUND]),
    };
    let before = object.items_at(&["metadata", "finalizers"]);
    let mut finalizers: Vec<Value> =
        before.iter().filter(|f| !f.as_str().is_some_and(|f| drop.contains(&f))).cloned().collect();
    if let Some(add) = add.filter(|add| !finalizers.iter().any(|f| f.as_str() == Some(add))) {
        finalizers.push(add.into());
    }
    let meta = meta::metadata(object);
    if finalizers.is_empty() {
        meta.remove("finalizers");
    } else {
        meta.set("finalizers", finalizers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finalizers(start: &[&str], wanted: Option<Propagation>) -> Vec<String> {
        let mut object = Value::object();
        let start: Vec<Value> = start.iter().map(|f| Value::from(*f)).collect();
        meta::metadata(&mut object).set("finalizers", start);
        propagate(&mut object, wanted);
        object
            .items_at(&["metadata", "finalizers"])
            .iter()
            .filter_map(|f| f.as_str().map(str::to_owned))
            .collect()
    }

    #[test]
    fn propagation_finalizers() {
        assert_eq!(finalizers(&["x"], None), ["x"]);
        assert_eq!(finalizers(&["x", "orphan"], Some(Propagation::Background)), ["x"]);
        assert_eq!(finalizers(&["orphan"], Some(Propagation::Foreground)), ["foregroundDeletion"]);
        assert_eq!(finalizers(&["foregroundDeletion", "y"], Some(Propagation::Orphan)), ["y", "orphan"]);
    }

    #[test]
    fn policy_words() {
        assert_eq!(propagation("Orphan", None).unwrap().0, Some(Propagation::Orphan));
        assert_eq!(propagation("", Some(false)).unwrap(), (Some(Propagation::Background), true));
        assert_eq!(propagation("x", None).unwrap_err().code, 422);
        assert_eq!(propagation("Orphan", Some(true)).unwrap_err().code, 422);
    }
}
