// @kubernetes/client-node against a cluster ($KUBECONFIG), in the namespace $NAMESPACE that exists and is empty.

import assert from 'node:assert/strict';
import net from 'node:net';
import { PassThrough, Readable, Writable } from 'node:stream';
import * as k8s from '@kubernetes/client-node';

const PATIENCE = 180_000;
const namespace = process.env.NAMESPACE;
const kc = new k8s.KubeConfig();
kc.loadFromDefault();
const core = kc.makeApiClient(k8s.CoreV1Api);
const apps = kc.makeApiClient(k8s.AppsV1Api);
const cases = {};

const pod = {
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name: 'server', labels: { app: 'server' } },
  spec: {
    terminationGracePeriodSeconds: 0,
    containers: [{
      name: 'web',
      image: 'busybox:1.35',
      command: ['sh', '-c'],
      args: ['mkdir /www; echo hello >/www/index.html; echo line one; echo line two; exec httpd -f -p 8080 -h /www'],
      readinessProbe: { httpGet: { port: 8080, path: '/' }, periodSeconds: 1 },
    }],
  },
};

async function eventually(what, look) {
  const deadline = Date.now() + PATIENCE;
  for (;;) {
    const answer = await look();
    if (answer) return answer;
    assert.ok(Date.now() < deadline, `waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

// What a promise is worth, or an error after as long as anything may take.
function soon(what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited in vain: ${what}`)), PATIENCE);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function fails(code, reason, promise) {
  try {
    await promise;
  } catch (error) {
    const status = typeof error.body === 'string' ? JSON.parse(error.body) : error.body;
    assert.deepEqual([error.code, status?.reason], [code, reason], String(error));
    return status;
  }
  assert.fail(`should have been refused with ${code} ${reason}`);
}

function sink() {
  const chunks = [];
  const stream = new Writable({ write(chunk, _, done) { chunks.push(Buffer.from(chunk)); done(); } });
  stream.bytes = () => Buffer.concat(chunks);
  stream.text = () => stream.bytes().toString();
  return stream;
}

const configMap = (name, labels, data = { a: '1' }) => ({ metadata: { name, labels }, data });

cases.versionsAndDiscovery = async () => {
  const version = await kc.makeApiClient(k8s.VersionApi).getCode();
  assert.ok(version.minor.startsWith('37'), version.minor);
  const groups = (await kc.makeApiClient(k8s.ApisApi).getAPIVersions()).groups.map((group) => group.name);
  assert.ok(groups.includes('apps') && groups.includes('batch'), groups.join());
  const health = new k8s.Health(kc);
  assert.ok((await health.readyz({})) && (await health.livez({})));
};

// Every list call of every API class that the package has.
cases.everyListIsReadByItsType = async () => {
  let read = 0;
  const problems = [];
  for (const [name, kind] of Object.entries(k8s)) {
    if (!/^[A-Z]\w*Api$/.test(name) || /^(CustomObjects|KubernetesObject)Api$/.test(name)) continue;
    let api;
    try { api = kc.makeApiClient(kind); } catch { continue; }
    for (const method of Object.getOwnPropertyNames(kind.prototype)) {
      if (!method.startsWith('list') || method.endsWith('WithHttpInfo') || method.startsWith('listNamespaced')) continue;
      try {
        const list = await api[method]({});
        assert.ok(list.metadata.resourceVersion && Array.isArray(list.items), `${name}.${method}`);
        read += 1;
      } catch (error) {
        if (error.code !== 404) problems.push(`${name}.${method}: ${error}`);
      }
    }
  }
  assert.deepEqual(problems, []);
  assert.ok(read > 50, `${read} lists`);
};

cases.writesAndPatches = async () => {
  const made = await core.createNamespacedConfigMap({ namespace, body: configMap('crud', { l: '1' }) });
  assert.ok(made.metadata.uid && made.metadata.creationTimestamp instanceof Date);
  await fails(409, 'AlreadyExists', core.createNamespacedConfigMap({ namespace, body: configMap('crud') }));
  const body = await core.readNamespacedConfigMap({ namespace, name: 'crud' });
  body.data.b = '2';
  await core.replaceNamespacedConfigMap({ namespace, name: 'crud', body });
  await fails(409, 'Conflict', core.replaceNamespacedConfigMap({ namespace, name: 'crud', body }));
  const bad = await fails(422, 'Invalid', core.createNamespacedConfigMap({ namespace, body: configMap('Not_A_Name') }));
  assert.equal(bad.details.causes[0].field, 'metadata.name');
  const patch = (strategy, patchBody, more = {}) => core.patchNamespacedConfigMap(
    { namespace, name: 'crud', body: patchBody, ...more }, k8s.setHeaderOptions('Content-Type', strategy));
  const { JsonPatch, MergePatch, StrategicMergePatch, ServerSideApply } = k8s.PatchStrategy;
  const patched = await patch(JsonPatch, [{ op: 'replace', path: '/data/a', value: '9' }]);
  assert.deepEqual(patched.data, { a: '9', b: '2' });
  assert.deepEqual((await patch(MergePatch, { data: { b: null } })).data, { a: '9' });
  assert.deepEqual((await patch(StrategicMergePatch, { data: { c: '3' } })).data, { a: '9', c: '3' });
  const applied = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'crud' }, data: { c: '4' } };
  await fails(409, 'Conflict', patch(ServerSideApply, applied, { fieldManager: 'js' }));
  assert.equal((await patch(ServerSideApply, applied, { fieldManager: 'js', force: true })).data.c, '4');
  const gone = await core.deleteNamespacedConfigMap({ namespace, name: 'crud', body: { preconditions: { uid: made.metadata.uid } } });
  assert.equal(gone.status, 'Success');
  await fails(404, 'NotFound', core.readNamespacedConfigMap({ namespace, name: 'crud' }));
};

