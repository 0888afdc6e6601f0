import type { OrderingPolicy } from '../../framework/flow-policy.ts';
import type { PluginFactory } from '../../framework/plugin.ts';

/** Earliest deadline first: arrival plus the time that the request may wait. */
export const createEdfOrderingPolicy: PluginFactory = ({ type, name }): OrderingPolicy => ({
  type,
  name,
  rank: ({ deadlineMs }) => deadlineMs,
});
