import { assistantSegment, callsOf, canonicalItem, type ToolCall, textOf } from './conversation.ts';
import type { Api } from './request.ts';
import { EventSplitter, eventData } from './sse.ts';
import { reportsCachedTokens, type Usage, usageOf } from './usage.ts';

/** What is known of an answer once it has passed. */
export interface Answer {
  /** The answer as segments of its conversation; undefined when it was too long, has several choices or none. */
  readonly segments: readonly string[] | undefined;
  /** Why the engine stopped (`stop`, `length`, `end_turn`, …); undefined when it did not say. */
  readonly finish: string | undefined;
  readonly usage: Usage | undefined;
  /** Whether the engine told how many tokens were cached. */
  readonly isCacheReported: boolean;
  /** Id of the answer, which a Responses request may name in `previous_response_id`. */
  readonly id: string | undefined;
}

type Fields = Readonly<Record<string, unknown>>;

/**
 * Reads an answer as it passes, JSON or server-sent events in any chunks, without holding it up.
 * Memory is bounded: beyond `maxBytes` of answer the text is given up.
 */
export class AnswerReader {
  readonly #api: Api;
  readonly #isStream: boolean;
  readonly #maxBytes: number;
  readonly #splitter: EventSplitter;
  #chunks: Buffer[] = [];
  #bytes = 0;
  #text = '';
  #calls: { id: string; name: string; input: string }[] = [];
  #items: readonly string[] | undefined;
  #finish: string | undefined;
  #usage: Usage | undefined;
  #isCacheReported = false;
  #id: string | undefined;
  #isLost = false;

  constructor(api: Api, isStream: boolean, maxBytes = 1024 * 1024) {
    this.#api = api;
    this.#isStream = isStream;
    this.#maxBytes = maxBytes;
    this.#splitter = new EventSplitter(maxBytes);
  }

  push(chunk: Buffer): void {
    if (this.#isStream) {
      for (const event of this.#splitter.push(chunk)) this.#event(event);
      return;
    }
    this.#bytes += chunk.length;
    if (this.#bytes > this.#maxBytes) {
      this.#isLost = true;
      this.#chunks = [];
    } else if (!this.#isLost) this.#chunks.push(chunk);
  }

  /** Call once, when the stream has ended. */
  end(): Answer {
    if (this.#isStream) {
      const rest = this.#splitter.flush();
      if (rest.length > 0) this.#event(rest);
    } else if (!this.#isLost) {
      const [only] = this.#chunks;
      const body = this.#chunks.length === 1 && only ? only : Buffer.concat(this.#chunks);
      this.#whole(parseFields(body.toString('utf8')));
    }
    return {
      segments: this.#segments(),
      finish: this.#finish,
      usage: this.#usage,
      isCacheReported: this.#isCacheReported,
      id: this.#id,
    };
  }

  #segments(): readonly string[] | undefined {
    if (this.#isLost || this.#finish === undefined) return undefined;
    if (this.#items) return this.#items;
    if (this.#api === 'completions' || this.#api === 'generate') return [this.#text];
    if (this.#api === 'chat' || this.#api === 'messages') return [assistantSegment(this.#text, this.#toolCalls())];
    return undefined;
  }

  #toolCalls(): readonly ToolCall[] {
    // Anthropic streams its tools' input as pieces of JSON; what the client sends back is the parsed object.
    return this.#api === 'messages' && this.#isStream
      ? this.#calls.filter(Boolean).map((call) => ({ ...call, input: JSON.stringify(parseFields(call.input) ?? {}) }))
      : this.#calls.filter(Boolean);
  }

  #append(more: unknown): void {
    if (typeof more !== 'string' || more === '') return;
    if (this.#text.length + more.length > this.#maxBytes) this.#isLost = true;
    else this.#text += more;
  }

  #whole(body: Fields | undefined): void {
    if (!body) return;
    this.#sawUsage(body);
    if (typeof body.id === 'string') this.#id = body.id;
    switch (this.#api) {
      case 'chat':
      case 'completions': {
        const choices = listOf(body.choices);
        const choice = choices[0];
        if (choices.length > 1) this.#isLost = true;
        if (!choice) return;
        const message = (choice.message ?? {}) as Fields;
        this.#append(this.#api === 'chat' ? textOf(message.content) : choice.text);
        this.#calls = callsOf(message).map((call) => ({ ...call }));
        this.#finished(choice.finish_reason);
        return;
      }
      case 'messages':
        this.#append(textOf(body.content));
        this.#calls = callsOf(body).map((call) => ({ ...call }));
        this.#finished(body.stop_reason);
        return;
      case 'responses':
        this.#response(body);
        return;
      case 'generate':
        this.#tokenChoices(body);
        return;
      case 'embeddings':
        return;
    }
  }

  #event(event: Buffer): void {
    const data = eventData(event);
    if (data === undefined || data === '[DONE]') return;
    const fields = parseFields(data);
    if (!fields) return;
    switch (this.#api) {
      case 'chat':
      case 'completions':
        this.#chunk(fields);
        return;
      case 'messages':
        this.#messageEvent(fields);
        return;
      case 'responses':
        if (fields.type === 'response.completed' || fields.type === 'response.incomplete') {
          this.#response((fields.response ?? {}) as Fields);
        }
        return;
      case 'generate':
        if (fields.usage) this.#sawUsage(fields);
        this.#tokenChoices(fields);
        return;
      case 'embeddings':
        return;
    }
  }

  #chunk(chunk: Fields): void {
    if (chunk.usage) this.#sawUsage(chunk);
    if (typeof chunk.id === 'string') this.#id = chunk.id;
    for (const choice of listOf(chunk.choices)) {
      if (typeof choice.index === 'number' && choice.index > 0) {
        this.#isLost = true;
        continue;
      }
      if (this.#api === 'completions') this.#append(choice.text);
      const delta = choice.delta as Fields | undefined | null;
      if (delta) {
        this.#append(delta.content);
        for (const call of listOf(delta.tool_calls)) this.#call(call);
      }
      this.#finished(choice.finish_reason);
    }
  }

  /** Token ids in place of text, each followed by a comma as in the prompt's chain. */
  #tokenChoices(holder: Fields): void {
    const [choice, ...more] = listOf(holder.choices);
    if (more.length > 0 || (typeof choice?.index === 'number' && choice.index > 0)) this.#isLost = true;
    if (!choice) return;
    if (Array.isArray(choice.token_ids)) this.#append(choice.token_ids.map((id) => `${String(id)},`).join(''));
    this.#finished(choice.finish_reason);
  }

  #call(piece: Fields): void {
    const index = typeof piece.index === 'number' ? piece.index : this.#calls.length;
    const called = (piece.function ?? {}) as Fields;
    this.#addToCall(index, piece.id, called.name, called.arguments);
  }

