import { AppError, type ErrorCode } from '../errors.ts';

/** The part of a `metav1.Status` that is read. */
export interface Status {
  readonly code?: number;
  readonly reason?: string;
  readonly message?: string;
  readonly details?: {
    readonly name?: string;
    readonly retryAfterSeconds?: number;
    readonly causes?: readonly { readonly field?: string; readonly message?: string; readonly reason?: string }[];
  };
}

/** An answer of the API server that is not a success: its HTTP status, machine-readable reason and own words. */
export class StatusError extends AppError {
  readonly status: number;
  /** `AlreadyExists`, `Conflict`, `Invalid`, …; empty when the answer was not a Status. */
  readonly reason: string;
  /** What the server asked us to wait before trying again. */
  readonly retryAfterMs: number | undefined;

  constructor(code: ErrorCode, message: string, status: number, reason: string, retryAfterMs?: number) {
    super(code, message);
    this.name = 'StatusError';
    this.status = status;
    this.reason = reason;
    this.retryAfterMs = retryAfterMs;
  }
}

/** True for the 409 that `create` gets when somebody else made the object first. */
export function isAlreadyExists(thrown: unknown): boolean {
  return thrown instanceof StatusError && thrown.reason === 'AlreadyExists';
}

/** True for an AppError with that code. */
export function hasCode(thrown: unknown, code: ErrorCode): boolean {
  return thrown instanceof AppError && thrown.code === code;
}

const codes: Readonly<Record<number, ErrorCode>> = {
  400: 'invalid',
  401: 'unauthorized',
  403: 'forbidden',
  404: 'notFound',
  405: 'unsupported',
  406: 'unsupported',
  409: 'conflict',
  410: 'gone',
  412: 'preconditionFailed',
  413: 'tooLarge',
  415: 'invalid',
  422: 'invalid',
  429: 'overloaded',
};

/** The error code that stands for an HTTP status of the API server; every 5xx is `unavailable`. */
export function codeOfStatus(status: number): ErrorCode {
  return codes[status] ?? (status >= 500 ? 'unavailable' : 'invalid');
}

/**
 * Turns an answer into an error: `what` (`PATCH deployments ns/name`) followed by the server's own message,
 * which for 422 lists every field. A body that is no Status is quoted up to 300 characters.
 */
export function toStatusError(what: string, httpStatus: number, body: string, retryAfter?: string): StatusError {
  const status = parseStatus(body);
  const message = status?.message ?? (body.trim() === '' ? 'no further explanation' : body.trim().slice(0, 300));
  const seconds = Number(retryAfter ?? status?.details?.retryAfterSeconds);
  return new StatusError(
    codeOfStatus(httpStatus),
    `${what}: the API server answered ${httpStatus}: ${message}`,
    httpStatus,
    status?.reason ?? '',
    Number.isFinite(seconds) && seconds >= 0 ? seconds * 1000 : undefined,
  );
}

function parseStatus(body: string): Status | undefined {
  if (!body.trimStart().startsWith('{')) return undefined;
  try {
    const parsed: unknown = JSON.parse(body);
    if (typeof parsed === 'object' && parsed !== null && (parsed as { kind?: unknown }).kind === 'Status') {
      return parsed as Status;
    }
  } catch {
    // Not a Status: the text itself is quoted.
  }
  return undefined;
}
