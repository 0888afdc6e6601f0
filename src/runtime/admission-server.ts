import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { AppError, messageOf } from '../errors.ts';
import { type AdmissionRequest, type AdmissionResponse, deny, parseReview, toReview } from '../kube/admission.ts';
import { type ConversionRequest, parseConversionReview, toConversionReview } from '../kube/conversion.ts';
import type { Logger } from '../telemetry/log.ts';

export type AdmissionHandler = (request: AdmissionRequest) => Promise<AdmissionResponse>;

/** All objects of a request in the version that it asks for, in its order. */
export type ConversionHandler = (request: ConversionRequest) => readonly unknown[];

export interface ServingCertificate {
  /** PEM chain. */
  readonly certificate: string;
  /** PEM. */
  readonly key: string;
}

export interface AdmissionServerOptions {
  /** Undefined: all interfaces. */
  readonly host?: string;
  /** 0 picks a free one. */
  readonly port: number;
  readonly certificate: ServingCertificate;
  /** Path → handler. */
  readonly routes: ReadonlyMap<string, AdmissionHandler>;
  /** Path → handler of ConversionReviews. */
  readonly conversions?: ReadonlyMap<string, ConversionHandler>;
  readonly maxBodyBytes?: number;
  /** Told after each review. */
  readonly onReview?: (path: string, allowed: boolean, seconds: number) => void;
}

export interface AdmissionServer {
  readonly port: number;
  /** Connections from now on get this certificate; those that stand keep theirs. */
  setCertificate(certificate: ServingCertificate): void;
  /** Lets running reviews end, up to the deadline. */
  close(deadlineMs?: number): Promise<void>;
}

/** What etcd takes, doubled for the old object beside the new one. */
const defaultMaxBodyBytes = 3 * 1024 * 1024;

/** The API server may ask for a whole list at once. */
const conversionLists = 16;

/**
 * Answers AdmissionReviews and ConversionReviews over HTTPS. Bad requests get 400, 404, 405 or 413 with one clear line;
 * a handler that throws refuses the object with its message, for a webhook that fails closed must say why.
 */
export async function startAdmissionServer(
  options: AdmissionServerOptions,
  deps: { readonly log: Logger },
): Promise<AdmissionServer> {
  const { log } = deps;
  const maxBodyBytes = options.maxBodyBytes ?? defaultMaxBodyBytes;

  const review = async (path: string, handler: AdmissionHandler, body: string): Promise<string> => {
    const request = parseReview(body);
    const startMs = performance.now();
    let response: AdmissionResponse;
    try {
      response = await handler(request);
    } catch (thrown) {
      const error = AppError.from(thrown);
      if (!(thrown instanceof AppError)) log.error({ err: thrown, path }, 'an admission handler failed');
      response = deny(request, error.message, { code: error.http });
    }
    options.onReview?.(path, response.allowed, (performance.now() - startMs) / 1000);
    if (log.isLevelEnabled('debug')) {
      log.debug(
        { path, operation: request.operation, kind: request.kind.kind, name: request.name, allowed: response.allowed },
        'reviewed',
      );
    }
    return JSON.stringify(toReview(response));
  };

  const convert = (path: string, handler: ConversionHandler, body: string): string => {
    const request = parseConversionReview(body);
    let outcome: Parameters<typeof toConversionReview>[1];
    try {
      outcome = { objects: handler(request) };
    } catch (thrown) {
      if (!(thrown instanceof AppError)) log.error({ err: thrown, path }, 'a conversion failed');
      outcome = { failure: messageOf(thrown) };
    }
    return JSON.stringify(toConversionReview(request, outcome));
  };

  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const path = (request.url ?? '/').split('?')[0] ?? '/';
    const handler = options.routes.get(path);
    const conversion = options.conversions?.get(path);
    if (!handler && !conversion) return send(response, 404, `no webhook at ${path}\n`);
    if (request.method !== 'POST') return send(response, 405, 'send a review by POST\n');
    try {
      const body = await readBody(request, conversion ? maxBodyBytes * conversionLists : maxBodyBytes);
      const text = conversion ? convert(path, conversion, body) : handler ? await review(path, handler, body) : '';
      send(response, 200, text, 'application/json');
    } catch (thrown) {
      const error = AppError.from(thrown);
      log.warn({ path, error: error.message }, 'a request was not a review');
      // The rest of a body that is too large is not worth reading.
      if (error.code === 'tooLarge') response.setHeader('connection', 'close');
      send(response, error.http, `${error.message}\n`);
    }
  };

  const server = createServer(
    { cert: options.certificate.certificate, key: options.certificate.key, minVersion: 'TLSv1.2' },
    (request, response) => {
      answer(request, response).catch((thrown: unknown) => {
        log.error({ err: thrown }, 'a webhook answer was not sent');
        response.destroy();
      });
    },
  );
  // The API server waits 30 s at most.
  server.requestTimeout = 30_000;
  server.headersTimeout = 10_000;
  server.keepAliveTimeout = 90_000;
  server.on('tlsClientError', (error: Error) => {
    log.debug({ error: messageOf(error) }, 'a TLS handshake failed');
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => {
      reject(
        new AppError('unavailable', `cannot listen on ${options.host ?? ''}:${options.port}: ${error.message}`, {
          cause: error,
        }),
      );
    });
    server.listen({ port: options.port, ...(options.host ? { host: options.host } : {}) }, () => resolve());
  });

  return {
    port: (server.address() as AddressInfo).port,
    setCertificate(certificate) {
      server.setSecureContext({ cert: certificate.certificate, key: certificate.key, minVersion: 'TLSv1.2' });
    },
    close: (deadlineMs = 5_000) =>
      new Promise((resolve) => {
        const timer = setTimeout(() => server.closeAllConnections(), deadlineMs);
        server.close(() => {
          clearTimeout(timer);
          resolve();
        });
        server.closeIdleConnections();
      }),
  };
}

async function readBody(request: IncomingMessage, maxBytes: number): Promise<string> {
  const tooLarge = () => new AppError('tooLarge', `the body is larger than ${maxBytes} bytes`);
  if (Number(request.headers['content-length'] ?? 0) > maxBytes) throw tooLarge();
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > maxBytes) throw tooLarge();
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

function send(response: ServerResponse, status: number, text: string, contentType = 'text/plain; charset=utf-8'): void {
  response.writeHead(status, { 'content-type': contentType, 'content-length': Buffer.byteLength(text) });
  response.end(text);
}
