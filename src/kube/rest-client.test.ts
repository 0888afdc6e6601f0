import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { silentLogger } from '../telemetry/log.ts';
import type { Client, WatchEvent } from './client.ts';
import { loadKubeConfig, tokenFromFile } from './config.ts';
import type { KubeObject } from './object.ts';
import { resources } from './resources.ts';
import { createClient, linesOf, retryDelayMs } from './rest-client.ts';
import { StatusError, toStatusError } from './status-error.ts';

let server: Server;
let client: Client;
let handle: (request: IncomingMessage, response: ServerResponse) => void = () => {};
const token = { value: 'Bearer one' };

beforeAll(async () => {
  server = createServer((request, response) => handle(request, response));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  client = createClient(
    {
      server: `http://127.0.0.1:${(server.address() as AddressInfo).port}/prefix`,
      tls: {},
      authorization: async () => token.value,
      namespace: 'default',
      source: 'test',
    },
    { log: silentLogger, userAgent: 'test/1' },
  );
});
afterAll(async () => {
  await client.close();
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});

const json = (response: ServerResponse, status: number, body: unknown, headers: Record<string, string> = {}) => {
  response.writeHead(status, { 'content-type': 'application/json', ...headers });
  response.end(JSON.stringify(body));
};
const ref = { namespace: 'ns', name: 'a' };

describe('requests', () => {
  it('carry the path, the query and the newest token', async () => {
    const seen: string[] = [];
    handle = (request, response) => {
      seen.push(
        `${request.method} ${request.url} ${request.headers.authorization} ${request.headers['content-type'] ?? ''}`,
      );
      json(response, 200, {});
    };
    await client.get(resources.pods, ref);
    token.value = 'Bearer two';
    const object = { apiVersion: 'apps/v1', kind: 'Deployment', metadata: ref };
    await client.apply(resources.deployments, object, {
      fieldManager: 'me',
      force: true,
      subresource: 'status',
      dryRun: true,
    });
    await client.mergePatch(resources.nodes, { name: 'n' }, {}, { subresource: 'status' });
    expect(seen).toEqual([
      'GET /prefix/api/v1/namespaces/ns/pods/a Bearer one ',
      'PATCH /prefix/apis/apps/v1/namespaces/ns/deployments/a/status?fieldManager=me&force=true&dryRun=All Bearer two application/apply-patch+yaml',
      'PATCH /prefix/api/v1/nodes/n/status Bearer two application/merge-patch+json',
    ]);
    await expect(async () => client.get(resources.pods, { name: 'a' })).rejects.toThrow('metadata.namespace is empty');
  });

  it('are sent again after 429 and, when they read, after a broken connection', async () => {
    let count = 0;
    handle = (_request, response) => {
      count++;
      if (count === 1) json(response, 429, {}, { 'retry-after': '0' });
      else json(response, 200, { metadata: { name: 'a' } });
    };
    await client.create(resources.pods, { apiVersion: 'v1', kind: 'Pod', metadata: ref });
    expect(count).toBe(2);
    count = 0;
    handle = (request, response) => {
      count++;
      if (count === 1) request.socket.destroy();
      else json(response, 200, { metadata: { name: 'a' } });
    };
    expect(await client.get(resources.pods, ref)).toBeDefined();
    expect(count).toBe(2);
    count = 0;
    await expect(client.create(resources.pods, { apiVersion: 'v1', kind: 'Pod', metadata: ref })).rejects.toMatchObject(
      { code: 'unavailable' },
    );
    expect(count).toBe(1);
  });

  it('end at their time-out and at their signal', async () => {
    handle = () => {};
    await expect(client.request('GET', '/slow', undefined, { timeoutMs: 50 })).rejects.toMatchObject({
      code: 'timeout',
      message: expect.stringContaining('within 50 ms'),
    });
    const abort = new AbortController();
    setTimeout(() => abort.abort(new Error('enough')), 20);
    await expect(client.get(resources.pods, ref, abort.signal)).rejects.toThrow('enough');
  });

  it('take pages until the last, and start over when the token is too old', async () => {
    const seen: string[] = [];
    handle = (request, response) => {
      const url = new URL(request.url ?? '', 'http://x');
      seen.push(url.search);
      if (url.searchParams.get('continue') === 't1')
        json(response, 410, { kind: 'Status', reason: 'Expired', message: 'old' });
      else if (url.searchParams.has('limit'))
        json(response, 200, {
          metadata: { continue: 't1', resourceVersion: '4' },
          items: [{ metadata: { name: 'a' } }],
        });
      else
        json(response, 200, {
          metadata: { resourceVersion: '5' },
          items: [{ metadata: { name: 'a' } }, { metadata: { name: 'b' } }],
        });
    };
    const page = await client.list(resources.pods, { namespace: 'ns', labelSelector: 'a in (b,c)' });
    expect(page.items.map((item) => `${item.kind} ${item.metadata.name}`)).toEqual(['Pod a', 'Pod b']);
    expect(page.resourceVersion).toBe('5');
    expect(seen).toEqual([
      '?limit=500&labelSelector=a%20in%20(b%2Cc)',
      '?limit=500&continue=t1&labelSelector=a%20in%20(b%2Cc)',
      '?labelSelector=a%20in%20(b%2Cc)',
    ]);
  });
});

