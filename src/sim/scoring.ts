import { AppError } from '../errors.ts';
import { parseEmbeddings, vectorOf } from './embeddings.ts';

type Fields = Readonly<Record<string, unknown>>;

interface Head {
  readonly id: string;
  readonly model: string;
  readonly created: number;
}

/** An answer, and the prompt tokens that it took. */
export interface Scored {
  readonly body: object;
  readonly tokens: number;
}

const dimensions = 384;

/**
 * `/score`: how near each text of the second side is to its partner of the first; one text may stand for many.
 *
 * @throws AppError `invalid`
 */
export function score(body: Fields, head: Head, maxModelLen: number): Scored {
  const first = sidesOf(body, ['text_1', 'data_1', 'queries']);
  const second = sidesOf(body, ['text_2', 'data_2', 'documents', 'items']);
  if (first.length !== 1 && first.length !== second.length) {
    throw new AppError(
      'invalid',
      `text_1 has ${first.length} texts and text_2 has ${second.length}; give one, or as many as there are in text_2`,
    );
  }
  const tokens = tokenize([...first, ...second], maxModelLen);
  const vectors = tokens.map((ids) => vectorOf(ids, dimensions));
  const data = second.map((_, index) => ({
    index,
    object: 'score',
    score: nearness(vectors[first.length === 1 ? 0 : index], vectors[first.length + index]),
  }));
  const count = sum(tokens);
  return {
    body: {
      id: `score-${head.id}`,
      object: 'list',
      created: head.created,
      model: head.model,
      data,
      usage: usage(count),
    },
    tokens: count,
  };
}

/**
 * `/rerank`: the documents, nearest to the query first.
 *
 * @throws AppError `invalid`
 */
export function rerank(body: Fields, head: Head, maxModelLen: number): Scored {
  const { query, documents, top_n: topN = 0, return_documents: shows = true } = body;
  if (typeof query !== 'string') throw new AppError('invalid', 'query must be a text');
  if (!Number.isInteger(topN) || (topN as number) < 0) {
    throw new AppError('invalid', `top_n must be a whole number of at least 0, not ${JSON.stringify(topN)}`);
  }
  const texts = textsOf('documents', documents);
  const tokens = tokenize([query, ...texts], maxModelLen);
  const [asked, ...vectors] = tokens.map((ids) => vectorOf(ids, dimensions));
  const results = texts
    .map((text, index) => ({
      index,
      ...(shows === false ? {} : { document: { text, multi_modal: null } }),
      relevance_score: nearness(asked, vectors[index]),
    }))
    .sort((a, b) => b.relevance_score - a.relevance_score || a.index - b.index);
  const count = sum(tokens);
  return {
    body: {
      id: `rerank-${head.id}`,
      model: head.model,
      usage: { prompt_tokens: count, total_tokens: count },
      results: results.slice(0, (topN as number) || texts.length),
    },
    tokens: count,
  };
}

/**
 * `/pooling`: the vectors of `/v1/embeddings` in the form of that API.
 *
 * @throws AppError `invalid`
 */
export function pool(body: Fields, head: Head, maxModelLen: number): Scored {
  const task = parseEmbeddings(body, maxModelLen);
  const data = task.inputs.map((ids, index) => ({
    index,
    object: 'pooling',
    data: [...vectorOf(ids, task.dimensions)],
  }));
  const count = sum(task.inputs);
  return {
    body: {
      id: `pool-${head.id}`,
      object: 'list',
      created: head.created,
      model: head.model,
      data,
      usage: usage(count),
    },
    tokens: count,
  };
}

function sidesOf(body: Fields, names: readonly string[]): readonly string[] {
  const name = names.find((each) => body[each] !== undefined);
  return textsOf(name ?? names[0] ?? '', name === undefined ? undefined : body[name]);
}

function textsOf(name: string, value: unknown): readonly string[] {
  const list: readonly unknown[] = Array.isArray(value) ? value : [value];
  const texts = list.map((item) =>
    typeof item === 'object' && item !== null && 'text' in item ? (item as Fields).text : item,
  );
  if (texts.length > 0 && texts.every((text) => typeof text === 'string')) return texts as readonly string[];
  throw new AppError('invalid', `${name} must be a text or a list of texts`);
}

function tokenize(texts: readonly string[], maxModelLen: number): readonly (readonly number[])[] {
  return parseEmbeddings({ input: texts }, maxModelLen).inputs;
}

/** The cosine of two vectors of length 1, between 0 and 1. */
function nearness(a: Float32Array | undefined, b: Float32Array | undefined): number {
  let dot = 0;
  for (let i = 0; i < dimensions; i++) dot += (a?.[i] ?? 0) * (b?.[i] ?? 0);
  return Math.min(1, Math.max(0, dot));
}

function sum(inputs: readonly (readonly number[])[]): number {
  return inputs.reduce((total, ids) => total + ids.length, 0);
}

function usage(tokens: number): object {
  return { prompt_tokens: tokens, total_tokens: tokens, completion_tokens: 0, prompt_tokens_details: null };
}
