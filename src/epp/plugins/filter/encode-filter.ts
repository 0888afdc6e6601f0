import { z } from 'zod';
import { createStaticFilter } from '../../framework/endpoint.ts';
import { type Filter, type PluginFactory, parseParameters } from '../../framework/plugin.ts';

const roles = new Set(['encode', 'encode-prefill', 'encode-prefill-decode']);

/** Keeps endpoints whose label `llm-d.ai/role` says that they encode media. */
export const createEncodeFilter: PluginFactory = (context): Filter => {
  parseParameters(context, z.strictObject({}));
  const keep = createStaticFilter(({ labels }) => roles.has(labels['llm-d.ai/role'] ?? ''));
  return { type: context.type, name: context.name, filter: (_cycle, endpoints) => keep(endpoints) };
};
