import { errorBody } from '../openai/error-body.ts';
import type { PickRequest } from './framework/cycle-state.ts';
import type { Decision, ProfileReport } from './framework/decision.ts';
import type { Endpoint } from './framework/endpoint.ts';

/** Figures of one endpoint at the time of a choice. */
const columns = ['isKnown', 'waiting', 'running', 'kvUsage', 'inFlight', 'requestsPerSecond', 'readAtMs'] as const;

/** What an endpoint was known by when the choice was made. */
export interface LoadReport {
  readonly endpoint: string;
  readonly hostPort: string;
  readonly isReady: boolean;
  readonly labels: Readonly<Record<string, string>>;
  /** False: the figures did not count, because they were missing or too old. */
  readonly isKnown: boolean;
  /** Age of the metrics when the choice was made; null before the first reading. */
  readonly metricsAgeMs: number | null;
  readonly waiting: number;
  readonly running: number;
  readonly kvUsage: number;
  readonly inFlight: number;
  readonly requestsPerSecond: number;
}

/** Why one request went where it went. */
export interface Explanation {
  readonly requestId: string;
  /** RFC 3339. */
  readonly at: string;
  readonly model: string;
  readonly sessionId: string | null;
  /** True when the choice was only asked for, not made. */
  readonly isTrial: boolean;
  /** `ip:port`, the first gets the request; empty when it was refused. */
  readonly picked: readonly string[];
  readonly primaryProfile: string | null;
  /** Why it was refused; null when it was not. */
  readonly refusal: string | null;
  readonly profiles: readonly (ProfileReport & { readonly weights: Readonly<Record<string, number>> })[];
  /** Every endpoint of the pool. */
  readonly endpoints: readonly LoadReport[];
}

/** A choice with the figures it was made on. Kept as numbers: the words are made when somebody asks. */
export class Trace {
  requestId = '';
  #atMs = 0;
  #model = '';
  #sessionId: string | undefined;
  #isTrial = false;
  #decision: Decision | undefined;
  #refusal: string | undefined;
  #pool: readonly Endpoint[] = [];
  #figures = new Float64Array(0);

  /** Takes the pool's figures as they are now. Call before the request is counted. */
  begin(request: PickRequest, pool: readonly Endpoint[], atMs: number, isTrial = false): void {
    this.requestId = request.id;
    this.#model = request.model;
    this.#sessionId = request.sessionId;
    this.#atMs = atMs;
    this.#isTrial = isTrial;
    this.#decision = undefined;
    this.#refusal = undefined;
    this.#pool = pool;
    // The memory of the choice before is used again: a choice allocates nothing for its trace.
    if (this.#figures.length < pool.length * columns.length)
      this.#figures = new Float64Array(pool.length * columns.length);
    const figures = this.#figures;
    for (let i = 0, at = 0; i < pool.length; i++) {
      const load = pool[i]?.load;
      if (load === undefined) break;
      figures[at++] = load.isKnown ? 1 : 0;
      figures[at++] = load.waiting;
      figures[at++] = load.running;
      figures[at++] = load.kvUsage;
      figures[at++] = load.inFlight;
      figures[at++] = load.requestsPerSecond;
      figures[at++] = load.readAtMs;
    }
  }

  chose(decision: Decision): void {
    this.#decision = decision;
  }

  refused(message: string): void {
    this.#refusal = message;
  }

  explain(): Explanation {
    const decision = this.#decision;
    return {
      requestId: this.requestId,
      at: new Date(this.#atMs).toISOString(),
      model: this.#model,
      sessionId: this.#sessionId ?? null,
      isTrial: this.#isTrial,
      picked: decision?.endpoints.map(({ hostPort }) => hostPort) ?? [],
      primaryProfile: decision?.primaryProfile ?? null,
      refusal: this.#refusal ?? null,
      profiles: [...(decision?.results.values() ?? [])].map((result) => ({
        ...result.report(),
        weights: Object.fromEntries(result.weights),
      })),
      endpoints: this.#pool.map((endpoint, i) => {
        const figure = (name: (typeof columns)[number]) =>
          this.#figures[i * columns.length + columns.indexOf(name)] ?? 0;
        const ageMs = this.#atMs - figure('readAtMs');
        return {
          endpoint: endpoint.id,
          hostPort: endpoint.hostPort,
          isReady: endpoint.isReady,
          labels: endpoint.labels,
          isKnown: figure('isKnown') === 1,
          metricsAgeMs: Number.isFinite(ageMs) ? ageMs : null,
          waiting: figure('waiting'),
          running: figure('running'),
          kvUsage: figure('kvUsage'),
          inFlight: figure('inFlight'),
          requestsPerSecond: Math.round(figure('requestsPerSecond') * 1000) / 1000,
        };
      }),
    };
  }
}