describe('watches', () => {
  const watch = async (write: (response: ServerResponse) => void) => {
    handle = (_request, response) => {
      response.writeHead(200);
      write(response);
    };
    const events: WatchEvent<KubeObject>[] = [];
    const abort = new AbortController();
    for await (const event of client.watch<KubeObject>(resources.pods, { resourceVersion: '1' }, abort.signal))
      events.push(event);
    return events;
  };
  const line = (type: string, object: unknown) => `${JSON.stringify({ type, object })}\n`;

  it('read events whole, however they are cut', async () => {
    const text = Buffer.from(
      line('ADDED', { metadata: { name: 'größe-€' } }) +
        line('BOOKMARK', { metadata: { resourceVersion: '7' } }) +
        line('ERROR', { kind: 'Status', code: 410, message: 'old' }),
    );
    const events = await watch((response) => {
      for (let i = 0; i < text.length; i += 7) response.write(text.subarray(i, i + 7));
      response.end('{"type":"ADDED","obj');
    });
    expect(events).toEqual([
      { type: 'ADDED', object: { metadata: { name: 'größe-€' } } },
      { type: 'BOOKMARK', resourceVersion: '7' },
      { type: 'ERROR', code: 410, message: 'old' },
    ]);
  });

  it('throw on a broken connection, on nonsense and on a refusal', async () => {
    await expect(
      watch((response) => {
        response.write(line('ADDED', { metadata: {} }));
        setTimeout(() => response.destroy(), 20);
      }),
    ).rejects.toMatchObject({ code: 'unavailable' });
    await expect(watch((response) => response.end('nonsense\n'))).rejects.toThrow('not JSON');
    await expect(watch((response) => response.end('{"type":"ODD"}\n'))).rejects.toThrow('unknown event type "ODD"');
    handle = (_request, response) => json(response, 410, { kind: 'Status', message: 'too old' });
    const events = client.watch(resources.pods, { resourceVersion: '1' }, new AbortController().signal);
    await expect(events[Symbol.asyncIterator]().next()).rejects.toMatchObject({ code: 'gone' });
  });

  it('cuts lines in one pass', async () => {
    const chunks = ['a', 'b\nc\n\n', 'd', '\ne'].map((text) => Buffer.from(text));
    const lines: string[] = [];
    for await (const text of linesOf(
      (async function* () {
        yield* chunks;
      })(),
    ))
      lines.push(text);
    expect(lines).toEqual(['ab', 'c', 'd']);
  });
});

describe('answers that are errors', () => {
  it.each([
    [400, 'invalid'],
    [401, 'unauthorized'],
    [403, 'forbidden'],
    [404, 'notFound'],
    [409, 'conflict'],
    [410, 'gone'],
    [422, 'invalid'],
    [429, 'overloaded'],
    [500, 'unavailable'],
    [503, 'unavailable'],
  ])('%i is %s, with the server’s words', (status, code) => {
    const error = toStatusError('GET x', status, JSON.stringify({ kind: 'Status', reason: 'R', message: 'its words' }));
    expect([error.code, error.reason, error.message]).toEqual([
      code,
      'R',
      `GET x: the API server answered ${status}: its words`,
    ]);
  });

  it('quotes what is no Status, and waits only as long as is sensible', () => {
    expect(toStatusError('GET x', 502, '<html>bad</html>').message).toContain('<html>bad</html>');
    const retry = (status: number, after?: string) =>
      retryDelayMs('PATCH', toStatusError('x', status, '', after), 0, () => 0.5);
    expect([retry(429), retry(429, '2'), retry(429, '60'), retry(503, '1')]).toEqual([200, 2000, undefined, undefined]);
    expect(retryDelayMs('GET', new StatusError('conflict', 'x', 409, ''), 0)).toBeUndefined();
  });
});

