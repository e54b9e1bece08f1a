"""kr8s against a cluster ($KUBECONFIG), in the namespace $NAMESPACE that exists and is empty."""

import asyncio
import os

import httpx
import kr8s
import kr8s.asyncio
from kr8s.objects import ConfigMap, Deployment, Pod, Service

from kit import PATIENCE, POD, case, eventually, run

NS = os.environ["NAMESPACE"]
api = kr8s.api()
api.namespace = NS


def made(cls, **manifest):
    """An object of this namespace, created."""
    manifest["metadata"] = {"namespace": NS, **manifest["metadata"]}
    obj = cls(manifest, api=api)
    obj.create()
    return obj


def endpoint_slices(service):
    return api.get("endpointslices", namespace=NS, label_selector={"kubernetes.io/service-name": service})


@case
def discovery_and_every_list():
    assert api.version()["minor"].startswith("37")
    listed = 0
    for resource in api.api_resources():
        if "list" in resource["verbs"]:
            kind = f"{resource['name']}.{resource['version']}"
            for _ in api.get(kind, namespace=kr8s.ALL):
                pass
            listed += 1
    assert listed > 40, listed
    assert api.whoami() == "kubernetes-admin", api.whoami()


@case
def config_maps():
    obj = made(ConfigMap, metadata={"name": "c", "labels": {"l": "1"}}, data={"a": "1"})
    assert obj.exists()
    obj.patch({"data": {"b": "2"}})
    assert obj.data == {"a": "1", "b": "2"}
    obj.patch([{"op": "remove", "path": "/data/a"}], type="json")
    assert obj.data == {"b": "2"}
    obj.label(x="y")
    obj.annotate(note="true")
    obj.remove_label("l")
    obj.refresh()
    assert obj.labels == {"x": "y"} and obj.annotations["note"] == "true"
    assert [o.name for o in api.get("configmaps", label_selector={"x": "y"})] == ["c"]
    assert [o.name for o in api.get("cm", field_selector="metadata.name=c")] == ["c"]
    child = made(ConfigMap, metadata={"name": "child"})
    obj.adopt(child)
    child.refresh()
    assert child.metadata.ownerReferences[0].uid == obj.metadata.uid
    obj.delete(propagation_policy="Foreground")
    obj.wait("delete", timeout=PATIENCE)
    child.wait("delete", timeout=PATIENCE)
    try:
        ConfigMap.get("c", namespace=NS, api=api)
        raise AssertionError("it is gone")
    except kr8s.NotFoundError:
        pass


@case
def pods():
    pod = made(Pod, **POD)
    pod.wait("condition=Ready", timeout=PATIENCE)
    assert pod.ready()
    eventually("both lines", lambda: list(pod.logs()) == ["line one", "line two"])
    said = pod.exec(["sh", "-c", "echo out; echo err >&2"])
    assert (said.stdout, said.stderr, said.returncode) == (b"out\n", b"err\n", 0), said
    assert pod.exec(["sh", "-c", "exit 3"], check=False).returncode == 3
    with pod.portforward(remote_port=8080) as port:
        assert httpx.get(f"http://127.0.0.1:{port}/", timeout=PATIENCE).text == "hello\n"
    made(Service, apiVersion="v1", kind="Service", metadata={"name": "web"},
         spec={"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8080}]})
    web = Service.get("web", namespace=NS, api=api)
    # kr8s calls a service ready as soon as it selects a ready pod: it does not look at the endpoints.
    eventually("an endpoint", lambda: any(e.raw["endpoints"] for e in endpoint_slices("web")))
    assert web.ready()
    assert [p.name for p in web.ready_pods()] == ["server"]
    assert web.proxy_http_get("/", port=80).text == "hello\n"
    pod.delete()
    pod.wait("delete", timeout=PATIENCE)


@case
def deployments():
    template = {"metadata": {"labels": {"app": "d"}}, "spec": POD["spec"]}
    obj = made(Deployment, metadata={"name": "d"},
               spec={"replicas": 1, "selector": {"matchLabels": {"app": "d"}}, "template": template})
    obj.wait("condition=Available", timeout=PATIENCE)
    obj.scale(2)
    eventually("two replicas", lambda: obj.refresh() or obj.status.get("readyReplicas") == 2)
    obj.scale(0)
    eventually("no pods", lambda: obj.refresh() or not obj.status.get("replicas"))
    obj.delete()


@case
def watches_and_new_kinds():
    async def watch():
        client = await kr8s.asyncio.api()
        told = []
        obj = await kr8s.asyncio.objects.ConfigMap({"metadata": {"name": "w", "namespace": NS}}, api=client)
        await obj.create()
        async for event, seen in client.async_watch("configmaps", namespace=NS, field_selector="metadata.name=w"):
            told.append(event)
            if event == "ADDED":
                await obj.patch({"data": {"a": "1"}})
            elif event == "MODIFIED":
                assert seen.data.a == "1"
                await obj.delete()
            else:
                return told

    told = asyncio.run(asyncio.wait_for(watch(), PATIENCE))
    assert told == ["ADDED", "MODIFIED", "DELETED"], told
    lease = kr8s.objects.new_class("Lease", "coordination.k8s.io/v1", namespaced=True, asyncio=False)
    obj = made(lease, metadata={"name": "l"}, spec={"holderIdentity": "me"})
    assert obj.kind == "Lease" and obj.spec.holderIdentity == "me"


run()
