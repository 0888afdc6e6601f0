import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { fetchExplanation, findPicker } from './run.ts';

let server: Server;
let url: string;
const seen: string[] = [];

beforeAll(async () => {
  server = createServer((request, response) => {
    let body = '';
    request.on('data', (chunk: Buffer) => {
      body += chunk;
    });
    request.on('end', () => {
      seen.push(`${request.method} ${request.url} ${body}`);
      const isUnknown = request.url?.includes('request=gone');
      response.writeHead(isUnknown ? 404 : 200);
      response.end(isUnknown ? '{"error":{"message":"request gone is not among the latest ones"}}' : 'answer\n');
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => {
  server.close();
});

describe('signalbox epp explain', () => {
  const ask = { requestId: undefined, body: undefined, path: '/v1/completions', isJson: false };

  it('asks by id, for the latest, or with a request file', async () => {
    expect(await fetchExplanation({ ...ask, url })).toBe('answer\n');
    await fetchExplanation({ ...ask, url, requestId: 'a b', isJson: true });
    await fetchExplanation({ ...ask, url, body: Buffer.from('{}') });
    expect(seen).toEqual([
      'GET /debug/explain?format=text ',
      'GET /debug/explain?request=a+b ',
      'POST /debug/explain?format=text&path=%2Fv1%2Fcompletions {}',
    ]);
  });

  it.each([
    ['gone', undefined, /^request gone is not among the latest ones$/],
    [undefined, 'nonsense', /--url: nonsense is not a URL/],
    [undefined, 'http://127.0.0.1:1', /no picker answers at http:\/\/127\.0\.0\.1:1: .*; give its metrics port/],
  ])('says what is wrong: %s %s', async (requestId, other, message) => {
    await expect(fetchExplanation({ ...ask, url: other ?? url, requestId })).rejects.toThrow(message);
  });

  it("finds a service's ready picker", async () => {
    const pod = (podIP: string, status: string) => ({ status: { podIP, conditions: [{ type: 'Ready', status }] } });
    const asked: unknown[] = [];
    const client = (items: readonly unknown[]) => ({
      list: (_resource: unknown, options: unknown) => {
        asked.push(options);
        return Promise.resolve({ items }) as never;
      },
    });
    const pods = [pod('10.0.0.1', 'False'), pod('fd00::2', 'True')];
    expect(await findPicker(client(pods), 'ns/chat')).toBe('http://[fd00::2]:9090');
    expect(asked[0]).toEqual({
      namespace: 'ns',
      labelSelector: 'app.kubernetes.io/name=chat,app.kubernetes.io/component=llminferenceservice-router-scheduler',
    });
    await expect(findPicker(client([]), 'ns/chat')).rejects.toThrow(/ns\/chat has no endpoint picker that is ready/);
    await expect(findPicker(client([]), 'chat')).rejects.toThrow(/--service: chat is not NAMESPACE\/NAME/);
  });
});
