import type { Container } from '../../api/foreign/pod.ts';

type Resources = NonNullable<Container['resources']>;

/** What a routing sidecar asks for: it only passes bytes on. */
export const sidecarResources: Resources = {
  requests: { cpu: '50m', memory: '96Mi' },
  limits: { memory: '512Mi' },
};

/** What an endpoint picker asks for. No CPU limit: throttling it would delay every request. */
export const pickerResources: Resources = {
  requests: { cpu: '100m', memory: '192Mi' },
  limits: { memory: '1Gi' },
};

/** The same of upstream's picker, which takes more. */
export const upstreamPickerResources: Resources = {
  requests: { cpu: '1', memory: '2Gi' },
  limits: { memory: '16Gi' },
};

const isExtended = (name: string) => name.includes('/') && !/(^|\.)kubernetes\.io\//.test(name);

/**
 * Extended resources such as `nvidia.com/gpu` cannot be overcommitted: the API server wants limit and request equal
 * and refuses a request without a limit. Where only the request is written, the limit follows. Amounts become text,
 * as the API server stores them.
 */
export function completeResources(container: Container): Container {
  if (!container.resources) return container;
  const { requests, limits, ...rest } = container.resources;
  const extended = Object.entries(requests ?? {}).filter(([name]) => isExtended(name));
  const all = { ...Object.fromEntries(extended), ...limits };
  return {
    ...container,
    resources: {
      ...rest,
      ...(requests ? { requests: toTexts(requests) } : {}),
      ...(Object.keys(all).length > 0 ? { limits: toTexts(all) } : {}),
    },
  };
}

function toTexts(amounts: Readonly<Record<string, unknown>>): Readonly<Record<string, string>> {
  return Object.fromEntries(Object.entries(amounts).map(([name, amount]) => [name, String(amount)]));
}
