import { z } from 'zod';
import type { Endpoint } from '../../framework/endpoint.ts';
import { type Filter, type PluginFactory, parseParameters, type Scorer } from '../../framework/plugin.ts';

const parameters = z.strictObject({
  /** Pod label with the range that the pod is meant for, `min-max` in tokens. */
  label: z.string().min(1).default('llm-d.ai/context-length-range'),
  /** Drops pods whose range the prompt is outside of, unless none would be left. */
  enableFiltering: z.boolean().default(false),
});

interface Range {
  readonly min: number;
  readonly max: number;
}

/**
 * Sends prompts to the pods that are meant for their length. Inside the range:
 * 0.3 + 0.7·(0.7/(1 + width/10000) + 0.3·(max − length)/width), 1 when the width is 0; outside: 0.3/(1 + distance/1000);
 * without the label 0.5, with one that cannot be read 0. Length is estimated at four bytes a token.
 */
export const createContextLengthAware: PluginFactory = (context): Scorer & Partial<Filter> => {
  const { label, enableFiltering } = parseParameters(context, parameters);
  const known = new WeakMap<Endpoint, Range | 'none' | 'bad'>();
  const rangeOf = (endpoint: Endpoint): Range | 'none' | 'bad' => {
    let range = known.get(endpoint);
    if (range === undefined) {
      range = parseRange(endpoint.labels[label]);
      known.set(endpoint, range);
    }
    return range;
  };
  const scorer: Scorer = {
    type: context.type,
    name: context.name,
    score: ({ request }, endpoints, scores) => {
      const length = request.promptText().length / 4;
      for (let i = 0; i < endpoints.length; i++) {
        const range = rangeOf(endpoints[i] as Endpoint);
        scores[i] = range === 'none' ? 0.5 : range === 'bad' ? 0 : scoreOf(length, range);
      }
    },
  };
  if (!enableFiltering) return scorer;
  const filter: Filter['filter'] = ({ request }, endpoints) => {
    const length = request.promptText().length / 4;
    const kept = endpoints.filter((endpoint) => {
      const range = rangeOf(endpoint);
      return range === 'none' || (range !== 'bad' && length >= range.min && length <= range.max);
    });
    return kept.length === 0 ? endpoints : kept;
  };
  return { ...scorer, filter };
};

function parseRange(text: string | undefined): Range | 'none' | 'bad' {
  if (text === undefined) return 'none';
  const match = /^\s*(\d+)\s*-\s*(\d+)\s*$/.exec(text);
  const min = Number(match?.[1]);
  const max = Number(match?.[2]);
  return match === null || min > max ? 'bad' : { min, max };
}

function scoreOf(length: number, { min, max }: Range): number {
  if (length < min || length > max) return 0.3 / (1 + (length < min ? min - length : length - max) / 1000);
  const width = max - min;
  return width === 0 ? 1 : 0.3 + 0.7 * (0.7 / (1 + width / 10_000) + (0.3 * (max - length)) / width);
}
