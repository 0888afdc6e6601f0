import { z } from 'zod';
import { AppError } from '../errors.ts';

/** Turns zod schemas into CustomResourceDefinitions: structural OpenAPI v3, CEL rules, printer columns, status subresource. */

export interface JsonSchema {
  readonly [key: string]: unknown;
}

export interface PrinterColumn {
  readonly name: string;
  readonly type: 'string' | 'integer' | 'date' | 'boolean';
  readonly jsonPath: string;
  readonly description?: string;
  /** 0 is always shown, 1 only with `-o wide`. */
  readonly priority?: number;
}

export interface CrdVersion {
  readonly version: string;
  readonly spec: JsonSchema;
  readonly status: JsonSchema;
}

/** One kind. The version said here is stored; `alsoServed` are converted from and to it. */
export interface CrdDefinition extends CrdVersion {
  readonly group: string;
  readonly kind: string;
  readonly plural: string;
  readonly singular: string;
  readonly shortNames?: readonly string[];
  readonly description: string;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly columns: readonly PrinterColumn[];
  readonly isSpecRequired: boolean;
  readonly alsoServed?: readonly CrdVersion[];
  /** The Service that converts. The operator writes its authority, and where it really is. */
  readonly converter?: ServiceReference;
}

export interface ServiceReference {
  readonly namespace: string;
  readonly name: string;
  readonly port: number;
  readonly path: string;
}

export interface CustomResourceDefinition {
  readonly apiVersion: 'apiextensions.k8s.io/v1';
  readonly kind: 'CustomResourceDefinition';
  readonly metadata: { readonly name: string; readonly annotations?: Readonly<Record<string, string>> };
  readonly spec: JsonSchema;
}

/** The CRD of one kind. */
export function renderCrd(definition: CrdDefinition): CustomResourceDefinition {
  const { group, kind, plural, singular, converter } = definition;
  return {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: {
      name: `${plural}.${group}`,
      ...(definition.annotations ? { annotations: definition.annotations } : {}),
    },
    spec: {
      group,
      names: {
        kind,
        listKind: `${kind}List`,
        plural,
        singular,
        ...(definition.shortNames ? { shortNames: definition.shortNames } : {}),
      },
      scope: 'Namespaced',
      ...(converter
        ? {
            conversion: {
              strategy: 'Webhook',
              webhook: { conversionReviewVersions: ['v1'], clientConfig: { service: converter } },
            },
          }
        : {}),
      versions: [definition, ...(definition.alsoServed ?? [])].map((version) => ({
        name: version.version,
        served: true,
        storage: version === definition,
        additionalPrinterColumns: definition.columns,
        subresources: { status: {} },
        schema: {
          openAPIV3Schema: {
            description: definition.description,
            type: 'object',
            ...(definition.isSpecRequired ? { required: ['spec'] } : {}),
            properties: {
              apiVersion: { type: 'string', description: 'Group and version of this object.' },
              kind: { type: 'string', description: 'Kind of this object.' },
              metadata: { type: 'object' },
              spec: version.spec,
              status: version.status,
            },
          },
        },
      })),
    },
  };
}

/** Keys that a structural schema may carry over unchanged. */
const plainKeys = [
  'description',
  'type',
  'format',
  'default',
  'enum',
  'pattern',
  'minimum',
  'maximum',
  'exclusiveMinimum',
  'exclusiveMaximum',
  'minLength',
  'maxLength',
  'minItems',
  'maxItems',
  'minProperties',
  'maxProperties',
  'required',
  'x-kubernetes-preserve-unknown-fields',
  'x-kubernetes-list-type',
  'x-kubernetes-list-map-keys',
  'x-kubernetes-map-type',
  'x-kubernetes-validations',
] as const;

/** Keys that this translation understands; any other means that the API server would refuse or misread the schema. */
const knownKeys: ReadonlySet<string> = new Set([
  ...plainKeys,
  'properties',
  'items',
  'additionalProperties',
  'anyOf',
  'x-kubernetes-int-or-string',
  '$schema',
  'propertyNames',
]);

/**
 * A zod schema as the structural schema of a CRD.
 *
 * @throws AppError `unsupported` naming the path of what a CRD cannot say (unions other than int-or-string, tuples, references)
 */
export function toStructuralSchema(schema: z.ZodType): JsonSchema {
  const json = z.toJSONSchema(schema, { target: 'openapi-3.0', io: 'input', reused: 'inline' });
  return structural(json as JsonSchema, 'schema');
}

