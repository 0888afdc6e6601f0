/**
 * The gateway and the engines of the picker's benchmark, in a process of their own: ext_proc over plain sockets with
 * HTTP/2 frames made once, so that the driver takes less CPU than what it drives. Told what to do by its parent.
 */
import { readFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import protobuf from 'protobufjs';

/** What the parent asks for. */
export interface Run {
  readonly port: number;
  /** Streams at a time. */
  readonly width: number;
  readonly promptBytes: number;
  /** Ends after so long, or after so many. */
  readonly seconds?: number;
  readonly requests?: number;
  /** Prompts share nothing, not even their start. */
  readonly isDistinct?: boolean;
}

/** What it is told. */
export interface RunResult {
  readonly done: number;
  readonly elapsedMs: number;
  /** From the request's last byte to the whole reply with the endpoint, milliseconds. */
  readonly p50Ms: number;
  readonly p99Ms: number;
}

const proto = protobuf.parse(
  readFileSync(new URL('../../src/epp/extproc/testdata/ext_proc.proto', import.meta.url), 'utf8'),
  { keepCase: true },
).root;
const ProcessingRequest = proto.lookupType('envoy.service.ext_proc.v3.ProcessingRequest');

function grpcMessage(message: Record<string, unknown>): Buffer {
  const bytes = ProcessingRequest.encode(message).finish();
  const head = Buffer.alloc(5);
  head.writeUInt32BE(bytes.length, 1);
  return Buffer.concat([head, bytes]);
}

const header = (key: string, value: string) => ({ key, raw_value: Buffer.from(value) });

const requestHeaders = grpcMessage({
  request_headers: {
    headers: {
      headers: [
        header(':authority', 'llm.example.com'),
        header(':path', '/v1/chat/completions'),
        header(':method', 'POST'),
        header(':scheme', 'http'),
        header('user-agent', 'OpenAI/Python 1.99.9'),
        header('accept', 'application/json'),
        header('accept-encoding', 'gzip, deflate'),
        header('authorization', 'Bearer sk-0123456789012345678901234567890123456789'),
        header('content-type', 'application/json'),
        header('content-length', '8192'),
        header('x-stainless-lang', 'python'),
        header('x-forwarded-for', '10.0.0.17'),
        header('x-forwarded-proto', 'http'),
        header('x-request-id', '6c1f7a50-7be3-4a9e-9f3d-3f6a2a4c9d11'),
      ],
    },
  },
  protocol_config: { request_body_mode: 4, response_body_mode: 4 },
});
const answerHeaders = grpcMessage({
  response_headers: { headers: { headers: [header(':status', '200'), header('content-type', 'text/event-stream')] } },
});
const answerBody = grpcMessage({
  response_body: {
    body: Buffer.from(
      'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\ndata: {"choices":[],"usage":{"prompt_tokens":2048,"completion_tokens":1}}\n\ndata: [DONE]\n\n',
    ),
    end_of_stream: true,
  },
});

/** A chat of about `bytes`: a system prompt of 2 KiB that all share, unless distinct, then text of its own. */
export function prompt(i: number, bytes: number, isDistinct = false): string {
  const shared = `${isDistinct ? `Number ${i}. ` : ''}${'You answer briefly and to the point. '.repeat(56)}`.slice(
    0,
    2048,
  );
  const own = `Question ${i}: ${'the quick brown fox jumps over the lazy dog '.repeat(Math.ceil(bytes / 44))}`;
  return JSON.stringify({
    model: 'llama-3-8b',
    stream: true,
    messages: [
      { role: 'system', content: shared },
      { role: 'user', content: own.slice(0, bytes - 2048 - 160) },
    ],
  });
}

const frameTypes = { data: 0, headers: 1, settings: 4, ping: 6, goaway: 7, windowUpdate: 8 } as const;
const endStream = 1;
const maxFrameBytes = 16_384;

function frame(type: number, flags: number, stream: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

/** Frames of which only the stream is missing, and where it goes. */
interface Template {
  readonly bytes: Buffer;
  readonly streamAt: readonly number[];
}

function template(frames: readonly Buffer[]): Template {
  let at = 0;
  const streamAt = frames.map(({ length }) => {
    const here = at + 5;
    at += length;
    return here;
  });
  return { bytes: Buffer.concat(frames), streamAt };
}

const dataFrames = (message: Buffer, flags = 0): readonly Buffer[] => {
  const frames: Buffer[] = [];
  for (let at = 0; at < message.length; at += maxFrameBytes) {
    const isLast = at + maxFrameBytes >= message.length;
    frames.push(frame(frameTypes.data, isLast ? flags : 0, 0, message.subarray(at, at + maxFrameBytes)));
  }
  return frames;
};

function fill({ bytes, streamAt }: Template, stream: number): Buffer {
  const copy = Buffer.from(bytes);
  for (const at of streamAt) copy.writeUInt32BE(stream, at);
  return copy;
}

/** A literal that enters the table of headers; later requests name it by its number there, as gateways do. */
const literal = (name: string, value: string): Buffer =>
  Buffer.concat([Buffer.from([0x40, name.length]), Buffer.from(name), Buffer.from([value.length]), Buffer.from(value)]);
const requestFields = [
  literal(':path', '/envoy.service.ext_proc.v3.ExternalProcessor/Process'),
  literal(':authority', 'epp'),
  literal('te', 'trailers'),
  literal('content-type', 'application/grpc'),
  literal('x-envoy-internal', 'true'),
  literal('x-forwarded-for', '10.0.0.1'),
];
// :method POST and :scheme http stand in the static table.
const firstBlock = Buffer.concat([Buffer.from([0x83, 0x86]), ...requestFields]);
const laterBlock = Buffer.from([0x83, 0x86, ...requestFields.map((_, i) => 0x80 | (61 + requestFields.length - i))]);

interface Exchange {
  readonly bodyBytes: number;
  received: number;
  isAnswered: boolean;
  readonly sentAt: number;
}

export async function drive(run: Run): Promise<RunResult> {
  const answer = template([...dataFrames(answerHeaders), ...dataFrames(answerBody, endStream)]);
  const requests = Array.from({ length: run.isDistinct ? (run.requests ?? 1) : 512 }, (_, i) => {
    const body = Buffer.from(prompt(i, run.promptBytes, run.isDistinct));
    const message = grpcMessage({ request_body: { body, end_of_stream: true } });
    const frames = [frame(frameTypes.headers, 4, 0, laterBlock), ...dataFrames(requestHeaders), ...dataFrames(message)];
    return { ...template(frames), bodyBytes: body.length };
  });
  const first = template([frame(frameTypes.headers, 4, 0, firstBlock)]);
  const socket = connect(run.port, '127.0.0.1');
  socket.setNoDelay(true);
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', () => resolve());
    socket.once('error', reject);
  });
  const settings = Buffer.alloc(6);
  settings.writeUInt16BE(4, 0);
  settings.writeUInt32BE(1 << 28, 2);
  const window = Buffer.alloc(4);
  window.writeUInt32BE((1 << 30) - 1, 0);
  socket.write(
    Buffer.concat([
      Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
      frame(frameTypes.settings, 0, 0, settings),
      frame(frameTypes.windowUpdate, 0, 0, window),
    ]),
  );

  const { promise, resolve, reject } = Promise.withResolvers<RunResult>();
  const open = new Map<number, Exchange>();
  const waits: number[] = [];
  let start = 0;
  let until = 0;
  let turn = 0;
  let done = 0;
  let stream = 1;
  let credit = 0;
  let out: Buffer[] = [];

  const begin = (): void => {
    const request = requests[turn++ % requests.length];
    if (request === undefined) return;
    const bytes = fill(request, stream);
    // The first request tells the fields; its frame of headers is replaced.
    if (stream === 1) out.push(fill(first, stream), bytes.subarray(9 + laterBlock.length));
    else out.push(bytes);
    open.set(stream, { bodyBytes: request.bodyBytes, received: 0, isAnswered: false, sentAt: performance.now() });
    stream += 2;
  };
  const isOver = (now: number): boolean => (run.requests === undefined ? now >= until : turn >= run.requests);
  const onData = (id: number, length: number): void => {
    credit += length;
    const exchange = open.get(id);
    if (exchange === undefined || exchange.isAnswered) return;
    exchange.received += length;
    // The body comes back whole behind the header reply.
    if (exchange.received <= exchange.bodyBytes) return;
    exchange.isAnswered = true;
    waits.push(performance.now() - exchange.sentAt);
    out.push(fill(answer, id));
  };
  const onEnd = (id: number): void => {
    const exchange = open.get(id);
    if (exchange === undefined) return;
    open.delete(id);
    if (!exchange.isAnswered) {
      reject(new Error('the picker ended a stream early'));
      return;
    }
    done++;
    const now = performance.now();
    if (!isOver(now)) {
      begin();
      return;
    }
    if (open.size > 0) return;
    waits.sort((a, b) => a - b);
    const share = (part: number) => waits[Math.min(waits.length - 1, Math.floor(waits.length * part))] ?? 0;
    resolve({ done, elapsedMs: now - start, p50Ms: share(0.5), p99Ms: share(0.99) });
  };

  let rest: Buffer = Buffer.alloc(0);
  socket.on('data', (chunk: Buffer) => {
    const data = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    let at = 0;
    while (data.length - at >= 9) {
      const length = data.readUIntBE(at, 3);
      if (data.length - at < 9 + length) break;
      const type = data[at + 3];
      const flags = data[at + 4] ?? 0;
      const id = data.readUInt32BE(at + 5);
      if (type === frameTypes.data) onData(id, length);
      else if (type === frameTypes.settings && (flags & 1) === 0) {
        out.push(frame(frameTypes.settings, 1, 0, Buffer.alloc(0)));
        if (start === 0) {
          start = performance.now();
          until = start + (run.seconds ?? 0) * 1000;
          for (let i = 0; i < run.width; i++) begin();
        }
      } else if (type === frameTypes.ping && (flags & 1) === 0) {
        out.push(frame(frameTypes.ping, 1, 0, data.subarray(at + 9, at + 9 + length)));
      } else if (type === frameTypes.goaway) reject(new Error('the picker says goodbye'));
      if ((type === frameTypes.data || type === frameTypes.headers) && (flags & endStream) !== 0) onEnd(id);
      at += 9 + length;
    }
    rest = data.subarray(at);
    if (credit > 1 << 24) {
      const update = Buffer.alloc(4);
      update.writeUInt32BE(credit, 0);
      credit = 0;
      out.push(frame(frameTypes.windowUpdate, 0, 0, update));
    }
    if (out.length > 0) {
      socket.write(out.length === 1 && out[0] ? out[0] : Buffer.concat(out));
      out = [];
    }
  });
  socket.on('error', reject);
  socket.on('close', () => reject(new Error('the picker closed the connection')));
  try {
    return await promise;
  } finally {
    socket.destroy();
  }
}

