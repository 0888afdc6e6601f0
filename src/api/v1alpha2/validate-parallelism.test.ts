import { describe, expect, it } from '@jest/globals';
import type { LLMInferenceService, LLMInferenceServiceSpec } from './llm-inference-service.ts';
import { groupSizeOf } from './parallelism.ts';
import { validateService, warnService } from './validate.ts';

const service = (spec: Partial<LLMInferenceServiceSpec>): LLMInferenceService => ({
  apiVersion: 'serving.kserve.io/v1alpha2',
  kind: 'LLMInferenceService',
  metadata: { name: 'chat', namespace: 'default' },
  spec: { model: { uri: 'hf://a/b' }, ...spec },
});
const told = (spec: Partial<LLMInferenceServiceSpec>, old?: Partial<LLMInferenceServiceSpec>) =>
  validateService(service(spec), old && service(old)).map(({ path, message }) => `${path}: ${message}`);

describe('the size of a group', () => {
  it.each([
    [undefined, undefined],
    [{ tensor: 4 }, undefined],
    [{ pipeline: 3 }, 3],
    [{ data: 8, dataLocal: 2 }, 4],
    [{ data: 1, dataLocal: 2 }, 1],
    [{ data: 8 }, undefined],
  ])('of %j is %s', (parallelism, size) => expect(groupSizeOf(parallelism)).toBe(size));
});

describe('parallelism', () => {
  it.each<[string, Partial<LLMInferenceServiceSpec>]>([
    ['data over nodes', { worker: {}, parallelism: { data: 8, dataLocal: 4, tensor: 2, expert: true } }],
    ['pipelines over nodes', { worker: {}, parallelism: { pipeline: 2 } }],
    ['data on one node', { parallelism: { data: 4, dataLocal: 4 } }],
    ['pipelines and experts on one node', { parallelism: { pipeline: 2, expert: true } }],
    ['a worker whose parallelism comes from a base', { worker: {}, baseRefs: [{ name: 'base' }] }],
    [
      'workers of prefill',
      { prefill: { worker: {}, parallelism: { data: 2, dataLocal: 1 }, rolloutStrategy: { maxUnavailable: 1 } } },
    ],
    [
      'a configuration file where the place is the rank',
      { worker: { containers: [{ name: 'main', args: ['--config=x'] }] }, parallelism: { data: 2, dataLocal: 1 } },
    ],
  ])('accepts %s', (_, spec) => expect(told(spec).filter((text) => !text.includes('not supported yet'))).toEqual([]));

  it.each<[string, Partial<LLMInferenceServiceSpec>, string]>([
    [
      'a worker without parallelism',
      { worker: {}, parallelism: { tensor: 2 } },
      'spec.worker: when worker is specified, parallelism must be configured for either data parallelism or pipeline parallelism',
    ],
    [
      'both kinds',
      { worker: {}, parallelism: { pipeline: 2, data: 2, dataLocal: 1 } },
      'spec.parallelism: cannot set both pipeline parallelism and data parallelism (data or dataLocal) simultaneously',
    ],
    [
      'data alone',
      { worker: {}, parallelism: { data: 2 } },
      'spec.parallelism.dataLocal: dataLocal must be set when data is set',
    ],
    [
      'dataLocal alone, of prefill',
      { prefill: { worker: {}, parallelism: { dataLocal: 2 } } },
      'spec.prefill.parallelism.data: data must be set when dataLocal is set',
    ],
    ['a rest', { worker: {}, parallelism: { data: 5, dataLocal: 2 } }, '5 must be a multiple of dataLocal 2'],
    ['pods that are not described', { parallelism: { data: 4, dataLocal: 2 } }, 'needs 2 pods a replica'],
    [
      'a second configuration file',
      { worker: { containers: [{ name: 'main', args: ['--config', 'x'] }] }, parallelism: { data: 4, dataLocal: 2 } },
      '--config is where a worker finds its first data-parallel rank',
    ],
    [
      'a rollout that replaces no group',
      { worker: {}, parallelism: { pipeline: 2 }, rolloutStrategy: { maxUnavailable: 0 } },
      'spec.rolloutStrategy.maxSurge: maxSurge is required for multi-node workloads when maxUnavailable is 0',
    ],
    ['a worker container twice', { worker: { containers: [{ name: 'a' }, { name: 'a' }] } }, 'is there twice'],
  ])('refuses %s', (_, spec, message) => expect(told(spec).join('\n')).toContain(message));

  it('keeps the size of groups', () => {
    const of = (data: number) => ({ worker: {}, parallelism: { data, dataLocal: 2 } });
    expect(told(of(8), of(4))).toEqual([
      'spec.parallelism: total parallelism size is immutable, previous size 2, curr size 4',
    ]);
    expect(told({ parallelism: { tensor: 2 } }, of(4))).toEqual([]);
    expect(told(of(4), { parallelism: { tensor: 2 } })).toEqual([]);
  });

  it.each<[string, Partial<LLMInferenceServiceSpec>, readonly string[]]>([
    ['enough', { parallelism: { data: 2, dataLocal: 2, tensor: 2 } }, []],
    ['too few for the ranks of one pod', { parallelism: { data: 4, dataLocal: 4, tensor: 2 } }, ['needs 8 GPUs a pod']],
    ['too few for stages on one node', { parallelism: { pipeline: 8 } }, ['needs 8 GPUs a pod']],
    ['enough for stages on several', { parallelism: { pipeline: 8, tensor: 4 }, worker: {} }, []],
  ])('judges GPUs that are %s', (_, spec, expected) => {
    const main = { name: 'main', image: 'vllm/vllm-openai:v0.12.0', resources: { limits: { 'nvidia.com/gpu': '4' } } };
    const issues = told({ ...spec, template: { containers: [main] } });
    expect(issues).toHaveLength(expected.length);
    for (const [i, text] of expected.entries()) expect(issues[i]).toContain(text);
    // What a command makes of the parallelism is its own affair.
    const own = { ...spec, template: { containers: [{ ...main, command: ['serve'] }] } };
    expect(told(own)).toEqual([]);
    expect(warnService(service(own))).toHaveLength(expected.length);
  });

  it('judges GPUs of every maker, and no parts of one', () => {
    const limited = (limits: Readonly<Record<string, string>>) =>
      told({ parallelism: { tensor: 2 }, template: { containers: [{ name: 'main', resources: { limits } }] } });
    expect(limited({ 'amd.com/gpu': '1' })).toHaveLength(1);
    expect(limited({ 'nvidia.com/mig-1g.5gb': '1' })).toEqual([]);
    expect(limited({ cpu: '1' })).toEqual([]);
  });
});
