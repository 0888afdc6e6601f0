import { z } from 'zod';
import { type Filter, type PluginFactory, parseParameters } from '../../framework/plugin.ts';

const operators = {
  '<': (a: number, b: number) => a < b,
  '<=': (a: number, b: number) => a <= b,
  '>': (a: number, b: number) => a > b,
  '>=': (a: number, b: number) => a >= b,
  '==': (a: number, b: number) => a === b,
  '!=': (a: number, b: number) => a !== b,
} as const;
const words = {
  lessThan: '<',
  lessThanOrEqual: '<=',
  greaterThan: '>',
  greaterThanOrEqual: '>=',
  equal: '==',
  notEqual: '!=',
} as const;

const parameters = z.strictObject({
  /** Key of a custom metric of the `core-metrics-extractor`. */
  attribute: z.string().min(1),
  producer: z.string().optional(),
  algorithm: z.strictObject({
    type: z.literal('threshold').default('threshold'),
    threshold: z.strictObject({
      operator: z.union([
        z.enum(Object.keys(operators) as (keyof typeof operators)[]),
        z.enum(Object.keys(words) as (keyof typeof words)[]).transform((word) => words[word]),
      ]),
      value: z.number(),
    }),
  }),
  /** What becomes of endpoints that do not tell it. */
  onMissing: z.enum(['Pass', 'Fail']).default('Pass'),
  /** With nobody left, keep everybody. */
  fallbackOnEmpty: z.boolean().default(false),
});

/** Keeps endpoints whose custom metric compares with a threshold as told; without fresh metrics it counts as missing. */
export const createEndpointAttributeFilter: PluginFactory = (context): Filter => {
  const { attribute, algorithm, onMissing, fallbackOnEmpty } = parseParameters(context, parameters);
  const { operator, value: limit } = algorithm.threshold;
  const holds = operators[operator];
  return {
    type: context.type,
    name: context.name,
    filter: (_cycle, endpoints) => {
      const kept = endpoints.filter(({ load }) => {
        const value = load.isKnown ? load.custom?.[attribute] : undefined;
        return value === undefined ? onMissing === 'Pass' : holds(value, limit);
      });
      return kept.length === 0 && fallbackOnEmpty ? endpoints : kept;
    },
  };
};