/** A page like vLLM's: hundreds of lines, of which a handful matter. */
function metricsPage(): string {
  const lines: string[] = [];
  const labels = '{engine="0",model_name="llama-3-8b"}';
  const gauge = (name: string, value: number) =>
    lines.push(`# HELP ${name} Figure of the engine.`, `# TYPE ${name} gauge`, `${name}${labels} ${value}`);
  const histogram = (name: string) => {
    lines.push(`# HELP ${name} Histogram of the engine.`, `# TYPE ${name} histogram`);
    for (let i = 0; i < 20; i++) {
      lines.push(`${name}_bucket{engine="0",le="${2 ** i / 1000}",model_name="llama-3-8b"} ${i * 17}.0`);
    }
    lines.push(`${name}_count${labels} 340.0`, `${name}_sum${labels} 91.25`);
  };
  gauge('vllm:num_requests_running', 3);
  gauge('vllm:num_requests_waiting', 0);
  for (const name of ['request_prompt_tokens', 'request_generation_tokens', 'time_to_first_token_seconds']) {
    histogram(`vllm:${name}`);
  }
  gauge('vllm:kv_cache_usage_perc', 0.2);
  for (const name of ['e2e_request_latency_seconds', 'request_queue_time_seconds', 'iteration_tokens_total']) {
    histogram(`vllm:${name}`);
  }
  return `${lines.join('\n')}\n`;
}

/** Answers every request on every address at one port, at once. */
async function startEngines(): Promise<number> {
  const page = metricsPage();
  const answer = Buffer.from(
    `HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: ${page.length}\r\n\r\n${page}`,
  );
  const server = createServer((socket: Socket) => {
    socket.setNoDelay(true);
    socket.on('data', () => socket.write(answer));
    socket.on('error', () => {});
  });
  await new Promise<void>((resolve) => server.listen(0, '0.0.0.0', 4096, resolve));
  return (server.address() as AddressInfo).port;
}

if (process.send !== undefined) {
  process.on('disconnect', () => process.exit());
  process.on('message', (run: Run) => {
    drive(run).then(
      (result) => process.send?.({ result }),
      (thrown) => process.send?.({ error: String(thrown) }),
    );
  });
  process.send({ enginesPort: await startEngines() });
}
