import { judgeTargets } from './allow-list.ts';
import { type Exchange, sendError } from './forward.ts';
import { parseHostPort, type Target } from './host-port.ts';
import type { PipelineDeps, StageFailure } from './turn.ts';

export const prefillerHeader = 'x-prefiller-host-port';

/** How long a request waits for the first complete list of prefill pods. */
const allowListWaitMs = 2000;
/** How far our watch of the pool's pods may be behind the picker's before a target that we do not know is refused. */
const allowListLagMs = 200;

type Named = { readonly kind: 'targets'; readonly targets: readonly Target[] } | { readonly kind: 'answered' };

/** Which prefill pods may be called for a request. */
export function createPrefillTargets(deps: PipelineDeps) {
  const { config, metrics, log, clock } = deps;
  const trusted = config.prefill.url ? targetOfUrl(config.prefill.url) : undefined;
  let nextPod = 0;

  /** The pods that a request named and that may be called; or the refusal is sent. */
  async function checkNamed(
    targets: readonly Target[],
    malformed: readonly string[],
    exchange: Exchange,
  ): Promise<Named | StageFailure> {
    if (targets.length === 0) {
      sendError(
        exchange.res,
        400,
        `header ${prefillerHeader}: "${malformed[0] ?? ''}" is not host:port; name a prefill pod as ip:port`,
        { param: prefillerHeader },
      );
      return { kind: 'answered' };
    }
    let usable = targets;
    if (config.isSsrfProtected) {
      if (!(await allowListSynced(exchange))) {
        return {
          kind: 'failed',
          status: 503,
          message: 'the list of prefill pods that may be called is not complete yet; try again shortly',
          reason: 'allow_list',
        };
      }
      const judge = () => judgeTargets(targets, deps.allowList?.allowed() ?? new Set(), trusted?.hostPort);
      let judged = judge();
      // The picker's watch and ours tell of the same pods, not at the same moment.
      if (judged.allowed.length === 0 && !targets.some((target) => deps.allowList?.hasLeft(target.hostPort))) {
        await clock.sleep(allowListLagMs);
        judged = judge();
      }
      if (judged.denied.length > 0) {
        metrics.denied.inc(judged.denied.length);
        log.warn(
          {
            requestId: exchange.requestId,
            denied: judged.denied.map((target) => target.hostPort),
            client: exchange.req.socket.remoteAddress,
          },
          'prefill target refused: not a ready prefill pod of the pool',
        );
      }
      const gone = judged.denied.find((target) => deps.allowList?.hasLeft(target.hostPort));
      if (judged.allowed.length === 0 && gone) {
        return {
          kind: 'failed',
          status: 503,
          message: `the prefill pod ${gone.hostPort} has just gone`,
          reason: 'gone',
        };
      }
      if (judged.allowed.length === 0) {
        const pool = config.pool ? `${config.pool.namespace}/${config.pool.name}` : '';
        sendError(
          exchange.res,
          403,
          `header ${prefillerHeader}: ${judged.denied[0]?.hostPort ?? ''} is not a ready prefill pod of inference pool ${pool} on one of its ports`,
          { param: prefillerHeader },
        );
        return { kind: 'answered' };
      }
      usable = judged.allowed;
    }
    return {
      kind: 'targets',
      targets: config.prefill.isSampled ? rotated(usable, Math.floor(deps.random() * usable.length)) : usable,
    };
  }

  async function allowListSynced(exchange: Exchange): Promise<boolean> {
    const list = deps.allowList;
    if (!list || list.isSynced) return list !== undefined;
    const abort = new AbortController();
    exchange.onGone((reason) => abort.abort(reason));
    try {
      await Promise.race([list.synced, clock.sleep(allowListWaitMs, abort.signal)]);
    } finally {
      exchange.onGone(undefined);
      abort.abort();
    }
    return list.isSynced;
  }

  /** Ready prefill pods of the pool, each request beginning with the next one. */
  function discovered(): readonly Target[] {
    const all = [...(deps.allowList?.allowed() ?? [])].sort().flatMap((text) => parseHostPort(text) ?? []);
    return rotated(all, nextPod++);
  }

  /** Where to prefill a request that names no pod. */
  async function fallback(exchange: Exchange): Promise<readonly Target[]> {
    if (trusted) return [trusted];
    await allowListSynced(exchange);
    return discovered();
  }

  return { trusted, checkNamed, fallback, allowListSynced };
}

/** The items, beginning with the one at `by` (taken modulo their number). */
export function rotated<T>(items: readonly T[], by: number): readonly T[] {
  if (items.length < 2) return items;
  const start = by % items.length;
  return [...items.slice(start), ...items.slice(0, start)];
}

function targetOfUrl(url: URL): Target | undefined {
  const port = url.port === '' ? (url.protocol === 'https:' ? '443' : '80') : url.port;
  return parseHostPort(`${url.hostname}:${port}`);
}
