import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isMap, isScalar, isSeq, parseDocument, type YAMLMap } from 'yaml';
import { operatorSettings } from '../../controllers/config.ts';
import { AppError } from '../errors.ts';
import type { Setting } from '../flags.ts';
import type { Generator } from './generator.ts';

type Schema = Readonly<Record<string, unknown>>;
type FlagOfValue = Pick<Setting<unknown>, 'description' | 'placeholder'>;

/** Values that the chart hands to the operator as flags: they may be what the flag may be. */
const flags: Readonly<Record<string, FlagOfValue>> = {
  'gateway.port': operatorSettings.gatewayPort,
  urlScheme: operatorSettings.urlScheme,
  'webhook.port': operatorSettings.webhookPort,
  'webhook.servicePort': operatorSettings.webhookServicePort,
  'storage.huggingFaceLoader': operatorSettings.huggingFaceLoader,
  'storage.ociModelMode': operatorSettings.ociModelMode,
  'images.flavour': operatorSettings.imagesFlavour,
  'network.policies': operatorSettings.networkPolicies,
  sidecarSessions: operatorSettings.sidecarSessions,
  workers: operatorSettings.workers,
  logLevel: operatorSettings.logLevel,
  metricsPort: operatorSettings.metricsPort,
  healthPort: operatorSettings.healthPort,
};

const digest: Schema = { pattern: '^(sha256:[0-9a-f]{64})?$' };

/** What neither the file nor a flag says. */
const extra: Readonly<Record<string, Schema>> = {
  'images.pullPolicy': { enum: ['Always', 'IfNotPresent', 'Never'] },
  'webhook.certificates': { enum: ['own', 'cert-manager'] },
  'webhook.issuer': { pattern: '^((Issuer|ClusterIssuer)/[a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$' },
  'test.service': { pattern: '^([a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$' },
  'images.digests.operator': digest,
  'images.digests.epp': digest,
  'images.digests.sidecar': digest,
  'webhook.timeoutSeconds': { minimum: 1, maximum: 30 },
};

/** Maps with content in the file that take anything all the same. */
const openMaps: ReadonlySet<string> = new Set(['resources', 'observability.dashboards.labels']);

/** The schema by which Helm refuses misspelt and wrong values, from values.yaml, its comments and the operator's flags. */
export const helmSchema: Generator = {
  name: 'helm schema',
  generate: async () => {
    const file = join(import.meta.dirname, '..', '..', 'helm/signalbox/values.yaml');
    const document = parseDocument(await readFile(file, 'utf8'));
    if (!isMap(document.contents)) throw new AppError('invalid', `${file}: must be a mapping of values`);
    const properties = propertiesOf(document.contents, '');
    const schema = {
      $schema: 'http://json-schema.org/draft-07/schema#',
      title: 'Values of the Signalbox chart',
      type: 'object',
      additionalProperties: false,
      properties: { ...properties, global: { type: 'object', description: "Helm's own, for charts inside charts." } },
    };
    return new Map([['helm/signalbox/values.schema.json', `${JSON.stringify(schema, null, 2)}\n`]]);
  },
};

function propertiesOf(map: YAMLMap, prefix: string): Record<string, Schema> {
  const properties: Record<string, Schema> = {};
  for (const [i, pair] of map.items.entries()) {
    const key = isScalar(pair.key) ? String(pair.key.value) : String(pair.key);
    const path = prefix === '' ? key : `${prefix}.${key}`;
    // A comment before the first key of a map hangs on the map.
    const comment =
      (isScalar(pair.key) ? pair.key.commentBefore : undefined) ?? (i === 0 ? map.commentBefore : undefined);
    const text = comment
      ?.split(/\n\s*\n/)
      .at(-1)
      ?.replaceAll(/\s*\n\s*/g, ' ')
      .trim();
    const setting = flags[path];
    const description = text || setting?.description;
    properties[key] = {
      ...(description ? { description } : {}),
      ...typeOf(pair.value, path),
      ...(setting ? boundsOf(setting) : {}),
      ...extra[path],
    };
  }
  return properties;
}

function typeOf(value: unknown, path: string): Schema {
  if (isSeq(value)) return { type: 'array' };
  if (isMap(value)) {
    // An empty map in the file is one that takes anything.
    if (value.items.length === 0 || openMaps.has(path)) return { type: 'object' };
    return { type: 'object', additionalProperties: false, properties: propertiesOf(value, path) };
  }
  const plain = isScalar(value) ? value.value : value;
  if (typeof plain === 'number') return { type: 'integer', minimum: 0 };
  if (typeof plain === 'boolean') return { type: 'boolean' };
  return { type: 'string' };
}

function boundsOf(setting: FlagOfValue): Schema {
  if (setting.placeholder?.includes('|')) return { enum: setting.placeholder.split('|') };
  if (setting.placeholder === 'PORT') return { minimum: 1, maximum: 65_535 };
  return { minimum: 1 };
}
