//! The one way in which an object changes. Read [`Write::attempt`] from top to bottom: it is upstream's order, and create,
//! update, patch, apply and every subresource go through it. Authentication and authorisation came before
//! (`pipeline.rs`); encoding comes after.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use corten_api::kind::{Context, Kind, Subresource};
use corten_api::schema::{self, Mode};
use corten_api::{Result, Status, Value, meta as rules};
use corten_store::{Entry, LeaseId, StoreError, Txn};
use http::{Request, Response};

use crate::admission::{self, Operation};
use crate::body::{Body, read_all};
use crate::call::Call;
use crate::candidate::{Live, Make, Patch};
use crate::decode;
use crate::media::PatchType;
use crate::read::store_error;
use crate::{ApiServer, encode, meta, patching, stored, subresources};

/// Tries of a change that others overtake, before the client is told 409.
const MAX_TRIES: usize = 12;
/// Tries of `generateName` (upstream's bound).
const MAX_NAMES: usize = 8;
/// Events written within this time share a lease.
const LEASE_SHARE: Duration = Duration::from_secs(60);
/// Namespace of the nodes' signs of life.
const NODE_LEASES: &str = "kube-node-lease";

/// POST.
pub(crate) async fn create(
    server: &ApiServer,
    call: &Call,
    request: Request<Body>,
) -> Result<Response<Body>> {
    let body = read_all(request.into_body()).await?;
    let object = decode::object(call, &body)?;
    let name = object.str_at(&["metadata", "name"]).to_owned();
    let written = Write::new(server, call, name, Make::Create(object))?.commit().await?;
    written.respond(call)
}

/// PUT.
pub(crate) async fn update(
    server: &ApiServer,
    call: &Call,
    request: Request<Body>,
) -> Result<Response<Body>> {
    let body = read_all(request.into_body()).await?;
    let object = decode::object(call, &body)?;
    let written = Write::new(server, call, call.info.name.clone(), Make::Replace(object))?.commit().await?;
    written.respond(call)
}

/// PATCH.
pub(crate) async fn patch(server: &ApiServer, call: &Call, request: Request<Body>) -> Result<Response<Body>> {
    let body: Bytes = read_all(request.into_body()).await?;
    let patch = Patch::parse(call, &body)?;
    patching::check_options(call, patch.kind)?;
    let written = Write::new(server, call, call.info.name.clone(), Make::Patch(patch))?.commit().await?;
    written.respond(call)
}

/// A change on its way.
pub(crate) struct Write<'a> {
    server: &'a ApiServer,
    call: &'a Call,
    /// The object's name; empty for `generateName`.
    name: String,
    make: Make,
    dry_run: bool,
}

/// What came of it.
pub(crate) struct Written {
    /// The object as it rests (or, in a dry run, would).
    pub bytes: Bytes,
    /// Its resource version.
    pub revision: u64,
    /// Was it new?
    pub created: bool,
}

impl Written {
    /// The answer with the object.
    pub fn respond(&self, call: &Call) -> Result<Response<Body>> {
        encode::object(call, if self.created { 201 } else { 200 }, &self.bytes, self.revision)
    }

    /// The object's tree in the version at rest.
    pub fn tree(&self) -> Result<Value> {
        stored::tree(&self.bytes, self.revision)
    }
}

/// Why one attempt did not go through.
enum Failure {
    /// Somebody else was faster.
    Overtaken,
    /// For the client.
    Status(Box<Status>),
}

impl From<Box<Status>> for Failure {
    fn from(status: Box<Status>) -> Self {
        Failure::Status(status)
    }
}

impl<'a> Write<'a> {
    /// A change of the named object of the call's kind and namespace.
    ///
    /// Errors: 422 for a bad `dryRun` or field manager.
    pub fn new(server: &'a ApiServer, call: &'a Call, name: String, make: Make) -> Result<Self> {
        check_field_manager(call)?;
        Ok(Write { server, call, name, make, dry_run: call.dry_run()? })
    }

    /// Does it, trying again where others were faster and the client did not insist on a version.
    pub async fn commit(mut self) -> Result<Written> {
        let tries = self.tries();
        for left in (0..tries).rev() {
            match Box::pin(self.attempt(left == 0)).await {
                Ok(written) => return Ok(written),
                Err(Failure::Overtaken) => {}
                Err(Failure::Status(status)) => return Err(status),
            }
        }
        Err(match self.name.as_str() {
            "" => self.no_free_name(),
            name => Status::modified(self.call.resource(), name),
        })
    }

