import { hash } from 'node:crypto';
import type { Clock } from '../clock.ts';
import { AppError } from '../errors.ts';

/** Who an API server says that a token belongs to. */
export interface TokenUser {
  readonly username: string;
  readonly uid?: string;
  readonly groups?: readonly string[];
  readonly extra?: Readonly<Record<string, readonly string[]>>;
}

/** The API server's say about a caller. Both reject with an AppError when it cannot be asked. */
export interface TokenReviewer {
  /** Undefined when the token is nobody's. */
  userOf(token: string): Promise<TokenUser | undefined>;
  /** Whether the user may read that path. */
  mayGet(user: TokenUser, path: string): Promise<boolean>;
}

/** Lets a caller pass, or rejects with an AppError `unauthorized` or `forbidden`. */
export type MetricsAuth = (authorization: string | undefined, path: string) => Promise<void>;

const rememberMs = 60_000;
const rememberDeniedMs = 10_000;
const maxRemembered = 256;
const maxTokenLength = 16_384;

type Verdict = 'pass' | 'unauthorized' | 'forbidden';

/** Asks the API server about each caller's bearer token, and remembers the answer for a minute, a denial for ten seconds. */
export function createMetricsAuth(reviewer: TokenReviewer, clock: Clock): MetricsAuth {
  const known = new Map<string, { readonly verdict: Promise<Verdict>; untilMs: number }>();

  const judge = async (token: string, path: string): Promise<Verdict> => {
    const user = await reviewer.userOf(token);
    if (user === undefined) return 'unauthorized';
    return (await reviewer.mayGet(user, path)) ? 'pass' : 'forbidden';
  };
  return async (authorization, path) => {
    const token = /^Bearer +(\S+)$/i.exec(authorization ?? '')?.[1];
    if (token === undefined || token.length > maxTokenLength) {
      throw new AppError('unauthorized', 'give a bearer token of this cluster');
    }
    // Tokens themselves are not kept.
    const key = hash('sha256', `${path}\0${token}`, 'base64url');
    const nowMs = clock.now();
    let entry = known.get(key);
    if (entry === undefined || entry.untilMs <= nowMs) {
      const made = { verdict: judge(token, path), untilMs: nowMs + rememberMs };
      entry = made;
      known.delete(key);
      known.set(key, made);
      made.verdict.then(
        (verdict) => {
          if (verdict !== 'pass') made.untilMs = clock.now() + rememberDeniedMs;
        },
        () => {
          if (known.get(key) === made) known.delete(key);
        },
      );
      for (const oldest of known.keys()) {
        if (known.size <= maxRemembered) break;
        known.delete(oldest);
      }
    }
    const verdict = await entry.verdict;
    if (verdict === 'unauthorized') throw new AppError('unauthorized', 'the bearer token is not valid');
    if (verdict === 'forbidden') {
      throw new AppError('forbidden', `the token's owner may not get ${path}; bind a role with nonResourceURLs`);
    }
  };
}

/** As much of an API client as reviews need. */
export interface ReviewClient {
  request<T>(method: 'POST', path: string, body: unknown, options?: { readonly timeoutMs?: number }): Promise<T>;
}

const reviewTimeoutMs = 5_000;

/** Reviews by the API server; needs what the ClusterRole `system:auth-delegator` allows. */
export function createTokenReviewer(client: ReviewClient): TokenReviewer {
  return {
    userOf: async (token) => {
      const review = await client.request<{
        readonly status?: { readonly authenticated?: boolean; readonly user?: TokenUser };
      }>(
        'POST',
        '/apis/authentication.k8s.io/v1/tokenreviews',
        { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenReview', spec: { token } },
        { timeoutMs: reviewTimeoutMs },
      );
      return review.status?.authenticated === true ? review.status.user : undefined;
    },
    mayGet: async ({ username, uid, groups, extra }, path) => {
      const review = await client.request<{ readonly status?: { readonly allowed?: boolean } }>(
        'POST',
        '/apis/authorization.k8s.io/v1/subjectaccessreviews',
        {
          apiVersion: 'authorization.k8s.io/v1',
          kind: 'SubjectAccessReview',
          spec: { user: username, uid, groups, extra, nonResourceAttributes: { path, verb: 'get' } },
        },
        { timeoutMs: reviewTimeoutMs },
      );
      return review.status?.allowed === true;
    },
  };
}
