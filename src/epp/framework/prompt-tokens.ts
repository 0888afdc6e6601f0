import type { StateKey } from './cycle-state.ts';

/** The prompt as the engine's tokenizer cuts it. */
export interface PromptTokens {
  readonly ids: Uint32Array;
}

/** Written by the producer of tokens; absent when the prompt's tokens are not known. */
export const promptTokensKey: StateKey<PromptTokens> = { name: 'prompt-tokens' };
