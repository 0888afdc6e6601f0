import { type Api, apiOf } from '../openai/request.ts';

export type Route =
  | { readonly kind: 'health' }
  | { readonly kind: 'ready' }
  /** A prompt: may be prefilled elsewhere first. */
  | { readonly kind: 'completion'; readonly api: Exclude<Api, 'embeddings'> }
  /** Anything else goes to the engine as it is. */
  | { readonly kind: 'passthrough' };

const passthrough: Route = { kind: 'passthrough' };

/** What a request asks for, by method and path (query ignored). */
export function routeOf(method: string, url: string): Route {
  if (method === 'POST') {
    const api = apiOf(url);
    return api === undefined || api === 'embeddings' ? passthrough : { kind: 'completion', api };
  }
  if (method === 'GET' || method === 'HEAD') {
    const end = url.indexOf('?');
    const path = end < 0 ? url : url.slice(0, end);
    if (path === '/health') return { kind: 'health' };
    if (path === '/ready') return { kind: 'ready' };
  }
  return passthrough;
}
