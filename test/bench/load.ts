import { randomBytes } from 'node:crypto';
import { connect } from 'node:net';

/**
 * A closed loop over plain sockets: `load.ts HOST:PORT CONNECTIONS SECONDS`, the request on standard input. Prints what it saw as JSON.
 * Sixteen `@` in the request are replaced by other characters each time, so that no two requests are the same.
 */

const [target = '', connections, seconds] = process.argv.slice(2);
const colon = target.lastIndexOf(':');
const address = { host: target.slice(0, colon), port: Number(target.slice(colon + 1)), noDelay: true };
const chunks: Buffer[] = [];
for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
const [before, after] = Buffer.concat(chunks).toString('latin1').split('@'.repeat(16));
const request = (): string =>
  after === undefined ? `${before}` : `${before}${randomBytes(8).toString('hex')}${after}`;

let requests = 0;
let errors = 0;
let withoutPrefill = 0;
let firstError: string | undefined;
const latenciesUs: number[] = [];
const startAt = performance.now();
const endAt = startAt + Number(seconds ?? 1) * 1000;

await Promise.all(
  Array.from(
    { length: Number(connections ?? 1) },
    () =>
      new Promise<void>((resolve) => {
        const socket = connect(address);
        let held = '';
        let sentAt = 0;
        const send = () => {
          sentAt = performance.now();
          socket.write(request(), 'latin1');
        };
        socket.on('connect', send);
        socket.on('error', (error) => {
          errors++;
          firstError ??= error.message;
        });
        socket.on('close', () => resolve());
        socket.on('data', (chunk) => {
          held += chunk.toString('latin1');
          const head = held.indexOf('\r\n\r\n');
          if (head < 0) return;
          const length = /content-length: (\d+)/i.exec(held.slice(0, head))?.[1];
          const isWhole =
            length === undefined ? held.endsWith('\r\n0\r\n\r\n') : held.length >= head + 4 + Number(length);
          if (!isWhole) return;
          if (!held.startsWith('HTTP/1.1 200')) {
            errors++;
            firstError ??= held.slice(0, 500);
          }
          if (held.includes('x-signalbox-prefill: none')) withoutPrefill++;
          held = '';
          requests++;
          const now = performance.now();
          latenciesUs.push((now - sentAt) * 1000);
          if (now < endAt) send();
          else socket.end();
        });
      }),
  ),
);
const elapsedMs = performance.now() - startAt;
latenciesUs.sort((a, b) => a - b);
const at = (share: number) => Math.round(latenciesUs[Math.floor(latenciesUs.length * share)] ?? 0);
process.stdout.write(
  `${JSON.stringify({ requests, errors, withoutPrefill, elapsedMs, p50Us: at(0.5), p99Us: at(0.99), firstError })}\n`,
);
