import { Agent, createServer, request as httpRequest, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { messageOf } from '../errors.ts';
import type { RemoteSource } from './kv-transfer.ts';
import type { Leases } from './leases.ts';

/** What a prefill process tells about the KV it hands over. */
export interface Fetched {
  readonly tokens: number;
  /** Hash of the last of the blocks asked for, which stands for all tokens up to its end; 0 when there are none. */
  readonly hash: number;
}

export type FetchResult =
  | { readonly kind: 'fetched'; readonly fetched: Fetched }
  | { readonly kind: 'failed'; readonly why: string };

/** Fetches a handle's KV from the process that holds it. Never rejects. */
export type FetchKv = (
  source: RemoteSource,
  wanted: { readonly compatibility: string /** Full blocks of the prompt. */; readonly fullBlocks: number },
  signal: AbortSignal,
) => Promise<FetchResult>;

const path = '/kv/take';
const maxBodyBytes = 8 * 1024 * 1024;
const timeoutMs = 5000;

export interface SideChannel {
  readonly address: AddressInfo;
  close(): Promise<void>;
}

/**
 * The listener through which decode processes fetch KV: `POST /kv/take` with `{engine_id, request_id, block_ids,
 * full_blocks, compatibility}` answers `{num_tokens, hash}` and ends the handle; 404 for an engine or handle
 * that is not known, 410 for one that is used or expired, 409 for a process with another model or block size.
 */
export async function startSideChannel(options: {
  readonly host: string;
  readonly port: number;
  readonly engineId: string;
  readonly compatibility: string;
  readonly leases: Leases;
}): Promise<SideChannel> {
  const server = createServer((request, response) => {
    const answer = (status: number, body: object) => {
      const text = JSON.stringify(body);
      response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) });
      response.end(text);
    };
    if (request.url !== path || request.method !== 'POST') {
      request.resume();
      answer(404, { error: `there is only POST ${path}` });
      return;
    }
    const chunks: Buffer[] = [];
    let size = 0;
    request.on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size > maxBodyBytes) request.destroy();
      else chunks.push(chunk);
    });
    request.on('end', () => {
      const { status, body } = takeHandle(options, Buffer.concat(chunks).toString('utf8'));
      answer(status, body);
    });
    request.on('error', () => response.destroy());
  });
  server.keepAliveTimeout = 75_000;
  await listen(server, options.port, options.host);
  return {
    address: server.address() as AddressInfo,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function takeHandle(
  own: { readonly engineId: string; readonly compatibility: string; readonly leases: Leases },
  text: string,
): { status: number; body: object } {
  let asked: Record<string, unknown>;
  try {
    asked = JSON.parse(text) as Record<string, unknown>;
  } catch {
    return { status: 400, body: { error: 'not JSON' } };
  }
  if (asked.engine_id !== own.engineId) {
    return { status: 404, body: { error: `engine ${String(asked.engine_id)} is not here; this is ${own.engineId}` } };
  }
  if (asked.compatibility !== own.compatibility) {
    return {
      status: 409,
      body: { error: `incompatible: asked by ${String(asked.compatibility)}, this is ${own.compatibility}` },
    };
  }
  const requestId = String(asked.request_id);
  const taken = own.leases.take(requestId);
  if (taken.kind === 'missing') {
    return { status: taken.why === 'unknown' ? 404 : 410, body: { error: `handle ${requestId} is ${taken.why}` } };
  }
  const { handle } = taken;
  const blockIds = asked.block_ids;
  if (!Array.isArray(blockIds) || blockIds.some((id, at) => id !== handle.blocks[at])) {
    return { status: 409, body: { error: `handle ${requestId} has other blocks than were asked for` } };
  }
  return {
    status: 200,
    body: { num_tokens: handle.tokens, hash: handle.hashes[Number(asked.full_blocks) - 1] ?? 0 },
  };
}

/** Listens, or rejects with the reason. */
export function listen(server: Server, port: number, host: string | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

/** A fetcher with connections of its own; `close` ends them. */
export function createKvFetcher(): { readonly fetch: FetchKv; close(): void } {
  const agent = new Agent({ keepAlive: true, maxFreeSockets: 64 });
  const fetch: FetchKv = (source, wanted, signal) =>
    new Promise((resolve) => {
      const failed = (why: string) => resolve({ kind: 'failed', why });
      const body = JSON.stringify({
        engine_id: source.engineId,
        request_id: source.requestId,
        block_ids: source.blockIds,
        full_blocks: wanted.fullBlocks,
        compatibility: wanted.compatibility,
      });
      const where = `${source.host}:${source.port}`;
      const request = httpRequest(
        {
          agent,
          host: source.host,
          port: source.port,
          path,
          method: 'POST',
          headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) },
          signal,
        },
        (response) => {
          let text = '';
          response.setEncoding('utf8');
          response.on('data', (chunk: string) => {
            text += chunk;
            if (text.length > maxBodyBytes) response.destroy();
          });
          response.on('error', (error) => failed(`${where}: ${error.message}`));
          response.on('close', () => failed(`${where}: the connection broke`));
          response.on('end', () => resolve(readAnswer(where, response.statusCode ?? 0, text)));
        },
      );
      request.setTimeout(timeoutMs, () => request.destroy(new Error(`no answer within ${timeoutMs} ms`)));
      request.on('error', (error) => failed(`${where}: ${error.message}`));
      request.end(body);
    });
  return { fetch, close: () => agent.destroy() };
}

function readAnswer(where: string, status: number, text: string): FetchResult {
  let body: Record<string, unknown>;
  try {
    body = JSON.parse(text) as Record<string, unknown>;
  } catch (thrown) {
    return { kind: 'failed', why: `${where} answered ${status} without JSON: ${messageOf(thrown)}` };
  }
  if (status !== 200) {
    const said = typeof body.error === 'string' ? body.error : `answered ${status}, it is not a side channel`;
    return { kind: 'failed', why: `${where}: ${said}` };
  }
  const { num_tokens: tokens, hash } = body;
  if (typeof tokens !== 'number' || typeof hash !== 'number') {
    return { kind: 'failed', why: `${where} is not a side channel of this server` };
  }
  return { kind: 'fetched', fetched: { tokens, hash } };
}
