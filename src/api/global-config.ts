import { z } from 'zod';
import type { Immutable } from './fields.ts';

/** What ConfigMap `inferenceservice-config` may set for every service: its keys, and the values that are read of each. */

const quantity = () => z.string().regex(/^\d+(\.\d+)?([mkMGTP]|[KMGTP]i)?$/, 'write a quantity such as 100m or 1Gi');
const name = () => z.string().regex(/^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?$/, 'write the name of an object');
const text = () => z.string();

/** Key → field → how its value is read. Fields that are not listed concern other parts of KServe. */
const keys = {
  ingress: {
    kserveIngressGateway: z
      .string()
      .regex(/^[a-z0-9-]{1,63}\/[a-z0-9.-]{1,253}$/, 'write namespace/name of a Gateway')
      .transform((value) => {
        const [namespace = '', gateway = ''] = value.split('/');
        return { namespace, name: gateway };
      }),
    urlScheme: z.enum(['http', 'https'], 'write http or https'),
    enableLLMInferenceServiceTLS: z.boolean('write true or false'),
    disableHTTPRouteTimeout: z.boolean('write true or false'),
    modelBasedRoutingHeaderName: z.string().regex(/^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}$/, 'write the name of a header'),
    modelBasedRoutingMode: z.enum(['enabled', 'forced', 'disabled'], 'write enabled, forced or disabled'),
  },
  storageInitializer: {
    image: z.string().min(1, 'write an image'),
    cpuRequest: quantity(),
    cpuLimit: quantity(),
    memoryRequest: quantity(),
    memoryLimit: quantity(),
    caBundleConfigMapName: name(),
    caBundleVolumeMountPath: z.string().startsWith('/', 'write an absolute path'),
    enableModelcar: z.boolean('write true or false'),
    ociModelMode: z.enum(['modelcar', 'native'], 'write modelcar or native'),
    cpuModelcar: quantity(),
    memoryModelcar: quantity(),
    uidModelcar: z.int('write a number').min(0, 'write 0 or more'),
  },
  credentials: {
    storageSpecSecretName: name(),
    storageSecretNameAnnotation: text().min(1, 'write the name of an annotation'),
    gcs: z.object({ gcsCredentialFileName: text().optional() }),
    s3: z.object({
      s3AccessKeyIDName: text().optional(),
      s3SecretAccessKeyName: text().optional(),
      s3Endpoint: text().optional(),
      s3UseHttps: text().optional(),
      s3Region: text().optional(),
      s3VerifySSL: text().optional(),
      s3UseVirtualBucket: text().optional(),
      s3UseAnonymousCredential: text().optional(),
      s3CABundleConfigMap: text().optional(),
      s3CABundle: text().optional(),
    }),
  },
  scheduler: {
    /** The first is written, all are read. */
    expirationAnnotations: z.array(text().min(1)).min(1, 'write at least one annotation'),
  },
  'autoscaling-wva-controller-config': {
    prometheus: z.object({
      url: z.string().regex(/^(https?:\/\/\S+)?$/, 'write a URL with http:// or https://'),
      tlsInsecureSkipVerify: z.boolean().optional(),
      authModes: text().optional(),
      triggerAuthName: name().optional(),
      triggerAuthKind: z.enum(['', 'TriggerAuthentication', 'ClusterTriggerAuthentication']).optional(),
    }),
  },
  localModel: {
    enabled: z.boolean('write true or false'),
    jobNamespace: name(),
    defaultJobImage: text(),
    fsGroup: z.int('write a number').min(0, 'write 0 or more'),
    disableVolumeManagement: z.boolean('write true or false'),
  },
} as const satisfies Readonly<Record<string, Readonly<Record<string, z.ZodType>>>>;

type Keys = typeof keys;

/** Every key is there, with the values that were given and could be read. */
export type GlobalValues = {
  readonly [Key in keyof Keys]: { readonly [Field in keyof Keys[Key]]?: Immutable<z.output<Keys[Key][Field]>> };
};

export const noGlobalValues: GlobalValues = {
  ingress: {},
  storageInitializer: {},
  credentials: {},
  scheduler: {},
  'autoscaling-wva-controller-config': {},
  localModel: {},
};

type Json = Readonly<Record<string, unknown>>;

export interface ParsedGlobalConfig {
  readonly values: GlobalValues;
  /** Each begins with the key, and the field where it is one. */
  readonly problems: readonly string[];
}

/**
 * The values of a ConfigMap's `data`, and what is wrong with it. In place of a value that is wrong stands that of
 * `before`, the last good ones; so do all values of a key whose text is not a JSON object. What is left out is unset.
 */
export function parseGlobalConfig(data: Readonly<Record<string, string>>, before: GlobalValues): ParsedGlobalConfig {
  const parsed: Record<string, unknown> = {};
  const broken: string[] = [];
  const problems: string[] = [];
  for (const key of Object.keys(keys)) {
    const source = data[key]?.trim() ?? '';
    if (source === '') continue;
    try {
      parsed[key] = JSON.parse(source);
    } catch (thrown) {
      broken.push(key);
      problems.push(`${key}: ${thrown instanceof Error ? thrown.message : 'not JSON'}; write a JSON object`);
    }
  }
  const read = readGlobalValues(parsed, before);
  const kept = Object.fromEntries(broken.map((key) => [key, before[key as keyof GlobalValues]]));
  return { values: { ...read.values, ...kept }, problems: [...problems, ...read.problems] };
}

/** The same of keys that are objects already, as the chart has them. */
export function readGlobalValues(given: Json, before: GlobalValues): ParsedGlobalConfig {
  const problems: string[] = [];
  const values: Record<string, Json> = {};
  for (const [key, fields] of Object.entries(keys)) {
    const old: Json = before[key as keyof GlobalValues];
    const value = given[key];
    if (value === undefined || value === null) values[key] = {};
    else if (typeof value !== 'object' || Array.isArray(value)) {
      problems.push(`${key}: not an object; write a JSON object`);
      values[key] = old;
    } else values[key] = readFields(key, fields, value as Json, old, problems);
  }
  return { values: values as unknown as GlobalValues, problems };
}

function readFields(
  key: string,
  fields: Readonly<Record<string, z.ZodType>>,
  given: Json,
  before: Json,
  problems: string[],
): Json {
  const values: Record<string, unknown> = {};
  for (const [field, schema] of Object.entries(fields)) {
    const value = given[field];
    if (value === undefined || value === null) continue;
    const parsed = schema.safeParse(value);
    if (parsed.success) values[field] = parsed.data;
    else {
      const remedy = parsed.error.issues
        .map(({ path, message }) => [...path.map(String), message].join(': '))
        .join(', ');
      problems.push(`${key}.${field}: ${JSON.stringify(value)}: ${remedy}`);
      if (before[field] !== undefined) values[field] = before[field];
    }
  }
  return values;
}

/** One over the other, value by value. */
export function mergeGlobalValues(lower: GlobalValues, higher: GlobalValues): GlobalValues {
  return Object.fromEntries(
    Object.entries(lower).map(([key, fields]) => [key, { ...fields, ...higher[key as keyof GlobalValues] }]),
  ) as unknown as GlobalValues;
}
