//! Defaults of pods and of the pod templates inside controllers.

use super::super::look::{
    at_mut, given, int_or_zero, is_true, items_mut, set_empty, set_missing, set_zero, text,
};
use crate::{Object, Value};

const PROBES: &[&str] = &["livenessProbe", "readinessProbe", "startupProbe"];
/// 0644
const FILE_MODE: i64 = 420;

/// Defaults of a pod.
pub(crate) fn pod(object: &mut Value) {
    object.object_at_mut(&["spec"]);
    let Some(spec) = object.get_mut("spec") else { return };
    let host_network = is_true(spec, "hostNetwork");
    if int_or_zero(spec, "terminationGracePeriodSeconds") < 0 {
        spec.object_at_mut(&[]).set("terminationGracePeriodSeconds", 1);
    }
    for field in ["containers", "initContainers"] {
        for container in items_mut(spec, field) {
            requests_from_limits(container);
            if host_network {
                host_ports(container);
            }
        }
    }
    set_missing(spec, "enableServiceLinks", true);
    pod_spec(spec);
}

/// Defaults of a pod template at `object[field]`.
pub(crate) fn template(owner: &mut Value, field: &str) {
    let Some(template) = owner.get_mut(field).filter(|t| matches!(t, Value::Object(_))) else { return };
    template.object_at_mut(&["spec"]);
    if let Some(spec) = template.get_mut("spec") {
        pod_spec(spec);
    }
}

/// Requests that are not given are the limits.
fn requests_from_limits(container: &mut Value) {
    let Some(resources) = at_mut(container, &["resources"]) else { return };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    let requests = resources.object_at_mut(&["requests"]);
    for (name, limit) in limits {
        if !requests.contains_key(&name) {
            requests.push_unchecked(name, limit);
        }
    }
}

fn host_ports(container: &mut Value) {
    for port in items_mut(container, "ports") {
        set_zero(port, "hostPort", int_or_zero(port, "containerPort"));
    }
}

fn pod_spec(spec: &mut Value) {
    set_empty(spec, "dnsPolicy", "ClusterFirst");
    set_empty(spec, "restartPolicy", "Always");
    set_missing(spec, "securityContext", Object::default());
    set_missing(spec, "terminationGracePeriodSeconds", 30);
    set_empty(spec, "schedulerName", "default-scheduler");
    service_account(spec);
    super::features::drop_disabled(spec);
    for volume in items_mut(spec, "volumes") {
        volume_source(volume);
    }
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items_mut(spec, field) {
            self::container(container);
        }
    }
}

/// `serviceAccount` is the old name of `serviceAccountName` and always shows the same.
pub(super) fn service_account(spec: &mut Value) {
    let name = match (text(spec, "serviceAccountName"), text(spec, "serviceAccount")) {
        ("", "") => return,
        ("", old) => old.to_owned(),
        (name, old) if name == old => return,
        (name, _) => name.to_owned(),
    };
    let spec = spec.object_at_mut(&[]);
    spec.set("serviceAccountName", name.as_str());
    spec.set("serviceAccount", name);
}

fn container(container: &mut Value) {
    let policy = if image_is_latest(text(container, "image")) { "Always" } else { "IfNotPresent" };
    set_empty(container, "imagePullPolicy", policy);
    set_empty(container, "terminationMessagePath", "/dev/termination-log");
    set_empty(container, "terminationMessagePolicy", "File");
    set_missing(container, "resources", Object::default());
    for port in items_mut(container, "ports") {
        set_empty(port, "protocol", "TCP");
    }
    for env in items_mut(container, "env") {
        if let Some(field) = at_mut(env, &["valueFrom", "fieldRef"]) {
            set_empty(field, "apiVersion", "v1");
        }
        if let Some(file) = at_mut(env, &["valueFrom", "fileKeyRef"]) {
            set_missing(file, "optional", false);
        }
    }
    for name in PROBES {
        if let Some(probe) = at_mut(container, &[name]) {
            self::probe(probe);
        }
    }
    for name in ["postStart", "preStop"] {
        if let Some(handler) = at_mut(container, &["lifecycle", name]) {
            http_get(handler);
        }
    }
}

fn probe(probe: &mut Value) {
    set_zero(probe, "timeoutSeconds", 1);
    set_zero(probe, "periodSeconds", 10);
    set_zero(probe, "successThreshold", 1);
    set_zero(probe, "failureThreshold", 3);
    if let Some(grpc) = at_mut(probe, &["grpc"]) {
        set_missing(grpc, "service", "");
    }
    http_get(probe);
}

fn http_get(handler: &mut Value) {
    if let Some(get) = at_mut(handler, &["httpGet"]) {
        set_empty(get, "path", "/");
        set_empty(get, "scheme", "HTTP");
    }
}

