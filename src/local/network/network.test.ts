import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { silentLogger } from '../../telemetry/log.ts';
import type { Pod } from '../node/pod-spec.ts';
import { renderResolveHook } from '../resolve-hook.ts';
import { createServiceProxy } from './proxy.ts';
import { type Service, serviceEnv, serviceNames, virtualServers } from './service.ts';

const service = (name: string, spec: Service['spec']): Service => ({
  apiVersion: 'v1',
  kind: 'Service',
  metadata: { name, namespace: 'shop' },
  spec,
});
const pod = (name: string, ip: string | undefined, ready: boolean, extra: Partial<Pod['metadata']> = {}): Pod => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, namespace: 'shop', labels: { app: 'web' }, ...extra },
  spec: {
    hostname: name,
    subdomain: 'peers',
    initContainers: [{ name: 's', restartPolicy: 'Always', ports: [{ name: 'side', containerPort: 8000 }] }],
    containers: [{ name: 'a', ports: [{ name: 'http', containerPort: name === 'web-2' ? 8082 : 8081 }] }],
  },
  status: { ...(ip ? { podIP: ip } : {}), conditions: [{ type: 'Ready', status: ready ? 'True' : 'False' }] },
});
const pods = [
  pod('web-1', '127.88.0.11', true),
  pod('web-2', '127.88.0.10', true),
  pod('unready', '127.88.0.12', false),
  pod('going', '127.88.0.13', true, { deletionTimestamp: '2026-01-01T00:00:00Z' }),
  pod('elsewhere', '127.88.0.14', true, { namespace: 'other' }),
  pod('stranger', '127.88.0.15', true, { labels: { app: 'db' } }),
  pod('unborn', undefined, false),
];
const selector = { app: 'web' };
const services = [
  service('web', {
    clusterIP: '127.96.0.5',
    selector,
    ports: [
      { name: 'http', port: 80, targetPort: 'http' },
      { name: 'side-car', port: 81, targetPort: 'side' },
      { name: 'same', port: 8081 },
      { name: 'udp', port: 53, protocol: 'UDP' },
    ],
  }),
  service('peers', { clusterIP: 'None', selector, ports: [{ port: 8081 }] }),
  service('all', { clusterIP: 'None', selector, publishNotReadyAddresses: true, ports: [] }),
  service('manual', { clusterIP: '127.96.0.6', ports: [{ port: 1 }] }),
  {
    ...service('kubernetes', { clusterIP: '127.96.0.1', ports: [{ port: 443 }] }),
    metadata: { name: 'kubernetes', namespace: 'default' },
  },
];

describe('what services mean', () => {
  it('lists addresses with the serving pods behind each port', () => {
    const servers = virtualServers(services, pods, { host: '127.0.0.1', port: 6443 });
    expect(
      servers.map(
        ({ host, port, backends }) => `${host}:${port} ${backends.map((b) => `${b.host}:${b.port}`).join(' ')}`,
      ),
    ).toEqual([
      '127.96.0.5:80 127.88.0.10:8082 127.88.0.11:8081',
      '127.96.0.5:81 127.88.0.10:8000 127.88.0.11:8000',
      '127.96.0.5:8081 127.88.0.10:8081 127.88.0.11:8081',
      '127.96.0.6:1 ',
      '127.96.0.1:443 127.0.0.1:6443',
    ]);
  });

  it('names them', () => {
    expect(serviceNames(services, pods)).toEqual({
      'web.shop': ['127.96.0.5'],
      'peers.shop': ['127.88.0.10', '127.88.0.11'],
      'web-1.peers.shop': ['127.88.0.11'],
      'web-2.peers.shop': ['127.88.0.10'],
      'all.shop': ['127.88.0.10', '127.88.0.11', '127.88.0.12', '127.88.0.13'],
      'manual.shop': ['127.96.0.6'],
      'kubernetes.default': ['127.96.0.1'],
    });
  });

  it('describes them to the containers of their namespace', () => {
    expect(serviceEnv(services, 'shop')).toMatchObject({
      WEB_SERVICE_HOST: '127.96.0.5',
      WEB_SERVICE_PORT: '80',
      WEB_SERVICE_PORT_SIDE_CAR: '81',
      WEB_PORT: 'tcp://127.96.0.5:80',
      WEB_PORT_81_TCP_ADDR: '127.96.0.5',
      MANUAL_SERVICE_PORT: '1',
    });
    expect(Object.keys(serviceEnv(services, 'shop')).some((key) => key.startsWith('PEERS'))).toBe(false);
    expect(serviceEnv(services, 'default')).toEqual({});
  });
});

