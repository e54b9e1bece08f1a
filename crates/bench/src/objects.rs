//! The objects that are written: of a known size, and touched by nobody else.

use std::{sync::OnceLock, time::Duration};

use bytes::Bytes;
use clap::ValueEnum;
use serde_json::{Value, json};

/// Size of a pod as sent.
const POD_BYTES: usize = 2048;

/// Size of a config map as sent.
const CONFIG_MAP_BYTES: usize = 1024;

/// The annotation that carries the time of the write; twenty digits, so that an update changes no length.
const STAMP: &[u8] = b"\"bench-at\":\"";
const STAMP_DIGITS: usize = 20;

/// Variables of a pod's container. With their field ownership they make a pod of 2 KB one of 5.8 KB in the server, which is what pods
/// of this size come to: 5,000 are a list of 29 MB.
const VARIABLES: usize = 20;

/// Pods and config maps as sent, around their names.
static BODIES: [OnceLock<(Vec<u8>, Vec<u8>)>; 2] = [OnceLock::new(), OnceLock::new()];

/// What to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    #[default]
    /// Pods of 2 KB with a scheduling gate: stored and watched, never placed.
    Pods,
    /// Config maps of 1 KB.
    Configmaps,
}

impl Kind {
    /// As in the URL.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Configmaps => "configmaps",
        }
    }

    /// Name of the object with this number.
    pub fn name(self, index: u32) -> String {
        format!("bench-{index:06}")
    }

    /// The object with this number, ready to be sent; cheap, because the load generator shares the machine with the server.
    pub fn body(self, index: u32) -> Bytes {
        let (head, tail) = BODIES[self as usize].get_or_init(|| self.around_the_name());
        Bytes::from([head, self.name(index).as_bytes(), tail].concat())
    }

    fn around_the_name(self) -> (Vec<u8>, Vec<u8>) {
        let name = self.name(0);
        let (mut object, bytes) = match self {
            Self::Pods => (gated_pod(&name), POD_BYTES),
            Self::Configmaps => (config_map(&name), CONFIG_MAP_BYTES),
        };
        let missing = bytes.saturating_sub(object.to_string().len());
        object["metadata"]["annotations"]["padding"] = Value::String("x".repeat(missing));
        let text = object.to_string();
        let (head, tail) = text.split_once(&name).unwrap_or((&text, ""));
        (head.into(), tail.into())
    }
}

fn metadata(name: &str) -> Value {
    let stamp = "0".repeat(STAMP_DIGITS);
    json!({
        "name": name,
        "labels": {"app": "bench", "tier": "backend"},
        "annotations": {"bench-at": stamp, "padding": ""},
    })
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(name), "data": {"mode": "bench"}})
}

fn gated_pod(name: &str) -> Value {
    let variables: Vec<_> =
        (0..VARIABLES).map(|n| json!({"name": format!("VAR_{n:02}"), "value": n.to_string()})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata(name),
        "spec": {
            "schedulingGates": [{"name": "bench.example.com/never"}],
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": "registry.example.com/bench/app:1.0",
                "ports": [{"name": "http", "containerPort": 8080}],
                "env": variables,
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 5},
                "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
            }],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
        },
    })
}

/// A pod that is to run.
pub fn running_pod(name: &str, image: &str, command: &[String]) -> Bytes {
    let mut container = json!({"name": "main", "image": image, "imagePullPolicy": "IfNotPresent"});
    if !command.is_empty() {
        container["command"] = json!(command);
    }
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "bench"}},
        "spec": {"terminationGracePeriodSeconds": 30, "containers": [container]},
    });
    Bytes::from(pod.to_string())
}

/// The same object (as the server sent it) written at another time.
pub fn restamp(object: &[u8], at: Duration) -> Option<Bytes> {
    let start = stamp_position(object)?;
    let mut object = object.to_vec();
    let digits = format!("{:0STAMP_DIGITS$}", at.as_nanos());
    object.get_mut(start..start + STAMP_DIGITS)?.copy_from_slice(digits.get(..STAMP_DIGITS)?.as_bytes());
    Some(Bytes::from(object))
}

/// When the object was written. `near` is where the stamp stood in the one before: objects of one kind are much alike, and
/// a fan-out has too many of them to search each.
pub fn stamp(object: &[u8], near: &mut usize) -> Option<Duration> {
    if !object.get(..*near).is_some_and(|head| head.ends_with(STAMP)) {
        *near = stamp_position(object)?;
    }
    let digits = std::str::from_utf8(object.get(*near..*near + STAMP_DIGITS)?).ok()?;
    Some(Duration::from_nanos(digits.parse().ok()?))
}

fn stamp_position(object: &[u8]) -> Option<usize> {
    Some(memchr::memmem::find(object, STAMP)? + STAMP.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_have_their_size_and_carry_a_time() {
        for (kind, bytes) in [(Kind::Pods, POD_BYTES), (Kind::Configmaps, CONFIG_MAP_BYTES)] {
            let body = kind.body(7);
            assert_eq!(body.len(), bytes);
            let object: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(object["metadata"]["name"], kind.name(7));
            // A wrong guess, inside the object and behind it, does no harm.
            for mut near in [0, 40, 1 << 20] {
                assert_eq!(stamp(&body, &mut near), Some(Duration::ZERO));
                assert_eq!(stamp(&body, &mut near), Some(Duration::ZERO));
            }
            let at = Duration::from_nanos(1_234_567_890_123);
            let later = restamp(&body, at).unwrap();
            assert_eq!((stamp(&later, &mut 0), later.len()), (Some(at), bytes));
            assert!(serde_json::from_slice::<Value>(&later).is_ok());
        }
        assert_eq!((restamp(b"{}", Duration::ZERO), stamp(b"{}", &mut 1)), (None, None));
    }
}
