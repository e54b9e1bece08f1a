//! `scale`: an object seen as `autoscaling/v1` Scale, and its wanted replicas changed through it.

use std::sync::Arc;

use corten_api::kind::Subresource;
use corten_api::selector::LabelSelector;
use corten_api::{GroupResource, Object, Result, Status, Value, apply, field};
use http::{Request, Response};

use crate::body::{Body, read_all};
use crate::call::Call;
use crate::candidate::{Live, Make, Patch};
use crate::read::store_error;
use crate::write::Write;
use crate::{ApiServer, decode, encode, meta, patching};

const SCALE: patching::View = (("autoscaling", "v1", "Scale"), "autoscaling/v1");

type Paths<'a> = (&'static [&'static str], &'static [&'static str], &'static [&'static str]);

/// GET, PUT, PATCH.
pub(super) async fn serve(
    server: &ApiServer,
    call: &Arc<Call>,
    subresource: &Subresource,
    request: Request<Body>,
) -> Result<Response<Body>> {
    let Subresource::Scale { spec_replicas, status_replicas, selector } = *subresource else {
        return Err(Status::no_route());
    };
    let paths = (spec_replicas, status_replicas, selector);
    let wanted = match call.info.verb {
        "get" => return encode::value(call, 200, &scale_of(&live(server, call).await?.tree, paths)),
        "update" => {
            let body = read_all(request.into_body()).await?;
            Wanted::Scale(replacement(call, decode::other(call, &body, SCALE.0)?)?)
        }
        "patch" => {
            let body = read_all(request.into_body()).await?;
            let patch = Patch::parse(call, &body)?;
            patching::check_options(call, patch.kind)?;
            Wanted::Patch(patch)
        }
        _ => return Err(Status::no_method()),
    };
    let by = call.clone();
    let edit = Make::Edit(Box::new(move |object| edit(&by, &wanted, object, paths)));
    let written = Write::new(server, call, call.info.name.clone(), edit)?.commit().await?;
    encode::value(call, 200, &scale_of(&written.tree()?, paths))
}

async fn live(server: &ApiServer, call: &Call) -> Result<Live> {
    let entry = server.config().store.get(&call.key(&call.info.name), None).await.map_err(store_error)?;
    Live::new(entry.ok_or_else(|| call.not_found())?)
}

/// What the client sent.
enum Wanted {
    Scale(Value),
    Patch(Patch),
}

/// The body of a PUT.
///
/// Errors: 400 where it is not of the object in the path.
fn replacement(call: &Call, mut scale: Value) -> Result<Value> {
    let name = &call.info.name;
    if scale.str_at(&["metadata", "name"]).is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        )));
    }
    meta::agree_on_name(&mut scale, name)?;
    meta::agree_on_namespace(&mut scale, call)?;
    Ok(scale)
}

/// Upstream's way: the object as a scale with the managers that the replicas have there, that scale changed, and its replicas
/// and managers brought back.
fn edit(call: &Call, wanted: &Wanted, object: &mut Value, paths: Paths<'_>) -> Result<()> {
    let served = |version: &str| call.kind.versions.iter().any(|v| call.kind.api_version(&v.name) == version);
    let replicas = |version: &str| served(version).then_some(paths.0);
    let parents = object.items_at(&["metadata", "managedFields"]).to_vec();
    let mut old = scale_of(object, paths);
    set_managers(&mut old, apply::scale_entries(&parents, &replicas).map_err(Status::internal)?);
    let new = match wanted {
        Wanted::Patch(patch) => patching::change_view(call, patch, &old, SCALE)?,
        Wanted::Scale(scale) => {
            let mut new = scale.clone();
            patching::track_view(call, &old, &mut new, SCALE);
            new
        }
    };
    let wanted_replicas = checked(call, &new, object, matches!(wanted, Wanted::Patch(_)))?;
    if let Some((last, way)) = paths.0.split_last() {
        object.object_at_mut(way).set(last, wanted_replicas);
    }
    let managers = new.items_at(&["metadata", "managedFields"]);
    let managers = apply::parent_entries(&parents, managers, &call.api_version(), &replicas);
    set_managers(object, managers.map_err(Status::internal)?);
    Ok(())
}

fn set_managers(object: &mut Value, managers: Vec<Value>) {
    let fields = meta::metadata(object);
    if managers.is_empty() {
        fields.remove("managedFields");
    } else {
        fields.set("managedFields", managers);
    }
}

/// The replicas of a scale that fits the object. The uid that a PUT names is the write's to compare.
///
/// Errors: 400 for another name, 409 for another version or uid, 422 for fewer replicas than none.
fn checked(call: &Call, scale: &Value, object: &mut Value, patched: bool) -> Result<i64> {
    let name = &call.info.name;
    meta::agree_on_name(&mut scale.clone(), name)?;
    let replicas = scale.at(&["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(0);
    if replicas < 0 {
        let path = field::Path::root("spec");
        let why = "must be greater than or equal to 0";
        let error = field::Error::invalid(&path.child("replicas"), replicas, why);
        return Err(Status::invalid(SCALE.0.0, SCALE.0.2, name, &[error]));
    }
    let (group, plural) = (&*call.kind.group, &*call.kind.plural);
    let (uid, found) = (scale.str_at(&["metadata", "uid"]), object.str_at(&["metadata", "uid"]));
    if !uid.is_empty() && uid != found {
        if !patched {
            meta::metadata(object).set("uid", uid);
            return Ok(replicas);
        }
        let resource = format!("{plural}/scale");
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {found}");
        return Err(Status::conflict(GroupResource { group, resource: &resource }, name, &why));
    }
    let version = scale.str_at(&["metadata", "resourceVersion"]);
    if meta::names_version(scale) && version != object.str_at(&["metadata", "resourceVersion"]) {
        return Err(Status::modified(GroupResource { group, resource: plural }, name));
    }
    Ok(replicas)
}

fn scale_of(object: &Value, (spec_path, status_path, selector): Paths<'_>) -> Value {
    let mut metadata = Object::default();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.at(&["metadata", field]) {
            metadata.set(field, value.clone());
        }
    }
    let number = |path: &[&str]| object.at(path).and_then(Value::as_i64).unwrap_or(0);
    let mut spec = Object::default();
    // Zero is left out, as Go does.
    if number(spec_path) != 0 {
        spec.set("replicas", number(spec_path));
    }
    let mut status = Object::default();
    status.set("replicas", number(status_path));
    if let Some(text) = selector_text(object.at(selector), selector.is_empty()) {
        status.set("selector", text);
    }
    let mut scale = Object::default();
    scale.set("kind", Value::str(SCALE.0.2));
    scale.set("apiVersion", Value::str(SCALE.1));
    scale.set("metadata", metadata);
    scale.set("spec", spec);
    scale.set("status", status);
    scale.into()
}

/// The selector as text: of a string, a plain map, or a LabelSelector.
fn selector_text(selector: Option<&Value>, none: bool) -> Option<String> {
    let selector = selector.filter(|_| !none)?;
    if let Some(text) = selector.as_str() {
        return Some(text.to_owned());
    }
    let is_label_selector =
        selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some();
    let parsed = match is_label_selector {
        true => LabelSelector::from_object(selector).ok()?,
        false => LabelSelector::from_map(selector.as_object()?),
    };
    Some(parsed.to_string())
}
