import type { StateKey } from './cycle-state.ts';

const keys = new Map<string, StateKey<string>>();

/** Where a producer puts what it read from a request, for those that name producer and attribute. */
export function requestAttributeKey(producer: string, attribute: string): StateKey<string> {
  const name = `${producer} ${attribute}`;
  let key = keys.get(name);
  if (key === undefined) {
    key = { name };
    keys.set(name, key);
  }
  return key;
}
