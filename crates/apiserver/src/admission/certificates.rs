//! Who asks for a certificate is written into the request by the server, whatever the request says; what was asked for
//! stays as it is (upstream does both in the kind's strategy).

use corten_api::{Object, Result, Str, Value};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Attributes, Operation};
use crate::meta;

pub(super) fn wants(a: &Attributes<'_>) -> bool {
    a.operation != Operation::Delete
        && a.call.kind.group == "certificates.k8s.io"
        && a.call.kind.plural == "certificatesigningrequests"
}

pub(super) fn mutate<'a>(a: &'a Attributes<'a>, object: &'a mut Value) -> BoxFuture<'a, Result<()>> {
    match (a.operation, a.old) {
        (Operation::Update, Some(old)) => meta::take_field(object, "spec", old),
        _ => sign(a, object),
    }
    async { Ok(()) }.boxed()
}

fn sign(a: &Attributes<'_>, object: &mut Value) {
    let user = &a.call.user;
    let texts = |list: &[String]| list.iter().map(|text| Value::from(text.as_str())).collect::<Vec<_>>();
    let spec = object.object_at_mut(&["spec"]);
    for field in ["username", "uid", "groups", "extra"] {
        spec.remove(field);
    }
    spec.set("username", user.name.as_str());
    if !user.uid.is_empty() {
        spec.set("uid", user.uid.as_str());
    }
    spec.set("groups", texts(&user.groups));
    if !user.extra.is_empty() {
        let mut extra = Object::default();
        for (key, values) in &user.extra {
            extra.insert(Str::from(key.as_str()), texts(values));
        }
        spec.set("extra", extra);
    }
}
