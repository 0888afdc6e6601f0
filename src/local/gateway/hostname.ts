/** Hostname rules of the Gateway API: `*.example.com` covers any depth below example.com, an absent name covers all. */

/** Whether every host that `inner` matches is matched by `outer`. */
export function covers(outer: string, inner: string): boolean {
  if (outer === '*' || outer === inner) return true;
  if (!outer.startsWith('*.')) return false;
  const suffix = outer.slice(1);
  const host = inner.startsWith('*') ? inner.slice(1) : inner;
  return host.length >= suffix.length && host.endsWith(suffix) && inner !== outer.slice(2);
}

/** The hosts that both match: the narrower of the two, or undefined when they share none. */
export function intersect(a: string, b: string): string | undefined {
  if (covers(a, b)) return b;
  if (covers(b, a)) return a;
  return undefined;
}

/** Orders hostnames by how much they say: exact names first, then longer wildcards, `*` last. */
export function compareHostnames(a: string, b: string): number {
  const rank = (host: string) => (host === '*' ? 2 : host.startsWith('*') ? 1 : 0);
  return rank(a) - rank(b) || b.length - a.length || (a < b ? -1 : a > b ? 1 : 0);
}