function structural(node: JsonSchema, path: string): JsonSchema {
  const unknownKey = Object.keys(node).find((key) => !knownKeys.has(key));
  if (unknownKey !== undefined) {
    throw new AppError('unsupported', `${path}: ${unknownKey} cannot be said in a CRD; describe the field differently`);
  }
  const out: Record<string, unknown> = {};
  for (const key of plainKeys) if (node[key] !== undefined) out[key] = node[key];

  if (node['x-kubernetes-int-or-string'] === true) {
    // The API server wants exactly these two alternatives and no type beside them.
    out.anyOf = [{ type: 'integer' }, { type: 'string' }];
    out['x-kubernetes-int-or-string'] = true;
    return out;
  }
  if (node.anyOf !== undefined) throw new AppError('unsupported', `${path}: a union cannot be said in a CRD`);
  if (typeof node.type !== 'string') throw new AppError('unsupported', `${path}: a CRD field needs one type`);

  if (node.type === 'integer') dropImpliedBounds(out);
  if (node.items !== undefined) out.items = structural(node.items as JsonSchema, `${path}[]`);
  const properties = Object.entries((node.properties ?? {}) as Readonly<Record<string, JsonSchema>>);
  if (properties.length > 0) {
    out.properties = Object.fromEntries(
      properties.map(([name, child]) => [name, structural(child, `${path}.${name}`)]),
    );
  }
  const additional = node.additionalProperties;
  if (additional !== undefined && additional !== false) {
    const isAnything = additional === true || Object.keys(additional as JsonSchema).length === 0;
    if (isAnything) out['x-kubernetes-preserve-unknown-fields'] = true;
    else out.additionalProperties = structural(additional as JsonSchema, `${path}.*`);
  }
  return out;
}

/** The format says int32 or int64 already. */
function dropImpliedBounds(out: Record<string, unknown>): void {
  const widest = out.format === 'int32' ? 2_147_483_647 : Number.MAX_SAFE_INTEGER;
  if (out.maximum === widest) delete out.maximum;
  if (typeof out.minimum === 'number' && out.minimum <= -widest) delete out.minimum;
}

const strictKeys: ReadonlySet<string> = new Set([
  'required',
  'default',
  'pattern',
  'minLength',
  'minItems',
  'minProperties',
  'x-kubernetes-validations',
]);

/**
 * The schema without what only a complete, rendered object can satisfy: a base configuration may hold a part of
 * anything, and template expressions where the text will be. Types stay.
 */
export function relaxSchema(schema: JsonSchema): JsonSchema {
  const out: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(schema)) {
    if (strictKeys.has(key)) continue;
    if (key === 'properties') {
      out.properties = Object.fromEntries(
        Object.entries(value as Readonly<Record<string, JsonSchema>>).map(([name, child]) => [
          name,
          relaxSchema(child),
        ]),
      );
    } else if (key === 'items' || key === 'additionalProperties') out[key] = relaxSchema(value as JsonSchema);
    else if (key === 'x-kubernetes-list-map-keys') {
      // Map keys must be required or defaulted, so a relaxed list is replaced as a whole.
      out['x-kubernetes-list-type'] = 'atomic';
    } else if (!(key === 'x-kubernetes-list-type' && schema['x-kubernetes-list-map-keys'] !== undefined)) {
      out[key] = value;
    }
  }
  return out;
}

/** Whether a value has the types that a structural schema says, at every depth; bounds, patterns and rules are not looked at. */
export function hasTypes(schema: JsonSchema, value: unknown): boolean {
  if (schema['x-kubernetes-int-or-string'] === true) return Number.isInteger(value) || typeof value === 'string';
  switch (schema.type) {
    case 'integer':
      return Number.isInteger(value);
    case 'array':
      return Array.isArray(value) && value.every((item) => hasTypes(schema.items as JsonSchema, item));
    case 'object': {
      if (typeof value !== 'object' || value === null || Array.isArray(value)) return false;
      const properties = (schema.properties ?? {}) as Readonly<Record<string, JsonSchema>>;
      return Object.entries(value).every(([name, child]) => {
        const known = Object.hasOwn(properties, name) ? properties[name] : (schema.additionalProperties as JsonSchema);
        return known === undefined || hasTypes(known, child);
      });
    }
    default:
      return typeof value === schema.type;
  }
}
