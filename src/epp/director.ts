import { randomUUID } from 'node:crypto';
import type { Clock } from '../clock.ts';
import { AppError, messageOf } from '../errors.ts';
import { parseDurationMs } from '../flags.ts';
import { errorBody } from '../openai/error-body.ts';
import { type ModelNames, replaceModelName, toModelNames } from '../openai/model-name.ts';
import { type Completion, promptText } from '../openai/request.ts';
import { sessionKeysOf } from '../openai/session-key.ts';
import { type Usage, usageOf } from '../openai/usage.ts';
import type { Logger } from '../telemetry/log.ts';
import type { TraceSpan, Tracing } from '../telemetry/tracing.ts';
import type { Datastore, LiveEndpoint, Snapshot } from './datalayer/datastore.ts';
import type { LiveLoad } from './datalayer/live-load.ts';
import type { Outcomes } from './datalayer/outcomes.ts';
import { pickTarget, type RequestPolicies } from './datalayer/request-policies.ts';
import { type Explanation, Trace, type TraceRing } from './explain.ts';
import type { FlowControl, FlowRefusal, FlowRequest } from './flow/flow-control.ts';
import { Cycle, type PickRequest } from './framework/cycle-state.ts';
import type { Decision } from './framework/decision.ts';
import type { Endpoint } from './framework/endpoint.ts';
import type { ExchangeObserver } from './framework/plugin.ts';
import { matchedShare, type PrefixMatch, prefixMatchKey } from './framework/prefix-match.ts';
import type { Scheduler } from './framework/scheduler.ts';
import { usageInGrpcTail } from './grpc-engine.ts';
import type { EppTelemetry, FlowLabels, FlowMetrics } from './metrics.ts';
import { type ReadBody, readBody } from './request-reader.ts';

/** One HTTP request, whatever brought it. */
export interface InboundRequest {
  /** Names (lower case) and values in turn. */
  readonly headers: readonly string[];
  readonly body: readonly Buffer[];
  readonly bodyBytes: number;
  /** Endpoints that the gateway allows, `ip` or `ip:port`; absent: all. */
  readonly subset: readonly string[] | undefined;
}

export interface Route {
  readonly kind: 'route';
  readonly mutation: {
    readonly set: readonly (readonly [name: string, value: string])[];
    readonly remove: readonly string[];
  };
  readonly metadata: Readonly<Record<string, Readonly<Record<string, string | Readonly<Record<string, number>>>>>>;
  /** Further headers of the answer to the client. */
  readonly answerHeaders?: ReadonlyMap<string, string>;
  /** The body where the model was rewritten. */
  readonly body?: readonly Buffer[];
  /** The answer is to name the model that was asked for. */
  readonly names?: ModelNames;
}

export interface Refusal {
  readonly kind: 'reject';
  readonly status: number;
  readonly body: ReturnType<typeof errorBody>;
  readonly reason?: string;
  readonly retryAfterS?: number;
}

/** What the gateway is told, and the watch over the exchange that follows. */
export interface Outcome {
  readonly answer: Route | Refusal;
  readonly exchange: WatchedExchange | undefined;
}

/** The ways out for a request under way. */
export interface Departure {
  /** The gateway's call, with the headers that it opened it with. */
  readonly call?: { header(name: string): string | undefined };
  /** Set while the request waits: to be called when its client goes. */
  onLeave?: () => void;
  /** Ends the request with that answer, also after it was sent to an endpoint. */
  readonly evict?: (refusal: Refusal) => void;
}

const destinationHeader = 'x-gateway-destination-endpoint';