describe('the proxy', () => {
  const servers: Server[] = [];
  const startBackend = async (answer: string): Promise<{ readonly host: string; readonly port: number }> => {
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      socket.write(`${answer}:`);
      socket.on('error', () => {});
      socket.pipe(socket);
    }).listen(0, '127.0.0.1');
    servers.push(server);
    await once(server, 'listening');
    return { host: '127.0.0.1', port: (server.address() as AddressInfo).port };
  };
  const freePort = async (): Promise<number> => {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    server.close();
    await once(server, 'close');
    return port;
  };
  const ask = (port: number, text: string): Promise<string> =>
    new Promise((resolve, reject) => {
      const socket = connect({ host: '127.0.0.1', port }, () => socket.end(text));
      let answer = '';
      socket.on('data', (chunk) => {
        answer += chunk;
      });
      socket.once('error', reject);
      socket.once('close', () => resolve(answer));
    });
  afterAll(() => {
    for (const server of servers) server.close();
  });

  it('spreads connections, follows changes without dropping any, and refuses when nobody is ready', async () => {
    const [a, b] = [await startBackend('a'), await startBackend('b')];
    const dead = { host: '127.0.0.1', port: await freePort() };
    const proxy = createServiceProxy(silentLogger);
    const port = await freePort();
    const set = async (...backends: (typeof a)[]): Promise<void> => {
      proxy.update([{ host: '127.0.0.1', port, service: 'shop/web', backends }]);
      await proxy.settled();
    };
    await set();
    await expect(ask(port, 'x')).rejects.toThrow('ECONNREFUSED');
    await set(a, b);
    const answers = await Promise.all(['1', '2', '3', '4'].map((text) => ask(port, text)));
    expect(answers.map((answer) => answer.slice(0, 1)).sort()).toEqual(['a', 'a', 'b', 'b']);
    expect(answers.map((answer) => answer.slice(2)).sort()).toEqual(['1', '2', '3', '4']);
    await set(dead, a);
    expect(await Promise.all([ask(port, 'x'), ask(port, 'y')])).toEqual(['a:x', 'a:y']);

    await set(a);
    const open: Socket = connect({ host: '127.0.0.1', port });
    let got = '';
    open.on('data', (chunk) => {
      got += chunk;
    });
    await once(open, 'data');
    await set();
    await expect(ask(port, 'x')).rejects.toThrow('ECONNREFUSED');
    open.end('still here');
    await once(open, 'close');
    expect(got).toBe('a:still here');
    await set(dead);
    await expect(ask(port, 'x')).rejects.toThrow('ECONNRESET');
    await proxy.close();
    await expect(ask(port, 'x')).rejects.toThrow('ECONNREFUSED');
  });

  it('says once, with the remedy, that it may not listen on a low port', async () => {
    const lines: string[] = [];
    const log = { ...silentLogger, warn: (_: unknown, line: string) => void lines.push(line) } as typeof silentLogger;
    const taken = await startBackend('x');
    const proxy = createServiceProxy(log);
    for (const backends of [[taken], [], [taken]]) {
      proxy.update([{ ...taken, service: 'shop/web', backends }]);
      await proxy.settled();
    }
    expect(lines).toHaveLength(1);
    expect(lines[0]).toContain(`cannot listen for Service shop/web on 127.0.0.1:${taken.port}`);
    await proxy.close();
  });
});

describe('the resolve hook', () => {
  let dir = '';
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'signalbox-hook-'));
  });
  afterAll(() => rm(dir, { recursive: true, force: true }));

  it('resolves service names in Node processes, follows changes, and leaves other names alone', async () => {
    const names = join(dir, 'names.json');
    const hook = join(dir, 'hook.cjs');
    await writeFile(
      names,
      JSON.stringify({ 'web.shop': ['127.96.0.5'], 'peers.shop': ['127.88.0.10', '127.88.0.11'] }),
    );
    await writeFile(hook, renderResolveHook(names));
    const script = `
      import { lookup } from 'node:dns/promises';
      import dns from 'node:dns';
      import net from 'node:net';
      import { renameSync } from 'node:fs';
      const ask = (name, options) => lookup(name, options).catch((e) => e.code);
      const out = {};
      for (const name of ['web', 'web.shop', 'WEB.shop.svc.', 'web.shop.svc.cluster.local', 'nope.shop.svc', 'nope.shop.svc.cluster.local', 'localhost', '127.0.0.9']) out[name] = await ask(name);
      out.all = await ask('peers', { all: true });
      out.v6 = await ask('web', { family: 6 });
      out.old = await new Promise((r) => dns.lookup('web', (e, address, family) => r([address, family])));
      out.connect = await new Promise((r) => { const s = net.connect({ host: 'web', port: 1 }); s.on('error', () => {}); s.on('lookup', (e, address) => { r(address); s.destroy(); }); });
      renameSync(process.argv[1], ${JSON.stringify(names)});
      await new Promise((r) => setTimeout(r, 300));
      out.later = await ask('web');
      console.log(JSON.stringify(out));
    `;
    const next = join(dir, 'next.json');
    await writeFile(next, JSON.stringify({ 'web.shop': ['127.96.0.9'] }));
    await rename(next, `${next}.ready`);
    const { stdout, stderr } = await promisify(execFile)(
      process.execPath,
      ['--input-type=module', '-e', script, `${next}.ready`],
      { env: { NODE_OPTIONS: `--require=${JSON.stringify(hook)}`, SIGNALBOX_POD_NAMESPACE: 'shop' } },
    );
    expect(stderr).toBe('');
    const v4 = (address: string) => ({ address, family: 4 });
    const { all, ...rest } = JSON.parse(stdout) as Record<string, unknown>;
    expect(rest).toEqual({
      web: v4('127.96.0.5'),
      'web.shop': v4('127.96.0.5'),
      'WEB.shop.svc.': v4('127.96.0.5'),
      'web.shop.svc.cluster.local': v4('127.96.0.5'),
      'nope.shop.svc': 'ENOTFOUND',
      'nope.shop.svc.cluster.local': 'ENOTFOUND',
      localhost: expect.objectContaining({ address: expect.stringMatching(/127.0.0.1|::1/) }),
      '127.0.0.9': v4('127.0.0.9'),
      v6: 'ENOTFOUND',
      old: ['127.96.0.5', 4],
      connect: '127.96.0.5',
      later: v4('127.96.0.9'),
    });
    expect(all).toHaveLength(2);
    expect(all).toEqual(expect.arrayContaining([v4('127.88.0.10'), v4('127.88.0.11')]));
  });
});
