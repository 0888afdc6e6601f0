import type { LLMInferenceService } from '../api/v1alpha2/llm-inference-service.ts';
import { apiVersionOf, type Manifest, type Resource } from '../kube/object.ts';

/** A manifest of a resource; the one place that casts a typed body to what `apply` takes. */
export function manifestOf(
  resource: Pick<Resource, 'group' | 'version' | 'kind'>,
  metadata: Manifest['metadata'],
  body: Readonly<Record<string, unknown>>,
): Manifest {
  return { apiVersion: apiVersionOf(resource), kind: resource.kind, metadata, ...body };
}

/** The controller reference by which the API server deletes a child with its service. */
export function ownerOf(service: LLMInferenceService): NonNullable<Manifest['metadata']['ownerReferences']> {
  return [
    {
      apiVersion: service.apiVersion,
      kind: service.kind,
      name: service.metadata.name,
      uid: service.metadata.uid ?? '',
      controller: true,
      blockOwnerDeletion: true,
    },
  ];
}
