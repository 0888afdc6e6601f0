/** Values as a template sees them, with the few differences that Go makes and JSON does not. */

/** `undefined` is "no value", such as a nil in a map of anything; `null` is a nil pointer, such as an unset field. */
export type Value =
  | undefined
  | null
  | boolean
  | number
  | string
  | Float
  | GoMap
  | Struct
  | readonly Value[]
  | { readonly [key: string]: Value };

/** A float64. Plain numbers are ints. */
export class Float {
  readonly value: number;

  constructor(value: number) {
    this.value = value;
  }
}

/** A map whose missing keys read as a zero value, as `map[string]string` does. */
export class GoMap {
  readonly entries: Readonly<Record<string, Value>>;
  readonly zero: Value;

  constructor(entries: Readonly<Record<string, Value>>, zero: Value) {
    this.entries = entries;
    this.zero = zero;
  }
}

/** Something with a fixed set of fields: asking for another one is an error, an unset one reads as its zero value. */
export abstract class Struct {
  abstract readonly typeName: string;
  /** The field's value, or undefined when there is no such field. */
  abstract field(name: string): { readonly value: Value } | undefined;
  /** Names of the fields that are set, for printing. */
  abstract entries(): readonly (readonly [string, Value])[];
}

export function isList(value: Value): value is readonly Value[] {
  return Array.isArray(value);
}

/** The value as a map, or undefined when it is none. */
export function asMap(value: Value): GoMap | undefined {
  if (value instanceof GoMap) return value;
  if (typeof value !== 'object' || value === null || isList(value)) return undefined;
  if (value instanceof Struct || value instanceof Float) return undefined;
  return new GoMap(value as Readonly<Record<string, Value>>, undefined);
}

/** Own properties only: a key such as `constructor` is not there. */
export function entryOf(map: GoMap, key: string): { readonly value: Value } | undefined {
  return Object.hasOwn(map.entries, key) ? { value: map.entries[key] ?? undefined } : undefined;
}

/** Keys in the order in which Go ranges over and prints a map: by bytes. */
export function sortedKeys(map: GoMap): readonly string[] {
  return Object.keys(map.entries).sort(compareText);
}

/** Order of the UTF-8 bytes, which is that of the code points. */
export function compareText(a: string, b: string): number {
  const [x, y] = [[...a], [...b]];
  for (let i = 0; i < Math.min(x.length, y.length); i++) {
    const difference = (x[i]?.codePointAt(0) ?? 0) - (y[i]?.codePointAt(0) ?? 0);
    if (difference !== 0) return difference;
  }
  return x.length - y.length;
}

/** Whether `if` takes its first branch: neither zero nor empty. */
export function isTrue(value: Value): boolean {
  if (value === undefined || value === null) return false;
  if (typeof value === 'boolean') return value;
  if (typeof value === 'number') return value !== 0;
  if (typeof value === 'string' || isList(value)) return value.length > 0;
  if (value instanceof Float) return value.value !== 0;
  if (value instanceof Struct) return true;
  const map = asMap(value);
  return map !== undefined && Object.keys(map.entries).length > 0;
}

/** The type's name as messages show it. */
export function typeNameOf(value: Value): string {
  if (value === undefined || value === null) return 'nil';
  if (typeof value === 'boolean') return 'bool';
  if (typeof value === 'number') return 'int';
  if (typeof value === 'string') return 'string';
  if (value instanceof Float) return 'float64';
  if (value instanceof Struct) return value.typeName;
  if (isList(value)) return '[]interface {}';
  return value instanceof GoMap && value.zero === '' ? 'map[string]string' : 'map[string]interface {}';
}
