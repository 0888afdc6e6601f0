import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { type ClientHttp2Session, connect as connectHttp2, constants, type OutgoingHttpHeaders } from 'node:http2';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import { afterEach, describe, expect, it } from '@jest/globals';
import {
  call,
  chat,
  closeAll,
  closers,
  decodes,
  engine,
  hello,
  json,
  kvParams,
  prefills,
  sidecar,
} from '../../test/builders/sidecar.ts';
import { eventually } from '../../test/expect/eventually.ts';
import { createAuthority, issueCertificate } from '../pki.ts';

afterEach(closeAll);

function http2(url: string, options?: { readonly ca: string }): ClientHttp2Session {
  const session = connectHttp2(url, options);
  session.on('error', () => {});
  closers.push(() => session.destroy());
  return session;
}

interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, unknown>>;
  readonly trailers: Readonly<Record<string, unknown>>;
  readonly text: string;
  readonly rstCode: number | undefined;
}

function ask(session: ClientHttp2Session, headers: OutgoingHttpHeaders, body?: string | Buffer): Promise<Answer> {
  return new Promise((resolve) => {
    const stream = session.request({ ':method': body === undefined ? 'GET' : 'POST', ...headers });
    let text = '';
    let head: Readonly<Record<string, unknown>> = {};
    let trailers: Readonly<Record<string, unknown>> = {};
    stream.setEncoding('utf8');
    stream.on('response', (received) => {
      head = received;
    });
    stream.on('trailers', (received) => {
      trailers = received;
    });
    stream.on('data', (piece: string) => {
      text += piece;
    });
    stream.on('error', () => {});
    stream.on('close', () =>
      resolve({ status: Number(head[':status'] ?? 0), headers: head, trailers, text, rstCode: stream.rstCode }),
    );
    stream.end(body);
  });
}

