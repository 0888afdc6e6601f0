import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from '@jest/globals';
import { parse, parseAllDocuments, stringify } from 'yaml';
import type { LLMInferenceService } from '../../src/api/v1alpha2/llm-inference-service.ts';
import type { LLMInferenceServiceConfig } from '../../src/api/v1alpha2/llm-inference-service-config.ts';
import { isStopped } from '../../src/plan/status.ts';
import { combine } from '../../src/render/combine.ts';
import type { Platform } from '../../src/render/input.ts';
import { render } from '../../src/render/render.ts';
import { modelRoutingHeader } from '../../src/render/routing/rules.ts';
import { shippedPresets } from '../../src/render/shipped-presets.ts';
import { platform } from '../builders/service.ts';

/**
 * `<case>/input.yaml` holds a `service`, or the `sample` that is one, the `configs` that it is laid over, and what differs of the `platform`;
 * `<case>/expected.yaml` every manifest of it. UPDATE_GOLDEN=1 rewrites the latter.
 */
interface Input {
  readonly sample?: string;
  readonly service?: LLMInferenceService;
  /** Base configurations of the system namespace. */
  readonly configs?: readonly LLMInferenceServiceConfig[];
  readonly platform?: Partial<Platform>;
}

const root = join(import.meta.dirname, '..', '..');
const samples = join(root, 'config', 'samples');
const folder = join(root, 'test', 'golden');
const cases = readdirSync(folder, { withFileTypes: true }).flatMap((entry) =>
  entry.isDirectory() ? [entry.name] : [],
);

function readSample(file: string): readonly (LLMInferenceService | LLMInferenceServiceConfig)[] {
  return parseAllDocuments(readFileSync(join(samples, file), 'utf8')).map((document) => document.toJS());
}

const shipped = shippedPresets({ namespace: 'signalbox-system', prefix: 'kserve-', version: '0.0.0' });

function renderCase(name: string, installed: readonly LLMInferenceServiceConfig[] = []): string {
  const input: Input = parse(readFileSync(join(folder, name, 'input.yaml'), 'utf8'));
  const sampled = input.service ? [] : readSample(`${input.sample ?? name}.yaml`);
  const service =
    input.service ?? sampled.find((one): one is LLMInferenceService => one.kind === 'LLMInferenceService');
  if (!service) throw new Error(`${name}: the sample has no LLMInferenceService`);
  const configs = [
    ...(input.configs ?? []),
    ...sampled.filter((one): one is LLMInferenceServiceConfig => one.kind === 'LLMInferenceServiceConfig'),
    ...installed,
  ];
  const live = {
    ...service,
    metadata: { namespace: 'default', uid: '00000000-0000-4000-8000-000000000001', generation: 1, ...service.metadata },
  };
  const facts = platform(input.platform);
  const combination = combine({
    service: live,
    find: (wanted) => configs.find(({ metadata }) => metadata.name === wanted),
    prefix: 'kserve-',
    settings: {
      systemNamespace: 'signalbox-system',
      gatewayName: facts.gateway.name,
      gatewayNamespace: facts.gateway.namespace,
      enableTls: facts.tls !== undefined,
      modelRoutingHeader,
    },
  });
  if (combination.kind !== 'combined') throw new Error(combination.message);
  const manifests = isStopped(live) ? [] : render({ service: live, effective: combination.effective, platform: facts });
  return manifests.map((manifest) => stringify(manifest, { aliasDuplicateObjects: false })).join('---\n');
}

describe('rendered manifests', () => {
  it.each(cases)('%s is as expected', (name) => {
    const actual = renderCase(name);
    const path = join(folder, name, 'expected.yaml');
    if (process.env.UPDATE_GOLDEN === '1') writeFileSync(path, actual);
    expect(existsSync(path)).toBe(true);
    expect(actual).toBe(readFileSync(path, 'utf8'));
  });

  // Presets repeat what is built in, so that people see it and may change it.
  it.each(cases)('%s is the same with the shipped presets installed', (name) => {
    expect(renderCase(name, shipped)).toBe(renderCase(name));
  });

  it('cover every sample', () => {
    const covered = cases.map((name) => {
      const input: Input = parse(readFileSync(join(folder, name, 'input.yaml'), 'utf8'));
      return input.service ? undefined : `${input.sample ?? name}.yaml`;
    });
    const present = readdirSync(samples).filter((file) => file.endsWith('.yaml'));
    expect(present.filter((file) => !covered.includes(file))).toEqual([]);
  });
});
