//! Go's names of types, because clients see them: `cannot unmarshal string into … of type []v1.Container`.

use super::{SchemaRef, Type};

impl SchemaRef<'_> {
    /// Go's spelling of the type as the field table has it, for messages.
    pub(super) fn go_type(&self) -> &str {
        match self.node.ty {
            Type::Struct if self.node.go.is_empty() => self.message(),
            _ => self.node.go,
        }
    }
}

/// What `reflect` prints for a type written `go` in the package of `message`: packages go by their own name, not by the
/// import's, and types of the same package get its name.
pub(super) fn reflect_name(go: &str, message: &str) -> String {
    if let Some(item) = go.strip_prefix("[]") {
        let item = if item == "byte" { "uint8".to_owned() } else { reflect_name(item, message) };
        return format!("[]{item}");
    }
    if let Some((key, value)) = go.strip_prefix("map[").and_then(|rest| rest.split_once(']')) {
        return format!("map[{}]{}", reflect_name(key, message), reflect_name(value, message));
    }
    if let Some(pointee) = go.strip_prefix('*') {
        return format!("*{}", reflect_name(pointee, message));
    }
    match go.rsplit_once('.') {
        Some((package, name)) => format!("{}.{name}", package_name(package)),
        None if go.starts_with(|c: char| c.is_ascii_uppercase()) => {
            let package = message.rsplit('.').nth(1).unwrap_or("v1");
            format!("{package}.{go}")
        }
        None => go.to_owned(),
    }
}

/// A package by its own name: import aliases such as `metav1` end in the version, full paths in the package.
fn package_name(package: &str) -> &str {
    let last = package.rsplit('.').next().unwrap_or(package);
    if last.starts_with("apimachinery") {
        return "types";
    }
    match last.rfind("v1").or_else(|| last.rfind("v2")) {
        Some(at) if at > 0 && !last.contains("dev") => &last[at..],
        _ => last,
    }
}

#[cfg(test)]
mod tests {
    use super::reflect_name;

    #[test]
    fn names_as_reflect_prints_them() {
        let message = "io.k8s.api.core.v1.PodSpec";
        for (go, printed) in [
            ("string", "string"),
            ("[]byte", "[]uint8"),
            ("[]Container", "[]v1.Container"),
            ("map[string]string", "map[string]string"),
            ("RestartPolicy", "v1.RestartPolicy"),
            ("metav1.ObjectMeta", "v1.ObjectMeta"),
            ("types.UID", "types.UID"),
            ("apimachinerytypes.UID", "types.UID"),
            ("schedulingv1alpha3.WorkloadPodGroupResourceClaim", "v1alpha3.WorkloadPodGroupResourceClaim"),
            ("map[QualifiedName]resource.Quantity", "map[v1.QualifiedName]resource.Quantity"),
            ("io.k8s.api.apps.v1beta1.Deployment", "v1beta1.Deployment"),
        ] {
            assert_eq!(reflect_name(go, message), printed);
        }
    }
}
