import type { JsonSchema } from './crd.ts';
import { type Issue, showValue } from './issue.ts';

/**
 * What the API server would say of a value by a structural schema: types, required fields, bounds, choices, and fields that
 * it would drop. Rules in CEL are not looked at.
 */
export function checkSchema(schema: JsonSchema, value: unknown, path = ''): readonly Issue[] {
  const issues: Issue[] = [];
  visit(schema, value, path, issues);
  return issues;
}

function visit(schema: JsonSchema, value: unknown, path: string, issues: Issue[]): void {
  const wrong = (message: string, code: Issue['code'] = 'invalid') => issues.push({ path, code, message });
  if (schema['x-kubernetes-int-or-string'] === true) {
    if (!Number.isInteger(value) && typeof value !== 'string')
      wrong(`${showValue(value)}: must be a whole number or a string`);
    return;
  }
  const choices = schema.enum as readonly unknown[] | undefined;
  switch (schema.type) {
    case 'string':
      if (typeof value !== 'string') return void wrong(`${showValue(value)}: must be a string; put quotes around it`);
      checkText(schema, value, wrong);
      break;
    case 'boolean':
      if (typeof value !== 'boolean') return void wrong(`${showValue(value)}: must be true or false, without quotes`);
      break;
    case 'integer':
    case 'number':
      if (typeof value !== 'number' || (schema.type === 'integer' && !Number.isInteger(value)))
        return void wrong(`${showValue(value)}: must be a ${schema.type === 'integer' ? 'whole ' : ''}number`);
      checkNumber(schema, value, wrong);
      break;
    case 'array': {
      if (!Array.isArray(value)) return void wrong(`${showValue(value)}: must be a list`);
      const { maxItems, minItems } = schema as { readonly maxItems?: number; readonly minItems?: number };
      if (maxItems !== undefined && value.length > maxItems)
        wrong(`${value.length} items: at most ${maxItems} are allowed`);
      if (minItems !== undefined && value.length < minItems)
        wrong(`${value.length} items: at least ${minItems} are needed`);
      for (const [i, item] of schema.items ? value.entries() : [])
        visit(schema.items as JsonSchema, item, `${path}[${i}]`, issues);
      break;
    }
    case 'object':
      visitObject(schema, value, path, issues);
      break;
    default:
  }
  if (choices && !choices.includes(value))
    wrong(`${showValue(value)}: must be one of ${choices.map(String).join(', ')}`);
}

function visitObject(schema: JsonSchema, value: unknown, path: string, issues: Issue[]): void {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    issues.push({ path, code: 'invalid', message: `${showValue(value)}: must be a mapping` });
    return;
  }
  const at = (name: string) => (path === '' ? name : `${path}.${name}`);
  const properties = (schema.properties ?? {}) as Readonly<Record<string, JsonSchema>>;
  for (const name of (schema.required ?? []) as readonly string[]) {
    if (!Object.hasOwn(value, name)) issues.push({ path: at(name), code: 'required', message: 'is missing' });
  }
  const others = schema.additionalProperties as JsonSchema | undefined;
  const keepsUnknown = schema['x-kubernetes-preserve-unknown-fields'] === true || Object.keys(properties).length === 0;
  for (const [name, child] of Object.entries(value)) {
    const known = Object.hasOwn(properties, name) ? properties[name] : others;
    // The API server takes null for "not given".
    if (known) {
      if (child !== null) visit(known, child, at(name), issues);
    } else if (!keepsUnknown) {
      const message = `there is no such field; here are ${Object.keys(properties).sort().join(', ')}`;
      issues.push({ path: at(name), code: 'invalid', message });
    }
  }
}

type Tell = (message: string) => void;

function checkText(schema: JsonSchema, value: string, wrong: Tell): void {
  const { minLength, maxLength, pattern } = schema as {
    readonly minLength?: number;
    readonly maxLength?: number;
    readonly pattern?: string;
  };
  if (minLength !== undefined && value.length < minLength)
    wrong(`${showValue(value)}: must not be shorter than ${minLength}`);
  if (maxLength !== undefined && value.length > maxLength)
    wrong(`${showValue(value)}: must not be longer than ${maxLength}`);
  if (pattern !== undefined && !new RegExp(pattern, 'u').test(value))
    wrong(`${showValue(value)}: must match ${pattern}`);
}

function checkNumber(schema: JsonSchema, value: number, wrong: Tell): void {
  const { minimum, maximum } = schema as { readonly minimum?: number; readonly maximum?: number };
  if (minimum !== undefined && value < minimum) wrong(`${value}: must be at least ${minimum}`);
  if (maximum !== undefined && value > maximum) wrong(`${value}: must be at most ${maximum}`);
}
