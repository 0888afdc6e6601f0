import { z } from 'zod';
import { AppError } from '../../errors.ts';
import { parseDurationMs } from '../../flags.ts';
import { parseQuantity, quantityToNumber } from '../../kube/quantity.ts';
import {
  type FairnessPolicy,
  isFairnessPolicy,
  isOrderingPolicy,
  isSaturationDetector,
  isUsageLimitPolicy,
  type OrderingPolicy,
  type SaturationDetector,
  type UsageLimitPolicy,
} from '../framework/flow-policy.ts';
import type { Plugin } from '../framework/plugin.ts';
import type { FlowSettings } from './flow-control.ts';
import type { BandSettings } from './queue.ts';

const amount = z.union([z.string(), z.number()]).transform((value, context) => {
  const text = String(value);
  const number = parseQuantity(text) === undefined ? Number.NaN : Math.floor(quantityToNumber(text));
  if (number >= 0) return number;
  context.addIssue({ code: 'custom', message: `must be an amount such as 5000 or 1Gi, not ${text}` });
  return 0;
});
const duration = z.string().transform((text, context) => {
  const ms = parseDurationMs(text);
  if (ms !== undefined && ms > 0) return ms;
  context.addIssue({ code: 'custom', message: `must be a duration such as 60s, not ${text}` });
  return 1;
});
const reference = z.strictObject({ pluginRef: z.string() });
const policyRefs = { fairnessPolicyRef: z.string().optional(), orderingPolicyRef: z.string().optional() };
const band = { maxBytes: amount.default(1_000_000_000), maxRequests: amount.default(5000), ...policyRefs };

/** The part `flowControl` of an EndpointPickerConfig. */
export const flowControlShape = {
  maxBytes: amount.default(0),
  maxRequests: amount.default(0),
  defaultRequestTTL: duration.default(60_000),
  noEndpointRequestTTL: duration.optional(),
  defaultPriorityBand: z.strictObject(band).optional(),
  defaultNegativePriorityBand: z.strictObject(band).optional(),
  priorityBands: z
    .array(z.strictObject({ priority: z.number().int(), ...band }))
    .max(256)
    .default([]),
  usageLimitPolicyPluginRef: z.string().optional(),
  saturationDetector: reference.optional(),
  enableEviction: z.boolean().default(false),
};

export type FlowControlConfig = z.infer<z.ZodObject<typeof flowControlShape>>;
export type BandConfig = z.infer<z.ZodObject<typeof band>>;

/** What a configuration says of flow control; `control` only with the feature gate. */
export interface FlowConfig {
  readonly control: FlowControlConfig | undefined;
  /** Name of the plugin that detects saturation, and the field that says so. */
  readonly detector: { readonly name: string; readonly path: string } | undefined;
}

/**
 * Flow control with the plugins that a configuration names, or those of the default types.
 *
 * @param makeDefault the plugin of a type with its default parameters
 * @throws AppError `invalid` naming the field whose plugin is missing or of another kind
 */
export function buildFlow(
  { control, detector }: FlowConfig,
  plugins: readonly Plugin[],
  makeDefault: (type: string) => Plugin,
): { readonly detector: SaturationDetector; readonly settings: FlowSettings | undefined } {
  const made = new Map<string, Plugin>();
  const find = <T extends Plugin>(
    name: string | undefined,
    path: string,
    type: string,
    is: (plugin: Plugin) => plugin is T,
    what: string,
  ): T => {
    let plugin = plugins.find((candidate) => candidate.name === (name ?? type)) ?? made.get(name ?? type);
    if (plugin === undefined) {
      // A policy without parameters need not be listed.
      if (name !== undefined && name !== type) {
        const known = plugins.filter(is).map((candidate) => candidate.name);
        throw new AppError(
          'invalid',
          `${path}: no plugin is named ${name}${known.length > 0 ? ` (${known.join(', ')})` : ''}`,
        );
      }
      plugin = makeDefault(type);
      made.set(type, plugin);
    }
    if (!is(plugin)) throw new AppError('invalid', `${path}: ${plugin.name} (type ${plugin.type}) is no ${what}`);
    return plugin;
  };
  const listed = plugins.filter(isSaturationDetector);
  const found: SaturationDetector = find<SaturationDetector>(
    // The only one that is listed is meant.
    detector?.name ?? (listed.length === 1 ? listed[0]?.name : undefined),
    detector?.path ?? 'saturationDetector',
    'utilization-detector',
    isSaturationDetector,
    'saturation detector',
  );
  if (control === undefined) return { detector: found, settings: undefined };

  const toBand = (config: BandConfig, path: string): BandSettings => ({
    maxRequests: config.maxRequests,
    maxBytes: config.maxBytes,
    ordering: find<OrderingPolicy>(
      config.orderingPolicyRef,
      `${path}.orderingPolicyRef`,
      'fcfs-ordering-policy',
      isOrderingPolicy,
      'ordering policy',
    ),
    fairness: find<FairnessPolicy>(
      config.fairnessPolicyRef,
      `${path}.fairnessPolicyRef`,
      'global-strict-fairness-policy',
      isFairnessPolicy,
      'fairness policy',
    ),
  });
  const plain = z.strictObject(band).parse({});
  const standard = toBand(control.defaultPriorityBand ?? plain, 'flowControl.defaultPriorityBand');
  const negative = toBand(
    control.defaultNegativePriorityBand ?? control.defaultPriorityBand ?? plain,
    'flowControl.defaultNegativePriorityBand',
  );
  const own = new Map<number, BandSettings>();
  control.priorityBands.forEach((config, i) => {
    const path = `flowControl.priorityBands[${i}]`;
    if (own.has(config.priority)) {
      throw new AppError('invalid', `${path}.priority: ${config.priority} is listed twice; keep one`);
    }
    own.set(config.priority, toBand(config, path));
  });
  return {
    detector: found,
    settings: {
      limits: { maxRequests: control.maxRequests, maxBytes: control.maxBytes },
      bandOf: (priority) => own.get(priority) ?? (priority < 0 ? negative : standard),
      priorities: [...own.keys()],
      isEvictionEnabled: control.enableEviction,
      requestTtlMs: control.defaultRequestTTL,
      noEndpointTtlMs: control.noEndpointRequestTTL ?? control.defaultRequestTTL,
      usageLimits: find<UsageLimitPolicy>(
        control.usageLimitPolicyPluginRef,
        'flowControl.usageLimitPolicyPluginRef',
        'static-usage-limit-policy',
        isUsageLimitPolicy,
        'usage limit policy',
      ),
    },
  };
}