/** The traces of the latest choices, `capacity` of them. */
export class TraceRing {
  readonly #traces: Trace[] = [];
  readonly #capacity: number;
  #next = 0;

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  /** The trace for the next choice; the oldest is written over. Undefined when none are kept. */
  take(): Trace | undefined {
    if (this.#capacity === 0) return undefined;
    const at = this.#next;
    this.#next = (at + 1) % this.#capacity;
    let trace = this.#traces[at];
    if (trace === undefined) {
      trace = new Trace();
      this.#traces[at] = trace;
    }
    return trace;
  }

  /** The latest choice for that request. */
  find(requestId: string): Trace | undefined {
    return this.latest().find((trace) => trace.requestId === requestId);
  }

  /** Latest first. */
  latest(): readonly Trace[] {
    const traces: Trace[] = [];
    for (let i = 1; i <= this.#traces.length; i++) {
      const trace = this.#traces[(this.#next - i + this.#capacity) % this.#capacity];
      if (trace !== undefined) traces.push(trace);
    }
    return traces;
  }
}

/** What the debug endpoint answers. */
export interface DebugAnswer {
  readonly status: number;
  readonly contentType: string;
  readonly body: string;
}

const json = (status: number, value: unknown): DebugAnswer => ({
  status,
  contentType: 'application/json',
  body: `${JSON.stringify(value, null, 2)}\n`,
});

/**
 * `GET` with `request=<id>`: why that request went where it went; without: the latest requests. `POST` with a request as
 * a body: where it would go. With `format=text` for people.
 *
 * @param tryOut the choice for a request that is not sent
 */
export async function answerExplain(
  ring: TraceRing,
  tryOut: (body: Buffer, path: string) => Promise<Explanation>,
  call: { readonly method: string; readonly query: URLSearchParams; readonly body: Buffer },
): Promise<DebugAnswer> {
  const tell = (explanation: Explanation): DebugAnswer =>
    call.query.get('format') === 'text'
      ? { status: 200, contentType: 'text/plain; charset=utf-8', body: renderExplanation(explanation) }
      : json(200, explanation);
  if (call.method === 'POST') return tell(await tryOut(call.body, call.query.get('path') ?? '/v1/chat/completions'));
  const id = call.query.get('request');
  if (id !== null) {
    const trace = ring.find(id);
    if (trace === undefined) {
      return json(404, errorBody(404, `request ${id} is not among the latest ones; see --explain-requests`));
    }
    return tell(trace.explain());
  }
  const latest = ring.latest().map((trace) => trace.explain());
  if (call.query.get('format') === 'text') {
    const lines = latest.map(({ at, requestId, model, picked, refusal }) =>
      [at, requestId, model, refusal ?? picked.join(',')].join('  '),
    );
    return { status: 200, contentType: 'text/plain; charset=utf-8', body: lines.map((line) => `${line}\n`).join('') };
  }
  return json(200, {
    requests: latest.map(({ requestId, at, model, picked, refusal }) => ({ requestId, at, model, picked, refusal })),
  });
}

/** An explanation as tables for a terminal. */
export function renderExplanation(explanation: Explanation): string {
  const { requestId, at, model, sessionId, picked, refusal, profiles, endpoints, isTrial } = explanation;
  const lines = [
    `request  ${requestId}${isTrial ? ' (trial, not sent)' : ''}`,
    `at       ${at}`,
    `model    ${model === '' ? '-' : model}`,
    `session  ${sessionId ?? '-'}`,
    `answer   ${refusal === null ? picked.join(', ') : `refused: ${refusal}`}`,
  ];
  const round = (value: number): string => String(Math.round(value * 10_000) / 10_000);
  for (const { profile, candidates, weights } of profiles) {
    const names = Object.keys(weights);
    lines.push('', `profile ${profile}${profile === explanation.primaryProfile ? ' (primary)' : ''}`);
    lines.push(
      ...table([
        ['  ENDPOINT', 'ADDRESS', 'VERDICT', 'TOTAL', ...names.map((name) => `${name} ×${weights[name]}`)],
        ...candidates.map(({ endpoint, hostPort, droppedBy, total, scores, isPicked }) => [
          `${isPicked ? '→' : ' '} ${endpoint}`,
          hostPort,
          droppedBy === undefined ? (isPicked ? 'picked' : 'scored') : `dropped: ${droppedBy}`,
          total === undefined ? '-' : round(total),
          ...names.map((name) => {
            const score = scores?.[name];
            return score === undefined ? '-' : `${round(score)} → ${round(score * (weights[name] ?? 0))}`;
          }),
        ]),
      ]),
    );
  }
  lines.push('', 'metrics then');
  lines.push(
    ...table([
      ['  ENDPOINT', 'AGE', 'WAITING', 'RUNNING', 'KV', 'IN FLIGHT', 'RATE'],
      ...endpoints.map((endpoint) => [
        `  ${endpoint.endpoint}`,
        endpoint.metricsAgeMs === null
          ? 'never read'
          : `${Math.round(endpoint.metricsAgeMs)} ms${endpoint.isKnown ? '' : ' (too old)'}`,
        String(endpoint.waiting),
        String(endpoint.running),
        round(endpoint.kvUsage),
        String(endpoint.inFlight),
        `${round(endpoint.requestsPerSecond)}/s`,
      ]),
    ]),
  );
  return `${lines.join('\n')}\n`;
}

function table(rows: readonly (readonly string[])[]): readonly string[] {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, i) => {
      widths[i] = Math.max(widths[i] ?? 0, cell.length);
    });
  }
  return rows.map((row) =>
    row
      .map((cell, i) => cell.padEnd((widths[i] ?? 0) + 2))
      .join('')
      .trimEnd(),
  );
}
