import type { Issue } from '../api/issue.ts';
import { defaultService } from '../api/v1alpha2/defaults.ts';
import {
  type LLMInferenceService,
  type LLMInferenceServiceSpec,
  llmInferenceServiceSpec,
} from '../api/v1alpha2/llm-inference-service.ts';
import type { LLMInferenceServiceConfig } from '../api/v1alpha2/llm-inference-service-config.ts';
import { AppError } from '../errors.ts';
import { completeSpec } from './complete-spec.ts';
import { mergeKeys, mergeSpec } from './merge.ts';
import { presetNames } from './preset-names.ts';
import { replacesRules } from './routing/own-rules.ts';
import type { Value } from './template/value.ts';
import { checkTemplate, renderTemplate } from './template.ts';
import { type TemplateSettings, templateData, templateFunctions } from './template-data.ts';

/** From a service and its base configurations to the spec that is rendered. */

export interface CombineInput {
  readonly service: LLMInferenceService;
  /** A configuration by its name: that of the service's namespace, else that of the system namespace. */
  readonly find: (name: string) => LLMInferenceServiceConfig | undefined;
  /** What names of presets begin with. */
  readonly prefix: string;
  readonly settings: TemplateSettings;
}

export interface AppliedConfig {
  readonly name: string;
  readonly namespace: string;
  readonly source: 'Preset' | 'UserRef';
}

export type Combination = {
  /** Lowest first. */
  readonly applied: readonly AppliedConfig[];
  /** Which configuration a field of the spec comes from, as `namespace/name`; undefined for the service itself. */
  readonly sourceOf: (path: string) => string | undefined;
} & (
  | { readonly kind: 'combined'; readonly effective: LLMInferenceServiceSpec }
  | { readonly kind: 'notFound' | 'invalid'; readonly message: string }
);

type Json = Readonly<Record<string, unknown>>;

interface Layer {
  readonly spec: Json;
  /** `namespace/name`; undefined for the service. */
  readonly source: string | undefined;
}

/**
 * Lays a service over its presets and then over its baseRefs in their order, and renders the templates of what comes out.
 * Templates see the merged spec. Each string is a template of its own; values are put in as they are, so that no quote in
 * a value breaks the document, and line breaks are kept where upstream, which renders JSON text, keeps them.
 *
 * Guarantees: pure. The service's own values win over every base. A preset that is nowhere is left out: what it would say
 * is built in. A baseRef that is nowhere is an answer of kind `notFound`.
 */
export function combine(input: CombineInput): Combination {
  const { service, find, settings } = input;
  const own: LLMInferenceServiceSpec = defaultService(service).spec;
  const refs = (own.baseRefs ?? []).map(({ name }) => ({ name, config: find(name) }));
  const missing = refs.filter(({ config }) => !config).map(({ name }) => name);
  const bases = refs.flatMap(({ config }) => (config ? [config] : []));
  // What a base turns on decides about presets too.
  const selected = [...bases.map(specOf), own].reduce<Json>(mergeSpec, {}) as unknown as LLMInferenceServiceSpec;
  const presets = presetNames(selected).flatMap((name) => find(input.prefix + name) ?? []);
  const layers: readonly Layer[] = [
    ...[...presets, ...bases].map((config) => ({ spec: specOf(config), source: nameOf(config) })),
    { spec: own as unknown as Json, source: undefined },
  ];
  const lower = layers
    .slice(0, -1)
    .map(({ spec }) => spec)
    .reduce(mergeSpec, {});
  const merged = withLowerRules(service, mergeSpec(lower, own), lower);
  const sourceOf = (path: string) => findSource(layers, merged, path);
  const applied = [
    ...presets.map((config) => appliedOf(config, 'Preset')),
    ...bases.map((config) => appliedOf(config, 'UserRef')),
  ];
  if (missing.length > 0) {
    const places = [...new Set([service.metadata.namespace ?? 'default', settings.systemNamespace])].join(' nor in ');
    const message = `spec.baseRefs: there is no LLMInferenceServiceConfig ${missing.join(', ')} in ${places}; make it or correct the name`;
    return { kind: 'notFound', message, applied, sourceOf };
  }
  if (layers.length === 1 && !JSON.stringify(own).includes('{{'))
    return { kind: 'combined', effective: completeSpec(input, own), applied, sourceOf };
  try {
    const data = templateData(service, merged as unknown as LLMInferenceServiceSpec, settings);
    const rendered = renderStrings(merged, 'spec', data, sourceOf) as LLMInferenceServiceSpec;
    const effective = defaultService({ ...service, spec: rendered }).spec;
    const shape = shapeProblem(effective, sourceOf);
    if (shape !== undefined) return { kind: 'invalid', message: shape, applied, sourceOf };
    return { kind: 'combined', effective: completeSpec(input, effective), applied, sourceOf };
  } catch (thrown) {
    if (!(thrown instanceof AppError)) throw thrown;
    return { kind: 'invalid', message: thrown.message, applied, sourceOf };
  }
}

