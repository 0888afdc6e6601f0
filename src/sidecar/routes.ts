import { type Api, apiOf, plainPath } from '../openai/request.ts';

export type Route =
  | { readonly kind: 'health' }
  | { readonly kind: 'ready' }
  /** A prompt: may be prefilled elsewhere first. */
  | { readonly kind: 'completion'; readonly api: Exclude<Api, 'embeddings'> }
  /** Goes to the engine, without the fields that say where it fetches KV blocks: its handler takes completions too. */
  | { readonly kind: 'guarded' }
  /** Anything else goes to the engine as it is. */
  | { readonly kind: 'passthrough' };

const passthrough: Route = { kind: 'passthrough' };
const guarded: Route = { kind: 'guarded' };
/** Ends of paths whose handlers in engines read a completion's body, besides those of the APIs. */
const guardedPaths = ['/invocations', '/v1/chat/completions/batch'] as const;

/** What a request asks for, by method and path (query ignored). */
export function routeOf(method: string, url: string): Route {
  if (method === 'POST') {
    const api = apiOf(url);
    if (api !== undefined && api !== 'embeddings') return { kind: 'completion', api };
    const path = plainPath(url);
    return guardedPaths.some((end) => path.endsWith(end)) ? guarded : passthrough;
  }
  if (method === 'GET' || method === 'HEAD') {
    const path = plainPath(url);
    if (path === '/health') return { kind: 'health' };
    if (path === '/ready') return { kind: 'ready' };
  }
  return passthrough;
}
