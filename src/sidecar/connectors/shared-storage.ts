import { editMembers } from '../../openai/json-members.ts';
import { usageOf } from '../../openai/usage.ts';
import { type Connector, objectOf } from './connector.ts';
import { oneToken } from './one-token.ts';

/**
 * A store that both engines read and write, such as LMCache's: the prefill pod computes the prompt and leaves its blocks there, the
 * decoder finds them by their hashes. Nothing of the answer is handed over. A threshold of 0 says that both shall compute what
 * they do not find.
 */
export const sharedStorage: Connector = {
  name: 'shared-storage',
  isConcurrent: false,

  prefillRequest: (api, body) =>
    editMembers(body, { cache_hit_threshold: '0', stream: 'false', stream_options: undefined, ...oneToken(api, body) }),

  prefillAnswer: (body) => {
    const parsed = objectOf(body);
    return parsed && { kvParams: undefined, cachedTokens: usageOf(parsed)?.cachedTokens ?? 0, kvHandle: undefined };
  },

  isDecoderFirst: (body) => typeof body.cache_hit_threshold === 'number' && body.cache_hit_threshold > 0,
  fallbackRequest: (body) => editMembers(body, { cache_hit_threshold: '0' }),
  decodeRequest: (_api, body) => editMembers(body, { cache_hit_threshold: '0' }),
};