/** Rules of the service's own route come before those of its bases, unless it wants no others. */
function withLowerRules(service: LLMInferenceService, merged: Json, lower: Json): Json {
  const at = ['router', 'route', 'http', 'spec', 'rules'];
  const rulesIn = (spec: unknown) => at.reduce<unknown>((value, field) => fieldOf(value, field), spec);
  const [own, base] = [rulesIn(service.spec), rulesIn(lower)];
  if (!Array.isArray(own) || own.length === 0 || !Array.isArray(base)) return merged;
  if (replacesRules(service.metadata.annotations)) return merged;
  const patch = at.reduceRight<unknown>((value, field) => ({ [field]: value }), [...own, ...base]);
  return mergeSpec(merged, patch as object);
}

function specOf(config: LLMInferenceServiceConfig): Json {
  const { baseRefs: _, ...spec } = (config.spec ?? {}) as Json;
  return spec;
}

function nameOf({ metadata }: LLMInferenceServiceConfig): string {
  return `${metadata.namespace ?? 'default'}/${metadata.name}`;
}

function appliedOf({ metadata }: LLMInferenceServiceConfig, source: AppliedConfig['source']): AppliedConfig {
  return { name: metadata.name, namespace: metadata.namespace ?? 'default', source };
}

/** `text` with where it comes from, when that is not the service. */
export function withSource(text: string, source: string | undefined): string {
  return source === undefined ? text : `${text} (from LLMInferenceServiceConfig ${source})`;
}

function renderStrings(
  value: unknown,
  path: string,
  data: Value,
  sourceOf: (path: string) => string | undefined,
): unknown {
  if (typeof value === 'string') {
    try {
      return renderTemplate(value, data, { functions: templateFunctions, trimming: 'spaces' });
    } catch (thrown) {
      const message = `${path}: ${AppError.from(thrown).message}; to write {{ itself, write {{ \`{{\` }}`;
      throw new AppError('invalid', withSource(message, sourceOf(path)));
    }
  }
  if (Array.isArray(value)) return value.map((item, i) => renderStrings(item, `${path}[${i}]`, data, sourceOf));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, field]) => [
      renderStrings(key, path, data, sourceOf),
      renderStrings(field, `${path}.${key}`, data, sourceOf),
    ]),
  );
}

/** What is wrong with the syntax of templates anywhere in a base configuration. */
export function checkTemplates(value: unknown, path: string): readonly Issue[] {
  if (typeof value === 'string') {
    try {
      checkTemplate(value, templateFunctions);
      return [];
    } catch (thrown) {
      return [{ path, code: 'invalid', message: AppError.from(thrown).message }];
    }
  }
  if (Array.isArray(value)) return value.flatMap((item, i) => checkTemplates(item, `${path}[${i}]`));
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, field]) => checkTemplates(field, `${path}.${key}`));
}

/** The schema of configurations is looser than that of services, and templates may make anything. */
function shapeProblem(effective: unknown, sourceOf: (path: string) => string | undefined): string | undefined {
  const parsed = llmInferenceServiceSpec.safeParse(effective);
  if (parsed.success) return undefined;
  return parsed.error.issues
    .map(({ path, message }) => {
      const at = path.reduce<string>(
        (all, part) => (typeof part === 'number' ? `${all}[${part}]` : `${all}.${String(part)}`),
        'spec',
      );
      return withSource(`${at}: ${message}`, sourceOf(at));
    })
    .join('; ');
}

/** The highest layer that has a value at a path such as `spec.template.containers[0].image` of the merged spec. */
function findSource(layers: readonly Layer[], merged: Json, path: string): string | undefined {
  const steps = [...path.replace(/^spec\.?/, '').matchAll(/\[(\d+)\]|\[([^\]]*)\]|([^.[\]]+)/g)];
  let at: unknown = merged;
  let places = layers.map(({ spec, source }) => ({ value: spec as unknown, source }));
  let field = '';
  for (const [, index, name, word] of steps) {
    const here = at;
    if (index === undefined) {
      field = name ?? word ?? '';
      const next = field;
      at = fieldOf(at, next);
      places = places.map(({ value, source }) => ({ value: fieldOf(value, next), source }));
    } else {
      const key = mergeKeys[field];
      const item: unknown = Array.isArray(here) ? here[Number(index)] : undefined;
      const id = key === undefined ? undefined : fieldOf(item, key);
      // Lists without keys are one layer's as a whole.
      if (key === undefined || id === undefined) break;
      at = item;
      places = places.map(({ value, source }) => ({
        value: Array.isArray(value) ? value.find((other: unknown) => fieldOf(other, key) === id) : undefined,
        source,
      }));
    }
    const remaining = places.filter(({ value }) => value !== undefined);
    if (remaining.length === 0) break;
    places = remaining;
  }
  return places.at(-1)?.source;
}

function fieldOf(value: unknown, field: string): unknown {
  return typeof value === 'object' && value !== null && Object.hasOwn(value, field)
    ? (value as Json)[field]
    : undefined;
}
