"""The official Python client against a cluster ($KUBECONFIG), in the namespace $NAMESPACE that exists and is empty."""

import json
import os
import tempfile
import threading

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.informer import SharedInformer
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock
from kubernetes.stream import portforward, stream

from kit import PATIENCE, POD, case, eventually, run

NS = os.environ["NAMESPACE"]
config.load_kube_config()
core = client.CoreV1Api()
apps = client.AppsV1Api()


def fails(status, reason, call):
    """Checks that this is refused; returns the Status."""
    try:
        call()
    except ApiException as error:
        body = json.loads(error.body)
        assert (error.status, body["reason"]) == (status, reason), (error.status, body)
        assert body["kind"] == "Status" and body["code"] == status, body
        return body
    raise AssertionError(f"should have been refused with {status} {reason}")


def config_map(name, labels=None, data=None):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels=labels), data=data or {"a": "1"})


@case
def versions_and_discovery():
    assert client.VersionApi().get_code().minor.startswith("37")
    assert "v1" in client.CoreApi().get_api_versions().versions
    groups = {group.name for group in client.ApisApi().get_api_versions().groups}
    assert {"apps", "batch", "rbac.authorization.k8s.io", "apiextensions.k8s.io"} <= groups, groups
    names = {resource.name for resource in core.get_api_resources().resources}
    assert {"pods", "pods/exec", "pods/log", "services/proxy", "serviceaccounts/token"} <= names, names


@case
def every_list_is_read_by_its_type():
    """Every list call of every generated API class; the client checks required fields as it reads."""
    read = 0
    problems = []
    groups = {f"{g.name}/{v.version}" for g in client.ApisApi().get_api_versions().groups for v in g.versions}
    for name in sorted(name for name in dir(client) if name.endswith("Api")):
        kind = getattr(client, name)
        api = kind()
        for method in sorted(dir(api)):
            if not method.startswith("list_") or method.endswith("_with_http_info") or "_namespaced_" in method:
                continue
            # Events of the older kind have no eventTime, which this client cannot read from any server.
            if "custom_object" in method or (name, method) == ("EventsV1Api", "list_event_for_all_namespaces"):
                continue
            try:
                listed = getattr(api, method)()
                assert listed.metadata.resource_version, f"{name}.{method}: no resourceVersion"
                read += 1
            except ApiException as error:
                if error.status != 404:
                    problems.append(f"{name}.{method}: {error.status} {error.body}")
            except Exception as error:  # what the client could not read
                problems.append(f"{name}.{method}: {error!r}")
    assert not problems, "\n".join(problems)
    assert read > 60, (read, groups)


@case
def writes_and_conflicts():
    made = core.create_namespaced_config_map(NS, config_map("crud", {"l": "1"}))
    assert made.metadata.uid and made.metadata.creation_timestamp.tzinfo
    fails(409, "AlreadyExists", lambda: core.create_namespaced_config_map(NS, config_map("crud")))
    read = core.read_namespaced_config_map("crud", NS)
    read.data["b"] = "2"
    replaced = core.replace_namespaced_config_map("crud", NS, read)
    assert replaced.metadata.resource_version != made.metadata.resource_version
    read.data["b"] = "3"
    fails(409, "Conflict", lambda: core.replace_namespaced_config_map("crud", NS, read))
    bad = fails(422, "Invalid", lambda: core.create_namespaced_config_map(NS, config_map("Not_A_Name")))
    assert bad["details"]["causes"][0]["field"] == "metadata.name", bad
    dry = core.create_namespaced_config_map(NS, config_map("dry"), dry_run="All")
    assert dry.metadata.uid
    fails(404, "NotFound", lambda: core.read_namespaced_config_map("dry", NS))
    generated = core.create_namespaced_config_map(
        NS, client.V1ConfigMap(metadata=client.V1ObjectMeta(generate_name="gen-")))
    assert generated.metadata.name.startswith("gen-") and len(generated.metadata.name) == 9
    gone = core.delete_namespaced_config_map(
        "crud", NS, body=client.V1DeleteOptions(preconditions=client.V1Preconditions(uid=made.metadata.uid)))
    assert gone["status"] == "Success", gone  # the client types this answer as any object
    fails(404, "NotFound", lambda: core.delete_namespaced_config_map("crud", NS))
    core.delete_collection_namespaced_config_map(NS, field_selector=f"metadata.name={generated.metadata.name}")
    fails(404, "NotFound", lambda: core.read_namespaced_config_map(generated.metadata.name, NS))