/** What clients may tell the picker, by the names of now and of before. */
const inputHeaders = {
  objective: ['x-llm-d-inference-objective', 'x-gateway-inference-objective'],
  fairnessId: ['x-llm-d-inference-fairness-id', 'x-gateway-inference-fairness-id'],
  model: ['x-llm-d-model-name-rewrite', 'x-gateway-model-name-rewrite'],
  ttftMs: ['x-llm-d-slo-ttft-ms', 'x-slo-ttft-ms'],
  tpotMs: ['x-llm-d-slo-tpot-ms', 'x-slo-tpot-ms'],
} as const;
const defaultFairnessId = 'default-flow';
const maxFairnessIdLength = 256;

/** Headers that end here: a client's would steer the gateway or the sidecar, or are meant for the picker alone. */
const controlHeaders = new Set([
  ...Object.values(inputHeaders).flat(),
  'x-llm-d-inference-ttl',
  destinationHeader,
  'x-gateway-destination-endpoint-subset',
  'x-gateway-destination-endpoint-served',
  'x-gateway-destination-endpoint-scores',
  'x-target-pod',
  'x-prefiller-host-port',
  'x-encoder-hosts-ports',
  'x-data-parallel-host-port',
  'x-kv-cache-source-host-port',
]);

/** Where a client names its conversation, in order. The sidecar looks at the same places. */
const sessionHeaders = ['x-session-id', 'x-claude-code-session-id', 'x-session-affinity', 'session-id', 'session_id'];
const sessionFields = ['session_id', 'conversation_id', 'prompt_cache_key'];
const maxSessionIdLength = 512;

/** Bytes kept from the end of an answer to find its usage in. */
const tailBytes = 16 * 1024;

