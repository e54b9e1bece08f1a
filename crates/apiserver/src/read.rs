//! GET and LIST: from the store's bytes to the answer, without decoding where the client wants JSON.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use corten_api::field::{Error, Path};
use corten_api::kind::Scope;
use corten_api::{Result, Status, Value};
use corten_store::{Entry, ListQuery, StoreError};
use http::Response;
use serde::{Deserialize, Serialize};

use crate::body::Body;
use crate::call::{Call, key, prefix};
use crate::query::Query;
use crate::select::Selection;
use crate::{ApiServer, encode, stored};

/// The revision in tokens of lists that go on at the present one.
const INCONSISTENT: i64 = -1;
/// Entries read at once while a selector thins out a limited list.
const SCAN_PAGE: usize = 1000;

impl ApiServer {
    /// A core object as it rests, for the server's own decisions.
    pub(crate) async fn read_raw(
        &self,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Entry>>> {
        if name.is_empty() || name.contains('/') || namespace.contains('/') {
            return Ok(None);
        }
        let kinds = self.kinds().snapshot();
        let Some(kind) = kinds.group_resource("", plural) else { return Ok(None) };
        self.config().store.get(&key(kind, namespace, name), None).await.map_err(store_error)
    }

    /// The same as a tree.
    pub(crate) async fn read_internal(
        &self,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>> {
        let found = self.read_raw(plural, namespace, name).await?;
        found.map(|entry| self.tree(&entry)).transpose()
    }

    /// All objects of a core kind in a namespace (`""`: in all).
    pub(crate) async fn list_raw(&self, plural: &str, namespace: &str) -> Result<Vec<Arc<Entry>>> {
        self.list_group("", plural, namespace).await
    }

    /// All objects of any kind in a namespace (`""`: in all).
    pub(crate) async fn list_group(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
    ) -> Result<Vec<Arc<Entry>>> {
        let kinds = self.kinds().snapshot();
        let Some(kind) = kinds.group_resource(group, plural) else { return Ok(Vec::new()) };
        let mut prefix = prefix(kind);
        if !namespace.is_empty() {
            prefix = format!("{prefix}{namespace}/");
        }
        let query = ListQuery { prefix, ..ListQuery::default() };
        Ok(self.config().store.list(&query).await.map_err(store_error)?.entries)
    }

    /// A stored object as a tree.
    pub(crate) fn tree(&self, entry: &Entry) -> Result<Value> {
        stored::tree(&entry.value, entry.mod_revision)
    }
}

/// What the store's errors mean to a client.
pub(crate) fn store_error(error: StoreError) -> Box<Status> {
    match error {
        StoreError::Compacted { asked, compact_revision } => {
            Status::expired(format!("too old resource version: {asked} ({compact_revision})"))
        }
        StoreError::Lagged { progress, compact_revision } => {
            Status::expired(format!("too old resource version: {progress} ({compact_revision})"))
        }
        StoreError::Future { asked, current_revision } => too_large_version(asked, current_revision),
        StoreError::ValueTooLarge { bytes, limit, .. } => Status::too_large(format!(
            "etcdserver: request is too large: {bytes} bytes, the limit is {limit}"
        )),
        StoreError::Closed => Status::unavailable("the store is closed"),
        StoreError::StorageFull(why) => Status::internal(format!("no space left on the store's disk: {why}")),
        other => Status::internal(other),
    }
}

fn too_large_version(asked: u64, current: u64) -> Box<Status> {
    let mut status = Status::timeout(format!("Too large resource version: {asked}, current: {current}"));
    status.retry_after_seconds = Some(1);
    status.causes.push(corten_api::status::Cause {
        reason: "ResourceVersionTooLarge".into(),
        message: "Too large resource version".into(),
        field: String::new(),
    });
    status
}

/// The resource version that a client names; `None` for none.
///
/// Errors: 400.
pub(crate) fn parse_version(text: &str) -> Result<Option<u64>> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        let why = format!("strconv.ParseUint: parsing \"{text}\": invalid syntax");
        Status::bad_request(format!("resourceVersion: Invalid value: \"{text}\": {why}"))
    })
}

