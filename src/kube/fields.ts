import type { KubeObject } from './object.ts';

/** Sets of fields by their text, while any object has them. */
const shared = new Map<string, WeakRef<object>>();
const registry = new FinalizationRegistry<string>((text) => {
  if (shared.get(text)?.deref() === undefined) shared.delete(text);
});

/**
 * The object with its `managedFields` sharing their sets of fields with all objects that have the same ones, as those of
 * one kind mostly do: of thousands of objects in a cache they are the greater part.
 */
export function shareFields<T extends KubeObject>(object: T): T {
  const { managedFields } = object.metadata;
  if (!managedFields) return object;
  const fewer = managedFields.map((entry) => {
    if (!isSet(entry.fieldsV1)) return entry;
    const { 'f:metadata': metadata, ...others } = entry.fieldsV1;
    const fieldsV1 = { ...shareEach(others), ...(isSet(metadata) ? { 'f:metadata': shareEach(metadata) } : {}) };
    return { ...entry, fieldsV1 };
  });
  return { ...object, metadata: { ...object.metadata, managedFields: fewer } };
}

type Fields = Readonly<Record<string, unknown>>;

const isSet = (value: unknown): value is Fields => typeof value === 'object' && value !== null;

function shareEach(fields: Fields): Fields {
  return Object.fromEntries(
    Object.entries(fields).map(([key, below]) =>
      // Owners are named by uid, which no two have in common.
      [key, isSet(below) && key !== 'f:ownerReferences' ? share(below) : below],
    ),
  );
}

function share<T extends object>(fields: T): T {
  const text = JSON.stringify(fields);
  const present = shared.get(text)?.deref();
  if (present) return present as T;
  shared.set(text, new WeakRef(fields));
  registry.register(fields, text);
  return fields;
}
