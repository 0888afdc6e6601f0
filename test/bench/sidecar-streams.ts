import { createServer, request as httpRequest } from 'node:http';
import type { AddressInfo } from 'node:net';

/**
 * Streams at the same time, with and without the sidecar between: `sidecar-streams.ts engine CHUNKS INTERVAL_MS` serves them and prints its
 * port; `sidecar-streams.ts load PORT STREAMS` opens them and prints what it saw as JSON.
 */

const [role, first, second] = process.argv.slice(2);

function engine(chunks: number, intervalMs: number): void {
  const server = createServer((req, res) => {
    req.resume();
    req.on('end', () => {
      if (req.method !== 'POST') {
        res.end();
        return;
      }
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      let sent = 0;
      const next = () => {
        const isLast = sent === chunks;
        const delta = isLast
          ? '{}'
          : JSON.stringify({ content: ' word', at: performance.timeOrigin + performance.now() });
        res.write(
          `data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":${delta},"finish_reason":${isLast ? '"stop"' : 'null'}}]}\n\n`,
        );
        sent++;
        if (!isLast) return;
        clearInterval(timer);
        res.end('data: [DONE]\n\n');
      };
      const timer = setInterval(next, intervalMs);
      res.on('close', () => clearInterval(timer));
      next();
    });
  });
  server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, () =>
    process.stdout.write(`${JSON.stringify({ port: (server.address() as AddressInfo).port })}\n`),
  );
}

async function load(port: number, streams: number): Promise<void> {
  const body = JSON.stringify({ model: 'bench', stream: true, messages: [{ role: 'user', content: 'x'.repeat(900) }] });
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
              const req = httpRequest(
                { port, host: '127.0.0.1', path: '/v1/chat/completions', method: 'POST', agent: false },
                (res) => {
                  let text = '';
                  let isFirst = true;
                  res.on('data', (chunk: Buffer) => {
                    const now = performance.timeOrigin + performance.now();
                    if (isFirst) firstMs.push(performance.now() - startedMs);
                    isFirst = false;
                    const piece = chunk.toString('latin1');
                    for (const match of piece.matchAll(/"at":([\d.]+)/g)) delayMs.push(now - Number(match[1]));
                    text = (text + piece).slice(-20);
                  });
                  res.on('close', () => {
                    if (!text.endsWith('data: [DONE]\n\n')) errors++;
                    resolve();
                  });
                  res.on('error', () => {});
                },
              );
              req.on('error', () => {
                errors++;
                resolve();
              });
              req.end(body);
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
    `${JSON.stringify({ errors, firstP50: at(firstMs, 0.5), firstP99: at(firstMs, 0.99), delayP50: at(delayMs, 0.5), delayP99: at(delayMs, 0.99) })}\n`,
  );
}

if (role === 'engine') engine(Number(first), Number(second));
else await load(Number(first), Number(second));