  #addToCall(index: number, id: unknown, name: unknown, input: unknown): void {
    if (index < 0 || index > 255) {
      this.#isLost = true;
      return;
    }
    const call = this.#calls[index] ?? { id: '', name: '', input: '' };
    this.#calls[index] = call;
    if (typeof id === 'string') call.id = id;
    if (typeof name === 'string') call.name = name;
    if (typeof input === 'string') call.input += input;
    if (call.input.length > this.#maxBytes) this.#isLost = true;
  }

  #messageEvent(event: Fields): void {
    const index = typeof event.index === 'number' ? event.index : 0;
    switch (event.type) {
      case 'message_start': {
        const message = (event.message ?? {}) as Fields;
        this.#sawUsage(message);
        if (typeof message.id === 'string') this.#id = message.id;
        return;
      }
      case 'content_block_start': {
        const block = (event.content_block ?? {}) as Fields;
        if (block.type === 'tool_use') this.#addToCall(index, block.id, block.name, '');
        return;
      }
      case 'content_block_delta': {
        const delta = (event.delta ?? {}) as Fields;
        if (delta.type === 'text_delta') this.#append(delta.text);
        if (delta.type === 'input_json_delta') this.#addToCall(index, undefined, undefined, delta.partial_json);
        return;
      }
      case 'message_delta': {
        this.#finished(((event.delta ?? {}) as Fields).stop_reason);
        this.#isCacheReported ||= reportsCachedTokens(event);
        const usage = usageOf(event);
        if (usage) {
          this.#usage = {
            promptTokens: usage.promptTokens || (this.#usage?.promptTokens ?? 0),
            completionTokens: usage.completionTokens,
            cachedTokens: usage.cachedTokens || (this.#usage?.cachedTokens ?? 0),
          };
        }
        return;
      }
    }
  }

  #response(response: Fields): void {
    this.#sawUsage(response);
    if (typeof response.id === 'string') this.#id = response.id;
    if (response.status === undefined || response.status === 'completed' || response.status === 'incomplete') {
      this.#finished(typeof response.status === 'string' ? response.status : 'completed');
    }
    this.#items = listOf(response.output).flatMap(canonicalItem);
  }

  #sawUsage(holder: Fields): void {
    this.#usage = usageOf(holder);
    this.#isCacheReported ||= reportsCachedTokens(holder);
  }

  #finished(reason: unknown): void {
    if (typeof reason === 'string' && reason !== '') this.#finish = reason;
  }
}

function listOf(value: unknown): readonly Fields[] {
  return Array.isArray(value) ? (value.filter((item) => typeof item === 'object' && item !== null) as Fields[]) : [];
}

function parseFields(text: string): Fields | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? (value as Fields) : undefined;
  } catch {
    return undefined;
  }
}
