import { AppError } from '../errors.ts';
import { encodeInto, hashText, specialIds } from './tokenizer.ts';

type Fields = Readonly<Record<string, unknown>>;

export interface EmbeddingTask {
  readonly inputs: readonly (readonly number[])[];
  readonly dimensions: number;
  readonly isBase64: boolean;
}

const defaultDimensions = 384;
const maxDimensions = 8192;
const maxInputs = 2048;

/**
 * Reads the body of /v1/embeddings.
 *
 * @throws AppError `invalid`
 */
export function parseEmbeddings(body: Fields, maxModelLen: number): EmbeddingTask {
  const { input, dimensions = defaultDimensions, encoding_format: format = 'float' } = body;
  if (format !== 'float' && format !== 'base64') {
    throw new AppError('invalid', `encoding_format must be float or base64, not ${JSON.stringify(format)}`);
  }
  const isCount = typeof dimensions === 'number' && Number.isInteger(dimensions);
  if (!isCount || dimensions < 1 || dimensions > maxDimensions) {
    throw new AppError('invalid', `dimensions must be from 1 to ${maxDimensions}, not ${JSON.stringify(dimensions)}`);
  }
  const isOne = typeof input === 'string' || (Array.isArray(input) && typeof input[0] === 'number');
  const list: readonly unknown[] = isOne ? [input] : Array.isArray(input) ? input : [];
  if (list.length === 0 || list.length > maxInputs) {
    throw new AppError('invalid', `input must be a text, a list of up to ${maxInputs} texts, or token ids`);
  }
  const inputs = list.map((item, index) => {
    if (typeof item === 'string') {
      const ids: number[] = [specialIds.begin];
      encodeInto(ids, item);
      return ids;
    }
    if (Array.isArray(item) && item.length > 0 && item.every((id) => Number.isInteger(id))) return item as number[];
    throw new AppError('invalid', `input[${index}] must be a text or a list of token ids`);
  });
  const long = inputs.find((ids) => ids.length > maxModelLen);
  if (long) {
    throw new AppError(
      'invalid',
      `this model's maximum context length is ${maxModelLen} tokens, but an input has ${long.length}; shorten it`,
    );
  }
  return { inputs, dimensions, isBase64: format === 'base64' };
}

/** The answer: vectors of length 1, near to each other where texts share words; the same for the same text. */
export function renderEmbeddings(
  task: EmbeddingTask,
  head: { readonly id: string; readonly model: string; readonly created: number },
): string {
  const tokens = task.inputs.reduce((sum, ids) => sum + ids.length, 0);
  return JSON.stringify({
    id: head.id,
    object: 'list',
    created: head.created,
    model: head.model,
    data: task.inputs.map((ids, index) => {
      const vector = vectorOf(ids, task.dimensions);
      const shown = task.isBase64 ? Buffer.from(vector.buffer).toString('base64') : [...vector];
      return { index, object: 'embedding', embedding: shown };
    }),
    usage: { prompt_tokens: tokens, total_tokens: tokens, completion_tokens: 0, prompt_tokens_details: null },
  });
}

/** Dimensions that each token touches. */
const spread = 8;

/** A vector of length 1. */
export function vectorOf(ids: readonly number[], dimensions: number): Float32Array {
  const vector = new Float32Array(dimensions);
  for (const id of ids) {
    let state = hashText(String(id));
    for (let i = 0; i < spread; i++) {
      state = (Math.imul(state, 0x0001_9660 + 0x0d) + 0x3c6e_f35f) >>> 0;
      const at = state % dimensions;
      vector[at] = (vector[at] ?? 0) + ((state >>> 16) & 1 ? 1 : -1);
    }
  }
  const norm = Math.hypot(...vector) || 1;
  if (vector.every((value) => value === 0)) vector[0] = norm;
  return vector.map((value) => value / norm);
}
