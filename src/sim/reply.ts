import { hashText, idOfPiece, specialIds, splitPieces } from './tokenizer.ts';
import type { ToolCall } from './tools.ts';

export interface ReplyOptions {
  readonly api: 'chat' | 'completions';
  readonly lastUserText: string;
  readonly seed: number;
  /** Tokens of an answer that ends by itself, its end mark included. */
  readonly naturalTokens: number;
  /** The most tokens there may be. */
  readonly maxTokens: number;
  readonly minTokens: number;
  readonly ignoreEos: boolean;
  readonly stop: readonly string[];
  readonly includeStop: boolean;
  /** The answer begins with thoughts, which count as tokens and are shown apart. */
  readonly hasThoughts?: boolean;
}

/** An answer that is fixed before its first token is computed. */
export interface Reply {
  /** Token ids in order; the last is the end mark when the answer ends by itself. */
  readonly ids: readonly number[];
  /** Text that each token adds; empty for the end mark and for what a stop string cut off. */
  readonly deltas: readonly string[];
  readonly finishReason: 'stop' | 'length';
  /** The stop string or token that ended the answer. */
  readonly stopReason: string | number | null;
  /** How many of the tokens, from the first on, are thoughts. */
  readonly thoughtTokens: number;
  /** The answer calls a function: its text is the arguments. */
  readonly toolCall?: ToolCall;
}

/** The answer to a prompt: the same for the same text, seed and limits. */
export function createReply(options: ReplyOptions): Reply {
  if (!options.hasThoughts) return createText(options);
  const thoughts = splitPieces(thoughtsOf(topicOf(options.lastUserText))).slice(0, options.maxTokens);
  const ids = thoughts.map(idOfPiece);
  const left = options.maxTokens - thoughts.length;
  if (left === 0) {
    return { ids, deltas: thoughts, finishReason: 'length', stopReason: null, thoughtTokens: thoughts.length };
  }
  const text = createText({
    ...options,
    maxTokens: left,
    minTokens: Math.max(0, options.minTokens - thoughts.length),
  });
  return {
    ...text,
    ids: [...ids, ...text.ids],
    deltas: [...thoughts, ...text.deltas],
    thoughtTokens: thoughts.length,
  };
}

function thoughtsOf(topic: string): string {
  return `The user speaks of “${topic === '' ? 'this' : topic}”. I should answer briefly.`;
}

function createText(options: ReplyOptions): Reply {
  const needsMore = options.ignoreEos
    ? options.maxTokens
    : Math.min(options.maxTokens, Math.max(options.naturalTokens, options.minTokens));
  const pieces = writePieces(options, needsMore);
  const ids = pieces.map(idOfPiece);
  const stopped = options.stop.length > 0 ? findStop(pieces, options) : undefined;
  if (stopped) return { ids: ids.slice(0, stopped.deltas.length), ...stopped, finishReason: 'stop', thoughtTokens: 0 };
  if (options.ignoreEos || pieces.length >= options.maxTokens) {
    return {
      ids: ids.slice(0, options.maxTokens),
      deltas: pieces.slice(0, options.maxTokens),
      finishReason: 'length',
      stopReason: null,
      thoughtTokens: 0,
    };
  }
  ids.push(specialIds.end);
  pieces.push('');
  return { ids, deltas: pieces, finishReason: 'stop', stopReason: null, thoughtTokens: 0 };
}

/** Whole sentences up to about `tokens` tokens; exactly that many where the answer may not end by itself. */
function writePieces(options: ReplyOptions, tokens: number): string[] {
  const source = hashText(options.lastUserText, (options.seed ^ 0x811c9dc5) >>> 0);
  const topic = topicOf(options.lastUserText);
  // An answer that ends by itself keeps a token for its end mark.
  const isOpenEnded = options.ignoreEos || options.maxTokens <= options.naturalTokens;
  const room = isOpenEnded ? tokens : Math.max(1, tokens - 1, options.minTokens);
  const pieces = splitPieces(leadOf(options) + openingOf(options.lastUserText, topic, source));
  for (let at = 0; pieces.length < room; at++) {
    const sentence = splitPieces(` ${sentenceOf(source, at, topic)}`);
    if (!isOpenEnded && pieces.length + sentence.length > room && pieces.length >= options.minTokens) break;
    pieces.push(...sentence);
  }
  return pieces.length > room ? pieces.slice(0, room) : pieces;
}

