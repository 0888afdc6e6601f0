import { isIP } from 'node:net';
import { request } from 'undici';
import { AppError } from '../errors.ts';
import type { Client } from '../kube/client.ts';
import type { PodObject } from './service.ts';

const timeoutMs = 5_000;

/**
 * The text at a path of a pod's port, through the API server, as from outside the cluster nothing else reaches it. Pods on
 * loopback addresses, as those of an embedded cluster, are asked directly: the API server refuses to.
 *
 * @param scheme what the port speaks; with `https` the certificate is not checked, as by `kubectl`'s proxy
 */
export async function readPod(
  client: Client,
  pod: PodObject,
  at: { readonly port: number; readonly path: string; readonly scheme?: 'http' | 'https' },
  signal?: AbortSignal,
): Promise<string> {
  const { namespace, name } = pod.metadata;
  const address = pod.status?.podIP ?? '';
  if (isLoopback(address)) {
    const host = address.includes(':') ? `[${address}]` : address;
    const answer = await request(`${at.scheme ?? 'http'}://${host}:${at.port}${at.path}`, {
      headersTimeout: timeoutMs,
      bodyTimeout: timeoutMs,
      ...(signal ? { signal } : {}),
    });
    const text = await answer.body.text();
    if (answer.statusCode === 200) return text;
    throw new AppError('badGateway', `pod ${name} answered ${answer.statusCode} to GET ${at.path} on port ${at.port}`);
  }
  const target = `${at.scheme === 'https' ? 'https:' : ''}${name}:${at.port}`;
  const path = `/api/v1/namespaces/${namespace}/pods/${target}/proxy${at.path}`;
  const answer = await client.request<unknown>('GET', path, undefined, { accept: '*/*', timeoutMs }, signal);
  return typeof answer === 'string' ? answer : JSON.stringify(answer);
}

function isLoopback(address: string): boolean {
  return (isIP(address) === 4 && address.startsWith('127.')) || address === '::1';
}
