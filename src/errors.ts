/**
 * The error table: the only place where an error code is born. One row says how the code is told to
 * an HTTP client, a gRPC peer and a shell, and whether trying again can help.
 */
export const errorTable = {
  invalid: { http: 400, grpc: 3, exit: 2, retry: false },
  usage: { http: 400, grpc: 3, exit: 2, retry: false },
  unauthorized: { http: 401, grpc: 16, exit: 1, retry: false },
  forbidden: { http: 403, grpc: 7, exit: 1, retry: false },
  notFound: { http: 404, grpc: 5, exit: 1, retry: false },
  conflict: { http: 409, grpc: 10, exit: 1, retry: true },
  gone: { http: 410, grpc: 11, exit: 1, retry: true },
  preconditionFailed: { http: 412, grpc: 9, exit: 1, retry: false },
  tooLarge: { http: 413, grpc: 8, exit: 1, retry: false },
  overloaded: { http: 429, grpc: 8, exit: 1, retry: true },
  internal: { http: 500, grpc: 13, exit: 1, retry: true },
  unsupported: { http: 501, grpc: 12, exit: 2, retry: false },
  badGateway: { http: 502, grpc: 14, exit: 1, retry: true },
  unavailable: { http: 503, grpc: 14, exit: 1, retry: true },
  timeout: { http: 504, grpc: 4, exit: 1, retry: true },
} as const satisfies Record<string, { http: number; grpc: number; exit: number; retry: boolean }>;

export type ErrorCode = keyof typeof errorTable;

/** The one error class that is thrown on purpose. The message is for the user: what, which value, what to do. */
export class AppError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { readonly cause?: unknown }) {
    super(message, options);
    this.name = 'AppError';
    this.code = code;
  }

  get http(): number {
    return errorTable[this.code].http;
  }

  get grpc(): number {
    return errorTable[this.code].grpc;
  }

  get exit(): number {
    return errorTable[this.code].exit;
  }

  get retry(): boolean {
    return errorTable[this.code].retry;
  }

  /** An AppError as it is; anything else becomes `internal` with the original as its cause. */
  static from(thrown: unknown, code: ErrorCode = 'internal'): AppError {
    if (thrown instanceof AppError) return thrown;
    return new AppError(code, messageOf(thrown), { cause: thrown });
  }
}

/** The human text of anything that was thrown. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}
