/** What a step of the engine costs. */
export interface LatencyModel {
  /** Microseconds for each prompt token that is computed. */
  readonly prefillUsPerToken: number;
  /** Microseconds of one pass through the model with one sequence: the time between two output tokens. */
  readonly outputTokenUs: number;
  /** How many times slower a pass is with `max-num-seqs` sequences; linear between. At least 1. */
  readonly loadFactor: number;
  /** Microseconds for each token whose KV comes from another process. */
  readonly transferUsPerToken: number;
}

/**
 * Models that were fitted to published measurements. A step's cost of prompts and of one pass explains times to the first
 * token and between tokens alone and under load, as prompts of other requests are computed between the tokens of one.
 */
export const latencyProfiles = {
  /** NVIDIA's figures of Llama 3.3 70B, FP8, on two H100 80 GB: 406.8 ms and 18.6 ms for 5,000 and 500 tokens, one at a time. */
  'llama-70b-2xh100': { prefillUsPerToken: 78, outputTokenUs: 18_500, loadFactor: 1.85, transferUsPerToken: 5 },
} as const satisfies Record<string, LatencyModel>;

export interface StepLoad {
  /** Prompt tokens computed in this step. */
  readonly prefillTokens: number;
  /** Sequences in this step. */
  readonly sequences: number;
  /** The most sequences a step may hold. */
  readonly maxSequences: number;
}

/** Duration of a step in milliseconds. */
export function stepMs(model: LatencyModel, load: StepLoad): number {
  if (load.sequences === 0) return 0;
  const share = load.maxSequences > 1 ? Math.min(1, (load.sequences - 1) / (load.maxSequences - 1)) : 0;
  const pass = model.outputTokenUs * (1 + (model.loadFactor - 1) * share);
  return (pass + load.prefillTokens * model.prefillUsPerToken) / 1000;
}

/** Duration of a transfer of `tokens` tokens in milliseconds. */
export function transferMs(model: LatencyModel, tokens: number): number {
  return (tokens * model.transferUsPerToken) / 1000;
}