    /// How often it may be tried. What names its object or its version has failed when others were faster.
    fn tries(&self) -> usize {
        match &self.make {
            Make::Create(_) if self.name.is_empty() => MAX_NAMES,
            Make::Create(_) => 1,
            Make::Replace(object) if meta::names_version(object) => 1,
            _ => MAX_TRIES,
        }
    }

    fn no_free_name(&self) -> Box<Status> {
        let mut status = Status::already_exists(self.call.resource(), "");
        status.message += ", the server was not able to generate a unique name for the object";
        status
    }

    async fn attempt(&mut self, last_try: bool) -> Result<Written, Failure> {
        let (server, call) = (self.server, self.call);
        // What is there now, and what the client wants instead: decoded strictly, defaulted, in the storage version.
        let live = self.live().await?;
        let mut object = self.make.candidate(call, live.as_ref(), last_try)?;
        let creating = live.is_none() || matches!(self.make, Make::Create(_));
        self.agree(&mut object, live.as_ref())?;

        let old = live.as_ref().map(|l| &l.tree);
        patching::track(call, &self.make, &mut object, old, server.now_ms());
        patching::settle(call, &mut object, old);

        // Mutating admission.
        let operation = if creating { Operation::Create } else { Operation::Update };
        let attributes = admission::Attributes { server, call, operation, old };
        admission::mutate(&attributes, &mut object).await?;

        // System metadata, and what the kind and the subresource leave of the change.
        match old {
            None => self.prepare_create(&mut object)?,
            Some(old) => self.prepare_update(&mut object, old)?,
        }

        // Addresses and ports; given back unless the write goes through.
        let allocation = server.allocator().allocate(server, call, &mut object, old).await?;
        let outcome = self.check_and_store(&attributes, &object, live.as_ref()).await;
        allocation.end(outcome.is_ok() && !self.dry_run);
        outcome
    }

    /// Validation, then validating admission, then compare and swap. The store publishes to watchers what it has on disk.
    async fn check_and_store(
        &self,
        attributes: &admission::Attributes<'_>,
        object: &Value,
        live: Option<&Live>,
    ) -> Result<Written, Failure> {
        self.server.check_escalation(self.call, object, attributes.old).await?;
        self.validate(object, attributes.old)?;
        self.warn(object, attributes.old);
        admission::validate(attributes, object).await?;
        self.store(object, live).await
    }

    /// The object that is there. Creating needs none: the store refuses a second one.
    async fn live(&self) -> Result<Option<Live>> {
        if matches!(self.make, Make::Create(_)) {
            return Ok(None);
        }
        let key = self.call.key(&self.name);
        let entry = self.server.config().store.get(&key, None).await.map_err(store_error)?;
        if entry.is_none() && !self.creates_missing() {
            return Err(Status::not_found(self.call.resource(), &self.name));
        }
        entry.map(Live::new).transpose()
    }

    /// May the change make a missing object?
    fn creates_missing(&self) -> bool {
        let main = self.call.info.subresource.is_empty();
        main && match &self.make {
            Make::Create(_) => true,
            Make::Replace(_) => self.call.kind.create_on_update,
            Make::Patch(patch) => patch.kind == PatchType::Apply,
            Make::Edit(_) => false,
        }
    }

    /// Name, namespace, uid and resource version of the candidate must be those of the path and of the stored object.
    fn agree(&self, object: &mut Value, live: Option<&Live>) -> Result<(), Failure> {
        let call = self.call;
        meta::agree_on_namespace(object, call)?;
        if !self.name.is_empty() {
            if matches!(self.make, Make::Replace(_)) && object.str_at(&["metadata", "name"]).is_empty() {
                let name = &self.name;
                return Err(Status::bad_request(format!(
                    "the name of the object ({name} based on URL) was undeterminable: name must be provided"
                ))
                .into());
            }
            meta::agree_on_name(object, &self.name)?;
        }
        let version = object.str_at(&["metadata", "resourceVersion"]).to_owned();
        let Some(live) = live else {
            if !meta::names_version(object) {
                return Ok(());
            }
            if matches!(self.make, Make::Create(_)) {
                // It is the store that refuses it, and a dry run does not get there.
                if self.dry_run {
                    return Ok(());
                }
                return Err(Status::bad_request(
                    "resourceVersion should not be set on objects to be created",
                )
                .into());
            }
            return Err(Status::not_found(call.resource(), &self.name).into());
        };
        self.agree_on_uid(object, &live.tree)?;
        if version == live.entry.mod_revision.to_string() {
            return Ok(());
        }
        if !meta::names_version(object) {
            if matches!(self.make, Make::Replace(_)) && !call.kind.unconditional_update {
                let path = corten_api::field::Path::root("metadata");
                let version = path.child("resourceVersion");
                let error = corten_api::field::Error::invalid(&version, 0, "must be specified for an update");
                return Err(Status::invalid(&call.kind.group, &call.kind.kind, &self.name, &[error]).into());
            }
            meta::metadata(object).set("resourceVersion", live.entry.mod_revision.to_string());
            return Ok(());
        }
        Err(Status::modified(call.resource(), &self.name).into())
    }

