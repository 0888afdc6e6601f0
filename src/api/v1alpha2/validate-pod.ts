import { podSchema } from '../foreign/pod-schema.ts';
import { type Issue, showValue } from '../issue.ts';

/** Whether what the operator hands on as it is fits the Kubernetes API, told with the path of each field that does not. */

interface Field {
  readonly type: string;
  readonly isRequired: boolean;
}

/** Roots of the schema. */
export type KubernetesType = 'PodSpec' | 'PersistentVolumeClaimSpec' | 'HorizontalPodAutoscalerBehavior';

interface Options {
  /** Whether required fields may be missing, because another layer may bring them. */
  readonly isPartial?: boolean;
}

/** One wrong manifest is not told of without end. */
const maxIssues = 20;

let types: ReadonlyMap<string, ReadonlyMap<string, Field>> | undefined;

function schema(): NonNullable<typeof types> {
  types ??= new Map(
    podSchema
      .trim()
      .split('\n')
      .map((line) => {
        const [name = '', ...fields] = line.split(' ');
        return [
          name,
          new Map(
            fields.map((text) => {
              const [, field = '', required, type = ''] = /^(.+?)(!?):(.+)$/.exec(text) ?? [];
              return [field, { type, isRequired: required === '!' }];
            }),
          ),
        ];
      }),
  );
  return types;
}

/** What of `value` is not as the Kubernetes API has it: unknown fields, wrong types, what is required and missing. */
export function checkKubernetes(
  value: unknown,
  type: KubernetesType,
  path: string,
  options: Options = {},
): readonly Issue[] {
  const issues: Issue[] = [];
  check(value, type, path, options, issues);
  const rest = issues.length - maxIssues;
  if (rest <= 0) return issues;
  return [...issues.slice(0, maxIssues), { path, code: 'invalid', message: `and ${rest} more fields are wrong` }];
}

/** A pod template: what `checkKubernetes` finds, and containers that have no name of their own. */
export function checkPodTemplate(template: unknown, path: string, options: Options = {}): readonly Issue[] {
  if (template === undefined || template === null) return [];
  return [...checkKubernetes(template, 'PodSpec', path, options), ...checkNames(template, path)];
}

function check(value: unknown, type: string, path: string, options: Options, issues: Issue[]): void {
  // The API server reads null as absent.
  if (value === null || value === undefined) return;
  const wrong = (what: string) =>
    issues.push({ path, code: 'invalid', message: `${showValue(value)} must be ${what}` });
  if (type.endsWith('[]')) {
    if (!Array.isArray(value)) return void wrong('a list');
    for (const [i, item] of value.entries()) check(item, type.slice(0, -2), `${path}[${i}]`, options, issues);
    return;
  }
  if (type.endsWith('{}')) {
    if (!isObject(value)) return void wrong('an object of names and values');
    for (const [key, item] of Object.entries(value)) check(item, type.slice(0, -2), `${path}[${key}]`, options, issues);
    return;
  }
  switch (type) {
    case 'any':
      return;
    case 'string':
      if (typeof value !== 'string') wrong(`a text; write ${JSON.stringify(showPlain(value))}`);
      return;
    case 'boolean':
      if (typeof value !== 'boolean') wrong('true or false');
      return;
    case 'number':
      if (!Number.isInteger(value)) wrong('a whole number');
      return;
    case 'intOrString':
      if (typeof value !== 'string' && !Number.isInteger(value)) wrong('a whole number or a text');
      return;
    case 'quantity':
      if (!isQuantity(value)) wrong('an amount such as 2, 500m or 16Gi');
      return;
    default:
      checkFields(value, type, path, options, issues);
  }
}

function checkFields(value: unknown, type: string, path: string, options: Options, issues: Issue[]): void {
  const fields = schema().get(type) ?? new Map<string, Field>();
  if (!isObject(value)) {
    const some = [...fields.keys()].slice(0, 3).join(', ');
    issues.push({
      path,
      code: 'invalid',
      message: `${showValue(value)} must be an object with fields such as ${some}`,
    });
    return;
  }
  for (const [key, item] of Object.entries(value)) {
    const field = fields.get(key);
    if (field) check(item, field.type, `${path}.${key}`, options, issues);
    else issues.push({ path: `${path}.${key}`, code: 'invalid', message: unknownField(key, type, [...fields.keys()]) });
  }
  if (options.isPartial) return;
  for (const [key, { isRequired }] of fields)
    if (isRequired && (value[key] === undefined || value[key] === null))
      issues.push({ path: `${path}.${key}`, code: 'required', message: `a ${type} needs a ${key}` });
}

function unknownField(key: string, type: string, known: readonly string[]): string {
  const plain = key.toLowerCase().replace(/[^a-z0-9]/g, '');
  const near =
    known.find((field) => field.toLowerCase() === plain) ??
    known.find((field) => {
      const other = field.toLowerCase();
      const [short, long] = other.length < plain.length ? [other, plain] : [plain, other];
      return long.startsWith(short) && long.length - short.length <= 2;
    });
  return `${key} is no field of a ${type}; ${near ? `did you mean ${near}?` : 'remove it or correct its name and indentation'}`;
}

/** Other layers and the operator find containers by name. */
function checkNames(template: unknown, path: string): readonly Issue[] {
  const issues: Issue[] = [];
  const seen = new Set<string>();
  for (const field of ['containers', 'initContainers'] as const) {
    const list = isObject(template) ? template[field] : undefined;
    if (!Array.isArray(list)) continue;
    for (const [i, container] of list.entries()) {
      const name = isObject(container) ? container.name : undefined;
      const at = `${path}.${field}[${i}].name`;
      if (typeof name !== 'string') continue;
      const say = (code: Issue['code'], message: string) => issues.push({ path: at, code, message });
      if (name === '') say('required', 'a container needs a name; the model server is called main');
      else if (seen.has(name)) say('duplicate', `"${name}" is there twice; names of a pod's containers differ`);
      else if (!/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/.test(name) && !isTemplated(name))
        say('invalid', `${showValue(name)} must be at most 63 lower-case letters, digits and "-" between them`);
      seen.add(name);
    }
  }
  return issues;
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isQuantity(value: unknown): boolean {
  if (typeof value === 'number') return Number.isFinite(value);
  if (typeof value !== 'string') return false;
  return /^[+-]?(\d+(\.\d*)?|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?$/.test(value) || isTemplated(value);
}

/** A text that is known only once it is rendered. */
function isTemplated(text: string): boolean {
  return text.includes('{{');
}

function showPlain(value: unknown): string {
  return isObject(value) || Array.isArray(value) ? '…' : String(value);
}