describe('finding the server', () => {
  let dir: string;
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'signalbox-kubeconfig-'));
  });
  afterAll(() => rm(dir, { recursive: true, force: true }));
  const file = async (name: string, text: string) => {
    await writeFile(join(dir, name), text);
    return join(dir, name);
  };
  const config = (user: string, extra = '') => `
current-context: one
contexts: [{name: one, context: {cluster: c, user: u, namespace: mine}}, {name: two, context: {cluster: absent, user: u}}]
clusters: [{name: c, cluster: {server: "https://127.0.0.1:6443/", certificate-authority: ca.pem${extra}}}]
users: [{name: u, user: ${user}}]`;

  it('reads certificates and tokens, also from files beside it', async () => {
    await file('ca.pem', 'CA');
    await file('token', ' t1\n');
    const settings = await loadKubeConfig({
      path: await file(
        'a',
        config(
          '{client-certificate-data: Q0VSVA==, client-key-data: S0VZ, tokenFile: token}',
          ', tls-server-name: api',
        ),
      ),
    });
    expect(settings).toMatchObject({ server: 'https://127.0.0.1:6443', namespace: 'mine', tls: { servername: 'api' } });
    expect([settings.tls.ca, settings.tls.cert, settings.tls.key].map(String)).toEqual(['CA', 'CERT', 'KEY']);
    expect(await settings.authorization?.()).toBe('Bearer t1');
  });

  it('runs a credential plugin', async () => {
    const credential = JSON.stringify({
      apiVersion: 'client.authentication.k8s.io/v1',
      kind: 'ExecCredential',
      status: { token: 'from-plugin' },
    });
    const user = `{exec: {apiVersion: client.authentication.k8s.io/v1, command: echo, args: [${JSON.stringify(credential)}], interactiveMode: Never}}`;
    const settings = await loadKubeConfig({ path: await file('exec', config(user)) });
    expect(await settings.authorization?.()).toBe('Bearer from-plugin');
    const broken = loadKubeConfig({ path: await file('exec-bad', config('{exec: {command: "false"}}')) });
    await expect(broken).rejects.toMatchObject({ code: 'unauthorized' });
  });

  it('looks in its order, and at last says where it looked', async () => {
    const sa = {
      token: await file('token', 't1'),
      env: { KUBERNETES_SERVICE_HOST: '::1', KUBERNETES_SERVICE_PORT: '443', HOME: dir },
    };
    await file('ca.crt', 'CA');
    const inCluster = await loadKubeConfig({ env: sa.env, serviceAccountDir: dir });
    expect(inCluster).toMatchObject({ server: 'https://[::1]:443', namespace: 'default' });
    expect(await inCluster.authorization?.()).toBe('Bearer t1');
    const given = await loadKubeConfig({
      env: { ...sa.env, KUBECONFIG: await file('b', config('{token: x}')) },
      serviceAccountDir: dir,
    });
    expect(given.server).toBe('https://127.0.0.1:6443');
    await expect(loadKubeConfig({ env: { HOME: dir } })).rejects.toMatchObject({
      code: 'usage',
      message: expect.stringContaining('--kubeconfig FILE'),
    });
  });

  it.each<[string, string, string | undefined, string]>([
    ['a missing file', '', undefined, 'cannot read the kubeconfig'],
    ['no YAML', 'a: [', undefined, 'is not YAML'],
    ['a wrong field', 'clusters: [{name: c, cluster: {server: 5}}]', undefined, 'clusters.0.cluster.server'],
    ['no current context', 'contexts: []', undefined, 'current-context is empty'],
    ['an unknown context', config('{}'), 'three', 'no context named "three"; it has: one, two'],
    ['a missing cluster', config('{}'), 'two', 'no cluster named "absent"'],
    [
      'a missing authority',
      config('{}', '').replace('ca.pem', 'none.pem'),
      undefined,
      'clusters[c].certificate-authority',
    ],
  ])('names what is wrong: %s', async (_, text, context, message) => {
    const path = text === '' ? join(dir, 'nowhere') : await file('bad', text);
    await expect(loadKubeConfig({ path, ...(context ? { context } : {}) })).rejects.toMatchObject({
      code: 'usage',
      message: expect.stringContaining(message),
    });
  });

  it('reads a token again after a minute and lives through a moment without it', async () => {
    let nowMs = 0;
    const path = await file('rotating', 'a');
    const read = tokenFromFile(path, () => nowMs);
    expect(await read()).toBe('Bearer a');
    await file('rotating', 'b');
    nowMs = 59_999;
    expect(await read()).toBe('Bearer a');
    nowMs = 60_000;
    expect(await read()).toBe('Bearer b');
    await rm(path);
    nowMs = 200_000;
    expect(await read()).toBe('Bearer b');
  });
});
