import { z } from 'zod';

/**
 * Building blocks of the schemas under `src/api`: the shapes that a CRD can express and zod has no word for.
 * `crd.ts` understands the `x-kubernetes-*` keys that they carry.
 */

/** T with every property and list readonly, at any depth. */
export type Immutable<T> = T extends (...args: never[]) => unknown
  ? T
  : T extends readonly (infer Item)[]
    ? readonly Immutable<Item>[]
    : T extends object
      ? { readonly [K in keyof T]: Immutable<T[K]> }
      : T;

/** T with every property optional, at any depth; lists stay whole. */
export type PartialDeep<T> = T extends readonly unknown[]
  ? T
  : T extends object
    ? { readonly [K in keyof T]?: PartialDeep<T[K]> }
    : T;

/** A CEL rule of a CRD: evaluated by the API server on every write. */
export interface CelRule {
  readonly rule: string;
  readonly message: string;
}

/** `.meta(...)` argument for CEL rules on one schema node. */
export const cel = (...rules: readonly CelRule[]): { readonly 'x-kubernetes-validations': readonly CelRule[] } => ({
  'x-kubernetes-validations': rules,
});

export const int32 = (min: number, max = 2_147_483_647): z.ZodNumber =>
  z.int32().min(min).max(max).meta({ format: 'int32' });

/** A number or a text such as `25%`. */
export const intOrString = (): z.ZodUnion<readonly [z.ZodInt, z.ZodString]> =>
  z.union([z.int(), z.string()]).meta({ 'x-kubernetes-int-or-string': true });

/** A Kubernetes quantity such as `100Gi`. */
export const quantity = (): z.ZodUnion<readonly [z.ZodInt, z.ZodString]> =>
  z.union([z.int(), z.string()]).meta({
    'x-kubernetes-int-or-string': true,
    pattern:
      '^(\\+|-)?(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\\+|-)?(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]+))))?$',
  });

/** An object whose content the API server keeps as it is. T is what its readers expect to find. */
export const preserved = <T extends object>(description: string): z.ZodType<T, T> =>
  z.looseObject({}).describe(description) as unknown as z.ZodType<T, T>;

export const stringMap = (): z.ZodRecord<z.ZodString, z.ZodString> => z.record(z.string(), z.string());

/** The name of an object in the same namespace. */
export const localObjectReference = (): z.ZodObject<{ name: z.ZodString }> =>
  z.object({ name: z.string().min(1).max(253) });

/** A CRD-visible date and time. */
export const dateTime = (): z.ZodString => z.string().meta({ format: 'date-time' });

/** A status condition, in the shape of `Condition` of conditions.ts. */
export const condition = () =>
  z.object({
    type: z.string().describe('What this says something about, such as Ready.'),
    status: z.enum(['True', 'False', 'Unknown']),
    reason: z.string().optional().describe('One word for tools.'),
    message: z.string().optional().describe('A sentence for people.'),
    severity: z.string().optional().describe('Empty for conditions that count, Info for those that only tell.'),
    observedGeneration: z.int().meta({ format: 'int64' }).optional(),
    lastTransitionTime: dateTime().optional(),
  });