/** The use case: a request in, an endpoint with its headers out, and the answer watched until it ends. */
export function createDirector(deps: {
  readonly datastore: Datastore;
  /** The one of the configuration that counts now; a request keeps the one it began with. */
  readonly scheduler: () => Scheduler;
  readonly telemetry: EppTelemetry;
  readonly isSubsetHonoured: boolean;
  readonly tracing?: Tracing;
  /** Whether the gateway is told the scores of the endpoints that were chosen among. */
  readonly areScoresTold: boolean;
  readonly policies: () => RequestPolicies;
  readonly flowControl: FlowControl;
  /** 0 ≤ x < 1. */
  readonly random: () => number;
  readonly traces: TraceRing;
  readonly outcomes: Outcomes;
  readonly clock: Clock;
  readonly log: Logger;
}) {
  const { datastore, flowControl, telemetry, traces, clock, log } = deps;

  const refuse = (thrown: unknown, flow: FlowLabels, { headers }: InboundRequest): Refusal => {
    const error = AppError.from(thrown);
    const metrics = telemetry.flow(flow);
    metrics.error(error.http);
    if (error.code === 'internal' || log.isLevelEnabled('debug')) {
      const requestId = headerOf(headers, 'x-request-id');
      if (error.code !== 'internal') log.debug({ requestId, error: error.message }, 'refused');
      else log.error({ requestId, error: error.message, stack: error.stack }, 'a request could not be routed');
    }
    const message = error.code === 'internal' ? 'the endpoint picker failed' : error.message;
    const body = errorBody(error.http, message);
    if (error.code === 'unavailable') {
      metrics.failedAttempt();
      return { kind: 'reject', status: error.http, body, reason: 'rejected-no-endpoints' };
    }
    return { kind: 'reject', status: error.http, body };
  };

  const turnAway = (refusal: FlowRefusal, flow: FlowLabels): Outcome => {
    const { http } = new AppError(refusal.code, refusal.message);
    telemetry.flow(flow).error(http);
    return { answer: toRefusal(refusal), exchange: undefined };
  };

  const candidatesOf = ({ subset }: InboundRequest): readonly LiveEndpoint[] =>
    subset !== undefined && deps.isSubsetHonoured ? allowed(datastore.snapshot, subset) : datastore.snapshot.endpoints;

  /** The request with the model that serves it, and what is told of it in metrics. */
  const read = (
    inbound: InboundRequest,
    isTrial = false,
  ): { readonly request: PickRequest; readonly flow: FlowLabels } => {
    const { headers } = inbound;
    const read = parseBody(inbound);
    const sent = read?.completion;
    if (read?.needsModel === true && sent?.model === '') {
      throw new AppError('invalid', 'model not found in request body; name the model in "model"');
    }
    const policies = deps.policies();
    const model = sent?.model ?? '';
    const isRewritable = read?.isRewritable === true && model !== '';
    let target = isRewritable ? firstHeader(headers, inputHeaders.model) : undefined;
    if (target === undefined && isRewritable) {
      const rewrite = policies.rewriteOfModel.get(model) ?? policies.rewriteOfOthers;
      if (rewrite !== undefined) {
        target = pickTarget(rewrite, deps.random());
        if (!isTrial) telemetry.rewritten(rewrite.source, model, target);
      }
    }
    const completion =
      sent === undefined || target === undefined || target === model
        ? sent
        : { ...sent, model: target, body: { ...sent.body, model: target } };
    const objective = firstHeader(headers, inputHeaders.objective);
    const priority =
      (objective === undefined ? undefined : policies.priorityOfObjective.get(objective)) ??
      policies.priorityOfModel.get(model) ??
      0;
    const fairnessId = firstHeader(headers, inputHeaders.fairnessId)?.slice(0, maxFairnessIdLength);
    return {
      request: toPickRequest(headers, completion),
      flow: { model, target: target ?? model, fairnessId: fairnessId ?? defaultFairnessId, priority },
    };
  };

  const decide = (
    inbound: InboundRequest,
    cycle: Cycle,
    flow: FlowLabels,
    scheduler: Scheduler,
    departure: Departure,
  ): Outcome => {
    const { request } = cycle;
    const { completion } = request;
    const trace = traces.take();
    trace?.begin(request, cycle.pool, clock.now());
    const start = performance.now();
    const span = deps.tracing === undefined ? undefined : beginSpan(deps.tracing, inbound.headers, departure.call);
    const work = span?.child('gateway.request_orchestration');
    try {
      const added = new Map<string, string>();
      const decision = scheduler.schedule(
        cycle,
        candidatesOf(inbound),
        added,
        completion !== undefined && isConditional(inbound.headers) ? holdGate(cycle) : undefined,
      );
      telemetry.schedulerE2e.observe((performance.now() - start) / 1000);
      trace?.chose(decision);
      const metrics = telemetry.flow(flow);
      metrics.attempt(decision);
      telemetry.choice.chose(cycle, decision);
      if (completion !== undefined) {
        (added.has('x-prefiller-host-port') ? metrics.prefillDecode : metrics.decodeOnly).inc();
      }
      if (log.isLevelEnabled('debug')) log.debug({ requestId: request.id, why: decision.why() }, 'endpoint chosen');
      const body =
        flow.target === flow.model
          ? undefined
          : replaceModelName(Buffer.concat(inbound.body, inbound.bodyBytes), flow.target);
      if (body !== undefined) added.set('content-length', String(body.reduce((sum, { length }) => sum + length, 0)));
      const observers = scheduler.exchangeObservers;
      if (span !== undefined) {
        added.set('traceparent', span.traceparent);
        span.set({
          'gen_ai.request.model': flow.target,
          'llm_d.epp.request_id': request.id,
          'llm_d.epp.endpoint': decision.primary.hostPort,
          'llm_d.epp.prefill_endpoint': added.get('x-prefiller-host-port') ?? '',
        });
        work?.end();
      }
      const { evict } = departure;
      const release = evict && flowControl.hold(flow, (refusal) => evict(toRefusal(refusal)));
      const route = toRoute(inbound.headers, request, decision, added, deps.areScoresTold);
      telemetry.processing.observe((performance.now() - start) / 1000);
      return {
        answer: body === undefined ? route : { ...route, body, names: toModelNames(flow.target, flow.model) },
        exchange: new WatchedExchange(
          decision,
          cycle.get(prefixMatchKey),
          completion?.stream ?? false,
          inbound.bodyBytes,
          metrics,
          deps.outcomes,
          clock,
          (usage) => {
            release?.();
            if (usage !== undefined) flowControl.used(flow, usage);
            flowControl.poke();
          },
          { cycle, observers, telemetry, span },
        ),
      };
    } catch (thrown) {
      trace?.refused(messageOf(thrown));
      work?.end();
      span?.fail(messageOf(thrown));
      span?.end();
      return { answer: refuse(thrown, flow, inbound), exchange: undefined };
    }
  };

  /** Never throws. */
  const place = (
    inbound: InboundRequest,
    request: PickRequest,
    flow: FlowLabels,
    departure: Departure,
  ): Outcome | Promise<Outcome> => {
    try {
      const cycle = new Cycle(request, datastore.snapshot.endpoints, false, flow.priority);
      telemetry.choice.begin(cycle);
      const scheduler = deps.scheduler();
      const asking = scheduler.prepare(cycle);
      if (asking === undefined) return decide(inbound, cycle, flow, scheduler, departure);
      const endPlacing = flowControl.beginPlacing();
      return asking.then(
        () => {
          endPlacing();
          return decide(inbound, cycle, flow, scheduler, departure);
        },
        (thrown) => {
          endPlacing();
          return { answer: refuse(thrown, flow, inbound), exchange: undefined };
        },
      );
    } catch (thrown) {
      return { answer: refuse(thrown, flow, inbound), exchange: undefined };
    }
  };

  const admit = (
    inbound: InboundRequest,
    request: PickRequest,
    flow: FlowLabels,
    departure: Departure,
  ): Outcome | Promise<Outcome> => {
    // Without a prompt there is nothing to compute, and so nothing to wait for.
    if (request.completion === undefined) return place(inbound, request, flow, departure);
    let onVerdict: (verdict: FlowRefusal | undefined) => void = () => {};
    const asked = flowControl.enter(toFlowRequest(inbound, flow), (verdict) => onVerdict(verdict));
    if (asked === 'go') return place(inbound, request, flow, departure);
    if ('code' in asked) return turnAway(asked, flow);
    return new Promise((resolve) => {
      departure.onLeave = asked.leave;
      // In the turn of the event loop in which it may go, so that whoever is next sees it counted.
      onVerdict = (verdict) =>
        resolve(verdict === undefined ? place(inbound, request, flow, departure) : turnAway(verdict, flow));
    });
  };

  return {
    /** At once, unless the configuration makes a request wait. A promise never rejects; none settles after `onLeave`. */
    handle(inbound: InboundRequest, departure: Departure = {}): Outcome | Promise<Outcome> {
      let known = unknownFlow;
      try {
        const { request, flow } = read(inbound);
        known = flow;
        return admit(inbound, request, flow, departure);
      } catch (thrown) {
        return { answer: refuse(thrown, known, inbound), exchange: undefined };
      }
    },

    /**
     * The choice for a request that is not sent; nothing is counted or remembered.
     *
     * @throws AppError `invalid` when the body is no request
     */
    async explain(inbound: InboundRequest): Promise<Explanation> {
      const { request, flow } = read(inbound, true);
      const cycle = new Cycle(request, datastore.snapshot.endpoints, true, flow.priority);
      const scheduler = deps.scheduler();
      await scheduler.prepare(cycle);
      const trace = new Trace();
      trace.begin(request, cycle.pool, clock.now(), true);
      try {
        trace.chose(scheduler.schedule(cycle, candidatesOf(inbound), new Map()));
      } catch (thrown) {
        trace.refused(messageOf(thrown));
      }
      return trace.explain();
    },
  };
}

