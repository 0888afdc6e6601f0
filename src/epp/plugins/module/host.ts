import { parentPort, workerData } from 'node:worker_threads';
import {
  type FromHost,
  figures,
  type HostData,
  type ModuleMetrics,
  type ModulePlace,
  type ModulePod,
  type ModuleScorer,
  type ToHost,
} from './protocol.ts';

/** The worker that runs one user's module: it may throw, wait or loop for ever, and harms nobody else. */

const { url, parameters, timeoutMs } = workerData as HostData;
const tell = (message: FromHost): void => parentPort?.postMessage(message);
const textOf = (thrown: unknown): string => (thrown instanceof Error ? thrown.message : String(thrown));

let places: readonly ModulePlace[] = [];

function toPod(place: ModulePlace, at: number, message: Extract<ToHost, { kind: 'score' }>): ModulePod {
  const values: Record<string, unknown> = {};
  for (let f = 0; f < figures.length; f++) values[figures[f] ?? ''] = message.figures[at * figures.length + f];
  const metrics = { ...values, isKnown: values.isKnown === 1, custom: message.custom?.[at] ?? {} };
  return { ...place, metrics: metrics as unknown as ModuleMetrics };
}

async function score(scorer: ModuleScorer, message: Extract<ToHost, { kind: 'score' }>): Promise<FromHost> {
  const { ticket, request } = message;
  const pods = places.map((place, at) => toPod(place, at, message));
  const scores = new Float64Array(pods.length);
  const given = pods.map((pod) => scorer.score(request, pod, pods));
  const pending = given.some((value) => typeof value !== 'number') ? await Promise.all(given) : given;
  for (let i = 0; i < scores.length; i++) {
    const value: unknown = pending[i];
    if (typeof value !== 'number' || Number.isNaN(value)) {
      return { kind: 'error', ticket, reason: 'invalid', message: `score() gave ${String(value)} for ${pods[i]?.id}` };
    }
    scores[i] = value;
  }
  return { kind: 'scores', ticket, scores };
}

try {
  const { default: exported } = (await import(url)) as { readonly default?: unknown };
  const made: unknown = typeof exported === 'function' ? await exported(parameters) : exported;
  const scorer = made as ModuleScorer | null | undefined;
  if (typeof scorer?.score !== 'function') {
    throw new TypeError(
      'its default export must be an object with score(request, pod), or a function that returns one',
    );
  }
  parentPort?.on('message', (message: ToHost) => {
    if (message.kind === 'pods') {
      places = message.places;
      return;
    }
    if (message.kind === 'ping') {
      tell({ kind: 'pong' });
      return;
    }
    const { ticket } = message;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<FromHost>((resolve) => {
      timer = setTimeout(
        () => resolve({ kind: 'error', ticket, reason: 'late', message: `no score after ${timeoutMs} ms` }),
        timeoutMs,
      );
    });
    Promise.race([score(scorer, message), late]).then(
      (answer) => {
        clearTimeout(timer);
        tell(answer);
      },
      (thrown) => {
        clearTimeout(timer);
        tell({ kind: 'error', ticket, reason: 'threw', message: textOf(thrown) });
      },
    );
  });
  tell({ kind: 'ready' });
} catch (thrown) {
  tell({ kind: 'failed', message: textOf(thrown) });
}
