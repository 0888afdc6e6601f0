import { editMembers, rawMember } from '../../openai/json-members.ts';
import type { Api } from '../../openai/request.ts';

const caps: Readonly<Record<Exclude<Api, 'generate'>, Readonly<Record<string, string>>>> = {
  chat: { max_tokens: '1', max_completion_tokens: '1', min_tokens: '1' },
  completions: { max_tokens: '1', max_completion_tokens: '1', min_tokens: '1' },
  // An answer of one token is nothing to keep for a later request.
  responses: { max_output_tokens: '1', store: 'false', background: 'false' },
  messages: { max_tokens: '1' },
  embeddings: {},
};

/**
 * The members that make an engine compute a prompt and little else: one token is the least, and a client's min_tokens above
 * it would be refused. For `editMembers`.
 */
export function oneToken(api: Api, body: string): Readonly<Record<string, string>> {
  if (api !== 'generate') return caps[api];
  const given = rawMember(body, 'sampling_params');
  const params = given?.startsWith('{') ? given : '{}';
  return { sampling_params: editMembers(params, { max_tokens: '1', min_tokens: '1' }) };
}
