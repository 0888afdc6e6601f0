import { randomUUID } from 'node:crypto';
import type { Clock } from '../clock.ts';
import { answeredTail, type Conversation, conversationOf, tailOf } from '../openai/conversation.ts';
import type { Completion } from '../openai/request.ts';
import { sessionIdKey, sessionScope, sessionTailKey } from '../openai/session-key.ts';

/** Headers that name a conversation, strongest first. */
const idHeaders = [
  'x-session-id',
  'x-claude-code-session-id',
  'x-session-affinity',
  'session-id',
  'session_id',
] as const;
/** Fields of a body that name a conversation and that no engine knows: taken out before it sees the request. */
export const sessionFields = ['session_id', 'conversation_id'] as const;

const maxIdLength = 256;
/** Ends of a conversation that are remembered: it may fork, and several may share one id. */
const maxTails = 8;

type RequestHeaders = Readonly<Record<string, string | readonly string[] | undefined>>;

/** Who a request belongs to, read once. */
export interface SessionKey {
  /** Given by the client, or undefined. */
  readonly id: string | undefined;
  /** Separates tenants and models. */
  readonly scope: string;
  readonly conversation: Conversation | undefined;
  /** `previous_response_id` of a Responses request. */
  readonly previousResponse: string | undefined;
}

/** What is known about a request's conversation. */
export interface SessionMatch {
  /** The id to tell the client: its own, the conversation's, or a new one. */
  readonly id: string;
  /** Whether the KV blocks of the conversation so far should be in the local engine. */
  readonly isKnown: boolean;
  /** Prompt tokens that should be found in the local cache; 0 when nobody counted them. */
  readonly expectedTokens: number;
  /** Characters of the prompt that the local engine has not seen. */
  readonly newChars: number;
}

/** What to remember after an answer. */
export interface SessionFacts {
  readonly answer: readonly string[] | undefined;
  readonly tokens: number;
  readonly responseId: string | undefined;
  /** `ip:port` that prefilled, or undefined when the local engine did. */
  readonly prefill: string | undefined;
  readonly kvHandle: string | undefined;
}

interface Tail {
  /** Hash of the conversation up to its last answer. */
  readonly answered: string | undefined;
  /** Hash of the prompt that was answered. */
  readonly prompt: string | undefined;
  readonly tokens: number;
}

interface Session {
  readonly key: string;
  /** What pickers know it by. */
  readonly publicKey: string;
  readonly id: string;
  tails: Tail[];
  aliases: string[];
  turns: number;
  tokens: number;
  prefill: string | undefined;
  kvHandle: string | undefined;
  lastUsedMs: number;
}

/** One session as `GET /debug/sessions` shows it. */
export interface SessionView {
  readonly session_id: string;
  readonly kv_handle: string | null;
  readonly tokens_processed: number;
  readonly prefill: string | null;
  readonly turns: number;
  readonly idle_seconds: number;
}

/** Reads who a request belongs to. `headers` are node's, in lower case. */
export function sessionKeyOf(request: Completion, headers: RequestHeaders): SessionKey {
  const scope = sessionScope(request.model, String(headers.authorization ?? headers['x-api-key'] ?? ''));
  return {
    id: sessionIdOf(request, headers),
    scope,
    conversation: conversationOf(request, scope),
    previousResponse: idOf(request.body.previous_response_id),
  };
}

/** The id that the client gave the conversation: by header, then by body; undefined when none is usable. */
export function sessionIdOf(request: Completion, headers: RequestHeaders): string | undefined {
  const { body } = request;
  let id: string | undefined;
  for (const name of idHeaders) id ??= idOf(headers[name]);
  for (const name of sessionFields) id ??= idOf(body[name]);
  return id ?? idOf(body.prompt_cache_key);
}

function idOf(value: unknown): string | undefined {
  return typeof value === 'string' && value !== '' && value.length <= maxIdLength && /^[\x21-\x7e]+$/.test(value)
    ? value
    : undefined;
}

/**
 * The conversations whose KV blocks should be in the local engine's prefix cache: least recently used out first.
 * Caveats: the engine evicts blocks without saying so; a hit is evidence, not proof, and `invalidate` takes it back when
 * the answer's usage shows otherwise.
 */
