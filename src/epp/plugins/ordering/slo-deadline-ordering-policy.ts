import type { OrderingPolicy } from '../../framework/flow-policy.ts';
import type { PluginFactory } from '../../framework/plugin.ts';

/** Earliest first token due first: arrival plus `x-llm-d-slo-ttft-ms`. Requests without one go last, as they came. */
export const createSloDeadlineOrderingPolicy: PluginFactory = ({ type, name }): OrderingPolicy => ({
  type,
  name,
  rank: ({ enqueuedAtMs, ttftMs }) => (ttftMs === undefined ? Number.POSITIVE_INFINITY : enqueuedAtMs + ttftMs),
});
