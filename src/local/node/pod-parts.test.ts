import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, readlink, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { systemClock } from '../../clock.ts';
import { createImageTable, parseRepository } from '../images.ts';
import { createAddressAllocator, reserveLoopbackNetworks } from './address.ts';
import { writeAtomicDir } from './atomic-dir.ts';
import { boundLog, containerLogPath, readTail } from './container-log.ts';
import { type EnvSources, expandVariables, resolveEnv } from './env.ts';
import { createPathReplacer, resolveSubPath } from './mount-paths.ts';
import type { Container, Pod, Volume } from './pod-spec.ts';
import { countProbe, type ProbeCount, runHandler } from './probes.ts';
import { startProcess } from './process.ts';
import { startReaper } from './reaper.ts';
import { findTokenPath, syncVolumes, volumeReferences } from './volumes.ts';

let dir = '';
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'signalbox-node-'));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

const podOf = (container: Container, volumes: readonly Volume[] = []): Pod => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: {
    name: 'web-1',
    namespace: 'shop',
    uid: 'u-1',
    labels: { app: 'web', tier: 'a"b' },
    annotations: { 'x.io/note': 'hi' },
  },
  spec: { serviceAccountName: 'robot', containers: [container], volumes },
});

const sources: EnvSources = {
  podIP: '127.88.0.10',
  hostIP: '127.0.0.1',
  nodeName: 'node-1',
  allocatable: { cpu: '4', memory: '8Gi' },
  services: { KUBERNETES_SERVICE_HOST: '127.0.0.1' },
  configMap: async (name) => (name === 'cfg' ? { color: 'blue', 'bad key!': 'x' } : undefined),
  secret: async (name) => (name === 'sec' ? { password: 'hunter2' } : undefined),
};

describe('mount paths', () => {
  const replace = createPathReplacer([
    { mountPath: '/mnt/models', realPath: '/v/models' },
    { mountPath: '/mnt/models/lora/', realPath: '/v/lora' },
    { mountPath: '/etc/cfg.yaml', realPath: '/v/cfg/..data/cfg' },
  ]);
  it.each([
    ['/mnt/models', '/v/models'],
    ['--model=/mnt/models/a/b', '--model=/v/models/a/b'],
    ['/mnt/models/lora/x:/mnt/models', '/v/lora/x:/v/models'],
    ['/mnt/models2 /mnt/models-old /mnt/models.bak', '/mnt/models2 /mnt/models-old /mnt/models.bak'],
    ['/srv/mnt/models', '/srv/mnt/models'],
    ['file:///mnt/models', 'file:///v/models'],
    ['http://host/mnt/models', 'http://host/mnt/models'],
    ['{"root":"/mnt/models"}', '{"root":"/v/models"}'],
    ['cd /mnt/models; ls /mnt/models/.', 'cd /v/models; ls /v/models/.'],
    ['/etc/cfg.yaml', '/v/cfg/..data/cfg'],
    ['/etc/cfgXyaml', '/etc/cfgXyaml'],
  ])('%s → %s', (text, expected) => expect(replace(text)).toBe(expected));

  it('keeps sub-paths inside of the volume', () => {
    expect(resolveSubPath('/v/a', undefined)).toBe('/v/a');
    expect(resolveSubPath('/v/a', 'x/y')).toBe('/v/a/x/y');
    expect(resolveSubPath('/v/a', '../b')).toBeUndefined();
    expect(resolveSubPath('/v/a', '/b')).toBeUndefined();
  });
});

