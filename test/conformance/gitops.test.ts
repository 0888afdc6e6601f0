import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from '@jest/globals';
import { Lua } from 'wasmoon-lua5.1';
import { conditionTypes, passingReasons, reasons } from '../../src/api/conditions.ts';
import type { LLMInferenceService } from '../../src/api/v1alpha2/llm-inference-service.ts';
import { refusedStatus } from '../../src/plan/status.ts';
import { llmService } from '../builders/service.ts';

/** What Argo CD and Flux make of our statuses: the health rules in a real Lua 5.1, and kstatus. */

const root = join(import.meta.dirname, '..', '..');

/** A value as Lua source. */
function toLua(value: unknown): string {
  if (value === null || value === undefined) return 'nil';
  if (Array.isArray(value)) return `{${value.map(toLua).join(', ')}}`;
  if (typeof value === 'object')
    return `{${Object.entries(value)
      .map(([key, child]) => `[${JSON.stringify(key)}] = ${toLua(child)}`)
      .join(', ')}}`;
  return JSON.stringify(value);
}

async function healthOf(kind: string, object: unknown): Promise<readonly [string, string]> {
  const rule = readFileSync(join(root, 'config/argocd/health', `${kind}.lua`), 'utf8');
  const lua = await Lua.create();
  try {
    // As Argo CD calls it: the object in a global, the rule's result returned.
    const text = `obj = ${toLua(object)}\nlocal health = (function()\n${rule}\nend)()\nreturn health.status .. "\\n" .. (health.message or "")`;
    const [status = '', message = ''] = String(await lua.doString(text)).split('\n');
    return [status, message];
  } finally {
    lua.global.close();
  }
}

/** kstatus of an object without rules of its own: InProgress while not looked at or not Ready. */
function kstatus(object: Pick<LLMInferenceService, 'metadata' | 'status'>): string {
  const { observedGeneration, conditions = [] } = object.status ?? {};
  if (observedGeneration !== undefined && observedGeneration !== object.metadata.generation) return 'InProgress';
  const is = (type: string, status: string) => conditions.some((one) => one.type === type && one.status === status);
  if (is('Stalled', 'True')) return 'Failed';
  if (is('Reconciling', 'True')) return 'InProgress';
  const ready = conditions.find(({ type }) => type === 'Ready');
  return ready === undefined || ready.status === 'True' ? 'Current' : 'InProgress';
}

const now = '2030-01-01T00:00:00Z';
const condition = (type: string, status: string, reason?: string, message?: string) => ({
  type,
  status,
  observedGeneration: 1,
  lastTransitionTime: now,
  ...(reason ? { reason } : {}),
  ...(message ? { message } : {}),
});
const ready = { observedGeneration: 1, url: 'http://h/default/chat', conditions: [condition('Ready', 'True')] };

describe('the health of a service', () => {
  const service = (parts: object = {}) => ({ ...llmService(), ...parts });
  it.each([
    ['new', service(), 'Progressing', 'waiting for the operator'],
    ['ready', service({ status: ready }), 'Healthy', 'http://h/default/chat'],
    [
      'changed since',
      service({ metadata: { name: 'chat', generation: 2 }, status: ready }),
      'Progressing',
      'waiting for the operator to look at the latest change',
    ],
    [
      'stopped',
      service({
        metadata: { name: 'chat', generation: 1, annotations: { 'serving.kserve.io/stop': 'true' } },
        status: ready,
      }),
      'Suspended',
      'stopped by annotation serving.kserve.io/stop',
    ],
    [
      'past its deadline',
      service({
        status: {
          observedGeneration: 1,
          conditions: [condition('Ready', 'False', 'ProgressDeadlineExceeded', 'too long')],
        },
      }),
      'Degraded',
      'too long',
    ],
    [
      'unknown',
      service({ status: { observedGeneration: 1, conditions: [condition('Ready', 'Unknown')] } }),
      'Progressing',
      '',
    ],
  ])('that is %s', async (_what, object, status, message) => {
    expect(await healthOf('LLMInferenceService', object)).toEqual([status, message]);
  });

  it('follows every reason that the operator knows', async () => {
    for (const reason of Object.values(reasons)) {
      const status = refusedStatus(
        llmService({ status: ready as never }),
        { condition: conditionTypes.mainWorkloadReady, reason, message: 'why' },
        now,
      );
      const expected = passingReasons.has(reason) ? 'Progressing' : 'Degraded';
      expect([reason, ...(await healthOf('LLMInferenceService', service({ status })))]).toEqual([
        reason,
        expected,
        'why',
      ]);
    }
    // An interpreter for each of them.
  }, 60_000);

  it('is read by kstatus without rules', () => {
    expect(kstatus(llmService({ status: ready as never }))).toBe('Current');
    expect(kstatus(llmService({ generation: 2, status: ready as never }))).toBe('InProgress');
    const refused = refusedStatus(
      llmService(),
      { condition: conditionTypes.presetsCombined, reason: reasons.invalidSpec, message: 'm' },
      now,
    );
    expect(kstatus(llmService({ status: refused }))).toBe('InProgress');
  });
});

describe('the health of a base configuration', () => {
  it.each([
    ['there', {}, 'Healthy'],
    ['going', { metadata: { deletionTimestamp: now } }, 'Progressing'],
    ['not well', { status: { conditions: [condition('Ready', 'False', 'X', 'm')] } }, 'Degraded'],
  ])('that is %s', async (_what, object, status) => {
    expect((await healthOf('LLMInferenceServiceConfig', object))[0]).toBe(status);
  });
});
