//! Labels and annotations by which the kubelet finds its sandboxes and containers again; upstream's names,
//! so that `crictl` and upstream's own kubelet understand them.

/// Pod's name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Pod's uid.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Container's name in the pod's spec.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Hash of what a container was made from, in hexadecimal.
pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
/// How often the container was restarted, in decimal.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Path of the termination message inside the container.
pub const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// `File` or `FallbackToLogsOnError`.
pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Signal that asks the container to stop, instead of the image's; understood by the built-in runtime. (CRI's own field is
/// newer than the bindings.)
pub const STOP_SIGNAL: &str = "io.corten.container.stopSignal";
/// Grace period of the pod, in seconds.
pub const GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
/// Where the kubelet learnt of the pod: `api` or `file`.
pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// Hash of a static pod's file: its uid on the node.
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// Marks the API's copy of a static pod; its value is the hash.
pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