describe('HTTP/2 without TLS', () => {
  it('is served beside HTTP/1.1 on the same port', async () => {
    const p = await engine(prefills);
    const d = await engine(decodes());
    const s = await sidecar(d.port);
    const session = http2(s.url);
    const headers = { ':path': chat, 'x-prefiller-host-port': p.hostPort, 'x-request-id': 'r1' };
    const [streamed, whole, plain] = await Promise.all([
      ask(session, headers, JSON.stringify({ ...hello, stream: true })),
      ask(session, { ...headers, 'x-request-id': 'r2' }, JSON.stringify(hello)),
      call(s.url, chat, { body: hello, headers: { 'x-prefiller-host-port': p.hostPort } }),
    ]);
    expect([streamed.status, whole.status, plain.status]).toEqual([200, 200, 200]);
    expect(streamed.headers).toMatchObject({ 'x-signalbox-prefill': p.hostPort });
    expect(streamed.text.endsWith('data: [DONE]\n\n')).toBe(true);
    expect(JSON.parse(whole.text).choices[0].message.content).toBe('Hi! How can I help?');
    for (const { headers: seen, body } of d.seen) {
      expect(Object.keys(seen).filter((name) => name.startsWith(':'))).toEqual([]);
      expect(body.kv_transfer_params).toEqual(kvParams);
    }
    expect((await ask(session, { ':path': '/health' })).text).toBe('ok\n');
  });

  it('answers errors in the API’s form', async () => {
    const d = await engine(decodes());
    const s = await sidecar(d.port, ['--max-request-bytes=1000']);
    const session = http2(s.url);
    const bad = await ask(session, { ':path': chat }, 'no json');
    expect([bad.status, JSON.parse(bad.text).error.code]).toEqual([400, 400]);
    const large = await ask(session, { ':path': chat }, 'x'.repeat(2000));
    expect(large.status).toBe(413);
    expect((await ask(session, { ':path': '/health' })).status).toBe(200);
  });

  it('passes uploads of known and unknown length on, and bodyless requests', async () => {
    const d = await engine((res, seen) => json(res, { method: seen.method, length: seen.text.length }));
    const s = await sidecar(d.port);
    const session = http2(s.url);
    const body = Buffer.alloc(300_000, 'x');
    const known = await ask(session, { ':path': '/v1/files', 'content-length': body.length }, body);
    const unknown = await ask(session, { ':path': '/v1/files' }, body);
    expect(JSON.parse(known.text)).toEqual({ method: 'POST', length: 300_000 });
    expect(JSON.parse(unknown.text)).toEqual({ method: 'POST', length: 300_000 });
    expect(JSON.parse((await ask(session, { ':path': '/v1/models' })).text)).toEqual({ method: 'GET', length: 0 });
  });

  it('ends the engine’s work when a stream is reset, and only that stream’s', async () => {
    const d = await engine((res, seen) => {
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      res.write('data: {"choices":[]}\n\n');
      if (seen.body.user === 'stays') setTimeout(() => res.end('data: [DONE]\n\n'), 50);
    });
    const s = await sidecar(d.port);
    const session = http2(s.url);
    const leaves = session.request({ ':method': 'POST', ':path': chat });
    leaves.on('error', () => {});
    leaves.end(JSON.stringify({ ...hello, stream: true }));
    await once(leaves, 'data');
    leaves.close(constants.NGHTTP2_CANCEL);
    await d.seen[0]?.aborted;
    const stays = await ask(session, { ':path': chat }, JSON.stringify({ ...hello, stream: true, user: 'stays' }));
    expect(stays.text.endsWith('data: [DONE]\n\n')).toBe(true);
  });

  it('tells of a cut answer by a reset', async () => {
    const d = await engine((res) => {
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      res.write('data: {"choices":[]}\n\n');
      setTimeout(() => res.destroy(), 20);
    });
    const s = await sidecar(d.port);
    const got = await ask(http2(s.url), { ':path': chat }, JSON.stringify({ ...hello, stream: true }));
    expect(got.status).toBe(200);
    expect(got.text).toContain('broke off');
    expect(got.rstCode).toBe(constants.NGHTTP2_INTERNAL_ERROR);
  });

  it('does not read an answer faster than its stream does', async () => {
    const total = 64 * 1024 * 1024;
    let sent = 0;
    const d = await engine((res) => {
      const piece = Buffer.alloc(256 * 1024);
      const more = () => {
        while (sent < total) {
          sent += piece.length;
          if (!res.write(piece)) return;
        }
        res.end();
      };
      res.on('drain', more);
      more();
    });
    const s = await sidecar(d.port);
    const session = http2(s.url);
    const slow = session.request({ ':path': '/v1/files/content' });
    await once(slow, 'response');
    let before = -1;
    await eventually(() => {
      const now = sent;
      expect(now).toBeGreaterThan(0);
      const isStill = now === before;
      before = now;
      expect(isStill).toBe(true);
    });
    expect(sent).toBeLessThan(total / 2);
    // Another stream of the connection is not held up by it.
    expect((await ask(session, { ':path': '/health' })).status).toBe(200);
    let got = 0;
    slow.on('data', (chunk: Buffer) => {
      got += chunk.length;
    });
    await once(slow, 'close');
    expect(got).toBe(total);
  });

  it('finishes its streams before it stops', async () => {
    let end = () => {};
    const d = await engine((res) => {
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      res.write('data: {"choices":[]}\n\n');
      end = () => res.end('data: [DONE]\n\n');
    });
    const s = await sidecar(d.port);
    const session = http2(s.url);
    const answer = ask(session, { ':path': chat }, JSON.stringify({ ...hello, stream: true }));
    await eventually(() => expect(d.seen).toHaveLength(1));
    const closed = s.close();
    await eventually(async () => expect((await ask(session, { ':path': '/ready' })).text).toBe('draining\n'));
    end();
    expect((await answer).text.endsWith('data: [DONE]\n\n')).toBe(true);
    await closed;
    await eventually(() => expect(session.closed || session.destroyed).toBe(true));
  });

  it('cuts what outlasts the deadline', async () => {
    const d = await engine((res) => {
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      res.write('data: {"choices":[]}\n\n');
    });
    const s = await sidecar(d.port);
    const session = http2(s.url);
    const answer = ask(session, { ':path': chat }, JSON.stringify({ ...hello, stream: true }));
    await eventually(() => expect(d.seen).toHaveLength(1));
    await s.close(30);
    expect((await answer).text).not.toContain('[DONE]');
  });

  it('refuses CONNECT', async () => {
    const s = await sidecar((await engine(decodes())).port);
    const got = await new Promise((resolve) => {
      const stream = http2(s.url).request({ ':method': 'CONNECT', ':authority': '10.0.0.1:22' });
      stream.on('response', (head) => resolve(head[':status']));
      stream.on('error', () => resolve('refused'));
    });
    expect(got).toBe(405);
  });
});

