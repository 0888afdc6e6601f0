import type { Gateway } from '../../api/foreign/gateway-api.ts';
import { AppError } from '../../errors.ts';
import { keyOf } from '../../kube/object.ts';

/**
 * Gives each Gateway a loopback address of its own below a prefix of two or three numbers (`127.66` or `127.66.3`).
 *
 * Guarantees: an address that a Gateway's status already names is kept when it is below the prefix and free, so that
 * a restart changes nothing; the others get the lowest free ones, in the order of their age and name.
 */
export function allocateAddresses(prefix: string, gateways: readonly Gateway[]): ReadonlyMap<string, string> {
  const age = (gateway: Gateway) => `${gateway.metadata.creationTimestamp ?? ''}/${keyOf(gateway.metadata)}`;
  const sorted = [...gateways].sort((a, b) => (age(a) < age(b) ? -1 : 1));
  const taken = new Map<string, string>();
  const owners = new Map<string, string>();
  for (const gateway of sorted) {
    const former = gateway.status?.addresses?.[0]?.value;
    if (!former?.startsWith(`${prefix}.`) || owners.has(former)) continue;
    owners.set(former, keyOf(gateway.metadata));
    taken.set(keyOf(gateway.metadata), former);
  }
  const free = freeAddresses(prefix, owners);
  for (const gateway of sorted) {
    const key = keyOf(gateway.metadata);
    if (taken.has(key)) continue;
    const next = free.next();
    if (next.done) throw new AppError('unavailable', `no free address below ${prefix} is left for Gateway ${key}`);
    taken.set(key, next.value);
  }
  return taken;
}

function* freeAddresses(prefix: string, owners: ReadonlyMap<string, string>): Generator<string, undefined> {
  const blocks = prefix.split('.').length === 3 ? [prefix] : Array.from({ length: 256 }, (_, i) => `${prefix}.${i}`);
  for (const block of blocks) {
    for (let host = 1; host < 255; host++) {
      const address = `${block}.${host}`;
      if (!owners.has(address)) yield address;
    }
  }
  return undefined;
}
