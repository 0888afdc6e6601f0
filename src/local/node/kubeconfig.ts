import { stringify } from 'yaml';

/** A kubeconfig for a pod: the API server's address, its CA, and the service account's token, read afresh by the client. */
export function renderTokenKubeconfig(
  apiServer: { readonly url: string; readonly caFile: string },
  tokenFile: string,
  namespace: string,
): string {
  return stringify({
    apiVersion: 'v1',
    kind: 'Config',
    'current-context': 'pod',
    clusters: [{ name: 'pod', cluster: { server: apiServer.url, 'certificate-authority': apiServer.caFile } }],
    users: [{ name: 'pod', user: { tokenFile } }],
    contexts: [{ name: 'pod', context: { cluster: 'pod', user: 'pod', namespace } }],
  });
}