function toRefusal({ code, message, reason, retryAfterS }: FlowRefusal): Refusal {
  const { http } = new AppError(code, message);
  return {
    kind: 'reject',
    status: http,
    body: errorBody(http, message),
    reason,
    ...(retryAfterS === undefined ? {} : { retryAfterS }),
  };
}

function toFlowRequest({ headers, bodyBytes }: InboundRequest, flow: FlowLabels): FlowRequest {
  const number = (text: string | undefined): number | undefined => {
    const value = Number(text);
    return text !== undefined && Number.isFinite(value) && value > 0 ? value : undefined;
  };
  const ttl = headerOf(headers, 'x-llm-d-inference-ttl');
  return {
    ...flow,
    bytes: bodyBytes,
    ttftMs: number(firstHeader(headers, inputHeaders.ttftMs)),
    ttlMs: ttl === undefined ? undefined : (parseDurationMs(ttl) ?? number(ttl)),
  };
}

/** A request that could not be read. */
const unknownFlow: FlowLabels = { model: '', target: '', fairnessId: defaultFairnessId, priority: 0 };

/** The first of the headers that has a value. */
function firstHeader(headers: readonly string[], names: readonly string[]): string | undefined {
  for (const name of names) {
    const value = headerOf(headers, name);
    if (value !== undefined && value !== '') return value;
  }
  return undefined;
}

