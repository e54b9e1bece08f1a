use super::*;
use crate::kinds::testing::{CONTEXT, create_errors, defaulted, texts, tree, update_errors};

const PLAIN: &str = "{metadata: {name: p}, spec: {containers: [{name: c, image: i}]}}";

fn container(fields: &str) -> String {
    format!(
        "{{metadata: {{name: p}}, spec: {{volumes: [{{name: v}}], containers: [{{name: c, image: i, {fields}}}]}}}}"
    )
}

fn spec(fields: &str) -> String {
    format!("{{metadata: {{name: p}}, spec: {{containers: [{{name: c, image: i}}], {fields}}}}}")
}

#[test]
fn a_plain_pod_is_valid() {
    assert_eq!(create_errors("", "Pod", PLAIN), Vec::<String>::new());
}

#[test]
fn broken_containers() {
    let cases: &[(&str, &[&str])] = &[
        (
            "ports: [{containerPort: 80}], env: [{name: A, value: b}], volumeMounts: [{name: v, mountPath: /v}]",
            &[],
        ),
        (
            "ports: [{containerPort: 0}, {containerPort: 70000, name: UPPER}]",
            &[
                "spec.containers[0].ports[0].containerPort: Required value",
                "spec.containers[0].ports[1].name: Invalid value: \"UPPER\": must contain only alpha-numeric characters \
                 (a-z, 0-9), and hyphens (-)",
                "spec.containers[0].ports[1].name: Invalid value: \"UPPER\": must contain at least one letter (a-z)",
                "spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            "ports: [{containerPort: 80, protocol: HTTP}]",
            &[
                "spec.containers[0].ports[0].protocol: Unsupported value: \"HTTP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ],
        ),
        (
            "ports: [{containerPort: 80, hostPort: 1}, {containerPort: 81, hostPort: 1}]",
            &["spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//1\""],
        ),
        (
            "env: [{name: '', value: x}, {name: A=B}]",
            &[
                "spec.containers[0].env[0].name: Required value",
                "spec.containers[0].env[1].name: Invalid value: \"A=B\": a valid environment variable name must consist \
                 only of printable ASCII characters other than '='",
            ],
        ),
        (
            "env: [{name: A, value: x, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: B, valueFrom: {}}]",
            &[
                "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
                "spec.containers[0].env[1].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, \
                 `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            ],
        ),
        (
            "env: [{name: A, valueFrom: {fieldRef: {fieldPath: spec.foo}}}]",
            &[
                "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.foo\": error converting \
               fieldPath: field label not supported: spec.foo",
            ],
        ),
        (
            "env: [{name: A, valueFrom: {fieldRef: {fieldPath: status.phase}}}]",
            &[
                "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"status.phase\": supported \
               values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \
               \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
            ],
        ),
        ("env: [{name: A, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['a/b']\"}}}]", &[]),
        (
            "volumeMounts: [{name: w, mountPath: /v}, {name: v, mountPath: /v, subPath: ../x}]",
            &[
                "spec.containers[0].volumeMounts[0].name: Not found: \"w\"",
                "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/v\": must be unique",
                "spec.containers[0].volumeMounts.subPath: Invalid value: \"../x\": must not contain '..'",
            ],
        ),
        (
            "livenessProbe: {httpGet: {port: 80}, tcpSocket: {port: 80}, successThreshold: 2}",
            &[
                "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
                "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ],
        ),
        (
            "readinessProbe: {}",
            &["spec.containers[0].readinessProbe: Required value: must specify a handler type"],
        ),
        (
            "lifecycle: {preStop: {exec: {command: []}}}",
            &["spec.containers[0].lifecycle.preStop.exec.command: Required value"],
        ),
        (
            "resources: {requests: {cpu: '2'}, limits: {cpu: '1'}}",
            &[
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ],
        ),
        (
            "resources: {requests: {gpu: '1'}}",
            &[
                "spec.containers[0].resources.requests[gpu]: Invalid value: \"gpu\": must be a standard resource type or \
                 fully qualified",
                "spec.containers[0].resources.requests[gpu]: Invalid value: \"gpu\": must be a standard resource for \
                 containers",
            ],
        ),
        (
            "resources: {requests: {example.com/gpu: '1'}}",
            &[
                "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
            ],
        ),
        (
            "imagePullPolicy: Sometimes",
            &[
                "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \
               \"IfNotPresent\", \"Never\"",
            ],
        ),
        (
            "securityContext: {runAsUser: -1, seccompProfile: {type: Localhost}}",
            &[
                "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, \
                 inclusive",
                "spec.containers[0].securityContext.seccompProfile.localhostProfile: Required value: must be set when \
                 seccomp type is Localhost",
            ],
        ),
    ];
    for (fields, wanted) in cases {
        assert_eq!(create_errors("", "Pod", &container(fields)), *wanted, "{fields}");
    }
}

#[test]
fn broken_specs() {
    let cases: &[(&str, &[&str])] = &[
        (
            "restartPolicy: Sometimes",
            &[
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ],
        ),
        (
            "volumes: [{name: A_, emptyDir: {}}, {name: v, hostPath: {path: ''}}, {name: w, secret: {}, configMap: {name: x}}]",
            &[
                "spec.volumes[0].name: Invalid value: \"A_\": a lowercase RFC 1123 label must consist of lower case \
                 alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  \
                 or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                "spec.volumes[1].hostPath.path: Required value",
                "spec.volumes[2].secret.secretName: Required value",
                "spec.volumes[2].configMap: Forbidden: may not specify more than 1 volume type",
            ],
        ),
        (
            "initContainers: [{name: c, image: i, livenessProbe: {exec: {command: [a]}}}]",
            &[
                "spec.initContainers[0].name: Duplicate value: \"c\"",
                "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without \
                 restartPolicy=Always",
            ],
        ),
        (
            "ephemeralContainers: [{name: e, image: i}]",
            &["spec.ephemeralContainers: Forbidden: cannot be set on create"],
        ),
        (
            "tolerations: [{operator: Equal, value: x}]",
            &[
                "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which \
               means \"match all values and all keys\"",
            ],
        ),
        (
            "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: []}}}",
            &[
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required \
               value: must have at least one node selector term",
            ],
        ),
        (
            "topologySpreadConstraints: [{maxSkew: 0, topologyKey: zone, whenUnsatisfiable: Maybe}]",
            &[
                "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
                "spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"Maybe\": supported values: \
                 \"DoNotSchedule\", \"ScheduleAnyway\"",
            ],
        ),
        (
            "dnsPolicy: None",
            &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
        ),
        (
            "activeDeadlineSeconds: 0",
            &["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"],
        ),
        (
            "nodeName: n1, schedulingGates: [{name: g}]",
            &["spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"],
        ),
    ];
    for (fields, wanted) in cases {
        assert_eq!(create_errors("", "Pod", &spec(fields)), *wanted, "{fields}");
    }
    assert_eq!(
        create_errors("", "Pod", "{metadata: {name: p}, spec: {}}"),
        ["spec.containers: Required value"]
    );
}

#[test]
fn updates() {
    let cases: &[(String, String, &[&str])] = &[
        (PLAIN.into(), PLAIN.replace("image: i", "image: j"), &[]),
        (
            spec("tolerations: [{key: a, operator: Exists}]"),
            spec("tolerations: [{key: a, operator: Exists}, {key: b, operator: Exists}]"),
            &[],
        ),
        (
            spec("tolerations: [{key: a, operator: Exists}]"),
            PLAIN.into(),
            &[
                "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds",
            ],
        ),
        (
            PLAIN.into(),
            "{metadata: {name: p}, spec: {containers: [{name: c, image: i}, {name: d, image: i}]}}".into(),
            &["spec.containers: Forbidden: pod updates may not add or remove containers"],
        ),
        (
            spec("activeDeadlineSeconds: 5"),
            spec("activeDeadlineSeconds: 6"),
            &["spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value"],
        ),
        (
            spec("schedulingGates: [{name: g}], nodeSelector: {a: b}"),
            spec("schedulingGates: [], nodeSelector: {a: b, c: d}"),
            &[],
        ),
    ];
    for (old, new, wanted) in cases {
        assert_eq!(update_errors("", "Pod", old, new), *wanted, "{new}");
    }
    let changed = update_errors("", "Pod", PLAIN, &PLAIN.replace("name: c", "name: d"));
    assert_eq!(
        changed,
        ["spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,\
          `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
          tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n\
          - containers[0].name: \"c\"\n+ containers[0].name: \"d\"\n"]
    );
}

#[test]
fn init_containers_are_resized_like_others() {
    let cx = Context { subresource: "resize", ..CONTEXT };
    let pod = |init: &str| {
        let text = format!(
            "{{metadata: {{name: p}}, spec: {{initContainers: [{{name: i, image: i, resources: {init}}}], \
             containers: [{{name: c, image: i, resources: {{requests: {{cpu: 1m}}}}}}]}}}}"
        );
        defaulted("", "Pod", &text)
    };
    let old = pod("{requests: {cpu: 1m}}");
    let cases: [(&str, &[&str]); 3] = [
        ("{requests: {cpu: 2m}, limits: {memory: 1Mi}}", &[]),
        (
            "{}",
            &["spec.initContainers[0].resources.requests: Forbidden: resource requests cannot be removed"],
        ),
        (
            "{requests: {cpu: 1m, x/y: 1}, limits: {x/y: 1}}",
            &["spec: Forbidden: only cpu and memory resources are mutable"],
        ),
    ];
    for (init, wanted) in cases {
        assert_eq!(texts(&validate(&pod(init), Some(&old), &cx)), wanted, "{init}");
    }
}

#[test]
fn a_terminated_container_stays_terminated() {
    let cx = Context { subresource: "status", ..CONTEXT };
    let old = tree(
        "{spec: {restartPolicy: Never, containers: [{name: c}]}, status: {containerStatuses: \
         [{name: c, state: {terminated: {exitCode: 0}}}]}}",
    );
    let new = tree(
        "{spec: {restartPolicy: Never, containers: [{name: c}]}, status: {containerStatuses: \
         [{name: c, state: {running: {}}}]}}",
    );
    assert_eq!(
        texts(&validate(&new, Some(&old), &cx)),
        ["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"]
    );
}

#[test]
fn creation_sets_the_status() {
    let mut pod = defaulted(
        "",
        "Pod",
        "{spec: {containers: [{name: c, image: i}], schedulingGates: [{name: g}]}, status: {phase: Running}}",
    );
    prepare_create(&mut pod, &CONTEXT);
    assert_eq!(
        pod.get("status"),
        Some(&tree(
            "{phase: Pending, conditions: [{type: PodScheduled, status: 'False', lastTransitionTime: '2023-11-14T22:13:20Z', reason: SchedulingGated, \
             message: Scheduling is blocked due to non-empty scheduling gates}], qosClass: BestEffort}"
        ))
    );
}

#[test]
fn grace_of_a_deletion() {
    let cases = [
        ("{spec: {terminationGracePeriodSeconds: 30}}", None, Grace::Immediate),
        ("{spec: {terminationGracePeriodSeconds: 30, nodeName: x}}", None, Grace::Seconds(30)),
        ("{spec: {terminationGracePeriodSeconds: 30, nodeName: x}}", Some(5), Grace::Seconds(5)),
        ("{spec: {terminationGracePeriodSeconds: 30, nodeName: x}}", Some(0), Grace::Immediate),
        ("{spec: {terminationGracePeriodSeconds: 30, nodeName: x}}", Some(-1), Grace::Seconds(1)),
        (
            "{spec: {terminationGracePeriodSeconds: 30, nodeName: x}, status: {phase: Failed}}",
            None,
            Grace::Immediate,
        ),
    ];
    for (pod, asked, wanted) in cases {
        assert_eq!(graceful_delete(&mut tree(pod), asked).expect("no error"), wanted, "{pod} {asked:?}");
    }
}