describe('env', () => {
  it.each([
    ['$(A)-$(B)', '1-2'],
    ['$$(A)', '$(A)'],
    ['$(NOPE)', '$(NOPE)'],
    // biome-ignore lint/suspicious/noTemplateCurlyInString: the shell's syntax, which is left alone
    ['$A ${A} $', '$A ${A} $'],
    ['$$$(A)', '$1'],
  ])('%s → %s', (text, expected) => expect(expandVariables(text, { A: '1', B: '2' })).toBe(expected));

  it('takes values, fields, resources, keys and whole objects, in order', async () => {
    const container: Container = {
      name: 'main',
      resources: { limits: { memory: '1Gi' }, requests: { cpu: '250m' } },
      envFrom: [{ prefix: 'CFG_', configMapRef: { name: 'cfg' } }, { secretRef: { name: 'no', optional: true } }],
      env: [
        { name: 'COLOR', value: '$(CFG_color)/$(LATER)/$(KUBERNETES_SERVICE_HOST)' },
        { name: 'LATER', value: 'x' },
        { name: 'POD', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } },
        { name: 'IP', valueFrom: { fieldRef: { fieldPath: 'status.podIP' } } },
        { name: 'APP', valueFrom: { fieldRef: { fieldPath: "metadata.labels['app']" } } },
        { name: 'SA', valueFrom: { fieldRef: { fieldPath: 'spec.serviceAccountName' } } },
        { name: 'NODE', valueFrom: { fieldRef: { fieldPath: 'spec.nodeName' } } },
        { name: 'CPU', valueFrom: { resourceFieldRef: { resource: 'requests.cpu', divisor: '1m' } } },
        { name: 'CPU_LIMIT', valueFrom: { resourceFieldRef: { resource: 'limits.cpu' } } },
        { name: 'MEM', valueFrom: { resourceFieldRef: { resource: 'limits.memory', divisor: '1Mi' } } },
        { name: 'PASSWORD', valueFrom: { secretKeyRef: { name: 'sec', key: 'password' } } },
        { name: 'NONE', valueFrom: { configMapKeyRef: { name: 'cfg', key: 'nope', optional: true } } },
      ],
    };
    expect(await resolveEnv(podOf(container), container, sources)).toEqual({
      ok: true,
      value: {
        KUBERNETES_SERVICE_HOST: '127.0.0.1',
        CFG_color: 'blue',
        COLOR: 'blue/$(LATER)/127.0.0.1',
        LATER: 'x',
        POD: 'web-1',
        IP: '127.88.0.10',
        APP: 'web',
        SA: 'robot',
        NODE: 'node-1',
        CPU: '250',
        CPU_LIMIT: '4',
        MEM: '1024',
        PASSWORD: 'hunter2',
      },
    });
  });

  it.each([
    [{ configMapKeyRef: { name: 'no', key: 'k' } }, 'configmap "no" not found'],
    [{ configMapKeyRef: { name: 'cfg', key: 'k' } }, "couldn't find key k in ConfigMap shop/cfg"],
    [{ secretKeyRef: { name: 'sec', key: 'k' } }, "couldn't find key k in Secret shop/sec"],
    [{ fieldRef: { fieldPath: 'spec.nope' } }, 'env X: unsupported fieldPath: spec.nope'],
  ])('says what is missing: %j', async (valueFrom, message) => {
    const container: Container = { name: 'main', env: [{ name: 'X', valueFrom }] };
    expect(await resolveEnv(podOf(container), container, sources)).toEqual({ ok: false, message });
  });
});