/** A completion goes on from its prompt's text, so it must begin with a piece that does not melt into the prompt's last one. */
function leadOf(options: ReplyOptions): string {
  if (options.api === 'chat') return '';
  return /[ ]$/.test(options.lastUserText) ? '\n' : ' ';
}

function findStop(
  pieces: readonly string[],
  options: ReplyOptions,
): { deltas: string[]; stopReason: string } | undefined {
  const guarded = pieces.slice(0, options.minTokens).join('').length;
  const text = pieces.join('');
  let at = -1;
  let reason = '';
  for (const stop of options.stop) {
    // Text up to min_tokens may hold a stop string; what counts is that it ends behind it.
    const found = stop === '' ? -1 : text.indexOf(stop, Math.max(0, guarded - stop.length + (guarded > 0 ? 1 : 0)));
    if (found >= 0 && (at < 0 || found + stop.length < at + reason.length)) {
      at = found;
      reason = stop;
    }
  }
  if (at < 0) return undefined;
  const cut = options.includeStop ? at + reason.length : at;
  const deltas: string[] = [];
  let position = 0;
  for (const piece of pieces) {
    if (position >= at + reason.length) break;
    deltas.push(piece.slice(0, Math.max(0, cut - position)));
    position += piece.length;
  }
  return { deltas, stopReason: reason };
}

const greeting = /^\s*(hi|hello|hey|good (morning|afternoon|evening)|greetings)\b/i;
const question = /^\s*(what|why|how|when|where|who|which|can|could|is|are|do|does|should|would)\b/i;

/** The first words of a text, as something to speak of. */
function topicOf(text: string): string {
  const words = text
    .slice(0, 400)
    .replace(/\s+/g, ' ')
    .trim()
    .replace(/[!.,;:]+$/, '')
    .split(' ');
  const short = words.slice(0, 8).join(' ');
  return (short.length > 60 ? short.slice(0, 60) : short).replace(/["“”]/g, '').trimEnd();
}

function openingOf(text: string, topic: string, source: number): string {
  if (topic === '')
    return pick(source, ['Here is what I can say.', 'All right, let me begin.', 'Sure, here is an answer.']);
  if (greeting.test(text)) {
    return pick(source, [
      `Hello! You said “${topic}”, and I am glad you did.`,
      `Hi there! “${topic}” is a fine way to start; how can I help?`,
      `Hello! I read “${topic}” and I am ready for your question.`,
    ]);
  }
  if (question.test(text) || text.endsWith('?')) {
    return pick(source, [
      `Good question: “${topic}”.`,
      `You ask “${topic}”, so let me take it step by step.`,
      `About “${topic}”: here is a short answer.`,
    ]);
  }
  return pick(source, [
    `You wrote “${topic}”; here are my thoughts.`,
    `Let me take up “${topic}”.`,
    `On “${topic}”, this is what comes to mind.`,
  ]);
}

const sentences: readonly ((topic: string) => string)[] = [
  () => 'The short version is that it depends on what you want to achieve.',
  (topic) => `The first thing to look at in “${topic}” is what goes in and what should come out.`,
  () => 'A small example usually tells more than a long explanation.',
  () => 'It helps to measure before changing anything.',
  () => 'Start with the simplest thing that could work, then improve it.',
  () => 'Once that is clear, the rest follows almost by itself.',
  () => 'There is more than one good way, and each has its price.',
  (topic) => `If “${topic}” is new to you, give it an hour and a notebook.`,
  () => 'Keep the parts small, so that each can be checked alone.',
  () => 'This answer comes from a simulated model, so take it as a stand-in for a real one.',
  () => 'Ask me again with a detail or two and I can be more exact.',
  () => 'Most surprises come from the borders between two parts.',
];

function sentenceOf(source: number, at: number, topic: string): string {
  const sentence = sentences[(source + at * 5) % sentences.length];
  return sentence ? sentence(topic === '' ? 'this' : topic) : '';
}

function pick(source: number, choices: readonly string[]): string {
  return choices[source % choices.length] ?? '';
}
