import type { SessionMatch } from './sessions.ts';

export type SessionPolicy = 'prefer-session' | 'prefer-header' | 'off';

export interface DecisionInput {
  readonly policy: SessionPolicy;
  /** The request names prefill pods in `x-prefiller-host-port`. */
  readonly hasHeader: boolean;
  /** An endpoint picker chose this pod for the request: what it did not name, it did not want. */
  readonly isPicked: boolean;
  /** There is a prefill URL or a pool to find a prefill pod by. */
  readonly hasFallback: boolean;
  readonly session: SessionMatch | undefined;
  /** The request cannot be prefilled elsewhere: see `isBound`. */
  readonly isBound: boolean;
  /** A known conversation with more unseen prompt than this goes to a prefill pod all the same; 0 for no limit. */
  readonly maxNewTokens: number;
}

export type Decision =
  | { readonly kind: 'local'; readonly why: 'session' | 'bound' | 'picker' | 'no-prefill' }
  | { readonly kind: 'prefill'; readonly from: 'header' | 'fallback' };

/** A token of English text is about four characters: near enough for a threshold. */
const charsPerToken = 4;

/**
 * Whether only the local engine can compute a request: it goes on from a response that is stored there, or it wants several
 * choices or prompts, of which only the first could use the prefill's handle.
 */
export function isBound(body: Readonly<Record<string, unknown>>): boolean {
  if (typeof body.previous_response_id === 'string') return true;
  if (isSeveral(body.n) || isSeveral(body.best_of)) return true;
  const { prompt } = body;
  return Array.isArray(prompt) && prompt.length > 1 && typeof prompt[0] !== 'number';
}

function isSeveral(count: unknown): boolean {
  return typeof count === 'number' && count > 1;
}

/** Whether a request is prefilled elsewhere first, and who says where. */
export function decide(input: DecisionInput): Decision {
  const { policy, session } = input;
  if (input.isBound) return { kind: 'local', why: 'bound' };
  const isShort =
    session !== undefined && (input.maxNewTokens === 0 || session.newChars / charsPerToken <= input.maxNewTokens);
  const isResident = policy !== 'off' && session?.isKnown === true && isShort;
  if (input.hasHeader) {
    return isResident && policy === 'prefer-session'
      ? { kind: 'local', why: 'session' }
      : { kind: 'prefill', from: 'header' };
  }
  if (isResident) return { kind: 'local', why: 'session' };
  if (input.isPicked) return { kind: 'local', why: 'picker' };
  return input.hasFallback ? { kind: 'prefill', from: 'fallback' } : { kind: 'local', why: 'no-prefill' };
}
