import type { FairnessPolicy } from '../../framework/flow-policy.ts';
import type { PluginFactory } from '../../framework/plugin.ts';

/** Flows take turns, however many requests each has waiting. */
export const createRoundRobinFairnessPolicy: PluginFactory = ({ type, name }): FairnessPolicy => ({
  type,
  name,
  nextFlow: (flows) => {
    // Those that were served last stand at the end.
    for (const { fairnessId } of flows) return fairnessId;
    return undefined;
  },
});
