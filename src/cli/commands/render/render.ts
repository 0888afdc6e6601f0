import { type OperatorConfig, version } from '../../../../controllers/config.ts';
import type { LLMInferenceService } from '../../../api/v1alpha2/llm-inference-service.ts';
import { AppError } from '../../../errors.ts';
import type { KubeObject, Manifest } from '../../../kube/object.ts';
import { resources } from '../../../kube/resources.ts';
import { shippedPresets } from '../../../render/shipped-presets.ts';
import { createStaticSource, type Source } from '../../dry-client.ts';
import { defaultConfig, previewService } from '../../preview.ts';
import type { CliDeps } from '../../program.ts';
import { completeService } from '../validate/run.ts';

type Deps = Pick<CliDeps, 'log' | 'signal'>;

/** A cluster that serves every kind and has one GatewayClass, where none is asked. */
const gatewayClass = {
  apiVersion: 'gateway.networking.k8s.io/v1',
  kind: 'GatewayClass',
  metadata: { name: 'gateway-class' },
  spec: {},
  status: { conditions: [{ type: 'Accepted', status: 'True' }] },
};

/** What is in a cluster as new: also the presets, as the operator installs them. */
export function newCluster({ systemNamespace, configPrefix }: OperatorConfig): readonly KubeObject[] {
  const presets = shippedPresets({ namespace: systemNamespace, prefix: configPrefix, version });
  return [gatewayClass, ...(presets as readonly KubeObject[])];
}

/**
 * The manifests that the operator would make of the services among `objects`, laid over the configurations among them.
 *
 * @param live where to look for everything else; undefined: a cluster as new, with the settings' defaults and the shipped presets
 * @throws AppError `invalid` with what would be refused
 */
export async function renderServices(
  deps: Deps,
  objects: readonly { readonly object: Manifest; readonly source: string }[],
  live: { readonly source: Source; readonly config: OperatorConfig } | undefined,
  namespace?: string,
): Promise<readonly Manifest[]> {
  const own = objects.map(({ object, source }) => inNamespace(completeService(object, source), namespace));
  const config = live?.config ?? defaultConfig();
  const source = live?.source ?? createStaticSource([...newCluster(config), ...own], Object.values(resources));
  const manifests: Manifest[] = [];
  for (const service of own.filter(({ kind }) => kind === 'LLMInferenceService')) {
    // As a new one: what is there already would leave out what it shares with it.
    const { uid: _u, resourceVersion: _r, ...metadata } = service.metadata;
    const fresh = { ...service, metadata: { ...metadata, uid: `preview-${metadata.name}`, generation: 1 } };
    const others = own.filter(({ kind }) => kind !== 'LLMInferenceService') as readonly KubeObject[];
    const { writes, status } = await previewService({
      ...deps,
      source,
      config,
      service: fresh as unknown as LLMInferenceService,
      others,
    });
    const refusal = status?.conditions?.find(({ type, status: is }) => type === 'PresetsCombined' && is === 'False');
    if (refusal)
      throw new AppError('invalid', `${metadata.namespace}/${metadata.name}: ${refusal.message ?? refusal.reason}`);
    manifests.push(
      ...writes.flatMap(({ verb, object }) => (verb === 'write' && object ? [withoutPreview(object)] : [])),
    );
  }
  return manifests;
}

/** Without what only holds in the preview. The data of Secrets is made anew by the operator, so it is not shown. */
function withoutPreview(manifest: Manifest): Manifest {
  const { ownerReferences: _o, ...metadata } = manifest.metadata;
  const { data: _d, ...rest } = manifest;
  return { ...(manifest.kind === 'Secret' ? rest : manifest), metadata } as Manifest;
}

export function inNamespace(object: Manifest, namespace = 'default'): Manifest {
  return { ...object, metadata: { ...object.metadata, namespace: object.metadata.namespace ?? namespace } };
}