@case
def every_kind_of_patch():
    core.create_namespaced_config_map(NS, config_map("patched", data={"a": "1", "b": "2"}))
    patch = core.patch_namespaced_config_map
    assert patch("patched", NS, [{"op": "replace", "path": "/data/a", "value": "9"}]).data == {"a": "9", "b": "2"}
    assert patch("patched", NS, {"data": {"b": None}}).data == {"a": "9"}
    merged = patch("patched", NS, {"data": {"c": "3"}}, _content_type="application/merge-patch+json")
    assert merged.data == {"a": "9", "c": "3"}
    applied = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "patched"}, "data": {"c": "4"}}
    apply = dict(_content_type="application/apply-patch+yaml", field_manager="py")
    refused = fails(409, "Conflict", lambda: patch("patched", NS, applied, **apply))
    assert refused["details"]["causes"][0]["reason"] == "FieldManagerConflict", refused
    forced = patch("patched", NS, applied, force=True, **apply)
    assert forced.data["c"] == "4"
    assert {m.manager: m.operation for m in forced.metadata.managed_fields}["py"] == "Apply"
    fails(422, "Invalid", lambda: patch("patched", NS, [{"op": "remove", "path": "/data/none"}]))


@case
def workloads_scale_and_status():
    labels = {"app": "sized"}
    template = client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(labels=labels),
        spec=client.V1PodSpec(termination_grace_period_seconds=0, containers=[
            client.V1Container(name="c", image="busybox:1.35", command=["sleep", "100000"])]))
    apps.create_namespaced_deployment(NS, client.V1Deployment(
        metadata=client.V1ObjectMeta(name="sized"),
        spec=client.V1DeploymentSpec(replicas=1, selector=client.V1LabelSelector(match_labels=labels), template=template)))
    scale = apps.read_namespaced_deployment_scale("sized", NS)
    assert scale.spec.replicas == 1 and "app=sized" in (scale.status.selector or ""), scale
    scale.metadata.resource_version = None  # the controller writes too
    scale.spec.replicas = 2
    assert apps.replace_namespaced_deployment_scale("sized", NS, scale).spec.replicas == 2
    eventually("two pods", lambda: apps.read_namespaced_deployment_status("sized", NS).status.ready_replicas == 2)
    assert apps.patch_namespaced_deployment_scale("sized", NS, {"spec": {"replicas": 0}}).spec.replicas in (0, None)
    eventually("no pods", lambda: not core.list_namespaced_pod(NS, label_selector="app=sized").items)
    condition = {"type": "Ours", "status": "True", "reason": "Test", "message": "by hand"}
    patched = apps.patch_namespaced_deployment_status("sized", NS, {"status": {"conditions": [condition]}})
    assert "Ours" in {c.type for c in patched.status.conditions}
    apps.delete_namespaced_deployment("sized", NS, propagation_policy="Foreground")
    eventually("its end", lambda: not apps.list_namespaced_deployment(NS).items)