function headerOf(headers: readonly string[], name: string): string | undefined {
  for (let i = 0; i < headers.length; i += 2) if (headers[i] === name) return headers[i + 1];
  return undefined;
}

function parseBody({ headers, body, bodyBytes }: InboundRequest): ReadBody | undefined {
  if (bodyBytes === 0) return undefined;
  const [first] = body;
  const bytes = body.length === 1 && first !== undefined ? first : Buffer.concat(body, bodyBytes);
  return readBody(headerOf(headers, ':path') ?? '', bytes);
}

function toPickRequest(headers: readonly string[], completion: Completion | undefined): PickRequest {
  let text: string | undefined;
  let keys: readonly string[] | undefined;
  const sessionId = sessionIdOf(headers, completion);
  return {
    id: headerOf(headers, 'x-request-id') ?? randomUUID(),
    model: completion?.model ?? '',
    sessionId,
    completion,
    sessionKeys: () => {
      keys ??= completion === undefined ? [] : sessionKeysOf(completion, (name) => headerOf(headers, name), sessionId);
      return keys;
    },
    header: (name) => headerOf(headers, name),
    promptText: () => {
      text ??= completion === undefined ? '' : promptText(completion);
      return text;
    },
  };
}

function sessionIdOf(headers: readonly string[], completion: Completion | undefined): string | undefined {
  const isUsable = (value: unknown): value is string =>
    typeof value === 'string' && value !== '' && value.length <= maxSessionIdLength;
  for (const name of sessionHeaders) {
    const value = headerOf(headers, name);
    if (isUsable(value)) return value;
  }
  for (const name of sessionFields) {
    const value = completion?.body[name];
    if (isUsable(value)) return value;
  }
  return undefined;
}

/** The ready endpoints that the gateway's list names, by `ip:port` or by `ip`. */
function allowed({ byAddress }: Snapshot, subset: readonly string[]): readonly LiveEndpoint[] {
  return [...new Set(subset.flatMap((address) => byAddress.get(address) ?? []))];
}