describe('volumes', () => {
  const files: Record<string, Record<string, Buffer>> = {
    cfg: { 'a.txt': Buffer.from('one'), 'b.txt': Buffer.from('two') },
  };
  let token = 'token-1';
  const volumeSources = {
    ...sources,
    configMapFiles: async (name: string) => files[name],
    secretFiles: async (name: string) => (name === 'sec' ? { key: Buffer.from([0, 255]) } : undefined),
    token: async () => token,
  };
  const volumes: readonly Volume[] = [
    { name: 'scratch', emptyDir: { medium: 'Memory' } },
    { name: 'cfg', configMap: { name: 'cfg', items: [{ key: 'a.txt', path: 'deep/a' }] } },
    { name: 'sec', secret: { secretName: 'sec', defaultMode: 0o400 } },
    { name: 'maybe', configMap: { name: 'no', optional: true } },
    {
      name: 'api',
      projected: {
        sources: [
          { serviceAccountToken: { path: 'token', expirationSeconds: 3607 } },
          { configMap: { name: 'cfg' } },
          { downwardAPI: { items: [{ path: 'labels', fieldRef: { fieldPath: 'metadata.labels' } }] } },
        ],
      },
    },
  ];
  const pod = podOf({ name: 'main' }, volumes);

  it('are made as the kubelet makes them, and change at once when their sources do', async () => {
    const at = (...path: string[]) => join(dir, 'pod', 'volumes', ...path);
    await syncVolumes(pod, join(dir, 'pod'), volumeSources);
    expect(await readFile(at('cfg', 'deep', 'a'), 'utf8')).toBe('one');
    expect(await readFile(at('sec', 'key'))).toEqual(Buffer.from([0, 255]));
    expect((await stat(at('sec', 'key'))).mode & 0o777).toBe(0o400);
    expect((await stat(at('scratch'))).mode & 0o777).toBe(0o777);
    expect((await readdir(at('maybe'))).filter((name) => !name.startsWith('..'))).toEqual([]);
    expect(await readFile(at('api', 'labels'), 'utf8')).toBe('app="web"\ntier="a\\"b"');
    expect(await readFile(at('api', 'token'), 'utf8')).toBe('token-1');
    expect(findTokenPath(pod, join(dir, 'pod'))).toBe(at('api', 'token'));
    expect([...volumeReferences(pod).configMaps].sort()).toEqual(['cfg', 'no']);

    const [cfgData, apiData] = [await readlink(at('cfg', '..data')), await readlink(at('api', '..data'))];
    token = 'token-2';
    files.cfg = { 'a.txt': Buffer.from('one') };
    await writeFile(at('scratch', 'kept'), 'x');
    await syncVolumes(pod, join(dir, 'pod'), volumeSources);
    expect(await readlink(at('cfg', '..data'))).toBe(cfgData);
    expect(await readlink(at('api', '..data'))).not.toBe(apiData);
    expect((await readdir(at('api'))).filter((name) => !name.startsWith('..')).sort()).toEqual([
      'a.txt',
      'labels',
      'token',
    ]);
    expect(await readFile(at('api', 'token'), 'utf8')).toBe('token-2');
    expect(await readFile(at('scratch', 'kept'), 'utf8')).toBe('x');
    expect(await writeAtomicDir(at('empty'), new Map())).toBe(true);
    expect(await writeAtomicDir(at('empty'), new Map())).toBe(false);
  });

  it.each([
    [{ name: 'v', configMap: { name: 'no' } }, 'MountVolume.SetUp failed for volume "v" : configmap "no" not found'],
    [
      { name: 'v', configMap: { name: 'cfg', items: [{ key: 'z', path: 'z' }] } },
      'MountVolume.SetUp failed for volume "v" : references non-existent config key: z (shop/cfg)',
    ],
    [
      { name: 'v', persistentVolumeClaim: { claimName: 'c' } } as Volume,
      'MountVolume.SetUp failed for volume "v" : the embedded cluster has no persistentVolumeClaim volumes: use emptyDir, configMap, secret, downwardAPI or projected',
    ],
  ])('say why they cannot be there: %j', async (volume, message) => {
    await expect(syncVolumes(podOf({ name: 'main' }, [volume]), join(dir, 'bad'), volumeSources)).rejects.toThrow(
      message,
    );
  });
});

