import { createServer, type Socket } from 'node:net';

/** A prefill pod and a decode engine that answer at once, over plain sockets so that they cost little. Prints their ports. */

const text = 'The quick brown fox jumps over the lazy dog.';
const usage = {
  prompt_tokens: 256,
  completion_tokens: 10,
  total_tokens: 266,
  prompt_tokens_details: { cached_tokens: 240 },
};
const decodeBody = JSON.stringify({
  id: 'chatcmpl-bench',
  object: 'chat.completion',
  model: 'bench',
  choices: [{ index: 0, message: { role: 'assistant', content: text }, finish_reason: 'stop' }],
  usage,
});
const prefillBody = JSON.stringify({
  ...JSON.parse(decodeBody),
  kv_transfer_params: {
    do_remote_prefill: true,
    do_remote_decode: false,
    remote_block_ids: [Array.from({ length: 16 }, (_, i) => i + 1000)],
    remote_engine_id: '3f0c9e0e-2f6e-4f0c-9a55-6a4e4c1d6b1a',
    remote_request_id: 'chatcmpl-bench',
    remote_host: '127.0.0.1',
    remote_port: 5600,
    tp_size: 1,
  },
});

function serve(body: string): Promise<number> {
  const answer = Buffer.from(
    `HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: uvicorn\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
  const server = createServer({ noDelay: true }, (socket: Socket) => {
    let held = Buffer.alloc(0);
    socket.on('error', () => {});
    socket.on('data', (chunk) => {
      held = held.length === 0 ? chunk : Buffer.concat([held, chunk]);
      for (;;) {
        const head = held.indexOf('\r\n\r\n');
        if (head < 0) return;
        const length = Number(/content-length: (\d+)/i.exec(held.toString('latin1', 0, head))?.[1] ?? 0);
        const end = head + 4 + length;
        if (held.length < end) return;
        held = held.subarray(end);
        socket.write(answer);
      }
    });
  });
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      resolve(typeof address === 'object' && address ? address.port : 0);
    });
  });
}

process.stdout.write(`${JSON.stringify({ prefill: await serve(prefillBody), decode: await serve(decodeBody) })}\n`);
