import { z } from 'zod';
import { type PluginFactory, parseParameters, type Scorer } from '../../framework/plugin.ts';
import { defaultTopologyLabels, type Level, sharedLevel } from '../../framework/topology.ts';

const parameters = z.strictObject({
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

const worth: Readonly<Record<Level, number>> = { host: 1, rack: 0.2, zone: 0.05, region: 0.02 };

/** By how near the endpoint is to the one that another stage chose: host 1, rack 0.2, zone 0.05, region 0.02, else 0. */
export const createTopologyAffinityScorer: PluginFactory = (context): Scorer => {
  const { labels } = parseParameters(context, parameters);
  return {
    type: context.type,
    name: context.name,
    score: ({ picked }, endpoints, scores) => {
      const peer = picked.at(-1);
      if (peer === undefined) return;
      for (let i = 0; i < endpoints.length; i++) {
        const endpoint = endpoints[i];
        const level = endpoint === undefined ? undefined : sharedLevel(endpoint, peer, labels);
        if (level !== undefined) scores[i] = worth[level];
      }
    },
  };
};
