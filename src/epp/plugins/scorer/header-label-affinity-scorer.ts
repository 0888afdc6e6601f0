import { z } from 'zod';
import { type PluginFactory, parseParameters, type Scorer } from '../../framework/plugin.ts';

const parameters = z.strictObject({ headerName: z.string().min(1).toLowerCase(), labelKey: z.string().min(1) });

/** 1 where the endpoint's label has the value of the request's header, else 0. */
export const createHeaderLabelAffinityScorer: PluginFactory = (context): Scorer => {
  const { headerName, labelKey } = parseParameters(context, parameters);
  return {
    type: context.type,
    name: context.name,
    score: ({ request }, endpoints, scores) => {
      const wanted = request.header(headerName);
      if (wanted === undefined || wanted === '') return;
      for (let i = 0; i < endpoints.length; i++) if (endpoints[i]?.labels[labelKey] === wanted) scores[i] = 1;
    },
  };
};