export class Sessions {
  readonly #maxEntries: number;
  readonly #idleMs: number;
  readonly #clock: Clock;
  readonly #onEvict: () => void;
  /** In order of last use. */
  readonly #byKey = new Map<string, Session>();
  /** Tail hashes and response ids to the key of their session. */
  readonly #byTail = new Map<string, string>();
  /** Counts changes of what is published. */
  #version = 0;
  /** Counts how often everything was forgotten, so that an answer from before does not come back. */
  #epoch = 0;

  constructor(options: {
    readonly maxEntries: number;
    readonly idleMs: number;
    readonly clock: Clock;
    readonly onEvict?: () => void;
  }) {
    this.#maxEntries = options.maxEntries;
    this.#idleMs = options.idleMs;
    this.#clock = options.clock;
    this.#onEvict = options.onEvict ?? (() => {});
  }

  get size(): number {
    return this.#byKey.size;
  }

  get epoch(): number {
    return this.#epoch;
  }

  /**
   * Looks a request up: by the client's id, verified by the chain where both sides have one, then by the longest stored
   * conversation that the prompt begins with. A match counts as use.
   */
  find(key: SessionKey): SessionMatch {
    const { conversation } = key;
    if (key.id !== undefined) {
      const session = this.#fresh(keyOf(key.scope, key.id));
      if (session) {
        const match = matchOf(session, conversation);
        if (match) return this.#hit(session, key.id, match);
      }
    }
    if (conversation) {
      for (let k = conversation.chain.length - 1; k >= 0; k--) {
        const owner = this.#byTail.get(conversation.chain[k] ?? '');
        const session = owner === undefined ? undefined : this.#fresh(owner);
        const tail = session?.tails.find((item) => item.answered === conversation.chain[k]);
        if (session && tail) {
          return this.#hit(session, key.id ?? session.id, {
            tokens: tail.tokens,
            newChars: newCharsOf(conversation, k),
          });
        }
      }
    }
    if (key.previousResponse !== undefined) {
      const owner = this.#byTail.get(aliasOf(key.scope, key.previousResponse));
      const session = owner === undefined ? undefined : this.#fresh(owner);
      if (session) return this.#hit(session, key.id ?? session.id, { tokens: session.tokens, newChars: 0 });
    }
    return { id: key.id ?? randomUUID(), isKnown: false, expectedTokens: 0, newChars: conversation?.chars.at(-1) ?? 0 };
  }

  /** Remembers a conversation after a good answer. `epoch` is the one the request began in; later ones are not mixed up. */
  commit(key: SessionKey, id: string, facts: SessionFacts, epoch: number): void {
    if (this.#maxEntries === 0 || epoch !== this.#epoch) return;
    const mapKey = keyOf(key.scope, id);
    const session: Session = this.#byKey.get(mapKey) ?? {
      key: mapKey,
      publicKey: sessionIdKey(key.scope, id),
      id,
      tails: [],
      aliases: [],
      turns: 0,
      tokens: 0,
      prefill: undefined,
      kvHandle: undefined,
      lastUsedMs: 0,
    };
    session.turns++;
    session.tokens = facts.tokens;
    session.prefill = facts.prefill ?? session.prefill;
    session.kvHandle = facts.kvHandle ?? session.kvHandle;
    const { conversation } = key;
    if (conversation) {
      const answered = facts.answer ? answeredTail(conversation, facts.answer) : undefined;
      const prompt = tailOf(conversation);
      session.tails = session.tails.filter((tail) => tail.answered !== answered || tail.prompt !== prompt);
      session.tails.push({ answered, prompt, tokens: facts.tokens });
      if (answered !== undefined) this.#byTail.set(answered, mapKey);
      while (session.tails.length > maxTails) this.#unlink(mapKey, session.tails.shift()?.answered);
    }
    if (facts.responseId !== undefined) {
      const alias = aliasOf(key.scope, facts.responseId);
      session.aliases.push(alias);
      this.#byTail.set(alias, mapKey);
      while (session.aliases.length > maxTails) this.#unlink(mapKey, session.aliases.shift());
    }
    this.#version++;
    this.#touch(session);
    this.#sweep();
  }

  /** Forgets one conversation: its blocks turned out to be gone. */
  invalidate(key: SessionKey, id: string): void {
    const { conversation } = key;
    this.#drop(this.#byKey.get(keyOf(key.scope, id)));
    for (const link of conversation?.chain ?? []) {
      const owner = this.#byTail.get(link);
      if (owner !== undefined) this.#drop(this.#byKey.get(owner));
    }
  }

  /** Forgets everything: the engine and its cache are gone. Returns how many conversations that were. */
  clear(): number {
    const count = this.#byKey.size;
    this.#byKey.clear();
    this.#byTail.clear();
    this.#version++;
    this.#epoch++;
    return count;
  }

  /** Changes with `publicKeys`. */
  get version(): number {
    return this.#version;
  }

  /** What a picker needs to send a conversation here again: hashes of ids and of contents, most recently used first, at most `max`. */
  publicKeys(max: number): readonly string[] {
    const keys: string[] = [];
    const oldest = this.#clock.now() - this.#idleMs;
    for (const session of [...this.#byKey.values()].reverse()) {
      if (keys.length >= max || session.lastUsedMs < oldest) break;
      keys.push(session.publicKey);
      for (const { answered } of session.tails) if (answered !== undefined) keys.push(sessionTailKey(answered));
    }
    return keys.slice(0, max);
  }

  /** What is remembered, most recently used first. */
  view(): readonly SessionView[] {
    const now = this.#clock.now();
    return [...this.#byKey.values()].reverse().map((session) => ({
      session_id: session.id,
      kv_handle: session.kvHandle ?? null,
      tokens_processed: session.tokens,
      prefill: session.prefill ?? null,
      turns: session.turns,
      idle_seconds: Math.round((now - session.lastUsedMs) / 1000),
    }));
  }

  #fresh(key: string): Session | undefined {
    const session = this.#byKey.get(key);
    if (session && this.#clock.now() - session.lastUsedMs > this.#idleMs) {
      this.#drop(session);
      return undefined;
    }
    return session;
  }

  #hit(session: Session, id: string, match: { readonly tokens: number; readonly newChars: number }): SessionMatch {
    this.#touch(session);
    return { id, isKnown: true, expectedTokens: match.tokens, newChars: match.newChars };
  }

  #touch(session: Session): void {
    session.lastUsedMs = this.#clock.now();
    this.#byKey.delete(session.key);
    this.#byKey.set(session.key, session);
  }

  #sweep(): void {
    const oldest = this.#clock.now() - this.#idleMs;
    for (const session of this.#byKey.values()) {
      if (this.#byKey.size <= this.#maxEntries && session.lastUsedMs >= oldest) break;
      if (session.lastUsedMs >= oldest) this.#onEvict();
      this.#drop(session);
    }
  }

  #drop(session: Session | undefined): void {
    if (!session) return;
    this.#version++;
    this.#byKey.delete(session.key);
    for (const tail of session.tails) this.#unlink(session.key, tail.answered);
    for (const alias of session.aliases) this.#unlink(session.key, alias);
  }

  #unlink(owner: string, link: string | undefined): void {
    if (link !== undefined && this.#byTail.get(link) === owner) this.#byTail.delete(link);
  }
}

function keyOf(scope: string, id: string): string {
  return `${scope}\n${id}`;
}

function aliasOf(scope: string, responseId: string): string {
  return `response\n${scope}\n${responseId}`;
}

function newCharsOf(conversation: Conversation, k: number): number {
  return (conversation.chars.at(-1) ?? 0) - (conversation.chars[k] ?? 0) + conversation.rest.length;
}

/** How far a prompt continues a session that its id named: past an answer, past a prompt, or unverifiable. */
function matchOf(
  session: Session,
  conversation: Conversation | undefined,
): { readonly tokens: number; readonly newChars: number } | undefined {
  const tails = session.tails;
  if (!conversation || tails.every((tail) => tail.prompt === undefined && tail.answered === undefined)) {
    return { tokens: session.tokens, newChars: 0 };
  }
  for (let k = conversation.chain.length - 1; k >= 0; k--) {
    const link = conversation.chain[k];
    const tail = tails.find((item) => item.answered === link || item.prompt === link);
    if (tail) return { tokens: tail.answered === link ? tail.tokens : 0, newChars: newCharsOf(conversation, k) };
  }
  return undefined;
}
