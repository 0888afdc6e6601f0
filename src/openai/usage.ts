/** Token counts of one answer. */
export interface Usage {
  readonly promptTokens: number;
  readonly completionTokens: number;
  /** Prompt tokens that were found in the engine's prefix cache. */
  readonly cachedTokens: number;
}

/** The usage of a parsed answer or event (OpenAI and Anthropic names), or undefined when it has none. */
export function usageOf(answer: unknown): Usage | undefined {
  const usage = (answer as { usage?: unknown } | null | undefined)?.usage;
  if (typeof usage !== 'object' || usage === null) return undefined;
  const fields = usage as Record<string, unknown>;
  const details = (fields.prompt_tokens_details ?? fields.input_tokens_details) as
    | Record<string, unknown>
    | null
    | undefined;
  return {
    promptTokens: count(fields.prompt_tokens ?? fields.input_tokens),
    completionTokens: count(fields.completion_tokens ?? fields.output_tokens),
    cachedTokens: count(details?.cached_tokens ?? fields.cache_read_input_tokens),
  };
}

/** Whether an answer's usage has a field for cached tokens at all: without one, 0 does not mean that none were. */
export function reportsCachedTokens(answer: unknown): boolean {
  const usage = (answer as { usage?: unknown } | null | undefined)?.usage as Record<string, unknown> | null | undefined;
  const details = (usage?.prompt_tokens_details ?? usage?.input_tokens_details) as { cached_tokens?: unknown } | null;
  return typeof (details?.cached_tokens ?? usage?.cache_read_input_tokens) === 'number';
}

function count(value: unknown): number {
  return typeof value === 'number' && Number.isFinite(value) ? value : 0;
}
