import { Client, credentials } from '@grpc/grpc-js';
import type { ProbeResult } from './probes.ts';

const statusNames = ['UNKNOWN', 'SERVING', 'NOT_SERVING', 'SERVICE_UNKNOWN'];

/** Asks grpc.health.v1.Health/Check once, without TLS, as the kubelet does. */
export function askGrpcHealth(address: string, service: string, timeoutMs: number): Promise<ProbeResult> {
  const client = new Client(address, credentials.createInsecure(), { 'grpc.use_local_subchannel_pool': 1 });
  return new Promise<ProbeResult>((resolve) => {
    client.makeUnaryRequest<string, number>(
      '/grpc.health.v1.Health/Check',
      encodeCheckRequest,
      decodeCheckResponse,
      service,
      { deadline: Date.now() + timeoutMs },
      (error, status) => {
        if (error) resolve({ ok: false, message: `service unhealthy: ${error.message}` });
        else if (status === 1) resolve({ ok: true, message: '' });
        else
          resolve({ ok: false, message: `service unhealthy (responded with "${statusNames[status ?? 0] ?? status}")` });
      },
    );
  }).finally(() => client.close());
}

/** HealthCheckRequest: field 1, the service's name. */
function encodeCheckRequest(service: string): Buffer {
  const name = Buffer.from(service).subarray(0, 127);
  return name.length === 0 ? name : Buffer.concat([Buffer.from([0x0a, name.length]), name]);
}

/** HealthCheckResponse: field 1, the status as a varint; absent means UNKNOWN. */
function decodeCheckResponse(message: Buffer): number {
  return message[0] === 0x08 ? (message[1] ?? 0) : 0;
}
