import type { Client } from '../kube/client.ts';
import { renderTable } from './output.ts';

interface Table {
  readonly columnDefinitions: readonly { readonly name: string; readonly priority: number }[];
  readonly rows: readonly {
    readonly cells: readonly unknown[];
    readonly object?: { readonly metadata?: { readonly namespace?: string } };
  }[];
}

/** What `kubectl get llmisvc` prints, of all namespaces or one: the table that the API server itself makes of the printer columns. */
export async function serviceTable(client: Client, namespace?: string): Promise<string> {
  const scope = namespace === undefined ? '' : `/namespaces/${namespace}`;
  const path = `/apis/serving.kserve.io/v1alpha2${scope}/llminferenceservices`;
  const table = await client.request<Table>('GET', path, undefined, {
    accept: 'application/json;as=Table;v=v1;g=meta.k8s.io',
  });
  const shown = table.columnDefinitions
    .map((column, index) => ({ ...column, index }))
    .filter((column) => column.priority === 0);
  return renderTable([
    ['NAMESPACE', ...shown.map((column) => column.name.toUpperCase())],
    ...table.rows.map((row) => [
      row.object?.metadata?.namespace ?? '',
      ...shown.map((column) => String(row.cells[column.index] ?? '')),
    ]),
  ]);
}
