import { describe, expect, it } from '@jest/globals';
import type { LLMInferenceServiceConfig } from '../../src/api/v1alpha2/llm-inference-service-config.ts';
import { shippedPresets } from '../../src/render/shipped-presets.ts';
import { findFault } from './readiness.ts';

const config = (spec: object): LLMInferenceServiceConfig => ({
  apiVersion: 'serving.kserve.io/v1alpha2',
  kind: 'LLMInferenceServiceConfig',
  metadata: { name: 'base', namespace: 'default' },
  spec: spec as NonNullable<LLMInferenceServiceConfig['spec']>,
});
const main = (parts: object) => ({ containers: [{ name: 'main', ...parts }] });

describe('a configuration is ready', () => {
  it.each(
    shippedPresets({ namespace: 'system', prefix: 'kserve-', version: '0.0.0' }).map(
      (one) => [one.metadata.name, one] as const,
    ),
  )('%s', (_name, preset) => {
    expect(findFault(preset, 'system')).toBeUndefined();
  });

  it.each<[string, object]>([
    ['that says nothing', {}],
    [
      'that reads what services may set',
      { template: main({ args: ['--tp={{ .Spec.Parallelism.Tensor }}', '{{ .Spec.Prefill.Parallelism.Data }}'] }) },
    ],
    ['that reads what it sets', { labels: { team: 'red' }, annotations: { team: '{{ .Spec.Labels.team }}' } }],
    ['that makes numbers', { template: main({ livenessProbe: { httpGet: { path: '/', port: '{{ 8000 }}' } } }) }],
  ])('%s', (_what, spec) => {
    expect(findFault(config(spec), 'system')).toBeUndefined();
  });
});

describe('a configuration is not ready', () => {
  it.each<[string, object, string, RegExp]>([
    ['whose template does not parse', { labels: { a: '{{ if }}' } }, 'InvalidTemplate', /spec\.labels\.a/],
    ['that bears a base of its own', { baseRefs: [{ name: 'x' }] }, 'InvalidSpec', /baseRefs is not a permitted field/],
    [
      'that asks for an unknown field',
      { labels: { a: '{{ .Spec.Nothing }}' } },
      'InvalidRenderedConfig',
      /sample service: spec\.labels\.a: .*Nothing.*default\/base/,
    ],
    [
      'that fails only with TLS',
      { labels: { a: '{{ if .GlobalConfig.EnableTLS }}{{ .Spec.Nothing }}{{ end }}' } },
      'InvalidRenderedConfig',
      /Nothing/,
    ],
    ['with a value of the wrong kind', { replicas: 'many' }, 'InvalidRenderedConfig', /spec\.replicas/],
  ])('%s', (_what, spec, reason, message) => {
    expect(findFault(config(spec), 'system')).toEqual({ reason, message: expect.stringMatching(message) });
  });
});
