import type { OrderingPolicy } from '../../framework/flow-policy.ts';
import type { PluginFactory } from '../../framework/plugin.ts';

/** First come, first served. */
export const createFcfsOrderingPolicy: PluginFactory = ({ type, name }): OrderingPolicy => ({
  type,
  name,
  rank: ({ enqueuedAtMs }) => enqueuedAtMs,
});
