import { Server, ServerCredentials, type ServerDuplexStream } from '@grpc/grpc-js';
import protobuf from 'protobufjs';

/** The part of envoy.service.ext_proc.v3 that an endpoint picker needs. */
const schema = `
syntax = "proto3";
package envoy.service.ext_proc.v3;
message HeaderValue { string key = 1; string value = 2; bytes raw_value = 3; }
message HeaderMap { repeated HeaderValue headers = 1; }
message HttpHeaders { HeaderMap headers = 1; bool end_of_stream = 3; }
message HttpBody { bytes body = 1; bool end_of_stream = 2; }
message HttpTrailers { HeaderMap trailers = 1; }
message ProcessingRequest {
  oneof request {
    HttpHeaders request_headers = 2;
    HttpHeaders response_headers = 3;
    HttpBody request_body = 4;
    HttpBody response_body = 5;
    HttpTrailers request_trailers = 6;
    HttpTrailers response_trailers = 7;
  }
}
message HeaderValueOption { HeaderValue header = 1; int32 append_action = 3; }
message HeaderMutation { repeated HeaderValueOption set_headers = 1; }
message StreamedBodyResponse { bytes body = 1; bool end_of_stream = 2; }
message BodyMutation { StreamedBodyResponse streamed_response = 3; }
message CommonResponse { HeaderMutation header_mutation = 2; BodyMutation body_mutation = 3; bool clear_route_cache = 5; }
message HeadersResponse { CommonResponse response = 1; }
message BodyResponse { CommonResponse response = 1; }
message TrailersResponse {}
message ProcessingResponse {
  oneof response {
    HeadersResponse request_headers = 1;
    HeadersResponse response_headers = 2;
    BodyResponse request_body = 3;
    BodyResponse response_body = 4;
    TrailersResponse request_trailers = 5;
    TrailersResponse response_trailers = 6;
  }
}
`;

interface Chunk {
  readonly body?: Uint8Array;
  readonly endOfStream?: boolean;
}

interface ProcessingRequest {
  readonly request: string;
  readonly requestHeaders?: {
    readonly endOfStream?: boolean;
    readonly headers?: { readonly headers?: readonly { readonly key: string; readonly rawValue?: Uint8Array }[] };
  };
  readonly requestBody?: Chunk;
  readonly responseBody?: Chunk;
}

export interface TestPicker {
  /** Headers of every request that was asked about. */
  readonly seen: readonly Readonly<Record<string, string>>[];
  close(): void;
}

/** A tiny endpoint picker: buffers the request, answers with `pick()` as the destination (undefined: no destination). */
export async function startTestPicker(host: string, port: number, pick: () => string | undefined): Promise<TestPicker> {
  const { root } = protobuf.parse(schema, { keepCase: false });
  const Request = root.lookupType('envoy.service.ext_proc.v3.ProcessingRequest');
  const Response = root.lookupType('envoy.service.ext_proc.v3.ProcessingResponse');
  const seen: Readonly<Record<string, string>>[] = [];

  const process = (call: ServerDuplexStream<ProcessingRequest, object>) => {
    const chunks: Uint8Array[] = [];
    const answerHeaders = () => {
      const destination = pick();
      const headers = destination
        ? [
            {
              header: { key: 'x-gateway-destination-endpoint', rawValue: Buffer.from(destination) },
              appendAction: 2,
            },
          ]
        : [];
      call.write({ requestHeaders: { response: { clearRouteCache: true, headerMutation: { setHeaders: headers } } } });
    };
    const echo = (chunk: Chunk) => ({
      response: {
        bodyMutation: { streamedResponse: { body: Buffer.from(chunk.body ?? []), endOfStream: chunk.endOfStream } },
      },
    });
    call.on('data', (message: ProcessingRequest) => {
      switch (message.request) {
        case 'requestHeaders': {
          const entries = message.requestHeaders?.headers?.headers ?? [];
          seen.push(Object.fromEntries(entries.map((h) => [h.key, Buffer.from(h.rawValue ?? []).toString()])));
          if (message.requestHeaders?.endOfStream) answerHeaders();
          return;
        }
        case 'requestBody': {
          // An empty field arrives as a plain array.
          chunks.push(Buffer.from(message.requestBody?.body ?? []));
          if (!message.requestBody?.endOfStream) return;
          answerHeaders();
          const body = Buffer.concat(chunks);
          const limit = 62_000;
          for (let at = 0; at === 0 || at < body.length; at += limit) {
            const part = { body: body.subarray(at, at + limit), endOfStream: at + limit >= body.length };
            call.write({ requestBody: echo(part) });
          }
          return;
        }
        case 'responseHeaders':
          call.write({ responseHeaders: {} });
          return;
        case 'responseBody':
          call.write({ responseBody: echo(message.responseBody ?? {}) });
          return;
        default:
          call.write({ [message.request]: {} });
      }
    });
    call.on('end', () => call.end());
    call.on('error', () => {});
  };

  const server = new Server();
  server.addService(
    {
      Process: {
        path: '/envoy.service.ext_proc.v3.ExternalProcessor/Process',
        requestStream: true,
        responseStream: true,
        requestSerialize: (message: object) => Buffer.from(Request.encode(Request.create(message)).finish()),
        requestDeserialize: (bytes: Buffer) => Request.decode(bytes) as unknown as ProcessingRequest,
        responseSerialize: (message: object) => Buffer.from(Response.encode(Response.fromObject(message)).finish()),
        responseDeserialize: (bytes: Buffer) => Response.decode(bytes),
      },
    },
    { Process: process },
  );
  await new Promise<void>((resolve, reject) => {
    server.bindAsync(`${host}:${port}`, ServerCredentials.createInsecure(), (error) =>
      error ? reject(error) : resolve(),
    );
  });
  return { seen, close: () => server.forceShutdown() };
}