describe('images', () => {
  it.each([
    ['vllm/vllm-openai:v0.11.0', 'vllm/vllm-openai'],
    ['registry.example:5000/a/b/c:1', 'registry.example:5000/a/b/c'],
    [`x/y@sha256:${'a'.repeat(64)}`, 'x/y'],
    ['busybox', 'busybox'],
    ['UPPER/x y', undefined],
    ['', undefined],
  ])('%s is of repository %s', (image, repository) => expect(parseRepository(image)).toBe(repository));

  it.each([
    ['signalbox/epp:0.1.0', 'epp'],
    ['registry.example/signalbox/sidecar', 'sidecar'],
    ['registry.example/vllm/vllm-openai:v0.11.0', 'vllm'],
    ['registry.example/llm-d/llm-d-cuda:v0.9.0', 'vllm'],
    ['registry.example/llm-d/llm-d:v0.2.0', 'vllm'],
    ['registry.example/llm-d/llm-d-router-endpoint-picker:v0.10.0', 'epp'],
    ['registry.example/llm-d/llm-d-inference-scheduler:v0.4.0', 'epp'],
    ['registry.example/llm-d/llm-d-router-disagg-sidecar:v0.10.0', 'sidecar'],
    ['signalbox/other', undefined],
    ['sim', undefined],
    ['nginx:1', undefined],
  ])('%s → %s', (image, name) => {
    const table = createImageTable({ root: '/app', node: '/node', stateDir: dir });
    expect(table.find(image)?.name).toBe(name);
  });

  it('runs what was built as the images of the Dockerfile do', async () => {
    const root = join(dir, 'built');
    await mkdir(join(root, 'dist'), { recursive: true });
    const dockerfile = await readFile(fileURLToPath(new URL('../../../Dockerfile', import.meta.url)), 'utf8');
    for (const name of ['operator', 'epp', 'sidecar', 'sim'] as const) {
      await writeFile(join(root, 'dist', `${name}.mjs`), '');
      const image = createImageTable({ root, node: '/bin/node', stateDir: dir }).find(`signalbox/${name}`);
      const stage = dockerfile.split(/^FROM /m).find((text) => text.startsWith(`base AS ${name}\n`)) ?? '';
      const entrypoint = JSON.parse(/^ENTRYPOINT (.*)$/m.exec(stage)?.[1] ?? '[]') as string[];
      expect(image?.entrypoint.map((word) => word.replace(join(root, 'dist'), '/app'))).toEqual(entrypoint);
      const env = [...stage.matchAll(/^ENV (\w+)=(.*)$/gm)].map(([, key = '', value = '']) => [key, value]);
      expect(Object.entries(image?.env ?? {})).toEqual(env);
    }
  });

  it('knows the commands inside, and puts a vllm on the PATH that runs the simulator with its words', async () => {
    const table = createImageTable({ root: dir, node: '/bin/echo', stateDir: dir });
    const picker = table.find('llm-d/llm-d-router-endpoint-picker:v0.10.0');
    expect(picker?.commands['/app/epp']).toEqual(picker?.entrypoint);
    expect(picker?.notice).toBe('run by signalbox/epp');
    const vllm = table.find('vllm/vllm-openai:v1');
    if (!vllm) throw new Error('vllm is not listed');
    const path = `${await table.toolsDir(vllm)}:/usr/bin:/bin`;
    const reaper = startReaper();
    const run = async (argv: readonly string[]) => {
      const log = join(dir, 'tools.log');
      await rm(log, { force: true });
      const process = await startProcess({ argv, env: { PATH: path }, cwd: dir, logPath: log, reaper });
      const { exitCode } = await process.exited;
      return { exitCode, words: (await readFile(log, 'utf8')).trim().replace(join(dir, 'src/cmd'), '') };
    };
    expect(await run(['/bin/sh', '-c', 'eval "vllm serve /m --port 8001 --x \'a b\'"'])).toEqual({
      exitCode: 0,
      words: '--disable-warning=ExperimentalWarning /sim.ts /m --port 8001 --x a b',
    });
    expect(await run(['python3', '-m', 'vllm.entrypoints.openai.api_server', '--model', 'm'])).toMatchObject({
      words: '--disable-warning=ExperimentalWarning /sim.ts --model m',
    });
    expect(await run(['vllm', 'bench'])).toMatchObject({ exitCode: 2 });
    await reaper.close();
  });
});

describe('addresses', () => {
  it('are handed out in turn, come back, and run out with a clear error', () => {
    const addresses = createAddressAllocator('127.88', 300);
    const first = addresses.allocate();
    expect(first).toBe('127.88.0.10');
    expect(addresses.allocate()).toBe('127.88.0.11');
    addresses.release(first);
    for (let i = 2; i < 300; i++) addresses.allocate();
    expect(addresses.allocate()).toBe(first);
    expect(() => addresses.allocate()).toThrow('delete pods');
    addresses.release('127.88.1.5');
    expect(addresses.allocate()).toBe('127.88.1.5');
    expect(() => createAddressAllocator('10.0')).toThrow('127.88');
  });

  it('of two clusters are different, and free again afterwards', async () => {
    const a = await reserveLoopbackNetworks();
    const b = await reserveLoopbackNetworks();
    expect(a.pods).not.toBe(b.pods);
    expect(a.services).not.toBe(b.services);
    await a.close();
    const c = await reserveLoopbackNetworks();
    expect(c.pods).toBe(a.pods);
    await Promise.all([b.close(), c.close()]);
  });
});

