import type { KubeObject, ManagedFieldsEntry } from './object.ts';

/** What a field manager has applied, read back from the live object. */

type Fields = Readonly<Record<string, unknown>>;

/** The entry of the last apply of a manager to the object itself. */
export function appliedEntry(object: KubeObject, fieldManager: string): ManagedFieldsEntry | undefined {
  return object.metadata.managedFields?.find(
    ({ manager, operation, subresource }) =>
      manager === fieldManager && operation === 'Apply' && subresource === undefined,
  );
}

/**
 * What a manager owns below a path such as `['spec', 'template']`, with the values that it has now; undefined where it owns
 * nothing there. Applying it again changes nothing.
 *
 * Caveats: what others have taken over since is not in it.
 */
export function ownedPart(object: KubeObject, fieldManager: string, path: readonly string[]): unknown {
  let fields: unknown = appliedEntry(object, fieldManager)?.fieldsV1;
  let value: unknown = object;
  for (const step of path) {
    fields = isRecord(fields) ? fields[`f:${step}`] : undefined;
    value = isRecord(value) ? value[step] : undefined;
  }
  return fields === undefined || value === undefined ? undefined : pick(value, isRecord(fields) ? fields : {});
}

function pick(value: unknown, fields: Fields): unknown {
  const parts = Object.entries(fields).filter(([key]) => key !== '.');
  if (parts.length === 0) {
    // Only the place is owned, not what is in it.
    if ('.' in fields && isRecord(value)) return {};
    if ('.' in fields && Array.isArray(value)) return [];
    return value;
  }
  if (Array.isArray(value)) return pickItems(value, parts);
  if (!isRecord(value)) return value;
  const entries = parts.flatMap(([key, below]) => {
    const name = key.slice(2);
    return key.startsWith('f:') && value[name] !== undefined
      ? [[name, pick(value[name], isRecord(below) ? below : {})] as const]
      : [];
  });
  return Object.fromEntries(entries);
}

/** The items of a list that are owned, in the order in which they stand. */
function pickItems(items: readonly unknown[], parts: readonly (readonly [string, unknown])[]): readonly unknown[] {
  return items.flatMap((item, i) => {
    for (const [part, below] of parts) {
      const [kind, text] = [part.slice(0, 2), part.slice(2)];
      if (kind === 'i:' && Number(text) === i) return [pick(item, isRecord(below) ? below : {})];
      if (kind === 'v:' && JSON.stringify(item) === JSON.stringify(JSON.parse(text))) return [item];
      if (kind !== 'k:' || !isRecord(item)) continue;
      const key = JSON.parse(text) as Fields;
      if (!Object.entries(key).every(([name, wanted]) => item[name] === wanted)) continue;
      const owned = pick(item, isRecord(below) ? below : {});
      return [{ ...key, ...(isRecord(owned) ? owned : {}) }];
    }
    return [];
  });
}

function isRecord(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
