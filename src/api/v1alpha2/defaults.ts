import { labels } from '../labels.ts';
import type { LLMInferenceService } from './llm-inference-service.ts';

type Fields = Readonly<Record<string, unknown>>;

/** The name by which requests ask for the model. */
export function modelNameOf(service: LLMInferenceService): string {
  return service.spec.model.name ?? service.metadata.name;
}

/**
 * The service with its defaults: `model.name` is the service's name, pod templates have a list of containers, and a label
 * says which routing group it is in.
 *
 * Assumptions: runs before the API server has checked the shape, so anything may stand anywhere; what is not of the
 * expected shape is left for that check. A service without a name yet (generateName) keeps `model.name` open.
 */
export function defaultService(service: LLMInferenceService): LLMInferenceService {
  const name = service.metadata?.name;
  let result = service as unknown as Fields;
  if (name) {
    result = change(result, ['spec', 'model'], (model) =>
      model.name === undefined || model.name === null || model.name === '' ? { ...model, name } : model,
    );
  }
  const group = (service.spec as Partial<LLMInferenceService['spec']> | undefined)?.router?.route?.group;
  result = change(result, ['metadata'], (metadata) => withGroup(metadata, group));
  for (const path of templatePaths) result = change(result, ['spec', ...path], withContainers);
  return result as unknown as LLMInferenceService;
}

const templatePaths: readonly (readonly string[])[] = [
  ['template'],
  ['worker'],
  ['prefill', 'template'],
  ['prefill', 'worker'],
  ['router', 'scheduler', 'template'],
];

/** The label by which members of a routing group are found. */
function withGroup(metadata: Fields, group: unknown): Fields {
  const { [labels.routingGroup]: old, ...others } = (metadata.labels ?? {}) as Fields;
  if (old === group || (typeof group !== 'string' && old === undefined)) return metadata;
  return { ...metadata, labels: typeof group === 'string' ? { ...others, [labels.routingGroup]: group } : others };
}

function withContainers(template: Fields): Fields {
  return template.containers === undefined || template.containers === null ? { ...template, containers: [] } : template;
}

/** `root` with the object at `path` replaced by what `to` makes of it; the same `root` when there is no object or nothing changes. */
function change(root: Fields, path: readonly string[], to: (value: Fields) => Fields): Fields {
  const [first, ...rest] = path;
  if (first === undefined) return to(root);
  const child = root[first];
  if (typeof child !== 'object' || child === null || Array.isArray(child)) return root;
  const changed = change(child as Fields, rest, to);
  return changed === child ? root : { ...root, [first]: changed };
}
