import { editMembers, rawMember } from '../../openai/json-members.ts';
import { usageOf } from '../../openai/usage.ts';
import { type Connector, objectOf, type PrefillAnswer } from './connector.ts';
import { oneToken } from './one-token.ts';

/** Asks the prefill engine to compute, keep its blocks and say where they are. */
const askForBlocks = JSON.stringify({
  do_remote_decode: true,
  do_remote_prefill: false,
  remote_engine_id: null,
  remote_block_ids: null,
  remote_host: null,
  remote_port: null,
});

/**
 * vLLM's NixlConnector, pull mode. The prefill's parameters go to the decoder byte for byte: their fields differ between
 * vLLM versions and the decoder wants every one. They are good for one use and for as long as the prefill engine's lease.
 */
export const nixlV2: Connector = {
  name: 'nixlv2',
  isConcurrent: false,

  prefillRequest: (api, body) =>
    editMembers(body, {
      kv_transfer_params: askForBlocks,
      stream: 'false',
      stream_options: undefined,
      ...oneToken(api, body),
    }),

  prefillAnswer: (body): PrefillAnswer | undefined => {
    const parsed = objectOf(body);
    if (!parsed) return undefined;
    const params = parsed.kv_transfer_params as Readonly<Record<string, unknown>> | null | undefined;
    return {
      kvParams: rawMember(body, 'kv_transfer_params') ?? 'null',
      cachedTokens: usageOf(parsed)?.cachedTokens ?? 0,
      kvHandle:
        typeof params?.remote_engine_id === 'string'
          ? `nixl://${params.remote_engine_id}/${String(params.remote_request_id ?? '')}`
          : undefined,
    };
  },

  decodeRequest: (_api, body, prefill) => editMembers(body, { kv_transfer_params: prefill?.kvParams ?? 'null' }),
};