/// GET of one object.
pub(crate) async fn get(server: &ApiServer, call: &Call) -> Result<Response<Body>> {
    let wanted = parse_version(call.query.str("resourceVersion"))?;
    let store = &server.config().store;
    if let Some(wanted) = wanted {
        let current = store.current_revision().await.map_err(store_error)?;
        if wanted > current {
            return Err(too_large_version(wanted, current));
        }
    }
    let entry = store.get(&call.key(&call.info.name), None).await.map_err(store_error)?;
    let entry = entry.ok_or_else(|| call.not_found())?;
    encode::object(call, 200, &entry.value, entry.mod_revision)
}

/// One page of a list.
pub(crate) struct Page {
    /// The revision it shows.
    pub revision: u64,
    /// Its objects.
    pub entries: Vec<Arc<Entry>>,
    /// Where the next page begins.
    pub next: Option<String>,
    /// How many follow, where it is known.
    pub remaining: Option<u64>,
}

/// LIST.
pub(crate) async fn list(server: &ApiServer, call: Arc<Call>) -> Result<Response<Body>> {
    let options = ListOptions::parse(&call)?;
    let selection = Selection::of_call(&call)?;
    let page = options.read(server, &call, &selection).await?;
    encode::list(&call, page)
}

/// How a list was asked for.
#[derive(Debug, Default)]
pub(crate) struct ListOptions {
    limit: usize,
    at: Option<u64>,
    start_after: Option<String>,
}

