import { AppError } from '../errors.ts';

/** `metav1.LabelSelector`. */
export interface LabelSelector {
  readonly matchLabels?: Readonly<Record<string, string>>;
  readonly matchExpressions?: readonly {
    readonly key: string;
    readonly operator: 'In' | 'NotIn' | 'Exists' | 'DoesNotExist';
    readonly values?: readonly string[];
  }[];
}

export type Requirement =
  | { readonly kind: 'in' | 'notIn'; readonly key: string; readonly values: readonly string[] }
  | { readonly kind: 'exists' | 'absent'; readonly key: string };

type Labels = Readonly<Record<string, string>> | undefined;

/** The selector as a list of requirements that all must hold. Errors: `invalid` for an unknown operator. */
export function toRequirements(selector: LabelSelector): readonly Requirement[] {
  const requirements: Requirement[] = Object.entries(selector.matchLabels ?? {}).map(([key, value]) => ({
    kind: 'in',
    key,
    values: [value],
  }));
  for (const { key, operator, values } of selector.matchExpressions ?? []) {
    switch (operator) {
      case 'In':
        requirements.push({ kind: 'in', key, values: values ?? [] });
        break;
      case 'NotIn':
        requirements.push({ kind: 'notIn', key, values: values ?? [] });
        break;
      case 'Exists':
        requirements.push({ kind: 'exists', key });
        break;
      case 'DoesNotExist':
        requirements.push({ kind: 'absent', key });
        break;
      default:
        throw new AppError(
          'invalid',
          `matchExpressions[${key}].operator "${String(operator)}" is unknown; use In, NotIn, Exists or DoesNotExist`,
        );
    }
  }
  return requirements;
}

export function matchesRequirements(requirements: readonly Requirement[], labels: Labels): boolean {
  return requirements.every((requirement) => isMet(requirement, labels?.[requirement.key]));
}

function isMet(requirement: Requirement, value: string | undefined): boolean {
  switch (requirement.kind) {
    case 'in':
      return value !== undefined && requirement.values.includes(value);
    case 'notIn':
      return value === undefined || !requirement.values.includes(value);
    case 'exists':
      return value !== undefined;
    case 'absent':
      return value === undefined;
  }
}

/** As in Kubernetes: no selector selects nothing, an empty one everything. */
export function matchesSelector(selector: LabelSelector | undefined, labels: Labels): boolean {
  return selector !== undefined && matchesRequirements(toRequirements(selector), labels);
}

/** The selector in the form of the `labelSelector` query parameter. */
export function formatSelector(selector: LabelSelector): string {
  return toRequirements(selector).map(formatRequirement).join(',');
}

function formatRequirement(requirement: Requirement): string {
  switch (requirement.kind) {
    case 'in':
      return requirement.values.length === 1
        ? `${requirement.key}=${requirement.values[0]}`
        : `${requirement.key} in (${requirement.values.join(',')})`;
    case 'notIn':
      return `${requirement.key} notin (${requirement.values.join(',')})`;
    case 'exists':
      return requirement.key;
    case 'absent':
      return `!${requirement.key}`;
  }
}

const setBased = /^([^\s=!,()]+)\s+(in|notin)\s*\(([^()]*)\)$/;
const equality = /^([^\s=!,()]+)\s*(==|=|!=)\s*([^\s=!,()]*)$/;
const existence = /^(!?)\s*([^\s=!,()]+)$/;

/** Reads `a=b,c!=d,e in (x,y),f notin (z),g,!h`. Errors: `invalid`, quoting the term. */
export function parseSelector(text: string): readonly Requirement[] {
  if (text.trim() === '') return [];
  return splitTerms(text).map((term) => {
    const set = setBased.exec(term);
    if (set) {
      const values = (set[3] ?? '').split(',').map((value) => value.trim());
      return { kind: set[2] === 'in' ? 'in' : 'notIn', key: set[1] ?? '', values };
    }
    const equal = equality.exec(term);
    if (equal) return { kind: equal[2] === '!=' ? 'notIn' : 'in', key: equal[1] ?? '', values: [equal[3] ?? ''] };
    const exists = existence.exec(term);
    if (exists) return { kind: exists[1] ? 'absent' : 'exists', key: exists[2] ?? '' };
    throw new AppError(
      'invalid',
      `label selector "${text}": cannot read "${term}"; write key=value, key in (a,b), key or !key`,
    );
  });
}

/** Commas inside parentheses belong to their term. */
function splitTerms(text: string): string[] {
  const terms: string[] = [];
  let depth = 0;
  let start = 0;
  for (let i = 0; i <= text.length; i++) {
    const char = text[i];
    if (char === '(') depth++;
    else if (char === ')') depth--;
    else if (char === undefined || (char === ',' && depth === 0)) {
      terms.push(text.slice(start, i).trim());
      start = i + 1;
    }
  }
  return terms;
}
