import type { Clock } from '../../clock.ts';
import type { Client } from '../../kube/client.ts';
import type { KubeObject } from '../../kube/object.ts';
import { resources } from '../../kube/resources.ts';
import type { EnvSources } from './env.ts';
import type { Pod } from './pod-spec.ts';
import type { VolumeSources } from './volumes.ts';

/** What a pod may read of the API server through its env and volumes. */
export type PodSources = Pick<EnvSources, 'configMap' | 'secret'> &
  Pick<VolumeSources, 'configMapFiles' | 'secretFiles' | 'token'>;

interface DataObject extends KubeObject {
  readonly data?: Readonly<Record<string, string>>;
  readonly binaryData?: Readonly<Record<string, string>>;
}

interface Token {
  readonly value: string;
  readonly renewAtMs: number;
}

interface TokenRequest {
  readonly status?: { readonly token?: string; readonly expirationTimestamp?: string };
}

/** Tokens by pod, audience and lifetime; an entry goes with `forget`. */
export interface PodSourcesFactory {
  sourcesOf(pod: Pod): PodSources;
  /** Whether a token of the pod has grown old enough to be renewed. */
  isTokenDue(uid: string): boolean;
  forget(uid: string): void;
}

/** Reads of ConfigMaps and Secrets are never cached; tokens are, until four fifths of their life are over. */
export function createPodSources(client: Client, clock: Clock, signal: AbortSignal): PodSourcesFactory {
  const tokens = new Map<string, Map<string, Token>>();
  const askToken = async (pod: Pod, audience: string | undefined, expirationSeconds: number): Promise<Token> => {
    const namespace = pod.metadata.namespace ?? 'default';
    const account = pod.spec.serviceAccountName ?? 'default';
    const path = `/api/v1/namespaces/${encodeURIComponent(namespace)}/serviceaccounts/${encodeURIComponent(account)}/token`;
    const answer = await client.request<TokenRequest>(
      'POST',
      path,
      {
        apiVersion: 'authentication.k8s.io/v1',
        kind: 'TokenRequest',
        spec: {
          ...(audience ? { audiences: [audience] } : {}),
          expirationSeconds,
          boundObjectRef: { apiVersion: 'v1', kind: 'Pod', name: pod.metadata.name, uid: pod.metadata.uid },
        },
      },
      {},
      signal,
    );
    const now = clock.now();
    const endsMs = Date.parse(answer.status?.expirationTimestamp ?? '') || now + expirationSeconds * 1000;
    return { value: answer.status?.token ?? '', renewAtMs: now + Math.min((endsMs - now) * 0.8, 86_400_000) };
  };
  return {
    isTokenDue: (uid) => [...(tokens.get(uid)?.values() ?? [])].some((token) => token.renewAtMs <= clock.now()),
    forget: (uid) => void tokens.delete(uid),
    sourcesOf: (pod) => {
      const namespace = pod.metadata.namespace ?? 'default';
      const configMapFiles = async (name: string): Promise<Readonly<Record<string, Buffer>> | undefined> => {
        const object = await client.get<DataObject>(resources.configMaps, { namespace, name }, signal);
        return object && { ...toBuffers(object.data, 'utf8'), ...toBuffers(object.binaryData, 'base64') };
      };
      const secretFiles = async (name: string): Promise<Readonly<Record<string, Buffer>> | undefined> => {
        const object = await client.get<DataObject>(resources.secrets, { namespace, name }, signal);
        return object && toBuffers(object.data, 'base64');
      };
      return {
        configMapFiles,
        secretFiles,
        configMap: async (name) => {
          const object = await client.get<DataObject>(resources.configMaps, { namespace, name }, signal);
          return object && (object.data ?? {});
        },
        secret: async (name) => {
          const files = await secretFiles(name);
          return (
            files && Object.fromEntries(Object.entries(files).map(([key, value]) => [key, value.toString('utf8')]))
          );
        },
        token: async (audience, expirationSeconds) => {
          const uid = pod.metadata.uid ?? '';
          const ofPod = tokens.get(uid) ?? new Map<string, Token>();
          tokens.set(uid, ofPod);
          const key = `${expirationSeconds}/${audience ?? ''}`;
          const known = ofPod.get(key);
          if (known && known.renewAtMs > clock.now()) return known.value;
          const token = await askToken(pod, audience, expirationSeconds);
          ofPod.set(key, token);
          return token.value;
        },
      };
    },
  };
}

function toBuffers(
  data: Readonly<Record<string, string>> | undefined,
  encoding: 'utf8' | 'base64',
): Readonly<Record<string, Buffer>> {
  return Object.fromEntries(Object.entries(data ?? {}).map(([key, value]) => [key, Buffer.from(value, encoding)]));
}
