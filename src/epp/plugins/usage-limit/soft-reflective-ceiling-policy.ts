import { z } from 'zod';
import type { UsageLimitPolicy } from '../../framework/flow-policy.ts';
import { type PluginFactory, parseParameters } from '../../framework/plugin.ts';

/**
 * Lower priorities give way as saturation rises: the highest has ceiling 1, the i-th of n 1 − i·saturation/(n−1). One that
 * is at its ceiling is still let through once in round(saturation/(1−saturation)) calls, so that it never starves
 * before the pool is full.
 */
export const createSoftReflectiveCeilingPolicy: PluginFactory = (context): UsageLimitPolicy => {
  parseParameters(context, z.strictObject({}));
  const calls = new Map<number, number>();
  return {
    type: context.type,
    name: context.name,
    ceilings: (priorities, saturation) => {
      if (calls.size > 4 * priorities.length + 16) calls.clear();
      return priorities.map((priority, i) => {
        if (i === 0) return 1;
        if (saturation >= 1) return 0;
        const ceiling = 1 - (i * saturation) / (priorities.length - 1);
        if (saturation < ceiling) return ceiling;
        const call = (calls.get(priority) ?? 0) + 1;
        calls.set(priority, call);
        const turns = Math.max(1, Math.round(saturation / (1 - saturation)));
        return call % turns === 0 ? 1 : ceiling;
      });
    },
  };
};
