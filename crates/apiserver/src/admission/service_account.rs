//! ServiceAccount: every pod runs as an account of its namespace and finds a token of it in a projected volume.

use std::time::Duration;

use corten_api::{Object, Result, Value};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Attributes, Operation};
use crate::read::store_error;

const DEFAULT: &str = "default";
const MIRROR: &str = "kubernetes.io/config.mirror";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// One hour and a bit: the kubelet asks for this, and upstream knows such tokens by it.
const EXPIRATION_SECONDS: i64 = 3607;
/// The default account of a new namespace is made by a controller; pods that come first wait so long for it.
const WAIT_FOR_DEFAULT: Duration = Duration::from_secs(3);

pub(super) fn wants(a: &Attributes<'_>) -> bool {
    a.operation == Operation::Create && a.is("pods", "")
}

pub(super) fn mutate<'a>(a: &'a Attributes<'a>, pod: &'a mut Value) -> BoxFuture<'a, Result<()>> {
    async move {
        if pod.at(&["metadata", "annotations", MIRROR]).is_some() {
            return mirror(a, pod);
        }
        let name = match pod.str_at(&["spec", "serviceAccountName"]) {
            "" => DEFAULT.to_owned(),
            name => name.to_owned(),
        };
        let spec = pod.object_at_mut(&["spec"]);
        spec.set("serviceAccountName", name.as_str());
        spec.set("serviceAccount", name.as_str());
        let account = account(a, pod, &name).await?;
        if automount(pod, &account) {
            mount_token(pod);
        }
        let spec = pod.object_at_mut(&["spec"]);
        let own = spec.get("imagePullSecrets").and_then(Value::as_array).is_some_and(|s| !s.is_empty());
        if let (false, Some(secrets)) = (own, account.get("imagePullSecrets")) {
            spec.set("imagePullSecrets", secrets.clone());
        }
        Ok(())
    }
    .boxed()
}

fn mirror(a: &Attributes<'_>, pod: &Value) -> Result<()> {
    if !pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
        return Err(a.forbidden(pod, "a mirror pod may not reference service accounts"));
    }
    Ok(())
}

async fn account(a: &Attributes<'_>, pod: &Value, name: &str) -> Result<Value> {
    let namespace = a.call.info.namespace.as_str();
    if let Some(account) = a.server.read_internal("serviceaccounts", namespace, name).await? {
        return Ok(account);
    }
    if name == DEFAULT
        && let Some(account) = wait_for_account(a, namespace, name).await?
    {
        return Ok(account);
    }
    let why =
        format!("error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found");
    Err(a.forbidden(pod, &why))
}

async fn wait_for_account(a: &Attributes<'_>, namespace: &str, name: &str) -> Result<Option<Value>> {
    let key = format!("/registry/serviceaccounts/{namespace}/{name}");
    let mut watcher = a.server.config().store.watch(&key, None).await.map_err(store_error)?;
    // It may have come between the look-up and the watch.
    if let Some(account) = a.server.read_internal("serviceaccounts", namespace, name).await? {
        return Ok(Some(account));
    }
    let appeared = async {
        while let Ok(events) = watcher.next().await {
            if events.iter().any(|e| *e.key == *key && e.entry.is_some()) {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(WAIT_FOR_DEFAULT, appeared).await;
    a.server.read_internal("serviceaccounts", namespace, name).await
}

fn automount(pod: &Value, account: &Value) -> bool {
    let wish = |v: Option<&Value>| v.and_then(Value::as_bool);
    wish(pod.at(&["spec", "automountServiceAccountToken"]))
        .or_else(|| wish(account.get("automountServiceAccountToken")))
        .unwrap_or(true)
}

/// Mounts the token into every container that has nothing at its path, from a volume made once.
fn mount_token(pod: &mut Value) {
    let spec = pod.object_at_mut(&["spec"]);
    let volumes = spec.get("volumes").and_then(Value::as_array);
    let existing = volumes.into_iter().flatten().find_map(|v| {
        let name = v.str_at(&["name"]);
        name.starts_with(VOLUME_PREFIX).then(|| name.to_owned())
    });
    let name = existing.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", crate::meta::suffix()));
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            needed |= mount(container, &name);
        }
    }
    if needed && existing.is_none() {
        push(spec.entry("volumes"), volume(&name));
    }
}

fn mount(container: &mut Value, volume: &str) -> bool {
    if container.items_at(&["volumeMounts"]).iter().any(|m| m.str_at(&["mountPath"]) == MOUNT_PATH) {
        return false;
    }
    let mut mount = Object::default();
    mount.set("name", volume);
    mount.set("readOnly", true);
    mount.set("mountPath", Value::str(MOUNT_PATH));
    push(container.object_at_mut(&[]).entry("volumeMounts"), mount.into());
    true
}

fn push(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(list) => list.push(item),
        None => *list = vec![item].into(),
    }
}

/// Token, CA and namespace, as upstream projects them.
fn volume(name: &str) -> Value {
    let text = format!(
        r#"{{"name":"{name}","projected":{{"defaultMode":420,"sources":[
        {{"serviceAccountToken":{{"expirationSeconds":{EXPIRATION_SECONDS},"path":"token"}}}},
        {{"configMap":{{"name":"kube-root-ca.crt","items":[{{"key":"ca.crt","path":"ca.crt"}}]}}}},
        {{"downwardAPI":{{"items":[{{"path":"namespace","fieldRef":{{"apiVersion":"v1","fieldPath":"metadata.namespace"}}}}]}}}}]}}}}"#
    );
    crate::decode::json(text.into()).expect("the text above is JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_once_where_needed() {
        let text = r#"{"spec":{"containers":[{"name":"a"},{"name":"b","volumeMounts":[
            {"name":"x","mountPath":"/var/run/secrets/kubernetes.io/serviceaccount"}]}]}}"#;
        let mut pod = crate::decode::json(text.into()).unwrap();
        mount_token(&mut pod);
        mount_token(&mut pod);
        let volumes = pod.items_at(&["spec", "volumes"]);
        assert_eq!(volumes.len(), 1);
        assert_eq!(volumes[0].items_at(&["projected", "sources"]).len(), 3);
        let containers = pod.items_at(&["spec", "containers"]);
        assert_eq!(containers[0].items_at(&["volumeMounts"]).len(), 1);
        assert_eq!(containers[1].items_at(&["volumeMounts"]).len(), 1);
    }

    #[test]
    fn who_wants_a_token() {
        let json = |t: &'static str| crate::decode::json(t.into()).unwrap();
        let off = json(r#"{"automountServiceAccountToken":false}"#);
        assert!(automount(&json("{}"), &json("{}")));
        assert!(!automount(&json("{}"), &off));
        assert!(automount(&json(r#"{"spec":{"automountServiceAccountToken":true}}"#), &off));
    }
}