@case
def pods_logs_exec_and_ports():
    utils.create_from_dict(client.ApiClient(), POD, namespace=NS)
    ready = lambda pod: any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions or [])
    eventually("a ready pod", lambda: ready(core.read_namespaced_pod("server", NS)))
    eventually("both lines", lambda: core.read_namespaced_pod_log("server", NS) == "line one\nline two\n")
    assert core.read_namespaced_pod_log("server", NS, tail_lines=1) == "line two\n"
    lines = watch.Watch()
    seen = []
    for line in lines.stream(core.read_namespaced_pod_log, name="server", namespace=NS):
        seen.append(line)
        if line == "line two":
            lines.stop()
    assert seen == ["line one", "line two"], seen
    run_in = core.connect_get_namespaced_pod_exec
    said = stream(run_in, "server", NS, command=["sh", "-c", "echo out; echo err >&2"], stderr=True, stdin=False,
                  stdout=True, tty=False)
    assert "out" in said and "err" in said, said
    session = stream(run_in, "server", NS, command=["sh"], stderr=True, stdin=True, stdout=True, tty=False,
                     _preload_content=False)
    session.write_stdin("echo typed\nexit 3\n")
    session.run_forever(timeout=PATIENCE)
    assert session.read_stdout() == "typed\n" and session.returncode == 3, session.returncode
    session = stream(run_in, "server", NS, command=["cat"], stderr=False, stdin=True, stdout=True, tty=False,
                     _preload_content=False, binary=True)
    session.write_stdin(bytes(range(256)))
    got = b""
    while len(got) < 256:
        got += session.read_stdout(timeout=PATIENCE)
    assert got == bytes(range(256))
    session.close()
    forwarded = portforward(core.connect_get_namespaced_pod_portforward, "server", NS, ports="8080")
    socket = forwarded.socket(8080)
    socket.settimeout(PATIENCE)
    socket.sendall(b"GET / HTTP/1.0\r\n\r\n")
    answer = b""
    while data := socket.recv(4096):
        answer += data
    assert answer.endswith(b"hello\n"), answer
    assert forwarded.error(8080) is None, forwarded.error(8080)
    proxied = core.connect_get_namespaced_pod_proxy_with_path("server:8080", NS, "index.html")
    assert proxied == "hello\n", proxied


@case
def lists_in_pages_and_by_selector():
    for number in range(7):
        core.create_namespaced_config_map(NS, config_map(f"page-{number}", {"page": str(number % 2)}))
    token, names, left, more = "", [], None, True
    while more:
        page = core.list_namespaced_config_map(NS, limit=3, _continue=token, label_selector="page")
        more = bool(page.metadata._continue)
        names += [item.metadata.name for item in page.items]
        token, left = page.metadata._continue, page.metadata.remaining_item_count
    assert names == [f"page-{n}" for n in range(7)] and left is None, names
    odd = core.list_namespaced_config_map(NS, label_selector="page in (1),page!=0")
    assert [i.metadata.name for i in odd.items] == ["page-1", "page-3", "page-5"]
    one = core.list_namespaced_config_map(NS, field_selector="metadata.name=page-4")
    assert len(one.items) == 1
    fails(400, "BadRequest", lambda: core.list_namespaced_config_map(NS, field_selector="data.a=1"))


@case
def watches_and_informers():
    watcher = watch.Watch()
    start = core.list_namespaced_config_map(NS).metadata.resource_version
    core.create_namespaced_config_map(NS, config_map("seen", {"w": "1"}))
    core.patch_namespaced_config_map("seen", NS, {"metadata": {"labels": {"w": "2"}}})
    core.delete_namespaced_config_map("seen", NS)
    told = []
    for event in watcher.stream(core.list_namespaced_config_map, NS, resource_version=start, label_selector="w",
                                timeout_seconds=PATIENCE):
        told.append((event["type"], event["object"].metadata.labels["w"]))
        if event["type"] == "DELETED":
            watcher.stop()
    assert told == [("ADDED", "1"), ("MODIFIED", "2"), ("DELETED", "2")], told
    events, done = [], threading.Event()
    informer = SharedInformer(core.list_namespaced_config_map, namespace=NS, label_selector="informed")
    for kind in ["ADDED", "MODIFIED", "DELETED"]:
        informer.add_event_handler(kind, lambda obj, kind=kind: (events.append(kind), kind == "DELETED" and done.set()))
    informer.start()
    core.create_namespaced_config_map(NS, config_map("informed", {"informed": "1"}))
    eventually("the object in the cache", lambda: informer.cache.get_by_key(f"{NS}/informed"))
    core.patch_namespaced_config_map("informed", NS, {"data": {"x": "y"}})
    eventually("the change in the cache", lambda: (informer.cache.get_by_key(f"{NS}/informed").data or {}).get("x"))
    core.delete_namespaced_config_map("informed", NS)
    assert done.wait(PATIENCE), events
    informer.stop()
    assert events[0] == "ADDED" and events[-1] == "DELETED", events