describe('probes', () => {
  it('change their mind only after as many results in a row as the thresholds say', () => {
    const thresholds = { successThreshold: 2, failureThreshold: 3 };
    let count: ProbeCount = { ok: false, inARow: 0 };
    const verdicts = [true, true, false, false, true, false, false, false, true, true].map((ok) => {
      count = countProbe(count, ok, thresholds);
      return count.verdict;
    });
    expect(verdicts).toEqual([undefined, true, true, true, true, true, true, false, false, true]);
  });

  it('ask by HTTP, TCP and exec', async () => {
    const http = createServer((request, response) => {
      response.statusCode = request.url === '/ok' ? 302 : request.headers['x-a'] === '1' ? 200 : 503;
      if (request.url !== '/slow') response.end();
    }).listen(0, '127.0.0.1');
    const tcp = createTcpServer().listen(0, '127.0.0.1');
    await Promise.all([once(http, 'listening'), once(tcp, 'listening')]);
    const port = (http.address() as AddressInfo).port;
    const tcpPort = (tcp.address() as AddressInfo).port;
    const target = {
      podIP: '127.0.0.1',
      container: { name: 'a', ports: [{ name: 'web', containerPort: port }] },
      exec: async (command: readonly string[]) => ({ exitCode: command[0] === 'true' ? 0 : 1, output: 'out' }),
    };
    const ask = (handler: Parameters<typeof runHandler>[0]) => runHandler(handler, target, 200);
    expect((await ask({ httpGet: { port: 'web', path: '/ok' } })).ok).toBe(true);
    expect(await ask({ httpGet: { port, path: 'no' } })).toEqual({
      ok: false,
      message: 'HTTP probe failed with statuscode: 503',
    });
    expect((await ask({ httpGet: { port, path: '/no', httpHeaders: [{ name: 'X-A', value: '1' }] } })).ok).toBe(true);
    expect((await ask({ httpGet: { port, path: '/slow' } })).message).toContain('no answer within 0.2 s');
    expect((await ask({ httpGet: { port: 'nope' } })).message).toBe("couldn't find port nope");
    expect((await ask({ tcpSocket: { port: tcpPort } })).ok).toBe(true);
    expect((await ask({ exec: { command: ['true'] } })).ok).toBe(true);
    expect(await ask({ exec: { command: ['false'] } })).toEqual({ ok: false, message: 'out' });
    http.closeAllConnections();
    await Promise.all([new Promise((r) => http.close(r)), new Promise((r) => tcp.close(r))]);
    expect((await ask({ tcpSocket: { port: tcpPort } })).message).toContain('ECONNREFUSED');
  });

  it('ask a gRPC health service', async () => {
    const { Server, ServerCredentials } = await import('@grpc/grpc-js');
    const server = new Server();
    const method = {
      path: '/grpc.health.v1.Health/Check',
      requestStream: false,
      responseStream: false,
      requestSerialize: (b: Buffer) => b,
      requestDeserialize: (b: Buffer) => b,
      responseSerialize: (b: Buffer) => b,
      responseDeserialize: (b: Buffer) => b,
    };
    server.addService(
      { check: method },
      {
        check: (call: { request: Buffer }, answer: (error: null, message: Buffer) => void) =>
          answer(null, Buffer.from([0x08, call.request.subarray(2).toString() === 'good' ? 1 : 2])),
      },
    );
    const port = await new Promise<number>((resolve, reject) =>
      server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) =>
        error ? reject(error) : resolve(bound),
      ),
    );
    const target = { podIP: '127.0.0.1', container: { name: 'a' }, exec: async () => ({ exitCode: 0, output: '' }) };
    const ask = (service: string) => runHandler({ grpc: { port, service } }, target, 1000);
    expect(await ask('good')).toEqual({ ok: true, message: '' });
    expect(await ask('other')).toEqual({ ok: false, message: 'service unhealthy (responded with "NOT_SERVING")' });
    server.forceShutdown();
    expect((await ask('good')).ok).toBe(false);
  });
});

