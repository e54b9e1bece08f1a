//! `scale`: an object seen as `autoscaling/v1` Scale, and its wanted replicas changed through it.

use corten_api::kind::Subresource;
use corten_api::selector::LabelSelector;
use corten_api::{GroupResource, Object, Result, Status, Value, schema};
use http::{Request, Response};

use crate::body::{Body, read_all};
use crate::call::Call;
use crate::candidate::{Live, Make, Patch};
use crate::read::store_error;
use crate::write::Write;
use crate::{ApiServer, decode, encode, patching};

const SCALE: (&str, &str, &str) = ("autoscaling", "v1", "Scale");

type Paths<'a> = (&'static [&'static str], &'static [&'static str], &'static [&'static str]);

/// GET, PUT, PATCH.
pub(super) async fn serve(
    server: &ApiServer,
    call: &Call,
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
            decode::other(call, &body, SCALE)?
        }
        "patch" => {
            let body = read_all(request.into_body()).await?;
            patched(call, &Patch::parse(call, &body)?, scale_of(&live(server, call).await?.tree, paths))?
        }
        _ => return Err(Status::no_method()),
    };
    let edit = set_replicas(call, &wanted, spec_replicas)?;
    let written = Write::new(server, call, call.info.name.clone(), edit)?.commit().await?;
    encode::value(call, 200, &scale_of(&written.tree()?, paths))
}

async fn live(server: &ApiServer, call: &Call) -> Result<Live> {
    let entry = server.config().store.get(&call.key(&call.info.name), None).await.map_err(store_error)?;
    Live::new(entry.ok_or_else(|| call.not_found())?)
}

fn patched(call: &Call, patch: &Patch, mut scale: Value) -> Result<Value> {
    let schema =
        schema::for_kind(SCALE.0, SCALE.1, SCALE.2).ok_or_else(|| Status::internal("Scale has no schema"))?;
    patching::change_with(schema, patch, &mut scale)?;
    // A patch that names no version leaves the present one in; it must not fight with others.
    if patch.value.at(&["metadata", "resourceVersion"]).is_none() {
        scale.object_at_mut(&["metadata"]).remove("resourceVersion");
    }
    schema::conform(&mut scale, schema, schema::Mode::REQUEST)
        .map_err(|e| schema::cannot_handle(&call.info.version, SCALE.2, SCALE.2, e))?;
    Ok(scale)
}

fn set_replicas(call: &Call, scale: &Value, path: &'static [&'static str]) -> Result<Make> {
    let name = call.info.name.clone();
    let found = scale.str_at(&["metadata", "name"]);
    if !found.is_empty() && found != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({found}) does not match the name on the URL ({name})"
        )));
    }
    let replicas = scale.at(&["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(0);
    if replicas < 0 {
        let spec = corten_api::field::Path::root("spec");
        let error = corten_api::field::Error::invalid(
            &spec.child("replicas"),
            replicas,
            "must be greater than or equal to 0",
        );
        return Err(Status::invalid(SCALE.0, SCALE.2, &name, &[error]));
    }
    let version = scale.str_at(&["metadata", "resourceVersion"]).to_owned();
    let (group, resource) = (call.kind.group.to_string(), call.kind.plural.to_string());
    Ok(Make::Edit(Box::new(move |object| {
        if !version.is_empty() && version != object.str_at(&["metadata", "resourceVersion"]) {
            return Err(Status::modified(GroupResource { group: &group, resource: &resource }, &name));
        }
        let Some((last, parents)) = path.split_last() else { return Ok(()) };
        object.object_at_mut(parents).set(last, replicas);
        Ok(())
    })))
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
    scale.set("kind", Value::str(SCALE.2));
    scale.set("apiVersion", Value::str("autoscaling/v1"));
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