function toRoute(
  headers: readonly string[],
  request: PickRequest,
  decision: Decision,
  added: ReadonlyMap<string, string>,
  areScoresTold: boolean,
): Route {
  // A plugin may send the request to another port of the pod.
  const rewritten = added.get(destinationHeader);
  const destination =
    rewritten ??
    (decision.endpoints.length === 1
      ? decision.primary.hostPort
      : decision.endpoints.map((endpoint) => endpoint.hostPort).join(','));
  const set: (readonly [string, string])[] = [
    ...(rewritten === undefined ? [[destinationHeader, destination] as const] : []),
    ['x-target-pod', decision.primary.address],
    ...added,
  ];
  if (headerOf(headers, 'x-request-id') === undefined) set.push(['x-request-id', request.id]);
  const remove: string[] = [];
  for (let i = 0; i < headers.length; i += 2) {
    const name = headers[i] ?? '';
    if (controlHeaders.has(name) && !remove.includes(name) && !set.some(([ours]) => ours === name)) remove.push(name);
  }
  const scores = areScoresTold ? { [`${destinationHeader}-scores`]: decision.scores() } : {};
  return {
    kind: 'route',
    mutation: { set, remove },
    metadata: { 'envoy.lb': { [destinationHeader]: destination, ...scores } },
    ...(decision.answerHeaders === undefined ? {} : { answerHeaders: decision.answerHeaders }),
  };
}

/** Who is told of an exchange. */
interface Watchers {
  readonly cycle: Cycle;
  readonly observers: readonly ExchangeObserver[];
  readonly telemetry: EppTelemetry;
  readonly span: TraceSpan | undefined;
}

/** Turns a request away that is to be answered only from a cache, when the choice fell on an endpoint without. */
function holdGate(cycle: Cycle): (decision: Decision) => void {
  return ({ primary }) => {
    const match = cycle.get(prefixMatchKey);
    if (match !== undefined && matchedShare(match, primary) > 0) return;
    throw new AppError('preconditionFailed', 'the endpoint that would serve holds nothing of the prompt');
  };
}

/** Whether the client wants an answer only where its prompt is cached: `Prefer: if-available` (RFC 7240). */
function isConditional(headers: readonly string[]): boolean {
  const prefer = headerOf(headers, 'prefer');
  return prefer?.split(/[,;]/).some((each) => each.trim().toLowerCase() === 'if-available') ?? false;
}

/** A request of the trace that the gateway names: of its call to us where it traces that, else of the client's request. */
function beginSpan(tracing: Tracing, headers: readonly string[], call: Departure['call']): TraceSpan | undefined {
  const ofCall = call?.header('traceparent');
  const traceparent = ofCall ?? headerOf(headers, 'traceparent');
  const tracestate = ofCall === undefined ? headerOf(headers, 'tracestate') : call?.header('tracestate');
  return tracing.begin('gateway.request', {
    ...(traceparent === undefined ? {} : { traceparent }),
    ...(tracestate === undefined ? {} : { tracestate }),
  });
}

/** Counts a request on its endpoints from the choice on, and watches the answer go by. */
export class WatchedExchange {
  readonly #metrics: FlowMetrics;
  readonly #clock: Clock;
  readonly #startMs: number;
  readonly #isStreaming: boolean;
  readonly #decision: Decision;
  readonly #outcomes: Outcomes;
  readonly #onEnd: (usage: Usage | undefined) => void;
  readonly #watchers: Watchers;
  #pieceMs = 0;
  #workMs = 0;
  #firstByteMs = 0;
  #endDecode: () => void;
  #endPrefill: (() => void) | undefined;
  #tokens: { readonly load: LiveLoad; readonly tokens: number }[] = [];
  #status = 0;
  #isGrpc = false;
  #bytes = 0;
  #tail: Buffer[] = [];
  #tailLength = 0;

