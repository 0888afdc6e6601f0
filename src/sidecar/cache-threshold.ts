import type { Judge } from './forward.ts';

/** What is held back of an answer at most until it is known to be one. */
const maxHeldBytes = 1024 * 1024;
/** Events without any text that a stream may begin with. */
const maxEmptyEvents = 2;
const decoder = new TextDecoder();

/**
 * Tells the answer of an engine that found too little of the prompt in its cache (the first choice's `finish_reason` is
 * `cache_threshold`) from every other one: a JSON answer by its end, a stream by its first events.
 */
export function createThresholdJudge(isStream: boolean): Judge {
  let held = '';
  let events = 0;
  let size = 0;
  return {
    push(chunk) {
      size += chunk.length;
      if (size > maxHeldBytes) return 'send';
      held += decoder.decode(chunk);
      if (!isStream) return undefined;
      for (;;) {
        const end = /\r?\n\r?\n/.exec(held);
        if (!end) return undefined;
        const event = held.slice(0, end.index);
        held = held.slice(end.index + end[0].length);
        const data = /^data:\s*(\{.*)$/m.exec(event)?.[1];
        if (data === undefined) continue;
        const verdict = verdictOf(data);
        if (verdict) return verdict;
        if (++events >= maxEmptyEvents) return 'send';
      }
    },
    end: () => (isStream ? 'send' : (verdictOf(held) ?? 'send')),
  };
}

/** Undefined for an event that says neither. */
function verdictOf(json: string): 'send' | 'refuse' | undefined {
  try {
    const { choices } = JSON.parse(json) as {
      readonly choices?: readonly {
        readonly finish_reason?: unknown;
        readonly text?: unknown;
        readonly delta?: { readonly content?: unknown };
      }[];
    };
    const [first] = choices ?? [];
    if (first?.finish_reason === 'cache_threshold') return 'refuse';
    return first === undefined || first.finish_reason || first.text || first.delta?.content ? 'send' : undefined;
  } catch {
    return 'send';
  }
}
