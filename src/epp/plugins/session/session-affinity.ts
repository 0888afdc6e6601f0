import { z } from 'zod';
import type { Cycle } from '../../framework/cycle-state.ts';
import type { Decision } from '../../framework/decision.ts';
import type { Endpoint } from '../../framework/endpoint.ts';
import {
  type Filter,
  type PluginContext,
  type PluginFactory,
  type PreRequest,
  parseParameters,
  type Scorer,
} from '../../framework/plugin.ts';
import { requestAttributeKey } from '../../framework/request-attributes.ts';
import { SessionPlaces } from './session-places.ts';

const parameters = z.strictObject({
  /** `encoded_endpoint_header`: the client sends back what it was told; `session_id`: the picker remembers. Both when absent. */
  strategy: z.enum(['encoded_endpoint_header', 'session_id']).optional(),
  sessionIdConfig: z
    .strictObject({
      /** Looked at in order; without any, the places where conversations are named usually. */
      sources: z
        .array(
          z
            .strictObject({
              header: z.string().min(1).toLowerCase().optional(),
              attribute: z.string().min(1).optional(),
              producer: z.string().min(1).optional(),
            })
            .refine(
              ({ header, attribute }) => (header === undefined) !== (attribute === undefined),
              'give header, or attribute and producer',
            ),
        )
        .optional(),
      evictionTtlSeconds: z.number().positive().default(300),
      /** Accepted and not used: what is too old is never found. */
      evictionSweepSeconds: z.number().positive().optional(),
      maxSessions: z.number().int().positive().default(65_536),
    })
    .prefault({}),
  /** The profile whose endpoint is meant; the one that gets the request when absent. */
  profileName: z.string().min(1).optional(),
});

const maxTokenLength = 1024;

/** Where a conversation was served before, for the scorer and the filter alike. */
function createAffinity(context: PluginContext) {
  const { strategy, sessionIdConfig: ids, profileName } = parseParameters(context, parameters);
  const places = new SessionPlaces(ids.maxSessions, ids.evictionTtlSeconds * 1000);
  const tokenHeader = profileName === undefined ? 'x-session-token' : `x-session-token-${profileName}`;
  const hasTokens = strategy !== 'session_id';
  const sources = ids.sources?.map(({ header, attribute, producer }) => ({
    header,
    key: requestAttributeKey(producer ?? 'session-id-producer', attribute ?? ''),
  }));

  const sessionOf = (cycle: Cycle): string | undefined => {
    if (strategy === 'encoded_endpoint_header') return undefined;
    const { request } = cycle;
    if (sources === undefined) return request.sessionId;
    for (const { header, key } of sources) {
      const value = header === undefined ? cycle.get(key) : request.header(header);
      if (value !== undefined && value !== '' && value.length <= maxTokenLength) return value;
    }
    return undefined;
  };
  /** Endpoints that served the conversation: by the client's token, else by memory. */
  const knownIds = (cycle: Cycle): readonly string[] => {
    const token = hasTokens ? cycle.request.header(tokenHeader) : undefined;
    if (token !== undefined && token !== '' && token.length <= maxTokenLength) {
      return [Buffer.from(token, 'base64').toString('utf8')];
    }
    const session = sessionOf(cycle);
    return session === undefined ? [] : places.endpointsOf(`${cycle.request.model}\0${session}`, context.clock.now());
  };

  return {
    state: () => ({ sessions: places.size }),
    matcher: (cycle: Cycle): ((endpoint: Endpoint) => boolean) | undefined => {
      const known = knownIds(cycle);
      if (known.length === 0) return undefined;
      // A token may also be of a picker that knew one rank a pod.
      return ({ id, namespace, name }) => known.includes(id) || known.includes(`${namespace}/${name}`);
    },
    remember: (cycle: Cycle, decision: Decision): void => {
      const endpoint = profileName === undefined ? decision.primary : decision.results.get(profileName)?.picked[0];
      const session = sessionOf(cycle);
      if (session !== undefined) {
        const all =
          profileName === undefined ? [...decision.results.values()].map(({ picked }) => picked[0]) : [endpoint];
        const nowMs = context.clock.now();
        for (const each of all) {
          if (each !== undefined) places.record(`${cycle.request.model}\0${session}`, each.id, nowMs);
        }
      }
      // A conversation that is remembered needs no token; one by token only is told where it is.
      if (
        !hasTokens ||
        endpoint === undefined ||
        (strategy === undefined && cycle.request.header(tokenHeader) === undefined)
      )
        return;
      decision.addAnswerHeader(tokenHeader, Buffer.from(endpoint.id, 'utf8').toString('base64'));
    },
  };
}

/** 1 where the request's conversation was served, by `x-session-token` or by memory, else 0. */
export const createSessionAffinityScorer: PluginFactory = (context): Scorer & PreRequest => {
  const affinity = createAffinity(context);
  return {
    type: context.type,
    name: context.name,
    state: affinity.state,
    score: (cycle, endpoints, scores) => {
      const isKnown = affinity.matcher(cycle);
      if (isKnown === undefined) return;
      for (let i = 0; i < endpoints.length; i++) {
        const endpoint = endpoints[i];
        if (endpoint !== undefined && isKnown(endpoint)) scores[i] = 1;
      }
    },
    preRequest: affinity.remember,
  };
};

/** Keeps the endpoints that served the request's conversation; all when there is none, or none of them is left. */
export const createSessionAffinityFilter: PluginFactory = (context): Filter & PreRequest => {
  const affinity = createAffinity(context);
  return {
    type: context.type,
    name: context.name,
    state: affinity.state,
    filter: (cycle, endpoints) => {
      const isKnown = affinity.matcher(cycle);
      if (isKnown === undefined) return endpoints;
      const kept = endpoints.filter(isKnown);
      return kept.length === 0 ? endpoints : kept;
    },
    preRequest: affinity.remember,
  };
};