  constructor(
    decision: Decision,
    match: PrefixMatch | undefined,
    isStreaming: boolean,
    bodyBytes: number,
    metrics: FlowMetrics,
    outcomes: Outcomes,
    clock: Clock,
    onEnd: (usage: Usage | undefined) => void,
    watchers: Watchers,
  ) {
    this.#onEnd = onEnd;
    this.#watchers = watchers;
    this.#decision = decision;
    this.#outcomes = outcomes;
    this.#metrics = metrics;
    this.#clock = clock;
    this.#startMs = clock.now();
    this.#isStreaming = isStreaming;
    this.#endDecode = begin(decision.primary);
    for (const result of decision.results.values()) {
      const endpoint = result.picked[0];
      const tokens =
        endpoint === undefined || match === undefined ? 0 : match.promptTokens - match.matchedTokens(endpoint);
      if (endpoint === undefined || tokens <= 0) continue;
      const { load } = endpoint as LiveEndpoint;
      load.addTokens(tokens);
      this.#tokens.push({ load, tokens });
    }
    const others: (() => void)[] = [];
    for (const [name, result] of decision.results) {
      const endpoint = result.picked[0];
      if (name !== decision.primaryProfile && endpoint !== undefined) others.push(begin(endpoint));
    }
    if (others.length > 0) {
      this.#endPrefill = () => {
        for (const end of others) end();
      };
    }
    metrics.requests.inc();
    metrics.requestBytes.observe(bodyBytes);
    metrics.running.inc();
  }

  /** @param served `ip:port` of the endpoint that answered, where the gateway tells: it may be a fallback */
  onResponseHeaders(headers: readonly string[], served: string | undefined): void {
    this.#status = Number(headerOf(headers, ':status') ?? 0);
    this.#isGrpc = headerOf(headers, 'content-type')?.startsWith('application/grpc') ?? false;
    const planned: readonly Endpoint[] = this.#decision.endpoints;
    // Of a pod that is reached by another port than its endpoints', the address does not tell which one answered.
    const isPlanned = served === undefined || this.#isElsewhere(served);
    const server = isPlanned ? planned[0] : this.#outcomes.endpointAt(served);
    if (server === undefined) return;
    // By address: an endpoint whose labels have changed since is another object.
    const at = planned.findIndex(({ hostPort }) => hostPort === server.hostPort);
    if (at !== 0) {
      for (const passed of planned.slice(0, at < 0 ? 1 : at)) this.#outcomes.unreachable(passed as LiveEndpoint);
      // The work is where the answer comes from.
      this.#endDecode();
      this.#endDecode = begin(server);
    }
    this.#outcomes.answered(server as LiveEndpoint, this.#status);
  }

  onResponseBody(body: Buffer): void {
    const start = performance.now();
    if (this.#bytes === 0 && body.length > 0) {
      // The first token is out, so the prefill is over.
      this.#promptIsDone();
      this.#firstByteMs = this.#clock.now();
      const seconds = (this.#firstByteMs - this.#startMs) / 1000;
      this.#tell((observer, cycle) => observer.onFirstToken?.(cycle, this.#decision, seconds * 1000));
      (this.#isStreaming ? this.#metrics.ttftStreaming : this.#metrics.ttft).observe(seconds);
    } else if (this.#isStreaming && body.length > 0) {
      this.#metrics.pause.observe((start - this.#pieceMs) / 1000);
    }
    this.#pieceMs = start;
    this.#bytes += body.length;
    this.#keepTail(body);
    this.#workMs += performance.now() - start;
  }

  /** @param isComplete false when the client or the gateway went away first */
  end(isComplete: boolean): void {
    this.#promptIsDone();
    this.#endDecode();
    const metrics = this.#metrics;
    metrics.running.dec();
    const { span } = this.#watchers;
    if (!isComplete) span?.fail('the client or the gateway went away');
    else if (this.#status >= 500) span?.fail(`the endpoint answered ${this.#status}`);
    span?.set({ 'http.response.status_code': this.#status });
    span?.end();
    if (!isComplete) {
      metrics.error(499);
      this.#onEnd(undefined);
      this.#tell((observer, cycle) =>
        observer.onEnd?.(cycle, this.#decision, { isComplete, outputTokens: undefined, tpotMs: undefined }),
      );
      return;
    }
    const start = performance.now();
    const seconds = (this.#clock.now() - this.#startMs) / 1000;
    metrics.duration.observe(seconds);
    metrics.responseBytes.observe(this.#bytes);
    if (this.#status >= 400) metrics.error(this.#status);
    const usage = this.#status < 400 ? this.#usage() : undefined;
    if (usage !== undefined) metrics.usage(usage);
    this.#onEnd(usage);
    const tokens = usage?.completionTokens ?? 0;
    const tpotMs = this.#isStreaming && tokens > 1 ? (this.#clock.now() - this.#firstByteMs) / (tokens - 1) : undefined;
    if (tokens > 0) metrics.timePerToken.observe(seconds / tokens);
    if (tpotMs !== undefined) metrics.streamingTimePerToken.observe(tpotMs / 1000);
    const { telemetry, cycle } = this.#watchers;
    if (this.#status < 400 && this.#firstByteMs > 0) {
      telemetry.choice.answered(cycle, this.#decision, metrics.labels, {
        ttftS: (this.#firstByteMs - this.#startMs) / 1000,
        tpotS: tpotMs === undefined ? undefined : tpotMs / 1000,
      });
    }
    this.#tell((observer, cycle) =>
      observer.onEnd?.(cycle, this.#decision, {
        isComplete: this.#status < 400,
        outputTokens: usage?.completionTokens,
        tpotMs,
      }),
    );
    telemetry.responseProcessing.observe((this.#workMs + performance.now() - start) / 1000);
  }

  #usage(): Usage | undefined {
    const tail = Buffer.concat(this.#tail);
    return this.#isGrpc ? usageInGrpcTail(tail) : usageInTail(tail);
  }

  /** A data-parallel rank is served through its pod's primary port. */
  #isElsewhere(served: string): boolean {
    const { primary } = this.#decision;
    return served !== primary.hostPort && this.#decision.isRewritten && served.startsWith(`${primary.address}:`);
  }

  #tell(what: (observer: ExchangeObserver, cycle: Cycle) => void): void {
    for (const observer of this.#watchers.observers) what(observer, this.#watchers.cycle);
  }

  #promptIsDone(): void {
    this.#endPrefill?.();
    this.#endPrefill = undefined;
    for (const { load, tokens } of this.#tokens) load.addTokens(-tokens);
    this.#tokens = [];
  }

  /** Usage comes last in JSON answers and streams alike, so the end of the answer is enough. */
  #keepTail(body: Buffer): void {
    if (body.length === 0) return;
    this.#tail.push(body.length > tailBytes ? body.subarray(body.length - tailBytes) : body);
    this.#tailLength += this.#tail[this.#tail.length - 1]?.length ?? 0;
    // Joined now and then, so that neither many small views nor the buffers under them pile up.
    if (this.#tail.length > 64 || this.#tailLength > 4 * tailBytes) {
      const joined = Buffer.concat(this.#tail);
      const last = Buffer.from(joined.subarray(Math.max(0, joined.length - tailBytes)));
      this.#tail = [last];
      this.#tailLength = last.length;
    }
  }
}

function begin(endpoint: Endpoint): () => void {
  return (endpoint as LiveEndpoint).load.begin();
}

const usageKey = Buffer.from('"usage":');

/** The last usage object in the end of an answer, JSON or events. */
export function usageInTail(tail: Buffer): Usage | undefined {
  for (let at = tail.lastIndexOf(usageKey); at >= 0; at = at === 0 ? -1 : tail.lastIndexOf(usageKey, at - 1)) {
    const text = tail.toString('utf8', at + usageKey.length).trimStart();
    // `null` until the last event.
    if (!text.startsWith('{')) continue;
    const end = endOfObject(text);
    if (end < 0) continue;
    try {
      return usageOf({ usage: JSON.parse(text.slice(0, end)) as unknown });
    } catch {
      // A look-alike inside other text: look further back.
    }
  }
  return undefined;
}

function endOfObject(text: string): number {
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    const char = text[i];
    if (char === '{') depth++;
    else if (char === '}' && --depth === 0) return i + 1;
  }
  return -1;
}
