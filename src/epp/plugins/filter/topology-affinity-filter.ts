import { z } from 'zod';
import { type Filter, type PluginFactory, parseParameters } from '../../framework/plugin.ts';
import { defaultTopologyLabels, levels, sharedLevel } from '../../framework/topology.ts';

const parameters = z.strictObject({
  /** How near an endpoint has to be to the one that another stage chose. */
  minAffinity: z.enum(levels).default('host'),
  topologyProducerName: z.string().optional(),
  labels: z
    .strictObject({
      host: z.string().default(defaultTopologyLabels.host),
      rack: z.string().default(defaultTopologyLabels.rack),
      zone: z.string().default(defaultTopologyLabels.zone),
      region: z.string().default(defaultTopologyLabels.region),
    })
    .prefault({}),
});

/** Keeps endpoints near the one that was chosen before, by their labels; all when no stage has run. May leave nobody. */
export const createTopologyAffinityFilter: PluginFactory = (context): Filter => {
  const { minAffinity, labels } = parseParameters(context, parameters);
  const furthest = levels.indexOf(minAffinity);
  return {
    type: context.type,
    name: context.name,
    filter: ({ picked }, endpoints) => {
      const peer = picked.at(-1);
      if (peer === undefined) return endpoints;
      return endpoints.filter((endpoint) => {
        const level = sharedLevel(endpoint, peer, labels);
        return level !== undefined && levels.indexOf(level) <= furthest;
      });
    },
  };
};
