import type { FairnessPolicy, FlowHead } from '../../framework/flow-policy.ts';
import type { PluginFactory } from '../../framework/plugin.ts';

/** One order over all flows: whoever's first request ranks first. A flow that sends more gets more. */
export const createGlobalStrictFairnessPolicy: PluginFactory = ({ type, name }): FairnessPolicy => ({
  type,
  name,
  nextFlow: (flows) => {
    let best: FlowHead | undefined;
    for (const flow of flows) {
      if (best === undefined || flow.rank < best.rank || (flow.rank === best.rank && flow.turn < best.turn))
        best = flow;
    }
    return best?.fairnessId;
  },
});
