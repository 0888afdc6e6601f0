import { connect, createServer } from 'node:net';

/**
 * Streams at the same time, with and without the sidecar between, over plain sockets so that both ends cost little:
 * `sidecar-streams.ts engine INTERVAL_MS` serves them and prints its port; `sidecar-streams.ts load PORT STREAMS CHUNKS` opens them
 * and prints what it saw as JSON.
 */

const [role, first, second, third] = process.argv.slice(2);

const framed = (text: string) => `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`;
const event = (delta: string, finish: string) =>
  `data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":${delta},"finish_reason":${finish}}]}\n\n`;
const head = 'HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n';

function engine(intervalMs: number): void {
  const server = createServer({ noDelay: true }, (socket) => {
    let held = '';
    let timer: NodeJS.Timeout | undefined;
    socket.on('error', () => {});
    socket.on('close', () => clearInterval(timer));
    socket.on('data', (chunk) => {
      held += chunk.toString('latin1');
      const end = held.indexOf('\r\n\r\n');
      if (end < 0) return;
      const length = Number(/content-length: (\d+)/i.exec(held.slice(0, end))?.[1] ?? 0);
      if (held.length < end + 4 + length) return;
      const chunks = Number(/"max_tokens":(\d+)/.exec(held)?.[1] ?? 0);
      held = '';
      if (chunks === 0) {
        socket.write('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n');
        return;
      }
      let sent = 0;
      const next = (before: string) => {
        if (sent++ < chunks) {
          const at = performance.timeOrigin + performance.now();
          socket.write(`${before}${framed(event(`{"content":" word","at":${at}}`, 'null'))}`);
          return;
        }
        clearInterval(timer);
        socket.write(`${framed(`${event('{}', '"stop"')}data: [DONE]\n\n`)}0\r\n\r\n`);
      };
      next(head);
      timer = setInterval(next, intervalMs, '');
    });
  });
  server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, () => {
    const address = server.address();
    process.stdout.write(`${JSON.stringify({ port: typeof address === 'object' && address ? address.port : 0 })}\n`);
  });
}

async function load(port: number, streams: number, chunks: number): Promise<void> {
  const messages = [{ role: 'user', content: 'x'.repeat(900) }];
  const body = JSON.stringify({ model: 'bench', stream: true, max_tokens: chunks, messages });
  const request = `POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`;
  const firstMs: number[] = [];
  const delayMs: number[] = [];
  let errors = 0;
  await Promise.all(
    Array.from(
      { length: streams },
      (_, index) =>
        new Promise<void>((resolve) => {
          // Arrivals are spread over a second, as clients are.
          setTimeout(
            () => {
              const startedMs = performance.now();
              const socket = connect({ port, host: '127.0.0.1', noDelay: true });
              let isFirst = true;
              let tail = '';
              socket.on('connect', () => socket.write(request));
              socket.on('data', (chunk) => {
                const now = performance.timeOrigin + performance.now();
                const text = tail + chunk.toString('latin1');
                let from = text.length;
                for (const match of text.matchAll(/"at":([\d.]+)}/g)) {
                  if (isFirst) firstMs.push(performance.now() - startedMs);
                  isFirst = false;
                  delayMs.push(now - Number(match[1]));
                  from = match.index + match[0].length;
                }
                tail = text.slice(Math.max(text.length - 40, from === text.length ? 0 : from));
                if (text.endsWith('data: [DONE]\n\n\r\n0\r\n\r\n')) {
                  socket.destroy();
                  resolve();
                }
              });
              socket.on('error', () => {});
              socket.on('end', () => {
                errors++;
                resolve();
              });
            },
            (index / streams) * 1000,
          );
        }),
    ),
  );
  const at = (values: number[], share: number) => {
    values.sort((a, b) => a - b);
    return Number((values[Math.floor(values.length * share)] ?? 0).toFixed(2));
  };
  process.stdout.write(
    `${JSON.stringify({ errors, chunks: delayMs.length, firstP50: at(firstMs, 0.5), firstP99: at(firstMs, 0.99), delayP50: at(delayMs, 0.5), delayP99: at(delayMs, 0.99) })}\n`,
  );
}

if (role === 'engine') engine(Number(first));
else await load(Number(first), Number(second), Number(third));
