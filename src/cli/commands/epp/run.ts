import { components, labels } from '../../../api/labels.ts';
import { AppError, messageOf } from '../../../errors.ts';
import type { Client } from '../../../kube/client.ts';
import type { KubeObject } from '../../../kube/object.ts';
import { resources } from '../../../kube/resources.ts';

const timeoutMs = 10_000;
const metricsPort = 9090;

interface Pod extends KubeObject {
  readonly status?: {
    readonly podIP?: string;
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
  };
}

/**
 * The URL of a service's picker.
 *
 * @param service `namespace/name`
 * @throws AppError `usage` or `notFound`
 */
export async function findPicker(client: Pick<Client, 'list'>, service: string, signal?: AbortSignal): Promise<string> {
  const [namespace, name, ...more] = service.split('/');
  if (!namespace || !name || more.length > 0) {
    throw new AppError('usage', `--service: ${service} is not NAMESPACE/NAME`);
  }
  const labelSelector = `${labels.name}=${name},${labels.component}=${components.scheduler}`;
  const { items } = await client.list<Pod>(resources.pods, { namespace, labelSelector }, signal);
  const isReady = (pod: Pod) =>
    pod.status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True');
  const address = items.find(isReady)?.status?.podIP;
  if (address === undefined) {
    throw new AppError(
      'notFound',
      `${service} has no endpoint picker that is ready; ${items.length} pods match ${labelSelector}`,
    );
  }
  return `http://${address.includes(':') ? `[${address}]` : address}:${metricsPort}`;
}

/**
 * Asks a picker's debug endpoint.
 *
 * @throws AppError with the picker's own words, or `unavailable` when it cannot be reached
 */
export async function fetchExplanation(options: {
  readonly url: string;
  readonly requestId: string | undefined;
  /** A request to try out. */
  readonly body: Buffer | undefined;
  readonly path: string | undefined;
  readonly isJson: boolean;
  readonly signal?: AbortSignal;
}): Promise<string> {
  let url: URL;
  try {
    url = new URL('/debug/explain', options.url);
  } catch (thrown) {
    throw new AppError('usage', `--url: ${options.url} is not a URL such as http://127.0.0.1:9090`, { cause: thrown });
  }
  if (!options.isJson) url.searchParams.set('format', 'text');
  if (options.requestId !== undefined) url.searchParams.set('request', options.requestId);
  if (options.body !== undefined && options.path !== undefined) url.searchParams.set('path', options.path);
  const signals = [AbortSignal.timeout(timeoutMs), ...(options.signal === undefined ? [] : [options.signal])];
  let status: number;
  let text: string;
  try {
    const response = await fetch(url, {
      signal: AbortSignal.any(signals),
      ...(options.body === undefined ? {} : { method: 'POST', body: new Uint8Array(options.body) }),
    });
    status = response.status;
    text = await response.text();
  } catch (thrown) {
    const reason = thrown instanceof Error && thrown.cause instanceof Error ? thrown.cause.message : messageOf(thrown);
    throw new AppError(
      'unavailable',
      `no picker answers at ${url.origin}: ${reason}; give its metrics port with --url, or --service NAMESPACE/NAME`,
      { cause: thrown },
    );
  }
  if (status !== 200) throw new AppError(status === 404 ? 'notFound' : 'invalid', errorMessageOf(text));
  return text;
}

function errorMessageOf(text: string): string {
  try {
    const { error } = JSON.parse(text) as { readonly error?: { readonly message?: unknown } };
    if (typeof error?.message === 'string') return error.message;
  } catch {
    // Not our picker's error body: its text will do.
  }
  return text.trim();
}
