//! DefaultIngressClass: an Ingress that names no class gets the one that is marked as the default.

use corten_api::{Result, Value};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Attributes, Operation};
use crate::peek;

/// Marks a class as the default.
const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";
/// How classes were named before there was a field.
const OLD_CLASS: &str = "kubernetes.io/ingress.class";

pub(super) fn wants(a: &Attributes<'_>) -> bool {
    a.operation == Operation::Create
        && a.call.kind.group == "networking.k8s.io"
        && a.call.kind.plural == "ingresses"
        && a.call.info.subresource.is_empty()
}

pub(super) fn mutate<'a>(a: &'a Attributes<'a>, ingress: &'a mut Value) -> BoxFuture<'a, Result<()>> {
    async move {
        let named = ingress.at(&["spec", "ingressClassName"]).is_some_and(|name| !name.is_null());
        if named || ingress.at(&["metadata", "annotations", OLD_CLASS]).is_some() {
            return Ok(());
        }
        let classes = a.server.list_group("networking.k8s.io", "ingressclasses", "").await?;
        if let Some(name) = default_of(classes.iter().map(|class| &*class.value)) {
            ingress.object_at_mut(&["spec"]).set("ingressClassName", name);
        }
        Ok(())
    }
    .boxed()
}

/// The name of the newest default among the classes (JSON), the first by name of those of one second.
fn default_of<'a>(classes: impl Iterator<Item = &'a [u8]>) -> Option<String> {
    let is_default = |class: &&[u8]| peek::text(class, &["metadata", "annotations", DEFAULT]) == "true";
    let text = |class: &[u8], field| peek::text(class, &["metadata", field]).into_owned();
    let defaults =
        classes.filter(is_default).map(|class| (text(class, "creationTimestamp"), text(class, "name")));
    defaults.max_by(|(one, a), (other, b)| one.cmp(other).then(b.cmp(a))).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::default_of;

    #[test]
    fn the_newest_default_is_taken() {
        let class = |name: &str, created: &str, default: &str| {
            format!(
                r#"{{"metadata":{{"annotations":{{"ingressclass.kubernetes.io/is-default-class":"{default}"}},"creationTimestamp":"{created}","name":"{name}"}}}}"#
            )
        };
        let (early, late) = ("2026-01-01T00:00:09Z", "2026-01-01T00:00:10Z");
        let cases: [(&[(&str, &str, &str)], Option<&str>); 5] = [
            (&[], None),
            (&[("a", early, "false")], None),
            (&[("a", early, "true"), ("b", late, "false")], Some("a")),
            (&[("a", early, "true"), ("b", late, "true")], Some("b")),
            (&[("b", late, "true"), ("a", late, "true")], Some("a")),
        ];
        for (given, wanted) in cases {
            let classes: Vec<String> = given.iter().map(|(n, c, d)| class(n, c, d)).collect();
            assert_eq!(default_of(classes.iter().map(String::as_bytes)).as_deref(), wanted, "{given:?}");
        }
    }
}
