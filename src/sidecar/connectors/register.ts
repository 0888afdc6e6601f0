import type { Connector } from './connector.ts';
import { nixlV2 } from './nixl-v2.ts';
import { sglang } from './sglang.ts';
import { sharedStorage } from './shared-storage.ts';

/** Every connector that works, by the name that `--connector` takes. */
export const connectors: Readonly<Record<string, Connector>> = {
  [nixlV2.name]: nixlV2,
  [sharedStorage.name]: sharedStorage,
  [sglang.name]: sglang,
};

/** Names that other versions of such a sidecar know: told apart from a misspelling. */
export const unsupportedConnectors = ['nixl', 'lmcache', 'mooncake', 'offloading', 'tcp'];
