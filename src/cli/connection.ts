import type { Command } from 'commander';
import { AppError, messageOf } from '../errors.ts';
import type { Client } from '../kube/client.ts';
import { type ConnectionSettings, loadKubeConfig } from '../kube/config.ts';
import { resources } from '../kube/resources.ts';
import { createClient } from '../kube/rest-client.ts';
import type { CliDeps } from './program.ts';

/** The flags of every command that speaks to a cluster. */
export interface ClusterOptions {
  readonly kubeconfig?: string;
  readonly context?: string;
  readonly namespace?: string;
}

export function addClusterOptions(command: Command): Command {
  return command
    .option('--kubeconfig <file>', 'how to reach the cluster; KUBECONFIG, the pod or ~/.kube/config without it')
    .option('--context <name>', 'context of that file; its current one without it')
    .option('-n, --namespace <namespace>', "namespace; the context's own without it");
}

export interface Connection {
  readonly client: Client;
  readonly namespace: string;
  /** Which cluster this is, for messages. */
  readonly source: string;
}

/**
 * Calls `use` with a client, and closes it.
 *
 * @throws AppError that says which cluster, what failed there and what to do about it
 */
export async function withCluster<T>(
  deps: Pick<CliDeps, 'log'>,
  options: ClusterOptions,
  use: (connection: Connection) => Promise<T>,
): Promise<T> {
  const settings = await loadKubeConfig({
    ...(options.kubeconfig === undefined ? {} : { path: options.kubeconfig }),
    ...(options.context === undefined ? {} : { context: options.context }),
  });
  const client = createClient(settings, { log: deps.log, userAgent: 'signalbox-cli' });
  try {
    return await use({ client, namespace: options.namespace ?? settings.namespace, source: settings.source });
  } catch (thrown) {
    throw explainFailure(thrown, settings);
  } finally {
    await client.close();
  }
}

/** What went wrong with a cluster, with the next step to take. */
export function explainFailure(
  thrown: unknown,
  { source, server }: Pick<ConnectionSettings, 'source' | 'server'>,
): AppError {
  const error = AppError.from(thrown);
  const told = (remedy: string) => new AppError(error.code, `${error.message}; ${remedy}`, { cause: error });
  const where = `the cluster is that of ${source}`;
  if (error.code === 'unauthorized') return told(`${where}: log in again, or give another --context`);
  if (error.code === 'forbidden') {
    const denied = /cannot (\w+) resource "([^"]+)" in API group "([^"]*)"(?:.* in the namespace "([^"]+)")?/.exec(
      error.message,
    );
    const [, verb, resource, group, namespace] = denied ?? [];
    const question = denied
      ? `kubectl auth can-i ${verb} ${resource}${group ? `.${group}` : ''}${namespace ? ` -n ${namespace}` : ' --all-namespaces'}`
      : 'kubectl auth can-i --list';
    return told(`${where}: ask its administrator for that permission; \`${question}\` tells when you have it`);
  }
  if (error.code === 'notFound' && isMissingKind(error.message))
    return told(`${where}, and Signalbox is not installed there: helm install it, or choose another --context`);
  if ((error.code === 'unavailable' || error.code === 'timeout') && error.message.includes(server))
    return told(`${where}: is it up, and is this the context you mean?`);
  return error;
}

/** The API server says so of a path below a kind that it does not serve. */
function isMissingKind(message: string): boolean {
  return (
    message.includes(resources.llmInferenceServices.plural) &&
    /the server could not find the requested resource|404 page not found/.test(message)
  );
}

/** `NAME` or `NAMESPACE/NAME`, as commands take a service. */
export function parseServiceRef(
  text: string,
  namespace: string,
): { readonly namespace: string; readonly name: string } {
  const [first = '', second, ...more] = text.split('/');
  const ref = second === undefined ? { namespace, name: first } : { namespace: first, name: second };
  const isName = (part: string) => /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/.test(part);
  if (more.length > 0 || !isName(ref.namespace) || !isName(ref.name))
    throw new AppError('usage', `${text}: is not a service; give NAME or NAMESPACE/NAME`);
  return ref;
}

/** The text of anything that a best-effort read threw, for a line that says what could not be read. */
export function shortReason(thrown: unknown): string {
  return messageOf(thrown).split('\n')[0] ?? '';
}
