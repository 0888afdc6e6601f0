import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { root } from '../cluster/control-plane.ts';
import { eventually } from '../expect/eventually.ts';
import { type Finished, processesOf, runBinary } from './cli.ts';

/** `signalbox up`, which runs until it is told to end, or until a part of it crashes. */
interface Running {
  readonly child: ChildProcess;
  readonly finished: Promise<Finished>;
  /** Resolves when it has printed the text. */
  printed(text: string): Promise<void>;
}

describe('the life of a cluster', () => {
  let stateHome: string;
  const children: ChildProcess[] = [];
  const up = (...args: readonly string[]): Running => {
    const child = spawn(join(root, 'bin', 'signalbox'), ['up', ...args], {
      env: { ...process.env, NODE_OPTIONS: '', XDG_STATE_HOME: stateHome },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    children.push(child);
    let stdout = '';
    let stderr = '';
    child.stdout?.on('data', (chunk: Buffer) => {
      stdout += chunk.toString('utf8');
    });
    child.stderr?.on('data', (chunk: Buffer) => {
      stderr += chunk.toString('utf8');
    });
    const finished = new Promise<Finished>((resolve) => {
      child.once('close', (code) => resolve({ code, stdout, stderr }));
    });
    return {
      child,
      finished,
      printed: (text) => eventually(() => expect(`${stdout}${stderr}`).toContain(text), 60_000),
    };
  };
  const stateDir = (name: string) => join(stateHome, 'signalbox', name);
  const isReady = (name: string) =>
    eventually(
      async () => expect(await readFile(join(stateDir(name), 'cluster.json'), 'utf8')).toContain('"phase": "ready"'),
      60_000,
    );
  const expectNothingLeft = async (name: string) => {
    expect(await processesOf(stateDir(name))).toEqual([]);
    expect(existsSync(stateDir(name))).toBe(false);
  };
  const status = async () => (await runBinary('signalbox', ['status'], { env: { XDG_STATE_HOME: stateHome } })).stdout;

  beforeAll(async () => {
    stateHome = await mkdtemp(join(tmpdir(), 'signalbox-life-'));
  });
  afterAll(async () => {
    // Only after a failure: each test ends its own.
    for (const child of children) child.kill('SIGKILL');
    await rm(stateHome, { recursive: true, force: true, maxRetries: 5 });
  });

  it('runs two side by side; Ctrl-C ends the one, the crash of a component the other', async () => {
    const first = up('--bare', '--name', 'one');
    const second = up('--bare', '--name', 'two');
    await Promise.all([isReady('one'), isReady('two')]);
    expect(await status()).toMatch(/^one {2}ready[\s\S]*not installed[\s\S]*^two {2}ready/m);

    first.child.kill('SIGINT');
    expect(await first.finished).toMatchObject({ code: 0, stderr: '' });
    await expectNothingLeft('one');
    expect(await status()).toMatch(/^two {2}ready/);

    const [envoy] = (await processesOf(stateDir('two'))).filter(({ command }) => /^\S*envoy/.test(command));
    if (!envoy) throw new Error('no envoy runs');
    process.kill(envoy.pid, 'SIGKILL');
    const { code, stderr } = await second.finished;
    expect(code).toBe(1);
    expect(stderr).toMatch(/^signalbox: envoy ended \(killed by SIGKILL\)\. Its last lines:\n/);
    await expectNothingLeft('two');
  }, 120_000);

  it.each([
    ['starting etcd', 'SIGINT'],
    ['starting the network', 'SIGTERM'],
  ] as const)(
    'stops whole in the middle of its start: at "%s"',
    async (line, signal) => {
      const running = up('--bare', '--name', 'early');
      await running.printed(line);
      running.child.kill(signal);
      expect(await running.finished).toMatchObject({ code: 1, stderr: `signalbox: interrupted by ${signal}\n` });
      await expectNothingLeft('early');
    },
    120_000,
  );

  it('tells which component crashed while it starts', async () => {
    const running = up('--bare', '--name', 'broken');
    await running.printed('starting etcd');
    await eventually(async () => {
      const etcd = (await processesOf(stateDir('broken'))).find(({ command }) => /^\S*etcd/.test(command));
      if (!etcd) throw new Error('etcd does not run yet');
      process.kill(etcd.pid, 'SIGKILL');
    });
    const { code, stderr } = await running.finished;
    expect([code, stderr]).toEqual([1, expect.stringMatching(/^signalbox: etcd ended \(killed by SIGKILL\)/)]);
    await expectNothingLeft('broken');
  }, 120_000);

  it('takes its children along when it is killed, and the next command tidies up', async () => {
    const running = up('--name', 'killed');
    await isReady('killed');
    const before = await processesOf(stateDir('killed'));
    // Also a pod, which knows the cluster only by its environment.
    expect(before.some(({ command }) => command.includes('operator'))).toBe(true);
    running.child.kill('SIGKILL');
    await running.finished;
    await eventually(async () => expect(await processesOf(stateDir('killed'))).toEqual([]));
    expect(await status()).toContain('no embedded cluster is up (`signalbox up` starts one)');
    expect(await readdir(join(stateHome, 'signalbox'))).toEqual([]);
  }, 120_000);

  it('says in one line, with exit code 2, which file is not there', async () => {
    const refused = await runBinary('signalbox', ['up', '--name', 'none'], {
      env: { XDG_STATE_HOME: stateHome, ENVOY: '/no/such/envoy' },
    });
    expect(refused).toMatchObject({
      code: 2,
      stderr: 'signalbox: ENVOY=/no/such/envoy is not an executable file; unset it or point it at one\n',
    });
    await expectNothingLeft('none');
  }, 30_000);
});
