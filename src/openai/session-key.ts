import { hash } from 'node:crypto';
import { conversationOf } from './conversation.ts';
import type { Completion } from './request.ts';

/** Characters of a published key: 96 bits. */
const keyLength = 16;

/**
 * What separates the conversations of one tenant and model from all others. Of a credential only its hash is kept.
 *
 * @param credential value of `authorization`, else of `x-api-key`, else empty
 */
export function sessionScope(model: string, credential: string): string {
  return `${hash('sha256', credential, 'base64url')}/${model}`;
}

/** How a sidecar publishes the conversation that a client named. */
export function sessionIdKey(scope: string, id: string): string {
  return hash('sha256', `${scope}\n${id}`, 'base64url').slice(0, keyLength);
}

/** How a sidecar publishes a conversation by its content: the hash of all of it up to an answer. */
export function sessionTailKey(answeredTail: string): string {
  return answeredTail.slice(0, keyLength);
}

/**
 * The keys by which a request's conversation would be published: one for its id, one for each beginning of its messages, the longest
 * first. Whoever published one of them has the conversation so far in its cache.
 */
export function sessionKeysOf(
  request: Completion,
  header: (name: string) => string | undefined,
  id: string | undefined,
): readonly string[] {
  const scope = sessionScope(request.model, header('authorization') ?? header('x-api-key') ?? '');
  const keys = id === undefined ? [] : [sessionIdKey(scope, id)];
  const { chain } = conversationOf(request, scope) ?? { chain: [] };
  for (let k = chain.length - 1; k >= 0; k--) keys.push(sessionTailKey(chain[k] ?? ''));
  return keys;
}
