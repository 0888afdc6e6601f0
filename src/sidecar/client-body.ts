import { editMembers } from '../openai/json-members.ts';
import type { Completion } from '../openai/request.ts';
import { sessionFields } from './sessions.ts';

/** The path and query of a request line, also of one in absolute form. */
export function originForm(url: string): string {
  if (url.startsWith('/')) return url;
  const match = /^https?:\/\/[^/?]*(.*)$/i.exec(url);
  const rest = match?.[1] ?? '/';
  return rest.startsWith('/') ? rest : `/${rest}`;
}

/** Fields that engines read and clients must not set, and fields that only the sidecar reads. */
const privateFields = ['kv_transfer_params', 'ec_transfer_params', ...sessionFields] as const;

/** The body without fields that are not for engines, or undefined when it has none of them. */
export function withoutPrivateFields(request: Pick<Completion, 'body'>, text: string): string | undefined {
  const changes: Record<string, undefined> = {};
  let isNeeded = false;
  for (const name of privateFields) {
    if (!Object.hasOwn(request.body, name)) continue;
    changes[name] = undefined;
    isNeeded = true;
  }
  return isNeeded ? editMembers(text, changes) : undefined;
}
