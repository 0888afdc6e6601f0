import { z } from 'zod';
import { type PluginFactory, type Producer, parseParameters } from '../../framework/plugin.ts';
import { requestAttributeKey } from '../../framework/request-attributes.ts';

const parameters = z
  .strictObject({
    headerName: z.string().min(1).toLowerCase().optional(),
    cookieName: z.string().min(1).optional(),
  })
  .refine(
    ({ headerName, cookieName }) => (headerName === undefined) !== (cookieName === undefined),
    'give headerName or cookieName',
  );

/** The conversation as a header or a cookie names it, as the attribute `session-id`. */
export const createSessionIdProducer: PluginFactory = (context): Producer => {
  const { headerName, cookieName } = parseParameters(context, parameters);
  const key = requestAttributeKey(context.name, 'session-id');
  return {
    type: context.type,
    name: context.name,
    produce: (cycle) => {
      const { request } = cycle;
      const value =
        headerName === undefined ? cookieOf(request.header('cookie'), cookieName ?? '') : request.header(headerName);
      if (value !== undefined && value !== '') cycle.set(key, value);
    },
  };
};

function cookieOf(header: string | undefined, name: string): string | undefined {
  for (const pair of header?.split(';') ?? []) {
    const at = pair.indexOf('=');
    if (at > 0 && pair.slice(0, at).trim() === name) return pair.slice(at + 1).trim();
  }
  return undefined;
}