    fn agree_on_uid(&self, object: &Value, live: &Value) -> Result<()> {
        let (wanted, found) = (object.str_at(&["metadata", "uid"]), live.str_at(&["metadata", "uid"]));
        if wanted.is_empty() || wanted == found {
            return Ok(());
        }
        let (kind, namespace) = (self.call.edge().storage_kind, live.str_at(&["metadata", "namespace"]));
        let place = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: /{}/{place}{}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}",
            kind.storage_prefix, self.name
        );
        Err(Status::conflict(self.call.resource(), &self.name, &why))
    }

    fn context(&self) -> Context<'_> {
        Context {
            group: &self.call.kind.group,
            version: &self.call.info.version,
            subresource: &self.call.info.subresource,
            now_ms: self.server.now_ms(),
        }
    }

    fn prepare_create(&self, object: &mut Value) -> Result<()> {
        let kind = self.call.edge().storage_kind;
        meta::new_object(object, kind, self.server.now_ms());
        if object.str_at(&["metadata", "name"]).is_empty() {
            let base = object.str_at(&["metadata", "generateName"]).to_owned();
            if !base.is_empty() {
                meta::metadata(object).set("name", meta::generated(&base));
            }
        }
        let resets = meta::has_status(kind) && !kind.keeps_status_on_create;
        if resets {
            object.object_at_mut(&[]).remove("status");
        }
        if let Some(prepare) = kind.hooks.prepare_create {
            prepare(object, &self.context());
        }
        if resets {
            zero_status(object, kind);
        }
        Ok(())
    }

    fn prepare_update(&self, object: &mut Value, old: &Value) -> Result<()> {
        let kind = self.call.edge().storage_kind;
        rules::carry_over(object, old);
        if !matches!(self.make, Make::Edit(_)) {
            subresources::keep_to_subresource(self.call, object, old);
        }
        let generation = old.at(&["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0);
        let fields = meta::metadata(object);
        match generation {
            0 => {
                fields.remove("generation");
            }
            n => fields.set("generation", n),
        }
        if let Some(prepare) = kind.hooks.prepare_update {
            prepare(object, old, &self.context());
        }
        if kind.has_generation && !self.is_action() && !meta::same_spec(object, old) {
            meta::metadata(object).set("generation", generation + 1);
        }
        Ok(())
    }

    /// Is this an action of the server itself (binding a pod)? It is no update that the kind's rules
    /// speak of, and nobody's new wish, so the generation stays.
    fn is_action(&self) -> bool {
        let kind = self.call.edge().storage_kind;
        matches!(kind.subresource(&self.call.info.subresource), Some(Subresource::Action { .. }))
    }

    fn validate(&self, object: &Value, old: Option<&Value>) -> Result<()> {
        let kind = self.call.edge().storage_kind;
        let mut errors = match old {
            None => rules::validate_create(kind, object),
            Some(old) => rules::validate_update(kind, object, old),
        };
        // The rules are those of the group that was asked, also where objects rest in another one's form.
        if let Some(validate) = self.call.kind.hooks.validate.filter(|_| !self.is_action()) {
            errors.extend(validate(object, old, &self.context()));
        }
        match errors.is_empty() {
            true => Ok(()),
            false => {
                Err(Status::invalid(&kind.group, &kind.kind, object.str_at(&["metadata", "name"]), &errors))
            }
        }
    }

    fn warn(&self, object: &Value, old: Option<&Value>) {
        if let Some(warnings) = self.call.edge().storage_kind.hooks.warnings {
            warnings(object, old).into_iter().for_each(|w| self.call.warn(w));
        }
    }

    /// Writes the object, or removes it when the change took away the last thing that held its deletion.
    async fn store(&self, object: &Value, live: Option<&Live>) -> Result<Written, Failure> {
        let name = object.str_at(&["metadata", "name"]);
        let bytes = Bytes::from(stored::encode(object));
        let revision = live.map_or(0, |l| l.entry.mod_revision);
        let written = |bytes: Bytes, revision| Written { bytes, revision, created: live.is_none() };
        let gone = live.is_some() && meta::is_done_deleting(object);
        if self.dry_run && live.is_none() && self.exists(name).await? {
            return Err(Status::already_exists(self.call.resource(), name).into());
        }
        // Trees, not bytes: a client may send the same fields in another order.
        let unchanged = live.is_some_and(|l| l.tree == *object) && !gone;
        if self.dry_run || unchanged {
            let rests = live.filter(|_| unchanged).map(|l| l.entry.value.clone());
            return Ok(written(rests.unwrap_or(bytes), revision));
        }
        let key = self.call.key(name);
        let txn = if gone { Txn::delete(key, revision) } else { Txn::update(key, bytes.clone(), revision) };
        let txn = self.leased(txn).await?.urgent(self.is_urgent(object));
        let leaving = gone.then(|| self.server.allocator().leave(self.call, object, self.server.now_ms()));
        let outcome = self.server.config().store.txn(txn).await;
        if let Some(leaving) = leaving {
            leaving.end(outcome.is_ok());
        }
        match outcome {
            Ok(done) => Ok(written(bytes, done.revision)),
            Err(StoreError::Conflict { .. }) => Err(self.overtaken(name, live)),
            Err(error) => Err(store_error(error).into()),
        }
    }

    /// What a full disk must not stop: the way of an object to its end, and the node's sign of life, without which its pods
    /// would be moved away.
    fn is_urgent(&self, object: &Value) -> bool {
        meta::is_deleting(object)
            || self.call.kind.storage_prefix == "leases" && self.call.info.namespace == NODE_LEASES
    }

    fn overtaken(&self, name: &str, live: Option<&Live>) -> Failure {
        match (&self.make, live) {
            (Make::Create(_), _) if !self.name.is_empty() => {
                Status::already_exists(self.call.resource(), name).into()
            }
            _ => Failure::Overtaken,
        }
    }

    async fn exists(&self, name: &str) -> Result<bool> {
        let found = self.server.config().store.get(&self.call.key(name), None).await;
        Ok(found.map_err(store_error)?.is_some())
    }

    /// Events die after a while.
    async fn leased(&self, txn: Txn) -> Result<Txn> {
        if self.call.kind.storage_prefix != "events" {
            return Ok(txn);
        }
        let lease = self.server.event_lease().get(self.server).await?;
        Ok(txn.with_lease(lease))
    }
}

fn check_field_manager(call: &Call) -> Result<()> {
    let path = corten_api::field::Path::root("fieldManager");
    let errors = match call.query.str("fieldManager") {
        "" => Vec::new(),
        name => rules::field_manager(name, &path),
    };
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid("meta.k8s.io", call.options_kind(), "", &errors)),
    }
}