fn volume_source(volume: &mut Value) {
    let has_source = volume.as_object().is_some_and(|v| v.iter().any(|(k, v)| k != "name" && !v.is_null()));
    if !has_source {
        set_missing(volume, "emptyDir", Object::default());
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = at_mut(volume, &[source]) {
            set_missing(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(host) = at_mut(volume, &["hostPath"]) {
        set_missing(host, "type", "");
    }
    if let Some(image) = at_mut(volume, &["image"]) {
        let policy = if image_is_latest(text(image, "reference")) { "Always" } else { "IfNotPresent" };
        set_empty(image, "pullPolicy", policy);
    }
    if let Some(claim) = at_mut(volume, &["ephemeral", "volumeClaimTemplate", "spec"]) {
        set_missing(claim, "volumeMode", "Filesystem");
    }
    if let Some(files) = at_mut(volume, &["downwardAPI"]) {
        downward_files(files);
    }
    if let Some(projected) = at_mut(volume, &["projected"]) {
        for source in items_mut(projected, "sources") {
            if let Some(token) = at_mut(source, &["serviceAccountToken"]) {
                set_missing(token, "expirationSeconds", 3600);
            }
            if let Some(files) = at_mut(source, &["downwardAPI"]) {
                downward_files(files);
            }
        }
    }
}

fn downward_files(source: &mut Value) {
    for file in items_mut(source, "items") {
        if let Some(field) = at_mut(file, &["fieldRef"]) {
            set_empty(field, "apiVersion", "v1");
        }
    }
}

/// Is the image's tag `latest`, said or unsaid? An image with a digest and no tag has none; neither has a malformed reference.
pub(crate) fn image_is_latest(image: &str) -> bool {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let slash = name.rfind('/').map_or(0, |at| at + 1);
    let (repository, tag) = match name[slash..].rfind(':') {
        Some(colon) => (&name[..slash + colon], Some(&name[slash + colon + 1..])),
        None => (name, None),
    };
    if !repository_is_well_formed(repository) {
        return false;
    }
    match tag {
        Some(tag) => tag == "latest",
        None => digest.is_none(),
    }
}

/// Longest repository of an image, host and path together.
const REPOSITORY_MAX_BYTES: usize = 255;
/// A name of so many hexadecimal digits would be mistaken for an image's id.
const ID_DIGITS: usize = 64;

fn repository_is_well_formed(repository: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if repository.len() > REPOSITORY_MAX_BYTES
        || (repository.len() == ID_DIGITS && repository.bytes().all(hex))
    {
        return false;
    }
    let path = match repository.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => {
            if !host.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[') {
                return false;
            }
            path
        }
        _ => repository,
    };
    let part_is_fine = |part: &str| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        part.bytes().all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-'))
            && part.bytes().next().is_some_and(plain)
            && part.bytes().last().is_some_and(plain)
    };
    path.split('/').all(part_is_fine)
}

/// Does the pod ask for gates to be lifted before it is scheduled?
pub(super) fn is_gated(spec: &Value) -> bool {
    given(spec, "schedulingGates").and_then(Value::as_array).is_some_and(|gates| !gates.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{defaulted, tree};

    #[test]
    fn latest() {
        let cases = [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1.27", false),
            ("host:5000/nginx", true),
            ("host:5000/nginx:1", false),
            ("nginx@sha256:abc", false),
            ("nginx:latest@sha256:abc", true),
            ("Nginx", false),
            ("", false),
            ("a b", false),
        ];
        for (image, latest) in cases {
            assert_eq!(image_is_latest(image), latest, "{image}");
        }
    }

    #[test]
    fn a_plain_pod() {
        let pod = defaulted(
            "",
            "Pod",
            "{spec: {containers: [{name: nginx, image: nginx, ports: [{containerPort: 80}]}]}}",
        );
        let wanted = tree(
            "{spec: {containers: [{name: nginx, image: nginx, ports: [{containerPort: 80, protocol: TCP}], \
             imagePullPolicy: Always, terminationMessagePath: /dev/termination-log, terminationMessagePolicy: File, \
             resources: {}}], enableServiceLinks: true, dnsPolicy: ClusterFirst, restartPolicy: Always, \
             securityContext: {}, terminationGracePeriodSeconds: 30, schedulerName: default-scheduler}}",
        );
        assert_eq!(pod, wanted);
    }

    #[test]
    fn details() {
        let pod = defaulted(
            "",
            "Pod",
            "{spec: {hostNetwork: true, serviceAccount: sa, volumes: [{name: v}, {name: s, secret: {secretName: x}}, \
             {name: h, hostPath: {path: /}}, {name: p, projected: {sources: [{serviceAccountToken: {path: t}}]}}], \
             containers: [{name: c, image: 'c:1', ports: [{containerPort: 80}], \
             resources: {limits: {cpu: '1'}}, livenessProbe: {httpGet: {port: 80}}, \
             env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]}]}}",
        );
        let container = &pod.items_at(&["spec", "containers"])[0];
        let checks = [
            (container.at(&["resources", "requests", "cpu"]).cloned(), tree("'1'")),
            (container.items_at(&["ports"])[0].get("hostPort").cloned(), tree("80")),
            (container.get("imagePullPolicy").cloned(), tree("IfNotPresent")),
            (
                container.get("livenessProbe").cloned(),
                tree(
                    "{httpGet: {port: 80, path: /, scheme: HTTP}, timeoutSeconds: 1, periodSeconds: 10, \
                     successThreshold: 1, failureThreshold: 3}",
                ),
            ),
            (
                container.items_at(&["env"])[0].at(&["valueFrom", "fieldRef", "apiVersion"]).cloned(),
                tree("v1"),
            ),
            (pod.at(&["spec", "serviceAccountName"]).cloned(), tree("sa")),
            (
                pod.at(&["spec", "volumes"]).cloned(),
                tree(
                    "[{name: v, emptyDir: {}}, {name: s, secret: {secretName: x, defaultMode: 420}}, \
                     {name: h, hostPath: {path: /, type: ''}}, {name: p, projected: {defaultMode: 420, sources: \
                     [{serviceAccountToken: {path: t, expirationSeconds: 3600}}]}}]",
                ),
            ),
        ];
        for (got, wanted) in checks {
            assert_eq!(got, Some(wanted));
        }
    }
}
