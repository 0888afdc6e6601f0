import { connect } from 'node:net';

/** A closed loop over plain sockets: `sidecar-load.ts PORT CONNECTIONS SECONDS`, the request on standard input. Prints what it saw as JSON. */

const [port, connections, seconds] = process.argv.slice(2).map(Number);
const chunks: Buffer[] = [];
for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
const request = Buffer.concat(chunks);

let requests = 0;
let errors = 0;
const latenciesUs: number[] = [];
const endAt = performance.now() + (seconds ?? 1) * 1000;

await Promise.all(
  Array.from(
    { length: connections ?? 1 },
    () =>
      new Promise<void>((resolve) => {
        const socket = connect({ port: port ?? 0, host: '127.0.0.1', noDelay: true });
        let held = '';
        let sentAt = 0;
        const send = () => {
          sentAt = performance.now();
          socket.write(request);
        };
        socket.on('connect', send);
        socket.on('error', () => {
          errors++;
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
          if (!held.startsWith('HTTP/1.1 200')) errors++;
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
latenciesUs.sort((a, b) => a - b);
const at = (share: number) => Math.round(latenciesUs[Math.floor(latenciesUs.length * share)] ?? 0);
process.stdout.write(`${JSON.stringify({ requests, errors, p50Us: at(0.5), p99Us: at(0.99) })}\n`);
