import { z } from 'zod';
import { createStaticFilter } from '../../framework/endpoint.ts';
import { type Filter, type PluginFactory, parseParameters } from '../../framework/plugin.ts';

const roles = new Set(['decode', 'prefill-decode', 'both', 'encode-prefill-decode']);

/** Keeps endpoints that decode: label `llm-d.ai/role` says so, or is absent. */
export const createDecodeFilter: PluginFactory = (context): Filter => {
  parseParameters(context, z.strictObject({}));
  const keep = createStaticFilter(({ labels }) => {
    const role = labels['llm-d.ai/role'];
    return role === undefined || roles.has(role);
  });
  return { type: context.type, name: context.name, filter: (_cycle, endpoints) => keep(endpoints) };
};
