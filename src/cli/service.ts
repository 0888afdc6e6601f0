import type { Condition } from '../api/conditions.ts';
import { AppError } from '../errors.ts';
import type { Client } from '../kube/client.ts';
import type { KubeObject, ObjectRef } from '../kube/object.ts';
import { resources } from '../kube/resources.ts';

/** An LLMInferenceService as far as commands read it. */
export interface ServiceObject extends KubeObject {
  readonly spec: {
    readonly model?: { readonly name?: string; readonly uri?: string };
    readonly replicas?: number;
    readonly prefill?: { readonly replicas?: number };
  };
  readonly status?: {
    readonly url?: string;
    readonly addresses?: readonly { readonly name?: string; readonly url?: string }[];
    readonly observedGeneration?: number;
    readonly conditions?: readonly Condition[];
  };
}

/** A pod as far as commands read it. */
export interface PodObject extends KubeObject {
  readonly status?: {
    readonly phase?: string;
    readonly podIP?: string;
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
    readonly initContainerStatuses?: readonly ContainerStatus[];
    readonly containerStatuses?: readonly ContainerStatus[];
  };
}

interface ContainerStatus {
  readonly name: string;
  readonly ready: boolean;
  readonly restartCount: number;
}

/** @throws AppError `notFound` that names the services there are */
export async function getService(client: Client, ref: ObjectRef, signal?: AbortSignal): Promise<ServiceObject> {
  const service = await client.get<ServiceObject>(resources.llmInferenceServices, ref, signal);
  if (service) return service;
  const { items } = await client.list<ServiceObject>(resources.llmInferenceServices, {}, signal);
  const there = items.map(({ metadata }) => `${metadata.namespace}/${metadata.name}`);
  throw new AppError(
    'notFound',
    `${ref.namespace}/${ref.name}: there is no such LLMInferenceService; ${there.length > 0 ? `there are ${there.slice(0, 10).join(', ')}${there.length > 10 ? ', …' : ''}` : 'there is none in the cluster'}`,
  );
}

/** Whether a pod takes requests. */
export function isPodReady(pod: PodObject): boolean {
  return pod.status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') ?? false;
}