/// The lease that events written now belong to. A new one is made when the last is older than a minute, so that an event
/// lives its time and at most a minute longer.
#[derive(Default)]
pub(crate) struct EventLease(Mutex<Option<(LeaseId, i64)>>);

impl EventLease {
    /// The present lease.
    pub(crate) async fn get(&self, server: &ApiServer) -> Result<LeaseId> {
        let now = server.now_ms();
        let shared = i64::try_from(LEASE_SHARE.as_millis()).unwrap_or(i64::MAX);
        let current = self.0.lock().map_err(|_| Status::internal("event lease"))?.as_ref().copied();
        // Where the clock was put back, nobody knows the lease's age.
        if let Some((lease, _)) = current.filter(|(_, made)| (0..shared).contains(&now.saturating_sub(*made)))
        {
            return Ok(lease);
        }
        let ttl = server.config().event_ttl + LEASE_SHARE;
        let lease = server.config().store.lease_grant(ttl).await.map_err(store_error)?;
        if let Ok(mut slot) = self.0.lock() {
            *slot = Some((lease, now));
        }
        Ok(lease)
    }
}

/// An entry as [`Written`].
impl From<&Arc<Entry>> for Written {
    fn from(entry: &Arc<Entry>) -> Self {
        Written { bytes: entry.value.clone(), revision: entry.mod_revision, created: false }
    }
}

/// A status shows the counters that Go always writes: `replicas: 0`, `loadBalancer: {}`.
fn zero_status(object: &mut Value, kind: &Kind) {
    let Some(schema) = schema::message(&kind.storage_version().message) else { return };
    let Some(of_status) = schema.field("status") else { return };
    let status = object.object_at_mut(&[]).entry("status");
    if status.is_null() {
        *status = Value::object();
    }
    // What the hook wrote fits its own schema.
    let _ = schema::conform(status, of_status.schema(), Mode::READ);
}