@case
def the_dynamic_client():
    # Its cache of discovery goes by the server's address, and addresses come again in the next run.
    with tempfile.TemporaryDirectory() as scratch:
        with_dynamic_client(dynamic.DynamicClient(client.ApiClient(), cache_file=f"{scratch}/discovery.json"))


def with_dynamic_client(every):
    for kind in every.resources.search():
        if "list" in (getattr(kind, "verbs", None) or []) and not kind.kind.endswith("List"):
            every.get(kind)
    maps = every.resources.get(api_version="v1", kind="ConfigMap")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dyn", "labels": {"dyn": "1"}}, "data": {"a": "1"}}
    assert maps.create(body=body, namespace=NS).data.a == "1"
    body["data"]["a"] = "2"
    applied = maps.server_side_apply(body=body, namespace=NS, field_manager="dyn", force_conflicts=True)
    assert applied.data.a == "2"
    assert maps.patch(body={"metadata": {"name": "dyn"}, "data": {"b": "3"}}, namespace=NS,
                      content_type="application/merge-patch+json").data.b == "3"
    assert len(maps.get(namespace=NS, label_selector="dyn=1").items) == 1
    for event in maps.watch(namespace=NS, name="dyn", timeout=PATIENCE, send_initial_events=True,
                            allow_watch_bookmarks=True, resource_version_match="NotOlderThan"):
        if event["type"] == "BOOKMARK":
            notes = event["raw_object"]["metadata"]["annotations"]
            assert notes == {"k8s.io/initial-events-end": "true"}, notes
            break
    scale = every.resources.get(api_version="apps/v1", kind="Deployment").subresources
    assert "scale" in scale and "status" in scale, scale
    maps.delete(name="dyn", namespace=NS)


@case
def accounts_and_access():
    token = core.create_namespaced_service_account_token(
        "default", NS, client.AuthenticationV1TokenRequest(
            spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=600)))
    settings = client.Configuration.get_default_copy()
    settings.cert_file = settings.key_file = None
    settings.api_key = {"authorization": f"Bearer {token.status.token}"}
    account = client.ApiClient(settings)
    me = client.AuthenticationV1Api(account).create_self_subject_review(client.V1SelfSubjectReview())
    assert me.status.user_info.username == f"system:serviceaccount:{NS}:default", me
    fails(403, "Forbidden", lambda: client.CoreV1Api(account).list_namespaced_pod(NS))
    may = client.AuthorizationV1Api().create_self_subject_access_review(client.V1SelfSubjectAccessReview(
        spec=client.V1SelfSubjectAccessReviewSpec(
            resource_attributes=client.V1ResourceAttributes(verb="get", resource="pods", namespace=NS))))
    assert may.status.allowed


@case
def leader_election():
    led = []
    settings = dict(lease_duration=60, renew_deadline=40, retry_period=1, onstopped_leading=None)
    lock = LeaseLock("leader-py", NS, "first")
    elected = threading.Event()
    candidate = leaderelection.LeaderElection(electionconfig.Config(
        lock, onstarted_leading=lambda: (led.append("first"), elected.set()), **settings))
    threading.Thread(target=candidate.run, daemon=True).start()
    assert elected.wait(PATIENCE), led
    lease = client.CoordinationV1Api().read_namespaced_lease("leader-py", NS)
    assert str(lease.spec.holder_identity) == "first" and lease.spec.renew_time, lease
    renewed = lease.spec.renew_time
    eventually("a renewal", lambda: client.CoordinationV1Api().read_namespaced_lease("leader-py", NS).spec.renew_time > renewed)


run()
