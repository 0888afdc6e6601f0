/** The error object that OpenAI clients understand, with vLLM's `code` = HTTP status. */
export interface ErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: string;
    readonly param: string | null;
    readonly code: number;
  };
}

const typeOfStatus: Readonly<Record<number, string>> = {
  400: 'BadRequestError',
  401: 'AuthenticationError',
  403: 'PermissionDeniedError',
  404: 'NotFoundError',
  408: 'TimeoutError',
  409: 'ConflictError',
  412: 'PreconditionFailedError',
  413: 'RequestTooLargeError',
  429: 'RateLimitError',
  500: 'InternalServerError',
  501: 'NotImplementedError',
  502: 'BadGatewayError',
  503: 'ServiceUnavailableError',
  504: 'TimeoutError',
};

/** The body for an HTTP status (100–599) and a sentence for the user. `param` names the field at fault. */
export function errorBody(status: number, message: string, param: string | null = null): ErrorBody {
  return { error: { message, type: typeOfStatus[status] ?? 'InternalServerError', param, code: status } };
}
