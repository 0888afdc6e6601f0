/**
 * What a conversion could not carry over, kept as a list of fields and put back on the way home: a three-way merge
 * in which the field of the other version is the base. Pure; knows no kind.
 */

type Fields = Record<string, unknown>;

/** A property, or the element of a list that has this value under this property. */
type Step = string | { readonly [property: string]: string };

export interface KeptField {
  /** From the root of the object. */
  readonly path: readonly Step[];
  /** What stood there; absent: nothing did. */
  readonly value?: unknown;
  /** Digest of what the other version alone says about this field; absent: nothing. */
  readonly was?: string;
}

/** The differences that turn `naive` into `wanted`, each with the digest of what it replaces. */
export function compareFields(wanted: unknown, naive: unknown): readonly KeptField[] {
  const kept: KeptField[] = [];
  walk(wanted, naive, [], kept);
  return kept;
}

function walk(wanted: unknown, naive: unknown, path: readonly Step[], kept: KeptField[]): void {
  if (isFields(wanted) && isFields(naive)) {
    for (const key of new Set([...Object.keys(wanted), ...Object.keys(naive)])) {
      walk(own(wanted, key), own(naive, key), [...path, key], kept);
    }
    return;
  }
  if (Array.isArray(wanted) && Array.isArray(naive)) {
    const property = identityOf(wanted, naive);
    if (property !== undefined) {
      wanted.forEach((element: Fields, i) => {
        walk(element, naive[i], [...path, { [property]: String(element[property]) }], kept);
      });
      return;
    }
  }
  if (canonical(wanted) === canonical(naive)) return;
  kept.push({
    path,
    ...(wanted === undefined ? {} : { value: wanted }),
    ...(naive === undefined ? {} : { was: digest(naive) }),
  });
}

/** The property that tells the elements of both lists apart, when it pairs them one to one and in order. */
function identityOf(left: readonly unknown[], right: readonly unknown[]): string | undefined {
  if (left.length !== right.length || left.length === 0) return undefined;
  return ['url', 'name'].find((property) => {
    const keys = left.map((element) => (isFields(element) ? own(element, property) : undefined));
    return (
      keys.every((key) => typeof key === 'string') &&
      new Set(keys).size === keys.length &&
      right.every((element, i) => isFields(element) && own(element, property) === keys[i])
    );
  });
}

/**
 * Puts kept fields into `target`, in place.
 *
 * Guarantees: a field is put back only where `target` says what it said when the field was kept, so nothing that was
 * edited since is overridden; an object or list element that is gone is not made again for what it held.
 */
export function restoreFields(target: unknown, kept: readonly KeptField[]): void {
  for (const { path, value, was } of kept) {
    const last = path.at(-1);
    const parent = path.slice(0, -1).reduce<unknown>(stepInto, target);
    if (typeof last !== 'string' || last === '__proto__' || !isFields(parent)) continue;
    const current = own(parent, last);
    if ((current === undefined ? undefined : digest(current)) !== was) continue;
    if (value === undefined) delete parent[last];
    else parent[last] = value;
  }
}

function stepInto(value: unknown, step: Step): unknown {
  if (typeof step === 'string') return isFields(value) ? own(value, step) : undefined;
  const [property, key] = Object.entries(step)[0] ?? [];
  if (property === undefined || !Array.isArray(value)) return undefined;
  const found = value.filter((element) => isFields(element) && own(element, property) === key);
  return found.length === 1 ? found[0] : undefined;
}

/** The text of an annotation, or undefined where there is nothing to keep. */
export function formatKept(kept: readonly KeptField[]): string | undefined {
  return kept.length === 0 ? undefined : canonical(kept);
}

/** What an annotation keeps; nothing when it is not what `formatKept` writes: annotations are everybody's to edit. */
export function parseKept(text: string | undefined): readonly KeptField[] {
  if (text === undefined) return [];
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return [];
  }
  return Array.isArray(value) ? value.filter(isKept) : [];
}

function isKept(value: unknown): value is KeptField {
  if (!isFields(value) || !Array.isArray(value.path) || value.path.length === 0) return false;
  const isPath = value.path.every((step) => typeof step === 'string' || isFields(step));
  return isPath && (value.was === undefined || typeof value.was === 'string');
}

export function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A deep copy of what came out of JSON; several times as fast as structuredClone. */
export function copyFields(fields: Fields): Fields {
  return copy(fields) as Fields;
}

function copy(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value;
  if (Array.isArray(value)) return value.map(copy);
  const out: Fields = {};
  for (const [key, inner] of Object.entries(value)) {
    if (key === '__proto__') Object.defineProperty(out, key, { value: inner, enumerable: true, configurable: true });
    else out[key] = copy(inner);
  }
  return out;
}

function own(fields: Fields, key: string): unknown {
  return Object.hasOwn(fields, key) ? fields[key] : undefined;
}

/** JSON with sorted keys: the API server sorts them too. */
function canonical(value: unknown): string {
  if (typeof value !== 'object' || value === null) return JSON.stringify(value) ?? '';
  return (
    JSON.stringify(value, (_, inner: unknown) =>
      isFields(inner) ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1))) : inner,
    ) ?? ''
  );
}

/** 53 bits that tell an edit from none; not a seal. Two FNV-like lanes, mixed. */
function digest(value: unknown): string {
  let a = 0x9e3779b9;
  let b = 0x85ebca6b;
  const text = canonical(value);
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    a = Math.imul(a ^ code, 0x01000193);
    b = Math.imul(b ^ code, 0x5bd1e995);
  }
  a = Math.imul(a ^ (b >>> 15), 0x2c1b3c6d);
  b = Math.imul(b ^ (a >>> 13), 0x297a2d39);
  return (((b >>> 11) >>> 0) * 0x1_0000_0000 + (a >>> 0)).toString(36);
}
