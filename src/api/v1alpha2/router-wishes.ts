import type { LLMInferenceServiceSpec } from './llm-inference-service.ts';

/** What a spec asks of the router, read in one place. */

/** Names of the HTTPRoutes of the user's own, which take the place of a generated one. */
export function routeRefsOf(spec: LLMInferenceServiceSpec): readonly string[] {
  return (spec.router?.route?.http?.refs ?? []).flatMap(({ name }) => (name ? [name] : []));
}

/** Whether the service hangs on the default Gateway: it asks for a Gateway or a generated route and names no Gateway. */
export function hasDefaultGateway(spec: LLMInferenceServiceSpec): boolean {
  const router = spec.router;
  if (!router || (router.gateway?.refs ?? []).length > 0 || (router.route?.http?.spec?.parentRefs ?? []).length > 0)
    return false;
  if (routeRefsOf(spec).length > 0) return false;
  return router.gateway !== undefined || router.route !== undefined;
}