cases.objectsWithoutTheirTypes = async () => {
  const any = k8s.KubernetesObjectApi.makeApiClient(kc);
  const spec = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'any', namespace }, data: { a: '1' } };
  await any.create(spec);
  assert.equal((await any.read(spec)).data.a, '1');
  spec.data = { a: '2' };
  assert.equal((await any.patch(spec, undefined, undefined, 'any', true, k8s.PatchStrategy.ServerSideApply)).data.a, '2');
  assert.equal((await any.patch({ ...spec, data: { b: '3' } })).data.b, '3');
  const listed = await any.list('v1', 'ConfigMap', namespace, undefined, undefined, undefined, 'metadata.name=any');
  assert.equal(listed.items.length, 1);
  await any.delete(spec);
  const custom = kc.makeApiClient(k8s.CustomObjectsApi);
  const leases = { group: 'coordination.k8s.io', version: 'v1', namespace, plural: 'leases' };
  const body = { apiVersion: 'coordination.k8s.io/v1', kind: 'Lease', metadata: { name: 'l' }, spec: { holderIdentity: 'me' } };
  await custom.createNamespacedCustomObject({ ...leases, body });
  assert.equal((await custom.listNamespacedCustomObject(leases)).items.length, 1);
  await custom.deleteNamespacedCustomObject({ ...leases, name: 'l' });
};

cases.pagesAndSelectors = async () => {
  for (let n = 0; n < 7; n += 1) {
    await core.createNamespacedConfigMap({ namespace, body: configMap(`page-${n}`, { page: String(n % 2) }) });
  }
  const names = [];
  let _continue;
  do {
    const page = await core.listNamespacedConfigMap({ namespace, limit: 3, _continue, labelSelector: 'page' });
    names.push(...page.items.map((item) => item.metadata.name));
    _continue = page.metadata._continue;
  } while (_continue);
  assert.deepEqual(names, [0, 1, 2, 3, 4, 5, 6].map((n) => `page-${n}`));
  const odd = await core.listNamespacedConfigMap({ namespace, labelSelector: 'page notin (0),page' });
  assert.equal(odd.items.length, 3);
  const one = await core.listNamespacedConfigMap({ namespace, fieldSelector: 'metadata.name=page-4' });
  assert.equal(one.items.length, 1);
};

cases.watchesAndInformers = async () => {
  const path = `/api/v1/namespaces/${namespace}/configmaps`;
  const told = [];
  let bookmark;
  const synced = new Promise((resolve) => { bookmark = resolve; });
  let deleted;
  const end = new Promise((resolve) => { deleted = resolve; });
  const query = { labelSelector: 'seen', sendInitialEvents: true, allowWatchBookmarks: true, resourceVersionMatch: 'NotOlderThan' };
  const request = await new k8s.Watch(kc).watch(path, query, (phase, object) => {
    if (phase === 'BOOKMARK') bookmark(object.metadata.annotations);
    else told.push(`${phase} ${object.metadata.labels.seen}`);
    if (phase === 'DELETED') deleted();
  }, () => {});
  assert.deepEqual(await soon('the bookmark', synced), { 'k8s.io/initial-events-end': 'true' });
  const informer = k8s.makeInformer(kc, path, () => core.listNamespacedConfigMap({ namespace }));
  const informed = [];
  for (const verb of ['add', 'update', 'delete']) {
    informer.on(verb, (object) => object.metadata.name === 'seen' && informed.push(verb));
  }
  await informer.start();
  await core.createNamespacedConfigMap({ namespace, body: configMap('seen', { seen: '1' }) });
  await core.patchNamespacedConfigMap({ namespace, name: 'seen', body: { metadata: { labels: { seen: '2' } } } },
    k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch));
  await eventually('the change in the cache', () => informer.get('seen', namespace)?.metadata.labels.seen === '2');
  await core.deleteNamespacedConfigMap({ namespace, name: 'seen' });
  await soon('the end of the object', end);
  await eventually('its end in the cache', () => !informer.get('seen', namespace));
  await informer.stop();
  request.abort();
  assert.deepEqual(told, ['ADDED 1', 'MODIFIED 2', 'DELETED 2']);
  assert.deepEqual(informed, ['add', 'update', 'delete']);
};

