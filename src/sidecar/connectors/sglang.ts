import { editMembers } from '../../openai/json-members.ts';
import { type Connector, type Leg, objectOf } from './connector.ts';

/** Where both engines meet: the prefill pod's bootstrap server, and a room there of this request alone. */
function meeting({ target, bootstrapPort, room }: Leg): Readonly<Record<string, string>> {
  return {
    bootstrap_host: JSON.stringify(target.host),
    bootstrap_port: String(bootstrapPort),
    bootstrap_room: String(room),
  };
}

/**
 * SGLang's disaggregation: both engines get the request at the same time, meet in a room and pass the blocks on by themselves. The
 * prefill pod's answer comes when that is done and tells nothing.
 */
export const sglang: Connector = {
  name: 'sglang',
  isConcurrent: true,
  prefillRequest: (_api, body, leg) =>
    editMembers(body, { ...meeting(leg), stream: 'false', stream_options: undefined }),
  prefillAnswer: (body) => objectOf(body) && { kvParams: undefined, cachedTokens: undefined, kvHandle: undefined },
  decodeRequest: (_api, body, _prefill, leg) => editMembers(body, meeting(leg)),
};
