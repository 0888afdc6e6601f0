import { parseAllDocuments } from 'yaml';
import type { JsonSchema } from '../../../api/crd.ts';
import { llmInferenceServiceConfigCrd, llmInferenceServiceCrd } from '../../../api/crds.ts';
import { formatIssues, type Issue } from '../../../api/issue.ts';
import { checkSchema } from '../../../api/schema-check.ts';
import { convertObject } from '../../../api/v1alpha1/convert.ts';
import { defaultService } from '../../../api/v1alpha2/defaults.ts';
import type { LLMInferenceService } from '../../../api/v1alpha2/llm-inference-service.ts';
import type { LLMInferenceServiceConfig } from '../../../api/v1alpha2/llm-inference-service-config.ts';
import { validateService, validateServiceConfig, warnService } from '../../../api/v1alpha2/validate.ts';
import { AppError } from '../../../errors.ts';
import type { Manifest } from '../../../kube/object.ts';

/** What is to be said of one object of a file. */
export interface Finding {
  readonly source: string;
  readonly kind: string;
  readonly name: string;
  readonly errors: readonly Issue[];
  readonly warnings: readonly string[];
  /** Why nothing was looked at: another kind. */
  readonly skipped?: string;
}

const group = 'serving.kserve.io';
const storedVersion = `${group}/v1alpha2`;

/** The objects of a YAML or JSON text, lists taken apart. @throws AppError `invalid` naming file and line */
export function parseObjects(text: string, source: string): readonly Manifest[] {
  return parseAllDocuments(text).flatMap((document) => {
    const [problem] = document.errors;
    if (problem) throw new AppError('invalid', `${source}: ${problem.message}`);
    const value: unknown = document.toJS();
    if (value === null || value === undefined) return [];
    const object = value as Partial<Manifest> & { readonly items?: readonly Manifest[] };
    if (object.kind?.endsWith('List') && Array.isArray(object.items)) return object.items;
    if (!object.apiVersion || !object.kind || !object.metadata?.name)
      throw new AppError('invalid', `${source}: a document lacks apiVersion, kind or metadata.name`);
    return [object as Manifest];
  });
}

/** Checks one object as admission would, without a cluster. */
export function validateObject(object: Manifest, source: string): Finding {
  const { apiVersion, kind, metadata } = object;
  const base = { source, kind, name: [metadata.namespace, metadata.name].filter(Boolean).join('/') };
  const crd = kind === 'LLMInferenceService' ? service : kind === 'LLMInferenceServiceConfig' ? config : undefined;
  if (!apiVersion.startsWith(`${group}/`) || !crd)
    return { ...base, errors: [], warnings: [], skipped: 'not a kind of Signalbox' };
  const schema = crd().get(apiVersion.slice(group.length + 1));
  if (!schema) {
    const message = `${apiVersion}: is not served; write ${storedVersion}`;
    return { ...base, errors: [{ path: 'apiVersion', code: 'invalid', message }], warnings: [] };
  }
  const errors = checkSchema(schema, object);
  // The rules read fields as the schema promises them.
  if (errors.length > 0) return { ...base, errors, warnings: [] };
  const stored = convertObject(object as unknown as Readonly<Record<string, unknown>>, storedVersion);
  if (kind === 'LLMInferenceServiceConfig')
    return { ...base, errors: validateServiceConfig(stored as unknown as LLMInferenceServiceConfig), warnings: [] };
  const complete = defaultService(stored as unknown as LLMInferenceService);
  return { ...base, errors: validateService(complete), warnings: warnService(complete) };
}

/**
 * The object in the stored version, with its defaults: as it would be stored.
 * @throws AppError `invalid` with every field that admission would refuse
 */
export function completeService(object: Manifest, source: string): Manifest {
  const { errors, skipped } = validateObject(object, source);
  if (errors.length > 0) throw new AppError('invalid', `${source}: ${object.metadata.name}: ${formatIssues(errors)}`);
  if (skipped) return object;
  const stored = convertObject(object as unknown as Readonly<Record<string, unknown>>, storedVersion) as Manifest;
  return object.kind === 'LLMInferenceService'
    ? (defaultService(stored as unknown as LLMInferenceService) as unknown as Manifest)
    : stored;
}

type Versions = ReadonlyMap<string, JsonSchema>;

function lazily(create: () => Versions): () => Versions {
  let made: Versions | undefined;
  return () => {
    made ??= create();
    return made;
  };
}

const versionsOf = (crd: { readonly spec: JsonSchema }): Versions =>
  new Map(
    (
      crd.spec.versions as readonly {
        readonly name: string;
        readonly schema: { readonly openAPIV3Schema: JsonSchema };
      }[]
    ).map(({ name, schema }) => [name, schema.openAPIV3Schema]),
  );
const service = lazily(() => versionsOf(llmInferenceServiceCrd()));
const config = lazily(() => versionsOf(llmInferenceServiceConfigCrd()));