describe('a connection', () => {
  it.each(['\r\n', 'P', 'PR'])('is HTTP/1.1 also when it begins with %j in a packet of its own', async (first) => {
    const s = await sidecar((await engine(decodes())).port);
    const { hostname, port } = new URL(s.url);
    const socket = connect({ host: hostname, port: Number(port) });
    closers.push(() => socket.destroy());
    let text = '';
    socket.on('data', (chunk) => {
      text += chunk.toString();
    });
    await once(socket, 'connect');
    socket.write(first);
    await new Promise((resolve) => setTimeout(resolve, 20));
    const line = `${first.startsWith('P') ? 'PROPFIND' : 'GET'} /v1/models HTTP/1.1\r\nhost: x\r\n\r\n`;
    socket.write(first.startsWith('P') ? line.slice(first.length) : line);
    await eventually(() => expect(text).toContain('HTTP/1.1 200'));
  });

  it('carries trailers of the engine', async () => {
    const d = await engine((res) => {
      res.writeHead(200, { trailer: 'x-sum' });
      res.write('body');
      res.addTrailers({ 'x-sum': '42' });
      res.end();
    });
    const s = await sidecar(d.port);
    expect((await ask(http2(s.url), { ':path': '/v1/x' })).trailers).toMatchObject({ 'x-sum': '42' });
    const { hostname, port } = new URL(s.url);
    const socket = connect({ host: hostname, port: Number(port) });
    closers.push(() => socket.destroy());
    socket.write('GET /v1/x HTTP/1.1\r\nhost: x\r\n\r\n');
    let text = '';
    socket.on('data', (chunk) => {
      text += chunk.toString();
    });
    await eventually(() => expect(text).toContain('x-sum: 42'));
  });

  it('may be IPv6 on both sides', async () => {
    const d = await engine(decodes(), undefined, '::1');
    const p = await engine(prefills, undefined, '::1');
    const s = await sidecar(d.port, ['--pod-address=::1']);
    expect(s.url).toMatch(/^http:\/\/\[::1\]:\d+$/);
    const headers = { 'x-prefiller-host-port': p.hostPort };
    const got = await call(s.url, chat, { body: hello, headers });
    expect([got.status, got.headers['x-signalbox-prefill']]).toEqual([200, p.hostPort]);
  });
});

describe('certificates', () => {
  const validity = { notBefore: new Date(Date.now() - 60_000), notAfter: new Date(Date.now() + 3_600_000) };

  async function issue(authority: Awaited<ReturnType<typeof createAuthority>>, commonName: string) {
    return issueCertificate(authority, {
      commonName,
      dnsNames: ['localhost'],
      ipAddresses: ['127.0.0.1'],
      ...validity,
    });
  }

  it('are renewed on every hop while a stream runs, HTTP/2 by ALPN', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'sidecar-tls-'));
    closers.push(() => rmSync(dir, { recursive: true }));
    const [before, after] = [
      await createAuthority({ commonName: 'before', ...validity }),
      await createAuthority({ commonName: 'after', ...validity }),
    ];
    const write = async (authority: typeof before) => {
      const own = await issue(authority, authority === before ? 'one' : 'two');
      writeFileSync(join(dir, 'tls.key'), own.key);
      writeFileSync(join(dir, 'tls.crt'), own.certificate);
      writeFileSync(join(dir, 'ca.crt'), authority.certificate);
      return own;
    };
    const first = await write(before);
    let end = () => {};
    const d = await engine(
      (res, seen, req) => {
        if (!seen.body.stream) {
          decodes()(res, seen, req);
          return;
        }
        res.writeHead(200, { 'content-type': 'text/event-stream' });
        res.write('data: {"choices":[]}\n\n');
        end = () => res.end('data: [DONE]\n\n');
      },
      { tls: { cert: first.certificate, key: first.key } },
    );
    const s = await sidecar(d.port, ['--secure-proxy', `--cert-path=${dir}`, '--enable-tls=prefiller,decoder']);
    const session = http2(s.url, { ca: before.certificate });
    const running = ask(session, { ':path': chat }, JSON.stringify({ ...hello, stream: true }));
    await eventually(() => expect(d.seen).toHaveLength(1));
    expect(session.alpnProtocol).toBe('h2');

    const second = await write(after);
    (d.server as unknown as { setSecureContext(context: object): void }).setSecureContext({
      cert: second.certificate,
      key: second.key,
    });
    const { hostname, port } = new URL(s.url);
    await eventually(async () => {
      const socket = connectTls({ host: hostname, port: Number(port), ca: after.certificate });
      await once(socket, 'secureConnect');
      expect(socket.getPeerCertificate().subject.CN).toBe('two');
      socket.destroy();
    });
    // A prefill pod whose certificate is of the new authority alone is trusted now.
    const own = await issue(after, 'prefill');
    const p = await engine(prefills, { tls: { cert: own.certificate, key: own.key } });
    const headers = { 'x-prefiller-host-port': p.hostPort };
    const got = await call(s.url, chat, { body: hello, headers, ca: after.certificate });
    expect([got.status, got.headers['x-signalbox-prefill']]).toEqual([200, p.hostPort]);
    end();
    expect((await running).text.endsWith('data: [DONE]\n\n')).toBe(true);
  }, 30_000);
});