impl ListOptions {
    /// Reads and checks the parameters.
    ///
    /// Errors: 400, 422.
    pub fn parse(call: &Call) -> Result<Self> {
        let query = &call.query;
        query.number("timeoutSeconds")?;
        let limit = query.number("limit")?;
        let limit = usize::try_from(limit.unwrap_or(0)).unwrap_or(0);
        let how = query.str("resourceVersionMatch");
        let token = query.str("continue");
        let version = parse_version(query.str("resourceVersion"));
        check_match(query, how, version.as_ref().copied().unwrap_or(Some(1)), token)?;
        let version = version.map_err(|mut status| {
            status.message.insert_str(0, "invalid resource version: ");
            status
        })?;
        if !token.is_empty() {
            if version.is_some_and(|v| v != 0) {
                return Err(Status::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let token = Continue::decode(token)?;
            let start_after = format!("{}{}", call.prefix(), token.start.trim_end_matches('\0'));
            let at = u64::try_from(token.rv).ok().filter(|rv| *rv > 0);
            return Ok(ListOptions { limit, at, start_after: Some(start_after) });
        }
        // Whatever is there, as it is: upstream answers from its cache, which knows no pages.
        let limit = if version == Some(0) { 0 } else { limit };
        let exact = how == "Exact" || (how.is_empty() && limit > 0);
        let at = version.filter(|v| *v > 0);
        Ok(ListOptions { limit, at: at.filter(|_| exact), start_after: None })
    }

    /// Reads a page: from the store, thinned out by the selection.
    pub async fn read(&self, server: &ApiServer, call: &Call, selection: &Selection) -> Result<Page> {
        let store = &server.config().store;
        if self.at.is_none() {
            self.wait_for_version(server, call).await?;
        }
        let mut query = ListQuery {
            prefix: narrowed(call, selection),
            start_after: self.start_after.as_deref().map(Into::into),
            limit: if selection.is_everything() || self.limit == 0 {
                self.limit
            } else {
                self.limit.max(SCAN_PAGE)
            },
            at: self.at,
        };
        let mut page = Page { revision: 0, entries: Vec::new(), next: None, remaining: None };
        loop {
            let found = store.list(&query).await.map_err(|e| self.expired(call, e))?;
            page.revision = found.revision;
            let (more, remaining) = (found.more(), found.remaining);
            let last = found.entries.last().map(|e| e.key.clone());
            let mut rest = found.entries.into_iter();
            for entry in rest.by_ref() {
                if selection.matches(call, &entry.value)? {
                    page.entries.push(entry);
                    if page.entries.len() == self.limit {
                        break;
                    }
                }
            }
            let full = self.limit > 0 && page.entries.len() == self.limit;
            if full && (more || rest.len() > 0) {
                page.next = page.entries.last().map(|e| Continue::after(call, page.revision, &e.key));
                page.remaining = selection.is_everything().then_some(remaining);
            }
            if full || !more {
                return Ok(page);
            }
            query.start_after = last;
            query.at = Some(page.revision);
        }
    }

    /// A revision that is gone. A list that was begun there is told how to go on at a newer one, which may show some objects
    /// twice or not at all.
    fn expired(&self, call: &Call, error: StoreError) -> Box<Status> {
        match (error, &self.start_after) {
            (StoreError::Compacted { .. }, Some(start)) => {
                let mut status = Status::expired(
                    "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
                     the continue parameter, or use the continue token in this response to retrieve the remainder of the results. \
                     Continuing with the provided token results in an inconsistent list - objects that were created, modified, or \
                     deleted between the time the first chunk was returned and now may show up in the list.",
                );
                status.continue_token = Continue::token(call, INCONSISTENT, start);
                status
            }
            (StoreError::Compacted { .. }, None) => {
                Status::expired("The resourceVersion for the provided list is too old.")
            }
            (error, _) => store_error(error),
        }
    }

    /// `NotOlderThan`: the store is always current, so only versions that do not exist yet are refused.
    async fn wait_for_version(&self, server: &ApiServer, call: &Call) -> Result<()> {
        let Some(wanted) = parse_version(call.query.str("resourceVersion"))? else { return Ok(()) };
        let current = server.config().store.current_revision().await.map_err(store_error)?;
        if wanted > current { Err(too_large_version(wanted, current)) } else { Ok(()) }
    }
}

/// The keys to look at: only one where a field selector names it.
pub(crate) fn narrowed(call: &Call, selection: &Selection) -> String {
    match selection.name() {
        Some(name) if call.kind.scope == Scope::Cluster || !call.info.namespace.is_empty() => call.key(name),
        _ => call.collection(),
    }
}

/// The rules of `resourceVersionMatch`; everything that is wrong is told at once.
fn check_match(query: &Query, how: &str, version: Option<u64>, token: &str) -> Result<()> {
    let (path, mut errors) = (Path::root("resourceVersionMatch"), Vec::new());
    if query.get("sendInitialEvents").is_some() {
        let path = Path::root("sendInitialEvents");
        errors.push(Error::forbidden(&path, "sendInitialEvents is forbidden for list"));
    }
    if !how.is_empty() {
        let mut forbid = |detail: &str| errors.push(Error::forbidden(&path, detail));
        if version.is_none() {
            forbid("resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if !token.is_empty() {
            forbid("resourceVersionMatch is forbidden when continue is provided");
        }
        if !["Exact", "NotOlderThan"].contains(&how) {
            errors.push(Error::not_supported(&path, how, &["Exact", "NotOlderThan", ""]));
        } else if how == "Exact" && version == Some(0) {
            let detail = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.push(Error::forbidden(&path, detail));
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid("meta.k8s.io", "ListOptions", "", &errors)),
    }
}

/// A continue token: upstream's form, opaque to clients.
#[derive(Serialize, Deserialize)]
struct Continue {
    v: String,
    rv: i64,
    start: String,
}

impl Continue {
    fn after(call: &Call, revision: u64, key: &str) -> String {
        Continue::token(call, i64::try_from(revision).unwrap_or(i64::MAX), key)
    }

    fn token(call: &Call, rv: i64, key: &str) -> String {
        let start = key.strip_prefix(&call.prefix()).unwrap_or(key);
        let token = Continue { v: "meta.k8s.io/v1".into(), rv, start: format!("{start}\0") };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    fn decode(token: &str) -> Result<Self> {
        let bad = |why: String| {
            Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        };
        let bytes = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).map_err(|e| bad(e.to_string()))?;
        let token: Continue = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        if token.v != "meta.k8s.io/v1" {
            return Err(bad(format!("server does not recognize this encoded version {:?}", token.v)));
        }
        if token.rv == 0 {
            return Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)".into()));
        }
        if token.start.is_empty() {
            return Err(bad("encoded start key empty (version meta.k8s.io/v1)".into()));
        }
        let strange = token.start.starts_with('/') || token.start.split('/').any(|s| s == ".." || s == ".");
        if strange {
            return Err(bad(token.start));
        }
        Ok(token)
    }
}
