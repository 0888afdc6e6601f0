import { readFileSync } from 'node:fs';
import grpc from '@grpc/grpc-js';
import protobuf from 'protobufjs';

/** A gateway as the picker sees it: a gRPC client of envoy.service.ext_proc.v3 that is not ours. */

const { root } = protobuf.parse(
  readFileSync(new URL('../../src/epp/extproc/testdata/ext_proc.proto', import.meta.url), 'utf8'),
  { keepCase: true },
);
const Request = root.lookupType('envoy.service.ext_proc.v3.ProcessingRequest');
const Response = root.lookupType('envoy.service.ext_proc.v3.ProcessingResponse');

interface Reply {
  readonly [kind: string]: unknown;
}

const ProcessorClient = grpc.makeGenericClientConstructor(
  {
    Process: {
      path: '/envoy.service.ext_proc.v3.ExternalProcessor/Process',
      requestStream: true,
      responseStream: true,
      requestSerialize: (value: Record<string, unknown>) =>
        Buffer.from(Request.encode(Request.fromObject(value)).finish()),
      requestDeserialize: (bytes: Buffer) => bytes,
      responseSerialize: (value: Buffer) => value,
      responseDeserialize: (bytes: Buffer) =>
        Response.toObject(Response.decode(bytes), { bytes: Buffer, defaults: false }) as Reply,
    },
  },
  'ExternalProcessor',
);

interface Mutation {
  readonly set_headers?: readonly { readonly header: { readonly key: string; readonly raw_value: Buffer } }[];
  readonly remove_headers?: readonly string[];
}

/** What a reply says, in a form that is easy to compare. */
function flat(reply: Reply) {
  const [kind = ''] = Object.keys(reply).filter((key) => key !== 'dynamic_metadata');
  const inner = (reply[kind] ?? {}) as {
    response?: {
      header_mutation?: Mutation;
      clear_route_cache?: boolean;
      body_mutation?: { body?: Buffer; streamed_response?: { body?: Buffer; end_of_stream?: boolean } };
    };
    headers?: Mutation;
    status?: { code: number };
    body?: Buffer;
  };
  const mutation = inner.response?.header_mutation ?? inner.headers;
  const body = inner.response?.body_mutation;
  return {
    kind,
    set: Object.fromEntries(
      (mutation?.set_headers ?? []).map(({ header }) => [header.key, header.raw_value.toString()]),
    ),
    remove: mutation?.remove_headers ?? [],
    clears: inner.response?.clear_route_cache ?? false,
    chunk: body?.streamed_response?.body?.toString() ?? '',
    isLast: body?.streamed_response?.end_of_stream ?? false,
    replaced: body?.body?.toString(),
    status: inner.status?.code,
    body: inner.body?.toString(),
    metadata: reply.dynamic_metadata,
  };
}
export type FlatReply = ReturnType<typeof flat>;

const raw = (headers: Readonly<Record<string, string>>) => ({
  headers: Object.entries(headers).map(([key, value]) => ({ key, raw_value: Buffer.from(value).toString('base64') })),
});

/** Endpoints that the gateway allows, as it tells them. */
export const subsetOf = (value: object) => ({
  metadata_context: {
    filter_metadata: { 'envoy.lb.subset_hint': { fields: { 'x-gateway-destination-endpoint-subset': value } } },
  },
});

export const extProc = {
  requestHeaders: (headers: Readonly<Record<string, string>>, endOfStream = false) => ({
    request_headers: { headers: raw(headers), end_of_stream: endOfStream },
  }),
  requestBody: (body: string | Buffer, endOfStream = true) => ({
    request_body: { body: Buffer.from(body).toString('base64'), end_of_stream: endOfStream },
  }),
  requestTrailers: () => ({ request_trailers: {} }),
  responseHeaders: (headers: Readonly<Record<string, string>>, endOfStream = false) => ({
    response_headers: { headers: raw(headers), end_of_stream: endOfStream },
  }),
  responseBody: (body: string | Buffer, endOfStream = true) => ({
    response_body: { body: Buffer.from(body).toString('base64'), end_of_stream: endOfStream },
  }),
  responseTrailers: () => ({ response_trailers: {} }),
};

/** One request's stream. */
export class ProcessStream {
  readonly #call: grpc.ClientDuplexStream<object, Reply>;
  readonly #replies: Reply[] = [];
  #wake: () => void = () => {};
  #status: grpc.StatusObject | undefined;

  constructor(call: grpc.ClientDuplexStream<object, Reply>) {
    this.#call = call;
    call.on('data', (reply: Reply) => {
      this.#replies.push(reply);
      this.#wake();
    });
    call.on('error', () => {});
    call.on('status', (status) => {
      this.#status = status;
      this.#wake();
    });
  }

  send(...messages: readonly object[]): this {
    for (const message of messages) this.#call.write(message);
    return this;
  }

  /** Replies that came and were not asked for yet. */
  get waiting(): number {
    return this.#replies.length;
  }

  async next(): Promise<FlatReply> {
    for (;;) {
      const reply = this.#replies.shift();
      if (reply !== undefined) return flat(reply);
      if (this.#status !== undefined) throw new Error(`ended with ${this.#status.code} ${this.#status.details}`);
      await this.#change();
    }
  }

  /** The next replies up to the last piece of a body, and that body. */
  async body(): Promise<string> {
    let text = '';
    for (;;) {
      const { chunk, isLast } = await this.next();
      text += chunk;
      if (isLast) return text;
    }
  }

  async status(): Promise<grpc.StatusObject> {
    while (this.#status === undefined) await this.#change();
    return this.#status;
  }

  end(): void {
    this.#call.end();
  }

  cancel(): void {
    this.#call.cancel();
  }

  #change(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }
}

export interface TestGateway {
  /** @param headers of the call itself */
  open(headers?: Readonly<Record<string, string>>): ProcessStream;
  close(): void;
}

/** A gateway in front of the picker on that loopback port, without TLS. */
export function createTestGateway(port: number): TestGateway {
  const client = new ProcessorClient(`127.0.0.1:${port}`, grpc.credentials.createInsecure());
  const process = client.Process as (
    metadata: grpc.Metadata,
    options: grpc.CallOptions,
  ) => grpc.ClientDuplexStream<object, Reply>;
  return {
    open: (headers = {}) => {
      const metadata = new grpc.Metadata();
      for (const [name, value] of Object.entries(headers)) metadata.set(name, value);
      return new ProcessStream(process.call(client, metadata, { deadline: Date.now() + 30_000 }));
    },
    close: () => client.close(),
  };
}