describe('logs', () => {
  it('keep their newest part when they grow too long, while the process goes on writing', async () => {
    const log = containerLogPath(dir, 'shop', 'web-1', 'main');
    expect(log).toBe(join(dir, 'logs', 'shop_web-1_main.log'));
    await mkdir(join(dir, 'logs'), { recursive: true });
    const reaper = startReaper();
    const script = 'echo 0123456789; echo abcdefghij; read -r go < fifo; echo later';
    await promisify(execFile)('mkfifo', [join(dir, 'fifo')]);
    const writer = await startProcess({ argv: ['/bin/sh', '-c', script], env: {}, cwd: dir, logPath: log, reaper });
    while ((await readTail(log, 100)).length < 22) await systemClock.sleep(10);
    await boundLog(log, 100);
    expect(await readTail(log, 100)).toBe('0123456789\nabcdefghij\n');
    await boundLog(log, 15);
    expect(await readTail(log, 100)).toBe('');
    expect(await readTail(`${log}.1`, 100)).toBe('789\nabcdefghij\n');
    await writeFile(join(dir, 'fifo'), 'go\n');
    await writer.exited;
    expect(await readFile(log, 'utf8')).toBe('later\n');
    await reaper.close();
  });
});

describe('processes', () => {
  // A zombie that nobody waits for still has its number; it no longer has a command.
  const isAlive = async (pid: number) => (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')) !== '';
  const env = { PATH: '/usr/bin:/bin' };

  it('report exit codes and signals, and leave no child behind', async () => {
    const reaper = startReaper();
    const run = (script: string, logPath?: string) =>
      startProcess({ argv: ['/bin/sh', '-c', script], env, cwd: dir, reaper, ...(logPath ? { logPath } : {}) });
    expect(await (await run('exit 3')).exited).toEqual({ exitCode: 3 });
    const log = join(dir, 'children.log');
    const parent = await run('sleep 60 & echo $!; exit 0', log);
    await parent.exited;
    const child = Number(await readFile(log, 'utf8'));
    await systemClock.sleep(50);
    expect(await isAlive(child)).toBe(false);
    const polite = await run('exec sleep 60');
    polite.stop(5000, systemClock);
    expect(await polite.exited).toEqual({ exitCode: 143 });
    const stubborn = await run('trap "" TERM; echo ready; while :; do sleep 0.05; done', log);
    await systemClock.sleep(100);
    stubborn.stop(150, systemClock);
    expect(await stubborn.exited).toEqual({ exitCode: 137 });
    // The shell goes at once, its child uses the grace to end well.
    const family = await run('(trap "echo bye; exit 0" TERM; while :; do sleep 0.05; done) & wait', log);
    await systemClock.sleep(100);
    family.stop(5_000, systemClock);
    await family.exited;
    expect(await readFile(log, 'utf8')).toContain('bye');
    await expect(startProcess({ argv: ['/no/such'], env, cwd: dir, reaper })).rejects.toThrow('ENOENT');
    await reaper.close();
  });

  it('die with their owner, even when it is killed', async () => {
    const script = `
      const { startReaper } = await import(${JSON.stringify(join(import.meta.dirname, 'reaper.ts'))});
      const { startProcess } = await import(${JSON.stringify(join(import.meta.dirname, 'process.ts'))});
      const reaper = startReaper();
      const gone = await startProcess({ argv: ['/bin/true'], env: {}, cwd: '/', reaper });
      await gone.exited;
      const kept = await startProcess({ argv: ['/bin/sh', '-c', 'sleep 60 & wait'], env: {}, cwd: '/', reaper });
      console.log(kept.pid);
      setInterval(() => {}, 1000);
    `;
    const owner = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [line] = (await once(owner.stdout, 'data')) as [Buffer];
    const pid = Number(line.toString());
    expect(await isAlive(pid)).toBe(true);
    owner.kill('SIGKILL');
    await once(owner, 'exit');
    for (let i = 0; i < 40 && (await isAlive(pid)); i++) await systemClock.sleep(50);
    expect(await isAlive(pid)).toBe(false);
  });
});
