import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { type ClusterRecord, claimRecord, listRecords, readRecord, startOf, writeRecord } from './cluster-record.ts';

describe('the record of a cluster', () => {
  let root: string;
  const record = (name: string, more: Partial<ClusterRecord> = {}): ClusterRecord => ({
    name,
    pid: process.pid,
    phase: 'starting',
    stateDir: join(root, name),
    logsDir: join(root, name, 'logs'),
    startedAt: '2026-01-01T00:00:00Z',
    ...more,
  });

  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'signalbox-record-'));
  });
  afterEach(() => rm(root, { recursive: true, force: true }));

  it('belongs to the first who claims it', async () => {
    const claims = await Promise.all([claimRecord(record('a')), claimRecord(record('a', { pid: 1 }))]);
    expect(claims.filter(Boolean)).toHaveLength(1);
    expect(await readdir(join(root, 'a'))).toEqual(['cluster.json']);
  });

  it('is told while its process lives, and shows its newest state', async () => {
    await claimRecord(record('a'));
    await writeRecord(record('a', { phase: 'ready', server: 'https://127.0.0.1:1' }));
    expect(await listRecords(root)).toEqual([record('a', { phase: 'ready', server: 'https://127.0.0.1:1' })]);
    expect(await readRecord(root, 'b')).toBeUndefined();
  });

  it('goes, with everything beside it, when its process has gone or was another', async () => {
    const child = spawn('true');
    const gone = child.pid ?? 0;
    await once(child, 'exit');
    await claimRecord(record('killed', { pid: gone }));
    await writeFile(join(root, 'killed', 'data'), 'x');
    await claimRecord(record('reused', { pidStart: '1' }));
    await claimRecord(record('own', { pidStart: startOf(process.pid) ?? '' }));
    await mkdir(join(root, 'broken'));
    await writeFile(join(root, 'broken', 'cluster.json'), '{"pid":');
    expect((await listRecords(root)).map(({ name }) => name)).toEqual(process.platform === 'linux' ? ['own'] : []);
    expect(await readdir(root)).toEqual(['own']);
  });
});