cases.workloadsScaleAndStatus = async () => {
  const labels = { app: 'sized' };
  const name = 'sized';
  const container = { name: 'c', image: 'busybox:1.35', command: ['sleep', '100000'] };
  const template = { metadata: { labels }, spec: { terminationGracePeriodSeconds: 0, containers: [container] } };
  await apps.createNamespacedDeployment({ namespace, body: {
    metadata: { name }, spec: { replicas: 1, selector: { matchLabels: labels }, template } } });
  const scale = await apps.readNamespacedDeploymentScale({ namespace, name });
  scale.spec.replicas = 2;
  delete scale.metadata.resourceVersion; // the controller writes too
  assert.equal((await apps.replaceNamespacedDeploymentScale({ namespace, name, body: scale })).spec.replicas, 2);
  await eventually('two pods', async () => (await apps.readNamespacedDeploymentStatus({ namespace, name })).status.readyReplicas === 2);
  const status = { status: { conditions: [{ type: 'Ours', status: 'True' }] } };
  const patched = await apps.patchNamespacedDeploymentStatus({ namespace, name, body: status },
    k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.StrategicMergePatch));
  assert.ok(patched.status.conditions.some((condition) => condition.type === 'Ours'));
  await apps.deleteNamespacedDeployment({ namespace, name, propagationPolicy: 'Foreground' });
  await eventually('its end', async () => (await apps.listNamespacedDeployment({ namespace })).items.length === 0);
};

cases.podsLogsExecAndPorts = async () => {
  await core.createNamespacedPod({ namespace, body: pod });
  await eventually('a ready pod', async () => (await core.readNamespacedPodStatus({ namespace, name: 'server' }))
    .status.conditions?.some((condition) => condition.type === 'Ready' && condition.status === 'True'));
  await eventually('both lines', async () => await core.readNamespacedPodLog({ namespace, name: 'server' }) === 'line one\nline two\n');
  const log = sink();
  const follow = await new k8s.Log(kc).log(namespace, 'server', 'web', log, { follow: true });
  await eventually('the log', () => log.text() === 'line one\nline two\n');
  follow.abort();
  const exec = new k8s.Exec(kc);
  let out;
  let err;
  const ended = (command, stdin) => soon(command.join(' '), new Promise((resolve, reject) => {
    [out, err] = [sink(), sink()]; // the client ends them
    exec.exec(namespace, 'server', 'web', command, out, err, stdin, false, resolve).catch(reject);
  }));
  assert.equal((await ended(['sh', '-c', 'echo out; echo err >&2'], null)).status, 'Success');
  assert.deepEqual([out.text(), err.text()], ['out\n', 'err\n']);
  const failed = await ended(['sh', '-c', 'exit 3'], null);
  assert.deepEqual([failed.reason, failed.details.causes[0].message], ['NonZeroExitCode', '3']);
  // Ends only when the end of its input comes through.
  assert.equal((await ended(['cat'], Readable.from([Buffer.from('typed\n')]))).status, 'Success');
  assert.equal(out.text(), 'typed\n');
  const terminal = new PassThrough();
  terminal.end('stty size; exit\n');
  const tty = sink();
  const status = await soon('a terminal', new Promise((resolve, reject) => {
    exec.exec(namespace, 'server', 'web', ['sh'], tty, null, terminal, true, resolve).catch(reject);
  }));
  assert.equal(status.status, 'Success', tty.text());
  const forward = new k8s.PortForward(kc);
  const listener = net.createServer((socket) => forward.portForward(namespace, 'server', [8080], socket, null, socket));
  await new Promise((resolve) => listener.listen(0, '127.0.0.1', resolve));
  const answer = await soon('the forwarded port', fetch(`http://127.0.0.1:${listener.address().port}/`));
  assert.equal(await answer.text(), 'hello\n');
  listener.close();
  await core.deleteNamespacedPod({ namespace, name: 'server' });
};

const wanted = process.argv.slice(2);
let failures = 0;
for (const [name, run] of Object.entries(cases)) {
  if (wanted.length && !wanted.includes(name)) continue;
  const start = Date.now();
  try {
    await run();
    console.log(`ok ${name} ${(Date.now() - start) / 1000}`);
  } catch (error) {
    failures += 1;
    console.log(`FAILED ${name}\n${error.stack}`);
  }
}
process.exit(failures);
