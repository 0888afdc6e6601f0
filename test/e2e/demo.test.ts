import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { type Finished, processesWith, runBinary } from './cli.ts';

describe('signalbox demo', () => {
  let stateHome: string;
  let finished: Finished;

  beforeAll(async () => {
    stateHome = await mkdtemp(join(tmpdir(), 'signalbox-demo-'));
    finished = await runBinary('signalbox', ['demo', '--once', '--name', 'demo-test'], {
      timeoutMs: 15 * 60_000,
      env: { XDG_STATE_HOME: stateHome },
    });
    if (finished.code !== 0) process.stderr.write(`${finished.stdout}\n${finished.stderr}\n`);
  }, 16 * 60_000);

  afterAll(() => rm(stateHome, { recursive: true, force: true }));

  it('ends with 0: all of it was true', () => {
    expect(finished.stderr).toBe('');
    expect(finished.code).toBe(0);
    expect(finished.stdout).toContain('all of it was true');
  });

  it('shows the conditions turning True', () => {
    for (const type of ['PresetsCombined', 'MainWorkloadReady', 'PrefillWorkloadReady', 'RouterReady', 'Ready']) {
      expect(finished.stdout).toMatch(new RegExp(`✓ ${type}\\b`));
    }
  });

  it('goes through prefill first and stays on the decode pod then', () => {
    const [, first = '', second = ''] = finished.stdout.split(/turn \d /);
    const decoder = /decoded by\s+(chat-kserve-[a-z0-9-]+)/;
    expect(first).toMatch(/prefilled by\s+chat-kserve-prefill-/);
    expect(second).toContain('no prefill pod was called');
    expect(decoder.exec(second)?.[1]).toBeTruthy();
    expect(decoder.exec(second)?.[1]).toBe(decoder.exec(first)?.[1]);
    expect(Number(/(\d+) of them cached/.exec(second)?.[1])).toBeGreaterThan(0);
  });

  it('prints what kubectl shows, a kubeconfig and a curl to try', () => {
    expect(finished.stdout).toMatch(/NAMESPACE\s+NAME\s+URL\s+READY/);
    expect(finished.stdout).toMatch(/default\s+chat\s+http:\/\/\S+\/default\/chat\s+True/);
    expect(finished.stdout).toContain('export KUBECONFIG=');
    expect(finished.stdout).toContain('curl -N http://');
  });

  it('leaves no process and no file', async () => {
    expect(await processesWith(stateHome)).toEqual([]);
    expect(await readdir(join(stateHome, 'signalbox')).catch(() => [])).toEqual([]);
  });
});
