/**
 * Makes service names resolve inside of a pod's Node processes. Its text is written to a CommonJS file that every such
 * process loads first, so it stands alone: no imports, nothing from outside of the function.
 *
 * `namesFile` holds `{"<service>.<namespace>": ["ip", …]}` and is read again when it has changed, at most four times a
 * second. Names that are not there go to the lookup that was there before, except names of the cluster's own domain:
 * those do not exist.
 */
export function installResolveHook(namesFile: string, namespace: string): void {
  type Address = { address: string; family: number };
  type Callback = (error: Error | null, address?: string | Address[], family?: number) => void;
  type Lookup = (name: string, options: unknown, callback?: Callback) => void;
  type Names = Record<string, string[]>;
  // A Node of the system that is too old for this goes without service names rather than not at all.
  if (typeof process.getBuiltinModule !== 'function') return;
  const fs = process.getBuiltinModule('node:fs');
  const dns = process.getBuiltinModule('node:dns') as unknown as {
    lookup: Lookup;
    promises: { lookup: (name: string, options?: unknown) => Promise<unknown> };
  };
  const domain = '.svc.cluster.local';
  let names: Names = {};
  let version = '';
  let lookedAt = 0;

  const current = (): Names => {
    const now = Date.now();
    if (now - lookedAt < 250) return names;
    lookedAt = now;
    try {
      const stat = fs.statSync(namesFile);
      const found = `${stat.mtimeMs}/${stat.ino}`;
      if (found !== version) {
        names = JSON.parse(fs.readFileSync(namesFile, 'utf8')) as Names;
        version = found;
      }
    } catch {
      // Not written yet, or the cluster is going: what was read last stays true.
    }
    return names;
  };

  /** The addresses of a service name; none at all for an unknown name of the cluster; undefined for any other name. */
  const resolve = (asked: string): string[] | undefined => {
    const name = asked.toLowerCase().replace(/\.$/, '');
    const dots = name.split('.').length - 1;
    const inCluster = name.endsWith(domain) || name.endsWith('.svc');
    const short = name.endsWith(domain) ? name.slice(0, -domain.length) : name.replace(/\.svc$/, '');
    const table = current();
    const found = table[short] ?? (dots === 0 ? table[`${short}.${namespace}`] : undefined);
    return found ?? (inCluster ? [] : undefined);
  };

  const notFound = (name: string): Error =>
    Object.assign(new Error(`getaddrinfo ENOTFOUND ${name}`), {
      code: 'ENOTFOUND',
      errno: -3008,
      syscall: 'getaddrinfo',
      hostname: name,
    });
  const familyOf = (options: unknown): number | string | undefined =>
    typeof options === 'number'
      ? options
      : ((options as { family?: number | string } | null | undefined)?.family ?? undefined);
  const wantsAll = (options: unknown): boolean => (options as { all?: boolean } | null | undefined)?.all === true;
  const isV6Only = (options: unknown): boolean => familyOf(options) === 6 || familyOf(options) === 'IPv6';
  let turn = 0;
  /** Starts at another address each time, so that clients of a headless service spread. */
  const answer = (addresses: string[]): Address[] => {
    turn = (turn + 1) % 65_536;
    const start = turn % addresses.length;
    return [...addresses.slice(start), ...addresses.slice(0, start)].map((address) => ({ address, family: 4 }));
  };

  const lookup = dns.lookup;
  dns.lookup = Object.assign((name: string, options: unknown, callback?: Callback): void => {
    const done = (typeof options === 'function' ? options : callback) as Callback;
    const addresses = typeof name === 'string' && typeof done === 'function' ? resolve(name) : undefined;
    if (addresses === undefined) {
      lookup(name, options, callback);
      return;
    }
    const found = addresses.length === 0 || isV6Only(options) ? [] : answer(addresses);
    const first = found[0];
    process.nextTick(() => {
      if (!first) done(notFound(name));
      else if (wantsAll(options)) done(null, found);
      else done(null, first.address, first.family);
    });
  }, lookup);

  const lookupPromise = dns.promises.lookup;
  dns.promises.lookup = async (name: string, options?: unknown): Promise<unknown> => {
    const addresses = typeof name === 'string' ? resolve(name) : undefined;
    if (addresses === undefined) return lookupPromise(name, options);
    const found = addresses.length === 0 || isV6Only(options) ? [] : answer(addresses);
    if (!found[0]) throw notFound(name);
    return wantsAll(options) ? found : found[0];
  };
  process.getBuiltinModule('node:module').syncBuiltinESMExports();
}

/** The text of the file that a pod's Node processes load with `--require`. The namespace comes from the process's environment. */
export function renderResolveHook(namesFile: string): string {
  // A bundler that keeps names wraps functions in a helper of this name.
  const keepName = 'const __name = (target) => target;';
  return `'use strict';\n${keepName}\n(${installResolveHook.toString()})(${JSON.stringify(namesFile)}, process.env.SIGNALBOX_POD_NAMESPACE || 'default');\n`;
}
