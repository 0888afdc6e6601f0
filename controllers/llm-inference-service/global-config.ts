import type { KubeObject } from '../../src/kube/object.ts';
import { modelRoutingHeader } from '../../src/render/routing/http-route.ts';
import type { Caches, ConfigMap } from './caches.ts';
import { globalConfigName } from './caches.ts';
import type { Settings } from './gather.ts';

/** What the ConfigMap may set in place of the operator's own settings. */
export interface GlobalValues {
  readonly gateway?: { readonly namespace: string; readonly name: string };
  readonly urlScheme?: 'http' | 'https';
}

type Json = Readonly<Record<string, unknown>>;

/** One value of the key `ingress`: how it is read, and what is wrong with it. */
const ingressValues: readonly {
  readonly name: string;
  readonly read: (value: unknown) => GlobalValues | string;
}[] = [
  {
    name: 'kserveIngressGateway',
    read: (value) => {
      const [, namespace, name] = /^([a-z0-9-]{1,63})\/([a-z0-9.-]{1,253})$/.exec(String(value)) ?? [];
      return namespace && name ? { gateway: { namespace, name } } : 'write namespace/name of a Gateway';
    },
  },
  {
    name: 'urlScheme',
    read: (value) => (value === 'http' || value === 'https' ? { urlScheme: value } : 'write http or https'),
  },
  {
    name: 'modelBasedRoutingHeaderName',
    read: (value) =>
      String(value).toLowerCase() === modelRoutingHeader.toLowerCase()
        ? {}
        : `another header is not supported yet; write ${modelRoutingHeader}`,
  },
  {
    name: 'modelBasedRoutingMode',
    read: (value) => (value === 'enabled' ? {} : 'not supported yet; write enabled'),
  },
  {
    name: 'enableLLMInferenceServiceTLS',
    read: (value) => {
      if (value === false) return {};
      return value === true ? 'TLS inside the cluster is not supported yet; write false' : 'write true or false';
    },
  },
];

/**
 * The values of a ConfigMap, and what is wrong with it. A value that is wrong is left to `before`, the last good ones, and
 * so are all values of a key whose text is not a JSON object.
 */
export function parseGlobalConfig(
  data: Readonly<Record<string, string>>,
  before: GlobalValues,
): { readonly values: GlobalValues; readonly problems: readonly string[] } {
  const text = data.ingress;
  if (text === undefined || text.trim() === '') return { values: {}, problems: [] };
  let ingress: Json;
  try {
    const parsed: unknown = JSON.parse(text);
    if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) throw new SyntaxError('not an object');
    ingress = parsed as Json;
  } catch (thrown) {
    const problem = `ingress: ${thrown instanceof Error ? thrown.message : 'not JSON'}; write a JSON object`;
    return { values: before, problems: [problem] };
  }
  let values: GlobalValues = {};
  const problems: string[] = [];
  for (const { name, read } of ingressValues) {
    if (ingress[name] === undefined || ingress[name] === null) continue;
    const found = read(ingress[name]);
    if (typeof found !== 'string') values = { ...values, ...found };
    else {
      problems.push(`ingress.${name}: ${JSON.stringify(ingress[name])}: ${found}`);
      if (name === 'kserveIngressGateway' && before.gateway) values = { ...values, gateway: before.gateway };
      if (name === 'urlScheme' && before.urlScheme) values = { ...values, urlScheme: before.urlScheme };
    }
  }
  return { values, problems };
}

/** The operator's settings with those of the ConfigMap `inferenceservice-config` over them, always as they are now. */
export class GlobalConfig {
  readonly #informer: Caches['globalConfig'];
  readonly #own: Settings;
  readonly #tell: (object: KubeObject, problems: readonly string[]) => void;
  #seen: ConfigMap | undefined;
  #values: GlobalValues = {};
  #settings: Settings;
  #notes: readonly string[] = [];

  /** `tell` hears of each version of the ConfigMap that has problems, once. */
  constructor(
    informer: Caches['globalConfig'],
    own: Settings,
    tell: (object: KubeObject, problems: readonly string[]) => void,
  ) {
    this.#informer = informer;
    this.#own = own;
    this.#tell = tell;
    this.#settings = own;
  }

  get settings(): Settings {
    this.#refresh();
    return this.#settings;
  }

  /** For every service: what is wrong with the ConfigMap. */
  get notes(): readonly string[] {
    this.#refresh();
    return this.#notes;
  }

  #refresh(): void {
    const [now] = this.#informer.store.list();
    if (now === this.#seen) return;
    this.#seen = now;
    const { values, problems } = now
      ? parseGlobalConfig(now.data ?? {}, this.#values)
      : { values: {} as GlobalValues, problems: [] };
    this.#values = values;
    const { gateway, urlScheme } = values;
    this.#settings = {
      ...this.#own,
      ...(urlScheme ? { urlScheme } : {}),
      ...(gateway ? { gateway: { ...this.#own.gateway, ...gateway } } : {}),
    };
    const where = `ConfigMap ${this.#own.systemNamespace}/${globalConfigName}`;
    this.#notes = problems.map((problem) => `${where}: ${problem}; the last good value counts`);
    if (now && problems.length > 0) this.#tell(now, problems);
  }
}
